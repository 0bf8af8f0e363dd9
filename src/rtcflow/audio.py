"""Helpers for the code of handlers: convert samples, cut bytes into samples, and take an item from a queue.

Names and signatures are FastRTC's. The factor between int16 and float32 is 32768, in both directions. So int16 →
float32 → int16 is the identity for all 65,536 values, and floats beyond ±1 saturate.
"""

from __future__ import annotations

import inspect
import io
import queue as sync_queue
import tempfile
import warnings
import wave
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import av
import numpy as np
from numpy.typing import NDArray

from .exceptions import MediaError
from .frames import LAYOUTS, AudioFormat
from .media.convert import as_pcm, float32_to_int16, int16_to_float32, interleave
from .media.resample import Resampler, check_sample_rate
from .outputs import AudioArray

__all__ = [
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "wait_for_item",
]

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Hz, of MPEG-1, MPEG-2 (ISO/IEC 13818-3) and MPEG-2.5 Layer III: all rates of mp3."""


def audio_to_int16(audio: AudioArray | tuple[int, AudioArray]) -> NDArray[np.int16]:
    """Turn audio of any shape into int16; int16 is returned as it is.

    Args:
        audio: int16, or float32 in [-1, 1]; values beyond saturate. A tuple ``(sample_rate, audio)`` is
            deprecated.

    Raises:
        MediaError: Another dtype (the error is then a TypeError, too), or NaN.

    >>> audio_to_int16(np.array([-1, 0, 0.5, 7], np.float32)).tolist()
    [-32768, 0, 16384, 32767]
    """
    samples = _array(audio, "audio_to_int16")
    if samples.dtype == np.int16:
        return samples
    if samples.dtype == np.float32:
        return float32_to_int16(samples)
    raise _wrong_dtype(samples)


def audio_to_float32(audio: AudioArray | tuple[int, AudioArray]) -> NDArray[np.float32]:
    """Turn audio of any shape into float32 in [-1, 1); float32 is returned as it is.

    Args:
        audio: int16 or float32. A tuple ``(sample_rate, audio)`` is deprecated.

    Raises:
        MediaError: Another dtype; the error is a TypeError, too.

    >>> audio_to_float32(np.array([-32768, 0, 16384], np.int16)).tolist()
    [-1.0, 0.0, 0.5]
    """
    samples = _array(audio, "audio_to_float32")
    if samples.dtype == np.int16:
        return int16_to_float32(samples)
    if samples.dtype == np.float32:
        return samples
    raise _wrong_dtype(samples)


def _array(audio: AudioArray | tuple[int, AudioArray], name: str) -> NDArray[Any]:
    if isinstance(audio, tuple):
        warnings.warn(
            f"{name}((sample_rate, audio)) is deprecated; write: {name}(audio)", DeprecationWarning, stacklevel=3
        )
        _, audio = audio
    if not isinstance(audio, np.ndarray):
        raise MediaError(f"audio is a {type(audio).__name__}", "a NumPy array of int16 or float32")
    return audio


class _WrongDtype(MediaError, TypeError):
    """A `MediaError` (and so a ValueError) that is also a TypeError, as in FastRTC."""


def _wrong_dtype(samples: NDArray[Any]) -> MediaError:
    return _WrongDtype(f"Unsupported audio data type: {samples.dtype.name}", "int16, or float32 in [-1, 1]")


def audio_to_bytes(audio: tuple[int, AudioArray]) -> bytes:
    """Encode audio as an mp3 file, for APIs that take uploads (wav, if this build of PyAV has no mp3 encoder).

    Args:
        audio: ``(sample_rate, samples)``: int16 or float32 in [-1, 1], shape (n,), (1, n) or (2, n). A rate that mp3
            does not have is resampled to the next higher one, or to 48,000 Hz. Audio of no length, as of an empty turn,
            gives a file with a moment of silence.

    Raises:
        MediaError: It is not audio.
    """
    return _encode(audio)[0]


def audio_to_file(audio: tuple[int, AudioArray]) -> str:
    """Write audio to a new temporary file, as `audio_to_bytes` encodes it, and return its path.

    The caller deletes it.

    Raises:
        MediaError: It is not audio.
    """
    content, suffix = _encode(audio)
    with tempfile.NamedTemporaryFile(prefix="rtcflow-", suffix=suffix, delete=False) as file:
        file.write(content)
    return file.name


def _encode(audio: tuple[int, AudioArray]) -> tuple[bytes, str]:
    if not (isinstance(audio, tuple) and len(audio) == 2):
        raise MediaError(f"audio is a {type(audio).__name__}", "a tuple (sample_rate, samples)")
    rate = check_sample_rate(audio[0])
    samples = as_pcm(audio[1])
    if not samples.shape[1]:  # no player reads an mp3 file without a frame
        samples = np.zeros((samples.shape[0], 1), np.int16)
    if "libmp3lame" in av.codecs_available:
        return _encode_mp3(rate, samples), ".mp3"
    return _encode_wav(rate, samples), ".wav"


def _encode_mp3(rate: int, samples: NDArray[np.int16]) -> bytes:
    target = min((r for r in _MP3_RATES if r >= rate), default=_MP3_RATES[-1])
    layout = LAYOUTS[samples.shape[0]]
    resampler = Resampler(AudioFormat(rate, layout), AudioFormat(target, layout))
    samples = np.concatenate([resampler.feed(samples), resampler.flush()], axis=1)
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=target, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout=layout)
        frame.sample_rate, frame.pts = target, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def _encode_wav(rate: int, samples: NDArray[np.int16]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(samples.shape[0])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(interleave(samples).astype("<i2").tobytes())
    return file.getvalue()


class _Aggregator:
    """Cuts chunks of bytes, of any length, into whole samples."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> NDArray[np.int16]:
        held = self._rest + chunk
        whole = len(held) // 2 * 2
        self._rest = held[whole:]
        return np.frombuffer(held[:whole], dtype="<i2").astype(np.int16).reshape(1, -1)


def aggregate_bytes_to_16bit(chunks_iterator: Iterable[bytes]) -> Iterator[NDArray[np.int16]]:
    """Turn chunks of 16-bit little-endian mono PCM, cut anywhere, into arrays that `emit` can return.

    Yields:
        int16, shape (1, n), n ≥ 1. A last odd byte is half a sample, and is dropped.

    >>> [samples.tolist() for samples in aggregate_bytes_to_16bit([bytes([1]), bytes([0, 2, 0, 3])])]
    [[[1, 2]]]
    """
    aggregator = _Aggregator()
    for chunk in chunks_iterator:
        samples = aggregator.feed(chunk)
        if samples.size:
            yield samples


async def async_aggregate_bytes_to_16bit(chunks_iterator: AsyncIterable[bytes]) -> AsyncIterator[NDArray[np.int16]]:
    """`aggregate_bytes_to_16bit` for an async iterator."""
    aggregator = _Aggregator()
    async for chunk in chunks_iterator:
        samples = aggregator.feed(chunk)
        if samples.size:
            yield samples


async def wait_for_item(queue: Any, timeout: float = 0.1) -> Any:
    """Take the next item of a queue, or return None if none comes within `timeout` seconds. A checkpoint.

    With it an async `emit` returns now and then. Cancelling this is safe: no item is lost.

    Args:
        queue: An `asyncio.Queue` (on asyncio), or an anyio or trio stream's receiving end.
        timeout: Seconds.

    Raises:
        anyio.EndOfStream: The stream's sending end was closed.
        TypeError: `queue` is something else. A `queue.Queue` would block the event loop.
    """
    if isinstance(queue, sync_queue.Queue | sync_queue.SimpleQueue):
        raise TypeError("a queue.Queue blocks the event loop; here, use asyncio.Queue or an anyio memory object stream")
    take = getattr(queue, "get", None) or getattr(queue, "receive", None)
    if not inspect.iscoroutinefunction(take):
        raise TypeError(
            f"wait_for_item needs an asyncio.Queue or an anyio or trio stream to receive from, not {queue!r}"
        )
    await anyio.lowlevel.checkpoint()  # `asyncio.Queue.get` does not let others run if an item is there
    with anyio.move_on_after(timeout):
        return await take()
    return None
