"""Six machines as network namespaces: nginx on one, NATS on another, and a node on each of four. A cable is pulled.

It needs root, `ip` and nginx; part of ``nox -s cluster``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from cluster_fleet import Fleet, Process, answers, some_of_each_kind, tell, tell_when_back, wait_until
from nats_process import nats_binary
from network_namespaces import can_make_namespaces

from rtcflow.client.lines import call_by_websocket
from rtcflow.transports.webrtc import WebRTCConfig

sys.path.insert(0, str(Path(__file__).parent))
from test_nginx import DEPLOY, Nginx


def run(*words):
    subprocess.run(words, check=True, timeout=20, capture_output=True)


pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        shutil.which("nginx") is None or not can_make_namespaces(), reason="no nginx, or no network namespaces here"
    ),
]


class Machines:
    """Namespaces with a cable each to one switch. This one has the address ``.1``."""

    def __init__(self, stack):
        self._stack = stack
        self._number = os.getpid() % 200
        self._bridge = f"rtcb{self._number}"
        self.here = self.address(1)
        stack.callback(subprocess.run, ["ip", "link", "del", self._bridge], check=False, capture_output=True)
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.here}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")

    def address(self, machine):
        return f"10.98.{self._number}.{machine}"

    def add(self, machine):
        """Another machine; returns the words that run a command on it, and its address."""
        name, cable = f"rtcflow-{self._number}-{machine}", self._cable(machine)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
        run("ip", "netns", "add", name)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", cable, "master", self._bridge, "up")
        run("ip", "-n", name, "addr", "add", f"{self.address(machine)}/24", "dev", "eth0")
        for one in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", one, "up")
        return ("ip", "netns", "exec", name), self.address(machine)

    def pull(self, machine):
        run("ip", "link", "set", self._cable(machine), "down")

    def plug(self, machine):
        run("ip", "link", "set", self._cable(machine), "up")

    def _cable(self, machine):
        return f"rtcc{self._number}-{machine}"


@contextmanager
def nats(folder, within, address):
    """NATS with `deploy/nats.conf`, but for the address."""
    settings = folder / "nats.conf"
    settings.write_text((DEPLOY / "nats.conf").read_text().replace('host: "127.0.0.1"', f'host: "{address}"'))
    process = subprocess.Popen(
        [*within, nats_binary(), "-c", str(settings)],
        env={**os.environ, "RTCFLOW_NATS_TOKEN": "secret"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"nats://secret@{address}:4222"
    finally:
        process.kill()
        process.wait()


NODES, NATS = (2, 3, 4, 5), 6


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_machines_serve_as_one_and_lose_one_another(backend, tmp_path):
    """Calls of all kinds through nginx. Then NATS is cut off, and later a node: nothing ends, no 404, no 410."""
    with ExitStack() as stack:
        machines = Machines(stack)
        url = stack.enter_context(nats(tmp_path, *machines.add(NATS)))
        nodes = []
        for machine in NODES:
            within, address = machines.add(machine)
            options = {"host": address, "port": 8000 + machine, "within": within}
            nodes.append(Process(tmp_path, "--backend", backend, **options, NATS=url, ADDRESS=address))
            stack.callback(nodes[-1].close)
        for node in nodes:
            node.wait_ready()
        nginx = Nginx(tmp_path, nodes)
        stack.callback(nginx.close)
        wait_until(lambda: answers(nginx.url), "nginx does not answer")
        site = Fleet(None, nodes)
        site.front = nginx.url
        webrtc = WebRTCConfig(host_addresses=(machines.here,))
        anyio.run(lambda: some_of_each_kind(site, 40, webrtc=webrtc))
        anyio.run(_without_nats, machines, nodes)
        anyio.run(_without_the_first, machines, nodes)
        assert all("Traceback" not in node.text() for node in nodes)


async def _without_nats(machines, nodes):
    home, *others = nodes
    with anyio.fail_after(120):
        async with httpx2.AsyncClient(timeout=60) as client:
            async with call_by_websocket(home.url.replace("http", "ws"), websocket_id="live"):
                while (await tell(client, others[0].url, "live", 0)).status_code != 200:
                    await anyio.sleep(0.02)
                machines.pull(NATS)
                for node in others:
                    asked = await tell(client, node.url, "live", 1)
                    assert asked.status_code == 503, asked.text
                    async with call_by_websocket(node.url.replace("http", "ws"), websocket_id=f"at{node.port}"):
                        while (told := await tell(client, node.url, f"at{node.port}", 2)).status_code in {404, 503}:
                            await anyio.sleep(0.02)  # its start message is on its way, or NATS is still waited for
                        assert told.status_code == 200, told.text
                assert (await tell(client, home.url, "live", 3)).status_code == 200
                machines.plug(NATS)
                for node in others:
                    await tell_when_back(client, node.url, "live", 4)


async def _without_the_first(machines, nodes):
    """Its own callers cannot reach it either, but they need not notice: TCP sends again what was lost."""
    home, *others = nodes
    with anyio.fail_after(120):
        async with httpx2.AsyncClient(timeout=60) as client:
            async with call_by_websocket(home.url.replace("http", "ws"), websocket_id="cut_off"):
                while (await tell(client, others[0].url, "cut_off", 0)).status_code != 200:
                    await anyio.sleep(0.02)
                machines.pull(NODES[0])
                asked = await tell(client, others[0].url, "cut_off", 1)
                assert asked.status_code == 503, asked.text
                machines.plug(NODES[0])
                for node in others:
                    await tell_when_back(client, node.url, "cut_off", 2)
