"""A hundred nodes and ten thousand calls an hour: placement with pictures that are half a second old."""

from __future__ import annotations

import heapq
import random

import pytest

from rtcflow.cluster.policy import Load, Placement

BEAT = 0.5


def simulate(nodes: int, calls: int, limit: int, doors: int = 3):
    """One hour; returns the offers refused, those refused while a node had room, and the most calls of a node.

    Offers arrive at random, at some of the nodes. Each of these has the picture of the last report and knows what it
    has itself placed since. Calls last 3 minutes on average.
    """
    rng = random.Random(1)
    names = [f"n{k}" for k in range(nodes)]
    live = dict.fromkeys(names, 0)
    deciders = [Placement(name) for name in names[:doors]]  # they take the offers
    ends: list[tuple[float, str]] = []
    refused = wrongly = most = 0
    reported = -BEAT
    for now in sorted(rng.uniform(0, 3600) for _ in range(calls)):
        while ends and ends[0][0] <= now:
            live[heapq.heappop(ends)[1]] -= 1
        if now - reported >= BEAT:
            reported = now
            for decider in deciders:
                for name in names:
                    decider.update(name, Load(live[name], limit))
        decider, tried = rng.choice(deciders), set()
        while len(tried) < 8 and (name := decider.choose(rng.randrange, tried)) is not None:
            tried.add(name)
            decider.reserve(name)
            taken = live[name] < limit  # the node itself decides
            decider.settle(name, taken=taken)
            if taken:
                live[name] += 1
                most = max(most, live[name])
                heapq.heappush(ends, (now + rng.expovariate(1 / 180), name))
                break
        else:
            refused += 1
            wrongly += any(count < limit for count in live.values())
    return refused, wrongly, most


@pytest.mark.parametrize("limit", [6, 10])
def test_no_node_is_above_its_limit_and_no_offer_is_refused_while_there_is_room(limit):
    """500 calls are live on average, for 600 places and for 1000."""
    refused, wrongly, most = simulate(100, 10_000, limit)
    assert most <= limit
    assert wrongly == 0
    assert refused == 0
    assert limit < 10 or most < 10, "the calls are spread: five on average, never twice as many"
