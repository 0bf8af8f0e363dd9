"""Watching a handler's own lines while they run: to hold its threads up there, and to see which errors it swallows.

Both use `sys.settrace`, and only while a method of the handler runs. Lines of other modules run at full speed.

`Switches`: Python may switch threads between any two bytecodes, and does so every 5 ms. A bug that needs a switch in
one place shows once in a month. So a seed chooses lines of the handler's code before which its thread sleeps, in
virtual time, for about as long as a frame lasts. Meanwhile the other thread runs. This reaches every line, but not the
places within a line, nor those in C code and in other modules.
"""

from __future__ import annotations

import ast
import inspect
import queue
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

import anyio

from .._core.bridge import current_worker
from ..handlers.base import StreamHandlerBase

__all__ = ["Held", "Swallowed", "Switches", "Tracer"]

OF_A_CALL: Final = ("start_up", "receive", "emit", "video_receive", "video_emit")
"""The methods that are traced. Junk from strangers and best efforts at the end are the business of the others."""

HELD: Final = (0.015, 0.025, 0.045)
"""Seconds for which a thread is held up; frames come every 20 ms, and in groups every 10 ms."""

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


class Switches(Tracer):
    """Holds up the threads of a sync handler before lines that a seed chooses.

    Args:
        handler: Whose lines.
        seed: The same seed holds up each method at the same lines: one in three, one in seven, or one in sixteen.

    Attributes:
        active: Whether it holds up anything.
    """

    def __init__(self, handler: StreamHandlerBase, seed: int) -> None:
        super().__init__(handler)
        self._dice = {method: random.Random(f"{seed} {method}") for method in OF_A_CALL}  # noqa: S311
        self._often = (0.35, 0.15, 0.06)[seed % 3]
        self.active = True

    def saw(self, method: str, frame: FrameType, event: str, arg: Any) -> None:  # noqa: ARG002
        dice, worker = self._dice[method], current_worker.get()
        held: Any = worker
        if (
            self.active
            and event == "line"
            and dice.random() < self._often
            and held is not None
            and not held.workers.over
        ):
            held.sleep(dice.choice(HELD))


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


class Swallowed(Tracer):
    """Notes which errors come to an ``except`` that takes everything, and says nothing of them."""

    def __init__(self, handler: StreamHandlerBase) -> None:
        super().__init__(handler)
        self.found: dict[str, tuple[int, BaseException]] = {}
        self._raised: dict[int, tuple[BaseException, int]] = {}

    def saw(self, method: str, frame: FrameType, event: str, arg: Any) -> None:
        if event == "exception":
            self._raised[id(frame)] = (arg[1], frame.f_lineno)
        elif event == "return":
            self._raised.pop(id(frame), None)
        elif event == "line" and id(frame) in self._raised:
            error, raised_at = self._raised[id(frame)]
            place = _silent(frame.f_code.co_filename).get(frame.f_lineno)
            if place is None or raised_at not in place:
                return
            del self._raised[id(frame)]
            of_a_queue = type(error).__name__ in {"QueueEmpty", "QueueFull"}  # asyncio's
            if isinstance(error, Exception) and not isinstance(error, ORDINARY) and not of_a_queue:
                told = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} (in {method})"
                self.found[told] = (self.found.get(told, (0, error))[0] + 1, error)


@lru_cache
def _silent(file: str) -> dict[int, range]:
    """The first lines of the ``except`` clauses of a file that take everything in silence, and what they guard."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    found: dict[int, range] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            guarded = range(node.body[0].lineno, (node.body[-1].end_lineno or node.body[-1].lineno) + 1)
            for clause in node.handlers:
                if _takes_all(clause.type) and all(_says_nothing(one, read) for one in clause.body):
                    found[clause.lineno] = guarded
        elif isinstance(node, ast.With) and any(_suppresses(item.context_expr) for item in node.items):
            found[node.lineno] = range(node.body[0].lineno, (node.body[-1].end_lineno or node.body[-1].lineno) + 1)
    return found


def _takes_all(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_takes_all(one) for one in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def _suppresses(manager: ast.expr) -> bool:
    if not isinstance(manager, ast.Call) or not manager.args:
        return False
    function = manager.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name == "suppress" and any(_takes_all(one) for one in manager.args)


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
    for cls in type(handler).__mro__:
        if cls.__module__.partition(".")[0] not in {"builtins", "abc", "rtcflow", "typing"}:
            for member in vars(cls).values():
                function = inspect.unwrap(getattr(member, "__func__", member))
                code = getattr(function, "__code__", None)
                if isinstance(code, CodeType):
                    yield code.co_filename
