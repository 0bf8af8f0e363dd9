"""The WebSocket and the telephone transport keep every promise of `rtcflow.abc`, from a frame to the last goodbye."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.websockets import WebSocket

from rtcflow.carrier import DEFAULT_FORMATS, Goodbye, join_line
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.telephone import carrier_codec
from rtcflow.protocol.websocket import WebSocketCodec, Wish
from rtcflow.testing.clocks import virtual_backend
from rtcflow.testing.conformance import TRANSPORT_CHECKS
from rtcflow.transports.telephone import open_telephone_transport
from rtcflow.transports.websocket import open_websocket_transport

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["trio", "asyncio"])
def anyio_backend(request):
    """Both backends, in virtual time."""
    return virtual_backend(request.param)


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


PAIRS = {
    "pcm_s16le": websocket_pair("pcm_s16le", 48000),
    "mulaw": websocket_pair("mulaw", 24000),
    "opus": websocket_pair("opus", 48000),
    "twilio": telephone_pair("twilio"),
    "telnyx": telephone_pair("telnyx"),
    "plivo": telephone_pair("plivo"),
    "vonage": telephone_pair("vonage"),
}


@pytest.mark.parametrize("sentence", list(TRANSPORT_CHECKS))
@pytest.mark.parametrize("line", list(PAIRS))
async def test_the_servers_end_keeps_its_promises(line, sentence):
    """One sentence of the transport's contract, held against one line."""
    await TRANSPORT_CHECKS[sentence](PAIRS[line])
