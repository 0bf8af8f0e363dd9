"""A handler that only speaks: it plays an A for ten seconds. `rtcflow serve tone_generator:stream`."""

from __future__ import annotations

import numpy as np

import rtcflow

RATE = 24000


class Tone(rtcflow.StreamHandler):
    def __init__(self, frequency=440.0, seconds=10.0):
        super().__init__(output_sample_rate=RATE)
        self.frequency, self.seconds = frequency, seconds
        self.done = 0.0

    def receive(self, frame):
        pass

    def emit(self):
        if self.done >= self.seconds:
            return rtcflow.CloseStream("that was the tone")
        # Half a second at once: it is cut into frames and played in real time, and `emit` is held back meanwhile.
        t = self.done + np.arange(RATE // 2) / RATE
        self.done += 0.5
        return RATE, (0.2 * np.sin(2 * np.pi * self.frequency * t)).astype(np.float32)

    def copy(self):
        return Tone(self.frequency, self.seconds)


stream = rtcflow.Stream(Tone(), concurrency_limit=10)
