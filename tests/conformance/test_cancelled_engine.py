"""The engine and the offer route leave nothing behind, at whatever step, and in whatever way, one cancels."""

from __future__ import annotations

import anyio
import httpx2
import pytest
from cancellation_sweep import KINDS, SAMPLED, Facts, sweep

import rtcflow
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Silent(rtcflow.AsyncStreamHandler):
    """A handler that counts how often it was shut down."""

    made: list[Silent]
    shut_down = 0

    def copy(self) -> Silent:
        other = Silent()
        other.made = self.made
        self.made.append(other)
        return other

    async def receive(self, frame) -> None:
        pass

    async def emit(self):
        await anyio.sleep(0.02)

    async def shutdown(self) -> None:
        self.shut_down += 1


async def an_engine(facts: Facts) -> None:
    """An application opens an engine, makes an offer and closes both."""
    async with open_engine(LOCAL) as engine:
        call = await engine.offer()
        await call.aclose()


async def a_stream(facts: Facts) -> None:
    """An application runs a stream and opens its engine beforehand; another tries it, too, but not for long."""
    stream = rtcflow.Stream(Silent(), modality="audio", mode="send-receive", webrtc=LOCAL)
    async with stream.running():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.open_engine)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        await stream.open_engine()


def a_counting_stream(facts: Facts) -> rtcflow.Stream:
    """A stream whose handlers are shut down once each, and whose slots are all free in the end."""
    handler = Silent()
    handler.made = []
    stream = rtcflow.Stream(handler, modality="audio", mode="send-receive", webrtc=LOCAL, concurrency_limit=1)
    facts.expect("each handler was shut down once", lambda: all(one.shut_down == 1 for one in handler.made))
    facts.expect("the slot is free", lambda: not len(stream.calls))
    return stream


async def an_offer(facts: Facts) -> None:
    """The first offer comes in by HTTP, so it opens the engine; the answer is taken, and the caller hangs up."""
    stream = a_counting_stream(facts)
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://test")
    async with stream.running(), open_engine(LOCAL) as engine, http as client:
        call = await engine.offer()
        try:
            body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": "abc"}
            response = await client.post("/webrtc/offer", json=body)
            assert response.status_code == 200
            await call.accept_answer(response.json()["sdp"])
        finally:
            await call.aclose()


STORIES = [an_engine, a_stream, an_offer]


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("backend, how", [*SAMPLED, ("trio", "sigint")])
def test_cancelled_at_some_steps(story, backend, how):
    """At a few steps: what breaks at many is seen here."""
    sweep(story, backend, how, points=4)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("backend, how", KINDS)
def test_cancelled_at_every_step(story, backend, how):
    """At each."""
    sweep(story, backend, how)
