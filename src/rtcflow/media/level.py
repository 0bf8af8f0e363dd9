"""How loud audio is, in RTP's units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SILENCE = 127
"""The level of digital silence, and the lowest that can be told (RFC 6464 section 3)."""


def audio_level(samples: NDArray[np.int16]) -> int:
    """The level of samples of any shape in -dBov: 0 is a square wave at full scale, 127 is silence.

    Dbov is relative to the overload point: the root of the mean square of all samples, of 32768 (RFC 6465 appendix A).
    """
    flat = samples.reshape(-1).astype(np.float32)
    if not flat.size:
        return SILENCE
    power = float(np.dot(flat, flat)) / (flat.size * 32768.0**2)
    return SILENCE if power == 0 else min(max(round(-10 * math.log10(power)), 0), SILENCE)
