"""Where the calls of a stream live: the WebRTC engine is opened when needed, and again when it has failed."""

from __future__ import annotations

import logging

import anyio
import pytest

from rtcflow.serving.engine import EngineRoom
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine

pytestmark = pytest.mark.anyio

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Panic(BaseException):
    """What native code raises when it is beyond help."""


async def kill(engine: WebRTCEngine) -> None:
    """Have something raise in the engine's thread that no connection can answer for."""

    async def fail() -> None:
        raise Panic("native code")

    room = engine._room
    assert room is not None
    with pytest.raises(anyio.ClosedResourceError):
        await room.call(fail)


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_engine_that_failed_is_replaced(at_once: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is told once, what asks next gets an engine that works, and the stream goes on."""
    with anyio.fail_after(10), caplog.at_level(logging.ERROR):
        async with anyio.create_task_group() as tasks:
            engines = EngineRoom(tasks, LOCAL)
            first = await engines.get()
            assert await engines.get() is first
            await kill(first)
            if not at_once:
                while "the WebRTC engine failed" not in caplog.text:
                    await anyio.sleep(0.005)
            second = await engines.get()
            assert second is not first
            call = await second.offer()
            await call.aclose()
            assert await engines.get() is second
            engines.stop()
    assert caplog.text.count("the WebRTC engine failed") == 1
    assert not second.is_open
