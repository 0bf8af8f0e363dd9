"""Calls the reply function, of whatever kind it is, and stops it when it is interrupted.

Each reply is one task, in one cancel scope, in its connection's task group. An async generator begins and ends in that
task. If it awaits something, it is cancelled at once. If it stands at a `yield`, it is closed there. When the task is
done, its `finally` has run.

A plain generator lives in one worker thread from its first line to its `close()`. Nobody can stop a thread. So after an
interruption it runs on to its next `yield` and is closed there. Its output is dropped.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ..._core.bridge import ParkingLot
from ..._core.moved import absent
from ...outputs import AdditionalOutputs, CloseStream
from ..functions import close_iterator
from ..items import parse_emit
from ..ledger import PlayoutLedger, Say
from .timeline import TurnTimeline

logger: logging.Logger = logging.getLogger(__name__)

CLOSING = 2.0
"""Seconds that the `finally` of an interrupted async generator may take."""


def name_of_function(fn: object) -> str:
    """The name of a function in logs."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is an async function or an async generator function. Then it is called in the event loop.

    A plain function around an async one counts as plain, even with `functools.wraps`, because its own lines may block.
    """
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = getattr(plain, "__call__", plain)  # noqa: B004  the method of a callable object
    return inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)


@dataclass(eq=False, slots=True)
class Chunk:
    """One item that a reply yielded, checked. With `last`, the end of the reply.

    Attributes:
        reply: The reply it belongs to.
        audio: ``(sample_rate, samples)``: int16, shape (channels, n).
        text: The words in it.
        outputs: Values for the application.
        close: The request to end the connection.
        last: The reply has ended.
        again: It was emitted before, and held back.
    """

    reply: Reply
    audio: tuple[int, NDArray[np.int16]] | None = None
    text: str = ""
    outputs: AdditionalOutputs | None = None
    close: CloseStream | None = None
    last: bool = False
    again: bool = False


class Reply:
    """One call of a reply function.

    Attributes:
        turn: The turn it answers, as it was when the reply began.
        number: Tells this reply from the handler's other ones.
        ledger: What it has said.
        question: The user's words that it answers, if they are known.
        words: Its own words, as far as they were emitted.
        marks: Moments that its function has named, on the loop's clock.
        cancelled: Nothing more of it may be heard. Its worker thread reads this, too.
        stopped: It was interrupted or dropped, so what leaves from now on is not its audio.
        at_yield: Its async generator stands at a `yield`.
        paused: The interruption may be a false alarm.
        has_sound: Some of its audio was handed over to be played.
        task: The id of the task that it runs in.
        thread: The id of the worker thread that its function runs in now, or None.
        scope: Cancels it.
        committed: It may be heard. A reply that was started before the user's turn had ended gets this later.
        all_emitted: `emit` has given all of it to be played.
        sounded: Its first audio has left, or never will.
        resumed: It goes on after `pause`.
        over: It was played to its end, or interrupted, or the call has ended.
    """

    def __init__(self, turn: TurnTimeline) -> None:
        self.turn = turn
        self.number = 0
        self.ledger: PlayoutLedger = PlayoutLedger()
        self.question = self.words = ""
        self.marks: dict[str, float] = {}
        self.cancelled: bool = False
        self.paused: bool = False
        self.stopped = self.at_yield = self.has_sound = False
        self.task: int | None = None
        self.thread: int | None = None
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.committed: anyio.Event = anyio.Event()
        self.over: anyio.Event = anyio.Event()
        self.all_emitted: anyio.Event = anyio.Event()
        self.sounded: anyio.Event = anyio.Event()
        self.resumed: anyio.Event = anyio.Event()

    def interrupt(self, now: float) -> None:
        """End the reply, at the loop's time `now`. Call `ChunkQueue.let_go` after it.

        An async generator that stands at a `yield` is closed there, and may await in its `finally` for `CLOSING`
        seconds. One that awaits something is cancelled.
        """
        self.cancelled = True
        if self.at_yield:
            self.scope.deadline = now + CLOSING
        else:
            self.scope.cancel()

    def check_may_wait(self, task: anyio.TaskInfo | None = None) -> None:
        """Check that it is not the reply's own code, in `task` or else in this thread, that will wait for its end.

        Raises:
            RuntimeError: It is, so it would wait for ever.
        """
        if task is None:
            here = self.thread == threading.get_ident()
        else:
            here = self.task is not None and self.task in {task.id, task.parent_id}
        if here and not self.cancelled:
            raise RuntimeError("say() in the code of a reply would wait for that reply's end: yield what is to be said")

    def pause(self) -> None:
        """Hold the reply until `resume`."""
        self.paused, self.resumed = True, anyio.Event()

    def resume(self) -> None:
        """Let the reply go on."""
        self.paused = False
        self.resumed.set()

    def chunk(self, item: object) -> Chunk:
        """Check what was yielded.

        Raises:
            MediaError: It cannot be emitted.
        """
        text = ""
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Say):
            text, item = item[0].text, (item[0].audio, item[1])
        elif isinstance(item, Say):
            text, item = item.text, item.audio
        emitted = parse_emit(item, what="the reply function")
        return Chunk(self, emitted.audio, text, emitted.outputs, emitted.close)


class ChunkQueue:
    """Chunks between the reply and `emit`. One chunk may wait; then the reply must wait.

    Cancelled replies never wait, and their chunks are dropped. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._takers = ParkingLot(self._lock)
        self._putters = ParkingLot(self._lock)
        self._chunks: deque[Chunk] = deque()
        self._paused = False
        self._error: Exception | None = None

    async def put(self, chunk: Chunk) -> None:
        """Put `chunk`, waiting for room. Safe to cancel. A checkpoint."""
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
        """Take the next chunk; waits while paused. Safe to cancel: no chunk is lost. A checkpoint only if it waits.

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
        """Hold all chunks until `resume` or `drop`."""
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
        """Wake cancelled replies that wait for room."""
        with self._lock:
            self._putters.wake_all()

    def fail(self, error: Exception) -> None:
        """Have `take` raise `error`."""
        with self._lock:
            self._error = error
            self._takers.wake_all()


class RunsThreads(Protocol):
    """A function that runs another in a worker thread: `StreamHandlerBase.run_sync`."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run `function` in a worker thread."""


async def run_reply(
    reply: Reply, fn: Callable[..., Any], args: list[Any], outbox: ChunkQueue, run_sync: RunsThreads
) -> None:
    """Call ``fn(*args)`` and put all it yields, or returns, into `outbox`. A checkpoint only if it waits.

    When this returns, `fn` has ended. There is one exception: the thread of a plain generator may still run on to its
    next `yield`. Await this within ``with reply.scope``, so that `Reply.interrupt` can end it.

    Raises:
        Exception: What `fn` raises.
        MediaError: `fn` yielded something that cannot be emitted.
    """
    reply.task = anyio.get_current_task().id
    if is_async(fn):
        result = fn(*args)
        if inspect.isawaitable(result):
            result = await result
    else:
        result = await run_sync(_for_thread(reply, fn, args, outbox))
    await _drain(reply, result, fn, outbox, run_sync)


async def _drain(
    reply: Reply, result: object, fn: Callable[..., Any], outbox: ChunkQueue, run_sync: RunsThreads
) -> None:
    """Put the result of a call: a stream of chunks, or a single one."""
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
    """Close the generator, which runs its `finally`.

    There must be no cancel scope around this: the generator may have one open, which must close first.
    """
    try:
        await generator.aclose()
    except BaseExceptionGroup as group:
        # A task group that was open across a yield wraps what closed it.
        _, others = group.split(GeneratorExit)
        if others is not None:
            raise others from None


async def _hand_over(reply: Reply, item: object, outbox: ChunkQueue) -> None:
    chunk = reply.chunk(item)
    reply.at_yield = True
    try:
        await outbox.put(chunk)
    finally:
        reply.at_yield = False


def _for_thread(
    reply: Reply, fn: Callable[..., Any], args: list[Any] | None, outbox: ChunkQueue, result: object = None
) -> Callable[[], object]:
    """The job of a worker thread, named after `fn`: call it unless `args` is None, and go through its result."""

    def work() -> object:
        reply.thread = threading.get_ident()
        try:
            return _drive(reply, result if args is None else fn(*args), outbox)
        except Exception:
            if not reply.cancelled:
                raise
            # This is the last to see the error: nobody waits for this thread any more.
            logger.exception("the reply function %s raised after its reply was over", work.__qualname__)
            return None
        finally:
            reply.thread = None

    work.__qualname__ = name_of_function(fn)
    return work


def _drive(reply: Reply, result: object, outbox: ChunkQueue) -> object:
    """Go through the result of a plain function in this thread, if it is an iterator.

    Returns:
        The result, if it is not an iterator.
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
        close_iterator(result)
    return None


async def steps_in_thread(iterator: Iterator[Any], run_sync: RunsThreads) -> AsyncGenerator[Any]:
    """The items of a plain iterator, each made in a worker thread, since each step may block. Ends at None, too.

    Nobody can stop a thread. If this is closed during a step, that step closes the iterator when it returns.

    Args:
        iterator: It; a generator is closed at the end.
        run_sync: Runs a step.
    """
    end, left = object(), False

    def step() -> Any:
        try:
            return next(iterator, end)
        except Exception:
            if not left:
                raise
            logger.exception("%s raised after its reply was over", step.__qualname__)
            return end
        finally:
            if left:
                close_iterator(iterator)

    step.__qualname__ = name_of_function(iterator)
    try:
        while (item := await run_sync(step)) is not end and item is not None:
            yield item
    finally:
        left = True
        close_iterator(iterator)


class ThreadLimit:
    """Lets at most `most` worker threads run, including those that nobody waits for any more. Thread-safe.

    Nobody can stop a thread. That of an interrupted reply goes on to its next `yield`. Their number has a bound: a
    reply that needs one more waits until one has returned.

    Args:
        most: Threads at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._waiting = ParkingLot(self._lock)
        self._busy: list[str] = []

    async def run(self, run_sync: RunsThreads, function: Callable[..., Any], *args: Any) -> Any:
        """``await run_sync(function, *args)``, when there is room. A checkpoint.

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
                    "%s waits: %d worker threads of this connection are still in %s, although their replies are over. "
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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)


__all__ = ["Chunk", "ChunkQueue", "Reply", "ThreadLimit", "run_reply"]
