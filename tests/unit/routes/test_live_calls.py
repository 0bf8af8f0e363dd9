"""The page of the live calls: only operators get it, and what it tells and does."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from rtcflow.ends import EndCause
from rtcflow.exceptions import NotAuthorized
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio
ID = "an-id-that-gives-power-over-the-call"
LOGIN = {"authorization": "Basic " + base64.b64encode(b"op:secret").decode()}


class Quiet(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Quiet()


def operators(request):
    if request.headers.get("authorization") != LOGIN["authorization"]:
        raise NotAuthorized("operators only")
    return "op"


def make_stream(**options):
    return Stream(Quiet(), concurrency_limit=5, authorize=lambda _: "ann", **options)


def client(stream, **options):
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=stream.asgi), base_url="http://test", **options)


@asynccontextmanager
async def calling(stream, webrtc_id=ID):
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.calls.admit(CallRequest(), "memory", webrtc_id) as session:
            stream.calls.start(session, ours)
        while session.statistics().setup is None:
            await anyio.lowlevel.checkpoint()
        yield session
        session.close()
        await session.connection.wait_ended()


async def test_it_must_be_asked_for():
    """Without `authorize_operator` there is no such route."""
    stream = make_stream()
    async with client(stream, headers=LOGIN) as http:
        for method, path in (
            ("GET", "/calls"),
            ("GET", "/calls/live"),
            ("POST", "/calls/end"),
            ("GET", "/calls/page.js"),
        ):
            assert (await http.request(method, path)).status_code == 404


@pytest.mark.parametrize("hook", ["refuses", "returns nothing", "raises"])
async def test_only_operators_get_it(hook):
    """Callers whom `authorize` lets in are not operators. A browser is told to ask for name and password."""

    def fails(_):
        return {}["nobody"]

    hooks = {"refuses": operators, "returns nothing": lambda _: None, "raises": fails}
    stream = make_stream(authorize_operator=hooks[hook])
    async with stream.running(), calling(stream) as session, client(stream) as http:
        for method, path in (("GET", "/calls"), ("GET", "/calls/live"), ("POST", "/calls/end")):
            answer = await http.request(method, path, json={"number": session.number})
            assert answer.status_code == (500 if hook == "raises" else 401)
            if hook != "raises":
                assert answer.headers["www-authenticate"].startswith("Basic ")
            assert "ann" not in answer.text
        assert session.end is None


async def test_what_it_tells():
    """A row for each call, with the beginning of its id only."""
    stream = make_stream(authorize_operator=operators)
    async with stream.running(), client(stream, headers=LOGIN) as http:
        assert (await http.get("/calls/live")).json()["calls"] == []
        async with calling(stream) as session:
            answer = await http.get("/calls/live")
            (call,) = answer.json()["calls"]
            assert call["number"] == session.number
            assert (call["state"], call["transport"], call["caller"]) == ("live", "memory", "ann")
            assert 0 <= call["age"] < 60
            assert ID not in answer.text
            assert answer.headers["cache-control"] == "no-store"


async def test_an_operator_ends_a_call():
    """The peer is told; other calls go on. A number that no call has is said."""
    stream = make_stream(authorize_operator=operators)
    async with stream.running(), client(stream, headers=LOGIN) as http:
        async with calling(stream, "one") as one, calling(stream, "two") as two:
            another = {"number": two.number, "call": "of anot…"}  # of another process, which counts from 1, too
            assert (await http.post("/calls/end", json=another)).status_code == 404
            assert two.end is None
            body = {"number": two.number, "call": two.name}
            assert (await http.post("/calls/end", json=body)).status_code == 200
            assert (await http.post("/calls/end", json={"number": two.number})).status_code in {200, 404}
            end = await two.connection.wait_ended()
            assert (end.cause, end.reason) == (EndCause.CLOSED, "ended by an operator")
            assert one.end is None
            answer = await http.post("/calls/end", json={"number": 999})
            assert answer.status_code == 404
            assert answer.json()["meta"]["message"] == "no call with the number 999 is live here"


@pytest.mark.parametrize(
    "body",
    [b"", b"7", b"{}", b'{"number": "7"}', b'{"number": true}', b'{"number": 7, "call": 7}', b"\xff", b"[" * 900],
)
async def test_a_body_that_names_no_call(body):
    """The answer shows what to send."""
    stream = make_stream(authorize_operator=operators)
    async with stream.running(), client(stream, headers=LOGIN) as http:
        answer = await http.post("/calls/end", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert 'send {"number": 7, "call": "q3V9xw0A…"}' in answer.json()["meta"]["message"]


async def test_pages_of_other_hosts_cannot_use_it():
    """A browser sends a password along with a form of any page; the origin gives it away."""
    stream = make_stream(authorize_operator=operators)
    async with stream.running(), calling(stream) as session, client(stream, headers=LOGIN) as http:
        there = {"origin": "https://evil.example"}
        assert (await http.post("/calls/end", json={"number": session.number}, headers=there)).status_code == 403
        assert (await http.get("/calls/live", headers=there)).status_code == 403
        form = await http.post("/calls/end", data={"number": session.number})
        assert form.status_code == 415
        assert session.end is None


async def test_the_page_runs_only_its_own_scripts():
    """The same strict policy as the page to talk with; nothing in its markup needs an exception."""
    stream = make_stream(authorize_operator=operators)
    async with client(stream, headers=LOGIN) as http:
        page = await http.get("/calls")
        assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert " style=" not in page.text
        assert " on" + "click" not in page.text
        for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
            assert f"calls/{name}" in page.text
            assert (await http.get(f"/calls/{name}")).headers["content-type"].startswith(kind)
