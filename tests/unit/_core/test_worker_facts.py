"""A handler's worker thread is a thread of `anyio.to_thread` for the code in it: one list of facts, held by both."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
import pytest
import sniffio

import rtcflow
from rtcflow._core.threads import Crew, WorkerThreads, run_sync

pytestmark = pytest.mark.anyio

VARIABLE = contextvars.ContextVar("variable", default="unset")


async def plain(function: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


async def of_a_crew(function: Callable[[], Any]) -> Any:
    crew = Crew(WorkerThreads())
    return await crew.run("Handler.emit", partial(crew.call, function))


async def of_a_handler(function: Callable[[], Any]) -> Any:
    """As `emit` of a live call."""
    outcome: list[Any] = []
    done = rtcflow.Event()

    class Handler(rtcflow.StreamHandler):
        def copy(self):
            return Handler()

        def receive(self, frame):
            pass

        def emit(self):
            if not done.is_set():
                try:
                    outcome.append(function())
                except BaseException as error:
                    outcome.append(error)
                done.set()

    async with rtcflow.memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        tasks.start_soon(rtcflow.run_connection, ours, Handler())
        await done.wait()
        tasks.cancel_scope.cancel()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


KINDS = pytest.mark.parametrize("in_thread", [plain, of_a_crew, of_a_handler])


@KINDS
async def test_coroutines_run_in_the_loop_without_a_token(in_thread):
    """`from_thread.run` awaits in the loop's thread and brings back what comes of it."""

    async def work(number):
        await anyio.sleep(0)
        return threading.get_ident(), number + 1

    assert await in_thread(lambda: anyio.from_thread.run(work, 1)) == (threading.get_ident(), 2)


@KINDS
async def test_functions_run_in_the_loop_without_a_token(in_thread):
    """So does `from_thread.run_sync`; and in there the backend is known."""
    found = await in_thread(lambda: anyio.from_thread.run_sync(sniffio.current_async_library))
    assert found == sniffio.current_async_library()


@KINDS
async def test_errors_come_back_as_they_are(in_thread):
    """An exception of the coroutine reaches the thread, and whoever waits for the thread."""

    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        await in_thread(lambda: anyio.from_thread.run(fail))


@KINDS
async def test_context_variables_are_carried_in_and_not_out(in_thread):
    """The thread sees the caller's, and what it sets stays there."""
    VARIABLE.set("outside")

    def look():
        before = VARIABLE.get()
        VARIABLE.set("inside")
        return before

    assert await in_thread(look) == "outside"
    assert VARIABLE.get() == "outside"


@KINDS
async def test_no_backend_runs_in_the_thread(in_thread):
    """It is a plain thread: sniffio finds no event loop in it."""

    def look():
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()
        return "none"

    assert await in_thread(look) == "none"


@KINDS
async def test_check_cancelled_says_nothing_while_all_is_well(in_thread):
    """It returns None."""
    assert await in_thread(anyio.from_thread.check_cancelled) is None


@pytest.mark.parametrize("in_thread", [plain, of_a_crew])
async def test_check_cancelled_raises_once_the_caller_was_cancelled(in_thread):
    """In the thread that was abandoned, so that it can stop."""
    begun, stopped = threading.Event(), threading.Event()

    def work():
        begun.set()
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            try:
                anyio.from_thread.check_cancelled()
            except BaseException:
                stopped.set()
                raise
            time.sleep(0.001)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, work)
            while not begun.is_set():
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        while not stopped.is_set():
            await anyio.sleep(0.001)


async def test_a_long_computation_ends_with_its_connection():
    """`check_cancelled`, `self.running` and `self.ended` each end an `emit` that would compute for ever."""
    for way in ("check_cancelled", "running", "ended"):
        lost = []

        class Computes(rtcflow.StreamHandler):
            began = rtcflow.Event()

            def copy(self):
                return Computes()

            def receive(self, frame):
                pass

            def emit(self, way=way):
                assert self.running
                self.began.set()
                while True:
                    if way == "check_cancelled":
                        anyio.from_thread.check_cancelled()
                    elif not self.running if way == "running" else self.ended.wait_sync(0.001):
                        return

        handler = Computes()
        assert not handler.running
        assert not handler.ended.is_set()
        async with rtcflow.memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
            theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
            connection = rtcflow.Connection(ours, handler)
            tasks.start_soon(connection.run)
            await handler.began.wait()
            await theirs.aclose()
            await connection.wait_ended()
            lost.append(connection.statistics().threads_abandoned)
        assert lost == [0], way
        assert not handler.running
        assert handler.ended.is_set()


async def test_no_method_begins_once_the_end_was_told():
    """Also while the loop is held up, and has not begun to close the connection yet.

    One may have been about to begin: its thread had decided, and another one had the processor.
    """
    seen, began = [], rtcflow.Event()

    class Speaks(rtcflow.StreamHandler):
        def copy(self):
            return Speaks()

        def receive(self, frame):
            pass

        def emit(self):
            seen.append(self.running)
            began.set()
            return 48000, np.zeros((1, 48), np.int16)

    async with rtcflow.memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        connection = rtcflow.Connection(ours, Speaks())
        tasks.start_soon(connection.run)
        await began.wait()
        connection.close()
        time.sleep(0.05)
        await connection.wait_ended()
    assert seen
    assert seen.count(False) <= 1


async def test_handlers_may_have_attributes_of_these_names():
    """`running` and `ended` of a handler's own stay its own."""

    class Own(rtcflow.AsyncStreamHandler):
        def __init__(self):
            super().__init__()
            self.running, self.ended = "mine", False

        def copy(self):
            return Own()

        async def receive(self, frame):
            pass

        async def emit(self):
            return rtcflow.CloseStream()

    handler = Own()
    async with rtcflow.memory_pair() as (ours, theirs):
        theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        await rtcflow.run_connection(ours, handler)
    assert (handler.running, handler.ended) == ("mine", False)


async def test_the_limiter_counts_the_thread():
    """As `to_thread.run_sync` does, one token each."""
    limiter = anyio.CapacityLimiter(3)
    counted = await run_sync(lambda: limiter.borrowed_tokens, name="counting", limiter=limiter)
    assert counted == 1
    assert limiter.borrowed_tokens == 0


async def test_stop_iteration_arrives_as_in_anyio():
    """No future carries it under asyncio, so it comes as a RuntimeError there."""

    def stop():
        raise StopIteration

    errors = []
    for run in (plain, partial(run_sync, name="stopping", limiter=anyio.CapacityLimiter(1))):
        with pytest.raises((RuntimeError, StopIteration)) as caught:
            await run(stop)
        errors.append(caught.type)
    assert errors[0] is errors[1]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trios_own_from_thread_works_under_trio():
    """`trio.from_thread.run` needs no token either."""
    import trio

    assert await of_a_handler(lambda: trio.from_thread.run_sync(trio.lowlevel.in_trio_run))


BLOCKED = """
import sys, time
import anyio
import rtcflow

class Handler(rtcflow.AsyncStreamHandler):
    def copy(self): return Handler()
    async def receive(self, frame): pass
    async def emit(self):
        self.loop.run_in_executor(None, time.sleep, 60)
        await anyio.sleep(0.1)
        return rtcflow.CloseStream()

async def main():
    async with rtcflow.memory_pair() as (ours, theirs):
        theirs.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        print((await rtcflow.run_connection(ours, Handler())).cause.value)

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blocked_executor_does_not_keep_the_process(backend):
    """`loop.run_in_executor(None, blocking)` is not waited for, nor by the interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, backend], capture_output=True, text=True, timeout=150, check=True
    )
    assert done.stdout.strip()
    assert not done.stderr
