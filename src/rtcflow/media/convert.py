"""Samples into the one form that travels: int16, shape (channels, n).

Both directions use the factor 32768, so int16 → float32 → int16 is the identity for all 65,536 values; going to int16,
values are rounded to the nearest (ties to even) and what lies beyond ±1 saturates. NaN is an error and not silence: it
tells of a model or filter that has broken down, which silence would hide.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import CHANNELS, ChannelLayout

_TO_FLOAT = np.float32(1 / 32768)

_CURES = {
    "float64": "samples.astype(np.float32)",
    "float16": "samples.astype(np.float32)",
    "uint8": "(samples.astype(np.int16) - 128) * 256",
    "int32": "samples.astype(np.int16) if they are 16-bit values, (samples >> 16).astype(np.int16) if 32-bit",
    "int64": "samples.astype(np.int16) if they are 16-bit values",
    "uint16": "(samples.astype(np.int32) - 32768).astype(np.int16)",
}
"""What to write instead, by dtype."""


def float32_to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Turn float32 in [-1, 1], of any shape, into int16; larger values saturate.

    Raises:
        MediaError: There is a NaN among them.
    """
    scaled = np.minimum(samples, np.float32(1))
    np.maximum(scaled, np.float32(-1), out=scaled)
    scaled *= np.float32(32768)
    np.rint(scaled, out=scaled)
    np.minimum(scaled, np.float32(32767), out=scaled)
    if np.isnan(scaled).any():
        raise MediaError("audio with NaN in it", "finite samples: write np.nan_to_num(samples) to hear silence there")
    return scaled.astype(np.int16)


def int16_to_float32(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Turn int16, of any shape, into float32 in [-1, 1)."""
    return samples * _TO_FLOAT


def to_channels(samples: NDArray[np.int16], channels: int) -> NDArray[np.int16]:
    """Give int16 samples of shape (1 or 2, n) that many channels, as shape (channels, n).

    Mono is heard on both sides as loud as before; two sides are averaged, so nothing clips and mono → stereo → mono
    is the identity. What has that many channels already is returned as it is, uncopied.
    """
    have = samples.shape[0]
    if have == channels:
        return samples
    if (have, channels) == (1, 2):
        return np.repeat(samples, 2, axis=0)
    if (have, channels) == (2, 1):
        # a + b overflows int16; a>>1 + b>>1 would lose the half that two odd values make together.
        left, right = samples[:1], samples[1:]
        mean: NDArray[np.int16] = (left >> 1) + (right >> 1) + (left & right & 1)
        return mean
    raise MediaError(f"audio of {have} channels for {channels}", "1 or 2 on both sides")


def deinterleave(samples: NDArray[np.int16], channels: int = 2) -> NDArray[np.int16]:
    """Turn L R L R … (shape (n * channels,) or (1, n * channels)) into shape (channels, n).

    Raises:
        MediaError: The length is no multiple of `channels`.
    """
    if samples.size % channels:
        raise MediaError(f"{samples.size} interleaved samples", f"a multiple of {channels}")
    return np.ascontiguousarray(samples.reshape(-1, channels).T)


def interleave(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Turn shape (channels, n) into L R L R …, shape (n * channels,): what files and wires hold."""
    return np.ascontiguousarray(samples.T).reshape(-1)


def as_pcm(samples: Any, layout: ChannelLayout | None = None, *, what: str = "audio") -> NDArray[np.int16]:
    """Check whatever a handler calls audio, and turn it into int16 of shape (channels, n).

    Args:
        samples: int16, or float32 in [-1, 1]; shape (n,), (1, n) or (2, n).
        layout: If given, the shape must have as many channels. Interleaved stereo is not guessed at: see
            `deinterleave`.
        what: Whose audio it is, for the error (``"audio from emit()"``).

    Returns:
        A copy: whoever handed `samples` in may use his array again.

    Raises:
        MediaError: Wrong type, dtype, shape or layout; the text names it and what to write instead.
    """
    if not isinstance(samples, np.ndarray):
        raise MediaError(
            f"{what} is a {type(samples).__name__}", "a NumPy array: write np.asarray(samples, dtype=np.int16)"
        )
    if samples.ndim == 1:
        shaped = samples[np.newaxis]
    elif samples.ndim == 2 and samples.shape[0] in (1, 2):
        shaped = samples
    else:
        cure = ""
        if samples.ndim == 2 and samples.shape[1] in (1, 2):
            cure = ": write samples.T"
        elif samples.ndim == 2 and samples.shape[0]:
            cure = ": choose at most two of its channels, as in samples[:2]"
        raise MediaError(f"{what} has shape {samples.shape}", f"(n,), (1, n) or (2, n){cure}")
    if layout is not None:
        _check_layout(shaped.shape[0], samples.shape, layout, what)
    if samples.dtype == np.int16:
        return shaped.copy()
    if _is_float32(shaped):
        return float32_to_int16(shaped)
    cure = _CURES.get(samples.dtype.name, "samples.astype(np.float32) with values in [-1, 1]")
    raise MediaError(f"{what} is {samples.dtype.name}", f"int16, or float32 in [-1, 1]: write {cure}")


def _is_float32(samples: NDArray[Any]) -> TypeGuard[NDArray[np.float32]]:
    return samples.dtype == np.float32


def _check_layout(channels: int, shape: tuple[int, ...], layout: ChannelLayout, what: str) -> None:
    wanted = CHANNELS.get(layout)
    if wanted is None:
        raise MediaError(f"{what} has the layout {layout!r}", '"mono" or "stereo"')
    if channels != wanted:
        cure = (
            "samples.reshape(-1, 2).T if it is interleaved, np.repeat(np.atleast_2d(samples), 2, axis=0) if it is mono"
            if wanted == 2
            else 'layout "stereo", or samples.mean(axis=0).astype(samples.dtype)'
        )
        raise MediaError(f"{what} has shape {shape} and the layout {layout!r}", f"({wanted}, n): write {cure}")
