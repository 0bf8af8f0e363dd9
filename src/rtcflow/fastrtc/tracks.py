"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.context import Context
from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._handlers import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
)
from rtcflow.fastrtc._tell import WebRTCError
from rtcflow.fastrtc._types import (
    AsyncHandler,
    AudioVideoStreamHandlerImpl,
    HandlerType,
    StreamHandlerImpl,
    VideoEventHandler,
    VideoStreamHandlerImpl,
    create_message,
    current_context,
    split_output,
)
from rtcflow.handlers.functions import VideoStreamHandler
from rtcflow.outputs import (
    AdditionalOutputs,
    AudioEmitType,
    CloseStream,
    DataChannel,
    EmitType,
    VideoEmitType,
    WebRTCData,
)

__all__ = [
    "AdditionalOutputs",
    "AsyncAudioVideoStreamHandler",
    "AsyncHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioVideoStreamHandler",
    "AudioVideoStreamHandlerImpl",
    "CloseStream",
    "Context",
    "DataChannel",
    "EmitType",
    "HandlerType",
    "StreamHandler",
    "StreamHandlerBase",
    "StreamHandlerImpl",
    "VideoEmitType",
    "VideoEventHandler",
    "VideoStreamHandler",
    "VideoStreamHandlerImpl",
    "WebRTCData",
    "WebRTCError",
    "create_message",
    "current_context",
    "split_output",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
