"""Everybody hears what they say: `rtcflow serve echo:stream`.

A sync handler: `receive` and `emit` run in a worker thread each and may block. `self.frames.get()` may wait
without a limit; its thread is interrupted when the call ends.
"""

from __future__ import annotations

import queue

import rtcflow


class Echo(rtcflow.StreamHandler):
    def __init__(self):
        super().__init__(output_sample_rate=48000)
        self.frames = queue.Queue(maxsize=50)  # when it is full `receive` waits, and the oldest sound is dropped

    def receive(self, frame):
        self.frames.put(frame)

    def emit(self):
        return self.frames.get()

    def copy(self):
        return Echo()


stream = rtcflow.Stream(Echo(), concurrency_limit=10)
