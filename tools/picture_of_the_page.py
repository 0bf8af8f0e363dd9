"""Take the picture of the page that README.md shows: a call to `rtcflow demo` in Chromium, with a made-up microphone.

PYTHONPATH=tests/interop python tools/picture_of_the_page.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "interop"))
import chromium
from serving import serving

PICTURE = Path(__file__).parent.parent / "docs" / "_static" / "page.png"
SIZE = {"width": 900, "height": 640, "deviceScaleFactor": 1, "mobile": False}


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        speech = folder / "speech.wav"
        subprocess.run(["espeak-ng", "-w", str(speech), "Good morning, how are you today?"], check=True, timeout=20)
        flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
        with serving(folder, "demo") as url, chromium.chromium(folder, *flags) as browser:
            browser.call("Browser.grantPermissions", permissions=["audioCapture"])
            page = browser.open(url + "/", **SIZE)
            page.click("#toggle")
            page.wait_for("document.getElementById('call').dataset.status === 'connected'")
            time.sleep(4)  # so that there is something to see in the plot
            page.screenshot(PICTURE)
            page.close()


if __name__ == "__main__":
    main()
