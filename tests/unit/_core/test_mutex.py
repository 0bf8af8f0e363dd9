"""The lock that `emit` and `say` share: one holder at a time, tasks and threads, and no wake-up is lost."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from rtcflow._core.mutex import Mutex


@pytest.mark.anyio
async def test_one_holds_it_at_a_time() -> None:
    """Tasks and threads that take it in turns never meet in it, and all of them get it."""
    mutex, inside, done = Mutex(), [], []

    def in_thread(number: int) -> None:
        for _ in range(200):
            if not mutex.acquire_nowait():
                mutex.acquire_sync()
            inside.append(number)
            assert inside == [number]
            inside.pop()
            mutex.release()
        done.append(number)

    async def in_task(number: int) -> None:
        for _ in range(200):
            await mutex.acquire()
            inside.append(number)
            await anyio.lowlevel.checkpoint()
            assert inside == [number]
            inside.pop()
            mutex.release()
        done.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(anyio.to_thread.run_sync, in_thread, number)
            tasks.start_soon(in_task, 10 + number)
    assert sorted(done) == [0, 1, 2, 10, 11, 12]


@pytest.mark.anyio
async def test_a_cancelled_wait_leaves_it_as_it_was() -> None:
    """The holder releases it, and the next one gets it."""
    mutex = Mutex()
    assert mutex.acquire_nowait()
    assert not mutex.acquire_nowait()
    with anyio.move_on_after(0) as scope:
        await mutex.acquire()
    assert scope.cancelled_caught
    mutex.release()
    with anyio.fail_after(120):
        await mutex.acquire()
    waiting = threading.Thread(target=mutex.acquire_sync)
    waiting.start()
    mutex.release()
    await anyio.to_thread.run_sync(waiting.join)
    assert not mutex.acquire_nowait()
