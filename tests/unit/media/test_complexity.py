"""How hard the encoders work, by the load: laws on a model of an engine, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.complexity import BEST, CALM, FREE, FULL, HELD_UP, LATE, LEAST, TICK, WINDOW, ComplexityControl, Tick

Load = Callable[[float, int], tuple[float, float, float]]
"""Time and complexity in; what the thread and the process used, and the lag, out."""

CORES = 4


def run(load: Load, seconds: float, control: ComplexityControl | None = None, start: float = 0.0) -> list[int]:
    """The complexity after each tick."""
    control = control or ComplexityControl(CORES)
    levels = []
    for tick in range(1, round(seconds / TICK) + 1):
        now = start + tick * TICK
        levels.append(control.note(now, Tick(*load(now, control.complexity))))
    return levels


def engine(idle: float, costs: float = 1.8, lag: float = 0.0005, others: float = 0.0) -> Load:
    """An engine that uses so much of its core at level 0, and `costs` times as much at the best, beside others."""

    def load(_: float, complexity: int) -> tuple[float, float, float]:
        thread = min(1.0, idle * (costs if complexity else 1))
        return thread, min(CORES, thread + others), lag

    return load


def queue(calls: int, lock: bool) -> Load:
    """A process with so many calls: for each, 1.3 % of a core in the engine's thread at level 0, and 0.8 % in another.

    If both need the `lock`, they share one core, and ticks wait for a turn of 0.4 ms as in a queue: a tick finds the
    core busy with the probability of its use, and waits 0.4 ms / (1 - use) on average (Kleinrock, Queueing Systems,
    1975).
    """
    chance = random.Random(calls)

    def load(_: float, complexity: int) -> tuple[float, float, float]:
        thread, others = calls * 0.013 * (1.8 if complexity else 1), calls * 0.008
        use = min(0.99, thread + others if lock else thread)
        wait = chance.expovariate(1 / (0.0004 / (1 - use))) if chance.random() < use else 0.0
        return min(thread, 1.0), min(thread + others, 1.0 if lock else CORES), wait + chance.uniform(0, 0.001)

    return load


def changes(levels: list[int]) -> int:
    return sum(before != after for before, after in pairwise(levels))


def test_an_engine_with_time_works_at_its_best() -> None:
    """From the first frame on, and for good."""
    assert set(run(engine(0.3), 60)) == {BEST}


def test_a_full_core_is_relieved_within_a_second() -> None:
    """A burst of calls fills the core: the level falls within one window, and stays down while it is full."""
    levels = run(engine(0.9), 600)
    assert LEAST in levels[:WINDOW]
    assert set(levels[WINDOW:]) == {LEAST}


def test_somebody_else_takes_the_time() -> None:
    """Use is low, but the loop is late: another process or thread has the core."""
    assert set(run(engine(0.2, lag=2 * LATE), 60)[WINDOW:]) == {LEAST}


def test_one_stall_changes_nothing() -> None:
    """One tick that comes late by half a second is no load."""
    assert set(run(lambda now, _: (0.2, 0.2, 0.5 if 9.9 < now < 10.05 else 0.0), 60)) == {BEST}


def test_it_comes_back_when_there_is_time() -> None:
    """Not at once, but after some seconds of calm."""
    control = ComplexityControl(CORES)
    assert run(engine(0.9), 10, control)[-1] == LEAST
    levels = run(engine(0.2), 60, control, start=10)
    back = levels.index(BEST) * TICK
    assert CALM <= back <= CALM + 2 * WINDOW * TICK
    assert set(levels[levels.index(BEST) :]) == {BEST}


@pytest.mark.parametrize("calls", [27, 30, 40, 60])
def test_one_core_is_full_on_many(calls: int) -> None:
    """Calls that fill one core by the interpreter's lock are relieved, however idle the others are.

    With 30 calls at the best, the engine's own share is 0.7, and the process' share of all cores is a quarter.
    """
    load = queue(calls, lock=True)
    levels = run(load, 60)
    assert LEAST in levels[: 3 * WINDOW]
    assert sum(level == BEST for level in levels[3 * WINDOW :]) <= 0.2 * len(levels)


@pytest.mark.parametrize("calls", [1, 10, 20])
def test_threads_that_need_no_lock_fill_no_core(calls: int) -> None:
    """The same calls at the best, where the other thread has a core of its own."""
    assert set(run(queue(calls, lock=False), 30)) == {BEST}


@given(idle=st.floats(0, FREE - 0.01), others=st.floats(0, CORES * FULL - FULL))
def test_a_model_on_other_cores_takes_nothing_away(idle: float, others: float) -> None:
    """What computes without the lock makes no tick late, and costs no quality."""
    assert set(run(engine(idle, 1.7, lag=HELD_UP / 2, others=others), 20)) == {BEST}


@pytest.mark.parametrize("costs", [1.0, 1.8, 4.0])
@given(idle=st.floats(0, 1.5), lag=st.floats(0, 0.02))
def test_a_steady_load_is_not_answered_by_to_and_fro(costs: float, idle: float, lag: float) -> None:
    """In ten minutes of any steady load there are few changes, even where the best level does not fit."""
    assert changes(run(engine(idle, costs, lag), 600)) <= 13


@given(idle=st.floats(0, FREE - 0.01), costs=st.floats(1, 1.7))
def test_below_half_load_it_is_the_best(idle: float, costs: float) -> None:
    """Whatever happened before, ten seconds after the load has become less than half it is the best level."""
    control = ComplexityControl(CORES)
    run(engine(1.0), 5, control)
    assert set(run(engine(idle, costs), 60, control, start=5)[100:]) == {BEST}


@given(st.lists(st.builds(Tick, st.floats(0, 1), st.floats(0, CORES), st.floats(0, 1)), min_size=1, max_size=300))
def test_any_load_gives_a_level(loads: list[Tick]) -> None:
    """The level is one of the two, it falls only from a full or late window, and a fall lasts."""
    control, fallen = ComplexityControl(CORES), float("-inf")
    for number, tick in enumerate(loads):
        before, now = control.complexity, number * TICK
        after = control.note(now, tick)
        assert after in (LEAST, BEST)
        if (before, after) == (BEST, LEAST):
            recent = loads[max(0, number - WINDOW + 1) : number + 1]
            assert (
                max(max(tick.thread, tick.process) for tick in recent) > FULL or max(tick.lag for tick in recent) > LATE
            )
            fallen = now
        elif before != after:
            assert now - fallen >= CALM
