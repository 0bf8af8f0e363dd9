"""Watching a handler's own lines while they run: to hold its threads up there, and to see which errors it swallows.

Both use `sys.settrace`, and only while a method of the handler runs. Lines of other modules run at full speed.

`Switches`: Python may switch threads between any two bytecodes, and does so every 5 ms. A bug that needs a switch in
one place shows once in a month. So a thread sleeps before one line of the handler's code, in virtual time, for as long
as a group of frames takes to come. Meanwhile the other thread runs. Most races need one switch (Musuvathi and Qadeer,
"Iterative Context Bounding", PLDI 2007), so each line has its turn. After that a seed chooses several lines at once.
This reaches every line, but not the places within a line, nor those in C code and in other modules.
"""

from __future__ import annotations

import ast
import inspect
import math
import queue
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.thread import _WorkItem
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, Self

import anyio
import numpy as np

from .._core import threads
from .._core.bridge import current_worker
from ..connection import handler_loop
from ..handlers.base import StreamHandlerBase
from . import _room

__all__ = ["Held", "LinesToTry", "NoNumbers", "Swallowed", "Switches", "Tracer"]

OF_A_CALL: Final = ("start_up", "receive", "emit", "video_receive", "video_emit")
"""The methods that are traced. Junk from strangers and best efforts at the end are the business of the others."""

METHODS: Final = (*OF_A_CALL, "on_message", "on_dtmf", "on_suspended", "on_resumed", "shutdown", "copy", "clear_queue")
"""All methods that rtcflow calls."""

HELD: Final = (0.015, 0.025, 0.045)
"""Seconds for which a thread is held up; frames come every 20 ms, and in groups every 10 ms."""

LONGEST_HELD, MOST_HELD = 0.1, 40
"""Real seconds for which a thread of the handler's own is held up at most, and how often in one run."""

OWN_RUNS: Final = 0.02
"""Real seconds in which such a thread may do some of its work."""

AFTERWARDS: Final = 1.0
"""Real seconds for which work in a pool may go on after the call, and is still looked at."""

OWN_OFTEN: Final = 0.4
"""How likely it is before a line. Such a thread often runs a few lines, and is begun again."""

ORDINARY: Final = (
    queue.Empty,
    queue.Full,
    TimeoutError,
    StopIteration,
    StopAsyncIteration,
    anyio.EndOfStream,
    anyio.WouldBlock,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""Exceptions that say something of a queue or a wait, and are not failures."""


class Tracer:
    """Follows the lines of the files in which a handler's own classes are defined."""

    def __init__(self, handler: StreamHandlerBase) -> None:
        self._files = set(_files(handler))

    @contextmanager
    def over(self, method: str) -> Iterator[None]:
        """Follow what runs in this thread inside the block, if it belongs to one of the methods `OF_A_CALL`."""
        if method not in OF_A_CALL:
            yield
            return
        before = sys.gettrace()
        sys.settrace(lambda frame, _event, _arg: self._enter(method, frame))
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, method: str, frame: FrameType) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            self.saw(method, frame, event, arg)
            return line

        return line

    def saw(self, method: str, frame: FrameType, event: str, arg: Any) -> None:
        """A line is about to run, or an exception has come out of one."""


@dataclass(frozen=True)
class SourceLine:
    """A line of a handler's code, and the method that has run it.

    `at` is the instruction: Python comes to the line of a ``with`` again at its end, when its lock is still taken.
    """

    method: str
    file: str
    number: int
    at: int

    def __str__(self) -> str:
        return f"{self.method} is held up before {Path(self.file).name}:{self.number}"


@dataclass
class LinesToTry:
    """The lines that a handler has run, and those of them before which no thread has been held up by itself."""

    seen: set[SourceLine] = field(default_factory=set)
    left: deque[SourceLine] = field(default_factory=deque)

    def add(self, line: SourceLine) -> None:
        """It was run."""
        if line not in self.seen:
            self.seen.add(line)
            self.left.append(line)


class Switches(Tracer):
    """Holds up the threads of a sync handler before its lines: in each group of frames before one of `lines`, once.

    When none of them is left, it holds them up before lines that a seed chooses, and often.

    Args:
        handler: Whose lines.
        seed: The same seed holds up each method at the same lines: one in three, one in seven, or one in sixteen.
        lines: What is left to try. All lines that run are added to it.

    Threads that the handler starts itself are held up as well. Virtual time does not wait for one that has not slept in
    it yet, so the lines of the methods let it go on. Whether that shows a bug depends on the machine. What it shows is
    one.

    Attributes:
        active: Whether it holds up anything.
        lines: What is left to try.
        line: The one before which a thread is held up; None if the seed chooses.
        holds: Whether it holds up a thread of rtcflow now.
        own_threads: Whether some of its lines were run by a thread of its own that virtual time does not wait for.
    """

    def __init__(self, handler: StreamHandlerBase, seed: int, lines: LinesToTry) -> None:
        super().__init__(handler)
        self._seed = seed
        self.lines = lines
        self.line: SourceLine | None = None
        self.holds = False
        self.own_threads = False
        self._once = False
        self._left = MOST_HELD
        self._workers: Any = None
        self._held = 0
        self._free = threading.Condition()
        self._dice = {method: random.Random(f"{seed} {method}") for method in OF_A_CALL}  # noqa: S311
        self._often = (0.35, 0.15, 0.06)[seed % 3]
        self.active = True

    def __enter__(self) -> Self:
        self._before = threading.gettrace()
        threading.settrace(self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(self._before)

    def _begin(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if frame.f_code.co_filename in _OURS:  # the loop's thread, or one for methods, which `over` follows
            sys.settrace(None)
            return None
        return self._enter("", frame)

    def begin_group(self) -> None:
        """A group of frames comes now."""
        self.line = self.lines.left.popleft() if self.lines.left else None
        self._once = self.active = True

    def wait_free(self) -> None:
        """Wait until no thread of the handler's own is held up; in real time, and not for long."""
        with self._free:
            self._free.notify_all()
            self._free.wait_for(lambda: not self._held, 1.0)

    def let_run(self) -> None:
        """Let threads of the handler's own run, in real time."""
        with self._free:
            self._free.wait(OWN_RUNS)

    def saw(self, method: str, frame: FrameType, event: str, arg: Any) -> None:  # noqa: ARG002
        if not method:
            self._hold_own(frame, event)
            return
        worker: Any = current_worker.get()
        self._workers = self._workers if worker is None else worker.workers
        if self._held:
            with self._free:
                self._free.notify_all()  # it may be their time
        if event != "line" or worker is None or worker.workers.over:
            return
        here = SourceLine(method, frame.f_code.co_filename, frame.f_lineno, frame.f_lasti)
        self.lines.add(here)
        if self.active and (seconds := self._seconds(here)):
            self.holds = True
            worker.sleep(seconds)
            self.holds = False

    def _seconds(self, here: SourceLine) -> float:
        """For how long a thread is held up before this line."""
        if self.line is not None:
            if here != self.line or not self._once:
                return 0.0
            self._once = False
            return HELD[-1]
        dice = self._dice[here.method]
        return dice.choice(HELD) if dice.random() < self._often else 0.0

    def _hold_own(self, frame: FrameType, event: str) -> None:
        """Hold up a thread of the handler's own while the call goes on."""
        workers, name = self._workers, frame.f_code.co_name
        worker: Any = current_worker.get()
        if worker is not None and worker.own is None:
            return
        self.own_threads = self.own_threads or worker is None
        if not self.active or event != "line" or workers is None or workers.over:
            return
        with self._free:
            dice = self._dice.setdefault(name, random.Random(f"{self._seed} {name}"))  # noqa: S311
            if self._left <= 0 or dice.random() >= OWN_OFTEN:
                return
            self._left -= 1
            seconds = dice.choice(HELD)
            if worker is None:  # virtual time does not wait for it
                self._held += 1
                until = workers.now() + seconds
                self._free.wait_for(lambda: not self.active or workers.now() >= until, LONGEST_HELD)
                self._held -= 1
                self._free.notify_all()
        if worker is not None and not worker.workers.over:
            worker.sleep(seconds)


_OURS: Final = {str(threads.__file__), str(_room.__file__)}
"""The files in which threads of rtcflow begin."""


class Held:
    """Inside the block, worker threads that begin are held up before lines of some modules, which a seed chooses.

    Not while a lock of an object whose method runs is taken: nothing else could go on.
    """

    def __init__(self, modules: Iterable[ModuleType], seed: int) -> None:
        self._files = {str(module.__file__) for module in modules}
        self._seed = seed
        self._dice: dict[str, random.Random] = {}
        self._active = False

    def __enter__(self) -> None:
        self._before = threading.gettrace()
        self._active = True
        threading.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        self._active = False  # threads of pools keep it
        threading.settrace(self._before)

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        return self._line if self._active and frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, _arg: Any) -> Any:
        worker: Any = current_worker.get()
        if event != "line" or worker is None or worker.workers.over or not self._active or not worker.runnable:
            return self._line
        name = worker.name
        dice = self._dice.setdefault(name, random.Random(f"{self._seed} {name}"))  # noqa: S311
        if dice.random() < 0.2 and not _holds_a_lock(frame):
            worker.sleep(dice.choice(HELD))
        return self._line


def _holds_a_lock(frame: FrameType | None) -> bool:
    """Whether a lock of an object whose method runs is taken: perhaps by another thread, which does not matter."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        lock = getattr(owner, "_lock", None)
        if isinstance(lock, _LOCK) and lock.locked():
            return True
        frame = frame.f_back
    return False


_LOCK: Final = type(threading.Lock())


class NoNumbers(Tracer):
    """Notes where a handler's methods compute a NaN, of which NumPy only warns.

    Attributes:
        found: The places.
    """

    def __init__(self, handler: StreamHandlerBase) -> None:
        super().__init__(handler)
        self.found: list[str] = []

    @contextmanager
    def over(self, method: str) -> Iterator[None]:  # noqa: ARG002
        with np.errstate(invalid="call", call=self._invalid):
            yield

    def _invalid(self, *_: object) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_filename not in self._files and frame.f_back is not None:
            frame = frame.f_back
        if frame.f_code.co_filename in self._files:
            self.found.append(_told(frame, frame.f_lineno))


class Swallowed(Tracer):
    """Notes which errors a handler's code takes and says nothing of; inside the block, in threads that begin there.

    An error counts if it comes to an ``except`` that takes everything and does nothing, or to a ``return`` in a
    ``finally``. Tasks and threads of the handler's own are followed as its methods are. A cancellation counts if a
    method takes it and does not raise it again.

    Args:
        handler: Whose code is followed.
        is_over: Whether the call is ending: what fails then is not looked at.

    Attributes:
        found: The errors, by the place that took them: how often, and one of them.
        cancellations: The places that took the cancellation of the call.
    """

    def __init__(self, handler: StreamHandlerBase, is_over: Callable[[], bool]) -> None:
        super().__init__(handler)
        self._is_over = is_over
        self.found: dict[str, tuple[int, BaseException]] = {}
        self.cancellations: list[str] = []
        self._raised: dict[int, tuple[BaseException, int]] = {}
        self._futures: dict[int, Future[Any]] = {}
        self._asked: set[int] = set()

    def __enter__(self) -> Self:
        self._before = threading.gettrace()
        threading.settrace(lambda frame, _event, _arg: self._begin(frame))
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(self._before)

    def unseen(self) -> list[BaseException]:
        """What futures hold that were made meanwhile for threads and pools, and that nobody has asked for it.

        Work that is still under way when the call is over may fail because the call is over. It gets a moment.
        """
        done = wait([one for key, one in self._futures.items() if key not in self._asked], AFTERWARDS).done
        held = [one.exception() for one in done if not one.cancelled()]
        return [error for error in held if isinstance(error, Exception) and self._is_ours(error)]

    def _is_ours(self, error: BaseException) -> bool:
        return any(frame.f_code.co_filename in self._files for frame, _ in traceback.walk_tb(error.__traceback__))

    def _begin(self, frame: FrameType) -> Any:
        code = frame.f_code
        if code in _ASKING:
            future = frame.f_locals["self"]
            if not isinstance(future, handler_loop.Future) or code in _ASKING_A_TASK:
                self._asked.add(id(future))
        elif code is _SUBMITTED:
            future = frame.f_locals["future"]
            self._futures[id(future)] = future  # kept, so that no other has its number
        elif code is _OF_A_THREAD and frame.f_locals["taken"]:
            self._futures[id(frame.f_locals["self"])] = frame.f_locals["self"]
        return self._enter("", frame)

    def saw(self, method: str, frame: FrameType, event: str, arg: Any) -> None:  # noqa: ARG002
        if event == "exception":
            self._raised[id(frame)] = (arg[1], frame.f_lineno)
        elif event == "return":
            self._raised.pop(id(frame), None)
        elif event == "line" and id(frame) in self._raised:
            error, raised_at = self._raised[id(frame)]
            places = _places(frame.f_code.co_filename)
            if _is_cancellation(error):
                if raised_at in places.keep.get(frame.f_lineno, ()):
                    self._took_cancellation(frame)
            elif frame.f_lineno in places.handled:
                del self._raised[id(frame)]
            elif raised_at in places.silent.get(frame.f_lineno, ()):
                del self._raised[id(frame)]
                self._took(frame, frame.f_lineno, error)
            elif raised_at in places.one_line and frame.f_lineno != raised_at:
                del self._raised[id(frame)]
                self._took(frame, raised_at, error)

    def _took(self, frame: FrameType, line: int, error: BaseException) -> None:
        method = _method(frame)
        of_a_queue = type(error).__name__ in {"QueueEmpty", "QueueFull"}  # asyncio's
        ordinary = not isinstance(error, Exception) or isinstance(error, ORDINARY) or of_a_queue
        if not ordinary and (method is None or method in OF_A_CALL) and not self._is_over():
            told = _told(frame, line)
            self.found[told] = (self.found.get(told, (0, error))[0] + 1, error)

    def _took_cancellation(self, frame: FrameType) -> None:
        if _method(frame) in OF_A_CALL and anyio.current_effective_deadline() == -math.inf:
            self.cancellations.append(_told(frame, frame.f_lineno))


_ASKING_A_TASK: Final = {handler_loop.Future._ask.__code__, handler_loop.Future.add_done_callback.__code__}
_ASKING: Final = {
    Future.result.__code__,
    Future.exception.__code__,
    Future.add_done_callback.__code__,
    *_ASKING_A_TASK,
}
_SUBMITTED: Final = _WorkItem.__init__.__code__
_OF_A_THREAD: Final = handler_loop.Task.__init__.__code__


def _told(frame: FrameType, line: int) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{line} (in {_method(frame) or frame.f_code.co_name})"


def _method(frame: FrameType | None) -> str | None:
    """The method of a handler in which a frame runs; None if it belongs to a task or a thread of the handler's own."""
    while frame is not None:
        if frame.f_code.co_name in METHODS:
            return frame.f_code.co_name
        frame = frame.f_back
    return None


def _is_cancellation(error: BaseException) -> bool:
    try:
        return isinstance(error, anyio.get_cancelled_exc_class())
    except RuntimeError:  # no event loop runs in this thread
        return False


@dataclass(frozen=True)
class _Places:
    """Lines of a file at which errors may end.

    Attributes:
        silent: The lines that take an error in silence, and the lines from which they take it.
        keep: The same, of those that take a cancellation and do not raise it again.
        handled: Lines that do something with an error.
        one_line: Lines that take an error of their own in silence: ``with suppress(Exception): …``.
    """

    silent: dict[int, range] = field(default_factory=dict)
    keep: dict[int, range] = field(default_factory=dict)
    handled: set[int] = field(default_factory=set)
    one_line: set[int] = field(default_factory=set)


@lru_cache
def _places(file: str) -> _Places:
    """Where the code of a file takes errors."""
    places = _Places()
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return places
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            guarded = _lines(node.body)
            for clause in node.handlers:
                silent = _takes_all(clause.type) and all(_says_nothing(one, read) for one in clause.body)
                if silent:
                    places.silent[clause.lineno] = guarded
                else:
                    places.handled.update(_lines(clause.body))
                if _takes_cancellation(clause.type) and not any(map(_raises, clause.body)):
                    places.keep[clause.lineno] = guarded
            whole = _lines([*node.body, *node.handlers, *node.orelse])
            for leaving in (one for statement in node.finalbody for one in _leave(statement)):
                places.silent[leaving.lineno] = places.keep[leaving.lineno] = whole
        elif isinstance(node, ast.With):
            for item in node.items:
                if _suppresses(item.context_expr, _takes_all):
                    places.silent[node.lineno] = _lines(node.body)
                    if node.body[0].lineno == node.lineno:
                        places.one_line.add(node.lineno)
                if _suppresses(item.context_expr, _takes_cancellation):
                    places.keep[node.lineno] = _lines(node.body)
    return places


def _lines(statements: Sequence[ast.stmt | ast.excepthandler]) -> range:
    return range(statements[0].lineno, (statements[-1].end_lineno or statements[-1].lineno) + 1)


def _raises(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(statement))


def _leave(statement: ast.AST, *, in_a_loop: bool = False) -> Iterator[ast.stmt]:
    """The statements inside of a ``finally`` that leave it, and drop what is being raised."""
    if isinstance(statement, ast.Return) or (isinstance(statement, ast.Break | ast.Continue) and not in_a_loop):
        yield statement
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        in_a_loop = in_a_loop or isinstance(statement, ast.For | ast.AsyncFor | ast.While)
        for child in ast.iter_child_nodes(statement):
            yield from _leave(child, in_a_loop=in_a_loop)


def _takes_all(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_takes_all(one) for one in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def _takes_cancellation(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_takes_cancellation(one) for one in caught.elts)
    if isinstance(caught, ast.Call):
        caught = caught.func
    name = caught.attr if isinstance(caught, ast.Attribute) else getattr(caught, "id", None)
    return caught is None or name in {"BaseException", "CancelledError", "Cancelled", "get_cancelled_exc_class"}


def _suppresses(manager: ast.expr, takes: Callable[[ast.expr | None], bool]) -> bool:
    if not isinstance(manager, ast.Call) or not manager.args:
        return False
    function = manager.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "suppress" and any(takes(one) for one in manager.args)


def _says_nothing(statement: ast.stmt, read: Iterable[str]) -> bool:
    """Whether a statement does nothing with the error: it passes, goes on, returns None, or sets an unread variable."""
    match statement:
        case ast.Pass() | ast.Continue() | ast.Break() | ast.Return(None) | ast.Return(ast.Constant(None)):
            return True
        case ast.Expr(ast.Constant()):
            return True
        case ast.Assign([ast.Attribute(attr=name)], ast.Constant()):
            return name not in read
        case _:
            return False


def _files(handler: StreamHandlerBase) -> Iterator[str]:
    """Where the methods of a handler are written. Those that `probe` put around them are not its own: a thread that is
    held up there is not held up between two lines of the handler.
    """
    for cls in type(handler).__mro__:
        if cls.__module__.partition(".")[0] not in {"builtins", "abc", "rtcflow", "typing"}:
            for member in vars(cls).values():
                function = inspect.unwrap(getattr(member, "__func__", member))
                code = getattr(function, "__code__", None)
                if isinstance(code, CodeType) and function.__module__.partition(".")[0] != "rtcflow":
                    yield code.co_filename
