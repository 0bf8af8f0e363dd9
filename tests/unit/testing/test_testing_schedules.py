"""`explore` runs a scenario under many orders of its tasks, the same for the same seed."""

from __future__ import annotations

import itertools

import anyio
import anyio.lowlevel
import pytest

import rtcflow
from rtcflow._core.bridge import ParkingLot
from rtcflow.testing import explore
from rtcflow.testing._schedules import Schedule

BACKENDS = ["trio", "asyncio"]


def orders(backend, seeds, tasks="abc"):
    """In which orders three steps of each task come, one entry for each seed."""
    seen = []

    async def scenario():
        log = []

        async def walk(name):
            for _ in range(3):
                log.append(name)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for name in tasks:
                group.start_soon(walk, name)
        seen.append("".join(log))

    explore(scenario, seeds=seeds, backends=[backend])
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_is_an_order(backend):
    """The same seed gives the same order; many seeds give many orders."""
    first = orders(backend, range(100))
    assert first == orders(backend, range(100))
    assert len(set(first)) > 60


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_order_of_two_steps_is_reached(backend):
    """All 20 ways to mix two tasks of three steps each are found."""
    every = {"".join(one) for one in itertools.permutations("aaabbb")}
    assert set(orders(backend, range(800), "ab")) == every


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lost_wake_up_is_found_at_once(backend):
    """An event that is cleared too late: in some order nobody is woken any more."""

    async def lost():
        event, items = rtcflow.Event(), []

        async def produce():
            for n in range(3):
                items.append(n)
                event.set()
                await anyio.lowlevel.checkpoint()

        async def consume():
            got = 0
            while got < 3:
                await event.wait()
                got += len(items)
                items.clear()
                await anyio.lowlevel.checkpoint()
                event.clear()

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            group.start_soon(consume)

    with pytest.raises(TimeoutError, match="did not end within 60 s of virtual time") as caught:
        explore(lost, backends=[backend])
    (note,) = caught.value.__notes__
    assert f"on {backend}" in note
    line = note.splitlines()[1].strip()
    with pytest.raises(TimeoutError):
        exec(line, {"explore": explore, "lost": lost})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_race_between_check_and_act_is_found(backend):
    """Two tasks that both see a free slot."""

    async def race():
        taken = []

        async def take():
            if not taken:
                await anyio.lowlevel.checkpoint()
                taken.append(1)

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            group.start_soon(take)
        assert len(taken) == 1

    with pytest.raises(BaseException, match="assert"):
        explore(race, backends=[backend])


def test_a_schedule_lets_one_task_run():
    """However many are held back."""
    for seed in range(50):
        schedule = Schedule(seed)
        for n in range(1, 5):
            run, held = schedule.choose(list(range(n)))
            assert run
            assert sorted(run + held) == list(range(n))


def test_bad_input_is_refused():
    """No seeds, or a loop that runs already."""

    async def scenario():
        pass

    with pytest.raises(ValueError, match="at least one seed"):
        explore(scenario, seeds=[])

    async def inside():
        explore(scenario)

    with pytest.raises(RuntimeError, match="plain def"):
        anyio.run(inside)


def test_a_parking_lot_without_its_lock_is_found_out():
    """What `ParkingLot` is for: a check and a wait that are two steps lose a wake-up in some order."""

    async def careless():
        state = {"ready": False}
        event = anyio.Event()

        async def wait():
            if not state["ready"]:
                await anyio.lowlevel.checkpoint()  # between the check and the wait
                nonlocal event
                event = anyio.Event()
                await event.wait()

        async def wake():
            state["ready"] = True
            event.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wake)

    with pytest.raises(TimeoutError):
        explore(careless)
    assert ParkingLot.__doc__
