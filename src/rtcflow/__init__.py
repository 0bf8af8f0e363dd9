"""Real-time audio and video handlers over WebRTC, WebSocket and telephone lines, under trio or asyncio.

The house is drawn in docs/design.md; tests/test_layers.py keeps the drawing true.

Nothing of aiortc is imported before the first engine is opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._core.bridge import Event
from ._core.flow import Flow, FlowStatistics, Policy
from ._core.threads import WorkerThreads
from ._version import __version__
from .abc import MediaOffer, Transport, TransportStatistics
from .audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    audio_to_int16,
    wait_for_item,
)
from .connection.connection import Connection, ConnectionStatistics, run_connection
from .connection.handler_loop import HandlerLoop
from .context import Context, get_current_context
from .ends import End, EndCause, Timeouts
from .exceptions import (
    ApplicationFailed,
    ConnectionExists,
    HandlerError,
    InvalidOffer,
    LocalProtocolError,
    MediaError,
    NegotiationError,
    NegotiationTimeout,
    NotAuthorized,
    NotServing,
    ProtocolError,
    RemoteProtocolError,
    RTCFlowError,
    TooManyConnections,
    UnknownConnection,
    UnsupportedMedia,
)
from .frames import AudioFormat, AudioFrame, ChannelLayout
from .handlers.base import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
    VideoFormat,
)
from .handlers.functions import VideoStreamHandler
from .media.playout import Latency
from .outputs import AdditionalOutputs, AudioEmitType, CloseStream, DataChannel, EmitType, VideoEmitType
from .serving.session import CallRequest, Session
from .stream import Access, Limits, Modality, Mode, Page, Stream
from .transports.memory import memory_pair
from .transports.webrtc import IceServer, WebRTCConfig, WebRTCEngine, WebRTCTransport, open_engine

if TYPE_CHECKING:
    from .handlers.turns import (
        AlgoOptions,
        EnergyVad,
        Heard,
        Interrupted,
        KeywordSpotter,
        PauseDetectionModel,
        PlayoutFinished,
        ReplyOnPause,
        ReplyOnStopWords,
        Say,
        SileroVADModel,
        SileroVadOptions,
        SpeechEnded,
        SpeechStarted,
        StreamingVadModel,
        TurnDetector,
        TurnEnd,
        TurnEnded,
        TurnEvent,
        TurnTimeline,
        VoiceTurns,
        get_silero_model,
    )
    from .transports.telephone import TelephoneConfig

__all__ = [
    "Access",
    "AdditionalOutputs",
    "AlgoOptions",
    "ApplicationFailed",
    "AsyncAudioVideoStreamHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioFormat",
    "AudioFrame",
    "AudioVideoStreamHandler",
    "CallRequest",
    "ChannelLayout",
    "CloseStream",
    "Connection",
    "ConnectionExists",
    "ConnectionStatistics",
    "Context",
    "DataChannel",
    "EmitType",
    "End",
    "EndCause",
    "EnergyVad",
    "Event",
    "Flow",
    "FlowStatistics",
    "HandlerError",
    "HandlerLoop",
    "Heard",
    "IceServer",
    "Interrupted",
    "InvalidOffer",
    "KeywordSpotter",
    "Latency",
    "Limits",
    "LocalProtocolError",
    "MediaError",
    "MediaOffer",
    "Modality",
    "Mode",
    "NegotiationError",
    "NegotiationTimeout",
    "NotAuthorized",
    "NotServing",
    "Page",
    "PauseDetectionModel",
    "PlayoutFinished",
    "Policy",
    "ProtocolError",
    "RTCFlowError",
    "RemoteProtocolError",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "Say",
    "Session",
    "SileroVADModel",
    "SileroVadOptions",
    "SpeechEnded",
    "SpeechStarted",
    "Stream",
    "StreamHandler",
    "StreamHandlerBase",
    "StreamingVadModel",
    "TelephoneConfig",
    "Timeouts",
    "TooManyConnections",
    "Transport",
    "TransportStatistics",
    "TurnDetector",
    "TurnEnd",
    "TurnEnded",
    "TurnEvent",
    "TurnTimeline",
    "UnknownConnection",
    "UnsupportedMedia",
    "VideoEmitType",
    "VideoFormat",
    "VideoStreamHandler",
    "VoiceTurns",
    "WebRTCConfig",
    "WebRTCEngine",
    "WebRTCTransport",
    "WorkerThreads",
    "__version__",
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "get_current_context",
    "get_silero_model",
    "memory_pair",
    "open_engine",
    "run_connection",
    "wait_for_item",
]


_LATER = {
    ".transports.telephone": ("TelephoneConfig",),
    ".handlers.turns": (
        "AlgoOptions",
        "EnergyVad",
        "Heard",
        "Interrupted",
        "KeywordSpotter",
        "PauseDetectionModel",
        "PlayoutFinished",
        "ReplyOnPause",
        "ReplyOnStopWords",
        "Say",
        "SileroVADModel",
        "SileroVadOptions",
        "SpeechEnded",
        "SpeechStarted",
        "StreamingVadModel",
        "TurnDetector",
        "TurnEnd",
        "TurnEnded",
        "TurnEvent",
        "TurnTimeline",
        "VoiceTurns",
        "get_silero_model",
    ),
}
"""What takes a while to import, and many do without: who takes no calls by telephone, and lets nobody interrupt."""


def __getattr__(name: str) -> object:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
