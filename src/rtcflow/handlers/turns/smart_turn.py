"""A semantic end of turn: a model hears whether the sentence is complete.

A pause alone cannot tell a breath from an end. So a bot that only counts silence is either slow or cuts people short.
Here the pause tracker still says when speech stops. At each stop, 0.1 s into the silence, a model judges the last
seconds of audio. If it finds the sentence complete, the turn is over at once. If not, only a long pause ends it. The
model is asked once for each stop, so that a long silence costs nothing.

rtcflow has no model's weights. `SmartTurnModel` reads the public ONNX file of Smart Turn v3. Any function from audio to
a probability can stand in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.convert import int16_to_float32
from ...media.resample import Converter
from .detector import VoiceTurns
from .events import DetectorEvent, SpeechEnded, SpeechStarted, TurnEnd, TurnEnded
from .options import AlgoOptions
from .silero import get_silero_model
from .vad import StreamingVadModel

RATE = 16_000
"""Hz of what the model hears."""

WINDOW = 8.0
"""Seconds that the model hears, at most (Smart Turn's model card)."""

LONGEST_PAUSE = 2.0
"""Seconds of silence that end a turn whatever the model says: people who are thinking seldom pause for longer."""

EndOfTurn: TypeAlias = Callable[[NDArray[np.float32]], float]
"""The probability that the turn is over. The audio is float32 in [-1, 1], shape (n,), 16 kHz, n at most 8 s, and ends
where the speech did. Called in a worker thread.
"""


class SmartTurn:
    """A `TurnDetector` that asks a model at each short silence whether the user has finished.

    ``ReplyOnPause(reply, detector=lambda: SmartTurn(model))``. Each connection needs its own; they share the model.

    Args:
        end_of_turn: The model: a `SmartTurnModel`, or any function as `EndOfTurn` describes.
        vad: Tells speech from silence; None: Silero VAD (extra ``rtcflow[vad]``).
        sure: The turn is over from this probability on.
        longest_pause: Seconds of silence that end a turn whatever the model says.

    Raises:
        TypeError: `end_of_turn` cannot be called.
        ValueError: `sure` is not between 0 and 1, or `longest_pause` is not longer than 0.2 s.

    An error of the model costs the turn under way, as with any detector.
    """

    blocking = True
    """The model computes for some 50 ms, so a worker thread calls `feed`."""

    def __init__(
        self,
        end_of_turn: EndOfTurn,
        *,
        vad: StreamingVadModel | None = None,
        sure: float = 0.5,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        if not callable(end_of_turn):
            raise TypeError(f"end_of_turn must be a SmartTurnModel or a function of audio, not {end_of_turn!r:.80}")
        if not 0 < sure < 1:
            raise ValueError(f"sure must be a probability between 0 and 1, not {sure!r}")
        if not longest_pause > 0.2:
            raise ValueError(f"longest_pause must be more than 0.2 seconds, not {longest_pause!r}")
        self._turns = VoiceTurns((vad or get_silero_model()).stream(), AlgoOptions(pause_duration=longest_pause))
        self._end_of_turn, self._sure = end_of_turn, sure
        self._converter = Converter(AudioFormat(RATE))
        self._heard: deque[NDArray[np.int16]] = deque()  # at most what the model hears, and the pause after it
        self._most, self._size = round((WINDOW + longest_pause) * RATE), 0
        self._now = 0.0
        self._began: float | None = None

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Take the next audio; see `TurnDetector`."""
        self._keep(self._converter.feed(samples, sample_rate)[0], samples.shape[1] / sample_rate)
        return self._judge(self._turns.feed(samples, sample_rate, bot_speaking=bot_speaking))

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`."""
        self._keep(np.zeros(round(seconds * RATE), np.int16), seconds)
        return self._judge(self._turns.silence(seconds))

    def reset(self) -> None:
        """Forget the turn under way."""
        self._began = None
        self._turns.reset()

    def _keep(self, heard: NDArray[np.int16], seconds: float) -> None:
        self._now += seconds
        self._heard.append(heard)
        self._size += heard.size
        while self._size - self._heard[0].size >= self._most:
            self._size -= self._heard.popleft().size

    def _judge(self, events: list[DetectorEvent]) -> list[DetectorEvent]:
        judged: list[DetectorEvent] = []
        for event in events:
            judged.append(event)
            match event:
                case SpeechStarted(at) if self._began is None:
                    self._began = at
                case SpeechEnded(at) if self._began is not None:
                    probability = self._ask(at)
                    judged[-1] = replace(event, probability=probability)
                    if probability >= self._sure:
                        judged.append(TurnEnded(self._now, at, at - self._began, TurnEnd.MODEL))
                        self.reset()
                        return judged
                case TurnEnded():
                    self._began = None
        return judged

    def _ask(self, speech_end: float) -> float:
        """The model's probability for the audio until `speech_end`.

        Raises:
            ValueError: The model gives something else.
        """
        audio = np.concatenate(self._heard)
        audio = audio[: max(0, audio.size - round((self._now - speech_end) * RATE))]
        probability = float(self._end_of_turn(int16_to_float32(audio[-round(WINDOW * RATE) :])))
        if not 0 <= probability <= 1:
            raise ValueError(f"the model of the end of turn gave {probability!r}; it must give a probability, 0 to 1")
        return probability


class SmartTurnModel:
    """Smart Turn v3 (BSD-2): the probability that a turn is over. Calls share it; it keeps no state.

    The ONNX file (8 MB) is yours to bring. It ships in the wheel of ``pipecat-ai`` as
    ``pipecat/audio/turn/smart_turn/data/smart-turn-v3….onnx``. Needs ``pip install onnxruntime``.

    Args:
        path: The file.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        FileNotFoundError: There is no such file.
        ValueError: It is not a model that takes Smart Turn's features.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no model at {fspath(path)!r}; give the path of a Smart Turn ONNX file")
        try:
            onnxruntime = import_module("onnxruntime")  # has no types
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "SmartTurnModel needs onnxruntime: pip install onnxruntime", name="onnxruntime"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # other calls need the other cores
        self._session = onnxruntime.InferenceSession(fspath(path), options, providers=["CPUExecutionProvider"])
        inputs = [(one.name, one.shape[1:]) for one in self._session.get_inputs()]
        if inputs != [("input_features", [MELS, FRAMES])]:
            raise ValueError(f"{fspath(path)!r} is not a Smart Turn v3 model: it takes {inputs}")

    def __call__(self, audio: NDArray[np.float32]) -> float:
        """The probability for float32 audio, shape (n,), 16 kHz, that ends where the speech did."""
        samples = round(WINDOW * RATE)
        heard = np.pad(audio[-samples:], (max(0, samples - audio.size), 0))
        (probability,) = self._session.run(None, {"input_features": log_mel(heard)[np.newaxis]})
        return float(probability.item())


MELS = 80
FRAMES = 800
"""Of 10 ms."""
_FFT, _HOP = 400, 160


def log_mel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features that Whisper's models hear (Radford et al. 2022, section 2.2), shape (80, n // 160).

    Args:
        audio: float32, shape (n,), 16 kHz. It is brought to zero mean and unit variance first.
    """
    audio = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
    padded = np.pad(audio.astype(np.float64), _FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:-1]
    power = np.abs(np.fft.rfft(windows * np.hanning(_FFT + 1)[:-1])) ** 2
    loudness = np.log10(np.maximum(_mel_filters() @ power.T, 1e-10))
    features: NDArray[np.float32] = ((np.maximum(loudness, loudness.max() - 8) + 4) / 4).astype(np.float32)
    return features


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangles of equal area on Slaney's mel scale: linear to 1 kHz, and logarithmic above it. Shape (80, 201)."""
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    bins = np.linspace(0, RATE / 2, _FFT // 2 + 1)
    return np.array(
        [
            np.interp(bins, edges[at : at + 3], [0, 1, 0], left=0, right=0) * 2 / (edges[at + 2] - edges[at])
            for at in range(MELS)
        ]
    )


__all__ = ["EndOfTurn", "SmartTurn", "SmartTurnModel"]
