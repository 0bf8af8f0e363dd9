"""A coturn of one's own, on 127.0.0.1, with a shared secret; `needs_coturn` skips where Debian's is not installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECRET = "between us and the relay"

needs_coturn = pytest.mark.skipif(shutil.which("turnserver") is None, reason="turnserver is not installed (coturn)")


@contextmanager
def coturn(folder: Path) -> Iterator[int]:
    """Run one, which relays to and from 127.0.0.1 only; yields its port, for UDP and TCP."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    options = {
        "listening-ip": "127.0.0.1",
        "listening-port": port,
        "relay-ip": "127.0.0.1",
        "realm": "rtcflow.test",
        "static-auth-secret": SECRET,
        "pidfile": folder / "turnserver.pid",
        "log-file": "stdout",
        "userdb": folder / "users.db",
    }
    flags = ["-n", "--use-auth-secret", "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli"]
    command = ["turnserver", *flags, *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "turnserver.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.kill()  # it takes its time over SIGTERM, and there is nothing to save


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("turnserver did not start")
