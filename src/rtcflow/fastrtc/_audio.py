"""`audio_to_int16` with FastRTC's factor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import audio_to_int16 as to_int16


def audio_to_int16(audio: Any) -> NDArray[np.int16]:
    """Turn int16 or float32 audio into int16, with FastRTC's factor of 32767.

    `rtcflow.audio.audio_to_int16` has the factor 32768, so that int16 → float32 → int16 gives the same samples.

    Args:
        audio: int16, or float32 in [-1, 1]; what lies beyond saturates. A tuple ``(sample_rate, audio)`` is deprecated.

    Raises:
        MediaError: Another dtype; it is also a TypeError. Or NaN.
    """
    samples = audio[1] if isinstance(audio, tuple) else audio
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32:
        return to_int16(audio)
    to_int16(audio)  # warns of the tuple, and refuses NaN
    scaled: NDArray[np.int16] = (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    return scaled
