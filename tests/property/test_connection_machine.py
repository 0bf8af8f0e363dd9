"""Connections live through anything: our own use of `HandlerLifecycle`, over the base classes and both backends."""

from __future__ import annotations

import queue
import tracemalloc
from collections import deque

import anyio
import numpy as np
import pytest
from machine_runs import run_machine

import rtcflow
from rtcflow import AdditionalOutputs
from rtcflow.testing import HandlerLifecycle, run_call

pytestmark = pytest.mark.slow

FRAME = (24000, np.full((1, 480), 500, np.int16))


class Echo(rtcflow.StreamHandler):
    """What every tutorial begins with; its emit blocks for ever when the caller is gone."""

    def __init__(self):
        super().__init__(input_sample_rate=24000)
        self.frames = queue.Queue(50)

    def receive(self, frame):
        if self.frames.full():
            self.frames.get()
        self.frames.put(frame)

    def emit(self):
        return self.frames.get()

    def copy(self):
        return Echo()


class AsyncEcho(rtcflow.AsyncStreamHandler):
    """The async one; it waits for frames, and says nothing else."""

    def __init__(self):
        super().__init__(input_sample_rate=16000, output_sample_rate=16000)
        self.frames = deque(maxlen=50)
        self.came = rtcflow.Event()

    async def receive(self, frame):
        self.frames.append(frame)
        self.came.set()

    async def emit(self):
        while not self.frames:
            self.came.clear()
            await self.came.wait()
        return self.frames.popleft()

    async def shutdown(self):
        self.came.close()

    def copy(self):
        return AsyncEcho()


class Mirror(rtcflow.AudioVideoStreamHandler):
    """Audio and video, sync: four threads."""

    def __init__(self):
        super().__init__(expected_layout="stereo")
        self.pictures = queue.Queue(2)
        self.released = False

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def video_receive(self, frame):
        if not self.pictures.full():
            self.pictures.put(frame)

    def video_emit(self):
        return self.pictures.get()

    def shutdown(self):
        self.released = True
        while not self.pictures.full():
            self.pictures.put(np.zeros((16, 16, 3), np.uint8))

    def copy(self):
        return Mirror()


class AsyncMirror(rtcflow.AsyncAudioVideoStreamHandler):
    """Audio and video, async; a session in start_up."""

    def __init__(self):
        super().__init__(video_format="bgr24")
        self.picture = None
        self.ticks = 0

    async def start_up(self):
        while True:
            await anyio.sleep(0.25)
            self.ticks += 1

    async def receive(self, frame):
        await anyio.sleep(0)

    async def emit(self):
        await anyio.sleep(0.02)
        return FRAME

    async def video_receive(self, picture):
        self.picture = picture

    async def video_emit(self):
        picture, self.picture = self.picture, None
        return picture

    def copy(self):
        return AsyncMirror()


class Bot(rtcflow.AsyncStreamHandler):
    """A voice bot as people write them: arguments, messages, outputs, interruptions, tasks of its own."""

    async def start_up(self):
        await self.wait_for_args()
        await self.send_message("hello")

    async def receive(self, frame):
        if self.args_set.is_set():
            self.clear_queue()
            self.reset()
            self.loop.create_task(self.answer())

    async def answer(self):
        await anyio.sleep(0.3)

    async def emit(self):
        await anyio.sleep(0.1)
        return FRAME, AdditionalOutputs(self.latest_args)

    async def on_message(self, text):
        await self.send_message(text)

    def shutdown(self):
        self.answers = None

    def copy(self):
        return Bot()


def life(handler, backend_name):
    class Life(HandlerLifecycle):
        backend = backend_name

        def make_handler(self):
            return handler()

    Life.__name__ = Life.__qualname__ = f"{handler.__name__}Life"
    return Life


@pytest.mark.nightly
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("handler", [Echo, AsyncEcho])
def test_an_hour_of_call_adds_nothing_up(handler, backend):
    """In an hour of call time no frame is late or lost, no queue grows, and memory does not either."""
    run_call(handler(), seconds=60, backend=backend)
    tracemalloc.start()
    try:
        record = run_call(handler(), seconds=600, backend=backend)
        short = tracemalloc.get_traced_memory()[1]
        heard = len(record.heard)
        del record
        tracemalloc.reset_peak()
        record = run_call(handler(), seconds=3600, backend=backend)
        long = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    audio_in = record.statistics.transport.audio_in
    assert audio_in.dropped == 0
    assert audio_in.most_waiting <= 3
    assert heard >= 30_000 - 5
    assert len(record.heard) >= 180_000 - 5
    assert record.heard[-1].at - record.heard[0].at == pytest.approx((len(record.heard) - 1) * 0.02, abs=1e-6)
    # What is heard is kept by the record, some 2 kB a frame; beyond that nothing grows.
    assert (long - short) / 150_000 < 4000


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("handler", [Echo, AsyncEcho, Mirror, AsyncMirror, Bot])
def test_connections_live_through_anything(handler, backend):
    """No sequence of frames, messages, faults and ends breaks a promise of the connection."""
    run_machine(life(handler, backend), backend, steps=15)


def test_stories_that_the_machine_tells_rarely():
    """A limit ends a call in time, also a later one; so does an error. A few random examples hold none of these."""
    state = life(AsyncEcho, "trio")()
    state.the_first_call_begins(time_limit=0.5)
    state.time_passes(seconds=1.0)
    state.a_call_begins(time_limit=2.0)
    state.caller_speaks(seconds=1.0)
    assert state.connection.end is None
    state.caller_is_silent(seconds=2.0)
    state.a_call_begins()
    state.handler_raises(method="receive")
    state.audio_arrives(n=1)
    state.teardown()


def test_stories_of_a_bot_that_the_machine_tells_rarely():
    """An error in on_message ends its call; a cancelled call is one, and leaves no task, in whatever the bot does."""
    state = life(Bot, "trio")()
    state.the_first_call_begins()
    state.handler_raises(method="on_message")
    state.caller_writes(texts=["hello"])
    assert state.call is None  # it is over
    state.a_call_begins()
    state.page_posts(args=["a"])
    state.audio_arrives(n=3)
    state.call_ends(how="cancelled")
    state.a_call_begins()
    state.page_posts(args=["a"])
    state.audio_arrives(n=3)
    state.call_ends(how="peer leaves")
    state.teardown()
