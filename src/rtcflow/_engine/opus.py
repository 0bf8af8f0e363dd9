"""Audio codecs: Opus both ways, and decoders for the other codecs that a peer may send.

Opus is coded by libopus itself (`libopus.py`). If that is not found, FFmpeg does it, more slowly.
"""

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
"""What decoders raise when a packet is invalid."""


class Decoder(Protocol):
    """Turns one peer's packets into samples.

    Attributes:
        sample_rate: Of what comes out, in Hz.
    """

    sample_rate: int

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """Decode one packet to int16 samples of shape (channels, n).

        Raises:
            Exception: One of `DECODE_ERRORS`: the packet is invalid.
        """

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:
        """Make up the audio of one lost packet; None before the first packet.

        Args:
            following: The packet after the lost one, if it came; it may hold a copy.
        """


def decoded_rate(name: str, wanted: int) -> int:
    """The sample rate of `make_decoder`'s result in Hz: as near to `wanted` as possible."""
    if name == "OPUS":
        return wanted if wanted in OPUS_RATES and libopus.load() is not None else RTP_RATE
    return PlainDecoder.NAMES[name][1] if name in PlainDecoder.NAMES else RTP_RATE


def make_decoder(name: str, wanted: AudioFormat) -> Decoder | None:
    """A decoder for the codec of that name (in capitals), or None if the codec is unknown here.

    The result has the wanted channels, and the sample rate of `decoded_rate`.
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
        self._complexity: int | None = None
        self._encoder: libopus.NativeEncoder | _FFmpegOpusEncoder

    def encode(self, samples: NDArray[np.int16], pts: int) -> av.Packet[Any] | None:
        """Encode int16 samples of shape (channels, sample_rate / 50).

        Args:
            samples: What to encode.
            pts: Media time of the first sample, at the sample rate.

        Returns:
            A packet with `pts` in 1/48000 s; None if the encoder holds the frame back.
        """
        payload = self.payload(samples)
        if payload is None:
            return None
        packet = av.Packet(payload)
        packet.pts = pts * self.step
        packet.time_base = RTP_TIME_BASE
        return packet

    def payload(self, samples: NDArray[np.int16]) -> bytes | None:
        """As `encode`, but returns only the packet's bytes."""
        if samples.shape[0] != self._channels:
            self._open(samples.shape[0])
        return self._encoder.payload(samples)

    def set_complexity(self, complexity: int) -> None:
        """Work as hard as that from the next frame on, 0 to 10. Through FFmpeg this does nothing."""
        self._complexity = complexity
        if self._channels and isinstance(self._encoder, libopus.NativeEncoder):
            self._encoder.set_complexity(complexity)

    def _open(self, channels: int) -> None:
        source, library = AudioFormat(self._rate, LAYOUTS[channels]), libopus.load()
        if library is None:
            self._encoder = _FFmpegOpusEncoder(source, self._config)
        else:
            self._encoder = libopus.NativeEncoder(library, source, self._config)
        self._channels = channels
        if self._complexity is not None:
            self.set_complexity(self._complexity)


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
            # It cannot be changed once the encoder is open.
            "compression_level": "0" if config.complexity == "auto" else str(config.complexity),
            "fec": "1" if config.fec else "0",
            "packet_loss": str(config.expected_loss),
            "dtx": "1" if config.dtx else "0",
        }
        # One frame is used again and again: the encoder copies its samples, because the frame owns its memory.
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
    """Decodes packets to 48 kHz and conceals losses, through FFmpeg. Used if libopus itself is not found.

    Args:
        layout: Of the result; libopus mixes down or doubles as needed.
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
            FFmpegError: The packet is invalid.
        """
        frames = self._codec.decode(av.Packet(payload))
        self._toc = payload[:1]
        return self._samples(frames)

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:  # noqa: ARG002
        """Make up the audio of one lost packet; None before the first packet.

        PyAV cannot tell libopus that a packet was lost. But a packet with only a header byte stands for a frame that
        was not sent (RFC 7587 section 3.1.3 on DTX). libopus conceals it in the same way, for as long as the header
        says (RFC 6716 section 4.4). So the decoder gets the last packet's header.
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
        # Copied: the decoder's frame owns memory for 120 ms. A handler that keeps 20 ms of it must not keep all.
        count = frame.samples * (2 if self._stereo else 1)
        flat = np.frombuffer(cast("bytes", frame.planes[0]), np.int16, count=count)
        return np.ascontiguousarray(flat.reshape(-1, 2).T) if self._stereo else flat.reshape(1, -1).copy()


class PlainDecoder:
    """PCMU, PCMA and G.722 (RFC 3551 section 4.5), for peers without Opus. Decodes at `sample_rate`, in Hz."""

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
            FFmpegError: The packet is invalid.
        """
        parts = [cast("NDArray[np.int16]", frame.to_ndarray()) for frame in self._codec.decode(av.Packet(payload))]
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.int16)
        self._length = samples.shape[1]
        return np.repeat(self._concealer.follow(samples), self._channels, axis=0)

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:  # noqa: ARG002
        """Make up the audio of one lost packet; None before the first packet."""
        samples = self._concealer.make_up(self._length)
        return None if samples is None else np.repeat(samples, self._channels, axis=0)


def _codec(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    return cast("AudioCodecContext", av.CodecContext.create(name, mode))
