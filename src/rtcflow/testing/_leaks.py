"""What a test leaves behind: threads, tasks, file descriptors, coroutines that nobody awaited.

The pytest plugin (`_rtcflow_pytest`) puts `watch` around a test. What exists before the test is compared with what
exists after it. Threads and descriptors get a moment to end by themselves. Tasks do not: the garbage collector removes
a task without a reference, and only a line in a log would tell of it.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

GRACE = 2.0
"""Real seconds in which threads and descriptors may still end by themselves."""

POOLS = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "pytest_timeout", "pytest-timeout")
"""Names of threads that pools keep idle by design."""


@contextmanager
def watch() -> Iterator[list[str]]:
    """Compare before and after. The list that the context gives is filled when the block ends without an error."""
    found: list[str] = []
    before = _Open(_threads(), descriptors(), _tasks())
    destroyed = _Destroyed()
    logging.getLogger("asyncio").addHandler(destroyed)
    try:
        yield found
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
        else:  # not about a leak: hand it on
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    found += left


class _Destroyed(logging.Handler):
    """Collects asyncio's messages about tasks that were garbage-collected before they were done."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "destroyed but it is pending" in (text := record.getMessage()):
            self.told.append(text.splitlines()[0] + "".join(text.splitlines()[1:2]))


class _Open(NamedTuple):
    """What exists at one moment."""

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
            for kind, n in (descriptors() - before.descriptors).items()
        ]
        left += [f"task {task.get_name()!r}" for task in _tasks() - before.tasks]
        if not left or time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.02)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)}


def descriptors() -> Counter[str]:
    """How many files, sockets, pipes and event files are open (Linux). Devices do not count: libraries keep them."""
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
    """Tasks of asyncio loops that are not done, except the one in which anyio's plugin runs tests."""
    asyncio_tasks: Any = sys.modules.get("asyncio.tasks")
    if asyncio_tasks is None:
        return set()
    every: Any = getattr(asyncio_tasks, "_all_tasks", None) or getattr(asyncio_tasks, "_scheduled_tasks", ())
    return {
        task
        for task in list(every)
        if not task.done() and not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
    }
