"""Audio in place of audio that was lost, for codecs that cannot make it up themselves (G.711, G.722).

This is the idea of ITU-T G.711 Appendix I, in its simplest form. The last period of the voice goes on and fades out.
The audio after the hole is faded in over it, so that neither end of the hole clicks.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

HISTORY: Final = 0.04
"""Seconds of audio that are remembered."""
SHORTEST_PERIOD, LONGEST_PERIOD = 0.005, 0.015
"""Seconds of a voice's period that are looked for: 200 to 66 Hz (G.711 Appendix I section I.2.2)."""
FULL: Final = 0.01
"""Seconds for which the made-up voice keeps its level …"""
FADE: Final = 0.05
"""… and seconds in which it then fades to silence: gone after 60 ms (G.711 Appendix I section I.2.7)."""
JOIN: Final = 0.004
"""Seconds over which real audio is faded in over the made-up one."""


class Concealer:
    """Follows one stream of audio, and goes on with it when asked.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._history: NDArray[np.int16] | None = None
        self._period: NDArray[np.float32] | None = None
        self._made = 0  # samples made up since the last real one

    def follow(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Take real audio, int16 of shape (channels, n); returns it, faded in if the last audio was made up."""
        if not samples.shape[1]:
            return samples
        if self._period is not None and samples.shape[0] == self._period.shape[0]:
            n = min(round(JOIN * self._rate), samples.shape[1])
            up = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)
            joined = samples.copy()
            joined[:, :n] = samples[:, :n] * up + self._go_on(n) * (1 - up)
            samples = joined
        self._period, self._made = None, 0
        keep = round(HISTORY * self._rate)
        if self._history is not None and samples.shape[1] < keep and samples.shape[0] == self._history.shape[0]:
            self._history = np.concatenate([self._history, samples], axis=1)[:, -keep:]
        else:
            self._history = samples[:, -keep:]
        return samples

    def make_up(self, n: int) -> NDArray[np.int16] | None:
        """Go on for n samples: int16 of shape (channels, n); None if nothing was ever followed."""
        if self._history is None:
            return None
        if self._period is None:
            self._period = self._last_period(self._history.astype(np.float32))
        return self._go_on(n).astype(np.int16)

    def _last_period(self, history: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part of the history that the end of the history repeats most closely, found by correlation."""
        mono = history.mean(axis=0)
        shortest, longest = round(SHORTEST_PERIOD * self._rate), round(LONGEST_PERIOD * self._rate)
        longest = min(longest, len(mono) // 2)
        if longest <= shortest:
            return history
        tail = mono[-longest:]
        lags = np.arange(shortest, longest + 1)
        windows = np.lib.stride_tricks.sliding_window_view(mono, longest)[len(mono) - longest - lags]
        energy = np.sqrt((windows**2).sum(axis=1)) + 1.0
        return history[:, -int(lags[np.argmax(windows @ tail / energy)]) :]

    def _go_on(self, n: int) -> NDArray[np.float32]:
        if self._period is None:  # callers see to it
            raise ValueError("nothing to go on with")
        positions = np.arange(self._made, self._made + n)
        gain = np.clip(1 - (positions / self._rate - FULL) / FADE, 0, 1).astype(np.float32)
        self._made += n
        return self._period[:, positions % self._period.shape[1]] * gain
