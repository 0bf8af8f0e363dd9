"""The files that recordings are written to: WAV, Ogg Opus and Matroska. For a worker thread: everything here may block.

Each file must be new (mode ``"x"``). So an earlier recording is never overwritten. If two recordings, even of two
processes, want the same file, the second one fails.
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Final, Protocol

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from ..frames import AudioFormat, AudioFrame
from ..media.codecs import av_frame
from ..media.colours import PictureConverter
from ..media.ogg import SILENCE, OggOpus
from ..media.recording import PacketTimeline, Piece, Timeline
from ..media.resample import Resampler

SUFFIXES: Final = (".wav", ".ogg", ".opus", ".mka", ".mkv")
"""What a recording's name may end with. Only ``.mkv`` has video."""

OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)
"""Hz that Opus can encode (RFC 6716 section 2.1.3)."""

_OPUS: Final = {"b": "64000", "application": "audio", "compression_level": "0", "frame_duration": "60"}
"""64 kbit/s for two voices. Complexity 0 takes two thirds of the time of 3; speech at this rate sounds the same."""

_VP8: Final = {"deadline": "realtime", "cpu-used": "8", "b": "1000000", "error-resilient": "1"}

_CONTAINERS: Final = {
    "ogg": {"flush_packets": "1", "page_duration": "1000000"},
    "matroska": {"flush_packets": "1", "cluster_time_limit": "1000"},
}
"""FFmpeg's muxers are asked to write a second at a time. Some gather up to 6 s of audio all the same, as long as a page
of Ogg has room. A killed process lacks that much more of such a file than of a WAV file.
"""

_HEADER: Final = 44
_MOST: Final = 2**32 - 1 - _HEADER
"""Bytes of samples in one WAV file, whose sizes have 32 bits."""


class RecordFile(Protocol):
    """A file that takes a recording, block by block."""

    def timeline(self) -> Any:
        """A timeline that gives blocks as `write` takes them: a `Timeline` or a `PacketTimeline`."""

    def encode(self, block: Any) -> Any:
        """Turn int16 samples of shape (2, n), or pairs of pieces, into what `write` takes. It never blocks."""

    def write(self, data: Any) -> None:
        """Add a block, which `encode` made."""

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Add a picture of side 0 (the caller) or 1, at `at` seconds."""

    def close(self) -> None:
        """Write the rest, and close the file. Also after an error."""


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


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

    def timeline(self) -> Timeline:
        """It gives samples."""
        return Timeline(self._rate)

    def _header(self) -> bytes:
        size, rate = self._size, self._rate
        head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 2, rate, rate * 4, 4, 16)
        return head + struct.pack("<4sI", b"data", size)

    def _write(self, position: int, data: bytes | memoryview) -> None:
        self._file.seek(position)
        write_all(self._file, data)

    def encode(self, block: NDArray[np.int16]) -> memoryview:
        """The samples in the file's order."""
        return np.ascontiguousarray(block.T, "<i2").reshape(-1).view(np.uint8).data

    def write(self, data: memoryview) -> None:
        """Add a block, and then tell the header of it."""
        if not data:
            return
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
            self._container: Any = av.open(self._file, "w", format=kind, options=_CONTAINERS[kind])
            self._audio: Any = self._container.add_stream("libopus", rate=sample_rate, layout="stereo", options=_OPUS)
            self._audio.time_base = Fraction(1, sample_rate)
            self._video: list[Any] = [self._add_video() if wanted else None for wanted in video]
        except BaseException:
            self._file.close()
            raise
        self._rate, self._pts = sample_rate, 0
        self._last = [-1, -1]
        self._converters = PictureConverter(), PictureConverter()
        self._failed = False

    def timeline(self) -> Timeline:
        """It gives samples."""
        return Timeline(self._rate)

    def _add_video(self) -> Any:
        stream = self._container.add_stream("libvpx", rate=30, options=_VP8)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        return stream

    def encode(self, block: NDArray[np.int16]) -> list[av.Packet[Any]]:
        """Packets of Opus."""
        packets = []
        for begin in range(0, block.shape[1], self._rate):
            samples = block[:, begin : begin + self._rate]
            packets += self._audio.encode(av_frame(samples, self._rate, self._pts))
            self._pts += samples.shape[1]
        return packets

    def write(self, data: list[av.Packet[Any]]) -> None:
        """Add packets."""
        self._mux(data)

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Encode a picture, scaled to 640 x 480."""
        stream, pts = self._video[side], round(at * 1000)
        if stream is None or pts <= self._last[side]:
            return
        self._last[side] = pts
        picture = self._converters[side].own(frame, "yuv420p", 640, 480)
        picture.pts, picture.time_base = pts, Fraction(1, 1000)
        picture.pict_type = PictureType.NONE
        self._mux(stream.encode(picture))

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        try:
            self._container.mux(packets)
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


class PacketFile:
    """An Ogg file of Opus packets that came and left, as they are. Only audio without a packet is encoded."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._file: IO[bytes] = path.open("xb", buffering=0)
        self._ogg = OggOpus(sample_rate, int.from_bytes(os.urandom(4), "little"))
        self._encoders: list[Any] = [None, None]
        self._size = 0  # whole pages only
        try:
            self.write(self._ogg.head())
        except OSError:
            self._file.close()
            raise

    def timeline(self) -> PacketTimeline:
        """It gives pairs of pieces."""
        return PacketTimeline()

    def encode(self, block: list[tuple[Piece, Piece]]) -> bytes:
        """Pages of these pairs of pieces, each of which are 20 ms."""
        return self._ogg.pages(
            (
                ours if type(ours) is bytes else self._packet(0, ours),
                theirs if type(theirs) is bytes else self._packet(1, theirs),
            )
            for ours, theirs in block
        )

    def write(self, data: bytes) -> None:
        """Add pages."""
        write_all(self._file, data)
        self._size += len(data)

    def _packet(self, side: int, piece: Piece) -> bytes:
        if piece is None:
            return SILENCE
        return self._encode(side, piece) if isinstance(piece, AudioFrame) else piece

    def _encode(self, side: int, piece: AudioFrame) -> bytes:
        samples, rate, *_ = piece
        if rate not in OPUS_RATES:
            resampler = Resampler(AudioFormat(rate), AudioFormat(48000))
            samples, rate = np.concatenate((resampler.feed(samples), resampler.flush()), axis=1)[:, :960], 48000
            samples = np.pad(samples, ((0, 0), (0, 960 - samples.shape[1])))
        encoder = self._encoders[side]
        if encoder is None or encoder.sample_rate != rate:
            encoder = self._encoders[side] = av.CodecContext.create("libopus", "w")
            encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
            encoder.time_base = Fraction(1, rate)
            encoder.options = {**_OPUS, "b": "32000", "frame_duration": "20"}
        packets = [bytes(packet) for packet in encoder.encode(av_frame(samples, rate))]
        return packets[0] if packets else SILENCE

    def show(self, side: int, frame: av.VideoFrame, at: float) -> None:
        """Do nothing: Ogg files have no pictures here."""

    def close(self) -> None:
        """Write the last page, and close the file; a page that was written in part is cut off."""
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            self.write(self._ogg.end())
        finally:
            self._file.close()


def takes_packets(path: Path) -> bool:
    """Whether a recording in `path` can take Opus packets as they are."""
    return path.suffix.lower() in {".ogg", ".opus"}


def check_suffix(path: Path) -> None:
    """Check that a recording can be written to `path`.

    Raises:
        ValueError: The name ends with something else; the text says what it may end with.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"a recording's name ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, not {path.name!r}"
        )


def open_record_file(
    path: Path, sample_rate: int, *, video: tuple[bool, bool] = (False, False), packets: bool = False
) -> RecordFile:
    """Make the file, for stereo at `sample_rate`.

    Args:
        path: The file.
        sample_rate: Hz.
        video: Whether either side has pictures.
        packets: Whether there are Opus packets to be taken as they are.

    Raises:
        FileExistsError: There is one already.
        OSError: It cannot be made.
    """
    if path.suffix.lower() == ".wav":
        return WavFile(path, sample_rate)
    if packets and takes_packets(path):
        return PacketFile(path, sample_rate)
    return ContainerFile(path, sample_rate, video=video if path.suffix.lower() == ".mkv" else (False, False))
