"""Transport-wide feedback: the receiver tells when each packet came, and the sender sees the queue on the way. Pure.

`ArrivalLog` is the receiver's side, `PathWatch` the sender's. The format of the feedback is that of
draft-holmer-rmcat-transport-wide-cc-extensions-01, which all browsers have. Each packet carries a number of 16 bits
that counts through all packets of the transport. A feedback tells of each number since the last one: it was lost, or
came at that time.

The first packet of a picture waits behind everything that was sent before it. Its delay above the least one is the
queue on the way, as in LEDBAT (RFC 6817 section 2.4.2) and SCReAM (RFC 8298 section 4.1.2). Later packets of a picture
wait for the first ones, which says nothing. The gradient of the delay (draft-ietf-rmcat-gcc-02 section 5.3) was tried
instead: its filter wants packets that leave evenly, and found a queue of two seconds after four.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

REFERENCE: Final = 0.064
"""Seconds of one unit of a feedback's reference time (section 3.1)."""

TICK: Final = 0.00025
"""Seconds of one unit of the time between two arrivals (section 3.1.5)."""

EVERY: Final = 0.1
"""Seconds from one feedback to the next. The draft of GCC wants 50 to 100 ms at most (section 3)."""

LONGEST: Final = 5.0
"""Seconds after which arrivals that were not told are forgotten: 16 bits of `TICK` hold eight seconds."""

MOST: Final = 1000
"""Packets in one feedback. After a greater jump of the numbers, counting begins again."""

MOST_ON_THE_WAY: Final = 0x4000
"""Packets that are remembered until a feedback tells of them: a quarter of the numbers."""

BURST: Final = 0.005
"""Seconds without a packet after which the next one begins another picture."""

FORGET: Final = 30.0
"""Seconds after which a least delay counts no more: clocks drift apart, and paths change."""

RATE_WINDOW: Final = 0.5
"""Seconds over which the rate of what arrives is taken (draft-ietf-rmcat-gcc-02 section 5.5)."""


class PacketReport(NamedTuple):
    """What a feedback says of one packet.

    Attributes:
        number: 0 to 65,535.
        at: When it came, in seconds by the receiver's clock. None if it did not come.
    """

    number: int
    at: float | None


class ArrivalLog:
    """Remembers when packets came, until the next feedback is due."""

    def __init__(self) -> None:
        self._came: dict[int, float] = {}  # by unwrapped number
        self._next: int | None = None  # the number from which the next feedback tells
        self._told: float | None = None
        self._count = 0

    def add(self, number: int, now: float) -> None:
        """A packet with this number has come now, in seconds."""
        if self._next is None:
            self._next = number
        if self._told is None:
            self._told = now
        unwrapped = self._next + (number - self._next + 0x8000) % 0x10000 - 0x8000
        if self._came and (now - min(self._came.values()) > LONGEST or abs(unwrapped - self._next) > MOST):
            self._came.clear()
        if not self._came and unwrapped - self._next > MOST:
            self._next = unwrapped
        if unwrapped >= self._next:
            self._came.setdefault(unwrapped, now)

    def feedback(self, now: float) -> bytes | None:
        """The next feedback's body (section 3.1, from the base sequence number on), if it is due; else None."""
        if self._next is None or self._told is None or not self._came or now - self._told < EVERY:
            return None
        numbers = range(self._next, max(self._came) + 1)
        reference = int(self._came[min(self._came)] / REFERENCE)
        symbols, deltas, at = [], bytearray(), round(reference * REFERENCE / TICK)
        for number in numbers:
            came = self._came.get(number)
            if came is None:
                symbols.append(0)
                continue
            delta = round(came / TICK) - at
            at += delta
            symbols.append(1 if 0 <= delta <= 0xFF else 2)
            deltas += delta.to_bytes(1, "big") if symbols[-1] == 1 else delta.to_bytes(2, "big", signed=True)
        body = bytearray((numbers[0] & 0xFFFF).to_bytes(2, "big") + len(numbers).to_bytes(2, "big"))
        body += (reference & 0xFFFFFF).to_bytes(3, "big") + bytes((self._count,))
        for begin in range(0, len(symbols), 7):
            chunk = 0b11  # a vector of symbols of two bits (section 3.1.4)
            for symbol in (symbols[begin : begin + 7] + 7 * [0])[:7]:
                chunk = chunk << 2 | symbol
            body += chunk.to_bytes(2, "big")
        body += deltas
        body += bytes(-len(body) % 4)
        self._count = (self._count + 1) & 0xFF
        self._next, self._told = numbers[-1] + 1, now
        self._came.clear()
        return bytes(body)


def parse_feedback(body: bytes) -> list[PacketReport]:
    """Read a feedback from the base sequence number on.

    Raises:
        ValueError: It is too short for what it says, or has a symbol that is reserved.
    """
    if len(body) < 8:
        raise ValueError("a feedback has at least 8 bytes")
    base, count = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    at = round(int.from_bytes(body[4:7], "big") * REFERENCE / TICK)
    symbols, position = list[int](), 8
    while len(symbols) < count:
        chunk = int.from_bytes(_cut(body, position, 2), "big")
        position += 2
        if not chunk & 0x8000:
            symbols += [chunk >> 13 & 3] * min(chunk & 0x1FFF, count - len(symbols))
            if not chunk & 0x1FFF:
                raise ValueError("a run of no packets")
        elif chunk & 0x4000:
            symbols += [chunk >> shift & 3 for shift in range(12, -1, -2)]
        else:
            symbols += [chunk >> shift & 1 for shift in range(13, -1, -1)]
    arrivals = []
    for index, symbol in enumerate(symbols[:count]):
        if symbol == 3:
            raise ValueError("a reserved symbol")
        if symbol:
            at += int.from_bytes(_cut(body, position, symbol), "big", signed=symbol == 2)
            position += symbol
        arrivals.append(PacketReport((base + index) & 0xFFFF, at * TICK if symbol else None))
    return arrivals


def _cut(body: bytes, position: int, size: int) -> bytes:
    if position + size > len(body):
        raise ValueError("a feedback is shorter than it says")
    return body[position : position + size]


class PathState(NamedTuple):
    """What a feedback says of the path.

    Attributes:
        queue: Seconds that a packet waits on the way.
        rate: Bits per second that arrive.
    """

    queue: float
    rate: float


class PathWatch:
    """Watches the path by the feedback of the receiver."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[float, int, bool]] = {}  # when, bytes, whether it begins a picture
        self._last = float("-inf")
        self._arrived: deque[tuple[float, int]] = deque()  # when, and bits, of the last `RATE_WINDOW`
        self._least: deque[tuple[float, float]] = deque()  # moment and delay, rising; the first is the least

    def sent(self, now: float, number: int, size: int) -> None:
        """A packet of this many bytes leaves with this number, 0 to 65,535."""
        self._sent.pop(number, None)
        self._sent[number] = now, size, now - self._last > BURST
        self._last = now
        if len(self._sent) > MOST_ON_THE_WAY:
            del self._sent[next(iter(self._sent))]

    def feedback(self, arrivals: Sequence[PacketReport]) -> PathState | None:
        """A feedback has come. Returns None if it says nothing of the queue."""
        queue = None
        for number, came in arrivals:
            found = self._sent.pop(number, None)
            if found is None or came is None:
                continue
            left, size, first = found
            if self._arrived and abs(came - self._arrived[-1][0]) > FORGET:  # another clock
                self._arrived.clear()
                self._least.clear()
            self._arrived.append((came, 8 * size))
            if first:
                queue = self._queue(came, came - left)
        while self._arrived and self._arrived[0][0] < self._arrived[-1][0] - RATE_WINDOW:
            self._arrived.popleft()
        rate = sum(bits for _, bits in self._arrived) / RATE_WINDOW
        return None if queue is None else PathState(queue, rate)

    def _queue(self, came: float, delay: float) -> float:
        least = self._least
        while least and least[-1][1] >= delay:
            least.pop()
        least.append((came, delay))
        while least[0][0] < came - FORGET:
            least.popleft()
        return delay - least[0][1]
