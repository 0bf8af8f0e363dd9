"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.context import Context
from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._body import Body
from rtcflow.fastrtc._mixin import WebRTCConnectionMixin
from rtcflow.fastrtc._types import (
    HandlerType,
    RTCConfigurationCallable,
    StreamHandlerImpl,
    VideoEventHandler,
    create_message,
)
from rtcflow.handlers.functions import VideoStreamHandler
from rtcflow.outputs import AdditionalOutputs, WebRTCData

__all__ = [
    "AdditionalOutputs",
    "Body",
    "Context",
    "HandlerType",
    "RTCConfigurationCallable",
    "StreamHandlerImpl",
    "VideoEventHandler",
    "VideoStreamHandler",
    "WebRTCConnectionMixin",
    "WebRTCData",
    "create_message",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
