"""After fifty calls of every kind there is nothing more than before: no thread, task, descriptor, slot."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from contextlib import suppress

import anyio
import httpx2
import numpy as np
import pytest

from rtcflow.demo import EchoHandler
from rtcflow.ends import Timeouts
from rtcflow.exceptions import UnknownConnection
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import StreamHandler
from rtcflow.stream import Stream
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
CALLS = 50
KINDS = ("clean", "abrupt", "refused", "raising")
NEVER_COMPLETED = {7, 31}  # each waits for the time to connect to pass


class Stuck(StreamHandler):
    """The usual sync handler whose emit nobody releases, and which raises when it is told to."""

    def __init__(self):
        super().__init__()
        self.waiting = threading.Event()

    def copy(self):
        return Stuck()

    def receive(self, frame):
        if self.latest_args and self.latest_args[-1] == "raise":
            raise RuntimeError("as told")

    def emit(self):
        self.waiting.wait()


class MoodyEcho(EchoHandler):
    """The demo's echo, which raises when it is told to."""

    def copy(self):
        return MoodyEcho()

    async def receive(self, frame):
        if self.latest_args and self.latest_args[-1] == "raise":
            raise RuntimeError("as told")
        await super().receive(frame)


async def make_call(kind, stream, client, engine, webrtc_id):
    call = await engine.offer()
    try:
        sdp = call.offer_sdp if kind != "refused" else "v=0 and nothing else"
        response = await client.post("/webrtc/offer", json={"sdp": sdp, "type": "offer", "webrtc_id": webrtc_id})
        assert response.status_code == (422 if kind == "refused" else 200)
        if kind in {"refused", "never completed"}:
            return
        await call.accept_answer(response.json()["sdp"])
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        if kind == "raising":
            stream.set_input(webrtc_id, "raise")
            call.audio_out.put(AudioFrame(np.zeros((1, 4800), np.int16), 48000, 0))
            await call.wait_ended()
        elif kind == "abrupt":
            await call._free()
            with suppress(UnknownConnection):  # where DTLS's goodbye came through, and was quicker
                stream.close(webrtc_id, "nobody is there any more")  # else this takes ICE consent 30 s
    finally:
        await call.aclose()


POOLS = ("AnyIO worker", "Trio thread")  # of the backend: they come and go


def counts(backend):
    """Threads that are no pool's, tasks, descriptors."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)]
    return len(threads), tasks(backend), len(os.listdir("/proc/self/fd"))


def tasks(backend):
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def end(backend, most):
    """Wait until no more than `most` tasks live: a call gives its slot back a moment before its last task has ended.

    How long that moment is depends on the machine. A task that is left never ends, so it fails the test in any case.
    """
    while tasks(backend) > most:
        await anyio.sleep(0.01)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("handler", [MoodyEcho, Stuck])
async def test_fifty_calls_leave_nothing_behind(handler, anyio_backend, caplog):
    """Clean, abrupt, refused, raising and never completed calls give back every slot, thread and descriptor."""
    if handler is Stuck and anyio_backend[1].get("use_uvloop"):
        pytest.skip("a sync handler's threads meet the loop in the same places as with asyncio's")
    stream = Stream(handler(), concurrency_limit=4, timeouts=Timeouts(connect=2.0, grace=0.1), webrtc=LOCAL)
    before_all = counts(anyio_backend[0])
    with anyio.fail_after(120):
        async with (
            stream.running(),
            open_engine(LOCAL) as engine,
            httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client,
        ):
            warm = None
            for number in range(CALLS):
                kind = "never completed" if number in NEVER_COMPLETED else KINDS[number % len(KINDS)]
                await make_call(kind, stream, client, engine, f"call-{number}")
                while len(stream.calls):
                    await anyio.sleep(0.01)
                if number == 9:
                    warm = counts(anyio_backend[0])
            await end(anyio_backend[0], warm[1])
            threads, living, descriptors = (
                now - then for now, then in zip(counts(anyio_backend[0]), warm, strict=True)
            )
            assert threads <= 0, "threads"
            assert living <= 0, "tasks"
            assert descriptors <= 2, "descriptors"
            assert stream.calls.threads.statistics().reserved == 0
            assert stream.calls.threads.statistics().abandoned == 0
        await end(anyio_backend[0], before_all[1])
    threads, living, descriptors = (now - then for now, then in zip(counts(anyio_backend[0]), before_all, strict=True))
    assert threads <= 0, "threads"
    assert living <= 0, "tasks"
    assert descriptors <= 4, "descriptors"
