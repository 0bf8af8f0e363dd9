"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._body import Body
from rtcflow.fastrtc._mixin import WebRTCConnectionMixin
from rtcflow.fastrtc._stream import Stream, UIArgs
from rtcflow.fastrtc._types import HandlerType, RTCConfigurationCallable, StreamHandlerImpl

__all__ = [
    "Body",
    "HandlerType",
    "RTCConfigurationCallable",
    "Stream",
    "StreamHandlerImpl",
    "UIArgs",
    "WebRTCConnectionMixin",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
