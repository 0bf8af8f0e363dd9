"""Which worker threads can run? The invariant: virtual time must not run ahead of a thread that can run.

rtcflow reports its own waits (`WorkerMark.parked`, `resumed`). It cannot see what happens inside a handler's method. So
a thread that is in one is looked at from outside, in this order:

1. It is in `threading.Condition.wait`, and nobody has notified it: it waits. (`queue.Queue.get`, `threading.Event.wait`
   and `concurrent.futures.Future.result` wait there.) Without a timeout this is certain, and time goes on at full
   speed. With a timeout, time goes on up to that timeout and stands there until it has really passed.
2. It used no CPU time and stayed at the same instruction for `STILL` seconds: it sleeps or waits in C (`time.sleep`, a
   socket). Then virtual time goes on at the pace of real time, until that wait is over.
3. The same, for a lock that is locked, or for a thread that waits for another one in its turn (`_endless`). Time goes
   on at full speed: the thread that could end it is waited for in its own right.
4. Otherwise it computes, or waits for a processor: time stands.

A thread may stay in 2 for `patience` seconds, or in 4 for as many seconds of CPU time, or in 3 for `LOCKED` seconds of
virtual time. Then it is reported by the name of its method, and time goes on without it.

Other threads work for handlers, too. Jobs of `to_thread.run_sync` (with any limiter) and of executors are waited for
until they are done, for at most `patience`. Jobs that wait for something themselves are not waited for, nor those that
sleep in virtual time (`sleeper`). A thread that the handler has started, and that has slept in virtual time once, is a
worker from then on (`own_thread`). It is waited for in 4 alone. Any other thread is waited for while it computes. Two
things are not seen, and time goes on meanwhile: work outside of Python's threads, and waits in C of such threads.
"""

from __future__ import annotations

import concurrent.futures.thread as executors
import contextvars
import enum
import inspect
import linecache
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from .._core.interrupt import current_frames

logger: logging.Logger = logging.getLogger(__name__)

STILL = 0.005
"""Real seconds without CPU time after which a thread counts as waiting. It is the interpreter's switch interval, within
which a thread that can run gets to run.
"""

PATIENCE = 5.0
"""Seconds of waiting (real) or computing (CPU) in one call into a handler, after which virtual time does not care; by
default."""


LOCKED = 2.0
"""Virtual seconds after which a method that waits for a lock or a thread counts as waiting for ever: a second of speech
is lost by then."""

LEAST: Final = 1e-6
"""Virtual seconds that the shortest wait takes. A shorter one would be lost in rounding, and a loop that waits for what
is left until a deadline would go round for ever.
"""

LIMIT: Final = "a wait with a limit"
"""Where a thread has slept whose wait came to its limit."""

A_LOCK: Final = "waiting for a lock that another method keeps"
A_THREAD: Final = "waiting for a thread that waits itself"


class ThreadsAllow(enum.Enum):
    """What worker threads allow virtual time to do."""

    STANDS = "a worker thread runs"
    REAL_PACE = "a worker thread waits in real time"
    FREE = "no worker thread can run"


@dataclass(frozen=True, slots=True)
class Stuck:
    """A call into a handler that did not return.

    Attributes:
        method: Its qualified name (``"Echo.emit"``).
        doing: What it does: ``"computing"``, ``"waiting"``, or waiting for a lock or a thread.
        seconds: For how long, when virtual time went on without it: in real time, or (`endless`) in virtual time.
    """

    method: str
    doing: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.method} has been {self.doing} for {self.seconds:.1f} s{'' if self.endless else ' of real time'}"

    @property
    def endless(self) -> bool:
        """Whether nothing in the call would ever end it."""
        return self.doing in {A_LOCK, A_THREAD}


@dataclass(slots=True)
class _Look:
    """What a thread looked like when it was last looked at."""

    where: object = None
    cpu: float = -1.0
    since: float = 0.0
    began: float = 0.0
    deadline: float = math.inf
    given_up: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """One worker thread, watched (`rtcflow._core.threads.WatchedWorker`)."""

    name: str
    workers: Workers
    ident: int = 0
    native_id: int = 0
    method: str | None = None
    called: float = 0.0
    entered: float = 0.0
    cpu_before: float | None = None
    runnable: bool = True
    wake_at: float | None = None
    given_up: object = None
    look: _Look = field(default_factory=_Look)
    rings: tuple[float, threading.Condition] | None = None
    slept: list[tuple[float, str]] = field(default_factory=list)  # for how long, and in which function, or `LIMIT`
    roused: bool = False
    until: float = 0.0
    own: threading.Thread | None = None  # one that the handler has started
    alarm: threading.Lock = field(default_factory=threading.Lock)

    def parked(self, timeout: float | None) -> None:
        self.ident = threading.get_ident()
        self.roused = False
        if timeout is None:
            self._set_runnable(runnable=False)
        else:
            self._fall_asleep(timeout)

    def resumed(self) -> None:
        self.cpu_before = None
        self.workers.rouse(self)

    def calling(self, method: str | None) -> None:
        self.ident, self.native_id = threading.get_ident(), threading.get_native_id()
        self.entered, self.called = self.workers.now(), time.monotonic()
        self.cpu_before = None
        self.look = _Look()
        self.slept = []
        self.method = method
        self.workers.turns += 1

    def sleep(self, seconds: float) -> None:
        # At least 1 ms: an `emit` that takes a while and returns None again and again must not hold virtual time for
        # ever.
        self.parked(max(seconds, 0.001))
        self._sleep()

    def _fall_asleep(self, seconds: float) -> None:
        self.until = self.workers.now() + max(seconds, LEAST)
        self.alarm.acquire()
        self.workers.let_sleep(self)

    def _sleep(self) -> None:
        self.alarm.acquire()  # released by `ring`
        self.alarm.release()

    def wait(self, woken: threading.Lock) -> bool:
        """Wait until `woken` is released, or the time is over that `parked` was told; whether it was released.

        `resumed` is called just before it is released.
        """
        since = self.workers.now()
        self._sleep()
        if self.roused:
            return woken.acquire()
        self.slept.append((self.until - since, LIMIT))
        return woken.acquire(timeout=max(0.0, self.until - self.workers.now()) if self.workers.over else 0.0)

    def wait_in(self, condition: threading.Condition, seconds: float) -> None:
        """Wait in `condition`, whose lock is held, to be notified, for at most `seconds` of virtual time."""
        self.rings = (self.workers.now() + seconds, condition)
        try:
            condition.wait()
        finally:
            self.rings = None

    def ring_in_condition(self) -> bool:
        """The time of its `wait_in` is over: notify it, and nobody else who waits in that condition; whether it was."""
        condition: Any = None if self.rings is None else self.rings[1]
        if condition is None or not condition.acquire(blocking=False):  # who has the lock keeps it from going on anyway
            return False
        frame = current_frames().get(self.ident)
        waiter: Any = None if frame is None else _condition_wait(frame)[0]
        if waiter is not None:
            condition._waiters.remove(waiter)
            waiter.release()
        condition.release()
        return waiter is not None

    def ring(self) -> None:
        """Its sleep is over; called by the thread that has unset `wake_at`."""
        self._set_runnable(runnable=True)
        self.alarm.release()

    def finished(self) -> None:
        self.workers.remove(self)

    def _set_runnable(self, *, runnable: bool) -> None:
        self.look = _Look()
        self.runnable = runnable
        self.workers.changed()


class Workers:
    """All worker threads that virtual time waits for; an observer for `rtcflow._core.threads.observer`.

    Args:
        now: The virtual clock.
        poke: Wakes the loop, from any thread.
        foreign: How many other threads work for the loop (`anyio.to_thread`, executors); they are waited for, too.
        patience: For how many seconds a thread is waited for (see above).
    """

    def __init__(
        self, now: Callable[[], float], poke: Callable[[], None], foreign: Callable[[], int], patience: float = PATIENCE
    ) -> None:
        self.now = now
        self.poke = poke
        self.foreign = foreign
        self.patience = patience
        self.over: bool = False
        self.stuck: list[Stuck] = []
        self.turns: int = 0  # how often a thread did something that is seen from here; inexact, but never still
        self.seen: object = None
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._bell = threading.Lock()  # not free, but for the moment after somebody rang
        self._bell.acquire()
        self._sleepers = 0
        self._foreign_seen = 0
        self._foreign_since = 0.0
        self._others: dict[int, _Look] = {}
        self._waiting = False
        self._elsewhere: dict[int, FrameType] = {}  # jobs of pools that others have begun, by thread
        self._idle: dict[int, tuple[FrameType, Any]] = {}  # trio's threads without a job, as they were seen last
        self._ours = 0  # how many threads are the loop's and the main one; once `judge` is called, in the loop's

    def worker(self, name: str) -> Worker:
        """A worker thread is about to be started."""
        worker = Worker(name, self)
        with self._lock:
            self._workers.add(worker)
        return worker

    def own_thread(self) -> Worker:
        """The thread that runs was started by the handler: it is watched from now on, until it ends."""
        worker = self.worker("a thread of the handler's own")
        worker.own = threading.current_thread()
        worker.calling(worker.name)
        return worker

    @contextmanager
    def sleeper(self) -> Iterator[Worker]:
        """Inside the block, a pool's thread may sleep in virtual time. Before and after it is one of the others."""
        worker = self.worker("a pool's thread")
        with self._lock:
            self._sleepers += 1
        try:
            yield worker
        finally:
            with self._lock:
                self._sleepers -= 1
            worker.finished()

    def remove(self, worker: Worker) -> None:
        """That worker's thread has ended, or was never begun."""
        with self._lock:
            self._workers.discard(worker)
            lost = worker.wake_at is not None
            worker.wake_at = None
        if lost:
            worker.ring()
        self.changed()

    def begin(self) -> None:
        """The loop begins: what threads of pools do already, they do for others."""
        jobs = {ident: _job_of(frame) for ident, frame in current_frames().items()}
        self._elsewhere = {ident: job for ident, job in jobs.items() if job is not None}

    def let_sleep(self, worker: Worker) -> None:
        """A worker's thread is about to sleep; not if nobody would wake it."""
        with self._lock:
            worker.look = _Look()
            lost = self.over or worker not in self._workers
            worker.wake_at = None if lost else worker.until
            worker.runnable = lost
        if lost:
            worker.ring()
        self.changed()

    def rouse(self, worker: Worker) -> None:
        """Somebody wakes a parked worker: end its sleep, if it has a limit. From any thread."""
        with self._lock:
            worker.look = _Look()
            asleep, worker.wake_at = worker.wake_at is not None, None
            worker.roused = worker.runnable = True
        if asleep:
            worker.ring()
        self.changed()

    def changed(self) -> None:
        """Something is different: look again. From any thread."""
        self.turns += 1
        self.look()

    def look(self) -> None:
        """Wake the loop, if it naps or rests. From any thread."""
        if self._bell.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._bell.release()
        if self._waiting:
            self.poke()

    def calls(self) -> list[tuple[str, float]]:
        """The handler's methods that threads are in now, and since when (virtual seconds)."""
        with self._lock:
            working = [worker for worker in self._workers if worker.own is None]
            return [(worker.method, worker.entered) for worker in working if worker.method is not None]

    def next_alarm(self) -> float:
        """When the next sleeping worker, or the next timeout inside a handler, is due in virtual time; inf if none."""
        with self._lock:
            moments = [worker.wake_at for worker in self._workers if worker.wake_at is not None]
            moments += [worker.look.deadline for worker in self._workers if worker.runnable]
            rings = [worker.rings for worker in self._workers if worker.rings is not None]
        now = self.now()
        moments += [at for at, condition in rings if at > now or not _is_locked(vars(condition)["_lock"])]
        return min(moments, default=math.inf)

    def wake(self, now: float) -> bool:
        """Wake the workers whose sleep is over; whether there were any."""
        with self._lock:
            due = [worker for worker in self._workers if worker.wake_at is not None and worker.wake_at <= now + 1e-9]
            for worker in due:
                worker.wake_at = None
            ringing = [worker for worker in self._workers if (rings := worker.rings) and rings[0] <= now + 1e-9]
        for worker in due:
            worker.ring()
        rung = [worker.ring_in_condition() for worker in ringing]
        return bool(due) or any(rung)

    def end(self) -> None:
        """The loop has ended, and its time with it: wake all that sleep, and let nobody sleep in it any more."""
        self.over = True
        self.wake(math.inf)

    def judge(self) -> ThreadsAllow:
        """What the threads allow now; `seen` then differs from before if any of them has run since.

        Called in the loop's thread, when the loop has nothing to do.
        """
        self._waiting = False
        self._bell.acquire(blocking=False)
        self._ours = self._ours or (1 if threading.current_thread() is threading.main_thread() else 2)
        if not self._workers and not self._others and threading.active_count() <= self._ours:  # nobody else is here
            self._foreign_seen, self.seen = 0, (self.turns, [], [])
            return ThreadsAllow.FREE
        real = time.monotonic()
        turns = self.turns
        running: list[Worker] = []
        known: set[int | None] = {threading.get_ident(), threading.main_thread().ident}
        with self._lock:
            ended = [one for one in self._workers if one.own is not None and not one.own.is_alive()]
            self._workers.difference_update(ended)
            for worker in self._workers:
                known.add(worker.ident)
                if worker.runnable:
                    if worker.method is None:  # between two calls: no need to look any closer
                        return ThreadsAllow.STANDS
                    running.append(worker)
        frames = current_frames()
        if (
            not self._others
            and threading.active_count() == len(frames)
            and not self.foreign()
            and all(self._is_idle(ident, frames[ident]) for ident in frames.keys() - known)
        ):
            verdict, self._foreign_seen = ThreadsAllow.FREE, 0  # nobody else is at work, or is just being started
        else:
            verdict = self._judge_others(frames, known, real)
        for worker in running:
            judge = self._judge_one if worker.own is None else self._judge_own
            match judge(worker, frames, real):
                case ThreadsAllow.STANDS:
                    verdict = ThreadsAllow.STANDS
                case ThreadsAllow.REAL_PACE if verdict is ThreadsAllow.FREE:
                    verdict = ThreadsAllow.REAL_PACE
                case _:
                    pass
        heeded = [worker.look.cpu for worker in running if worker.given_up != (worker.method, worker.called)]
        self.seen = (turns, heeded, [look.cpu for look in self._others.values() if not look.given_up])
        return verdict

    def glance(self) -> object:
        """The `seen` of the next `judge`, if no thread runs until then; None if there are threads of others."""
        if self._others:
            return None
        turns = self.turns
        with self._lock:
            running = [worker for worker in self._workers if worker.runnable]
        heeded = [worker for worker in running if worker.given_up != (worker.method, worker.called)]
        return turns, [_cpu_time(worker.native_id) for worker in heeded], []

    def nap(self, seconds: float) -> None:
        """Let the threads run: block for `seconds` of real time, or until something changes."""
        self._bell.acquire(timeout=seconds)

    def rest(self) -> None:
        """The loop will now wait for something from outside: a change must wake it."""
        self._waiting = True
        if not self._bell.locked():
            self.poke()

    def _is_idle(self, ident: int, frame: FrameType) -> bool:
        """Whether it is a thread of trio's without a job, which has been seen before. Trio keeps many of them."""
        before = self._idle.get(ident)
        return before is not None and before[0] is frame and before[1]._job is None

    def _judge_others(self, frames: dict[int, FrameType], known: set[int | None], real: float) -> ThreadsAllow:
        """What all other threads allow: those not `known`, which are our workers, the loop's, and the main one, which
        waits for us.
        """
        computes, jobs, waiting = False, 0, 0
        looks: dict[int, _Look] = {}
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is None:  # just being started
                computes = True
                continue
            frame = frames.get(ident)
            if frame is None or ident in known:
                continue
            match _pool_job(frame):
                case True:
                    if ident in self._elsewhere and self._elsewhere[ident] is _job_of(frame):
                        continue
                    jobs += 1
                    waiting += _waits_for_others(frame, frames)
                case False:
                    if frame.f_code.co_qualname == "WorkerThread._work" and _is_trios(frame):
                        self._idle[ident] = frame, frame.f_locals["self"]
                    continue
                case None:
                    pass
            native_id = thread.native_id or 0
            look = looks[ident] = self._others.get(ident) or _Look(cpu=_cpu_time(native_id))
            computes = self._computes(look, native_id) or computes
        self._others = looks
        # Those that were handed to a pool and have not begun count, too.
        n = jobs - waiting + max(0, self.foreign() - jobs - self._sleepers)
        if n != self._foreign_seen:
            self._foreign_seen, self._foreign_since = n, real
        at_work = n and real - self._foreign_since < self.patience
        return ThreadsAllow.STANDS if computes or at_work else ThreadsAllow.FREE

    def _computes(self, look: _Look, native_id: int) -> bool:
        """Whether a thread that nobody told of has to be waited for: it runs, and has not for too long."""
        cpu = _cpu_time(native_id)
        moved, look.cpu = cpu != look.cpu, cpu
        if not moved and not wants_a_processor(native_id):
            look.since, look.given_up = 0.0, False
            return False
        if not look.since:
            look.since = cpu
        look.given_up = cpu - look.since > self.patience
        return not look.given_up

    def _judge_one(self, worker: Worker, frames: dict[int, FrameType], real: float) -> ThreadsAllow:
        frame, call = frames.get(worker.ident), (worker.method, worker.called)
        if worker.method is None or frame is None:  # between two calls, or about to begin: it will not be long
            return ThreadsAllow.STANDS
        look = worker.look
        waiter, timeout = _condition_wait(frame)
        where = ("wait", id(waiter)) if waiter is not None else (id(frame), frame.f_lasti)
        cpu = _cpu_time(worker.native_id)
        same_place, moved = where == look.where, cpu != look.cpu
        look.cpu = cpu
        if not same_place:
            look.where, look.since, look.began = where, real, self.now()
            look.deadline = math.inf if timeout is None else self.now() + timeout
        if waiter is not None:
            if same_place and moved:  # it was woken, and is about to go on
                return ThreadsAllow.STANDS
            worker.cpu_before = cpu
            if self.now() < look.deadline - 1e-9:
                return ThreadsAllow.FREE
            # Its timeout is over in virtual time; let it notice in real time.
            return ThreadsAllow.STANDS if real - look.since < (timeout or 0.0) + self.patience else ThreadsAllow.FREE
        before = worker.cpu_before  # which the thread itself unsets at any moment
        if before is None:
            before = worker.cpu_before = cpu
        if moved:
            look.since = real
        elif same_place and self._joins_a_sleeper(frame):
            return ThreadsAllow.FREE
        if real - look.since < STILL or wants_a_processor(worker.native_id):
            if cpu - before < self.patience:
                return ThreadsAllow.STANDS
            return self._give_up(worker, call, "computing", real - worker.called)
        if doing := _endless(frame, frames):
            waited = self.now() - look.began
            if waited >= LOCKED and (doing == A_THREAD or self._another_waits(worker, frames)):
                return self._give_up(worker, call, doing, waited)
            return ThreadsAllow.FREE
        if real - look.since < self.patience:
            return ThreadsAllow.REAL_PACE
        return self._give_up(worker, call, "waiting", real - worker.called)

    def _judge_own(self, worker: Worker, frames: dict[int, FrameType], real: float) -> ThreadsAllow:
        """What a thread allows that the handler has started: it is waited for while it computes."""
        frame, look = frames.get(worker.ident), worker.look
        if frame is None:  # it has just ended
            return ThreadsAllow.FREE
        waiter = _condition_wait(frame)[0]
        where, cpu = (id(waiter), 0) if waiter is not None else (id(frame), frame.f_lasti), _cpu_time(worker.native_id)
        if look.where is None or worker.cpu_before is None or waiter is not None:
            worker.cpu_before = cpu
        moved, look.cpu = cpu != look.cpu, cpu
        if where != look.where:
            look.where, look.since = where, real
        elif moved:
            look.since = real
            if waiter is not None:  # it was woken, and is about to go on
                return ThreadsAllow.STANDS
        if waiter is not None or cpu - worker.cpu_before > self.patience:
            return ThreadsAllow.FREE
        if real - look.since < STILL or wants_a_processor(worker.native_id):
            return ThreadsAllow.STANDS
        # On a busy machine it may only wait for its turn. A method that waits for its end is not given up meanwhile.
        joined = any(_joined(other) is worker.own for other in self._methods_beside(worker, frames))
        return ThreadsAllow.REAL_PACE if joined and real - look.since < self.patience else ThreadsAllow.FREE

    def _joins_a_sleeper(self, frame: FrameType) -> bool:
        """Whether a thread waits for the end of another one, which sleeps in virtual time."""
        joined = _joined(frame)
        with self._lock:
            return joined is not None and any(one.own is joined and not one.runnable for one in self._workers)

    def _another_waits(self, worker: Worker, frames: dict[int, FrameType]) -> bool:
        """Whether another method waits, too: it may keep the lock. A lock may also stand for an event, which comes."""
        return any(_waits_for_others(frame, frames) for frame in self._methods_beside(worker, frames))

    def _methods_beside(self, worker: Worker, frames: dict[int, FrameType]) -> list[FrameType]:
        """Where the other threads are that are in a method."""
        with self._lock:
            others = [one.ident for one in self._workers if one is not worker and one.method is not None]
        return [frames[ident] for ident in others if ident in frames]

    def _give_up(self, worker: Worker, call: tuple[str | None, float], doing: str, seconds: float) -> ThreadsAllow:
        if call != (worker.method, worker.called):  # it has returned while it was looked at
            return ThreadsAllow.STANDS
        if worker.given_up != call:
            worker.given_up = call
            stuck = Stuck(call[0] or worker.name, doing, seconds)
            self.stuck.append(stuck)
            logger.warning("%s; virtual time goes on without it", stuck)
        return ThreadsAllow.FREE


def _condition_wait(frame: FrameType) -> tuple[object, float | None]:
    """The lock and the timeout with which `frame` waits in `threading.Condition.wait`, or ``(None, None)``.

    A thread that was notified does not wait any more.
    """
    if frame.f_code is not threading.Condition.wait.__code__:
        return None, None
    names = frame.f_locals
    waiter, condition = names.get("waiter"), names.get("self")
    if waiter is None or condition is None or not waiter.locked() or waiter not in condition._waiters:
        return None, None
    return waiter, names.get("timeout")


def _endless(frame: FrameType, frames: dict[int, FrameType]) -> str | None:
    """What a thread waits for in C that only another thread can end, if that one does not look as if it would."""
    if _waits_for_a_lock(frame):
        return A_LOCK
    thread = _joined(frame)
    other = None if thread is None else frames.get(thread.ident or 0)
    return A_THREAD if other is not None and _waits_for_others(other, frames) else None


def _joined(frame: FrameType) -> threading.Thread | None:
    """The thread for whose end `frame` waits without a timeout."""
    if frame.f_code not in _JOINS or frame.f_locals.get("timeout") not in {None, -1}:
        return None
    thread = frame.f_locals["self"]
    return thread if isinstance(thread, threading.Thread) else None


def _waits_for_others(frame: FrameType, frames: dict[int, FrameType]) -> bool:
    """Whether a thread waits, without a timeout, for what another thread does."""
    waiter, timeout = _condition_wait(frame)
    return (waiter is not None and timeout is None) or _endless(frame, frames) is not None


# From 3.13 on, `join` itself waits.
_joins: Any = getattr(threading.Thread, "_wait_for_tstate_lock", threading.Thread.join)
_JOINS: Final = {_joins.__code__, threading.Thread.join.__code__}


def _waits_for_a_lock(frame: FrameType) -> bool:
    """Whether the line at which `frame` waits in C acquires a lock without a timeout, and that lock is locked."""
    if frame.f_code in _ENTERS and _condition_wait(frame)[0] is None:
        return _is_locked(vars(frame.f_locals["self"]).get("_lock"))
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    if not _ACQUIRES.search(line) or "timeout" in line:
        return False
    return any(_is_locked(_named(path, frame)) for path in _PATHS.findall(line))


_ENTERS: Final = {threading.Condition.__enter__.__code__, threading.Condition.wait.__code__}  # that takes it again
_ACQUIRES: Final = re.compile(r"\bwith\b|\.acquire\(")
_PATHS: Final = re.compile(r"[A-Za-z_][\w.]*")


def _named(path: str, frame: FrameType) -> object:
    """What a dotted name stands for in a frame, as far as that can be found out without running any code."""
    first, *names = path.removesuffix(".acquire").split(".")
    found = frame.f_locals.get(first, frame.f_globals.get(first))
    for name in names:
        found = inspect.getattr_static(found, name, None)
    return found


def _is_locked(lock: object) -> bool:
    return isinstance(lock, _LOCKS) and repr(lock).startswith("<locked")  # an RLock has no `locked` before 3.14


_LOCKS: Final = type(threading.Lock()), type(threading.RLock())


def in_a_pool() -> bool:
    """Whether this thread does a job of a pool."""
    return _pool_job(sys._getframe(1)) is True


def _pool_job(frame: FrameType) -> bool | None:
    """Whether a thread of a pool (trio's, anyio's, an executor's) has a job; None for a thread of another kind.

    An executor's thread without one is of another kind: what wakes it for its next job cannot be seen elsewhere.
    """
    outer: FrameType | None = frame
    while outer is not None:
        match outer.f_code.co_qualname:
            case "_WorkItem.run":
                return True
            case "_in_thread" if outer.f_globals.get("__name__") == "rtcflow._core.threads":
                return True
            case "WorkerThread._handle_job" if _is_trios(outer):
                return True
            case "WorkerThread._work" if _is_trios(outer):
                return outer.f_locals["self"]._job is not None  # about to begin
            case "WorkerThread.run" if outer.f_globals.get("__name__") == "anyio._backends._asyncio":
                return bool(outer.f_locals["self"].queue.unfinished_tasks)
            case _:
                outer = outer.f_back
    return None


def _job_of(frame: FrameType) -> FrameType | None:
    """The call by which a thread of a pool does the job that it has now; None for a thread of another kind."""
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_qualname not in {
        "_WorkItem.run",
        "_in_thread",
        "WorkerThread._handle_job",
    }:
        outer = outer.f_back
    return outer


def _is_trios(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "trio._core._thread_cache"


def waits_for_a_job(thread: threading.Thread) -> bool:
    """Whether it belongs to a `ThreadPoolExecutor`, and has nothing to do. It ends with its pool, which may be that of
    all calls.
    """
    frame = current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code not in _JOBS:
        frame = frame.f_back
    return frame is not None and frame.f_code is _JOBS[0]


_executors: Any = executors
_JOBS: Final = _executors._worker.__code__, _executors._WorkItem.run.__code__


def _cpu_time(native_id: int) -> float:
    """CPU seconds a thread has used; 0 if it has ended, or where the system does not tell (macOS, Windows).

    The number of a thread's clock is made of the thread's number, see clock_getcpuclockid(3). To ask
    `time.pthread_getcpuclockid` for a thread that has ended is to read memory that was freed.
    """
    if sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime((~native_id << 3) | 6)
    except OSError:
        return 0.0


def wants_a_processor(native_id: int) -> bool:
    """Whether a thread waits only for a processor; False where the system does not tell. See proc(5)."""
    try:
        status = Path(f"/proc/self/task/{native_id}/stat").read_bytes()
    except OSError:
        return False
    return status[status.rindex(b")") + 2 :][:1] == b"R"


def watching(workers: Workers, context: contextvars.Context) -> None:
    """Have connections that run in `context` tell `workers` of their threads."""
    from .._core.threads import observer

    if context.get(observer) is not workers:
        context.run(observer.set, workers)
