"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    wait_for_item,
)
from rtcflow.context import Context, get_current_context
from rtcflow.fastrtc._absent import absent
from rtcflow.fastrtc._audio import audio_to_int16
from rtcflow.fastrtc._tell import (
    Warning,  # noqa: A004
    WebRTCError,
)
from rtcflow.fastrtc._types import RTCConfigurationCallable, create_message, current_context, split_output
from rtcflow.handlers.turns.vad import AudioChunk
from rtcflow.outputs import AdditionalOutputs, CloseStream, DataChannel, WebRTCData

__all__ = [
    "AdditionalOutputs",
    "AudioChunk",
    "CloseStream",
    "Context",
    "DataChannel",
    "RTCConfigurationCallable",
    "Warning",
    "WebRTCData",
    "WebRTCError",
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "create_message",
    "current_context",
    "get_current_context",
    "split_output",
    "wait_for_item",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
