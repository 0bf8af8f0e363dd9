"""Whatever strangers send to a call's UDP port, the call goes on: a fuzzer at the port of a live call.

Five seconds of it here; `nox -s strangers` takes a minute (RTCFLOW_FUZZ_SECONDS).
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import anyio
import numpy as np
import pylibsrtp
import pytest
from datagrams import of_every_kind, spoil
from free_ports import free_udp_port
from OpenSSL import SSL
from webrtc_pair import dial

from rtcflow._engine.seam.gate import Gate
from rtcflow.exceptions import RemoteProtocolError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCTransport, open_engine

pytestmark = pytest.mark.anyio
ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])

SECONDS = float(os.environ.get("RTCFLOW_FUZZ_SECONDS", "5")) / 2
SEED = int(os.environ.get("RTCFLOW_FUZZ_SEED", "16"))
BURST = 10
"""Datagrams at once, ten milliseconds apart: what sockets' buffers hold, so that none of the call's own are lost."""
VOICE = AudioFormat(48000)


def gate(transport: WebRTCTransport) -> Gate:
    connection = transport._peer._connection
    assert connection is not None
    (dtls,) = {id(t.receiver.transport): t.receiver.transport for t in connection.getTransceivers()}.values()
    protocol = dtls.transport._connection._nominated[1].protocol
    assert isinstance(protocol, Gate)
    return protocol


def tone(seconds: float) -> AudioFrame:
    t = np.arange(round(48000 * seconds)) / 48000
    return AudioFrame((8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[None], 48000, 0)


class FromThePeer:
    """Spoilt copies of what the peer sends, and junk, from the peer's own socket, each beside a sound datagram."""

    def __init__(self, socket_of_peer: Gate, dice: random.Random, junk: Any) -> None:
        self.sent = 0
        self._dice, self._junk, self._stock = dice, junk, socket_of_peer.send
        vars(socket_of_peer)["send"] = self.send

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        for spoilt in (spoil(self._dice, data), next(self._junk)):
            if spoilt != data:
                self._stock(spoilt, address)
                self.sent += 1
        self._stock(data, address)


@ASYNCIO
@pytest.mark.parametrize(
    ("use_uvloop", "one_port"),
    [
        pytest.param(False, False, id="asyncio-loop", marks=pytest.mark.nightly),
        pytest.param(True, False, id="uvloop-loop"),
        pytest.param(True, True, id="one-port"),
    ],
)
async def test_a_call_outlives_a_flood_of_junk(use_uvloop: bool, one_port: bool) -> None:
    """Junk of every kind, from a stranger and from the peer's own address: audio and messages arrive all the while."""
    dice = random.Random(SEED)
    shared = free_udp_port() if one_port else None
    async with (
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",), port=shared, use_uvloop=use_uvloop)) as server,
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as client,
    ):
        caller = await client.offer()
        callee = await server.answer(caller.offer_sdp)
        await caller.accept_answer(callee.answer)
        for transport in (caller, callee):
            transport.start(VOICE, VOICE)
        with anyio.fail_after(120):
            route = await until_connected(caller, callee)
            assert shared in {None, route[1]}
            await caller.wait_messages_open()
            port = gate(callee)
            ice = port.receiver
            user_name = f"{ice.local_username}:{ice.remote_username}".encode()
            junk = of_every_kind(dice, user_name)
            from_peer = FromThePeer(gate(caller), dice, of_every_kind(dice, user_name))
        caller.audio_out.put(tone(SECONDS + 1))
        frames: list[np.ndarray] = []
        messages = ["0"]
        thrown = 0

        async def flood() -> None:
            nonlocal thrown
            while True:
                for datagram in islice(junk, BURST):
                    stranger.sendto(datagram, route)
                    thrown += 1
                caller.send_message_nowait(str(thrown))
                await anyio.sleep(0.01)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, anyio.fail_after(4 * SECONDS + 100):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood)
                tasks.start_soon(read, callee, messages)
                while sum(map(len, frames)) < 48000 * SECONDS:
                    frames.append((await callee.audio_in.take()).samples[0])
                tasks.cancel_scope.cancel()
            heard = np.concatenate(frames)
            last = str(thrown)
            while messages[-1] != last:
                messages.append(await callee.messages_in.take())
        assert messages == sorted(messages, key=int)
        assert not callee._ports.ended.is_set()
        assert thrown > 100 * SECONDS
        assert from_peer.sent > 20 * SECONDS
        levels = np.abs(heard[: len(heard) // 480 * 480].reshape(-1, 480).astype(float)).mean(axis=1)
        assert (levels > 1000).mean() > 0.97, levels  # a tone of 8000: what is lost or made up is quieter
        statistics = callee.statistics()
        assert statistics.packets_lost <= 0.03 * statistics.details["packets_received"]
        await caller.aclose()
        with anyio.fail_after(120):
            await callee.wait_ended()  # by the caller's own goodbye
        await callee.aclose()


async def read(transport: WebRTCTransport, messages: list[str]) -> None:
    while True:
        messages.append(await transport.messages_in.take())


async def until_connected(caller: WebRTCTransport, callee: WebRTCTransport) -> tuple[str, int]:
    """Where the callee listens, once both are connected."""
    await caller.wait_connected()
    await callee.wait_connected()
    assert callee.route is not None
    return callee.route.local_address


@ASYNCIO
async def test_junk_before_the_call_is_connected_does_not_stop_it() -> None:
    """A stranger sends from the moment the answer is made: the call connects all the same."""
    dice = random.Random(SEED)
    async with (
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as server,
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as client,
    ):
        for _ in range(3):
            caller = await client.offer()
            callee = await server.answer(caller.offer_sdp)
            (line,) = {line for line in callee.answer.splitlines() if line.startswith("a=candidate:")}
            address = line.split()[4], int(line.split()[5])
            ufrag = next(line for line in callee.answer.splitlines() if line.startswith("a=ice-ufrag:")).split(":")[1]
            junk = of_every_kind(dice, f"{ufrag}:abcd".encode())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, anyio.fail_after(120):
                for datagram in islice(junk, 700):
                    stranger.sendto(datagram, address)
                await caller.accept_answer(callee.answer)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(throw, stranger, address, junk)
                    await until_connected(caller, callee)
                    tasks.cancel_scope.cancel()
            await caller.aclose()
            await callee.aclose()


async def throw(stranger: socket.socket, address: tuple[str, int], junk: Iterator[bytes]) -> None:
    while True:
        for datagram in islice(junk, BURST):
            stranger.sendto(datagram, address)
        await anyio.sleep(0.001)


@ASYNCIO
async def test_junk_of_an_authenticated_peer_ends_its_own_call_at_most() -> None:
    """Junk that is properly encrypted, of every kind: the neighbour's call goes on, and what ends is told as such."""
    dice = random.Random(SEED)
    async with (
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as server,
        open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as client,
    ):
        good, neighbour = await dial(client, server)
        ended: list[str] = []
        for kind in ("rtp", "rtcp", "sctp", "messages"):
            caller, callee = await dial(client, server)
            with suppress(SSL.Error, ConnectionError):  # the other side has had enough
                await caller._thread.call(send_authentic, caller, kind, dice)
            neighbour.send_message_nowait(kind)
            with anyio.fail_after(120):
                assert await good.messages_in.take() == kind
            with anyio.move_on_after(1):
                try:
                    await callee.wait_ended()
                except anyio.BrokenResourceError as error:
                    assert isinstance(error.__cause__, RemoteProtocolError), error.__cause__
                    assert kind in {"sctp", "messages"}
                    ended.append(kind)
            await caller.aclose()
            await callee.aclose()
        assert "messages" in ended
        neighbour.send_message_nowait("still here")
        with anyio.fail_after(120):
            assert await good.messages_in.take() == "still here"
        await neighbour.aclose()
        await good.aclose()


async def send_authentic(caller: WebRTCTransport, kind: str, dice: random.Random) -> None:
    """Send 500 packets of one kind with the caller's own keys."""
    connection: Any = caller._peer._connection
    sender, sctp = connection.getSenders()[0], connection.sctp
    dtls = sender.transport
    for _ in range(500):
        if kind == "rtp":
            head = bytes((dice.randrange(128, 192), dice.choice((96, 111, 97)))) + dice.randbytes(6)
            with suppress(pylibsrtp.Error):  # it encrypts not every junk
                await dtls._send_rtp(head + sender._ssrc.to_bytes(4, "big") + dice.randbytes(dice.randrange(50)))
        elif kind == "rtcp":
            words = dice.choice((1, 2, 6, 7, 20))
            head = struct.pack("!BBHL", dice.randrange(128, 160), dice.randrange(200, 208), words, sender._ssrc)
            await dtls._send_rtp(head + dice.randbytes(4 * words - 4))
        elif kind == "sctp":
            await dtls._send_data(spoil(dice, sctp_packet(sctp, dice)))
        else:
            # An opening of a channel that is open already: aiortc asserts that it is not.
            await sctp._send(0, 50, struct.pack("!BBHLHH", 3, 0, 0, 0, 0, 0), ordered=True)


def sctp_packet(sctp: Any, dice: random.Random) -> bytes:
    from aiortc.rtcsctptransport import DataChunk, serialize_packet

    chunk = DataChunk(flags=dice.randrange(256), body=None)
    chunk.tsn, chunk.stream_id, chunk.stream_seq = dice.randrange(2**32), dice.randrange(65536), dice.randrange(65536)
    chunk.protocol, chunk.user_data = dice.choice((50, 51, 53, 56, 57)), dice.randbytes(dice.randrange(60))
    return serialize_packet(5000, 5000, sctp._remote_verification_tag, chunk)
