"""Virtual time under trio: a clock that moves when trio asks how long it may sleep.

trio asks its clock (`deadline_to_sleep_time`) when no task can run. The first answer is always "not at all": trio then
looks for what has come from outside. If nothing has, it asks again, and now `VirtualTime.decide` may move the time.
This takes no task of its own, which would cost more than all else in a call.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Collection, MutableSequence
from typing import Any

import trio

from ._virtual_time import Decision, VirtualTime
from ._workers import watching


class VirtualClock(trio.abc.Clock, trio.abc.Instrument):
    """A clock for one `trio.run`; give it to `trio.run(clock=…)`, or return it from a fixture of pytest-trio."""

    def __init__(self, virtual_time: VirtualTime | None = None) -> None:
        self.virtual_time = virtual_time or VirtualTime()
        self._has_looked = False
        self._runner: Any = None

    # -- trio.abc.Clock

    def start_clock(self) -> None:
        self._runner = _schedule_tasks()
        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)
        self.virtual_time.attach(lambda: _soon(token, _nothing), _threads_at_work, self._awaited)

    def current_time(self) -> float:
        return self.virtual_time.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if self._is_awaited():
            return math.inf
        if not self._has_looked:
            self._has_looked = True
            return 0.0
        return 0.0 if self.virtual_time.decide(deadline) is Decision.GO_ON else math.inf

    def _is_awaited(self) -> bool:
        """Whether a task waits for all others to be blocked: trio wakes it at once, at the old time."""
        waiting = getattr(self._runner, "waiting_for_idle", None)
        return bool(waiting and waiting.keys()[0][0] <= 0)  # the shortest time for which they are to be blocked

    def _awaited(self) -> Collection[int]:
        files = getattr(self._runner.io_manager, "_registered", ())  # of epoll and kqueue
        if len(files) < 2:  # one is the loop's own
            return ()
        return [key if isinstance(key, int) else key[0] for key in files]

    # -- trio.abc.Instrument

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        watching(self.virtual_time.workers, task.context)

    # Other hooks of an instrument are called several times a turn, and cost a tenth of a call's time.

    def turned(self, tasks: MutableSequence[Any]) -> None:
        """The loop goes round once more, and is about to run these tasks."""
        if tasks:
            self._has_looked = False
        self.virtual_time.turn()


class _ScheduledRandom(random.Random):
    """Decides the order of trio's tasks in virtual time, which trio leaves to chance: each run is like the last.

    pytest-trio and Hypothesis do the same for tests under Hypothesis, for the same reason. Trio gives each batch of
    runnable tasks, sorted, to `shuffle`, and runs it from its end. With a schedule, some of the batch go back to the
    tasks that are runnable at the next turn.
    """

    def random(self) -> float:
        return 1.0 if _virtual_clock() else super().random()

    def shuffle(self, x: MutableSequence[Any]) -> None:
        clock = _virtual_clock()
        if clock is None:
            super().shuffle(x)
            return
        clock.turned(x)
        if clock.virtual_time.schedule is not None:
            run, held = clock.virtual_time.schedule.choose(list(x))
            x[:] = run
            _scheduler().GLOBAL_RUN_CONTEXT.runner.runq.extend(held)


def _scheduler() -> Any:
    return sys.modules["trio._core._run"]


def _virtual_clock() -> VirtualClock | None:
    """The clock of the trio run in this thread, if it is virtual."""
    runner = getattr(_scheduler().GLOBAL_RUN_CONTEXT, "runner", None)
    clock = getattr(runner, "clock", None)
    return clock if isinstance(clock, VirtualClock) else None


def _schedule_tasks() -> Any:
    """Take over the order of tasks; returns trio's runner."""
    scheduler = _scheduler()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # tasks in the order of their making, before `shuffle`
    if type(getattr(scheduler, "_r", None)) is random.Random:
        scheduler._r = _ScheduledRandom()
    return scheduler.GLOBAL_RUN_CONTEXT.runner


def _soon(token: trio.lowlevel.TrioToken, function: object) -> None:
    try:
        token.run_sync_soon(function, idempotent=True)  # type: ignore[arg-type]
    except trio.RunFinishedError:
        return


def _nothing() -> None:
    """Having been called is enough: the loop goes round."""


def _threads_at_work() -> int:
    return int(trio.to_thread.current_default_thread_limiter().borrowed_tokens)
