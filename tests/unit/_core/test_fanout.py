"""One writer, many readers."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import anyio
import pytest

from rtcflow._core.fanout import Fanout

pytestmark = pytest.mark.anyio


async def test_every_reader_gets_every_item():
    """Two readers both get what is put after they came, in order, and stop at the end."""
    fanout = Fanout[int]()
    first, second = fanout.read(), fanout.read()
    for item in range(3):
        fanout.put(item)
    fanout.end()
    assert [item async for item in first] == [0, 1, 2]
    assert [item async for item in second] == [0, 1, 2]


async def test_what_came_early_waits_for_the_first_reader_only():
    """Items from before the first reader are its own; a later reader starts from now."""
    fanout = Fanout[int](bound=2)
    for item in range(3):
        fanout.put(item)
    first = fanout.read()
    second = fanout.read()
    fanout.end()
    assert [item async for item in first] == [1, 2]
    assert [item async for item in second] == []


async def test_a_slow_reader_loses_its_oldest_and_hinders_nobody():
    """A reader that does not read keeps the newest items up to the bound, and its figures say what it lost."""
    fanout = Fanout[int](bound=4)
    slow, quick = fanout.read(), fanout.read()
    heard = []
    for item in range(10):
        fanout.put(item)
        heard.append(await anext(quick))
    assert heard == list(range(10))
    assert slow.statistics().dropped == 6
    fanout.end()
    assert [item async for item in slow] == [6, 7, 8, 9]


async def test_a_reader_is_closed_as_an_async_generator_is():
    """`contextlib.aclosing` takes it, as it takes the generator of FastRTC's `output_stream`."""
    fanout = Fanout[int]()
    async with aclosing(fanout.read()) as reader:
        fanout.put(1)
        assert await anext(reader) == 1
    assert fanout.readers == 0


async def test_a_reader_that_is_forgotten_costs_nothing():
    """Dropping a reader needs no closing: nothing is kept for it."""
    fanout = Fanout[int]()
    fanout.read()
    gc.collect()
    assert not fanout._flows


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_kept_nowhere_reads_on():
    """asyncio holds tasks weakly; the fanout holds the one that waits for its next item, and lets go at the end."""
    fanout = Fanout[int]()
    heard, ended = [], anyio.Event()

    async def collect():
        async for item in fanout.read():
            heard.append(item)
        ended.set()

    asyncio.get_running_loop().create_task(collect())
    for item in range(3):
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        fanout.put(item)
    await anyio.wait_all_tasks_blocked()
    fanout.end()
    await ended.wait()
    assert heard == [0, 1, 2]
    gc.collect()
    assert not fanout._flows
    assert not fanout._waited_for


async def test_a_second_task_that_reads_is_refused_and_the_first_is_still_held():
    """A reader is for one task; the one that waits gets its item although another one tried."""
    fanout = Fanout[int]()
    reader = fanout.read()
    async with anyio.create_task_group() as group:
        group.start_soon(anext, reader)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await anext(reader)
        assert len(fanout._waited_for) == 1
        fanout.put(1)


async def test_a_waiting_reader_is_woken_from_another_thread():
    """`put` and `end` may come from a worker thread."""
    fanout = Fanout[str]()
    reader = fanout.read()
    heard = []

    async def read():
        heard.extend([item async for item in reader])

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(fanout.put, "a")
        await anyio.to_thread.run_sync(fanout.end)
    assert heard == ["a"]
