"""Names a function in a worker thread that holds the interpreter's lock, so that no other Python code can run.

A thread that computes in Python gives the lock up every few milliseconds. Code in C need not: while a speech model
computes, every call in the process stands still. The loop notices it by a timer that fires late. The culprit is the
worker thread whose own processor time grew meanwhile, while the loop's did not.

One task watches all threads of a connection, and runs only while it has any. Nothing is done per call or per frame. It
is one task that sleeps again and again. Each timer of the handler's loop would be a new task, and five new tasks a
second make a call 5 % dearer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

logger: logging.Logger = logging.getLogger("rtcflow")

TICK = 0.2
"""Seconds between two looks, while there is a thread."""

STALL = 0.25
"""Seconds by which the loop must be late: callers hear a gap of that length (0.2 s wait to be played)."""

SHARE = 0.5
"""Share of the delay that must be the thread's own processor time. On a busy machine the thread does not run all the
time.
"""

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


class Repeats(Protocol):
    """Begins to call `callback` each `seconds` in the loop's thread, until `cancel` of what it returns is called."""

    def __call__(self, seconds: float, callback: Callable[[], object], /) -> Any: ...


class WatchedThread:
    """The processor time of one worker thread at work.

    Args:
        name: Of what it runs, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._clock: int | None = None  # readable from other threads
        self._seen = self._ended = 0.0

    def begin(self) -> None:
        """The work begins; called in the thread."""
        self._seen = time.thread_time()
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def end(self) -> None:
        """The work is done; called in the thread."""
        self._clock, self._ended = None, time.thread_time()

    def take(self) -> float:
        """Seconds of processor time since this was called last; called in the loop's thread."""
        clock = self._clock
        total = self._ended if clock is None else _read(clock)
        since, self._seen = total - self._seen, max(self._seen, total)
        return since


class LockWatch:
    """Watches the worker threads of one connection; used in the loop's thread, and in real time only.

    Args:
        repeat: The connection's.
    """

    def __init__(self, repeat: Repeats) -> None:
        self._repeat = repeat
        self._threads: list[WatchedThread] = []
        self._timer: Any = None
        self._due = self._ours = 0.0
        self._warned: float | None = None

    def enter(self, name: str) -> WatchedThread:
        """A thread is about to be started."""
        thread = WatchedThread(name)
        self._threads.append(thread)
        if self._timer is None:
            self._begin_wait()
            self._timer = self._repeat(TICK, self._look)
        return thread

    def leave(self, thread: WatchedThread) -> None:
        """Nobody waits for the thread any more."""
        self._judge([thread])
        self._threads.remove(thread)
        if not self._threads and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_wait(self) -> None:
        self._due, self._ours = time.perf_counter() + TICK, time.thread_time()

    def _look(self) -> None:
        self._judge(self._threads)
        self._begin_wait()

    def _judge(self, threads: list[WatchedThread]) -> None:
        late, ours = time.perf_counter() - self._due, time.thread_time() - self._ours
        for thread in threads:
            if holds_lock(late, thread.take(), ours):
                self._warn(thread.name, late, time.perf_counter())

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
