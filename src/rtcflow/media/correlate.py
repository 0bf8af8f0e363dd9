"""Finding one sound in another, for echoes, the marks of a load and `rtcflow.testing.latency`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlate(pattern: NDArray[np.float64], sound: NDArray[np.float64], before: int = 0) -> NDArray[np.float64]:
    """The product of `pattern` with each stretch of `sound`; the largest is where it fits best. By FFT.

    Args:
        pattern: float64, shape (n,).
        sound: float64, shape (m,), at the same sample rate; silence is assumed around it.
        before: Samples by which `pattern` may begin before `sound`, fewer than n.

    Returns:
        float64, shape (before + m,): element i belongs to the stretch that begins at sample i - before.
    """
    size = 1 << max(1, (len(pattern) + len(sound) - 1).bit_length())
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(pattern, size)), size)
    return np.concatenate([products[size - before :], products[: len(sound)]])
