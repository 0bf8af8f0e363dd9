"""RTP past aiortc: what is sent and received so is what aiortc would have, to the peer and in aiortc's own books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pylibsrtp
import pytest
from aiortc import AudioStreamTrack, RTCDtlsTransport, RTCRtpReceiver, RTCRtpSender, clock
from aiortc.codecs import PCMU_CODEC
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtp import HeaderExtensionsMap, RtcpPacket, RtcpSrPacket, RtpPacket
from aiortc_pair import connected_pair, run
from hypothesis import given
from hypothesis import strategies as st

from rtcflow._engine.seam import seam, wire

OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48000, channels=2, payloadType=50)
LEVEL = RTCRtpHeaderExtensionParameters(id=7, uri="urn:ietf:params:rtp-hdrext:ssrc-audio-level")
MID = RTCRtpHeaderExtensionParameters(id=3, uri="urn:ietf:params:rtp-hdrext:sdes:mid")


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def two_transports() -> AsyncIterator[tuple[RTCDtlsTransport, RTCDtlsTransport]]:
    async with connected_pair() as (one, two):
        (ours,), (theirs,) = seam.transports(one), seam.transports(two)
        await until(lambda: ours.state == theirs.state == "connected")
        yield ours, theirs


class Listener:
    """What aiortc's own parser makes of the packets that reach a transport."""

    def __init__(self, transport: Any) -> None:
        self.rtp: list[RtpPacket] = []
        self.rtcp: list[Any] = []
        transport._rtp_header_extensions_map.configure(SimpleNamespace(headerExtensions=[MID, LEVEL]))

        async def rtp(data: bytes, arrival_time_ms: int) -> None:
            self.rtp.append(RtpPacket.parse(data, transport._rtp_header_extensions_map))

        async def rtcp(data: bytes) -> None:
            self.rtcp += RtcpPacket.parse(data)

        transport._handle_rtp_data, transport._handle_rtcp_data = rtp, rtcp

    def reports(self, ssrc: int) -> list[RtcpSrPacket]:
        return [packet for packet in self.rtcp if isinstance(packet, RtcpSrPacket) and packet.ssrc == ssrc]


@asynccontextmanager
async def writing(
    transport: RTCDtlsTransport, extensions: tuple[RTCRtpHeaderExtensionParameters, ...] = (MID,)
) -> AsyncIterator[tuple[Any, wire.RtpWriter]]:
    """A started sender, and what writes its packets."""
    sender: Any = RTCRtpSender("audio", transport)
    writer: asyncio.Future[wire.RtpWriter] = asyncio.get_running_loop().create_future()

    async def play(given: wire.RtpWriter) -> None:
        writer.set_result(given)
        await asyncio.Event().wait()

    assert seam.send_packets(sender, play)
    parameters = RTCRtpSendParameters(
        codecs=[OPUS], headerExtensions=list(extensions), muxId="voice", rtcp=RTCRtcpParameters(cname="somebody")
    )
    await sender.send(parameters)
    try:
        yield sender, await writer
    finally:
        await asyncio.wait_for(sender.stop(), 5)


def test_packets_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc reads what we write, header extension included, and its own sender reports count it."""
    monkeypatch.setattr("random.random", lambda: -0.45)  # RTCP reports every 50 ms instead of each second

    async def check() -> None:
        async with two_transports() as (ours, theirs), writing(ours) as (sender, writer):
            listener = Listener(theirs)
            for index in range(3):
                writer.write(bytes([index]) * (index + 1), index * 960, marker=index == 0)
            await until(lambda: len(listener.rtp) == 3)
            first = listener.rtp[0]
            assert [packet.payload for packet in listener.rtp] == [b"\0", b"\1\1", b"\2\2\2"]
            assert [packet.marker for packet in listener.rtp] == [1, 0, 0]
            assert {(packet.payload_type, packet.ssrc) for packet in listener.rtp} == {(50, sender._ssrc)}
            assert {packet.extensions.mid for packet in listener.rtp} == {"voice"}
            assert [(packet.sequence_number - first.sequence_number) & 0xFFFF for packet in listener.rtp] == [0, 1, 2]
            times = [(packet.timestamp - first.timestamp) & 0xFFFFFFFF for packet in listener.rtp]
            assert times == [0, 960, 1920]
            await until(lambda: any(r.sender_info.packet_count for r in listener.reports(sender._ssrc)))
            info = listener.reports(sender._ssrc)[-1].sender_info
            assert (info.packet_count, info.octet_count) == (3, 6)
            assert info.rtp_timestamp == listener.rtp[-1].timestamp
            assert abs(clock.current_ntp_time() - info.ntp_timestamp) / 2**32 < 5
            report = await sender.getStats()
            assert any(getattr(entry, "packetsSent", 0) == 3 for entry in report.values())

    run(check())


@pytest.mark.parametrize(
    ("extensions", "levels"), [((MID, LEVEL), [None, 0, 30, 127]), ((LEVEL,), [None, 0, 30, 127]), ((MID,), [None] * 4)]
)
def test_the_level_is_told_to_peers_that_ask(extensions: tuple[Any, ...], levels: list[int | None]) -> None:
    """How loud a packet is stands in its header (RFC 6464) if the peer negotiated that, beside what else is there."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), writing(ours, extensions) as (_, writer):
            listener = Listener(theirs)
            for index, level in enumerate([None, 0, 30, 127]):
                writer.write(b"x", index * 960, marker=False, level=level)
            await until(lambda: len(listener.rtp) == 4)
            told = [packet.extensions.audio_level for packet in listener.rtp]
            assert [None if level is None else level[1] for level in told] == levels
            assert {packet.payload for packet in listener.rtp} == {b"x"}
            assert {packet.extensions.mid for packet in listener.rtp} == {"voice" if MID in extensions else None}

    run(check())


def test_sequence_numbers_wrap() -> None:
    """After 65535 comes 0, and timestamps wrap at 32 bits; the peer can still decrypt."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), writing(ours) as (_, writer):
            listener = Listener(theirs)
            writer._sequence, writer._origin = 65534, 2**32 - 960
            for index in range(4):
                writer.write(b"x", index * 960, marker=False)
            await until(lambda: len(listener.rtp) == 4)
            assert [packet.sequence_number for packet in listener.rtp] == [65534, 65535, 0, 1]
            assert [packet.timestamp for packet in listener.rtp] == [2**32 - 960, 0, 960, 1920]

    run(check())


def test_the_pair_in_use() -> None:
    """Packets take the candidate pair that is nominated at the moment; a sender that is disabled sends none."""

    async def check() -> None:
        async with two_transports() as (ours, _), writing(ours) as (sender, writer):
            sent: list[tuple[bytes, Any]] = []
            ice: Any = ours.transport._connection
            pair, other = ice._nominated[1], ("192.0.2.1", 9)
            protocol = SimpleNamespace(transport=SimpleNamespace(sendto=lambda *args: sent.append(args)))
            ice._nominated[1] = SimpleNamespace(protocol=protocol, remote_addr=other)
            writer.write(b"x", 0, marker=False)
            sender._enabled = False
            writer.write(b"x", 960, marker=False)
            ice._nominated[1] = pair
            assert [address for _, address in sent] == [other]

    run(check())


def test_writing_after_the_end() -> None:
    """A transport that was closed takes no packet; the sender has let go of its track, and can be stopped."""

    async def check() -> None:
        async with two_transports() as (ours, _):
            async with writing(ours) as (sender, writer):
                await ours.stop()
                await until(lambda: ours.state == "closed")
                with pytest.raises(ConnectionError):
                    writer.write(b"x", 0, marker=False)
            assert sender.track is None

    run(check())


def test_other_codecs_are_aiortcs() -> None:
    """Where another codec was agreed on, aiortc's own task does the sending."""

    async def check() -> None:
        async with two_transports() as (ours, theirs):
            listener = Listener(theirs)
            sender: Any = RTCRtpSender("audio", ours)
            played: list[Any] = []

            async def play(writer: wire.RtpWriter) -> None:
                played.append(writer)

            assert seam.send_packets(sender, play)
            sender.replaceTrack(AudioStreamTrack())
            await sender.send(RTCRtpSendParameters(codecs=[PCMU_CODEC]))
            await until(lambda: listener.rtp)
            assert {packet.payload_type for packet in listener.rtp} == {0}
            assert not played
            await sender.stop()

    run(check())


@asynccontextmanager
async def reading(transport: RTCDtlsTransport, on_packet: Any = None) -> AsyncIterator[SimpleNamespace]:
    """A started receiver whose packets are taken, and how many of them took aiortc's way."""
    receiver: Any = RTCRtpReceiver("audio", transport)
    receiver._track = RemoteStreamTrack("audio")
    got = SimpleNamespace(receiver=receiver, packets=[], errors=[], slow=0)
    stock: Any = transport._handle_rtp_data

    async def handle(data: bytes, arrival_time_ms: int) -> None:
        got.slow += 1
        await stock(data, arrival_time_ms)

    vars(transport)["_handle_rtp_data"] = handle
    assert seam.take_packets(receiver, lambda _: None, on_packet or got.packets.append, got.errors.append)
    await receiver.receive(RTCRtpReceiveParameters(codecs=[OPUS]))
    yield got
    await receiver.stop()


async def send(transport: Any, *numbers: int, ssrc: int = 7, payload: bytes = b"\x08x", **options: Any) -> None:
    for number in numbers:
        packet = RtpPacket(
            payload_type=50,
            sequence_number=number & 0xFFFF,
            timestamp=960 * number & 0xFFFFFFFF,
            ssrc=ssrc,
            payload=payload,
        )
        for name, value in options.items():
            setattr(packet, name, value)
        await transport._send_rtp(packet.serialize())
        await asyncio.sleep(0.005)


def test_packets_read() -> None:
    """A source's first packet takes aiortc's way, the rest the short one; its reports know of all, across a wrap."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), reading(ours) as got:
            before = vars(ours)["_RTCDtlsTransport__rx_packets"]
            await send(theirs, 65533, 65534, 65536, 65537)
            await until(lambda: len(got.packets) == 4)
            assert [packet.sequence_number for packet in got.packets] == [65533, 65534, 0, 1]
            assert [packet.payload for packet in got.packets] == [b"\x08x"] * 4
            assert got.slow == 1
            statistics = got.receiver._RTCRtpReceiver__remote_streams[7]
            assert (statistics.packets_received, statistics.packets_lost) == (4, 1)
            assert statistics.cycles + statistics.max_seq == 65537
            assert vars(ours)["_RTCDtlsTransport__rx_packets"] >= before + 4
            await send(theirs, 500, 501, 502, ssrc=8)
            await until(lambda: len(got.packets) == 7)
            assert got.slow == 2
            assert got.receiver._RTCRtpReceiver__remote_streams[8].packets_received == 3
            assert not got.errors

    run(check())


def test_further_offers_make_the_way_no_longer() -> None:
    """aiortc starts a receiver again at each further offer; a datagram passes through one function all the same."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), reading(ours) as got:
            for _ in range(1200):  # more than Python's calls may be deep
                await got.receiver.receive(RTCRtpReceiveParameters(codecs=[OPUS]))
            await send(theirs, 1, 2, 3)  # the first one takes aiortc's way
            await until(lambda: len(got.packets) == 3)
            assert got.slow == 1
            assert not got.errors

    run(check())


def test_packets_not_for_us() -> None:
    """Forged and repeated packets, other payload types, empty ones, and what comes for a receiver that is off."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), reading(ours) as got:
            ice: Any = ours.transport._connection
            await send(theirs, 1, 2)
            await until(lambda: len(got.packets) == 2)
            ice.data_received(b"\x80\x32\x00\x03" + b"\0\0\0\0" + (7).to_bytes(4, "big") + b"nonsense" * 4, 1)
            ice.data_received(b"\x80\x32", 1)
            await send(theirs, 3, payload_type=51)
            await send(theirs, 4, payload=b"")
            got.receiver._enabled = False
            await send(theirs, 5)
            got.receiver._enabled = True
            await send(theirs, 6)
            await until(lambda: len(got.packets) == 3)
            assert got.packets[-1].sequence_number == 6
            assert not got.errors

    run(check())


def test_order_is_kept() -> None:
    """No packet overtakes one that waits on aiortc's way."""

    async def check() -> None:
        async with two_transports() as (ours, theirs), reading(ours) as got:
            await send(theirs, 1, 2)
            await until(lambda: len(got.packets) == 2)
            ice: Any = ours.transport._connection
            ice._queue.put_nowait((b"\0", 1))
            datagrams: list[bytes] = []
            their_ice: Any = theirs.transport
            their_ice._send, stock = None, their_ice._send

            async def keep(data: bytes) -> None:
                datagrams.append(data)

            their_ice._send = keep
            await send(theirs, 3)
            their_ice._send = stock
            ice._queue.put_nowait((b"\0", 1))
            ice.data_received(datagrams[0], 1)
            assert len(got.packets) == 2
            await until(lambda: len(got.packets) == 3)
            assert got.slow == 2

    run(check())


def test_what_goes_wrong_is_told() -> None:
    """An error of ours reaches the connection, and not only the event loop's log."""

    async def check() -> None:
        heard: list[int] = []

        def on_packet(packet: Any) -> None:
            heard.append(packet.sequence_number)
            if packet.sequence_number == 2:
                raise ZeroDivisionError

        async with two_transports() as (ours, theirs), reading(ours, on_packet) as got:
            await send(theirs, 1, 2, 3)
            await until(lambda: heard == [1, 2, 3])
            assert [type(error) for error in got.errors] == [ZeroDivisionError]

    run(check())


def test_a_stopped_receiver() -> None:
    """After the receiver was stopped nothing is handed over any more."""

    async def check() -> None:
        async with two_transports() as (ours, theirs):
            async with reading(ours) as got:
                await send(theirs, 1, 2)
                await until(lambda: len(got.packets) == 2)
            await send(theirs, 3, 4)
            await asyncio.sleep(0.05)
            assert len(got.packets) == 2

    run(check())


@given(
    payload=st.binary(max_size=20),
    csrc=st.lists(st.integers(0, 2**32 - 1), max_size=15),
    mid=st.none() | st.text("abc", min_size=1, max_size=9),
    padding=st.integers(0, 255),
    marker=st.integers(0, 1),
    sequence=st.integers(0, 65535),
    timestamp=st.integers(0, 2**32 - 1),
)
def test_parsing_agrees(
    payload: bytes, csrc: list[int], mid: str | None, padding: int, marker: int, sequence: int, timestamp: int
) -> None:
    """We read in each packet what aiortc does, and whatever else comes, neither reads nonsense nor fails."""
    extensions = HeaderExtensionsMap()
    extensions.configure(RTCRtpReceiveParameters(headerExtensions=[MID]))
    packet = RtpPacket(50, marker, sequence, timestamp, 7, payload)
    packet.csrc, packet.padding_size, packet.extensions.mid = csrc, padding, mid
    data = packet.serialize(extensions)
    assert wire.parse(data) == (50, marker, sequence, timestamp, 7, payload)


@given(st.binary(min_size=11, max_size=60).map(lambda data: b"\x80" + data) | st.binary(min_size=12, max_size=60))
def test_parsing_nonsense(data: bytes) -> None:
    """Of bytes that are no packet, or a strange one, we think as aiortc does."""
    data = bytes([0x80 | data[0] & 0x3F]) + data[1:]
    try:
        theirs = RtpPacket.parse(data)
    except ValueError as error:
        assert wire.parse(data) is None or "extension" in str(error)  # we do not look into those
    else:
        ours = wire.parse(data)
        assert ours is not None
        assert ours.payload == theirs.payload


def test_strangers() -> None:
    """Of a sender, receiver or transport that is not as we know it, we say so."""
    strange: Any = SimpleNamespace(transport=SimpleNamespace(transport=None))
    assert not wire.can_receive(strange)
    assert not wire.can_send(strange)
    assert not seam.send_packets(strange, print)  # type: ignore[arg-type]
    assert set(vars(strange)) == {"transport"}


def sessions() -> tuple[pylibsrtp.Session, pylibsrtp.Session]:
    """One that encrypts, one that decrypts."""
    policy, key = pylibsrtp.Policy, bytes(range(30))
    return (
        pylibsrtp.Session(policy(key=key, ssrc_type=policy.SSRC_ANY_OUTBOUND)),
        pylibsrtp.Session(policy(key=key, ssrc_type=policy.SSRC_ANY_INBOUND)),
    )


def test_cipher() -> None:
    """What goes to libsrtp directly comes out as pylibsrtp has it, and what makes no sense is pylibsrtp's error."""
    (ours, _), (theirs, decrypting) = sessions(), sessions()
    encrypt, decrypt = wire._cipher(ours, "protect"), wire._cipher(decrypting, "unprotect")
    assert encrypt != ours.protect, "this pylibsrtp has other parts than we know"
    for number in range(3):
        packet = RtpPacket(96, 0, number, 960 * number, 1, bytes(100 * number)).serialize()
        data = theirs.protect(packet)
        assert encrypt(packet) == data
        assert decrypt(data) == packet
        with pytest.raises(pylibsrtp.Error):
            decrypt(data)  # played back
    with pytest.raises(pylibsrtp.Error, match="too long"):
        decrypt(bytes(1501))
    with pytest.raises(pylibsrtp.Error, match="too long"):
        encrypt(bytes(1400))


def test_cipher_of_another_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pylibsrtp has other parts, its methods are used."""
    encrypting, decrypting = sessions()
    with monkeypatch.context() as patch:
        patch.delattr(pylibsrtp, "lib")
        assert wire._cipher(encrypting, "protect") == encrypting.protect
        assert wire._cipher(decrypting, "unprotect") == decrypting.unprotect
