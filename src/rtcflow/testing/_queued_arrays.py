"""Is what a handler puts into a queue of its own still what it put there?

An array that is written to while it waits in a queue reaches the other side as another one. So does one that is put
into the same queue again while the other side still works on it, unless it came back through another queue meanwhile.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["QueuedArrays", "checksum"]

LARGEST: Final = 2_000_000
"""Bytes of an array that is looked at."""


@dataclass(frozen=True)
class _Put:
    """An array that was put into a queue: which one, and what it was like."""

    array: weakref.ref[NDArray[Any]]
    queue: int
    checksum: int


class QueuedArrays:
    """Notes arrays that are put into queues.

    Attributes:
        broken: What was wrong first, in a sentence; empty if nothing was.
    """

    def __init__(self) -> None:
        self.broken: str = ""
        self._lock = threading.Lock()
        self._puts: dict[int, _Put] = {}

    def put(self, queue: object, item: object) -> None:
        """An item is about to be put into a queue."""
        for array in _arrays(item):
            now = _Put(weakref.ref(array), id(queue), checksum(array))
            with self._lock:
                before = self._puts.get(id(array))
                self._puts[id(array)] = now
                if len(self._puts) > _MOST:
                    self._puts = {key: one for key, one in self._puts.items() if one.array() is not None}
            again = before is not None and before.array() is array and before.queue == now.queue
            if again and before is not None and before.checksum != now.checksum:
                self._say("the same array is put there again, with other content")

    def taken(self, queue: object, item: object) -> None:
        """An item was taken out of a queue."""
        for array in _arrays(item):
            with self._lock:
                put = self._puts.get(id(array))
            if put is not None and put.array() is array and put.queue == id(queue) and checksum(array) != put.checksum:
                self._say("it is another one when it is taken out")

    def _say(self, what: str) -> None:
        self.broken = self.broken or (
            f"an array that was put into a queue is not written to afterwards ({what}): put a copy there "
            "(array.copy()), or make a new array each time"
        )


_MOST: Final = 1000


def _arrays(item: object) -> Iterator[NDArray[Any]]:
    """The arrays in an item of a queue: itself, or in a tuple such as (rate, samples)."""
    for one in item if isinstance(item, tuple) else (item,):
        if isinstance(one, np.ndarray) and 0 < one.nbytes <= LARGEST:
            yield one


def checksum(buffer: Any) -> int:
    """Another number when a picture, an array or a list of numbers has changed."""
    if isinstance(buffer, np.ndarray):
        return zlib.crc32(buffer.tobytes())
    if isinstance(buffer, list):
        return zlib.crc32(repr(buffer).encode())
    total = 0
    for plane in buffer.planes:
        total = zlib.crc32(bytes(plane), total)
    return total
