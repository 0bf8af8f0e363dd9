"""What the tracers decide at one line. They are given frames by hand: Python traces nothing inside of a tracer.

What they find in handlers is in test_testing_conformance.py and test_testing_schedules.py.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtcflow import StreamHandler
from rtcflow._core.bridge import current_worker
from rtcflow.testing import _tracing
from rtcflow.testing._tracing import HELD, Held, LinesToTry, Swallowed, Switches, Tracer


class Quiet(StreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        return None

    def copy(self):
        return Quiet()


class Worker:
    """A worker thread's mark: it writes down for how long it was held up."""

    def __init__(self, name: str = "worker") -> None:
        self.name, self.runnable, self.workers = name, True, SimpleNamespace(over=False)
        self.slept: list[float] = []
        self.sleep = self.slept.append


def frame(file: str, line: int = 1, back: Any = None, *, name: str = "receive", **names: Any) -> Any:
    code = SimpleNamespace(co_filename=file, co_name=name)
    return SimpleNamespace(f_code=code, f_lineno=line, f_lasti=2 * line, f_locals=names, f_back=back)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made: Any = Worker()
    token = current_worker.set(made)
    yield made
    current_worker.reset(token)


SILENT = {
    "pass": ("except Exception: pass", True),
    "bare": ("except: pass", True),
    "everything": ("except BaseException: pass", True),
    "one of several": ("except (OSError, Exception): pass", True),
    "an unread variable": ("except Exception: self.failed = True", True),
    "a docstring and return": ("except Exception:\n    'it is fine'\n    return None", True),
    "return": ("except Exception: return", True),
    "a loop goes on": ("except Exception: continue", True),
    "a loop ends": ("except Exception: break", True),
    "a variable that is read": ("except Exception: self.seen = True", False),
    "a value": ("except Exception: return 3", False),
    "a log": ("except Exception: log.exception('')", False),
    "raise": ("except Exception: raise", False),
    "one kind": ("except OSError: pass", False),
    "two kinds": ("except (OSError, ValueError): pass", False),
    "a kind of a module": ("except queue.Empty: pass", False),
}


@pytest.mark.parametrize("kind", SILENT)
def test_clauses_that_take_everything_in_silence(kind: str, tmp_path: Path) -> None:
    clause, silent = SILENT[kind]
    head = "def it(self):\n    while self.seen:\n        try:\n            1 / 0\n            2\n"
    file = tmp_path / "handler.py"
    file.write_text(head + textwrap.indent(clause, " " * 8))
    assert _tracing._places(str(file)).silent == ({6: range(4, 6)} if silent else {})


@pytest.mark.parametrize(
    ("manager", "silent"),
    [
        ("suppress(Exception)", True),
        ("contextlib.suppress(OSError, BaseException)", True),
        ("suppress(OSError)", False),
        ("suppress()", False),
        ("open('x')", False),
        ("lock", False),
        ("table[0](Exception)", False),
    ],
)
def test_blocks_that_suppress_everything(manager: str, silent: bool, tmp_path: Path) -> None:
    file = tmp_path / "handler.py"
    file.write_text(f"with {manager}:\n    1 / 0\n    2\n")
    assert _tracing._places(str(file)).silent == ({1: range(2, 4)} if silent else {})


@pytest.mark.parametrize("text", [None, b"def", b"\0", b"\xff"])
def test_a_file_that_cannot_be_read_as_python_has_no_clauses(text: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "handler.py"
    if text is not None:
        file.write_bytes(text)
    assert _tracing._places(str(file)).silent == {}


@pytest.fixture
def swallowing(tmp_path: Path) -> str:
    """A file with a silent clause in line 3, which guards line 2."""
    file = tmp_path / "handler.py"
    file.write_text("try:\n    work()\nexcept Exception:\n    pass\nother()\n")
    return str(file)


def swallow(
    tracer: Swallowed, file: str, error: BaseException, *, raised: int = 2, comes_to: int = 3, **of: Any
) -> None:
    at = frame(file, raised, **of)
    tracer.saw("receive", at, "exception", (type(error), error, None))
    at.f_lineno = comes_to
    tracer.saw("receive", at, "line", None)


def test_an_error_that_comes_to_a_silent_clause_is_noted_and_counted(swallowing: str) -> None:
    tracer, first, second = Swallowed(Quiet(), lambda: False), KeyError("a"), KeyError("b")
    swallow(tracer, swallowing, first)
    swallow(tracer, swallowing, second)
    assert tracer.found == {"handler.py:3 (in receive)": (2, second)}


@pytest.mark.parametrize(
    "error",
    [queue.Empty(), queue.Full(), TimeoutError(), StopIteration(), asyncio.QueueEmpty(), asyncio.QueueFull(),
     KeyboardInterrupt(), asyncio.CancelledError()],
    ids=repr,
)  # fmt: skip
def test_what_says_something_of_a_queue_or_ends_a_task_is_not_an_error(swallowing: str, error: BaseException) -> None:
    tracer = Swallowed(Quiet(), lambda: False)
    swallow(tracer, swallowing, error)
    assert not tracer.found


def test_an_error_from_elsewhere_is_not_the_clauses(swallowing: str) -> None:
    tracer = Swallowed(Quiet(), lambda: False)
    swallow(tracer, swallowing, KeyError(), raised=5)  # not in what the clause guards
    swallow(tracer, swallowing, KeyError(), comes_to=5)  # goes to another line
    at = frame(swallowing, 2)
    tracer.saw("receive", at, "exception", (KeyError, KeyError(), None))
    tracer.saw("receive", at, "return", None)  # left the method
    at.f_lineno = 3
    tracer.saw("receive", at, "line", None)
    assert not tracer.found


@pytest.mark.parametrize(
    ("clause", "keeps"),
    [
        ("except BaseException: again()", True),
        ("except (OSError, asyncio.CancelledError): again()", True),
        ("except anyio.get_cancelled_exc_class(): again()", True),
        ("except: again()", True),
        ("except BaseException: raise", False),
        ("except BaseException:\n    if not late: raise", False),
        ("except Exception: again()", False),
    ],
)
def test_clauses_that_keep_a_cancellation(clause: str, keeps: bool, tmp_path: Path) -> None:
    file = tmp_path / "handler.py"
    file.write_text(f"try:\n    work()\n{clause}\n")
    assert _tracing._places(str(file)).keep == ({3: range(2, 3)} if keeps else {})


def test_a_finally_is_left_by_what_leaves_it(tmp_path: Path) -> None:
    file = tmp_path / "handler.py"
    text = "def it():\n  while True:\n    try:\n      work()\n    finally:\n"
    for line in ("return", "break", "continue"):
        file.write_text(f"{text}      {line}\n")
        _tracing._places.cache_clear()
        assert _tracing._places(str(file)).silent == {6: range(4, 5)}
    for line in ("for _ in it: break", "f = lambda: 1", "x = 1"):
        file.write_text(f"{text}      {line}\n")
        _tracing._places.cache_clear()
        assert not _tracing._places(str(file)).silent


def test_errors_at_the_end_and_of_strangers_are_not_the_calls(swallowing: str) -> None:
    over = True
    tracer = Swallowed(Quiet(), lambda: over)
    swallow(tracer, swallowing, KeyError())
    over = False
    swallow(tracer, swallowing, KeyError(), name="on_message")
    swallow(tracer, swallowing, KeyError(), name="helper", back=frame("elsewhere.py", name="shutdown"))
    assert not tracer.found
    swallow(tracer, swallowing, KeyError(), name="pump")
    assert list(tracer.found) == ["handler.py:3 (in pump)"]


def test_a_seed_holds_a_thread_up_before_the_same_lines(worker: Worker) -> None:
    def lines(seed: int) -> list[int]:
        held, at = [], frame(__file__)
        switches = Switches(Quiet(), seed, LinesToTry())
        for n in range(300):
            before = len(worker.slept)
            switches.saw("receive", at, "line", None)
            held += [n] * (len(worker.slept) - before)
        return held

    assert lines(0) == lines(0) != lines(3)
    assert len(lines(0)) > len(lines(1)) > len(lines(2)) > 0  # one in three, in seven, in sixteen
    assert set(worker.slept) == set(HELD)


def test_each_line_holds_a_thread_up_in_one_group_and_once(worker: Worker) -> None:
    lines = LinesToTry()
    switches = Switches(Quiet(), 0, lines)
    switches.active = False
    for line in (7, 8, 7):
        switches.saw("emit", frame(__file__, line), "line", None)
    assert worker.slept == []
    for line in (7, 8):
        switches.begin_group()
        assert str(switches.line) == f"emit is held up before {Path(__file__).name}:{line}"
        for _ in range(2):
            switches.saw("receive", frame(__file__, line), "line", None)  # another method's
            before = len(worker.slept)
            switches.saw("emit", frame(__file__, 15 - line), "line", None)
            assert len(worker.slept) == before
            switches.saw("emit", frame(__file__, line), "line", None)
    assert worker.slept == [HELD[-1]] * 2
    assert {line.method for line in lines.left} == {"receive"}


@pytest.mark.parametrize("reason", ["no thread of ours", "the run is over", "switched off", "an exception"])
def test_nothing_is_held_up_if(reason: str, worker: Worker) -> None:
    switches = Switches(Quiet(), 0, LinesToTry())
    worker.workers.over = reason == "the run is over"
    switches.active = reason != "switched off"
    token = current_worker.set(None) if reason == "no thread of ours" else None
    for _ in range(100):
        switches.saw("emit", frame(__file__), "exception" if reason == "an exception" else "line", None)
    if token:
        current_worker.reset(token)
    assert worker.slept == []


def test_only_the_handlers_own_files_and_methods_are_followed() -> None:
    seen = []

    class Notes(Tracer):
        def saw(self, method: str, at: Any, event: str, _arg: Any) -> None:
            seen.append((method, at.f_lineno, event))

    tracer = Notes(Quiet())
    assert tracer._enter("receive", frame("elsewhere.py")) is None
    line = tracer._enter("receive", frame(__file__))
    assert line(frame(__file__, 7), "line", None) is line
    assert seen == [("receive", 7, "line")]
    before = sys.gettrace()
    with tracer.over("copy"):
        assert sys.gettrace() is before
    with tracer.over("emit"):
        inside = sys.gettrace()
    assert inside is not before
    assert sys.gettrace() is before


def test_a_new_thread_is_held_up_in_lines_of_the_modules_only(worker: Worker) -> None:
    held, at = Held([queue], 5), frame(str(queue.__file__))
    assert held._enter(at, "call", None) is None  # not inside of the block
    before = threading.gettrace()
    with held:
        assert threading.gettrace() == held._enter
        assert held._enter(frame("elsewhere.py"), "call", None) is None
        line = held._enter(at, "call", None)
        for _ in range(100):
            assert line(at, "line", None) == line
        once = len(worker.slept)
        assert 5 < once < 40  # one in five
        for event in ("return", "exception"):
            for _ in range(50):
                line(at, event, None)
        worker.runnable = False  # it waits for a lock already
        for _ in range(50):
            line(at, "line", None)
        assert len(worker.slept) == once
    assert threading.gettrace() is before
    assert held._enter(at, "call", None) is None


@pytest.mark.parametrize("taken", [True, False])
def test_a_thread_is_not_held_up_while_it_has_a_lock(taken: bool, worker: Worker) -> None:
    owner = SimpleNamespace(_lock=threading.Lock())
    outer = frame(str(queue.__file__), self=owner)
    inner = frame(str(queue.__file__), back=frame("between.py", back=outer))
    held = Held([queue], 5)
    with held:
        line = held._enter(inner, "call", None)
        if taken:
            owner._lock.acquire()
        for _ in range(100):
            line(inner, "line", None)
    assert bool(worker.slept) is not taken


def test_work_that_fails_after_the_call_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool may still be at work when the call ends; what it does then may fail because of that."""
    tracer = Swallowed(Quiet(), lambda: True)
    future: Future[None] = Future()
    tracer._futures[id(future)] = future
    try:
        raise ValueError
    except ValueError as error:
        failed = error

    def wait_on(futures: list[Future[None]], timeout: float) -> Any:
        future.set_exception(failed)
        return wait(futures, timeout)

    monkeypatch.setattr(_tracing, "wait", wait_on, raising=False)
    assert tracer.unseen() == [failed]
