"""A clock for limits of real time, which a busy machine does not use up.

It counts the processor time of this process, and the real time in which all of its threads block. On an idle machine
that is real time. On a busy one it goes more slowly, as the process does.

Whether a thread waits for a processor is only seen by looking: `look` is called every `LOOK` seconds. What blocks for
less is not counted. Where the system does not tell (macOS, Windows), a wait for a processor counts as any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from ._workers import wants_a_processor

__all__ = ["LOOK", "FairClock", "fair_clock"]

LOOK: Final = 0.25
"""Real seconds between two looks."""


def _somebody_waits() -> bool:
    """Whether another thread of this process waits for a processor, or has one."""
    own = threading.get_native_id()
    ids = [thread.native_id for thread in threading.enumerate()]
    return any(wants_a_processor(one) for one in ids if one is not None and one != own)


class FairClock:
    """Counts from 0, in seconds.

    Args:
        real: Real time.
        processor: Processor time of this process.
        busy: Whether a thread of this process wants a processor now.
    """

    def __init__(
        self,
        real: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
        busy: Callable[[], bool] = _somebody_waits,
    ) -> None:
        self._real, self._processor, self._busy = real, processor, busy
        self._began = processor()
        self._blocked = 0.0
        self.begin()

    def begin(self) -> None:
        """What passed since the last look was nothing that is looked at: only its processor time counts."""
        self._seen = self._real(), self._processor()

    def look(self) -> None:
        """Count what passed since the last look. At most `LOOK` of it was a wait: more is a look that came late."""
        real, processor = self._seen
        self.begin()
        waited = min(self._seen[0] - real, LOOK) - (self._seen[1] - processor)
        if waited > 0 and not self._busy():
            self._blocked += waited

    def now(self) -> float:
        """The time at the last look, and the processor time since."""
        return self._processor() - self._began + self._blocked


fair_clock: ContextVar[FairClock | None] = ContextVar("rtcflow_fair_clock", default=None)
"""The clock on which the checks count that are made in this context."""
