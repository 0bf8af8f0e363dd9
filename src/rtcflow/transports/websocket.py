"""A call of a WebSocket client: FastRTC's protocol, and what a client may ask for beyond it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from .._core.moved import absent_attribute
from ..frames import AudioFormat
from ..media.codecs import OPUS_RATES
from ..media.playout import Latency
from ..protocol.lines import CallStarted, LineCodec, MediaFormat, SendAccepted
from ..protocol.resume import Permit
from ..protocol.websocket import StartOptions, WebSocketCodec
from .line import LineTransport, open_line
from .line_socket import LineLimits, LineSocket, PeerLeft

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

BUFFERED_AHEAD: Final = 0.06
"""Seconds by which audio leaves early for a client that can be told to drop it: three frames against the jitter of a
TCP connection."""

NO_CODE: Final = 1005
"""The close code that stands for a missing one (RFC 6455 section 7.4.1)."""

LIVE_AHEAD: Final = 0.02
"""The same for a client that cannot: one frame, so that barge-in stays quick. Not less, since a live frame that comes a
moment before its time would have to be held back by a timer of its own."""


class WebSocketTransport(LineTransport):
    """One WebSocket client; opened by `open_websocket_transport`.

    The formats are those that the client asked for, otherwise the handler's own (mu-law at its rates, as FastRTC has
    it).

    Attributes:
        session_id: The id of the connection that the client is told. It is the client's choice, unless it is set before
            `start`.
        permit: The message to a client that may come back, if set before `start`.
    """

    kind = "websocket"
    session_id: str = ""
    permit: Permit | None = None

    @property
    def options(self) -> StartOptions:
        """What the client asked for."""
        return self._codec.options if isinstance(self._codec, WebSocketCodec) else StartOptions()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent_attribute(self, name, {"wish": "it is called options"})

    def _agree(self, receive: AudioFormat, send: AudioFormat) -> tuple[MediaFormat, MediaFormat]:
        options = self.options
        heard, spoken = options.sample_rate or receive.sample_rate, options.sample_rate or send.sample_rate
        if options.codec == "opus":
            heard, spoken = 48000, spoken if spoken in OPUS_RATES else 48000
        return MediaFormat(options.codec, heard, options.layout), MediaFormat(options.codec, spoken, options.layout)

    def _is_goodbye(self, left: PeerLeft) -> bool:
        """The same, for a client that may come back: Uvicorn tells 1005 (no code) also if the connection was lost."""
        return super()._is_goodbye(left) and not (self.options.resume and left.code == NO_CODE)

    def _tell_agreed(self, receive: MediaFormat, send: MediaFormat) -> None:
        if self.options.named:
            call_id = self.session_id or self.call.call_id
            self._put_out(SendAccepted(call_id, receive, send, self.permit))


@asynccontextmanager
async def open_websocket_transport(
    websocket: WebSocket,
    *,
    limits: LineLimits | None = None,
    latency: Latency = Latency.BUFFERED,
    receive: bool = True,
    send: bool = True,
) -> AsyncIterator[WebSocketTransport]:
    """Serve a WebSocket client: accept it and wait for its ``start``.

    Args:
        websocket: Starlette's, of any ASGI server on any backend.
        limits: What the client may do.
        latency: What is done about audio that queues up.
        receive: Whether the client's audio is heard.
        send: Whether it is sent any.

    Yields:
        The transport, for `run_connection`; closed at the end of the block.

    Raises:
        NegotiationTimeout: No ``start`` came in time; the socket was closed with 1008.
        RemoteProtocolError: Something else came; the socket was closed with `close_code` and the reason.
        anyio.EndOfStream: The client left before.
        anyio.BrokenResourceError: The link failed before.
    """

    def make_transport(socket: LineSocket, codec: LineCodec, call: CallStarted) -> WebSocketTransport:
        ahead = BUFFERED_AHEAD if codec.clears else LIVE_AHEAD
        return WebSocketTransport(socket, codec, call, ahead=ahead, latency=latency, receive=receive, send=send)

    async with open_line(websocket, lambda _: WebSocketCodec(), make_transport, limits or LineLimits()) as transport:
        yield transport
