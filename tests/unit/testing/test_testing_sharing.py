"""What copies of a handler share, and which changes of it are seen."""

from __future__ import annotations

import argparse
import io
import itertools
import queue
import threading
import wave
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest

from rtcflow import AsyncStreamHandler
from rtcflow.exceptions import HandlerError
from rtcflow.testing._sharing import SharedChanges, refuse_shared_state


class Shares(AsyncStreamHandler):
    """Its copies share `thing`."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing

    async def receive(self, frame):
        pass

    async def emit(self):
        return None

    def copy(self):
        return Shares(self.thing)


class Desk:
    """An object of the application, with a dict."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def note(self) -> None: ...


class Slim:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


def take(limiter: Any) -> None:
    limiter.acquire(blocking=False) if isinstance(limiter, threading.Semaphore) else limiter.acquire_nowait()


def closure() -> Callable[[], list[int]]:
    found: list[int] = []
    return lambda: found


def sound() -> wave.Wave_read:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 24000, 0, "NONE", ""))
        written.writeframes(bytes(200))
    return wave.open(io.BytesIO(file.getvalue()), "rb")


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a list": (list, lambda it: it.append(1)),
    "an item of a list": (lambda: [1, 2], lambda it: it.__setitem__(0, 3)),
    "a tuple's list": (lambda: (1, []), lambda it: it[1].append(1)),
    "a new key": (dict, lambda it: it.update(a=1)),
    "a value of a key": (lambda: {"a": 1}, lambda it: it.update(a=2)),
    "a set": (set, lambda it: it.add(1)),
    "a deque": (deque, lambda it: it.append(1)),
    "a bytearray": (lambda: bytearray(2), lambda it: it.__setitem__(0, 1)),
    "samples": (lambda: np.zeros(9), lambda it: it.__setitem__(4, 1)),
    "an attribute": (Desk, lambda it: setattr(it, "more", 1)),
    "a list of an object": (Desk, lambda it: it.calls.append(1)),
    "a slot": (Slim, lambda it: setattr(it, "calls", 1)),
    "a semaphore": (lambda: threading.Semaphore(2), take),
    "an async semaphore": (lambda: anyio.Semaphore(2), take),
    "a list in a partial": (lambda: partial(print, []), lambda it: it.args[0].append(1)),
    "the object of a method": (lambda: Desk().note, lambda it: it.__self__.calls.append(1)),
    "a list of a closure": (closure, lambda it: it().append(1)),
    "a default value": (lambda: lambda found=[]: found, lambda it: it().append(1)),
    "a file that is read": (sound, lambda it: it.readframes(10)),
    "an iterator": (lambda: iter([1, 2]), next),
    "a generator": (lambda: (n for n in range(3)), next),
    "four levels down": (lambda: {"a": [{"b": []}]}, lambda it: it["a"][0]["b"].append(1)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_what_is_shared_is_seen(kind: str) -> None:
    make, change = CHANGES[kind]

    async def look() -> None:
        thing = make()
        first = Shares(thing)
        watched, allowed = SharedChanges(first, first.copy()), SharedChanges(first, first.copy(), {"thing"})
        apart = SharedChanges(first, Shares(make()))
        assert watched.left() is None
        change(thing)
        told = watched.left()
        assert told is not None
        assert "which all copies share" in told
        assert "shared={'thing'}" in told
        assert allowed.left() is None, "it is shared on purpose"
        assert apart.left() is None, "it is not shared"

    anyio.run(look)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (argparse.Namespace, lambda it: setattr(it, "more", 1)),  # of another package, as clients and models are
        (lambda: [[[[[]]]]], lambda it: it[0][0][0][0].append(1)),  # too deep
        (itertools.count, next),  # numbers the calls
        (io.StringIO, lambda it: it.write("a call")),  # a log
    ],
)
def test_what_is_not_looked_at(make: Callable[[], Any], change: Callable[[Any], Any]) -> None:
    thing = make()
    watched = SharedChanges(Shares(thing), Shares(thing))
    change(thing)
    assert watched.left() is None


def test_an_attribute_of_the_class_is_shared_by_all_copies() -> None:
    class Counts(Shares):
        total = 0

    first = Counts(None)
    watched = SharedChanges(first, Counts(None))
    Counts.total += 1
    assert "a call set .total of the class Counts" in str(watched.left())
    assert SharedChanges(first, Counts(None)).left() is None


ROOM = Desk()
RATES = Desk()


class Uses(Shares):
    async def receive(self, frame):
        ROOM.calls.append(1)
        RATES.calls.append(1)


def test_what_a_call_takes_from_the_application_must_be_given_back() -> None:
    """What a whole call leaves changed counts on purpose: `accept` is told of it and it is not looked at any more."""
    watched = SharedChanges(Uses(None), Uses(None))
    RATES.calls.append(1)  # the first call counts itself, and leaves no room taken
    watched.accept()
    assert watched.left_around() is None
    ROOM.calls.append(1)
    RATES.calls.append(2)
    assert str(watched.left_around()).startswith("ROOM is not as it was before")
    ROOM.calls.clear()
    assert watched.left_around() is None
    RATES.calls.clear()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (deque, r"write: self\.thing = deque\(\)"),
        (bytearray, r"write: self\.thing = bytearray\(\)"),
        (queue.Queue, r"write: self\.thing = queue\.Queue\(\)"),
        (threading.Event, r"write: self\.thing = threading\.Event\(\)"),
        (lambda: (1, queue.Queue()), r"share what is in \.thing.*make its items in Shares\.__init__"),
        (lambda: {"a": [deque()]}, r"\.thing\['a'\]\[0\]"),
    ],
)
def test_what_belongs_to_one_call_must_not_be_shared(make: Callable[[], Any], words: str) -> None:
    thing = make()
    first = Shares(thing)
    copy = Shares({"a": list(thing["a"])} if isinstance(thing, dict) else thing)  # a shallow copy of a dict
    with pytest.raises(HandlerError, match=words):
        refuse_shared_state(first, copy, "copy()")
    refuse_shared_state(first, copy, "copy()", {"thing"})
    refuse_shared_state(first, Shares(make()), "copy()")


def test_a_copy_that_is_the_handler_itself() -> None:
    first = Shares(None)
    with pytest.raises(HandlerError, match=r"gives the same handler each time.*write: return Shares\(\.\.\.\)"):
        refuse_shared_state(first, first, "copy()")
