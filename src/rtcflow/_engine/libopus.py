"""libopus itself, which comes with PyAV, called without the way through FFmpeg.

FFmpeg costs more than the coding (measured: 73 µs instead of 43 to decode a frame, 55 instead of 26 to encode one). It
also lacks three things that libopus can do. First, libopus decodes at the rate that a handler wants, so nothing is
resampled, and no frame waits for a resampler's filter. Second, it conceals a loss. Third, it reads a lost frame out of
the next packet.

If the library is not found, `opus.py` codes through FFmpeg, without these three.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
from ctypes import c_char_p, c_int, c_int32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat
from ..media.complexity import BEST
from .config import OpusConfig

_log = logging.getLogger("rtcflow.engine")

# opus_defines.h
_APPLICATIONS: Final = {"voip": 2048, "audio": 2049, "lowdelay": 2051}
_SET_BITRATE, _SET_VBR, _SET_COMPLEXITY = 4002, 4006, 4010
_SET_INBAND_FEC, _SET_PACKET_LOSS_PERC, _SET_DTX, _SET_VBR_CONSTRAINT = 4012, 4014, 4016, 4020

_SET_ENERGY_MASK: Final = 10026
"""Of opus_private.h: what hides what, for each band of each channel. libopus' own encoder of surround sound sets it."""

_BANDS: Final = 21
"""Bands of CELT (RFC 6716 section 4.3)."""

_MASK: Final = (ctypes.c_float * _BANDS)(*[0.5] * _BANDS)
"""The mask with which speech is coded in one channel, in powers of two of the amplitude. 0.5 is the most that counts.

At the bitrates of `_MASKED` libopus codes speech in two parts. Up to 8 kHz it uses a model of the voice (SILK), and
above that the spectrum (CELT). This mask moves 4.3 kbit/s from the second part to the first, and the sum stays. With
it, speech at 40 kbit/s is nearer to the original by 0.15 dB of log-spectral distance and 1.4 dB of signal-to-noise
ratio. Music and noise are as near as before. A library that does not know the request refuses it, and then nothing is
gained.
"""

_MASKED: Final = range(32_000, 56_000)
"""Bits per second at which it helps. Below 22,000 the second part would be left with less than nothing, which libopus
takes for "as many as possible". Copies of frames (`OpusConfig.fec`) need those bits too. Above, there is one part."""

_LOOKS: Final = 7
"""The least complexity that looks at the kind of sound. Below, the same mask would cost a quarter more bits."""

_MAX_PACKET: Final = 1500
"""The largest packet in bytes. 20 ms at the highest bitrate take 1275 (RFC 6716 section 3.4)."""

_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "opus_strerror": (c_char_p, [c_int]),
    "opus_get_version_string": (c_char_p, []),
    "opus_decoder_get_size": (c_int, [c_int]),
    "opus_decoder_init": (c_int, [c_void_p, c_int32, c_int]),
    "opus_decode": (c_int, [c_void_p, c_char_p, c_int32, c_void_p, c_int, c_int]),
    "opus_encoder_get_size": (c_int, [c_int]),
    "opus_encoder_init": (c_int, [c_void_p, c_int32, c_int, c_int]),
    "opus_encoder_ctl": (c_int, [c_void_p, c_int]),  # and more: it is variadic
    "opus_encode": (c_int, [c_void_p, c_void_p, c_int, c_void_p, c_int32]),
}
"""What is called, with its result and arguments (opus.h)."""


@cache
def load() -> Any | None:
    """The library, or None if no usable one is found. Logs once which it is."""
    folder = Path(av.__file__).parent
    # Where the tools that make wheels put what a wheel brings: Linux and Windows, macOS.
    found = [*folder.parent.glob("av.libs/*opus*"), *folder.glob(".dylibs/*opus*")]
    name = str(found[0]) if found else ctypes.util.find_library("opus")
    if name is None:
        _log.warning("libopus was not found; Opus goes through FFmpeg (docs: Installing, libopus)")
        return None
    try:
        # PyDLL: the interpreter's lock is kept. These calls take some ten microseconds each, less than it would take
        # to get it back.
        library = ctypes.PyDLL(name)
        for function, (result, arguments) in _FUNCTIONS.items():
            getattr(library, function).restype = result
            getattr(library, function).argtypes = arguments
    except (OSError, AttributeError) as error:
        _log.warning("%s cannot be used (%s); Opus goes through FFmpeg (docs: Installing, libopus)", name, error)
        return None
    _log.info("Opus is coded by %s, %s", library.opus_get_version_string().decode(), name)
    return library


def version() -> str | None:
    """The version of the library as it says it itself, "libopus 1.5.2". None if it was not found."""
    library = load()
    return None if library is None else library.opus_get_version_string().decode()


class OpusError(Exception):
    """libopus refuses an argument, in most cases a packet."""


class NativeDecoder:
    """Decodes packets at a rate of `config.OPUS_RATES`, and conceals losses.

    Args:
        library: From `load`.
        format: The format of the result. libopus mixes down or doubles channels as needed.
    """

    def __init__(self, library: Any, format: AudioFormat) -> None:
        self.sample_rate = format.sample_rate
        self._library, self._decode = library, library.opus_decode
        self._state = state = ctypes.create_string_buffer(library.opus_decoder_get_size(format.channels))
        self._at = ctypes.addressof(state)
        _check(library, library.opus_decoder_init(self._at, format.sample_rate, format.channels))
        self._room = 120 * format.sample_rate // 1000  # the longest packet (RFC 6716 section 3.2.5)
        self._out = np.zeros((self._room, format.channels), np.int16)
        self._out_at = self._out.ctypes.data
        self._length = 0  # of the last packet, in samples; 0 before there was one

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        """Decode one packet to int16 samples of shape (channels, n).

        Raises:
            OpusError: The packet is not valid.
        """
        length = self._decode(self._at, payload, len(payload), self._out_at, self._room, 0)
        self._length = length if length >= 0 else _check(self._library, length)
        return self._out[:length].T.copy()

    def conceal(self, following: bytes | None = None) -> NDArray[np.int16] | None:
        """Return audio in place of a lost packet, as long as the last one. None before the first packet.

        Args:
            following: The packet after the lost one, if it came: it may hold a copy (RFC 6716 section 2.1.7).
        """
        if not self._length:
            return None
        fec = 0 if following is None else 1
        if self._decode(self._at, following, len(following or b""), self._out_at, self._length, fec) < 0:
            return None
        return self._out[: self._length].T.copy()


class NativeEncoder:
    """Encodes frames of exactly 20 ms, one packet each, with the channels of its format.

    Args:
        library: From `load`.
        format: The format of the samples. Its rate is one of `config.OPUS_RATES`.
        config: The options.
    """

    def __init__(self, library: Any, format: AudioFormat, config: OpusConfig) -> None:
        self._library, self._encode = library, library.opus_encode
        self._state = state = ctypes.create_string_buffer(library.opus_encoder_get_size(format.channels))
        self._at = ctypes.addressof(state)
        application = _APPLICATIONS[config.application]
        _check(library, library.opus_encoder_init(self._at, format.sample_rate, format.channels, application))
        for option, value in (
            (_SET_BITRATE, config.bitrate * format.channels),
            (_SET_VBR, 1),
            (_SET_VBR_CONSTRAINT, 0),
            (_SET_INBAND_FEC, config.fec),
            (_SET_PACKET_LOSS_PERC, config.expected_loss),
            (_SET_DTX, config.dtx),
        ):
            self._set(option, value)
        self._masked = (
            config.application == "audio"
            and format.channels == 1
            and format.sample_rate >= 24_000
            and config.bitrate in _MASKED
            and not config.fec
            and b"fixed" not in library.opus_get_version_string()  # its masks are integers
        )
        self.set_complexity(BEST if config.complexity == "auto" else config.complexity)
        self._size = format.frame_size
        self._in = np.zeros((self._size, format.channels), np.int16)
        self._in_at = self._in.ctypes.data
        out = ctypes.create_string_buffer(_MAX_PACKET)
        self._out, self._out_at = memoryview(out), ctypes.addressof(out)

    def _set(self, option: int, value: int) -> None:
        _check(self._library, self._library.opus_encoder_ctl(self._at, option, c_int32(value)))

    def set_complexity(self, complexity: int) -> None:
        """Work as hard as that from the next frame on, 0 to 10. The sound goes on without a break."""
        self._set(_SET_COMPLEXITY, complexity)
        if self._masked:
            mask = ctypes.addressof(_MASK) if complexity >= _LOOKS else None
            self._library.opus_encoder_ctl(self._at, _SET_ENERGY_MASK, c_void_p(mask))

    def payload(self, samples: NDArray[np.int16]) -> bytes:
        """Encode int16 samples of shape (channels, 20 ms)."""
        self._in[:] = samples.T
        size = self._encode(self._at, self._in_at, self._size, self._out_at, _MAX_PACKET)
        return self._out[: size if size >= 0 else _check(self._library, size)].tobytes()


def _check(library: Any, result: int) -> int:
    if result < 0:
        raise OpusError(library.opus_strerror(result).decode())
    return result
