"""Every mode with every modality over real WebRTC: what flows, what does not, and with which handlers."""

from __future__ import annotations

import re

import anyio
import av
import httpx2
import numpy as np
import pytest

from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncAudioVideoStreamHandler, AsyncStreamHandler
from rtcflow.handlers.functions import VideoStreamHandler
from rtcflow.stream import Stream
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]
PICTURE = np.full((48, 64, 3), 200, np.uint8)


class Both(AsyncStreamHandler):
    """Notes that it hears, and says a tone."""

    def __init__(self, seen):
        super().__init__(input_sample_rate=48000, output_sample_rate=48000)
        self.seen = seen

    def copy(self):
        return type(self)(self.seen)

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 1000:
            self.seen.add("hears")

    async def emit(self):
        await anyio.sleep(0.01)
        return 48000, TONE


class BothFilm(AsyncAudioVideoStreamHandler):
    """The same with pictures."""

    def __init__(self, seen):
        super().__init__(input_sample_rate=48000, output_sample_rate=48000, video_format="bgr24")
        self.seen = seen

    def copy(self):
        return BothFilm(self.seen)

    receive, emit = Both.receive, Both.emit

    async def video_receive(self, frame):
        self.seen.add("sees")

    async def video_emit(self):
        await anyio.sleep(0.02)
        return PICTURE


def make_handler(modality, mode, seen):
    """What an application gives to a stream of this modality and mode: a function wherever one fits."""

    def look(frame):
        seen.add("sees")
        return frame

    def tones():
        while True:
            yield 48000, TONE

    def pictures():
        while True:
            yield PICTURE

    match modality, mode:
        case "audio", "receive":
            return tones
        case "audio", _:
            return Both(seen)
        case "video", "receive":
            return pictures
        case "video", "send":
            return VideoStreamHandler(look, fps=20, skip_frames=True)
        case "video", _:
            return look
        case _:
            return BothFilm(seen)


@pytest.mark.parametrize("mode", ["send-receive", "send", "receive"])
@pytest.mark.parametrize("modality", ["audio", "video", "audio-video"])
async def test_each_mode_carries_what_it_says(modality, mode):
    """Of a caller who offers everything both ways, exactly the stream's media flow, and only the mode's way."""
    seen: set[str] = set()
    stream = Stream(make_handler(modality, mode, seen), modality=modality, mode=mode, timeouts=QUICK, webrtc=LOCAL)
    audio, video = modality != "video", modality != "audio"
    expected = set()
    if mode != "receive":
        expected |= {"hears"} if audio else set()
        expected |= {"sees"} if video else set()
    if mode != "send":
        expected |= {"is heard"} if audio else set()
        expected |= {"is seen"} if video else set()
    transport = httpx2.ASGITransport(stream.asgi)
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=transport, base_url="http://site") as client,
            open_engine(LOCAL) as engine,
        ):
            call = await engine.offer(audio=True, video=video)
            body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "abc"}
            answer = (await client.post("/webrtc/offer", json=body)).json()["sdp"]
            direction = {"send-receive": "sendrecv", "send": "recvonly", "receive": "sendonly"}[mode]
            directions = re.findall(r"a=(sendrecv|sendonly|recvonly|inactive)\b", answer)
            assert directions == [direction if audio else "inactive", direction][: 1 + video]
            await call.accept_answer(answer)
            call.start(AudioFormat(48000), AudioFormat(48000))
            await call.wait_connected()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, call)
                tasks.start_soon(hear, call, seen)
                tasks.start_soon(look, call, seen)
                while not expected <= seen:
                    await anyio.sleep(0.01)
                await anyio.sleep(0.1)  # what is not expected would come as soon
                tasks.cancel_scope.cancel()
            await call.aclose()
    assert seen == expected


async def send(call):
    """Say a tone and show a picture, again and again."""
    n = 0
    while True:
        call.audio_out.put(AudioFrame(TONE, 48000, 960 * n))
        frame = av.VideoFrame.from_ndarray(PICTURE, format="bgr24")
        call.video_out.put_nowait(frame)
        n += 1
        await anyio.sleep(0.02)


async def hear(call, seen):
    while True:
        frame = await call.audio_in.take()
        if np.abs(frame.samples).max() > 1000:
            seen.add("is heard")


async def look(call, seen):
    while True:
        await call.video_in.take()
        seen.add("is seen")
