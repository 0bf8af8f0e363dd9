"""The memory pair and WebRTC keep every promise of `rtcflow.abc`, sentence by sentence, on every backend.

The lines over a WebSocket are held to the same sentences in `tests/unit/test_line_conformance.py`, in virtual time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from rtcflow import MediaOffer, Transport, WebRTCConfig, memory_pair, open_engine
from rtcflow.testing import TRANSPORT_CHECKS

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


@pytest.mark.parametrize("sentence", TRANSPORT_CHECKS)
@pytest.mark.parametrize("make_pair", [memory, webrtc])
async def test_a_sentence_is_true(make_pair, sentence):
    """What the sentence says is so."""
    await TRANSPORT_CHECKS[sentence](make_pair)
