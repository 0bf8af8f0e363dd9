"""The engine's thread: one asyncio loop, in which all connections of an engine live.

It has a thread of its own under asyncio, too. A busy loop of the application must not stop ICE consent checks, RTCP or
the sending of queued audio. Both backends also use one code path, and only that one must be right.

Ownership. `LoopThread._main` supervises: its task group holds every call from outside and every task of rtcflow. aiortc
starts tasks of its own that nobody holds. So the loop's task factory puts each task into the *family* of the context in
which it was started. A peer then knows every task that was started on its behalf, and does not close before all have
ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, Generic, Protocol, TypeVar, cast

import anyio

from .._core.bridge import Event, wait_out, wake_later
from ..context import log_facts
from .load import EngineLoad

T = TypeVar("T")
_log = logging.getLogger("rtcflow.engine")


class Family:
    """All tasks that were started on behalf of one peer, by rtcflow or by aiortc.

    It is made when the call is admitted, so that the log records of these tasks name the call.

    Attributes:
        context: A task that is started in this context is a member, and so is all that it starts.
        failed: Called with the error of a member that failed.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._members: set[asyncio.Task[Any]] = set()
        self.failed = on_error
        self.context: contextvars.Context = contextvars.Context()
        self.context.run(_family.set, self)
        self.context.run(log_facts.set, log_facts.get())

    def add(self, task: asyncio.Task[Any]) -> None:
        """Make `task` a member; called for each task that is started in `context`."""
        self._members.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._members.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error)

    async def wait(self, timeout: float) -> None:
        """Wait until every member but the caller has ended; after `timeout` seconds they are cancelled first."""
        me = asyncio.current_task()
        if others := self._members - {me}:
            await asyncio.wait(others, timeout=timeout)
        while others := self._members - {me}:
            for task in others:
                _log.debug("cancelling a task that was left: %r", task)
                task.cancel()
            await asyncio.wait(others)


_family: contextvars.ContextVar[Family] = contextvars.ContextVar("rtcflow_family")


def _task_factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    context: contextvars.Context | None = options.get("context")
    family = _family.get(None) if context is None else context.get(_family)
    if family is not None:
        family.add(task)
    return task


class Resident(Protocol):
    """Something that lives in the engine's thread and must be closed before the thread ends."""

    def abort(self, error: BaseException) -> None:
        """Wake all that wait outside, with `error`: the engine's thread has ended. From any thread."""

    async def close(self, *, goodbye: bool = True) -> None:
        """Free everything. Idempotent."""


class LoopThread:
    """A thread that runs an asyncio loop, and the supervisor of everything in it.

    Args:
        use_uvloop: Whether the loop is uvloop's. None means: if it is installed.

    Attributes:
        residents: What must be closed before the thread ends.
        shared: Closes what the residents share, after the last of them. Valid while the loop runs.
        load: How busy the thread is. Valid while the loop runs.
    """

    def __init__(self, *, use_uvloop: bool | None = None) -> None:
        self._use_uvloop = use_uvloop
        self._ready = Event()
        self._gone = Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[_PostedCall[Any]] = set()
        self._stopping = False
        self._stop: asyncio.Event
        self._tasks: asyncio.TaskGroup
        self.shared: AsyncExitStack
        self.load: EngineLoad
        self.residents: set[Resident] = set()

    @property
    def is_open(self) -> bool:
        """Whether calls are accepted."""
        return self._loop is not None and not self._gone.is_set()

    # -- from outside

    async def open(self) -> None:
        """Start the thread, and wait until its loop runs. If this raises, or is cancelled, call `aclose`."""
        # An empty context, because on free-threaded builds a thread inherits the context of its starter. A daemon,
        # because of one case in which `aclose` is never called: a second Ctrl-C stops the caller's loop where it is.
        self._thread = threading.Thread(
            target=contextvars.Context().run, args=(self._run,), name="rtcflow engine", daemon=True
        )
        self._thread.start()
        await self._ready.wait()
        if self._loop is None:  # the loop could not be made
            await self.aclose()

    async def aclose(self) -> None:
        """Close every resident, end the thread, and raise what went wrong in it, if anything did.

        A cancelled scope, ``task.cancel()`` and Ctrl-C do not cut this short: it ends by itself soon.
        """
        self._stopping = True  # for a loop that does not run yet; it looks at this first
        if self._thread is None or self._thread.ident is None:
            return
        with suppress(anyio.ClosedResourceError):  # it has ended, or has not begun
            self.post(self._stop_now)
        try:
            await wait_out(self._gone)
        finally:
            thread, self._thread = self._thread, None
            if thread is not None and self._gone.is_set():
                thread.join()  # setting `_gone` was one of its last statements
            self._loop = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    async def call(
        self, function: Callable[..., Awaitable[T]], *args: Any, context: contextvars.Context | None = None
    ) -> T:
        """Run `await function(*args)` in the engine's thread, and return what it returns or raise what it raises.

        Cancelling this cancels the function and waits until it has ended. A result that it already had is lost.

        Raises:
            anyio.ClosedResourceError: The engine is closed, or was closed meanwhile.
        """
        call = self._begin(function, args, context)
        try:
            await call.done.wait()
        except BaseException as error:
            with suppress(anyio.ClosedResourceError):
                self.post(call.cancel)
            if not isinstance(error, GeneratorExit):  # then the caller's loop is gone, and nothing can be awaited
                await wait_out(call.done)
            raise
        return call.result()

    async def complete(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """The same, but nothing cuts it short; for closing things. A cancellation is raised afterwards.

        Raises:
            anyio.ClosedResourceError: The engine is closed, or was closed meanwhile.
        """
        call = self._begin(function, args, None)
        await wait_out(call.done)
        return call.result()

    def _begin(
        self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> _PostedCall[T]:
        call = _PostedCall(self, function, args, context or contextvars.Context())
        self._calls.add(call)  # before the call is posted: a thread that ends finishes every call in the set
        try:
            self.post(lambda: call.begin(self._tasks))
        except BaseException:
            self._calls.discard(call)
            raise
        return call

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function(*args)` called soon in the engine's thread; from any thread.

        Raises:
            anyio.ClosedResourceError: The engine is closed.
        """
        loop = self._loop
        if loop is None or self._gone.is_set():
            raise anyio.ClosedResourceError
        try:
            loop.call_soon_threadsafe(function, *args, context=contextvars.Context())
        except RuntimeError:  # the loop was closed just now
            raise anyio.ClosedResourceError from None

    # -- in the thread

    def start_soon(self, coroutine: Coroutine[Any, Any, Any], family: Family) -> asyncio.Task[Any]:
        """Start a task that belongs to `family`. Its errors go to `Family.failed`."""
        return self._tasks.create_task(_report(coroutine, family), context=family.context)

    def start_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that lives at most as long as the thread; called in the thread."""
        return self._tasks.create_task(coroutine, context=contextvars.Context())

    def _stop_now(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory(self._use_uvloop)) as runner:
                wake_later(runner.get_loop().call_soon)
                try:
                    runner.run(self._main())
                finally:
                    wake_later(None)  # what was handed over runs while the runner shuts down
        except BaseException as error:  # noqa: BLE001 - it is raised again by aclose()
            self._error = error
        finally:
            self._loop = None
            self._gone.set()
            closed = anyio.ClosedResourceError("the engine was closed")
            closed.__cause__ = self._error
            for resident in list(self.residents):
                resident.abort(closed)
            for call in list(self._calls):
                call.finish(None, closed)
            self._ready.set()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(cast("Any", _task_factory))
        self._stop, self.load = asyncio.Event(), EngineLoad()
        async with AsyncExitStack() as self.shared, asyncio.TaskGroup() as self._tasks:
            self._loop = loop
            self._ready.set()
            if not self._stopping:
                await self._stop.wait()
            self._loop = None  # from here on no call is taken
            for resident in list(self.residents):
                self._tasks.create_task(resident.close(goodbye=False), context=contextvars.Context())
            for call in list(self._calls):
                call.cancel()


class _PostedCall(Generic[T]):
    """One call into the engine's thread, and its outcome on the way back."""

    def __init__(
        self,
        loop_thread: LoopThread,
        function: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self.done = Event()
        self._loop_thread, self._function, self._args, self._context = loop_thread, function, args, context
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        if self._cancelled:
            self.finish(None, anyio.ClosedResourceError())
        else:
            self._task = tasks.create_task(self._work(), context=self._context)
            self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            value = await self._function(*self._args)
        except Exception as error:  # noqa: BLE001 - it is raised again in the caller
            self.finish(None, error)
        else:
            self.finish(value, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.finish(None, anyio.ClosedResourceError())

    def finish(self, value: T | None, error: BaseException | None) -> None:
        if not self.done.is_set():
            self._value, self._error = value, error
            self._loop_thread._calls.discard(self)
            self.done.set()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or error, traceback and this object would hold one another
        return self._value  # type: ignore[return-value]


async def _report(coroutine: Coroutine[Any, Any, Any], family: Family) -> None:
    try:
        await coroutine
    except Exception as error:  # noqa: BLE001 - the family ends its connection with it; other connections live on
        family.failed(error)


def _loop_factory(use_uvloop: bool | None) -> Callable[[], asyncio.AbstractEventLoop] | None:  # noqa: FBT001
    if use_uvloop is False:
        return None
    try:
        import uvloop
    except ImportError:
        if use_uvloop:
            raise
        return None

    class Loop(uvloop.Loop):
        """uvloop's loop, with one fix: if opening a datagram endpoint is cancelled, its socket is closed."""

        async def create_datagram_endpoint(self, *args: Any, **options: Any) -> Any:
            # owner: the family of the task that asks
            opening = self.create_task(super().create_datagram_endpoint(*args, **options))
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_endpoint)
                raise

    return Loop


def _close_endpoint(opening: asyncio.Task[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()
