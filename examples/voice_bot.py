"""A bot that listens, answers and can be interrupted. `rtcflow serve voice_bot:stream`.

The answer is made of tones here; put speech recognition, a language model and a voice in their place.
"""

from __future__ import annotations

import anyio
import numpy as np

import rtcflow
from rtcflow.turns import Say

RATE = 24000


def model():
    """Silero VAD with `pip install "rtcflow[vad]"`; otherwise a model that only tells loud from quiet."""
    try:
        return rtcflow.turns.get_silero_model()
    except RuntimeError:
        return rtcflow.turns.EnergyVad()


async def reply(audio):
    rate, samples = audio
    seconds = samples.shape[1] / rate
    try:
        for number, word in enumerate(f"I have heard {seconds:.1f} seconds".split()):
            t = np.arange(RATE // 4) / RATE
            tone = 0.2 * np.sin(2 * np.pi * (300 + 50 * number) * t) * np.hanning(t.size)
            yield Say((RATE, tone.astype(np.float32)), word + " ")
            await anyio.sleep(0.05)  # a language model at work
    finally:
        print("said, or interrupted: connections to services are closed here")  # runs in both cases


def on_event(event):
    if isinstance(event, rtcflow.turns.Interrupted):
        print(f"interrupted after {event.position.seconds:.1f} s: {event.position.text!r} was heard")


stream = rtcflow.Stream(rtcflow.ReplyOnPause(reply, model=model(), on_event=on_event), concurrency_limit=10)
