"""Handlers over real WebRTC: a slow one is in nobody else's way, and many blocking ones do not starve."""

from __future__ import annotations

import queue
import time
from contextlib import AsyncExitStack
from typing import ClassVar

import anyio
import av
import numpy as np
import pytest

from rtcflow.demo import EchoHandler
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AudioVideoStreamHandler, StreamHandler
from rtcflow.serving.negotiation import answer_offer
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
NOISE = np.random.default_rng(1).integers(-8000, 8000, (1, 960)).astype(np.int16)


class BlockingEcho(StreamHandler):
    """The usual one: emit blocks in queue.get(), nobody ever releases it."""

    def __init__(self):
        super().__init__(output_sample_rate=48000)
        self.queue: queue.Queue = queue.Queue()

    def copy(self):
        return BlockingEcho()

    def receive(self, frame):
        self.queue.put(frame)

    def emit(self):
        return self.queue.get()


class SlowFilm(AudioVideoStreamHandler):
    """Takes 50 ms for each frame that it sees, and notes when."""

    busy: ClassVar[list[tuple[float, float]]] = []

    def copy(self):
        return SlowFilm()

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def video_receive(self, frame):
        began = time.monotonic()
        time.sleep(0.05)
        SlowFilm.busy.append((began, time.monotonic()))

    def video_emit(self):
        return None


async def dial(stream, engine, stack, name, **offer):
    """A call to the stream; (the server's session, the caller's end)."""
    call = await engine.offer(**offer)
    stack.push_async_callback(call.aclose)
    async with stream.calls.admit(CallRequest(), "webrtc", name) as session:
        transport = await answer_offer(stream.calls, call.offer_sdp)
        stream.calls.start(session, transport)
    await call.accept_answer(transport.answer)
    call.start(AudioFormat(48000), AudioFormat(48000))
    await call.wait_connected()
    return session, call


async def talk(call):
    while True:
        try:
            call.audio_out.put(AudioFrame(NOISE, 48000, 0))
            await call.audio_out.wait_for_room()
        except anyio.ClosedResourceError:
            return


@pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"])  # 64 ends of calls are all this process can do
async def test_32_blocking_echoes_at_once():
    """Audio flows on each of 32 calls whose emit blocks in queue.get(); the end of one gives its threads back."""
    stream = Stream(BlockingEcho(), concurrency_limit=32, thread_limit=64, webrtc=LOCAL)
    with anyio.fail_after(120):
        async with stream.running(), open_engine(LOCAL) as engine, AsyncExitStack() as stack:
            calls = [await dial(stream, engine, stack, f"call-{number}") for number in range(32)]
            for _, call in calls:
                call.audio_out.put(AudioFrame(np.tile(NOISE, (1, 25)), 48000, 0))
            for _, call in calls:
                for _ in range(10):
                    await call.audio_in.take()
            assert stream.calls.threads.statistics().reserved == 64
            session, call = calls[0]
            await call.aclose()
            await session.connection.wait_ended()
            while stream.calls.threads.statistics().reserved > 62:
                await anyio.sleep(0.01)
            await dial(stream, engine, stack, "one more")
    assert stream.calls.threads.statistics().reserved == stream.calls.threads.statistics().abandoned == 0


async def test_a_slow_video_handler_leaves_another_calls_audio_alone():
    """While video_receive sleeps 50 ms a frame on one connection, another one's echo goes on."""
    SlowFilm.busy.clear()
    films = Stream(SlowFilm(), modality="audio-video", webrtc=LOCAL)
    echo = Stream(EchoHandler(), webrtc=LOCAL)
    with anyio.fail_after(120):
        async with films.running(), echo.running(), open_engine(LOCAL) as engine, AsyncExitStack() as stack:
            _, film = await dial(films, engine, stack, "film", video=True)
            _, call = await dial(echo, engine, stack, "echo")
            arrivals = []

            async def shoot():
                for value in range(10_000):
                    picture = np.full((240, 320, 3), value % 256, np.uint8)
                    film.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
                    await anyio.sleep(1 / 30)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(shoot)
                tasks.start_soon(talk, call)
                for _ in range(200):
                    await call.audio_in.take()
                    arrivals.append(time.monotonic())
                tasks.cancel_scope.cancel()
    assert len(SlowFilm.busy) > 20
    heard = [any(began < moment < ended for began, ended in SlowFilm.busy) for moment in arrivals[50:]]
    # The film is at work nearly all the time; audio that had to wait for it would come in between.
    assert sum(heard) > len(heard) / 2
