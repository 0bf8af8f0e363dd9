"""Transcribes what the caller says, and sends the words to pages as outputs. `rtcflow serve transcription:stream`.

`Model` stands for a speech recogniser: a second of sound in, words out. It may be slow and may block, because it runs
in a worker thread. Pages read `GET webrtc/outputs?webrtc_id=...`, an application `stream.output_stream(webrtc_id)`.
"""

from __future__ import annotations

import queue

import numpy as np

import rtcflow

RATE = 16000


class Model:
    """A stub with a recogniser's interface: it only tells loud from quiet."""

    def __call__(self, audio: np.ndarray) -> str:
        """float32, shape (n,), at 16 kHz."""
        level = float(np.sqrt(np.mean(audio**2)))
        return "" if level < 0.01 else "murmur" if level < 0.1 else "SHOUT"


class Transcriber(rtcflow.StreamHandler):
    def __init__(self, model):
        super().__init__(input_sample_rate=RATE)
        self.model = model
        self.heard = queue.Queue(maxsize=500)  # ten seconds, for a model that falls behind

    def receive(self, frame):
        self.heard.put(rtcflow.audio.audio_to_float32(frame[1])[0])

    def emit(self):  # emits words and no audio
        second = [self.heard.get()]
        while sum(part.size for part in second) < RATE:
            second.append(self.heard.get())
        words = self.model(np.concatenate(second))
        return rtcflow.AdditionalOutputs(words) if words else None

    def copy(self):
        return Transcriber(self.model)  # one model for all


def transcript(so_far, words):
    return f"{so_far or ''} {words}".strip()


stream = rtcflow.Stream(Transcriber(Model()), mode="send", additional_outputs_handler=transcript, concurrency_limit=10)
