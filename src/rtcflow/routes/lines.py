"""The routes of WebSocket clients and telephone carriers; `asgi.routes` puts them beside the others.

    WS   {path}/websocket/offer                  FastRTC's WebSocket protocol and what can be asked for beyond it
    POST {path}/telephone/incoming[/{carrier}]   a carrier's webhook: answered with where to stream the call (GET, too)
    WS   {path}/telephone/handler[/{carrier}]    the carrier's media stream; without a name, seen by its first message

A carrier may also be named by ``?carrier=``. Where a secret of the carrier is configured (`TelephoneConfig.secrets`),
its requests must be signed with it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import anyio
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocketState

from ..ends import EndCause
from ..exceptions import (
    ApplicationFailed,
    InvalidOffer,
    NegotiationError,
    NotAuthorized,
    NotServing,
    RemoteProtocolError,
    TooManyConnections,
    UnknownConnection,
    UnsupportedMedia,
)
from ..protocol import signalling
from ..protocol.lines import INTERNAL_ERROR, NORMAL, OVER_LIMIT, WRONG_KIND, CallStarted, Connected, LineEvent
from ..protocol.signatures import same_secret, verify_plivo, verify_telnyx, verify_twilio, verify_vonage
from ..protocol.telephone import answer_call
from ..protocol.telephone.answers import read_call
from ..serving.session import Caller, Session
from ..stream import Modality, Mode
from ..transports.line_socket import GOODBYE, LineLimits, LineSocket, PeerLeft
from ..transports.telephone import TelephoneConfig, open_telephone_transport
from ..transports.websocket import open_websocket_transport
from .app import caller_of, failure, read_whole
from .origin_guard import guard

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from ..stream import Stream
    from ..transports.line import LineTransport

logger = logging.getLogger(__name__)

WEBHOOK_LIMIT: Final = 64 * 1024
"""The most bytes of a webhook's body: a carrier's form has one or two thousand."""
WEBHOOK_TIMEOUT: Final = 10.0
"""Seconds in which it must have come."""

TRY_AGAIN_LATER: Final = 1013
"""The WebSocket close code of a server that is full (IANA's registry for RFC 6455)."""


def routes(stream: Stream, path: str = "") -> list[BaseRoute]:
    """The routes of WebSocket clients and telephone carriers for `stream`, under `path`."""
    found: list[BaseRoute] = [
        WebSocketRoute(f"{path}/websocket/offer", partial(websocket_offer, stream), middleware=guard(stream))
    ]
    config = stream.telephone or TelephoneConfig()
    for suffix in ("", "/{carrier}") if config.served else ():
        webhook = partial(incoming_call, stream, config)
        found += [
            Route(f"{path}/telephone/incoming{suffix}", webhook, methods=["GET", "POST"]),
            WebSocketRoute(
                f"{path}/telephone/handler{suffix}",
                partial(telephone_handler, stream, config),
                middleware=guard(stream),
            ),
        ]
    if stream.modality is not Modality.VIDEO:
        _warn_of_strangers(config, path)
    return found


def _warn_of_strangers(config: TelephoneConfig, path: str) -> None:
    unchecked = [carrier for carrier in config.served if carrier not in config.secrets]
    if unchecked and not config.unsigned_is_fine:
        logger.warning(
            "telephone calls of %s are taken unchecked under %s/telephone; give Stream(telephone=TelephoneConfig("
            "secrets=...)) what the carrier signs with, or carriers=() to take none",
            ", ".join(unchecked),
            path,
        )
    if "telnyx" in config.secrets and "telnyx" in config.served and config.telnyx_public_key is None:
        logger.warning(
            "Telnyx' webhooks are refused at %s/telephone/incoming, since nothing tells whether they are its own; to "
            "answer them give TelephoneConfig(telnyx_public_key=...), which its portal shows",
            path,
        )


# -- calls over a WebSocket


async def websocket_offer(stream: Stream, websocket: WebSocket) -> None:
    """`WS {path}/websocket/offer`: from the client's upgrade until its end."""
    limits = stream.websocket or LineLimits()
    if stream.websocket is None and stream.mode is Mode.RECEIVE:
        limits = replace(limits, idle=None)  # there is nothing that such a client would have to say
    async with _refusals(stream, websocket, _tell_client):
        _check_audio(stream)
        async with (
            stream.admit(_caller_of(websocket), "websocket") as session,
            open_websocket_transport(websocket, limits=limits, latency=stream.latency, **_ways(stream)) as transport,
            _refusing(transport),
        ):
            if transport.call.call_id:
                stream.rename(session, transport.call.call_id)
            transport.session_id = session.webrtc_id
            await _run(stream, session, transport)


async def telephone_handler(stream: Stream, config: TelephoneConfig, websocket: WebSocket) -> None:
    """`WS {path}/telephone/handler`: from the carrier's upgrade until the end of the call."""
    carrier = _named_carrier(websocket)
    async with _refusals(stream, websocket, _deny):
        _check_audio(stream)
        caller = _caller_of(websocket)
        check = _UpgradeCheck(config, websocket)
        check.before(carrier)
        async with (
            stream.admit(caller, "telephone") as session,
            open_telephone_transport(
                websocket,
                carrier,
                ahead=config.ahead,
                limits=config.limits,
                latency=stream.latency,
                check=check,
                **_ways(stream),
            ) as transport,
        ):
            await _run(stream, session, transport, transport.custom)


def _ways(stream: Stream) -> dict[str, bool]:
    """Which way media flows, seen from us."""
    return {"receive": stream.mode is not Mode.RECEIVE, "send": stream.mode is not Mode.SEND}


async def _run(
    stream: Stream, session: Session, transport: LineTransport, custom: Mapping[str, str] = MappingProxyType({})
) -> None:
    transport.farewell = partial(_farewell, session)
    end = await stream.run(session, transport, custom)
    if isinstance(end.error, RemoteProtocolError):
        stream.refused["protocol_error"] += 1


def _farewell(session: Session) -> tuple[int, str]:
    """With which code and reason the socket of an ended session is closed."""
    if session.end is not None and session.end.cause is EndCause.HANDLER_RAISED:
        return INTERNAL_ERROR, "the handler failed"
    return NORMAL, ""


# -- who is refused


@asynccontextmanager
async def _refusals(
    stream: Stream, websocket: WebSocket, tell: Callable[[WebSocket, NegotiationError], Awaitable[None]]
) -> AsyncIterator[None]:
    """Log and count calls that come to nothing; who was refused before its socket was accepted is told by `tell`."""
    path, client = websocket.scope["path"], websocket.client
    who = "somebody" if client is None else f"{client.host}:{client.port}"
    try:
        yield
    except RemoteProtocolError as error:
        stream.refused["protocol_error"] += 1
        logger.warning("%s from %s refused: %s", path, who, error)
    except NegotiationError as error:
        stream.refused[error.code] += 1
        logger.info("%s from %s refused: %s", path, who, error)
        if websocket.application_state is WebSocketState.CONNECTING:
            await tell(websocket, error)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        stream.refused["left"] += 1
        logger.info("%s: %s left before the call was started", path, who)


async def _deny(websocket: WebSocket, error: NegotiationError) -> None:
    """Answer the upgrade with the error's HTTP status."""
    await LineSocket(websocket, LineLimits()).deny(failure(error))


async def _tell_client(websocket: WebSocket, error: NegotiationError) -> None:
    """Tell a client why, as FastRTC does, and close; but a stranger's socket is not even accepted."""
    if isinstance(error, NotAuthorized | InvalidOffer):
        await _deny(websocket, error)
        return
    socket = LineSocket(websocket, LineLimits())
    with suppress(PeerLeft), anyio.move_on_after(GOODBYE):
        await socket.accept()
        await socket.send(json.dumps(signalling.error_body(error)))
    await socket.close(_close_code(error), str(error))


@asynccontextmanager
async def _refusing(transport: LineTransport) -> AsyncIterator[None]:
    """Tell a client that asked in `start` for what it cannot have, and close."""
    try:
        yield
    except NegotiationError as error:
        await transport.refuse(_close_code(error), str(error), json.dumps(signalling.error_body(error)))
        raise


def _close_code(error: NegotiationError) -> int:
    match error:
        case TooManyConnections() | NotServing():
            return TRY_AGAIN_LATER
        case ApplicationFailed():
            return INTERNAL_ERROR
        case UnsupportedMedia():
            return WRONG_KIND
    return OVER_LIMIT


def _check_audio(stream: Stream) -> None:
    """Refuse callers of a stream that has no audio.

    Raises:
        UnsupportedMedia: There is none in this stream, and lines have nothing else.
    """
    if stream.modality is Modality.VIDEO:
        raise UnsupportedMedia("this stream has video only; a WebSocket or a telephone carries audio: call by WebRTC")


def _caller_of(connection: HTTPConnection) -> Caller:
    """See `asgi.caller_of`.

    Raises:
        InvalidOffer: The Host header is none.
    """
    _check_host(connection.headers.get("host", "localhost"))
    return caller_of(connection)


# -- webhooks


async def incoming_call(stream: Stream, config: TelephoneConfig, request: Request) -> Response:
    """`POST {path}/telephone/incoming`: the carrier is told where to stream the call."""
    try:
        return await _answer_webhook(stream, config, request)
    except NegotiationError as error:
        stream.refused[error.code] += 1
        logger.warning("%s refused: %s", request.scope["path"], error)
        return PlainTextResponse(str(error), error.status)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it


async def _answer_webhook(stream: Stream, config: TelephoneConfig, request: Request) -> Response:
    _check_audio(stream)
    _check_host(request.headers.get("host", "localhost"))
    carrier = _named_carrier(request) or _signing_carrier(request)
    if carrier not in config.served:
        raise _not_served(carrier)
    body = await read_whole(request, WEBHOOK_LIMIT, WEBHOOK_TIMEOUT)
    fields = _fields(request, body)
    if not _is_signed(config, carrier, request, body, fields):
        raise _wrong_signature(carrier)
    path = request.url.path.partition("/telephone/incoming")[0] + f"/telephone/handler/{carrier}"
    url = _public_url(config, request, "wss", path)
    told = {**config.parameters, **read_call({**dict(request.query_params), **dict(fields)})}
    if carrier != "vonage":
        told.pop("call_id", None)  # the others say it themselves
    signed = carrier == "vonage" and carrier in config.secrets
    media_type, answer = answer_call(carrier, url, told, sample_rate=config.sample_rate, signed=signed)
    return Response(answer, media_type=media_type)


def _not_served(carrier: str) -> NegotiationError:
    error = UnknownConnection(f"calls of {carrier[:40]!r} are not served here")
    error.code = "carrier_not_served"
    return error


def _wrong_signature(carrier: str) -> NegotiationError:
    missing = "telnyx_public_key" if carrier == "telnyx" else "secrets and public_url"
    error = NotAuthorized(f"the signature of {carrier} is missing or wrong; see TelephoneConfig.{missing}")
    error.code = "wrong_signature"
    return error


def _named_carrier(connection: HTTPConnection) -> str | None:
    named = connection.path_params.get("carrier") or connection.query_params.get("carrier")
    return None if named is None else str(named).lower()


def _signing_carrier(request: Request) -> str:
    """Whose webhook this is, if its URL does not say: by the header that only this carrier sends."""
    if "x-plivo-signature-v3" in request.headers:
        return "plivo"
    return "telnyx" if "telnyx-signature-ed25519" in request.headers else "twilio"


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


def _fields(request: Request, body: bytes) -> list[tuple[str, str]]:
    """What the body says: the fields of a form, or the strings of a JSON object."""
    if _is_form(request):
        return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return [(name, part) for name, part in said.items() if isinstance(part, str)] if isinstance(said, dict) else []


# -- signatures


def _is_signed(
    config: TelephoneConfig, carrier: str, request: Request, body: bytes, fields: list[tuple[str, str]]
) -> bool:
    """Whether the carrier signed this webhook; nothing else is answered where it is known what it signs with."""
    secret = config.secrets.get(carrier)
    if carrier == "telnyx":  # it has a key for that; the secret is for the WebSocket
        key, headers = config.telnyx_public_key, request.headers
        signature, timestamp = headers.get("telnyx-signature-ed25519"), headers.get("telnyx-timestamp")
        if key is None:
            return secret is None
        return verify_telnyx(key, signature, timestamp, time.time(), body)
    if secret is None:
        return True
    url = _public_url(config, request, "https", request.url.path, request.url.query)
    form, json_body = (fields, None) if _is_form(request) else ([], body or None)
    match carrier:
        case "twilio":
            return verify_twilio(secret, request.headers.get("x-twilio-signature"), url, form, json_body)
        case "plivo":
            signature, nonce = _plivo_headers(request)
            return verify_plivo(secret, signature, nonce, url, form, post=request.method == "POST")
    return verify_vonage(secret, request.headers.get("authorization"), time.time(), body or None)


def _plivo_headers(connection: HTTPConnection) -> tuple[str | None, str | None]:
    return connection.headers.get("x-plivo-signature-v3"), connection.headers.get("x-plivo-signature-v3-nonce")


class _UpgradeCheck:
    """Whether the carrier signed the upgrade of its WebSocket.

    `before` is asked before anything is done for the call, as far as the headers tell; the object itself is called with
    each event up to the start of the call.
    """

    def __init__(self, config: TelephoneConfig, websocket: WebSocket) -> None:
        self._config = config
        self._websocket = websocket
        self._telnyx_token = websocket.headers.get("x-telnyx-streaming-auth-token")
        self._url = _public_url(config, websocket, "wss", websocket.url.path, websocket.url.query)

    def before(self, carrier: str | None) -> None:
        """Refuse what can be refused before the handshake.

        Raises:
            NegotiationError: This carrier, or if it is None every one, is not served, or needs another signature.
        """
        if carrier is not None and carrier not in self._config.served:
            raise _not_served(carrier)
        possible = self._config.served if carrier is None else (carrier,)
        if not any(self._may_be(one) for one in possible):
            raise _wrong_signature(carrier or "the carrier")

    def __call__(self, carrier: str, event: LineEvent) -> None:
        if isinstance(event, Connected) and event.token and self._telnyx_token is None:
            self._telnyx_token = event.token
        if not isinstance(event, CallStarted):
            return
        if carrier not in self._config.served:
            raise RemoteProtocolError(f"calls of {carrier} are not served", close_code=OVER_LIMIT)
        if not self._is_signed(carrier):
            raise RemoteProtocolError(f"the signature of {carrier} is missing or wrong", close_code=OVER_LIMIT)

    def _may_be(self, carrier: str) -> bool:
        """Telnyx tells its token in its first message where it did not in a header."""
        return self._is_signed(carrier) or (carrier == "telnyx" and self._telnyx_token is None)

    def _is_signed(self, carrier: str) -> bool:
        secret, headers = self._config.secrets.get(carrier), self._websocket.headers
        match carrier:
            case _ if secret is None:
                return True
            case "twilio":
                return verify_twilio(secret, headers.get("x-twilio-signature"), self._url)
            case "telnyx":
                return same_secret(self._telnyx_token, secret)
            case "plivo":
                signature, nonce = _plivo_headers(self._websocket)
                return verify_plivo(secret, signature, nonce, self._url, post=False)
        return verify_vonage(secret, headers.get("authorization"), time.time())


_HOST: Final = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)


def _check_host(host: str) -> None:
    """Let through what URLs are made of.

    Raises:
        InvalidOffer: This is no host (RFC 3986 section 3.2.2), and no port; URLs are not made of it.
    """
    try:
        if _HOST.fullmatch(host):
            urlsplit(f"//{host}")
            return
    except ValueError:  # no address in the brackets
        pass
    raise InvalidOffer(f"{host[:40]!r} is no host")


_INSECURE: Final[Mapping[str, str]] = {"https": "http", "wss": "ws"}


def _public_url(config: TelephoneConfig, connection: HTTPConnection, scheme: str, path: str, query: str = "") -> str:
    """The URL by which carriers know `path`; `scheme` is ``"https"`` or ``"wss"``: carriers take no other.

    Raises:
        InvalidOffer: The trusted proxy's host is none.

    Only a `public_url` or a trusted proxy that itself says http (a simulator on this machine) makes it insecure.
    """
    host = connection.headers.get("host", "localhost")
    if config.public_url is not None:
        public = urlsplit(config.public_url)
        host, path = public.netloc, public.path.rstrip("/") + path
        insecure = public.scheme in {"http", "ws"}
    elif config.trust_forwarded:
        host = connection.headers.get("x-forwarded-host", host).partition(",")[0].strip()
        _check_host(host)
        insecure = connection.headers.get("x-forwarded-proto", "https").partition(",")[0].strip() in {"http", "ws"}
    else:
        insecure = False
    return f"{_INSECURE[scheme] if insecure else scheme}://{host}{path}" + (f"?{query}" if query else "")
