"""A lock that tasks of any backend and worker threads share. It may be held across an `await`, and in a thread."""

from __future__ import annotations

import threading

from .bridge import ParkingLot

__all__ = ["Mutex"]


class Mutex:
    """Held by one task or thread at a time. It is free in order of luck, not of asking: the holders are few."""

    __slots__ = ("_held", "_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = ParkingLot(self._lock)
        self._held = False

    async def acquire(self) -> None:
        """Wait until nobody holds it, and hold it. Not a checkpoint if it is free. Safe to cancel."""
        with self._lock:
            while self._held:
                await self._waiting.park()
            self._held = True

    def acquire_sync(self) -> None:
        """`acquire` for a worker thread."""
        with self._lock:
            while self._held:
                self._waiting.park_sync()
            self._held = True

    def release(self) -> None:
        """Let others hold it; from any thread."""
        with self._lock:
            self._held = False
            if self._waiting.waiters:
                self._waiting.wake_all()
