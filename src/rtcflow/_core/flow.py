"""Bounded queues between threads, tasks and backends, one policy each.

A `Flow` carries frames or messages one way. Any thread may put; one task or one worker thread takes. The worker of a
sync handler takes frames straight from the flow that the engine's thread fills. So a frame changes threads once, and
does not pass through the application's loop. Queues of asyncio or anyio would need that loop, and queues of `queue`
could not be awaited.

The invariant: ``put == taken + dropped + waiting`` at every moment. Every item is counted once, also after the end.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from .bridge import ParkingLot

T = TypeVar("T")

MOST_IN_A_ROW = 8
"""Items that `take_in_a_row` takes from a backlog without letting other tasks run. How long a task takes for these
eight depends on its handler alone."""


class Policy(enum.Enum):
    """What happens when something is put into a full flow."""

    BLOCK = "block"
    """`put` and `put_sync` wait for room. `put_nowait` raises `WouldBlock`."""

    DROP_OLDEST = "drop_oldest"
    """The oldest waiting item makes room; `FlowStatistics.dropped` counts it."""

    @property
    def drops(self) -> bool:
        """Whether putting never waits."""
        return self is Policy.DROP_OLDEST


@dataclass(frozen=True, slots=True)
class FlowStatistics:
    """A flow's figures; ``put == taken + dropped + waiting`` at every moment.

    Attributes:
        bound: The most items that may wait.
        waiting: Items waiting now.
        put: Items put since the beginning.
        taken: Items taken since the beginning.
        dropped: Items that were never taken: pushed out, cleared, or put after the end.
        most_waiting: The most items that ever waited.
    """

    bound: int
    waiting: int
    put: int
    taken: int
    dropped: int
    most_waiting: int


class Flow(Generic[T]):
    """A bounded queue with a named policy, one consumer, and an end.

    Args:
        bound: The most items that wait, at least 1. With `Policy.DROP_OLDEST` a bound of 1 means "the latest".
        policy: What happens at the bound.

    The end: after `end()` the items that wait can still be taken, then taking raises `anyio.EndOfStream`. After
    `end(error)` and after `close()` nothing can be taken: `anyio.BrokenResourceError` (its ``__cause__`` is `error`)
    or `anyio.ClosedResourceError` is raised. The first ending counts. Items put later are dropped and counted.
    """

    def __init__(self, bound: int, policy: Policy) -> None:
        if bound < 1:
            raise ValueError(f"a flow needs a bound of at least 1, not {bound}")
        self.bound = bound
        self.policy = policy
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._takers = ParkingLot(self._lock)
        self._putters = ParkingLot(self._lock)
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._taps: tuple[Callable[[T], object], ...] = ()
        self._taking = False
        self._in_a_row = 0  # items taken without any wait
        self._put = self._taken = self._dropped = self._most_waiting = 0

    def __repr__(self) -> str:
        return f"<Flow {len(self._items)}/{self.bound} {self.policy.value}{' ended' if self._ended else ''}>"

    # -- putting

    def put_nowait(self, item: T) -> None:
        """Put `item` at once; from any thread.

        Raises:
            anyio.WouldBlock: The flow is full and its policy is `Policy.BLOCK`.
        """
        with self._lock:
            if not self._try_put(item):
                raise anyio.WouldBlock

    async def put(self, item: T) -> None:
        """Put `item`, waiting for room if the policy says so. Cancelling this is safe: `item` was not put.

        A checkpoint.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        with self._lock:
            while not self._try_put(item):
                await self._putters.park()
        await anyio.lowlevel.cancel_shielded_checkpoint()  # a cancellation here would come too late

    def put_sync(self, item: T, timeout: float | None = None) -> bool:
        """`put` for a worker thread; False if there was no room within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while not self._try_put(item):
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or not self._putters.park_sync(left):
                    return False
        return True

    def _try_put(self, item: T) -> bool:
        if self._ended:
            self._put += 1
            self._dropped += 1
            return True
        if len(self._items) >= self.bound:
            if self.policy is Policy.BLOCK:
                return False
            self._items.popleft()
            self._dropped += 1
        self._items.append(item)
        self._put += 1
        self._most_waiting = max(self._most_waiting, len(self._items))
        if self._takers.waiters:
            self._takers.wake_all()
        for tap in self._taps:
            tap(item)
        return True

    def tap(self, tap: Callable[[T], object]) -> None:
        """Have `tap` called with each item that is put from now on, until the end, also if the item is dropped later.

        It is called in the thread that puts, with the flow's lock held: it must return at once.
        """
        with self._lock:
            self._taps = (*self._taps, tap)

    def untap(self, tap: Callable[[T], object]) -> None:
        """Take back `tap`. Does nothing if `tap` is not there."""
        with self._lock:
            self._taps = tuple(one for one in self._taps if one != tap)

    # -- taking

    async def take(self) -> T:
        """Wait for the next item; always a checkpoint.

        Raises:
            anyio.EndOfStream: The other side finished; nothing more will come.
            anyio.BrokenResourceError: The link failed; ``__cause__`` says how.
            anyio.ClosedResourceError: This side closed the flow.
            anyio.BusyResourceError: Another task or thread is taking.

        Cancelling this is safe: no item is lost.
        """
        if self._items:
            await anyio.lowlevel.checkpoint()  # before an item is taken: afterwards it could be lost
        return await self.take_in_a_row()

    async def take_in_a_row(self) -> T:
        """`take` for loops that do nothing else: a checkpoint only if it waits, and at each ninth item of a backlog."""
        self._in_a_row += 1
        if self._in_a_row > MOST_IN_A_ROW:  # a flow that is never empty must not starve the loop
            self._in_a_row = 0
            await anyio.lowlevel.checkpoint()
        with self._lock:
            if self._taking or not self._ready():
                self._in_a_row = 0
                self._begin_taking()
                try:
                    while not self._ready():
                        await self._takers.park()
                finally:
                    self._taking = False
            return self._pop()

    def take_sync(self, timeout: float | None = None) -> T:
        """`take` for a worker thread.

        Raises:
            TimeoutError: Nothing came within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._begin_taking()
            try:
                while not self._ready():
                    left = None if deadline is None else deadline - time.monotonic()
                    if (left is not None and left <= 0) or not self._takers.park_sync(left):
                        raise TimeoutError
            finally:
                self._taking = False
            return self._pop()

    def take_nowait(self) -> T:
        """Take the next item if one waits.

        Raises:
            anyio.WouldBlock: No item waits.
            Exception: What `take` raises at the end.
        """
        with self._lock:
            if not self._ready():
                raise anyio.WouldBlock
            return self._pop()

    def _begin_taking(self) -> None:
        if self._taking:
            raise anyio.BusyResourceError("taking from")
        self._taking = True

    def _ready(self) -> bool:
        """Whether an item can be taken; raises the end of the flow if no item will ever come."""
        if self._items:
            return True
        if self._closed:
            raise anyio.ClosedResourceError
        if self._error is not None:
            raise anyio.BrokenResourceError from self._error
        if self._ended:
            raise anyio.EndOfStream
        return False

    def _pop(self) -> T:
        item = self._items.popleft()
        self._taken += 1
        if self._putters.waiters:
            self._putters.wake_all()
        return item

    # -- ending

    def clear(self) -> list[T]:
        """Drop everything that waits, and return it; from any thread."""
        with self._lock:
            dropped = list(self._items)
            self._items.clear()
            self._dropped += len(dropped)
            self._putters.wake_all()
        return dropped

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will be put: the peer finished, or (`error`) the link failed. From any thread; idempotent."""
        with self._lock:
            if not self._ended:
                self._error = error
                self._finish(drop=error is not None)

    def close(self) -> None:
        """This side wants nothing more. From any thread; idempotent."""
        with self._lock:
            self._closed = True
            self._finish(drop=True)

    def _finish(self, *, drop: bool) -> None:
        self._ended = True
        if drop:
            self._dropped += len(self._items)
            self._items.clear()
        self._takers.wake_all()
        self._putters.wake_all()

    # -- looking

    @property
    def closed(self) -> bool:
        """Whether nothing can be put any more, since `end` or `close` was called."""
        return self._ended

    def __len__(self) -> int:
        return len(self._items)

    def statistics(self) -> FlowStatistics:
        """The flow's figures now; from any thread."""
        with self._lock:
            return FlowStatistics(
                bound=self.bound,
                waiting=len(self._items),
                put=self._put,
                taken=self._taken,
                dropped=self._dropped,
                most_waiting=self._most_waiting,
            )
