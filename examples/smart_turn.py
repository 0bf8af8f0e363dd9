"""A semantic end of turn: a model hears whether the sentence is complete. `rtcflow serve smart_turn:stream`.

`EndOfTurn` stands for a model such as Smart Turn: the last eight seconds at 16 kHz in, the probability that the turn is
over out. Nothing else of this program depends on which it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from voice_bot import model, reply

import rtcflow
from rtcflow import SpeechEnded, TurnEnd, TurnEnded, VoiceTurns
from rtcflow.media.resample import Converter

RATE, SECONDS = 16000, 8


class EndOfTurn:
    """A stub with a model's interface: takes a falling, fading end for a complete sentence.

    With onnxruntime, `__call__` would be: features of `audio`, `session.run(...)`, the sigmoid of its output.
    """

    def __call__(self, audio: np.ndarray) -> float:
        """float32, shape (n,), at most 8 s at 16 kHz, ending where the speech did."""
        last, before = audio[-RATE // 4 :], audio[-RATE : -RATE // 4]
        if not before.size:
            return 0.0
        fading = np.sqrt(np.mean(last**2)) < 0.5 * np.sqrt(np.mean(before**2))
        return 0.9 if fading else 0.2


class SmartTurns:
    """A `TurnDetector`: after 0.1 s of silence the model is asked; if it says no, only a long pause ends the turn."""

    blocking = True  # the model takes its time: feed is called in a worker thread

    def __init__(self, vad, end_of_turn, *, sure=0.5, longest_pause=2.0):
        self.turns = VoiceTurns(vad.stream(), rtcflow.AlgoOptions(pause_duration=longest_pause))
        self.end_of_turn, self.sure = end_of_turn, sure
        self.converter = Converter(rtcflow.AudioFormat(RATE))
        self.audio = np.zeros(0, np.float32)

    def feed(self, samples, sample_rate, *, bot_speaking):
        heard = self.converter.feed(samples, sample_rate)[0] / np.float32(32768)
        self.audio = np.concatenate([self.audio, heard])[-SECONDS * RATE :]
        return self.judge(self.turns.feed(samples, sample_rate, bot_speaking=bot_speaking))

    def silence(self, seconds):
        return self.judge(self.turns.silence(seconds))

    def judge(self, events):
        judged = []
        for event in events:
            if isinstance(event, SpeechEnded):
                probability = self.end_of_turn(self.audio)
                judged.append(replace(event, probability=probability))
                if probability >= self.sure:
                    now = self.turns.tracker.now
                    self.turns.reset()
                    return [*judged, TurnEnded(now, event.at, now - event.at, TurnEnd.MODEL)]
            else:
                judged.append(event)
        return judged

    def reset(self):
        self.turns.reset()


end_of_turn = EndOfTurn()  # one for all: it keeps nothing
vad = model()
stream = rtcflow.Stream(
    rtcflow.ReplyOnPause(reply, detector=lambda: SmartTurns(vad, end_of_turn)),
    concurrency_limit=10,
)
