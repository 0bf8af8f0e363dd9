"""A semantic end of turn: a model decides whether the sentence is complete. `rtcflow serve smart_turn:stream`.

The model is Smart Turn (BSD-2), which ships inside a wheel: `pip install onnxruntime`, and
`pip install --no-deps pipecat-ai` for that file alone. Without them a stub with the same interface takes its place. Any
function from audio to a probability works, too.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
from voice_bot import model, reply

import rtcflow
from rtcflow.media.resample import Converter
from rtcflow.turns import SpeechEnded, SpeechStarted, TurnEnd, TurnEnded, VoiceTurns

RATE, SECONDS = 16000, 8


class SmartTurn:
    """The probability that the turn is over, as the model hears it: about 0.1 s of computing."""

    def __init__(self, folder: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        (path,) = folder.glob("data/smart-turn-v3*cpu.onnx")
        self.session = onnxruntime.InferenceSession(path, options)
        # The wheel also has the code for the model's features, a module that needs only NumPy.
        spec = importlib.util.spec_from_file_location("whisper_features", folder / "_whisper_features.py")
        features = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(features)
        self.features = features.compute_whisper_log_mel_features

    def __call__(self, audio: np.ndarray) -> float:
        """float32, shape (n,), at most 8 s at 16 kHz, ending where the speech did."""
        heard = np.pad(audio, (SECONDS * RATE - len(audio), 0))
        (probability,) = self.session.run(None, {"input_features": self.features(heard)[np.newaxis]})
        return float(probability.item())


class Stub:
    """The same interface without a model: an end that falls and fades counts as a complete sentence."""

    def __call__(self, audio: np.ndarray) -> float:
        """As `SmartTurn.__call__`."""
        last, before = audio[-RATE // 4 :], audio[-RATE : -RATE // 4]
        if not before.size:
            return 0.0
        fading = np.sqrt(np.mean(last**2)) < 0.5 * np.sqrt(np.mean(before**2))
        return 0.9 if fading else 0.2


def find_model():
    """The model, if both packages are installed, otherwise the stub."""
    package = importlib.util.find_spec("pipecat")
    if package is None or importlib.util.find_spec("onnxruntime") is None:
        return Stub()
    return SmartTurn(Path(package.submodule_search_locations[0]) / "audio" / "turn" / "smart_turn")


class SmartTurns:
    """A `TurnDetector`: after 0.1 s of silence the model is asked; if it says no, only a long pause ends the turn."""

    blocking = True  # the model is slow, so a worker thread calls feed

    def __init__(self, vad, end_of_turn, *, sure=0.5, longest_pause=2.0):
        self.turns = VoiceTurns(vad.stream(), rtcflow.AlgoOptions(pause_duration=longest_pause))
        self.end_of_turn, self.sure = end_of_turn, sure
        self.converter = Converter(rtcflow.AudioFormat(RATE))
        self.audio, self.now, self.began = np.zeros(0, np.float32), 0.0, None

    def feed(self, samples, sample_rate, *, bot_speaking):
        self.keep(self.converter.feed(samples, sample_rate)[0], samples.shape[1] / sample_rate)
        return self.judge(self.turns.feed(samples, sample_rate, bot_speaking=bot_speaking))

    def silence(self, seconds):
        self.keep(np.zeros(round(seconds * RATE)), seconds)
        return self.judge(self.turns.silence(seconds))

    def keep(self, heard, seconds):
        self.audio = np.concatenate([self.audio, heard / np.float32(32768)])[-2 * SECONDS * RATE :]
        self.now += seconds

    def judge(self, events):
        judged = []
        for event in events:
            judged.append(event)
            match event:
                case SpeechStarted(at) if self.began is None:
                    self.began = at
                case SpeechEnded(at):
                    said = self.audio[: len(self.audio) - round((self.now - at) * RATE)]
                    probability = self.end_of_turn(said[-SECONDS * RATE :])
                    judged[-1] = replace(event, probability=probability)
                    if probability >= self.sure:
                        judged.append(TurnEnded(self.now, at, at - self.began, TurnEnd.MODEL))
                        self.reset()
                        break
                case TurnEnded():
                    self.began = None
        return judged

    def reset(self):
        self.began = None
        self.turns.reset()


end_of_turn = find_model()  # shared by all calls: it keeps no state
vad = model()
stream = rtcflow.Stream(
    rtcflow.ReplyOnPause(reply, detector=lambda: SmartTurns(vad, end_of_turn)),
    concurrency_limit=10,
)
