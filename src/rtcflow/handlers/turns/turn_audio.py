"""The audio of the turn under way, and a little of what came before. Pure."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

MOST = 600.0
"""Seconds of one turn that are kept. If a user (or a radio) talks for longer, the oldest audio is dropped. 58 MB at 48
kHz."""


class TurnAudio:
    """Audio by media time. Until `begin`, only the last `before` seconds are kept.

    Args:
        sample_rate: Hz.
        before: Seconds kept of what comes before a turn.
        most: Seconds kept of a turn.
    """

    def __init__(self, sample_rate: int, *, before: float, most: float = MOST) -> None:
        self._before, self._most = before, most
        self._chunks: deque[NDArray[np.int16]] = deque()
        self._rate = sample_rate
        self._channels = 1
        self._start = self._end = 0  # samples since the beginning
        self._began: int | None = None

    @property
    def now(self) -> float:
        """Media time: seconds of audio added since the beginning."""
        return self._end / self._rate

    def add(self, samples: NDArray[np.int16]) -> None:
        """Keep int16 samples of shape (channels, n); always the same channels."""
        self._channels = samples.shape[0]
        self._chunks.append(samples)
        self._end += samples.shape[1]
        self._trim()

    def silence(self, seconds: float) -> None:
        """Add `seconds` of silence, because no audio came."""
        self.add(np.zeros((self._channels, round(seconds * self._rate)), np.int16))

    def begin(self, at: float) -> None:
        """A turn has begun at media time `at`: keep all audio from there on."""
        self._began = max(self._start, min(self._end, round(at * self._rate)))

    def take(self) -> tuple[int, NDArray[np.int16]]:
        """End the turn; its sample rate and audio: int16, shape (channels, n), with n 0 if no turn had begun."""
        taken = self.so_far()
        self.drop()
        return taken

    def so_far(self, most: float = math.inf) -> tuple[int, NDArray[np.int16]]:
        """The same for the turn under way, or for its last `most` seconds. The turn goes on."""
        chunks: list[NDArray[np.int16]] = []
        if self._began is not None:
            from_ = max(self._began, self._start, self._end - most * self._rate)
            size = 0
            for chunk in reversed(self._chunks):
                if size >= self._end - from_:
                    break
                chunks.append(chunk)
                size += chunk.shape[1]
            chunks.reverse()
            if chunks:
                chunks[0] = chunks[0][:, size - round(self._end - from_) :]
        return self._rate, np.concatenate([np.empty((self._channels, 0), np.int16), *chunks], axis=1)

    def drop(self) -> None:
        """Forget the turn: it was a false alarm."""
        self._began = None
        self._trim()

    def _trim(self) -> None:
        keep = (self._before if self._began is None else self._most) * self._rate
        from_ = self._end - keep if self._began is None else max(self._began, self._end - keep)
        while self._chunks and self._start + self._chunks[0].shape[1] <= from_:
            self._start += self._chunks.popleft().shape[1]
