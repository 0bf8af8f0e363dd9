"""What test_page.py has served: one stream of each kind, each with its page, and the example of the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import anyio
import numpy as np
from starlette.applications import Starlette
from starlette.responses import HTMLResponse

import rtcflow
from rtcflow.agents import VoiceAgent
from rtcflow.demo import EchoHandler
from rtcflow.turns import EnergyVad

LOCAL = {"webrtc": rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",)), "concurrency_limit": 4}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "page.md"


def look(frame, how: Literal["invert", "plain"] = "invert", least: int = 0):
    return 255 - frame if how == "invert" else frame


class Mirror(rtcflow.AsyncAudioVideoStreamHandler):
    """Gives back what comes; what it is told, by arguments or in words, it puts out."""

    def __init__(self):
        super().__init__(video_format="bgr24")
        self.pictures, self.sounds, self.said = [], [], []
        self.seen, self.heard = rtcflow.Event(), rtcflow.Event()

    def copy(self):
        return Mirror()

    async def receive(self, frame):
        self.sounds = [*self.sounds[-4:], frame]
        self.heard.set()

    async def emit(self):
        while True:
            if self.said:
                return rtcflow.AdditionalOutputs(*self.said.pop(0))
            if self.sounds:
                return self.sounds.pop(0)
            self.heard.clear()
            await self.heard.wait()

    async def video_receive(self, frame):
        self.pictures = [frame]
        self.seen.set()

    async def video_emit(self):
        while not self.pictures:
            self.seen.clear()
            await self.seen.wait()
        return self.pictures.pop()

    async def start_up(self):
        await self.wait_for_args()
        self.said.append(("arguments", self.latest_args[1:]))

    async def on_message(self, message):
        self.said.append(("message", message))
        await self.send_message('{"type": "log", "data": "understood"}')


class Talker(EchoHandler):
    """Shows on the page what was said: the last answer was heard in part."""

    async def start_up(self):
        await self.send_message(
            '{"type": "transcript", "data": {"role": "user", "text": "What is the time?", "id": 1}}'
        )
        answer = '"role": "assistant", "text": "It is ten past nine in Lisbon.", "id": 2'
        await self.send_message(f'{{"type": "transcript", "data": {{{answer}}}}}')
        await self.send_message(f'{{"type": "transcript", "data": {{{answer}, "heard": "It is ten past"}}}}')
        await self.send_message('{"type": "state", "data": "thinking"}')

    async def on_message(self, message):
        await self.send_message('{"type": "transcript", "data": "as you say"}')

    def copy(self):
        return Talker()


async def chat(messages, tools):
    await anyio.sleep(0.7)
    yield "Hello, I hear you. "
    yield "It is a fine day, is it not?"


async def stt(audio):
    return "Good morning."


async def tts(words):
    return 24000, (8000 * np.sin(np.arange(24000) / 9)).astype(np.int16)[np.newaxis]


app = Starlette()
agent = VoiceAgent(
    chat,
    stt=stt,
    tts=tts,
    model=EnergyVad(),
    algo_options=rtcflow.AlgoOptions(max_continuous_speech_s=1.5),  # the browser's microphone never pauses
    can_interrupt=False,
)
rtcflow.Stream(agent, **LOCAL).mount(app, "/agent")
rtcflow.Stream(EchoHandler(), **LOCAL).mount(app, "/echo")
rtcflow.Stream(EchoHandler(), resume=300, **LOCAL).mount(app, "/patient")
rtcflow.Stream(Talker(), title="Ask the <clock>", description="It knows the time in every town.", **LOCAL).mount(
    app, "/clock"
)
rtcflow.Stream(
    look,
    modality="video",
    track_constraints={"width": {"exact": 320}, "height": {"exact": 240}},
    rtp_params={"degradationPreference": "maintain-framerate", "encodings": [{"maxBitrate": 900000}]},
    **LOCAL,
).mount(app, "/look")
rtcflow.Stream(Mirror(), modality="audio-video", **LOCAL).mount(app, "/mirror")
rtcflow.Stream(EchoHandler(), rtc_configuration={"iceTransportPolicy": "relay"}, **LOCAL).mount(app, "/nowhere")
UNREACHABLE = {"urls": "turn:nowhere.invalid:3478?transport=tcp", "username": "u", "credential": "p"}
rtcflow.Stream(
    EchoHandler(), rtc_configuration={"iceTransportPolicy": "relay", "iceServers": [UNREACHABLE]}, **LOCAL
).mount(app, "/unreachable")


async def example(request):
    (page,) = re.findall(r"^```html\n(.*?)^```$", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    return HTMLResponse(page)


app.add_route("/example", example)

rtcflow.Stream(EchoHandler(), **LOCAL).mount(app, "/talk", page=False)
