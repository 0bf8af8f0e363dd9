"""The clock of the checks' limits: a busy machine does not use it up. Time is told by hand here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from rtcflow import AsyncStreamHandler
from rtcflow.testing import _fair_clock as fair
from rtcflow.testing import _room as room
from rtcflow.testing import check_handler, contract
from rtcflow.testing._fair_clock import LOOK, FairClock


class Machine:
    """A process and the machine under it: how much time passed, and how much of it the process had a processor."""

    def __init__(self):
        self.real = self.processor = 1000.0
        self.wanted = False
        self.clock = FairClock(lambda: self.real, lambda: self.processor, lambda: self.wanted)

    def passes(self, real, processor=0.0, *, wanted=False):
        """Time passes, and somebody looks."""
        self.real += real
        self.processor += processor
        self.wanted = wanted
        self.clock.look()


def test_on_an_idle_machine_it_is_real_time():
    """Whether the process computes or waits."""
    machine = Machine()
    for _ in range(40):
        machine.passes(LOOK, LOOK, wanted=True)
    assert machine.clock.now() == pytest.approx(10.0)
    for _ in range(40):
        machine.passes(LOOK)
    assert machine.clock.now() == pytest.approx(20.0)
    for _ in range(40):
        machine.passes(LOOK, LOOK / 5)
    assert machine.clock.now() == pytest.approx(30.0)


def test_waiting_for_a_processor_does_not_count():
    """A machine with forty other things to do."""
    machine = Machine()
    for _ in range(400):
        machine.passes(LOOK, LOOK / 40, wanted=True)
    assert machine.clock.now() == pytest.approx(100 / 40)


def test_a_look_that_comes_late_counts_as_one_look():
    """The thread that looks waits for a processor, too."""
    machine = Machine()
    machine.passes(20.0)
    assert machine.clock.now() == pytest.approx(LOOK)


def test_what_nobody_looks_at_counts_by_its_processor_time():
    """Between two calls nobody looks."""
    machine = Machine()
    machine.real += 50.0
    machine.processor += 0.5
    machine.clock.begin()
    assert machine.clock.now() == pytest.approx(0.5)
    machine.passes(LOOK)
    assert machine.clock.now() == pytest.approx(0.5 + LOOK)


def test_a_thread_that_has_a_processor_is_seen(monkeypatch):
    """One of the others, not the one that looks."""
    threads = [SimpleNamespace(native_id=one) for one in (None, 1, 2)]
    monkeypatch.setattr(fair.threading, "enumerate", lambda: threads)
    monkeypatch.setattr(fair.threading, "get_native_id", lambda: 1)
    running: set[int] = set()
    monkeypatch.setattr(fair, "wants_a_processor", running.__contains__)
    clock = FairClock(iter([0.0, 0.25, 0.5, 0.75]).__next__, lambda: 0.0)
    for ids, now in (({1}, 0.25), ({2}, 0.25), (set(), 0.5)):
        running.clear()
        running.update(ids)
        clock.look()
        assert clock.now() == now


class Silent(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        return None

    def copy(self):
        return Silent()


@pytest.mark.parametrize("busy", [True, False])
def test_a_busy_machine_ends_no_check_early(monkeypatch, busy, recwarn):
    """Each look is a minute of real time later. If a thread wants a processor, this is no reason to end."""
    real = iter(range(0, 10**9, 60)).__next__
    machine = FairClock(lambda: float(real()), lambda: 0.0, lambda: busy)
    monkeypatch.setattr(contract, "FairClock", lambda: machine)
    looked: list[str] = []

    def check(name, *_):
        for _ in range(40):  # ten seconds
            machine.look()
        looked.append(name)

    sentences = [replace(one, check=partial(check, one.text), probed=False) for one in contract.SENTENCES]
    monkeypatch.setattr(contract, "SENTENCES", sentences)
    check_handler(Silent())
    if busy:
        assert looked == [one.text for one in sentences]
        assert not recwarn.list
    else:
        assert len(looked) == 1 + contract.LONGEST // 10
        assert "ended early" in str(recwarn.pop(UserWarning).message)


@pytest.mark.parametrize("busy", [True, False])
def test_a_busy_machine_makes_no_loop_hang(busy):
    """A loop that did not go round for a long time had no processor, or hangs."""
    real = iter(range(0, 10**9, 60)).__next__
    clock = SimpleNamespace(now=0.0, over_by=1.0, pulse=0, busy_for=1e9, abandon=lambda: None)
    token = fair.fair_clock.set(FairClock(lambda: float(real()), lambda: 0.0, lambda: busy))
    try:
        watch = room.Watch(clock, Silent(), hang=3.0)
    finally:
        fair.fair_clock.reset(token)
    watch.begin()
    told = [watch.found(0) for _ in range(20)]
    assert any(told) is not busy
