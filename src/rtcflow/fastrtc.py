"""FastRTC's public names, with its actual defaults: ``import rtcflow.fastrtc as fastrtc`` runs its users' handlers.

Against `rtcflow` itself three things differ: both video handlers are given (and return) uint8 BGR arrays, which is what
FastRTC hands out whatever its reference says; `Warning` and `WebRTCError` tell the peer at once; and names that have no
place here say why and what to use instead.
"""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar, NoReturn

import anyio

from .audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    audio_to_int16,
    wait_for_item,
)
from .context import get_current_context
from .handlers import base
from .handlers.base import AsyncStreamHandler, StreamHandler, VideoFormat, get_current_handler
from .handlers.functions import VideoStreamHandler
from .handlers.turns import (
    AlgoOptions,
    ModelOptions,
    PauseDetectionModel,
    ReplyOnPause,
    ReplyOnStopWords,
    SileroVadOptions,
    get_silero_model,
)
from .outputs import AdditionalOutputs, AudioEmitType, CloseStream, VideoEmitType, WebRTCData
from .protocol import messages
from .stream import Stream

__all__ = [
    "AdditionalOutputs",
    "AlgoOptions",
    "AsyncAudioVideoStreamHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioVideoStreamHandler",
    "CloseStream",
    "ModelOptions",
    "PauseDetectionModel",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "SileroVadOptions",
    "Stream",
    "StreamHandler",
    "VideoEmitType",
    "VideoStreamHandler",
    "Warning",
    "WebRTCData",
    "WebRTCError",
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "get_current_context",
    "get_silero_model",
    "wait_for_item",
]


class AudioVideoStreamHandler(base.AudioVideoStreamHandler):
    """`rtcflow.AudioVideoStreamHandler` with uint8 BGR arrays, shape (height, width, 3), as its video."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


class AsyncAudioVideoStreamHandler(base.AsyncAudioVideoStreamHandler):
    """`rtcflow.AsyncAudioVideoStreamHandler` with uint8 BGR arrays, shape (height, width, 3), as its video."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


def Warning(message: str = "Warning issued.") -> None:  # noqa: A001, N802  FastRTC's name
    """Show `message` to the peer of the handler this is called from; without a peer, do nothing."""
    _tell(messages.Warning(message))


class WebRTCError(Exception):
    """An exception whose text the peer is told, as soon as it is made; raised out of a handler it ends the connection.

    Attributes:
        told_peer: True: the connection need not tell the peer once more that its handler failed.
    """

    told_peer = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        _tell(messages.Error(message))


def _tell(message: messages.Message) -> None:
    handler = get_current_handler()
    if handler is not None and handler.channel is not None:
        with suppress(anyio.ClosedResourceError, anyio.WouldBlock):
            handler.channel.send(messages.encode(message))


_NOT_HERE = {
    "WebRTC": "it is a Gradio component; Stream.mount serves a page without Gradio",
    "UIArgs": "they are for Gradio's page; Stream.mount serves a page without Gradio",
    "get_stt_model": "rtcflow brings no speech models; call one of your choice in the handler",
    "MoonshineSTT": "rtcflow brings no speech models; call one of your choice in the handler",
    "get_tts_model": "rtcflow brings no speech models; call one of your choice in the handler",
    "KokoroTTSOptions": "rtcflow brings no speech models; call one of your choice in the handler",
    "CartesiaTTSOptions": "rtcflow brings no speech models; call one of your choice in the handler",
}


def __getattr__(name: str) -> NoReturn:
    if name in _NOT_HERE:
        raise AttributeError(f"rtcflow.fastrtc has no {name}: {_NOT_HERE[name]}")
    raise AttributeError(f"module 'rtcflow.fastrtc' has no attribute {name!r}")
