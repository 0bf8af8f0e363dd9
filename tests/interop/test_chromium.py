"""A real browser opens the page, presses the button, and hears itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chromium
from serving import serving

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason="chromium is not installed"),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"),
]

CALL = "document.getElementById('call').dataset"


def demo(folder: Path, backend: str):
    """The demo, as a process of its own."""
    return serving(folder, "demo", "--backend", backend)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    words = "Good morning. This is a call from a browser, and it should come back as it went."
    subprocess.run(["espeak-ng", "-w", str(path), words], check=True, timeout=150)
    return path


@pytest.mark.parametrize("backend", ["trio", pytest.param("asyncio", marks=pytest.mark.nightly)])
def test_a_browser_hears_itself(backend, speech, tmp_path):
    """Chromium with speech as its microphone connects, receives packets, and its analyser hears speech come back."""
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
    with demo(tmp_path, backend) as url, chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(url)
        page.screenshot(tmp_path / "before.png")
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'connected'")
        asked = "performance.getEntriesByType('resource').some(entry => entry.name.endsWith('webrtc/configuration'))"
        assert page.evaluate(asked)
        page.wait_for(f"Number({CALL}.packetsReceived) > 100")
        page.wait_for(f"Number({CALL}.heardPeak) > 0.05")
        page.wait_for("document.getElementById('round-trip').textContent.includes('ms')")
        page.screenshot(tmp_path / "connected.png")
        page.click("#mute")
        page.wait_for(f"Number({CALL}.heardLevel) < 0.001")
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'ended'")
        assert not [line for line in browser.logs if "Content Security Policy" in line or "exception" in line], (
            browser.logs
        )
        deadline = time.monotonic() + 100
        while "ended after" not in (tmp_path / "server.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "the peer left" in (tmp_path / "server.log").read_text()


def test_a_browser_hears_itself_over_a_bad_network(speech, tmp_path):
    """With 5 % of its packets lost and the others late by up to 30 ms, the analyser hears speech come back."""
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
    with serving(tmp_path, "serve", "lossy_app:app") as url, chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(url)
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'connected'")
        page.wait_for(f"Number({CALL}.packetsReceived) > 300")
        page.wait_for(f"Number({CALL}.heardPeak) > 0.05")
        page.screenshot(tmp_path / "lossy.png")
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'ended'")
        deadline = time.monotonic() + 100
        while "ended after" not in (log := (tmp_path / "server.log").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    lost = re.search(r"(\d+) packets lost", log)
    assert lost is not None, log
    assert int(lost[1]) >= 5


def test_the_page_shows_when_the_server_ends_the_call(speech, tmp_path):
    """When the server stops, the page says so, and why; a further call says that nobody answers."""
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
    with chromium.chromium(tmp_path, *flags) as browser:
        with demo(tmp_path, "trio") as url:
            page = browser.open(url)
            page.click("#toggle")
            page.wait_for(f"{CALL}.status === 'connected'")
            page.wait_for(f"Number({CALL}.packetsReceived) > 50")  # the data channel is open by now
        page.wait_for(f"{CALL}.status === 'ended'")
        assert "shutting down" in page.evaluate("document.getElementById('status').textContent")
        page.click("#toggle")
        page.wait_for(f"{CALL}.status === 'failed'")
        assert "does not answer" in page.evaluate("document.getElementById('trouble').textContent")
        assert page.evaluate("document.getElementById('toggle-word').textContent") == "Start"
