"""The session context: facts about the caller, visible in the event loop and in worker threads."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

SHOWN: Final = 8
"""Characters of an id that logs show, but never more than half. 96 of the 144 bits of a server-made id stay secret."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Context:
    """Facts of one connection, set before any of its handler's methods runs.

    Args:
        webrtc_id: The connection's id (FastRTC's name for it, on every transport).
        transport: ``"webrtc"``, ``"websocket"``, ``"telephone"`` or ``"memory"``.
        remote_address: ``(host, port)`` of the client that made the request, if there was a request.
        headers: Headers of that request, names in lower case.
        query: Its query parameters.
        principal: What the `authorize` hook returned.
        custom: Parameters of a telephone call (caller, call id, custom parameters). Of a call by WHIP or WHEP,
            ``signalling`` is ``"whip"`` or ``"whep"``.
        user: A dict of the application's own, for as long as the connection lives.
    """

    webrtc_id: str
    transport: str = "memory"
    remote_address: tuple[str, int] | None = None
    headers: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    query: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    principal: Any = None
    custom: Mapping[str, str] = field(default_factory=_nothing)
    user: dict[str, Any] = field(default_factory=dict)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            why = (
                ": the facts of the request are in its headers, query and remote_address" if name == "websocket" else ""
            )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{why}")

    @property
    def session_id(self) -> str:
        """The connection's id: the same as `webrtc_id`."""
        return self.webrtc_id


_current: contextvars.ContextVar[Context] = contextvars.ContextVar("rtcflow_context")


def get_current_context() -> Context:
    """Return the context of the connection whose handler is running.

    Works in every method of a handler, sync or async, and in tasks and threads started from it that copy the context.

    Raises:
        RuntimeError: No handler is running here.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "no connection is being served here; call get_current_context() from a handler's method, "
            "not from __init__ or copy()"
        ) from None


def set_current_context(context: Context) -> contextvars.Token[Context]:
    """Make `context` the current one. For code that runs a connection, and for tests of a handler by itself."""
    return _current.set(context)


@dataclass(slots=True)
class LogFacts:
    """What log records say of the call that they belong to; see `rtcflow.logs.CallFilter`.

    Attributes:
        call: The beginning of the call's id (`shorten_id`).
        transport: The kind of transport.
        principal: What the `authorize` hook returned.
    """

    call: str
    transport: str
    principal: Any = None


log_facts: contextvars.ContextVar[LogFacts | None] = contextvars.ContextVar("rtcflow_log_facts", default=None)
"""The facts for log records that are made here. Set from a call's admission on, so before it has a `Context`."""


def shorten_id(webrtc_id: str) -> str:
    """The beginning of an id, for logs. The whole id is secret: it gives power over the call."""
    return f"{webrtc_id[: min(SHOWN, len(webrtc_id) // 2)]}…"


def reset_current_context(token: contextvars.Token[Context]) -> None:
    """Take back what the `set_current_context` that returned `token` did."""
    _current.reset(token)
