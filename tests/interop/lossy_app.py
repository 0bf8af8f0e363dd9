"""The demo's echo for browsers, behind a relay that loses 5 % of what a caller says and delays the rest by up to 30 ms.

The relay is the only way: the server is told none of the caller's own candidates, and the caller only the relay's.
"""

from __future__ import annotations

import json
from typing import Any

from lossy_relay import CANDIDATE, Relay, bad

import rtcflow
from rtcflow.demo import EchoHandler

stream = rtcflow.Stream(
    EchoHandler(), latency="live", webrtc=rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",)), concurrency_limit=4
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http" or not scope["path"].endswith("/webrtc/offer"):
        await stream.asgi(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    said = json.loads(body)
    if said["type"] == "ice-candidate":
        await _answer(send, 200, {"status": "success"})
        return
    said["sdp"] = CANDIDATE.sub(lambda match: "a=x-" + match[0][2:], said["sdp"])
    status, parts, asked = 0, b"", json.dumps(said).encode()

    async def ask() -> Any:
        return {"type": "http.request", "body": asked, "more_body": False}

    async def keep(message: Any) -> None:
        nonlocal status, parts
        status, parts = message.get("status", status), parts + message.get("body", b"")

    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    await stream.asgi({**scope, "headers": headers}, ask, keep)
    told = json.loads(parts)
    if status == 200:
        told["sdp"] = Relay(bad(5, 0.03, seed=1)).answer(told["sdp"])
    await _answer(send, status, told)


async def _answer(send: Any, status: int, told: Any) -> None:
    body = json.dumps(told).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
