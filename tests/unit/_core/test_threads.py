"""Worker threads are counted, bounded, and always got back."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from functools import partial
from unittest.mock import Mock

import anyio
import pytest

from rtcflow._core.bridge import Event
from rtcflow._core.threads import Crew, WorkerThreads, observer
from rtcflow.exceptions import TooManyConnections

pytestmark = pytest.mark.anyio


async def test_a_thread_that_waits_in_queue_get_comes_back():
    """The thread of an emit that sits in queue.get() for ever is interrupted, not leaked."""
    threads = WorkerThreads()
    crew = Crew(threads)
    inbox: queue.Queue[int] = queue.Queue()
    before = set(threading.enumerate())

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(crew.run, "emit", lambda: crew.call(inbox.get))
            while not crew.busy:
                await anyio.sleep(0.001)
            tg.cancel_scope.cancel()
        crew.stop()
        assert await crew.join(grace=0.05) == []
        assert not crew.busy
        # It gets its pool's name back in its last steps.
        while any(not one.name.startswith(("AnyIO", "Trio")) for one in set(threading.enumerate()) - before):
            await anyio.sleep(0.001)
    assert threads.statistics().abandoned == 0
    inbox.put(1)
    assert inbox.get(timeout=1) == 1, "the queue itself still works"


async def test_a_thread_that_ends_in_the_moment_it_is_left_is_watched_no_more(monkeypatch):
    """Or virtual time would stand for ever: it is through and has not said so yet when its waiter is cancelled."""
    crew, watched = Crew(WorkerThreads()), Mock()
    through, go_on = threading.Event(), threading.Event()

    class Late(Event):
        def set(self):
            through.set()
            go_on.wait(30)
            super().set()

    monkeypatch.setattr("rtcflow._core.threads.Event", Late)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            token = observer.set(Mock(worker=lambda name: watched))
            tasks.start_soon(crew.run, "emit", int)
            observer.reset(token)
            while not through.is_set():
                await anyio.sleep(0.001)
            watched.finished.assert_not_called()
            tasks.cancel_scope.cancel()
        watched.finished.assert_called_once()
        go_on.set()
        crew.stop()
        assert await crew.join(grace=1.0) == []


async def test_a_thread_that_waits_in_our_own_event_comes_back():
    """The thread of an emit that sits in Event.wait_sync() for ever is interrupted, and the event still works."""
    crew = Crew(WorkerThreads())
    event = Event()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(crew.run, "emit", lambda: crew.call(event.wait_sync))
            while not crew.busy:
                await anyio.sleep(0.001)
            tg.cancel_scope.cancel()
        crew.stop()
        assert await crew.join(grace=0.05) == []
    event.set()
    assert event.wait_sync(timeout=0)


@pytest.mark.parametrize("returns", [True, False])
async def test_a_thread_that_computes_is_told_and_never_interrupted(returns):
    """It ends where it looks at the connection's end; one that does not look is abandoned, and goes on unharmed."""
    threads, told, done = WorkerThreads(), Event(), threading.Event()
    crew = Crew(threads)
    ended = []

    def compute():
        try:
            while not done.is_set():
                if returns and told.is_set():
                    return
                time.sleep(0.001)
        finally:
            ended.append(done.is_set())

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(crew.run, "emit", lambda: crew.call(compute))
            while not crew.busy:
                await anyio.sleep(0.001)
            tg.cancel_scope.cancel()
        crew.stop()
        told.set()
        lost = await crew.join(grace=0.05)
        assert len(lost) == (0 if returns else 1)
        done.set()
        await crew.settle(5)
    assert ended == [not returns]
    assert threads.statistics().abandoned == len(lost)


async def test_a_thread_that_cannot_be_interrupted_is_counted_and_named(caplog):
    """A call into C that does not return is abandoned, counted and logged with the method's name."""
    threads = WorkerThreads()
    crew = Crew(threads)
    free = threading.Lock()
    free.acquire()

    def emit():
        free.acquire()

    try:
        with anyio.fail_after(120), caplog.at_level(logging.ERROR):
            async with anyio.create_task_group() as tg:
                tg.start_soon(crew.run, "emit", lambda: crew.call(emit))
                while not crew.busy:
                    await anyio.sleep(0.001)
                tg.cancel_scope.cancel()
            crew.stop()
            lost = await crew.join(grace=0.01)
        assert len(lost) == 1
        assert "emit" in lost[0]
        assert threads.statistics().abandoned == 1
        assert "emit did not return" in caplog.text
    finally:
        free.release()


async def test_shutdown_that_releases_the_thread_makes_interrupting_needless():
    """A thread that is released within the grace ends by itself, and its result is not an interruption."""
    crew = Crew(WorkerThreads())
    inbox: queue.Queue[str] = queue.Queue()
    seen = []

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(crew.run, "emit", lambda: seen.append(crew.call(inbox.get)))
            while not crew.busy:
                await anyio.sleep(0.001)
            tg.cancel_scope.cancel()
        crew.stop()
        inbox.put("released")
        assert await crew.join(grace=5) == []
    assert seen == ["released"]


async def test_no_call_begins_after_stop():
    """Once stopped, a worker's next call of the handler is not made, and its loop ends."""
    crew = Crew(WorkerThreads())
    crew.stop()
    called = []

    def loop():
        crew.call(called.append, 1)

    assert await crew.run("emit", loop) is None
    assert not called


async def test_what_a_call_raises_arrives_as_it_is():
    """The exception of a handler's method reaches whoever runs the worker, unwrapped."""
    crew = Crew(WorkerThreads())
    error = ValueError("mine")

    def fail():
        raise error

    with pytest.raises(ValueError, match="mine") as info:
        await crew.run("emit", lambda: crew.call(fail))
    assert info.value is error


async def test_a_worker_thread_is_named_and_a_daemon():
    """It tells whose it is while it runs, and does not keep the process from ending."""
    crew = Crew(WorkerThreads())
    name, daemon = await crew.run(
        "Echo.emit abc…", lambda: (threading.current_thread().name, threading.current_thread().daemon)
    )
    assert name == "Echo.emit abc…"
    assert daemon
    for thread in threading.enumerate():
        if thread.name.startswith("Echo.emit"):  # about to end
            thread.join(30)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Echo.emit")]


async def test_a_job_that_was_left_before_it_began_does_nothing():
    """Its thread was started, and its waiter cancelled, in the same moment: nothing is waited for, nothing is run."""
    crew, ran = Crew(WorkerThreads()), []
    for _ in range(20):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await crew.run("emit", lambda: ran.append(1))
        async with anyio.create_task_group() as tg:
            tg.start_soon(crew.run, "emit", lambda: None)
            tg.cancel_scope.cancel()
    crew.stop()
    assert await crew.join(grace=5) == []
    assert not ran


async def test_an_error_that_came_when_nobody_waited_is_told(caplog):
    """What a thread raises after its connection has left it is logged, but for what shutdown() closed under it."""
    for error in (ValueError("late"), anyio.ClosedResourceError()):
        crew, raise_it = Crew(WorkerThreads()), threading.Event()

        def emit(error=error, raise_it=raise_it):
            raise_it.wait()
            raise error

        with anyio.fail_after(120), caplog.at_level(logging.ERROR):
            async with anyio.create_task_group() as tg:
                tg.start_soon(crew.run, "emit", partial(crew.call, emit))
                while not crew.busy:
                    await anyio.sleep(0.001)
                tg.cancel_scope.cancel()
            crew.stop()
            raise_it.set()
            assert await crew.join(grace=5) == []
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


LOST_THREAD = """
import sys, time
import anyio
import rtcflow

class Sleeper(rtcflow.StreamHandler):
    def copy(self): return Sleeper()
    def receive(self, frame): pass
    def emit(self): time.sleep(60)

async def main():
    async with rtcflow.memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        connection = rtcflow.Connection(ours, Sleeper(), timeouts=rtcflow.Timeouts(grace=0.1))
        tasks.start_soon(connection.run)
        await anyio.sleep(0.3)
        connection.close()
        await connection.wait_ended()
        print(connection.statistics().threads_abandoned)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lost_thread_does_not_keep_the_process(backend):
    """The interpreter ends although a handler's method is still in time.sleep(60)."""
    done = subprocess.run(
        [sys.executable, "-c", LOST_THREAD, backend], capture_output=True, text=True, timeout=150, check=True
    )
    assert done.stdout == "1\n"


def test_the_budget_refuses_what_does_not_fit():
    """A connection that needs more threads than are left is refused, and nothing is taken."""
    threads = WorkerThreads(limit=3)
    threads.reserve(2)
    with pytest.raises(TooManyConnections, match="2 of 3"):
        threads.reserve(2)
    assert threads.statistics().reserved == 2
    threads.release(2)
    threads.reserve(3)
