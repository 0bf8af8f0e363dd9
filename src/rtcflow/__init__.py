"""Real-time audio and video handlers over WebRTC, WebSocket and telephone lines, under trio or asyncio.

These are the names that most programs need. `rtcflow.turns` has the rest of turn-taking, `rtcflow.audio` has helpers
for sound, and `rtcflow.exceptions` has every error. `rtcflow.transports` and `rtcflow.abc` are for calls without a
server. `rtcflow.client` and `rtcflow.testing` are the calling side.

docs/design.md draws the folders; tests/test_layers.py keeps the drawing true. Nothing of aiortc is imported before the
first engine is opened, and nothing of FFmpeg (`av`) before audio is converted or coded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._core import moved as _moved
from ._core.bridge import Event
from ._version import __version__
from .abc import Transport
from .connection.connection import Connection, run_connection
from .connection.handler_loop import HandlerLoop
from .context import Context, get_current_context
from .ends import End, EndCause, Timeouts
from .exceptions import HandlerError, MediaError, NegotiationError, NotAuthorized, RTCFlowError, UnknownConnection
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
from .transports.webrtc import IceServer, WebRTCConfig, open_engine

if TYPE_CHECKING:
    from . import audio as audio
    from . import client as client
    from . import exceptions as exceptions
    from . import testing as testing
    from . import transports as transports
    from . import turns as turns
    from .handlers.turns import AlgoOptions, ReplyOnPause
    from .transports.line_socket import LineLimits
    from .transports.telephone import TelephoneConfig

__all__ = [
    "Access",
    "AdditionalOutputs",
    "AlgoOptions",
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
    "Context",
    "DataChannel",
    "EmitType",
    "End",
    "EndCause",
    "Event",
    "HandlerError",
    "HandlerLoop",
    "IceServer",
    "Latency",
    "Limits",
    "LineLimits",
    "MediaError",
    "Modality",
    "Mode",
    "NegotiationError",
    "NotAuthorized",
    "Page",
    "RTCFlowError",
    "ReplyOnPause",
    "Session",
    "Stream",
    "StreamHandler",
    "StreamHandlerBase",
    "TelephoneConfig",
    "Timeouts",
    "Transport",
    "UnknownConnection",
    "VideoEmitType",
    "VideoFormat",
    "VideoStreamHandler",
    "WebRTCConfig",
    "__version__",
    "get_current_context",
    "memory_pair",
    "open_engine",
    "run_connection",
]


_LATER = {
    "AlgoOptions": ".handlers.turns",
    "LineLimits": ".transports.line_socket",
    "ReplyOnPause": ".handlers.turns",
    "TelephoneConfig": ".transports.telephone",
}
"""Names that take a while to import, and that many programs do not use."""

_MODULES = {"audio", "client", "credentials", "exceptions", "fastrtc", "speech", "testing", "transports", "turns"}
"""Public modules that ``import rtcflow`` makes reachable: ``rtcflow.turns.Say``."""

_moved.OldModules.install()


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise _moved.absent(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
