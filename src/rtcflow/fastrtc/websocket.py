"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.audio import audio_to_float32
from rtcflow.context import Context
from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._audio import audio_to_int16
from rtcflow.fastrtc._handlers import AsyncStreamHandler
from rtcflow.fastrtc._types import StreamHandlerImpl, current_context, split_output
from rtcflow.outputs import AdditionalOutputs, CloseStream, DataChannel

__all__ = [
    "AdditionalOutputs",
    "AsyncStreamHandler",
    "CloseStream",
    "Context",
    "DataChannel",
    "StreamHandlerImpl",
    "audio_to_float32",
    "audio_to_int16",
    "current_context",
    "split_output",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
