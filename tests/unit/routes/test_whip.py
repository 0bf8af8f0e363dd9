"""WHIP (RFC 9725) and WHEP: each step and each misuse over HTTP, with real media in both directions."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager

import anyio
import httpx2
import numpy as np
import pytest
from aiortc import RTCSessionDescription
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from rtcflow._core.bridge import Event
from rtcflow._engine.seam import restart, seam
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import InvalidOffer, NegotiationError, NotAuthorized
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncAudioVideoStreamHandler, AsyncStreamHandler
from rtcflow.protocol.signatures import twilio_signature
from rtcflow.protocol.whip import Direction, Fragment, etag_matches, link_headers, read_fragment, read_offer
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


class Recorder(AsyncStreamHandler):
    """Says a tone, and tells when it has heard one."""

    def __init__(self, heard=None):
        super().__init__(input_sample_rate=48000, output_sample_rate=48000)
        self.heard = heard or Event()

    def copy(self):
        return Recorder(self.heard)

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 1000:
            self.heard.set()

    async def emit(self):
        await anyio.sleep(0.01)
        return 48000, tone()


class Film(AsyncAudioVideoStreamHandler):
    def copy(self):
        return Film()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    async def video_receive(self, frame):
        pass

    async def video_emit(self):
        await anyio.sleep_forever()


def tone():
    return (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]


def make(handler=None, **options):
    return Stream(handler or Recorder(), timeouts=QUICK, webrtc=LOCAL, **options)


@asynccontextmanager
async def site(stream):
    """A running stream's application as a client sees it; afterwards no slot is taken."""
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client,
        ):
            yield client
    assert len(stream.calls) == 0


@asynccontextmanager
async def publishing(stream, **options):
    """A WHIP call: yields the client, its end of the call, and the response to its POST."""
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer(receive=False, messages=False, **options)
        response = await client.post("/whip", content=call.offer_sdp, headers=SDP)
        assert response.status_code == 201, response.text
        yield client, call, response


def directions(sdp):
    return re.findall(r"^a=(sendrecv|sendonly|recvonly|inactive)\r?$", sdp, re.MULTILINE)


# -- media


@pytest.mark.anyio
async def test_whip_brings_media_to_the_handler():
    """POST of an offer gives 201, a recvonly answer, Location and ETag; what is sent reaches the handler."""
    stream = make()
    async with publishing(stream) as (client, call, response):
        assert response.headers["content-type"] == "application/sdp"
        assert re.fullmatch(r"/whip/[A-Za-z0-9_-]{24}", response.headers["location"])
        assert re.fullmatch(r'"[^"]+"', response.headers["etag"])
        assert response.headers["accept-patch"] == FRAGMENT["Content-Type"]
        assert directions(response.text) == ["recvonly"]
        assert "a=candidate" in response.text
        await call.accept_answer(response.text)
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        (session,) = stream.calls.values()
        assert session.connection.context.custom == {"signalling": "whip"}
        while not stream.handler.heard.is_set():
            call.audio_out.put(AudioFrame(tone(), 48000, 0))
            await anyio.sleep(0.01)
        assert (await client.delete(response.headers["location"])).status_code == 200
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await call.wait_ended()
            raise anyio.EndOfStream


@pytest.mark.anyio
@pytest.mark.parametrize("kept", [True, False], ids=["prefix-kept", "prefix-taken-away"])
@pytest.mark.parametrize("protocol", ["whip", "whep"])
async def test_the_location_has_the_prefix_of_a_proxy(protocol, kept):
    """Under `root_path` the Location of a session is the public one, and a client can end the session with it."""
    stream = make()
    transport = httpx2.ASGITransport(stream.asgi, root_path="/talk")
    prefix = "/talk" if kept else ""
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=transport, base_url="http://site") as client,
            open_engine(LOCAL) as engine,
        ):
            call = await engine.offer(**{"receive" if protocol == "whip" else "send": False}, messages=False)
            response = await client.post(f"{prefix}/{protocol}", content=call.offer_sdp, headers=SDP)
            assert response.status_code == 201, response.text
            location = response.headers["location"]
            assert re.fullmatch(rf"/talk/{protocol}/[A-Za-z0-9_-]{{24}}", location)
            arrives = location if kept else location.removeprefix("/talk")
            assert (await client.delete(arrives)).status_code == 200
            await call.aclose()
    assert len(stream.calls) == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "encoded", "public"),
    [
        ("/früh", "/fr%C3%BCh", ""),
        ("/a b", "/a%20b", "/a b"),
        ("/\u96fb\u8a71", "/%E9%9B%BB%E8%A9%B1", "/%e9%9b%bb%e8%a9%b1"),
        ("/100%", "/100%25", "/100%"),
    ],
)
async def test_the_location_is_a_url_whatever_the_path(path, encoded, public):
    """Other letters are percent-encoded, in the Location of a session and in the URL that a carrier is told.

    A path in `public_url` that the application is mounted at comes once, however it is spelled.
    """
    telephone = TelephoneConfig(secrets={"twilio": "hush"}, public_url=f"https://site{public}")
    stream, app = make(telephone=telephone), Starlette()
    stream.mount(app, path)
    transport = httpx2.ASGITransport(app)
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=transport, base_url="https://site") as client,
            open_engine(LOCAL) as engine,
        ):
            call = await engine.offer(receive=False, messages=False)
            response = await client.post(f"{encoded}/whip", content=call.offer_sdp, headers=SDP)
            assert response.status_code == 201, response.text
            assert response.headers["location"].startswith(f"{encoded}/whip/")
            assert (await client.delete(response.headers["location"])).status_code == 200
            await call.aclose()
            url = f"{encoded}/telephone/incoming/twilio"
            signature = {"X-Twilio-Signature": twilio_signature("hush", f"https://site{url}")}
            response = await client.post(url, headers=signature)
            assert response.status_code == 200, response.text
            assert f'url="wss://site{encoded}/telephone/handler/twilio"' in response.text


@pytest.mark.anyio
async def test_whep_fetches_what_the_handler_makes():
    """POST of a recvonly offer gives a sendonly answer, and what the handler emits is heard."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer(send=False, messages=False)
        response = await client.post("/whep", content=call.offer_sdp, headers=SDP)
        assert response.status_code == 201
        assert directions(response.text) == ["sendonly"]
        await call.accept_answer(response.text)
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        while np.abs((await call.audio_in.take()).samples).max() < 1000:
            pass
        assert (await client.delete(response.headers["location"])).status_code == 200


@pytest.mark.anyio
async def test_two_way_offers_become_one_way():
    """A sendrecv offer is answered recvonly by WHIP and sendonly by WHEP."""
    stream = make(Film(), modality="audio-video", concurrency_limit=2)
    async with site(stream) as client, open_engine(LOCAL) as engine:
        for route, expected in (("/whip", "recvonly"), ("/whep", "sendonly")):
            call = await engine.offer(video=True)
            response = await client.post(route, content=call.offer_sdp, headers=SDP)
            assert directions(response.text)[:2] == [expected] * 2


# -- trickle


@pytest.mark.anyio
async def test_candidates_may_come_later():
    """An offer without candidates connects by what one PATCH brings, answered by 204 without an ETag."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer(receive=False, messages=False)
        late = re.findall(r"^a=(?:candidate.*|end-of-candidates)\r?\n", call.offer_sdp, re.MULTILINE)
        assert len(late) >= 2
        sdp = re.sub(r"^a=(candidate.*|end-of-candidates)\r?\n", "", call.offer_sdp, flags=re.MULTILINE)
        response = await client.post("/whip", content=sdp, headers=SDP)
        # Without the server's addresses the client's own checks cannot reach it, and show it where the client is.
        await call.accept_answer(
            re.sub(r"^a=(candidate.*|end-of-candidates)\r?\n", "", response.text, flags=re.MULTILINE)
        )
        with anyio.move_on_after(0.5):
            await call.wait_connected()
            pytest.fail("neither knew where the other was")
        ufrag, pwd = (re.search(rf"^a={name}:\S+", sdp, re.MULTILINE)[0] for name in ("ice-ufrag", "ice-pwd"))
        unknown = (
            "a=candidate:9 1 carrier-pigeon 1 192.0.2.1 9 typ host\r\na=candidate:8 1 udp 1 no.such.host 9 typ host\r\n"
        )
        body = f"{ufrag}\r\n{pwd}\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n{unknown}{''.join(late)}"
        patched = await client.patch(
            response.headers["location"], content=body, headers={**FRAGMENT, "If-Match": response.headers["etag"]}
        )
        assert (patched.status_code, patched.content) == (204, b"")
        assert "etag" not in patched.headers
        await call.wait_connected()
        again = await client.patch(  # after the end, and once more: passed over
            response.headers["location"], content=body, headers={**FRAGMENT, "If-Match": response.headers["etag"]}
        )
        assert again.status_code == 204


@pytest.mark.anyio
async def test_conditions_of_patch():
    """No If-Match is 428, a wrong one 412, an ICE restart too early 422, garbage 4xx; the call lives on."""
    stream = make()
    async with publishing(stream) as (client, call, response):
        url, etag = response.headers["location"], response.headers["etag"]
        ufrag = re.search(r"^a=ice-ufrag:\S+", call.offer_sdp, re.MULTILINE)[0]
        other = "a=ice-ufrag:other\r\na=ice-pwd:0123456789012345678901"
        bad = f"{ufrag}\r\na=candidate:x"
        for body, headers, status in (
            (ufrag, {}, 428),
            (ufrag, {"If-Match": '"wrong"'}, 412),
            (ufrag, {"If-Match": etag[1:-1]}, 412),
            (ufrag, {"If-Match": f'"wrong", {etag}'}, 204),
            (other, {"If-Match": etag}, 422),
            (other, {"If-Match": '"*"'}, 422),
            (other, {"If-Match": "*"}, 422),
            (bad, {"If-Match": etag}, 422),
            ("hello", {"If-Match": etag}, 400),
            (b"\xff", {"If-Match": etag}, 400),
            (ufrag, {"If-Match": etag, "Content-Type": "application/sdp"}, 415),
            ("a=x\r\n" * 20_000, {"If-Match": etag}, 413),
            (ufrag, {"If-Match": etag}, 204),
        ):
            patched = await client.patch(url, content=body, headers={**FRAGMENT, **headers})
            assert patched.status_code == status, (body[:40], headers)
            if status >= 400:
                assert patched.headers["content-type"] == "application/problem+json"
                assert patched.json()["status"] == status
                assert patched.json()["detail"]
            takes = FRAGMENT["Content-Type"] if status == 415 else None
            assert patched.headers.get("accept-patch") == takes
        (session,) = stream.calls.values()
        assert session.end is None
        await call.aclose()


# -- ICE restarts


async def connect(engine, client, route, stream):
    """A connected call over `route`: the client's end, and the response to its POST."""
    call = await engine.offer(receive=route == "/whep", send=route == "/whip", messages=False)
    response = await client.post(route, content=call.offer_sdp, headers=SDP)
    await call.accept_answer(response.text)
    call.start(AudioFormat(48000), AudioFormat(48000))
    await call.wait_connected()
    (session,) = stream.calls.values()
    await session.connection.transport.wait_connected()
    return call, response


async def begin_anew(call):
    """New ICE credentials for the client's end, as `restartIce()` makes them; returns the whole new offer."""
    connection = call._peer._connection
    (transport,) = seam.transports(connection)
    ice = transport.transport._connection
    restart.begin(transport, ice.remote_username, ice.remote_password)
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


async def take(call, answer, fragment):
    """What a client does with the fragment that it gets: it puts that into the answer which it has. Then it checks."""
    connection = call._peer._connection
    (transport,) = seam.transports(connection)
    ice = transport.transport._connection
    ice.remote_username, ice.remote_password = (line(fragment, name) for name in ("ice-ufrag", "ice-pwd"))
    for name in ("ice-ufrag", "ice-pwd"):
        answer = re.sub(rf"a={name}:\S+", f"a={name}:{line(fragment, name)}", answer)
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return await restart.check(transport, 20)


def line(sdp, name):
    return re.search(rf"^a={name}:(\S+)", sdp, re.MULTILINE)[1]


@pytest.mark.anyio
@pytest.mark.parametrize("route", ["/whip", "/whep"])
async def test_a_patch_restarts_ice(route):
    """New credentials by PATCH get new ones of the server and a new ETag; media goes on, and the old ETag is over."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call, response = await connect(engine, client, route, stream)
        url, etag = response.headers["location"], response.headers["etag"]
        seen = {line(response.text, "ice-ufrag")}
        for if_match in ("*", None):  # RFC 9725 wants the first; the present ETag is as clear
            offer = await call._thread.call(begin_anew, call)
            wanted = ("a=ice-ufrag:", "a=ice-pwd:", "a=candidate:", "a=end-of-candidates", "a=mid:", "m=")
            body = "\r\n".join(line for line in offer.splitlines() if line.startswith(wanted))
            headers = {**FRAGMENT, "If-Match": if_match or etag}
            patched = await client.patch(url, content=body, headers=headers)
            assert patched.status_code == 200, patched.text
            assert patched.headers["content-type"] == "application/trickle-ice-sdpfrag"
            again = await client.patch(url, content="", headers={**FRAGMENT, "If-Match": etag})
            assert again.status_code == 412
            etag = patched.headers["etag"]
            seen.add(line(patched.text, "ice-ufrag"))
            assert "a=candidate:" in patched.text
            assert await call._thread.call(take, call, response.text, patched.text)
        assert len(seen) == 3
        assert (await client.patch(url, content="", headers={**FRAGMENT, "If-Match": etag})).status_code == 204
        stream.handler.heard = Event()
        while not stream.handler.heard.is_set() and route == "/whip":
            (session,) = stream.calls.values()
            session.handler.heard = stream.handler.heard
            call.audio_out.put(AudioFrame(tone(), 48000, 0))
            await anyio.sleep(0.01)
        while route == "/whep" and np.abs((await call.audio_in.take()).samples).max() < 1000:
            pass
        assert (await client.delete(url)).status_code == 200


@pytest.mark.anyio
async def test_restarts_count_as_offers():
    """Beyond `offer_rate` they are a 429. Candidates are not counted."""
    stream = make(offer_rate=0.2)
    transport = httpx2.ASGITransport(stream.asgi, client=("192.0.2.1", 4711))
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=transport, base_url="http://site") as client,
            open_engine(LOCAL) as engine,
        ):
            call = await engine.offer(receive=False, messages=False)
            response = await client.post("/whip", content=call.offer_sdp, headers=SDP)
            url, headers = response.headers["location"], {**FRAGMENT, "If-Match": response.headers["etag"]}
            restart_it = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n"
            statuses = [(await client.patch(url, content=restart_it, headers=headers)).status_code for _ in range(3)]
            assert statuses == [422, 429, 429], "it is not connected yet; and then it asks too often"
            candidate = "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\n"
            assert (await client.patch(url, content=candidate, headers=headers)).status_code == 204
            assert (await client.delete(url)).status_code == 200
            await call.aclose()


@pytest.mark.anyio
async def test_a_restart_that_fails_changes_nothing():
    """Half of the credentials is a 422 that says what is missing; the ICE session and its ETag stay."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call, response = await connect(engine, client, "/whip", stream)
        url, headers = response.headers["location"], {**FRAGMENT, "If-Match": response.headers["etag"]}
        pwd = line(call.offer_sdp, "ice-pwd")
        for body in (
            "a=ice-ufrag:other",
            f"a=ice-ufrag:other\r\na=ice-pwd:{pwd}",
            "a=ice-ufrag:x\r\na=ice-pwd:" + "y" * 300,
        ):
            patched = await client.patch(url, content=body, headers=headers)
            assert patched.status_code == 422, body
            assert "credentials" in patched.text or "a=ice-pwd" in patched.text
        assert (await client.patch(url, content="", headers=headers)).status_code == 204
        assert (await client.delete(url)).status_code == 200


# -- the life of a session


@pytest.mark.anyio
async def test_delete_ends_the_call_once():
    """DELETE is 200 and frees the slot; a second DELETE, and a PATCH after it, are 404. The caller has ended it."""
    ends = []
    stream = make(on_call_end=lambda _, end, __: ends.append(end.cause))
    async with publishing(stream) as (client, _, response):
        url = response.headers["location"]
        assert (await client.get(url)).status_code == 204
        assert (await client.delete(url)).status_code == 200
        assert (await client.delete(url)).status_code == 404
        headers = {**FRAGMENT, "If-Match": response.headers["etag"]}
        assert (await client.patch(url, content="a=end-of-candidates", headers=headers)).status_code == 404
        while len(stream.calls):
            await anyio.sleep(0.005)
    assert ends == [EndCause.PEER_LEFT]


@pytest.mark.anyio
async def test_only_the_sessions_own_url_is_known():
    """A session's id under the other endpoint, and a call of another route under either, are 404s."""
    stream = make(concurrency_limit=2)
    async with publishing(stream) as (client, _, response), memory_pair() as (ours, _):
        async with stream.calls.admit(CallRequest(), "memory", "abc") as session:
            stream.calls.start(session, ours)
        webrtc_id = response.headers["location"].rpartition("/")[2]
        for url in (f"/whep/{webrtc_id}", "/whip/abc", "/whip/x", f"/whip/{webrtc_id[:-1]}"):
            assert (await client.delete(url)).status_code == 404
        assert len(stream.calls) == 2


# -- looking only


@pytest.mark.anyio
async def test_endpoints_tell_what_they_take():
    """OPTIONS names Accept-Post, HEAD of WHEP is application/sdp, GET has no content, other methods are 405."""
    stream = make(rtc_configuration={"iceServers": [{"urls": "stun:192.0.2.1"}]})
    async with site(stream) as client:
        for route in ("/whip", "/whep"):
            options = await client.options(route)
            assert (options.status_code, options.headers["accept-post"]) == (200, "application/sdp")
            assert "link" not in options.headers
            assert "POST" in options.headers["allow"]
            got = await client.get(route)
            assert (got.status_code, got.content) == (204, b"")
            assert (await client.put(route)).status_code == 405
        head = await client.head("/whep")
        assert (head.status_code, head.headers["content-type"]) == (200, "application/sdp")
        assert (await client.post("/whip/x")).status_code == 405


@pytest.mark.anyio
async def test_pages_elsewhere_may_use_it_if_allowed():
    """For an allowed origin the preflight passes, and the page can read Location, ETag and Link."""
    stream = make(allowed_origins=["https://app.example"])
    async with site(stream) as client:
        asks = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "if-match",
        }
        preflight = await client.options("/whip/x", headers=asks)
        assert preflight.status_code == 200
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        response = await client.post("/whip", headers={"Origin": "https://app.example"})
        exposed = response.headers["access-control-expose-headers"]
        assert {"Location", "ETag", "Link"} <= {name.strip() for name in exposed.split(",")}
        assert (await client.post("/whip", headers={"Origin": "https://evil.example"})).status_code == 403


@pytest.mark.anyio
async def test_ice_servers_are_links_on_the_201():
    """Each URL of rtc_configuration is one Link header, with its credentials."""
    servers = [
        {"urls": ["turn:t.example?transport=udp"], "username": "u", "credential": 'p"'},
        {"urls": "stun:s.example"},
    ]
    async with publishing(make(rtc_configuration={"iceServers": servers})) as (_, _, response):
        assert response.headers.get_list("link") == [
            '<turn:t.example?transport=udp>; rel="ice-server"; username="u"; credential="p\\""; '
            'credential-type="password"',
            '<stun:s.example>; rel="ice-server"',
        ]
    assert link_headers({}) == ([], [])


@pytest.mark.anyio
@pytest.mark.parametrize("spoilt", ["line\r\nX-Evil: 1", "nul\0", "grün", "\x7f", "\u2028"])
@pytest.mark.parametrize("where", ["username", "credential", "urls"])
async def test_an_ice_server_that_no_header_can_carry_is_left_out(caplog, where, spoilt):
    """The session is served, the client told of the other servers; the log says which was left out, and no secret."""
    odd = {"urls": "turn:t.example", "username": "u", "credential": "SECRET"} | {where: f"turn:{spoilt}"}
    servers = [odd, {"urls": "stun:s.example"}]
    async with publishing(make(rtc_configuration={"iceServers": servers})) as (_, _, response):
        assert response.headers.get_list("link") == ['<stun:s.example>; rel="ice-server"']
        assert "x-evil" not in response.headers
    (record,) = [record for record in caplog.records if "not told of the ICE server" in record.getMessage()]
    assert "SECRET" not in record.getMessage()
    assert record.getMessage().isprintable()


@pytest.mark.anyio
@pytest.mark.parametrize("line", ["a=ice-ufrag: abcd", "a=ice-ufrag:ab cd", "a= ice-ufrag:abcd"])
async def test_a_ufrag_with_blanks_is_a_422(line):
    """It is named, and no slot is taken."""
    async with open_engine(LOCAL) as engine:
        offer = (await engine.offer(receive=False, messages=False)).offer_sdp
    stream = make()
    async with site(stream) as client:
        sdp = re.sub(r"a=ice-ufrag:[^\r\n]*", line, offer)
        response = await client.post("/whip", content=sdp, headers=SDP)
    assert response.status_code == 422, response.text
    assert "a=ice-ufrag" in response.json()["detail"]
    assert len(stream.calls) == 0


@given(st.text(), st.text(), st.text(min_size=1))
def test_links_are_headers_whatever_an_ice_server_is_called(username, credential, url):
    """Any text is told by one line of printable ASCII, or not at all."""
    server = {"urls": url, "username": username, "credential": credential}
    links = link_headers({"iceServers": [server]})
    assert len(links.headers) + len(links.left_out) == 1
    assert all(text.isascii() and text.isprintable() for text in (*links.headers, *links.left_out))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("mode", "whip", "whep"), [("send-receive", 204, 204), ("send", 204, 404), ("receive", 404, 204)]
)
async def test_endpoints_fit_the_mode(mode, whip, whep):
    """A stream that only receives has no WHEP endpoint, one that only speaks no WHIP endpoint."""
    async with site(make(mode=mode)) as client:
        assert ((await client.get("/whip")).status_code, (await client.get("/whep")).status_code) == (whip, whep)


# -- who may


@pytest.mark.anyio
async def test_bearer_tokens_are_asked_for_on_every_request():
    """Without a token POST, PATCH and DELETE are 401 with WWW-Authenticate, with a wrong one 403; OPTIONS is free."""
    asked = []

    def authorize(caller):
        asked.append((caller.method, caller.path))
        return "me" if caller.headers.get("authorization") == "Bearer right" else None

    stream = make(authorize=authorize)
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer(receive=False, messages=False)
        right, wrong = {"Authorization": "Bearer right"}, {"Authorization": "Bearer wrong"}
        assert (await client.options("/whip")).status_code == 200
        for headers, status in (({}, 401), (wrong, 403), (right, 201)):
            response = await client.post("/whip", content=call.offer_sdp, headers={**SDP, **headers})
            assert response.status_code == status
            assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        url = response.headers["location"]
        for headers, status in (({}, 401), (wrong, 403), (right, 428)):
            patched = await client.patch(url, headers={**FRAGMENT, **headers})
            assert patched.status_code == status
        for headers, status in (({}, 401), (wrong, 403), (right, 200)):
            assert (await client.delete(url, headers=headers)).status_code == status
    assert asked[-1] == ("DELETE", "/whip")


# -- bad offers


def offer(*media, head="a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 00\r\n"):
    lines = [f"m={kind} 9 UDP/TLS/RTP/SAVPF 111\r\na={direction}\r\n" for kind, direction in media]
    return "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n" + head + "".join(lines)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("route", "body", "status", "words"),
    [
        ("/whip", "", 422, "v=0"),
        ("/whip", b"\xff\xfe", 400, "UTF-8"),
        ("/whip", offer(), 422, "media"),
        ("/whip", offer(("audio", "sendonly"), head=""), 422, "ice-ufrag"),
        ("/whip", offer(("audio", "recvonly")), 422, "sendonly"),
        ("/whip", offer(("audio", "inactive")), 422, "sendonly"),
        ("/whep", offer(("audio", "sendonly")), 422, "recvonly"),
        ("/whip", offer(("audio", "sendonly"), ("audio", "sendonly")), 422, "2 audio"),
        ("/whip", offer(("audio", "sendonly"), ("video", "sendonly")), 422, "video is not served"),
        ("/whip", offer(("audio", "sendonly")) + "a=x\r\n" * 20_000, 413, "bytes"),
    ],
)
async def test_bad_offers_start_nothing(route, body, status, words):
    """Each is refused with its status, as problem+json with words, and takes no slot."""
    stream = make()
    async with site(stream) as client:
        response = await client.post(route, content=body, headers=SDP)
        assert response.status_code == status
        assert words in response.json()["detail"]
        assert len(stream.calls) == 0
        assert "accept-post" not in response.headers
        for kind in ("application/json", "text/plain", ""):
            response = await client.post(route, content=body, headers={"Content-Type": kind})
            assert (response.status_code, response.headers["accept-post"]) == (415, "application/sdp")


@pytest.mark.anyio
async def test_a_stream_of_video_refuses_audio():
    """As a stream of audio refuses video: a publisher learns that nobody hears it."""
    stream = Stream(lambda frame: frame, modality="video", timeouts=QUICK, webrtc=LOCAL)
    async with site(stream) as client:
        body = offer(("audio", "sendonly"), ("video", "sendonly"))
        response = await client.post("/whip", content=body, headers=SDP)
        assert (response.status_code, "audio is not served" in response.json()["detail"]) == (422, True)
        assert len(stream.calls) == 0


@pytest.mark.anyio
async def test_a_full_server_says_when_to_come_back():
    """One publisher too many is a 503 with Retry-After; the first is not disturbed."""
    stream = make()
    async with publishing(stream) as (client, call, _):
        response = await client.post("/whip", content=call.offer_sdp, headers=SDP)
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert len(stream.calls) == 1


@pytest.mark.anyio
async def test_a_hooks_own_403_stays_with_credentials_and_secrets_stay_out_of_logs(caplog):
    """What the hook raises is what is answered, and no log line has the session's URL in it."""
    caplog.set_level("DEBUG", logger="rtcflow")

    def authorize(caller):
        if caller.method == "DELETE":
            raise NotAuthorized("never", status=403)
        return True

    stream = make(authorize=authorize)
    async with publishing(stream) as (client, _, response):
        url = response.headers["location"]
        refused = await client.delete(url, headers={"Authorization": "Bearer x"})
        assert (refused.status_code, refused.json()["detail"]) == (403, "never")
        assert (await client.patch(url, content="", headers=FRAGMENT)).status_code == 428
        assert (await client.delete(url, headers={"Origin": "https://evil.example"})).status_code == 403
    assert url.rpartition("/")[2] not in caplog.text


# -- reading, by itself


def test_a_fragment_is_read():
    """Candidates belong to the section they stand in, by its mid or its place."""
    found = read_fragment(
        b"a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
        b"m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=candidate:1 1 UDP 10 192.0.2.1 61764 typ host\r\n"
        b"m=video 9 RTP/AVP 0\r\na=candidate:2 1 udp 9 192.0.2.1 61765 typ host\r\na=end-of-candidates\r\n"
    )
    assert (found.ufrag, found.ended) == ("EsAw", True)
    assert [(c.sdp_mid, c.sdp_mline_index, c.port) for c in found.candidates] == [("0", None, 61764), (None, 1, 61765)]
    assert read_fragment(b"") == Fragment(None, (), ended=False)


def test_a_fragment_of_two_ice_sessions_is_an_error():
    """Which one it speaks of would be a guess."""
    with pytest.raises(InvalidOffer, match="2 ICE sessions"):
        read_fragment(b"a=ice-ufrag:one1\r\na=ice-ufrag:two2")


@given(st.binary(max_size=300) | st.text("am=:candidte- 01.\r\n", max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(body):
    """A fragment or offer of any bytes is read, or is a NegotiationError, and nothing else."""
    for read in (read_fragment, lambda body: read_offer(body, Direction.WHIP)):
        try:
            read(body)
        except NegotiationError as error:
            assert 400 <= error.status < 500


@pytest.mark.parametrize(
    ("if_match", "expected"), [('"a"', True), ("*", True), ('"*"', True), ('"b", "a"', True), ("a", False), ("", False)]
)
def test_etags_are_compared_as_a_list(if_match, expected):
    """If-Match is a list of strong ETags, or a star, which RFC 9725 puts in quotes."""
    assert etag_matches(if_match, '"a"') is expected
