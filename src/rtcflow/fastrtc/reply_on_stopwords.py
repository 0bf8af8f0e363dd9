"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.audio import audio_to_float32
from rtcflow.fastrtc._options import AlgoOptions
from rtcflow.fastrtc._reply import AppState, ReplyOnPause, ReplyOnStopWords, ReplyOnStopWordsState
from rtcflow.fastrtc._types import ReplyFnGenerator, create_message
from rtcflow.handlers.turns import ModelOptions, PauseDetectionModel
from rtcflow.speech import get_stt_model, stt_for_chunks

__all__ = [
    "AlgoOptions",
    "AppState",
    "ModelOptions",
    "PauseDetectionModel",
    "ReplyFnGenerator",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "ReplyOnStopWordsState",
    "audio_to_float32",
    "create_message",
    "get_stt_model",
    "stt_for_chunks",
]
