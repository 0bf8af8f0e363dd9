"""What test_network_change.py has served: a tone without an end, in calls that wait for their callers."""

from __future__ import annotations

import numpy as np

import rtcflow

TONE = (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]


class Tone(rtcflow.AsyncStreamHandler):
    def __init__(self):
        super().__init__(output_sample_rate=48000)

    async def receive(self, frame):
        pass

    async def emit(self):
        return 48000, TONE

    async def on_suspended(self):
        print("suspended", flush=True)

    async def on_resumed(self):
        print("resumed", flush=True)

    def copy(self):
        return Tone()


stream = rtcflow.Stream(Tone(), resume=20, concurrency_limit=4)
