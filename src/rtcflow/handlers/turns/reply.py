"""Calling the reply function, whatever kind it is, and getting it back when it is interrupted.

Each reply is one task, in one cancel scope, in its connection's task group. An async generator lives and dies in that
task: cancelled at once where it awaits, or closed where it stands at a `yield`, its `finally` has run when the task is
done. A generator that is no coroutine lives in one worker thread from its first line to its `close()`: nobody can stop
a thread, so an interrupted one is left to reach its next `yield` and is closed there, while what it yields is dropped.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ..._core.bridge import ParkingLot
from ...outputs import AdditionalOutputs, CloseStream
from ..items import parse_emit
from .arguments import is_async, name_of_function
from .ledger import PlayoutLedger, Say
from .timeline import TurnTimeline

logger = logging.getLogger(__name__)

CLOSING = 2.0
"""Seconds that the `finally` of an interrupted async generator may take."""


@dataclass(eq=False, slots=True)
class Chunk:
    """What a reply yielded, checked; or (`last`) that it ended.

    Attributes:
        reply: Whose it is.
        audio: ``(sample_rate, samples)``: int16, shape (channels, n).
        text: The words in it.
        outputs: Values for the application.
        close: The wish to end the connection.
        last: Nothing more will come.
    """

    reply: Reply
    audio: tuple[int, NDArray[np.int16]] | None = None
    text: str = ""
    outputs: AdditionalOutputs | None = None
    close: CloseStream | None = None
    last: bool = False


class Reply:
    """One call of a reply function.

    Attributes:
        turn: The turn it answers, as it was when the reply began.
        number: Names the reply, for a handler that has several.
        ledger: What it has said.
        marks: Moments that its function has named, on the loop's clock.
        cancelled: Nothing of it shall be heard any more; its worker thread looks at it, too.
        stopped: It was interrupted: what leaves from now on is not its audio.
        at_yield: Its async generator stands at a `yield`.
        paused: The interruption may be a false alarm.
        has_sound: Some of its audio was handed over to be played.
        scope: Cancels it.
        committed: It may be heard; set later only for one that was started before the user's turn had ended.
        all_emitted: `emit` has given all of it to be played.
        sounded: The first of it has left, or never will.
        resumed: It goes on after `pause`.
        over: It was played to its end, or interrupted, or the call has ended.
    """

    def __init__(self, turn: TurnTimeline) -> None:
        self.turn = turn
        self.number = 0
        self.ledger = PlayoutLedger()
        self.marks: dict[str, float] = {}
        self.cancelled = self.stopped = self.paused = self.at_yield = self.has_sound = False
        self.scope = anyio.CancelScope()
        self.committed = anyio.Event()
        self.over = anyio.Event()
        self.all_emitted = anyio.Event()
        self.sounded = anyio.Event()
        self.resumed = anyio.Event()

    def interrupt(self, now: float) -> None:
        """End it, at the loop's time `now`; `Outbox.let_go` must follow.

        An async generator that stands at a `yield` is closed there, and may await in its `finally` for `CLOSING`
        seconds. One that awaits something is cancelled.
        """
        self.cancelled = True
        if self.at_yield:
            self.scope.deadline = now + CLOSING
        else:
            self.scope.cancel()

    def pause(self) -> None:
        """Hold it back until `resume`."""
        self.paused, self.resumed = True, anyio.Event()

    def resume(self) -> None:
        """It goes on."""
        self.paused = False
        self.resumed.set()

    def chunk(self, item: object) -> Chunk:
        """Check what was yielded.

        Raises:
            MediaError: It is nothing that can be emitted.
        """
        text = ""
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Say):
            text, item = item[0].text, (item[0].audio, item[1])
        elif isinstance(item, Say):
            text, item = item.text, item.audio
        emitted = parse_emit(item, what="the reply function")
        return Chunk(self, emitted.audio, text, emitted.outputs, emitted.close)


class Outbox:
    """Chunks between the reply and `emit`: one waits, then the reply is asked to wait.

    Cancelled replies never wait and put nothing. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._takers = ParkingLot(self._lock)
        self._putters = ParkingLot(self._lock)
        self._chunks: deque[Chunk] = deque()
        self._paused = False
        self._error: Exception | None = None

    async def put(self, chunk: Chunk) -> None:
        """Put `chunk`, waiting for room. Safe to cancel."""
        with self._lock:
            while not self._try_put(chunk):
                await self._putters.park()
        await anyio.lowlevel.checkpoint()

    def put_sync(self, chunk: Chunk) -> None:
        """`put` for a worker thread."""
        with self._lock:
            while not self._try_put(chunk):
                self._putters.park_sync()

    def _try_put(self, chunk: Chunk) -> bool:
        if chunk.reply.cancelled:
            return True
        if self._chunks:
            return False
        self._chunks.append(chunk)
        self._takers.wake_all()
        return True

    async def take(self) -> Chunk:
        """Take the next chunk; none comes while paused. Safe to cancel: none is lost.

        Raises:
            Exception: What `fail` was given.
        """
        with self._lock:
            while self._error is None and (self._paused or not self._chunks):
                await self._takers.park()
            if self._error is not None:
                raise self._error
            chunk = self._chunks.popleft()
            self._putters.wake_all()
            return chunk

    def pause(self) -> None:
        """Give nothing until `resume` or `drop`."""
        with self._lock:
            self._paused = True

    def resume(self, first: list[Chunk]) -> None:
        """Go on, with `first` before what waits."""
        with self._lock:
            self._paused = False
            self._chunks.extendleft(reversed(first))
            self._takers.wake_all()

    def drop(self) -> None:
        """Drop what waits."""
        with self._lock:
            self._paused = False
            self._chunks.clear()
            self._putters.wake_all()

    def let_go(self) -> None:
        """Let cancelled replies that wait for room wait no longer."""
        with self._lock:
            self._putters.wake_all()

    def fail(self, error: Exception) -> None:
        """Have `take` raise `error`."""
        with self._lock:
            self._error = error
            self._takers.wake_all()


class RunsThreads(Protocol):
    """What gives a reply its worker thread: `StreamHandlerBase.run_sync`."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run `function` in a worker thread."""


async def run_reply(
    reply: Reply, fn: Callable[..., Any], args: list[Any], outbox: Outbox, run_sync: RunsThreads
) -> None:
    """Call ``fn(*args)`` and put all it yields, or returns, into `outbox`; when this is done, so is `fn`.

    (All but a plain generator in its thread, which may still be on its way to its next `yield`.) To be awaited within
    ``with reply.scope``, so that `Reply.interrupt` can end it.

    Raises:
        Exception: What it raises, or `MediaError` for what it yields.
    """
    if is_async(fn):
        result = fn(*args)
        if inspect.isawaitable(result):
            result = await result
    else:
        result = await run_sync(_for_thread(reply, fn, args, outbox))
    await _drain(reply, result, fn, outbox, run_sync)


async def _drain(reply: Reply, result: object, fn: Callable[..., Any], outbox: Outbox, run_sync: RunsThreads) -> None:
    """Put what a call gave: a stream of chunks, or a single one."""
    if isinstance(result, AsyncIterator):
        try:
            async for item in result:
                await _hand_over(reply, item, outbox)
                if reply.cancelled:
                    break
        finally:
            if isinstance(result, AsyncGenerator):
                await _close(result)
    elif isinstance(result, Iterator):
        await run_sync(_for_thread(reply, fn, None, outbox, result))
    elif inspect.isawaitable(result):
        await _drain(reply, await result, fn, outbox, run_sync)
    elif result is not None:
        await _hand_over(reply, result, outbox)


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    """Have its finally run.

    No cancel scope around this: the generator may have one open, which must close first.
    """
    try:
        await generator.aclose()
    except BaseExceptionGroup as group:
        # A task group that was open across a yield wraps what closed it.
        _, others = group.split(GeneratorExit)
        if others is not None:
            raise others from None


async def _hand_over(reply: Reply, item: object, outbox: Outbox) -> None:
    chunk = reply.chunk(item)
    reply.at_yield = True
    try:
        await outbox.put(chunk)
    finally:
        reply.at_yield = False


def _for_thread(
    reply: Reply, fn: Callable[..., Any], args: list[Any] | None, outbox: Outbox, result: object = None
) -> Callable[[], object]:
    """What a worker thread shall do, under the name of `fn`: call it (`args` None: it gave `result`), go through it."""

    def work() -> object:
        try:
            return _drive(reply, result if args is None else fn(*args), outbox)
        except Exception:
            if not reply.cancelled:
                raise
            # Supervises: nobody waits for this thread any more.
            logger.exception("the reply function %s raised after its reply was over", work.__qualname__)
            return None

    work.__qualname__ = name_of_function(fn)
    return work


def _drive(reply: Reply, result: object, outbox: Outbox) -> object:
    """Go through what a plain function gave, if it is an iterator, in this thread.

    Returns:
        What it gave, if that is not an iterator.
    """
    if not isinstance(result, Iterator):
        return result
    try:
        for item in result:
            if not reply.cancelled:
                outbox.put_sync(reply.chunk(item))
            if reply.cancelled:  # while it waited for room: it must not be woken from its yield
                break
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    return None


class ThreadLimit:
    """Worker threads of which at most `most` run, those included that nobody waits for any more. Thread-safe.

    Nobody can stop a thread: that of an interrupted reply goes on to its next `yield`. So as not to gather any number
    of them, whoever wants one more waits until one has come back.

    Args:
        most: Threads at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._waiting = ParkingLot(self._lock)
        self._busy: list[str] = []

    async def run(self, run_sync: RunsThreads, function: Callable[..., Any], *args: Any) -> Any:
        """``await run_sync(function, *args)``, when there is room.

        Cancelling this leaves the thread to itself, if it has begun.
        """
        name = name_of_function(function)
        await self._enter(name)
        begun = given_up = False

        def work() -> Any:
            nonlocal begun
            with self._lock:
                begun = not given_up
            if not begun:
                return None
            try:
                return function(*args)
            finally:
                self._leave(name)

        work.__qualname__ = name
        try:
            return await run_sync(work)
        finally:
            with self._lock:
                given_up = not begun
            if given_up:
                self._leave(name)

    async def _enter(self, name: str) -> None:
        with self._lock:
            if len(self._busy) >= self.most:
                logger.warning(
                    "%s waits: %d worker threads of this connection are still in %s, which nobody waits for any more. "
                    "Yield more often there, or write it async, so that it can be cancelled",
                    name,
                    len(self._busy),
                    ", ".join(sorted(set(self._busy))),
                )
            while len(self._busy) >= self.most:
                await self._waiting.park()
            self._busy.append(name)

    def _leave(self, name: str) -> None:
        with self._lock:
            self._busy.remove(name)
            self._waiting.wake_all()


__all__ = ["Chunk", "Outbox", "Reply", "ThreadLimit", "run_reply"]
