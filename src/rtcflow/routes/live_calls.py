"""The page on which operators see the live calls, and end one. It exists only with `Access.authorize_operator`.

    GET  {path}/calls          the page; with calls/page.js and calls/page.css beside it
    GET  {path}/calls/live     the calls as JSON; `rtcflow top` reads it, too
    POST {path}/calls/end      {"number": 7, "call": "q3V9xw0A…"} ends that call

A browser asks its user for a name and a password (HTTP's Basic scheme, RFC 7617). The hook sees them in the header
``authorization``. It may also look at a cookie or a token.

Each process tells of its own calls, and each counts them from 1. So ``call``, the beginning of the id, should be sent
along: if a load balancer takes the request to another process, that one ends nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import anyio
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..exceptions import InvalidOffer, NegotiationError, NotAuthorized, UnknownConnection
from ..protocol import signalling
from ..protocol.json_text import read_json_object
from ..serving.live_calls import as_json, look
from .origin_guard import guarded
from .page import HEADERS
from .requests import answering, caller_of, count_request, failure, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from ..serving.calls import Calls

_FILES: Final = {"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8"}
_LOGIN: Final = 'Basic realm="calls", charset="UTF-8"'
_REASON: Final = "ended by an operator"
_MOST: Final = 1000
"""Bytes of a request to end a call."""

Handle = Callable[["Calls", "Request"], Awaitable[Response]]


def routes(calls: Calls, path: str = "") -> list[BaseRoute]:
    """The routes, if the stream has operators."""
    if calls.options.access.authorize_operator is None:
        return []
    return [
        guarded(calls, f"{path}/calls", _for_operators(calls, page), ["GET"]),
        guarded(calls, f"{path}/calls/live", _for_operators(calls, live), ["GET"]),
        guarded(calls, f"{path}/calls/end", _for_operators(calls, end), ["POST"]),
        *(Route(f"{path}/calls/{name}", _serving(name, kind), methods=["GET"]) for name, kind in _FILES.items()),
    ]


def _for_operators(calls: Calls, handle: Handle) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        count_request(calls, request)
        await calls.authorize_operator(caller_of(request, new_call=False))
        return await handle(calls, request)

    return answering(answer, _failure)


def _failure(error: NegotiationError) -> Response:
    """A refusal that makes a browser ask for a name and a password."""
    response = failure(error)
    if isinstance(error, NotAuthorized):
        response.status_code = 401
        response.headers["WWW-Authenticate"] = _LOGIN
    response.headers["Cache-Control"] = "no-store"
    return response


async def page(calls: Calls, request: Request) -> Response:  # noqa: ARG001
    """`GET {path}/calls`: the page."""
    return _file("calls.html", "text/html; charset=utf-8")


async def live(calls: Calls, request: Request) -> Response:  # noqa: ARG001
    """`GET {path}/calls/live`: the live calls as JSON."""
    now = anyio.current_time()
    limit = calls.options.limits.concurrency_limit
    assert not isinstance(limit, str)  # Limits has made a number of "default"  # noqa: S101
    rows = [look(session, now) for session in calls.values()]
    body = as_json(rows, limit=limit, ready=calls.is_ready)
    return JSONResponse(body, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


async def end(calls: Calls, request: Request) -> Response:
    """`POST {path}/calls/end`: end the call with a number."""
    number, name = _named(await read_body(request, limit=_MOST))
    for session in calls.values():
        if session.number == number and name in {None, session.name}:
            session.close(_REASON)
            return JSONResponse(signalling.SUCCESS)
    raise UnknownConnection(f"no call with the number {number} is live here")


def _named(body: bytes) -> tuple[int, str | None]:
    """The number in the body, and the beginning of the id if it is there.

    Raises:
        InvalidOffer: The body names no call.
    """
    fields = read_json_object(body) or {}
    number, name = fields.get("number"), fields.get("call")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str | None):
        raise InvalidOffer('the body names no call; send {"number": 7, "call": "q3V9xw0A…"}', status=422)
    return number, name


def _file(name: str, media_type: str) -> Response:
    content = (files("rtcflow") / "web" / name).read_bytes()
    return Response(content, media_type=media_type, headers=HEADERS)


def _serving(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    return partial(_serve, name.replace("page", "calls"), media_type)


async def _serve(name: str, media_type: str, request: Request) -> Response:  # noqa: ARG001
    return _file(name, media_type)
