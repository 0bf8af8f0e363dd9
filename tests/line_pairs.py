"""Pairs of a server's and a caller's end of a line over a WebSocket, without a network between them."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import anyio
from starlette.websockets import WebSocket

from rtcflow.client.lines import DEFAULT_FORMATS, join_line
from rtcflow.client.websocket import Goodbye
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.telephone import carrier_codec
from rtcflow.protocol.websocket import WebSocketCodec, Wish
from rtcflow.transports.telephone import open_telephone_transport
from rtcflow.transports.websocket import open_websocket_transport


class Pipe:
    """An ASGI WebSocket and its client, without a network between them."""

    def __init__(self):
        self._up, self._received = anyio.create_memory_object_stream(math.inf)
        self._down, self._heard = anyio.create_memory_object_stream(math.inf)
        self._up.send_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "client": ("192.0.2.1", 1)}
        self.websocket = WebSocket(scope, self._received.receive, self._down.send)

    async def send(self, message):
        kind = "bytes" if isinstance(message, bytes) else "text"
        self._up.send_nowait({"type": "websocket.receive", kind: message})

    async def receive(self):
        while True:
            message = await self._heard.receive()
            if message["type"] == "websocket.close":
                if message["code"] == 1000:
                    raise Goodbye
                raise ConnectionError(message["reason"])
            if message["type"] == "websocket.send":
                return message.get("bytes") or message["text"]

    async def close(self):
        self._up.send_nowait({"type": "websocket.disconnect", "code": 1000})

    def free(self):
        for stream in (self._up, self._received, self._down, self._heard):
            stream.close()


@asynccontextmanager
async def linked(opener, codec, call, carried):
    pipe = Pipe()
    try:
        async with join_line(pipe, codec, call, carried) as theirs, opener(pipe.websocket) as ours:
            yield ours, theirs
    finally:
        pipe.free()


def websocket_pair(codec, rate):
    wish = Wish(codec, rate, binary=True, clear=True, marks=True, named=True)
    call = CallStarted("a", "a", format=None)
    return lambda: linked(open_websocket_transport, WebSocketCodec(wish), call, MediaFormat(codec, rate))


def telephone_pair(carrier):
    call = CallStarted("CA1", "MZ1", format=DEFAULT_FORMATS[carrier])
    return lambda: linked(open_telephone_transport, carrier_codec(carrier), call, DEFAULT_FORMATS[carrier])
