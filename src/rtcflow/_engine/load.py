"""Measures how busy and how late the engine's thread is, and tells the encoders how hard they may work.

`media.complexity` decides; this module has the clocks and the timer. The timer runs only while there are encoders.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..media.complexity import TICK, ComplexityControl, Tick

LAGS: Final = 150
"""Ticks of which the greatest lag is remembered: 15 s, as long as Prometheus usually waits between two scrapes."""


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class EngineLoad:
    """The load of the loop that runs now, in its thread.

    Attributes:
        complexity: The complexity with which the encoders must work.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = ComplexityControl(_cores())
        self._listeners: list[Callable[[int], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lags = deque[float](maxlen=LAGS)
        self._last = self._clocks()

    @property
    def complexity(self) -> int:
        """The complexity with which the encoders must work: 0 to 10."""
        return self._control.complexity

    @property
    def lag(self) -> float:
        """How late the loop was at its worst in the last `LAGS` ticks with an encoder, in seconds. From any thread."""
        return max(list(self._lags), default=0.0)

    @contextmanager
    def listening(self, listener: Callable[[int], None]) -> Iterator[None]:
        """Call `listener` with the complexity now, and with each new one until the end."""
        self._listeners.append(listener)
        if self._timer is None:
            self._wait(self._clocks())
        try:
            listener(self.complexity)
            yield
        finally:
            self._listeners.remove(listener)
            if not self._listeners and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _clocks(self) -> tuple[float, float, float]:
        # `loop.time()` of uvloop is in whole milliseconds: too coarse for a lag.
        return time.monotonic(), time.thread_time(), time.process_time()

    def _wait(self, last: tuple[float, float, float]) -> None:
        self._last = last
        self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now, ours, all_threads = clocks = self._clocks()
        then, ours_then, all_then = self._last
        passed = now - then
        lag = max(0.0, passed - TICK)
        self._lags.append(lag)
        before = self.complexity
        tick = Tick((ours - ours_then) / passed, (all_threads - all_then) / passed, lag)
        complexity = self._control.note(now, tick)
        if complexity != before:
            for listener in list(self._listeners):
                listener(complexity)
        self._wait(clocks)
