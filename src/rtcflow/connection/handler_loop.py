"""The event loop as handlers see it: the part of `asyncio.AbstractEventLoop` they use, on asyncio and trio alike.

Strategy: everything started through it is a task in the connection's task group, so nothing outlives the connection
and no error is lost. Results travel in `Future`, a `concurrent.futures.Future` that can also be awaited. This is what
``asyncio.run_coroutine_threadsafe(coroutine, handler.loop)`` needs of a loop that is not asyncio's.

Where an exception goes. When a task made here raises, its done callbacks are called first. Then there are two cases:

- Somebody takes the exception: a task that awaits it, a thread that waits in `result()`, or a callback that asked for
  `exception()` or `result()`. `asyncio.run_coroutine_threadsafe` hands it to the future it returned in this last way.
- Nobody takes it. Then it ends the connection at once, as the exception of any child of a task group does.

A thread may be too late: the task has raised before the thread asks for its result. Nobody can know then that a thread
is about to ask. So the loop's own `run_coroutine_threadsafe` says so before the task starts.

Nobody can take the exception of a callback of `call_soon`, `call_later` or `call_at`. It always ends the connection.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel

from .._core.bridge import Event, call_in_loop, current_loop_token, loop_clock
from .._core.guard import is_cancellation
from .._core.threads import run_sync

try:
    import sniffio
except ImportError:  # then anyio asks asyncio itself which backend runs
    sniffio = cast("Any", None)

__all__ = ["Future", "Handle", "HandlerLoop", "Task"]

T = TypeVar("T")
logger: logging.Logger = logging.getLogger(__name__)

_EXECUTOR_THREADS = 32
"""Threads that one connection's `run_in_executor(None, …)` may hold at once: the most that asyncio's own has."""


class Handle:
    """A callback that was scheduled, and can be called off."""

    def __init__(
        self,
        loop: HandlerLoop,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        when: float,
    ) -> None:
        self._loop, self._callback, self._args, self._context, self._when = loop, callback, args, context, when
        self._cancelled = False
        self._scope: anyio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Handle {self._callback!r}{' cancelled' if self._cancelled else ''}>"

    def cancel(self) -> None:
        """Call it off; from any thread. Does nothing once the callback was called."""
        self._cancelled = True
        self._loop._in_loop(self._stop_waiting)

    def cancelled(self) -> bool:
        """Whether it was called off."""
        return self._cancelled

    def when(self) -> float:
        """When it is due, on the clock of `HandlerLoop.time` (seconds)."""
        return self._when

    def _run(self) -> None:
        if not self._cancelled:
            self._loop._call_back(self._context, self._callback, *self._args)

    def _stop_waiting(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _run_when_due(self) -> None:
        with anyio.CancelScope() as self._scope:
            if self._cancelled:
                return
            await anyio.sleep_until(self._when)
            self._run()


class Future(concurrent.futures.Future[T]):
    """A result that will be there later: set from any thread, awaited on any backend, or waited for in a thread.

    Made by `HandlerLoop.create_future`. Awaiting it raises what was set as its exception. If it was cancelled, awaiting
    it raises `asyncio.CancelledError` on asyncio, as asyncio's own futures do, and `concurrent.futures.CancelledError`
    on trio. Cancelling a task that awaits it cancels it, too, as in asyncio.
    """

    def __init__(self, loop: HandlerLoop) -> None:
        super().__init__()
        self._loop = loop
        self._lock = threading.Lock()
        self._callbacks: list[tuple[Callable[[Any], object], contextvars.Context]] = []
        self._told = False
        self._waiting = 0  # tasks that await it, and threads that wait in result() or exception()
        self._taken = False  # somebody has its exception, or is sure to ask for it
        super().add_done_callback(cast("Callable[[Any], object]", Future._tell))

    def get_loop(self) -> HandlerLoop:
        """The loop it belongs to."""
        return self._loop

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  asyncio's signature
        """Give it up; from any thread. False if it is done already."""
        return not self.done() and super().cancel()

    def result(self, timeout: float | None = None) -> T:
        """Its result, or raises its exception. A thread other than the loop's waits for it.

        Raises:
            concurrent.futures.InvalidStateError: It is not done, and waiting here would block the event loop.
            concurrent.futures.CancelledError: It was cancelled.
            TimeoutError: It was not done within `timeout` seconds.
        """
        self._wait_in_thread(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its exception or None; raises and waits as `result` does."""
        self._wait_in_thread(timeout)
        return super().exception(0)

    def add_done_callback(self, fn: Callable[[Any], object], *, context: contextvars.Context | None = None) -> None:
        """Have ``fn(self)`` called in the loop's thread when it is done; soon, if it is done already."""
        context = context or self._loop._caller_context()
        with self._lock:
            if not self._told:
                self._callbacks.append((fn, context))
                return
        call = partial(self._loop._call_back, context, fn, self)
        if not self._loop._in_loop(call):
            call()

    def remove_done_callback(self, fn: Callable[[Any], object]) -> int:
        """Take back every `add_done_callback` of `fn`; returns how many there were."""
        with self._lock:
            kept = [entry for entry in self._callbacks if entry[0] != fn]
            removed = len(self._callbacks) - len(kept)
            self._callbacks = kept
        return removed

    def _tell(self) -> None:
        """Call the callbacks: in the loop's thread, and if the loop has ended, here (somebody may wait for one)."""
        with self._lock:
            self._told = True
            callbacks, self._callbacks = self._callbacks, []
        self._loop._forget(self)
        for fn, context in callbacks:
            call = partial(self._loop._call_back, context, fn, self)
            if self._loop.runs_in_this_thread() or not self._loop._in_loop(call):
                call()

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self._wait().__await__()
        if self.cancelled():
            raise self._loop._cancelled_error()
        return super().result(0)

    async def _wait(self) -> None:
        done = Event()
        if self._ask():
            await anyio.lowlevel.checkpoint()
            return
        try:
            super().add_done_callback(lambda _: done.set())
            await done.wait()
        except anyio.get_cancelled_exc_class():
            self.cancel()
            raise
        finally:
            self._stop_asking()

    def _wait_in_thread(self, timeout: float | None) -> None:
        if not self.done() and self._loop.runs_in_this_thread():
            raise concurrent.futures.InvalidStateError("not done yet; to wait for it here, write: await future")
        if self._ask():
            return
        try:
            with suppress(TimeoutError, concurrent.futures.CancelledError):
                super().exception(timeout)
        finally:
            done = self._stop_asking()
        if not done:
            raise TimeoutError

    def _ask(self) -> bool:
        """Whether it is done, which takes its exception; otherwise the caller counts as waiting."""
        with self._lock:
            done = self.done()
            self._taken |= done
            self._waiting += not done
        return done

    def _stop_asking(self) -> bool:
        """The caller no longer waits. Whether it is done, which takes its exception."""
        with self._lock:
            done = self.done()
            self._taken |= done
            self._waiting -= 1
        return done


class Task(Future[T]):
    """A coroutine that runs in the connection's task group, and its result. Made by `HandlerLoop.create_task`."""

    def __init__(
        self,
        loop: HandlerLoop,
        coroutine: Coroutine[Any, Any, T],
        name: str | None,
        context: contextvars.Context | None,
        *,
        taken: bool,
    ) -> None:
        super().__init__(loop)
        self._taken = taken
        self._coroutine, self._context = coroutine, context
        self._name: str = name or str(getattr(coroutine, "__qualname__", "a coroutine"))
        self._scope: anyio.CancelScope | None = None
        self._cancel_requested = False

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "done" if self.done() else "pending"
        return f"<Task {self._name} {state}>"

    def get_name(self) -> str:
        """Its name."""
        return self._name

    def set_name(self, value: object) -> None:
        """Change its name."""
        self._name = str(value)

    def get_coro(self) -> Coroutine[Any, Any, T]:
        """The coroutine it runs."""
        return self._coroutine

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002
        """Have the coroutine cancelled at its next await; from any thread. False if it is done already."""
        if self.done():
            return False
        self._cancel_requested = True  # seen by _run, if that comes first; both happen in the loop's thread
        self._loop._in_loop(self._cancel_scope)
        return True

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def _start(self, context: contextvars.Context) -> None:
        """In the loop's thread: run, or be cancelled if the task group takes nothing any more."""
        if not context.run(self._loop._start, self._run(), self._name):
            self._give_up()

    def _give_up(self) -> None:
        """Close the coroutine, which never started."""
        self._coroutine.close()
        super().cancel()

    async def _run(self) -> None:
        if self._cancel_requested:
            self._give_up()
            return
        result: Any = None
        finished = False
        try:
            with anyio.CancelScope() as self._scope:
                result = await (
                    self._coroutine if self._context is None else _InContext(self._coroutine, self._context)
                )
                finished = True
        except anyio.get_cancelled_exc_class() as error:
            super().cancel()
            if is_cancellation(error):
                raise
            # Otherwise nobody cancelled this task: its coroutine met a cancelled future, and only on asyncio is that
            # the same exception. In the task group it would look like the cancellation of everything.
        except BaseException as error:  # noqa: BLE001  a future carries whatever was raised
            self._settle(error)
        else:
            if finished:
                self.set_result(result)
            else:
                super().cancel()

    def _settle(self, error: BaseException) -> None:
        """Deliver `error`, or raise it into the task group: see the module's text."""
        self.set_exception(error)
        with self._lock:
            taken = self._taken or self._waiting > 0
        if not taken or not isinstance(error, Exception):
            raise error


class Starter(Protocol):
    """A task group, or something in front of one."""

    @property
    def start_soon(self) -> Callable[..., object]:
        """Start a task."""


def _check_coroutine(coro: object, method: str) -> None:
    if not inspect.iscoroutine(coro):
        raise TypeError(f"{method} needs a coroutine, as in {method}(work()), not {coro!r}")


class HandlerLoop:
    """The running event loop, asyncio's or trio's, as far as one connection's handler may use it.

    Everything that runs through it is cancelled when the connection ends. Every method may be called from any thread.
    Handlers that need all of asyncio can have it, on asyncio: ``asyncio.get_running_loop()`` in any async method.

    Args:
        task_group: The connection's: owner of everything started here.
    """

    def __init__(self, task_group: Starter) -> None:
        self._group = task_group
        self._token = current_loop_token()
        self._thread = threading.get_ident()
        self._clock = loop_clock()
        self._library = sniffio.current_async_library() if sniffio else None
        self._context = self._marked(contextvars.copy_context())
        self._executor = anyio.CapacityLimiter(_EXECUTOR_THREADS)
        native = hasattr(self._token, "call_soon_threadsafe")
        self._cancelled_class: type[BaseException] = (
            anyio.get_cancelled_exc_class() if native else concurrent.futures.CancelledError
        )
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<HandlerLoop{' closed' if self._closed else ''}>"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"handler.loop has no {name!r}: it has what works on asyncio and trio alike; "
            "on asyncio, asyncio.get_running_loop() in an async method gives the whole loop"
        )

    # -- time and callbacks

    def time(self) -> float:
        """The loop's clock, in seconds."""
        return self._clock()

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Have ``callback(*args)`` called soon in the loop's thread, in the order of these calls.

        Raises:
            RuntimeError: The connection has ended.
        """
        handle = Handle(self, callback, args, context or self._caller_context(), self.time())
        if self._closed or not self._in_loop(handle._run):
            raise RuntimeError("the event loop is closed: the connection has ended")
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """The same as `call_soon`, which may be called from any thread, too."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Have ``callback(*args)`` called in the loop's thread, `delay` seconds from now."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """Have ``callback(*args)`` called in the loop's thread at `when`, on the clock of `time`.

        Raises:
            RuntimeError: The connection has ended.
        """
        handle = Handle(self, callback, args, context or self._caller_context(), when)
        self.call_soon(self._start_timer, handle)
        return handle

    def _start_timer(self, handle: Handle) -> None:
        if not self._start(handle._run_when_due()):
            handle._cancelled = True

    # -- tasks and futures

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> Task[T]:
        """Run a coroutine in the connection's task group.

        An exception ends the connection, unless something waits for the task by then. In another thread than the
        loop's, use `run_coroutine_threadsafe` if you want the result.

        Args:
            coro: The coroutine.
            name: The name of the task; by default that of its function.
            context: The context that the task runs in, itself and not a copy, as in asyncio. By default a copy of the
                caller's.

        Raises:
            TypeError: `coro` is not a coroutine.
        """
        _check_coroutine(coro, "create_task")
        return self._begin(Task(self, coro, name, context, taken=False))

    def run_coroutine_threadsafe(self, coro: Coroutine[Any, Any, T], *, name: str | None = None) -> Task[T]:
        """Run a coroutine for a thread: ``run_coroutine_threadsafe(work()).result()`` waits and returns its result.

        Like `asyncio.run_coroutine_threadsafe`, without asyncio. The task runs in the connection's task group. It is
        cancelled when the connection ends. `result` then raises `concurrent.futures.CancelledError`.

        An error of the coroutine goes to the caller. It does not end the connection, however early it comes. So ask for
        the result: nothing else reports an exception.

        Args:
            coro: The coroutine.
            name: The name of the task; by default that of its function.

        Raises:
            TypeError: `coro` is not a coroutine.
        """
        _check_coroutine(coro, "run_coroutine_threadsafe")
        return self._begin(Task(self, coro, name, None, taken=True))

    def _begin(self, task: Task[T]) -> Task[T]:
        caller = self._caller_context()
        with self._lock:
            if not (closed := self._closed):
                self._pending.add(task)
        # After the end the task is cancelled and does not fail, so that code that waits for it goes on.
        if closed:
            task._give_up()
        elif self.runs_in_this_thread():
            task._start(caller)
        elif not self._in_loop(task._start, caller):
            task._give_up()
        return task

    def create_future(self) -> Future[Any]:
        """Make a future that anybody may set; it is cancelled when the connection ends."""
        future = Future[Any](self)
        with self._lock:
            if not (closed := self._closed):
                self._pending.add(future)
        if closed:
            future.cancel()
        return future

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[..., T], *args: Any
    ) -> Task[T]:
        """Call ``func(*args)`` in a worker thread (None: one of this connection's 32) or in `executor`.

        When the connection ends, the thread is not waited for, nor by the process when that ends. In it
        `anyio.from_thread` works as in a thread of `anyio.to_thread.run_sync`.
        """
        if executor is None:
            named = getattr(func, "__qualname__", type(func).__qualname__)
            work = run_sync(partial(func, *args), name=f"run_in_executor {named}", limiter=self._executor)
        else:
            work = self._in_executor(executor, partial(func, *args))
        return self.create_task(work, name=getattr(func, "__qualname__", None))

    async def _in_executor(self, executor: concurrent.futures.Executor, function: Callable[[], T]) -> T:
        work = executor.submit(function)
        done = Event()
        work.add_done_callback(lambda _: done.set())
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            work.cancel()
            raise
        return work.result()

    # -- state

    def is_running(self) -> bool:
        """Whether the connection is live."""
        return not self._closed

    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed

    def get_debug(self) -> bool:
        """False."""
        return False

    def runs_in_this_thread(self) -> bool:
        """Whether the calling thread is the loop's, where waiting must be awaiting."""
        return threading.get_ident() == self._thread

    def move_to(self, task_group: Starter) -> None:
        """Start what comes from now on in `task_group`; for the connection, which has one group for its closing."""
        self._group = task_group

    def close(self) -> None:
        """The connection has ended: cancel what is left. For the connection; after its task group. Idempotent.

        A task that still runs has swallowed its cancellation, and its nursery repeats that now and then. A scope would
        repeat it at each step.
        """
        with self._lock:
            self._closed = True
            pending, self._pending = self._pending, set()
        for future in pending:
            if not isinstance(future, Task):
                future.cancel()
            elif future._scope is None:
                future._give_up()

    # -- what a loop in use cannot do

    def run_until_complete(self, future: object) -> NoReturn:
        """Refused: the loop runs already."""
        if inspect.iscoroutine(future):
            future.close()
        raise RuntimeError(
            "this event loop runs already; write: await coroutine, or in a worker thread "
            "handler.loop.run_coroutine_threadsafe(coroutine).result()"
        )

    def run_forever(self) -> NoReturn:
        """Refused: the loop runs already."""
        raise RuntimeError("this event loop runs already; a handler cannot run it")

    def stop(self) -> NoReturn:
        """Refused: other connections use the loop, too."""
        raise RuntimeError("this event loop serves others, too; to end the connection, return CloseStream() from emit")

    # -- inside

    def _in_loop(self, function: Callable[..., object], *args: Any) -> bool:
        return call_in_loop(self._token, function, *args)

    def _caller_context(self) -> contextvars.Context:
        """The caller's context variables; in other threads, with the connection's where the caller has none."""
        context = contextvars.copy_context()
        if not self.runs_in_this_thread():
            for variable, value in self._context.items():
                if variable not in context:
                    context.run(variable.set, value)
        return self._marked(context)

    def _marked(self, context: contextvars.Context) -> contextvars.Context:
        """Note in `context` which backend runs: callbacks of asyncio are in no task, by which sniffio would know it."""
        if self._library is not None:
            context.run(sniffio.current_async_library_cvar.set, self._library)
        return context

    def _call_back(self, context: contextvars.Context, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback(*args)`` in `context` itself, as asyncio does: what it sets there can be read there."""
        try:
            with _said_to_run(self._library):
                _run_in(context, callback, *args)
        except BaseException as error:
            if not self._context.copy().run(self._start, _raise(error)):
                logger.error("%r raised after its connection had ended", callback, exc_info=error)

    def _start(self, coroutine: Coroutine[Any, Any, object], name: str | None = None) -> bool:
        """Run `coroutine` in the task group; False, and it is closed, if the group has ended."""
        try:
            self._group.start_soon(lambda: coroutine, name=name)
        except RuntimeError:
            coroutine.close()
            return False
        return True

    def _cancelled_error(self) -> BaseException:
        return self._cancelled_class()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)


def _run_in(context: contextvars.Context, function: Callable[..., T], *args: Any) -> T:
    """``context.run(function, *args)``, or in a copy of it: code that runs in a context cannot enter it again."""
    entered = False

    def enter() -> T:
        nonlocal entered
        entered = True
        return function(*args)

    try:
        return context.run(enter)
    except RuntimeError:
        if entered:
            raise
    return context.copy().run(function, *args)


@contextmanager
def _said_to_run(library: str | None) -> Iterator[None]:
    """Tell sniffio which backend runs: it asks for the current task, and a callback of asyncio has none."""
    if library is None:
        yield
        return
    before, sniffio.thread_local.name = sniffio.thread_local.name, library
    try:
        yield
    finally:
        sniffio.thread_local.name = before


class _InContext:
    """Awaiting it runs a coroutine in a context of the caller's choice, step by step.

    Task groups of both backends run a task in a copy of its starter's context, and accept no other context.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: contextvars.Context) -> None:
        self._coroutine, self._context = coroutine, context

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            try:
                waits_for = _run_in(self._context, step)
            except StopIteration as returned:
                return returned.value
            try:
                step = partial(self._coroutine.send, (yield waits_for))
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  it is the coroutine's to handle
                step = partial(self._coroutine.throw, error)


async def _raise(error: BaseException) -> NoReturn:
    await anyio.lowlevel.checkpoint()
    raise error
