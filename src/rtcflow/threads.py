"""The worker threads that sync handlers run in: counted, never shared with anybody else's work, and got back.

A sync handler has one long-lived worker thread per direction, not a thread hop per frame. Three things can go wrong
with threads, and each is answered here:

- *Too few.* Frameworks that borrow the default executor freeze when a handful of handlers block in `queue.get()`.
  Ours have their own budget (`WorkerThreads.limit`): a connection that would not fit is refused, one that is live
  never waits for a thread.
- *One that does not come back.* Python cannot kill a thread. When a connection ends, its crew is stopped in steps:
  no further call is begun; the handler's `shutdown()` may release what blocks; after a grace the thread is
  interrupted (below); what still runs then is abandoned, counted and logged with the method's name.
- *One that waits for ever.* The usual sync echo sits in `queue.get()` when its caller hangs up. Nothing will ever be
  put there again, so it is interrupted: CPython's `PyThreadState_SetAsyncExc` raises `Interrupted` in that thread at
  its next bytecode, and a thread that waits in `threading.Condition.wait` (which is where `queue.Queue.get`,
  `threading.Event.wait` and `concurrent.futures.Future.result` wait), or in this package's own `Event` and queues, is
  woken by releasing the lock it waits for.
  Only calls into a handler are interrupted, only after its connection ended, its `shutdown()` returned and the grace
  passed. C code that never returns is beyond reach: that thread is the one that is abandoned.
"""

from __future__ import annotations

import contextvars
import ctypes
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread

from ._bridge import Event, ParkingLot, WorkerMark, current_worker
from .exceptions import TooManyConnections

T = TypeVar("T")
logger = logging.getLogger(__name__)

SETTLE = 0.1
"""Seconds that calls under way get to return by themselves before `shutdown()` is called beside them."""

INTERRUPT_GRACE = 0.5
"""Seconds an interrupted thread gets to unwind before it is given up."""

INTERRUPTS = 5
"""How often in that time it is interrupted: one that is woken a moment before its exception is due may have gone back
to waiting when that is set."""


class Interrupted(BaseException):
    """Raised inside a handler's method whose connection has long ended and which would block for ever.

    Not an `Exception`, so that a handler's own ``except Exception`` does not keep the thread. Do not catch it.
    """


class _Stopped(Exception):
    """The crew was stopped: ends a worker's loop, never seen outside this module."""


class WatchedWorker(WorkerMark, Protocol):
    """One worker thread, as an observer sees it; able to run from its making until `parked`."""

    def calling(self, method: str | None) -> None:
        """The thread enters the handler's `method`, or (None) has left it."""

    def sleep(self, seconds: float) -> None:
        """Block this thread for so long in the observer's time."""

    def finished(self) -> None:
        """The thread's work is done, or never began; called at least once, from that thread or the loop's."""


class Observer(Protocol):
    """Wants to know when worker threads can run, so that virtual time does not run ahead of them."""

    def worker(self, name: str) -> WatchedWorker:
        """A worker thread is about to be started; called in the loop's thread."""


observer: contextvars.ContextVar[Observer | None] = contextvars.ContextVar("rtcflow_observer", default=None)
"""Set by `rtcflow.testing` around a connection in virtual time; None in production."""


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """Attributes:
    reserved: Threads that live connections have a claim on.
    limit: The most that may be reserved, or None.
    abandoned: Threads given up since the beginning, because a handler's method never returned.
    """

    reserved: int
    limit: int | None
    abandoned: int


class WorkerThreads:
    """The thread budget that the connections of one `Stream` share.

    Args:
        limit: The most threads that connections may hold at once; None for no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._reserved = self._abandoned = 0

    def reserve(self, n: int) -> None:
        """Claim `n` threads for one connection; give them back with `release`.

        Raises:
            TooManyConnections: They are not there; nothing was claimed.
        """
        with self._lock:
            if self.limit is not None and self._reserved + n > self.limit:
                raise TooManyConnections(
                    self.limit,
                    f"this handler needs {n} worker threads and {self._reserved} of {self.limit} are in use; "
                    "try again later",
                )
            self._reserved += n

    def release(self, n: int) -> None:
        """Give back what `reserve` claimed."""
        with self._lock:
            self._reserved -= n

    def abandon(self) -> None:
        """Count a thread that was given up."""
        with self._lock:
            self._abandoned += 1

    def statistics(self) -> ThreadStatistics:
        """The figures now."""
        with self._lock:
            return ThreadStatistics(self._reserved, self.limit, self._abandoned)


class _Job:
    """One thread at work for one connection."""

    def __init__(self, name: str) -> None:
        self.name = name
        watcher = observer.get()
        self.watched = None if watcher is None else watcher.worker(name)
        self.ident = 0
        self.calling: str | None = None  # the handler's method this thread is in
        self.interrupted = False
        self.left = False  # whoever waited for it has gone
        self.done = Event()


class Crew:
    """The worker threads of one connection.

    Args:
        threads: Where abandoned threads are counted.
    """

    def __init__(self, threads: WorkerThreads) -> None:
        self._threads = threads
        self._limiter = anyio.CapacityLimiter(math.inf)  # the budget is WorkerThreads'; this never waits
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        self._stopping = False
        self._stopped = Event()
        self._local = threading.local()

    async def run(self, name: str, function: Callable[[], T]) -> T | None:
        """Run `function` in a worker thread until it returns.

        Inside, calls of the handler go through `call`. Cancelling this leaves the thread to `join`, which must be
        awaited before the connection is done.

        Returns:
            What it returns; None if the crew was stopped meanwhile.

        Raises:
            BaseException: What it raises, as it is.
        """
        job = _Job(name)
        try:
            return await anyio.to_thread.run_sync(
                partial(self._work, job, function), abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            job.left = True
            # Not before what the thread brought has arrived here; see also _work, for a thread that is left behind.
            if job.watched is not None and (job.done.is_set() or not job.ident):
                job.watched.finished()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a handler's method from its worker thread.

        Raises:
            BaseException: What it raises, as it is.
        """
        job: _Job = self._local.job
        name = getattr(function, "__qualname__", job.name)
        with self._lock:
            if self._stopping:
                raise _Stopped
            job.calling = name
        try:
            if job.watched is not None:
                job.watched.calling(name)
            return function(*args)
        finally:
            with self._lock:
                job.calling = None
                if job.interrupted:
                    _take_back_async_exception(job.ident)
            if job.watched is not None:
                job.watched.calling(None)

    def sleep(self, seconds: float) -> None:
        """Block this worker thread for `seconds`, or until the crew is stopped."""
        job: _Job = self._local.job
        if job.watched is not None:
            job.watched.sleep(seconds)
        else:
            self._stopped.wait_sync(seconds)

    def _work(self, job: _Job, function: Callable[[], T]) -> T | None:
        with self._lock:
            job.ident = threading.get_ident()
            self._jobs.add(job)
        self._local.job = job
        current_worker.set(job.watched)  # in this thread's own copy of the context
        try:
            return function()
        except (_Stopped, Interrupted):
            return None
        except BaseException:
            if job.left:  # supervises: nobody waits for this thread any more, so its error is told here
                logger.exception("%s raised while its connection was ending", job.name)
                return None
            raise
        finally:
            with self._lock:
                self._jobs.discard(job)
                if job.interrupted:
                    _take_back_async_exception(job.ident)
            job.done.set()
            if job.watched is not None and job.left:  # a thread that was left behind is watched to its very end
                job.watched.finished()

    @property
    def busy(self) -> list[str]:
        """The handler's methods that threads of this crew are in now."""
        with self._lock:
            return [job.calling for job in self._jobs if job.calling is not None]

    def stop(self) -> None:
        """Begin no further call. Calls under way go on."""
        with self._lock:
            self._stopping = True
        self._stopped.set()

    async def settle(self, seconds: float) -> bool:
        """Wait until no thread of the crew runs, but no longer than `seconds`; whether that is so."""
        with self._lock:
            jobs = list(self._jobs)
        with anyio.move_on_after(seconds):
            for job in jobs:
                await job.done.wait()
            return True
        return False

    async def join(self, grace: float) -> list[str]:
        """Get every thread back: wait `grace` seconds, then interrupt, then give up.

        Returns:
            The methods whose threads were abandoned.
        """
        if await self.settle(grace):
            return []
        for _ in range(INTERRUPTS):
            self._interrupt()
            if await self.settle(INTERRUPT_GRACE / INTERRUPTS):
                return []
        with self._lock:
            lost = [job.calling or job.name for job in self._jobs]
            _take_back_async_exception(*(job.ident for job in self._jobs))
        for name in lost:
            self._threads.abandon()
            logger.error(
                "%s did not return when its connection ended: its thread was abandoned. "
                "Have shutdown() release what it waits for.",
                name,
            )
        return lost

    def _interrupt(self) -> None:
        set_async_exception = _set_async_exception()
        if set_async_exception is None:
            return
        with self._lock:
            jobs = [job for job in self._jobs if job.calling is not None]
            for job in jobs:
                job.interrupted = True
                if job.watched is not None:
                    job.watched.resumed()
        traced = sys.gettrace() is not None or threading.gettrace() is not None or any(job.watched for job in jobs)
        threads, interrupted = [ctypes.c_ulong(job.ident) for job in jobs], ctypes.py_object(Interrupted)
        _pending.update(job.ident for job in jobs)
        if traced:  # else after it, which is safer: a thread that is woken too early waits again
            for job in jobs:
                _wake_from_condition(job.ident)
        for thread in threads:
            set_async_exception(thread, interrupted)
        if not traced:
            for job in jobs:
                _wake_from_condition(job.ident)
            return
        # Where threads are traced, the flag that is up now must come down before any Python function is entered: see
        # _take_back_async_exception. Those that can be interrupted are, within a moment.
        pending = True
        for _ in range(100):
            time.sleep(0.001)
            pending = False
            for job in jobs:
                if job.calling is not None:
                    pending = True
                    break
            if not pending:
                break
        if pending:
            try:
                set_async_exception(ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Quiet))
                for _ in range(1_000_000):
                    pass
            except _Quiet:
                return


def _set_async_exception() -> Any:
    """``PyThreadState_SetAsyncExc`` of the Python/C API: has an exception raised in a thread at its next bytecode.

    None where there is no such thing (not CPython); there the thread is abandoned.
    """
    api = getattr(ctypes, "pythonapi", None)
    return None if api is None else api.PyThreadState_SetAsyncExc


class _Quiet(BaseException):
    """Raised and caught by `_take_back_async_exception`."""


_pending: Final[set[int]] = set()
"""Threads that were interrupted and have not noticed yet. One set for all, as the interpreter has one flag for all.
Only single operations are done on it, which the GIL makes atomic."""


def _take_back_async_exception(*idents: int) -> None:
    """Take back what was to be raised in those threads, if it was not yet.

    Until an exception is really raised, every `PyThreadState_SetAsyncExc` (with NULL, too) leaves a flag up that all
    threads look at: they go slower, and in CPython 3.11 a thread that is traced (by a debugger, coverage or Hypothesis)
    and enters a Python function goes round and round there until the flag is down. So, unless other threads still have
    to see it, one is raised here; no Python function is entered in between.
    """
    set_async_exception = _set_async_exception()
    if set_async_exception is None:
        return
    own, quiet = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Quiet)
    threads = [ctypes.c_ulong(ident) for ident in idents]
    _pending.difference_update(idents)
    try:
        for thread in threads:
            set_async_exception(thread, None)
        if not _pending:
            set_async_exception(own, quiet)
            for _ in range(1_000_000):  # raised at the first turn
                pass
    except _Quiet:
        return


def _wake_from_condition(ident: int) -> None:
    """Wake that thread if it waits in `threading.Condition.wait`, as by a spurious `notify`, or in a `ParkingLot`."""
    frame: FrameType | None = sys._current_frames().get(ident)
    if frame is None or ParkingLot.wake_frame(frame) or frame.f_code is not threading.Condition.wait.__code__:
        return
    waiter = frame.f_locals.get("waiter")
    if waiter is not None:
        try:
            waiter.release()
        except RuntimeError:  # it was notified in this very moment
            return
