"""Audio codecs: Opus both ways, by libopus itself or else through FFmpeg; decoders for what else a peer may send."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, Literal, Protocol, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.error import FFmpegError
from numpy.typing import NDArray

from ..frames import LAYOUTS, AudioFormat, ChannelLayout
from ..media.conceal import Concealer
from . import libopus
from .config import OPUS_RATES, OpusConfig

RTP_RATE: Final = 48_000
"""The RTP clock of Opus in Hz, whatever rate is encoded (RFC 7587 section 4.1)."""
RTP_TIME_BASE: Final = Fraction(1, RTP_RATE)

DECODE_ERRORS: Final = (FFmpegError, libopus.OpusError)
"""What decoders raise when a packet makes no sense."""


class Decoder(Protocol):
    """What turns one peer's packets into samples.

    Attributes:
        sample_rate: Of what comes out, in Hz.
    """

    sample_rate: int

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """Decode one packet to int16 samples of shape (channels, n).

        Raises:
            Exception: One of `DECODE_ERRORS`: the packet makes no sense.
        """

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:
        """Make up one packet's worth of audio in place of a lost one; None if there is nothing to go on.

        Args:
            following: The packet after the lost one, if it came; it may hold a copy.
        """


def decoded_rate(name: str, wanted: int) -> int:
    """The sample rate that `make_decoder` comes nearest to `wanted` with, in Hz."""
    if name == "OPUS":
        return wanted if wanted in OPUS_RATES and libopus.load() is not None else RTP_RATE
    return PlainDecoder.NAMES[name][1] if name in PlainDecoder.NAMES else RTP_RATE


def make_decoder(name: str, wanted: AudioFormat) -> Decoder | None:
    """A decoder for the codec of that name (in capitals), or None if it is unknown here.

    What comes out has the channels that are wanted, and the sample rate that `decoded_rate` says.
    """
    if name == "OPUS":
        library = libopus.load()
        if library is None or wanted.sample_rate not in OPUS_RATES:
            return FFmpegOpusDecoder(wanted.layout)
        return libopus.NativeDecoder(library, wanted)
    return PlainDecoder(name, wanted.layout) if name in PlainDecoder.NAMES else None


class OpusEncoder:
    """Encodes frames of exactly 20 ms, one packet each, mono as mono and stereo as stereo.

    Args:
        sample_rate: One of `config.OPUS_RATES`.
        config: The options.

    Attributes:
        step: Units of the RTP clock per sample.
    """

    def __init__(self, sample_rate: int, config: OpusConfig) -> None:
        self._rate, self._config = sample_rate, config
        self.step = RTP_RATE // sample_rate
        self._channels = 0
        self._encoder: libopus.NativeEncoder | _FFmpegOpusEncoder

    def encode(self, samples: NDArray[np.int16], pts: int) -> av.Packet[Any] | None:
        """Encode int16 samples of shape (channels, sample_rate / 50).

        Args:
            samples: What to encode.
            pts: Media time of the first sample, at the sample rate.

        Returns:
            A packet with `pts` in 1/48000 s; None should the encoder hold the frame back.
        """
        payload = self.payload(samples)
        if payload is None:
            return None
        packet = av.Packet(payload)
        packet.pts = pts * self.step
        packet.time_base = RTP_TIME_BASE
        return packet

    def payload(self, samples: NDArray[np.int16]) -> bytes | None:
        """As `encode`, but the packet's bytes alone."""
        if samples.shape[0] != self._channels:
            self._open(samples.shape[0])
        return self._encoder.payload(samples)

    def _open(self, channels: int) -> None:
        source, library = AudioFormat(self._rate, LAYOUTS[channels]), libopus.load()
        if library is None:
            self._encoder = _FFmpegOpusEncoder(source, self._config)
        else:
            self._encoder = libopus.NativeEncoder(library, source, self._config)
        self._channels = channels


class _FFmpegOpusEncoder:
    """What `libopus.NativeEncoder` does, through FFmpeg."""

    def __init__(self, format: AudioFormat, config: OpusConfig) -> None:
        rate, channels = format.sample_rate, format.channels
        codec = _codec("libopus", "w")
        codec.bit_rate = config.bitrate * channels
        codec.format, codec.layout, codec.sample_rate = "s16", format.layout, rate
        codec.time_base = Fraction(1, rate)
        codec.options = {
            "application": config.application,
            "frame_duration": "20",
            "compression_level": str(config.complexity),
            "fec": "1" if config.fec else "0",
            "packet_loss": str(config.expected_loss),
            "dtx": "1" if config.dtx else "0",
        }
        # One frame is used over and over: the encoder copies what it is given, because the frame owns its memory.
        frame = av.AudioFrame(format="s16", layout=format.layout, samples=format.frame_size)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        target = np.frombuffer(cast("bytes", frame.planes[0]), np.int16, count=format.frame_size * channels)
        self._target = target.reshape(-1, channels)
        self._codec, self._frame = codec, frame

    def payload(self, samples: NDArray[np.int16]) -> bytes | None:
        self._target[:] = samples.T
        packets = self._codec.encode(self._frame)
        return bytes(packets[0]) if packets else None


class FFmpegOpusDecoder:
    """Decodes packets to 48 kHz, and makes up what was lost: what FFmpeg makes of libopus, where that is not found.

    Args:
        layout: What comes out; libopus mixes down or doubles as needed.
    """

    sample_rate = RTP_RATE

    def __init__(self, layout: ChannelLayout) -> None:
        self._stereo = layout == "stereo"
        self._codec = codec = _codec("libopus", "r")
        codec.format, codec.layout, codec.sample_rate = "s16", layout, RTP_RATE
        self._toc: bytes | None = None

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """Decode one packet to int16 samples of shape (channels, n).

        Raises:
            FFmpegError: The packet makes no sense.
        """
        frames = self._codec.decode(av.Packet(payload))
        self._toc = payload[:1]
        return self._samples(frames)

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:  # noqa: ARG002
        """Make up one packet's worth of audio in place of a lost one; None if there is nothing to go on.

        libopus conceals what it is told was lost, which PyAV cannot tell it. But a packet of no more than a header
        byte stands for a frame that was not sent, and for that it does the same (RFC 6716 section 4.4; RFC 7587
        section 3.1.3 on DTX), for as long as the header says: so we send the last packet's header.
        """
        if self._toc is None:
            return None
        try:
            return self._samples(self._codec.decode(av.Packet(self._toc)))
        except FFmpegError:
            return None

    def _samples(self, frames: list[av.AudioFrame]) -> NDArray[np.int16]:
        if len(frames) != 1:
            parts = [self._plane(frame) for frame in frames]
            return np.concatenate(parts, axis=1) if parts else np.zeros((2 if self._stereo else 1, 0), np.int16)
        return self._plane(frames[0])

    def _plane(self, frame: av.AudioFrame) -> NDArray[np.int16]:
        # Copied: the decoder's frame has room for 120 ms, and whoever keeps our 20 ms must not keep that.
        count = frame.samples * (2 if self._stereo else 1)
        flat = np.frombuffer(cast("bytes", frame.planes[0]), np.int16, count=count)
        return np.ascontiguousarray(flat.reshape(-1, 2).T) if self._stereo else flat.reshape(1, -1).copy()


class PlainDecoder:
    """PCMU, PCMA and G.722 (RFC 3551 section 4.5): what peers without Opus send. Decodes to mono at `sample_rate`."""

    NAMES: Final = {"PCMU": ("pcm_mulaw", 8000), "PCMA": ("pcm_alaw", 8000), "G722": ("g722", 16000)}

    def __init__(self, name: str, layout: ChannelLayout) -> None:
        codec_name, self.sample_rate = self.NAMES[name.upper()]
        codec = _codec(codec_name, "r")
        codec.layout, codec.sample_rate = "mono", self.sample_rate
        if codec_name != "g722":
            codec.format = "s16"
        self._codec = codec
        self._channels = AudioFormat(self.sample_rate, layout).channels
        self._concealer = Concealer(self.sample_rate)
        self._length = self.sample_rate // 50

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """Decode one packet to int16 samples of shape (channels, n).

        Raises:
            FFmpegError: The packet makes no sense.
        """
        parts = [cast("NDArray[np.int16]", frame.to_ndarray()) for frame in self._codec.decode(av.Packet(payload))]
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.int16)
        self._length = samples.shape[1]
        return np.repeat(self._concealer.follow(samples), self._channels, axis=0)

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:  # noqa: ARG002
        """Make up one packet's worth of audio in place of a lost one; None if there is nothing to go on."""
        samples = self._concealer.make_up(self._length)
        return None if samples is None else np.repeat(samples, self._channels, axis=0)


def _codec(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    return cast("AudioCodecContext", av.CodecContext.create(name, mode))
