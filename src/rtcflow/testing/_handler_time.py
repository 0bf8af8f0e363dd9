"""The `time` module that a handler sees while its calls are played in virtual time.

A handler may count a limit with `time.monotonic()`, or pace itself with `time.sleep()`. It would see real time, in
which ten minutes of call are some seconds. So while a check runs, names such as `time`, `sleep` and `monotonic` stand
for those of this module. This is so in the modules of the handler's own package. So do `datetime.datetime`, the queues
of `queue`, `threading.Event`, `Condition` and `Timer`, whose timeouts are virtual here. Other modules, and objects
that were made before, keep the system's time. `tempfile` makes its files in a folder of the check, which sees what is
left of them. `asyncio.gather` notes which errors among its results nobody has looked at. Limits that run out are noted
(`_limits`).

Its clock goes on from one call to the next, and does not go back. `skip` lets time pass between two calls.
"""

from __future__ import annotations

import datetime as dt
import inspect
import math
import queue
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final, TypeVar

import anyio

from .._core.bridge import current_worker
from ..handlers.base import StreamHandlerBase
from ._limits import HandlerLimits, Moment
from ._queued_arrays import QueuedArrays
from ._real_sockets import RealSockets
from ._virtual_asyncio import Gathered, names_of_asyncio
from ._virtual_time import VirtualTime
from ._workers import LEAST, Worker, in_a_pool

__all__ = ["HandlerTime", "handler_time", "replaced", "seen_by"]

T = TypeVar("T")

MAKERS: Final = ("NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp")

_NAPS: Final = 1000
"""Sleeps that are noted at most."""

FUNCTIONS: Final = ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns", "sleep")


class HandlerTime(ModuleType):
    """Stands for the module `time`. Everything but the clocks and `sleep` is the module's own."""

    def __init__(self) -> None:
        super().__init__("time")
        self._wall, self._began = time.time(), time.monotonic()
        self._passed = 0.0
        self._clock: VirtualTime | None = None
        self.slept: float = 0.0  # by all threads together, in the time of calls
        self.queued: QueuedArrays = QueuedArrays()
        self.sockets: RealSockets = RealSockets()  # for which no loop has waited
        self.files: list[list[Path]] = []
        self._before: set[threading.Thread] = set()  # threads that were there when the loop began
        self.gathered: list[Gathered] = []
        self.limits: HandlerLimits = HandlerLimits(lambda: 0.0 if self._clock is None else self._clock.now)
        self._naps: deque[tuple[float, float, str]] = deque(maxlen=_NAPS)
        self._naps_since = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def follow(self, clock: VirtualTime) -> None:
        """A loop begins: time passes as it does there."""
        self._passed, self._clock = self._elapsed(), clock
        self._passed -= clock.now
        clock.sockets = self.sockets
        self.files.append([])
        self._before = set(threading.enumerate())

    def made(self, file: Any) -> None:
        """A temporary file or folder was made: a path, what `mkstemp` returns, or an object with a name."""
        name = file[1] if isinstance(file, tuple) else getattr(file, "name", file)
        if isinstance(name, str) and self.files:
            self.files[-1].append(Path(name))

    def skip(self, seconds: float) -> None:
        """Let time pass at once, for handlers only."""
        self._passed += seconds

    def _elapsed(self) -> float:
        return self._passed + (0.0 if self._clock is None else self._clock.now)

    def time(self) -> float:
        return Moment(self._wall + self._elapsed(), self.limits)

    def monotonic(self) -> float:
        return Moment(self._began + self._elapsed(), self.limits)

    def time_ns(self) -> int:
        return round(self.time() * 1e9)

    def monotonic_ns(self) -> int:
        return round(self.monotonic() * 1e9)

    perf_counter, perf_counter_ns = monotonic, monotonic_ns

    def sleep(self, seconds: float) -> None:
        """In the call's time, if this thread is a worker's, a pool's, or one that the handler has started in this call.

        In the loop's thread, really.
        """
        worker = self.worker() if seconds > 0 else None
        self._note_nap(seconds, sys._getframe(1))
        workers = self._clock.workers if worker is None and self._clock is not None else None
        if worker is not None:
            worker.slept.append((seconds, sys._getframe(1).f_code.co_name))
            worker.sleep(seconds)
            self.slept += seconds
        elif seconds > 0 and workers is not None and not workers.over and in_a_pool():
            with workers.sleeper() as worker:
                worker.sleep(seconds)
            self.slept += seconds
        else:
            time.sleep(seconds)

    def begin_naps(self) -> None:
        """Note when the handler sleeps from now on: `naps`."""
        self._naps.clear()
        self._naps_since = self.limits.now()

    @property
    def naps(self) -> list[tuple[float, float, str]]:
        """When it began to sleep, in seconds since `begin_naps`, for how long, and where."""
        return [(begun - self._naps_since, seconds, place) for begun, seconds, place in list(self._naps)]

    def _note_nap(self, seconds: float, frame: FrameType) -> None:
        self._naps.append((self.limits.now(), seconds, f"{frame.f_code.co_filename}:{frame.f_lineno}"))

    def noting(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """What stands for `anyio.sleep` or `asyncio.sleep` in a handler's modules: it notes when it sleeps."""

        @wraps(original)
        async def sleep(delay: float, *args: Any, **options: Any) -> Any:  # by this name it is known (`_probe`)
            self._note_nap(delay, sys._getframe(1))
            return await original(delay, *args, **options)

        return sleep

    def worker(self) -> Worker | None:
        """The mark of this thread, if its waits pass in a call's time: a worker's, or one that the handler started."""
        worker: Any = current_worker.get()
        if worker is None and self._is_own_thread():
            worker = self._clock.workers.own_thread() if self._clock is not None else None
            current_worker.set(worker)  # in the thread's own context
            handler_time.set(self)
        return None if worker is None or worker.workers.over else worker

    def _is_own_thread(self) -> bool:
        """Whether this thread was begun after the loop, and is neither the loop's nor a pool's."""
        if self._clock is None or self._clock.workers.over or threading.get_ident() == self._clock.thread:
            return False
        return threading.current_thread() not in self._before and not in_a_pool()


class _AnyDateTime(type):
    """Takes every `datetime.datetime` for an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


def _datetime_of(shown: HandlerTime) -> type[dt.datetime]:
    """`datetime.datetime` whose `now` is that of `shown`."""

    class DateTime(dt.datetime, metaclass=_AnyDateTime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return dt.datetime.fromtimestamp(shown.time(), tz)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(dt.UTC).replace(tzinfo=None)

    DateTime.__name__ = DateTime.__qualname__ = "datetime"
    DateTime.__module__ = "datetime"
    return DateTime


def _virtual_worker(timeout: float | None, shown: HandlerTime | None) -> Worker | None:
    """The mark of this thread, if it is about to wait for a limited time, and that passes in the time of a call."""
    if timeout is None or timeout <= 0:
        return None
    shown = shown or handler_time.get()  # what a thread of the handler's own has made before its first wait has none
    return None if shown is None else shown.worker()


class _TimedQueue(queue.Queue[Any]):
    """`queue.Queue` with timeouts in the time of the call. It sees whether arrays in it are as they were put there."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._shown = handler_time.get()  # threads of the handler's own have no context
        self._queued = None if self._shown is None else self._shown.queued

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
        worker = _virtual_worker(timeout, self._shown) if block else None
        if worker is None:
            item = super().get(block, timeout)
        else:
            item = self._in_time(worker, timeout, partial(super().get, False), self.not_empty, self._qsize)
        if self._queued is not None:
            self._queued.taken(self, item)
        return item

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
        if self._queued is not None:
            self._queued.put(self, item)
        worker = _virtual_worker(timeout, self._shown) if block else None
        if worker is None:
            super().put(item, block, timeout)
            return
        put = partial(super().put, item, False)
        self._in_time(worker, timeout, put, self.not_full, lambda: self.maxsize <= 0 or self._qsize() < self.maxsize)

    def _in_time(
        self,
        worker: Any,
        timeout: float | None,
        attempt: Callable[[], Any],
        condition: threading.Condition,
        may_succeed: Callable[[], object],
    ) -> Any:
        until = worker.workers.now() + max(timeout or 0.0, LEAST)
        while True:
            try:
                return attempt()
            except (queue.Empty, queue.Full):
                with condition:
                    if not may_succeed():
                        left = until - worker.workers.now()
                        if left <= 1e-9 or worker.workers.over:
                            _ran_out(timeout or 0.0)
                            raise
                        worker.wait_in(condition, left)


def _ran_out(seconds: float) -> None:
    """The limit of a method of a queue has run out."""
    shown, frame = handler_time.get(), sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    if shown is not None:
        shown.limits.ran_out(shown.limits.now() - seconds, seconds, frame)


class _LifoQueue(_TimedQueue, queue.LifoQueue[Any]):
    pass


class _PriorityQueue(_TimedQueue, queue.PriorityQueue[Any]):
    pass


class _SimpleQueue(_TimedQueue):
    """`queue.SimpleQueue`, whose waits in C nobody could tell from a method that hangs."""

    def __init__(self) -> None:
        super().__init__()


class _TimedEvent(threading.Event):
    """`threading.Event` with timeouts in the time of the call."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = handler_time.get()

    def wait(self, timeout: float | None = None) -> bool:
        worker = _virtual_worker(timeout, self._shown)
        if worker is None and timeout is not None:
            return super().wait(timeout)
        condition: threading.Condition = vars(self)["_cond"]
        until = math.inf if worker is None or timeout is None else worker.workers.now() + max(timeout, LEAST)
        with condition:
            while not self.is_set():
                if worker is None:
                    condition.wait()
                elif (left := until - worker.workers.now()) <= 1e-9 or worker.workers.over:
                    return False
                else:
                    worker.wait_in(condition, left)
            return True


class _TimedTimer(threading.Timer):
    """`threading.Timer` in the time of the call."""

    def __init__(self, interval: float, function: Callable[..., Any], args: Any = None, kwargs: Any = None) -> None:
        super().__init__(interval, function, args, kwargs)
        self.finished = _TimedEvent()


class _AnyCondition(type):
    """Takes every `threading.Condition` for an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, threading.Condition)


class _TimedCondition(metaclass=_AnyCondition):
    """Makes a `threading.Condition` with timeouts in the time of the call."""

    def __new__(cls, lock: Any = None) -> Any:
        condition: Any = threading.Condition(lock)
        condition.wait = partial(_wait_in_time, condition, handler_time.get())
        condition.wait_for = partial(_wait_for_in_time, condition, handler_time.get())
        return condition


def _wait_in_time(condition: threading.Condition, shown: HandlerTime | None, timeout: float | None = None) -> bool:
    worker = _virtual_worker(timeout, shown)
    if worker is None:
        return threading.Condition.wait(condition, timeout)
    until = worker.workers.now() + max(timeout or 0.0, LEAST)
    worker.wait_in(condition, max(timeout or 0.0, LEAST))
    return bool(worker.workers.now() < until - 1e-9)


def _wait_for_in_time(
    condition: threading.Condition, shown: HandlerTime | None, predicate: Callable[[], T], timeout: float | None = None
) -> T:
    worker = _virtual_worker(timeout, shown)
    if worker is None:
        return threading.Condition.wait_for(condition, predicate, timeout)
    until = worker.workers.now() + max(timeout or 0.0, LEAST)
    while not (holds := predicate()) and worker.workers.now() < until - 1e-9:
        _wait_in_time(condition, shown, until - worker.workers.now())
    return holds


class _Stands(ModuleType):
    """A module with some of its names replaced."""

    def __init__(self, module: ModuleType, others: dict[str, Any]) -> None:
        super().__init__(module.__name__)
        self._module = module
        vars(self).update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_CLASSES: Final[dict[ModuleType, dict[str, type]]] = {
    queue: {
        "Queue": _TimedQueue,
        "LifoQueue": _LifoQueue,
        "PriorityQueue": _PriorityQueue,
        "SimpleQueue": _SimpleQueue,
    },
    threading: {"Event": _TimedEvent, "Condition": _TimedCondition, "Timer": _TimedTimer},
}
for _module, _others in _CLASSES.items():
    for _name, _other in _others.items():
        _other.__module__, _other.__qualname__, _other.__name__ = _module.__name__, _name, _name


handler_time: ContextVar[HandlerTime | None] = ContextVar("rtcflow_handler_time", default=None)
"""What the handlers that are being checked see; each loop that begins sets its clock."""


@contextmanager
def replaced(handler: StreamHandlerBase, shown: HandlerTime) -> Iterator[None]:
    """Have the modules of the handler's own package see `shown` as `time` inside the block."""
    originals: dict[int, Any] = {id(time): shown}
    folder = TemporaryDirectory(prefix="rtcflow-check-", ignore_cleanup_errors=True)
    makers = {name: _making(getattr(tempfile, name), folder.name, shown) for name in MAKERS}
    originals |= {id(tempfile): _Stands(tempfile, makers)}
    originals |= {id(getattr(tempfile, name)): maker for name, maker in makers.items()}
    originals |= {id(getattr(time, name)): getattr(shown, name) for name in FUNCTIONS}
    modules: dict[ModuleType, dict[str, Any]] = {**_CLASSES}
    modules |= {dt: {"datetime": _datetime_of(shown)}}
    modules |= names_of_asyncio(shown.gathered, shown.limits, shown.noting)
    modules |= {anyio: {name: getattr(shown.limits, name) for name in ("current_time", "move_on_after", "fail_after")}}
    modules[anyio]["sleep"] = shown.noting(anyio.sleep)
    for module, others in modules.items():
        originals[id(module)] = _Stands(module, others)
        originals |= {id(getattr(module, name)): other for name, other in others.items()}
    changed: list[tuple[dict[str, Any], str, Any]] = []
    for names in _namespaces(handler):
        for name, value in list(names.items()):
            if id(value) in originals and not name.startswith("__"):
                changed.append((names, name, value))
                names[name] = originals[id(value)]
    try:
        yield
    finally:
        for names, name, value in changed:
            names[name] = value
        folder.cleanup()


def _making(make: Callable[..., Any], folder: str, shown: HandlerTime) -> Any:
    """A function of `tempfile` whose files are in `folder`, and are noted."""

    @wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        asked = inspect.signature(make).bind(*args, **options)
        asked.arguments["dir"] = asked.arguments.get("dir") or folder
        file = make(*asked.args, **asked.kwargs)
        shown.made(file)
        return file

    return made


@contextmanager
def seen_by(handler: StreamHandlerBase) -> Iterator[HandlerTime]:
    """Inside the block, in this context, each loop that begins is the clock that `handler` sees."""
    shown = HandlerTime()
    token = handler_time.set(shown)
    try:
        with replaced(handler, shown):
            yield shown
    finally:
        handler_time.reset(token)


def _namespaces(handler: StreamHandlerBase) -> list[dict[str, Any]]:
    """The variables of the modules in which the handler's classes are defined, and of those in the same packages."""
    found: dict[int, dict[str, Any]] = {}
    for cls in type(handler).__mro__:
        if cls.__module__.partition(".")[0] in {"builtins", "abc", "rtcflow", "typing"}:
            continue
        for member in vars(cls).values():
            function = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(function, FunctionType):
                found[id(function.__globals__)] = function.__globals__
        home = cls.__module__.rpartition(".")[0]
        for name, module in list(sys.modules.items()):
            if home and (name == home or name.startswith(home + ".")) and isinstance(module, ModuleType):
                found[id(vars(module))] = vars(module)
    return list(found.values())
