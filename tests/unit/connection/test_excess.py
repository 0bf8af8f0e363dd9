"""Handlers that give too much, or fail in the strangest way: their own call is affected, and no other."""

from __future__ import annotations

import asyncio
import logging
import signal
import tracemalloc
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest

from rtcflow import Stream
from rtcflow.connection import Connection
from rtcflow.connection.media_loops import EmitPace
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import ApplicationFailed
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.outputs import AdditionalOutputs
from rtcflow.serving.session import CallRequest
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
FRAME = AudioFrame(np.ones((1, 960), np.int16), 48000, 0)


class Async(AsyncStreamHandler):
    item: object = None

    async def receive(self, frame):
        pass

    async def emit(self):
        return self.item

    def copy(self):
        return type(self)()


class Sync(StreamHandler):
    item: object = None

    def receive(self, frame):
        pass

    def emit(self):
        return self.item

    def copy(self):
        return type(self)()


KINDS = {
    "outputs": AdditionalOutputs("x"),
    "one sample": (24000, np.ones(1, np.int16)),
    "one sample and outputs": ((24000, np.ones(1, np.int16)), AdditionalOutputs("x")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [Async, Sync])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_emit_that_gives_next_to_nothing_without_pause_is_held_back(backend, base, kind):
    """A hundred outputs a second for long; and two thousand pieces of audio. The end comes at once."""
    calls = 0
    seconds = 1 if base is Sync else 3  # threads have no virtual time outside of rtcflow.testing

    class Handler(base):
        item = KINDS[kind]

        if base is Async:

            async def emit(self):
                nonlocal calls
                calls += 1
                return self.item
        else:

            def emit(self):
                nonlocal calls
                calls += 1
                return self.item

    async def main():
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            connection = Connection(ours, Handler(), timeouts=QUICK)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                await anyio.sleep(seconds)
                begun = anyio.current_time()
                connection.close()
                await connection.wait_ended()
                return anyio.current_time() - begun

    if base is Sync:
        took = anyio.run(main, backend=backend)
    else:
        name, options = virtual_backend(backend)
        took = anyio.run(main, backend=name, backend_options=options)
    assert took <= 1
    assert calls <= (200 + 100 * seconds if kind == "outputs" else 2500 + 2000 * seconds), "held back"
    assert calls >= 20


def test_the_pace_holds_back_only_what_comes_without_pause():
    """A burst passes; so does any handler that makes audio in pieces of a millisecond or more."""
    pace = EmitPace()
    assert all(pace.next(1000.0, audio=False) < 1e-9 for _ in range(100)), "a burst of a hundred outputs"
    assert pace.next(1000.0, audio=False) == pytest.approx(0.01)
    pace = EmitPace()
    assert not any(pace.next(n / 1000, audio=True) for n in range(100_000)), "pieces of 1 ms"
    pace = EmitPace()
    assert not any(pace.next(n / 50, audio=False) for n in range(1000)), "outputs with each frame"


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("base", [Async, Sync])
async def test_minutes_of_audio_at_once_take_memory_of_their_own_order(base, dtype, anyio_backend_name):
    """They are converted piece by piece, and everything of them is queued, whatever the rate."""
    given = np.zeros(60 * 24000, dtype)  # a minute

    class Handler(base):
        done = False

        def __init__(self):
            super().__init__(output_sample_rate=48000)

        def once(self):
            if self.done:
                return None
            self.done = True
            tracemalloc.start()
            return 24000, given

        if base is Async:

            async def emit(self):
                return self.once() or await anyio.sleep(60)
        else:

            def emit(self):
                return self.once()

    try:
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            connection = Connection(ours, Handler(), timeouts=QUICK)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                with anyio.fail_after(20):
                    while ours.audio_out.queued_seconds < 59:
                        await anyio.sleep(0.02)
                _, peak = tracemalloc.get_traced_memory()
                connection.close()
    finally:
        tracemalloc.stop()
    queued = 60 * 48000 * 2
    assert peak < queued + 2 * given.nbytes + 2**21


async def test_clear_queue_drops_the_rest_of_what_is_being_converted():
    """What was emitted before it never leaves, converted yet or not."""

    class Handler(Async):
        done = False

        async def emit(self):
            if self.done:
                await anyio.sleep_forever()
            self.done = True
            return 24000, np.ones(600 * 24000, np.int16)

    handler = Handler()
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=QUICK)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            while not ours.audio_out.queued_seconds:
                await anyio.sleep(0)
            handler.clear_queue()
            await anyio.sleep(0.1)
            assert ours.audio_out.queued_seconds == 0
            connection.close()


# -- what may be raised


class Panic(BaseException):
    """What native code calls a panic."""


RAISED = [
    GeneratorExit(),
    SystemExit(3),
    Panic("x"),
    KeyboardInterrupt(),
    BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError()]),
]


@pytest.fixture
def sigint_taken():
    """As in `rtcflow serve` and under Uvicorn: Ctrl-C stops the server, and raises nothing in the code that runs."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@asynccontextmanager
async def served(stream):
    """A call of `stream` in its own task group."""
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        theirs.audio_out.put(FRAME)
        theirs.send_message_nowait("hello")
        async with stream.calls.admit(CallRequest(), "memory") as session:
            stream.calls.start(session, ours)
        yield session


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["receive", "emit", "start_up", "on_message", "shutdown"])
@pytest.mark.parametrize("base", [Async, Sync])
@pytest.mark.usefixtures("sigint_taken")
async def test_whatever_a_method_raises_ends_its_own_call_only(base, where, error, caplog):
    """The server goes on and serves the next caller; the log tells of the one."""

    if base is Async:

        async def fail(self, *args):
            raise error
    else:

        def fail(self, *args):
            raise error

    handler = type("Handler", (base,), {where: fail})()
    with anyio.fail_after(20), caplog.at_level(logging.ERROR):
        async with Stream(handler, timeouts=QUICK).running() as stream:
            for _ in range(2):
                async with served(stream) as session:
                    if where == "shutdown":
                        await anyio.sleep(0.02)
                        session.close()
                    await session.connection.wait_ended()
                    assert (session.end.cause is EndCause.HANDLER_RAISED) is (where != "shutdown")
            await anyio.sleep(0)
            assert len(stream.calls) == 0
    assert len([record for record in caplog.records if type(error).__name__ in record.getMessage()]) == 2


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["copy", "shutdown"])
@pytest.mark.usefixtures("sigint_taken")
async def test_whatever_fails_at_admission_refuses_one_call_only(where, error):
    """copy() that raises, or shutdown() of a handler that was never served: the slot is given back."""

    class Handler(Async):
        failing = True

        def copy(self):
            if where == "copy" and self.failing:
                raise error
            copied = Handler()
            copied.failing = self.failing
            return copied

        async def shutdown(self):
            if where == "shutdown" and self.failing:
                raise error

    handler = Handler()
    async with Stream(handler, timeouts=QUICK).running() as stream:
        expected = ApplicationFailed if where == "copy" else KeyError
        with pytest.raises(expected):
            async with stream.calls.admit(CallRequest(), "memory"):
                raise KeyError("no transport")
        assert len(stream.calls) == 0
        handler.failing = False
        async with served(stream) as session:
            session.close()
            assert (await session.connection.wait_ended()).cause is EndCause.CLOSED


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.usefixtures("sigint_taken")
async def test_a_task_of_handler_loop_that_exits_ends_its_own_call_only(error):
    """On every loop, also on one of asyncio that is not rtcflow's: the error is taken before it reaches the loop."""

    class Handler(Async):
        async def start_up(self):
            async def fail():
                raise error

            self.loop.create_task(fail())

    async with Stream(Handler(), timeouts=QUICK).running() as stream:
        for _ in range(2):
            async with served(stream) as session:
                assert (await session.connection.wait_ended()).error is error


async def test_ctrl_c_passes_through():
    """What is for the whole process is not one call's affair."""

    class Handler(Async):
        async def emit(self):
            raise KeyboardInterrupt

    async with Stream(Handler(), timeouts=QUICK).running() as stream, memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.calls.admit(CallRequest(), "memory") as session:
            with pytest.raises(KeyboardInterrupt):
                await stream.calls.run(session, ours)
        assert len(stream.calls) == 0


async def _queue():
    await asyncio.Queue().get()


async def _sleep():
    await asyncio.sleep(1)


async def _event():
    await asyncio.Event().wait()


@pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")])
@pytest.mark.parametrize("use", [_queue, _sleep, _event], ids=["queue", "sleep", "event"])
async def test_asyncio_under_trio_is_an_error_that_shows_the_way_out(use):
    """The error is as it was raised; a note and the reason of the end name the backend and what to write."""

    class Handler(Async):
        async def emit(self):
            await use()

    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, Handler(), timeouts=QUICK)
        with pytest.raises((AttributeError, RuntimeError)) as info:
            await connection.run()
    assert "runs on trio" in info.value.__notes__[0]
    assert "anyio" in info.value.__notes__[0]
    assert "runs on trio" in connection.end.reason
