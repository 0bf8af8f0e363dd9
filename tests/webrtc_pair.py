"""Two ends of one WebRTC call on this machine, connected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rtcflow.frames import AudioFormat
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine, WebRTCTransport, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
VOICE = AudioFormat(48000)


async def meet(caller: WebRTCTransport, callee: WebRTCTransport, *, messages: bool = True) -> None:
    """Hand the answer over, start both ends, and wait until media and messages can flow."""
    await caller.accept_answer(callee.answer)
    for side in (caller, callee):
        side.start(VOICE, VOICE)
    with anyio.fail_after(120):
        for side in (caller, callee):
            await side.wait_connected()
            if messages:
                await side.wait_messages_open()


async def dial(
    client: WebRTCEngine, server: WebRTCEngine, *, messages: bool = True, **media: bool
) -> tuple[WebRTCTransport, WebRTCTransport]:
    """A caller of one engine, connected to a callee of the other; both must be closed."""
    caller = await client.offer(messages=messages, **media)
    callee = await server.answer(caller.offer_sdp)
    await meet(caller, callee, messages=messages)
    return caller, callee


@asynccontextmanager
async def webrtc_call(
    config: WebRTCConfig = LOCAL, *, messages: bool = True, **media: bool
) -> AsyncIterator[tuple[WebRTCTransport, WebRTCTransport]]:
    """A caller and a callee of one engine, connected and started."""
    async with open_engine(config) as engine:
        caller, callee = await dial(engine, engine, messages=messages, **media)
        yield caller, callee
        await caller.aclose()
        await callee.aclose()
