"""Calls that end in every rude way leave nothing: no slot, no file descriptor, no task, on every server and backend."""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import json
import os
import socket
import struct
import time
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute
from starlette.websockets import WebSocket
from unit.routes.test_asgi_lines import application, make

from rtcflow.routes.linger import QUIET, SOON, Lingering
from rtcflow.transports.line_socket import FAIR, TURNS, LineLimits, LineSocket
from rtcflow.transports.telephone import TelephoneConfig

pytestmark = pytest.mark.anyio

SERVERS = ["asyncio uvicorn", "asyncio hypercorn", "trio hypercorn"]
KINDS = ["FIN", "RST", "half-open", "junk", "flood"]
WAYS = [*(("websocket", kind) for kind in KINDS), ("telephone", "RST"), ("telephone", "flood")]
AT_ONCE = 10


@pytest.fixture(params=SERVERS)
def anyio_backend(request):
    return (request.param.split()[0], {})


@pytest.fixture
def server_name(request, anyio_backend):
    return request.node.callspec.params["anyio_backend"].split()[1]


@asynccontextmanager
async def serving(stream, backend, name):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        if name == "hypercorn":
            from hypercorn.config import Config

            config = Config()
            config.bind, config.loglevel, config.graceful_timeout = [f"fd://{listener.detach()}"], "ERROR", 0.2
            serve = importlib.import_module(f"hypercorn.{backend}").serve
            tasks.start_soon(lambda: serve(application(stream), config, shutdown_trigger=stop.wait))
        else:
            import uvicorn

            one = uvicorn.Server(uvicorn.Config(application(stream), log_level="error", ws="wsproto", lifespan="on"))
            one.capture_signals = contextlib.nullcontext
            tasks.start_soon(lambda: one.serve(sockets=[listener]))
        try:
            with anyio.fail_after(120):
                while not stream.is_running:
                    await anyio.sleep(0.01)
            yield port
        finally:
            stop.set()
            if name == "uvicorn":
                one.should_exit = True
    listener.close()


def frame(kind, payload):
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
    return bytes([0x80 | kind]) + length + bytes(4) + payload


def text(said):
    return frame(1, json.dumps(said).encode())


STARTS = {
    "websocket": [{"event": "start"}],
    "telephone": [
        {"event": "connected", "protocol": "Call"},
        {
            "event": "start",
            "streamSid": "MZ",
            "start": {"callSid": "CA", "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000}},
        },
    ],
}
ROUTES = {"websocket": "/websocket/offer", "telephone": "/telephone/handler/twilio"}
VOICE = text({"event": "media", "media": {"payload": base64.b64encode(160 * b"\x55").decode()}})


async def call_rudely(port, line, kind):
    """A call with media flowing both ways, and its end; nothing of the caller is left."""
    upgrade = (
        f"GET {ROUTES[line]} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    start = b"".join(map(text, STARTS[line]))
    async with await anyio.connect_tcp("127.0.0.1", port) as peer:
        await peer.send(upgrade)
        assert b" 101 " in await peer.receive()
        await peer.send(start)
        heard = 0
        with anyio.fail_after(120):
            while heard < 2000:  # its own voice: media flows both ways
                await peer.send(VOICE)
                with anyio.move_on_after(0.02):
                    heard += len(await peer.receive())
        with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            if kind == "half-open":
                await peer.send_eof()
                with anyio.move_on_after(0.3):
                    await peer.receive()
            elif kind in {"junk", "flood"}:
                with anyio.move_on_after(0.5):
                    for number in range(3000 if kind == "flood" else 200):
                        await peer.send(frame(1, b"[") if kind == "junk" and not number else VOICE)
        if kind != "FIN":
            with contextlib.suppress(OSError):  # where the server was first, asyncio has closed the socket already
                reset(peer)


def reset(peer):
    peer.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def open_files():
    """What each open file is, by its number."""
    gc.collect()
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of this very listing
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="file descriptors are counted in /proc")
@pytest.mark.parametrize(
    "ways", [WAYS * 2, *(pytest.param([way] * AT_ONCE, marks=pytest.mark.nightly) for way in WAYS)]
)
async def test_a_call_that_ends_rudely_leaves_nothing(anyio_backend_name, server_name, ways):
    """After two calls of each way there are as many open files and taken slots as before the first; nightly, ten."""
    stream = make(concurrency_limit=50, telephone=TelephoneConfig(unsigned_is_fine=True))
    async with serving(stream, anyio_backend_name, server_name) as port:
        for line in STARTS:
            await call_rudely(port, line, "FIN")  # what is made once
        await anyio.sleep(0.3)
        before = open_files()
        async with anyio.create_task_group() as calls:
            for line, kind in ways:
                calls.start_soon(call_rudely, port, line, kind)
        with anyio.move_on_after(60):
            while len(open_files()) > len(before) or len(stream.calls):
                await anyio.sleep(0.05)
        after = open_files()
        assert len(after) <= len(before), (before, after)
        assert not len(stream.calls)


async def test_what_a_peer_sends_after_its_call_is_taken_until_there_is_no_more():
    """More than any server's queue holds; and then the application returns."""
    sent, received = anyio.create_memory_object_stream(10)

    async def over(scope, receive, send):
        return

    async def send_on():
        async with sent:
            for number in range(100):
                await sent.send({"type": "websocket.receive", "text": str(number)})
            await sent.send({"type": "websocket.disconnect", "code": 1006})
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks, received:
        tasks.start_soon(send_on)
        with anyio.fail_after(120):
            await Lingering(over)({"type": "websocket"}, received.receive, None)
        assert received.statistics().current_buffer_used == 0
        assert received.statistics().tasks_waiting_send == 0
        tasks.cancel_scope.cancel()


async def test_what_came_while_the_loop_was_stalled_is_taken():
    """The time without a message was over before the server could read any."""
    sent, received = anyio.create_memory_object_stream(10)

    async def over(scope, receive, send):
        return

    with sent, received:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Lingering(over), {"type": "websocket"}, received.receive, None)
            while not received.statistics().tasks_waiting_receive:
                await anyio.lowlevel.checkpoint()
            time.sleep(QUIET * SOON)  # another handler blocks the loop
            for _ in range(3):  # the server's reader takes a turn of the loop or two
                await anyio.lowlevel.checkpoint()
            with anyio.fail_after(120):
                for _ in range(100):
                    await sent.send({"type": "websocket.receive", "text": ""})
                await sent.send({"type": "websocket.disconnect", "code": 1006})


async def test_a_stall_of_the_loop_is_no_silence_of_the_peer():
    """When it is over, the time is, too; but what the peer sent meanwhile is there, and is read first."""
    sent, received = anyio.create_memory_object_stream(10)
    link = LineSocket(WebSocket({"type": "websocket"}, received.receive, None), LineLimits(idle=0.5))
    lost = []

    async def listen():
        while True:
            await link.receive()

    async def watch():
        lost.append(await link.wait_lost())

    with sent, received:
        async with anyio.create_task_group() as tasks:
            sent.send_nowait({"type": "websocket.connect"})
            tasks.start_soon(listen)
            tasks.start_soon(watch)
            while not received.statistics().tasks_waiting_receive:
                await anyio.lowlevel.checkpoint()
            time.sleep(0.5)  # a handler blocks the loop
            for _ in range(3):  # the server's reader takes a turn of the loop or two
                await anyio.lowlevel.checkpoint()
            sent.send_nowait({"type": "websocket.receive", "text": ""})
            for _ in range(2 * TURNS):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert not lost


@pytest.mark.parametrize("when", ["in a call", "after it"])
async def test_a_line_that_is_cancelled_leaves_room_in_the_servers_queue(when):
    """Hypercorn puts the peer's end into the queue of an application that was cancelled, and waits for room."""
    sent, received = anyio.create_memory_object_stream(FAIR + 10)

    async def app(scope, receive, send):
        if when == "in a call":
            await anyio.sleep_forever()

    async def take():
        # Like Hypercorn's queue: what is there is taken without waiting.
        try:
            return received.receive_nowait()
        except anyio.WouldBlock:
            return await received.receive()

    with sent, received:
        for _ in range(FAIR + 10):  # after `FAIR` of them it lets others run
            sent.send_nowait({"type": "websocket.receive", "text": ""})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Lingering(app), {"type": "websocket"}, take, None)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert received.statistics().current_buffer_used == 0
