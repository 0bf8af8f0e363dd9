"""Tracks that are added to a live call, by stock aiortc and by Chromium."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest
from aiortc import (
    AudioStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)

from rtcflow import AsyncAudioVideoStreamHandler, Event, NotAuthorized, Stream, WebRTCConfig
from rtcflow.context import get_current_context, log_facts
from rtcflow.exceptions import InvalidOffer

sys.path.insert(0, str(Path(__file__).parent))
import chromium
from serving import serving

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])


class Witness(AsyncAudioVideoStreamHandler):
    """Tells when it first hears and sees, and shows what it sees."""

    def __init__(self) -> None:
        super().__init__(video_format="frame")
        self.hears, self.sees = Event(), Event()
        self.picture: Any = None
        self.contexts: set[str | None] = set()

    def copy(self) -> Witness:
        return Witness()

    async def receive(self, frame: Any) -> None:
        self.note_context()
        self.hears.set()

    async def emit(self) -> Any:
        await anyio.sleep(0.02)
        return 48000, np.zeros((1, 960), np.int16)

    def note_context(self) -> None:
        facts = log_facts.get()
        self.contexts |= {get_current_context().webrtc_id, None if facts is None else facts.call}

    async def video_receive(self, frame: Any) -> None:
        self.note_context()
        self.picture = frame
        self.sees.set()

    async def video_emit(self) -> Any:
        await self.sees.wait()
        return self.picture


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[Stream, httpx2.AsyncClient]]:
    stream = Stream(Witness(), modality="audio-video", webrtc=LOCAL, **options)
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client,
        ):
            yield stream, client


def caller() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))


async def offer(peer: RTCPeerConnection, client: httpx2.AsyncClient, **headers: str) -> httpx2.Response:
    """Offer what the peer has, and take the answer if there is one."""
    await peer.setLocalDescription(await peer.createOffer())
    body = {"type": "offer", "webrtc_id": "abc", "sdp": peer.localDescription.sdp}
    response = await client.post("/webrtc/offer", json=body, headers=headers)
    if response.status_code == 200:
        await peer.setRemoteDescription(RTCSessionDescription(response.json()["sdp"], "answer"))
    return response


@ASYNCIO
@pytest.mark.anyio
@pytest.mark.parametrize("first", ["audio", "video"])
async def test_a_track_is_added_to_a_live_call(first: str) -> None:
    """The handler of the same call gets it, answers in kind, and what flowed before goes on."""
    tracks: dict[str, Any] = {"audio": AudioStreamTrack, "video": VideoStreamTrack}
    async with site() as (stream, client):
        peer = caller()
        try:
            back: dict[str, Any] = {}
            peer.on("track", lambda track: back.setdefault(track.kind, track))
            peer.addTrack(tracks.pop(first)())
            assert (await offer(peer, client)).status_code == 200
            session = stream.session("abc")
            witness = session.handler
            early, late = (witness.hears, witness.sees) if first == "audio" else (witness.sees, witness.hears)
            await early.wait()
            assert not late.is_set()
            ((_, added),) = tracks.items()
            peer.addTrack(added())
            assert (await offer(peer, client)).status_code == 200
            await late.wait()
            assert stream.session("abc") is session
            assert (
                session.connection.transport.offer.receive_audio,
                session.connection.transport.offer.send_video,
            ) == (
                True,
                True,
            )
            early.clear()
            await early.wait()
            assert witness.contexts == {"abc", "a…"}
            for kind in ("audio", "video"):
                assert await asyncio.wait_for(back[kind].recv(), 10)
        finally:
            await peer.close()
        while len(stream.calls):
            await anyio.sleep(0.01)


@ASYNCIO
@pytest.mark.anyio
async def test_strangers_cannot_renegotiate() -> None:
    """Who knows the id alone gets a 409, who is not authorized any more a 403, nonsense a 422; the call goes on."""
    allowed = True

    def authorize(_: Any) -> str:
        if not allowed:
            raise NotAuthorized("not any more")
        return "ali"

    async with site(authorize=authorize) as (stream, client):
        peer, stranger = caller(), caller()
        try:
            peer.addTrack(AudioStreamTrack())
            stranger.addTrack(VideoStreamTrack())
            assert (await offer(peer, client)).status_code == 200
            witness = stream.session("abc").handler
            await witness.hears.wait()
            assert (await offer(stranger, client)).status_code == 409
            spoilt = peer.localDescription.sdp.replace("a=setup", "a=set")
            body = {"type": "offer", "webrtc_id": "abc", "sdp": spoilt}
            assert (await client.post("/webrtc/offer", json=body)).status_code == 422
            allowed = False
            body["sdp"] = peer.localDescription.sdp
            assert (await client.post("/webrtc/offer", json=body)).status_code == 403
            witness.hears.clear()
            await witness.hears.wait()
            assert len(stream.calls) == 1
        finally:
            await peer.close()
            await stranger.close()


@ASYNCIO
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("good", "bad"), [("m=audio", "m=video"), ("a=mid:0", "a=mid:7"), ("a=ice-ufrag:", "a=ice-ufrag:x")]
)
async def test_a_call_survives_a_bad_change(good: str, bad: str) -> None:
    """A re-offer that does not fit is refused in words, sound goes on, and a camera can still be added."""
    async with site() as (stream, client):
        peer = caller()
        try:
            peer.addTrack(AudioStreamTrack())
            assert (await offer(peer, client)).status_code == 200
            witness = stream.session("abc").handler
            await witness.hears.wait()
            spoilt = peer.localDescription.sdp.replace(good, bad)
            response = await client.post("/webrtc/offer", json={"type": "offer", "webrtc_id": "abc", "sdp": spoilt})
            assert response.status_code in {409, 422}, response.text
            witness.hears.clear()
            await witness.hears.wait()
            peer.addTrack(VideoStreamTrack())
            assert (await offer(peer, client)).status_code == 200
            await witness.sees.wait()
        finally:
            await peer.close()


@asynccontextmanager
async def audio_call() -> AsyncIterator[tuple[Stream, httpx2.AsyncClient, Any, str]]:
    """A live call with audio: the stream, a client of its routes, the call's handler, and the offer it began with."""
    async with site() as (stream, client):
        peer = caller()
        try:
            peer.addTrack(AudioStreamTrack())
            assert (await offer(peer, client)).status_code == 200
            yield stream, client, stream.session("abc").handler, peer.localDescription.sdp
        finally:
            await peer.close()


@ASYNCIO
@pytest.mark.anyio
async def test_further_offers_bring_no_more_candidates_than_one() -> None:
    """100 in all; the same ones count once. What is beyond is a 413, and the call goes on."""
    async with audio_call() as (_, client, witness, sdp):

        async def offer_with(begin: int, count: int) -> int:
            lines = [f"a=candidate:1 1 udp 1 192.0.2.1 {5000 + begin + at} typ host" for at in range(count)]
            body = {"type": "offer", "webrtc_id": "abc", "sdp": sdp + "\r\n".join([*lines, ""])}
            return (await client.post("/webrtc/offer", json=body)).status_code

        assert [await offer_with(0, 50) for _ in range(5)] == [200] * 5
        assert [await offer_with(begin, 30) for begin in (50, 80, 110)] == [200, 413, 413]
        assert await offer_with(0, 50) == 200
        witness.hears.clear()
        await witness.hears.wait()


@ASYNCIO
@pytest.mark.anyio
async def test_a_change_that_fails_halfway_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc has no way back: the call goes on, and a caller that wants to change it is told to make a new call."""
    async with audio_call() as (stream, client, witness, sdp):
        with monkeypatch.context() as patch:
            patch.setattr(RTCPeerConnection, "createAnswer", None)
            with pytest.raises(TypeError):
                await stream.session("abc").renegotiate(sdp)
        with pytest.raises(InvalidOffer, match="an earlier change of this call failed halfway; make a new call"):
            await stream.session("abc").renegotiate(sdp)
        witness.hears.clear()
        await witness.hears.wait()


CAMERA_LATER = """
(async () => {
  const offer = async (peer) => {
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 20));
    const body = JSON.stringify({ type: "offer", webrtc_id: "late", sdp: peer.localDescription.sdp });
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("webrtc/offer", { method: "POST", headers, body });
    if (!response.ok) throw new Error(await response.text());
    await peer.setRemoteDescription(await response.json());
  };
  const connected = async (peer) => {
    while (peer.connectionState !== "connected") await new Promise((done) => setTimeout(done, 20));
  };
  const peer = (window.peer = new RTCPeerConnection());
  const sound = await navigator.mediaDevices.getUserMedia({ audio: true });
  sound.getTracks().forEach((track) => peer.addTrack(track, sound));
  await offer(peer);
  await connected(peer);
  const camera = await navigator.mediaDevices.getUserMedia({ video: true });
  camera.getTracks().forEach((track) => peer.addTrack(track, camera));
  await offer(peer);
  return peer.connectionState;
})()
"""
RESTARTED = """
(async () => {
  const offer = async (peer, options) => {
    await peer.setLocalDescription(await peer.createOffer(options));
    while (peer.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 20));
    const body = JSON.stringify({ type: "offer", webrtc_id: "restarts", sdp: peer.localDescription.sdp });
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("webrtc/offer", { method: "POST", headers, body });
    if (!response.ok) throw new Error(await response.text());
    await peer.setRemoteDescription(await response.json());
  };
  const until = async (condition) => {
    while (!(await condition())) await new Promise((done) => setTimeout(done, 20));
  };
  const figures = async (peer) => {
    const found = { packets: 0, user: "" };
    (await peer.getStats()).forEach((report) => {
      if (report.type === "inbound-rtp") found.packets = report.packetsReceived;
      if (report.type === "transport") found.user = report.iceLocalUsernameFragment;
      if (report.type === "transport") found.state = report.iceState;
    });
    return found;
  };
  const peer = (window.peer = new RTCPeerConnection());
  const channel = peer.createDataChannel("text");
  const sound = await navigator.mediaDevices.getUserMedia({ audio: true });
  sound.getTracks().forEach((track) => peer.addTrack(track, sound));
  await offer(peer);
  await until(() => peer.connectionState === "connected" && channel.readyState === "open");
  const before = await figures(peer);
  for (let again = 0; again < 2; again += 1) {
    await offer(peer, { iceRestart: true });
    const now = await figures(peer);
    await until(async () => (await figures(peer)).packets > now.packets + 50);
  }
  const after = await figures(peer);
  return [peer.connectionState, channel.readyState, before.user !== after.user, after.state];
})()
"""


@pytest.mark.skipif(chromium.find() is None, reason="chromium is not installed")
def test_a_browser_restarts_ice(tmp_path: Path) -> None:
    """Chromium restarts ICE twice in one call: it stays connected, sound and messages go on in the new session."""
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with serving(tmp_path, "serve", "page_app:app") as url, chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(f"{url}/mirror/")
        state, channel, changed, ice = page.evaluate(RESTARTED)
        assert (state, channel, changed) == ("connected", "open", True)
        assert ice in {"connected", "completed"}


DECODED = """
(async () => {
  const found = { audio: 0, video: 0 };
  (await window.peer.getStats()).forEach((report) => {
    if (report.type === "inbound-rtp") found[report.kind] = report.framesDecoded ?? report.packetsReceived;
  });
  return found.audio > 20 && found.video > 5;
})()
"""


@pytest.mark.skipif(chromium.find() is None, reason="chromium is not installed")
def test_a_browser_adds_its_camera(tmp_path: Path) -> None:
    """Chromium calls with its microphone, adds the camera by a second offer, and sees itself in the mirror."""
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with serving(tmp_path, "serve", "page_app:app") as url, chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(f"{url}/mirror/")
        assert page.evaluate(CAMERA_LATER) == "connected"
        page.wait_for(DECODED)
