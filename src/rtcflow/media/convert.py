"""Samples into the one form that travels: int16, shape (channels, n).

Both directions use the factor 32768, so int16 → float32 → int16 gives back all 65,536 values. Going to int16, values
are rounded to the nearest (ties to even), and values beyond ±1 saturate. NaN and infinity are errors and not silence:
they show that a model or filter has broken down, and silence would hide it.

Nothing is guessed. An array of another type is refused with the line that converts it (`_advice`). A
test evaluates each of these lines and compares the sound.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import CHANNELS, ChannelLayout

_TO_FLOAT = np.float32(1 / 32768)

_WANTED = "int16, or float32 in [-1, 1]"

_PIECE = 1 << 20
"""Samples that are converted at once: a long array needs no second one of floats beside it."""

_LOUD = 8.0
"""Float samples above this are on the scale of 16-bit values: no recording overshoots ±1 by 18 dB."""


def float32_to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Turn float32 in [-1, 1], of any shape, into int16; larger values saturate.

    Raises:
        MediaError: There is a NaN or an infinity among them.
    """
    if not np.isfinite(samples).all():
        kind = "NaN" if np.isnan(samples).any() else "infinity"
        cure = "np.nan_to_num(samples, posinf=0, neginf=0)"
        raise MediaError(f"audio with {kind} in it", f"finite samples; to hear silence there, write {cure}")
    if samples.size <= _PIECE:
        return _scaled(samples)
    flat, out = samples.reshape(-1), np.empty(samples.size, np.int16)
    for begin in range(0, flat.size, _PIECE):
        out[begin : begin + _PIECE] = _scaled(flat[begin : begin + _PIECE])
    return out.reshape(samples.shape)


def _scaled(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled = np.minimum(samples, np.float32(1))
    np.maximum(scaled, np.float32(-1), out=scaled)
    scaled *= np.float32(32768)
    np.rint(scaled, out=scaled)
    np.minimum(scaled, np.float32(32767), out=scaled)
    return scaled.astype(np.int16)


def int16_to_float32(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Turn int16, of any shape, into float32 in [-1, 1)."""
    return samples * _TO_FLOAT


def to_channels(samples: NDArray[np.int16], channels: int) -> NDArray[np.int16]:
    """Give int16 samples of shape (1 or 2, n) that many channels, as shape (channels, n).

    Mono is heard on both sides as loud as before. Two sides are averaged, so nothing clips, and mono → stereo → mono
    changes nothing. An array that has that many channels already is returned as it is, without a copy.
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


def interleave(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Turn shape (channels, n) into L R L R …, shape (n * channels,): what files and wires hold."""
    return np.ascontiguousarray(samples.T).reshape(-1)


def as_pcm(samples: Any, layout: ChannelLayout | None = None, *, what: str = "audio") -> NDArray[np.int16]:
    """Check what a handler returned as audio, and turn it into int16 of shape (channels, n).

    Args:
        samples: int16, or float32 in [-1, 1]; shape (n,), (1, n) or (2, n).
        layout: If given, the shape must have as many channels. Interleaved stereo is not guessed at.
        what: Whose audio it is, for the error (``"audio from emit()"``).

    Returns:
        A copy. The caller may use its own array again.

    Raises:
        MediaError: Wrong type, dtype, shape or layout; the text names it and what to write instead.
    """
    if not isinstance(samples, np.ndarray):
        raise MediaError(f"{what} is a {type(samples).__name__}", _array_advice(samples))
    if isinstance(samples, np.ma.MaskedArray):
        raise MediaError(f"{what} is a masked array", "a plain array; to hear silence there, write samples.filled(0)")
    if samples.ndim == 1:
        shaped = samples[np.newaxis]
    elif samples.ndim == 2 and samples.shape[0] in (1, 2):
        shaped = samples
    else:
        raise MediaError(f"{what} has shape {samples.shape}", f"(n,), (1, n) or (2, n){_shape_advice(samples.shape)}")
    if layout is not None:
        _check_layout(shaped.shape[0], samples.shape, layout, what)
    if shaped.dtype == np.int16:
        return shaped.copy()
    if _is_float32(shaped):
        return float32_to_int16(shaped)
    told = samples.dtype.name if samples.dtype.isnative else f"{samples.dtype.str} (another byte order)"
    raise MediaError(f"{what} is {told}", _advice(samples))


def _array_advice(samples: Any) -> str:
    """What to write for something that is not an array."""
    if all(hasattr(samples, method) for method in ("detach", "cpu", "numpy")):  # PyTorch
        floats = ".float()" if "float" in str(getattr(samples, "dtype", "float")) else ""
        return f"a NumPy array: write samples.detach(){floats}.cpu().numpy()"
    if callable(getattr(samples, "numpy", None)):  # TensorFlow
        return "a NumPy array: write samples.numpy()"
    if isinstance(samples, bytes | bytearray | memoryview):
        return 'a NumPy array; for 16-bit PCM write np.asarray(np.frombuffer(samples, "<i2"), dtype=np.int16)'
    if isinstance(samples, list | tuple) and samples and all(isinstance(part, np.ndarray) for part in samples):
        chunks = "np.concatenate(samples, axis=-1)"
        if len(samples) == 2 and samples[0].shape == samples[1].shape and samples[0].ndim == 1:
            return f"one NumPy array: write {chunks} for two chunks, or np.stack(samples) for left and right"
        return f"one NumPy array: write {chunks}"
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError):  # lists of different lengths
        return f"a NumPy array of {_WANTED}, shape (n,), (1, n) or (2, n)"
    if array.ndim == 0 or array.dtype.kind not in "iuf":
        return f"a NumPy array of {_WANTED}"
    if not isinstance(samples, list | tuple):  # JAX, array.array: it knows its dtype
        return "a NumPy array: write np.asarray(samples)"
    if array.dtype.kind != "f" and _peak(array) <= 32768:
        return "a NumPy array: write np.asarray(samples, dtype=np.int16)"
    if array.dtype.kind == "f" and _peak(array) <= _LOUD:
        return "a NumPy array: write np.asarray(samples, dtype=np.float32)"
    return _advice(array).replace("samples", "np.asarray(samples)")


def _advice(samples: NDArray[Any]) -> str:
    """What to write for an array of another dtype, so that it sounds as it should."""
    match samples.dtype.kind, samples.dtype.itemsize:
        case "i", 2:
            return f"{_WANTED}: write samples.astype(np.int16)"
        case "f", _ if samples.dtype.itemsize != 4 and _peak(samples) > _LOUD:
            return (
                f"{_WANTED}; these are 16-bit values: write np.clip(np.rint(samples), -32768, 32767).astype(np.int16)"
            )
        case "f", _:
            return f"{_WANTED}: write samples.astype(np.float32)"
        case "i", 1:
            return f"{_WANTED}: write samples.astype(np.int16) * 256"
        case "u", 1:
            return f"{_WANTED}: write (samples.astype(np.int16) - 128) * 256"
        case "u", 2:
            return f"{_WANTED}: write (samples.astype(np.int32) - 32768).astype(np.int16)"
        case "i", _ if _peak(samples) <= 32768:
            wide = "(samples >> 16).astype(np.int16)"
            return f"{_WANTED}: write samples.astype(np.int16) for 16-bit values, or {wide} for 32-bit values"
        case "i", _:
            return f"{_WANTED}; these are 32-bit values: write (samples >> 16).astype(np.int16)"
        case "u", 4:
            return f"{_WANTED}: write ((samples >> 16).astype(np.int32) - 32768).astype(np.int16)"
        case "b", _:
            return f"{_WANTED}; a mask is not audio: write audio * samples, where audio is what the mask is for"
    return f"{_WANTED}; {samples.dtype.name} is not a kind of sample"


def _peak(samples: NDArray[Any]) -> float:
    """The largest magnitude, NaN and infinity left out; the smallest integer does not overflow."""
    finite = samples[np.isfinite(samples)]
    return max(float(finite.max(initial=0)), -float(finite.min(initial=0)))


def _shape_advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[1] in (1, 2):
        return ": write samples.T"
    if len(shape) == 2 and shape[0]:
        return ": choose at most two of its channels, as in samples[:2]"
    return ""


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
