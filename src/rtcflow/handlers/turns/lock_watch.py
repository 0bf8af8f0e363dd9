"""Names a function in a worker thread that holds the interpreter's lock, so that no other Python code can run.

A thread that computes in Python gives the lock up every few milliseconds. Code in C need not: while a speech model
computes, every call in the process stands still. The loop notices it by a timer that fires late. The culprit is the
worker thread whose own processor time grew meanwhile, while the loop's did not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .arguments import name_of_function

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks, while a function runs in a thread."""

STALL = 0.25
"""Seconds by which the loop must be late: callers hear a gap of that length (0.2 s wait to be played)."""

SHARE = 0.5
"""Of the delay that must be the thread's own processor time; on a busy machine it does not get all of it."""

AGAIN = 60.0
"""Seconds until the next warning of the same call."""


def holds_lock(late: float, theirs: float, ours: float) -> bool:
    """Whether a worker thread has kept the loop from running.

    Args:
        late: Seconds by which the loop is late.
        theirs: Processor time of the thread since the loop ran last, in seconds.
        ours: Processor time of the loop's thread since then. If it has computed itself, that is why it is late.
    """
    return late >= STALL and theirs >= SHARE * late and ours < SHARE * late


class CallsLater(Protocol):
    """`HandlerLoop.call_later`."""

    def __call__(self, delay: float, callback: Callable[[], object], /) -> Any: ...


class LockWatch:
    """Watches functions of one connection in its worker threads; each may be watched only in real time."""

    def __init__(self) -> None:
        self._warned: float | None = None

    async def run(
        self, call_later: CallsLater, run_sync: Callable[..., Awaitable[Any]], function: Callable[..., Any], *args: Any
    ) -> Any:
        """``await run_sync(function, *args)``, watched.

        Args:
            call_later: The connection's loop's.
            run_sync: Runs a function in a worker thread.
            function: What runs there.
            *args: Its arguments.
        """
        name = name_of_function(function)
        clock: int | None = None  # the worker thread's own processor time, readable from here
        seen = ended = 0.0
        due, ours = time.perf_counter() + TICK, time.thread_time()
        handle: Any = None

        def work() -> Any:
            nonlocal clock, seen, ended
            seen = time.thread_time()
            if hasattr(time, "pthread_getcpuclockid"):
                clock = time.pthread_getcpuclockid(threading.get_ident())
            try:
                return function(*args)
            finally:
                clock, ended = None, time.thread_time()

        def look() -> None:
            nonlocal due, ours, seen, handle
            judge()
            due, ours = time.perf_counter() + TICK, time.thread_time()
            handle = call_later(TICK, look)

        def judge() -> None:
            nonlocal seen
            late = time.perf_counter() - due
            theirs = ended if clock is None else _read(clock)
            if holds_lock(late, theirs - seen, time.thread_time() - ours):
                self._warn(name, late, time.perf_counter())
            seen = max(seen, theirs)

        work.__qualname__ = name
        handle = call_later(TICK, look)
        try:
            return await run_sync(work)
        finally:
            handle.cancel()
            judge()

    def _warn(self, name: str, seconds: float, now: float) -> None:
        if self._warned is None or now - self._warned >= AGAIN:
            self._warned = now
            logger.warning(
                "%s held the interpreter's lock for %.2f s: no other Python code of this process ran, and every call "
                "stood still. Run it in a process: await handler.run_process(function, …)",
                name,
                seconds,
            )


def _read(clock: int) -> float:
    """Processor time of a thread; 0.0 if it has ended in this moment."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0
