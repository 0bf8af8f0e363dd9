"""Call a server: over WebRTC (`connect`), as a WebSocket client or telephone carrier (`lines`), or as many callers."""

from __future__ import annotations

from .webrtc import connect, get_configuration, offer_url

__all__ = ["connect", "get_configuration", "offer_url"]
