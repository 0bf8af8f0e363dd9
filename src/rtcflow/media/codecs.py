"""Audio as the bytes of a line, and back: linear samples, G.711 and Opus, one interface.

Coders for linear samples and G.711 have no state. An Opus coder has: it belongs to one direction of one call.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import CHANNELS, LAYOUTS, ChannelLayout
from . import g711
from .convert import to_channels

OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)
"""The sample rates Opus knows, Hz (RFC 6716 section 2)."""
OPUS_BITRATE: Final = {"mono": 32_000, "stereo": 64_000}
"""Bits per second: between the 28-40 kbit/s for fullband speech and twice that for stereo (RFC 7587 section 3.1.1)."""


def av_frame(samples: NDArray[np.int16], sample_rate: int, pts: int | None = None) -> av.AudioFrame:
    """int16 samples of shape (channels, n) as a frame of FFmpeg's packed format ``s16``, a copy of them."""
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=LAYOUTS[samples.shape[0]])
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, pts, Fraction(1, sample_rate)
    return frame


class Coder(Protocol):
    """One direction of one call."""

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """`samples`, int16, shape (channels, n), as bytes; mono and stereo are brought to the coder's own layout."""

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """`payload` as int16, shape (channels, n).

        Raises:
            MediaError: The bytes make no sense.
        """


class LinearCoder:
    """Signed 16-bit little-endian samples, channels interleaved."""

    def __init__(self, layout: ChannelLayout) -> None:
        self._channels = CHANNELS[layout]

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """See `Coder`."""
        return to_channels(samples, self._channels).T.astype("<i2").tobytes()

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """See `Coder`."""
        if len(payload) % (2 * self._channels):
            raise MediaError(f"{len(payload)} bytes", f"a multiple of {2 * self._channels}: whole 16-bit samples")
        return _from_interleaved(np.frombuffer(payload, "<i2").astype(np.int16), self._channels)


class G711Coder:
    """Mu-law or A-law, one byte each, channels interleaved."""

    def __init__(self, layout: ChannelLayout, *, alaw: bool) -> None:
        self._channels = CHANNELS[layout]
        self._encode = g711.encode_alaw if alaw else g711.encode_mulaw
        self._decode = g711.decode_alaw if alaw else g711.decode_mulaw

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """See `Coder`."""
        return self._encode(to_channels(samples, self._channels).T)

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """See `Coder`."""
        if len(payload) % self._channels:
            raise MediaError(f"{len(payload)} bytes", f"a multiple of {self._channels}: one byte per channel")
        return _from_interleaved(self._decode(payload), self._channels)


class OpusCoder:
    """Opus, one packet per payload. Decodes to 48,000 Hz always; encodes 20 ms at `sample_rate` at a time."""

    def __init__(self, layout: ChannelLayout, sample_rate: int) -> None:
        if sample_rate not in OPUS_RATES:
            raise MediaError(f"an Opus sample rate of {sample_rate}", f"one of {OPUS_RATES}")
        self._layout, self._channels, self._sample_rate = layout, CHANNELS[layout], sample_rate
        self._encoder = av.AudioCodecContext.create("libopus", "w")
        self._encoder.sample_rate, self._encoder.layout, self._encoder.format = sample_rate, layout, "s16"
        self._encoder.bit_rate = OPUS_BITRATE[layout]
        self._encoder.options = {"application": "voip"}
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate, self._decoder.layout, self._decoder.format = 48000, layout, "s16"

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """See `Coder`; n must be 20 ms."""
        frame = av_frame(to_channels(samples, self._channels), self._sample_rate)
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """See `Coder`."""
        if not payload:
            return np.zeros((self._channels, 0), np.int16)
        try:
            frames = self._decoder.decode(av.Packet(payload))
        except av.FFmpegError as error:
            raise MediaError(f"{len(payload)} bytes that are not an Opus packet", "one packet (RFC 6716)") from error
        parts = [_from_interleaved(frame.to_ndarray().astype(np.int16).reshape(-1), self._channels) for frame in frames]
        return np.concatenate(parts, axis=1) if parts else np.zeros((self._channels, 0), np.int16)


def make_coder(codec: str, sample_rate: int, layout: ChannelLayout) -> Coder:
    """The coder called `codec`: ``"pcm_s16le"``, ``"mulaw"``, ``"alaw"`` or ``"opus"``."""
    match codec:
        case "pcm_s16le":
            return LinearCoder(layout)
        case "mulaw" | "alaw":
            return G711Coder(layout, alaw=codec == "alaw")
        case "opus":
            return OpusCoder(layout, sample_rate)
    raise MediaError(f"the codec {codec[:40]!r}", "pcm_s16le, opus, mulaw or alaw")


def _from_interleaved(samples: NDArray[np.int16], channels: int) -> NDArray[np.int16]:
    return samples.reshape(1, -1) if channels == 1 else np.ascontiguousarray(samples.reshape(-1, channels).T)
