"""The echo as an async handler, for trio and asyncio alike: `rtcflow serve async_echo:stream --backend trio`."""

from __future__ import annotations

from collections import deque

import rtcflow


class AsyncEcho(rtcflow.AsyncStreamHandler):
    def __init__(self):
        super().__init__(output_sample_rate=48000)
        self.frames = deque(maxlen=50)  # when it is full the oldest sound is dropped
        self.arrived = rtcflow.Event()

    async def receive(self, frame):
        self.frames.append(frame)
        self.arrived.set()

    async def emit(self):
        while not self.frames:
            self.arrived.clear()
            await self.arrived.wait()
        return self.frames.popleft()

    def copy(self):
        return AsyncEcho()


stream = rtcflow.Stream(AsyncEcho(), concurrency_limit=10)
