"""The WebSocket and the telephone transport keep every promise of `rtcflow.abc`, from a frame to the last goodbye."""

from __future__ import annotations

import pytest
from line_pairs import telephone_pair, websocket_pair

from rtcflow.testing.conformance import TRANSPORT_CHECKS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    """Both backends, in virtual time."""
    return virtual_backend


PAIRS = {
    "pcm_s16le": websocket_pair("pcm_s16le", 48000),
    "mulaw": websocket_pair("mulaw", 24000),
    "opus": websocket_pair("opus", 48000),
    "twilio": telephone_pair("twilio"),
    "telnyx": telephone_pair("telnyx"),
    "plivo": telephone_pair("plivo"),
    "vonage": telephone_pair("vonage"),
}


@pytest.mark.parametrize("sentence", list(TRANSPORT_CHECKS))
@pytest.mark.parametrize("line", list(PAIRS))
async def test_the_servers_end_keeps_its_promises(line, sentence):
    """One sentence of the transport's contract, held against one line."""
    await TRANSPORT_CHECKS[sentence](PAIRS[line])
