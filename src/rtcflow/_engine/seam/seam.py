"""Everything private of aiortc that rtcflow uses, except for the way of packets (`wire.py`), function by function.

Each function says what it relies on. `tests/interop/test_seam.py` checks those names and behaviours against the
installed aiortc, so a release that changes them fails there, in words.

The invariant: nothing breaks at run time. If a part is not as expected, a function that would change aiortc returns
False and changes nothing. Then audio is read from the remote track, the sender asks our track, and aiortc's encoder
encodes. Figures are None, and a call does not wait for its goodbye to arrive.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import aioice.ice
from aioice import stun
from aiortc import (
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSctpCapabilities,
    RTCSctpTransport,
)
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from OpenSSL import SSL

from ...exceptions import RemoteProtocolError
from ..ports import Route
from . import wire

_log = logging.getLogger("rtcflow.engine")


class Packet(Protocol):
    """The part of an RTP packet, aiortc's or ours, that the receiving side reads."""

    @property
    def payload_type(self) -> int: ...
    @property
    def sequence_number(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def ssrc(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


# -- DTLS

CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
    b":ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)
"""aiortc's own list, and the same suites for peers with an RSA certificate. RFC 8827 section 6.5 wants ECDSA, but some
peers in the field (GStreamer's webrtcbin) have RSA.
"""


class Certificate(RTCCertificate):
    """A certificate whose DTLS contexts also speak to peers with an RSA certificate.

    Relies on: aiortc makes the context of each connection by ``_create_ssl_context(srtp_profiles)``.
    """

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(CIPHERS)
        return context

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:  # noqa: N802 - aiortc's name
        """The SHA-256 fingerprint alone.

        aiortc also announces SHA-384 and SHA-512 (RFC 8122 section 5 allows that). libdatachannel then answers with a
        fingerprint of a kind that its certificate does not have, and a quarter of such calls fail.
        """
        return [one for one in super().getFingerprints() if one.algorithm == "sha-256"]


def use_certificate(connection: RTCPeerConnection, certificate: RTCCertificate) -> None:
    """Have `connection`, which was just made, use `certificate`.

    Relies on: ``RTCPeerConnection.__certificates`` is a list of one, read when the first transport is made.
    """
    certificates = getattr(connection, "_RTCPeerConnection__certificates", None)
    if isinstance(certificates, list):
        certificates[:] = [certificate]


def goodbye_received(transport: RTCDtlsTransport) -> bool:
    """Whether the peer closed the DTLS connection (a ``close_notify`` alert), rather than having gone silent.

    Relies on: ``RTCDtlsTransport._ssl`` is the pyOpenSSL connection, or None.
    """
    connection = getattr(transport, "_ssl", None)
    return connection is not None and bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


# -- ICE


def can_gather() -> bool:
    """Whether `gathering` knows this aioice: the functions of `aioice.ice` that it stands on."""
    names = ("StunProtocol", "get_host_addresses", "relayed_candidate", "server_reflexive_candidate")
    return (
        all(hasattr(aioice.ice, name) for name in names)
        and hasattr(aioice.Connection, "get_component_candidates")
        and "hide_related_address" in inspect.signature(aioice.ice.relayed_candidate).parameters
    )


def gather_by(connection: RTCPeerConnection, gather: Callable[..., Awaitable[list[Any]]]) -> None:
    """Have all transports that `connection` has so far gather candidates by ``gather(ice, component)``.

    Relies on: ``RTCIceTransport._connection`` is an `aioice.Connection`, whose `gather_candidates` calls its own
    ``get_component_candidates(component=, addresses=)``.
    """
    for transport in transports(connection):
        ice = transport.transport._connection
        vars(ice)["get_component_candidates"] = partial(_gather, gather, ice)


async def _gather(gather: Any, ice: Any, *, component: int, addresses: list[str]) -> Any:  # noqa: ARG001
    return await gather(ice, component)


def route(transport: RTCDtlsTransport) -> Route | None:
    """The candidate pair in use.

    Relies on: ``aioice.Connection._nominated`` maps component 1 to a pair with `local_candidate` and
    `remote_candidate`.
    """
    nominated = getattr(getattr(transport.transport, "_connection", None), "_nominated", {})
    pair = nominated.get(1)
    if pair is None:
        return None
    local, remote = pair.local_candidate, pair.remote_candidate
    return Route(local.type, (local.host, local.port), remote.type, (remote.host, remote.port))


def transports(connection: RTCPeerConnection) -> list[RTCDtlsTransport]:
    """The DTLS transports in use, each once. Public in aiortc; here because it is needed here."""
    found = [transceiver.receiver.transport for transceiver in connection.getTransceivers()]
    if connection.sctp is not None:
        found.append(connection.sctp.transport)
    return list(dict.fromkeys(found))


async def close_sockets(connection: RTCPeerConnection) -> None:
    """Close the sockets that `RTCPeerConnection.close` has left open.

    Relies on: `close` ends at its first error, before it closes the sockets, and does not go on when it is called
    again. ``RTCIceTransport.stop`` closes them, and does nothing if it has run. Both are public.
    """
    for transport in transports(connection):
        await transport.transport.stop()


def packets_received(transport: RTCDtlsTransport) -> int:
    """How many packets have come, of RTP, RTCP and DTLS. Relies on: ``RTCDtlsTransport.__rx_packets``; else 0."""
    return int(getattr(transport, "_RTCDtlsTransport__rx_packets", 0))


# -- faults of the peer


def contain_faults(connection: RTCPeerConnection, max_message: int, on_fault: Callable[[str], None]) -> None:
    """Treat errors that bytes of the authenticated peer cause in `connection` as the peer's fault.

    A packet of RTP or RTCP that aiortc cannot handle is dropped. A fault on the data channels ends the call with a
    `RemoteProtocolError`. They are reliable, so nothing on them can be dropped. Messages on channels that nobody has
    opened in-band (``negotiated: true``) are reported.

    aiortc keeps some things for a peer until the call ends: sources of RTP, data channels, and pieces of messages that
    wait for others. Each has a bound. aiortc compares each piece that comes with all of those, in the thread of every
    call.

    Relies on: ``RTCDtlsTransport`` calls its own ``_handle_rtp_data(data, arrival_time_ms=)`` and
    ``_handle_rtcp_data(data)`` with what was decrypted, and ``_data_receiver._handle_data(data)`` of the
    `RTCSctpTransport`, which calls its own ``_data_channel_receive(stream_id, pp_id, data)``;
    ``RTCSctpTransport._data_channels`` holds the channels by stream; ``_advertised_rwnd`` is the room left for what was
    received in part; ``_inbound_streams[n].reassembly`` and ``_sack_misordered`` hold the pieces and numbers of it.

    Args:
        connection: With the transports that will be needed.
        max_message: The most bytes of one message; announced as ``a=max-message-size`` (RFC 8841 section 6).
        on_fault: Called with words for what was dropped.
    """
    for transport in transports(connection):
        members: dict[str, Any] = vars(transport)
        for name in ("_handle_rtp_data", "_handle_rtcp_data"):
            if hasattr(transport, name):
                members[name] = partial(_drop_faulty, getattr(transport, name), on_fault)
        if "_handle_rtp_data" in members and wire.knows_sources(transport):
            members["_handle_rtp_data"] = partial(
                _drop_further_sources, transport, members["_handle_rtp_data"], on_fault
            )
    sctp = connection.sctp
    if sctp is None:
        return
    members = vars(sctp)
    members["getCapabilities"] = partial(RTCSctpCapabilities, maxMessageSize=max_message)
    if all(hasattr(sctp, name) for name in ("_handle_data", "_data_channel_receive", "_data_channels")):
        members["_handle_data"] = partial(_read_sctp, sctp, sctp._handle_data)
        members["_data_channel_receive"] = partial(_report_unopened, sctp, sctp._data_channel_receive, on_fault)


async def _drop_faulty(stock: Any, on_fault: Callable[[str], None], data: bytes, **more: Any) -> None:
    try:
        await stock(data, **more)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - aiortc reads what a peer wrote, and fails in many ways
        on_fault(f"aiortc raised {type(error).__name__} on an RTP or RTCP packet of the peer")


async def _read_sctp(sctp: Any, stock: Any, data: bytes) -> None:
    await asyncio.sleep(0)  # aiortc reads on as long as packets wait; the other calls have their turn between two
    try:
        await stock(data)
    except ConnectionError:
        raise
    except Exception as error:
        raise RemoteProtocolError(f"the peer's data channels cannot be read: {type(error).__name__} {error}") from error
    if (much := _too_much(sctp)) is not None:
        raise RemoteProtocolError(much)


def _too_much(sctp: Any) -> str | None:
    """What the peer has more of than aiortc should keep, in words; None if all is within its bound.

    Relies on: what `contain_faults` says of `RTCSctpTransport`; what is missing has no bound.
    """
    streams = getattr(sctp, "_inbound_streams", {})
    waiting = sum(len(stream.reassembly) for stream in streams.values())
    if getattr(sctp, "_advertised_rwnd", 0) < -_OVERRUN:
        return "the peer sends more on its data channels than it was given room for"
    if max(waiting, len(getattr(sctp, "_sack_misordered", ()))) > _PIECES:
        return f"more than {_PIECES} pieces of messages on the peer's data channels wait for others"
    if max(len(streams), len(sctp._data_channels)) > _CHANNELS:
        return f"the peer has more than {_CHANNELS} data channels open"
    return None


async def _drop_further_sources(
    transport: Any, stock: Any, on_fault: Callable[[str], None], data: bytes, **more: Any
) -> None:
    if wire.is_one_source_too_many(transport, data):
        on_fault(f"a packet came from an RTP source that is not among the first {wire.MOST_SOURCES} of the peer")
        return
    await stock(data, **more)


async def _report_unopened(
    sctp: Any, stock: Any, on_fault: Callable[[str], None], stream_id: int, pp_id: int, data: bytes
) -> None:
    """Tell of a message on a channel that nobody has opened; see `contain_faults`.

    Relies on: ``RTCSctpTransport._data_channels`` holds the open channels by their stream.
    """
    if pp_id != _DCEP and stream_id not in sctp._data_channels:
        on_fault(
            f"a message came on data channel {stream_id}, which was not opened in-band; "
            "open it without negotiated: true (RFC 8832)"
        )
    await stock(stream_id, pp_id, data)


_OVERRUN: Final = 2**18
"""Bytes that a peer may send beyond the window it was told of: what was under way."""
_PIECES: Final = 1280
"""Pieces of messages that may wait for others: a window full of pieces that fill their packets is 900."""
_CHANNELS: Final = 100
"""Data channels of one call. rtcflow uses the newest one."""
_DCEP: Final = 50
"""The payload protocol of a channel's opening (RFC 8832 section 8.1)."""


# -- signs of life


def packets_decrypted(connection: RTCPeerConnection) -> int:
    """How many RTP packets came that decrypt, of all media.

    Relies on: ``RTCRtpReceiver.__remote_streams`` has the figures of each source; else 0.
    """
    receivers = [transceiver.receiver for transceiver in connection.getTransceivers()]
    streams = [getattr(receiver, "_RTCRtpReceiver__remote_streams", {}) for receiver in receivers]
    return sum(stream.packets_received for of_one in streams for stream in of_one.values())


async def ask_peer(connection: RTCPeerConnection) -> None:
    """Send a STUN Binding request, and once more after half a second if it is not answered; the gate hears the answer.

    Relies on: ``aioice.Connection._nominated`` holds the pairs in use; ``build_request(pair, nominate=)`` and
    ``pair.protocol.request(...)`` are what aioice's own consent checks (RFC 7675) are made of.
    """
    for transport in transports(connection):
        ice: Any = getattr(transport.transport, "_connection", None)
        for pair in list(getattr(ice, "_nominated", {}).values()):
            with suppress(stun.TransactionError):
                await pair.protocol.request(
                    ice.build_request(pair, nominate=False),
                    pair.remote_addr,
                    integrity_key=ice.remote_password.encode(),
                    retransmissions=1,
                )


# -- RTP


def take_packets(
    receiver: RTCRtpReceiver,
    on_start: Callable[[RTCRtpReceiveParameters], None],
    on_packet: Callable[[Packet], None],
    on_error: Callable[[BaseException], None],
) -> bool:
    """Have `receiver`, which has not started, hand its packets to us instead of buffering and decoding them.

    Its jitter buffer is replaced by one that keeps nothing. Its decoder thread is ended as soon as it was started. The
    first packet of each source, and where `wire.receive` does not know this aiortc every one, comes through aiortc's
    own handler.

    Relies on: `RTCDtlsTransport` calls ``receiver._handle_rtp_packet(packet, arrival_time_ms=)`` for each packet;
    ``receiver.receive(parameters)`` starts the decoder thread, and is called again after each further offer;
    ``receiver._handle_disconnect()`` ends the thread, may be called again, and leaves the rest alone;
    ``receiver.__jitter_buffer.add(packet)`` returns ``(wants a picture, frame or None)``.

    Returns:
        False if this aiortc is not as we know it; then nothing was changed.
    """
    names = ("_handle_rtp_packet", "_handle_disconnect", "_RTCRtpReceiver__jitter_buffer", "receive")
    if not all(hasattr(receiver, name) for name in names):
        _log.warning("this aiortc has another receiver than we know; audio is received through its own jitter buffer")
        return False
    stock_receive, stock_handle = receiver.receive, receiver._handle_rtp_packet
    reads = False

    async def receive(parameters: RTCRtpReceiveParameters) -> None:
        nonlocal reads
        on_start(parameters)
        await stock_receive(parameters)
        receiver._handle_disconnect()
        if not reads and wire.can_receive(receiver):
            reads = True
            wire.receive(receiver, on_packet, on_error)

    async def handle(packet: Any, arrival_time_ms: int) -> None:
        payload = packet.payload
        await stock_handle(packet, arrival_time_ms=arrival_time_ms)
        if payload:
            on_packet(packet)

    members: dict[str, object] = vars(receiver)
    members["_RTCRtpReceiver__jitter_buffer"] = _NoBuffer()
    members["receive"] = receive
    members["_handle_rtp_packet"] = handle
    return True


def send_packets(sender: RTCRtpSender, play: Callable[[wire.RtpWriter], Awaitable[None]]) -> bool:
    """Have `sender`, which has not started, send what `play` writes instead of asking its track, if Opus is agreed on.

    Relies on: ``sender.send(parameters)`` starts ``_run_rtp(codec)`` as a task, which sets ``__rtp_started`` and, at
    its end, ``__rtp_exited``, and drops ``__track``; ``sender.stop()`` cancels it.

    Args:
        sender: The sender.
        play: Called when packets can be sent; is cancelled when they no longer can. May raise `ConnectionError`.

    Returns:
        False if this aiortc is not as we know it; then nothing was changed.
    """
    if not wire.can_send(sender):
        _log.warning("this aiortc has another sender than we know; audio is sent through its track")
        return False
    members: dict[str, Any] = vars(sender)
    stock = sender._run_rtp

    async def run_rtp(codec: RTCRtpCodecParameters) -> None:
        if codec.mimeType.lower() != "audio/opus":
            await stock(codec)
            return
        members["_RTCRtpSender__rtp_started"].set()
        try:
            await play(wire.RtpWriter(sender, codec.payloadType or 0))
        except (asyncio.CancelledError, ConnectionError):
            pass  # as aiortc does: stop() waits for the end of this by the event below
        finally:
            if (track := sender.track) is not None:
                track.stop()
            members["_RTCRtpSender__track"] = None
            members["_RTCRtpSender__rtp_exited"].set()

    members["_run_rtp"] = run_rtp
    return True


def stop_without_blocking(receiver: RTCRtpReceiver) -> None:
    """Have `receiver`, which decodes in a thread, end that thread without making the engine's thread wait for it.

    aiortc joins the thread in the loop's own thread, and the thread first decodes all that is queued. For video that
    takes many milliseconds, in which no call has audio. Here what is queued is dropped, and the thread joined in
    another.

    Relies on: ``receiver.stop()`` and ``receiver._handle_disconnect()`` are what ends the thread;
    ``__decoder_thread`` is it, or None; ``__decoder_queue`` is its queue, which None ends.
    """
    thread_name, queue_name = "_RTCRtpReceiver__decoder_thread", "_RTCRtpReceiver__decoder_queue"
    if not all(hasattr(receiver, name) for name in (thread_name, queue_name, "stop", "_handle_disconnect")):
        return
    members: dict[str, Any] = vars(receiver)
    stock_stop = receiver.stop

    def tell_to_end() -> None:
        decoded = members[queue_name]
        with suppress(queue.Empty):
            while True:
                decoded.get_nowait()
        decoded.put(None)

    async def stop() -> None:
        thread = members[thread_name]
        if thread is not None:
            tell_to_end()
            members[thread_name] = None
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
        await stock_stop()

    members["_handle_disconnect"] = tell_to_end
    members["stop"] = stop


class _NoBuffer:
    """In place of aiortc's jitter buffer."""

    capacity = 1

    def add(self, packet: object) -> tuple[bool, None]:  # noqa: ARG002
        return False, None


def round_trip(sender: RTCRtpSender) -> float | None:
    """Seconds, from the peer's RTCP receiver reports (RFC 3550 section 6.4.1). Relies on: ``RTCRtpSender.__rtt``."""
    value = getattr(sender, "_RTCRtpSender__rtt", None)
    return None if value is None else max(0.0, float(value))


def jitter(receiver: RTCRtpReceiver, clock_rate: int) -> float | None:
    """Interarrival jitter in seconds (RFC 3550 appendix A.8). Relies on: ``RTCRtpReceiver.__remote_streams``."""
    streams = list(getattr(receiver, "_RTCRtpReceiver__remote_streams", {}).values())
    return streams[-1].jitter / clock_rate if streams else None


# -- SCTP


def max_message_size(sctp: RTCSctpTransport) -> int:
    """The largest message the peer takes, in bytes (RFC 8841 section 6). Relies on: ``_remote_max_message_size``."""
    size = getattr(sctp, "_remote_max_message_size", 65536)
    return int(size) if size else 2**31


async def all_acknowledged(sctp: RTCSctpTransport) -> None:
    """Wait until the peer has acknowledged everything that was sent.

    Relies on: ``_outbound_queue`` and ``_sent_queue`` hold what was not sent and not acknowledged, and
    ``_receive_sack_chunk`` empties them; without these it returns at once.
    """
    queues = [getattr(sctp, name, None) for name in ("_outbound_queue", "_sent_queue", "_data_channel_queue")]
    stock = getattr(sctp, "_receive_sack_chunk", None)
    if stock is None or None in queues:
        return
    changed = asyncio.Event()

    async def receive_sack_chunk(chunk: Any) -> None:
        await stock(chunk)
        changed.set()

    vars(sctp)["_receive_sack_chunk"] = receive_sack_chunk
    try:
        while any(queues):
            changed.clear()
            await changed.wait()
    finally:
        vars(sctp).pop("_receive_sack_chunk", None)
