"""A mirror: video flipped left to right, audio as it was. `rtcflow serve audio_video_mirror:stream`."""

from __future__ import annotations

import queue

import rtcflow


class Mirror(rtcflow.AudioVideoStreamHandler):
    def __init__(self):
        super().__init__(output_sample_rate=48000, video_format="bgr24")
        self.sounds = queue.Queue(maxsize=50)
        self.pictures = queue.Queue(maxsize=1)

    def receive(self, frame):
        self.sounds.put(frame)

    def emit(self):
        return self.sounds.get()

    def video_receive(self, frame):  # uint8, shape (height, width, 3), BGR
        self.pictures.put(frame[:, ::-1])

    def video_emit(self):
        return self.pictures.get()

    def copy(self):
        return Mirror()


stream = rtcflow.Stream(Mirror(), modality="audio-video", concurrency_limit=4)
