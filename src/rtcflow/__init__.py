"""Real-time audio and video handlers over WebRTC, WebSocket and telephone lines, under trio or asyncio.

The house, floor by floor; arrows point down only (tests/test_layers.py keeps it so):

    4   cli · asgi · stream                    what people type; routes; Stream = handler + limits + live connections
        client · carrier                       call a server; be a telephone carrier
    3   connection                             one transport, one handler, one task group
        transports/ · _engine/                 memory, webrtc, websocket, telephone; the asyncio room
        _loop · threads                        the loop handlers see; the worker threads of sync handlers
    2   handlers/ · abc                        what users subclass; what transports promise
        flow · player · _bridge                bounded queues, playout, waiting across threads and backends
    1   media/ · protocol/                     pure
    0   frames · outputs · context · exceptions

Nothing of aiortc is imported before the first engine is opened.
"""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__"]
