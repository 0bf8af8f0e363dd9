"""Take the picture of the page that README.md and the docs show: a call to an agent, in Chromium with a made-up caller.

python tools/picture_of_the_page.py

The voices, the pauses and the interruption are real. Only what a model would do is written down here: the words that
speech to text finds, and the answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import rtcflow
from rtcflow.agents import VoiceAgent
from rtcflow.speech import get_tts_model
from rtcflow.turns import EnergyVad

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "_static" / "page.png"
SIZE = {"width": 1040, "height": 640, "deviceScaleFactor": 1, "mobile": False}
SAID = ["Do you have a table for two at eight?", "And would seven be free as well?"]
ANSWERS = [
    "Yes, we do. It is by the window. Shall I book it for you? Tell me a name, and I will write it down.",
    "Yes, seven is free, too. Which name shall I write down for it?",
]
RATE = 22050
"""What espeak-ng speaks with."""
SILENCE = 4.0
"""Seconds between the two things that the caller says: the first answer is not over by then, so it is interrupted."""


async def chat(messages, tools):
    """Answer what was said, from the list."""
    asked = sum(message["role"] == "user" for message in messages)
    yield ANSWERS[min(asked, len(ANSWERS)) - 1]


class Words:
    """The words of the caller, one after the other."""

    def __init__(self) -> None:
        self.left = list(SAID)

    def __call__(self, audio):
        return self.left.pop(0) if self.left else ""


stream = rtcflow.Stream(
    VoiceAgent(chat, stt=Words(), tts=get_tts_model("espeak").tts, model=EnergyVad()),
    title="The restaurant",
    description="Ask for a table.",
)


def write_caller(folder: Path, path: Path) -> None:
    """Write what the caller says as a sound file: a second of silence, and then what is in `SAID`."""
    silence = np.zeros(int(SILENCE * RATE), np.int16)
    parts = [np.zeros(RATE, np.int16)]
    for number, text in enumerate(SAID):
        one = folder / f"{number}.wav"
        subprocess.run(["espeak-ng", "-v", "en-us", "-w", str(one), text], check=True, timeout=20)
        with wave.open(str(one)) as said:
            assert said.getframerate() == RATE
            parts += [np.frombuffer(said.readframes(said.getnframes()), np.int16), silence]
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes(np.concatenate([*parts, np.zeros(60 * RATE, np.int16)]).tobytes())


def main() -> None:
    """Serve the agent, call it, and keep the picture."""
    sys.path.insert(0, str(ROOT / "tests" / "interop"))
    import chromium
    from serving import serving

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with TemporaryDirectory() as name:
        folder = Path(name)
        speech = folder / "speech.wav"
        write_caller(folder, speech)
        flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={speech}")
        module = "picture_of_the_page:stream"
        with serving(folder, "serve", module) as url, chromium.chromium(folder, *flags) as browser:
            browser.call("Browser.grantPermissions", permissions=["audioCapture"])
            page = browser.open(url + "/", **SIZE)
            page.click("#connection summary")
            page.click("#toggle")
            page.wait_for("document.getElementById('call').dataset.status === 'connected'")
            page.wait_for("document.querySelectorAll('#transcript li').length >= 4", 40)
            time.sleep(1.0)  # the second answer is being spoken
            page.screenshot(PICTURE)
            page.close()


if __name__ == "__main__":
    main()
