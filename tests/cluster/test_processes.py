"""A cluster of real processes: any node answers about any call, and `--workers` starts one by itself."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import httpx2
import pytest
from cluster_fleet import (
    Process,
    answers,
    fleet,
    json_call,
    telephone_call,
    tell,
    wait_until,
    websocket_call,
    whip_call,
)

from rtcflow.transports.webrtc import WebRTCConfig, open_engine

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.parametrize("backend", ["asyncio", "trio"]),
]
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


def run(function, *arguments):
    return anyio.run(function, *arguments)


@pytest.mark.slow
def test_two_nodes_serve_as_one(backend, tmp_path):
    """Each kind of call, with its other requests at the other node; then the owner of a call is killed."""

    async def calls(site):
        async with httpx2.AsyncClient(timeout=20) as client, open_engine(LOCAL) as engine:
            with anyio.fail_after(120):
                for number in range(2):
                    site.front = site.nodes[number].url
                    site.any = lambda number=number: site.nodes[1 - number].url
                    assert await json_call(site, client, engine, f"json{number}") in {n.pid for n in site.nodes}
                    await whip_call(site, client, engine)
                    assert await websocket_call(site, client, f"ws{number}") == site.nodes[number].pid
                    await telephone_call(site, client)
                while any(node.calls for node in site.nodes):
                    await anyio.sleep(0.02)
                call = await engine.offer()
                offer = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "lost"}
                assert (await client.post(f"{site.front}/webrtc/offer", json=offer)).status_code == 200
                owner = site.owner()
                (other,) = [node for node in site.nodes if node is not owner]
                owner.process.kill()
                owner.wait()
                asked = await tell(client, other.url, "lost", 1)
                assert (asked.status_code, asked.json()["meta"]["error"]) == (410, "call_lost")

    with fleet(tmp_path, 2, backend) as site:
        run(calls, site)


@pytest.mark.slow
def test_workers(backend, tmp_path):
    """They start with a NATS server of their own, one that is killed is replaced, SIGHUP replaces all, SIGTERM ends."""
    server = Process(tmp_path, "--workers", "2", "--backend", backend)
    try:
        wait_until(lambda: "with 2 workers" in server.text() or server.process.poll() is not None, server.text)
        assert answers(server.url)

        def workers():
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            return {pid for pid in map(int, children) if is_worker(pid)}

        def is_worker(pid):
            with suppress(OSError):  # it has just ended
                return b"--as-worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            return False

        first = workers()
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        wait_until(lambda: len(workers() - {min(first)}) == 2, server.text)
        wait_until(lambda: answers(server.url), server.text)
        second = workers()
        server.send(signal.SIGHUP)
        wait_until(lambda: "all workers were replaced" in server.text(), server.text)
        wait_until(lambda: len(workers()) == 2 and not workers() & second, server.text)
        assert answers(server.url)
        third = workers()
        server.send(signal.SIGTERM)
        assert server.wait() == 0, server.text()
        assert not any(Path(f"/proc/{pid}").exists() for pid in third)
    finally:
        server.close()
