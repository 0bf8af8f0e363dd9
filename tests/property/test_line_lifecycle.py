"""The lifecycle suite over lines: what `HandlerLifecycle` promises of a call holds on a WebSocket and a telephone."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from property.test_connection_machine import AsyncEcho, Echo

from rtcflow.testing import HandlerLifecycle

pytestmark = pytest.mark.slow


def lives(handler, backend):
    class Life(HandlerLifecycle):
        transports = ("websocket", "telephone")

        def make_handler(self):
            return handler()

    Life.backend = backend
    Life.TestCase.settings = settings(
        Life.TestCase.settings, max_examples=12, suppress_health_check=[HealthCheck.too_slow]
    )
    return Life.TestCase


TestEchoOnTrio = lives(Echo, "trio")
TestEchoOnAsyncio = lives(Echo, "asyncio")
TestAsyncEchoOnTrio = lives(AsyncEcho, "trio")
TestAsyncEchoOnAsyncio = lives(AsyncEcho, "asyncio")
