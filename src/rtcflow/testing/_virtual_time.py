"""The clock of one loop in virtual time, and when it moves. Each backend's driver asks `VirtualTime.decide`.

Strategy: a driver (`_virtual_trio`, `_virtual_asyncio`) asks whenever its loop has nothing to do. Everything that is
decided about time is decided here, once for both backends. `_workers` tells a thread that computes from one that waits.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol, Self, TypeVar

import anyio

from ._real_sockets import RealSockets
from ._workers import PATIENCE, Stuck, ThreadsAllow, Workers

__all__ = ["Alarm", "Decision", "VirtualTime"]

T = TypeVar("T")

STARVED = 0.25
"""Real seconds, over more than `STARVED_TURNS` turns of the loop. A loop that has not come to rest by then (its tasks
go round without waiting) gets its time at real pace. Otherwise time would stand still for ever.
"""
STARVED_TURNS = 100

ROUNDING = 1e-9
"""Seconds by which asyncio treats a deadline as due too early. A loop that waits for that deadline would never rest."""

NAP, LONGEST_NAP = 0.0001, 0.002
"""Real seconds between two looks at threads that run."""


class Decision(enum.Enum):
    """What the loop's driver has to do next."""

    GO_ON = "time has moved or threads have run: look for something to do"
    REST = "nothing will happen until something comes from outside"


class Chooses(Protocol):
    """Decides the order of tasks (`_schedules.Schedule`)."""

    def choose(self, tasks: list[T]) -> tuple[list[T], list[T]]:
        """Those that run now, in order, and those that are held back."""


class Alarm:
    """A function that is called in the loop's thread, between the steps of tasks, when its moment has come.

    A task that waits for one moment after the other costs several times as much. Time does not pass meanwhile, so the
    function must return at once.

    Args:
        clock: Whose moments.
        ring: The function. It returns its next moment, or inf.
        at: The first moment; inf for none.
    """

    def __init__(self, clock: VirtualTime, ring: Callable[[], float], at: float = math.inf) -> None:
        self.ring = ring
        self.at: float = at
        self.called: bool = False
        self._clock = clock

    def call(self) -> None:
        """Have it ring now; from any thread."""
        self.called = True
        self._clock.workers.look()

    def __enter__(self) -> Self:
        self._clock.alarms.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._clock.alarms.remove(self)


class VirtualTime:
    """The clock of one loop in virtual time, and what it is waiting for.

    Args:
        manual: Time passes only through `advance`.
        start: What the clock says at first, in seconds.
        patience: Real seconds for which it waits for a thread that computes or blocks (`Stuck`).

    Attributes:
        now: Seconds; what `anyio.current_time()` returns.
        workers: The worker threads it waits for.
        pulse: Grows as long as the loop goes round.
        watched: Somebody looks whether it does (`_room`).
        schedule: Decides in which order tasks run; by default, in the order in which they became runnable.
        over_by: When a call whose caller has hung up is over at the latest.
        alarms: Functions that are called when they are due.
        sockets: Those for which it did not wait.
        thread: The loop's; 0 before it begins.
    """

    def __init__(self, *, manual: bool = False, start: float = 0.0, patience: float = PATIENCE) -> None:
        if patience <= 0:
            raise ValueError(f"patience is in seconds of real time, and more than 0, not {patience}")
        self.now: float = start
        self.workers: Workers = Workers(lambda: self.now, self._poke, self._foreign, patience)
        self.pulse: int = 0
        self.watched = False
        self.schedule: Chooses | None = None
        self.over_by: float = math.inf
        self.alarms: list[Alarm] = []
        self.sockets: RealSockets = RealSockets()
        self.thread: int = 0
        self._limit = start if manual else math.inf
        self._arrived: anyio.Event | None = None
        self._wake_loop: Callable[[], None] | None = None
        self._count_foreign: Callable[[], int] | None = None
        self._awaited: Callable[[], Collection[int]] = tuple
        self._nap = NAP
        self._seen: object = None
        self._flowing_since: float | None = None
        self._rested = time.monotonic()
        self._turns = 0
        self._decided = self._rested
        self._abandoned = False

    def __repr__(self) -> str:
        return f"<VirtualTime {self.now:.6f}{'' if self._limit == math.inf else ' manual'}>"

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """Calls into handlers that did not return, without which time went on."""
        return tuple(self.workers.stuck)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and everything due meanwhile happen; 0 lets everything settle that can happen now.
        A checkpoint.

        Only for manual time, by one task at a time; in automatic time use `anyio.sleep`.
        """
        if self._limit == math.inf:
            raise RuntimeError("this loop's time advances by itself: write await anyio.sleep(seconds)")
        if self._arrived is not None:
            raise anyio.BusyResourceError("advancing")
        if seconds < 0:
            raise ValueError(f"time does not go back, and {seconds} s is less than 0")
        self._limit = round(self._limit + seconds, 9)
        arrived = self._arrived = anyio.Event()
        try:
            await arrived.wait()
        finally:
            self._arrived = None

    def run_free(self) -> None:
        """Let time pass by itself from now on."""
        self._limit = math.inf
        self._poke()

    @property
    def busy_for(self) -> float:
        """Real seconds since the loop last came to rest."""
        return time.monotonic() - self._decided

    def abandon(self) -> None:
        """Nobody waits for the loop any more: it goes on slowly until its tasks end, if they ever do."""
        self._abandoned = True

    # -- the driver's side

    def attach(
        self, wake_loop: Callable[[], None], count_foreign: Callable[[], int], awaited: Callable[[], Collection[int]]
    ) -> None:
        """The loop begins: how to wake it from any thread, how many other threads work for it, and for which files it
        waits.
        """
        self._wake_loop, self._count_foreign, self._awaited = wake_loop, count_foreign, awaited
        self.thread = threading.get_ident()
        self.workers.begin()
        self._rested = self._decided = time.monotonic()

    def decide(self, deadline: float) -> Decision:
        """Called in the loop's thread when no task can run and nothing has come from outside.

        Args:
            deadline: The loop's next deadline; inf if it has none.
        """
        real = time.monotonic()
        self.pulse += 1
        self._rested, self._turns, self._decided = real, 0, real
        if self._ring_called():
            self._seen = self.workers.glance() or self._seen
            return Decision.GO_ON
        verdict = self.workers.judge()
        if verdict is ThreadsAllow.STANDS:
            self._flowing_since = None
            self.workers.nap(self._nap)
            self._nap = min(2 * self._nap, LONGEST_NAP)
            self._seen = self.workers.glance() or self._seen
            return Decision.GO_ON
        if self.workers.seen != self._seen:
            # A thread has run since the last look. It may have brought something to the loop after the loop's own last
            # look outside. So the loop looks once more before any time passes.
            self._seen = self.workers.seen
            return Decision.GO_ON
        target = min(deadline, self._next_alarm(), self.workers.next_alarm(), self._limit)
        if verdict is ThreadsAllow.REAL_PACE:
            if self._flowing_since is not None:
                self.now = max(self.now, min(target, self.now + real - self._flowing_since))
            self._flowing_since = real
            if self.now < target:
                self.workers.nap(LONGEST_NAP)
        else:
            self._nap, self._flowing_since = NAP, None
            if self.now < target < math.inf:
                if files := self._awaited():
                    self.sockets.waited(files, target - self.now)
                self.now = target
        if self._ring() or self.workers.wake(self.now) or deadline <= self.now:
            return Decision.GO_ON
        if verdict is ThreadsAllow.REAL_PACE and self._limit != self.now:
            return Decision.GO_ON
        if target < math.inf and self.now < self._limit:  # a timeout inside a handler: look at it again
            return Decision.GO_ON
        if self.now >= self._limit and self._arrived is not None:
            self._arrived.set()
            return Decision.GO_ON
        self.workers.rest()
        return Decision.REST

    def turn(self) -> None:
        """The loop goes round once more without having come to rest."""
        if self._abandoned:  # it must not slow down everything else; nor is it stopped, because its tasks may still end
            time.sleep(0.01)
        self.pulse += 1
        self._turns += 1
        if self._turns > STARVED_TURNS:
            real = time.monotonic()
            if (passed := real - self._rested) > STARVED:
                # Never back; and beyond the limit by what loops round up, so that a sleep until then ends.
                self.now = max(self.now, min(self.now + passed, self._limit + ROUNDING))
                self._rested = real
                self._ring_called()
                self._ring()

    def _next_alarm(self) -> float:
        return min([alarm.at for alarm in self.alarms], default=math.inf)

    def _ring(self) -> bool:
        """Ring the alarms that are due; whether there were any."""
        due = [alarm for alarm in self.alarms if alarm.at <= self.now + ROUNDING]
        for alarm in due:
            alarm.at = alarm.ring()
        return bool(due)

    def _ring_called(self) -> bool:
        called = [alarm for alarm in self.alarms if alarm.called]
        for alarm in called:
            alarm.called = False  # first: from now on it may be called again
            alarm.at = alarm.ring()
        return bool(called)

    def _poke(self) -> None:
        if self._wake_loop is not None:
            self._wake_loop()

    def _foreign(self) -> int:
        return 0 if self._count_foreign is None else self._count_foreign()
