"""The pytest plugin: loaded by itself when `rtcflow` is installed.

Fixtures:
    virtual_backend: a backend in virtual time; give it to anyio's plugin by overriding its fixture:

        @pytest.fixture
        def anyio_backend(virtual_backend):
            return virtual_backend

    real_backend: a backend in real time: asyncio, asyncio on uvloop (if it is installed), trio.
    virtual_clock: a clock in virtual time for pytest-trio: having it as a fixture is enough.

The guard against leaks: a test marked ``@pytest.mark.leak_guard``, or every test with ``--leak-guard``, fails if it
leaves a thread, a task or a file descriptor behind.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

GRACE = 2.0
"""Real seconds in which what a test left may still end by itself."""

POOLS = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "pytest_timeout", "pytest-timeout")
"""Names of threads that pools keep idle by design."""

TRIO = importlib.util.find_spec("trio") is not None
UVLOOP = importlib.util.find_spec("uvloop") is not None

VIRTUAL = ["asyncio", *(["trio"] if TRIO else [])]
REAL = [
    pytest.param(("asyncio", {}), id="asyncio"),
    *([pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")] if UVLOOP else []),
    *([pytest.param(("trio", {}), id="trio")] if TRIO else []),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--leak-guard``."""
    parser.getgroup("rtcflow").addoption(
        "--leak-guard", action="store_true", help="fail each test that leaves a thread, a task or a descriptor behind"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line("markers", "leak_guard: fail if the test leaves a thread, a task or a descriptor behind")


@pytest.fixture(params=VIRTUAL, ids=[f"{name}-virtual" for name in VIRTUAL])
def virtual_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A backend's name and options; its time is virtual, and new for each test."""
    from . import clocks

    return clocks.virtual_backend(request.param)


@pytest.fixture(params=REAL)
def real_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A backend's name and options; its time is real."""
    name, options = request.param
    return name, dict(options)


@pytest.fixture
def virtual_clock() -> Any:
    """A virtual clock for one run of trio (pytest-trio runs a test with the clock it finds among the fixtures)."""
    if not TRIO:
        pytest.skip("trio is not installed")
    from ._virtual_trio import VirtualClock

    return VirtualClock()


@pytest.fixture(autouse=True)
def _leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    if not (request.config.getoption("--leak-guard") or request.node.get_closest_marker("leak_guard")):
        yield
        return
    before = _Open(_threads(), _descriptors(), _tasks())
    destroyed = _Destroyed()
    logging.getLogger("asyncio").addHandler(destroyed)
    try:
        yield
        # Before anything is collected: a task that nobody keeps is gone afterwards, with a word in a log.
        tasks = [f"task {task.get_name()!r}" for task in _tasks() - before.tasks]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gc.collect()
        left = sorted({*tasks, *_what_is_left(before), *destroyed.told})
    finally:
        logging.getLogger("asyncio").removeHandler(destroyed)
    for warning in caught:
        if "never awaited" in str(warning.message) or issubclass(warning.category, ResourceWarning):
            left.append(str(warning.message))
        else:  # no affair of the guard
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if left:
        pytest.fail(f"{request.node.name} left behind: {'; '.join(left)}")


class _Destroyed(logging.Handler):
    """Hears asyncio tell of tasks that were collected before they were done."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "destroyed but it is pending" in (text := record.getMessage()):
            self.told.append(text.splitlines()[0] + "".join(text.splitlines()[1:2]))


class _Open(NamedTuple):
    """What there is at one moment."""

    threads: set[threading.Thread]
    descriptors: Counter[str]
    tasks: set[Any]


def _what_is_left(before: _Open) -> list[str]:
    deadline = time.monotonic() + GRACE
    while True:
        gc.collect()
        left = [f"thread {thread.name!r}" for thread in _threads() - before.threads]
        left += [
            f"file {kind!r}" if kind.startswith("/") else f"{n} {kind}(s)"
            for kind, n in (_descriptors() - before.descriptors).items()
        ]
        left += [f"task {task.get_name()!r}" for task in _tasks() - before.tasks]
        if not left or time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.02)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)}


def _descriptors() -> Counter[str]:
    """How many sockets, pipes, event files and files are open (Linux); devices are the libraries' own affair."""
    kinds: Counter[str] = Counter()
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return kinds
    for entry in folder.iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of this very listing
            continue
        if not target.startswith(("/dev/", "/proc/", "/sys/")):
            kinds[target if target.startswith("/") else target.split(":[", maxsplit=1)[0]] += 1
    return kinds


def _tasks() -> set[Any]:
    """Tasks of asyncio loops that are not done; but for the one in which anyio's plugin runs tests."""
    asyncio_tasks: Any = sys.modules.get("asyncio.tasks")
    if asyncio_tasks is None:
        return set()
    every: Any = getattr(asyncio_tasks, "_all_tasks", None) or getattr(asyncio_tasks, "_scheduled_tasks", ())
    return {
        task
        for task in list(every)
        if not task.done() and not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
    }
