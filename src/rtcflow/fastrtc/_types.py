"""FastRTC's type aliases and small helpers."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import numpy as np

from ..context import Context, get_current_context
from ..handlers.functions import VideoStreamHandler
from ..outputs import AdditionalOutputs, CloseStream, VideoEmitType
from ._handlers import AsyncAudioVideoStreamHandler, AsyncStreamHandler, AudioVideoStreamHandler, StreamHandler

StreamHandlerImpl: TypeAlias = StreamHandler | AsyncStreamHandler
VideoStreamHandlerImpl: TypeAlias = AudioVideoStreamHandler | AsyncAudioVideoStreamHandler
AudioVideoStreamHandlerImpl: TypeAlias = VideoStreamHandlerImpl
AsyncHandler: TypeAlias = AsyncStreamHandler | AsyncAudioVideoStreamHandler
VideoEventHandler: TypeAlias = Callable[..., VideoEmitType]
HandlerType: TypeAlias = StreamHandlerImpl | VideoStreamHandlerImpl | VideoStreamHandler | Callable[..., Any]
ReplyFnGenerator: TypeAlias = Callable[..., Any]
RTCConfigurationCallable: TypeAlias = (
    Callable[..., dict[str, Any]] | Callable[..., Coroutine[Any, Any, dict[str, Any]]] | dict[str, Any]
)


def create_message(type: str, data: list[Any] | str) -> str:
    """The text of one of FastRTC's messages to the page.

    >>> create_message("log", "hello")
    '{"type": "log", "data": "hello"}'
    """
    return json.dumps({"type": type, "data": data})


def split_output(data: Any) -> tuple[Any, AdditionalOutputs | CloseStream | None]:
    """What a handler returned, as its media and what comes with them.

    Raises:
        ValueError: It is a tuple that is neither audio nor media with `AdditionalOutputs` or `CloseStream`.

    >>> split_output(AdditionalOutputs(1))
    (None, AdditionalOutputs(1))
    """
    if isinstance(data, AdditionalOutputs | CloseStream):
        return None, data
    if not isinstance(data, tuple) or (len(data) in {2, 3} and isinstance(data[1], np.ndarray)):
        return data, None
    if len(data) == 2 and isinstance(data[1], AdditionalOutputs | CloseStream):
        return data
    raise ValueError("a tuple must be (sample_rate, samples), or media and AdditionalOutputs or CloseStream")


class _CurrentContext:
    """`current_context.get()`, as FastRTC's context variable has it. rtcflow sets the context itself."""

    def get(self, default: Context | None = None) -> Context | None:
        """The context of the call whose handler runs here, or `default`."""
        try:
            return get_current_context()
        except RuntimeError:
            return default

    def set(self, context: Context) -> None:
        """Refuse: rtcflow sets it.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"rtcflow sets the context of each call itself; for a test, write: set_current_context({context!r})"
        )


current_context: _CurrentContext = _CurrentContext()
