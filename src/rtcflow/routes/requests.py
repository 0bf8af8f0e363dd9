"""Requests and responses, as all HTTP routes of a stream handle them: the body, the caller's facts, refusals.

Errors have a 4xx or 5xx status and FastRTC's body ``{"status": "failed", "meta": {"error": code, "message": words}}``.
(FastRTC itself answers 200 to all of them. Its clients look at the body, which is the same.)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final
from urllib.parse import quote

import anyio
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from .._core.shown import shown
from ..exceptions import InvalidOffer, NegotiationError, NotAuthorized, NotServing, TooManyRequests, UnknownConnection
from ..protocol import signalling
from ..serving.admission import refusal_level
from ..serving.calls import Calls
from ..serving.session import CallRequest

logger: logging.Logger = logging.getLogger(__name__)

BODY_TIMEOUT: Final = 10.0
"""Seconds in which a body must arrive. Without it, a body that trickles in for ever would keep its task."""

_PATH: Final = "/:@!$&'()*+,;=~"
"""Characters that may be in a path as they are, beside letters, digits and ``_.-``."""


def shown_path(scope: Scope) -> str:
    """The path for logs, without the id of a call."""
    path = shown(scope["path"])
    return f"{path.rpartition('/')[0]}/…" if scope.get("path_params") else path


def public_path(connection: HTTPConnection) -> str:
    """The path of a request as it stands in URLs, with the prefix that a proxy has taken away.

    It is percent-encoded (RFC 3986 section 3.3): a prefix may have any letters.

    ``FastAPI(root_path="/api")`` and ``uvicorn --root-path /api`` say which prefix that is. Servers and frameworks
    differ in whether ``scope["path"]`` still has it.
    """
    root: str = connection.scope.get("root_path", "").rstrip("/")
    path: str = connection.scope["path"]
    whole = path if path == root or path.startswith(f"{root}/") else root + path
    return encoded(whole)


def encoded(path: str, also: str = "") -> str:
    """A path as it stands in URLs. With "%" in `also`, what is encoded already stays so."""
    return quote(path, safe=_PATH + also, errors="replace")


def count_request(calls: Calls, request: HTTPConnection) -> None:
    """Count a request that costs something, before anybody is asked about it (`Limits.offer_rate`)."""
    calls.count_request(None if request.client is None else request.client.host)


@contextmanager
def counting_strangers(calls: Calls, request: HTTPConnection) -> Iterator[None]:
    """Count a request whose proof of being the caller is wrong. The caller itself can hang up as often as it calls."""
    try:
        yield
    except NotAuthorized:
        count_request(calls, request)
        raise


def caller_of(connection: HTTPConnection, *, new_call: bool = True) -> CallRequest:
    """The facts of a request, or of a WebSocket's handshake, that admission decides on."""
    client = connection.client
    return CallRequest(
        path=connection.scope["path"],
        headers=dict(connection.headers),
        query=dict(connection.query_params),
        cookies=dict(connection.cookies),
        remote_address=None if client is None else (client.host, client.port),
        method=connection.scope.get("method", "WEBSOCKET"),
        new_call=new_call,
    )


async def read_body(request: Request, expected: str = "application/json", limit: int = signalling.MAX_BODY) -> bytes:
    """The whole body of a request, if it has the `expected` media type and at most `limit` bytes.

    Raises:
        InvalidOffer: Its header has another type (415), or `read_whole` refused it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != expected:
        raise InvalidOffer(f"the Content-Type is {kind[:60] or 'missing'}; send {expected}", status=415)
    return await read_whole(request, limit, BODY_TIMEOUT)


async def read_whole(request: Request, limit: int, timeout: float) -> bytes:
    """The whole body of a request, of whatever type.

    Raises:
        InvalidOffer: It has more than `limit` bytes (413), or did not arrive within `timeout` seconds (408).
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
        raise InvalidOffer(f"the body did not arrive within {timeout:g} s", status=408) from None
    return bytes(body)


def failure_headers(error: NegotiationError) -> dict[str, str]:
    """The headers that tell a refused caller what to do next."""
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
    handle: Callable[[Request], Awaitable[Response]],
    failed: Callable[[NegotiationError], Response] = failure,
    refused: Counter[str] | None = None,
) -> Callable[[Request], Awaitable[Response]]:
    """`handle`, with each refusal as a response of its own status, made by `failed`, and counted in `refused`.

    Requests about calls that have ended are not counted: nobody who wants to call is turned away.
    """

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except NegotiationError as error:
            path = shown_path(request.scope)
            level, caller = refusal_level(error), caller_of(request)
            logger.log(level, "%s %s from %s refused: %s", request.method, path, caller, shown(str(error)))
            if refused is not None and not isinstance(error, UnknownConnection):
                refused[error.code] += 1
            return failed(error)
        except anyio.ClosedResourceError:
            return failed(NotServing("the server is shutting down"))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return answer
