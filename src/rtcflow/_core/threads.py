"""The worker threads of sync handlers: counted, shared with nobody, and always freed.

A sync handler has one long-lived worker thread per direction, not a thread hop per frame. For the code in it, the
thread behaves like one of `anyio.to_thread.run_sync` (see `run_sync` below). Three things can go wrong with threads:

- *There are too few.* Frameworks that borrow the default executor freeze when a handful of handlers block in
  `queue.get()`. Ours have their own budget (`WorkerThreads.limit`). A connection that does not fit is refused, and a
  live connection never waits for a thread.
- *One does not come back.* Python cannot kill a thread. When a connection ends, its threads are stopped in steps. The
  handler is told (`handler.ended`), and no further call begins. The handler's `shutdown()` may release what blocks.
  After a grace, a thread that waits for ever is interrupted (below). A thread that still runs then is abandoned,
  counted, and logged with the method's name.
- *One waits for ever.* The usual sync echo sits in `queue.get()` when its caller hangs up. Nothing will ever be put
  there again, so `WaitInterrupted` is raised out of that wait. That happens once per end, and only in a wait that can
  be interrupted safely (the module `interrupt` says how). A thread that computes, sleeps or waits elsewhere is never
  interrupted. An exception between two of its instructions could leave a lock locked for the whole process.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..exceptions import TooManyConnections
from .bridge import Event, WorkerMark, current_worker
from .interrupt import interrupt
from .lock_watch import LockWatch, Repeats, WatchedThread

try:
    import sniffio
except ImportError:  # then nobody asks it which backend runs
    sniffio = cast("Any", None)

T = TypeVar("T")
logger: logging.Logger = logging.getLogger(__name__)

SETTLE = 0.1
"""Seconds that calls under way get to return by themselves before `shutdown()` is called beside them."""

INTERRUPT_GRACE = 0.5
"""Seconds after the grace in which threads that wait without a limit are found and interrupted, and in which they
unwind."""

LOOKS = 5
"""How often they are looked for in that time. A thread that computes now may wait a moment later."""


class WaitInterrupted(BaseException):
    """Raised out of a wait of a handler's method that would never end, because its connection has ended.

    Such a wait is `queue.Queue.get` or `put`, `threading.Event.wait`, `Condition.wait`, `Semaphore.acquire` or
    `concurrent.futures.Future.result` without a timeout, or a wait of rtcflow's own (`Event.wait_sync`). It is raised
    at most once per end, and never in an ``except`` or ``finally`` block. It is not an `Exception`, so a handler's own
    ``except Exception`` does not stop it. Let it pass; code after a caught one runs on until it is abandoned.
    """


class _CrewStopped(Exception):
    """The crew was stopped: ends a worker's loop, never seen outside this module."""


class WatchedWorker(WorkerMark, Protocol):
    """One worker thread, as an observer sees it. It can run from the moment it was made until `parked`."""

    def calling(self, method: str | None) -> None:
        """The thread enters the handler's `method`, or (None) has left it."""

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds` in the observer's time."""

    def finished(self) -> None:
        """The thread's work is done, or never began. Called at least once, from that thread or the loop's."""


class Observer(Protocol):
    """Is told when worker threads can run, so that virtual time does not run ahead of them."""

    def worker(self, name: str) -> WatchedWorker:
        """A worker thread is about to be started; called in the loop's thread."""


observer: contextvars.ContextVar[Observer | None] = contextvars.ContextVar("rtcflow_observer", default=None)
"""Set by `rtcflow.testing` around a connection in virtual time; None in production."""


@dataclass(frozen=True, slots=True)
class ThreadStatistics:
    """How many worker threads are in use, and how many were given up.

    Attributes:
        reserved: Threads that live connections have reserved.
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
            TooManyConnections: Fewer than `n` are left. Nothing was claimed.
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


async def run_sync(function: Callable[[], T], *, name: str, limiter: anyio.CapacityLimiter) -> T:
    """Run `function` in a worker thread: ``anyio.to_thread.run_sync(function, abandon_on_cancel=True, ...)`` in effect.

    The thread has a name, and does not keep the process from ending. anyio's own thread under asyncio does keep it from
    ending (trio's does not), so it is not used here. For the code in it the thread behaves the same.
    `anyio.from_thread.run` and `run_sync` need no token. `check_cancelled` raises once the caller was cancelled.
    Context variables are the caller's.

    Args:
        function: What to run.
        name: Of the thread, while it runs.
        limiter: Of which it holds a token until it returns or is abandoned.

    Raises:
        BaseException: What `function` raises, as it is.
    """
    token = anyio.lowlevel.current_token()
    loop: Any = token.native_token
    if hasattr(loop, "run_sync_soon"):  # trio's
        return await anyio.to_thread.run_sync(partial(_named, name, function), abandon_on_cancel=True, limiter=limiter)
    await anyio.lowlevel.checkpoint()
    context = contextvars.copy_context()
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    future = loop.create_future()
    scope = anyio.CancelScope()
    async with limiter:
        try:
            with scope:
                target = partial(_in_thread, token, scope, future, partial(context.run, function))
                threading.Thread(target=contextvars.Context().run, args=(target,), name=name, daemon=True).start()
                result = await future
        except BaseException:
            scope.cancel()  # for `check_cancelled` in the thread, whatever has cancelled this
            raise
    return cast("T", result)


def _in_thread(token: Any, scope: anyio.CancelScope, future: Any, function: Callable[[], object]) -> None:
    """What anyio's own worker thread under asyncio does for one function."""
    import anyio.from_thread

    local: Any = anyio.from_thread.threadlocals  # type: ignore[attr-defined]
    local.current_token, local.current_cancel_scope = token, scope
    result: object = None
    error: BaseException | None = None
    try:
        result = function()
    except StopIteration as stop:  # a future cannot carry it
        error = RuntimeError("coroutine raised StopIteration")
        error.__cause__ = stop
    except BaseException as raised:  # noqa: BLE001  it is raised again where it is awaited
        error = raised
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        token.native_token.call_soon_threadsafe(_report, future, result, error)


def _report(future: Any, result: object, error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _named(name: str, function: Callable[[], T]) -> T:
    thread = threading.current_thread()
    before, thread.name = thread.name, name
    try:
        return function()
    finally:
        thread.name = before


class _Job:
    """One thread at work for one connection."""

    def __init__(self, name: str, *, last: bool) -> None:
        self.name = name
        self.last = last
        watcher = observer.get()
        self.watched = None if watcher is None else watcher.worker(name)
        self.ident = 0
        self.calling: str | None = None  # the handler's method this thread is in
        self.interrupted = False  # it is once, at most
        self.over = False  # the thread is through
        self.left = False  # the task that waited for it has gone
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = Event()


class Crew:
    """The worker threads of one connection.

    Args:
        threads: Where abandoned threads are counted.
        repeat: Of the connection, to watch for threads that hold the interpreter's lock; None: nobody does.
    """

    def __init__(self, threads: WorkerThreads, repeat: Repeats | None = None) -> None:
        self._threads = threads
        self._watch = None if repeat is None else LockWatch(repeat)
        self._limiter = anyio.CapacityLimiter(math.inf)  # the budget is WorkerThreads'; this never waits
        self._lock = threading.Lock()
        self._jobs: set[_Job] = set()
        self._stopping = False
        self._stopped = Event()
        self._local = threading.local()

    async def run(self, name: str, function: Callable[[], T], *, last: bool = False) -> T | None:
        """Run `function` in a worker thread until it returns.

        Inside, calls of the handler go through `call`. Cancelling this leaves the thread to `join`, which must be
        awaited before the connection is done.

        Args:
            name: Of the thread, and in the log.
            function: What to run.
            last: It may call the handler even after the crew was stopped, as `shutdown()` must.

        Returns:
            What it returns; None if the crew was stopped meanwhile.

        Raises:
            BaseException: What it raises, as it is.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        job = _Job(name, last=last)
        with self._lock:
            self._jobs.add(job)
        # In virtual time no lateness means anything.
        watch = None if last or self._stopping or job.watched is not None else self._watch
        thread = None if watch is None else watch.enter(name)
        over = True
        try:
            await run_sync(partial(self._work, job, function, thread), name=name, limiter=self._limiter)
        except BaseException:
            over = self._leave(job)
            raise
        finally:
            if watch is not None and thread is not None:
                watch.leave(thread)
            # Only now, because the thread's result must have arrived here. A thread that is left behind does it in
            # _end.
            if job.watched is not None and over:
                job.watched.finished()
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # or error, traceback and job would hold one another
        return cast("T", job.result)

    async def convert(self, function: Callable[[], T], *, quick: bool) -> T:
        """Run one of rtcflow's own conversions, which are short and never block, in a thread of the backend's pool.

        A thread of its own would cost more than the conversion. One that is `quick` costs less than any thread, and is
        run here. A checkpoint in both cases.
        """
        if quick:
            await anyio.lowlevel.checkpoint()
            return function()
        job = None if (watcher := observer.get()) is None else watcher.worker("a conversion")
        try:
            return await anyio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            if job is not None:
                job.finished()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a handler's method from its worker thread.

        Raises:
            BaseException: What it raises, as it is.
        """
        job: _Job = self._local.job
        name = getattr(function, "__qualname__", job.name)
        with self._lock:
            if self._stopping and not job.last:
                raise _CrewStopped
            job.calling = name
        try:
            if job.watched is not None:
                job.watched.calling(name)
            return function(*args)
        finally:
            job.calling = None
            if job.watched is not None:
                job.watched.calling(None)

    def sleep(self, seconds: float) -> None:
        """Block this worker thread for `seconds`, or until the crew is stopped."""
        job: _Job = self._local.job
        if job.watched is None or self._stopped.is_set():
            self._stopped.wait_sync(seconds)
        else:  # in virtual time, which ends with the call: a thread that returns later finds the crew stopped
            job.watched.sleep(seconds)

    def _work(self, job: _Job, function: Callable[[], T], thread: WatchedThread | None) -> None:
        with self._lock:
            if job.left:  # before it began
                return
            job.ident = threading.get_ident()
        self._local.job = job
        current_worker.set(job.watched)  # in this thread's own copy of the context
        if thread is not None:
            thread.begin()
        try:
            job.result = function()
        except (_CrewStopped, WaitInterrupted) as error:
            if not self._stopping:
                job.error = error  # a handler raised it by itself
        except BaseException as error:  # noqa: BLE001  it is raised again where this thread is awaited
            job.error = error
        finally:
            if thread is not None:
                thread.end()
            self._end(job)

    def _end(self, job: _Job) -> None:
        """The job is over: wake the task that waits for it."""
        with self._lock:
            self._jobs.discard(job)
            job.over, left = True, job.left
        if left:
            self._tell(job)
        job.done.set()
        if job.watched is not None and left:  # a thread that was left is watched to its very end
            job.watched.finished()

    def _leave(self, job: _Job) -> bool:
        """Nobody waits for the job any more. Returns whether its thread has ended, or will do nothing."""
        with self._lock:
            job.left, over = True, job.over
            if not job.ident:
                self._jobs.discard(job)
        if over:
            self._tell(job)
        elif not job.ident:
            job.done.set()
            over = True
        return over

    def _tell(self, job: _Job) -> None:
        """Log the error of a job: the task that waited for it has gone, so nobody else would see it."""
        error, job.error = job.error, None
        # shutdown() closes things, and so wakes threads that wait for them. That is intended.
        if error is not None and not isinstance(error, anyio.ClosedResourceError):
            logger.error("%s raised while its connection was ending", job.name, exc_info=error)

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
        """Wait until no thread of the crew runs, for at most `seconds`. Returns whether none runs."""
        with self._lock:
            jobs = list(self._jobs)
        with anyio.move_on_after(seconds):
            for job in jobs:
                await job.done.wait()
            return True
        return False

    async def join(self, grace: float) -> list[str]:
        """Wait `grace` seconds for every thread to end, then interrupt those that wait without a limit, then give up.

        Returns:
            The methods whose threads were abandoned.
        """
        if await self.settle(grace):
            return []
        for _ in range(LOOKS):
            self._interrupt()
            if await self.settle(INTERRUPT_GRACE / LOOKS):
                return []
        with self._lock:
            lost = [job.calling or job.name for job in self._jobs]
        for name in lost:
            self._threads.abandon()
            logger.error(
                "%s did not return when its connection ended: its thread was abandoned. Have it look at self.running "
                "or wait for self.ended, or have shutdown() release what it waits for.",
                name,
            )
        return lost

    def _interrupt(self) -> None:
        with self._lock:
            jobs = [job for job in self._jobs if job.calling is not None and not job.interrupted]
        for job in jobs:
            job.interrupted = interrupt(job.ident, Crew.call.__code__, WaitInterrupted)
