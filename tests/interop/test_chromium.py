"""A real browser opens the page, presses the button, and hears itself."""

from __future__ import annotations

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
    subprocess.run(["espeak-ng", "-w", str(path), words], check=True, timeout=20)
    return path


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
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
        deadline = time.monotonic() + 5
        while "ended after" not in (tmp_path / "server.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "the peer left" in (tmp_path / "server.log").read_text()


def test_the_page_works_on_a_phone_and_by_keyboard(speech, tmp_path):
    """At 360 px nothing is wider than the screen, and Tab and Enter start a call, and stop it."""
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
    with demo(tmp_path, "asyncio") as url, chromium.chromium(tmp_path, *flags) as browser:
        page = browser.open(url, width=360, height=740, deviceScaleFactor=2, mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.press("Tab", 9)
        assert page.evaluate("document.activeElement.id") == "toggle"
        page.press("Enter", 13, "\r")
        page.wait_for(f"{CALL}.status === 'connected'")
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        page.wait_for(f"Number({CALL}.heardPeak) > 0.02")
        page.screenshot(tmp_path / "phone-dark.png")
        page.press("Enter", 13, "\r")
        page.wait_for(f"{CALL}.status === 'ended'")


def test_the_page_says_in_words_what_went_wrong(tmp_path):
    """A refused microphone, and a server that has gone, are told in plain words, and Start is there again."""
    with chromium.chromium(tmp_path, "--deny-permission-prompts") as browser:
        with demo(tmp_path, "asyncio") as url:
            page = browser.open(url)
            page.click("#toggle")
            page.wait_for(f"{CALL}.status === 'failed'")
            assert "microphone was refused" in page.evaluate("document.getElementById('trouble').textContent")
            assert page.evaluate("document.getElementById('toggle-word').textContent") == "Start"
            page.screenshot(tmp_path / "refused.png")
            page.call("Browser.setPermission", permission={"name": "microphone"}, setting="granted", origin=url)
        page.click("#toggle")
        page.wait_for(
            f"{CALL}.status === 'failed' && document.getElementById('trouble').textContent.includes('server')"
        )
        assert "does not answer" in page.evaluate("document.getElementById('trouble').textContent")


def test_the_page_shows_when_the_server_ends_the_call(speech, tmp_path):
    """When the server stops, the page says so, and why."""
    flags = ("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
    with chromium.chromium(tmp_path, *flags) as browser:
        with demo(tmp_path, "trio") as url:
            page = browser.open(url)
            page.click("#toggle")
            page.wait_for(f"{CALL}.status === 'connected'")
        page.wait_for(f"{CALL}.status === 'ended'")
        assert "shutting down" in page.evaluate("document.getElementById('status').textContent")
