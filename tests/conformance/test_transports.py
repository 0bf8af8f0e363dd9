"""The memory pair and WebRTC keep every promise of `rtcflow.abc`, sentence by sentence, on every backend.

The lines over a WebSocket are held to the same sentences in `test_line_conformance.py`, in virtual time;
two of them here in real time, too, which is uvloop's only one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from conftest import BACKENDS
from line_pairs import telephone_pair, websocket_pair

from rtcflow import Transport, WebRTCConfig, memory_pair, open_engine
from rtcflow.abc import MediaOffer
from rtcflow.testing import TRANSPORT_CHECKS, virtual_backend

pytestmark = pytest.mark.anyio


def memory() -> object:
    """A linked pair with every medium."""
    return memory_pair(MediaOffer(receive_video=True, send_video=True))


@asynccontextmanager
async def webrtc() -> AsyncIterator[tuple[Transport, Transport]]:
    """A server's end and a client's, over the loopback network."""
    async with open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as engine:
        theirs = await engine.offer(audio=True, video=True, messages=True)
        ours = await engine.answer(theirs.offer_sdp)
        await theirs.accept_answer(ours.answer)
        try:
            yield ours, theirs
        finally:
            with anyio.CancelScope(shield=True):
                await ours.aclose()
                await theirs.aclose()


LINES = {"websocket": websocket_pair("pcm_s16le", 48000), "twilio": telephone_pair("twilio")}


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
async def test_a_line_keeps_its_promises_in_real_time(line):
    """Some sentences at a time: they mostly wait."""
    broken, few = [], anyio.CapacityLimiter(6)

    async def check(sentence):
        async with few:
            try:
                await TRANSPORT_CHECKS[sentence](LINES[line])
            except Exception as error:
                broken.append((sentence, error))

    async with anyio.create_task_group() as checks:
        for sentence in TRANSPORT_CHECKS:
            checks.start_soon(check, sentence)
    assert not broken


def cells() -> list[object]:
    """Each transport on each backend: the network in real time, memory in virtual time where there is such a thing."""
    found = []
    for backend in BACKENDS:
        (name, options), *_ = backend.values
        found.append(pytest.param(webrtc, (name, options), id=f"webrtc-{backend.id}", marks=backend.marks))
        virtual = (name, options) if options else virtual_backend(name)
        found.append(pytest.param(memory, virtual, id=f"memory-{backend.id}", marks=backend.marks))
    return found


@pytest.mark.parametrize("sentence", TRANSPORT_CHECKS)
@pytest.mark.parametrize(("make_pair", "anyio_backend"), cells())
async def test_a_sentence_is_true(make_pair, sentence):
    """What the sentence says is so."""
    await TRANSPORT_CHECKS[sentence](make_pair)
