"""A lock that tasks of any backend and worker threads share. It may be held across an `await`, and in a thread.

The lock of the standard library says whether it is held, so taking and releasing a free one are a call each. A side
that waits counts itself in `_wanted` before it tries once more. So either it finds the lock free, or the side that
releases it sees the count and wakes it: no wake-up is lost.
"""

from __future__ import annotations

import threading

from .bridge import ParkingLot

__all__ = ["Mutex"]


class Mutex:
    """Held by one task or thread at a time. It is free in order of luck, not of asking: the holders are few."""

    __slots__ = ("_held", "_lock", "_waiting", "_wanted")

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._lock = threading.Lock()
        self._waiting = ParkingLot(self._lock)
        self._wanted = 0

    def acquire_nowait(self) -> bool:
        """Hold it if it is free, and return whether it was; from any thread."""
        return self._held.acquire(blocking=False)

    async def acquire(self) -> None:
        """Wait until nobody holds it, and hold it. Not a checkpoint if it is free. Safe to cancel."""
        with self._lock:
            self._wanted += 1
            try:
                while not self._held.acquire(blocking=False):
                    await self._waiting.park()
            finally:
                self._wanted -= 1

    def acquire_sync(self) -> None:
        """`acquire` for a worker thread."""
        with self._lock:
            self._wanted += 1
            try:
                while not self._held.acquire(blocking=False):
                    self._waiting.park_sync()
            finally:
                self._wanted -= 1

    def release(self) -> None:
        """Let others hold it; from any thread."""
        self._held.release()
        if self._wanted:
            with self._lock:
                self._waiting.wake_all()
