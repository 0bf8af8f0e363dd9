"""Handlers as people bring them from FastRTC: only the import was changed.

One of each kind that FastRTC's own documentation and demos show: where they wait, what they keep in `start_up`, how
they are copied.
"""

from __future__ import annotations

import asyncio
import json
import queue
import time
from functools import cached_property

import anyio
import numpy as np

from rtcflow.audio import wait_for_item
from rtcflow.fastrtc import (
    AdditionalOutputs,
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    CloseStream,
    StreamHandler,
)


class SyncEcho(StreamHandler):
    """The echo of the README: `emit` blocks in `queue.get()` for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue.Queue()

    def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.queue.put(frame)

    def emit(self):
        return self.queue.get()

    def copy(self):
        return SyncEcho()


class AsyncioEcho(AsyncStreamHandler):
    """An echo with `asyncio.Queue` (so for asyncio only) and `wait_for_item`; it copies its formats, as many do."""

    def __init__(self, expected_layout="mono", output_sample_rate=24000, output_frame_size=480) -> None:
        super().__init__(expected_layout, output_sample_rate, output_frame_size, input_sample_rate=24000)
        self.queue: asyncio.Queue = asyncio.Queue()

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        await self.queue.put(frame)

    async def emit(self):
        return await wait_for_item(self.queue)

    def copy(self):
        return AsyncioEcho(self.expected_layout, self.output_sample_rate, self.output_frame_size)


class StreamEcho(AsyncStreamHandler):
    """The same with an anyio stream: runs on both backends."""

    def __init__(self) -> None:
        super().__init__(input_sample_rate=24000)

    @cached_property  # made for the copies only, which shutdown() closes
    def stream(self):
        return anyio.create_memory_object_stream(100)

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        await self.stream[0].send(frame)

    async def emit(self):
        return await wait_for_item(self.stream[1])

    def copy(self):
        return StreamEcho()

    async def shutdown(self) -> None:
        for end in self.stream:
            end.close()


class Session:
    """Stands for a live session of a model's API."""

    def __init__(self) -> None:
        self.opened = self.closed = False

    async def __aenter__(self):
        self.to_say, self.says = anyio.create_memory_object_stream(100)
        self.opened = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.closed = True
        self.to_say.close()
        self.says.close()

    async def send(self, samples: np.ndarray) -> None:
        await self.to_say.send(samples)

    async def __aiter__(self):
        async for samples in self.says:
            yield samples


class SessionHolder(AsyncStreamHandler):
    """`start_up` waits for arguments, then holds one session for the whole call."""

    def __init__(self) -> None:
        super().__init__("mono", output_sample_rate=24000, input_sample_rate=16000)
        self.session = Session()
        self.voice = None

    @cached_property
    def stream(self):
        return anyio.create_memory_object_stream(100)

    async def start_up(self) -> None:
        if not self.phone_mode:
            await self.wait_for_args()
            self.voice = self.latest_args[1]
        async with self.session as session:
            await self.send_message(json.dumps({"type": "log", "data": "session_open"}))
            async for samples in session:
                await self.stream[0].send((16000, samples))

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        if self.session.opened:
            await self.session.send(frame[1])

    async def emit(self):
        return await wait_for_item(self.stream[1])

    def copy(self):
        return SessionHolder()

    def shutdown(self) -> None:
        self.args_set.clear()
        for end in self.stream:
            end.close()


class SyncMirror(AudioVideoStreamHandler):
    """Audio and video come back, the picture mirrored; uint8 BGR arrays, as FastRTC in fact gives them."""

    def __init__(self) -> None:
        super().__init__("mono", output_sample_rate=24000, input_sample_rate=24000)
        self.audio = queue.Queue()
        self.video = queue.Queue()

    def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.audio.put(frame)

    def emit(self):
        return self.audio.get()

    def video_receive(self, frame: np.ndarray) -> None:
        self.video.put(frame)

    def video_emit(self):
        return np.flip(self.video.get(), axis=1)

    def copy(self):
        return SyncMirror()


class AsyncMirror(AsyncAudioVideoStreamHandler):
    """The same, async, with anyio streams."""

    def __init__(self) -> None:
        super().__init__("mono", output_sample_rate=24000, input_sample_rate=24000)

    @cached_property
    def audio(self):
        return anyio.create_memory_object_stream(100)

    @cached_property
    def video(self):
        return anyio.create_memory_object_stream(100)

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        await self.audio[0].send(frame)

    async def emit(self):
        return await wait_for_item(self.audio[1])

    async def video_receive(self, frame: np.ndarray) -> None:
        await self.video[0].send(frame)

    async def video_emit(self):
        frame = await self.video[1].receive()
        return np.flip(frame, axis=1), AdditionalOutputs("mirrored")

    def copy(self):
        return AsyncMirror()

    async def shutdown(self) -> None:
        for end in (*self.audio, *self.video):
            end.close()


class Talker(StreamHandler):
    """Says what it is told over the loop from its worker thread, then hangs up."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0

    def receive(self, frame: tuple[int, np.ndarray]) -> None:
        self.send_message_sync(json.dumps({"type": "log", "data": "heard"}))

    def emit(self):
        async def think() -> int:
            await anyio.sleep(0.001)
            return self.told + 1

        self.told = asyncio.run_coroutine_threadsafe(think(), self.loop).result()
        if self.told > 3:
            return CloseStream("enough")
        time.sleep(0.001)
        return 24000, np.full(480, self.told, np.int16)

    def copy(self):
        return Talker()
