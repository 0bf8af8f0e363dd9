"""Two of aiortc's own connections, connected to one another, to look at its private parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from rtcflow._engine.config import WebRTCConfig
from rtcflow._engine.seam import gathering, seam

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


@asynccontextmanager
async def connected_pair() -> AsyncIterator[tuple[RTCPeerConnection, RTCPeerConnection]]:
    one, two = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    try:
        await connect(one, two)
        yield one, two
    finally:
        await one.close()
        await two.close()


async def connect(one: RTCPeerConnection, two: RTCPeerConnection) -> None:
    for connection in (one, two):
        seam.use_certificate(connection, seam.Certificate.generateCertificate())
    one.addTransceiver("audio")
    one.createDataChannel("text")
    gathering.install(one, LOCAL, {})
    await one.setLocalDescription(await one.createOffer())
    await two.setRemoteDescription(RTCSessionDescription(one.localDescription.sdp, "offer"))
    two.getTransceivers()[0].direction = "sendrecv"
    gathering.install(two, LOCAL, {})
    connected = asyncio.Event()
    two.on("connectionstatechange", lambda: two.connectionState == "connected" and connected.set())
    await two.setLocalDescription(await two.createAnswer())
    await one.setRemoteDescription(RTCSessionDescription(two.localDescription.sdp, "answer"))
    await asyncio.wait_for(connected.wait(), 10)
