"""A connection: one transport joined to one handler, one task group, one end.

    async with create_task_group()                       # in `serve`, which waits for the end and then closes
      └─ the call            cancelled as one when the connection ends
           ├─ start_up, the time limit, and what the handler starts through `handler.loop`
           ├─ receive        transport.audio_in → resample → handler.receive
           ├─ emit           handler.emit → resample → transport.audio_out (which paces)
           ├─ video          transport.video_in → handler.video_receive, handler.video_emit → transport.video_out
           └─ link           messages of the peer, and watching for its end
      └─ the end of the call  handler.shutdown

The lower four live as long as one transport. `end_media` ends them, `begin_media` begins them again, and the rest goes
on. Each of them is a `Nursery`, a task group in a task of its own.

The invariant: every end takes one path. The first cause is recorded, the call is cancelled, and `_close` runs shielded
from cancellation, in this order:

1. Stop calling the handler, call its `shutdown()`, and end its threads.
2. Play the last frames, and say goodbye.
3. Close the transport.

The task that does this runs no code of the handler, so a handler that shields itself from cancellation cannot hold it
up. After `Timeouts.close` everything is closed. Only the task of such a handler may still run; the log names it.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.bridge import Event, loop_clock, wait_out
from .._core.guard import explain, is_cancellation
from .._core.native import task_group
from .._core.nursery import Nursery
from .._core.player import Playback, PlayerTap
from .._core.threads import INTERRUPT_GRACE, SETTLE, Crew, WorkerThreads, observer
from ..abc import Transport, TransportStatistics
from ..context import Context, LogFacts, log_facts, reset_current_context, set_current_context, shorten_id
from ..ends import End, EndCause, Timeouts, describe_error, in_words, shorten
from ..exceptions import NegotiationTimeout
from ..frames import AudioFormat
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import check_handler, has_own_method
from ..handlers.ledger import Heard
from ..outputs import AdditionalOutputs, CloseStream
from ..protocol import messages
from .handler_loop import HandlerLoop, Task
from .media_loops import STREAM_ENDS, MediaLoops, Voice

if TYPE_CHECKING:
    from .recorder import FileRecorder, Recording
    from .resuming import Resuming
    from .saying import Saying

__all__ = ["Connection", "ConnectionStatistics", "run_connection", "shut_down"]

logger: logging.Logger = logging.getLogger(__name__)

PEER_GRACE = 10
"""A method of the handler or a queue may see the peer's end first. A connection then waits this many times `SETTLE` to
learn of it. Turns of the loop are counted, not only time, because nothing can be learned while somebody blocks the
loop.
"""


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Figures of one connection since it began.

    Attributes:
        transport: The transport's figures. If the connection was resumed, counts are those of all its transports
            together. What is measured, as the round trip, and `details` are of the last one.
        received: Calls of `receive` that were begun.
        emitted: Audio items that `emit` returned.
        video_received: Calls of `video_receive` that were begun.
        video_emitted: Frames that `video_emit` returned.
        messages_dropped: Messages for a peer that opened no channel, or has closed it.
        stalls: Calls of `receive` or `video_receive` that took longer than `media_loops.STALL` (0.5 s).
        longest_stall: The longest of them, in seconds.
        threads_abandoned: Worker threads that did not end.
        tasks_abandoned: Async methods that did not end within `Timeouts.close`, because they shield themselves from
            cancellation or swallow it.
        setup: Seconds from `run` until media could flow, or None.
        resumed: How often the connection went on over another transport.
    """

    transport: TransportStatistics
    received: int
    emitted: int
    video_received: int
    video_emitted: int
    messages_dropped: int
    stalls: int
    longest_stall: float
    threads_abandoned: int
    tasks_abandoned: int
    setup: float | None
    resumed: int = 0


class _Channel:
    """The connection's messages as handlers see them (`DataChannel`)."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send

    def send(self, message: str) -> None:
        self._send(message)


class Connection:
    """Joins one transport to one handler until either ends.

    Args:
        transport: Opened, not started; the connection closes it.
        handler: A fresh one (`copy()` of the one the application holds); it serves this connection only.
        context: The caller and the call; by default an anonymous context of this transport's kind.
        time_limit: Seconds after which the connection ends, counted from the moment it was connected. None for no
            limit.
        timeouts: How long its phases may take.
        debug: Whether the peer is told the text of the handler's exceptions.
        on_outputs: Called with each `AdditionalOutputs` the handler emits, from the thread the handler runs in.
        workers: The thread budget to count abandoned threads in; its own if None.
        name: The name in its tasks and threads, as in ``Echo.receive NAME``; by default its id.
        on_closed: Called once in the loop, when everything is closed. Only tasks of a handler that refuses to be
            cancelled may still run then.
        resume: If the link breaks, the connection waits this many seconds for another transport (`resume`). None: it
            ends.

    Attributes:
        end: How it ended, or None while it lives.
        errors: What the handler raised, as it is.
    """

    def __init__(
        self,
        transport: Transport,
        handler: StreamHandlerBase,
        *,
        context: Context | None = None,
        time_limit: float | None = None,
        timeouts: Timeouts | None = None,
        debug: bool = False,
        on_outputs: Callable[[AdditionalOutputs], None] | None = None,
        workers: WorkerThreads | None = None,
        name: str | None = None,
        on_closed: Callable[[], object] | None = None,
        resume: float | None = None,
    ) -> None:
        self.transport: Transport = transport
        self.handler: StreamHandlerBase = handler
        self.context: Context = context or Context(
            webrtc_id=f"{transport.kind}-{id(transport):x}", transport=transport.kind
        )
        self.phone_mode: bool = transport.phone
        self.end: End | None = None
        self._time_limit = time_limit
        self._timeouts = timeouts or Timeouts()
        self._debug = debug
        self._on_outputs = on_outputs
        self._crew = Crew(workers or WorkerThreads(), self._repeat)
        self._lock = threading.Lock()
        self._messages_open = Event()
        self._over = Event()  # an end was recorded
        self._ended = Event()  # and everything is closed
        self._loop: HandlerLoop | None = None
        self._saying: Saying | None = None
        self._loop_thread = 0
        self._bound = self._shutting_down = self._closer_began = False
        self._media_may_begin = False  # a further offer may come before the call has connected
        self._start_up_begun = Event()
        self._name = name or self.context.webrtc_id
        self._on_closed = on_closed
        self._call, self._link = Nursery(self._failed), Nursery(self._failed)
        self._closing = Nursery(self._failed, shield=True)
        self.errors: list[BaseException] = []
        self._began: float | None = None  # moments; in virtual time, 0.0 is a moment, too
        self._connected: float | None = None
        self._messages_dropped = self._lost_threads = self._lost_tasks = 0
        self._played_taps: list[PlayerTap] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._own_context = contextvars.Context()  # that of `serve`, once it runs
        self._started = False  # the transport
        self._recorders: list[FileRecorder] = []
        self._writers: dict[FileRecorder, anyio.CancelScope] = {}
        self._scribes: Crew | None = None  # the threads of recordings, if there are any
        self._resuming: Resuming | None = None
        if resume is not None:
            from .resuming import Resuming

            self._resuming = Resuming(self, resume)
        self._out = (transport.audio_out, 0.0)  # and the seconds that players of earlier transports have played
        self._media = MediaLoops(
            transport,
            handler,
            self._crew,
            self._name,
            on_outputs=self._put_out,
            on_close=self._close_stream,
            on_end=self._loop_ended,
            failed=self._failed,
        )

    def __repr__(self) -> str:
        state = "ended" if self.end else "live" if self._connected is not None else "new"
        return f"<Connection {self.context.webrtc_id} {self.transport.kind} {state}>"

    @property
    def is_suspended(self) -> bool:
        """Whether its link broke, and it waits for its caller to come back (`Stream(resume=...)`)."""
        return self._resuming is not None and self._resuming.is_suspended

    # -- what a handler is offered (handlers.base.Binding)

    @property
    def loop(self) -> HandlerLoop:
        """The running loop, as handlers see it."""
        assert self._loop is not None  # noqa: S101
        return self._loop

    def clear_queue(self) -> float:
        """Drop what was emitted or said and has not left; returns the seconds dropped."""
        self._media.clears += 1
        dropped = self.transport.clear_audio()
        if self._saying is not None:
            self._saying.stop()
        return dropped

    async def say(self, item: object) -> Heard:
        """Play `item` between what the handler emits; returns what was heard of it. A checkpoint."""
        if self._saying is None:
            from .saying import Saying  # takes a while, and most handlers say nothing

            self._saying = Saying(self._media, self)
        return await self._saying.say(item)

    @property
    def debug(self) -> bool:
        """Whether the peer is told the text of exceptions."""
        return self._debug

    def playback(self) -> Playback:
        """How far playing has come."""
        audio_out, before = self._out
        playback = audio_out.playback()
        if not before:
            return playback
        confirmed = None if playback.confirmed is None else before + playback.confirmed
        return Playback(before + playback.played, playback.waiting, confirmed)

    async def wait_played(self, seconds: float) -> None:
        """Wait until more than `seconds` of audio were played, or nothing waits to be played. A checkpoint."""
        while True:
            audio_out, before = self._out
            await audio_out.wait_played(seconds - before)
            if audio_out is self._out[0]:
                return

    def tap_played(self, tap: PlayerTap) -> None:
        """Tell `tap` what leaves for the peer from now on, also over a transport that takes the place of this one."""
        with self._lock:
            self._played_taps.append(tap)
            if self._started:
                self.transport.audio_out.tap(tap)

    @property
    def playout_time(self) -> float:
        """The time on the playout's clock."""
        return self.transport.audio_out.now

    def _repeat(self, seconds: float, callback: Callable[[], object]) -> Task[None]:
        async def repeat() -> None:
            while True:
                await anyio.sleep(seconds)
                callback()

        return self.loop.create_task(repeat(), name=f"lock watch {self._name}")

    async def run_sync(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a blocking function of the handler in a worker thread of this connection. A checkpoint."""
        return await self._crew.run(f"{name} {self._name}", partial(self._crew.call, function))

    async def send_message(self, message: str) -> None:
        """Send `message` when the peer's channel is open; drop it, with one warning, if the peer opens none.
        A checkpoint.

        The same if the peer has closed its channel in mid-call: media goes on.

        Raises:
            anyio.ClosedResourceError: The connection has ended. A handler need not catch it: after the end,
                this error does not count.
        """
        if self._peer_has_messages():
            await self._messages_open.wait()
            self._send(message)
        else:
            await anyio.lowlevel.checkpoint()

    def send_dtmf(self, digits: str) -> None:
        """Press keys towards the peer; see `Transport.send_dtmf_nowait`."""
        self.transport.send_dtmf_nowait(digits)

    def send_message_sync(self, message: str) -> None:
        """`send_message` for worker threads."""
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError(
                "send_message_sync would block the event loop; here, write: await self.send_message(message)"
            )
        if self._peer_has_messages():
            self._messages_open.wait_sync()
            self._send(message)

    def _send(self, message: str) -> None:
        """Send `message`, or drop it if the channel is closed while the call goes on; from any thread."""
        if self._resuming is not None and self._resuming.keep_message(message):
            return
        try:
            self.transport.send_message_nowait(message)
        except anyio.ClosedResourceError:
            if self.end is not None and not self._shutting_down:
                raise  # ends a thread that only sends
            if self._drop_message():  # a peer that hangs up closes its channel first; not worth a warning
                self.loop.call_later(SETTLE, self._warn_of_closed_channel)

    def _peer_has_messages(self) -> bool:
        if self.transport.offer.messages:
            return True
        if self._drop_message():
            logger.warning("%r: the peer opened no data channel; messages to it are dropped", self)
        return False

    def _drop_message(self) -> bool:
        """Count a dropped message; True if it is the first."""
        with self._lock:
            self._messages_dropped += 1
            return self._messages_dropped == 1

    def _warn_of_closed_channel(self) -> None:
        logger.warning("%r: the peer has closed its data channel; messages to it are dropped", self)

    # -- what the application may do, from any thread

    def close(self, reason: str = "closed by the server") -> None:
        """End the connection."""
        self._finish(End(EndCause.CLOSED, reason))

    def peer_left(self) -> None:
        """End the connection because the peer said so beside its link, which may be broken. From any thread."""
        self._finish(End(EndCause.PEER_LEFT, "the peer left"))

    def record(self, path: str | PathLike[str] | Callable[[Context], Any]) -> Recording:
        """Record the call from now on, until it ends or `Recording.stop`; from any thread.

        The file has two channels: the caller, and what left for the caller. Both are on media time, so they stay
        together however long the call lasts. Disks never hold up the call. If the file cannot be written, one error is
        logged (`Recording.error`), and the call goes on.

        Args:
            path: The file, in a directory that exists. It must not exist itself. Its suffix chooses the format:
                ``.wav`` (16 bit), ``.ogg`` or ``.opus`` (Ogg Opus), or ``.mka`` (Matroska with Opus). ``.mkv`` has the
                pictures of both sides, too. Or a function of the `Context` that returns such a path, or None for no
                recording, sync (in a worker thread) or async.

        Raises:
            ValueError: The path has another suffix.
            RuntimeError: The connection has ended.
        """
        from .recorder import FileRecorder

        recorder = FileRecorder(path, self.context)
        with self._lock:
            if self.end is not None:
                raise RuntimeError("the connection has ended: there is nothing to record any more")
            self._recorders.append(recorder)
            started, tasks = self._started, self._tasks
            if started:
                self._attach(recorder)
        if tasks is not None:
            if threading.get_ident() == self._loop_thread:
                self._start_writer(recorder)
            else:
                self.loop.call_soon_threadsafe(self._start_writer, recorder)
        return recorder.recording

    @property
    def recordings(self) -> tuple[Recording, ...]:
        """What `record` has returned, in order; also what was stopped, as `Stream(on_recorded=...)` tells of all files.

        A stopped one holds its path, its error and its marks: less than 10 kB.
        """
        return tuple(recorder.recording for recorder in self._recorders)

    def _attach(self, recorder: FileRecorder) -> None:
        recorder.attach(self.transport, max(self._heard.sample_rate, self._sent.sample_rate))

    def _start_writer(self, recorder: FileRecorder) -> None:
        tasks = self._tasks
        if tasks is not None and recorder not in self._writers and not self._ended.is_set():
            scope = self._writers[recorder] = anyio.CancelScope(shield=True)
            write, name = partial(self._write, recorder, scope), f"recording of {self._name}"
            own = self._own_context.copy()  # `record` may be called by code outside of the call
            own.run(partial(tasks.start_soon, write, name=name))

    async def _write(self, recorder: FileRecorder, scope: anyio.CancelScope) -> None:
        """Write a recording until it is stopped. Not cut short by the end of the call: the last block comes then."""
        if self._scribes is None:
            self._scribes = Crew(WorkerThreads())
        try:
            with scope:
                if await recorder.choose_path():
                    await self._scribes.run(f"recording of {self._name}", recorder.write)
        finally:
            recorder.close()

    async def _end_recordings(self) -> None:
        """Close the files, within `Timeouts.shutdown`."""
        for recorder in self._recorders:
            recorder.stop()
            if recorder not in self._writers:
                recorder.close()
        seconds = self._timeouts.shutdown
        with anyio.move_on_after(seconds):
            for recorder in self._recorders:
                await recorder.wait_closed()
        for recorder in self._recorders:
            recorder.give_up(seconds)
        for scope in self._writers.values():
            scope.cancel()
        if self._scribes is not None:
            await self._scribes.settle(SETTLE)

    def set_args(self, args: list[Any]) -> None:
        """Hand arguments to the handler (`latest_args`, `args_set`)."""
        self.handler.set_args(args)

    async def wait_ended(self) -> End:
        """Wait until everything has been closed; returns how it ended. Safe to cancel. A checkpoint."""
        await self._ended.wait()
        assert self.end is not None  # noqa: S101
        return self.end

    def statistics(self) -> ConnectionStatistics:
        """The figures now."""
        return ConnectionStatistics(
            transport=(self._resuming or self.transport).statistics(),
            received=self._media.received,
            emitted=self._media.emitted,
            video_received=self._media.video_received,
            video_emitted=self._media.video_emitted,
            messages_dropped=self._messages_dropped,
            stalls=self._media.stalls,
            longest_stall=self._media.longest_stall,
            threads_abandoned=self._lost_threads,
            tasks_abandoned=self._lost_tasks,
            setup=None if self._connected is None or self._began is None else self._connected - self._began,
            resumed=0 if self._resuming is None else self._resuming.count,
        )

    # -- its life

    async def run(self) -> End:
        """Serve until the connection ends, then leave nothing behind; called once. A checkpoint.

        Returns:
            How it ended.

        Raises:
            BaseException: What the handler raised, as it is; a group, if several of its methods did.

        Cancelling this ends the connection. It is still closed in the order above, within `Timeouts.close`. This
        returns later only if a task of the handler refuses to be cancelled; then it waits for that task.
        """
        end = await self.serve()
        if self.errors:
            raise _together(self.errors)
        return end

    async def serve(self) -> End:
        """The same as `run`, for owners of many connections: what the handler raised stays in `errors`.

        A checkpoint.
        """
        if self._began is not None:
            raise RuntimeError("a connection runs once; make a new one, with a new copy of the handler")
        if observer.get() is not None:
            self._media.clock = loop_clock()
        self._began, self._loop_thread = anyio.current_time(), threading.get_ident()
        context, facts_before = self.context, log_facts.get()
        token = set_current_context(context)
        log_facts.set(LogFacts(shorten_id(context.webrtc_id), context.transport, context.principal))
        self._own_context = contextvars.copy_context()
        try:
            async with task_group() as tasks:
                tasks.start_soon(self._close_at_the_end, tasks, name=f"closing of {self._name}")
                self._tasks = tasks
                for recorder in self._recorders:
                    self._start_writer(recorder)
                try:
                    await self._serve(tasks)
                finally:
                    self._finish(End(EndCause.CANCELLED, "cancelled"))
                    if self._closer_began:
                        await wait_out(self._ended)
                    else:  # `asyncio.run` may cancel a task before its first step
                        await self._close_at_the_end(tasks)
        finally:
            reset_current_context(token)
            log_facts.set(facts_before)
            self._ended.set()
        assert self.end is not None  # noqa: S101
        return self.end

    async def _close_at_the_end(self, tasks: anyio.abc.TaskGroup) -> None:
        """Wait for the end and close everything, in a task that nobody cancels.

        A shield holds off cancel scopes only. asyncio's `task.cancel()` passes through it, and would leave a connection
        half closed if the task that it cancels did this.
        """
        if self._closer_began:
            return
        self._closer_began = True
        with anyio.CancelScope(shield=True):
            with suppress(anyio.get_cancelled_exc_class()):  # of asyncio.run, which cancels every task there is
                await wait_out(self._over)
            try:
                await self._close(tasks)
            finally:
                self._ended.set()
                if self._resuming is not None:
                    self._resuming.tell_released()
                if self._on_closed is not None:
                    self._on_closed()
            await self._end_recordings()
            for nursery in (self._call, self._closing):
                await nursery.wind_up(math.inf)

    async def _serve(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin the call, and wait for its end."""
        self._loop = HandlerLoop(self._call)
        try:
            check_handler(self.handler)
            self.handler._bind(self)
        except BaseException as error:  # noqa: BLE001  an error of the handler, like those of its methods
            await self._failed(error)
            return
        self._bound = True
        self._own_context = contextvars.copy_context()  # with the handler
        if self.end is not None:  # close() came before run()
            self.handler._tell_end()
        else:
            tasks.start_soon(self._call.run, self._begin, name=f"call {self._name}")
        await self._over.wait()

    def _begin(self) -> None:
        self._call.start_soon(self._begin_call, name=f"beginning of {self._name}")

    async def _begin_call(self) -> None:
        self._start_transport()
        if not await self._connect():
            return
        if self._time_limit is not None:
            self._call.start_soon(self._limit_time, self._time_limit, name=f"time limit of {self._name}")
        if has_own_method(self.handler, "start_up"):
            name = f"{type(self.handler).__qualname__}.start_up {self._name}"
            self._call.start_soon(self._start_up, name=name)
            await self._start_up_begun.wait()  # the other methods rely on what its first lines set up
        if self._resuming is not None:
            self._call.start_soon(self._resuming.run, name=f"resuming of {self._name}")
        self._media_may_begin = True
        self.begin_media()

    def _start_transport(self) -> None:
        self._heard, spoken = self._formats()
        _, self._sent = self.transport.start(self._heard, spoken)
        with self._lock:
            self._started = True
            for recorder in self._recorders:
                self._attach(recorder)
            for tap in self._played_taps:
                self.transport.audio_out.tap(tap)
        if self._resuming is not None:
            self.transport.audio_out.keep_rest()

    # -- what lives as long as one transport

    def begin_media(self, transport: Transport | None = None) -> None:
        """Begin what the peer offers and is not running yet: at first, after `end_media`, and when tracks were added.

        Called in the connection's own loop; what runs goes on. Does nothing once the connection has ended.

        Args:
            transport: The one to go on with, connected and not started; only after `end_media` of everything.
        """
        if self._media_may_begin and self._call.is_open and self.end is None:
            self._own_context.copy().run(self._begin_media, transport)  # a further offer comes in a request's own

    def _begin_media(self, transport: Transport | None) -> None:
        if transport is not None:
            self._adopt(transport)
        if self._resuming is not None and self._resuming.is_suspended:
            return
        if not (self._link.is_open or self._link.is_opening):
            self._link = Nursery(self._failed)
            self._call.open(self._link, self._begin_link, name=f"link of {self._name}")
        self._media.begin(self._call, self._heard, self._sent)

    def _adopt(self, transport: Transport) -> None:
        """Start `transport` in place of the one before, which may have left audio that waits (`Player.keep_rest`)."""
        audio_out, before = self._out
        rest, sent = audio_out.take_rest(), self._sent.sample_rate
        self.transport = self._media.transport = transport
        if self._resuming is not None:
            self._resuming.adopted(transport, sum(samples.shape[1] for samples in rest))
        self._start_transport()
        self._out = transport.audio_out, before + audio_out.playback().played
        voice = Voice(self._sent.sample_rate)
        for samples in rest:
            transport.audio_out.put(voice.feed(samples, sent))

    def resume(self, transport: Transport) -> None:
        """Go on over `transport`, which is opened and not started; in the connection's own loop. Returns at once.

        The connection closes it, and the one before. If `transport` does not connect, the connection waits further.

        Raises:
            RuntimeError: The connection was made without `resume`.
            ConnectionExists: It has not begun yet, or has ended.
        """
        self._with_resume().offer(transport)

    @property
    def latest_transport(self) -> Transport:
        """The transport that was given to `resume` last, even if the connection has not changed over yet."""
        return self.transport if self._resuming is None else self._resuming.latest

    async def wait_released(self, transport: Transport) -> None:
        """Wait until the connection has closed `transport`, because another took its place or the end came.
        A checkpoint.

        Raises:
            RuntimeError: The connection was made without `resume`.
        """
        await self._with_resume().wait_released(transport)

    def _with_resume(self) -> Resuming:
        if self._resuming is None:
            raise RuntimeError("this connection cannot be resumed; write Connection(..., resume=seconds)")
        return self._resuming

    def _begin_link(self) -> None:
        self._link.start_soon(self._watch_peer, name=f"watching the peer of {self._name}")
        self._link.start_soon(self._open_messages, name=f"opening messages of {self._name}")
        name = f"{type(self.handler).__qualname__}.on_message {self._name}"
        self._link.start_soon(self._read_messages, name=name)

    async def end_media(self, *names: str, keep: bool = False) -> None:
        """End ``"receive"``, ``"emit"`` or ``"video"``; without names all three, and the link to the peer as well.
        A checkpoint.

        When this returns their tasks have ended, and `begin_media` may begin them again. `start_up`, timers and what
        the handler started through `handler.loop` go on. An async method that is under way is cancelled; a sync one
        goes on, and what it returns is dropped, unless `keep` is set. The caller of this closes the
        transport.
        """
        if not names:
            await self._link.wind_up(math.inf)
        await self._media.end(*names, keep=keep)

    async def _loop_ended(self, method: str) -> None:
        """A media loop has come to the end of its queue: end the connection, which would not hear or speak any more."""
        if not await self._is_over() and not (self._resuming is not None and self._resuming.is_suspended):
            raise RuntimeError(f"the loop {method!r} of {self!r} ended before the connection did")

    def _formats(self) -> tuple[AudioFormat, AudioFormat]:
        """The formats in which the handler receives and emits audio."""
        handler = self.handler
        return (
            AudioFormat(handler.input_sample_rate, handler.expected_layout),
            AudioFormat(handler.output_sample_rate, "mono"),
        )

    async def _connect(self) -> bool:
        failed = await self._wait_connected()
        if failed is None:
            self._connected = anyio.current_time()
            return True
        self._finish(failed)
        return False

    async def _wait_connected(self) -> End | None:
        """Wait until media can flow; or how the connection ends, because it cannot."""
        try:
            with anyio.fail_after(self._timeouts.connect):
                await self.transport.wait_connected()
        except NegotiationTimeout as error:
            return End(EndCause.NOT_CONNECTED, str(error), error)
        except TimeoutError as error:
            return End(EndCause.NOT_CONNECTED, f"not connected within {self._timeouts.connect:g} s", error)
        except STREAM_ENDS as error:
            reason = in_words("the link failed before media could flow", error)
            return End(EndCause.NOT_CONNECTED, reason, error)
        return None

    # -- ending

    def _finish(self, end: End) -> None:
        """Record the cause, unless there is one, and have everything closed; from any thread."""
        with self._lock:
            if self.end is not None:
                return
            self.end = end
        self._crew.stop()  # before the handler is told: none of its methods may begin when `running` is False
        self._over.set()
        if self._bound:
            self.handler._tell_end()

    async def _failed(self, error: BaseException) -> None:
        """End the connection with the error of one of its tasks, unless the end itself has caused the error."""
        if is_cancellation(error):  # by asyncio itself: somebody has cancelled one of the connection's tasks
            self._finish(End(EndCause.CANCELLED, "cancelled"))
            return
        if isinstance(error, anyio.ClosedResourceError) and await self._is_over():
            return
        self.errors.append(error)
        if self._ended.is_set():
            logger.error("a task of %s raised after its connection had ended", self._name, exc_info=error)
        way_out = explain(error)
        reason = f"the handler raised {describe_error(error)}" + (f" ({way_out})" if way_out else "")
        self._finish(End(EndCause.HANDLER_RAISED, reason, error))

    async def _is_over(self) -> bool:
        """Whether the connection has ended, or ends in a moment: a handler may see the peer's end before us."""
        for _ in range(PEER_GRACE):
            if self.end is not None:
                return True
            with anyio.move_on_after(SETTLE):
                await self._over.wait()
        return self.end is not None

    async def _watch_peer(self) -> None:
        resuming = self._resuming
        number = 0 if resuming is None else resuming.number
        try:
            await self.transport.wait_ended()
        except anyio.BrokenResourceError as error:
            end = End(EndCause.LINK_BROKE, in_words("the link broke", error), error.__cause__ or error)
        except anyio.ClosedResourceError:
            end = End(EndCause.CLOSED, "the transport was closed")
        else:
            if resuming is None or number == resuming.number:  # not while the peer goes over to another link
                self._finish(End(EndCause.PEER_LEFT, "the peer left"))
            return
        if resuming is None:
            self._finish(end)
        else:
            resuming.lost(number, end)

    async def _limit_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._finish(End(EndCause.TIME_LIMIT, f"the time limit of {seconds:g} s was reached"))

    async def _close(self, tasks: anyio.abc.TaskGroup) -> None:
        """Handler first, then the last frames and the goodbye, then the transport. Runs shielded, in bounded time."""
        assert self.end is not None  # noqa: S101
        transport, timeouts = self.transport, self._timeouts
        deadline = anyio.current_time() + timeouts.whole
        await self._call.wind_up(timeouts.whole / 2)
        transport = self.transport
        transport.audio_in.close()
        transport.video_in.close()
        transport.messages_in.close()
        transport.audio_out.end()
        self._media.close()
        await self._crew.settle(SETTLE)
        try:
            if self._bound:  # otherwise it belongs to another connection, and stays
                await self._shut_down(tasks, min(timeouts.shutdown, deadline - anyio.current_time() - INTERRUPT_GRACE))
        finally:
            if self._bound:
                self.handler._unbind()
            if self._loop is not None:
                self._loop.close()
            self._messages_open.close()
            left = deadline - anyio.current_time() - INTERRUPT_GRACE - timeouts.goodbye
            self._lost_threads = len(await self._crew.join(max(0.0, min(timeouts.grace, left))))
            if self.end.cause is EndCause.HANDLER_CLOSED:
                deadline += transport.audio_out.queued_seconds
                with anyio.move_on_after(transport.audio_out.queued_seconds + timeouts.goodbye):
                    await transport.audio_out.drained()
            else:
                transport.clear_audio()
            self._say_why()
            with anyio.move_on_after(min(timeouts.goodbye, deadline - anyio.current_time())):
                await transport.aclose()
                if self._resuming is not None:
                    await self._resuming.close()
            self._tell_of_lost_tasks()

    def _tell_of_lost_tasks(self) -> None:
        lost = [*self._call.running, *self._closing.running]
        self._lost_tasks = len(lost)
        for name in lost:
            _log_lost_task(name)

    async def _shut_down(self, tasks: anyio.abc.TaskGroup, timeout: float) -> None:
        """Call the handler's `shutdown()`, which may still run coroutines through `handler.loop`."""
        if not has_own_method(self.handler, "shutdown"):
            return
        over, closing = anyio.Event(), self._closing
        assert self._loop is not None  # noqa: S101
        self._loop.move_to(closing)
        self._shutting_down = True
        name = f"{type(self.handler).__qualname__}.shutdown {self._name}"
        begin = partial(closing.start_soon, self._call_shutdown, over, name=name)
        tasks.start_soon(closing.run, begin, name=f"end of {self._name}")
        with anyio.move_on_after(timeout) as waiting:
            await over.wait()
        self._shutting_down = False
        if waiting.cancelled_caught:
            _log_late_shutdown(self.handler, timeout)
        await closing.wind_up(SETTLE)

    async def _call_shutdown(self, over: anyio.Event) -> None:
        try:
            await _call_shutdown(self.handler, self._crew)
        finally:
            over.set()

    def _say_why(self) -> None:
        """Tell the peer how its connection ended, if it can still be told."""
        assert self.end is not None  # noqa: S101
        match self.end.cause:
            case EndCause.HANDLER_RAISED if getattr(self.end.error, "told_peer", False):
                pass  # rtcflow.fastrtc.WebRTCError
            case EndCause.HANDLER_RAISED:
                text = describe_error(self.end.error) if self._debug and self.end.error else "the handler failed"
                self._tell(messages.Error(text))
            case EndCause.HANDLER_CLOSED | EndCause.TIME_LIMIT | EndCause.CLOSED:
                self._tell(messages.EndStream(shorten(self.end.reason)))
            case _:
                pass

    def _tell(self, message: messages.Message) -> None:
        text = messages.encode(message)
        try:
            if self._resuming is None or not self._resuming.keep_message(text):
                self.transport.send_message_nowait(text)
        except (anyio.ClosedResourceError, anyio.WouldBlock):
            return  # the peer has gone, or does not read

    # -- outputs and messages

    def _put_out(self, outputs: AdditionalOutputs) -> None:
        if self._on_outputs is not None:
            self._on_outputs(outputs)
        if self._messages_open.is_set() or (self._resuming is not None and self._resuming.is_suspended):
            self._tell(messages.FetchOutput())

    def _close_stream(self, close: CloseStream) -> None:
        self.hang_up(close.msg, now=False)

    def hang_up(self, reason: str, *, now: bool) -> None:
        """End the connection: when what was emitted has been played, or at once."""
        self._finish(End(EndCause.CLOSED if now else EndCause.HANDLER_CLOSED, reason))

    async def _open_messages(self) -> None:
        await self.transport.wait_messages_open()
        if self._resuming is not None:
            self._resuming.send_messages()
        self._messages_open.set()
        if self.handler._channel is None:
            self.handler.set_channel(_Channel(self._send))

    async def _read_messages(self) -> None:
        hears = {name for name in ("on_message", "on_dtmf") if has_own_method(self.handler, name)}
        while True:
            try:
                text = await self.transport.messages_in.take()
            except STREAM_ENDS:
                return
            match messages.decode(text):
                case messages.Handshake():
                    pass
                case messages.Dtmf(digit):
                    if "on_dtmf" in hears:
                        await self._call_method(self.handler.on_dtmf, digit)
                case _ if "on_message" in hears:  # also text that looks like one of rtcflow's messages
                    await self._call_method(self.handler.on_message, text)

    async def _call_method(self, method: Callable[..., Any], *args: Any) -> None:
        """Call an occasional method of the handler: awaited, or in a worker thread."""
        if inspect.iscoroutinefunction(method):
            await method(*args)
        else:
            await self._crew.run(f"{method.__qualname__} {self._name}", partial(self._crew.call, method, *args))

    async def _start_up(self) -> None:
        start_up: Any = self.handler.start_up  # type: ignore[attr-defined]
        if inspect.iscoroutinefunction(start_up):
            self._start_up_begun.set()  # code that waits for it goes on after the first steps below
            await start_up()
        else:
            await self._crew.run(f"{start_up.__qualname__} {self._name}", partial(self._start_up_in_thread, start_up))

    def _start_up_in_thread(self, start_up: Callable[[], object]) -> None:
        self._start_up_begun.set()
        self._crew.call(start_up)


def _together(errors: list[BaseException]) -> BaseException:
    """The errors of several methods as one group; a single error as it is."""
    if len(errors) == 1:
        return errors[0]
    return BaseExceptionGroup("several methods of the handler raised", errors)


async def run_connection(
    transport: Transport,
    handler: StreamHandlerBase,
    *,
    context: Context | None = None,
    time_limit: float | None = None,
    timeouts: Timeouts | None = None,
    debug: bool = False,
    on_outputs: Callable[[AdditionalOutputs], None] | None = None,
    workers: WorkerThreads | None = None,
) -> End:
    """Join `transport` to `handler` until either ends; the arguments are those of `Connection`. A checkpoint."""
    connection = Connection(
        transport,
        handler,
        context=context,
        time_limit=time_limit,
        timeouts=timeouts,
        debug=debug,
        on_outputs=on_outputs,
        workers=workers,
    )
    return await connection.run()


async def shut_down(
    handler: StreamHandlerBase,
    timeout: float,
    *,
    workers: WorkerThreads | None = None,
    owner: anyio.abc.TaskGroup | None = None,
) -> None:
    """Call `shutdown()` of a handler that was copied, but is never served. Not cut short by cancellation. A checkpoint.

    A sync one runs in a worker thread. If it takes longer than `timeout` seconds, the thread is interrupted and then
    abandoned. A coroutine is cancelled then, and left to `owner` if it refuses to be cancelled.

    Args:
        handler: The handler.
        timeout: In seconds.
        workers: The budget to count an abandoned thread in.
        owner: The task group that it runs in; by default one of its own, which this waits for.

    Raises:
        BaseException: What `shutdown` raises, as it is.
    """
    if not has_own_method(handler, "shutdown"):
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return
    errors: list[BaseException] = []
    if owner is None:
        async with task_group() as own:
            await _shut_down(handler, timeout, Crew(workers or WorkerThreads()), own, errors)
    else:
        await _shut_down(handler, timeout, Crew(workers or WorkerThreads()), owner, errors)
    if errors:
        raise _together(errors)


async def _shut_down(
    handler: StreamHandlerBase, timeout: float, crew: Crew, owner: anyio.abc.TaskGroup, errors: list[BaseException]
) -> None:
    over = Event()

    async def failed(error: BaseException) -> None:
        errors.append(error)

    async def call() -> None:
        try:
            await _call_shutdown(handler, crew)
        finally:
            over.set()

    nursery, name = Nursery(failed, shield=True), f"{type(handler).__qualname__}.shutdown"
    owner.start_soon(nursery.run, partial(nursery.start_soon, call, name=name), name=f"end of {name}")
    try:
        await wait_out(over, timeout)
    finally:
        with anyio.CancelScope(shield=True):
            if not over.is_set():
                _log_late_shutdown(handler, timeout)
            crew.stop()
            if not await nursery.wind_up(SETTLE):
                _log_lost_task(name)
            await crew.join(0.0)


async def _call_shutdown(handler: StreamHandlerBase, crew: Crew) -> None:
    if inspect.iscoroutinefunction(handler.shutdown):
        await handler.shutdown()
    else:
        result: Any = await crew.run(handler.shutdown.__qualname__, partial(crew.call, handler.shutdown), last=True)
        if inspect.isawaitable(result):
            await result


def _log_late_shutdown(handler: StreamHandlerBase, timeout: float) -> None:
    logger.error("%s.shutdown did not return within %g s", type(handler).__qualname__, timeout)


def _log_lost_task(name: str) -> None:
    logger.error(
        "%s did not end with its connection: it shields itself from cancellation or swallows it. "
        "The connection is closed; the task runs on until it ends by itself. "
        "In async methods catch Exception, not BaseException, and shield only what takes moments.",
        name,
    )
