"""Cancellation from outside: who asked for it gets it, whatever runs and whatever a handler does meanwhile."""

from __future__ import annotations

import asyncio
import logging

import anyio
import pytest

from rtcflow import Stream
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import RemoteProtocolError
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.serving.session import CallRequest
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)

ONLY_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)


class Quiet(AsyncStreamHandler):
    """Hears, and says nothing."""

    def __init__(self):
        super().__init__()
        self.shut = 0
        self.asked = asyncio.Event()

    async def receive(self, frame):
        pass

    async def emit(self):
        self.asked.set()
        await anyio.sleep_forever()

    async def shutdown(self):
        self.shut += 1

    def copy(self):
        return type(self)()


class FailsAtTheEnd(Quiet):
    """Its shutdown raises."""

    async def shutdown(self):
        self.shut += 1
        raise ValueError("in shutdown")


async def serve(stream, sessions):
    """One call through `Stream.run`, as the WebSocket routes serve theirs, until it ends."""
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.calls.admit(CallRequest(), "memory") as session:
            sessions.append(session)
            await stream.calls.run(session, ours)


def _by_timeout(work):
    async def run():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await work()

    return run


def _by_wait_for(work):
    async def run():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 0.5)

    return run


def _by_cancel(work):
    async def run():
        task = asyncio.create_task(work())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return run


@ONLY_ASYNCIO
@pytest.mark.parametrize("handler", [Quiet, FailsAtTheEnd])
@pytest.mark.parametrize("by", [_by_timeout, _by_wait_for, _by_cancel])
async def test_native_cancellation_of_a_served_call_propagates(by, handler, caplog):
    """`asyncio.timeout`, `wait_for` and `cancel()` get what they ask for; it is not the handler's failure."""
    sessions = []
    with caplog.at_level(logging.INFO, "rtcflow"):
        async with Stream(handler(), timeouts=QUICK).running() as stream:
            await by(lambda: serve(stream, sessions))()
            assert len(stream.calls) == 0
    (session,) = sessions
    assert session.end.cause is EndCause.CANCELLED
    assert session.handler.shut == 1
    assert "raised CancelledError" not in caplog.text
    raised = [record for record in caplog.records if record.exc_info]
    assert len(raised) == (handler is FailsAtTheEnd), "what shutdown raised is told once, and nothing else"


async def refuse(stream):
    """A call that is refused after its admission, so that its handler is shut down without having been served."""
    async with stream.calls.admit(CallRequest(), "memory"):
        raise RemoteProtocolError("not like this", close_code=1008)


@ONLY_ASYNCIO
async def test_native_cancellation_lets_the_handler_of_a_refused_call_shut_down():
    """It passes through a shield. The shutdown runs to its end all the same, and the stream can end."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Slow(Quiet):
        async def shutdown(self):
            begun.set()
            await may_end.wait()
            self.shut += 1

    async with Stream(Slow(), timeouts=QUICK).running() as stream:
        task = asyncio.create_task(refuse(stream))
        await begun.wait()
        [session] = stream.calls.values()
        task.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(stream.calls) == 0
    assert session.handler.shut == 1


@ONLY_ASYNCIO
async def test_a_shutdown_without_an_end_is_ended_although_its_request_was_cancelled(caplog):
    """After `Timeouts.shutdown`, as without the cancellation."""
    begun = asyncio.Event()

    class Stuck(Quiet):
        async def shutdown(self):
            begun.set()
            await anyio.sleep_forever()

    async with Stream(Stuck(), timeouts=QUICK).running() as stream:
        task = asyncio.create_task(refuse(stream))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert "Stuck.shutdown did not return within 0.5 s" in caplog.text


def test_asyncio_run_that_ends_with_calls_open_cancels_them(caplog):
    """They are cancelled calls, and no handler has failed: a few lines of log, and no traceback."""
    sessions = []

    async def main():
        stream = Stream(Quiet(), timeouts=QUICK, concurrency_limit=3)
        running = asyncio.Event()

        async def run():
            async with stream.running():
                running.set()
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(run())]
        await running.wait()
        tasks += [asyncio.create_task(serve(stream, sessions)) for _ in range(3)]
        async with asyncio.timeout(30):
            while len(sessions) < 3:
                await asyncio.sleep(0.01)
            for session in sessions:  # anyio warns of tasks that asyncio cancels before their first step
                await session.handler.asked.wait()
        return tasks  # and asyncio.run cancels every task there is

    with caplog.at_level(logging.INFO, "rtcflow"):
        asyncio.run(main())
    # asyncio tells its tasks in no order: the stream may hear of it first, and close its calls.
    assert {session.end.cause for session in sessions} <= {EndCause.CANCELLED, EndCause.CLOSED}
    assert [session.handler.shut for session in sessions] == [1] * 3
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]
    assert sum(len(record.getMessage().splitlines()) for record in caplog.records) <= 10


async def test_an_error_in_the_block_of_a_pair_outlives_a_cancellation():
    """`memory_pair` in a scope that is cancelled while the block raises: the error is not lost."""
    with pytest.raises(KeyError, match="mine"):
        with anyio.CancelScope() as scope:
            async with memory_pair():
                scope.cancel()
                raise KeyError("mine")
