"""Turns where the user's own code is slow, raises, or never answers: the call goes on, and nobody is misheard."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rtcflow.handlers.turns import ReplyOnPause, SpeechStarted, TurnEnded
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend

pytestmark = pytest.mark.anyio
RATE = 24000


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def said(seconds: float) -> np.ndarray:
    """Loud, and nowhere zero."""
    return np.full((1, round(seconds * RATE)), 5000, np.int16)


def sound(seconds: float) -> tuple[int, np.ndarray]:
    return RATE, np.full((1, round(seconds * RATE)), 1000, np.int16)


class Loud:
    """A model of FastRTC's kind that takes its time: speech is what is loud."""

    def __init__(self, *delays: float):
        self.delays = list(delays)

    def vad(self, audio, options):
        rate, samples = audio
        time.sleep(self.delays.pop(0) if self.delays else 0.0)
        return float(np.count_nonzero(np.abs(samples) > 1000)) / rate, []

    def warmup(self):
        pass


# -- slow models


@pytest.mark.parametrize("delays", [[0.3] * 8, [0.0, 0.7]], ids=["always slow", "one hiccup"])
async def test_a_slow_model_is_no_silence(delays):
    """While the model computes, frames wait; that is no silence: fn gets what was said, whole, in one turn."""
    given, events = [], []

    async def fn(audio):
        given.append(audio[1][0])
        yield sound(0.1)

    handler = ReplyOnPause(fn, model=Loud(*delays), input_sample_rate=RATE, on_event=events.append)
    async with open_caller(handler) as caller:
        await caller.play(said(3.0))
        await caller.wait(1.5)
    assert [type(event) for event in events].count(SpeechStarted) == 1
    assert [type(event) for event in events].count(TurnEnded) == 1
    (heard,) = given
    loud = np.flatnonzero(heard)
    assert len(loud) == pytest.approx(3.0 * RATE, abs=0.03 * RATE)
    assert loud[-1] - loud[0] + 1 == len(loud)
