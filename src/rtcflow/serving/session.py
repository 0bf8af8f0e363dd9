"""A session is one call, from its admission until its connection has ended and left nothing behind."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import anyio.lowlevel

from .._core.bridge import Event
from .._core.fanout import Fanout
from .._core.moved import absent_attribute
from .._core.native import cancellations
from .._core.threads import WorkerThreads
from ..abc import Transport
from ..connection.connection import Connection, ConnectionStatistics
from ..context import Context, LogFacts, shorten_id
from ..ends import End, EndCause, Timeouts, is_interrupt
from ..exceptions import CallLost, ConnectionExists, InvalidOffer, LocalProtocolError, NotAuthorized
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import has_own_method, has_video
from ..handlers.functions import check_args, is_video_function
from ..outputs import AdditionalOutputs
from ..protocol.resume import Permit, Proof, Ticket
from ..transports.webrtc import WebRTCTransport
from .output_events import OutputEvents

if TYPE_CHECKING:
    from ..connection.recorder import Recording

logger: logging.Logger = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
"""Random bytes in the secret of a call that can be resumed; RFC 2104 section 3 recommends the length of the hash."""

_TOLD_IN_FULL: Final = (EndCause.CLOSED, EndCause.NOT_CONNECTED, EndCause.LINK_BROKE)
"""Causes for which the reason says more than the cause alone."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class CallRequest:
    """The request for a call, or about one: what an `authorize` hook decides on.

    Attributes:
        path: The URL's path.
        headers: The headers; names are in lower case. A repeated header has its last value.
        query: The query parameters. A repeated one has its last value.
        cookies: The cookies.
        remote_address: ``(host, port)`` of the other end of the HTTP connection, if it is known. Behind a proxy it is
            the proxy's.
        method: ``"POST"`` for offers, ``"WEBSOCKET"`` for calls over a WebSocket.
        new_call: Whether the request asks for a new call. Other requests are about a live call (a further offer, WHIP's
            PATCH and DELETE), or about the ICE servers.
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
    """What all connections of one stream share: the arguments of `Connection` with these names."""

    time_limit: float | None
    timeouts: Timeouts
    debug: bool
    workers: WorkerThreads
    resume: float | None = None


_MOVED: Final[Mapping[str, str]] = {
    "board": "it is called events",
    "fetch_output": "read with `async for output in session.outputs.read()`",
}
"""Names that `Session` had in an earlier release, and what to use now."""


class Session:
    """One call: a slot, an id and a handler of its own, until its connection has ended.

    `Stream.calls` holds it under its id.

    Attributes:
        webrtc_id: The id under which the application finds the call, on every transport.
        kind: The kind of transport: ``"webrtc"``, ``"websocket"`` or ``"telephone"``.
        caller: The request that asked for the call.
        principal: What the `authorize` hook returned.
        handler: The call's own copy of the stream's handler.
        outputs: The `AdditionalOutputs` of the handler; `Stream.output_stream` reads them.
        connection: The connection, or None until the transport is open.
        events: What readers of the outputs route are sent; None until the first reader comes.
        log_facts: What log records of the call say of it; `Calls.admit` makes them current.
        ticket: The secret of a caller that may come back, or None.
        number: Names the call to operators. No other call of this `Calls` has it, and it gives no power over the call.
        began: When the connection began, on the loop's clock, or None.
        duration: Seconds from the beginning of the connection until all of it was closed; None until then.
    """

    def __init__(
        self,
        webrtc_id: str,
        kind: str,
        caller: CallRequest,
        principal: Any,
        handler: StreamHandlerBase,
        settings: ConnectionSettings,
        number: int = 0,
    ) -> None:
        self.webrtc_id = webrtc_id
        self.kind = kind
        self.caller = caller
        self.principal = principal
        self.handler = handler
        self.outputs: Fanout[AdditionalOutputs] = Fanout()
        self.connection: Connection | None = None
        self.events: OutputEvents | None = None
        self.log_facts: LogFacts = LogFacts(self.name, kind, principal)
        self.ticket: Ticket | None = None
        self.number = number
        self.began: float | None = None
        self.duration: float | None = None
        self._settings = settings
        self._prepared = Event()
        self._closing: str | None = None
        self._began: float | None = None
        self._on_closed: Callable[[], object] | None = None

    def __repr__(self) -> str:
        state = "admitted" if self.connection is None else "live" if self.connection.end is None else "ended"
        return f"<Session {self.name} {self.kind} {state}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent_attribute(self, name, _MOVED)

    @property
    def name(self) -> str:
        """What logs call the call: the beginning of its id. The whole id is secret: it gives power over the call."""
        return shorten_id(self.webrtc_id)

    # -- what the application may do, from any thread

    @property
    def end(self) -> End | None:
        """How the call ended, or None while it is live."""
        return None if self.connection is None else self.connection.end

    def set_input(self, *args: Any) -> None:
        """Hand arguments to the handler (`latest_args`, `args_set`).

        Raises:
            ValueError: There are no arguments, or the function that handles this call takes more or fewer. Nothing is
                changed.
        """
        check_args(self.handler, args)
        self.handler.set_args(list(args))

    def close(self, reason: str = "closed by the server") -> None:
        """End the call; the peer is told `reason`."""
        self._closing = reason
        if self.connection is not None:
            self.connection.close(reason)

    def statistics(self) -> ConnectionStatistics | None:
        """The connection's figures now, or None if the transport is not open yet."""
        return None if self.connection is None else self.connection.statistics()

    def record(self, path: str | PathLike[str]) -> Recording:
        """Record the call from now on; see `Connection.record`.

        Raises:
            ValueError: The path has a suffix that no recording has.
            RuntimeError: The call is not connected yet, or has ended. `Stream(record=...)` records from the beginning.
        """
        if self.connection is None:
            raise RuntimeError("the call is not connected yet; Stream(record=...) records calls from their beginning")
        return self.connection.record(path)

    # -- being served

    def prepare(self, transport: Transport, custom: Mapping[str, str] = _NOTHING) -> Connection:
        """Join `transport` and the handler. Called once, by `Calls.start` or `Calls.run`."""
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
            resume=None if self.ticket is None else settings.resume,
        )
        if self._closing is not None:  # close() came while the transport was being opened
            connection.close(self._closing)
        self._prepared.set()
        return connection

    async def serve(self, on_closed: Callable[[], object] | None = None) -> End:
        """Run the prepared connection until it ends, and log its beginning and its end. A checkpoint.

        An error of the handler is logged, and is not raised here.

        Cancelling this ends the connection. The cancellation is never swallowed, also if the handler raises something
        meanwhile.

        Args:
            on_closed: Called once when everything is closed, within `Timeouts.close` from the end's cause. This returns
                later only if the handler has a task that does not let itself be cancelled: when that has ended.

        Returns:
            How it ended; `End.error` is what the handler raised.
        """
        connection = self.connection
        assert connection is not None  # noqa: S101
        self.began = self._began = anyio.current_time()
        cancelled_before = cancellations()
        self._on_closed = on_closed
        logger.info("%s call %s from %s begins", self.kind, self.name, self.caller)
        try:
            await connection.serve()
        except Exception:
            # Supervises: what a handler raises does not come here. This is a bug of rtcflow, and it ends one call only.
            logger.exception("%s call %s: rtcflow failed", self.kind, self.name)
        finally:
            self._closed()
        interrupts = [error for error in connection.errors if is_interrupt(error)]
        if interrupts:
            raise interrupts[0]
        if cancellations() > cancelled_before:  # asyncio tells a task once: pass it on, whatever else was raised
            raise anyio.get_cancelled_exc_class()
        await anyio.lowlevel.checkpoint_if_cancelled()
        assert connection.end is not None  # noqa: S101
        return connection.end

    def _closed(self) -> None:
        """Everything of the call is closed: log how it ended, and give its slot back. The second call does nothing."""
        began, self._began = self._began, None
        connection = self.connection
        if began is None or connection is None or connection.end is None:
            return
        for error in connection.errors:
            # Supervises: a handler's error ends its own connection only, and is logged here, once. That includes
            # SystemExit and the panics of native code.
            who = type(self.handler).__qualname__
            what = "%s call %s: %s raised %s"
            logger.error(what, self.kind, self.name, who, type(error).__name__, exc_info=error)
        seconds = self.duration = anyio.current_time() - began
        logger.info("%s", describe_end(self, connection.end, connection.statistics(), seconds))
        if self._on_closed is not None:
            self._on_closed()

    # -- coming back

    def permit_resume(self) -> Permit | None:
        """Let the caller come back if its link breaks, as it asked. Call this before `prepare`.

        Returns:
            What the caller is told. None if the stream was made without `resume`.
        """
        if self._settings.resume is None:
            return None
        self.ticket = Ticket(secrets.token_urlsafe(SECRET_BYTES), secrets.token_urlsafe(SECRET_BYTES))
        return Permit(self.ticket.secret, self._settings.resume, self.ticket.stop)

    def check_resume(self, kind: str, proof: Proof, offer: str = "") -> Connection:
        """Check that somebody who wants to go on with this call is its caller. A proof counts once.

        Args:
            kind: The kind of the new transport.
            proof: What they sent.
            offer: The SDP that came with it.

        Returns:
            The connection to be resumed.

        Raises:
            CallLost: The call cannot be resumed.
            NotAuthorized: The proof is wrong, or was used before.
            InvalidOffer: The call began on another kind of transport.
        """
        connection = self.connection
        if self.ticket is None or connection is None or connection.end is not None:
            raise CallLost("this call cannot be resumed; call again")
        if not self.ticket.accept(proof, self.webrtc_id, offer):
            raise NotAuthorized("the proof is wrong, or was used before: nobody but its caller may resume a call")
        if kind != self.kind:
            raise InvalidOffer(f"this call began by {self.kind}; resume it by the same", status=422)
        return connection

    def hang_up(self, token: str) -> None:
        """End the call for its caller, who says so beside the call's link: the link may be broken.

        Args:
            token: What they sent as a proof that this is their call.

        Raises:
            NotAuthorized: It is wrong.
        """
        if self.ticket is None or not self.ticket.may_stop(token):
            raise NotAuthorized("the token is wrong: nobody but its caller may end a call")
        if self.connection is not None:
            self.connection.peer_left()

    async def renegotiate(self, offer_sdp: str) -> str:
        """Answer a further offer in a live WebRTC call whose peer has added or removed tracks. A checkpoint.

        Raises:
            ConnectionExists: This is not a live WebRTC call, or the offer belongs to another ICE session.
            InvalidOffer: The offer is invalid, or does not fit what was agreed on. The call goes on.
            UnsupportedMedia: Nothing in the offer can be served. The call goes on.
        """
        connection = self.connection
        if connection is None or not isinstance(connection.transport, WebRTCTransport):
            raise ConnectionExists
        answer = await connection.transport.renegotiate(offer_sdp)
        connection.begin_media()
        return answer

    async def wait_prepared(self) -> Connection:
        """Wait until the transport is open. Safe to cancel. A checkpoint.

        Raises:
            anyio.ClosedResourceError: Admission failed, so it never opens.
        """
        await self._prepared.wait()
        assert self.connection is not None  # noqa: S101
        return self.connection

    def release(self) -> None:
        """End the outputs and wake everybody who waits for the transport. Idempotent."""
        self.outputs.end()
        self._prepared.close()


def describe_end(session: Session, end: End, figures: ConnectionStatistics, seconds: float) -> str:
    """One line about the end of a call: the caller, how it connected, how it ended, its figures."""
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
        (figures.resumed, "times resumed"),
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
    """How many worker threads a connection with this handler holds at once. Async handlers hold no thread.

    A sync handler holds one for each of `receive`, `emit`, `start_up`, `video_receive` and `video_emit` that it has. A
    function of video has only the last two.
    """
    if isinstance(handler, AsyncStreamHandler):
        return 0
    if is_video_function(handler):
        return 2
    audio = 2 + has_own_method(handler, "start_up")
    return audio + 2 if has_video(handler) else audio
