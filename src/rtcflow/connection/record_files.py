"""The files that recordings are written to: WAV, Ogg Opus and Matroska. For a worker thread: everything here may block.

Each file must be new (mode ``"x"``). So an earlier recording is never overwritten. If two recordings, even of two
processes, want the same file, the second one fails.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Final, Protocol

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

SUFFIXES: Final = (".wav", ".ogg", ".opus", ".mka", ".mkv")
"""What a recording's name may end with. Only ``.mkv`` has video."""

OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)
"""Hz that Opus can encode (RFC 6716 section 2.1.3)."""

_OPUS: Final = {"b": "64000", "application": "audio", "compression_level": "3", "frame_duration": "60"}
"""64 kbit/s for two voices. Complexity 3 takes a third of the time of 10, and speech at this rate sounds the same."""

_VP8: Final = {"deadline": "realtime", "cpu-used": "8", "b": "1000000", "error-resilient": "1"}

_HEADER: Final = 44
_MOST: Final = 2**32 - 1 - _HEADER
"""Bytes of samples in one WAV file, whose sizes have 32 bits."""


class RecordFile(Protocol):
    """A file that takes a recording, block by block."""

    def write(self, samples: NDArray[np.int16]) -> None:
        """Add int16 samples of shape (2, n)."""

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Add a picture of side 0 (the caller) or 1, at `at` seconds."""

    def close(self) -> None:
        """Write the rest, and close the file. Also after an error."""


class WavFile:
    """A WAV file whose header is right after each block, so that it can be read wherever it was cut off."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._file: IO[bytes] = path.open("xb", buffering=0)
        self._rate, self._size = sample_rate, 0
        try:
            self._write(0, self._header())
        except OSError:
            self._file.close()
            raise

    def _header(self) -> bytes:
        size, rate = self._size, self._rate
        head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 2, rate, rate * 4, 4, 16)
        return head + struct.pack("<4sI", b"data", size)

    def _write(self, position: int, data: bytes | memoryview) -> None:
        self._file.seek(position)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]

    def write(self, samples: NDArray[np.int16]) -> None:
        """Add a block, and then tell the header of it."""
        data = np.ascontiguousarray(samples.T, dtype="<i2").data.cast("B")
        if self._size + len(data) > _MOST:
            raise OSError("a WAV file holds 4 GiB, which is reached; use .ogg or .mka for calls this long")
        self._write(_HEADER + self._size, data)
        self._size += len(data)
        self._write(0, self._header())

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Do nothing: WAV has no pictures."""

    def close(self) -> None:
        """Close the file; what a failed block has left behind the samples is cut off."""
        try:
            self._file.truncate(_HEADER + self._size)
        finally:
            self._file.close()


class ContainerFile:
    """An Ogg or Matroska file with Opus, and in ``.mkv`` with a VP8 track for each side that shows pictures."""

    def __init__(self, path: Path, sample_rate: int, *, video: tuple[bool, bool] = (False, False)) -> None:
        self._file = path.open("xb")
        kind = "ogg" if path.suffix.lower() in {".ogg", ".opus"} else "matroska"
        try:
            self._container: Any = av.open(self._file, "w", format=kind, options={"flush_packets": "1"})
            self._audio: Any = self._container.add_stream("libopus", rate=sample_rate, layout="stereo", options=_OPUS)
            self._audio.time_base = Fraction(1, sample_rate)
            self._video: list[Any] = [self._add_video() if wanted else None for wanted in video]
        except BaseException:
            self._file.close()
            raise
        self._rate, self._pts = sample_rate, 0
        self._last = [-1, -1]
        self._failed = False

    def _add_video(self) -> Any:
        stream = self._container.add_stream("libvpx", rate=30, options=_VP8)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        return stream

    def write(self, samples: NDArray[np.int16]) -> None:
        """Encode a block."""
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._pts, Fraction(1, self._rate)
        self._pts += samples.shape[1]
        self._mux(self._audio, frame)

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Encode a picture, scaled to 640 x 480."""
        stream, pts = self._video[side], round(at * 1000)
        if stream is None or pts <= self._last[side]:
            return
        self._last[side] = pts
        picture = frame.reformat(640, 480, "yuv420p")
        picture.pts, picture.time_base = pts, Fraction(1, 1000)
        picture.pict_type = PictureType.NONE
        self._mux(stream, picture)

    def _mux(self, stream: Any, frame: Any) -> None:
        try:
            self._container.mux(stream.encode(frame))
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        """Write what the encoders hold, and the file's end."""
        try:
            if not self._failed:
                for stream in [self._audio, *filter(None, self._video)]:
                    self._container.mux(stream.encode(None))
            self._container.close()
        finally:
            self._file.close()


def check_suffix(path: Path) -> None:
    """Check that a recording can be written to `path`.

    Raises:
        ValueError: The name ends with something else; the text says what it may end with.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"a recording's name ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, not {path.name!r}"
        )


def open_record_file(path: Path, sample_rate: int, *, video: tuple[bool, bool] = (False, False)) -> RecordFile:
    """Make the file, for stereo at `sample_rate`.

    Raises:
        FileExistsError: There is one already.
        OSError: It cannot be made.
    """
    if path.suffix.lower() == ".wav":
        return WavFile(path, sample_rate)
    return ContainerFile(path, sample_rate, video=video if path.suffix.lower() == ".mkv" else (False, False))
