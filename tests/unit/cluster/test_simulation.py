"""A thousand nodes and a hundred thousand calls an hour: placement with pictures that are up to a second old."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

import placement


@pytest.mark.parametrize("limit", [6, 10])
def test_no_node_is_above_its_limit_and_no_offer_is_refused_while_there_is_room(limit):
    """500 calls are live on average, for 600 places and for 1000."""
    found = placement.simulate(100, 10_000, limit)
    assert found.most <= limit
    assert found.wrongly == found.refused == 0
    assert limit < 10 or found.most < 10, "the calls are spread: five on average, never twice as many"


def test_a_thousand_nodes():
    """5,000 calls are live on average, five on each node."""
    found = placement.simulate(1000, 100_000, 20)
    assert found.refused == 0
    assert found.most <= 10
    assert found.asked == 100_000, "the node that was asked first has always had room"
