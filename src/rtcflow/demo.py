"""What `rtcflow demo` serves: everybody hears what they say."""

from __future__ import annotations

from collections import deque
from typing import Any

from starlette.applications import Starlette

from ._core.bridge import Event
from .ends import Timeouts
from .handlers.base import AsyncStreamHandler
from .media.playout import Latency
from .outputs import EmitType
from .stream import Stream
from .transports.telephone import TelephoneConfig

HELD = 15
"""Frames of 20 ms that may wait for `emit`; when more do, the handler has fallen behind and skips to the present."""


class EchoHandler(AsyncStreamHandler):
    """Emits each frame that it receives."""

    def __init__(self) -> None:
        super().__init__(output_sample_rate=48000, input_sample_rate=48000)
        self._frames: deque[tuple[int, Any]] = deque()
        self._arrived = Event()

    def copy(self) -> EchoHandler:
        return EchoHandler()

    async def receive(self, frame: tuple[int, Any]) -> None:
        if len(self._frames) == HELD:
            self._frames.clear()
            self.clear_queue()
        self._frames.append(frame)
        self._arrived.set()

    async def emit(self) -> EmitType:
        while not self._frames:
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()


def make_stream(concurrency_limit: int | None = 32) -> Stream:
    """The demo's stream."""
    return Stream(
        EchoHandler(),
        concurrency_limit=concurrency_limit,
        latency=Latency.LIVE,
        timeouts=Timeouts(goodbye=0.4),  # Ctrl-C ends the demo well within 2 s, though a caller does not answer
        telephone=TelephoneConfig(unsigned_is_fine=True),
    )


stream: Stream = make_stream()
"""For ``rtcflow serve rtcflow.demo:stream``, and for ``uvicorn rtcflow.demo:app``."""

app: Starlette = stream.asgi
"""The demo as an ASGI application."""
