"""Connections cancelled at each of their steps, in every way there is, over the memory transport."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from cancellation_sweep import KINDS, SAMPLED, Facts, sweep

from rtcflow import Stream
from rtcflow._core.flow import Flow, Policy
from rtcflow.connection import run_connection
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.serving.session import CallRequest
from rtcflow.transports.memory import memory_pair

QUICK = Timeouts(connect=5, shutdown=1, grace=0.2, goodbye=0.5)
FRAME = AudioFrame(np.ones((1, 960), np.int16), 48000, 0)


class AsyncEcho(AsyncStreamHandler):
    """Echoes, and counts how often it was shut down."""

    made: list[AsyncEcho]

    def __init__(self, made):
        super().__init__(output_sample_rate=48000)
        self.made, self.shut_down = made, 0
        self.heard = Flow(100, Policy.DROP_OLDEST)
        made.append(self)

    async def start_up(self):
        self.loop.create_task(anyio.sleep_forever())
        await anyio.sleep_forever()

    async def receive(self, frame):
        await self.heard.put(frame)

    async def emit(self):
        return await self.heard.take()

    async def shutdown(self):
        self.shut_down += 1

    def copy(self):
        return AsyncEcho(self.made)


class SyncSilence(StreamHandler):
    """Hears and says nothing, in threads."""

    def __init__(self, made):
        super().__init__(output_sample_rate=48000)
        self.made, self.shut_down = made, 0
        made.append(self)

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def shutdown(self):
        self.shut_down += 1

    def copy(self):
        return SyncSilence(self.made)


async def _speak(theirs):
    theirs.start(AudioFormat(48000), AudioFormat(48000))
    theirs.audio_out.put(FRAME)
    theirs.send_message_nowait("hello")
    await anyio.sleep(0.03)
    await theirs.aclose()


async def _connection(facts, make):
    made = []
    facts.expect("shutdown was called at most once", lambda: all(handler.shut_down <= 1 for handler in made))
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(_speak, theirs)
        await run_connection(ours, make(made), timeouts=QUICK)


async def _call(facts, make):
    made = []
    stream = Stream(make(made), timeouts=QUICK)
    facts.expect("every slot is free", lambda: len(stream.calls) == 0)
    facts.expect("each copy was shut down once", lambda: all(handler.shut_down == 1 for handler in made[1:]))
    async with stream.running(), memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(_speak, theirs)
        async with stream.calls.admit(CallRequest(), "memory") as session:
            await stream.calls.run(session, ours)


async def async_connection(facts: Facts) -> None:
    """One connection from nothing to nothing, with an async handler."""
    await _connection(facts, AsyncEcho)


async def sync_connection(facts: Facts) -> None:
    """The same with a sync handler."""
    await _connection(facts, SyncSilence)


async def async_call(facts: Facts) -> None:
    """One call of a stream, with an async handler, served in the caller's task."""
    await _call(facts, AsyncEcho)


async def sync_call(facts: Facts) -> None:
    """The same with a sync handler."""
    await _call(facts, SyncSilence)


async def started_call(facts: Facts) -> None:
    """One call of a stream, served in the stream's own task group."""
    made = []
    stream = Stream(AsyncEcho(made), timeouts=QUICK)
    facts.expect("every slot is free", lambda: len(stream.calls) == 0)
    facts.expect("each copy was shut down once", lambda: all(handler.shut_down == 1 for handler in made[1:]))
    async with memory_pair() as (ours, theirs), stream.running():
        async with stream.calls.admit(CallRequest(), "memory") as session:
            stream.calls.start(session, ours)
        await _speak(theirs)
        assert session.connection is not None
        await session.connection.wait_ended()


async def applications_groups(facts: Facts) -> None:
    """A connection as a child of a task group of the application, in a group of its own."""
    made = []
    facts.expect("shutdown was called at most once", lambda: all(handler.shut_down <= 1 for handler in made))
    async with anyio.create_task_group() as tasks, memory_pair() as (ours, theirs):

        async def serve():
            async with anyio.create_task_group():
                await run_connection(ours, AsyncEcho(made), timeouts=QUICK)

        tasks.start_soon(serve)
        await _speak(theirs)


STORIES = [async_connection, sync_connection, async_call, sync_call, started_call, applications_groups]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize(("backend", "how"), SAMPLED)
def test_cancelled_at_some_steps(story, backend, how):
    """At a few steps: what breaks at many is seen here."""
    sweep(story, backend, how, points=3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["asyncio"])
def test_ctrl_c_at_some_steps(backend):
    """The same, in one process for all of them: to start one takes longer than all calls together."""
    sweep(STORIES, backend, "sigint", points=3)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize(("backend", "how"), KINDS)
def test_cancelled_at_every_step(story, backend, how):
    """At each."""
    sweep(story, backend, how, timeout=800)
