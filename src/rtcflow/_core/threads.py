"""The worker threads that sync handlers run in: counted, never shared with anybody else's work, and got back.

A sync handler has one long-lived worker thread per direction, not a thread hop per frame. They are daemon threads of
our own: one that is lost does not keep the process from ending (those that anyio lends under asyncio would), and none
goes back into a pool of somebody else's. Three things can go wrong with threads, and each is answered here:

- *Too few.* Frameworks that borrow the default executor freeze when a handful of handlers block in `queue.get()`.
  Ours have their own budget (`WorkerThreads.limit`): a connection that would not fit is refused, one that is live
  never waits for a thread.
- *One that does not come back.* Python cannot kill a thread. When a connection ends, its crew is stopped in steps:
  no further call is begun; the handler's `shutdown()` may release what blocks; after a grace the thread is
  interrupted (below); what still runs then is abandoned, counted and logged with the method's name.
- *One that waits for ever.* The usual sync echo sits in `queue.get()` when its caller hangs up. Nothing will ever be
  put there again, so it is interrupted: `Interrupted` is raised in it (`_interrupt` says how).
  Only calls into a handler are interrupted, only after its connection ended, its `shutdown()` returned and the grace
  passed. C code that never returns is beyond reach: that thread is the one that is abandoned.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..exceptions import TooManyConnections
from .bridge import Event, WorkerMark, current_worker
from .interrupt import interrupt, take_back

try:
    import sniffio
except ImportError:  # then nobody asks it which backend runs
    sniffio = cast("Any", None)

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

    def __init__(self, name: str, *, last: bool) -> None:
        self.name = name
        self.last = last
        watcher = observer.get()
        self.watched = None if watcher is None else watcher.worker(name)
        self.ident = 0
        self.calling: str | None = None  # the handler's method this thread is in
        self.interrupted = False
        self.over = False  # the thread is through
        self.left = False  # whoever waited for it has gone
        self.result: Any = None
        self.error: BaseException | None = None
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

    async def run(self, name: str, function: Callable[[], T], *, last: bool = False) -> T | None:
        """Run `function` in a worker thread until it returns.

        Inside, calls of the handler go through `call`. Cancelling this leaves the thread to `join`, which must be
        awaited before the connection is done.

        Args:
            name: What it is called where it is told of.
            function: What to run.
            last: It may call the handler after the crew was stopped, too: `shutdown()`.

        Returns:
            What it returns; None if the crew was stopped meanwhile.

        Raises:
            BaseException: What it raises, as it is.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        job = _Job(name, last=last)
        context = contextvars.copy_context()
        if sniffio is not None:
            context.run(sniffio.current_async_library_cvar.set, None)
        thread = threading.Thread(
            target=context.run, args=(self._work, job, function), name=f"rtcflow {name}", daemon=True
        )
        with self._lock:
            self._jobs.add(job)
        try:
            thread.start()
        except BaseException:
            self._end(job)
            raise
        over = True
        try:
            await job.done.wait()
        except BaseException:
            over = self._leave(job)
            raise
        finally:
            # Not before what the thread brought has arrived here; one that is left behind does it by itself, see _end.
            if job.watched is not None and over:
                job.watched.finished()
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # or error, traceback and job would hold one another
        return cast("T", job.result)

    async def convert(self, function: Callable[[], T]) -> T:
        """Run a conversion of ours, which is short and never blocks, in a thread of the backend's pool.

        A thread of its own would cost more than the conversion.
        """
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
                    take_back(job.ident)
            if job.watched is not None:
                job.watched.calling(None)

    def sleep(self, seconds: float) -> None:
        """Block this worker thread for `seconds`, or until the crew is stopped."""
        job: _Job = self._local.job
        if job.watched is None or self._stopped.is_set():
            self._stopped.wait_sync(seconds)
        else:  # in virtual time, which ends with the call: who comes back later finds the crew stopped
            job.watched.sleep(seconds)

    def _work(self, job: _Job, function: Callable[[], T]) -> None:
        job.ident = threading.get_ident()
        self._local.job = job
        current_worker.set(job.watched)  # in this thread's own copy of the context
        try:
            job.result = function()
        except (_Stopped, Interrupted) as error:
            if not self._stopping:
                job.error = error  # a handler raised it by itself
        except BaseException as error:  # noqa: BLE001  it is raised again in whoever waits for this thread
            job.error = error
        finally:
            self._end(job)

    def _end(self, job: _Job) -> None:
        """The job is over: tell whoever waits for it."""
        with self._lock:
            self._jobs.discard(job)
            if job.interrupted:
                take_back(job.ident)
            job.over, left = True, job.left
        if left:
            self._tell(job)
        job.done.set()
        if job.watched is not None and (left or not job.ident):  # a thread that was left is watched to its very end
            job.watched.finished()

    def _leave(self, job: _Job) -> bool:
        """Nobody waits for the job any more; returns whether its thread is through."""
        with self._lock:
            job.left, over = True, job.over
        if over:
            self._tell(job)
        return over

    def _tell(self, job: _Job) -> None:
        """Supervises: whoever waited has gone, so an error is told here."""
        error, job.error = job.error, None
        # By closing things shutdown() lets go who waits for them, as it should.
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
            take_back(*(job.ident for job in self._jobs))
        for name in lost:
            self._threads.abandon()
            logger.error(
                "%s did not return when its connection ended: its thread was abandoned. "
                "Have shutdown() release what it waits for.",
                name,
            )
        return lost

    def _interrupt(self) -> None:
        with self._lock:
            jobs = [job for job in self._jobs if job.calling is not None]
            for job in jobs:
                job.interrupted = True
                if job.watched is not None:
                    job.watched.resumed()
        interrupt(jobs, Interrupted, self._lock, traced=any(job.watched for job in jobs))
