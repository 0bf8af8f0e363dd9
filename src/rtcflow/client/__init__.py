"""Call a server: over WebRTC (`connect`), as a WebSocket client or telephone carrier (`lines`), or as many callers."""

from __future__ import annotations

from .resuming import ResumingCall
from .webrtc import connect, get_configuration, offer_url

__all__ = ["ResumingCall", "connect", "get_configuration", "offer_url"]
