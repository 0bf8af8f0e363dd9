"""WHIP and WHEP with clients that are not ours: GStreamer's webrtcbin, and ten lines in a browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chromium

pytestmark = [pytest.mark.interop, pytest.mark.slow]

SYSTEM_PYTHON = "/usr/bin/python3"
CLIENT = Path(__file__).with_name("gst_whip.py")

APPLICATION = '''
import anyio
import numpy as np
import rtcflow

TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]


class Meter(rtcflow.AsyncStreamHandler):
    """Says a tone, and prints when it has heard something."""

    def __init__(self):
        super().__init__(output_sample_rate=48000, input_sample_rate=48000)
        self.heard = False

    def copy(self):
        return Meter()

    async def receive(self, frame):
        if not self.heard and np.abs(frame[1]).max() > 1000:
            self.heard = True
            print("heard", self.context.custom["signalling"], flush=True)

    async def emit(self):
        await anyio.sleep(0.02)
        return 48000, TONE


stream = rtcflow.Stream(Meter(), concurrency_limit=4)
'''

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "whip.md"


def page_of_the_documentation() -> str:
    """The ten lines of docs/whip.md, as one expression that leaves its call where the test finds it."""
    (lines,) = re.findall(r"^```js\n(.*?)^```$", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    return f"(async () => {{ {lines}\n window.call = {{ peer, session }}; }})()"


@pytest.fixture(scope="module")
def gstreamer() -> None:
    """Skips where the system's Python can make no webrtcbin that can do ICE."""
    made = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstWebRTC', '1.0')\n"
        "from gi.repository import Gst, GstWebRTC; Gst.init(None)\n"
        "assert Gst.ElementFactory.make('webrtcbin') and Gst.ElementFactory.make('nicesrc')"
    )
    found = (
        Path(SYSTEM_PYTHON).exists()
        and not subprocess.run([SYSTEM_PYTHON, "-c", made], capture_output=True, timeout=150).returncode
    )
    if not found:
        pytest.skip("GStreamer's webrtcbin and its Python are not installed")


@contextmanager
def serving(folder: Path, backend: str):
    """The application above as a process of its own; yields its URL and its log."""
    (folder / "meter.py").write_text(APPLICATION)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rtcflow", "serve", "meter:stream", "--port", "0", "--backend", backend],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(folder)},
        )
    try:
        deadline = time.monotonic() + 100
        while "http://" not in (text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        yield next(word for word in text.split() if word.startswith("http://")), log
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0
    finally:
        process.kill()
        process.wait()


def play(*arguments: str) -> list[str]:
    """What the GStreamer client prints."""
    done = subprocess.run([SYSTEM_PYTHON, str(CLIENT), *arguments], capture_output=True, text=True, timeout=150)
    return done.stdout.splitlines()


@pytest.mark.usefixtures("gstreamer")
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_gstreamer_sends_and_plays(backend, tmp_path):
    """webrtcbin publishes a tone by WHIP, which the handler hears, and plays the handler's tone by WHEP."""
    with serving(tmp_path, backend) as (url, log):
        assert play(f"{url}/whip") == ["POST 201", "connected", "DELETE 200"]
        assert "heard whip" in log.read_text()
        created, connected, heard, deleted = play(f"{url}/whep", "--play")
        assert (created, connected, deleted) == ("POST 201", "connected", "DELETE 200")
        assert int(heard.split()[1]) > 4000
        assert log.read_text().count("the peer left") == 2


@pytest.mark.skipif(chromium.find() is None, reason="chromium is not installed")
def test_ten_lines_in_a_browser_send(tmp_path):
    """The page of docs/whip.md publishes its microphone, without any library or candidate, and ends it."""
    flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with serving(tmp_path, "asyncio") as (url, log), chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(url)
        page.evaluate(page_of_the_documentation())
        page.wait_for("call.peer.connectionState === 'connected'")
        deadline = time.monotonic() + 100
        while "heard whip" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert page.evaluate("fetch(call.session, { method: 'DELETE' }).then((response) => response.status)") == 200
