"""How hard the Opus encoders may work: hard while the engine has time, and not at all when the core is full. Pure.

There are two levels, because only two are worth having. From `BEST` down to 7 the encoder looks at what kind of sound
it has. Without that, speech is 0.3 dB farther from the original at the same bitrate. Levels 1 to 6 do not look. They
take a third more bits than level 0, and at the same bitrate their sound is no better (``nox -s bench_quality``).

`EngineLoad` (in ``_engine``) calls `ComplexityControl.note` at every tick with what the engine's thread used, what the
whole process used, and how late the tick came. Lateness also shows other threads and other processes that take the time
away.

*Use* is the busier of two shares: the thread's of its core, and the process' of its cores. One core is all that a
process has while its threads wait for the interpreter's lock. So when a quarter of the ticks are late by `HELD_UP`, the
process' share is of one core. Thirty calls that use 0.9 of a core fill it, however many cores there are. A model that
computes on other cores without the lock makes no tick late, and does not count so.

Hysteresis keeps the level steady:

- The level falls when use is above `FULL`, or when more than half of the ticks of a second are late by `LATE`.
- It rises when use was below `FREE`, and the ticks were in time, for `CALM` seconds. `BEST` takes up to 1.8 times the
  time of a call at level 0, so use stays below `FULL` after most rises.
- If it does not, the level falls within `TRIED` seconds of the rise. Then the next rise waits twice as long, up to
  `LONGEST_CALM`.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

BEST: Final = 10
"""The highest complexity of libopus (opus_defines.h, OPUS_SET_COMPLEXITY). Levels 8 to 10 take the same time."""

LEAST: Final = 0
"""The lowest."""

TICK: Final = 0.1
"""Seconds from one tick to the next."""

WINDOW: Final = 10
"""Ticks that are judged together: one second."""

FULL: Final = 0.8
"""Use above which the core counts as full. The rest is for bursts: frames of many calls that are due at once."""

FREE: Final = 0.45
"""Use below which there is time: just under half, so that `BEST` at 1.8 times the cost stays about at `FULL`."""

LATE: Final = 0.005
"""Seconds of lag that mean that somebody else has the core or the interpreter. Five milliseconds are the interpreter's
own switch interval; a free loop lags by less than one."""

HELD_UP: Final = 0.002
"""Seconds of lag in a quarter of the ticks that mean that the threads of the process wait for each other. The timer of
an idle loop is exact to one millisecond."""

CALM: Final = 5.0
"""Seconds of calm before a rise."""

TRIED: Final = 30.0
"""A level that falls sooner than this after its rise did not fit. In seconds."""

LONGEST_CALM: Final = 320.0
"""The longest that a rise waits after rises that did not fit, in seconds."""


class Tick(NamedTuple):
    """What was measured since the last tick.

    Attributes:
        thread: The share of the time for which the engine's thread ran: 0 to 1.
        process: The same of all threads of the process together: 0 to the number of its cores.
        lag: Seconds by which the tick came late.
    """

    thread: float
    process: float
    lag: float


class ComplexityControl:
    """Chooses the complexity of all encoders of one engine.

    Args:
        cores: How many cores the process may use: 1 or more.

    Attributes:
        complexity: The choice: `BEST` or `LEAST`. `BEST` at first, because an engine without calls has time.
    """

    def __init__(self, cores: int) -> None:
        self.complexity: int = BEST
        self._cores = cores
        # One list of numbers each, which C sums and sorts: this runs ten times a second, also for a single call.
        self._thread: deque[float] = deque(maxlen=WINDOW)
        self._process: deque[float] = deque(maxlen=WINDOW)
        self._lags: deque[float] = deque(maxlen=WINDOW)
        self._calm = CALM
        self._calm_since: float | None = None
        self._risen: float | None = None

    def note(self, now: float, tick: Tick) -> int:
        """Take note of one tick, and return the complexity from now on.

        Args:
            now: Seconds, on any monotonic clock.
            tick: What was measured.
        """
        thread, process, lag = tick
        self._thread.append(thread)
        self._process.append(process)
        self._lags.append(lag)
        if len(self._lags) == WINDOW:
            lags = sorted(self._lags)
            use = self._use(one_core=lags[-(WINDOW // 4) - 1] > HELD_UP)
            late = lags[WINDOW // 2 - 1] > LATE
            if self.complexity != LEAST:
                if use > FULL or late:
                    self._fall(now)
            elif use < FREE and not late:
                self._note_calm(now)
            else:
                self._calm_since = None
        return self.complexity

    def _use(self, *, one_core: bool) -> float:
        return max(sum(self._thread), sum(self._process) / (1 if one_core else self._cores)) / WINDOW

    def _fall(self, now: float) -> None:
        did_not_fit = self._risen is not None and now - self._risen < TRIED
        self._calm = min(2 * self._calm, LONGEST_CALM) if did_not_fit else CALM
        self.complexity, self._calm_since = LEAST, None

    def _note_calm(self, now: float) -> None:
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= self._calm:
            self.complexity, self._risen = BEST, now
            for figures in (self._thread, self._process, self._lags):
                figures.clear()  # they are of the other level
