"""Whether a handler can be run, and a fresh one for each connection.

The checks come before anything is started, and every error shows the line to write.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from ..exceptions import HandlerError
from .base import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
    check_formats,
    name_of,
)

__all__ = ["check_handler", "copy_handler", "has_own_method", "has_video"]

_METHODS = {"receive": "frame", "emit": "", "start_up": "", "video_receive": "frame", "video_emit": ""}
"""The methods that must be async in async handlers and plain in sync ones, with their arguments."""

_EMPTY = {
    StreamHandlerBase.shutdown,
    StreamHandlerBase.on_message,
    StreamHandlerBase.on_dtmf,
    StreamHandlerBase.on_suspended,
    StreamHandlerBase.on_resumed,
    StreamHandler.start_up,
    AsyncStreamHandler.start_up,
}


def has_own_method(handler: StreamHandlerBase, name: str) -> bool:
    """Whether `handler` does anything in its method `name` (`start_up`, `shutdown`, `on_message`, …)."""
    method = getattr(handler, name, None)
    return method is not None and getattr(method, "__func__", method) not in _EMPTY


def check_handler(handler: object) -> None:
    """Check that `handler` can be run, before anything is started for it.

    Raises:
        HandlerError: It cannot; the text shows the line to write.
    """
    if inspect.isclass(handler):
        raise HandlerError(f"{handler.__name__} is a class, not a handler; write: {handler.__name__}()")
    if not isinstance(handler, StreamHandler | AsyncStreamHandler):
        raise HandlerError(
            f"{name_of(handler)} is not a handler; subclass StreamHandler, AsyncStreamHandler, AudioVideoStreamHandler "
            "or AsyncAudioVideoStreamHandler"
        )
    if "channel_set" not in vars(handler):
        raise HandlerError(
            f"{name_of(handler)}.__init__ does not initialise its base class; begin it with: super().__init__()"
        )
    try:
        check_formats(handler)
    except ValueError as error:  # set after __init__
        raise HandlerError(f"{name_of(handler)}: {error}") from None
    for name, arguments in _METHODS.items():
        method = getattr(handler, name, None)
        if method is not None:
            _check_colour(handler, name, method, f"self, {arguments}" if arguments else "self")


def _check_colour(handler: StreamHandler | AsyncStreamHandler, name: str, method: Any, arguments: str) -> None:
    what = f"{name_of(handler)}.{name}"
    plain = inspect.unwrap(method)
    coroutine = inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(plain)
    is_async = isinstance(handler, AsyncStreamHandler)
    right = f"{'async ' if is_async else ''}def {name}({arguments}): ..."
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise HandlerError(
            f"{what} is a generator function, but it is called again and again and returns one item each time; "
            f"write: {right} with return instead of yield"
        )
    if is_async and not coroutine and inspect.isroutine(plain):
        raise HandlerError(
            f"{what} is a plain function, but {name_of(handler)} is an async handler; write: {right} "
            "(or subclass the sync class)"
        )
    if not is_async and coroutine:
        raise HandlerError(
            f"{what} is a coroutine function, but {name_of(handler)} is a sync handler; write: {right} "
            "(or subclass the async class)"
        )


def copy_handler(handler: StreamHandlerBase) -> StreamHandler | AsyncStreamHandler:
    """Make the handler for one connection: `handler.copy()`, checked.

    Raises:
        HandlerError: `copy` returned something other than a fresh handler.
        BaseException: What `copy` raises, as it is.
    """
    copied: Any = cast("Any", handler).copy()
    what, right = f"{name_of(handler)}.copy()", f"write: return {name_of(handler)}(...)"
    if inspect.iscoroutine(copied):
        copied.close()
        raise HandlerError(f"{what} is a coroutine function; write: def copy(self): ...")
    if copied is None:
        raise HandlerError(f"{what} returned None; {right}")
    if not isinstance(copied, StreamHandler | AsyncStreamHandler):
        raise HandlerError(f"{what} returned {copied!r}, which is not a handler; {right}")
    if copied is handler:
        raise HandlerError(f"{what} returned the handler itself, which would mix up connections; {right}")
    if copied._binding is not None:
        raise HandlerError(f"{what} returned a handler that already serves a connection, or did; {right}")
    if has_video(handler) and not has_video(copied):
        raise HandlerError(f"{what} returned {name_of(copied)}, which has no video; {right}")
    check_handler(copied)
    return copied


def has_video(handler: StreamHandlerBase) -> bool:
    """Whether `handler` is one of the two audio-video classes."""
    return isinstance(handler, AudioVideoStreamHandler | AsyncAudioVideoStreamHandler)
