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
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import anyio
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from .asgi import caller_of
from .asgi_guard import guard
from .exceptions import NegotiationError, RemoteProtocolError, TooManyConnections
from .protocol import signalling
from .protocol.lines import OVER_LIMIT, CallStarted, Connected, LineEvent
from .protocol.signatures import same_secret, verify_plivo, verify_telnyx, verify_twilio, verify_vonage
from .protocol.telephone import answer_call
from .protocol.telephone.answers import read_call
from .session import Caller
from .transports.telephone import TelephoneConfig, open_telephone_transport
from .transports.websocket import open_websocket_transport

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from .stream import Stream
    from .transports.websocket_line import LineTransport

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
        webhook = partial(incoming_call, config)
        found += [
            Route(f"{path}/telephone/incoming{suffix}", webhook, methods=["GET", "POST"]),
            WebSocketRoute(
                f"{path}/telephone/handler{suffix}",
                partial(telephone_handler, stream, config),
                middleware=guard(stream),
            ),
        ]
    unchecked = [carrier for carrier in config.served if carrier not in config.secrets]
    if unchecked and not config.unsigned_is_fine:
        logger.warning(
            "telephone calls of %s are taken unchecked under %s/telephone; give Stream(telephone=TelephoneConfig("
            "secrets=...)) what the carrier signs with, or carriers=() to take none",
            ", ".join(unchecked),
            path,
        )
    return found


# -- calls over a WebSocket


async def websocket_offer(stream: Stream, websocket: WebSocket) -> None:
    """`WS {path}/websocket/offer`: from the client's start until its end."""
    caller = caller_of(websocket)
    opening = open_websocket_transport(websocket, latency=stream.latency)
    async with _counting(stream, caller), opening as transport, _refusing(transport):
        chosen = transport.call.call_id or None
        async with stream.admit(caller, "websocket", chosen) as session:
            transport.session_id = session.webrtc_id
            await stream.run(session, transport)


async def telephone_handler(stream: Stream, config: TelephoneConfig, websocket: WebSocket) -> None:
    """`WS {path}/telephone/handler`: from the start of the call until its end."""
    caller, carrier = caller_of(websocket), _named_carrier(websocket)
    if carrier is not None and carrier not in config.served:
        logger.warning("%s from %s refused: calls of %r are not served", caller.path, caller, carrier[:40])
        await websocket.close(OVER_LIMIT, "calls of this carrier are not served")
        return
    opening = open_telephone_transport(
        websocket,
        carrier,
        ahead=config.ahead,
        limits=config.limits,
        latency=stream.latency,
        check=_UpgradeCheck(config, websocket),
    )
    async with (
        _counting(stream, caller),
        opening as transport,
        _refusing(transport),
        stream.admit(caller, "telephone") as session,
    ):
        await stream.run(session, transport, transport.custom)


@asynccontextmanager
async def _counting(stream: Stream, caller: Caller) -> AsyncIterator[None]:
    """Log and count calls that come to nothing; the socket was closed with the reason already."""
    try:
        yield
    except RemoteProtocolError as error:
        stream.refused["protocol_error"] += 1
        logger.warning("%s from %s refused: %s", caller.path, caller, error)
    except NegotiationError as error:
        stream.refused[error.code] += 1
        logger.info("%s from %s refused: %s", caller.path, caller, error)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        stream.refused["left"] += 1
        logger.info("%s: %s left before the call was started", caller.path, caller)


@asynccontextmanager
async def _refusing(transport: LineTransport) -> AsyncIterator[None]:
    """Tell a client that is not admitted why, as FastRTC does, and close."""
    try:
        yield
    except NegotiationError as error:
        code = TRY_AGAIN_LATER if isinstance(error, TooManyConnections) else OVER_LIMIT
        await transport.refuse(code, str(error), json.dumps(signalling.error_body(error)))
        raise


# -- webhooks


async def incoming_call(config: TelephoneConfig, request: Request) -> Response:
    """`POST {path}/telephone/incoming`: the carrier is told where to stream the call."""
    carrier = _named_carrier(request) or _signing_carrier(request)
    if carrier not in config.served:
        return PlainTextResponse(f"calls of {carrier[:40]!r} are not served here", 404)
    try:
        with anyio.fail_after(WEBHOOK_TIMEOUT):
            body = await _read_body(request)
    except TimeoutError:
        return PlainTextResponse(f"the body did not come within {WEBHOOK_TIMEOUT:g} s", 408)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    if body is None:
        return PlainTextResponse(f"the body is longer than {WEBHOOK_LIMIT} bytes", 413)
    fields = _fields(request, body)
    if not _is_signed(config, carrier, request, body, fields):
        logger.warning("%s: a call of %s was refused: its signature is missing or wrong", request.url.path, carrier)
        return PlainTextResponse("the signature is missing or wrong; see TelephoneConfig.secrets and public_url", 403)
    path = request.url.path.partition("/telephone/incoming")[0] + f"/telephone/handler/{carrier}"
    url = _public_url(config, request, "wss", path)
    told = {**config.parameters, **read_call({**dict(request.query_params), **dict(fields)})}
    if carrier != "vonage":
        told.pop("call_id", None)  # the others say it themselves
    signed = carrier == "vonage" and carrier in config.secrets
    media_type, answer = answer_call(carrier, url, told, sample_rate=config.sample_rate, signed=signed)
    return Response(answer, media_type=media_type)


def _named_carrier(connection: HTTPConnection) -> str | None:
    named = connection.path_params.get("carrier") or connection.query_params.get("carrier")
    return None if named is None else str(named).lower()


def _signing_carrier(request: Request) -> str:
    """Whose webhook this is, if its URL does not say: by the header that only this carrier sends."""
    if "x-plivo-signature-v3" in request.headers:
        return "plivo"
    return "telnyx" if "telnyx-signature-ed25519" in request.headers else "twilio"


async def _read_body(request: Request) -> bytes | None:
    """The body, or None if it is too long."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > WEBHOOK_LIMIT:
        return None
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > WEBHOOK_LIMIT:
                return None
    return bytes(body)


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
    """Whether the carrier signed this webhook. Telnyx has a key for that; its shared secret is for the WebSocket."""
    if carrier == "telnyx":
        key, headers = config.telnyx_public_key, request.headers
        signature, timestamp = headers.get("telnyx-signature-ed25519"), headers.get("telnyx-timestamp")
        return key is None or verify_telnyx(key, signature, timestamp, time.time(), body)
    secret = config.secrets.get(carrier)
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
    return verify_vonage(secret, request.headers.get("authorization"), time.time(), json_body)


def _plivo_headers(connection: HTTPConnection) -> tuple[str | None, str | None]:
    return connection.headers.get("x-plivo-signature-v3"), connection.headers.get("x-plivo-signature-v3-nonce")


class _UpgradeCheck:
    """Whether the carrier signed the upgrade of its WebSocket; asked with each event up to the start of the call."""

    def __init__(self, config: TelephoneConfig, websocket: WebSocket) -> None:
        self._config = config
        self._websocket = websocket
        self._telnyx_token = websocket.headers.get("x-telnyx-streaming-auth-token")

    def __call__(self, carrier: str, event: LineEvent) -> None:
        if isinstance(event, Connected) and event.token and self._telnyx_token is None:
            self._telnyx_token = event.token
        if not isinstance(event, CallStarted):
            return
        if carrier not in self._config.served:
            raise RemoteProtocolError(f"calls of {carrier} are not served", close_code=OVER_LIMIT)
        secret = self._config.secrets.get(carrier)
        if secret is not None and not self._is_signed(carrier, secret):
            raise RemoteProtocolError(f"the signature of {carrier} is missing or wrong", close_code=OVER_LIMIT)

    def _is_signed(self, carrier: str, secret: str) -> bool:
        websocket = self._websocket
        url = _public_url(self._config, websocket, "wss", websocket.url.path, websocket.url.query)
        match carrier:
            case "twilio":
                return verify_twilio(secret, websocket.headers.get("x-twilio-signature"), url)
            case "telnyx":
                return same_secret(self._telnyx_token, secret)
            case "plivo":
                signature, nonce = _plivo_headers(websocket)
                return verify_plivo(secret, signature, nonce, url, post=False)
        return verify_vonage(secret, websocket.headers.get("authorization"), time.time())


_INSECURE: Final[Mapping[str, str]] = {"https": "http", "wss": "ws"}


def _public_url(config: TelephoneConfig, connection: HTTPConnection, scheme: str, path: str, query: str = "") -> str:
    """The URL by which carriers know `path`; `scheme` is ``"https"`` or ``"wss"``: carriers take no other.

    Only a `public_url` or a trusted proxy that itself says http (a simulator on this machine) makes it insecure.
    """
    host = connection.headers.get("host", "localhost")
    if config.public_url is not None:
        public = urlsplit(config.public_url)
        host, path = public.netloc, public.path.rstrip("/") + path
        insecure = public.scheme in {"http", "ws"}
    elif config.trust_forwarded:
        host = connection.headers.get("x-forwarded-host", host).partition(",")[0].strip()
        insecure = connection.headers.get("x-forwarded-proto", "https").partition(",")[0].strip() in {"http", "ws"}
    else:
        insecure = False
    return f"{_INSECURE[scheme] if insecure else scheme}://{host}{path}" + (f"?{query}" if query else "")
