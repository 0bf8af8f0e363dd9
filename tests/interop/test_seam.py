"""The contract with aiortc's private parts, one by one: a release that changes them fails here, in words."""

from __future__ import annotations

import asyncio
import inspect
import struct
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar

import aioice
import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSctpTransport,
    rtcsctptransport,
)
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack, StreamStatistics
from aiortc.rtcsctptransport import CookieEchoChunk, DataChunk, serialize_packet
from aiortc.rtp import (
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    HeaderExtensions,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtpPacket,
)
from aiortc_pair import connected_pair, run
from google_crc32c import value as crc32c
from OpenSSL import SSL

from rtcflow._core.flow import Flow, Policy
from rtcflow._engine.config import VideoConfig, WebRTCConfig
from rtcflow._engine.seam import feedback, gathering, restart, seam, wire
from rtcflow._engine.seam.description import SessionDescription, common_codecs, digests
from rtcflow._engine.seam.pictures import encode_pictures, take_pictures
from rtcflow._engine.video import MAX_WAITING, PictureEncoder, PictureReceiver, encoders
from rtcflow.exceptions import RemoteProtocolError

OPUS = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48000, channels=2, payloadType=96)


def test_certificate() -> None:
    """`use_certificate` decides whose fingerprints are in the offer, and contexts know the RSA suites, too."""

    async def check() -> None:
        connection = RTCPeerConnection()
        certificate = seam.Certificate.generateCertificate()
        seam.use_certificate(connection, certificate)
        connection.createDataChannel("text")
        offer = await connection.createOffer()
        assert all(fingerprint.value in offer.sdp for fingerprint in certificate.getFingerprints())
        context = certificate._create_ssl_context(srtp_profiles=connection.sctp.transport._srtp_profiles)
        names = SSL.Connection(context).get_cipher_list()
        assert "ECDHE-RSA-AES128-GCM-SHA256" in names
        assert "ECDHE-ECDSA-AES128-GCM-SHA256" in names
        await connection.close()

    run(check())


def test_addresses_route_and_goodbye() -> None:
    """Gathering keeps to the addresses it is given, the pair in use is known, and a close is seen as a goodbye."""

    async def check() -> None:
        async with connected_pair() as (one, two):
            assert "127.0.0.1" in one.localDescription.sdp
            candidates = [line for line in one.localDescription.sdp.splitlines() if line.startswith("a=candidate")]
            assert candidates
            assert all(" 127.0.0.1 " in line for line in candidates)
            (transport,) = seam.transports(two)
            route = seam.route(transport)
            assert route is not None
            assert route.local_address[0] == route.remote_address[0] == "127.0.0.1"
            assert not seam.goodbye_received(transport)
            closed = asyncio.Event()
            two.on("connectionstatechange", lambda: two.connectionState == "closed" and closed.set())
            await one.close()
            await asyncio.wait_for(closed.wait(), 10)
            assert seam.goodbye_received(transport)

    run(check())


class _Refusing:
    """A connection of pyOpenSSL that cannot send."""

    def __init__(self, stock: SSL.Connection) -> None:
        self._stock = stock

    def send(self, _data: bytes) -> int:
        raise SSL.ZeroReturnError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


def test_sockets_of_a_failed_close() -> None:
    """aiortc ends its close at the first error and leaves the sockets open. `close_sockets` closes them, once."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (dtls,) = seam.transports(one)
            while one.sctp.state != "connected":
                await asyncio.sleep(0.01)
            stock: Any = dtls._ssl
            vars(dtls)["_ssl"] = _Refusing(stock)
            with pytest.raises(SSL.ZeroReturnError):
                await one.close()
            assert dtls.transport.state == "completed"
            await seam.close_sockets(one)
            assert dtls.transport.state == "closed"
            assert not dtls.transport._connection._protocols
            await seam.close_sockets(one)
            vars(dtls)["_ssl"] = stock  # the rest of its close, so that nothing is left
            await one.sctp.stop()
            await dtls.stop()
            vars(one)["_RTCPeerConnection__isClosed"].set_result(True)

    run(check())


def test_signatures() -> None:
    """The methods we stand in for still have the parameters that aiortc calls them with."""
    parameters = inspect.signature(RTCRtpReceiver._handle_rtp_packet).parameters
    assert list(parameters) == ["self", "packet", "arrival_time_ms"]
    assert inspect.iscoroutinefunction(RTCRtpReceiver._handle_rtp_packet)
    assert list(inspect.signature(RTCRtpReceiver.receive).parameters) == ["self", "parameters"]
    assert list(inspect.signature(RTCRtpReceiver._handle_disconnect).parameters) == ["self"]
    assert list(inspect.signature(RTCSctpTransport._receive_sack_chunk).parameters) == ["self", "chunk"]
    gather = inspect.signature(aioice.Connection.get_component_candidates).parameters
    assert {"component", "addresses"} <= set(gather)
    source = inspect.getsource(aioice.Connection.gather_candidates)
    assert "self.get_component_candidates(component=component, addresses=addresses)" in source
    assert seam.can_gather()
    assert list(inspect.signature(aioice.ice.server_reflexive_candidate).parameters) == ["protocol", "stun_server"]
    relay = ["turn_server", "turn_username", "turn_password", "turn_ssl", "turn_transport"]
    wanted = {"component", "hide_related_address", "protocol_factory", *relay}
    assert set(inspect.signature(aioice.ice.relayed_candidate).parameters) == wanted
    assert "self._protocols" in inspect.getsource(aioice.Connection.close)


def test_without_our_gathering(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With an aioice that is not known, it gathers by itself, and a warning says what does not count."""
    monkeypatch.setattr(seam, "can_gather", lambda: False)

    async def check() -> None:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.createDataChannel("text")
        gathering.install(connection, WebRTCConfig(host_addresses=("127.0.0.2",)), {})
        await connection.setLocalDescription(await connection.createOffer())
        assert "127.0.0.2" not in connection.localDescription.sdp
        await connection.close()

    run(check())
    assert "only ice_servers count" in caplog.text


def test_packets_are_taken() -> None:
    """A receiver whose packets are taken decodes none, keeps no thread, and goes on counting for its RTCP reports."""

    async def check() -> None:
        async with connected_pair() as (one, two):
            (transport,) = seam.transports(one)
            receiver = RTCRtpReceiver("audio", transport)
            receiver._track = RemoteStreamTrack("audio")
            started: list[RTCRtpReceiveParameters] = []
            packets: list[seam.Packet] = []
            errors: list[BaseException] = []
            assert seam.take_packets(receiver, started.append, packets.append, errors.append)
            parameters = RTCRtpReceiveParameters(codecs=[OPUS])
            await receiver.receive(parameters)
            assert started == [parameters]
            assert receiver._RTCRtpReceiver__decoder_thread is None
            for sequence in (1, 2, 4):
                packet = RtpPacket(
                    payload_type=96, sequence_number=sequence, timestamp=960 * sequence, ssrc=7, payload=b"\x08x"
                )
                await receiver._handle_rtp_packet(packet, arrival_time_ms=0)
            await receiver._handle_rtp_packet(RtpPacket(payload_type=96, sequence_number=5, ssrc=7), arrival_time_ms=0)
            assert [packet.sequence_number for packet in packets] == [1, 2, 4]
            statistics = receiver._RTCRtpReceiver__remote_streams[7]
            assert (statistics.packets_received, statistics.packets_lost) == (4, 1)
            assert isinstance(seam.jitter(receiver, 48000), float)
            receiver._handle_disconnect()
            await receiver.stop()

    run(check())


def test_a_decoder_is_stopped_without_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping a receiver whose decoder is busy leaves the loop free meanwhile, and ends the thread."""
    decoded = threading.Event()
    monkeypatch.setattr("aiortc.rtcrtpreceiver.get_decoder", lambda codec: SlowDecoder())

    class SlowDecoder:
        def decode(self, frame: Any) -> list[Any]:
            decoded.wait(30)
            return []

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            receiver = RTCRtpReceiver("audio", transport)
            receiver._track = RemoteStreamTrack("audio")
            seam.stop_without_blocking(receiver)
            await receiver.receive(RTCRtpReceiveParameters(codecs=[OPUS]))
            thread = receiver._RTCRtpReceiver__decoder_thread
            for _ in range(20):
                receiver._RTCRtpReceiver__decoder_queue.put((OPUS, None))
            await asyncio.sleep(0.05)
            receiver._handle_disconnect()
            stopping = asyncio.create_task(receiver.stop())
            await asyncio.sleep(0.01)
            assert thread.is_alive()  # or the loop would have stood still until the decoder was done
            decoded.set()
            await asyncio.wait_for(stopping, 20)
            assert not thread.is_alive()

    run(check())


def test_without_the_seam() -> None:
    """A receiver that is not as we know it is left alone, and we are told."""

    class Strange:
        pass

    strange: Any = Strange()
    assert not seam.take_packets(strange, print, print, print)
    seam.stop_without_blocking(strange)
    assert take_pictures(strange, print, asyncio.Event().wait, print, print) is None
    assert not encode_pictures(strange, encoders(VideoConfig()), lambda: False, print, Events())
    assert vars(strange) == {}
    assert seam.round_trip(strange) is None
    assert seam.jitter(strange, 48000) is None
    assert not seam.goodbye_received(strange)
    assert seam.max_message_size(strange) == 65536
    seam.use_certificate(strange, strange)


async def send_pictures(receiver: Any, count: int, first: int = 0, size: tuple[int, int] = (64, 48)) -> None:
    """Give `receiver` so many key pictures of one packet each."""
    encoder = PictureEncoder()
    for number in range(first, first + count):
        frame = av.VideoFrame.from_ndarray(np.zeros((*size[::-1], 3), np.uint8), format="bgr24")
        frame.pts, frame.time_base = 3000 * number, Fraction(1, 90000)
        (payload,), timestamp = encoder.encode(frame, force_keyframe=True)
        packet = RtpPacket(97, marker=1, sequence_number=number, timestamp=timestamp, payload=payload)
        await receiver._handle_rtp_packet(packet, arrival_time_ms=0)


VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90000, payloadType=97)


def test_pictures_go_through_our_buffer() -> None:
    """A receiver of video gives its packets to ours, reports nothing by itself, and decodes what ours gives it.

    Also after a goodbye of RTCP: libwebrtc says it when its sender stops for a while.
    """

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            receiver = RTCRtpReceiver("video", transport)
            receiver._track = RemoteStreamTrack("video")
            frames: Flow[av.VideoFrame] = Flow(10, Policy.DROP_OLDEST)
            ours = PictureReceiver(frames, VideoConfig(), print)
            assert vars(receiver)["_RTCRtpReceiver__nack_generator"] is not None
            assert ours.install(receiver)
            assert vars(receiver)["_RTCRtpReceiver__nack_generator"] is None
            await receiver.receive(RTCRtpReceiveParameters(codecs=[VP8]))
            for number in range(3):
                await send_pictures(receiver, 1, number)
                seen = await asyncio.wait_for(frames.take(), 10)
                assert (seen.width, seen.height) == (64, 48)
                await receiver._handle_rtcp_packet(RtcpByePacket(sources=[0]))
            await receiver.stop()

    run(check())


def test_a_decoder_that_is_too_slow_has_a_bounded_queue() -> None:
    """Also if each picture is a key picture, which any decoder can go on with. The newest one waits."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            receiver: Any = RTCRtpReceiver("video", transport)
            ours = PictureReceiver(Flow(10, Policy.DROP_OLDEST), VideoConfig(), print)
            assert ours.install(receiver)
            vars(receiver)["_RTCRtpReceiver__codecs"][97] = VP8  # and no decoder's thread
            waiting = vars(receiver)["_RTCRtpReceiver__decoder_queue"]
            await send_pictures(receiver, 3 * MAX_WAITING)
            assert 0 < waiting.qsize() <= MAX_WAITING + 1
            while waiting.qsize():
                *_, newest = waiting.get_nowait()
            assert newest == 3000 * (3 * MAX_WAITING - 1)

    run(check())


def test_a_key_picture_is_asked_for_when_the_decoder_fails_if_that_helps() -> None:
    """Pictures that are too large are told, and asked for once: another one would be as large."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            receiver: Any = RTCRtpReceiver("video", transport)
            receiver._track = RemoteStreamTrack("video")
            told: asyncio.Queue[str] = asyncio.Queue()
            asked: asyncio.Queue[int] = asyncio.Queue()
            vars(receiver)["_send_rtcp_pli"] = asked.put
            frames: Flow[av.VideoFrame] = Flow(10, Policy.DROP_OLDEST)
            ours = PictureReceiver(frames, VideoConfig(max_pixels=256), told.put_nowait)
            assert ours.install(receiver)
            await receiver.receive(RTCRtpReceiveParameters(codecs=[VP8]))
            acts = asyncio.create_task(ours.run())

            async def fail(number: int) -> bool:
                await send_pictures(receiver, 1, number)
                assert "64 × 48" in await asyncio.wait_for(told.get(), 10)
                return ours._buffer.due() is not None

            assert await fail(0)
            await asyncio.wait_for(asked.get(), 10)
            assert [await fail(number) for number in (1, 2, 3)] == [False] * 3
            await send_pictures(receiver, 1, 4, (16, 16))
            await asyncio.wait_for(frames.take(), 10)
            assert await fail(5), "something was shown since"
            acts.cancel()
            await receiver.stop()

    run(check())


class Events:
    """Hears what a sender tells, and grants what is asked for."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.grants = True

    def sent(self, size: int, packets: int, *, key: bool) -> None:
        self.seen.put_nowait(("sent", size, packets, key))

    def reported(self, lost: float, round_trip: float | None) -> None:
        self.seen.put_nowait(("reported", lost, round_trip))

    def key_asked(self) -> bool:
        self.seen.put_nowait(("key",))
        return self.grants

    def may_send_again(self, sequence_number: int, size: int) -> bool:
        self.seen.put_nowait(("again", sequence_number, size))
        return self.grants

    def packet_sent(self, number: int, size: int) -> None:
        self.seen.put_nowait(("packet", number, size))

    def fed_back(self, body: bytes) -> None:
        self.seen.put_nowait(("fed back", body))


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_pictures_are_encoded_by_ours(codec: str) -> None:
    """A sender of VP8 encodes by what we make for it once it sends; of another codec, by aiortc's."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            sender = RTCRtpSender("video", transport)
            made: list[str] = []
            encoders = {"VP8": lambda: made.append("VP8") or PictureEncoder()}
            assert encode_pictures(sender, encoders, lambda: True, print, Events())
            parameters = RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=90000, payloadType=97)
            await sender.send(RTCRtpSendParameters(codecs=[parameters]))
            await vars(sender)["_RTCRtpSender__rtp_started"].wait()
            assert made == ([codec] if codec == "VP8" else [])
            assert (vars(sender)["_RTCRtpSender__encoder"] is not None) == bool(made)
            await sender.stop()

    run(check())


def test_a_sender_that_dies_says_so() -> None:
    """aiortc logs the error of an encoder and goes on as if nothing was; ours hears of it."""

    class Broken(PictureEncoder):
        def encode(self, frame: Any, force_keyframe: bool = False) -> Any:
            raise ValueError("no such picture")

    class Still(MediaStreamTrack):
        kind = "video"

        async def recv(self) -> Any:
            frame = av.VideoFrame(64, 48)
            frame.pts, frame.time_base = 0, Fraction(1, 90000)
            return frame

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            sender = RTCRtpSender(Still(), transport)
            errors: asyncio.Queue[BaseException] = asyncio.Queue()
            assert encode_pictures(sender, {"VP8": Broken}, lambda: False, errors.put_nowait, Events())
            parameters = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90000, payloadType=97)
            await sender.send(RTCRtpSendParameters(codecs=[parameters]))
            assert str(await asyncio.wait_for(errors.get(), 10)) == "no such picture"
            await sender.stop()

    run(check())


def test_a_sender_tells_what_happens() -> None:
    """What is sent, reports with loss and round trip, PLI, FIR and NACK; each request is asked about first."""

    class Sized(PictureEncoder):
        keys: ClassVar[list[bool]] = []
        meanwhile: ClassVar[list[Callable[[], object]]] = []

        def encode(self, frame: Any, force_keyframe: bool = False) -> Any:
            self.keys.append(force_keyframe)
            for happens in self.meanwhile:
                happens()
            begin = b"\x10\x00" if force_keyframe else b"\x10\x01"  # RFC 7741 section 4.2, RFC 6386 section 9.1
            return [begin + b"x" * 698, b"y" * 300], frame.pts

    class Fed(MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self.frames: asyncio.Queue[Any] = asyncio.Queue()

        async def recv(self) -> Any:
            return await self.frames.get()

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            track, events = Fed(), Events()
            sender = RTCRtpSender(track, transport)
            written: list[bytes] = []

            async def note(data: bytes) -> None:
                written.append(data)

            assert encode_pictures(sender, {"VP8": Sized}, lambda: False, print, events)
            transport._send_rtp = note
            parameters = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90000, payloadType=97)
            await sender.send(RTCRtpSendParameters(codecs=[parameters]))

            async def next_picture() -> None:
                frame = av.VideoFrame(64, 48)
                frame.pts, frame.time_base = 0, Fraction(1, 90000)
                track.frames.put_nowait(frame)
                while (seen := await asyncio.wait_for(events.seen.get(), 10)) == ("key",):
                    pass
                assert seen == ("sent", 1000, 2, Sized.keys[-1])
                while not all(any(letter in data for data in written) for letter in (b"x", b"y")):
                    await asyncio.sleep(0)

            await next_picture()
            first = RtpPacket.parse(next(data for data in written if b"x" in data))
            members = vars(sender)
            members["_RTCRtpSender__lsr"], members["_RTCRtpSender__lsr_time"] = 77, time.time() - 1.0
            answer = RtcpReceiverInfo(
                ssrc=sender._ssrc,
                fraction_lost=64,
                packets_lost=1,
                highest_sequence=0,
                jitter=0,
                lsr=77,
                dlsr=65536 // 2,
            )
            await sender._handle_rtcp_packet(RtcpRrPacket(ssrc=1, reports=[answer]))
            what, lost, trip = events.seen.get_nowait()
            assert (what, lost) == ("reported", 0.25)
            assert 0.4 < trip < 20
            answer.lsr = 78
            await sender._handle_rtcp_packet(RtcpRrPacket(ssrc=1, reports=[answer]))
            assert events.seen.get_nowait() == ("reported", 0.25, None)
            for kind in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=kind, ssrc=1, media_ssrc=sender._ssrc))
                assert events.seen.get_nowait() == ("key",)
                await next_picture()
                assert Sized.keys[-1]
            Sized.meanwhile.append(members["_send_keyframe"])
            await next_picture()
            assert not Sized.keys[-1]
            await next_picture()
            assert Sized.keys[-1]
            Sized.meanwhile.clear()
            await next_picture()
            assert not Sized.keys[-1]  # the picture before has answered what was asked in its time
            events.grants = False
            nack = RtcpRtpfbPacket(
                fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc, lost=[first.sequence_number, 12345]
            )
            before = len([data for data in written if b"x" in data])
            for granted in (False, True):
                events.grants = granted
                await sender._handle_rtcp_packet(nack)
                assert events.seen.get_nowait() == ("again", first.sequence_number, 700)
                assert len([data for data in written if b"x" in data]) == before + granted
            events.grants = False
            await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=sender._ssrc))
            assert events.seen.get_nowait() == ("key",)
            await next_picture()
            assert not Sized.keys[-1]
            await sender.stop()

    run(check())


def test_packets_carry_numbers_and_feedback_comes_in() -> None:
    """A sender with the extension numbers its packets, tells of them, and hands over feedback and nothing else."""

    class Stock:
        def configure(self, parameters: Any) -> None:
            pass

        def set(self, values: Any) -> tuple[int, bytes]:
            return values.transport_sequence_number, b""

    async def check() -> None:
        sent: list[bytes] = []
        read: list[bytes] = []

        async def send(data: bytes) -> None:
            sent.append(data)

        async def handle(data: bytes) -> None:
            read.append(data)

        transport = SimpleNamespace(_send_rtp=send, _handle_rtcp_data=handle)
        sender: Any = SimpleNamespace(transport=transport, _RTCRtpSender__rtp_header_extensions_map=Stock())
        feedback.prepare(sender)
        numbers, events = vars(sender)["_RTCRtpSender__rtp_header_extensions_map"], Events()
        with feedback.number_packets(sender, events):
            assert transport._send_rtp is send  # it was not agreed on
        extension = RTCRtpHeaderExtensionParameters(id=5, uri=feedback.URI)
        numbers.configure(SimpleNamespace(headerExtensions=[extension]))
        with feedback.number_packets(sender, events):
            for number in range(2):
                assert numbers.set(HeaderExtensions())[0] == number
                await transport._send_rtp(b"packet")
                assert events.seen.get_nowait() == ("packet", number, 6)
            await transport._send_rtp(b"rtcp")
            assert events.seen.empty()
            report = bytes(RtcpRrPacket(ssrc=1))
            told = bytes([0x8F, 205, 0, 4, *range(16)])
            padded = bytes([0xAF, 205, 0, 4, *range(12), 0, 0, 0, 4])
            await transport._handle_rtcp_data(told + report + padded)
            assert read == [report]
            assert events.seen.get_nowait() == ("fed back", bytes(range(8, 16)))
            assert events.seen.get_nowait() == ("fed back", bytes(range(8, 12)))
        assert (transport._send_rtp, transport._handle_rtcp_data) == (send, handle)
        assert sent == [b"packet", b"packet", b"rtcp"]

    run(check())


def test_figures() -> None:
    """The sender's round trip is where we look for it, and so are the packets that came of each source."""

    async def check() -> None:
        async with connected_pair() as (one, two):
            (transport,) = seam.transports(one)
            assert seam.packets_decrypted(one) == 0
            streams = vars(one.getTransceivers()[0].receiver)["_RTCRtpReceiver__remote_streams"]
            streams[1] = StreamStatistics(48000)
            streams[1].add(RtpPacket(sequence_number=1, timestamp=0))
            assert seam.packets_decrypted(one) == 1
            sender = RTCRtpSender("audio", transport)
            assert seam.round_trip(sender) is None
            assert "_RTCRtpSender__rtt" in vars(sender)
            assert seam.max_message_size(one.sctp) == 262144
            assert all(hasattr(one.sctp, name) for name in ("_outbound_queue", "_sent_queue", "_data_channel_queue"))

    run(check())


def test_a_peer_that_is_asked_answers() -> None:
    """`ask_peer` sends what aioice's own consent checks are made of, and the gate hears the answer as the peer's."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            (gate,) = transport.transport._connection._protocols
            before = gate.contact.heard
            await seam.ask_peer(one)
            assert gate.contact.heard > before

    run(check())


def test_everything_is_acknowledged() -> None:
    """`all_acknowledged` returns once the peer has every message, and not before it has any."""

    async def check() -> None:
        async with connected_pair() as (one, two):
            read: list[str] = []
            channels: list[Any] = []
            two.on("datachannel", lambda channel: (channels.append(channel), channel.on("message", read.append)))
            channel = one.createDataChannel("another")
            while channel.readyState != "open":
                await asyncio.sleep(0.01)
            for number in range(50):
                channel.send(str(number) * 1000)
            assert len(read) < 50
            await asyncio.wait_for(seam.all_acknowledged(one.sctp), 10)
            assert len(read) == 50

    run(check())


@pytest.mark.parametrize("name", ["_handle_rtp_packet", "_handle_disconnect", "receive"])
def test_names(name: str) -> None:
    """The receiver's methods are where `take_packets` looks for them."""
    assert callable(getattr(RTCRtpReceiver, name))


def test_the_gate_stands_where_aioice_listens() -> None:
    """`Gate` overrides what aioice's sockets are called by, and reads what its connections have."""
    stock = aioice.ice.StunProtocol
    for name in ("datagram_received", "error_received", "connection_lost", "send_stun", "send_data"):
        assert name in vars(stock), name
    assert list(inspect.signature(stock.datagram_received).parameters) == ["self", "data", "addr"]
    assert list(inspect.signature(aioice.Connection.request_received).parameters) == [
        "self",
        "message",
        "addr",
        "protocol",
    ]
    connection = aioice.Connection(ice_controlling=False)
    for name in ("_remote_candidates", "_nominated", "_check_list", "_queue", "_valid_username", "data_received"):
        assert hasattr(connection, name), name


def test_faults_of_the_peer_are_contained() -> None:
    """RTP that aiortc cannot handle is dropped; what is wrong on the data channels is a RemoteProtocolError."""

    async def check() -> None:
        async with connected_pair() as (one, two):
            faults: list[str] = []
            (transport,) = seam.transports(two)
            sctp = two.sctp
            assert sctp is not None
            seam.contain_faults(two, 1000, faults.append)
            assert sctp.getCapabilities().maxMessageSize == 1000
            receiver = two.getReceivers()[0]
            vars(receiver)["_handle_rtp_packet"] = None  # what it would call, fails
            packet = RtpPacket(payload_type=96, sequence_number=1, ssrc=7, payload=b"x")
            transport._rtp_router.ssrc_table[7] = receiver
            transport._rtp_router.payload_type_table[96] = {receiver}
            await transport._handle_rtp_data(packet.serialize(), arrival_time_ms=0)
            assert faults == ["aiortc raised TypeError on an RTP or RTCP packet of the peer"]
            await sctp._data_channel_receive(999, 51, b"outside")
            assert "not opened in-band" in faults[1]
            vars(sctp)["_receive_chunk"] = None
            with pytest.raises(RemoteProtocolError, match="cannot be read: TypeError"):
                await sctp._handle_data(
                    serialize_packet(5000, 5000, sctp._local_verification_tag, CookieEchoChunk(body=b""))
                )

    run(check())


async def opened(sctp: RTCSctpTransport) -> None:
    """Until the pair's own channel is open: nothing else will come of itself."""
    while not sctp._data_channels:
        await asyncio.sleep(0.001)


PILES = {
    "the first piece of a message, again and again": (lambda n: (n, 0, 0b010), 1280, "pieces"),
    "every second piece": (lambda n: (2 * n + 1, 0, 0b111), 1280, "pieces"),
    "messages on ever new channels": (lambda n: (n, n, 0b011), 100, "data channels"),
}


@pytest.mark.parametrize("pile", PILES)
def test_what_a_peer_piles_up_on_data_channels_is_bounded(pile: str) -> None:
    """aiortc keeps what is empty without counting it, and goes through all of it whenever a piece comes."""
    chunk_of, most, words = PILES[pile]

    async def check() -> None:
        async with connected_pair() as (_, two):
            sctp = two.sctp
            assert sctp is not None
            await opened(sctp)
            seam.contain_faults(two, 1000, lambda _: None)
            first, count = sctp._last_received_tsn + 1, 0
            with pytest.raises(RemoteProtocolError, match=rf"more than {most} .*{words}"):
                while count < 2 * most:
                    number, stream, flags = chunk_of(count)
                    chunk = DataChunk(flags=flags)
                    chunk.tsn, chunk.stream_id, chunk.stream_seq = (first + number) % 2**32, stream, 0
                    chunk.protocol, chunk.user_data = 51, b""
                    await sctp._handle_data(serialize_packet(5000, 5000, sctp._local_verification_tag, chunk))
                    count += 1
            assert most - 3 <= count <= most + 1

    run(check())


def test_a_window_full_of_pieces_may_wait() -> None:
    """As many as fit into the window that a peer is told of, after one that was lost; then they are read in order."""

    async def check() -> None:
        async with connected_pair() as (_, two):
            sctp = two.sctp
            assert sctp is not None
            heard: list[int] = []

            async def hear(stream_id: int, pp_id: int, data: bytes) -> None:
                heard.append(int(data[:3]))

            await opened(sctp)
            seam.contain_faults(two, 2000, lambda _: None)
            vars(sctp)["_data_channel_receive"] = hear
            first, many = sctp._last_received_tsn + 1, 2**20 // 1172
            for number in (*range(1, many), 0):
                chunk = DataChunk(flags=0b011)
                chunk.tsn, chunk.stream_id, chunk.stream_seq = (first + number) % 2**32, 0, number
                chunk.protocol, chunk.user_data = 51, b"%03d" % number + bytes(1169)
                await sctp._handle_data(serialize_packet(5000, 5000, sctp._local_verification_tag, chunk))
            assert heard == list(range(many))

    run(check())


def test_further_sources_of_a_peer_are_dropped() -> None:
    """aiortc keeps something for each until the call ends. Those that are known go on."""

    async def check() -> None:
        async with connected_pair() as (_, two):
            faults: list[str] = []
            (transport,) = seam.transports(two)
            receiver, heard = two.getReceivers()[0], []

            async def hear(packet: RtpPacket, arrival_time_ms: int) -> None:
                heard.append(packet.ssrc)

            seam.contain_faults(two, 1000, faults.append)
            vars(receiver)["_handle_rtp_packet"] = hear
            transport._rtp_router.payload_type_table[96] = {receiver}
            for ssrc in [*range(1, wire.MOST_SOURCES + 100), 1]:
                packet = RtpPacket(payload_type=96, sequence_number=1, ssrc=ssrc, payload=b"x")
                await transport._handle_rtp_data(packet.serialize(), arrival_time_ms=0)
            assert len(transport._rtp_router.ssrc_table) == wire.MOST_SOURCES
            assert len(heard) >= wire.MOST_SOURCES - 5
            assert max(heard) <= wire.MOST_SOURCES
            assert heard[-1] == 1
            assert set(faults) == {"a packet came from an RTP source that is not among the first 1000 of the peer"}

    run(check())


def test_a_chunk_without_a_length_is_refused() -> None:
    """Why aiortc must be 1.15 or newer: before, one such SCTP packet of a caller held the engine's loop for ever."""
    head, chunk = struct.pack("!HHL", 5000, 5000, 1), struct.pack("!BBH", 0xC1, 0, 0)
    checksum = crc32c(head + bytes(4) + chunk)
    with pytest.raises(ValueError, match="length"):
        rtcsctptransport.parse_packet(head + struct.pack("<L", checksum) + chunk)


def test_descriptions_and_codecs() -> None:
    """aiortc's parser reads sections and groups, and answers with the codecs that both sides know, in their order."""
    parsed = SessionDescription.parse(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 0 111 77\r\na=mid:0\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:111 opus/48000/2\r\n"
        "a=rtpmap:77 nobody/8000\r\n"
    )
    assert [str(group.semantic) for group in parsed.group] == ["BUNDLE"]
    assert [codec.name for codec in common_codecs(parsed.media[0])] == ["PCMU", "opus"]
    assert "sha-256" in digests()


def test_restarts_know_aioice() -> None:
    """What a restart makes anew is where it looks for it, and a connected transport can be restarted."""

    async def check() -> None:
        async with connected_pair() as (one, _two):
            (transport,) = seam.transports(one)
            assert restart.can_restart(transport)
            strange: Any = SimpleNamespace(transport=None)
            assert not restart.can_restart(strange)

    run(check())
