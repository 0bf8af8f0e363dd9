"""Where the calls of a stream live: the WebRTC engine is opened when needed, and again when it has failed."""

from __future__ import annotations

import logging

import anyio
import pytest

from rtcflow import ends
from rtcflow.serving.engine import SharedEngine
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine

pytestmark = pytest.mark.anyio

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Panic(BaseException):
    """What native code raises when it is beyond help."""


async def kill(engine: WebRTCEngine, error: type[BaseException] = Panic) -> None:
    """Have something raise in the engine's thread that no connection can answer for."""

    async def fail() -> None:
        raise error("native code")

    room = engine._thread
    assert room is not None
    with pytest.raises(anyio.ClosedResourceError):
        await room.call(fail)


@pytest.mark.parametrize("error", [Panic, SystemExit, KeyboardInterrupt])
async def test_an_engine_that_failed_is_replaced(
    error: type[BaseException], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is told once, what asks next gets an engine that works, and the stream goes on.

    That is so for KeyboardInterrupt, too, where the server handles Ctrl-C itself: then native code has raised it.
    """
    monkeypatch.setattr(ends, "ctrl_c_raises", lambda: False)
    engines = SharedEngine(LOCAL)
    with anyio.fail_after(120), caplog.at_level(logging.ERROR):
        first = await engines.get()
        assert await engines.get() is first
        await kill(first, error)
        second = await engines.get()
        assert second is not first
        call = await second.offer()
        await call.aclose()
        assert await engines.get() is second
        await engines.aclose()
    assert caplog.text.count("the WebRTC engine failed") == 1
    assert not second.is_open


async def test_an_engine_that_failed_unnoticed_is_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody asks for an engine any more, and the failure of the last one is not lost."""
    engines = SharedEngine(LOCAL)
    with anyio.fail_after(120), caplog.at_level(logging.ERROR):
        await kill(await engines.get())
        await engines.aclose()
    assert caplog.text.count("the WebRTC engine failed") == 1
