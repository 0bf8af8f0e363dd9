"""The engine and the offer route leave nothing behind, at whatever step, and in whatever way, one cancels."""

from __future__ import annotations

import anyio
import httpx2
import pytest
from cancellation_sweep import KINDS, SAMPLED, Facts, sweep
from cancelled_stories import LOCAL, a_stream

from rtcflow.transports.webrtc import open_engine


async def an_engine(facts: Facts) -> None:
    """An application opens an engine, makes an offer and closes both."""
    async with open_engine(LOCAL) as engine:
        call = await engine.offer()
        await call.aclose()


async def an_idle_stream(facts: Facts) -> None:
    """An application runs a stream and opens its engine beforehand; another tries it, too, but not for long."""
    stream = a_stream(facts)
    async with stream.running():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.open_engine)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        await stream.open_engine()


async def an_offer(facts: Facts) -> None:
    """The first offer comes in by HTTP, so it opens the engine; the answer is taken, and the caller hangs up."""
    stream = a_stream(facts, concurrency_limit=1)
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


STORIES = [an_engine, an_idle_stream, an_offer]


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
