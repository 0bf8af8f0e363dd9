"""A slot of the cluster counts as taken only if its node says so, whatever was said before."""

from __future__ import annotations

import anyio
import pytest

from rtcflow.cluster.slots import Slots, read_slots, write_slots
from rtcflow.exceptions import TooManyConnections

pytestmark = pytest.mark.anyio


class Others:
    """What the other nodes hold, and which of them answer."""

    def __init__(self, **held):
        self.held = held
        self.silent = set()
        self.asked = []
        self.searching = 0

    async def win(self, name, *, unasked):
        assert not unasked
        self.searching += 1
        assert self.searching == 1, "two searches at once"
        await anyio.lowlevel.checkpoint()
        self.searching -= 1
        slot = int(name.removeprefix("slot."))
        return next((node for node, slots in self.held.items() if slot in slots), None)

    async def ask(self, node):
        self.asked.append(node)
        await anyio.lowlevel.checkpoint()
        if node in self.silent:
            return None
        return list(self.held.get(node, ()))


def made(limit, others):
    return Slots(limit, others, others.ask)


async def test_each_slot_is_taken_once_and_then_no_more():
    slots = made(5, Others())
    found = []

    async def take():
        try:
            found.append(await slots.take())
        except TooManyConnections:
            found.append(None)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(take)
    assert sorted(slot for slot in found if slot is not None) == [0, 1, 2, 3, 4] == slots.held
    slots.free(3)
    assert await slots.take() == 3


async def test_a_stale_hint_hides_no_free_slot():
    """Word that a slot was freed may be lost, or late, or its node may have died."""
    others = Others(a={0, 1})
    slots = made(4, others)
    for slot in range(4):
        slots.said(slot, "a" if slot < 3 else "dead")
    assert {await slots.take(), await slots.take()} == {2, 3}
    with pytest.raises(TooManyConnections):
        await slots.take()


async def test_a_refusal_costs_one_question_to_each_node():
    others = Others(a=set(range(50)), b=set(range(50, 100)))
    slots = made(100, others)  # it has heard nothing
    with pytest.raises(TooManyConnections):
        await slots.take()
    assert sorted(others.asked) == ["a", "b"]


async def test_a_node_that_does_not_answer_keeps_its_slots():
    others = Others()
    others.silent.add("a")
    slots = made(3, others)
    for slot in range(2):
        slots.said(slot, "a")
    assert await slots.take() == 2
    with pytest.raises(TooManyConnections):
        await slots.take()
    slots.forget("a")
    assert {await slots.take(), await slots.take()} == {0, 1}


async def test_word_of_an_older_holder_does_not_free_the_slot_of_a_newer_one():
    slots = made(1, Others(b={0}))
    slots.said(0, "a")
    slots.said(0, "b")
    slots.unsaid(0, "a")
    slots.said(7, "b")  # of a node with a greater limit
    assert slots.hints == {0: "b"}


async def test_slots_as_messages():
    assert read_slots(write_slots([1, 7]), 5) == [1]
    for junk in (b"{}", b"x", b'["a"]'):
        with pytest.raises(ValueError, match=r"slots|Expecting|invalid literal"):
            read_slots(junk, 5)
