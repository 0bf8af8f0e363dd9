"""Any chunks in, frames of one size out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcflow.exceptions import MediaError
from rtcflow.media.framing import Framer

sizes = st.lists(st.integers(0, 300), max_size=10)


def count_up(n: int, channels: int = 1) -> Any:
    return np.arange(channels * n, dtype=np.int16).reshape(channels, n)


@given(st.integers(1, 200), st.integers(1, 2), sizes)
@example(160, 1, [160])  # a chunk that completes a frame exactly, alone
@example(160, 2, [100, 60, 1])  # and as the rest of one
def test_what_comes_out_is_what_went_in(frame_size: int, channels: int, sizes: list[int]) -> None:
    """Frames put together are the chunks put together, silence at the end; never a full frame is held back."""
    framer = Framer(frame_size, channels)
    samples = count_up(sum(sizes), channels)
    frames = []
    for chunk in np.split(samples, np.cumsum(sizes)[:-1] if sizes else [], axis=1):
        before = framer.waiting
        new = framer.feed(chunk)
        assert len(new) * frame_size + framer.waiting == before + chunk.shape[1]
        assert framer.waiting < frame_size
        frames.extend(new)
    rest = framer.waiting
    last = framer.flush()
    assert (last is None) == (rest == 0)
    if last is not None:
        assert not last[:, rest:].any()
        frames.append(last)
    assert all(frame.shape == (channels, frame_size) and frame.dtype == np.int16 for frame in frames)
    if frames:
        np.testing.assert_array_equal(np.concatenate(frames, axis=1)[:, : samples.shape[1]], samples)
    assert framer.flush() is None


def test_channels_are_brought_to_what_was_asked() -> None:
    """A mono chunk in a stereo stream is heard on both sides."""
    framer = Framer(4, channels=2)
    framer.feed(count_up(2))
    (frame,) = framer.feed(np.array([[10, 20], [30, 40]], np.int16))
    assert frame.tolist() == [[0, 1, 10, 20], [0, 1, 30, 40]]


def test_clear_drops_what_waits() -> None:
    """After clear() the next frame begins with the next chunk."""
    framer = Framer(4)
    framer.feed(count_up(3))
    assert framer.clear() == 3
    assert framer.feed(count_up(3)) == []
    assert framer.waiting == 3


def test_a_frame_has_at_least_one_sample() -> None:
    """A frame size of 0 would never end."""
    with pytest.raises(MediaError, match="frame size of 0"):
        Framer(0)
