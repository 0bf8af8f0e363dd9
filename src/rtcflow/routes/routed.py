"""The middleware that has another node of a cluster answer the requests about its calls.

Without a cluster it passes every request on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.websockets import WebSocketClose

from ..exceptions import InvalidOffer, NegotiationError
from ..protocol import signalling
from ..serving.router import About, RequestTarget, replay
from .requests import BODY_TIMEOUT, failure, read_whole

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ..serving.calls import Calls

MOST: int = signalling.MAX_BODY
"""The most bytes of a body that is read to see which call it is about. The routes have limits of their own."""

Find = Callable[[Request, bytes], RequestTarget | None]
"""Which call a request is about; None if every node can answer it."""


def routed(calls: Calls, endpoint: str, find: Find) -> Middleware:
    """The middleware for one route; `endpoint` names it in all nodes alike."""
    return Middleware(Routed, calls=calls, endpoint=endpoint, find=find)


class Routed:
    """ASGI middleware for one route of a stream."""

    def __init__(self, app: ASGIApp, calls: Calls, endpoint: str, find: Find) -> None:
        self._app = app
        self._calls = calls
        self._endpoint = endpoint
        self._find = find
        calls.endpoints[endpoint] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        router = self._calls.router
        if router is None:
            await self._app(scope, receive, send)
            return
        try:
            if scope["type"] == "websocket":
                resumed = resumed_call(HTTPConnection(scope))
                about = NEW if resumed is None else RequestTarget(About.LIVE, resumed)
                if not await router.route(about, self._endpoint, scope, receive, send, None):
                    await self._app(scope, receive, send)
                return
            request = Request(scope, receive)
            has_body = request.method in {"POST", "PATCH"}
            body = await read_whole(request, MOST, BODY_TIMEOUT) if has_body else b""
            receive = replay(body, receive) if has_body else receive
            # Any node can tell what is allowed. A browser that asks first and gets 410 would not show its page why.
            target = None if request.method == "OPTIONS" else self._find(request, body)
            if target is None or not await router.route(target, self._endpoint, scope, receive, send, body):
                await self._app(scope, receive, send)
        except NegotiationError as error:
            await self._refuse(error, scope, receive, send)
        except ClientDisconnect:
            pass

    async def _refuse(self, error: NegotiationError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose(1013, str(error))(scope, receive, send)
        else:
            await failure(error)(scope, receive, send)


NEW = RequestTarget(About.NEW)


def resumed_call(connection: HTTPConnection) -> str | None:
    """The id of the call that a WebSocket client wants to go on with; None if it begins a new one."""
    return connection.query_params.get("resume")


def new_call(request: Request, _: bytes) -> RequestTarget | None:
    """A request that opens a call, with an id that the server makes."""
    return NEW if request.method == "POST" else None


def offer(_: Request, body: bytes) -> RequestTarget | None:
    """JSON signalling: an offer, a candidate, or a caller that hangs up."""
    try:
        match signalling.parse_request(body):
            case signalling.Offer() as wanted:
                return RequestTarget(About.EITHER, wanted.webrtc_id)
            case signalling.CandidateRequest() as wanted:
                return RequestTarget(About.LIVE, wanted.webrtc_id, early=True)
            case signalling.StopRequest() as wanted:
                return RequestTarget(About.LIVE, wanted.webrtc_id)
    except InvalidOffer:
        return None  # the route says what is wrong with it


def arguments(_: Request, body: bytes) -> RequestTarget | None:
    """Arguments for a call's handler."""
    try:
        return RequestTarget(About.LIVE, signalling.parse_input(body).webrtc_id)
    except InvalidOffer:
        return None


def in_query(request: Request, _: bytes) -> RequestTarget | None:
    """A request with the id in its query."""
    webrtc_id = request.query_params.get("webrtc_id")
    return None if webrtc_id is None else RequestTarget(About.LIVE, webrtc_id)


def in_path(request: Request, _: bytes) -> RequestTarget | None:
    """A request with the id at the end of its path."""
    return RequestTarget(About.LIVE, request.path_params["session"]) if request.method in {"PATCH", "DELETE"} else None
