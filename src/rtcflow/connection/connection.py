"""A connection: one transport joined to one handler, one task group, one end.

    async with create_task_group() as connection:        # cancelled as one
        receive nursery   transport.audio_in → resample → handler.receive
        emit nursery      handler.emit → resample → transport.audio_out (which paces)
        video nursery     transport.video_in → handler.video_receive, handler.video_emit → transport.video_out
        beside them       handler.start_up, messages, the time limit, whoever watches for the peer's end

Every end takes one path: the first cause is recorded, the task group is cancelled, and `_close` runs shielded: stop
calling the handler, its `shutdown()`, its threads back; then the last frames and the goodbye; then the transport.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from .._core.bridge import Event, call_in_loop, current_loop_token, loop_clock
from .._core.guard import Guard
from .._core.player import Playback
from .._core.threads import INTERRUPT_GRACE, SETTLE, Crew, WorkerThreads, observer
from ..abc import Transport, TransportStatistics
from ..context import Context, reset_current_context, set_current_context
from ..ends import End, EndCause, Timeouts, describe_error, in_words, shorten, sole_error
from ..exceptions import NegotiationTimeout
from ..frames import AudioFormat
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import has_own_method, has_video
from ..outputs import AdditionalOutputs, CloseStream
from ..protocol import messages
from .handler_loop import HandlerLoop
from .media_loops import STREAM_ENDS, Nurseries

__all__ = ["Connection", "ConnectionStatistics", "run_connection", "shut_down"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Figures of one connection since it began.

    Attributes:
        transport: The transport's figures.
        received: Calls of `receive` that were begun.
        emitted: Audio items that `emit` returned.
        video_received: Calls of `video_receive` that were begun.
        video_emitted: Frames that `video_emit` returned.
        messages_dropped: Messages for a peer that opened no channel, or has closed it.
        stalls: Calls of `receive` or `video_receive` that took longer than `nurseries.STALL`.
        longest_stall: The longest of them, in seconds.
        threads_abandoned: Worker threads that did not come back.
        setup: Seconds from `run` until media could flow, or None.
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
    setup: float | None


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
        context: Who is being served; by default an anonymous context of this transport's kind.
        time_limit: Seconds from connected after which it ends, or None.
        timeouts: How long its phases may take.
        debug: Whether the peer is told the text of the handler's exceptions.
        on_outputs: Called with each `AdditionalOutputs` the handler emits, from the thread the handler runs in.
        workers: The thread budget to count abandoned threads in; its own if None.
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
    ) -> None:
        self.transport = transport
        self.handler = handler
        self.context = context or Context(webrtc_id=f"{transport.kind}-{id(transport):x}", transport=transport.kind)
        self.phone_mode = transport.phone
        self.end: End | None = None
        self._time_limit = time_limit
        self._timeouts = timeouts or Timeouts()
        self._debug = debug
        self._on_outputs = on_outputs
        self._crew = Crew(workers or WorkerThreads())
        self._lock = threading.Lock()
        self._messages_open = Event()
        self._ended = Event()
        self._scope: anyio.CancelScope | None = None
        self._loop: HandlerLoop | None = None
        self._loop_token: Any = None
        self._loop_thread = 0
        self._bound = self._shutting_down = False
        self._idle: dict[str, Callable[[], Awaitable[None]]] = {}
        self._tasks: Guard | None = None
        self._errors: list[BaseException] = []
        self._began: float | None = None  # moments; 0.0 is one, too, where time is virtual
        self._connected: float | None = None
        self._messages_dropped = self._lost_threads = 0
        self._media = Nurseries(transport, handler, self._crew, on_outputs=self._put_out, on_close=self._close_stream)

    def __repr__(self) -> str:
        state = "ended" if self.end else "live" if self._connected is not None else "new"
        return f"<Connection {self.context.webrtc_id} {self.transport.kind} {state}>"

    # -- what a handler is offered (handlers.base.Binding)

    @property
    def loop(self) -> HandlerLoop:
        """The running loop, as handlers see it."""
        assert self._loop is not None
        return self._loop

    def clear_queue(self) -> float:
        """Drop what was emitted and has not left; returns the seconds dropped."""
        return self.transport.clear_audio()

    @property
    def debug(self) -> bool:
        """Whether the peer is told the text of exceptions."""
        return self._debug

    def playback(self) -> Playback:
        """How far playing has come."""
        return self.transport.audio_out.playback()

    async def wait_played(self, seconds: float) -> None:
        """Wait until more than `seconds` of audio were played, or nothing waits to be played."""
        await self.transport.audio_out.wait_played(seconds)

    async def run_sync(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a blocking function of the handler in a worker thread of this connection."""
        return await self._crew.run(name, partial(self._crew.call, function))

    async def send_message(self, message: str) -> None:
        """Send `message` when the peer's channel is open; drop it, with one warning, if the peer opens none.

        The same if the peer has closed its channel in mid-call: media goes on.

        Raises:
            anyio.ClosedResourceError: The connection has ended. A handler need not catch it: what leaves its methods
                after the end is no error.
        """
        if self._peer_has_messages():
            await self._messages_open.wait()
            self._send(message)

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
        try:
            self.transport.send_message_nowait(message)
        except anyio.ClosedResourceError:
            if self.end is not None and not self._shutting_down:
                raise  # lets a thread go that does nothing but send
            if self._drop_message():  # who hangs up closes the channel a moment before the rest, and that is no news
                self.loop.call_later(SETTLE, self._warn_of_closed_channel)

    def _peer_has_messages(self) -> bool:
        if self.transport.offer.messages:
            return True
        if self._drop_message():
            logger.warning("%r: the peer opened no data channel; messages to it are dropped", self)
        return False

    def _drop_message(self) -> bool:
        """Count a message that is dropped; whether it is the first."""
        with self._lock:
            self._messages_dropped += 1
            return self._messages_dropped == 1

    def _warn_of_closed_channel(self) -> None:
        logger.warning("%r: the peer has closed its data channel; messages to it are dropped", self)

    # -- what the application may do, from any thread

    def close(self, reason: str = "closed by the server") -> None:
        """End the connection."""
        self._finish(End(EndCause.CLOSED, reason))

    def set_args(self, args: list[Any]) -> None:
        """Hand arguments to the handler (`latest_args`, `args_set`)."""
        self.handler.set_args(args)

    async def wait_ended(self) -> End:
        """Wait until everything has been closed; returns how it ended. Safe to cancel."""
        await self._ended.wait()
        assert self.end is not None
        return self.end

    def statistics(self) -> ConnectionStatistics:
        """The figures now."""
        return ConnectionStatistics(
            transport=self.transport.statistics(),
            received=self._media.received,
            emitted=self._media.emitted,
            video_received=self._media.video_received,
            video_emitted=self._media.video_emitted,
            messages_dropped=self._messages_dropped,
            stalls=self._media.stalls,
            longest_stall=self._media.longest_stall,
            threads_abandoned=self._lost_threads,
            setup=None if self._connected is None or self._began is None else self._connected - self._began,
        )

    # -- its life

    async def run(self) -> End:
        """Serve until the connection ends, then leave nothing behind; called once.

        Returns:
            How it ended.

        Raises:
            BaseException: What the handler raised, as it is; a group, if several of its methods did.

        Cancelling this ends the connection; it is closed in an orderly way all the same, within `Timeouts`.
        """
        if self._began is not None:
            raise RuntimeError("a connection runs once; make a new one, with a new copy of the handler")
        if observer.get() is not None:
            self._media.clock = loop_clock()
        self._began = anyio.current_time()
        self._loop_token, self._loop_thread = current_loop_token(), threading.get_ident()
        token = set_current_context(self.context)
        try:
            try:
                await self._live()
            except BaseExceptionGroup as group:  # of our own groups, around what the handler raised when it was bound
                await self._failed(sole_error(group))
            finally:
                self._record(End(EndCause.CANCELLED, "cancelled"))
                with anyio.CancelScope(shield=True):
                    await self._close()
        finally:
            reset_current_context(token)
            self._ended.set()
            if self._errors:
                raise _together(self._errors)
        assert self.end is not None
        return self.end

    async def _live(self) -> None:
        async with anyio.create_task_group() as connection:
            self._scope = connection.cancel_scope
            tasks = Guard(connection, self._failed)
            self._loop = HandlerLoop(tasks)
            self.handler._bind(self)
            self._bound = True
            if self.end is not None:  # close() came before run()
                return
            heard, spoken = self._formats()
            _, sent = self.transport.start(heard, spoken)
            if not await self._connect():
                connection.cancel_scope.cancel()
                return
            tasks.start_soon(self._watch_peer)
            tasks.start_soon(self._open_messages)
            tasks.start_soon(self._read_messages)
            if self._time_limit is not None:
                tasks.start_soon(self._limit_time, self._time_limit)
            if has_own_method(self.handler, "start_up"):
                tasks.start_soon(self._start_up)
            async with (
                anyio.create_task_group() as receive,
                anyio.create_task_group() as emit,
                anyio.create_task_group() as video,
            ):
                media = self._media
                self._idle = {
                    "receive": partial(media.receive, heard),
                    "emit": partial(media.emit, sent.sample_rate),
                    "see": media.see,
                    "show": media.show,
                    "tick": media.tick,
                }
                receiving, emitting, showing = (Guard(group, self._failed) for group in (receive, emit, video))
                self._begin({"receive": receiving, "emit": emitting, "see": showing, "show": showing, "tick": showing})
                self._tasks = tasks

    def begin_media(self) -> None:
        """See to media that the peer has added since the call began (`WebRTCTransport.renegotiate`).

        Called in the connection's own loop; what has begun already goes on.
        """
        if self._tasks is not None and self.end is None:
            self._begin(dict.fromkeys(self._idle, self._tasks))

    def _begin(self, nurseries: Mapping[str, Guard]) -> None:
        """Begin the loops for what the peer offers, each in the nursery of its name."""
        offer, video = self.transport.offer, has_video(self.handler)
        wanted = {
            "receive": offer.receive_audio,
            "emit": offer.send_audio or offer.receive_audio,
            "see": video and offer.receive_video,
            "show": video and (offer.send_video or offer.receive_video),
        }
        wanted["tick"] = wanted["show"]
        for name in [name for name in self._idle if wanted[name]]:
            nurseries[name].start_soon(self._last, name, self._idle.pop(name), name=name)

    async def _last(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop, which ends when the connection does: a connection without it would be deaf, or mute."""
        await loop()
        if not await self._is_over():
            raise RuntimeError(f"the loop {name!r} of {self!r} ended before the connection did")

    def _formats(self) -> tuple[AudioFormat, AudioFormat]:
        """In which formats the handler hears and speaks."""
        handler = self.handler
        return (
            AudioFormat(handler.input_sample_rate, handler.expected_layout),
            AudioFormat(handler.output_sample_rate, "mono"),
        )

    async def _connect(self) -> bool:
        try:
            with anyio.fail_after(self._timeouts.connect):
                await self.transport.wait_connected()
        except NegotiationTimeout as error:
            self._record(End(EndCause.NOT_CONNECTED, str(error), error))
        except TimeoutError as error:
            self._record(End(EndCause.NOT_CONNECTED, f"not connected within {self._timeouts.connect:g} s", error))
        except STREAM_ENDS as error:
            reason = in_words("the link failed before media could flow", error)
            self._record(End(EndCause.NOT_CONNECTED, reason, error))
        else:
            self._connected = anyio.current_time()
            return True
        return False

    # -- ending

    def _record(self, end: End) -> bool:
        with self._lock:
            if self.end is not None:
                return False
            self.end = end
        return True

    def _finish(self, end: End) -> None:
        """Record why, if nothing ended it before, and cancel everything; from any thread."""
        if self._record(end) and self._scope is not None:
            call_in_loop(self._loop_token, self._scope.cancel)

    async def _failed(self, error: BaseException) -> None:
        """What a task of the connection has raised ends it, unless it comes of the end."""
        if isinstance(error, anyio.ClosedResourceError) and await self._is_over():
            return
        self._errors.append(error)
        self._finish(End(EndCause.HANDLER_RAISED, f"the handler raised {describe_error(error)}", error))

    async def _is_over(self) -> bool:
        """Whether the connection has ended, or the peer is gone, which whoever watches for it may not have seen yet."""
        if self.end is not None:
            return True
        with anyio.move_on_after(SETTLE):
            with suppress(*STREAM_ENDS):
                await self.transport.wait_ended()
            return True
        return False

    async def _watch_peer(self) -> None:
        try:
            await self.transport.wait_ended()
        except anyio.BrokenResourceError as error:
            self._finish(End(EndCause.LINK_BROKE, in_words("the link broke", error), error.__cause__ or error))
        except anyio.ClosedResourceError:
            self._finish(End(EndCause.CLOSED, "the transport was closed"))
        else:
            self._finish(End(EndCause.PEER_LEFT, "the peer left"))

    async def _limit_time(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._finish(End(EndCause.TIME_LIMIT, f"the time limit of {seconds:g} s was reached"))

    async def _close(self) -> None:
        """Handler first, then the last frames and the goodbye, then the transport. Runs shielded, in bounded time."""
        assert self.end is not None
        transport, timeouts = self.transport, self._timeouts
        deadline = anyio.current_time() + timeouts.whole
        transport.audio_in.close()
        transport.video_in.close()
        transport.messages_in.close()
        transport.audio_out.end()
        self._crew.stop()
        await self._crew.settle(SETTLE)
        try:
            if self._bound:  # else it is another connection's, and is left alone
                await self._shut_down(min(timeouts.shutdown, deadline - anyio.current_time() - INTERRUPT_GRACE))
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

    async def _shut_down(self, timeout: float) -> None:
        """Call the handler's `shutdown()`, which may still run coroutines through `handler.loop`."""
        async with anyio.create_task_group() as closing:
            tasks = Guard(closing, self._failed)
            if self._loop is not None:
                self._loop.move_to(tasks)
            over = anyio.Event()
            self._shutting_down = True
            tasks.start_soon(self._call_shutdown, timeout, over)
            await over.wait()
            self._shutting_down = False
            closing.cancel_scope.cancel()

    async def _call_shutdown(self, timeout: float, over: anyio.Event) -> None:
        try:
            await shut_down(self.handler, timeout, self._crew)
        finally:
            over.set()

    def _say_why(self) -> None:
        """Tell the peer how its connection ended, if it can still be told."""
        assert self.end is not None
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
        try:
            self.transport.send_message_nowait(messages.encode(message))
        except (anyio.ClosedResourceError, anyio.WouldBlock):
            return  # there is nobody to tell, or nobody who listens

    # -- outputs and messages

    def _put_out(self, outputs: AdditionalOutputs) -> None:
        if self._on_outputs is not None:
            self._on_outputs(outputs)
        if self._messages_open.is_set():
            self._tell(messages.FetchOutput())

    def _close_stream(self, close: CloseStream) -> None:
        self._finish(End(EndCause.HANDLER_CLOSED, close.msg))

    async def _open_messages(self) -> None:
        await self.transport.wait_messages_open()
        self._messages_open.set()
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
                        await self._call(self.handler.on_dtmf, digit)
                case _ if "on_message" in hears:  # also what spells a message of ours: to us it says nothing
                    await self._call(self.handler.on_message, text)

    async def _call(self, method: Callable[..., Any], *args: Any) -> None:
        """Call an occasional method of the handler: awaited, or in a worker thread."""
        if inspect.iscoroutinefunction(method):
            await method(*args)
        else:
            await self._crew.run(method.__qualname__, partial(self._crew.call, method, *args))

    async def _start_up(self) -> None:
        await self._call(self.handler.start_up)  # type: ignore[attr-defined]


def _together(errors: list[BaseException]) -> BaseException:
    """What several methods raised, as one error; the one, if it is one."""
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
    """Join `transport` to `handler` until either ends; the arguments are those of `Connection`."""
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
    handler: StreamHandlerBase, timeout: float, crew: Crew | None = None, *, workers: WorkerThreads | None = None
) -> None:
    """Call the handler's `shutdown()`: once per handler that was copied, whatever came after.

    A sync one runs in a worker thread, which is interrupted and then abandoned if it takes longer than `timeout`
    seconds; a coroutine is cancelled then.

    Args:
        handler: Whose.
        timeout: In seconds.
        crew: Whose thread runs a sync one, to be joined by the caller; by default one of its own, joined here.
        workers: The budget of a crew of its own, to count an abandoned thread in.

    Raises:
        BaseException: What `shutdown` raises, as it is.
    """
    if not has_own_method(handler, "shutdown"):
        return
    own = crew or Crew(workers or WorkerThreads())
    with anyio.move_on_after(timeout, shield=True) as scope:
        if inspect.iscoroutinefunction(handler.shutdown):
            await handler.shutdown()
        else:
            result: Any = await own.run("shutdown", partial(own.call, handler.shutdown), last=True)
            if inspect.isawaitable(result):
                await result
    if scope.cancelled_caught:
        logger.error("%s.shutdown did not return within %g s", type(handler).__qualname__, timeout)
        if crew is None:
            own.stop()
            with anyio.CancelScope(shield=True):
                await own.join(0.0)
