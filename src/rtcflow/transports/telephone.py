"""A telephone call: a carrier's media stream over a WebSocket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio

from ..abc import MediaOffer
from ..exceptions import LocalProtocolError
from ..media.playout import Latency
from ..protocol.lines import (
    CallStarted,
    LineCodec,
    LineEvent,
    Media,
    MediaFormat,
    Message,
    Reorder,
    SendAccepted,
    SendDtmf,
)
from ..protocol.messages import check_keys
from ..protocol.signatures import read_telnyx_key
from ..protocol.telephone import CARRIERS, carrier_codec, detect
from ..protocol.telephone.answers import check_parameters
from ..protocol.telephone.vonage import SAMPLE_RATES
from .line import LineTransport, open_line
from .line_socket import LineLimits, LineSocket

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

AHEAD: Final = 0.1
"""Seconds by which audio leaves before its time: the carrier buffers it against the network's jitter, and can be told
to drop it. A larger value does not reduce delay. At a barge-in, no more than this is on its way.
"""

CARRIER_LIMITS: Final = LineLimits(idle=60.0)
"""What a carrier may do. It sends the caller's audio all the time, also silence, so a minute without audio means a dead
network.
"""


@dataclass(frozen=True, slots=True)
class TelephoneConfig:
    """How a stream is reached by telephone.

    Attributes:
        secrets: By carrier, what it signs its requests with. For Twilio and Plivo this is the auth token, for Vonage
            the signature secret, and for Genesys the API key. Telnyx sends a token of your own choice along
            (``stream_auth_token``). For Exotel it is ``"key:token"``, as in the URL. Requests of a carrier with a
            secret must be signed with it.
        telnyx_public_key: The Telnyx account's, as its portal shows it: its webhooks must be signed with it.
        carriers: Which carriers are served. By default those that have a secret (or key) or, if none has, the four
            whose webhooks are answered (Twilio, Telnyx, Plivo, Vonage), unchecked. ``()`` leaves the telephone routes
            out.
        unsigned_is_fine: Do not warn at start-up of carriers without a secret: for demos and tests on one machine.
        public_url: How carriers reach this server, ``"https://voice.example.com"``: scheme, host and any prefix that a
            proxy takes off the path.
        trust_forwarded: Whether to believe ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` instead; only behind a proxy
            that sets them itself, since signatures are checked against the URL made of them.
        parameters: Handed from the webhook's answer to the call (`Context.custom`), for all calls alike.
        sample_rate: What Vonage is asked to send, Hz: 8000, 16000 or 24000.
        ahead: Seconds by which audio is sent before its time (see `AHEAD`); what is due up to a frame later goes along.
        limits: What a carrier may do, and for how long it may be silent (see `CARRIER_LIMITS`).
    """

    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    telnyx_public_key: str | None = None
    carriers: tuple[str, ...] | None = None
    unsigned_is_fine: bool = False
    public_url: str | None = None
    trust_forwarded: bool = False
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    sample_rate: int = 16000
    ahead: float = AHEAD
    limits: LineLimits = CARRIER_LIMITS

    def __post_init__(self) -> None:
        if isinstance(self.carriers, str):
            raise TypeError(f"carriers={self.carriers!r} must be a list; write carriers=({self.carriers!r},)")
        if not isinstance(self.secrets, Mapping):
            raise TypeError("secrets must be a dict by carrier, such as {'twilio': os.environ['TWILIO_AUTH_TOKEN']}")
        for carrier in (*self.secrets, *(self.carriers or ())):
            carrier_codec(carrier)
        for carrier, secret in self.secrets.items():
            if not isinstance(secret, str | None):  # the error shows nothing of it
                raise TypeError(f"the secret of {carrier} is a {type(secret).__name__}; expected a text")
            if not secret:
                raise ValueError(f"the secret of {carrier} is empty; leave it out to take calls unchecked")
        if self.telnyx_public_key is not None:
            read_telnyx_key(self.telnyx_public_key)
        if self.public_url is not None and not _is_url(self.public_url):
            raise ValueError(f"public_url={self.public_url!r}; write scheme and host: 'https://voice.example.com'")
        if not isinstance(self.ahead, int | float) or isinstance(self.ahead, bool):
            raise TypeError(f"ahead={self.ahead!r}; expected a number of seconds, such as {AHEAD:g}")
        if not 0 <= self.ahead < math.inf:
            raise ValueError(f"ahead={self.ahead!r}; expected 0 or more seconds, such as {AHEAD:g}")
        if not isinstance(self.limits, LineLimits):
            raise TypeError(f"limits={self.limits!r}; expected LineLimits(...)")
        if self.sample_rate not in SAMPLE_RATES:
            raise ValueError(f"sample_rate={self.sample_rate!r}; Vonage has 8000, 16000 and 24000")
        for name, text in self.parameters.items():
            if not (isinstance(name, str) and isinstance(text, str)):
                raise TypeError(f"parameters={{{name!r}: {text!r}}}; names and values are text: write {str(text)!r}")
        for carrier in [name for name in self.served if name in CARRIERS]:
            try:
                check_parameters(carrier, self.parameters)
            except ValueError as error:
                raise ValueError(f"parameters: {error}; or leave {carrier} out of carriers=(...)") from None

    @property
    def served(self) -> tuple[str, ...]:
        """The carriers that are served."""
        if self.carriers is not None:
            return self.carriers
        keyed = () if self.telnyx_public_key is None else ("telnyx",)
        return tuple(dict.fromkeys((*self.secrets, *keyed))) or tuple(CARRIERS)


def _is_url(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https", "ws", "wss"} and bool(parts.hostname)
    except ValueError:  # half an address in brackets
        return False


class TelephoneTransport(LineTransport):
    """One call; opened by `open_telephone_transport`. There is no channel for messages, but digits come as such.

    A digit that the caller presses is put into `messages_in` as ``{"type": "dtmf", "data": "5"}``.
    """

    kind = "telephone"
    phone = True
    offer: MediaOffer = MediaOffer(messages=False)
    _reorder: Reorder | None = None

    @property
    def carrier(self) -> str:
        """``"twilio"``, ``"telnyx"``, ``"plivo"``, ``"vonage"``, ``"exotel"`` or ``"genesys"``."""
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

    def send_dtmf_nowait(self, digits: str) -> None:
        check_keys(digits)
        if not self._codec.presses:
            raise LocalProtocolError(
                f"{self.carrier}'s media stream has no message for pressing keys; use the carrier's own API, "
                f"with the call id {self.call.call_id}"
            )
        if self._link.ended.is_set():
            raise anyio.ClosedResourceError
        self._put_out(SendDtmf(digits))

    def _tell_agreed(self, receive: MediaFormat, send: MediaFormat) -> None:
        if self._codec.answers:
            self._put_out(SendAccepted(self.call.call_id, receive, send))

    def _in_order(self, event: LineEvent | None) -> Iterable[LineEvent]:
        if self._codec.ordered or not isinstance(event, Media):
            return super()._in_order(event)
        if self._reorder is None:
            self._reorder = Reorder()
        return self._reorder.push(event)

    def _left_over(self) -> Iterable[LineEvent]:
        return () if self._reorder is None else self._reorder.flush()


@asynccontextmanager
async def open_telephone_transport(
    websocket: WebSocket,
    carrier: str | None = None,
    *,
    ahead: float = AHEAD,
    limits: LineLimits | None = None,
    latency: Latency = Latency.BUFFERED,
    check: Callable[[str, LineEvent], None] | None = None,
    receive: bool = True,
    send: bool = True,
) -> AsyncIterator[TelephoneTransport]:
    """Serve a carrier's media stream: accept it and wait until the call is started.

    Args:
        websocket: Starlette's, of any ASGI server on any backend.
        carrier: Whose it is; None to see by its first message.
        ahead: Seconds by which audio leaves before its time.
        limits: What the carrier may do.
        latency: What is done about audio that queues up.
        check: Called with the carrier's name and each event up to the start of the call; raises
            `RemoteProtocolError` to refuse it.
        receive: Whether the caller is heard.
        send: Whether the caller is sent any audio.

    Yields:
        The transport, for `run_connection`; closed at the end of the block.

    Raises:
        ValueError: There is no such carrier.
        NegotiationTimeout: The call was not started in time; the socket was closed with 1008.
        RemoteProtocolError: Something else came; the socket was closed with `close_code` and the reason.
        anyio.EndOfStream: The carrier left before.
        anyio.BrokenResourceError: The link failed before.
    """
    if carrier is not None:
        carrier_codec(carrier)

    def make_codec(first: Message) -> LineCodec:
        return detect(first) if carrier is None else carrier_codec(carrier)

    def make_transport(socket: LineSocket, codec: LineCodec, call: CallStarted) -> TelephoneTransport:
        return TelephoneTransport(socket, codec, call, ahead=ahead, latency=latency, receive=receive, send=send)

    async with open_line(websocket, make_codec, make_transport, limits or CARRIER_LIMITS, check) as transport:
        yield transport
