"""Transport-wide feedback around aiortc, which only knows how a packet's number is written and read.

The source is draft-holmer-rmcat-transport-wide-cc-extensions-01. `agree` puts it into the answer to an offer that has
it. `number_packets` is the sender's side: it tells of each packet and its number, and of what the peer says of them.
`arrival_reporter` is the receiver's side. rtcflow's own offers do not have it.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpHeaderExtensionParameters, RTCRtpParameters

from .description import MediaDescription

URI: Final = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
KIND: Final = "transport-cc"
_MAP: Final = "_RTCRtpSender__rtp_header_extensions_map"
_HEADER: Final = struct.Struct("!BBHLL")
_RTPFB, _FORMAT = 205, 15
"""Of a feedback's packet (RFC 4585 section 6.1, and section 3.1 of the draft)."""


def _offered(media: MediaDescription) -> RTCRtpHeaderExtensionParameters | None:
    """The extension, if this section has both it and the feedback."""
    if not any(feedback.type == KIND for codec in media.rtp.codecs for feedback in codec.rtcpFeedback):
        return None
    return next((extension for extension in media.rtp.headerExtensions if extension.uri == URI), None)


def agree(connection: RTCPeerConnection, sections: tuple[MediaDescription, ...]) -> None:
    """Agree to the feedback in each section of video whose description by the peer, just applied, has it.

    Relies on: a transceiver's ``_headerExtensions`` and ``_codecs`` were just made for the description. The answer, the
    sender and the receiver are made of them.
    """
    offered = {media.rtp.muxId: _offered(media) for media in sections if media.kind == "video"}
    for transceiver in connection.getTransceivers():
        extension = offered.get(transceiver.mid or "")
        if extension is None or not (hasattr(transceiver, "_headerExtensions") and hasattr(transceiver, "_codecs")):
            continue
        transceiver._headerExtensions = [*transceiver._headerExtensions, extension]
        for codec in transceiver._codecs:
            if codec.name.lower() != "rtx":
                codec.rtcpFeedback = [*codec.rtcpFeedback, RTCRtcpFeedback(type=KIND)]


# -- the sender


class NumberedPackets(Protocol):
    """Hears of packets with numbers. Called in the engine's thread."""

    def packet_sent(self, number: int, size: int) -> None:
        """A packet of this many bytes leaves."""

    def fed_back(self, body: bytes) -> None:
        """A feedback of the peer, from its base sequence number on."""


class _NumberedMap:
    """Stands where the sender's map of extensions was, and gives each packet a number before it is written."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._next = 0
        self.agreed = False
        self.latest: int | None = None

    def configure(self, parameters: RTCRtpParameters) -> None:
        self._stock.configure(parameters)
        self.agreed = any(extension.uri == URI for extension in parameters.headerExtensions)

    def set(self, values: Any) -> tuple[int, bytes]:
        if self.agreed:
            self.latest = values.transport_sequence_number = self._next
            self._next = (self._next + 1) & 0xFFFF
        written: tuple[int, bytes] = self._stock.set(values)
        return written


def prepare(sender: RTCRtpSender) -> None:
    """Let the packets of `sender`, which has not started, carry numbers if that is agreed on.

    Relies on: ``__rtp_header_extensions_map`` has ``configure(parameters)`` and ``set(values)``; `set` is called for
    each packet right before ``transport._send_rtp`` gets it.
    """
    members: dict[str, Any] = vars(sender)
    if _MAP in members:
        members[_MAP] = _NumberedMap(members[_MAP])


@contextmanager
def number_packets(sender: RTCRtpSender, events: NumberedPackets) -> Iterator[None]:
    """While `sender` sends, tell `events` of its packets, and of the peer's feedback.

    Relies on: ``transport._send_rtp(data)`` and ``transport._handle_rtcp_data(data)`` are called for each packet.
    """
    numbers, transport = vars(sender).get(_MAP), sender.transport
    members: dict[str, Any] = vars(transport)
    names = ("_send_rtp", "_handle_rtcp_data")
    if not (isinstance(numbers, _NumberedMap) and numbers.agreed and all(hasattr(transport, name) for name in names)):
        yield
        return
    send, handle = transport._send_rtp, transport._handle_rtcp_data
    before = {name: members.get(name) for name in names}

    async def send_rtp(data: bytes) -> None:
        if numbers.latest is not None:
            events.packet_sent(numbers.latest, len(data))
            numbers.latest = None
        await send(data)

    async def handle_rtcp_data(data: bytes) -> None:
        bodies, rest = split(data)
        for body in bodies:
            events.fed_back(body)
        if rest:
            await handle(rest)

    members |= {"_send_rtp": send_rtp, "_handle_rtcp_data": handle_rtcp_data}
    try:
        yield
    finally:
        for name, function in before.items():
            if function is None:
                members.pop(name, None)
            else:
                members[name] = function


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Take feedback out of a compound packet of RTCP: the bodies, from the base sequence number on, and the rest."""
    bodies, rest, at = [], bytearray(), 0
    while at + 4 <= len(data):
        size = 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
        packet = data[at : at + size]
        if packet[1] == _RTPFB and packet[0] & 0x1F == _FORMAT and len(packet) >= 20:
            padding = packet[-1] if packet[0] & 0x20 else 0
            bodies.append(packet[12 : len(packet) - padding])
        else:
            rest += packet
        at += size
    return bodies, bytes(rest + data[at:])


# -- the receiver


def arrival_reporter(
    receiver: RTCRtpReceiver, arrived: Callable[[int], bytes | None]
) -> Callable[[Any], Awaitable[None]]:
    """A function to be awaited with each packet that comes, which tells the peer of those with a number.

    Relies on: ``packet.extensions.transport_sequence_number`` is the number if it is agreed on, and otherwise None;
    ``transport._send_rtp(data)`` sends RTCP, too.

    Args:
        receiver: The receiver of the packets.
        arrived: Called with each number; returns the body of a feedback if one is due.
    """
    ssrc = "_RTCRtpReceiver__rtcp_ssrc"

    async def report(packet: Any) -> None:
        number = getattr(getattr(packet, "extensions", None), "transport_sequence_number", None)
        body = None if number is None else arrived(number)
        if body is not None:
            words = len(body) // 4 + 2
            header = _HEADER.pack(0x80 | _FORMAT, _RTPFB, words, vars(receiver).get(ssrc) or 1, packet.ssrc)
            with suppress(ConnectionError):
                await receiver.transport._send_rtp(header + body)

    return report
