"""The other end of an ASGI WebSocket, in memory: literal messages of carriers and clients, from their documentation."""

from __future__ import annotations

import base64
import json
import math
from contextlib import asynccontextmanager

import anyio
from starlette.websockets import WebSocket

START = '{"event":"start","websocket_id":"abc"}'
CALLS = {
    "twilio": [
        '{"event":"connected","protocol":"Call","version":"1.0.0"}',
        '{"event":"start","sequenceNumber":"1","streamSid":"MZ1","start":{"streamSid":"MZ1","accountSid":"AC1","callSid":'
        '"CA1","tracks":["inbound"],"customParameters":{"caller":"+1415","k":"v"},"mediaFormat":{"encoding":'
        '"audio/x-mulaw","sampleRate":8000,"channels":1}}}',
    ],
    "telnyx": [
        '{"event":"connected","version":"1.0.0"}',
        '{"event":"start","sequence_number":"1","stream_id":"MZ1","start":{"call_control_id":"CA1","from":"+1415",'
        '"to":"+1416","custom_parameters":{"k":"v"},"media_format":{"encoding":"PCMU","sample_rate":8000,"channels":1}}}',
    ],
    "plivo": [
        '{"event":"start","sequenceNumber":0,"start":{"callId":"CA1","streamId":"MZ1","accountId":"1","tracks":["inbound"],'
        '"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}},"extra_headers":"caller=%2B1415;k=v"}'
    ],
    "vonage": [
        '{"event":"websocket:connected","content-type":"audio/l16;rate=8000","call_id":"CA1","caller":"+1415","k":"v"}'
    ],
}
STOPS = {
    "twilio": '{"event":"stop","streamSid":"MZ1","stop":{}}',
    "telnyx": '{"event":"stop","stream_id":"MZ1","stop":{}}',
}
DIGITS = {
    "twilio": '{"event":"dtmf","streamSid":"MZ1","dtmf":{"track":"inbound_track","digit":"5"}}',
    "telnyx": '{"event":"dtmf","stream_id":"MZ1","dtmf":{"digit":"5"}}',
    "plivo": '{"event":"dtmf","streamId":"MZ1","dtmf":{"digit":"5"}}',
    "vonage": '{"event":"websocket:dtmf","digit":"5","duration":260}',
}


class FarSide:
    """The other end of an ASGI WebSocket: says literal messages, and keeps all it is told, with the time."""

    def __init__(self, headers=(), extensions=()):
        self._say, self._said = anyio.create_memory_object_stream(math.inf)
        self._say.send_nowait({"type": "websocket.connect"})
        self.heard = []  # (when, message): str, bytes
        self.accepted = False
        self.denied = None  # the HTTP status with which the handshake was answered
        self.closed = None  # (code, reason)
        self.gate = anyio.Event()
        self.gate.set()
        self._news = anyio.Event()
        scope = {"type": "websocket", "path": "/", "query_string": b"", "client": ("192.0.2.1", 1)}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
        scope["extensions"] = {name: {} for name in extensions}
        self.websocket = WebSocket(scope, self._said.receive, self._take)

    def close(self):
        self._say.close()
        self._said.close()

    async def _take(self, message):
        await self.gate.wait()
        match message["type"]:
            case "websocket.accept":
                self.accepted = True
            case "websocket.http.response.start":
                self.denied = message["status"]
            case "websocket.send":
                text = message.get("text")
                self.heard.append((anyio.current_time(), message.get("bytes") if text is None else text))
            case "websocket.close":
                self.closed = (message.get("code", 1000), message.get("reason", ""))
        self._news.set()

    def say(self, message):
        self._say.send_nowait({"type": "websocket.receive", "bytes" if isinstance(message, bytes) else "text": message})

    def never_waits(self):
        """From the next message on, receiving does not let other tasks run while messages wait."""

        async def receive():
            try:
                return self._said.receive_nowait()
            except anyio.WouldBlock:
                return await self._said.receive()

        self.websocket._receive = receive

    def leave(self, code=1000):
        self._say.send_nowait({"type": "websocket.disconnect", "code": code})

    def say_audio(self, payload, **more):
        self.say(json.dumps({"event": "media", "media": {"payload": base64.b64encode(payload).decode(), **more}}))

    @property
    def messages(self):
        """What was heard, JSON read, without audio."""
        read = [json.loads(message) for _, message in self.heard if isinstance(message, str)]
        return [message for message in read if message.get("event") not in {"media", "playAudio"}]

    @property
    def audio(self):
        """When audio was heard, and the payload."""
        found = []
        for when, message in self.heard:
            if isinstance(message, bytes):
                found.append((when, message))
            elif (said := json.loads(message)).get("event") in {"media", "playAudio"}:
                found.append((when, base64.b64decode(said["media"]["payload"])))
        return found

    @property
    def bytes_heard(self):
        """How much audio was heard."""
        return sum(len(payload) for _, payload in self.audio)

    async def until(self, condition):
        with anyio.fail_after(120):
            while not condition():
                self._news = anyio.Event()
                await self._news.wait()


@asynccontextmanager
async def far_side(**options):
    far = FarSide(**options)
    try:
        yield far
    finally:
        far.close()
