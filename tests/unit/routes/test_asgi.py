"""The offer route: FastRTC's JSON, bounded and checked; every refusal gives everything back."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rtcflow.ends import Timeouts
from rtcflow.exceptions import NotAuthorized
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncAudioVideoStreamHandler, AsyncStreamHandler
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Quiet(AsyncStreamHandler):
    def copy(self):
        return Quiet()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


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


def same(frame):
    return frame


class Broken(Quiet):
    def copy(self):
        raise RuntimeError("secret: no model")


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


def make(handler=None, **options):
    return Stream(handler or Quiet(), timeouts=QUICK, webrtc=LOCAL, **options)


async def make_offer(engine, **options):
    """A caller's end of a call and the JSON that offers it."""
    call = await engine.offer(**options)
    return call, {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "abc"}


async def released(stream):
    while len(stream.calls):
        await anyio.sleep(0.005)


# -- an offer


async def test_an_offer_is_answered_as_fastrtc_does_and_media_flows():
    """POST of an offer gives 200 and {"sdp", "type": "answer"}; the connection comes up and ends with the caller."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call, body = await make_offer(engine)
        response = await client.post("/webrtc/offer", json=body)
        assert response.status_code == 200
        answer = response.json()
        assert answer["type"] == "answer"
        await call.accept_answer(answer["sdp"])
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        assert "abc" in stream.calls
        context = stream.session("abc").connection.context
        assert (context.transport, context.headers["host"]) == ("webrtc", "site")
        await call.aclose()
        await released(stream)


async def test_candidates_trickle_over_the_same_route():
    """A candidate, and the end of candidates, for a live call are taken with {"status": "success"}."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        _, body = await make_offer(engine)
        await client.post("/webrtc/offer", json=body)
        line = "candidate:1 1 udp 2122260223 127.0.0.1 50000 typ host generation 0"
        for text in (line, ""):
            candidate = {"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": None}
            response = await client.post(
                "/webrtc/offer", json={"type": "ice-candidate", "webrtc_id": "abc", "candidate": candidate}
            )
            assert (response.status_code, response.json()) == (200, {"status": "success"})


async def test_an_offer_without_a_data_channel_is_served():
    """A caller that opens no data channel is served all the same."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        call, body = await make_offer(engine, messages=False)
        response = await client.post("/webrtc/offer", json=body)
        await call.accept_answer(response.json()["sdp"])
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()


@pytest.mark.parametrize(
    ("handler", "modality", "offered", "status", "video"),
    [
        (Film(), "audio-video", {"audio": True, "video": False}, 200, False),
        (Film(), "audio-video", {"audio": True, "video": True}, 200, True),
        (Film(), "audio", {"audio": True, "video": True}, 200, False),
        (Quiet(), "audio", {"audio": True, "video": True}, 200, False),
        (Quiet(), "audio", {"audio": False, "video": True}, 422, False),
        (same, "video", {"audio": True, "video": True}, 200, True),
        (same, "video", {"audio": True, "video": False}, 422, False),
    ],
)
async def test_offers_of_other_media_work_or_are_refused_clearly(handler, modality, offered, status, video):
    """Audio for an audio-video handler works; a track that is not wanted is declined, and alone it is a 422."""
    stream = make(handler, modality=modality)
    async with site(stream) as client, open_engine(LOCAL) as engine:
        _, body = await make_offer(engine, **offered)
        response = await client.post("/webrtc/offer", json=body)
        assert response.status_code == status
        if status == 200:
            accepted = stream.session("abc").connection.transport.offer
            assert accepted.receive_video is video
            assert accepted.receive_audio is (modality != "video")
        else:
            assert response.json()["meta"]["error"] == "unsupported_media"
            assert len(stream.calls) == 0


# -- bad input

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
CANDIDATE = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}

BAD_REQUESTS = {
    "not JSON": (b"hello", 400, "JSON"),
    "nothing": (b"", 400, "JSON"),
    "no UTF-8": (b'{"sdp": "\xff\xfe"}', 400, "JSON"),
    "half JSON": (b'{"sdp": "v=0', 400, "JSON"),
    "a list": (b"[]", 400, "object"),
    "a number": (b"17", 400, "object"),
    "deeply nested": (b"[" * 100_000, 400, "JSON"),
    "no type": ({"sdp": SDP, "webrtc_id": "a"}, 422, "type"),
    "a strange type": ({"sdp": SDP, "type": "answer", "webrtc_id": "a"}, 422, "type"),
    "null SDP": ({"sdp": None, "type": "offer", "webrtc_id": "a"}, 422, "sdp"),
    "empty SDP": ({"sdp": "", "type": "offer", "webrtc_id": "a"}, 422, "sdp"),
    "a number as SDP": ({"sdp": 5, "type": "offer", "webrtc_id": "a"}, 422, "sdp"),
    "garbage SDP": ({"sdp": "garbage", "type": "offer", "webrtc_id": "a"}, 422, "v=0"),
    "SDP without media": ({"sdp": SDP, "type": "offer", "webrtc_id": "a"}, 422, "media"),
    "SDP without ICE": ({"sdp": SDP + "m=audio 9 RTP/SAVPF 0\r\n", "type": "offer", "webrtc_id": "a"}, 422, "ICE"),
    "no id": ({"sdp": SDP, "type": "offer"}, 422, "webrtc_id"),
    "a number as id": ({"sdp": SDP, "type": "offer", "webrtc_id": 7}, 422, "webrtc_id"),
    "a huge id": ({"sdp": SDP, "type": "offer", "webrtc_id": "a" * 1000}, 422, "webrtc_id"),
    "a path as id": ({"sdp": SDP, "type": "offer", "webrtc_id": "../../etc"}, 422, "webrtc_id"),
    "a body of 10 MB": (b'"' + b"a" * 10_000_000 + b'"', 413, "bytes"),
    "an SDP of 100 kB": ({"sdp": SDP + "a=x\r\n" * 20_000, "type": "offer", "webrtc_id": "a"}, 413, "bytes"),
    "a candidate for nobody": ({"type": "ice-candidate", "webrtc_id": "who", "candidate": CANDIDATE}, 404, "live"),
    "a candidate of nothing": ({"type": "ice-candidate", "webrtc_id": "who", "candidate": 5}, 422, "candidate"),
    "a garbage candidate": (
        {"type": "ice-candidate", "webrtc_id": "who", "candidate": {"candidate": "candidate:x", "sdpMid": "0"}},
        422,
        "candidate",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
async def test_garbage_is_a_4xx_that_says_what_was_wrong(case):
    """Whatever is posted, the answer is FastRTC's failure with a fitting status and words, and no slot is taken."""
    content, status, words = BAD_REQUESTS[case]
    stream = make()
    async with site(stream) as client:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        response = await client.post("/webrtc/offer", content=body, headers={"Content-Type": "application/json"})
        failed = response.json()
        assert response.status_code == status, failed
        assert failed["status"] == "failed"
        assert words in failed["meta"]["message"]
        assert "Traceback" not in response.text
        assert len(stream.calls) == 0


async def test_a_body_is_refused_before_it_has_all_come():
    """A body that goes on and on is cut off at the limit, whatever its Content-Length says."""
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    stream = make()
    async with site(stream) as client:
        headers = {"Content-Type": "application/json"}
        # The in-process client reads the request in one go, so the route is asked through plain ASGI.
        messages = endless()

        async def receive():
            return {"type": "http.request", "body": await anext(messages), "more_body": True}

        answers = []

        async def send(message):
            answers.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/webrtc/offer",
            "raw_path": b"/webrtc/offer",
            "root_path": "",
            "query_string": b"",
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
        }
        await stream.asgi(scope, receive, send)
        await messages.aclose()
        assert answers[0]["status"] == 413
        assert sent <= 4 * 65536
        del client


@pytest.mark.parametrize(
    ("query", "length", "status"),
    [
        (b"token=\xff\xfe", b"2", 422),
        (b"", b"9" * 5000, 413),
        (b"", "²".encode(), 422),
        (b"token=%C3%A9&plus=a+b", b"2", 422),
    ],
)
async def test_what_some_servers_let_through_is_no_500(query, length, status):
    """A query that is no ASCII, and a length of more digits than an int may have: told what is wrong, as any."""
    seen, answers = [], []

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        answers.append(message)

    stream = make(authorize=lambda caller: seen.append(dict(caller.query)) or "somebody")
    async with site(stream):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/webrtc/offer",
            "raw_path": b"/webrtc/offer",
            "root_path": "",
            "query_string": query,
            "headers": [(b"content-type", b"application/json"), (b"content-length", length), (b"host", b"[x")],
        }
        await stream.asgi(scope, receive, send)
    assert answers[0]["status"] == status
    if b"%" in query:
        assert seen in ([], [{"token": "é", "plus": "a b"}])


async def test_only_json_is_read():
    """A form or text, which other sites' pages could post without asking, is a 415."""
    stream = make()
    async with site(stream) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            response = await client.post("/webrtc/offer", content=b"{}", headers={"Content-Type": kind})
            assert response.status_code == 415


async def test_refusals_have_fastrtcs_codes_and_a_status():
    """A duplicate id is 409, one caller too many 503 with the limit, both in FastRTC's form."""
    stream = make(concurrency_limit=2)
    async with site(stream) as client, open_engine(LOCAL) as engine:
        for webrtc_id, status, code in (
            ("one", 200, None),
            ("one", 409, "connection_already_exists"),
            ("two", 200, None),
            ("three", 503, "concurrency_limit_reached"),
        ):
            _, body = await make_offer(engine)
            response = await client.post("/webrtc/offer", json={**body, "webrtc_id": webrtc_id})
            assert response.status_code == status
            if code:
                meta = response.json()["meta"]
                assert meta["error"] == code
        assert meta["limit"] == 2
        assert response.headers["retry-after"]


async def test_who_may_call_is_asked_before_anything_else():
    """The hook sees headers, query, cookies and path; its refusal is 401 or 403, and its failure a bare 500."""
    seen: list[CallRequest] = []

    async def authorize(caller):
        seen.append(caller)
        match caller.query.get("as"):
            case "ada":
                return "ada"
            case "nobody":
                raise NotAuthorized("say who you are", status=401)
            case "crash":
                raise RuntimeError("secret")
            case _:
                return None

    stream = make(authorize=authorize)
    async with site(stream) as client, open_engine(LOCAL) as engine:
        _, body = await make_offer(engine)
        client.cookies.set("token", "1234")
        statuses = [
            (await client.post(f"/webrtc/offer?as={name}", json=body)) for name in ("nobody", "eve", "crash", "ada")
        ]
        assert [response.status_code for response in statuses] == [401, 403, 500, 200]
        assert "secret" not in statuses[2].text
        assert stream.session("abc").principal == "ada"
    caller = seen[0]
    assert (caller.path, caller.cookies["token"], caller.method) == ("/webrtc/offer", "1234", "POST")


async def test_a_handler_that_cannot_be_copied_is_a_500_without_its_words():
    """copy() raising gives 500 in FastRTC's form; the server's own words stay on the server."""
    stream = make(Broken())
    async with site(stream) as client, open_engine(LOCAL) as engine:
        _, body = await make_offer(engine)
        response = await client.post("/webrtc/offer", json=body)
        assert response.status_code == 500
        assert response.json()["meta"]["error"] == "application_failed"
        assert "secret" not in response.text


async def test_fifty_bad_offers_close_no_door():
    """After fifty refused offers the one slot is still free for a good one."""
    stream = make()
    async with site(stream) as client, open_engine(LOCAL) as engine:
        for content, *_ in list(BAD_REQUESTS.values()) * 2:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            await client.post("/webrtc/offer", content=body, headers={"Content-Type": "application/json"})
        _, body = await make_offer(engine)
        assert (await client.post("/webrtc/offer", json=body)).status_code == 200


async def test_candidates_are_for_webrtc_calls_only():
    """A candidate for a call over another transport is a 404, not a crash."""
    stream = make()
    async with site(stream) as client, memory_pair() as (ours, _):
        async with stream.calls.admit(CallRequest(), "memory", "abc") as session:
            stream.calls.start(session, ours)
        response = await client.post(
            "/webrtc/offer", json={"type": "ice-candidate", "webrtc_id": "abc", "candidate": CANDIDATE}
        )
        assert response.status_code == 404


# -- mounting


async def test_a_stream_in_an_inner_application_says_where_to_mount_it():
    """Starlette runs the lifespan of the outermost application only."""
    outer, inner = Starlette(), Starlette()
    make().mount(inner)
    outer.mount("/api", inner)
    async with (
        outer.router.lifespan_context(outer),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(outer), base_url="http://site") as client,
    ):
        response = await client.post("/api/webrtc/offer", json={"sdp": "v=0", "type": "offer", "webrtc_id": "a"})
        assert response.status_code == 503
        assert "mount the stream into the outer one" in response.json()["meta"]["message"]


async def test_without_its_lifespan_the_route_says_what_is_missing():
    """A server that runs no lifespan gets 503 with an explanation."""
    stream = make()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client:
        response = await client.post("/webrtc/offer", json={"sdp": "v=0", "type": "offer", "webrtc_id": "a"})
        assert response.status_code == 503
        assert "lifespan" in response.json()["meta"]["message"]


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize("path", ["", "/talk", "/talk/"])
async def test_a_stream_mounts_into_an_application(kind, path):
    """Routes appear under the path, the application's own lifespan still runs, and its own front page stays its own."""
    events = []

    @asynccontextmanager
    async def lifespan(_):
        events.append("begin")
        yield {"answer": 42}
        events.append("end")

    app = kind(lifespan=lifespan)
    stream = make()
    stream.mount(app, path)
    app.router.routes.append(Route("/", lambda _: PlainTextResponse("my own page")))
    async with (
        app.router.lifespan_context(app) as state,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client,
    ):
        assert stream.is_running
        assert state == {"answer": 42}
        response = await client.post(f"{path.rstrip('/')}/webrtc/offer", json={})
        assert response.status_code == 422
        assert (await client.get("/")).text == "my own page"
        assert (await client.get(f"{path.rstrip('/')}/webrtc/configuration")).json()["modality"] == "audio"
        if path:
            assert "<title>rtcflow</title>" in (await client.get("/talk/")).text
    assert events == ["begin", "end"]
    assert not stream.is_running


def test_a_path_without_a_slash_is_an_error():
    """mount(app, "talk") says what to write."""
    with pytest.raises(ValueError, match="'/talk'"):
        make().mount(Starlette(), "talk")


def test_two_streams_at_one_path_are_an_error():
    """Nobody could reach the second one. At paths of their own they are fine."""
    app, first, second = Starlette(), make(), make()
    first.mount(app)
    second.mount(app, "/talk")
    for stream, path, place in ((second, "", "/"), (first, "/talk/", "/talk")):
        with pytest.raises(ValueError, match=f"another stream is mounted at {place}, .*'/second'"):
            stream.mount(app, path)
    first.mount(app)  # the same once more


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
async def test_health_routes_of_the_application_are_its_own(kind):
    """Also if it has them after the stream was mounted."""
    app = kind()
    make().mount(app)
    make().mount(app, "/talk")
    app.router.routes.append(Route("/healthz", lambda _: PlainTextResponse("mine")))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client:
        assert (await client.get("/healthz")).text == "mine"
        for path in ("/readyz", "/talk/healthz", "/talk/readyz"):
            assert (await client.get(path)).json()["status"] == "not running"


async def test_one_stream_under_two_paths_runs_once():
    """Mounted twice in one application, the stream is the same: one limit, one registry."""
    app = Starlette()
    stream = make()
    stream.mount(app, "/a")
    stream.mount(app, "/b")
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client,
        open_engine(LOCAL) as engine,
    ):
        _, body = await make_offer(engine)
        assert (await client.post("/a/webrtc/offer", json=body)).status_code == 200
        _, others = await make_offer(engine)
        assert (await client.post("/b/webrtc/offer", json=others)).status_code == 409


# -- the page


async def test_the_page_is_small_and_strict():
    """All files of the page together weigh at most 60 kB, come with a strict policy, and hold nothing inline."""
    stream = make()
    weight = 0
    async with site(stream) as client:
        for name in ("", "page.js", "rtcflow.js", "page.css", "icon.svg"):
            response = await client.get(f"/{name}")
            assert response.status_code == 200
            weight += len(response.content)
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            if not name:
                html = response.text
        assert (await client.get("/../asgi.py")).status_code == 404
    assert weight <= 60_000
    assert "style=" not in html
    assert "onclick" not in html
    assert html.count("<script") == html.count('<script type="module" src="')
    assert "//" not in html.replace("<!doctype", "")


async def test_the_client_is_served_for_pages_of_any_application():
    """rtcflow.js is there without the page, and pages of allowed origins may import it, others not."""
    stream = make(allowed_origins=["https://app.example"])
    app = Starlette()
    stream.mount(app, "/talk", page=False)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client:
        assert (await client.get("/talk/")).status_code == 404
        response = await client.get("/talk/rtcflow.js", headers={"Origin": "https://app.example"})
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        response = await client.get("/talk/rtcflow.js", headers={"Origin": "https://evil.example"})
        assert response.status_code == 403


async def test_the_page_learns_the_servers_ice_servers():
    """rtc_configuration is handed to browsers, uncached."""
    servers = {"iceServers": [{"urls": "stun:192.0.2.1"}]}
    stream = make(rtc_configuration=servers)
    async with site(stream) as client:
        response = await client.get("/webrtc/configuration")
        told = response.json()
        assert (told["rtcConfiguration"], told["modality"], told["mode"]) == (servers, "audio", "send-receive")
        assert response.headers["cache-control"] == "no-store"


async def test_pages_learn_what_to_send():
    """track_constraints and rtp_params reach the page as they are; what is no JSON is refused when it is given."""
    constraints, params = {"width": {"ideal": 640}}, {"degradationPreference": "maintain-framerate"}
    async with site(make(track_constraints=constraints, rtp_params=params)) as client:
        told = (await client.get("/webrtc/configuration")).json()
        assert (told["trackConstraints"], told["rtpParams"]) == (constraints, params)
    async with site(make()) as client:
        told = (await client.get("/webrtc/configuration")).json()
        assert (told["trackConstraints"], told["rtpParams"]) == ({}, {})
    with pytest.raises(TypeError, match="track_constraints is sent to pages as JSON"):
        make(track_constraints={"width": {640}})
    with pytest.raises(TypeError, match="rtp_params=5; expected a dict"):
        make(rtp_params=5)
