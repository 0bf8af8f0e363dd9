"""A caller whose network changes in mid-call: its address is gone, and another is there. Two network namespaces.

It needs root and `ip`, and real time: `pytest -m nightly tests/interop/test_network_change.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SERVER, BEFORE, AFTER = "10.99.0.1", "10.99.0.2", "10.99.0.3"


def run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=20, capture_output=True)


def can_make_namespaces() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"rtcflow-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        run("ip", "netns", "del", name)
    return made


pytestmark = [pytest.mark.nightly, pytest.mark.skipif(not can_make_namespaces(), reason="no network namespaces here")]


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them: the server's and the caller's."""
    server, caller = (f"rtcflow-{name}-{os.getpid()}" for name in ("server", "caller"))
    try:
        for name in (server, caller):
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "cable-s", "netns", server, "type", "veth", "peer", "name", "cable-c", "netns", caller)
        for name, cable, address in ((server, "cable-s", SERVER), (caller, "cable-c", BEFORE)):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", cable)
            for one in (cable, "lo"):
                run("ip", "-n", name, "link", "set", one, "up")
        yield server, caller
    finally:
        for name in (server, caller):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def process(network: str, log: Path, *words: str) -> Iterator[Callable[[str], str]]:
    """Run Python with `words` in `network`; yields a function that waits until its output has a word."""
    with log.open("wb") as output:
        command = ["ip", "netns", "exec", network, sys.executable, *words]
        program = subprocess.Popen(
            command, cwd=HERE, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )

    def until(word: str) -> str:
        deadline = time.monotonic() + 40
        while word not in (text := log.read_text()):
            assert program.poll() is None or word in log.read_text(), text
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        return text

    try:
        yield until
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("kind", ["webrtc", "websocket"])
def test_a_change_of_network_costs_two_seconds_of_silence_at_most(networks, tmp_path, kind):
    """The old address is gone with everything that was sent to it; the call goes on from the new one."""
    server, caller = networks
    with process(
        server, tmp_path / "server.log", *f"-m rtcflow serve network_app:stream --host {SERVER} --port 8000".split()
    ) as served:
        served("http://")
        with process(caller, tmp_path / "caller.log", "network_caller.py", kind, f"{SERVER}:8000") as called:
            called("ready")
            run("ip", "-n", caller, "addr", "del", f"{BEFORE}/24", "dev", "cable-c")
            run("ip", "-n", caller, "addr", "add", f"{AFTER}/24", "dev", "cable-c")
            told = json.loads(called("silence").strip().splitlines()[-1])
        assert "resumed" in served("resumed")
    print(told)
    assert told["resumed"] == 1
    assert told["silence"] <= 2
