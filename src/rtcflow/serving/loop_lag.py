"""How late an event loop does what is due: the first thing to look at when async handlers are slow.

A timer fires `1 / INTERVAL` times a second and notes its own lateness. So a loop that is blocked for longer than
`INTERVAL` is always seen, with at least the rest of the block. The figures are those of a histogram.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

INTERVAL: Final = 0.1
"""Seconds between two looks. One costs some 20 microseconds."""

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds up to which each bucket of the histogram counts; the last bucket has the rest."""


class LoopLag:
    """A histogram of lateness.

    Attributes:
        counts: How many looks were late by at most each of `BOUNDS`, and by more; not cumulated.
        total: All lateness together, in seconds.
    """

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BOUNDS) + 1)
        self.total: float = 0.0
        self._observers: list[Callable[[float], object]] = []

    def observe(self, observer: Callable[[float], object]) -> None:
        """Have `observer` called in the loop with each lateness, in seconds."""
        self._observers.append(observer)

    def note(self, seconds: float) -> None:
        """Count one look and its lateness."""
        late = max(0.0, seconds)
        self.counts[next((place for place, bound in enumerate(BOUNDS) if late <= bound), len(BOUNDS))] += 1
        self.total += late
        for observer in self._observers:
            observer(late)

    async def watch(self) -> None:
        """Look at the running loop until cancelled."""
        while True:
            due = anyio.current_time() + INTERVAL
            await anyio.sleep_until(due)
            self.note(anyio.current_time() - due)
