"""ICE restarts: a live call gets another way to its peer, and a stranger does not take it over."""

from __future__ import annotations

import re
from typing import Any

import anyio
import numpy as np
import pytest
from aiortc import RTCSessionDescription
from free_ports import free_udp_port
from webrtc_pair import LOCAL, dial, meet

from rtcflow._engine.seam import restart, seam
from rtcflow.exceptions import ConnectionExists, InvalidOffer
from rtcflow.frames import AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCTransport, open_engine

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")]),
]


async def reoffer(caller: WebRTCTransport) -> str:
    """Offer again with new credentials, as a browser's `restartIce` does."""
    connection: Any = caller._peer._connection
    (transport,) = seam.transports(connection)
    ice: Any = transport.transport._connection
    restart.begin(transport, ice.remote_username, ice.remote_password)
    await connection.setLocalDescription(await connection.createOffer())
    return str(connection.localDescription.sdp)


async def accept(caller: WebRTCTransport, answer: str) -> bool:
    connection: Any = caller._peer._connection
    (transport,) = seam.transports(connection)
    ice: Any = transport.transport._connection
    ice.remote_username, ice.remote_password = (
        re.findall(f"a=ice-{name}:(.*)\r\n", answer)[0] for name in ("ufrag", "pwd")
    )
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return await restart.check(transport, 20)


async def hears(transport: WebRTCTransport, other: WebRTCTransport) -> None:
    """A tone that is put in now comes out on the other side."""
    t = np.arange(24000) / 48000
    transport.audio_out.put(AudioFrame((8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[None], 48000, 0))
    while np.abs((await other.audio_in.take()).samples).mean() < 1000:
        pass


@pytest.mark.parametrize("one_port", [False, True], ids=["own-port", "one-port"])
async def test_a_call_goes_on_after_a_restart(*, one_port: bool) -> None:
    """Both sides have new credentials and a pair of the new session; audio and messages flow, twice over.

    Also if the server has one port for all calls, and tells them apart by these very credentials.
    """
    ours = WebRTCConfig(host_addresses=("127.0.0.1",), port=free_udp_port() if one_port else None)
    async with open_engine(ours) as server, open_engine(LOCAL) as client:
        caller, callee = await dial(client, server)
        with anyio.fail_after(120):
            seen = {callee.answer.split("a=ice-ufrag:")[1].split("\r")[0]}
            for number in range(2):
                answer = await callee.renegotiate(await caller._thread.call(reoffer, caller))
                seen.add(answer.split("a=ice-ufrag:")[1].split("\r")[0])
                assert await caller._thread.call(accept, caller, answer)
                await hears(caller, callee)
                await hears(callee, caller)
                callee.send_message_nowait(str(number))
                assert await caller.messages_in.take() == str(number)
            assert len(seen) == 3
            assert not callee._ports.ended.is_set()
        await caller.aclose()
        await callee.aclose()


async def test_another_certificate_restarts_nothing() -> None:
    """New credentials of somebody who knows the id alone, or one that changed alone: refused, and the call goes on."""
    async with open_engine(LOCAL) as server, open_engine(LOCAL) as client:
        caller, stranger = await client.offer(), await client.offer()
        callee = await server.answer(caller.offer_sdp)
        with pytest.raises(InvalidOffer, match="before the call is connected"):
            await callee.renegotiate(re.sub(r"(a=ice-(?:ufrag|pwd):)", r"\1new", caller.offer_sdp))
        await meet(caller, callee)
        with anyio.fail_after(120):
            with pytest.raises(ConnectionExists):
                await callee.renegotiate(stranger.offer_sdp)
            with pytest.raises(ConnectionExists):
                await callee.renegotiate(caller.offer_sdp.replace("a=ice-ufrag:", "a=ice-ufrag:new"))
            await hears(caller, callee)
            await hears(callee, caller)
        for side in (caller, callee, stranger):
            await side.aclose()
