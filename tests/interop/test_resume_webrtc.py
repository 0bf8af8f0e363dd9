"""Coming back by WebRTC: a client whose network goes away, and strangers who know a call's id."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest
from served import served

from rtcflow import AsyncStreamHandler, AudioFormat, AudioFrame, Stream, Timeouts, WebRTCConfig, open_engine
from rtcflow._engine.seam import seam
from rtcflow.client import connect
from rtcflow.client.resuming import PEER_TIMEOUT
from rtcflow.protocol.resume import prove

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
VOICE = AudioFormat(48000)
TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]

pytestmark = pytest.mark.anyio


class Talker(AsyncStreamHandler):
    """Says a tone, repeats messages, and notes what it is told. `made` has each copy."""

    made: list[Talker] = []

    def __init__(self) -> None:
        super().__init__(output_sample_rate=48000)
        self.events: list[str] = []
        self.heard = 0

    def copy(self) -> Talker:
        other = Talker()
        self.made.append(other)
        return other

    async def receive(self, frame: Any) -> None:
        self.heard += int(np.abs(frame[1]).max() > 1000)

    async def emit(self) -> Any:
        return 48000, TONE

    async def on_suspended(self) -> None:
        self.events.append("suspended")

    def on_resumed(self) -> None:
        self.events.append("resumed")

    async def on_message(self, message: str) -> None:
        self.events.append(message)
        await self.send_message(message)


def make(**options: Any) -> Stream:
    Talker.made.clear()
    timeouts = Timeouts(connect=10, shutdown=0.5, grace=0.1, goodbye=0.5)
    return Stream(Talker(), timeouts=timeouts, webrtc=LOCAL, **{"resume": 20, **options})


async def cut_off(call: Any) -> None:
    """Lose every datagram of this connection, either way, from now on; in the engine's thread."""
    for transport in seam.transports(call._peer._connection):
        for protocol in transport.transport._connection._protocols:
            protocol.datagram_received = lambda *_: None
            protocol.transport.sendto = lambda *_: None


async def speak(call: Any) -> None:
    while True:
        call.audio_out.put(AudioFrame(TONE, 48000, 0))
        await anyio.sleep(0.02)


async def hear_tone(call: Any) -> None:
    while np.abs((await call.audio_in.take()).samples).max() < 1000:
        pass


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("trio", {})], ids=["asyncio", "trio"])
async def test_a_client_comes_back_by_itself(anyio_backend_name: str) -> None:
    """Nothing gets through any more: it notices, comes back, and the same handler goes on; messages wait for that.

    When it hangs up while its line is dead, the server hears it beside the line.
    """
    stream = make()
    config = WebRTCConfig(host_addresses=("127.0.0.1",), peer_timeout=PEER_TIMEOUT, connect_timeout=5, use_uvloop=False)
    async with served(stream, anyio_backend_name) as port, open_engine(config) as engine:
        with anyio.fail_after(120):
            async with (
                connect(f"http://127.0.0.1:{port}", webrtc_id="abc", engine=engine, resume=True) as call,
                anyio.create_task_group() as tasks,
            ):
                call.start(VOICE, VOICE)
                await call.wait_connected()
                tasks.start_soon(speak, call)
                await hear_tone(call)
                call.send_message_nowait("one")
                assert await call.messages_in.take() == "one"
                (talker,) = Talker.made
                last = (await call.audio_in.take()).pts
                inner = call._inner
                await inner._thread.call(cut_off, inner)
                while call.resumed == 0:
                    last = (await call.audio_in.take()).pts
                call.send_message_nowait("two")
                assert await call.messages_in.take() == "two"
                await hear_tone(call)
                assert (await call.audio_in.take()).pts > last, "media time goes on"
                heard = talker.heard
                while talker.heard < heard + 10:
                    await anyio.sleep(0.02)
                assert inner._ports.closed
                assert talker.events == ["one", "suspended", "resumed", "two"]
                assert stream.session("abc").statistics().resumed == 1
                assert call.statistics().details["resumed"] == 1
                inner = call._inner
                await inner._thread.call(cut_off, inner)  # nothing of the goodbye gets through, and nobody has noticed
                tasks.cancel_scope.cancel()
            while len(stream.calls):
                await anyio.sleep(0.01)
            assert talker.events == ["one", "suspended", "resumed", "two"]


@asynccontextmanager
async def site(stream: Stream) -> Any:
    """A running stream's application as a client sees it; afterwards no slot is taken."""
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client,
        ):
            yield client
    assert len(stream.calls) == 0


async def test_the_id_alone_gives_nothing() -> None:
    """A wrong proof, or a right one with another offer or for the second time: 403; no such call: 410."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call, again, thief = [await engine.offer() for _ in range(3)]

        async def post(**body: Any) -> httpx2.Response:
            return await client.post("/webrtc/offer", json={"type": "offer", "webrtc_id": "abc", **body})

        def proof(offer: str, number: int = 5, secret: str = "", call_id: str = "abc") -> dict[str, Any]:
            return prove(secret or told["secret"], call_id, number, offer).to_json()

        begun = await post(sdp=call.offer_sdp, resume=True)
        told = begun.json()["resume"]
        assert told["seconds"] == 20
        assert len(told["secret"]) == 43
        early = await post(sdp=again.offer_sdp, resume=proof(again.offer_sdp, 1))
        assert early.status_code == 409, "not connected yet"
        await call.accept_answer(begun.json()["sdp"])
        call.start(VOICE, VOICE)
        await call.wait_connected()
        await hear_tone(call)
        stolen = proof(again.offer_sdp)  # seen on its way, and kept from the server
        for sdp, resume, status in (
            (thief.offer_sdp, proof(thief.offer_sdp, secret="guessed"), 403),
            (thief.offer_sdp, stolen, 403),
            (thief.offer_sdp, proof(thief.offer_sdp, call_id="abcd"), 403),
            (thief.offer_sdp, {"number": 5}, 422),
            (thief.offer_sdp, None, 409),
        ):
            refused = await post(sdp=sdp, resume=resume)
            assert refused.status_code == status, refused.text
        unknown = await post(sdp=thief.offer_sdp, webrtc_id="never", resume=proof(thief.offer_sdp, call_id="never"))
        assert (unknown.status_code, unknown.json()["meta"]["error"]) == (410, "call_lost")
        (talker,) = Talker.made
        assert talker.events == []
        answer = await post(sdp=again.offer_sdp, resume=stolen)
        assert answer.status_code == 200
        assert "resume" not in answer.json(), "the secret is told once"
        assert (await post(sdp=again.offer_sdp, resume=stolen)).status_code == 403, "a proof counts once"
        await again.accept_answer(answer.json()["sdp"])
        again.start(VOICE, VOICE)
        await again.wait_connected()
        await hear_tone(again)
        while talker.events != ["suspended", "resumed"]:
            await anyio.sleep(0.01)
        for token, status in (("", 403), ("abc", 403), (told["secret"], 403), (told["stop"] + "x", 403), (None, 422)):
            assert (await post(type="stop", token=token)).status_code == status
        assert stream.session("abc").end is None
        assert (await post(type="stop", token=told["stop"])).json() == {"status": "success"}
        while len(stream.calls):
            await anyio.sleep(0.01)
        for call_id in ("abc", "never"):  # it is over, as the caller wants
            assert (await post(type="stop", webrtc_id=call_id, token=told["stop"])).status_code == 200
        for one in (call, again, thief):
            await one.aclose()
        over = await post(sdp=thief.offer_sdp, resume=proof(thief.offer_sdp, 9))
        assert over.status_code == 410


async def test_only_a_caller_that_asks_is_told_a_secret() -> None:
    """FastRTC's pages get the answer that they know, and a stream without `resume` tells nobody."""
    for stream, body in ((make(), {}), (make(resume=None), {"resume": True})):
        async with site(stream) as client, open_engine(LOCAL) as engine:
            call = await engine.offer()
            offer = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "abc", **body}
            answer = await client.post("/webrtc/offer", json=offer)
            assert set(answer.json()) == {"sdp", "type"}
            assert stream.session("abc").ticket is None
            stream.close("abc")
            await call.aclose()
            while len(stream.calls):
                await anyio.sleep(0.01)
