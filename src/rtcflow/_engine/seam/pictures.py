"""The parts of aiortc's video receiver and sender that rtcflow touches.

A receiver keeps its bandwidth estimate, its reports and its decoder thread. Its jitter buffer and its NACKs are
replaced: see `rtcflow.media.pictures` for the reason.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from aiortc import RTCRtpReceiver, RTCRtpSender
from aiortc.codecs.base import Encoder
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import RTP_HISTORY_SIZE, RtcpByePacket, RtcpReceiverInfo, RtcpRrPacket, RtcpSrPacket

from ...media.pictures import KEY_TESTS
from .feedback import NumberedPackets, arrival_reporter, number_packets, prepare

_PREFIX = "_RTCRtpReceiver__"
_PRIVATE = ("jitter_buffer", "nack_generator", "decoder_queue", "codecs")
_SENDER = ("_run_rtp", "_send_keyframe", "_retransmit", "_next_encoded_frame", "_handle_rtcp_packet")
_FORCE = "_RTCRtpSender__force_keyframe"
_METHODS = ("_handle_rtp_packet", "_handle_rtcp_packet", "_send_rtcp_nack", "_send_rtcp_pli")


class _DecoderQueue:
    """What the receiver's decoder thread takes pictures from. It decodes them by ours, and sees none itself.

    So the thread begins and ends with the receiver, as before, but aiortc's decoders are not used. They have a thread
    for each processor, and take pictures of any size.

    Relies on: the decoder's thread calls ``get()`` again and again, and ends once that is None; ``put(None)`` and
    ``get_nowait()`` are how the receiver, or `seam.stop_without_blocking`, ends it.
    """

    def __init__(self, decode: Callable[[str, bytes, int], None]) -> None:
        self._decode = decode
        self._pictures: queue.SimpleQueue[tuple[str, bytes, int] | None] = queue.SimpleQueue()
        self.put = self._pictures.put
        self.get_nowait = self._pictures.get_nowait
        self.qsize = self._pictures.qsize

    def get(self) -> None:
        """Decode pictures until the end."""
        while (picture := self._pictures.get()) is not None:
            self._decode(*picture)


class PicturePort:
    """What a receiver lends to the buffer that stands in for its own.

    Relies on: what `_DecoderQueue` relies on, in ``__decoder_queue``; ``_send_rtcp_nack(ssrc, lost)`` and
    ``_send_rtcp_pli(ssrc)`` send feedback, and do nothing if the connection has ended.
    """

    def __init__(self, receiver: RTCRtpReceiver, decode: Callable[[str, bytes, int], None]) -> None:
        self._receiver = receiver
        self._queue = _DecoderQueue(decode)
        vars(receiver)[_PREFIX + "decoder_queue"] = self._queue
        self._codecs: dict[int, RTCRtpCodecParameters] = vars(receiver)[_PREFIX + "codecs"]

    def codec_of(self, payload_type: int) -> RTCRtpCodecParameters:
        """The codec of a packet that the receiver has let through."""
        return self._codecs[payload_type]

    def decode(self, codec: RTCRtpCodecParameters, data: bytes, timestamp: int) -> None:
        """Have the decoder's thread decode one picture; `timestamp` in 1/90,000 s."""
        self._queue.put((codec.name.upper(), data, timestamp))

    def waiting(self) -> int:
        """Pictures that wait for the decoder."""
        return self._queue.qsize()

    def skip(self) -> None:
        """Drop the pictures that wait for the decoder. Relies on: None in the queue ends the decoder's thread."""
        ends = False
        with suppress(queue.Empty):
            while True:
                ends |= self._queue.get_nowait() is None
        if ends:
            self._queue.put(None)

    async def report_lost(self, ssrc: int, lost: list[int]) -> None:
        """Send a NACK (RFC 4585 section 6.2.1)."""
        await self._receiver._send_rtcp_nack(ssrc, lost)

    async def ask_key(self, ssrc: int) -> None:
        """Send a PLI (RFC 4585 section 6.3.1)."""
        await self._receiver._send_rtcp_pli(ssrc)


class _Tap:
    """Stands where the receiver's jitter buffer was, and lets no picture out.

    Relies on: what `take_pictures` relies on; ``packet._data`` is the payload without the codec's header.
    """

    capacity = 1

    def __init__(self, on_packet: Callable[[Any, bytes], None]) -> None:
        self._on_packet = on_packet

    def add(self, packet: Any) -> tuple[bool, None]:
        self._on_packet(packet, packet._data)
        return False, None


def take_pictures(
    receiver: RTCRtpReceiver,
    on_packet: Callable[[Any, bytes], None],
    after: Callable[[], Awaitable[None]],
    arrived: Callable[[int], bytes | None],
    decode: Callable[[str, bytes, int], None],
) -> PicturePort | None:
    """Have `receiver`, which has not started, hand its video packets to `on_packet`, and decode by `decode`.

    A goodbye of RTCP (BYE, RFC 3550 section 6.6) does not end the track. libwebrtc says it each time its sender stops
    for a while, and goes on later with the same source. aiortc would end the decoder's thread, wait for that in the
    thread of all calls, and decode nothing any more.

    Relies on: ``_handle_rtp_packet(packet, arrival_time_ms=)`` is called for each packet, puts the payload without the
    codec's header into ``packet._data``, undoes RTX, and gives the packet to ``__jitter_buffer.add``, which returns
    ``(ask for a key picture, picture or None)``; ``__nack_generator`` is asked only if it is not None;
    ``_handle_rtcp_packet(packet)`` is called for reports and goodbyes of the sources.

    Args:
        receiver: The receiver.
        on_packet: Gets each packet of a known codec, and its payload without the codec's header. It must not wait.
        after: Awaited after each packet of any kind.
        arrived: Called with the number of each packet that has one for the whole transport. Returns the body of a
            feedback if it is time for one.
        decode: Called in the decoder's thread with a codec's name in capitals, a whole picture, and its time in
            1/90,000 s.

    Returns:
        None if this aiortc is not as we know it; then nothing was changed.
    """
    members: dict[str, Any] = vars(receiver)
    if not (all(_PREFIX + name in members for name in _PRIVATE) and all(hasattr(receiver, name) for name in _METHODS)):
        return None
    stock, stock_rtcp = receiver._handle_rtp_packet, receiver._handle_rtcp_packet
    report = arrival_reporter(receiver, arrived)

    async def handle_rtcp(packet: Any) -> None:
        if not isinstance(packet, RtcpByePacket):
            await stock_rtcp(packet)

    async def handle(packet: Any, arrival_time_ms: int) -> None:
        await report(packet)
        await stock(packet, arrival_time_ms=arrival_time_ms)
        await after()

    members[_PREFIX + "jitter_buffer"] = _Tap(on_packet)
    members[_PREFIX + "nack_generator"] = None
    members["_handle_rtp_packet"] = handle
    members["_handle_rtcp_packet"] = handle_rtcp
    return PicturePort(receiver, decode)


# -- the sender


class _EncoderWatch:
    """An encoder that remembers the error with which it failed; aiortc only logs it."""

    def __init__(self, encoder: Encoder) -> None:
        self.error: Exception | None = None
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @property
    def target_bitrate(self) -> int:
        return int(getattr(self._encoder, "target_bitrate", 0))

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        setattr(self._encoder, "target_bitrate", bitrate)  # noqa: B010 - no attribute of `Encoder` itself

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:  # noqa: FBT001, FBT002
        try:
            return self._encoder.encode(frame, force_keyframe)
        except Exception as error:
            self.error = error
            raise


class SenderEvents(NumberedPackets, Protocol):
    """What happens to a sender of video. Called in the engine's thread."""

    def sent(self, size: int, packets: int, *, key: bool) -> None:
        """A picture of this many bytes leaves in this many packets; `key`: it is a key picture, or may be one."""

    def reported(self, lost: float, round_trip: float | None) -> None:
        """The peer has lost this share of the packets since its last report; None: the round trip is not known."""

    def key_asked(self) -> bool:
        """The peer asks for a key picture. Returns whether the next picture must be one."""

    def may_send_again(self, sequence_number: int, size: int) -> bool:
        """Whether a packet of this many bytes that the peer misses is sent again."""


def _round_trip(sender: dict[str, Any], report: RtcpReceiverInfo) -> float | None:
    """Seconds (RFC 3550 section 6.4.1); None if the report does not answer the last sender report."""
    left: float | None = sender["_RTCRtpSender__lsr_time"]
    if left is None or not report.dlsr or report.lsr != sender["_RTCRtpSender__lsr"]:
        return None
    return max(0.0, time.time() - left - float(report.dlsr) / 65536)


def encode_pictures(
    sender: RTCRtpSender,
    encoders: Mapping[str, Callable[[], Encoder]],
    track_ended: Callable[[], bool],
    on_error: Callable[[BaseException], None],
    events: SenderEvents,
) -> bool:
    """Have `sender`, which has not started, use our encoders, and report when it stops with an error.

    Relies on: ``sender.send(parameters)`` starts ``_run_rtp(codec)`` as a task, which uses ``__encoder``, and makes one
    only if that is None; it returns when it was cancelled, when the track or the connection has ended, and after any
    error, which it only logs. ``_next_encoded_frame(codec)`` gives one picture as its ``payloads``, or None.
    ``_send_keyframe()`` is called for each PLI and FIR, and sets ``__force_keyframe``; the picture that is encoded next
    takes that back, and is a key picture. ``_retransmit(number)``
    is called for each packet in a NACK, and takes it out of ``__rtp_history``, where it is at its number modulo 128.
    ``_handle_rtcp_packet(packet)`` is called for each RTCP packet; a report answers the sender report whose time in NTP
    is ``__lsr``, and which left at ``__lsr_time`` (`time.time`).

    Args:
        sender: The sender.
        encoders: What makes an encoder, by the codec's name in SDP; aiortc makes the others.
        track_ended: Whether the track has nothing more to send.
        on_error: Called if the sender stops although it has something to send.
        events: Hears of what is sent and of what the peer reports and asks for, and decides about its requests.

    Returns:
        False if this aiortc is not as we know it; then nothing was changed.
    """
    name = "_RTCRtpSender__encoder"
    if not all(hasattr(sender, wanted) for wanted in (name, _FORCE, *_SENDER)):
        return False
    members: dict[str, Any] = vars(sender)
    stock, stock_key, stock_retransmit = sender._run_rtp, sender._send_keyframe, sender._retransmit
    stock_next, stock_rtcp = sender._next_encoded_frame, sender._handle_rtcp_packet

    async def next_encoded_frame(codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        frame = await stock_next(codec)
        if frame is not None:
            is_key = KEY_TESTS.get(codec.name.upper())
            key = is_key is None or any(map(is_key, frame.payloads))
            if key:  # it answers a request that came while it was being encoded
                members[_FORCE] = False
            events.sent(sum(map(len, frame.payloads)), len(frame.payloads), key=key)
        return frame

    def send_key() -> None:
        if events.key_asked():
            stock_key()

    async def retransmit(sequence_number: int) -> None:
        packet = members["_RTCRtpSender__rtp_history"].get(sequence_number % RTP_HISTORY_SIZE)
        if packet is None or packet.sequence_number != sequence_number:  # the place of one that was sent since
            return
        if events.may_send_again(sequence_number, len(packet.payload)):
            await stock_retransmit(sequence_number)

    async def handle_rtcp(packet: Any) -> None:
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == sender._ssrc:
                    events.reported(report.fraction_lost / 256, _round_trip(members, report))
        await stock_rtcp(packet)

    async def run_rtp(codec: RTCRtpCodecParameters) -> None:
        make = encoders.get(codec.name.upper())
        recorder = None if make is None else _EncoderWatch(make())
        members[name] = recorder
        with number_packets(sender, events):
            await stock(codec)
        task = asyncio.current_task()
        cancelled = task is not None and task.cancelling() > 0
        error = None if recorder is None else recorder.error
        if error is not None or not (cancelled or track_ended() or sender.transport.state != "connected"):
            on_error(error or RuntimeError("the sender of video has stopped; the log of aiortc says why"))

    prepare(sender)
    members |= {
        "_run_rtp": run_rtp,
        "_send_keyframe": send_key,
        "_retransmit": retransmit,
        "_next_encoded_frame": next_encoded_frame,
        "_handle_rtcp_packet": handle_rtcp,
    }
    return True
