"""Virtual time under trio: a clock, and a system task that moves it when nothing else can run."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import MutableSequence
from typing import Any

import trio
import trio.testing

from ._virtual_time import Decision, VirtualTime
from ._workers import watching


class VirtualClock(trio.abc.Clock, trio.abc.Instrument):
    """A clock for one `trio.run`; give it to `trio.run(clock=…)`, or return it from a fixture of pytest-trio."""

    def __init__(self, virtual_time: VirtualTime | None = None) -> None:
        self.virtual_time = virtual_time or VirtualTime()
        self._driver: trio.lowlevel.Task | None = None
        self._resting = False

    # -- trio.abc.Clock

    def start_clock(self) -> None:
        _schedule_tasks()
        token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)
        self.virtual_time.attach(lambda: _soon(token, self._wake), _threads_at_work)
        token.run_sync_soon(self._spawn)

    def current_time(self) -> float:
        return self.virtual_time.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.virtual_time.now else math.inf

    # -- trio.abc.Instrument

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        watching(self.virtual_time.workers, task.context)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is not self._driver:
            self._wake()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        self.virtual_time.turn()

    # -- the driver

    def _spawn(self) -> None:
        self._driver = trio.lowlevel.spawn_system_task(self._drive, name="virtual time")

    def _wake(self) -> None:
        if self._resting and self._driver is not None:
            self._resting = False
            trio.lowlevel.reschedule(self._driver)

    async def _drive(self) -> None:
        while True:
            # Twice: a task of the tests' own that waits for all tasks to be blocked goes first, at the old time.
            await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            left = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if self.virtual_time.decide(self.virtual_time.now + left) is Decision.REST:
                self._resting = True
                await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._resting = False
        return trio.lowlevel.Abort.SUCCEEDED


class _ScheduledRandom(random.Random):
    """Decides the order of trio's tasks in virtual time, which trio leaves to chance: each run is like the last.

    (pytest-trio and Hypothesis do the same for tests under Hypothesis, for the same reason.) Trio gives each batch of
    runnable tasks, sorted, to `shuffle`, and runs it from its end. With a schedule, some of the batch go back to the
    tasks that are runnable at the next turn.
    """

    def random(self) -> float:
        return 1.0 if _time_is_virtual() else super().random()

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if not _time_is_virtual():
            super().shuffle(x)
            return
        clock: Any = trio.lowlevel.current_clock()
        if clock.virtual_time.schedule is not None:
            run, held = clock.virtual_time.schedule.choose(list(x))
            x[:] = run
            scheduler: Any = sys.modules["trio._core._run"]
            scheduler.GLOBAL_RUN_CONTEXT.runner.runq.extend(held)


def _time_is_virtual() -> bool:
    return trio.lowlevel.in_trio_run() and isinstance(trio.lowlevel.current_clock(), VirtualClock)


def _schedule_tasks() -> None:
    scheduler: Any = sys.modules["trio._core._run"]
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # tasks in the order of their making, before `shuffle`
    if type(getattr(scheduler, "_r", None)) is random.Random:
        scheduler._r = _ScheduledRandom()


def _soon(token: trio.lowlevel.TrioToken, function: object) -> None:
    try:
        token.run_sync_soon(function, idempotent=True)  # type: ignore[arg-type]
    except trio.RunFinishedError:
        return


def _threads_at_work() -> int:
    return int(trio.to_thread.current_default_thread_limiter().borrowed_tokens)
