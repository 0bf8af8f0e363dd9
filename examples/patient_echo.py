"""An echo whose calls survive a lost link. `rtcflow serve patient_echo:stream`, and pull the cable for a while.

Two tones welcome the caller back. The count goes on, because the handler is still the same.
"""

from __future__ import annotations

from collections import deque

import numpy as np

import rtcflow

RATE = 24000


def tones(*frequencies):
    """A quarter of a second each: int16, shape (1, n)."""
    t = np.arange(RATE // 4) / RATE
    return np.concatenate([(8000 * np.sin(2 * np.pi * f * t)).astype(np.int16) for f in frequencies])[np.newaxis]


class PatientEcho(rtcflow.AsyncStreamHandler):
    def __init__(self):
        super().__init__(output_sample_rate=RATE, input_sample_rate=RATE)
        self.frames = deque(maxlen=50)
        self.arrived = rtcflow.Event()
        self.heard = 0

    async def receive(self, frame):
        self.heard += 1
        self.say(frame)

    async def emit(self):
        while not self.frames:
            self.arrived.clear()
            await self.arrived.wait()
        return self.frames.popleft()

    def say(self, audio):
        self.frames.append(audio)
        self.arrived.set()

    async def on_suspended(self):
        print(f"the caller is away, after {self.heard} frames")

    async def on_resumed(self):
        print("the caller is back")
        self.say((RATE, tones(660, 880)))

    def copy(self):
        return PatientEcho()


stream = rtcflow.Stream(PatientEcho(), resume=30, concurrency_limit=10)
