"""Links to peers: in memory, over WebRTC, over WebSocket, over a telephone carrier's media stream."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._core.moved import absent

if TYPE_CHECKING:
    from .._engine.config import OpusConfig, VideoConfig
    from .._engine.ports import Route, ServerReport, ServerTrouble
    from ..protocol.resume import Permit, Proof
    from ..protocol.signalling import IceCandidate
    from ..protocol.websocket import StartOptions
    from .line_socket import LineLimits
    from .memory import Link, MemoryTransport, memory_pair
    from .telephone import TelephoneConfig, TelephoneTransport, open_telephone_transport
    from .webrtc import IceServer, WebRTCConfig, WebRTCEngine, WebRTCTransport, open_engine
    from .websocket import WebSocketTransport, open_websocket_transport

__all__ = [
    "IceCandidate",
    "IceServer",
    "LineLimits",
    "Link",
    "MemoryTransport",
    "OpusConfig",
    "Permit",
    "Proof",
    "Route",
    "ServerReport",
    "ServerTrouble",
    "StartOptions",
    "TelephoneConfig",
    "TelephoneTransport",
    "VideoConfig",
    "WebRTCConfig",
    "WebRTCEngine",
    "WebRTCTransport",
    "WebSocketTransport",
    "memory_pair",
    "open_engine",
    "open_telephone_transport",
    "open_websocket_transport",
]

_PLACES = {
    "..protocol.resume": ("Permit", "Proof"),
    "..protocol.signalling": ("IceCandidate",),
    "..protocol.websocket": ("StartOptions",),
    ".line_socket": ("LineLimits",),
    ".memory": ("Link", "MemoryTransport", "memory_pair"),
    ".telephone": ("TelephoneConfig", "TelephoneTransport", "open_telephone_transport"),
    ".webrtc": (
        *("IceServer", "OpusConfig", "Route", "ServerReport", "ServerTrouble", "VideoConfig", "WebRTCConfig"),
        *("WebRTCEngine", "WebRTCTransport", "open_engine"),
    ),
    ".websocket": ("WebSocketTransport", "open_websocket_transport"),
}


def __getattr__(name: str) -> object:
    # Each transport is imported when it is asked for: a program that uses one does not load the others.
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise absent(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
