"""The thread in which a call in virtual time runs, so that one that hangs is named and left behind, not waited for.

A loop in virtual time never rests for long: it jumps. If it does not, a method of an async handler blocks it, or it
waits for a thread that does not come back. The code that waits for the thread notices: a method that holds up the loop
is interrupted, if that is possible. If not (C code cannot be), its thread, a daemon, is left behind. In both cases
`HandlerHung` names the method.
"""

from __future__ import annotations

import contextvars
import gc
import inspect
import math
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from types import CodeType, CoroutineType, FrameType, FunctionType
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel

from .._core.bridge import call_in_loop, current_loop_token
from .._core.interrupt import current_frames
from ..handlers.base import StreamHandlerBase
from ._fair_clock import LOOK, FairClock, fair_clock
from ._handler_time import HandlerTime, handler_time
from ._stop_thread import stop_thread, take_back
from ._virtual_time import Chooses
from .clocks import BackendName, VirtualTime, backend_with

__all__ = [
    "HANG",
    "HandlerHung",
    "ManualLoop",
    "Watch",
    "longest_hang",
    "own_codes",
    "refuse_in_a_loop",
    "run_in_room",
]

T = TypeVar("T")

HANG = 30.0
"""Seconds for which a loop in virtual time may be held up before `HandlerHung` is raised (see `FairClock`)."""

longest_hang: ContextVar[float] = ContextVar("rtcflow_longest_hang", default=math.inf)
"""The same for the calls that are made in this context: `check_handler` makes many calls, and waits for less long."""

UNWIND: Final = 2.0
"""Real seconds in which an interrupted call has to end."""

INTERRUPTS: Final = 4
"""How often it is interrupted in this time."""


class HandlerHung(Exception):
    """A method of the handler held up the event loop, or kept the call from ending; the text names it."""


class Watch:
    """Looks whether a loop in virtual time still goes round, from another thread.

    Args:
        clock: The loop's.
        handler: Whose methods are to be named.
        hang: Seconds for which the loop may be held up (see `FairClock`).
    """

    def __init__(self, clock: VirtualTime, handler: StreamHandlerBase, hang: float) -> None:
        self._clock = clock
        self._hang = hang
        self._codes = own_codes(handler)
        self._seen = -1
        self._since = self._began = 0.0
        self._fair = fair_clock.get() or FairClock()

    def begin(self) -> None:
        """Count from now on."""
        self._fair.begin()
        self._began = self._fair.now()
        self._seen, self._since = self._clock.pulse, self._began

    def found(self, ident: int) -> str | None:
        """What to say of the loop in the thread `ident`; None while all is well."""
        self._fair.look()
        now = self._fair.now()
        if self._clock.now > self._clock.over_by:
            self._clock.abandon()
            return self._kept_open() or "the call goes on long after the caller has hung up"
        if self._clock.pulse != self._seen:
            if min(self._clock.busy_for, now - self._began) > self._hang:
                self._clock.abandon()
                return (
                    self._kept_open(swallowed=True)
                    or f"a task has gone round without ever waiting for {self._hang:g} s, and does not end"
                )
            self._seen, self._since = self._clock.pulse, now
            return None
        if now - self._since < self._hang:
            return None
        frame = current_frames().get(ident)
        where = self._held_up(frame)
        if where is not None:
            return f"{where} has held up the event loop for {self._hang:g} s; use await, or a sync handler"
        if _is_debugged(frame):
            return None
        return self._kept_open() or f"nothing has happened in the call for {self._hang:g} s, and it does not end"

    def interrupt(self, ident: int, text: str) -> None:
        """Raise `HandlerHung` in the method that holds up the loop, as far as that is possible."""
        if self._held_up(current_frames().get(ident)) is not None:
            stop_thread(ident, _hung(text))

    def _held_up(self, frame: FrameType | None) -> str | None:
        """The outermost method of the handler on this stack, and its line."""
        found = None
        if not _is_debugged(frame):
            while frame is not None:
                if frame.f_code in self._codes:
                    found = _place(frame)
                frame = frame.f_back
        return found

    def _kept_open(self, *, swallowed: bool = False) -> str | None:
        """The handler's coroutines that have not ended; `swallowed` if they go round without end."""
        # Not `isinstance`: that asks a weak proxy for the class of what it stands for, which may be gone.
        objects: list[Any] = [thing for thing in gc.get_objects() if type(thing) is CoroutineType]
        left = sorted({_place(one.cr_frame) for one in objects if one.cr_code in self._codes and one.cr_frame})
        if not left:
            return None
        if swallowed:
            return (
                f"{', '.join(left)} goes round without end: it swallows its cancellation; "
                "write except Exception, not except BaseException, or raise it again"
            )
        return (
            f"{', '.join(left)} does not end: it cannot be cancelled, or waits for a thread that does not come back; "
            "write await self.run_sync(function), whose thread stops when the call ends"
        )


def wait_for(future: Future[T], watch: Watch, ident: int) -> T:
    """Wait for something that happens in a loop in virtual time, in the thread `ident`.

    Raises:
        HandlerHung: The loop is held up; its thread is left behind.
        BaseException: What happened there.
    """
    watch.begin()
    text = None
    while text is None:
        try:
            return future.result(LOOK)
        except TimeoutError:
            if future.done():
                return future.result()
        text = watch.found(ident)
    for _ in range(INTERRUPTS):  # the exception is lost if it strikes in a callback of the collector
        watch.interrupt(ident, text)
        try:
            return future.result(UNWIND / INTERRUPTS)
        except TimeoutError:
            if future.done():
                return future.result()
    take_back(ident)
    raise HandlerHung(text)


def run_in_room(
    function: Callable[[], Awaitable[T]],
    backend: BackendName,
    handler: StreamHandlerBase,
    *,
    patience: float,
    hang: float | None = None,
    schedule: Chooses | None = None,
) -> T:
    """Run `function` in a loop in virtual time, and wait for it.

    Raises:
        HandlerHung: A method of `handler` holds it up.
        BaseException: What it raises.
    """
    clock = VirtualTime(patience=patience)
    clock.watched, clock.schedule = True, schedule
    if shown := handler_time.get():
        shown.follow(clock)
    name, options = backend_with(clock, backend)
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = anyio.run(function, backend=name, backend_options=options)
        except BaseException as error:  # handed to the thread that waits
            clock.workers.end()
            future.set_exception(error)
        else:
            clock.workers.end()
            future.set_result(result)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="rtcflow room", daemon=True)
    thread.start()
    assert thread.ident is not None  # noqa: S101
    limit = min(HANG, longest_hang.get()) if hang is None else hang
    try:
        return wait_for(future, Watch(clock, handler, limit), thread.ident)
    finally:
        if future.done():
            thread.join()
            del future


class ManualLoop:
    """A loop in manual virtual time, in a thread of its own, and the way into it."""

    _token: Any
    _begin: Callable[[Any], None]
    _scope: anyio.CancelScope

    def __init__(
        self, backend: BackendName, handler: StreamHandlerBase, *, patience: float, hang: float, shown: HandlerTime
    ) -> None:
        self.clock = VirtualTime(manual=True, patience=patience)
        self.clock.watched = True
        shown.follow(self.clock)
        self._watch = Watch(self.clock, handler, hang)
        name, options = backend_with(self.clock, backend)
        opened: Future[None] = Future()

        async def live() -> None:
            send, wanted = anyio.create_memory_object_stream[Any](math.inf)
            with send, wanted:
                async with anyio.create_task_group() as tasks:
                    self._begin, self._scope = send.send_nowait, tasks.cancel_scope
                    self._token = current_loop_token()
                    opened.set_result(None)
                    async for request in wanted:
                        tasks.start_soon(_fulfil, *request)

        def run() -> None:
            try:
                anyio.run(live, backend=name, backend_options=options)
            except BaseException as error:  # handed to the code that waits for the loop
                if opened.done():
                    raise
                opened.set_exception(error)
            finally:
                self.clock.workers.end()

        self._thread = threading.Thread(target=run, name="rtcflow life", daemon=True)
        self._thread.start()
        opened.result()

    def start(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Have `function` run in the loop, awaited if it returns a coroutine; waits for nothing."""
        future: Future[Any] = Future()
        call_in_loop(self._token, self._begin, (future, function, args))
        return future

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function` in the loop, and wait for it.

        Raises:
            HandlerHung: The handler holds up the loop.
            BaseException: What it raises.
        """
        assert self._thread.ident is not None  # noqa: S101
        return wait_for(self.start(function, *args), self._watch, self._thread.ident)

    def close(self) -> None:
        """Cancel what is left, and end the loop; one that does not end is left behind."""
        call_in_loop(self._token, self._scope.cancel)
        self._thread.join(HANG)


async def _fulfil(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = function(*args)
        future.set_result(await result if inspect.isawaitable(result) else result)
    except Exception as error:  # handed to the code that waits for it
        future.set_exception(error)
    except BaseException:
        future.cancel()
        raise


def refuse_in_a_loop(name: str, cure: str) -> None:
    """See that no loop runs in this thread, which a call with a loop of its own would hold up.

    Raises:
        RuntimeError: One does; the text says what to write.
    """
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return
    raise RuntimeError(f"{name} runs a loop of its own, and one runs here already; {cure}")


def own_codes(handler: StreamHandlerBase) -> set[CodeType]:
    """The code of the methods that the handler's own classes define, and of functions that it holds."""
    values = list(vars(handler).values())
    for cls in type(handler).__mro__:
        if cls.__module__.partition(".")[0] not in {"builtins", "abc", "rtcflow", "typing"}:
            values += vars(cls).values()
    functions = [getattr(value, "__func__", None) or getattr(value, "fget", None) or value for value in values]
    return {inspect.unwrap(one).__code__ for one in functions if isinstance(one, FunctionType)}


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def _is_debugged(frame: FrameType | None) -> bool:
    """Whether somebody uses a debugger in there, and takes their time."""
    while frame is not None:
        if frame.f_globals.get("__name__") in {"bdb", "pdb", "pydevd"}:
            return True
        frame = frame.f_back
    return False


def _hung(text: str) -> type[HandlerHung]:
    """`HandlerHung` with its text, as a class: only a class can be raised in another thread."""
    return type("HandlerHung", (HandlerHung,), {"__init__": lambda self: Exception.__init__(self, text)})
