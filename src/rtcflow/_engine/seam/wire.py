"""RTP straight to and from the socket, past aiortc's chain of tasks and coroutines, which costs more than Opus does.

Receiving: RTP of a known source is decrypted and passed on in the function that gets the datagram. Everything else goes
aiortc's way: STUN, DTLS, RTCP, video, and the first packet of a source. Sending: one function packs, encrypts and
sends. The invariant: aiortc's counters are kept in both directions, because its RTCP reports are made of them.

Each "Relies on" names the private parts of aiortc, aioice and pylibsrtp that are used. If a release has other parts,
`can_send` and `can_receive` return False, and everything goes aiortc's way.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import Any, Final, Literal, NamedTuple, cast

import pylibsrtp
from aiortc import RTCDtlsTransport, RTCRtpReceiver, RTCRtpSender, rtp

from .gate import Gate

_HEADER: Final = Struct("!BBHLL")
_EXTENSION: Final = Struct("!HH")
_SHORTEST: Final = _HEADER.size
_TRAILER: Final = 16 + 128
"""Bytes that encryption may add (SRTP_MAX_TRAILER_LEN of libsrtp's srtp.h)."""
_NTP_EPOCH: Final = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 5905 section 6)."""

_TRANSPORT = "_RTCDtlsTransport__"
_SENDER = "_RTCRtpSender__"
_SENDER_NAMES: Final = (
    "mid",
    "rtp_header_extensions_map",
    "rtp_started",
    "rtp_exited",
    "track",
    "encoder",
    "ntp_timestamp",
    "rtp_timestamp",
    "octet_count",
    "packet_count",
)


class RtpPacket(NamedTuple):
    """A packet that has come (RFC 3550 section 5.1), without what the audio receiver does not read."""

    payload_type: int
    marker: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse(data: bytes) -> RtpPacket | None:
    """Read an RTP packet of at least 12 bytes; None if it makes no sense."""
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    begin, end = _SHORTEST + 4 * (first & 0x0F), len(data)
    if first & 0x10:
        if end < begin + 4:
            return None
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    if first & 0x20:
        padding = data[-1]
        if not padding:
            return None
        end -= padding
    if begin > end:
        return None
    return RtpPacket(second & 0x7F, second >> 7, sequence, timestamp, ssrc, data[begin:end])


def _transport_as_known(transport: RTCDtlsTransport) -> bool:
    ice = getattr(transport.transport, "_connection", None)
    counts = (f"{_TRANSPORT}{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets"))
    return all(hasattr(transport, name) for name in ("_state", "_rx_srtp", "_tx_srtp", "_rtp_router", *counts)) and all(
        hasattr(ice, name) for name in ("data_received", "_queue", "_nominated", "_protocols")
    )


def _cipher(session: Any, name: Literal["protect", "unprotect"]) -> Callable[[bytes], bytes]:
    """`Session.protect` or `unprotect` of pylibsrtp, in one call instead of four and without an allocation.

    Relies on: ``Session._srtp`` points to what libsrtp knows of it, which works in the buffer ``_cdata``, whose
    contents ``_buffer`` shows; ``pylibsrtp.lib`` and ``ffi`` are the binding. Without these, the method itself.
    """
    names = {pylibsrtp: ("lib", "ffi"), session: ("_srtp", "_cdata", "_buffer")}
    if not all(hasattr(owner, part) for owner, parts in names.items() for part in parts):
        return cast("Callable[[bytes], bytes]", getattr(session, name))
    binding: Any = pylibsrtp
    run, length = getattr(binding.lib, f"srtp_{name}"), binding.ffi.new("int *")
    srtp, data, buffer = session._srtp, session._cdata, session._buffer
    room = len(data) - (_TRAILER if name == "protect" else 0)

    def process(packet: bytes) -> bytes:
        size = length[0] = len(packet)
        if size > room:
            raise pylibsrtp.Error("packet is too long")
        buffer[:size] = packet
        if code := run(srtp[0], data, length):
            raise pylibsrtp.Error(f"libsrtp's error {code}")
        result: bytes = buffer[: length[0]]
        return result

    return process


# -- receiving


def can_receive(receiver: RTCRtpReceiver) -> bool:
    """Whether `receive` knows this aiortc.

    Relies on: ``RTCDtlsTransport._rx_srtp`` is None until the connection is encrypted, beside what `receive` relies on.
    """
    return (
        hasattr(receiver, "_RTCRtpReceiver__remote_streams")
        and _transport_as_known(receiver.transport)
        and receiver.transport._rx_srtp is not None
    )


MOST_SOURCES: Final = 1000
"""RTP sources (SSRCs) of one peer. aiortc and libsrtp keep something for each until the call ends."""


def knows_sources(transport: RTCDtlsTransport) -> bool:
    """Whether `is_one_source_too_many` knows this aiortc."""
    return hasattr(getattr(transport, "_rtp_router", None), "ssrc_table")


def is_one_source_too_many(transport: Any, data: bytes) -> bool:
    """Whether this is a packet of RTP, encrypted or not, whose source is new, after `MOST_SOURCES` others.

    Relies on: ``RTCDtlsTransport._rtp_router.ssrc_table`` gets each source whose first packet decrypts.
    """
    table = transport._rtp_router.ssrc_table
    return (
        len(table) >= MOST_SOURCES
        and len(data) >= _SHORTEST
        and 128 <= data[0] <= 191
        and not 192 <= data[1] <= 223
        and int.from_bytes(data[8:12], "big") not in table
    )


def receive(
    receiver: RTCRtpReceiver, on_packet: Callable[[RtpPacket], None], on_error: Callable[[BaseException], None]
) -> None:
    """Have the packets of `receiver` handed to `on_packet` right when their datagram comes.

    Relies on: aioice's protocols (``Connection._protocols``) get each datagram by ``datagram_received(data, addr)``;
    those that are not STUN go on to ``Connection.data_received(data, component)``; ``Connection._queue`` holds
    those that the transport has not read; ``RTCDtlsTransport._rx_srtp`` decrypts them, `_rtp_router` has the tables
    that say whose they are, which forget a receiver that was stopped; ``RTCRtpReceiver.__remote_streams`` has what
    receiver reports are made of.

    Args:
        receiver: The receiver of the packets. It has started, and its transport is connected.
        on_packet: Called with each packet that has a payload.
        on_error: Called with what `on_packet` raises.
    """
    transport: Any = receiver.transport
    ice = transport.transport._connection
    nothing_waits = ice._queue.empty
    router, streams = transport._rtp_router, vars(receiver)["_RTCRtpReceiver__remote_streams"]
    counts: dict[str, Any] = vars(transport)
    decrypt, connected = _cipher(transport._rx_srtp, "unprotect"), transport._state
    rx_bytes, rx_packets = _TRANSPORT + "rx_bytes", _TRANSPORT + "rx_packets"

    def take(stock: Callable[[bytes, Any], None], data: bytes, origin: Any) -> None:
        # The first packet of a source takes aiortc's way, which writes the source into its tables; and none overtakes
        # what still waits there.
        if (
            len(data) < _SHORTEST
            or not 128 <= data[0] <= 191  # RFC 7983 section 7
            or 192 <= data[1] <= 223  # RTCP (RFC 5761 section 4)
            or (stream := streams.get(ssrc := int.from_bytes(data[8:12], "big"))) is None
            or router.ssrc_table.get(ssrc) is not receiver
            or receiver not in router.payload_type_table.get(data[1] & 0x7F, ())
            or not nothing_waits()
            or transport._state is not connected
        ):
            if not is_one_source_too_many(transport, data):
                stock(data, origin)
            return
        counts[rx_bytes] += len(data)
        counts[rx_packets] += 1
        try:
            plain = decrypt(data)
        except pylibsrtp.Error:  # forged, or played back
            return
        packet = parse(plain)
        if packet is None or not receiver._enabled:
            return
        stream.add(packet)
        if packet.payload:
            try:
                on_packet(packet)
            except Exception as error:  # noqa: BLE001 - the event loop would swallow it, and audio would stop
                on_error(error)

    vars(ice)["data_received"] = partial(take, ice.data_received)  # for protocols that come later
    for protocol in ice._protocols:
        if hasattr(protocol, "datagram_received"):
            vars(protocol)["datagram_received"] = partial(take, protocol.datagram_received)


# -- sending


def can_send(sender: RTCRtpSender) -> bool:
    """Whether `RtpWriter` and `seam.send_packets` know this aiortc."""
    return (
        all(hasattr(sender, _SENDER + name) for name in _SENDER_NAMES)
        and all(hasattr(sender, name) for name in ("_run_rtp", "_enabled", "_ssrc"))
        and hasattr(rtp, "HeaderExtensions")
        and _transport_as_known(sender.transport)
    )


class RtpWriter:
    """Writes one stream of RTP packets, in place of the sender's own task.

    Relies on: ``RTCDtlsTransport._tx_srtp`` encrypts; ``aioice.Connection._nominated[1]`` is the candidate pair in
    use, with a datagram transport; the sender's RTCP task makes its reports of the sender's ``__ntp_timestamp``,
    ``__rtp_timestamp``, ``__octet_count`` and ``__packet_count``.

    Args:
        sender: The sender of the stream. Its transport is connected.
        payload_type: The payload type of all packets.
    """

    def __init__(self, sender: RTCRtpSender, payload_type: int) -> None:
        self._sender: Any = sender
        self._books: dict[str, Any] = vars(sender)
        self._transport: Any = sender.transport
        self._counts: dict[str, Any] = vars(self._transport)
        self._ice: Any = self._transport.transport._connection
        self._encrypt, self._connected = _cipher(self._transport._tx_srtp, "protect"), self._transport._state
        self._payload_type, self._ssrc = payload_type, sender._ssrc
        self._sequence = secrets.randbelow(2**15)  # the lower half, as RFC 3711 section 3.3.1 would have it
        self._origin = secrets.randbits(32)
        self._extension = self._pack_extension(None)
        loud, quiet = self._pack_extension(0), self._pack_extension(127)
        # Where the level is among the bytes; None if the peer does not ask for it.
        self._level_at = next((at for at, (a, b) in enumerate(zip(loud, quiet, strict=True)) if a != b), None)
        self._levelled = loud

    def _pack_extension(self, level: int | None) -> bytes:
        extensions = rtp.HeaderExtensions(
            mid=self._books[_SENDER + "mid"], audio_level=None if level is None else (False, level)
        )
        profile, value = self._books[_SENDER + "rtp_header_extensions_map"].set(extensions)
        return _EXTENSION.pack(profile, len(value) >> 2) + value if value else b""

    def write(self, payload: bytes, timestamp: int, *, marker: bool, level: int | None = None) -> None:
        """Send one packet at once.

        Args:
            payload: The coded audio.
            timestamp: Media time since the beginning, in units of the RTP clock.
            marker: Whether this is the first packet after a silence (RFC 3551 section 4.1).
            level: How loud it is, in -dBov, 0 to 127 (RFC 6464), for a peer that asks for it; None to leave it out.

        Raises:
            ConnectionError: The transport is not connected any more.
        """
        pair = self._ice._nominated.get(1)
        if pair is None or self._transport._state is not self._connected:
            raise ConnectionError("not connected")
        if not self._sender._enabled:
            return
        timestamp = (self._origin + timestamp) & 0xFFFFFFFF
        second = self._payload_type | 0x80 if marker else self._payload_type
        extension, at = self._extension, self._level_at
        if level is not None and at is not None:
            extension = self._levelled[:at] + bytes((level,)) + self._levelled[at + 1 :]
        header = _HEADER.pack(0x90 if extension else 0x80, second, self._sequence, timestamp, self._ssrc)
        data = self._encrypt(header + extension + payload)
        protocol = pair.protocol
        (protocol.send if isinstance(protocol, Gate) else protocol.transport.sendto)(data, pair.remote_addr)
        self._sequence = (self._sequence + 1) & 0xFFFF
        books, counts = self._books, self._counts
        books["_RTCRtpSender__ntp_timestamp"] = int((time.time() + _NTP_EPOCH) * 4294967296)
        books["_RTCRtpSender__rtp_timestamp"] = timestamp
        books["_RTCRtpSender__octet_count"] += len(payload)
        books["_RTCRtpSender__packet_count"] += 1
        counts["_RTCDtlsTransport__tx_bytes"] += len(data)
        counts["_RTCDtlsTransport__tx_packets"] += 1
