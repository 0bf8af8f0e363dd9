"""The toolkit over rtcflow's own handlers and transports: what `nox -s mutations` shows to find bugs in rtcflow.

The default suite runs the same sentences in smaller pieces, so these runs are for the planted bugs, and for the night.
"""

from __future__ import annotations

import anyio
import pytest
from line_pairs import telephone_pair, websocket_pair
from property.test_connection_machine import AsyncEcho, AsyncMirror, Echo

import rtcflow
from rtcflow import memory_pair
from rtcflow.abc import MediaOffer
from rtcflow.testing import check_handler, check_transport, signals, virtual_backend

pytestmark = pytest.mark.nightly

PAIRS = {
    "memory": lambda: memory_pair(MediaOffer(receive_video=True, send_video=True)),
    "websocket": websocket_pair("pcm_s16le", 48000),
    "telephone": telephone_pair("twilio"),
}


class LongText(rtcflow.StreamHandler):
    """Gives half a minute at a time, so that its thread waits for room most of the time."""

    def receive(self, frame):
        pass

    def emit(self):
        return 24000, signals.tone(30.0)

    def copy(self):
        return LongText()


@pytest.mark.parametrize("handler", [AsyncEcho, AsyncMirror, Echo, LongText], ids=lambda handler: handler.__name__)
def test_handlers_keep_their_contract(handler):
    """Handlers with nothing wrong in them."""
    check_handler(handler())


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("pair", PAIRS)
def test_transports_keep_their_promises(pair, backend):
    """Every transport that runs in virtual time."""
    name, options = virtual_backend(backend)
    anyio.run(check_transport, PAIRS[pair], backend=name, backend_options=options)
