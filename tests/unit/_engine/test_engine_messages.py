"""Data channels as peers use them: closed and opened again, negotiated outside, binary, too long."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from aiortc import RTCDataChannel
from webrtc_pair import webrtc_call

from rtcflow.exceptions import RemoteProtocolError
from rtcflow.transports.webrtc import WebRTCTransport

pytestmark = pytest.mark.anyio


class Channels:
    """The peer's side of things, by aiortc's own methods, in the engine's thread."""

    def __init__(self, transport: WebRTCTransport) -> None:
        self._transport = transport

    async def open(self, label: str, **options: Any) -> RTCDataChannel:
        async def opened() -> RTCDataChannel:
            import asyncio

            connection = self._transport._peer._connection
            assert connection is not None
            channel = connection.createDataChannel(label, **options)
            ready = asyncio.Event()
            channel.on("open", ready.set)
            if channel.readyState != "open":
                await ready.wait()
            return channel

        return await self._transport._thread.call(opened)

    async def close(self, channel: RTCDataChannel) -> None:
        async def closed() -> None:
            import asyncio

            done = asyncio.Event()
            channel.on("close", done.set)
            channel.close()
            await done.wait()

        await self._transport._thread.call(closed)

    async def send(self, channel: RTCDataChannel, message: str | bytes) -> None:
        async def sent() -> None:
            channel.send(message)

        await self._transport._thread.call(sent)


async def test_a_channel_that_is_closed_and_opened_again_is_used() -> None:
    """Both ways, twice over; and the newest of several is used."""
    async with webrtc_call() as (caller, callee):
        channels = Channels(caller)
        used = caller._peer.messages.channel
        assert used is not None
        with anyio.fail_after(120):
            for number in range(2):
                await channels.close(used)
                used = await channels.open("text")
                got: list[str] = []
                used.on("message", got.append)
                await channels.send(used, f"{number}")
                assert await callee.messages_in.take() == f"{number}"
                callee.send_message_nowait(f"and back {number}")
                while not got:
                    await anyio.sleep(0.01)
                assert got == [f"and back {number}"]
            newer = await channels.open("text")
            await channels.send(newer, "newest")
            assert await callee.messages_in.take() == "newest"
            await channels.close(newer)
            await channels.send(used, "the other again")
            assert await callee.messages_in.take() == "the other again"


async def test_ignored_messages_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Binary messages, and channels that were negotiated outside: one warning each, and the call goes on."""
    async with webrtc_call() as (caller, callee):
        channels = Channels(caller)
        used = caller._peer.messages.channel
        assert used is not None
        with anyio.fail_after(120):
            outside = await channels.open("text", negotiated=True, id=100)
            for _ in range(3):
                await channels.send(used, b"\x01\x02")
                await channels.send(outside, "hello?")
            await channels.send(used, "end")
            assert await callee.messages_in.take() == "end"
    assert caplog.text.count("a binary message of 2 bytes is ignored") == 1
    assert caplog.text.count("data channel 100, which was not opened in-band") == 1


@pytest.mark.parametrize("message", ["x" * 65_537, "ä" * 32_769], ids=["characters", "bytes"])
async def test_a_message_beyond_the_limit_is_the_peers_fault(message: str) -> None:
    """The limit is announced; a message of that size arrives, a longer one breaks the link, and the error says why."""
    async with webrtc_call() as (caller, callee):
        assert "a=max-message-size:65536\r\n" in caller.offer_sdp
        assert "a=max-message-size:65536\r\n" in callee.answer
        used = caller._peer.messages.channel
        assert used is not None

        def take_anything() -> None:
            used.transport._remote_max_message_size = 0

        caller._thread.post(take_anything)
        with anyio.fail_after(120):
            await Channels(caller).send(used, "x" * 65_536)
            assert len(await callee.messages_in.take()) == 65_536
            await Channels(caller).send(used, message)
            with pytest.raises(anyio.BrokenResourceError) as failure:
                await callee.wait_ended()
        assert isinstance(failure.value.__cause__, RemoteProtocolError)
        assert "at most 65536" in str(failure.value.__cause__)


async def test_only_sha_256_is_announced() -> None:
    """One fingerprint for each section, of SHA-256 (libdatachannel fails in a quarter of calls with others)."""
    async with webrtc_call() as (caller, callee):
        for sdp in (caller.offer_sdp, callee.answer):
            kinds = {line.split()[0] for line in sdp.splitlines() if line.startswith("a=fingerprint:")}
            assert kinds == {"a=fingerprint:sha-256"}
