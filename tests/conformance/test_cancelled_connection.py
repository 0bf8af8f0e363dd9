"""Connections cancelled at each of their steps, in every way there is, over the memory transport."""

from __future__ import annotations

import anyio
import pytest
from cancellation_sweep import KINDS, SAMPLED, Facts, sweep
from cancelled_stories import QUICK, SyncTalker, Talker, a_handler, a_stream, speak

from rtcflow._core.flow import Flow, Policy
from rtcflow.connection import run_connection
from rtcflow.serving.session import CallRequest
from rtcflow.transports.memory import memory_pair


class Echo(Talker):
    """Echoes, by a queue between its two methods."""

    def __init__(self, made):
        super().__init__(made)
        self.heard = Flow(100, Policy.DROP_OLDEST)

    async def receive(self, frame):
        await self.heard.put(frame)

    async def emit(self):
        return await self.heard.take()


class Silence(SyncTalker):
    """Hears and says nothing, in threads."""

    def emit(self):
        return None


async def _connection(facts, kind):
    handler = a_handler(facts, kind)
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(speak, theirs, "hello")
        await run_connection(ours, handler, timeouts=QUICK)


async def _call(facts, kind):
    stream = a_stream(facts, kind)
    async with stream.running(), memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(speak, theirs, "hello")
        async with stream.calls.admit(CallRequest(), "memory") as session:
            await stream.calls.run(session, ours)


async def async_connection(facts: Facts) -> None:
    """One connection from nothing to nothing, with an async handler."""
    await _connection(facts, Echo)


async def sync_connection(facts: Facts) -> None:
    """The same with a sync handler."""
    await _connection(facts, Silence)


async def async_call(facts: Facts) -> None:
    """One call of a stream, with an async handler, served in the caller's task."""
    await _call(facts, Echo)


async def sync_call(facts: Facts) -> None:
    """The same with a sync handler."""
    await _call(facts, Silence)


async def started_call(facts: Facts) -> None:
    """One call of a stream, served in the stream's own task group."""
    stream = a_stream(facts, Echo)
    async with memory_pair() as (ours, theirs), stream.running():
        async with stream.calls.admit(CallRequest(), "memory") as session:
            stream.calls.start(session, ours)
        await speak(theirs, "hello")
        assert session.connection is not None
        await session.connection.wait_ended()


async def applications_groups(facts: Facts) -> None:
    """A connection as a child of a task group of the application, in a group of its own."""
    handler = a_handler(facts, Echo)
    async with anyio.create_task_group() as tasks, memory_pair() as (ours, theirs):

        async def serve():
            async with anyio.create_task_group():
                await run_connection(ours, handler, timeouts=QUICK)

        tasks.start_soon(serve)
        await speak(theirs, "hello")


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
