"""Records what OBS, GStreamer or a browser sends by WHIP, into one Matroska file a call.

    rtcflow serve whip_recorder:stream          then, in OBS: Settings, Stream, WHIP, http://127.0.0.1:8000/whip

A picture is placed at the moment at which it came. Sound keeps its own length, and lost sound leaves a gap.
"""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

import rtcflow

RATE = 48000
BEGIN = 1.0  # seconds after which the file is begun, with the media that have come until then


class Recorder(rtcflow.AudioVideoStreamHandler):
    def __init__(self, folder):
        super().__init__(input_sample_rate=RATE, video_format="frame")
        self.folder = Path(folder)
        self.lock = threading.Lock()  # receive and video_receive run in a thread each
        self.file = None
        self.streams = {}
        self.waiting = []  # frames that came before the file was begun
        self.began = None
        self.written = 0  # samples
        self.shown = -1  # when the last picture came, in milliseconds

    def receive(self, frame):
        with self.lock:
            now = self.now()
            if now - self.written / RATE > 0.5:
                self.written = round(now * RATE)
            samples = np.ascontiguousarray(frame[1])  # a frame may be a view of a longer one
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, self.written, Fraction(1, RATE)
            self.written += samples.shape[1]
            self.write("sound", sound)

    def video_receive(self, frame):
        with self.lock:
            self.shown = max(round(self.now() * 1000), self.shown + 1)  # some clocks stand still for 16 ms
            frame.pts, frame.time_base = self.shown, Fraction(1, 1000)
            self.write("pictures", frame)

    def now(self):
        if self.began is None:
            self.began = time.monotonic()
        return time.monotonic() - self.began

    def write(self, kind, frame):
        self.waiting.append((kind, frame))
        if self.now() < BEGIN:
            return
        if self.file is None:
            self.begin()
        for what, medium in self.waiting:
            if what in self.streams:
                stream = self.streams[what]
                if what == "pictures":  # WebRTC changes the size with the bandwidth; the file keeps the first one
                    medium = medium.reformat(stream.width, stream.height, "yuv420p")
                self.file.mux(stream.encode(medium))
        self.waiting.clear()

    def begin(self):
        self.folder.mkdir(exist_ok=True)
        self.file = av.open(str(self.folder / f"{time.time_ns()}.mkv"), "w")
        first = dict(reversed(self.waiting))
        if "sound" in first:
            self.streams["sound"] = self.file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        if "pictures" in first:
            pictures = self.file.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
            width, height = first["pictures"].width, first["pictures"].height
            pictures.width, pictures.height = width & ~1, height & ~1  # H.264 has no odd sides
            pictures.pix_fmt = "yuv420p"
            pictures.codec_context.time_base = Fraction(1, 1000)
            self.streams["pictures"] = pictures

    def emit(self):
        return None  # the sender does not listen

    def video_emit(self):
        return None

    def shutdown(self):
        with self.lock:
            if self.file is not None:
                for stream in self.streams.values():
                    self.file.mux(stream.encode(None))
                self.file.close()

    def copy(self):
        return Recorder(self.folder)


stream = rtcflow.Stream(Recorder("recordings"), modality="audio-video", mode="send", concurrency_limit=4)
