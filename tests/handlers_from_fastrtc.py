"""Handlers as people bring them from FastRTC: only the import was changed.

One of each kind that FastRTC's own documentation and demos show: where they wait, what they keep in `start_up`, how
they are copied.
"""

from __future__ import annotations

import asyncio
import json
import queue
import time

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
        self.sender, self.receiver = anyio.create_memory_object_stream(100)

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        await self.sender.send(frame)

    async def emit(self):
        return await wait_for_item(self.receiver)

    def copy(self):
        return StreamEcho()

    async def shutdown(self) -> None:
        self.sender.close()
        self.receiver.close()


class Session:
    """Stands for a live session of a model's API."""

    def __init__(self) -> None:
        self.opened = self.closed = False
        self.heard = 0
        self.to_say, self.says = anyio.create_memory_object_stream(100)

    async def __aenter__(self):
        self.opened = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self.closed = True
        self.to_say.close()
        self.says.close()

    async def send(self, samples: np.ndarray) -> None:
        self.heard += samples.shape[1]
        await self.to_say.send(samples)

    async def __aiter__(self):
        async for samples in self.says:
            yield samples


class SessionHolder(AsyncStreamHandler):
    """`start_up` waits for arguments, then holds one session for the whole call."""

    def __init__(self, session: Session | None = None) -> None:
        super().__init__("mono", output_sample_rate=24000, input_sample_rate=16000)
        self.session = session or Session()
        self.sender, self.receiver = anyio.create_memory_object_stream(100)
        self.voice = None

    async def start_up(self) -> None:
        if not self.phone_mode:
            await self.wait_for_args()
            self.voice = self.latest_args[1]
        async with self.session as session:
            await self.send_message(json.dumps({"type": "log", "data": "session_open"}))
            async for samples in session:
                await self.sender.send((16000, samples))

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        if self.session.opened:
            await self.session.send(frame[1])

    async def emit(self):
        return await wait_for_item(self.receiver)

    def copy(self):
        return SessionHolder()

    def shutdown(self) -> None:
        self.args_set.clear()
        self.sender.close()
        self.receiver.close()


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
        self.audio_in, self.audio_out = anyio.create_memory_object_stream(100)
        self.video_in, self.video_out = anyio.create_memory_object_stream(100)

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        await self.audio_in.send(frame)

    async def emit(self):
        return await wait_for_item(self.audio_out)

    async def video_receive(self, frame: np.ndarray) -> None:
        await self.video_in.send(frame)

    async def video_emit(self):
        frame = await self.video_out.receive()
        return np.flip(frame, axis=1), AdditionalOutputs("mirrored")

    def copy(self):
        return AsyncMirror()

    async def shutdown(self) -> None:
        for stream in (self.audio_in, self.audio_out, self.video_in, self.video_out):
            stream.close()


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
