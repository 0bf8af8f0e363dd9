"""An async handler that shows the edges in what the camera sees. `rtcflow serve video_filter:stream`."""

from __future__ import annotations

import numpy as np

import rtcflow


def edges(picture):
    """How much each pixel differs from its neighbours: uint8 grey of shape (height, width)."""
    grey = picture.mean(axis=2)
    down, across = np.gradient(grey)
    return np.clip(4 * np.hypot(down, across), 0, 255).astype(np.uint8)


class Edges(rtcflow.AsyncAudioVideoStreamHandler):
    def __init__(self):
        super().__init__(video_format="bgr24", fps=15)
        self.picture = None
        self.arrived = rtcflow.Event()

    async def receive(self, frame):
        pass

    async def emit(self):
        return None  # no audio; returning None is cheap

    async def video_receive(self, frame):
        self.picture = frame  # only the latest counts
        self.arrived.set()

    async def video_emit(self):
        await self.arrived.wait()
        self.arrived.clear()
        return await self.run_sync(edges, self.picture)  # in a worker thread, because it would hold up the event loop

    def copy(self):
        return Edges()


stream = rtcflow.Stream(Edges(), modality="audio-video", concurrency_limit=4)
