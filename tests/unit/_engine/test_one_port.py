"""All calls of an engine on one UDP port: which call a datagram belongs to, and what strangers cost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import Any

import anyio
import pytest
from aioice import ice as stock
from aioice import stun
from free_ports import free_udp_port
from webrtc_pair import dial

from rtcflow._engine.seam.one_port import PROOF, PortGate, SharedSocket, stun_name
from rtcflow.exceptions import InvalidCandidate
from rtcflow.protocol.signalling import parse_candidate
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine, open_engine


def shared_socket(engine: WebRTCEngine) -> SharedSocket:
    assert engine._port is not None
    return engine._port._sockets["127.0.0.1"]


@pytest.mark.anyio
@pytest.mark.parametrize("calls", [4, pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(180)])])
@pytest.mark.parametrize("use_uvloop", [False, True])
async def test_calls_share_a_port(use_uvloop: bool, calls: int) -> None:
    """Each call hears its own caller, by IPv4 and IPv6; strangers' datagrams are dropped; ends leave nothing."""
    port = free_udp_port()
    hosts = ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",)
    async with open_engine(WebRTCConfig(host_addresses=hosts, port=port, use_uvloop=use_uvloop)) as server:
        pairs = []
        for number in range(calls):
            host = hosts[number % len(hosts)]
            client = WebRTCEngine(WebRTCConfig(host_addresses=(host,)))
            await client._open()
            pairs.append((client, *await dial(client, server)))
            assert pairs[-1][2].route is not None
            assert pairs[-1][2].route.local_address == (host, port)
        dropped = shared_socket(server).dropped
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for datagram in (b"", b"\x00\x01" + bytes(40), b"\x01\x01" + bytes(18), b"\x16" * 60, b"\x80" * 60):
                stranger.sendto(datagram, ("127.0.0.1", port))
        for number, (_, caller, callee) in enumerate(pairs):
            caller.send_message_nowait(str(number))
            with anyio.fail_after(120):
                assert await callee.messages_in.take() == str(number)
        assert shared_socket(server).dropped >= dropped + 4
        for client, caller, callee in pairs:
            await caller.aclose()
            await callee.aclose()
            await client.aclose()
        left = shared_socket(server)
        assert (left.names, left.asking, left._holders, left._sources) == ({}, {}, {}, {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))


@pytest.mark.anyio
@pytest.mark.skipif(not socket.has_ipv6, reason="without IPv6 no zone is sent to")
@pytest.mark.parametrize("use_uvloop", [False, True])
async def test_a_zone_in_a_candidate_costs_other_calls_nothing(use_uvloop: bool) -> None:
    """An address such as ``fe80::1%NUL`` cannot be sent to. Asyncio then closed the socket that all calls share."""
    here = WebRTCConfig(host_addresses=("::1",))
    there = WebRTCConfig(host_addresses=("::1",), port=free_udp_port(), use_uvloop=use_uvloop)
    async with open_engine(there) as server, open_engine(here) as client:
        caller, callee = await dial(client, server)
        stranger = await client.offer()
        zones = ["\x00", 70 * "ü", "\u2028", "none", 300 * "a"]
        odd = [f"candidate:{at} 1 udp 1 fe80::1%{zone} 5000 typ host" for at, zone in enumerate(zones)]
        lines = [line for line in stranger.offer_sdp.splitlines() if "candidate" not in line]
        refused = await server.answer("\r\n".join([*lines, *(f"a={line}" for line in odd), ""]))
        for line in odd:
            with contextlib.suppress(InvalidCandidate):
                candidate = parse_candidate(line)
                assert candidate is not None
                await refused.add_candidate(replace(candidate, sdp_mline_index=0))
        await anyio.sleep(0.3)  # checks of candidates are 50 ms apart
        caller.send_message_nowait("still here")
        with anyio.fail_after(120):
            assert await callee.messages_in.take() == "still here"
            for call in await dial(client, server):
                await call.aclose()
        for call in (stranger, refused, caller, callee):
            await call.aclose()


@pytest.mark.anyio
async def test_a_port_in_use_is_told() -> None:
    """Opening the engine names the port and the address, and leaves nothing open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"UDP port {port} of 127.0.0.1 cannot be opened"):
            async with open_engine(WebRTCConfig(host_addresses=("127.0.0.1",), port=port)):
                raise AssertionError


@pytest.mark.parametrize(
    ("options", "words"),
    [({"port": 0}, "port=0; expected 1 to 65535"), ({"port": 7, "port_range": (7, 9)}, "exclude each other")],
)
def test_options_that_exclude_each_other(options: dict[str, Any], words: str) -> None:
    """An error says so before anything is opened."""
    with pytest.raises(ValueError, match=words):
        WebRTCConfig(**options)


def test_an_address_stays_with_the_call_that_has_proven_it() -> None:
    """A claim takes no address from a proof, and another proof takes it only when the first is old."""

    async def check() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            shared = SharedSocket(opened)
            clock: Any = type("Clock", (), {"now": 0.0, "time": lambda self: self.now})()
            shared._loop = clock
            one, two = (gate(shared) for _ in range(2))
            address = "198.51.100.1", 7
            shared.claim(address, two, proven=False)
            shared.claim(address, one, proven=True)
            assert shared._holders[address].gate is one
            shared.claim(address, two, proven=False)
            shared.claim(address, two, proven=True)
            assert shared._holders[address].gate is one
            clock.now = PROOF + 1
            shared.claim(address, two, proven=False)
            assert shared._holders[address].gate is one
            shared.claim(address, two, proven=True)
            assert shared._holders[address].gate is two
            shared.forget(one)
            assert list(shared._holders) == [address]
            shared.forget(two)
            assert not shared._holders

    asyncio.run(check())


def test_media_from_a_new_port_of_a_nat_finds_its_call() -> None:
    """RTP with a known SSRC goes on from an address that nobody knows; with another SSRC it belongs to nobody."""

    async def check() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            shared = SharedSocket(opened)
            one = gate(shared)
            one.local_candidate = stock.Candidate("1", 1, "udp", 1, "127.0.0.1", 7, "host")
            ice = one.receiver
            ice._nominated[1] = object()
            shared.claim(("198.51.100.1", 7), one, proven=True)
            known, other = (b"\x80\x60" + bytes(6) + name + b"media" for name in (b"ours", b"none"))
            shared.datagram_received(known, ("198.51.100.1", 7))
            shared.datagram_received(known, ("203.0.113.9", 9))
            shared.datagram_received(other, ("203.0.113.9", 9))
            assert [ice._queue.get_nowait()[0] for _ in range(ice._queue.qsize())] == [known, known]
            assert shared.dropped == 1

    asyncio.run(check())


def gate(shared: SharedSocket) -> PortGate:
    from rtcflow._engine.seam.gate import Contact

    return PortGate(stock.Connection(ice_controlling=False), Contact(), shared)


def test_the_name_in_a_request_is_found() -> None:
    """The receiver's part of USERNAME, wherever it stands; None for junk."""
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["PRIORITY"] = 1
    message.attributes["USERNAME"] = "ours:theirs"
    assert stun_name(bytes(message)) == "ours"
    for junk in (b"", bytes(20), bytes(24), b"\x00\x01" + bytes(18) + b"\xff" * 40):
        assert stun_name(junk) is None
