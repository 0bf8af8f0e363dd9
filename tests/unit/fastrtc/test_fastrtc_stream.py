"""FastRTC's `Stream`: methods that serve routes, attributes, and the page that `ui` launches."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import types
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from rtcflow import fastrtc
from rtcflow.ends import Timeouts
from rtcflow.exceptions import NotAuthorized, UnknownConnection
from rtcflow.fastrtc import _ui, _webrtc
from rtcflow.fastrtc.stream import Body
from rtcflow.fastrtc.webrtc_connection_mixin import WebRTCConnectionMixin
from rtcflow.transports.webrtc import IceServer, WebRTCConfig, open_engine

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Quiet(fastrtc.AsyncStreamHandler):
    def copy(self):
        return Quiet()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


def make(kind=fastrtc.Stream, **options):
    return kind(Quiet(), modality="audio", timeouts=QUICK, webrtc=LOCAL, **options)


@asynccontextmanager
async def site(app, stream):
    with anyio.fail_after(120):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client,
        ):
            yield client
    assert len(stream.calls) == 0


async def offered(engine, webrtc_id="abc"):
    call = await engine.offer(audio=True)
    return {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": webrtc_id}


class Overridden(fastrtc.Stream):
    """Each route method notes that it was called, and goes on."""

    called: list[Any]

    async def offer(self, body):
        self.called.append(("offer", type(body).__name__, body.webrtc_id))
        return await super().offer(body)

    async def handle_incoming_call(self, request):
        self.called.append(("incoming", request.url.path))
        return PlainTextResponse("<mine/>", media_type="application/xml")

    async def telephone_handler(self, websocket):
        self.called.append(("telephone", websocket.url.path))
        await websocket.close(4000)

    async def websocket_offer(self, websocket):
        self.called.append(("websocket", websocket.url.path))
        await websocket.close(4001)


@pytest.mark.anyio
@pytest.mark.parametrize("app", [FastAPI, Starlette])
async def test_the_routes_call_overridden_methods(app: Any) -> None:
    """An override of each of the four is what its route runs, under the prefix, and `super()` does the work."""
    stream = make(Overridden)
    stream.called = []
    application = app()
    stream.mount(application, "/talk")
    async with site(application, stream) as client, open_engine(LOCAL) as engine:
        answer = await client.post("/talk/webrtc/offer", json=await offered(engine))
        assert (answer.status_code, answer.json()["type"]) == (200, "answer")
        hook = await client.post("/talk/telephone/incoming", data={"CallSid": "CA1"})
        assert hook.text == "<mine/>"
        for path, code in (("telephone/handler", 4000), ("websocket/offer", 4001)):
            assert await socket_closed(application, f"/talk/{path}") == code
    assert stream.called == [
        ("offer", "Body", "abc"),
        ("incoming", "/talk/telephone/incoming"),
        ("telephone", "/talk/telephone/handler"),
        ("websocket", "/talk/websocket/offer"),
    ]


@pytest.mark.anyio
async def test_an_override_of_offer_costs_no_caller_its_way_back() -> None:
    """A `Body` has FastRTC's fields alone; what a client says about `resume` goes past it."""
    stream = make(Overridden, resume=30)
    stream.called = []
    application = Starlette()
    stream.mount(application)
    async with site(application, stream) as client, open_engine(LOCAL) as engine:
        answer = await client.post("/webrtc/offer", json={**await offered(engine), "resume": True})
        stop = {"type": "stop", "webrtc_id": "abc", "token": answer.json()["resume"]["stop"]}
        assert (await client.post("/webrtc/offer", json=stop)).json() == {"status": "success"}
        with anyio.fail_after(120):
            while stream.calls:
                await anyio.sleep(0.01)
    assert [name for name, *_ in stream.called] == ["offer", "offer"]


async def socket_closed(app: Any, path: str) -> int:
    """The close code that the application gives to a WebSocket at `path`."""
    sent: list[Any] = []
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"site")],
        "client": ("127.0.0.1", 1),
        "server": ("site", 80),
        "scheme": "ws",
        "subprotocols": [],
        "root_path": "",
    }

    coming = iter(["websocket.connect"])

    async def receive() -> Any:
        if (kind := next(coming, None)) is None:
            await anyio.sleep_forever()
        return {"type": kind}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[-1]["code"])


@pytest.mark.anyio
async def test_offer_may_be_called_in_a_route_of_ones_own() -> None:
    """`await stream.offer(body)` with a `Body` or a dict answers; what is wrong comes back as a response."""
    stream = make(concurrency_limit=2)
    app = FastAPI()

    @app.post("/mine")
    async def mine(body: Body):
        return await stream.offer(body)

    async with site(app, stream) as client, open_engine(LOCAL) as engine:
        assert (await client.post("/mine", json=await offered(engine))).json()["type"] == "answer"
        assert (await stream.offer(await offered(engine, "other")))["type"] == "answer"
        full = await stream.offer(await offered(engine, "third"))
        assert (full.status_code, b'"limit"' in full.body) == (503, True)
        assert (await client.post("/mine", json={"type": "offer"})).status_code == 422
        assert set(stream.handlers) == {"abc", "other"}


@pytest.mark.anyio
async def test_an_override_keeps_authorization() -> None:
    """`super().offer(body)` is authorized with the headers of the request that came in."""
    seen = []

    def authorize(caller):
        seen.append(caller.headers.get("authorization"))
        if caller.headers.get("authorization") != "Bearer right":
            raise NotAuthorized("no")
        return "me"

    stream = make(Overridden, authorize=authorize)
    stream.called = []
    app = Starlette()
    stream.mount(app)
    async with site(app, stream) as client, open_engine(LOCAL) as engine:
        body = await offered(engine)
        refused = await client.post("/webrtc/offer", json=body)
        assert refused.status_code in {401, 403}
        assert (await client.post("/webrtc/offer", json={"sdp": 1})).status_code == 422
        taken = await client.post("/webrtc/offer", json=body, headers={"authorization": "Bearer right"})
        assert taken.status_code == 200
    assert seen == [None, "Bearer right"]


@pytest.mark.anyio
async def test_a_mixin_of_ones_own_answers_offers() -> None:
    """A class over WebRTCConnectionMixin that sets the attributes, and calls handle_offer."""

    class Mine(WebRTCConnectionMixin):
        def __init__(self):
            self.event_handler, self.modality, self.mode = Quiet(), "audio", "send-receive"

    mine = Mine()
    async with mine.rtc.running(), open_engine(LOCAL) as engine:
        body = await offered(engine)
        answer = await mine.handle_offer(body, set_outputs=mine.set_additional_outputs("abc"))
        assert answer["type"] == "answer"
        assert set(mine.handlers) == {"abc"}


def test_fastapi_documents_the_routes_with_their_tags() -> None:
    """`mount(app, path, tags=[...])` puts the offer route into openapi.json, with its tags and its body."""
    app = FastAPI()
    make().mount(app, "/api", tags=["calls"])
    offer = app.openapi()["paths"]["/api/webrtc/offer"]["post"]
    assert offer["tags"] == ["calls"]
    assert "Body" in str(offer["requestBody"])


@pytest.mark.parametrize("name", ["clean_up", "set_additional_outputs", "wait_for_time_limit"])
def test_overrides_that_nobody_calls_are_refused(name: str) -> None:
    """When the class is made, by name, with what to write instead."""
    with pytest.raises(TypeError, match=rf"{name} would never be called: \w+"):
        type("Mine", (fastrtc.Stream,), {name: lambda self: None})


@pytest.mark.parametrize("servers", [(IceServer("stun:stun.example.org"),), lambda: ()])
def test_ice_servers_are_given_once(servers: Any) -> None:
    """Of two, one would be ignored."""
    with pytest.raises(TypeError, match="ICE servers were given twice"):
        fastrtc.Stream(Quiet(), webrtc=WebRTCConfig(ice_servers=servers), server_rtc_configuration={"iceServers": []})


def test_a_streams_attributes_are_fastrtcs() -> None:
    """Strings compare with modes, and what was given can be read."""
    servers = {"iceServers": []}
    stream = make(time_limit=30, server_rtc_configuration=servers, additional_outputs=["component"])
    assert stream.mode == "send-receive"
    assert stream.modality == "audio"
    assert (stream.time_limit, stream.server_rtc_configuration) == (30, servers)
    assert isinstance(stream.event_handler, Quiet)
    assert stream.additional_output_components == ["component"]
    assert (dict(stream.handlers), stream.webrtc_component.handlers) == ({}, {})


@pytest.mark.anyio
async def test_what_is_assigned_counts_from_the_next_call_on() -> None:
    """Limits and what pages are told, as in FastRTC. What cannot change says so."""
    stream = make(track_constraints={"width": 640})
    assert (stream.concurrency_limit, stream.time_limit, stream.rtp_params) == (1, None, None)
    stream.concurrency_limit, stream.time_limit = 2, 30
    stream.rtc_configuration = {"iceServers": [{"urls": "stun:192.0.2.1"}]}
    stream.track_constraints = None
    application = FastAPI()
    stream.mount(application)
    async with site(application, stream) as client, open_engine(LOCAL) as engine:
        told = (await client.get("/webrtc/configuration")).json()
        assert told["rtcConfiguration"] == stream.rtc_configuration
        assert (told["trackConstraints"], stream.track_constraints) == ({}, None)
        for webrtc_id, status in (("a", 200), ("b", 200), ("c", 503)):
            response = await client.post("/webrtc/offer", json=await offered(engine, webrtc_id))
            assert response.status_code == status
        assert {session.connection._time_limit for session in stream.connections.values()} == {30}
    with pytest.raises(ValueError, match="concurrency_limit=0"):
        stream.concurrency_limit = 0
    for name in ("event_handler", "server_rtc_configuration"):
        with pytest.raises(AttributeError, match=f"{name} cannot change .* make another Stream"):
            setattr(stream, name, {"iceServers": []})


@pytest.mark.anyio
async def test_a_stream_that_nobody_runs_runs_in_a_thread() -> None:
    """`stream.offer` without `mount` and lifespan: one warning, calls are served, close() ends them."""
    stream = make(concurrency_limit=2)
    try:
        async with open_engine(LOCAL) as engine:
            with anyio.fail_after(120):
                with pytest.warns(UserWarning, match=r"write: stream\.mount\(app\)"):
                    first = await stream.offer(await offered(engine))
                second = await stream.offer(await offered(engine, "other"))
                third = await stream.offer(await offered(engine, "third"))
                assert [first["type"], second["type"], third.status_code] == ["answer", "answer", 503]
                assert set(stream.handlers) == {"abc", "other"}
                assert stream.is_running
    finally:
        await anyio.to_thread.run_sync(stream._on_demand.close)
    assert not stream.is_running
    assert not stream.handlers
    stream._on_demand.close()


class Answering(Quiet):
    def trigger_response(self):
        self.triggered = list(self.latest_args)

    def copy(self):
        return Answering()


@pytest.mark.anyio
async def test_the_pages_data_comes_first() -> None:
    """Gradio's two ways to set inputs: WebRTCData is the first argument, and submitting triggers the reply."""
    stream = fastrtc.Stream(Answering(), modality="audio", timeouts=QUICK, webrtc=LOCAL)
    async with stream.running(), open_engine(LOCAL) as engine:
        await stream.offer(await offered(engine))
        data = fastrtc.WebRTCData("abc", textbox="hi")
        stream.set_input_gradio(data, 7)
        handler: Any = stream.handlers["abc"]
        assert handler.latest_args == [data, 7]
        stream.set_input_on_submit(data, 8)
        assert handler.triggered == [data, 8]


# -- the page


def test_ui_that_is_assigned_is_kept() -> None:
    """`stream.ui = demo` keeps the program's own object."""
    stream, mine = make(), object()
    stream.ui = mine
    assert stream.ui is mine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_launch_serves_the_page_and_close_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With prevent_thread_lock it returns the application, the URL and None; the page and its routes are served."""
    stream, port = make(), free_port()
    app, url, public = stream.ui.launch(server_port=port, server_name="127.0.0.1", prevent_thread_lock=True, debug=1)
    try:
        assert (app, url, public) == (stream.asgi, f"http://127.0.0.1:{port}/", None)
        assert capsys.readouterr().out == f"* Running on local URL:  {url}\n"
        assert "<html" in httpx2.get(url).text
        assert httpx2.get(f"{url}webrtc/configuration").json()["modality"] == "audio"
        with pytest.raises(RuntimeError, match="close"):
            stream.ui.launch()
    finally:
        stream.ui.close()
    assert not stream.is_running
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match="in use"):
        stream.ui.launch(server_port=port)


def test_launch_has_the_guards_of_rtcflow_serve() -> None:
    """It agrees on no compression, and a refused upgrade with a frame behind it does not end it."""
    stream, port = make(), free_port()
    stream.ui.launch(server_port=port, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        head = (
            "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), 10) as one:
            one.sendall(head.format("/websocket/offer").encode())
            answer = one.recv(1000)
            assert answer.startswith(b"HTTP/1.1 101")
            assert b"deflate" not in answer
        with socket.create_connection(("127.0.0.1", port), 10) as refused:
            refused.sendall(head.format("/telephone/handler/nope").encode() + b"\x81\x85abcdhello")
            assert refused.recv(1000)
        assert httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    finally:
        stream.ui.close()


PROGRAM = """
from rtcflow.fastrtc import Stream
stream = Stream(lambda frame: frame)
stream.ui.launch(server_port=0)
print("went on", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_launch_blocks_until_ctrl_c() -> None:
    """The program goes on after it, and ends without an error."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().split()[-1]
        assert httpx2.get(url).status_code == 200
        program.send_signal(signal.SIGINT)
        assert program.stdout.read().splitlines()[-1] == "went on"
        assert program.wait(150) == 0


@pytest.mark.anyio
async def test_ui_can_be_mounted() -> None:
    """It is an ASGI application: `app.mount("/ui", stream.ui)`."""
    stream, app = make(), Starlette()
    app.mount("/ui", stream.ui)
    async with site(app, stream) as client:
        assert "<html" in (await client.get("/ui/")).text


def test_without_gradio_its_parts_say_what_to_write() -> None:
    """`WebRTC` can be imported, not made; a `with stream.ui` block needs Gradio; queue() is harmless."""
    stream = make()
    assert stream.ui.queue() is stream.ui
    for use in (stream.ui.__enter__, stream.ui.render):
        with pytest.raises(RuntimeError, match="import gradio first"):
            use()
    _webrtc.webrtc_class.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"Stream\(handler.*ui\.launch"):
            fastrtc.WebRTC(modality="audio")
    finally:
        _webrtc.webrtc_class.cache_clear()


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in with the parts of Gradio that are used."""
    module: Any = types.ModuleType("gradio")
    module.shown = []

    class Blocks:
        def __init__(self, title=None):
            self.inside = 0

        def __enter__(self):
            self.inside += 1
            return self

        def __exit__(self, *_):
            pass

        def render(self):
            module.shown.append(self)

    class HTML:
        def __init__(self, value=None):
            module.shown.append(value)

    module.Blocks, module.HTML = Blocks, HTML
    monkeypatch.setitem(sys.modules, "gradio", module)
    for cached in (_webrtc.webrtc_class, _ui._gradio_page):
        cached.cache_clear()
    yield module
    for cached in (_webrtc.webrtc_class, _ui._gradio_page):
        cached.cache_clear()


def test_with_gradio_ui_is_one_of_its_blocks(gradio: Any) -> None:
    """Gradio can mount and nest it; its page says where rtcflow's is, and has a link once that is launched."""
    stream = make()
    assert isinstance(stream.ui, gradio.Blocks)
    with stream.ui as page:
        assert page is stream.ui
    stream.ui.render()
    assert stream.ui in gradio.shown
    shown = next(value for value in gradio.shown if callable(value))
    assert "stream.mount(app, path)" in shown()
    _, url, _ = stream.ui.launch(server_port=0, prevent_thread_lock=True)
    try:
        assert f'href="{url}"' in shown()
        assert "<html" in httpx2.get(url).text
    finally:
        stream.ui.close()


def test_with_gradio_the_component_serves_its_function(gradio: Any) -> None:
    """`WebRTC(...)`, `.stream(fn, ...)` and `.on_additional_outputs(fn)` make a stream."""
    component = fastrtc.WebRTC(label="Chat", modality="video", mode="send-receive", rtc_configuration=None)
    component.stream(fn=lambda frame: frame, inputs=[component], outputs=[component], time_limit=90)
    component.on_additional_outputs(lambda *values: values, outputs=[])
    assert (component.rtc.modality, component.rtc.time_limit, dict(component.handlers)) == ("video", 90, {})
    assert component.rtc.additional_outputs_handler(1) == (1,)
    frame = np.zeros((4, 4, 3), np.uint8)
    assert component.rtc.event_handler(frame) is frame
    assert dict(component.connections) == {}
    with pytest.raises(UnknownConnection):
        component.set_input("abc", 1)
    with pytest.raises(UnknownConnection):
        component.output_stream("abc")
    with pytest.raises(RuntimeError, match=r"call its stream\(fn, \.\.\.\) first"):
        fastrtc.WebRTC().set_input("abc", 1)
