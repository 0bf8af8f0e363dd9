"""When the next frame is due. Never sleeps: the caller brings the clock, and waits."""

from __future__ import annotations

import math

from ..exceptions import MediaError


class Pacer:
    """A schedule of frames that does not drift.

    Frame ``n`` is due ``n / rate`` seconds after the first. Deadlines are computed from the count, never by adding up
    floats, so the schedule does not drift in 24 hours. Usage: wait until `next_deadline`, send, `frame_sent`.

    Args:
        rate: Frames a second; need not be whole (29.97).
        max_lag: Seconds behind schedule after which the schedule starts again, instead of sending a burst of what was
            missed. Two frames by default: one late frame is made up for, a stall is not.

    Raises:
        MediaError: `rate` is not a positive number.
    """

    def __init__(self, rate: float, *, max_lag: float | None = None) -> None:
        if not (rate > 0 and math.isfinite(rate)):
            raise MediaError(f"a frame rate of {rate}", "a positive number of frames a second")
        self.rate = rate
        self.max_lag: float = 2 / rate if max_lag is None else max_lag
        self._start: float | None = None
        self._sent = 0

    def next_deadline(self, now: float) -> float:
        """When the next frame is due, on the clock that gave `now` (seconds); `now` itself for the first one."""
        if self._start is None or now - self._due(self._start) > self.max_lag:
            # The first, or late by more than max_lag: catching up would be a burst of what nobody waits for any more.
            self._start, self._sent = now, 0
        return self._due(self._start)

    def frame_sent(self) -> None:
        """One frame has gone out: the next is due one period later."""
        self._sent += 1

    def _due(self, start: float) -> float:
        return start + self._sent / self.rate
