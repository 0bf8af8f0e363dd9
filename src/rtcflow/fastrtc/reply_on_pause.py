"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._handlers import StreamHandler
from rtcflow.fastrtc._options import AlgoOptions
from rtcflow.fastrtc._reply import AppState, ReplyOnPause
from rtcflow.fastrtc._types import ReplyFnGenerator, create_message, split_output
from rtcflow.handlers.turns import ModelOptions, PauseDetectionModel, get_silero_model
from rtcflow.outputs import AdditionalOutputs, EmitType, WebRTCData

__all__ = [
    "AdditionalOutputs",
    "AlgoOptions",
    "AppState",
    "EmitType",
    "ModelOptions",
    "PauseDetectionModel",
    "ReplyFnGenerator",
    "ReplyOnPause",
    "StreamHandler",
    "WebRTCData",
    "create_message",
    "get_silero_model",
    "split_output",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
