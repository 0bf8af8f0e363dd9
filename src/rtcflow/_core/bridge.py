"""Waiting and waking across threads and backends.

One primitive, `ParkingLot`, is under every wait for what another side does. That may be an event, a frame in a queue,
or room in a playout buffer. It is a set of waiters, guarded by its owner's lock. A waiter is a task of any anyio
backend, or a plain thread. Waking is free if nobody is parked. Otherwise it takes one `call_soon_threadsafe` (or trio's
`run_sync_soon`). Measured, this one call is what a frame's way across threads costs. A loop that was told and has not
run yet is not told again, so a loop under load is told rarely.

The invariant: no wake-up is lost. A waiter parks while it holds the lock under which the condition changes, and looks
at the condition again after each wake-up. A cancelled waiter leaves the lot.
"""

from __future__ import annotations

import contextvars
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel

try:
    from sniffio import thread_local as _library
except ImportError:  # then trio, which needs it, is not here either

    class _NoLibrary:
        name = None

    _library = cast("Any", _NoLibrary())

__all__ = [
    "Event",
    "ParkingLot",
    "Waiter",
    "WorkerMark",
    "call_in_loop",
    "current_loop_token",
    "current_worker",
    "loop_clock",
    "wait_out",
]


class WorkerMark(Protocol):
    """One worker thread, as virtual time sees it. Time must not run ahead of a thread that can run."""

    def parked(self, timeout: float | None) -> None:
        """The thread begins to wait in a `ParkingLot`, for at most `timeout` seconds of virtual time (None: until it is
        woken); called under the lot's lock.
        """

    def resumed(self) -> None:
        """The thread can run again; called by the thread that wakes it, before it does so."""

    def wait(self, woken: threading.Lock) -> bool:
        """Wait until `woken` can be acquired, or the time is over that `parked` was told; whether it was."""


current_worker: contextvars.ContextVar[WorkerMark | None] = contextvars.ContextVar("rtcflow_worker", default=None)
"""This worker thread's mark, if it is watched (see `rtcflow._core.threads.observer`); None in production."""


def current_loop_token() -> Any:
    """The native token of the running loop: an asyncio loop, or a `trio.lowlevel.TrioToken`."""
    return anyio.lowlevel.current_token().native_token


def call_in_loop(token: Any, function: Callable[..., object], *args: Any) -> bool:
    """Have `function(*args)` called soon in the loop that `token` names; from any thread.

    Returns:
        False if that loop has ended; then `function` is not called. True otherwise.
    """
    soon = getattr(token, "run_sync_soon", None) or token.call_soon_threadsafe
    try:
        soon(function, *args)
    except RuntimeError:  # asyncio: "Event loop is closed"; trio.RunFinishedError is a RuntimeError, too
        return False
    return True


def loop_clock() -> Callable[[], float]:
    """The running loop's clock, as a function that may be called from any thread (seconds; virtual time included)."""
    clock = getattr(current_loop_token(), "time", None)
    if clock is None:
        import trio  # only reached where trio runs

        clock = trio.lowlevel.current_clock().current_time
    return cast("Callable[[], float]", clock)


class Waiter(Protocol):
    """A task or thread that waits in a `ParkingLot`."""

    def wake(self) -> None:
        """Go on; called by the thread that changed the condition, with the lot's lock held."""


class _Loop:
    """A running loop, as other threads use it to wake its tasks."""

    __slots__ = ("_due", "_told", "is_trio", "thread", "token")

    def __init__(self, token: Any) -> None:
        self.token = token
        self.is_trio = hasattr(token, "run_sync_soon")
        self.thread = threading.get_ident()
        self._due: deque[Callable[[], None]] = deque()
        self._told = False

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called soon in the loop; from any thread."""
        if threading.get_ident() == self.thread:
            function()
            return
        self._due.append(function)
        if not self._told:  # otherwise `_run` has not begun yet, and will find it
            self._told = True
            if _here.later is None:
                self._tell()
            else:
                _here.later(self._tell)

    def _tell(self) -> None:
        if not call_in_loop(self.token, self._run):
            self._due.clear()

    def _run(self) -> None:
        self._told = False  # first: what is added from now on either is found below, or tells the loop again
        while self._due:
            self._due.popleft()()


class _Here(threading.local):
    """The loop that ran last in this thread. Asking anyio costs as much as all else that parking does."""

    loop: _Loop | None = None
    later: Callable[[Callable[[], None]], object] | None = None

    def running(self) -> _Loop:
        loop = self.loop
        # trio's guest mode: asyncio's loop runs in this thread as well, and trio marks the steps of its own tasks.
        if loop is None or loop.is_trio or _library.name == "trio" or not loop.token.is_running():
            token = current_loop_token()
            if loop is None or loop.token is not token:
                loop = self.loop = _Loop(token)
        return loop


_here = _Here()


def wake_later(later: Callable[[Callable[[], None]], object] | None) -> None:
    """Wake tasks of other loops later: each wake-up becomes a function that is handed to `later`.

    This is for a thread that has a loop of its own and much to do in each turn of it. It wakes others at the end of the
    turn. At the first packet of many, the woken thread would only compete with it for the interpreter's lock. None
    means: wake at once again. Callbacks that `later` holds by then must still be called.
    """
    _here.later = later


class _FutureWaiter:
    """A parked task of asyncio."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._future: Any = loop.token.create_future()

    def wake(self) -> None:
        self._loop.call(self._resolve)

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        future: Awaitable[None] = self._future
        return future


class _TrioWaiter:
    """A parked task of trio."""

    __slots__ = ("_loop", "_task", "_trio")

    def __init__(self, loop: _Loop) -> None:
        import trio.lowlevel  # only reached where trio runs

        self._loop, self._trio = loop, trio.lowlevel
        self._task: Any = trio.lowlevel.current_task()

    def wake(self) -> None:
        self._loop.call(self._resolve)

    def _resolve(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            self._trio.reschedule(task)

    def _abort(self, _: object) -> Any:
        self._task = None
        return self._trio.Abort.SUCCEEDED

    async def wait(self) -> None:
        await self._trio.wait_task_rescheduled(self._abort)


class _ThreadWaiter:
    """A parked thread."""

    __slots__ = ("_lock", "_mark", "error")

    def __init__(self, timeout: float | None) -> None:
        self.error: type[BaseException] | None = None
        self._lock = threading.Lock()
        self._lock.acquire()
        self._mark = current_worker.get()
        if self._mark is not None:
            self._mark.parked(timeout)

    def wake(self) -> None:
        if self._mark is not None:
            self._mark.resumed()
        self._lock.release()  # once: the side that wakes has taken this waiter out of the lot

    def wait(self, timeout: float | None) -> bool:
        if timeout is not None and self._mark is not None:
            woken = self._mark.wait(self._lock)
        else:
            woken = self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))
        if not woken and self._mark is not None:
            self._mark.resumed()
        return woken


class ParkingLot:
    """The waiters for one condition. The owner's lock guards the lot *and* the condition.

    The side that waits takes the lock and looks at the condition. If it does not hold, it calls `await lot.park()` (or
    `lot.park_sync()`), which releases the lock while waiting and takes it again after. Then it looks again. The side
    that changes the condition takes the lock, makes the change, and calls `lot.wake_all()`.

    Attributes:
        waiters: Those that wait. Paths that run for each frame look here before they call `wake_all`.
    """

    __slots__ = ("_lock", "waiters")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.waiters: set[Waiter] = set()

    def add(self, waiter: Waiter) -> None:
        """Have `wake_all` wake `waiter`, once. It waits in its own way. The caller holds the lock."""
        self.waiters.add(waiter)

    def wake_all(self) -> None:
        """Wake all waiters. The caller holds the lock."""
        if self.waiters:
            waiters, self.waiters = self.waiters, set()
            for waiter in waiters:
                waiter.wake()

    async def park(self) -> None:
        """Wait to be woken. The caller holds the lock; it is free meanwhile and held again on return.

        Cancelling this is safe: the task is no longer in the lot, and the lock is held again when the
        cancellation reaches the caller.
        """
        loop = _here.running()
        waiter = _TrioWaiter(loop) if loop.is_trio else _FutureWaiter(loop)
        self.waiters.add(waiter)
        self._lock.release()
        try:
            await waiter.wait()
        finally:
            self._lock.acquire()  # held for moments only, never across an await
            self.waiters.discard(waiter)

    def park_sync(self, timeout: float | None = None) -> bool:
        """Block this thread until woken; False if `timeout` seconds passed first. Locking as in `park`.

        Raises:
            BaseException: What `interrupt_frame` was given.
        """
        waiter = _ThreadWaiter(timeout)
        self.waiters.add(waiter)
        self._lock.release()
        try:
            woken = waiter.wait(timeout)
        finally:
            self._lock.acquire()
            self.waiters.discard(waiter)
        if waiter.error is not None:
            raise waiter.error
        return woken

    @staticmethod
    def interrupt_frame(frame: FrameType, error: type[BaseException]) -> bool:
        """Have the thread whose innermost frame is `frame` raise `error` out of `park_sync`. From another thread.

        Returns:
            True if it was parked and will raise. False if nothing was done.
        """
        waits: FrameType | None = frame  # in a test's time, it waits in a call from there
        while waits is not None and waits.f_code is not _ThreadWaiter.wait.__code__:
            waits = waits.f_back
        parked = None if waits is None else waits.f_back
        if parked is None:
            return False
        lot, waiter = parked.f_locals["self"], parked.f_locals["waiter"]
        with lot._lock:
            if waiter not in lot.waiters:  # it is being woken in this very moment
                return False
            lot.waiters.discard(waiter)
            waiter.error = error
            waiter.wake()
        return True


class Event:
    """A flag that tasks of any backend and threads can wait for. Any thread can set it.

    It replaces the `asyncio.Event` that FastRTC has as `channel_set` and `args_set`. It has the same methods with the
    same meanings, and adds `wait_sync` for worker threads. Making one needs no event loop.

    >>> event = Event()
    >>> event.set(); event.is_set(), event.wait_sync(timeout=0)
    (True, True)
    """

    __slots__ = ("_closed", "_flag", "_lock", "_lot")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lot = ParkingLot(self._lock)
        self._flag = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<rtcflow.Event {'set' if self._flag else 'not set'}>"

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._flag

    def set(self) -> None:
        """Raise the flag and wake all who wait, on whatever backend or thread."""
        with self._lock:
            self._flag = True
            self._lot.wake_all()

    def clear(self) -> None:
        """Lower the flag. Waiters that an earlier `set` has woken stay woken: no wake-up is lost between the two."""
        with self._lock:
            self._flag = False

    def close(self) -> None:
        """Let every wait, now or later, fail with `anyio.ClosedResourceError`: the flag will never be raised."""
        with self._lock:
            self._closed = True
            self._lot.wake_all()

    async def wait(self) -> bool:
        """Wait until the flag is raised, and return True. Safe to cancel. A checkpoint.

        Raises:
            anyio.ClosedResourceError: The connection ended first.
        """
        with self._lock:
            if self._flag:
                ready = True
            elif self._closed:
                raise anyio.ClosedResourceError
            else:
                ready = False
                # Woken by set() or close(): a clear() between the wake-up and now must not put us back to sleep.
                await self._lot.park()
                if self._closed and not self._flag:
                    raise anyio.ClosedResourceError
        if ready:
            await anyio.lowlevel.checkpoint()
        return True

    def wait_sync(self, timeout: float | None = None) -> bool:
        """Block this worker thread until the flag is raised; False if `timeout` seconds passed first.

        Raises:
            anyio.ClosedResourceError: The connection ended first.
        """
        with self._lock:
            if self._flag:
                return True
            if self._closed:
                raise anyio.ClosedResourceError
            woken = self._lot.park_sync(timeout)
            if self._closed and not self._flag:
                raise anyio.ClosedResourceError
            return woken


async def wait_out(event: Event, seconds: float = math.inf) -> None:
    """Wait until `event` is set, for at most `seconds`. No cancellation cuts this short; it is raised afterwards.

    A shielded `anyio.CancelScope` holds off anyio's own cancellation only. ``task.cancel()`` of asyncio and trio's
    Ctrl-C pass through it, so they are caught here, and raised again at the end. Use this for work that must not be
    left half done, and that ends by itself in bounded time.
    """
    stopped: BaseException | None = None
    with anyio.move_on_after(seconds, shield=True) as limit:
        while True:
            try:
                await event.wait()
                break
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as error:
                if limit.cancel_called:
                    raise
                stopped = error
    if stopped is not None:
        try:
            raise stopped
        finally:
            stopped = None  # or error, traceback and frame would hold one another
