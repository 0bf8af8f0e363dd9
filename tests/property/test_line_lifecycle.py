"""The lifecycle suite over lines: what `HandlerLifecycle` promises of a call holds on a WebSocket and a telephone."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, rule
from line_pairs import linked
from property.test_connection_machine import AsyncEcho, Echo

from rtcflow.client.lines import DEFAULT_FORMATS
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.telephone import carrier_codec
from rtcflow.protocol.websocket import WebSocketCodec, Wish
from rtcflow.testing import HandlerLifecycle, _life
from rtcflow.testing.lifecycle import MESSAGES, RARELY, STARTS, TIME_LIMITS
from rtcflow.transports.telephone import open_telephone_transport
from rtcflow.transports.websocket import open_websocket_transport

pytestmark = pytest.mark.slow


@asynccontextmanager
async def line_pair(offer, *, phone):
    """What the machine takes for a pair in memory: a caller without a data channel is a telephone's."""
    if phone or not offer.messages:
        call = CallStarted("CA1", "MZ1", format=DEFAULT_FORMATS["twilio"])
        pair = linked(open_telephone_transport, carrier_codec("twilio"), call, DEFAULT_FORMATS["twilio"])
    else:
        codec = WebSocketCodec(Wish("pcm_s16le", 16000, binary=True, clear=True, named=True))
        call = CallStarted("a", "a", format=None)
        pair = linked(open_websocket_transport, codec, call, MediaFormat("pcm_s16le", 16000))
    async with pair as (ours, theirs):
        ours.break_link = lambda error: ours._link.end(error)
        yield ours, theirs


@pytest.fixture(autouse=True)
def lines(monkeypatch):
    """The machine's calls come over lines."""
    monkeypatch.setattr(_life, "memory_pair", line_pair)


class LineLifecycle(HandlerLifecycle):
    """A line is up when its call begins: there is no caller who left before it was."""

    @initialize(time_limit=TIME_LIMITS, messages=MESSAGES, start_up=STARTS)
    def the_first_call_begins(self, *, time_limit=None, messages=True, start_up="works"):
        self.a_call_begins(time_limit=time_limit, messages=messages, start_up=start_up)

    @rule(time_limit=TIME_LIMITS, messages=MESSAGES, start_up=STARTS, copy_fails_first=RARELY)
    def a_call_begins(self, **arguments):
        HandlerLifecycle.a_call_begins(self, phone=not arguments.get("messages", True), **arguments)


def lives(handler, backend):
    class Life(LineLifecycle):
        def make_handler(self):
            return handler()

    Life.backend = backend
    Life.TestCase.settings = settings(
        Life.TestCase.settings, max_examples=15, suppress_health_check=[HealthCheck.too_slow]
    )
    return Life.TestCase


TestEchoOnTrio = lives(Echo, "trio")
TestEchoOnAsyncio = lives(Echo, "asyncio")
TestAsyncEchoOnTrio = lives(AsyncEcho, "trio")
TestAsyncEchoOnAsyncio = lives(AsyncEcho, "asyncio")
