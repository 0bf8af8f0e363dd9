"""Runs the command line as a process of its own, for browsers to call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path, *arguments: str):
    """`rtcflow` with `arguments`, on a free port; yields its URL, ends it by SIGINT, and leaves `folder`/server.log."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rtcflow", *arguments, "--port", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + 100
        while "http://" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        yield text.split()[text.split().index("on") + 1]
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
