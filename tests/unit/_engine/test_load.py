"""The engine's load is measured while there are encoders, and reaches them."""

from __future__ import annotations

import asyncio
import time

import anyio
import numpy as np
import pytest
from webrtc_pair import webrtc_call

from rtcflow._engine import load as load_module
from rtcflow._engine.load import EngineLoad
from rtcflow.frames import AudioFrame
from rtcflow.media.complexity import BEST, LEAST, TICK, WINDOW


class Clock:
    """An event loop as far as `EngineLoad` sees it, with clocks that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int = 2) -> None:
        self.now = self.thread = self.process = 0.0
        self.timers: list[tuple[float, object]] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.thread)
        monkeypatch.setattr(time, "process_time", lambda: self.process)
        monkeypatch.setattr(load_module, "_cores", lambda: cores)

    def call_later(self, delay: float, callback: object) -> Clock:
        self.timers.append((self.now + delay, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def run(self, ticks: int, *, ours: float, others: float = 0.0, late: float = 0.0) -> None:
        """So many ticks, during which the thread and the process' other threads used these shares of a core."""
        for _ in range(ticks):
            ((when, callback),) = self.timers
            self.timers.clear()
            passed = when + late - self.now
            self.now += passed
            self.thread += ours * passed
            self.process += (ours + others) * passed
            callback()  # type: ignore[operator]


def test_encoders_hear_of_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hears of the level at once and of each change; without encoders there is no timer."""
    clock, heard, also = Clock(monkeypatch), list[int](), list[int]()
    load = EngineLoad()
    assert not clock.timers
    with load.listening(heard.append):
        clock.run(2 * WINDOW, ours=0.5)
        assert heard == [BEST]
        clock.run(2 * WINDOW, ours=0.95)
        with load.listening(also.append):
            assert (heard, also) == ([BEST, LEAST], [LEAST])
        assert clock.timers
        clock.run(round(7 / TICK), ours=0.2)
        assert (heard, also) == ([BEST, LEAST, BEST], [LEAST])
    assert not clock.timers


@pytest.mark.parametrize(
    ("cores", "ours", "others", "late", "level"),
    [
        (2, 0.5, 0.2, 0.0, BEST),
        (2, 0.5, 1.4, 0.0, LEAST),  # the cores are full
        (8, 0.5, 1.4, 0.0, BEST),  # a model computes on other cores
        (1, 0.5, 0.4, 0.0, LEAST),
        (8, 0.5, 0.4, 0.001, BEST),
        (8, 0.5, 0.4, 0.003, LEAST),  # they wait for each other: for the interpreter's lock
        (8, 0.2, 0.0, 0.01, LEAST),  # somebody else has the core, or the interpreter
    ],
)
def test_what_counts_as_load(
    monkeypatch: pytest.MonkeyPatch, cores: int, ours: float, others: float, late: float, level: int
) -> None:
    """The thread's share of a core, the process' of all (of one if its threads wait for each other), and lateness."""
    clock = Clock(monkeypatch, cores)
    load = EngineLoad()
    with load.listening(lambda _: None):
        clock.run(2 * WINDOW, ours=ours, others=others, late=late)
    assert load.complexity == level


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_a_live_engine_works_less_when_the_core_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoders of calls that go on get the lower level, the statistics tell it, and the sound does not stop."""
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(960) / 48000)).astype(np.int16)[np.newaxis]
    async with webrtc_call() as (caller, callee):

        async def until(level: int) -> None:
            while callee.statistics().details.get("opus_complexity") != level:
                callee.audio_out.put(AudioFrame(tone, 48000, 0))
                await caller.audio_in.take()

        with anyio.fail_after(120):
            await until(BEST)
            # From here on the thread's clock says that it works all the time.
            monkeypatch.setattr(time, "thread_time", time.monotonic)
            await until(LEAST)


def test_the_worst_lag_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One late tick counts until `LAGS` more have passed. Without encoders nothing is looked at."""
    clock = Clock(monkeypatch)
    load = EngineLoad()
    assert load.lag == 0.0
    with load.listening(lambda _: None):
        clock.run(3, ours=0.1)
        clock.run(1, ours=0.1, late=0.2)
        clock.run(load_module.LAGS - 1, ours=0.1, late=0.01)
        assert load.lag == pytest.approx(0.2)
        clock.run(1, ours=0.1)
        assert load.lag == pytest.approx(0.01)
