"""What supervisors and load balancers ask: is the process alive, and does it take new calls?

    GET {path}/healthz   200 as long as the stream runs, also while it drains
    GET {path}/readyz    200 if new calls are taken; 503 before the start, while draining, and after the end

Both answer with the load as JSON: ``{"status", "calls", "limit", "threads", "thread_limit"}``. They say nothing about
single calls, and need no authorization. If the application has a route of its own with this path, that one answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route

from ..serving.calls import Calls

if TYPE_CHECKING:
    from starlette.types import Scope


class HealthRoute(Route):
    """A route about the health of a stream.

    Attributes:
        calls: The stream's calls: `rtcflow serve` finds the streams of an application by them.
    """

    def __init__(self, calls: Calls, path: str, *, ready: bool) -> None:
        self.calls: Calls = calls

        async def answer(_: Request) -> Response:
            fine = calls.is_ready if ready else calls.is_running
            headers = {"Cache-Control": "no-store"} | ({} if fine else {"Retry-After": "5"})
            return JSONResponse(load(calls), 200 if fine else 503, headers)

        super().__init__(path, answer, methods=["GET", "HEAD"])

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route. A route of the application's own with the same path goes first."""
        match, found = super().matches(scope)
        if match is not Match.NONE and _has_own(scope.get("app"), self.path):
            return Match.NONE, {}
        return match, found


def _has_own(app: Any, path: str) -> bool:
    """Whether the application has a route with this path, before this stream's or after it."""
    others = getattr(getattr(app, "router", None), "routes", ())
    return any(isinstance(one, Route) and one.path == path and not isinstance(one, HealthRoute) for one in others)


def routes(calls: Calls, path: str) -> list[BaseRoute]:
    """The two routes."""
    return [HealthRoute(calls, f"{path}/healthz", ready=False), HealthRoute(calls, f"{path}/readyz", ready=True)]


def load(calls: Calls) -> dict[str, object]:
    """How busy a stream is, as JSON can carry it."""
    limits, status = calls.options.limits, "draining" if calls.is_running else "not running"
    return {
        "status": "ready" if calls.is_ready else status,
        "calls": len(calls),
        "limit": limits.concurrency_limit,
        "threads": calls.threads.statistics().reserved,
        "thread_limit": limits.thread_limit,
    }
