"""FastRTC's public names and submodules, with its actual defaults: change the import, and its users' programs run.

    import rtcflow.fastrtc as fastrtc                  in place of import fastrtc
    sys.modules["fastrtc"] = rtcflow.fastrtc           for code that you cannot change
    python -m rtcflow.fastrtc run app.py               for a whole program, unchanged

Against `rtcflow` itself, `Stream` has FastRTC's arguments, `ui` and route methods, and is of video by default. Video
handlers are given (and return) uint8 BGR arrays. `Warning` and `WebRTCError` tell the peer at once. A subclass of
`ReplyOnPause` is run as FastRTC runs it. Names that rtcflow does not have explain themselves at their import.
"""

from typing import Any

from ..audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    wait_for_item,
)
from ..context import get_current_context
from ..credentials import (
    get_cloudflare_turn_credentials,
    get_cloudflare_turn_credentials_async,
    get_hf_turn_credentials,
    get_hf_turn_credentials_async,
    get_turn_credentials,
    get_turn_credentials_async,
    get_twilio_turn_credentials,
)
from ..handlers.functions import VideoStreamHandler
from ..handlers.turns import ModelOptions, PauseDetectionModel, get_silero_model
from ..outputs import AdditionalOutputs, AudioEmitType, CloseStream, VideoEmitType, WebRTCData
from ..speech import CartesiaTTSOptions, KokoroTTSOptions, MoonshineSTT, get_stt_model, get_tts_model
from ._audio import audio_to_int16
from ._handlers import AsyncAudioVideoStreamHandler, AsyncStreamHandler, AudioVideoStreamHandler, StreamHandler
from ._options import AlgoOptions, SileroVadOptions
from ._reply import ReplyOnPause, ReplyOnStopWords
from ._stream import Stream, UIArgs
from ._tell import Warning, WebRTCError  # noqa: A004  FastRTC's name

__all__ = [
    "AdditionalOutputs",
    "AlgoOptions",
    "AsyncAudioVideoStreamHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioVideoStreamHandler",
    "CartesiaTTSOptions",
    "CloseStream",
    "KokoroTTSOptions",
    "ModelOptions",
    "MoonshineSTT",
    "PauseDetectionModel",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "SileroVadOptions",
    "Stream",
    "StreamHandler",
    "UIArgs",
    "VideoEmitType",
    "VideoStreamHandler",
    "Warning",
    "WebRTC",  # pyright: ignore[reportUnsupportedDunderAll]  # from `__getattr__`
    "WebRTCData",
    "WebRTCError",
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "get_cloudflare_turn_credentials",
    "get_cloudflare_turn_credentials_async",
    "get_current_context",
    "get_hf_turn_credentials",
    "get_hf_turn_credentials_async",
    "get_silero_model",
    "get_stt_model",
    "get_tts_model",
    "get_turn_credentials",
    "get_turn_credentials_async",
    "get_twilio_turn_credentials",
    "wait_for_item",
]


def __getattr__(name: str) -> Any:
    if name == "WebRTC":
        from ._webrtc import webrtc_class

        return webrtc_class()
    from ._absent import absent

    return absent("rtcflow.fastrtc", name)
