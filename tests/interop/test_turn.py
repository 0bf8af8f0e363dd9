"""TURN, with Debian's coturn: calls that go over the relay, and credentials that it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest
from coturn import SECRET, coturn, needs_coturn

from rtcflow import AudioFormat, AudioFrame, IceServer, Stream, WebRTCConfig, open_engine
from rtcflow.client.doctor import examine
from rtcflow.credentials import get_coturn_credentials
from rtcflow.demo import EchoHandler
from rtcflow.transports.webrtc import ServerTrouble, WebRTCTransport, read_ice_servers

pytestmark = needs_coturn

VOICE = AudioFormat(48000)
TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.int16)[np.newaxis]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a coturn."""
    with coturn(tmp_path_factory.mktemp("coturn")) as port:
        yield port


def relayed(port: int, transport: str = "udp") -> WebRTCConfig:
    """Options that allow the relay only, with credentials made of the shared secret."""
    credentials = get_coturn_credentials(f"turn:127.0.0.1:{port}?transport={transport}", SECRET)
    return WebRTCConfig(ice_servers=read_ice_servers(credentials), relay_only=True)


async def listen(transport: WebRTCTransport) -> np.ndarray:
    """Half a second of what is heard, once there is something."""
    heard: list[np.ndarray] = []
    while len(heard) < 25:
        frame = await transport.audio_in.take()
        if heard or np.abs(frame.samples).max() > 1000:
            heard.append(frame.samples[0])
    return np.concatenate(heard)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.anyio
async def test_a_call_goes_over_the_relay(relay: int, transport: str) -> None:
    """With host candidates forbidden on both sides the pair in use is of two relays, and sound comes through."""
    with anyio.fail_after(120):
        async with open_engine(relayed(relay, transport)) as engine:
            caller = await engine.offer()
            callee = await engine.answer(caller.offer_sdp)
            for sdp in (caller.offer_sdp, callee.answer):
                assert set(re.findall(r"typ (\w+)", sdp)) == {"relay"}
                assert "raddr 0.0.0.0" in sdp
            await caller.accept_answer(callee.answer)
            for side in (caller, callee):
                side.start(VOICE, VOICE)
                await side.wait_connected()
            assert (callee.route.local_type, callee.route.remote_type) == ("relay", "relay")
            (report,) = callee.ice_servers
            assert report.address == callee.route.local_address
            for one, other in ((caller, callee), (callee, caller)):
                one.audio_out.put(AudioFrame(TONE, 48000, 0))
                samples = await listen(other)
                spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
                assert abs(spectrum.argmax() * 48000 / len(samples) - 440) < 5
            await caller.aclose()
            await callee.aclose()


@pytest.mark.parametrize("wrong", ["secret", "time"])
@pytest.mark.anyio
async def test_wrong_credentials_are_told(relay: int, wrong: str) -> None:
    """A wrong secret, or credentials that are over, are "wrong credentials", not "no answer", and at once."""
    url = f"turn:127.0.0.1:{relay}"
    if wrong == "secret":
        given = get_coturn_credentials(url, "another secret")
    else:
        given = get_coturn_credentials(url, SECRET, ttl=-60)
    async with open_engine(WebRTCConfig(ice_servers=read_ice_servers(given), relay_only=True)) as engine:
        offer = await engine.offer()
    (report,) = offer.ice_servers
    assert report.trouble is ServerTrouble.WRONG_CREDENTIALS
    assert report.seconds < 2.9, "silence costs 3 s"
    assert "typ" not in offer.offer_sdp


@pytest.mark.anyio
async def test_a_way_by_tcp_is_found_where_udp_is_dead(relay: int) -> None:
    """Of two URLs of one relay the one that answers is used, though the other is first."""
    with anyio.fail_after(120):
        urls = ["turn:127.0.0.1:9", f"turn:127.0.0.1:{relay}?transport=tcp"]
        (server,) = read_ice_servers(get_coturn_credentials(urls, SECRET))
        config = WebRTCConfig(ice_servers=[server], relay_only=True, gather_timeout=0.5)
        async with open_engine(config) as engine:
            caller = await engine.offer()
            callee = await engine.answer(caller.offer_sdp)
            assert [report.trouble is None for report in caller.ice_servers] == [False, True]
            await caller.accept_answer(callee.answer)
            caller.start(VOICE, VOICE)
            callee.start(VOICE, VOICE)
            await caller.wait_connected()
            assert caller.route.local_type == "relay"


@pytest.mark.anyio
async def test_the_relay_is_also_a_stun_server(relay: int) -> None:
    """Our address as it sees it is our own here, so there is no second candidate; the report is there."""
    config = WebRTCConfig(host_addresses=("127.0.0.1",), ice_servers=[IceServer(f"stun:127.0.0.1:{relay}")])
    async with open_engine(config) as engine:
        offer = await engine.offer()
    (report,) = offer.ice_servers
    assert (report.trouble, report.address[0]) == (None, "127.0.0.1")
    assert set(re.findall(r"typ (\w+)", offer.offer_sdp)) == {"host"}


@pytest.mark.parametrize("by_policy", [False, True])
@pytest.mark.anyio
async def test_the_doctor_tries_the_relay(relay: int, by_policy: bool) -> None:
    """A server that tells its callers credentials is called over the relay alone; with a wrong secret, it says so."""
    with anyio.fail_after(120):
        for secret in (SECRET, "another secret"):
            told = {"iceTransportPolicy": "relay"}
            servers = get_coturn_credentials(f"turn:127.0.0.1:{relay}", secret) | (told if by_policy else {})
            stream = Stream(
                EchoHandler(), rtc_configuration=servers, webrtc=WebRTCConfig(host_addresses=("127.0.0.1",))
            )
            with pytest.MonkeyPatch.context() as patch:
                real, transport = httpx2.AsyncClient, httpx2.ASGITransport(stream.asgi)
                patch.setattr(httpx2, "AsyncClient", partial(_through, real, transport))
                async with stream.running():
                    report = await examine("http://site.example", relay_only=not by_policy)
            if secret == SECRET:
                assert (report.connected, report.problems) == (True, [])
                assert report.route.local_type == "relay"
                assert [found.type for found in report.ours] == ["relay"]
                assert report.notes[-1] == "Media goes over a TURN relay."
                assert ("iceTransportPolicy" in report.notes[0]) is by_policy
            else:
                assert not report.connected
                assert "refused the credentials" in report.problems[0]


def _through(client: Any, transport: httpx2.ASGITransport, **options: Any) -> Any:
    return client(**{**options, "transport": transport})
