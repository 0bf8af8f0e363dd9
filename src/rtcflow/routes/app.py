"""All HTTP and WebSocket routes of a stream, and the ASGI application that serves them.

| module | routes |
|---|---|
| `offer` | ``POST {path}/webrtc/offer``, ``GET {path}/webrtc/configuration`` |
| `data` | ``POST {path}/webrtc/input``, ``GET {path}/webrtc/outputs`` |
| `whip` | ``{path}/whip`` and ``{path}/whep`` |
| `lines` | ``WS {path}/websocket/offer``, ``WS {path}/telephone/handler`` |
| `webhooks` | ``{path}/telephone/incoming`` |
| `health` | ``GET {path}/healthz``, ``GET {path}/readyz`` |
| `live_calls` | ``GET {path}/calls``, if the stream has operators |
| `prometheus` | ``GET {path}/metrics``, if the stream was asked for it |
| `page` | ``GET {path}/rtcflow.js``, and the page |

The routes take what they need from `serving.calls`; they know no `Stream`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.websockets import WebSocket

from .._core.installed import check_versions
from ..serving.calls import Calls
from . import data, health, lines, live_calls, offer, webhooks, whip
from .page import routes as page_routes

HttpEndpoint = Callable[[Request], Awaitable[Response]]
WebSocketEndpoint = Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What answers the routes that a subclass of `Stream` may answer in its own way.

    `Endpoints.of` has the functions of this package; take one with `dataclasses.replace` to change some of them.

    Attributes:
        offer: ``POST {path}/webrtc/offer``.
        websocket_offer: ``WS {path}/websocket/offer``.
        incoming_call: ``{path}/telephone/incoming``.
        telephone_handler: ``WS {path}/telephone/handler``.
    """

    offer: HttpEndpoint
    websocket_offer: WebSocketEndpoint
    incoming_call: HttpEndpoint
    telephone_handler: WebSocketEndpoint

    @classmethod
    def of(cls, calls: Calls) -> Endpoints:
        """The functions of this package for the calls of a stream."""
        return cls(
            offer=partial(offer.offer, calls),
            websocket_offer=partial(lines.websocket_offer, calls),
            incoming_call=partial(webhooks.incoming_call, calls),
            telephone_handler=partial(lines.telephone_handler, calls),
        )


def application(calls: Calls, *, endpoints: Endpoints | None = None) -> Starlette:
    """A complete ASGI application with all routes and the page; its lifespan runs the calls."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with calls.running():
            await calls.engine()
            yield

    return Starlette(routes=routes(calls, page=True, endpoints=endpoints), lifespan=lifespan)


def mount(calls: Calls, app: Starlette, path: str = "", *, page: bool, endpoints: Endpoints | None = None) -> None:
    """Add the routes under `path` to `app`, and run the calls within the application's lifespan.

    Raises:
        ValueError: `path` does not begin with a slash, or another stream is mounted there.
    """
    path = path.rstrip("/")
    if path and not path.startswith("/"):
        raise ValueError(f"path={path!r} must begin with a slash; write '/{path}'")
    mounted = (route for route in app.router.routes if isinstance(route, health.HealthRoute))
    if any(route.path == f"{path}/healthz" and route.calls is not calls for route in mounted):
        raise ValueError(
            f"another stream is mounted at {path or '/'}, so nobody could reach this one; give it a path of its own: "
            "stream.mount(app, '/second')"
        )
    app.router.routes.extend(routes(calls, path, page=page, endpoints=endpoints))
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: Any) -> AsyncIterator[Any]:
        # The application's own resources outlive the calls that use them.
        async with inner(running) as state, calls.running():
            await calls.engine()
            yield state

    app.router.lifespan_context = lifespan


def routes(calls: Calls, path: str = "", *, page: bool = False, endpoints: Endpoints | None = None) -> list[BaseRoute]:
    """All routes of a stream under `path`, with those of its page if `page` is true."""
    check_versions("starlette")
    answers = endpoints or Endpoints.of(calls)
    return [
        *offer.routes(calls, path, answers.offer),
        *data.routes(calls, path),
        *whip.routes(calls, path),
        *lines.routes(calls, path, answers.websocket_offer, answers.telephone_handler),
        *webhooks.routes(calls, path, answers.incoming_call),
        *health.routes(calls, path),
        *live_calls.routes(calls, path),
        *_metrics(calls, path),
        *page_routes(calls, path, page=page),
    ]


def _metrics(calls: Calls, path: str) -> list[BaseRoute]:
    if not calls.options.metrics:
        return []
    from ..prometheus import metrics_app

    return [Route(f"{path}/metrics", metrics_app(calls), methods=["GET", "HEAD"])]
