"""One writer, any number of readers, each at its own pace."""

from __future__ import annotations

import threading
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from .flow import Flow, FlowStatistics, Policy

T = TypeVar("T")

BOUND: Final = 256
"""The most items that wait for one reader: many seconds of transcripts, little memory."""


class Reader(AsyncIterator[T]):
    """One reader's end of a `Fanout`: an async iterator that stops when the fanout has ended.

    For one task at a time. Dropping it needs no closing: the fanout holds it weakly. While a task waits for an item,
    the fanout holds a reference to the reader, and so to the task. So a task without another reference reads on until
    the fanout has ended.
    """

    def __init__(
        self,
        flow: Flow[T],
        forget: Callable[[Flow[T]], None],
        holding: Callable[[Flow[T]], AbstractContextManager[None]],
    ) -> None:
        self._flow = flow
        self._forget = forget
        self._holding = holding

    def close(self) -> None:
        """Read no more: nothing is kept for it from here on. Idempotent."""
        self._flow.close()
        self._forget(self._flow)

    async def aclose(self) -> None:
        """The same as `close`, as async generators have it: for `contextlib.aclosing`. A checkpoint."""
        self.close()
        await anyio.lowlevel.checkpoint()

    async def __anext__(self) -> T:
        """Wait for the next item. Safe to cancel: no item is lost.

        Raises:
            anyio.ClosedResourceError: It was closed.
            anyio.BusyResourceError: Another task is waiting for the next item.
        """
        try:
            with self._holding(self._flow):
                return await self._flow.take()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def statistics(self) -> FlowStatistics:
        """How many items this reader got, and how many were dropped because it was slow."""
        return self._flow.statistics()


class Fanout(Generic[T]):
    """Hands each item to every reader; from any thread.

    Items that are put before there is a reader wait for the first one. Later readers get what is put after they came. A
    reader that falls behind by more than `bound` items loses the oldest of them, and hinders nobody.

    Args:
        bound: The most items that wait for one reader, and for the first one.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._lock = threading.Lock()
        self._early: deque[T] | None = deque(maxlen=bound)
        self._flows: weakref.WeakSet[Flow[T]] = weakref.WeakSet()
        self._waited_for: Counter[Flow[T]] = Counter()  # asyncio holds tasks weakly, so somebody must hold the flow
        self._ended = False

    def put(self, item: T) -> None:
        """Hand `item` to every reader; returns at once. After `end` it is dropped."""
        with self._lock:
            if self._early is not None:
                self._early.append(item)
            for flow in list(self._flows):
                flow.put_nowait(item)

    @property
    def readers(self) -> int:
        """How many readers there are now."""
        with self._lock:
            return len(self._flows)

    def read(self) -> Reader[T]:
        """A new reader. After `end` it still gets what waits for the first one."""
        flow = Flow[T](self._bound, Policy.DROP_OLDEST)
        with self._lock:
            early, self._early = self._early, None
            for item in early or ():
                flow.put_nowait(item)
            self._flows.add(flow)
            if self._ended:
                flow.end()
        return Reader(flow, self._forget, self._holding)

    @contextmanager
    def _holding(self, flow: Flow[T]) -> Iterator[None]:
        """Hold `flow` while a task waits for its next item."""
        with self._lock:
            self._waited_for[flow] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waited_for[flow] -= 1
                if not self._waited_for[flow]:
                    del self._waited_for[flow]

    def _forget(self, flow: Flow[T]) -> None:
        with self._lock:
            self._flows.discard(flow)

    def end(self) -> None:
        """Nothing more will be put: readers stop after what waits for them. Idempotent."""
        with self._lock:
            self._ended = True
            for flow in list(self._flows):
                flow.end()
