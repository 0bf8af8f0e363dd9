"""Waiting and waking across threads and backends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from rtcflow._core.bridge import Event, ParkingLot, call_in_loop, current_loop_token, loop_clock, wake_later

pytestmark = pytest.mark.anyio


async def test_one_task_and_one_thread_both_wake():
    """A set() from a foreign thread wakes a waiting task and a waiting thread."""
    event, woken = Event(), []

    async def task():
        await event.wait()
        woken.append("task")

    async def thread():
        assert await anyio.to_thread.run_sync(event.wait_sync, 10)
        woken.append("thread")

    with anyio.fail_after(40):  # one that is not woken waits for ever
        async with anyio.create_task_group() as tg:
            tg.start_soon(task)
            tg.start_soon(thread)
            await anyio.wait_all_tasks_blocked()
            threading.Timer(0.01, event.set).start()
    assert sorted(woken) == ["task", "thread"]


async def test_a_clear_right_after_set_loses_nobody():
    """Who waited when set() was called is woken although clear() follows at once."""
    event = Event()
    done = []

    async def wait():
        done.append(await event.wait())

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            event.set()
            event.clear()
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
    assert done == [True] * 3
    assert not event.is_set()


async def test_wait_sync_times_out():
    """A thread that waits for a flag that nobody raises gets False after its timeout."""
    assert await anyio.to_thread.run_sync(Event().wait_sync, 0.01) is False


async def test_close_lets_nobody_wait_for_ever():
    """close() ends the waits of tasks and threads with ClosedResourceError, those that begin later, too."""
    event = Event()

    async def task():
        with pytest.raises(anyio.ClosedResourceError):
            await event.wait()

    async def thread():
        with pytest.raises(anyio.ClosedResourceError):
            await anyio.to_thread.run_sync(event.wait_sync)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(task)
            tg.start_soon(thread)
            await anyio.wait_all_tasks_blocked()
            await anyio.sleep(0.01)
            event.close()
        await task()


async def test_a_set_event_can_still_be_waited_for_after_close():
    """A flag that was raised before close() stays raised."""
    event = Event()
    event.set()
    event.close()
    assert await event.wait()
    assert event.wait_sync(0)


async def test_a_cancelled_waiter_leaves_the_lot():
    """Cancelling a parked task takes it out of the lot and leaves the lock free."""
    lock = threading.Lock()
    lot = ParkingLot(lock)

    async def park():
        with lock:
            await lot.park()

    async with anyio.create_task_group() as tg:
        tg.start_soon(park)
        await anyio.wait_all_tasks_blocked()
        assert len(lot.waiters) == 1
        tg.cancel_scope.cancel()
    assert not lot.waiters
    assert not lock.locked()


async def test_no_wake_up_is_lost_between_threads():
    """10,000 hand-overs between a task and a thread, each waiting for the other, all arrive."""
    ping, pong, n = Event(), Event(), 1000

    def thread():
        for _ in range(n):
            assert ping.wait_sync(10)
            ping.clear()
            pong.set()

    async def task():
        for _ in range(n):
            ping.set()
            await pong.wait()
            pong.clear()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.to_thread.run_sync, thread)
            tg.start_soon(task)


async def test_the_loop_clock_can_be_read_in_a_thread():
    """loop_clock() gives the loop's time also in a worker thread."""
    clock = loop_clock()
    before = anyio.current_time()
    assert before <= await anyio.to_thread.run_sync(clock) <= anyio.current_time() + 0.001


async def test_call_in_loop_runs_in_the_loop():
    """What a thread hands to call_in_loop runs in the loop's thread."""
    token, where = current_loop_token(), []
    done = anyio.Event()

    def here():
        where.append(threading.get_ident())
        done.set()

    assert await anyio.to_thread.run_sync(call_in_loop, token, here)
    with anyio.fail_after(120):
        await done.wait()
    assert where == [threading.get_ident()]


def test_call_in_loop_that_ended_says_so():
    """A call into a loop that has ended returns False instead of raising."""
    token = anyio.run(lambda: _token())
    assert call_in_loop(token, print) is False


async def _token():
    return current_loop_token()


async def test_a_thread_may_wake_later_than_it_would():
    """What a thread with `wake_later` wakes is woken when it says, all at once; then at once again."""
    first, second, third = Event(), Event(), Event()
    turn: list[Callable[[], None]] = []

    def engine():
        wake_later(turn.append)
        first.set()
        second.set()
        wake_later(None)

    async with anyio.create_task_group() as tg:
        tg.start_soon(first.wait)
        tg.start_soon(second.wait)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(engine)
        assert len(turn) == 1
        turn[0]()
    async with anyio.create_task_group() as tg:
        tg.start_soon(third.wait)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(third.set)


def test_trio_as_a_guest_of_a_loop_that_used_an_event():
    """asyncio's loop runs while its guest's tasks do: each task waits in the way of its own backend."""
    trio = pytest.importorskip("trio")
    event, other, done = Event(), Event(), []

    async def guest():
        with trio.fail_after(120):
            done.append(await event.wait())
            other.set()

    async def host():
        first = Event()
        threading.Timer(0.01, first.set).start()
        await first.wait()  # from here on this thread's loop is known as asyncio's
        ended = asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        await asyncio.sleep(0.05)
        event.set()
        await other.wait()  # and asyncio's tasks wait in their way beside it
        (await ended).unwrap()

    asyncio.run(host())
    assert done == [True]
