"""The order in which a connection ends, and how long that takes, in virtual time (docs/structured-concurrency.md)."""

from __future__ import annotations

import threading

import anyio
import numpy as np
import pytest

from rtcflow.connection import Connection
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.outputs import CloseStream
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    """Both backends, in virtual time."""
    return virtual_backend


async def test_the_end_has_one_order(monkeypatch):
    """Tasks, threads that return, shutdown, the last audio, the goodbye, the transport."""
    events = []

    class Handler(StreamHandler):
        def __init__(self):
            super().__init__()
            self.works, self.inside, self.cancelled = threading.Event(), threading.Event(), threading.Event()
            self.said = 0

        def start_up(self):
            self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self.work()))

        async def work(self):
            try:
                self.works.set()
                await anyio.sleep_forever()
            finally:
                events.append("tasks")
                self.cancelled.set()

        def receive(self, frame):
            self.inside.set()
            self.ended.wait_sync()
            self.cancelled.wait(10)
            events.append("a thread that returns")

        def emit(self):
            self.said += 1
            if self.said == 1:
                return 48000, np.zeros((1, 48000), np.int16)
            self.works.wait(10)
            self.inside.wait(10)
            return CloseStream("bye")

        def shutdown(self):
            events.append("shutdown")

        def copy(self):
            return Handler()

    def noted(transport, name, event):
        method = getattr(transport, name)

        async def call():
            result = await method()
            events.append(event)
            return result

        monkeypatch.setattr(transport, name, call)

    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        noted(ours.audio_out, "drained", "the last audio")
        noted(ours, "aclose", "the transport")
        tell = ours.send_message_nowait
        monkeypatch.setattr(ours, "send_message_nowait", lambda text: (events.append("the goodbye"), tell(text)))
        theirs.audio_out.put(AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
        connection = Connection(ours, Handler(), timeouts=Timeouts())
        await connection.serve()
        seen = list(events)
    assert seen == [
        "tasks", "a thread that returns", "shutdown", "the last audio", "the goodbye",
        "the transport",
    ]  # fmt: skip


async def test_the_last_audio_may_take_longer_than_the_rest_of_the_end():
    """Ten seconds of audio are played to their end, although the end may take six."""

    class Handler(AsyncStreamHandler):
        said = 0

        async def receive(self, frame):
            pass

        async def emit(self):
            self.said += 1
            return (48000, np.ones((1, 480000), np.int16)) if self.said == 1 else CloseStream("bye")

        def copy(self):
            return Handler()

    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, Handler(), timeouts=Timeouts(close=6))
        tasks.start_soon(connection.serve)
        heard = 0.0
        with pytest.raises(anyio.EndOfStream):
            while True:
                frame = await theirs.audio_in.take()
                heard += frame.samples.shape[1] / frame.sample_rate
    assert heard == pytest.approx(10)
