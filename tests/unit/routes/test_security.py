"""The edge towards strangers: origins, ids, logs; and the table of threats, whose every row names a test."""

from __future__ import annotations

import logging
import re
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.ends import Timeouts
from rtcflow.exceptions import NotAuthorized
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.protocol.origins import is_allowed, read_allow_list
from rtcflow.serving.session import CallRequest, Session
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

ROOT = Path(__file__).parents[3]
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
LINE = "candidate:1 1 udp 2122260223 127.0.0.1 50000 typ host"


class Quiet(AsyncStreamHandler):
    def copy(self):
        return Quiet()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


@asynccontextmanager
async def site(stream, host="http://site"):
    """A running stream's application as a client sees it."""
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url=host) as client,
        ):
            yield client


def make(**options):
    options.setdefault("telephone", TelephoneConfig())
    return Stream(Quiet(), timeouts=QUICK, webrtc=LOCAL, **options)


# -- the table


def test_each_threat_has_its_test():
    """Every row of the table in docs/security.md names a test that exists."""
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 12
    for row in rows:
        (found,) = re.findall(r"\| `(test_\w+\.py)::(test_\w+)` \|$", row)
        assert f"def {found[1]}(" in next((ROOT / "tests").rglob(found[0])).read_text(), row


# -- origins, decided


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "expected"),
    [
        ("http://site", "site", [], True),
        ("https://site", "site", [], True),
        ("https://site", "site:443", [], True),
        ("http://site:8000", "site:8000", [], True),
        ("HTTP://Site", "sITE", [], True),
        ("http://[::1]:8000", "[::1]:8000", [], True),
        ("http://site:3000", "site:8000", [], False),
        ("http://site:8000", "site", [], False),
        ("https://site.evil", "site", [], False),
        ("https://evil", "site", [], False),
        ("https://evil", None, [], False),
        ("https://site@evil", "site", [], False),
        ("null", "null", [], False),
        ("", "", [], False),
        ("file://", "", [], False),
        ("https://evil/site", "site", [], False),
        ("http://site:x", "site", [], False),
        ("null", "site", ["null"], True),
        ("https://app.example", "site", ["https://app.example"], True),
        ("https://app.example:443", "site", ["https://APP.example"], True),
        ("http://app.example", "site", ["https://app.example"], False),
        ("anything", "site", ["*"], True),
    ],
)
def test_which_origins_are_allowed(origin, host, allowed, expected):
    """A page of the very host and port may call, one that is in the list may, and no other."""
    assert is_allowed(origin, host, read_allow_list(allowed)) is expected


@given(st.text(max_size=40), st.none() | st.text(max_size=40))
def test_any_origin_is_decided(origin, host):
    """Whatever is sent as Origin and Host, the answer is yes or no."""
    assert is_allowed(origin, host, frozenset()) in (True, False)


@pytest.mark.parametrize("wrong", ["app.example", "https://app.example/", "ftp://x", "https://", "https://a?b", ""])
def test_an_allow_list_is_checked_at_once(wrong):
    """What is no origin is an error when the stream is made, and so is a string where a list belongs."""
    with pytest.raises(ValueError, match=r"https://app\.example\.org"):
        make(allowed_origins=[wrong])
    with pytest.raises(TypeError, match="list"):
        make(allowed_origins="https://app.example")


# -- origins, at the door


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "path"), [("POST", "/webrtc/offer"), ("GET", "/webrtc/configuration")])
async def test_pages_of_other_hosts_are_refused(method, path):
    """Another site's Origin is a 403 in FastRTC's form, without CORS headers, on what does and on what tells."""
    stream = make()
    async with site(stream) as client:
        for headers, refused in (
            ({}, False),
            ({"Origin": "http://site"}, False),
            ({"Origin": "https://evil.example"}, True),
            ({"Origin": "null"}, True),
        ):
            response = await client.request(method, path, headers=headers)
            assert (response.status_code == 403) is refused
            if refused:
                assert response.json()["meta"]["error"] == "origin_not_allowed"
                assert "allowed_origins" in response.json()["meta"]["message"]
                assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.anyio
@pytest.mark.parametrize("allowed", ["https://app.example", "*"])
async def test_an_allowed_origin_may_ask_and_read(allowed):
    """For an allowed page the preflight is answered and the response can be read; for others it is not."""
    stream = make(allowed_origins=[allowed])
    async with site(stream) as client:
        asks = {
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        }
        preflight = await client.options("/webrtc/offer", headers=asks)
        assert preflight.status_code == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
        response = await client.get("/webrtc/configuration", headers={"Origin": "https://app.example"})
        for answer in (preflight, response):
            assert answer.headers["access-control-allow-origin"] == allowed
            # Cookies only for pages that are named: with "*" they would be for everybody's pages.
            assert ("access-control-allow-credentials" in answer.headers) is (allowed != "*")
        if allowed != "*":
            stranger = await client.options("/webrtc/offer", headers={**asks, "Origin": "https://evil.example"})
            assert stranger.status_code == 403


async def open_websocket(stream, path, *headers):
    """Plain ASGI: the first thing the application says to the handshake."""
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "ws",
        "query_string": b"",
        "headers": [(b"host", b"site"), *headers],
        "subprotocols": [],
    }
    said = []

    async def send(message):
        said.append(message)

    async def receive():
        if not said:
            return {"type": "websocket.connect"}
        return {"type": "websocket.disconnect", "code": 1006}

    await stream.asgi(scope, receive, send)
    return said[0]["type"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/websocket/offer", "/telephone/handler", "/telephone/handler/twilio"])
async def test_websockets_of_other_pages_are_refused_before_they_open(path):
    """The handshake of another site's page is closed without being accepted, which servers say as 403."""
    stream = make()
    async with site(stream):
        assert await open_websocket(stream, path, (b"origin", b"https://evil.example")) == "websocket.close"
        assert stream.refused["origin_not_allowed"] == 1
        two = [(b"origin", b"http://site"), (b"origin", b"https://evil.example")]
        assert await open_websocket(stream, path, *two) == "websocket.close"
        assert await open_websocket(stream, path, (b"origin", b"http://site")) == "websocket.accept"
        assert await open_websocket(stream, path) == "websocket.accept"


# -- ICE servers


@pytest.mark.anyio
async def test_ice_servers_are_for_callers():
    """The configuration route asks authorize, whose caller says which route it is."""
    servers = {"iceServers": [{"urls": "turn:t.example", "username": "u", "credential": "p"}]}

    def authorize(caller):
        assert caller.path == "/webrtc/configuration"
        return caller.headers.get("authorization")

    stream = make(rtc_configuration=servers, authorize=authorize)
    async with site(stream) as client:
        assert (await client.get("/webrtc/configuration")).status_code == 403
        allowed = await client.get("/webrtc/configuration", headers={"Authorization": "Bearer me"})
        assert allowed.json()["rtcConfiguration"] == servers


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["dict", "function", "coroutine function", "partial", "nothing"])
async def test_ice_servers_may_be_fetched(kind):
    """rtc_configuration may be a dict, or a function, sync or async, that is asked each time."""
    servers = {"iceServers": [{"urls": "stun:s.example"}]}

    def fetch():
        return servers

    async def fetch_async():
        await anyio.sleep(0)
        return servers

    given = {
        "dict": servers,
        "function": fetch,
        "coroutine function": fetch_async,
        "partial": lambda: fetch_async(),
        "nothing": None,
    }[kind]
    async with site(make(rtc_configuration=given)) as client:
        told = (await client.get("/webrtc/configuration")).json()["rtcConfiguration"]
        assert told == (servers if given else {})


@pytest.mark.anyio
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), "\ud83d"])
async def test_what_json_does_not_have_is_refused_when_it_is_given(odd):
    """Python writes NaN as JSON, but no browser reads it: the stream's owner is told, not each page by a 500."""
    for name in ("track_constraints", "rtp_params", "rtc_configuration"):
        with pytest.raises(TypeError, match=name):
            make(**{name: {"frameRate": {"max": odd}}})
    async with site(make(rtc_configuration=lambda: {"x": odd})) as client:
        response = await client.get("/webrtc/configuration")
        assert (response.status_code, response.json()["meta"]["error"]) == (500, "application_failed")


@pytest.mark.anyio
async def test_ice_servers_that_cannot_be_fetched_are_a_500(caplog):
    """A function that raises, or returns what is no dict, is a 500 without its words, which are in the log."""

    def broken():
        raise RuntimeError("secret token")

    for wrong in (broken, lambda: ["stun:s.example"], lambda: {"iceServers": 5}, lambda: {"iceServers": [{}]}):
        async with site(make(rtc_configuration=wrong)) as client:
            response = await client.get("/webrtc/configuration")
            assert response.status_code == 500
            assert "secret" not in response.text
    assert "secret token" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "audio"}, ValueError, "mode='audio'; expected 'send-receive', 'send' or 'receive'"),
        ({"latency": "low"}, ValueError, "latency='low'; expected 'live' or 'buffered'"),
        ({"modality": "send"}, ValueError, "modality='send'; expected 'audio', 'video' or 'audio-video'"),
        ({"modality": ["audio"]}, ValueError, "modality=['audio']; expected 'audio'"),
        ({"concurrency_limit": "ten"}, TypeError, "concurrency_limit='ten'; expected a whole number, or None"),
        ({"concurrency_limit": 1.5}, TypeError, "concurrency_limit=1.5; expected a whole number"),
        ({"concurrency_limit": 0}, ValueError, "concurrency_limit=0 would admit nobody; None means no limit"),
        ({"time_limit": -1}, ValueError, "time_limit=-1 would end each call at once; None means no limit"),
        ({"time_limit": float("nan")}, ValueError, "time_limit=nan would end each call at once"),
        ({"time_limit": "60"}, TypeError, "time_limit='60'; expected a number, or None"),
        ({"thread_limit": -1}, ValueError, "thread_limit=-1 is not a number of threads; None means no limit"),
        ({"thread_limit": True}, TypeError, "thread_limit=True; expected a whole number"),
        ({"authorize": "x"}, TypeError, "authorize is a str; expected a function: def authorize(caller)"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options, error, words):
    """When the stream is made, in words that say what to write."""
    with pytest.raises(error) as caught:
        make(**options)
    assert words in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("principal", "admitted"), [(None, False), (False, False), ("", False), ("ali", True), (0, True), ([], True)]
)
async def test_nobody_is_nobody(principal, admitted):
    """None, False and an empty name refuse; any other value is who it is, a number 0 too."""
    stream = make(authorize=lambda _: principal)
    async with stream.running():
        if admitted:
            assert await stream.calls.authorize(CallRequest()) == principal
        else:
            with pytest.raises(NotAuthorized):
                await stream.calls.authorize(CallRequest())


TURN = {"urls": "turn:t.example", "username": "u", "credential": "SECRET"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"iceServers": TURN}, {"iceServers": [TURN]}),
        ({"iceServers": None}, {"iceServers": []}),
        ({"iceServers": (TURN,), "iceTransportPolicy": "relay"}, {"iceServers": [TURN], "iceTransportPolicy": "relay"}),
        ({}, {}),
    ],
)
async def test_ice_servers_are_a_list_for_browsers(given, told):
    """A server alone, and None, become what RTCPeerConnection takes."""
    async with site(make(rtc_configuration=given)) as client:
        assert (await client.get("/webrtc/configuration")).json()["rtcConfiguration"] == told


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "rtc_configuration is a int; expected a dict such as {'iceServers'"),
        ([TURN], "rtc_configuration is a list; expected a dict"),
        ({"iceServers": "turn:t.example"}, "iceServers is a str; expected a list"),
        ({"iceServers": ["turn:t.example"]}, "iceServers holds a str; expected dicts"),
        ({"iceServers": [{"url": "turn:t.example"}]}, "one of iceServers has no urls"),
        ({"iceServers": [TURN | {"urls": [5]}]}, "one of iceServers has no urls"),
        ({"iceServers": [TURN | {"username": 5}]}, "the username of one of iceServers is a int"),
        ({"iceServers": [TURN], "certificates": [object()]}, "sent to browsers as JSON"),
    ],
)
def test_what_is_no_configuration_is_refused_at_once(given, words):
    """When the stream is made, in words that show no credential."""
    with pytest.raises(TypeError) as caught:
        make(rtc_configuration=given)
    assert words in str(caught.value)
    assert "SECRET" not in str(caught.value)


# -- ids


@pytest.mark.parametrize(
    ("webrtc_id", "shown"),
    [("a", "…"), ("abcd", "ab…"), ("12345678", "1234…"), ("1234567890123456", "12345678…"), ("x" * 128, "xxxxxxxx…")],
)
def test_logs_show_half_of_an_id_at_most(webrtc_id, shown):
    """A client may choose a short one: who reads the log does not get its call."""
    session = Session(webrtc_id, "webrtc", CallRequest(), None, None, None)
    assert session.name == shown
    assert repr(session) == f"<Session {shown} webrtc admitted>"


@pytest.mark.anyio
async def test_without_the_id_no_call_can_be_reached():
    """A candidate, arguments or outputs for an id that is not exactly a live one are a 404."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer()
        body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "Secret-1"}
        assert (await client.post("/webrtc/offer", json=body)).status_code == 200
        candidate = {"candidate": LINE, "sdpMid": "0"}
        for webrtc_id, status in (("Secret-1", 200), ("secret-1", 404), ("Secret-", 404), ("Secret-12", 404)):
            body = {"type": "ice-candidate", "webrtc_id": webrtc_id, "candidate": candidate}
            assert (await client.post("/webrtc/offer", json=body)).status_code == status
            body = {"webrtc_id": webrtc_id, "args": [1]}
            assert (await client.post("/webrtc/input", json=body)).status_code == status
            if status == 404:
                response = await client.get("/webrtc/outputs", params={"webrtc_id": webrtc_id})
                assert response.status_code == status


@pytest.mark.anyio
async def test_a_hundred_candidates_are_enough():
    """Of a thousand candidates, those after the hundredth are a 413, and the call lives on."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call = await engine.offer()
        body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "abc"}
        assert (await client.post("/webrtc/offer", json=body)).status_code == 200
        body = {"type": "ice-candidate", "webrtc_id": "abc", "candidate": {"candidate": LINE, "sdpMid": "0"}}
        answers = [(await client.post("/webrtc/offer", json=body)).status_code for _ in range(120)]
        assert answers.count(413) >= 20
        assert answers.index(413) == answers.count(200)
        assert stream.session("abc").end is None


@pytest.mark.anyio
async def test_ids_cannot_be_guessed():
    """Server-made ids are all different and have 144 bits; the page draws 128, by the browser's own randomness."""
    stream = make(concurrency_limit=None)
    async with site(stream):
        ids = set()
        for _ in range(50):
            async with stream.calls.admit(CallRequest(), "memory") as session:
                ids.add(session.webrtc_id)
    assert len(ids) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{24}", webrtc_id) for webrtc_id in ids)
    assert "crypto.getRandomValues(new Uint8Array(16))" in (ROOT / "src/rtcflow/web/rtcflow.js").read_text()


@pytest.mark.anyio
async def test_logs_hold_no_secrets(caplog):
    """A call's whole life at the most talkative level shows neither its id nor headers nor the query."""
    caplog.set_level(logging.DEBUG, logger="rtcflow")
    stream = make(authorize=lambda caller: caller.query.get("token"))
    caller = CallRequest(path="/x", headers={"authorization": "Bearer hush"}, query={"token": "hush"})
    async with site(stream) as client, memory_pair() as (ours, _):
        async with stream.calls.admit(caller, "memory") as session:
            webrtc_id = session.webrtc_id
            stream.calls.start(session, ours)
        body = {"type": "ice-candidate", "webrtc_id": webrtc_id, "candidate": {"candidate": LINE, "sdpMid": "0"}}
        headers = {"Authorization": "Bearer hush"}
        assert (await client.post("/webrtc/offer?token=hush", json=body, headers=headers)).status_code == 404
        session.close()
        while len(stream.calls):
            await anyio.sleep(0.005)
        assert webrtc_id not in repr(session) + repr(stream)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("rtcflow"))
    assert "ended after" in ours
    assert webrtc_id not in ours
    assert "hush" not in ours
