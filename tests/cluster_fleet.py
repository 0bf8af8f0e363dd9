"""A NATS server, some nodes as processes of their own, and clients."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import httpx2
from nats_process import NatsProcess

from rtcflow.client import connect
from rtcflow.client.lines import call_by_telephone, call_by_websocket
from rtcflow.frames import AudioFormat
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

HERE = Path(__file__).parent / "cluster"
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=60).status_code == 200
    except httpx2.HTTPError:
        return False


RTCFLOW = ("rtcflow", "serve", "cluster_app:stream", "--host", "{host}", "--port", "{port}")
UVICORN = ("uvicorn", "cluster_app:app", "--port", "{port}")
HYPERCORN = ("hypercorn", "cluster_app:app", "--bind", "127.0.0.1:{port}")


class Process:
    """A server with the tests' application; by default `rtcflow serve`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        server: tuple[str, ...] = RTCFLOW,
        host: str = "127.0.0.1",
        port: int = 0,
        within: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://{host}:{self.port}"
        self.log = folder / f"{self.port}.log"
        words = [word.format(host=host, port=self.port) for word in server]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", *words, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=HERE,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def calls(self) -> int:
        return httpx2.get(f"{self.url}/healthz", timeout=5).json()["calls"]

    async def count(self, client: httpx2.AsyncClient) -> int:
        return (await client.get(f"{self.url}/healthz")).json()["calls"]

    def text(self) -> str:
        return self.log.read_text()

    def wait_ready(self) -> None:
        wait_until(lambda: answers(self.url) or self.process.poll() is not None, self.text)
        assert self.process.poll() is None, self.text()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            self.send(signal.SIGTERM)
            try:
                self.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Fleet:
    """Nodes of one cluster."""

    def __init__(self, nats: NatsProcess, nodes: list[Process]) -> None:
        self.nats = nats
        self.nodes = nodes
        self.front = nodes[0].url

    def any(self) -> str:
        return random.choice(self.nodes).url

    def owner(self) -> Process:
        (found,) = [node for node in self.nodes if node.calls]
        return found


@contextmanager
def fleet(folder: Path, number: int, backend: str, *, each: Sequence[Mapping[str, str]] = (), **environment: str):
    """Some nodes that know one another; `each` is the environment of the first of them."""
    with ExitStack() as stack:
        nats = NatsProcess()
        stack.callback(nats.kill)
        nodes = []
        for k in range(number):
            own = {"NATS": nats.url, **environment, **(each[k] if k < len(each) else {})}
            node = Process(folder, "--backend", backend, **own)
            stack.callback(node.close)
            nodes.append(node)
        for node in nodes:
            node.wait_ready()
        time.sleep(1)  # a report of each
        yield Fleet(nats, nodes)


class Link:
    """A TCP way to `port` that can be cut: then nothing passes, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, function, *arguments) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments, daemon=True))
        self._threads[-1].start()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def reset(self) -> None:
        """End each connection; new ones can be made."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._open.set()
        for one in (self._listener, *self._sockets):  # wakes the threads that read it
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    self._start(self._pass, source, sink)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
LIMIT = 120
"""Seconds for one test: a busy machine fails nothing."""


@asynccontextmanager
async def caller(webrtc=LOCAL, **options):
    with anyio.fail_after(LIMIT):
        async with httpx2.AsyncClient(timeout=60, **options) as client, open_engine(webrtc) as engine:
            yield client, engine


async def until(condition, *arguments):
    while not await condition(*arguments):
        await anyio.sleep(0.05)


async def free(site, client):
    """Whether no node has a call."""
    return not any([await node.count(client) for node in site.nodes if node.process.poll() is None])


# -- clients: each makes a call through the front door, and its other requests anywhere


@asynccontextmanager
async def live_call(url, engine, webrtc_id):
    """A WebRTC call with media flowing."""
    async with connect(url, webrtc_id=webrtc_id, engine=engine, timeout=30) as call:
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        yield call


async def tell(client, where, webrtc_id, value):
    return await client.post(f"{where}/webrtc/input", json={"webrtc_id": webrtc_id, "args": [value]})


async def tell_when_back(client, where, webrtc_id, value):
    """The same, again until the node of the call can be reached. Nothing but 503 may be said before."""
    while (told := await tell(client, where, webrtc_id, value)).status_code == 503:
        await anyio.sleep(0.05)
    assert told.status_code == 200, told.text


async def hear(client, where, webrtc_id, value, ask):
    """Read the outputs at one node until `value`, which is told at another one, comes; returns the process."""
    import json

    async with client.stream("GET", f"{where}/webrtc/outputs", params={"webrtc_id": webrtc_id}) as response:
        assert response.status_code == 200, await response.aread()
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith(":")
        told = await tell(client, ask, webrtc_id, value)
        assert told.status_code == 200, told.text
        async for line in lines:
            if line.startswith("data:"):
                process, said = json.loads(line.removeprefix("data:"))
                if said == value:
                    return process
    raise AssertionError("the outputs ended")


async def json_call(fleet, client, engine, webrtc_id):
    """WebRTC by JSON: offer, candidates, outputs and inputs, each anywhere."""
    call = await engine.offer()
    try:
        offer = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": webrtc_id}
        answer = await client.post(f"{fleet.front}/webrtc/offer", json=offer)
        assert answer.status_code == 200, answer.text
        for _ in range(2):
            end = {"type": "ice-candidate", "webrtc_id": webrtc_id, "candidate": None}
            told = await client.post(f"{fleet.any()}/webrtc/offer", json=end)
            assert told.status_code == 200, told.text
        await call.accept_answer(answer.json()["sdp"])
        return await hear(client, fleet.any(), webrtc_id, f"to {webrtc_id}", fleet.any())
    finally:
        await call.aclose()


async def whip_call(fleet, client, engine):
    """WHIP: POST, PATCH, DELETE."""
    call = await engine.offer(receive=False, messages=False)
    try:
        created = await client.post(f"{fleet.front}/whip", content=call.offer_sdp, headers=SDP)
        assert created.status_code == 201, created.text
        session = created.headers["location"]
        end = "a=end-of-candidates\r\n"
        headers = FRAGMENT | {"If-Match": created.headers["etag"]}
        patched = await client.patch(f"{fleet.any()}{session}", content=end, headers=headers)
        assert patched.status_code in {204, 422}, patched.text
        deleted = await client.delete(f"{fleet.any()}{session}")
        assert deleted.status_code == 200, deleted.text
    finally:
        await call.aclose()


async def websocket_call(fleet, client, webrtc_id):
    """A call over a WebSocket, with inputs and outputs anywhere."""
    async with call_by_websocket(fleet.front.replace("http", "ws"), websocket_id=webrtc_id):
        with anyio.fail_after(120):
            while (await tell(client, fleet.any(), webrtc_id, 0)).status_code == 404:  # its start message is on its way
                await anyio.sleep(0.01)
        return await hear(client, fleet.any(), webrtc_id, f"to {webrtc_id}", fleet.any())


async def telephone_call(fleet, client):
    """A carrier: the webhook at one node, the media at another one."""
    answer = await client.post(f"{fleet.any()}/telephone/incoming", data={"CallSid": "CA1", "From": "+1", "To": "+2"})
    assert answer.status_code == 200, answer.text
    assert "/telephone/handler/twilio" in answer.text
    async with call_by_telephone(f"{fleet.front.replace('http', 'ws')}/telephone/handler/twilio", "twilio"):
        await anyio.sleep(0.1)


async def some_of_each_kind(site, calls, at_once=8, webrtc=LOCAL):
    """Calls of all kinds through the front door, with their other requests anywhere."""
    async with caller(webrtc) as (client, engine):
        limit = anyio.CapacityLimiter(at_once)

        async def one(number):
            async with limit:
                match number % 10:
                    case 0 | 1 | 2 | 3:
                        await json_call(site, client, engine, f"json{number}")
                    case 4 | 5 | 6:
                        await whip_call(site, client, engine)
                    case 7 | 8:
                        await websocket_call(site, client, f"ws{number}")
                    case _:
                        await telephone_call(site, client)

        async with anyio.create_task_group() as tasks:
            for number in range(calls):
                tasks.start_soon(one, number)
        await until(free, site, client)
