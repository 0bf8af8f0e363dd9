"""The routes for calls over a WebSocket: FastRTC's clients, and the media streams of telephone carriers.

    WS   {path}/websocket/offer                  FastRTC's WebSocket protocol and what can be asked for beyond it
    WS   {path}/telephone/handler[/{carrier}]    the carrier's media stream; without a name, seen by its first message

A carrier may also be named by ``?carrier=``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import anyio
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocketState

from .._core.shown import shown
from ..ends import EndCause
from ..exceptions import (
    ApplicationFailed,
    InvalidOffer,
    NegotiationError,
    NotAuthorized,
    NotServing,
    RemoteProtocolError,
    TooManyConnections,
    UnsupportedMedia,
)
from ..protocol import signalling
from ..protocol.lines import INTERNAL_ERROR, NORMAL, OVER_LIMIT, WRONG_KIND
from ..protocol.resume import Proof
from ..serving.admission import refusal_level
from ..serving.calls import Calls
from ..serving.options import Modality, Mode, Options
from ..serving.session import CallRequest, Session
from ..transports.line_socket import GOODBYE, LineLimits, LineSocket, PeerLeft
from ..transports.telephone import TelephoneConfig, open_telephone_transport
from ..transports.websocket import open_websocket_transport
from .carrier_auth import UpgradeCheck, check_host, named_carrier
from .linger import Lingering
from .origin_guard import guard
from .requests import caller_of, counting_strangers, failure
from .routed import new_call, resumed_call, routed

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from ..transports.line import LineTransport

logger: logging.Logger = logging.getLogger(__name__)

TRY_AGAIN_LATER: Final = 1013
"""The WebSocket close code of a server that is full (IANA's registry for RFC 6455)."""


def routes(
    calls: Calls,
    path: str,
    websocket: Callable[[WebSocket], Awaitable[None]],
    telephone: Callable[[WebSocket], Awaitable[None]],
) -> list[BaseRoute]:
    """The routes of WebSocket clients and, if the stream was made with `telephone=`, of telephone carriers.

    Args:
        calls: The stream's calls.
        path: Prefix of the routes.
        websocket: Answers WebSocket clients: `websocket_offer`, or what a subclass of `Stream` has in its place.
        telephone: Answers carriers: `telephone_handler`, or what a subclass of `Stream` has in its place.
    """
    config = calls.options.telephone
    phones = config is not None and config.served
    carriers = (f"{path}/telephone/handler", f"{path}/telephone/handler/{{carrier}}") if phones else ()
    return [
        WebSocketRoute(
            route, answer, middleware=[*guard(calls), Middleware(Lingering), routed(calls, f"WS {route}", new_call)]
        )
        for route, answer in [(f"{path}/websocket/offer", websocket), *((route, telephone) for route in carriers)]
    ]


# -- calls over a WebSocket


async def websocket_offer(calls: Calls, websocket: WebSocket) -> None:
    """`WS {path}/websocket/offer`: from the client's upgrade until its end."""
    options = calls.options
    limits = options.websocket or LineLimits()
    if options.websocket is None and options.mode is Mode.RECEIVE:
        limits = replace(limits, idle=None)  # a client that only listens may be silent for ever
    resumed = resumed_call(websocket)
    async with _refusals(calls, websocket, _tell_client):
        check_audio(calls)
        if resumed is not None:
            await _go_on(calls, websocket, resumed, limits)
            return
        async with (
            calls.admit(_caller_of(websocket), "websocket") as session,
            open_websocket_transport(websocket, limits=limits, latency=options.latency, **_ways(options)) as transport,
            _refusing(transport),
        ):
            if transport.call.call_id:
                await calls.rename_everywhere(session, transport.call.call_id)
            transport.session_id = session.webrtc_id
            if isinstance(transport.options.resume, Proof):
                raise InvalidOffer("to go on with a call, write its id into the URL: ?resume=ID")
            if transport.options.resume:
                transport.permit = session.permit_resume()
            await _run(calls, session, transport)


async def _go_on(calls: Calls, websocket: WebSocket, call_id: str, limits: LineLimits) -> None:
    """Go on with a live call over another WebSocket: `WS {path}/websocket/offer?resume=ID`."""
    options, session = calls.options, calls.find_resumable(call_id)
    await calls.authorize(_caller_of(websocket, new_call=False))
    async with (
        open_websocket_transport(websocket, limits=limits, latency=options.latency, **_ways(options)) as transport,
        _refusing(transport),
    ):
        proof = transport.options.resume
        if not isinstance(proof, Proof):
            raise InvalidOffer('to go on with a call, send "resume": {"number": ..., "proof": ...} in start')
        with counting_strangers(calls, websocket):
            connection = session.check_resume("websocket", proof)
        transport.session_id = session.webrtc_id
        transport.farewell = partial(_farewell, session)
        connection.resume(transport)
        await connection.wait_released(transport)


async def telephone_handler(calls: Calls, websocket: WebSocket) -> None:
    """`WS {path}/telephone/handler`: from the carrier's upgrade until the end of the call."""
    options, carrier = calls.options, named_carrier(websocket)
    config = options.telephone or TelephoneConfig()
    async with _refusals(calls, websocket, _deny):
        check_audio(calls)
        caller = _caller_of(websocket)
        check = UpgradeCheck(config, websocket)
        check.before(carrier)
        async with (
            calls.admit(caller, "telephone") as session,
            open_telephone_transport(
                websocket,
                carrier,
                ahead=config.ahead,
                limits=config.limits,
                latency=options.latency,
                check=check,
                **_ways(options),
            ) as transport,
        ):
            await _run(calls, session, transport, transport.custom)


def _ways(options: Options) -> dict[str, bool]:
    """Which way media flows, seen from us."""
    return {"receive": options.mode is not Mode.RECEIVE, "send": options.mode is not Mode.SEND}


async def _run(
    calls: Calls, session: Session, transport: LineTransport, custom: Mapping[str, str] = MappingProxyType({})
) -> None:
    transport.farewell = partial(_farewell, session)
    if session.ticket is not None:  # the call may outlive this WebSocket
        calls.start(session, transport, custom)
        await (await session.wait_prepared()).wait_released(transport)
        return
    end = await calls.run(session, transport, custom)
    if isinstance(end.error, RemoteProtocolError):
        calls.refused["protocol_error"] += 1


def _farewell(session: Session) -> tuple[int, str]:
    """The close code and the reason for the socket of a call that has ended."""
    if session.end is not None and session.end.cause is EndCause.HANDLER_RAISED:
        return INTERNAL_ERROR, "the handler failed"
    return NORMAL, ""


# -- refusals


@asynccontextmanager
async def _refusals(
    calls: Calls, websocket: WebSocket, tell: Callable[[WebSocket, NegotiationError], Awaitable[None]]
) -> AsyncIterator[None]:
    """Log and count refused calls. `tell` answers the caller if its socket is not accepted yet."""
    path, client = shown(websocket.scope["path"]), websocket.client
    who = "somebody" if client is None else f"{client.host}:{client.port}"
    try:
        yield
    except RemoteProtocolError as error:
        calls.refused["protocol_error"] += 1
        logger.warning("%s from %s refused: %s", path, who, shown(str(error)))
    except NegotiationError as error:
        calls.refused[error.code] += 1
        logger.log(refusal_level(error), "%s from %s refused: %s", path, who, shown(str(error)))
        if websocket.application_state is WebSocketState.CONNECTING:
            await tell(websocket, error)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        calls.refused["left"] += 1
        logger.info("%s: %s left before the call was started", path, who)


async def _deny(websocket: WebSocket, error: NegotiationError) -> None:
    """Answer the upgrade with the error's HTTP status."""
    await LineSocket(websocket, LineLimits()).deny(failure(error))


async def _tell_client(websocket: WebSocket, error: NegotiationError) -> None:
    """Tell a client why, as FastRTC does, and close. The socket of a stranger is not even accepted."""
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
    """Refuse a client whose `start` message asks for what it cannot have, and close."""
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


def check_audio(calls: Calls) -> None:
    """Refuse a call over a WebSocket or by telephone if the stream has no audio.

    Raises:
        UnsupportedMedia: The stream has no audio, and these calls carry nothing else.
    """
    if calls.options.modality is Modality.VIDEO:
        raise UnsupportedMedia("this stream has video only; a WebSocket or a telephone carries audio: call by WebRTC")


def _caller_of(connection: HTTPConnection, *, new_call: bool = True) -> CallRequest:
    """The facts of the handshake; see `requests.caller_of`.

    Raises:
        InvalidOffer: The Host header is invalid.
    """
    check_host(connection.headers.get("host", "localhost"))
    return caller_of(connection, new_call=new_call)
