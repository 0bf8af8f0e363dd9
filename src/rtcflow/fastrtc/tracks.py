"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.fastrtc._handlers import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
)
from rtcflow.fastrtc._types import (
    AsyncHandler,
    AudioVideoStreamHandlerImpl,
    HandlerType,
    StreamHandlerImpl,
    VideoEventHandler,
    VideoStreamHandlerImpl,
)
from rtcflow.handlers.functions import (
    VideoStreamHandler,
)
from rtcflow.outputs import (
    AudioEmitType,
    EmitType,
    VideoEmitType,
)

__all__ = [
    "AsyncAudioVideoStreamHandler",
    "AsyncHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioVideoStreamHandler",
    "AudioVideoStreamHandlerImpl",
    "EmitType",
    "HandlerType",
    "StreamHandler",
    "StreamHandlerBase",
    "StreamHandlerImpl",
    "VideoEmitType",
    "VideoEventHandler",
    "VideoStreamHandler",
    "VideoStreamHandlerImpl",
]
