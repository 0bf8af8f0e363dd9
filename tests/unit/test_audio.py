"""The audio helpers."""

from __future__ import annotations

import asyncio
import io
import queue
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    audio_to_int16,
    wait_for_item,
)
from rtcflow.exceptions import MediaError


def test_int16_and_back_is_the_identity_for_all_values() -> None:
    """int16 → float32 → int16 gives back each of the 65,536 values."""
    values = np.arange(-32768, 32768).astype(np.int16)
    there = audio_to_float32(values)
    assert there.dtype == np.float32
    assert (np.abs(there) <= 1).all()
    assert (audio_to_int16(there) == values).all()


def test_floats_beyond_full_scale_saturate() -> None:
    """What lies beyond ±1 becomes full scale, not noise."""
    floats = np.array([-1e30, -7, -1.0001, 1, 1.5, 1e30], np.float32)
    assert audio_to_int16(floats).tolist() == [-32768, -32768, -32768, 32767, 32767, 32767]


def test_what_is_right_already_is_returned_as_it_is() -> None:
    """int16 to int16 and float32 to float32 are free, in any shape."""
    ints, floats = np.zeros((2, 3), np.int16), np.zeros((1, 3), np.float32)
    assert audio_to_int16(ints) is ints
    assert audio_to_float32(floats) is floats
    assert audio_to_float32(ints).shape == (2, 3)


def test_tuples_are_deprecated_and_work() -> None:
    """FastRTC's old form, (sample_rate, audio), warns at the caller's line."""
    with pytest.warns(DeprecationWarning, match=r"write: audio_to_int16\(audio\)") as caught:
        assert audio_to_int16((24000, np.zeros(1, np.int16))).tolist() == [0]
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="audio_to_float32"):
        audio_to_float32((24000, np.zeros(1, np.int16)))


@pytest.mark.parametrize("junk", [np.zeros(3), np.zeros(3, np.int32), [0, 1], None])
def test_other_types_are_media_errors(junk: Any) -> None:
    """Another dtype or no array at all is named."""
    for convert in (audio_to_int16, audio_to_float32):
        with pytest.raises(MediaError, match="int16"):
            convert(junk)


def tone(rate: int, channels: int, dtype: Any = np.int16, seconds: float = 1.0) -> np.ndarray[Any, Any]:
    t = np.arange(int(rate * seconds)) / rate
    wave_ = 0.5 * np.sin(2 * np.pi * 440 * t)
    both = np.stack([wave_, -wave_][:channels])
    return (both * 32767).astype(np.int16) if dtype is np.int16 else both.astype(np.float32)


def decode(content: bytes) -> tuple[int, np.ndarray[Any, Any], str]:
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(audio=0))
        parts = [np.atleast_2d(frame.to_ndarray()) for frame in frames]
        return frames[0].sample_rate, np.concatenate(parts, axis=1), container.format.name


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_mp3_sounds_like_what_went_in(rate: int, channels: int, dtype: Any) -> None:
    """The file has the rate, the channels, the length, and the tone at its level."""
    got_rate, samples, name = decode(audio_to_bytes((rate, tone(rate, channels, dtype))))
    assert (got_rate, samples.shape[0], name) == (rate, channels, "mp3")
    assert samples.shape[1] == pytest.approx(rate, abs=0.1 * rate)
    middle = samples[0, rate // 4 : rate // 4 + rate // 2]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


def test_rates_that_mp3_does_not_have_are_resampled() -> None:
    """96 kHz becomes 48 kHz and 20 kHz becomes 22,050 Hz, at the same pitch."""
    for rate, expected in ((96000, 48000), (20000, 22050)):
        got, samples, _ = decode(audio_to_bytes((rate, tone(rate, 1)[0])))
        assert got == expected
        spectrum = np.abs(np.fft.rfft(samples[0, got // 4 : got // 4 + got // 2]))
        assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)


@pytest.mark.parametrize("channels", [1, 2])
def test_audio_of_no_length_is_a_file_of_silence(channels: int) -> None:
    """A turn in which nothing was said has none: services for speech recognition get a file that they can read."""
    rate, samples, _ = decode(audio_to_bytes((16000, np.empty((channels, 0), np.int16))))
    assert (rate, samples.shape[0]) == (16000, channels)
    assert 0 < samples.shape[1] < 16000
    assert not samples.any()


def test_files_hold_the_same_and_are_the_callers() -> None:
    """audio_to_file writes what audio_to_bytes gives, and leaves the file to the caller."""
    audio = (24000, tone(24000, 1))
    path = Path(audio_to_file(audio))
    try:
        assert path.suffix == ".mp3"
        assert path.read_bytes() == audio_to_bytes(audio)
    finally:
        path.unlink()


def test_without_an_mp3_encoder_it_is_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of PyAV without LAME gives wav files, and names them so."""
    monkeypatch.setattr(av, "codecs_available", frozenset())
    samples = tone(16000, 2)
    path = Path(audio_to_file((16000, samples)))
    try:
        assert path.suffix == ".wav"
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels()) == (16000, 2)
            content = np.frombuffer(file.readframes(16000), "<i2").reshape(-1, 2).T
        assert (content == samples).all()
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "junk", [np.zeros(3, np.int16), (24000,), (0, np.zeros(3, np.int16)), (24000, np.zeros(3)), None]
)
def test_what_is_no_audio_is_refused(junk: Any) -> None:
    """audio_to_bytes names what is missing."""
    with pytest.raises(MediaError):
        audio_to_bytes(junk)


@given(st.lists(st.binary(max_size=9), max_size=12))
def test_cutting_bytes_differently_gives_the_same_samples(chunks: list[bytes]) -> None:
    """However the bytes arrive, the samples are those of the whole; only a last half sample is dropped."""
    whole = b"".join(chunks)
    expected = np.frombuffer(whole[: len(whole) // 2 * 2], "<i2")
    out = list(aggregate_bytes_to_16bit(iter(chunks)))
    assert all(samples.shape[0] == 1 and samples.size and samples.dtype == np.int16 for samples in out)
    joined = np.concatenate([np.zeros((1, 0), np.int16), *out], axis=1)
    assert (joined[0] == expected).all()


@pytest.mark.anyio
async def test_the_async_twin_gives_the_same() -> None:
    """async_aggregate_bytes_to_16bit takes an async iterator."""

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"\1", b"\0\2", b"", b"\0\3"):
            yield chunk

    assert [s.tolist() async for s in async_aggregate_bytes_to_16bit(chunks())] == [[[1]], [[2]]]


@pytest.mark.anyio
async def test_wait_for_item_takes_from_streams_on_both_backends() -> None:
    """The next item, or None after the timeout; the end of the stream is the stream's own exception."""
    sender, receiver = anyio.create_memory_object_stream[int](2)
    sender.send_nowait(1)
    assert await wait_for_item(receiver) == 1
    assert await wait_for_item(receiver, timeout=0.01) is None
    assert await wait_for_item(receiver, 0) is None
    sender.close()
    with pytest.raises(anyio.EndOfStream):
        await wait_for_item(receiver)
    receiver.close()


@pytest.mark.anyio
async def test_wait_for_item_takes_from_asyncio_queues(anyio_backend_name: str) -> None:
    """FastRTC's own use, on asyncio; an item that comes later is not lost to an earlier timeout."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio.Queue needs asyncio")
    items: asyncio.Queue[int] = asyncio.Queue()
    assert await wait_for_item(items, timeout=0.01) is None
    items.put_nowait(1)
    assert await wait_for_item(items) == 1
    async with anyio.create_task_group() as tg:
        tg.start_soon(items.put, 2)
        assert await wait_for_item(items, timeout=5) == 2


@pytest.mark.anyio
async def test_wait_for_item_names_what_it_cannot_wait_for() -> None:
    """A queue.Queue would block the loop; anything else is no queue."""
    with pytest.raises(TypeError, match=r"queue.Queue blocks the event loop"):
        await wait_for_item(queue.Queue())
    with pytest.raises(TypeError, match=r"asyncio.Queue or an anyio"):
        await wait_for_item([1, 2])
