"""The server of `rtcflow serve`: what one connection sends ends at most that connection; draining; health."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import random
import socket
import struct
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import anyio
import h11
import httpx2
import pytest
from h11 import LocalProtocolError
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import Mount

from rtcflow import cli
from rtcflow.demo import EchoHandler
from rtcflow.exceptions import NotServing
from rtcflow.routes.requests import public_path
from rtcflow.serving import http_server
from rtcflow.serving.http_server import NOT_UNDERSTOOD, PING, _closing, _guard, serve
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig

pytestmark = pytest.mark.anyio

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


def make(**options):
    options.setdefault("telephone", TelephoneConfig())
    return Stream(EchoHandler(), concurrency_limit=None, webrtc=LOCAL, **options)


@asynccontextmanager
async def site(anyio_backend_name, application, grace=0.2, draining=lambda: False):
    """The address of a server that serves `application`, and what stops it."""
    listener = socket.create_server(("127.0.0.1", 0))
    address, stop, returned = listener.getsockname(), anyio.Event(), False
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:

            async def run():
                nonlocal returned
                backend = "trio" if anyio_backend_name == "trio" else "asyncio"
                options = {"grace": grace, "draining": draining, "max_message": 2**20}
                await serve(application, listener, backend, stop=stop.wait, **options)
                returned = True

            tasks.start_soon(run)
            try:
                yield address, stop
            finally:
                stop.set()
    assert returned, "its own end looked like a cancellation"


async def ask(address, path="/healthz"):
    # A busy machine may take longer to connect than the 5 s that httpx2 waits by itself.
    async with httpx2.AsyncClient(base_url=f"http://{address[0]}:{address[1]}", timeout=30) as client:
        return await client.get(path)


async def health(stream):
    """The answer of ``/healthz`` that comes over a stream, in lower case."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += await stream.receive()
    return answer.lower()


def upgrade(path, *more):
    key = base64.b64encode(b"0123456789abcdef").decode()
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


FRAME = b"\x81\x85\x01\x02\x03\x04" + bytes(a ^ b for a, b in zip(b"hello", b"\x01\x02\x03\x04\x01", strict=True))


async def send(address, data):
    """Send bytes, take what comes for a moment, and leave."""
    async with await anyio.connect_tcp(*address) as stream:
        await stream.send(data)
        with anyio.move_on_after(0.5):
            try:
                return await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return b""
    return b""


async def test_a_refused_upgrade_with_a_frame_behind_it_ends_that_connection_only(anyio_backend_name):
    """Refused for its carrier, its origin or its path, with a frame in the same segment: the server goes on."""
    stream = make()
    async with site(anyio_backend_name, stream.asgi) as (address, _):
        for path, more in (
            ("/telephone/handler/nope", []),
            ("/websocket/offer", ["Origin: https://elsewhere.example"]),
            ("/nothing/here", []),
        ):
            for junk in (FRAME, FRAME * 3, b"\xff" * 40, b"GET / HTTP/1.1\r\n"):
                await send(address, upgrade(path, *more) + junk)
        assert (await ask(address)).status_code == 200
        assert stream.is_running


@pytest.mark.parametrize("text", ["Can't send data when our state is ERROR", "Illegal header value"])
async def test_only_an_error_of_the_application_is_told_as_one(text):
    """A client that sent nonsense cannot be answered; an answer that is nonsense itself is the application's fault."""

    async def application(scope, receive, send):
        await send({"type": "websocket.close"})

    async def fail(_):
        raise LocalProtocolError(text)

    served = _closing(application, lambda: False)({"type": "websocket"}, None, fail)
    if "ERROR" in text:
        await served
    else:
        with pytest.raises(LocalProtocolError):
            await served


async def test_h11_tells_a_client_that_is_not_understood_by_this_text():
    """`NOT_UNDERSTOOD` is h11's own text."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"\xff\xff\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError):
        connection.next_event()
    connection.send_failed()
    with pytest.raises(LocalProtocolError, match=NOT_UNDERSTOOD):
        connection.send(h11.Response(status_code=400, headers=[]))


@pytest.mark.slow
async def test_no_request_stops_the_server(anyio_backend_name, monkeypatch):
    """Requests that were cut, mixed and changed at random, in one segment or two: it still answers."""
    monkeypatch.setattr(Config, "keep_alive_timeout", 0.5)  # 5 s, after which no connection is left
    stream = make()
    dice = random.Random(4)
    parts = [
        upgrade("/websocket/offer"),
        upgrade("/telephone/handler"),
        FRAME,
        b"POST /webrtc/offer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        bytes(range(256)),
    ]

    async def odd_client(address, number):
        data = bytearray(b"".join(dice.choices(parts, k=dice.randrange(1, 4))))
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = dice.randrange(1, len(data) + 1)
        async with await anyio.connect_tcp(*address) as connection:
            try:
                await connection.send(bytes(data[:cut]))
                await connection.send(bytes(data[cut:]) or b"\n")
                with anyio.move_on_after(0.02):
                    await connection.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            if number % 3 == 0:  # a reset in place of a good end
                raw = connection.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    async with site(anyio_backend_name, stream.asgi) as (address, _):
        await ask(address)
        before = len(os.listdir("/proc/self/fd"))
        for first in range(0, 60, 20):
            async with anyio.create_task_group() as clients:
                for number in range(first, first + 20):
                    clients.start_soon(odd_client, address, number)
        assert (await ask(address)).status_code == 200
        while stream.calls:
            await anyio.sleep(0.01)
        while len(os.listdir("/proc/self/fd")) > before + 2:
            await anyio.sleep(0.05)


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_a_client_that_has_gone_leaves_no_task(anyio_backend_name, end):
    """The pings of a WebSocket end with it: not at the next one, twenty seconds later."""

    def living():
        if anyio_backend_name == "trio":
            import trio

            return trio.lowlevel.current_statistics().tasks_living
        return len(asyncio.all_tasks())

    stream = make()
    async with site(anyio_backend_name, stream.asgi) as (address, _):
        await ask(address)
        await send(address, b"\n")
        await anyio.sleep(0.1)
        before = living()
        for _ in range(5):
            async with await anyio.connect_tcp(*address) as connection:
                await connection.send(upgrade("/websocket/offer"))
                assert b" 101 " in await connection.receive()
                if end == "RST":
                    raw = connection.extra(anyio.abc.SocketAttribute.raw_socket)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        with anyio.fail_after(PING / 2):
            while living() > before:
                await anyio.sleep(0.05)


async def test_compression_is_never_accepted(anyio_backend_name):
    """A client that offers it is answered without it, so a small message cannot become a large one."""
    async with site(anyio_backend_name, make().asgi) as (address, _):
        offered = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        answer = await send(address, upgrade("/websocket/offer", offered))
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"deflate" not in answer


# -- draining


@asynccontextmanager
async def with_a_full_queue(anyio_backend_name, kind, **options):
    """A client's connection whose application takes no message of the many that have come, until it is let go on."""
    go_on = anyio.Event()

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")  # as servers ask for it
        if kind == "WebSocket":
            await receive()
            await send({"type": "websocket.accept"})
        await go_on.wait()
        if kind == "POST":
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async with site(anyio_backend_name, application, **options) as (address, stop):
        async with await anyio.connect_tcp(*address) as client:
            if kind == "WebSocket":
                await client.send(upgrade("/"))
                assert b" 101 " in await client.receive()
                await client.send(100 * FRAME)
            else:
                head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                await client.send(head + 100 * b"1\r\nx\r\n")
            await anyio.wait_all_tasks_blocked()
            yield client, go_on, stop


@pytest.mark.parametrize("kind", ["POST", "WebSocket"])
async def test_an_application_that_returns_before_it_took_all_messages_frees_the_connection(anyio_backend_name, kind):
    """What is not taken does not keep the socket and its tasks for ever: the server's end waits for none of them."""
    async with with_a_full_queue(anyio_backend_name, kind, grace=1000) as (client, go_on, _):
        go_on.set()
        with anyio.fail_after(120), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await client.receive()


@pytest.mark.parametrize("kind", ["POST", "WebSocket"])
async def test_an_application_that_takes_no_messages_does_not_keep_the_server_from_stopping(anyio_backend_name, kind):
    """The server cancels it, and has nothing to wait for then."""
    async with with_a_full_queue(anyio_backend_name, kind) as (_, _, stop):
        stop.set()  # `site` ends when the server has stopped


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", id="HTTP/2"),
        pytest.param(upgrade("/nothing/here") + FRAME, id="upgrade and frame"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", id="answered"),
    ],
)
async def test_a_client_without_a_request_is_hung_up_on(anyio_backend_name, monkeypatch, sent):
    """Whatever it said before: otherwise strangers could take every file descriptor, and keep them."""
    monkeypatch.setattr(Config, "keep_alive_timeout", 0.1)
    async with site(anyio_backend_name, make().asgi) as (address, _):
        async with await anyio.connect_tcp(*address) as client:
            await client.send(sent)
            with anyio.fail_after(120), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await client.receive()


async def test_a_client_with_a_request_is_not_idle(anyio_backend_name, monkeypatch):
    """It has as long as the application takes."""
    monkeypatch.setattr(Config, "keep_alive_timeout", 0.1)
    looks, fourth = 0, anyio.Event()

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")
        await fourth.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def until_the_next_look(seconds, over):
        nonlocal looks
        looks += 1
        if looks == 4:
            fourth.set()
        return await lasts(seconds, over)

    lasts = http_server._lasts
    monkeypatch.setattr(http_server, "_lasts", until_the_next_look)
    async with site(anyio_backend_name, application) as (address, _):
        async with await anyio.connect_tcp(*address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 204 " in await client.receive()


@pytest.mark.parametrize("kind", ["GET", "WebSocket"])
async def test_a_client_that_does_not_read_does_not_keep_the_server_from_stopping(anyio_backend_name, kind):
    """Hypercorn waits, shielded or while it closes the connection, until the client takes what was sent."""

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")
        if kind == "WebSocket":
            await receive()
            await send({"type": "websocket.accept"})
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})

    with socket.socket() as client:  # it stays longer than the server
        async with site(anyio_backend_name, application) as (address, _):
            client.connect(address)
            client.sendall(upgrade("/") if kind == "WebSocket" else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await anyio.wait_readable(client)  # the answer has begun
            await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", ["GET", "WebSocket"])
async def test_an_application_that_sends_on_to_nobody_lets_others_run(anyio_backend_name, kind):
    """Hypercorn drops what is sent to a client that has gone, and does not wait for anything."""
    turns = longest = 0
    done = anyio.Event()

    async def application(scope, receive, send):
        nonlocal longest
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")
        if kind == "WebSocket":
            await receive()
            await send({"type": "websocket.accept"})
            message = {"type": "websocket.send", "bytes": bytes(100_000)}
        else:
            await send({"type": "http.response.start", "status": 200})
            message = {"type": "http.response.body", "body": bytes(100_000), "more_body": True}
        in_a_row, seen = 0, turns
        for _ in range(20_000):
            await send(message)
            in_a_row, seen = (in_a_row + 1 if seen == turns else 0), turns
            longest = max(longest, in_a_row)
        done.set()

    async def count():
        nonlocal turns
        while not done.is_set():
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with site(anyio_backend_name, application) as (address, _), anyio.create_task_group() as tasks:
        with socket.socket() as client:
            client.connect(address)
            client.sendall(upgrade("/") if kind == "WebSocket" else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await anyio.wait_readable(client)  # the answer has begun
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone, with a reset
        tasks.start_soon(count)
        with anyio.fail_after(120):
            await done.wait()
    assert longest < 1000


async def test_a_client_that_sends_on_although_it_was_told_the_end_is_hung_up_on(anyio_backend_name, monkeypatch):
    """Calls that are over are not counted any more, so their sockets must go, too."""
    monkeypatch.setattr(http_server, "ANSWER", 0.5)

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with site(anyio_backend_name, application) as (address, _):
        async with await anyio.connect_tcp(*address) as client:
            await client.send(upgrade("/"))
            assert b" 101 " in await client.receive()
            with anyio.fail_after(120), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await client.send(FRAME)
                    with anyio.move_on_after(0.01):
                        await client.receive()


@asynccontextmanager
async def one_call(stream):
    """A live call of a running stream; yields what the caller can see of its end."""
    async with memory_pair() as (ours, theirs), stream.running():
        async with stream.calls.admit(CallRequest(), "memory", "abc") as session:
            stream.calls.start(session, ours)
        yield session, theirs


async def test_a_connection_that_was_made_just_before_the_end_is_answered(anyio_backend_name, monkeypatch):
    """It was accepted, and its request is on its way."""
    monkeypatch.setattr(http_server, "FIRST", 1000)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with site(anyio_backend_name, make().asgi, grace=1000) as (address, stop):
        async with await anyio.connect_tcp(*address) as late, await anyio.connect_tcp(*address) as idle:
            await ask(address)  # so that both were accepted
            stop.set()
            with suppress(OSError):  # until the server listens no more
                while True:
                    await (await anyio.connect_tcp(*address)).aclose()
            await anyio.wait_all_tasks_blocked()
            await late.send(request)
            assert (await health(late)).startswith(b"http/1.1 200")
            with pytest.raises(anyio.EndOfStream):
                await late.receive()
            await idle.aclose()  # the end does not wait for a client that has left


async def test_answers_of_a_server_that_drains_ask_for_another_connection(anyio_backend_name):
    draining = False
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with site(anyio_backend_name, make().asgi, draining=lambda: draining) as (address, _):
        async with await anyio.connect_tcp(*address) as client:
            await client.send(request)
            assert b"connection: close" not in await health(client)
            draining = True
            await client.send(request)
            assert b"connection: close" in await health(client)
            with pytest.raises(anyio.EndOfStream):
                await client.receive()


async def test_a_stream_that_drains_takes_nobody_and_lets_calls_end_by_themselves():
    """It returns as soon as the last call has ended, long before the deadline."""
    stream = make()
    with anyio.fail_after(120):
        async with one_call(stream) as (session, _), anyio.create_task_group() as tasks:
            tasks.start_soon(stream.drain, 1000)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(NotServing, match="about to stop"):
                async with stream.calls.admit(CallRequest(), "memory"):
                    pass
            assert "abc" in stream.calls
            assert session.end is None
            session.close("goodbye")
        assert not stream.calls


async def test_at_the_deadline_calls_end_with_a_reason_that_the_peer_sees():
    """What is still live then is closed by the server."""
    stream = make()
    with anyio.fail_after(120):
        async with one_call(stream) as (session, _):
            await stream.drain(0.05)
            assert session.end is not None
            assert session.end.reason == "the server is shutting down"


async def test_the_end_of_the_lifespan_drains():
    """Under any server: with `drain_time`, calls may go on after the lifespan's end was asked for."""
    stream = make(drain_time=1000)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            ended = anyio.Event()

            async def serve_one():
                async with one_call(stream):
                    pass
                ended.set()

            tasks.start_soon(serve_one)
            while not (stream.calls and stream.calls["abc"].connection and not stream.calls.is_ready):
                await anyio.sleep(0.01)
            assert stream.calls["abc"].end is None
            assert not ended.is_set()
            stream.close("abc")
            await ended.wait()


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), "10", None])
def test_a_drain_time_that_makes_no_sense_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="drain_time"):
        make(drain_time=wrong)


# -- health


async def test_health_says_whether_calls_are_taken_and_how_many_there_are():
    """Before it runs, while it runs, while it drains."""
    stream = make()
    transport = httpx2.ASGITransport(stream.asgi)
    async with httpx2.AsyncClient(transport=transport, base_url="http://site") as client:

        async def status():
            alive, ready = await client.get("/healthz"), await client.get("/readyz")
            assert alive.json() == ready.json()
            return alive.status_code, ready.status_code, ready.json()["status"], ready.json()["calls"]

        assert await status() == (503, 503, "not running", 0)
        async with one_call(stream):
            assert await status() == (200, 200, "ready", 1)
            await stream.drain(0)
            assert await status() == (200, 503, "draining", 0)
            assert (await client.get("/readyz")).headers["Retry-After"] == "5"
            answer = await client.post("/webrtc/offer", json={"sdp": "v=0", "type": "offer", "webrtc_id": "x"})
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "5"
        assert await status() == (503, 503, "not running", 0)


def test_serve_finds_the_streams_of_an_application():
    """Mounted at a prefix, twice, or in a sub-application: each stream's calls once."""
    one, two = make(), make()
    app, inner = Starlette(), Starlette()
    one.mount(app, "/a")
    one.mount(app, "/b")
    two.mount(inner, "/c")
    app.router.routes.append(Mount("/inner", inner))
    assert {id(calls) for calls in cli._calls_of(app)} == {id(one.calls), id(two.calls)}
    assert cli._calls_of(object()) == []


# -- paths


@pytest.mark.parametrize(
    ("root_path", "path", "public"),
    [
        ("", "/talk/whip", "/talk/whip"),
        ("/api", "/talk/whip", "/api/talk/whip"),
        ("/api/", "/talk/whip", "/api/talk/whip"),
        ("/api", "/api/talk/whip", "/api/talk/whip"),
        ("/api", "/apis/whip", "/api/apis/whip"),
    ],
)
def test_the_public_path_has_the_prefix_once(root_path, path, public):
    """Whether the server's `path` still has what a proxy took away, or not."""

    class Asked:
        scope = {"root_path": root_path, "path": path}

    assert public_path(Asked()) == public


# -- refusals


class Strange(BaseException):
    """What native code may raise: no Exception."""


@pytest.mark.parametrize("error", [GeneratorExit(), SystemExit(3), Strange(), ValueError()])
@pytest.mark.parametrize("where", ["authorize", "rtc_configuration", "copy"])
async def test_whatever_the_applications_code_raises_refuses_that_request_only(where, error):
    """Exceptions that are none of Exception's, too: 500, and the next request is answered."""

    def fail(*_):
        raise error

    handler = EchoHandler()
    if where == "copy":
        handler.copy = fail
    stream = Stream(handler, webrtc=LOCAL, **({} if where == "copy" else {where: fail}))
    transport = httpx2.ASGITransport(stream.asgi)
    with anyio.fail_after(120):
        async with stream.running(), httpx2.AsyncClient(transport=transport, base_url="http://site") as client:
            if where == "rtc_configuration":
                answer = await client.get("/webrtc/configuration")
            else:
                answer = await client.post("/webrtc/offer", json={"sdp": "v=0", "type": "offer", "webrtc_id": "x"})
            assert answer.status_code == 500
            assert not stream.calls
            assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_a_process_without_file_descriptors_refuses_in_one_line(number, caplog):
    """503 with Retry-After, the slot is free, and the log has one line without a traceback."""
    stream = make()
    with anyio.fail_after(120):
        async with stream.running():
            engine = await stream.calls.engine()

            async def answer(*_, **__):
                try:
                    raise OSError(number, os.strerror(number))
                except OSError as error:
                    raise ExceptionGroup("gathering", [error]) from None

            engine.answer = answer
            transport = httpx2.ASGITransport(stream.asgi)
            async with httpx2.AsyncClient(transport=transport, base_url="http://site") as client:
                body = {"sdp": "v=0", "type": "offer", "webrtc_id": "x"}
                caplog.clear()
                response = await client.post("/webrtc/offer", json=body)
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "5"
            assert not stream.calls
            [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert "no file descriptor" in warning.getMessage()
            assert warning.exc_info is None


async def test_a_stream_that_is_not_running_refuses_on_every_route():
    """An application that forgot the lifespan: offers, WHIP and the carriers' webhooks are refused alike."""
    app = Starlette()
    make().mount(app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site") as client:
        offer = await client.post("/webrtc/offer", json={"sdp": "v=0", "type": "offer", "webrtc_id": "x"})
        webhook = await client.post("/telephone/incoming", data={"CallSid": "1"})
        for answer in (offer, webhook):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "5"
            assert "not running" in answer.text


@pytest.mark.parametrize("stripped", [True, False])
async def test_carriers_are_sent_to_the_prefix_that_a_proxy_has_taken_away(stripped):
    """With `root_path`, whether the server's paths still have the prefix or not."""
    stream = make()
    async with stream.running():
        transport = httpx2.ASGITransport(stream.asgi, root_path="/bot")
        async with httpx2.AsyncClient(transport=transport, base_url="http://voice.example") as client:
            path = "/telephone/incoming" if stripped else "/bot/telephone/incoming"
            answer = await client.post(path, data={"CallSid": "1"})
    assert 'url="wss://voice.example/bot/telephone/handler/twilio"' in answer.text


@pytest.mark.parametrize("module", ["hypercorn.trio.tcp_server", "hypercorn.asyncio.tcp_server"])
async def test_several_errors_of_a_connection_are_all_told_and_ctrl_c_passes(module, anyio_backend_name, caplog):
    """Also if the connection is cancelled at the same time."""
    errors = [KeyboardInterrupt(), ExceptionGroup("", [ValueError("one"), KeyError("two")])]
    if anyio_backend_name == "asyncio":  # trio makes its own
        errors.insert(0, asyncio.CancelledError())

    class Server:
        context = SimpleNamespace(terminated=None)

        async def run(self):
            raise BaseExceptionGroup("", errors)

    Server.__module__ = module
    with pytest.raises(KeyboardInterrupt):
        await _guard(set(), Server)().run()
    assert "ValueError('one'), KeyError('two')" in caplog.text
