"""Laws of the placement: it never chooses what it should not, and a herd stays small."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.cluster.policy import Load, Placement, is_news, read_release

LOADS = st.builds(
    Load,
    calls=st.integers(0, 5),
    limit=st.one_of(st.none(), st.integers(1, 5)),
    draining=st.booleans(),
    release=st.sampled_from([(), (1,), (2,)]),
    lag=st.sampled_from([0.0, 0.01, 0.5]),
)
NAMES = st.sampled_from("abcdef")


@given(st.dictionaries(NAMES, LOADS), st.sets(NAMES), st.lists(NAMES), st.randoms())
def test_a_choice_has_room_and_is_of_the_newest_release(loads, tried, reserved, rng):
    placement = Placement("a")
    for name, load in loads.items():
        placement.update(name, load)
    for name in reserved:
        if name in loads:
            placement.reserve(name)
    chosen = placement.choose(rng.randrange, tried)
    able = {
        name
        for name, load in loads.items()
        if not load.draining and name not in tried and (load.limit is None or placement.calls(name) < load.limit)
    }
    if chosen is None:
        assert not able
    else:
        assert chosen in able
        assert loads[chosen].release == max(loads[name].release for name in able)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("update"), NAMES, LOADS),
            st.tuples(st.just("remove"), NAMES, st.none()),
            st.tuples(st.just("reserve"), NAMES, st.none()),
            st.tuples(st.just("settle"), NAMES, st.booleans()),
        )
    ),
    st.randoms(),
)
def test_what_is_known_follows_the_events(events, rng):
    """After any events, the nodes that can be chosen are those that were told of, and are not gone or draining."""
    placement, loads, asked = Placement("a"), {}, {}
    for kind, name, value in events:
        if kind == "update":
            placement.update(name, value)
            loads[name] = value
        elif kind == "remove":
            placement.remove(name)
            loads.pop(name, None)
            asked.pop(name, None)
        elif kind == "reserve":
            placement.reserve(name)
            asked[name] = asked.get(name, 0) + 1
        elif asked.get(name):
            placement.settle(name, taken=value)
            asked[name] -= 1
    assert len(placement) == len(loads)
    for name, load in loads.items():
        assert placement.calls(name) >= load.calls + asked.get(name, 0)
    takers = {name for name, load in loads.items() if not load.draining}
    assert sorted(name for pool in placement._pools.values() for name in pool) == sorted(takers)
    seen = set()
    while (chosen := placement.choose(rng.randrange, seen)) is not None:
        assert chosen in takers - seen
        seen.add(chosen)
    full = set(placement.believed_full(seen))
    assert full | seen == takers
    assert not full & seen


@pytest.mark.parametrize("others", ["b", "bcdef"])
def test_this_node_is_chosen_unless_another_one_is_lighter_by_more_than_a_call(others):
    """However many there are, and though every loop is late by some milliseconds."""
    placement = Placement("a")
    for calls, lag, expected in ((3, 0.015, "a"), (2, 0.0, "a"), (1, 0.0, others)):
        placement.update("a", Load(calls=3, limit=10, lag=0.015))
        for name in others:
            placement.update(name, Load(calls=calls, limit=10, lag=lag))
        assert {placement.choose(random.randrange) for _ in range(60)} <= {*expected}
    for name in others:
        placement.update(name, Load(calls=3, limit=10))
    placement.update("a", Load(calls=3, limit=10, lag=0.3))
    assert {placement.choose(random.randrange) for _ in range(60)} <= {*others}
    placement.update("a", Load(calls=0, limit=10, draining=True))
    assert {placement.choose(random.randrange) for _ in range(60)} <= {*others}
    placement.update("a", Load(calls=0, limit=10, release=(1,)))
    assert placement.choose(random.randrange) == "a"
    for name in others:
        placement.update(name, Load(calls=9, limit=10, release=(2,)))
    assert placement.choose(random.randrange) in others


def test_the_lighter_of_two_others_is_chosen():
    placement = Placement("a")
    placement.update("a", Load(calls=9, limit=10))
    placement.update("b", Load(calls=4, limit=10))
    placement.update("c", Load(calls=5, limit=10))
    draws = iter([1, 1])  # b and c
    assert placement.choose(lambda _: next(draws)) == "b"


@given(LOADS, LOADS)
def test_what_changes_a_choice_is_news(told, load):
    """Whether a node takes calls at all, and a tenth of its limit. With up to ten places, each call is."""
    assert is_news(told, load) == is_news(load, told)
    assert not is_news(load, load)
    if told.has_room != load.has_room or told.release != load.release:
        assert is_news(told, load)
    if load.limit is not None:
        assert is_news(load, replace(load, calls=load.calls + 1))


def test_small_changes_are_no_news():
    """One call of fifty, and a loop that is late by a few milliseconds."""
    load = Load(20, 50)
    assert not is_news(load, replace(load, calls=24))
    assert is_news(load, replace(load, calls=25))
    assert not is_news(load, replace(load, lag=0.03))
    assert is_news(load, replace(load, lag=0.05))


def test_a_herd_is_bounded():
    """A hundred offers between two reports, at one node with a picture that does not change: they spread out."""
    placement = Placement("n0")
    for k in range(50):
        placement.update(f"n{k}", Load(calls=k % 3, limit=20))
    taken = dict.fromkeys((f"n{k}" for k in range(50)), 0)
    rng = random.Random(1)
    for _ in range(100):
        name = placement.choose(rng.randrange)
        placement.reserve(name)
        placement.settle(name, taken=True)
        taken[name] += 1
    assert max(taken.values()) <= 6


def test_a_node_that_refused_is_not_asked_again():
    placement = Placement("a")
    placement.update("a", Load(calls=0, limit=1))
    assert placement.choose(random.randrange, {"a"}) is None
    assert placement.believed_full({"a"}) == []


def test_releases_are_compared_by_their_numbers():
    assert read_release("2026-11-29.2") < read_release("2026-11-29.10")
    assert read_release("") == ()
