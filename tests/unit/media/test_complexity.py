"""How hard the encoders work, by the load: laws on a model of an engine, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.complexity import BEST, CALM, FREE, FULL, LATE, LEAST, TICK, WINDOW, ComplexityControl

Load = Callable[[float, int], tuple[float, float]]
"""Time and complexity in, use and lag out."""


def run(load: Load, seconds: float, control: ComplexityControl | None = None, start: float = 0.0) -> list[int]:
    """The complexity after each tick."""
    control = control or ComplexityControl()
    levels = []
    for tick in range(1, round(seconds / TICK) + 1):
        now = start + tick * TICK
        levels.append(control.note(now, *load(now, control.complexity)))
    return levels


def engine(idle: float, costs: float = 1.8, lag: float = 0.0005) -> Load:
    """An engine that uses so much of the core at level 0, and `costs` times as much at the best."""
    return lambda _, complexity: (min(1.0, idle * (costs if complexity else 1)), lag)


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
    assert set(run(lambda now, _: (0.2, 0.5 if 9.9 < now < 10.05 else 0.0), 60)) == {BEST}


def test_it_comes_back_when_there_is_time() -> None:
    """Not at once, but after some seconds of calm."""
    control = ComplexityControl()
    assert run(engine(0.9), 10, control)[-1] == LEAST
    levels = run(engine(0.2), 60, control, start=10)
    back = levels.index(BEST) * TICK
    assert CALM <= back <= CALM + 2 * WINDOW * TICK
    assert set(levels[levels.index(BEST) :]) == {BEST}


@pytest.mark.parametrize("costs", [1.0, 1.8, 4.0])
@given(idle=st.floats(0, 1.5), lag=st.floats(0, 0.02))
def test_a_steady_load_is_not_answered_by_to_and_fro(costs: float, idle: float, lag: float) -> None:
    """In ten minutes of any steady load there are few changes, even where the best level does not fit."""
    assert changes(run(engine(idle, costs, lag), 600)) <= 13


@given(idle=st.floats(0, FREE - 0.01), costs=st.floats(1, 1.7))
def test_below_half_load_it_is_the_best(idle: float, costs: float) -> None:
    """Whatever happened before, ten seconds after the load has become less than half it is the best level."""
    control = ComplexityControl()
    run(engine(1.0), 5, control)
    assert set(run(engine(idle, costs), 60, control, start=5)[100:]) == {BEST}


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=300))
def test_any_load_gives_a_level(loads: list[tuple[float, float]]) -> None:
    """The level is one of the two, it falls only from a full or late window, and a fall lasts."""
    control, fallen = ComplexityControl(), float("-inf")
    for tick, (use, lag) in enumerate(loads):
        before, now = control.complexity, tick * TICK
        after = control.note(now, use, lag)
        assert after in (LEAST, BEST)
        if (before, after) == (BEST, LEAST):
            recent = loads[max(0, tick - WINDOW + 1) : tick + 1]
            assert max(use for use, _ in recent) > FULL or max(lag for _, lag in recent) > LATE
            fallen = now
        elif before != after:
            assert now - fallen >= CALM
