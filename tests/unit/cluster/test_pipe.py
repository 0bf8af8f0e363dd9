"""Pipes between two nodes, message by message; over NATS they are tested in test_node.py and tests/cluster."""

from __future__ import annotations

from functools import partial

import pytest

from rtcflow.cluster.pipe import ROOM, Pipe

pytestmark = pytest.mark.anyio


async def test_a_slow_reader_holds_the_writer_back_although_it_writes_again():
    """A writer without an answer sends its message again every 2 s. To a full pipe, that is no reason to answer."""
    pipe, answered = Pipe(None, 1), []

    def take(number, name):
        pipe.take(number, ({"type": "text", "number": number}, b""), partial(answered.append, name))

    for number in range(1, ROOM + 1):
        take(number, number)
    assert answered == list(range(1, ROOM)), "the last one must wait for the reader"
    take(ROOM, "again")
    take(ROOM, "and again")
    assert answered == list(range(1, ROOM))
    assert (await pipe.receive())["number"] == 1
    assert answered[ROOM - 1 :] == ["and again"], "nobody listens for the answer to the earlier ones"
    take(ROOM, "its answer was lost")
    assert answered[-1] == "its answer was lost"
    assert [(await pipe.receive())["number"] for _ in range(ROOM - 1)] == list(range(2, ROOM + 1)), "each once"
