"""Is that speech? The protocols of speech detection models, and one model that needs no package.

Two kinds of model are understood. A *streaming* model carries its state from window to window, so each window is heard
once and in its context: `StreamingVadModel`. A *chunk* model remembers nothing from one chunk to the next, as in
FastRTC's protocol: `PauseDetectionModel`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeAlias, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

VAD_RATE = 16_000
"""Hz; what speech detection models hear."""

WINDOW = 512
"""Samples in one window at 16 kHz: 32 ms, what the Silero models were trained with."""

ModelOptions: TypeAlias = Any


class AudioChunk(TypedDict):
    """A stretch of speech, in samples at 16 kHz from the start of what was judged."""

    start: int
    end: int


class VadStream(Protocol):
    """A model with the state of one conversation.

    Attributes:
        window_size: Samples at 16 kHz that one call hears.
    """

    window_size: int

    def __call__(self, window: NDArray[np.float32]) -> float:
        """The probability of speech in the next window: float32, shape (window_size,), in [-1, 1]."""

    def reset(self) -> None:
        """Forget everything heard."""


@runtime_checkable
class BatchVadStream(VadStream, Protocol):
    """A `VadStream` to which several windows at once are cheaper than one by one."""

    def many(self, windows: NDArray[np.float32]) -> list[float]:
        """The probabilities of speech in the next windows: float32, shape (n, window_size), in [-1, 1]."""


def batched(vad: VadStream) -> BatchVadStream:
    """`vad`, taking several windows at once if it has to one by one."""
    return vad if isinstance(vad, BatchVadStream) else _OneByOne(vad)


class _OneByOne:
    def __init__(self, vad: VadStream) -> None:
        self._vad, self.window_size = vad, vad.window_size
        self.reset = vad.reset

    def __call__(self, window: NDArray[np.float32]) -> float:
        return self._vad(window)

    def many(self, windows: NDArray[np.float32]) -> list[float]:
        return [self._vad(window) for window in windows]


@runtime_checkable
class StreamingVadModel(Protocol):
    """A model that many conversations share; each gets its own `stream`."""

    def stream(self) -> VadStream:
        """A new state that has heard nothing yet."""


@runtime_checkable
class PauseDetectionModel(Protocol):
    """FastRTC's protocol for your own model."""

    def vad(
        self, audio: tuple[int, NDArray[np.int16] | NDArray[np.float32]], options: ModelOptions
    ) -> tuple[float, list[AudioChunk]]:
        """How much of a chunk is speech.

        Args:
            audio: Sample rate in Hz, and samples of shape (n,): int16, or float32 in [-1, 1].
            options: Whatever `ReplyOnPause(model_options=…)` was given.

        Returns:
            Seconds of speech, and where it is.
        """

    def warmup(self) -> None:
        """Make the first call as fast as the others."""


class EnergyVad:
    """Takes for speech whatever is clearly louder than the recent background. Needs no model and no package.

    It only knows levels. Music, a door, a dog, a second voice and a ringing telephone are all speech to it. In steady
    noise it misses quiet talkers. Good for tests, push-to-talk and quiet headsets; for people in rooms install
    ``rtcflow[vad]``.

    Args:
        margin: dB above the background from which on a window counts as speech (probability 0.5).
        least: dBFS below which nothing is speech, however quiet the background.
    """

    window_size = WINDOW

    def __init__(self, margin: float = 12.0, least: float = -50.0) -> None:
        self.margin: float = margin
        self.least: float = least
        self.reset()

    def stream(self) -> EnergyVad:
        """A new one with the same settings."""
        return EnergyVad(self.margin, self.least)

    def reset(self) -> None:
        """Forget the background."""
        self._floor = self.least - self.margin

    def __call__(self, window: NDArray[np.float32]) -> float:
        """The probability of speech in the next window."""
        level = 10 * math.log10(float(np.dot(window, window)) / max(window.size, 1) + 1e-10)
        # The background follows downwards at once and upwards by 3 dB a second: slower than any sentence.
        rise = 3.0 * window.size / VAD_RATE
        self._floor = min(max(level, self.least - self.margin), self._floor + rise)
        return 1 / (1 + math.exp(min(50.0, -(level - max(self._floor + self.margin, self.least)) / 2)))
