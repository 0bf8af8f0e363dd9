"""G.711, both laws, by table: what telephone lines speak.

Strategy: the two decoding tables (256 entries) follow ITU-T G.711 tables 1 and 2 as their closed forms. The encoding
tables (65,536 entries, one per int16) are made from the decision values of the same tables. Encoding and decoding an
array is then one look-up per sample. G.711 is defined on 14-bit (mu-law) and 13-bit (A-law) samples. An arithmetic
shift makes them of 16-bit samples, as in the ITU-T software tool library (G.191) and all common codecs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_alaw", "decode_mulaw", "encode_alaw", "encode_mulaw"]

_BIAS = 33
"""Added to a 14-bit magnitude so that each segment begins at a power of two (G.711 section 3.2)."""
_CLIP = 8158
"""The largest 14-bit magnitude that needs no clipping before the bias is added: 2**13 - 1 - 33."""


def _mulaw_decoding() -> NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF  # on the line every bit is inverted (table 2a, note 2)
    segment, step = code >> 4 & 7, code & 15
    magnitude = ((2 * step + _BIAS) << segment) - _BIAS
    return (np.where(code & 0x80, -magnitude, magnitude) << 2).astype(np.int16)


def _mulaw_encoding() -> NDArray[np.uint8]:
    linear = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int64) >> 2
    magnitude = np.minimum(np.abs(linear), _CLIP) + _BIAS
    segment: NDArray[np.int32] = np.frexp(magnitude)[1] - 6  # 33..63 is segment 0, 64..127 segment 1, …
    step = magnitude >> (segment + 1) & 15
    code: NDArray[np.int64] = np.where(linear < 0, 0x80, 0) | segment << 4 | step
    return (~code & 0xFF).astype(np.uint8)


def _alaw_decoding() -> NDArray[np.int16]:
    code = np.arange(256) ^ 0x55  # on the line every even bit is inverted (table 1a, note 2)
    segment, step = code >> 4 & 7, code & 15
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) << 3).astype(np.int16)


def _alaw_encoding() -> NDArray[np.uint8]:
    linear = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int64) >> 3
    magnitude = np.where(linear < 0, -linear - 1, linear)  # A-law has no zero: -1 is the first value below it
    segment: NDArray[np.int32] = np.maximum(np.frexp(magnitude)[1] - 5, 0)
    step = np.where(segment == 0, magnitude >> 1, magnitude >> np.maximum(segment, 1)) & 15
    code: NDArray[np.int64] = np.where(linear < 0, 0, 0x80) | segment << 4 | step
    return (code ^ 0x55).astype(np.uint8)


_FROM_MULAW, _TO_MULAW = _mulaw_decoding(), _mulaw_encoding()
_FROM_ALAW, _TO_ALAW = _alaw_decoding(), _alaw_encoding()


def decode_mulaw(payload: bytes) -> NDArray[np.int16]:
    """The samples of mu-law bytes: int16, shape (n,), full scale ±32124."""
    return _FROM_MULAW.take(np.frombuffer(payload, np.uint8))


def encode_mulaw(samples: NDArray[np.int16]) -> bytes:
    """`samples` (int16, any shape, read in C order) as mu-law, one byte each."""
    return _TO_MULAW.take(np.ascontiguousarray(samples).view(np.uint16)).tobytes()


def decode_alaw(payload: bytes) -> NDArray[np.int16]:
    """The samples of A-law bytes: int16, shape (n,), full scale ±32256."""
    return _FROM_ALAW.take(np.frombuffer(payload, np.uint8))


def encode_alaw(samples: NDArray[np.int16]) -> bytes:
    """`samples` (int16, any shape, read in C order) as A-law, one byte each."""
    return _TO_ALAW.take(np.ascontiguousarray(samples).view(np.uint16)).tobytes()
