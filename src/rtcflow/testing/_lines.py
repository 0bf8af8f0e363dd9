"""Both ends of a line over a WebSocket, without a network between them: a page's, or a telephone carrier's."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from starlette.websockets import WebSocket

from ..client.lines import DEFAULT_FORMATS, join_line
from ..client.websocket import Goodbye
from ..protocol.lines import CallStarted, MediaFormat
from ..protocol.telephone import carrier_codec
from ..protocol.websocket import StartOptions, WebSocketCodec
from ..transports.telephone import open_telephone_transport
from ..transports.websocket import open_websocket_transport

__all__ = ["WebSocketInMemory", "linked", "telephone_pair", "websocket_pair"]


class WebSocketInMemory:
    """An ASGI WebSocket and its client, without a network between them."""

    def __init__(self) -> None:
        self._up, self._received = anyio.create_memory_object_stream[Any](math.inf)
        self._down, self._heard = anyio.create_memory_object_stream[Any](math.inf)
        self._up.send_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "client": ("192.0.2.1", 1)}
        self.websocket = WebSocket(scope, self._received.receive, self._down.send)

    async def send(self, message: str | bytes) -> None:
        kind = "bytes" if isinstance(message, bytes) else "text"
        self._up.send_nowait({"type": "websocket.receive", kind: message})

    async def receive(self) -> str | bytes:
        while True:
            message = await self._heard.receive()
            if message["type"] == "websocket.close":
                if message["code"] == 1000:
                    raise Goodbye
                raise ConnectionError(message["reason"])
            if message["type"] == "websocket.send":
                text: str | bytes = message.get("bytes") or message["text"]
                return text

    async def close(self) -> None:
        self._up.send_nowait({"type": "websocket.disconnect", "code": 1000})

    def free(self) -> None:
        for stream in (self._up, self._received, self._down, self._heard):
            stream.close()


@asynccontextmanager
async def linked(
    opener: Callable[..., Any], codec: Any, call: CallStarted, carried: MediaFormat
) -> AsyncIterator[tuple[Any, Any]]:
    """Open the server's and the caller's end of a line: ``(ours, theirs)``."""
    pipe = WebSocketInMemory()
    try:
        async with join_line(pipe, codec, call, carried) as theirs, opener(pipe.websocket) as ours:
            yield ours, theirs
    finally:
        pipe.free()


def websocket_pair(codec: Any, rate: int) -> Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]:
    """A page's line that carries `codec` at `rate`."""
    options = StartOptions(codec, rate, binary=True, clear=True, marks=True, named=True)
    call = CallStarted("a", "a", format=None)
    return lambda: linked(open_websocket_transport, WebSocketCodec(options), call, MediaFormat(codec, rate))


def telephone_pair(carrier: Any) -> Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]:
    """A telephone carrier's line."""
    call = CallStarted("CA1", "MZ1", format=DEFAULT_FORMATS[carrier])
    return lambda: linked(open_telephone_transport, carrier_codec(carrier), call, DEFAULT_FORMATS[carrier])
