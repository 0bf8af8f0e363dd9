"""The check before the routes of a stream: only pages of this host, and of allowed origins, may use them.

Every route that does or tells something has it. `guard` is for WebSocket routes, `guarded` makes an HTTP route.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_from_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.websockets import WebSocketClose

from ..exceptions import NotAuthorized
from ..protocol import origins, signalling
from .requests import shown_path
from .routed import Find, routed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..serving.calls import Calls

logger: logging.Logger = logging.getLogger(__name__)

ORIGIN_REFUSED: Final = "origin_not_allowed"
"""The code of a refusal, in its body and in `Stream.refused`."""

PREFLIGHT_SECONDS: Final = 600
"""Seconds that a browser may remember the answer to OPTIONS. A changed allow-list counts ten minutes later."""

POLICY_VIOLATION: Final = 1008
"""RFC 6455 section 7.4.1. Sent before the handshake was accepted, it becomes HTTP's 403."""

_QUERY: Final = "".join(map(chr, range(0x21, 0x7F)))
"""Characters that may be in a query as they are, and those of percent-encoding (RFC 3986 section 3.4)."""

_NONE: Mapping[str, str] = MappingProxyType({})


def guard(calls: Calls) -> list[Middleware]:
    """The middleware for a route of a stream."""
    return [Middleware(OriginGuard, calls=calls)]


def guarded(
    calls: Calls,
    path: str,
    handle: Callable[[Request], Awaitable[Response]],
    methods: Sequence[str],
    told: Mapping[str, str] = _NONE,
    find: Find | None = None,
) -> Route:
    """An HTTP route of a stream, which answers OPTIONS by itself.

    Args:
        calls: The calls of the stream.
        path: The route's path.
        handle: Answers its requests.
        methods: The methods it knows.
        told: Headers of the answer to OPTIONS.
        find: Tells which call a request is about, for the node of a cluster that has it. None: any node can answer.
    """
    allow = ", ".join([*methods, "OPTIONS"])

    async def answer(request: Request) -> Response:
        if request.method != "OPTIONS":
            return await handle(request)
        headers = {"Allow": allow, **told}
        if "access-control-request-method" in request.headers:
            # The origin protects, not the headers: an allowed page may send any.
            wanted = request.headers.get("access-control-request-headers", "")
            headers |= {
                "Access-Control-Allow-Methods": allow,
                "Access-Control-Allow-Headers": wanted,
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
            }
        return Response(headers=headers)

    inside = () if find is None else (routed(calls, path, find),)
    return Route(path, answer, methods=[*methods, "OPTIONS"], middleware=[*guard(calls), *inside])


class OriginGuard:
    """ASGI middleware that refuses pages of other origins, and tells browsers which origins may read (CORS)."""

    def __init__(self, app: ASGIApp, calls: Calls) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["query_string"].isascii():  # not every server refuses that, and nothing behind here can read it
            scope["query_string"] = quote_from_bytes(scope["query_string"], safe=_QUERY).encode()
        headers = Headers(scope=scope)
        named = headers.getlist("origin")
        allowed = frozenset(self._calls.options.access.allowed_origins)
        if not all(origins.is_allowed(origin, headers.get("host"), allowed) for origin in named):
            logger.info("%s refused: the origin %.100r is not allowed", shown_path(scope), named)
            await self._refuse(scope, receive, send)
        elif not named or scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, _telling(send, named[0], allowed))

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            self._calls.refused[ORIGIN_REFUSED] += 1
            await WebSocketClose(POLICY_VIOLATION, ORIGIN_REFUSED)(scope, receive, send)
            return
        error = NotAuthorized(
            "pages of another host may not call this server; it can allow this one by Stream(allowed_origins=[...])"
        )
        error.code = ORIGIN_REFUSED
        await JSONResponse(signalling.error_body(error), error.status)(scope, receive, send)


def _telling(send: Send, origin: str, allowed: frozenset[str]) -> Callable[[Message], Awaitable[Any]]:
    """`send`, with the headers that let the page read the response (the Fetch standard, section 3.3)."""
    everybody = origins.ANY in allowed

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = "*" if everybody else origin
            headers["Access-Control-Expose-Headers"] = "Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After"
            if not everybody:
                headers["Access-Control-Allow-Credentials"] = "true"
                headers.add_vary_header("Origin")
        await send(message)

    return telling
