"""nginx in front of four nodes, with the settings of `deploy`; NATS and coturn with theirs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from cluster_fleet import Fleet, Process, answers, free_port, some_of_each_kind, wait_until
from nats_process import NatsProcess

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("nginx") is None, reason="nginx is not installed"),
]


class Nginx:
    """nginx with `deploy/nginx.conf`, but for the ports and the place of its files."""

    def __init__(self, folder: Path, nodes: list[Process]) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        settings = (DEPLOY / "nginx.conf").read_text()
        for line, node in zip(re.findall(r"server 127\.0\.0\.1:\d+", settings), nodes, strict=True):
            settings = settings.replace(line, f"server {node.url.removeprefix('http://')}")
        settings = settings.replace("listen 127.0.0.1:8080", f"listen 127.0.0.1:{port}")
        settings = settings.replace("access_log /dev/stdout", f"access_log {folder}/access.log")
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        settings = settings.replace("http {\n", f"http {{\n{temporary}", 1)
        file = folder / "nginx.conf"
        file.write_text(f"pid {folder}/nginx.pid;\ndaemon off;\n{settings}")
        self.access = folder / "access.log"
        self.process = subprocess.Popen(
            ["nginx", "-c", str(file), "-e", str(folder / "error.log")], stdin=subprocess.DEVNULL
        )

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_hundred_calls(backend, tmp_path, monkeypatch):
    """WebRTC (JSON and WHIP), WebSocket, telephone; their other requests go to a random node: no 404."""
    with ExitStack() as stack:
        monkeypatch.setenv("RTCFLOW_NATS_TOKEN", "secret")
        settings = tmp_path / "nats.conf"
        settings.write_text(re.sub(r"(?m)^port: .*$", "", (DEPLOY / "nats.conf").read_text()))
        nats = NatsProcess("-c", str(settings))
        stack.callback(nats.kill)
        url = nats.url.replace("//", "//secret@")
        nodes = [Process(tmp_path, "--backend", backend, NATS=url) for _ in range(4)]
        for node in nodes:
            stack.callback(node.close)
        nginx = Nginx(tmp_path, nodes)
        stack.callback(nginx.close)
        for node in nodes:
            node.wait_ready()
        wait_until(lambda: answers(nginx.url), "nginx does not answer")
        time.sleep(1)  # two reports of each

        site = Fleet(nats, nodes)
        site.front = nginx.url
        anyio.run(some_of_each_kind, site, 200)
        assert len(nginx.access.read_text().splitlines()) >= 200  # all calls came through it
        assert all("Traceback" not in node.text() for node in nodes)


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="turnserver is not installed (coturn)")
def test_coturn_starts_with_its_settings(tmp_path):
    settings = (DEPLOY / "turnserver.conf").read_text().replace("3478", str(port := free_port()))
    file = tmp_path / "turnserver.conf"
    file.write_text(settings + f"listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\npidfile={tmp_path}/turn.pid\n")
    log = tmp_path / "turn.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["turnserver", "-c", str(file), "--log-file", "stdout", "--userdb", str(tmp_path / "users.db")],
            stdout=output, stderr=output, env=os.environ, cwd=tmp_path,
        )  # fmt: skip
    try:

        def listens():
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return False
            return True

        wait_until(listens, log.read_text)
        assert "Bad configuration" not in log.read_text()
        assert "Unknown argument" not in log.read_text()
    finally:
        process.kill()
        process.wait()
