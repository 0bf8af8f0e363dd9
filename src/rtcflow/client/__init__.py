"""Call a server: over WebRTC (`connect`), as a WebSocket client or telephone carrier (`lines`), or as many callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .._core.moved import absent
from .resuming import ResumingCall
from .webrtc import connect, get_configuration, offer_url

__all__ = ["ResumingCall", "connect", "get_configuration", "offer_url"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
