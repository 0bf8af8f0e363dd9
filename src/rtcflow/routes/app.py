"""The HTTP routes of a stream: signalling comes in, a connection goes out into the stream's task group.

    POST {path}/webrtc/offer           FastRTC's JSON: offers and trickled candidates
    GET  {path}/webrtc/configuration   what a browser needs to know before it calls
    …and what `page` adds for browsers, `data` for arguments and outputs, `whip` for WHIP and WHEP, and
    `lines` for WebSockets and telephone lines

Errors have a 4xx or 5xx status and FastRTC's body ``{"status": "failed", "meta": {"error": code, "message": words}}``.
(FastRTC itself answers 200 to all of them; its clients look at the body, which is the same.)
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from ..exceptions import InvalidOffer, NegotiationError, NotServing, TooManyRequests, UnknownConnection
from ..protocol import signalling
from ..serving.session import Caller
from ..transports.webrtc import WebRTCTransport
from .origin_guard import guarded, shown_path

if TYPE_CHECKING:
    from ..stream import Stream

logger = logging.getLogger(__name__)

BODY_TIMEOUT: Final = 10.0
"""Seconds in which a body must have come: one that trickles in for ever would keep its task."""


def application(stream: Stream) -> Starlette:
    """A complete ASGI application that serves `stream` and its page."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with stream.running():
            await stream.open_engine()
            yield

    return Starlette(routes=routes(stream, page=True), lifespan=lifespan)


def mount(stream: Stream, app: Starlette, path: str = "", *, page: bool) -> None:
    """Add the routes of `stream` to `app` under `path`, and run the stream within the application's lifespan."""
    path = path.rstrip("/")
    if path and not path.startswith("/"):
        raise ValueError(f"path={path!r} must begin with a slash; write '/{path}'")
    app.router.routes.extend(routes(stream, path, page=page))
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: Any) -> AsyncIterator[Any]:
        # The application's own resources outlive the calls that use them.
        async with inner(running) as state, stream.running():
            await stream.open_engine()
            yield state

    app.router.lifespan_context = lifespan


def routes(stream: Stream, path: str = "", *, page: bool = False) -> list[BaseRoute]:
    """All routes of `stream`, for applications that put them in their own place."""
    from . import data, lines, whip  # these stand on this module
    from . import page as page_module

    found: list[BaseRoute] = [
        guarded(stream, f"{path}/webrtc/offer", answering(partial(offer, stream)), ["POST"]),
        guarded(stream, f"{path}/webrtc/configuration", answering(partial(configuration, stream)), ["GET"]),
    ]
    found += data.routes(stream, path)
    found += whip.routes(stream, path)
    found += lines.routes(stream, path)
    found += page_module.routes(stream, path, page=page)
    return found


# -- the offer route


async def offer(stream: Stream, request: Request) -> Response:
    """`POST {path}/webrtc/offer`: an offer gets an answer, also in a live call; a candidate goes to its connection."""
    match signalling.parse_request(await read_body(request)):
        case signalling.Offer() as wanted if wanted.webrtc_id in stream.connections:
            check_rate(stream, request)
            await stream.authorize(caller_of(request, new_call=False))
            answer = await stream.session(wanted.webrtc_id).renegotiate(wanted.sdp)
            return JSONResponse(signalling.Answer(answer).to_json())
        case signalling.Offer() as wanted:
            check_rate(stream, request)
            async with stream.admit(caller_of(request), "webrtc", wanted.webrtc_id) as session:
                transport = await stream.open_webrtc(wanted.sdp)
                stream.start(session, transport)
            return JSONResponse(signalling.Answer(transport.answer).to_json())
        case signalling.CandidateRequest(webrtc_id, candidate):
            session = stream.session(webrtc_id)
            try:
                connection = await session.wait_prepared()  # browsers find candidates while their offer is on its way
            except anyio.ClosedResourceError:
                raise UnknownConnection("this call was refused") from None
            if not isinstance(connection.transport, WebRTCTransport):
                raise UnknownConnection(f"this is a {session.kind} call, which has no candidates")
            await connection.transport.add_candidate(candidate)
            return JSONResponse(signalling.SUCCESS)


async def configuration(stream: Stream, request: Request) -> Response:
    """`GET {path}/webrtc/configuration`: what a browser gives to its RTCPeerConnection, and what it should offer."""
    check_rate(stream, request)
    await stream.authorize(caller_of(request, new_call=False))  # it may hold TURN credentials, which are for callers
    return JSONResponse(
        {
            "rtcConfiguration": await stream.resolve_rtc_configuration(),
            "modality": stream.modality.value,
            "mode": stream.mode.value,
            "trackConstraints": stream.track_constraints,
            "rtpParams": stream.rtp_params,
        },
        headers={"Cache-Control": "no-store"},
    )


# -- requests and answers


def check_rate(stream: Stream, request: Request) -> None:
    """Count a request that costs something, before anybody is asked about it (`Stream.may_ask`)."""
    stream.may_ask(None if request.client is None else request.client.host)


def caller_of(connection: HTTPConnection, *, new_call: bool = True) -> Caller:
    """The facts of a request, or of a WebSocket's handshake, that admission decides on (see `Caller.new_call`)."""
    client = connection.client
    return Caller(
        path=connection.scope["path"],
        headers=dict(connection.headers),
        query=dict(connection.query_params),
        cookies=dict(connection.cookies),
        remote_address=None if client is None else (client.host, client.port),
        method=connection.scope.get("method", "WEBSOCKET"),
        new_call=new_call,
    )


async def read_body(request: Request, expected: str = "application/json", limit: int = signalling.MAX_BODY) -> bytes:
    """The whole body of a request, if it is of the `expected` media type and has at most `limit` bytes.

    Raises:
        InvalidOffer: It is of another type by its header (415), or as `read_whole` has it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != expected:
        raise InvalidOffer(f"the Content-Type is {kind[:60] or 'missing'}; send {expected}", status=415)
    return await read_whole(request, limit, BODY_TIMEOUT)


async def read_whole(request: Request, limit: int, timeout: float) -> bytes:
    """The whole body of a request, of whatever type.

    Raises:
        InvalidOffer: It has more than `limit` bytes (413), or did not come within `timeout` seconds (408).
    """
    too_long = InvalidOffer(f"the body is longer than {limit} bytes", status=413)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > len(str(limit)) or int(length) > limit):
        raise too_long
    body = bytearray()
    try:
        with anyio.fail_after(timeout):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise too_long
    except TimeoutError:
        raise InvalidOffer(f"the body did not come within {timeout:g} s", status=408) from None
    return bytes(body)


def failure_headers(error: NegotiationError) -> dict[str, str]:
    """The headers that tell a refused caller what it may do."""
    headers = {}
    if error.status == 503:
        headers["Retry-After"] = "5"
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.wait)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def failure(error: NegotiationError) -> JSONResponse:
    """The response that tells a caller why it was refused."""
    return JSONResponse(signalling.error_body(error), error.status, failure_headers(error))


def answering(
    handle: Callable[[Request], Awaitable[Response]], failed: Callable[[NegotiationError], Response] = failure
) -> Callable[[Request], Awaitable[Response]]:
    """`handle`, with each refusal as a response of its own status, made by `failed`."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except NegotiationError as error:
            path = shown_path(request.scope)
            logger.info("%s %s from %s refused: %s", request.method, path, caller_of(request), error)
            return failed(error)
        except anyio.ClosedResourceError:
            return failed(NotServing("the server is shutting down"))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return answer
