"""Every public coroutine is a checkpoint: others can run and it can be cancelled, also where it need not wait."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from rtcflow import Stream
from rtcflow._core.bridge import Event, call_in_loop, current_loop_token
from rtcflow._core.fanout import Fanout
from rtcflow._core.flow import Flow, Policy
from rtcflow.abc import MediaOffer
from rtcflow.connection import Connection
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.serving.session import CallRequest
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.webrtc import WebRTCEngine, open_engine

pytestmark = pytest.mark.anyio


class Quiet(AsyncStreamHandler):
    async def receive(self, frame):
        await anyio.sleep(0)

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Quiet()


class Call:
    """What the coroutines below are called on."""


@asynccontextmanager
async def open_call():
    async with (
        memory_pair(MediaOffer(messages=False)) as (ours, theirs),
        Stream(Quiet()).running() as stream,
        anyio.create_task_group() as tasks,
    ):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        call = Call()
        call.ours, call.theirs, call.stream, call.handler = ours, theirs, stream, Quiet()
        call.connection = Connection(ours, call.handler, timeouts=Timeouts(shutdown=0.5, grace=0.1))
        tasks.start_soon(call.connection.run)
        await anyio.sleep(0.02)
        yield call
        tasks.cancel_scope.cancel()


def flow_with_an_item(call):
    flow = Flow(10, Policy.BLOCK)
    flow.put_nowait("item")
    return flow.take


def outputs(call):
    fanout = Fanout()
    reader = fanout.read()
    fanout.put("output")
    return lambda: anext(reader)


def event(call):
    event = Event()
    event.set()
    return event.wait


async def finished_task(call):
    task = call.handler.loop.create_task(anyio.sleep(0))
    await task
    return lambda: _await(task)


def resolved_future(call):
    future = call.handler.loop.create_future()
    future.set_result(None)
    return lambda: _await(future)


async def _await(awaitable):
    await awaitable


async def ended_connection(call):
    call.connection.close()
    await call.connection.wait_ended()
    return call.connection.wait_ended


async def closed_transport(call):
    await call.theirs.aclose()
    return call.theirs.aclose


async def ended_transport(call):
    await call.ours.aclose()
    await call.theirs.wait_ended()
    return call.theirs.wait_ended


def arguments_there(call):
    call.handler.set_args(["x"])
    return call.handler.wait_for_args


async def prepared_session(call):
    async with call.stream.calls.admit(CallRequest(), "memory", "id") as session:
        async with memory_pair() as (ours, _):
            session.close()
            await call.stream.calls.run(session, ours)
    return session.wait_prepared


def _async_hook(call):
    async def authorize(caller):
        return "somebody"

    return partial(Stream(Quiet(), authorize=authorize).calls.authorize, CallRequest())


COROUTINES = {
    "Flow.take with an item": flow_with_an_item,
    "Flow.put with room": lambda call: partial(Flow(10, Policy.BLOCK).put, "item"),
    "a reader of outputs with one there": outputs,
    "Event.wait when it is set": event,
    "awaiting a finished task": finished_task,
    "awaiting a resolved future": resolved_future,
    "send_message without a channel": lambda call: partial(call.handler.send_message, "x"),
    "wait_played(0)": lambda call: partial(call.handler.wait_played, 0),
    "run_sync": lambda call: partial(call.handler.run_sync, int),
    "wait_for_args when they are there": arguments_there,
    "wait_ended after the end": ended_connection,
    "authorize with no hook": lambda call: partial(call.stream.calls.authorize, CallRequest()),
    "authorize with a hook that awaits nothing": _async_hook,
    "resolve_rtc_configuration": lambda call: call.stream.resolve_rtc_configuration,
    "a transport's wait_connected": lambda call: call.theirs.wait_connected,
    "a transport's wait_ended after the end": ended_transport,
    "a transport's second aclose": closed_transport,
    "wait_prepared when it is": prepared_session,
    "an empty start_up": lambda call: call.handler.start_up,
    "an empty shutdown": lambda call: lambda: _await(call.handler.shutdown()),
}


async def check(coroutine):
    """Raises unless `coroutine` lets others run, and can be cancelled."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await coroutine()
        raise AssertionError("it cannot be cancelled")
    if hasattr(current_loop_token(), "run_sync_soon"):
        from trio.testing import assert_checkpoints

        with assert_checkpoints():
            await coroutine()
        return
    ran = []
    call_in_loop(current_loop_token(), ran.append, True)
    await coroutine()
    assert ran, "nobody else could run"


@pytest.mark.parametrize("name", COROUTINES)
async def test_a_public_coroutine_is_a_checkpoint(name):
    """It is one also where everything that it waits for is there already."""
    async with open_call() as call:
        made = COROUTINES[name](call)
        if hasattr(made, "__await__"):
            made = await made
        with anyio.fail_after(5):
            await check(made)


async def test_the_second_close_of_an_engine_is_a_checkpoint():
    """As of a transport."""
    async with open_engine() as engine:
        await engine.aclose()
        await check(engine.aclose)
    assert isinstance(engine, WebRTCEngine)


async def test_a_cancelled_take_loses_nothing():
    """The checkpoint comes before the item is taken."""
    flow = Flow(10, Policy.BLOCK)
    flow.put_nowait("item")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await flow.take()
    assert await flow.take() == "item"
