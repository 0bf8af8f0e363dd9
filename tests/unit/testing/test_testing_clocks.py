"""Virtual time: it jumps when nothing can run, never ahead of a worker thread, and stands still when told to."""

from __future__ import annotations

import math
import threading
import time

import anyio
import anyio.to_thread
import pytest

import rtcflow
from rtcflow._core.bridge import call_in_loop, current_loop_token
from rtcflow.testing import advance, virtual_backend, virtual_time
from rtcflow.testing._virtual_time import Alarm

BACKENDS = ["trio", "asyncio"]


@pytest.fixture
def anyio_backend(virtual_backend):
    """Every async test here runs in virtual time, on both backends."""
    return virtual_backend


@pytest.mark.anyio
async def test_an_hour_takes_no_time():
    """Sleeping for an hour moves the clock by exactly that, at once."""
    began, real = anyio.current_time(), time.monotonic()
    await anyio.sleep(3600)
    assert anyio.current_time() == began + 3600
    assert time.monotonic() - real < 5


@pytest.mark.anyio
async def test_frames_are_due_at_their_exact_deadlines():
    """Five hundred frames of 20 ms are each woken at their deadline, to a microsecond."""
    for n in range(1, 501):
        await anyio.sleep_until(n * 0.02)
        assert anyio.current_time() == pytest.approx(n * 0.02, abs=1e-6)


@pytest.mark.anyio
async def test_order_is_kept():
    """Tasks are woken in the order of their deadlines."""
    order = []

    async def sleeper(seconds):
        await anyio.sleep(seconds)
        order.append((seconds, anyio.current_time()))

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2):
            tasks.start_soon(sleeper, seconds)
    assert order == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.anyio
async def test_time_stands_while_a_thread_works():
    """A blocking call in a worker thread takes no virtual time, and no timeout fires during it."""
    with anyio.move_on_after(1) as scope:
        await anyio.to_thread.run_sync(time.sleep, 0.1)
    assert not scope.cancelled_caught
    assert anyio.current_time() == 0


@pytest.mark.anyio
async def test_what_comes_from_another_thread_comes_first():
    """A thread that wakes a task and ends is seen before the clock jumps."""
    event = rtcflow.Event()

    def work():
        time.sleep(0.02)
        event.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, work)
        with anyio.fail_after(0.001):
            await event.wait()


@pytest.mark.anyio
async def test_a_busy_loop_gets_real_time():
    """Tasks that go round without ever waiting do not hold the clock for ever."""
    with anyio.move_on_after(0.3) as scope:
        while True:
            await anyio.sleep(0)
    assert scope.cancelled_caught


def test_waiting_for_all_tasks_to_block_lets_no_time_pass():
    """Under trio a task that waits for all others to be blocked goes on before the clock jumps."""

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 5)
            await anyio.wait_all_tasks_blocked()
            assert anyio.current_time() == 0

    name, options = virtual_backend("trio")
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_manual_time_moves_by_advance_alone(backend):
    """Between two steps nothing moves; within a step everything due happens, each at its time."""
    seen = []

    async def ticker():
        while True:
            await anyio.sleep(0.25)
            seen.append(anyio.current_time())

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ticker)
            await advance(0)
            assert not seen
            await advance(1)
            assert seen == [0.25, 0.5, 0.75, 1.0]
            await advance(0.1)
            assert anyio.current_time() == pytest.approx(1.1)
            assert len(seen) == 4
            tasks.cancel_scope.cancel()

    name, options = virtual_backend(backend, manual=True)
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_add_up_to_what_they_are(backend):
    """After 236 steps of 20 ms it is 4.72 s, and who goes round until then comes to rest."""

    async def runner():
        await anyio.sleep(4.71)
        while anyio.current_time() < 4.72:
            await anyio.sleep(0)

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner)
            for _ in range(236):
                await advance(0.02)

    name, options = virtual_backend(backend, manual=True)
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_misuse_says_what_to_write(backend):
    """advance in automatic time, time going back, uvloop, and real time: each error shows the right call."""

    async def automatic():
        with pytest.raises(RuntimeError, match=r"anyio\.sleep"):
            await advance(1)

    async def backwards():
        with pytest.raises(ValueError, match="back"):
            await advance(-1)

    async def real():
        with pytest.raises(RuntimeError, match="virtual_backend"):
            virtual_time()

    name, options = virtual_backend(backend)
    anyio.run(automatic, backend=name, backend_options=options)
    name, options = virtual_backend(backend, manual=True)
    anyio.run(backwards, backend=name, backend_options=options)
    anyio.run(real, backend=backend)
    with pytest.raises(ValueError, match="uvloop"):
        virtual_backend("uvloop")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_real_engine_is_refused(backend):
    """WebRTC lives in real time: opening it in virtual time fails at once, and says what to use."""

    async def main():
        with pytest.raises(RuntimeError, match="memory_pair"):
            async with rtcflow.open_engine():
                pass

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


def test_no_thread_is_left():
    """Neither backend's virtual time leaves a thread behind."""
    before = threading.active_count()
    for backend in BACKENDS:
        name, options = virtual_backend(backend)
        anyio.run(anyio.sleep, 1, backend=name, backend_options=options)
    assert threading.active_count() <= before


@pytest.mark.anyio
async def test_an_alarm_rings_at_its_moments():
    """An alarm is called when its time has come, and no more when it is over."""
    clock, seen = virtual_time(), []

    def ring():
        seen.append(clock.now)
        return clock.now + 1.0 if len(seen) < 3 else math.inf

    with Alarm(clock, ring, 1.0):
        await anyio.sleep(5.0)
    with Alarm(clock, ring, 6.0):
        await anyio.sleep(0.5)
    await anyio.sleep(5.0)
    assert seen == [1.0, 2.0, 3.0]


@pytest.mark.anyio
async def test_an_alarm_is_called_from_a_thread():
    """`call` has an alarm ring in the loop's thread, also if the loop rests; no call is lost."""
    over, rung = anyio.Event(), []

    def ring():
        rung.append(threading.get_ident())
        if len(rung) == 3:
            over.set()
        else:
            threading.Thread(target=alarm.call).start()
        return math.inf

    with Alarm(virtual_time(), ring) as alarm:
        alarm.call()
        await over.wait()
    assert rung == [threading.get_ident()] * 3


@pytest.mark.anyio
@pytest.mark.parametrize("after", [0.0, 0.05])
async def test_a_thread_brings_something_to_a_loop_that_rests(after):
    """What another thread has called in the loop is called, also if the loop waits for nothing else."""
    over = anyio.Event()
    threading.Timer(after, call_in_loop, (current_loop_token(), over.set)).start()
    await over.wait()
    assert anyio.current_time() == 0.0
