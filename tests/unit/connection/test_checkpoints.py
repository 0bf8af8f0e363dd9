"""Every public coroutine is a checkpoint: others can run and it can be cancelled, also where it need not wait."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import pytest
from test_public_api import modules

from rtcflow import Stream
from rtcflow._core.bridge import Event, call_in_loop, current_loop_token
from rtcflow._core.fanout import Fanout
from rtcflow._core.flow import Flow, Policy
from rtcflow._core.player import Player
from rtcflow.abc import MediaOffer
from rtcflow.agents import Conversation, VoiceAgent, run_tools
from rtcflow.audio import wait_for_item
from rtcflow.connection import Connection
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, _current
from rtcflow.handlers.turns import EnergyVad, ReplyOnPause
from rtcflow.protocol.signalling import parse_candidate
from rtcflow.serving.session import CallRequest
from rtcflow.testing import open_caller
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine

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
        AsyncExitStack() as stack,
    ):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        call = Call()
        call.stack = stack
        call.ours, call.theirs, call.stream, call.handler = ours, theirs, stream, Quiet()
        call.connection = Connection(ours, call.handler, timeouts=Timeouts(shutdown=0.5, grace=0.1))
        tasks.start_soon(call.connection.run)
        await anyio.sleep(0.02)
        yield call
        await stack.aclose()
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


async def admitted_session(call):
    session = await call.stack.enter_async_context(call.stream.calls.admit(CallRequest(), "memory"))
    return partial(call.stream.calls.rename_everywhere, session, "other")


async def early_request(call):
    session = await call.stack.enter_async_context(call.stream.calls.admit(CallRequest(), "memory"))
    return partial(call.stream.calls.find_early, session.webrtc_id)


def _hook(name, method):
    async def hook(caller):
        return "somebody"

    return lambda call: partial(getattr(Stream(Quiet(), **{name: hook}).calls, method), CallRequest())


def player(name):
    """A player that has room, and nothing to play."""

    def make(call):
        player = Player(clock=anyio.current_time)
        player.open(AudioFormat(48000))
        return partial(getattr(player, name), *([0.0] if name == "wait_played" else []))

    return make


def queue_with_an_item(call):
    if current_backend() == "asyncio":
        queue = asyncio.Queue()
        queue.put_nowait("item")
        queue.put_nowait("item")
        return partial(wait_for_item, queue)
    put, take = map(call.stack.enter_context, anyio.create_memory_object_stream(2))
    for _ in range(2):
        put.send_nowait("item")
    return partial(wait_for_item, take)


def current_backend():
    return "trio" if hasattr(current_loop_token(), "run_sync_soon") else "asyncio"


def no_tools(call):
    async def run():
        token = _current.set(call.handler)
        try:
            await run_tools(Conversation("", ()), [])
        finally:
            _current.reset(token)

    return run


def agent(call):
    made = VoiceAgent(lambda messages, tools: None, stt=len, tts=len, model=EnergyVad())
    return partial(made.on_message, "{}")


def caller(name, *args):
    async def make(call):
        caller = await call.stack.enter_async_context(open_caller(Quiet()))
        return partial(getattr(caller, name), *args)

    return make


async def open_messages(call):
    pair = await call.stack.enter_async_context(memory_pair())
    return pair[0].wait_messages_open


COROUTINES = {
    "Flow.take: an item is there": flow_with_an_item,
    "Flow.put: there is room": lambda call: partial(Flow(10, Policy.BLOCK).put, "item"),
    "Reader.__anext__: an output is there": outputs,
    "Reader.aclose": lambda call: Fanout().read().aclose,
    "Event.wait: it is set": event,
    "Task.__await__: it has finished": finished_task,
    "Future.__await__: it has a result": resolved_future,
    "Player.wait_for_room: there is room": player("wait_for_room"),
    "Player.drained: nothing waits": player("drained"),
    "Player.wait_played: nothing waits": player("wait_played"),
    "StreamHandlerBase.send_message: there is no channel": lambda call: partial(call.handler.send_message, "x"),
    "StreamHandlerBase.wait_played: 0 seconds": lambda call: partial(call.handler.wait_played, 0),
    "StreamHandlerBase.run_sync": lambda call: partial(call.handler.run_sync, int),
    "StreamHandlerBase.wait_for_args: they are there": arguments_there,
    "StreamHandlerBase.fetch_args": lambda call: call.handler.fetch_args,
    "StreamHandlerBase.shutdown: it is empty": lambda call: lambda: _await(call.handler.shutdown()),
    "AsyncStreamHandler.start_up: it is empty": lambda call: call.handler.start_up,
    "ReplyHandler.start_up: there is no greeting": lambda call: ReplyOnPause(len, model=EnergyVad()).start_up,
    "VoiceAgent.on_message: it is no text for the agent": agent,
    "run_tools: there are none": no_tools,
    "wait_for_item: it is there": queue_with_an_item,
    "Connection.send_message: there is no channel": lambda call: partial(call.connection.send_message, "x"),
    "Connection.wait_played: 0 seconds": lambda call: partial(call.connection.wait_played, 0),
    "Connection.run_sync": lambda call: partial(call.connection.run_sync, "int", int),
    "Connection.end_media: nothing runs": lambda call: partial(call.connection.end_media, "video"),
    "Connection.wait_ended: it has": ended_connection,
    "Calls.authorize: no hook": lambda call: partial(call.stream.calls.authorize, CallRequest()),
    "Calls.authorize: its hook awaits nothing": _hook("authorize", "authorize"),
    "Calls.authorize_operator: its hook awaits nothing": _hook("authorize_operator", "authorize_operator"),
    "Calls.rename_everywhere: no cluster": admitted_session,
    "Calls.find_early: no cluster": early_request,
    "Calls.drain: no calls": lambda call: partial(call.stream.calls.drain, 1),
    "Stream.drain: no calls": lambda call: partial(call.stream.drain, 1),
    "Stream.resolve_rtc_configuration": lambda call: call.stream.resolve_rtc_configuration,
    "Session.wait_prepared: it is": prepared_session,
    "MemoryTransport.wait_connected: it is": lambda call: call.theirs.wait_connected,
    "MemoryTransport.wait_messages_open: they are": open_messages,
    "MemoryTransport.wait_ended: it has": ended_transport,
    "MemoryTransport.aclose: it is closed": closed_transport,
    "WebRTCEngine.next_config: nothing to ask": lambda call: WebRTCEngine(WebRTCConfig()).next_config,
    "WebRTCEngine.wait_ended: it has": lambda call: WebRTCEngine(WebRTCConfig()).wait_ended,
    "Caller.press: no key": caller("press", ""),
    "Caller.wait: 0 seconds": caller("wait", 0),
}

OF_AN_ENGINE = {
    *("Stream.open_engine", "Calls.engine", "WebRTCEngine.aclose"),
    *("WebRTCTransport.add_candidate", "WebRTCTransport.aclose"),
}

EXCUSED = {
    "they say so themselves: for loops that let others run in another way": """
        Flow.take_in_a_row Player.wait_for_room_in_a_row Player.next_frame
    """,
    "the loops that call them let others run": """
        RealtimeHandler.receive RealtimeHandler.emit ReplyHandler.emit ReplyOnPause.receive ChunkQueue.take run_reply
    """,
    "users write them": """
        AsyncStreamHandler.receive AsyncStreamHandler.emit
        AsyncAudioVideoStreamHandler.video_receive AsyncAudioVideoStreamHandler.video_emit
    """,
    "they are declarations": """
        Transport.aclose Transport.wait_connected Transport.wait_ended Transport.wait_messages_open
        Binding.run_sync Binding.say Binding.send_message Binding.wait_played
        ClientSocket.close ClientSocket.receive ClientSocket.send
    """,
    "they last as long as a call, or wait for its other side": """
        Connection.run Connection.serve run_connection Session.serve Calls.run ResumingCall.run Connection.wait_released
        Connection.say Saying.say StreamHandlerBase.say ReplyHandler.say hold_call run_load
        Caller.play Caller.hang_up Caller.break_link Caller.cancel Caller.wait_ended check_transport
        Recording.choose_path Recording.wait_closed RealtimeHandler.start_up VirtualTime.advance advance
    """,
    "they talk to another machine, thread or process": """
        examine get_configuration CallerTransport.aclose ResumingCall.aclose ResumingCall.wait_messages_open
        get_cloudflare_turn_credentials_async get_hf_turn_credentials_async get_turn_credentials_async
        get_twilio_turn_credentials_async Session.renegotiate WebRTCEngine.answer WebRTCEngine.offer
        WebRTCTransport.accept_answer WebRTCTransport.renegotiate WebRTCTransport.wait_connected
        WebRTCTransport.wait_messages_open StreamHandlerBase.run_process ReplyOnStopWords.start_up
        ThreadLimit.run transcribe synthesize shut_down
    """,
    "it waits after each item": "ChunkQueue.put",
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
        with anyio.fail_after(30):
            await check(made)


async def test_coroutines_of_an_open_engine_are_checkpoints():
    """Also those that find their work done."""
    async with Stream(Quiet()).running() as stream:
        await stream.open_engine()
        await check(stream.open_engine)
        await check(stream.calls.engine)
        engine = await stream.calls.engine()
        transport = await engine.offer()
        await check(partial(transport.add_candidate, parse_candidate("candidate:1 1 tcp 1 127.0.0.1 9 typ host")))
        await transport.aclose()
        await check(transport.aclose)
    await check(engine.aclose)


def public_coroutines():
    """Every coroutine of a public module, by ``Class.method`` or its name; but for FastRTC's names of the same ones."""
    for module in map(importlib.import_module, modules()):
        for name in () if module.__name__.startswith("rtcflow.fastrtc") else module.__all__:
            found = getattr(module, name)
            if inspect.iscoroutinefunction(found):
                yield found.__qualname__, found
            elif inspect.isclass(found) and found.__module__.startswith("rtcflow"):
                for attribute, value in vars(found).items():
                    if inspect.iscoroutinefunction(value) and not attribute.startswith("_"):
                        yield f"{found.__qualname__}.{attribute}", getattr(found, attribute)


def test_no_public_coroutine_is_left_out():
    """Each is asked above, or there is a reason not to."""
    asked = {name.split(":")[0] for name in COROUTINES} | OF_AN_ENGINE
    excused = {name for names in EXCUSED.values() for name in names.split()}
    assert dict(public_coroutines()).keys() - asked - excused == set()


def test_each_public_coroutine_says_that_it_is_a_checkpoint():
    """Or when it is one."""
    users = EXCUSED["users write them"].split()
    silent = [
        name
        for name, coroutine in public_coroutines()
        if name not in users and "checkpoint" not in (inspect.getdoc(coroutine) or "")
    ]
    assert silent == []


async def test_a_cancelled_take_loses_nothing():
    """The checkpoint comes before the item is taken."""
    flow = Flow(10, Policy.BLOCK)
    flow.put_nowait("item")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await flow.take()
    assert await flow.take() == "item"
