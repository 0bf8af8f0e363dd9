"""A semantic end of turn: a model decides whether the sentence is complete. `rtcflow serve smart_turn:stream`.

SMART_TURN is the path of the model's ONNX file. It ships in a wheel: `pip install onnxruntime`, and
`pip install --no-deps pipecat-ai` for that file alone. Without it a stub takes the model's place. Any function from
audio to a probability works.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
from voice_bot import model, reply

import rtcflow
from rtcflow.turns import SmartTurn, SmartTurnModel

RATE = 16000


def stub(audio):
    """An end that falls and fades counts as a complete sentence. float32, shape (n,), at most 8 s at 16 kHz."""
    last, before = audio[-RATE // 4 :], audio[-RATE : -RATE // 4]
    if not before.size:
        return 0.0
    fading = np.sqrt(np.mean(last**2)) < 0.5 * np.sqrt(np.mean(before**2))
    return 0.9 if fading else 0.2


def find_model():
    """The file that SMART_TURN names, or the one in the wheel, or the stub."""
    if path := os.environ.get("SMART_TURN"):
        return SmartTurnModel(path)
    wheel = importlib.util.find_spec("pipecat")
    if wheel is None or importlib.util.find_spec("onnxruntime") is None:
        return stub
    (path,) = Path(wheel.submodule_search_locations[0]).glob("audio/turn/smart_turn/data/smart-turn-v3*cpu.onnx")
    return SmartTurnModel(path)


end_of_turn = find_model()  # shared by all calls: it keeps no state
vad = model()
stream = rtcflow.Stream(
    rtcflow.ReplyOnPause(reply, detector=lambda: SmartTurn(end_of_turn, vad=vad)),
    concurrency_limit=10,
)
