"""Laws of what is made up in place of lost audio."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.conceal import FADE, FULL, Concealer

RATE = 8000


def voice(n: int, start: int = 0, frequency: float = 150) -> np.ndarray:
    t = (np.arange(n) + start) / RATE
    return (8000 * np.sin(2 * np.pi * frequency * t)).astype(np.int16)[None]


def test_nothing_to_go_on() -> None:
    """Without any audio before, nothing is made up."""
    assert Concealer(RATE).make_up(160) is None


@given(st.floats(70, 190), st.integers(1, 10))
def test_the_voice_goes_on(frequency: float, frames: int) -> None:
    """A voice of any pitch goes on without a jump, at its level at first, and is silent after 60 ms."""
    concealer = Concealer(RATE)
    for start in range(0, 800, 160):
        assert np.array_equal(concealer.follow(voice(160, start, frequency)), voice(160, start, frequency))
    parts = [concealer.make_up(160) for _ in range(frames)]
    made = np.concatenate([part for part in parts if part is not None], axis=1)
    assert made.shape == (1, 160 * frames)
    steepest = 8000 * 2 * np.pi * frequency / RATE
    assert abs(int(made[0, 0]) - int(voice(160, 640, frequency)[0, -1])) < 3 * steepest
    assert np.abs(made[:, :160]).max() > 5000
    assert not made[:, round((FULL + FADE) * RATE) :].any()


def test_the_return_does_not_click() -> None:
    """Real audio after made-up audio begins where that was, and is itself after 4 ms."""
    concealer = Concealer(RATE)
    for start in range(0, 800, 160):
        concealer.follow(voice(160, start))
    made = concealer.make_up(160)
    assert made is not None
    real = voice(160, 4321)
    back = concealer.follow(real)
    assert abs(int(back[0, 0]) - int(made[0, -1])) < 2500
    assert np.array_equal(back[:, 32:], real[:, 32:])


@given(st.lists(st.integers(0, 400), max_size=8), st.integers(1, 2))
def test_any_chunks(lengths: list[int], channels: int) -> None:
    """Chunks of any length, empty ones too, are followed, and what is made up has as many channels."""
    concealer = Concealer(RATE)
    for length in lengths:
        concealer.follow(np.repeat(voice(length), channels, axis=0))
    made = concealer.make_up(100)
    if made is not None:
        assert made.shape == (channels, 100)
