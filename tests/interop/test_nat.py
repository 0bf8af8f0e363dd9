"""A NAT gives the caller another port during a call: the call goes on both ways, on one port and on its own."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import numpy as np
import pytest
from free_ports import free_udp_port

from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCTransport, open_engine

sys.path.insert(0, str(Path(__file__).parent))
from lossy_relay import Relay, good

pytestmark = [pytest.mark.anyio, pytest.mark.interop]
VOICE = AudioFormat(48000)
ENDED = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)


class Nat(Relay):
    """Passes everything on, and takes another port towards the server when it is told to."""

    def __init__(self) -> None:
        super().__init__(good)
        self._old: list[socket.socket] = []

    def move(self) -> None:
        self._old.append(self._back)
        new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        new.bind(("127.0.0.1", 0))
        self._back = new
        self._old[-1].close()  # what still goes to the old port is lost

    def close(self) -> None:
        super().close()
        for end in self._old:
            end.close()


async def keep_saying(transport: WebRTCTransport) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(9600) / 48000)).astype(np.int16)[None]
    with suppress(*ENDED):
        while True:
            transport.audio_out.put(AudioFrame(tone, 48000, 0))
            await transport.audio_out.wait_for_room()


async def hear(transport: WebRTCTransport, frames: int) -> None:
    """Until so many frames with sound have come."""
    while frames:
        frame = await transport.audio_in.take()
        frames -= bool(np.abs(frame.samples).max() > 2000) and not frame.concealed


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@pytest.mark.parametrize("one_port", [False, True], ids=["own-port", "one-port"])
async def test_a_call_outlives_a_new_port_of_the_nat(*, one_port: bool) -> None:
    """Sound and messages come through both ways again, without anything from the application."""
    nat = Nat()
    config = WebRTCConfig(host_addresses=("127.0.0.1",), port=free_udp_port() if one_port else None)
    try:
        async with open_engine(config) as server, open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as client:
            caller = await client.offer()
            callee = await server.answer(nat.offer(caller.offer_sdp))
            await caller.accept_answer(nat.answer(callee.answer))
            with anyio.fail_after(120):
                for side in (caller, callee):
                    side.start(VOICE, VOICE)
                    await side.wait_connected()
                await caller.wait_messages_open()
                async with anyio.create_task_group() as tasks:
                    for side in (caller, callee):
                        tasks.start_soon(keep_saying, side)
                    for side in (caller, callee):
                        await hear(side, 25)
                    nat.move()
                    await hear(callee, 50)
                    for side in (caller, callee):
                        with suppress(anyio.WouldBlock):
                            while True:
                                side.audio_in.take_nowait()
                    await hear(caller, 100)
                    caller.send_message_nowait("still here")
                    assert await callee.messages_in.take() == "still here"
                    callee.send_message_nowait("so am I")
                    assert await caller.messages_in.take() == "so am I"
                    tasks.cancel_scope.cancel()
            await caller.aclose()
            await callee.aclose()
    finally:
        nat.close()
