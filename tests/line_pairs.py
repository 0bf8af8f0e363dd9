"""Pairs of a server's and a caller's end of a line over a WebSocket, without a network between them."""

from __future__ import annotations

from rtcflow.testing._lines import WebSocketInMemory as Pipe
from rtcflow.testing._lines import linked, telephone_pair, websocket_pair

__all__ = ["Pipe", "linked", "telephone_pair", "websocket_pair"]
