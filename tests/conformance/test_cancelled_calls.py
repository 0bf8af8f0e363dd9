"""Whole calls cancelled at their steps, in every way there is: over WebRTC, by WebSocket and by telephone.

The memory transport and bare connections are in `test_cancelled_connection.py`, the engine and the offer route in
`test_cancelled_engine.py`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx2
import pytest
from cancellation_sweep import KINDS, SAMPLED, Facts, sweep
from cancelled_stories import LOCAL, QUICK, TALK, SyncTalker, Talker, a_handler, a_stream, speak
from line_pairs import Pipe, telephone_pair, websocket_pair

from rtcflow._core.native import task_group
from rtcflow.client import connect
from rtcflow.client.lines import join_line
from rtcflow.connection import run_connection
from rtcflow.frames import AudioFormat
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.websocket import StartOptions, WebSocketCodec
from rtcflow.serving.session import CallRequest
from rtcflow.transports.webrtc import open_engine

# -- lines


async def _line_call(facts, pair, kind):
    stream = a_stream(facts, kind)
    async with stream.running(), pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(speak, theirs)
        async with stream.calls.admit(CallRequest(), ours.kind) as session:
            await stream.calls.run(session, ours)


async def websocket_call(facts: Facts) -> None:
    """A line over a WebSocket is opened, admitted and served; its handler is async."""
    await _line_call(facts, websocket_pair("pcm_s16le", 48000), Talker)


async def telephone_call(facts: Facts) -> None:
    """A telephone line is opened, admitted and served; its handler is sync."""
    await _line_call(facts, telephone_pair("twilio"), SyncTalker)


@asynccontextmanager
async def dialled(stream):
    """A caller's end that has called the WebSocket route of a stream, without a network."""
    options = StartOptions("pcm_s16le", 48000, binary=True, clear=True, marks=True, named=True)
    pipe = Pipe()
    scope = {**pipe.websocket.scope, "path": "/websocket/offer", "raw_path": b"/websocket/offer", "root_path": ""}
    scope["subprotocols"], scope["server"] = [], ("test", 80)
    over = anyio.Event()

    async def serve():
        try:
            await stream.asgi(scope, pipe.websocket._receive, pipe.websocket._send)
        finally:
            over.set()

    try:
        async with task_group() as tasks:  # anyio's own may swallow a native cancellation, see its module
            tasks.start_soon(serve)
            call = CallStarted("a", "a", format=None)
            async with join_line(pipe, WebSocketCodec(options), call, MediaFormat("pcm_s16le", 48000)) as theirs:
                yield theirs
            await over.wait()
    finally:
        pipe.free()


async def websocket_route(facts: Facts) -> None:
    """A caller calls the WebSocket route, and hangs up."""
    stream = a_stream(facts)
    async with stream.running(), dialled(stream) as theirs:
        await speak(theirs)


LINES = [websocket_call, telephone_call, websocket_route]


# -- WebRTC


async def webrtc_connection(facts: Facts) -> None:
    """A bare connection over WebRTC: an engine, both ends of a call, and a handler."""
    handler = a_handler(facts, SyncTalker)
    async with open_engine(LOCAL) as engine:
        theirs = await engine.offer()
        ours = await engine.answer(theirs.offer_sdp)
        await theirs.accept_answer(ours.answer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hang_up_when_connected, theirs)
            await run_connection(ours, handler, timeouts=QUICK)


async def _hang_up_when_connected(theirs):
    theirs.start(AudioFormat(48000), AudioFormat(48000))
    await theirs.wait_connected()
    await theirs.aclose()


async def _hang_up_soon(call):
    await call.wait_connected()
    await anyio.sleep(TALK)
    await call.aclose()


async def client_call(facts: Facts) -> None:
    """`connect` calls a stream by HTTP and WebRTC; a handler speaks at each end; the caller hangs up."""
    stream, handler = a_stream(facts), a_handler(facts)
    real, site = httpx2.AsyncClient, httpx2.ASGITransport(stream.asgi)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2, "AsyncClient", lambda **options: real(**{**options, "transport": site}))
        async with stream.running(), open_engine(LOCAL) as engine, connect("http://site", engine=engine) as call:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(run_connection, call, handler, timeouts=QUICK))
                await _hang_up_soon(call)


WEBRTC = [webrtc_connection, client_call]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", LINES)
@pytest.mark.parametrize(("backend", "how"), SAMPLED)
def test_a_line_is_cancelled_at_some_steps(story, backend, how):
    """At a few steps: what breaks at many is seen here."""
    sweep(story, backend, how, points=3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", WEBRTC)
@pytest.mark.parametrize(("backend", "how"), SAMPLED)
def test_a_webrtc_call_is_cancelled_at_some_steps(story, backend, how):
    """At a few steps: what breaks at many is seen here."""
    sweep(story, backend, how, points=3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["asyncio"])
def test_ctrl_c_at_some_steps(backend):
    """The same, in one process for all of them: to start one takes longer than all calls together."""
    sweep([*LINES, *WEBRTC], backend, "sigint", points=3)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("story", [*LINES, *WEBRTC])
@pytest.mark.parametrize(("backend", "how"), KINDS)
def test_cancelled_at_every_step(story, backend, how):
    """At each."""
    sweep(story, backend, how, timeout=1700)
