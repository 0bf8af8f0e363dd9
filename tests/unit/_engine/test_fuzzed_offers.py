"""Real offers, spoilt in every way: each is served or refused with a 4xx and words, and nothing of it is left."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.from_thread
import httpx2
import pytest
from chromium_offer import CHROMIUM
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcflow import AsyncAudioVideoStreamHandler, Stream, Timeouts, WebRTCConfig, memory_pair, open_engine
from rtcflow.abc import MediaOffer
from rtcflow.serving.session import CallRequest

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.1)


class Quiet(AsyncAudioVideoStreamHandler):
    def copy(self) -> Quiet:
        return Quiet()

    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> None:
        await anyio.sleep_forever()

    async def video_receive(self, frame: Any) -> None:
        pass

    async def video_emit(self) -> None:
        await anyio.sleep_forever()


class Site:
    """A running stream that is asked from another thread, with one call that must live through everything."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        self.portal = portal
        self.stream = Stream(Quiet(), modality="audio-video", concurrency_limit=None, timeouts=QUICK, webrtc=LOCAL)
        self.stop = anyio.Event()
        self.offer = ""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        transport = httpx2.ASGITransport(self.stream.asgi)
        async with (
            self.stream.running(),
            open_engine(LOCAL) as engine,
            httpx2.AsyncClient(transport=transport, base_url="http://site") as self.client,
            memory_pair(MediaOffer(receive_video=True, send_video=True)) as (ours, _),
            self.stream.calls.admit(CallRequest(), "memory", "bystander") as session,
        ):
            self.stream.calls.start(session, ours)
            await self.stream.open_engine()
            self.offer = (await engine.offer(video=True)).offer_sdp
            self.first = (await engine.offer()).offer_sdp
            task_status.started()
            await self.stop.wait()

    def post(self, route: str, body: bytes, kind: str) -> httpx2.Response:
        """What the server answers, and afterwards the bystander is all there is."""
        return self.portal.call(self._post, route, body, kind)

    def further(self, sdps: list[str]) -> list[httpx2.Response]:
        """What the server answers to offers of one call, one after the other."""
        return self.portal.call(self._further, sdps)

    async def _further(self, sdps: list[str]) -> list[httpx2.Response]:
        responses = []
        with anyio.fail_after(120):
            for sdp in sdps:
                body = {"type": "offer", "webrtc_id": "further", "sdp": sdp}
                responses.append(await self.client.post("/webrtc/offer", json=body))
                assert self.stream.session("further").end is None
            self.stream.close("further")
            while len(self.stream.calls) > 1:
                await anyio.sleep(0.002)
        return responses

    async def _post(self, route: str, body: bytes, kind: str) -> httpx2.Response:
        with anyio.fail_after(120):
            response = await self.client.post(route, content=body, headers={"Content-Type": kind})
            if response.is_success:
                for name in set(self.stream.calls) - {"bystander"}:
                    self.stream.close(name)
                while len(self.stream.calls) > 1:
                    await anyio.sleep(0.002)
            assert len(self.stream.calls) == 1
            assert self.stream.session("bystander").end is None
        return response


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with anyio.from_thread.start_blocking_portal("asyncio") as portal:
        site: Site = portal.call(_make, portal)
        running: Future[Any]
        running, _ = portal.start_task(site.run)
        yield site
        portal.call(site.stop.set)
        running.result()


async def _make(portal: anyio.from_thread.BlockingPortal) -> Site:
    return Site(portal)


# -- spoiling

WORDS = st.sampled_from(
    ["", "0", "-1", "65536", "4294967296", "9" * 40, "ü", "\0", " ", "*", "x" * 300, "\ud7ff", "actpass", "127.0.0.1"]
)
Spoil = Callable[[list[str]], list[str]]


@st.composite
def spoils(draw: st.DrawFn, count: int) -> list[str]:
    """One change to `count` lines, as instructions: what, where, with what."""
    what = draw(st.sampled_from(["drop", "double", "swap", "cut", "word", "value", "insert", "kind"]))
    return [what, draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1)), draw(WORDS)]


def spoil(lines: list[str], change: list[Any]) -> list[str]:
    """Carry out one change."""
    what, one, other, word = change
    lines = list(lines)
    if not lines:
        return lines
    one, other = one % len(lines), other % len(lines)
    match what:
        case "drop":
            del lines[one]
        case "double":
            lines.insert(other, lines[one])
        case "swap":
            lines[one], lines[other] = lines[other], lines[one]
        case "cut":
            del lines[one:]
        case "word":
            words = lines[one].split(" ")
            words[other % len(words)] = word
            lines[one] = " ".join(words)
        case "value":
            lines[one] = lines[one].partition(":")[0] + ":" + word
        case "insert":
            lines.insert(one, word)
        case "kind":
            lines[one] = chr(97 + other % 26) + lines[one][1:]
    return lines


@pytest.mark.parametrize("source", ["ours", "chromium"])
@pytest.mark.parametrize("route", ["offer", "whip", "whep"])
def test_a_spoilt_offer_is_served_or_refused(
    site: Site, caplog: pytest.LogCaptureFixture, route: str, source: str
) -> None:
    """No mutation is a 5xx, takes a slot that it keeps, is logged as an error of ours, or disturbs a call."""
    lines = (site.offer if source == "ours" else CHROMIUM).splitlines()
    seen: set[int] = set()

    @settings(max_examples=60 if settings().max_examples <= 100 else settings().max_examples)
    @given(st.lists(spoils(len(lines)), min_size=1, max_size=4))
    def check(changes: list[list[Any]]) -> None:
        changed = lines
        for change in changes:
            changed = spoil(changed, change)
        sdp = "\r\n".join(changed) + "\r\n"
        if route == "offer":
            body = json.dumps({"type": "offer", "webrtc_id": "fuzzed", "sdp": sdp}).encode()
            response = site.post("/webrtc/offer", body, "application/json")
        else:
            response = site.post(f"/{route}", sdp.encode(), "application/sdp")
        seen.add(response.status_code)
        if response.status_code >= 300:
            assert 400 <= response.status_code < 500, response.text
            told = response.json()
            assert len(told["meta"]["message"] if route == "offer" else told["detail"]) > 10

    with caplog.at_level(logging.ERROR):
        check()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(seen) > 1 or route != "offer"


def with_video(site: Site) -> str:
    """The further offer by which the call of `Site.first` gets video, too."""
    session, *sections = re.split(r"^(?=m=)", site.first, flags=re.MULTILINE)
    video = next(part for part in re.split(r"^(?=m=)", site.offer, flags=re.MULTILINE) if part.startswith("m=video"))
    for name in ("ice-ufrag", "ice-pwd", "fingerprint"):
        ours = re.search(rf"^a={name}:.*$", sections[0], re.MULTILINE)
        assert ours is not None
        video = re.sub(rf"^a={name}:.*$", ours[0], video, flags=re.MULTILINE)
    video = re.sub(r"^a=mid:.*$", "a=mid:late\r", video, flags=re.MULTILINE)
    video = re.sub(r"^a=(candidate|end-of).*\n", "", video, flags=re.MULTILINE)
    session = re.sub(r"^(a=group:BUNDLE [^\r]*)", r"\1 late", session, flags=re.MULTILINE)
    return "".join([session, *sections, video])


def test_a_spoilt_further_offer_harms_no_call(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No mutation of a re-offer is a 5xx or an error of ours; the call goes on, and takes the next sound one."""
    sound = with_video(site)
    lines = sound.splitlines()
    seen: set[int] = set()

    @settings(max_examples=max(100, settings().max_examples))
    @given(st.lists(spoils(len(lines)), min_size=1, max_size=4))
    def check(changes: list[list[Any]]) -> None:
        changed = lines
        for change in changes:
            changed = spoil(changed, change)
        first, spoilt, further = site.further([site.first, "\r\n".join(changed) + "\r\n", sound])
        assert first.status_code == 200
        seen.add(spoilt.status_code)
        if spoilt.status_code != 200:
            assert 400 <= spoilt.status_code < 500, spoilt.text
            assert len(spoilt.json()["meta"]["message"]) > 10
            assert further.status_code == 200, (spoilt.text, further.text)
        assert further.status_code < 500

    with caplog.at_level(logging.ERROR):
        check()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {200, 422} <= seen


AUDIO, DATA = r"(m=audio.*?)(?=m=|\Z)", r"(m=application.*?)(?=m=|\Z)"


@pytest.mark.parametrize(
    ("pattern", "instead", "status", "words"),
    [
        (r"m=audio", "m=video", 422, "has video as media section 0 (audio); add new sections at the end"),
        (AUDIO + DATA, r"\2\1", 422, "has application as media section 0 (audio)"),
        (
            r"(mid:|BUNDLE )0",
            r"\1zero",
            422,
            'names media section 0 (audio) "zero"; its "a=mid" was "0"',
        ),
        (DATA, "", 422, "bundles 1, which no media section is called"),
        (r"(a=fingerprint:sha-256 )..", r"\1ZZ", 422, "another certificate"),
        (r"a=setup:actpass", "a=setup:active", 422, "another DTLS role"),
        (r"(opus/48000|rtpmap:96 )", r"x\1", 422, "has other codecs for media section 0"),
        (r"(VP8|H264)/", r"x\1/", 422, "media section 2 (video) of the further offer has no codec"),
        (r"(BUNDLE) (\S+) ", r"\1 late \2 ", 422, 'transport of "late", which is new'),
        (r"a=group:BUNDLE[^\r]*", "a=group:BUNDLE 0 late", 422, "no longer bundles 1"),
        (r"a=group:BUNDLE[^\r]*\r\n", "", 422, 'no longer bundles by the transport of "0"'),
        (r"a=ice-ufrag:", "a=ice-ufrag:new", 409, "not of its ICE session"),
    ],
)
def test_what_does_not_fit_is_named(site: Site, pattern: str, instead: str, status: int, words: str) -> None:
    """A re-offer that changes what was agreed on is refused as a whole, in words; a sound one after it is served."""
    sound = with_video(site)
    spoilt = re.sub(pattern, instead, sound, flags=re.MULTILINE | re.DOTALL)
    assert spoilt != sound
    first, refused, further = site.further([site.first, spoilt, sound])
    assert (first.status_code, refused.status_code) == (200, status), refused.text
    assert words in refused.json()["meta"]["message"]
    assert further.status_code == 200, further.text
    assert "m=video" in further.json()["sdp"]


def test_a_call_without_bundle_gets_more(site: Site) -> None:
    """Its new section shares the transport of the one it has; what is live is not moved, and no socket is opened."""
    bundle = re.compile(r"^a=group:BUNDLE[^\r]*\r\n", re.MULTILINE)
    sound = with_video(site)
    alone, unbundled = bundle.sub("", site.first), bundle.sub("", sound)
    first, own, moved, shared = site.further([alone, unbundled, sound, re.sub(r"BUNDLE 0 1", "BUNDLE 0", sound)])
    assert first.status_code == 200
    assert (own.status_code, moved.status_code) == (422, 422)
    assert "gives media section 2 (video) a transport of its own; put it into a=group:BUNDLE" in own.text
    assert "bundles 1, which has a transport of its own" in moved.text
    assert shared.status_code == 200, shared.text
    ports = [
        set(re.findall(r"^a=candidate:(?:\S+ ){5}(\d+)", it.json()["sdp"], re.MULTILINE)) for it in (first, shared)
    ]
    assert ports[0] == ports[1]


def test_channels_share_one_data_section(site: Site) -> None:
    """Two are refused, since an answer could not name both."""
    data = re.search(r"m=application.*", site.first, re.DOTALL)
    assert data is not None
    two = site.first + data[0].replace("a=mid:1", "a=mid:2")
    body = json.dumps({"type": "offer", "webrtc_id": "x", "sdp": two}).encode()
    response = site.post("/webrtc/offer", body, "application/json")
    assert response.status_code == 422
    assert "several data sections" in response.json()["meta"]["message"]


@pytest.mark.parametrize("source", ["ours", "chromium"])
def test_the_offers_are_sound(site: Site, source: str) -> None:
    """Before they are spoilt they are served."""
    sdp = site.offer if source == "ours" else CHROMIUM
    body = json.dumps({"type": "offer", "webrtc_id": "sound", "sdp": sdp}).encode()
    assert site.post("/webrtc/offer", body, "application/json").status_code == 200


@pytest.mark.parametrize("session", ["sendrecv", "sendonly"])
def test_a_direction_may_be_left_out(site: Site, session: str) -> None:
    """A section without one has the session's, or is "sendrecv" (RFC 8866 section 6.7): it is answered to fit."""
    sdp = site.offer.replace("a=sendrecv\r\n", "")
    if session != "sendrecv":
        sdp = sdp.replace("m=audio", f"a={session}\r\nm=audio", 1)
    body = json.dumps({"type": "offer", "webrtc_id": "sound", "sdp": sdp}).encode()
    response = site.post("/webrtc/offer", body, "application/json")
    answered = {"sendrecv": "sendrecv", "sendonly": "recvonly"}[session]
    assert response.json()["sdp"].count(f"a={answered}") == 2


def test_a_bundle_of_strangers_is_refused(site: Site) -> None:
    """A section that is bundled and not there is named."""
    body = json.dumps({"type": "offer", "webrtc_id": "x", "sdp": site.offer.replace("BUNDLE 0", "BUNDLE 7 0")})
    response = site.post("/webrtc/offer", body.encode(), "application/json")
    assert response.status_code == 422
    assert "bundles 7, which no media section is called" in response.json()["meta"]["message"]


TEN_MEGABYTES = b"v=0\r\n" + b"a=x\r\n" * 2_000_000


@pytest.mark.parametrize(
    ("route", "kind"),
    [
        ("/webrtc/offer", "application/json"),
        ("/webrtc/input", "application/json"),
        ("/whip", "application/sdp"),
        ("/whep", "application/sdp"),
    ],
)
def test_bodies_of_ten_megabytes_are_refused(site: Site, route: str, kind: str) -> None:
    """A 413 with words, on every route that takes a body."""
    assert site.post(route, TEN_MEGABYTES, kind).status_code == 413


def test_an_offer_of_a_thousand_candidates_is_refused(site: Site) -> None:
    """The hundred of RFC 8445 are enough: a 4xx that says so."""
    more = "".join(f"a=candidate:1 1 udp 1 10.0.{n // 250}.{n % 250} 9 typ host\r\n" for n in range(1000))
    response = site.post("/whip", _one_way(site.offer).encode() + more.encode(), "application/sdp")
    assert response.status_code in {413, 422}
    assert "candidates" in response.text or "bytes" in response.text


def _one_way(sdp: str) -> str:
    return sdp.replace("a=sendrecv", "a=sendonly")
