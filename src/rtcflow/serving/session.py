"""A session: what the application keeps for one caller, from admission until nothing of the connection is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import anyio
import anyio.lowlevel

from .._core.bridge import Event
from .._core.fanout import Fanout, Reader
from .._core.native import cancellations
from .._core.threads import WorkerThreads
from ..abc import Transport
from ..connection.connection import Connection, ConnectionStatistics
from ..context import Context
from ..ends import End, EndCause, Timeouts
from ..exceptions import ConnectionExists, LocalProtocolError
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import has_own_method, has_video
from ..handlers.functions import check_args, is_video_function
from ..outputs import AdditionalOutputs
from ..transports.webrtc import WebRTCTransport
from .outputs_board import Board

logger = logging.getLogger(__name__)

SHOWN: Final = 8
"""Characters of an id that logs show, but never more than half: of a server-made id's 144 bits, 96 stay secret."""

_TOLD_IN_FULL: Final = (EndCause.CLOSED, EndCause.NOT_CONNECTED, EndCause.LINK_BROKE)
"""Causes whose reason says more than they do."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Caller:
    """The request by which somebody wants to be served: what an `authorize` hook decides on.

    Attributes:
        path: The URL's path.
        headers: Names in lower case. Of a repeated header the last value.
        query: Query parameters. Of a repeated one the last value.
        cookies: Its cookies.
        remote_address: ``(host, port)`` of the other end of the HTTP connection, where it is known; behind a proxy
            that is the proxy.
        method: ``"POST"`` for offers, ``"WEBSOCKET"`` for calls over a WebSocket.
        new_call: Whether a call is asked for. If not, it is about one that is live (a further offer, WHIP's PATCH and
            DELETE), or about the ICE servers.
    """

    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    remote_address: tuple[str, int] | None = None
    method: str = "POST"
    new_call: bool = True

    def __str__(self) -> str:
        return "somebody" if self.remote_address is None else ":".join(map(str, self.remote_address))


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What all connections of one stream have in common: the arguments of `Connection` of that name."""

    time_limit: float | None
    timeouts: Timeouts
    debug: bool
    workers: WorkerThreads


class Session:
    """One admitted caller: a slot, an id and a fresh handler, until its connection has ended.

    Made by `Stream.admit`, and served by `run` (in the calling task) or `start` (in the stream's own task group).

    Attributes:
        webrtc_id: The id under which the application finds it, on every transport.
        kind: The kind of transport it was admitted for: ``"webrtc"``, ``"websocket"`` or ``"telephone"``.
        caller: The request it came by.
        principal: What the `authorize` hook returned.
        handler: Its own copy of the stream's handler.
        outputs: The `AdditionalOutputs` of its handler.
        connection: None until it is served.
        board: What readers of the outputs route are shown; None until the first one comes.
    """

    def __init__(
        self,
        webrtc_id: str,
        kind: str,
        caller: Caller,
        principal: Any,
        handler: StreamHandlerBase,
        settings: ConnectionSettings,
    ) -> None:
        self.webrtc_id = webrtc_id
        self.kind = kind
        self.caller = caller
        self.principal = principal
        self.handler = handler
        self.outputs = Fanout[AdditionalOutputs]()
        self.connection: Connection | None = None
        self.board: Board | None = None
        self._settings = settings
        self._prepared = Event()
        self._fetching = anyio.Lock()
        self._fetched: Reader[AdditionalOutputs] | None = None
        self._closing: str | None = None
        self._began: float | None = None
        self._on_closed: Callable[[], object] | None = None

    def __repr__(self) -> str:
        state = "admitted" if self.connection is None else "live" if self.connection.end is None else "ended"
        return f"<Session {self.name} {self.kind} {state}>"

    @property
    def name(self) -> str:
        """What logs call it: the beginning of its id. Who knows all of an id may speak for its call."""
        return f"{self.webrtc_id[: min(SHOWN, len(self.webrtc_id) // 2)]}…"

    # -- what the application may do, from any thread

    @property
    def end(self) -> End | None:
        """How it ended, or None while it lives."""
        return None if self.connection is None else self.connection.end

    def set_input(self, *args: Any) -> None:
        """Hand arguments to the handler (`latest_args`, `args_set`).

        Raises:
            ValueError: There are none, or the function that handles this call takes more or fewer; nothing is changed.
        """
        check_args(self.handler, args)
        self.handler.set_args(list(args))

    async def fetch_output(self) -> AdditionalOutputs:
        """Wait for the next output that was not fetched before. Safe to cancel: no output is lost.

        Fetching reads beside all other readers, with a bound of 256 outputs beyond which the oldest are lost.

        Raises:
            anyio.EndOfStream: The call has ended.
        """
        async with self._fetching:  # each of several tasks gets outputs of its own
            if self._fetched is None:
                self._fetched = self.outputs.read()
            output = await anext(self._fetched, None)
        if output is None:
            raise anyio.EndOfStream
        return output

    def close(self, reason: str = "closed by the server") -> None:
        """End it; the peer is told `reason`."""
        self._closing = reason
        if self.connection is not None:
            self.connection.close(reason)

    def statistics(self) -> ConnectionStatistics | None:
        """Its connection's figures now, or None before there is one."""
        return None if self.connection is None else self.connection.statistics()

    # -- being served

    def prepare(self, transport: Transport, custom: Mapping[str, str] = _NOTHING) -> Connection:
        """Join `transport` to the handler; called once, by `Stream.admit`'s caller through `start` or `run`."""
        if self.connection is not None:
            raise LocalProtocolError("a session is served once")
        context = Context(
            webrtc_id=self.webrtc_id,
            transport=self.kind,
            remote_address=self.caller.remote_address,
            headers=self.caller.headers,
            query=self.caller.query,
            principal=self.principal,
            custom=custom,
        )
        settings = self._settings
        connection = self.connection = Connection(
            transport,
            self.handler,
            context=context,
            time_limit=settings.time_limit,
            timeouts=settings.timeouts,
            debug=settings.debug,
            on_outputs=self.outputs.put,
            workers=settings.workers,
            name=self.name,
            on_closed=self._closed,
        )
        if self._closing is not None:  # close() came while the transport was being opened
            connection.close(self._closing)
        self._prepared.set()
        return connection

    async def serve(self, on_closed: Callable[[], object] | None = None) -> End:
        """Run the prepared connection to its end, and log both; never raises what the handler raised.

        Cancelling this ends the connection, and is never swallowed: not by what the handler raises meanwhile either.

        Args:
            on_closed: Called once when everything is closed, within `Timeouts.close` from the end's cause. This returns
                later only if the handler has a task that does not let itself be cancelled: when that has ended.

        Returns:
            How it ended: `End.error` is what the handler raised.
        """
        connection = self.connection
        assert connection is not None
        self._began, cancelled_before = anyio.current_time(), cancellations()
        self._on_closed = on_closed
        logger.info("%s call %s from %s begins", self.kind, self.name, self.caller)
        try:
            await connection.serve()
        except Exception:
            # Supervises: what a handler raises does not come here. This is a fault of ours, and one call's fault only.
            logger.exception("%s call %s: rtcflow failed", self.kind, self.name)
        finally:
            self._closed()
        interrupts = [error for error in connection.errors if _is_interrupt(error)]
        if interrupts:
            raise interrupts[0]
        if cancellations() > cancelled_before:  # asyncio tells a task once: pass it on, whatever else was raised
            raise anyio.get_cancelled_exc_class()
        await anyio.lowlevel.checkpoint_if_cancelled()
        assert connection.end is not None
        return connection.end

    def _closed(self) -> None:
        """Everything of the call is closed: log how it ended, and give its slot back. The second call does nothing."""
        began, self._began = self._began, None
        connection = self.connection
        if began is None or connection is None or connection.end is None:
            return
        for error in connection.errors:
            # Supervises: a handler's error, be it SystemExit or what native code calls a panic, ends its own connection
            # only, and is told here, once.
            who = type(self.handler).__qualname__
            what = "%s call %s: %s raised %s"
            logger.error(what, self.kind, self.name, who, type(error).__name__, exc_info=error)
        seconds = anyio.current_time() - began
        logger.info("%s", describe_end(self, connection.end, connection.statistics(), seconds))
        if self._on_closed is not None:
            self._on_closed()

    async def renegotiate(self, offer_sdp: str) -> str:
        """Answer a further offer in a live WebRTC call, whose peer has added tracks or taken them away.

        Raises:
            ConnectionExists: It is no live WebRTC call, or the offer is not of its ICE session: somebody else's.
            InvalidOffer: The offer makes no sense, or does not fit what was agreed on. The call goes on.
            UnsupportedMedia: Nothing in it can be served. The call goes on.
        """
        connection = self.connection
        if connection is None or not isinstance(connection.transport, WebRTCTransport):
            raise ConnectionExists("this id is in use; choose another, or wait until that call has ended")
        answer = await connection.transport.renegotiate(offer_sdp)
        connection.begin_media()
        return answer

    async def wait_prepared(self) -> Connection:
        """Wait until its transport was opened. Safe to cancel.

        Raises:
            anyio.ClosedResourceError: It never will be: admission failed.
        """
        await self._prepared.wait()
        assert self.connection is not None
        return self.connection

    def release(self) -> None:
        """Called by the stream when nothing of the session is left. Idempotent."""
        self.outputs.end()
        self._prepared.close()


def _is_interrupt(error: BaseException) -> bool:
    """Whether this is for the whole process: Ctrl-C, which trio raises in whatever task runs."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None
    )


def describe_end(session: Session, end: End, figures: ConnectionStatistics, seconds: float) -> str:
    """One line of a session's end: who, how it connected, how it ended, its figures."""
    transport = figures.transport
    heard, spoken = transport.audio_in, transport.audio_out
    facts = ["never connected" if figures.setup is None else f"connected in {1000 * figures.setup:.0f} ms"]
    link = None if session.connection is None else session.connection.transport
    if isinstance(link, WebRTCTransport) and link.route is not None:
        facts = [f"{facts[0]} by {link.route}"]
    if heard.put:
        facts.append(f"heard {heard.put} frames")
    if figures.emitted:
        facts.append(f"emitted {figures.emitted}")
    if figures.video_received or figures.video_emitted:
        facts.append(f"saw {figures.video_received} and showed {figures.video_emitted} frames")
    for count, words in (
        (heard.dropped, "frames dropped unheard"),
        (spoken.gaps, "gaps"),
        (transport.packets_lost, "packets lost"),
        (figures.stalls, f"stalls, the longest {figures.longest_stall:.1f} s"),
        (figures.threads_abandoned, "threads abandoned"),
        (figures.tasks_abandoned, "tasks abandoned"),
    ):
        if count:
            facts.append(f"{count} {words}")
    if transport.round_trip is not None:
        facts.append(f"round trip {1000 * transport.round_trip:.1f} ms")
    who = f"{session.kind} call {session.name} from {session.caller}"
    why = end.reason if end.cause in _TOLD_IN_FULL else end.cause.value
    return f"{who} ended after {seconds:.1f} s: {why} ({', '.join(facts)})"


def threads_needed(handler: StreamHandlerBase) -> int:
    """How many worker threads a connection with this handler holds at once: none for async handlers.

    One each for those of `receive`, `emit`, `start_up`, `video_receive` and `video_emit` that it has; a function of
    video has the last two only.
    """
    if isinstance(handler, AsyncStreamHandler):
        return 0
    if is_video_function(handler):
        return 2
    audio = 2 + has_own_method(handler, "start_up")
    return audio + 2 if has_video(handler) else audio
