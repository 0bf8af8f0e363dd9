"""A telephone call: a carrier's media stream over a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from ..abc import MediaOffer
from ..media.playout import Latency
from ..protocol.lines import CallStarted, LineCodec, LineEvent, Media, Message, Reorder
from ..protocol.telephone import CARRIERS, detect
from .websocket_line import LineLimits, LineSocket, LineTransport, open_line

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

AHEAD: Final = 0.1
"""Seconds by which audio leaves before its time: the carrier buffers it against the network's jitter, and can be told
to drop it. More would not be heard sooner; what is on its way at a barge-in is not more than this."""


class TelephoneTransport(LineTransport):
    """One call; opened by `open_telephone_transport`. There is no channel for messages, but digits come as such.

    A digit that the caller presses is put into `messages_in` as ``{"type": "dtmf", "data": "5"}``.
    """

    kind = "telephone"
    phone = True
    offer = MediaOffer(messages=False)
    _reorder: Reorder | None = None

    @property
    def carrier(self) -> str:
        """``"twilio"``, ``"telnyx"``, ``"plivo"`` or ``"vonage"``."""
        return self._codec.name

    @property
    def custom(self) -> dict[str, str]:
        """What is known of the call, for `Context.custom`; the application's own parameters cannot shadow the rest."""
        call = self.call
        known = {
            "carrier": self.carrier,
            "call_id": call.call_id,
            "stream_id": call.stream_id,
            "caller": call.caller,
            "callee": call.callee,
        }
        return {**call.custom, **known}

    def _in_order(self, event: LineEvent | None) -> Iterable[LineEvent]:
        if self._codec.ordered or not isinstance(event, Media):
            return super()._in_order(event)
        if self._reorder is None:
            self._reorder = Reorder()
        return self._reorder.push(event)


@asynccontextmanager
async def open_telephone_transport(
    websocket: WebSocket,
    carrier: str | None = None,
    *,
    ahead: float = AHEAD,
    limits: LineLimits | None = None,
    latency: Latency = Latency.BUFFERED,
    check: Callable[[LineEvent], None] | None = None,
) -> AsyncIterator[TelephoneTransport]:
    """Serve a carrier's media stream: accept it and wait until the call is started.

    Args:
        websocket: Starlette's, of any ASGI server on any backend.
        carrier: Whose it is; None to see by its first message.
        ahead: Seconds by which audio leaves before its time.
        limits: What the carrier may do.
        latency: What is done about audio that queues up.
        check: Called with each event up to the start of the call; raises `RemoteProtocolError` to refuse it.

    Yields:
        The transport, for `run_connection`; closed at the end of the block.

    Raises:
        ValueError: There is no such carrier.
        NegotiationTimeout: The call was not started in time; the socket was closed with 1008.
        RemoteProtocolError: Something else came; the socket was closed with `close_code` and the reason.
        anyio.EndOfStream: The carrier left before.
        anyio.BrokenResourceError: The link failed before.
    """
    if carrier is not None and carrier not in CARRIERS:
        raise ValueError(f"unknown carrier {carrier[:40]!r}; known are {', '.join(CARRIERS)}")

    def make_codec(first: Message) -> LineCodec:
        return detect(first) if carrier is None else CARRIERS[carrier]()

    def make_transport(socket: LineSocket, codec: LineCodec, call: CallStarted) -> TelephoneTransport:
        return TelephoneTransport(socket, codec, call, ahead=ahead, latency=latency)

    async with open_line(websocket, make_codec, make_transport, limits or LineLimits(), check) as transport:
        yield transport
