"""Every error rtcflow raises by itself.

RTCFlowError
├── NegotiationError              the two sides cannot agree; `status` is the HTTP status to answer with
│   ├── InvalidOffer              the offer or request makes no sense (400, 413 or 422)
│   │   └── InvalidCandidate      … or the ICE candidate
│   ├── UnsupportedMedia          a sound offer that this handler or build cannot serve (415 or 422)
│   ├── TooManyConnections        no slot or no worker thread is free (503); `limit`
│   ├── TooManyRequests           this address asks too often (429); `wait`
│   ├── NotAuthorized             the authorize hook refused (401 or 403)
│   ├── UnknownConnection         no live connection has that id (404)
│   ├── ConnectionExists          a live connection already has that id (409)
│   ├── CallLost                  the call is over: its process has died, or nobody resumed it in time (410)
│   ├── NotServing                the stream does not run now (503)
│   ├── ApplicationFailed         the application's own authorize hook or copy() failed (500)
│   └── NegotiationTimeout        also a TimeoutError; `phase` says what did not finish
├── ProtocolError                 a message that makes no sense now
│   ├── LocalProtocolError        our caller did it
│   └── RemoteProtocolError       the peer did it; `close_code` is the WebSocket code to close with
├── ClusterError                  a process cannot join the cluster; nothing was started
├── HandlerError                  a handler that cannot be run (not called: what a handler *raises* stays as it is)
└── MediaError                    also a ValueError: wrong dtype, shape, rate or layout was handed in

Streams and transports raise anyio's three, with anyio's meaning: `ClosedResourceError` (you closed it),
`BrokenResourceError` (the link failed; ``__cause__`` says how), `EndOfStream` (the peer finished). Errors of a handler
are never wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = [
    "ApplicationFailed",
    "CallLost",
    "ClusterError",
    "ConnectionExists",
    "HandlerError",
    "InvalidCandidate",
    "InvalidOffer",
    "LocalProtocolError",
    "MediaError",
    "NegotiationError",
    "NegotiationTimeout",
    "NotAuthorized",
    "NotServing",
    "ProtocolError",
    "RTCFlowError",
    "RemoteProtocolError",
    "TooManyConnections",
    "TooManyRequests",
    "UnknownConnection",
    "UnsupportedMedia",
]


P = ParamSpec("P")
T = TypeVar("T")


class RTCFlowError(Exception):
    """Base of all errors that rtcflow raises by itself."""


class NegotiationError(RTCFlowError):
    """The two sides cannot agree on a connection; nothing was started.

    Attributes:
        status: The HTTP status that tells the peer so.
        code: A short machine-readable word, stable over releases.
    """

    status: int = 400
    code = "negotiation_failed"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class InvalidOffer(NegotiationError):
    """The offer, candidate or request could not be understood."""

    code = "invalid_offer"


class InvalidCandidate(InvalidOffer):
    """The ICE candidate could not be understood."""

    code = "invalid_candidate_format"


class UnsupportedMedia(NegotiationError):
    """The offer is sound, but asks for media that cannot be served."""

    status = 422
    code = "unsupported_media"


class TooManyConnections(NegotiationError):
    """Every slot is taken.

    Attributes:
        limit: How many connections may be live at once.
    """

    status = 503
    code = "concurrency_limit_reached"

    def __init__(self, limit: int, message: str | None = None) -> None:
        super().__init__(message or f"all {limit} connections are in use; try again later")
        self.limit = limit


class TooManyRequests(NegotiationError):
    """This address asks too often.

    Attributes:
        wait: Seconds after which it may ask again.
    """

    status = 429
    code = "too_many_requests"

    def __init__(self, wait: int) -> None:
        super().__init__(f"too many offers from your address; try again in {wait} s")
        self.wait = wait


class NotAuthorized(NegotiationError):
    """The authorize hook refused this peer."""

    status = 403
    code = "not_authorized"


class UnknownConnection(NegotiationError):
    """No live connection has this id."""

    status = 404
    code = "unknown_connection"


class ConnectionExists(NegotiationError):
    """A live connection already has this id."""

    status = 409
    code = "connection_already_exists"

    def __init__(
        self,
        message: str = "this id is in use; choose another, or wait until that call has ended",
        *,
        status: int | None = None,
    ) -> None:
        super().__init__(message, status=status)


class CallLost(NegotiationError):
    """The call that a request is about is over.

    The process that carried it has died or was cut off, or it was to be resumed and nobody came in time.
    """

    status = 410
    code = "call_lost"

    def __init__(self, message: str = "the server that carried this call has gone; call again") -> None:
        super().__init__(message)


class NotServing(NegotiationError):
    """The stream does not run now: it has not begun yet, or has ended."""

    status = 503
    code = "not_serving"


class ApplicationFailed(NegotiationError):
    """The application's `authorize` hook or a handler's `copy()` failed; ``__cause__`` says how, the message does not.

    The message may be shown to the peer.
    """

    status = 500
    code = "application_failed"


class NegotiationTimeout(NegotiationError, TimeoutError):
    """The connection was not up in time.

    Attributes:
        phase: What did not finish: ``"ice"``, ``"dtls"``, ``"answer"`` or ``"start"``.
    """

    status = 504
    code = "negotiation_timeout"

    def __init__(self, phase: str, timeout: float) -> None:
        super().__init__(f"{phase} did not finish within {timeout:g} s")
        self.phase = phase
        self.timeout = timeout


class ProtocolError(RTCFlowError):
    """A message or event that makes no sense in the present state."""


class LocalProtocolError(ProtocolError):
    """The caller on this side did what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids.

    Attributes:
        close_code: The WebSocket close code (RFC 6455 section 7.4.1) that fits.
    """

    def __init__(self, message: str, *, close_code: int = 1002) -> None:
        super().__init__(message)
        self.close_code = close_code


class ClusterError(RTCFlowError):
    """This process cannot join its cluster: the message says why and what to change. Nothing was started."""


class HandlerError(RTCFlowError):
    """A handler object that cannot be run: the message says why and what to write instead."""


class MediaError(RTCFlowError, ValueError):
    """Audio or video of the wrong dtype, shape, rate or layout.

    Args:
        what: What was handed in, in words (``"emit() returned float64 audio"``).
        expected: What would have been right.
    """

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"{what}; expected {expected}")
        self.what = what
        self.expected = expected


# -- names of earlier releases; `_core.moved` has the tables for modules that may import it


def absent_name(module: str, name: str, now: Mapping[str, str]) -> ImportError | AttributeError:
    """The error for a name that `module` does not have. `now` says what earlier names are called.

    It is an ImportError for those, because ``from ... import`` loses the text of an AttributeError.
    """
    if name in now:
        return ImportError(f"{module}.{name} was renamed; it is {now[name]}", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def renamed(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function refuse the old names of its keywords, with an error that says the new ones: ``old="new"``."""

    def refuse(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def checked(*args: P.args, **keywords: P.kwargs) -> T:
            for old in names.keys() & keywords.keys():
                what = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"the argument {old!r} of {what} is called {names[old]!r} now")
            return function(*args, **keywords)

        return checked

    return refuse
