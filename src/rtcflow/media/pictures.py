"""The jitter buffer of video: packets go in, whole pictures come out in order, with requests to the sender. Pure.

Strategy. A picture leaves with its own last packet; nothing waits for the next picture. Only a hole in the sequence
makes pictures wait. The hole is reported at once (a NACK), and again after each measured round trip. A hole that is not
filled in time is given up. The pictures that build on it cannot be decoded, so the buffer drops them. It asks for a key
picture (a PLI), and goes on with the next one. A hole therefore holds the picture for `give_up` seconds and the time
that a key picture takes, and no longer.

Invariant: pictures leave in the order of their packets, each once, and never with a packet missing. After a picture was
dropped, the next one that leaves is a key picture. There is one exception. A sender that answers no request for
`PATIENCE` seconds may not make key pictures at all. Then pictures leave as they come, and the decoder conceals what it
can.

Tried instead: aiortc's ring of 512 packets. It waits for a hole until the ring is full, which takes 8 to 12 s at 15
pictures a second. It sends one NACK. It lets one picture out for each packet that arrives, so a delay never goes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

CLOCK_RATE: Final = 90_000
"""The RTP clock of video in Hz (RFC 6184 section 8.2.1, RFC 7741 section 6.1)."""
CAPACITY: Final = 2048
"""Packets that wait at most: about 2.5 MB, or 1.5 s at 15 Mbit/s."""
MAX_JUMP: Final = 1000
"""A sequence number this far from the newest one may belong to a new sequence (RFC 3550 appendix A.1 has 3,000)."""
FIRST_ROUND_TRIP: Final = 0.1
"""Seconds; what a round trip takes until one was measured."""
LEAST_WAIT: Final = 0.1
"""Seconds that a hole is waited for at the least: packets that overtake one another are not lost."""
MOST_WAIT: Final = 0.3
"""Seconds that a hole is waited for at the most: with the key picture after it, a freeze stays below half a second."""
MAX_REQUESTS: Final = 10
"""NACKs for one packet; as in libwebrtc."""
MAX_REPORTED: Final = 250
"""Packets that one NACK names at most: more are a cut, for which a key picture is asked at once."""
MOST_BACK: Final = 10.0
"""Seconds by which a timestamp may be before the latest one. Pictures that are sent in another order than they are
shown in (H.264's B pictures) are a few pictures apart."""
PATIENCE: Final = 2.0
"""Seconds without a key picture after which pictures leave without one."""
HOPELESS: Final = 10.0
"""Seconds between two key pictures that are asked for because the decoder fails, if it can decode none at all. Each one
costs the sender as much as many pictures, and one like it has just failed: it is too large, or of an unknown kind."""


@dataclass(frozen=True, slots=True)
class VideoPacket:
    """One packet of a picture.

    Attributes:
        sequence: RTP sequence number, 0 to 65,535.
        timestamp: RTP timestamp, 0 to 2³² - 1, of 1/90,000 s.
        marker: Whether it is the last packet of its picture.
        data: The payload without the codec's packet header; empty in a packet that only probes the path.
        key: Whether it shows that its picture is a key picture (`is_key_vp8`, `is_key_h264`).
    """

    sequence: int
    timestamp: int
    marker: bool
    data: bytes
    key: bool


class Picture(NamedTuple):
    """A whole encoded picture.

    Attributes:
        data: The encoded picture.
        timestamp: In 1/90,000 s since the first picture; it does not wrap and never runs backward.
        key: Whether it can be decoded without an earlier picture.
    """

    data: bytes
    timestamp: int
    key: bool


@dataclass(slots=True)
class Actions:
    """What is to be done now.

    Attributes:
        pictures: To be decoded, in this order.
        lost: Sequence numbers, 0 to 65,535, to be reported as lost (a NACK, RFC 4585 section 6.2.1).
        ask_key: Whether to ask for a key picture (a PLI, RFC 4585 section 6.3.1).
    """

    pictures: list[Picture] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    ask_key: bool = False


@dataclass(slots=True)
class _Hole:
    since: float
    asked_at: float = 0.0
    asked: int = 0


def is_key_vp8(payload: bytes) -> bool:
    """Whether a VP8 payload begins a key picture (RFC 7741 section 4.2; RFC 6386 section 9.1: bit 0 is 0)."""
    if not payload or not payload[0] & 0x10 or payload[0] & 0x07:  # S: a partition begins; PID: the first
        return False
    at = 1
    if payload[0] & 0x80:  # X: extensions follow
        if len(payload) < 2:
            return False
        extensions, at = payload[1], 2
        if extensions & 0x80:  # I: a picture id of one or two bytes
            at += 2 if len(payload) > at and payload[at] & 0x80 else 1
        at += bool(extensions & 0x40) + bool(extensions & 0x30)  # L; T or K
    return len(payload) > at and not payload[at] & 1


def key_size_vp8(data: bytes) -> tuple[int, int] | None:
    """Width and height that a whole VP8 picture tells, in pixels; None if it builds on others (RFC 6386 section 9.1).

    Width and height have 14 bits each. A few bytes can therefore make a decoder take 500 MB.
    """
    if len(data) < 10 or data[0] & 1:
        return None
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def is_key_h264(payload: bytes) -> bool:
    """Whether an H.264 payload has a part of a key picture: an IDR slice (5) or a parameter set (7) (RFC 6184)."""
    if not payload:
        return False
    kind = payload[0] & 0x1F
    if kind == 24:  # STAP-A, section 5.7.1
        at = 1
        while at + 2 < len(payload):
            if payload[at + 2] & 0x1F in {5, 7}:
                return True
            at += 2 + int.from_bytes(payload[at : at + 2], "big")
        return False
    if kind == 28:  # FU-A, section 5.8
        return len(payload) > 1 and payload[1] & 0x1F in {5, 7}
    return kind in {5, 7}


KEY_TESTS: Final[dict[str, Callable[[bytes], bool]]] = {"VP8": is_key_vp8, "H264": is_key_h264}


class PictureBuffer:
    """Packets of one source become pictures.

    Call `put` for each packet, then `poll`; call `poll` again when `due` says so.

    Attributes:
        dropped: Packets that were dropped because they made no whole picture.
    """

    def __init__(self) -> None:
        self.dropped: int = 0
        self._packets: dict[int, VideoPacket] = {}  # by unwrapped sequence number
        self._holes: dict[int, _Hole] = {}
        self._next: int | None = None  # the first number that has not left
        self._highest = 0
        self._elsewhere: int | None = None  # where a new sequence may have begun
        self._spoiled: int | None = None  # the timestamp of a picture of which a packet was dropped
        self._keyless_since: float | None = None  # pictures cannot be decoded since then
        self._asked_key_at = self._failed_at = -1e9
        self._shown = 0  # pictures that were decoded by then
        self._round_trip = FIRST_ROUND_TRIP
        self._first: int | None = None  # timestamp
        self._last = 0

    @property
    def round_trip(self) -> float:
        """Seconds from a NACK to the packet that it asked for, smoothed."""
        return self._round_trip

    @property
    def give_up(self) -> float:
        """Seconds after which a hole is given up: time for three requests, within bounds."""
        return min(MOST_WAIT, max(LEAST_WAIT, 3.5 * self._round_trip))

    def restart(self, now: float) -> None:
        """Begin again, with the next key picture: another source, or a sequence that jumped."""
        self.dropped += len(self._packets)
        self._packets.clear()
        self._holes.clear()
        self._next = self._spoiled = self._elsewhere = None
        self._first = None
        self.need_key(now)

    def need_key(self, now: float) -> None:
        """Drop what comes until a key picture: the decoder has lost its state, or is too late."""
        if self._keyless_since is None:
            self._keyless_since = now

    def not_decoded(self, now: float, shown: int) -> None:
        """The decoder failed on a picture: `need_key`, if that helps.

        Args:
            now: Seconds.
            shown: How many pictures it has decoded until now. If none was since it failed last, a key picture helps
                only after `HOPELESS` seconds.
        """
        if shown != self._shown or now - self._failed_at >= HOPELESS:
            self._shown, self._failed_at = shown, now
            self.need_key(now)

    def put(self, packet: VideoPacket, now: float) -> None:
        """Take one packet, whenever it comes; late, doubled and foreign ones are dropped."""
        number = self._place(packet, now)
        if number is None:
            self.dropped += 1
            return
        if number > self._highest:
            for missing in range(self._highest + 1, number):
                self._holes[missing] = _Hole(now)
            self._highest = number
        elif (hole := self._holes.pop(number, None)) is not None and hole.asked == 1:
            # Only the answer to a single request says which request it answers (Karn and Partridge, 1987).
            self._round_trip += (max(0.002, now - hole.asked_at) - self._round_trip) / 4
        self._packets[number] = packet

    def _place(self, packet: VideoPacket, now: float) -> int | None:
        """The packet's unwrapped sequence number; None for a packet that is not wanted."""
        if self._next is None:
            self._next = packet.sequence + 0x10000  # room below: nothing is negative
            self._highest = self._next - 1
            self.need_key(now)
        ahead = (packet.sequence - self._highest + 0x8000) % 0x10000 - 0x8000
        if abs(ahead) > MAX_JUMP:
            # One such packet may be a stray; two in a row are a new sequence (RFC 3550 appendix A.1).
            expected, self._elsewhere = self._elsewhere, (packet.sequence + 1) % 0x10000
            if packet.sequence != expected:
                return None
            self.restart(now)
            return self._place(packet, now)
        self._elsewhere = None
        number = self._highest + ahead
        return None if number < self._next or number in self._packets else number

    def poll(self, now: float) -> Actions:
        """What is to be done at `now`, in seconds of any clock that does not run backward."""
        actions = Actions()
        self._release(actions, now)
        while self._overdue(now):
            self._give_up(now)
            self._release(actions, now)
        actions.lost = self._report(now)
        actions.ask_key = self._ask_key(now)
        return actions

    def due(self) -> float | None:
        """When to `poll` again if no packet comes; None if there is nothing to wait for."""
        times: list[float] = []
        first = self._first_hole()
        if first is not None:
            times.append(first.since + self.give_up)
        times += [self._next_request(hole) for hole in self._holes.values() if hole.asked < MAX_REQUESTS]
        if self._keyless_since is not None and not self._key_begun():
            times.append(self._asked_key_at + self._key_interval())
        return min(times, default=None)

    # -- pictures out

    def _release(self, actions: Actions, now: float) -> None:
        while self._next is not None and (parts := self._front()):
            self._next += len(parts)
            for number in range(self._next - len(parts), self._next):
                del self._packets[number]
            data = b"".join(part.data for part in parts)
            if not data:
                continue  # packets that probe the path
            key = any(part.key for part in parts)
            timestamp = parts[0].timestamp
            if timestamp == self._spoiled or not self._wanted(key=key, now=now):
                self.dropped += len(parts)
                continue
            actions.pictures.append(Picture(data, self._unwrap(timestamp), key))

    def _front(self) -> list[VideoPacket]:
        """The packets of the first picture if all are there, else nothing."""
        assert self._next is not None  # noqa: S101
        parts: list[VideoPacket] = []
        number = self._next
        while (packet := self._packets.get(number)) is not None:
            if parts and packet.timestamp != parts[0].timestamp:
                return parts  # the sender marks no last packets
            parts.append(packet)
            if packet.marker:
                return parts
            number += 1
        return []

    def _wanted(self, *, key: bool, now: float) -> bool:
        if self._keyless_since is None:
            return True
        if not key and now - self._keyless_since < PATIENCE:
            return False
        self._keyless_since = self._spoiled = None
        return True

    def _unwrap(self, timestamp: int) -> int:
        ahead = 0 if self._first is None else (timestamp - self._first - self._last + 2**31) % 2**32 - 2**31
        if self._first is None or ahead < -MOST_BACK * CLOCK_RATE:
            # After a restart, or if the sender of one source begins to count again, time goes on one picture later.
            ahead = CLOCK_RATE // 30 if self._last else 0
            self._first = (timestamp - self._last - ahead) % 2**32
        self._last = max(self._last, self._last + ahead)
        return self._last

    # -- holes

    def _first_hole(self) -> _Hole | None:
        return None if self._next is None else self._holes.get(min(self._holes, default=-1))

    def _overdue(self, now: float) -> bool:
        first = self._first_hole()
        late = first is not None and now - first.since >= self.give_up
        return late or len(self._packets) > CAPACITY or len(self._holes) > MAX_REPORTED

    def _give_up(self, now: float) -> None:
        """Drop the picture with the first hole in it; what follows waits for a key picture."""
        assert self._next is not None  # noqa: S101
        self.need_key(now)
        hole = min(self._holes, default=self._next)
        end = self._highest
        for number in range(hole + 1, self._highest + 1):
            packet = self._packets.get(number)
            if packet is None:
                continue
            self._spoiled = packet.timestamp
            if packet.marker:
                end = number
                break
            following = self._packets.get(number + 1)
            if following is not None and following.timestamp != packet.timestamp:
                end = number
                break
        for number in range(self._next, end + 1):
            self.dropped += self._packets.pop(number, None) is not None
            self._holes.pop(number, None)
        self._next = end + 1

    def _next_request(self, hole: _Hole) -> float:
        if not hole.asked:
            return hole.since
        # Later requests come later: the path may be full, and each of them adds to it.
        return hole.asked_at + max(0.02, self._round_trip * 1.1) * 1.25 ** (hole.asked - 1)

    def _report(self, now: float) -> list[int]:
        lost: list[int] = []
        for number, hole in self._holes.items():
            if hole.asked < MAX_REQUESTS and self._next_request(hole) <= now:
                hole.asked, hole.asked_at = hole.asked + 1, now
                lost.append(number % 0x10000)
        return lost

    # -- key pictures

    def _key_interval(self) -> float:
        return max(0.15, 1.5 * self._round_trip)

    def _key_begun(self) -> bool:
        return any(packet.key for packet in self._packets.values())

    def _ask_key(self, now: float) -> bool:
        if self._keyless_since is None or self._key_begun() or now - self._asked_key_at < self._key_interval():
            return False
        self._asked_key_at = now
        return True
