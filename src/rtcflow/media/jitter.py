"""The jitter buffer: packets come in as they arrive, audio goes out in order, and losses are reported.

The idea is to have no standing delay. Frames go to a handler, not to a loudspeaker, so a frame need not come exactly
every 20 ms. Also, the far end of an echo has a jitter buffer of its own. Packets that come in order, however unevenly,
are played on arrival. Only a *hole* in the sequence makes later packets wait. They wait as long as packets have lately
been late: at least `MIN_PATIENCE`, at most `MAX_PATIENCE`. Then the hole is given up, all that waits is played at once,
and the delay is as before. A packet that comes after that is dropped and counted, and later holes are waited for
longer.

aiortc's buffer does the opposite: it collects packets before it plays any, which delays every frame.

Pure: `now` comes in (seconds, on any one monotonic clock). `feed` each packet. Wait until `next_deadline`, if there is
one, then call `due`. Both return what to play, in order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

MIN_PATIENCE: Final = 0.01
"""The least seconds to wait for a hole. Packets that overtake one another inside a router come within milliseconds, and
waiting for half a frame at a loss cannot be heard."""

MAX_PATIENCE: Final = 0.1
"""The most seconds to wait for a hole: two thirds of what ITU-T G.114 allows a conversation for everything."""

PATIENCE_WINDOW: Final = 8.0
"""Seconds for which lateness is remembered, at least; at most twice as long."""

MAX_FILL: Final = 0.06
"""Seconds of a hole that are made up. Concealment fades out in about that time. The made-up audio is played before the
packet that showed the hole, so more of it would become lasting delay."""

OUTAGE: Final = 0.5
"""If this many seconds of audio are missing at once, the link was gone: nothing is waited for or made up."""

MAX_HELD: Final = 64
"""The most packets that wait behind a hole."""

MAX_DROPOUT: Final = 3000
MAX_MISORDER: Final = 100
"""Packets by which the sequence may leap forward or fall back and still be the same sequence (RFC 3550 appendix A.1).
Two packets in a row from elsewhere make a new sequence."""

_CLOCK_SLACK = 2.0
"""Seconds by which timestamps may run ahead of the clock before they are taken for those of a new source."""

_SHORTEST_PACKET, _LONGEST_PACKET = 0.0025, 0.12
"""Seconds in one packet (RFC 6716 section 2.1.4, Opus; others are in between)."""


class Played(NamedTuple, Generic[T]):
    """A packet whose turn it is.

    Attributes:
        payload: As it was fed.
        pts: Media time in units of the clock rate: 0 for the first packet, counting on through losses and silence.
        restarted: The source began again: forget the decoder's state.
    """

    payload: T
    pts: int
    restarted: bool = False


class Lost(NamedTuple, Generic[T]):
    """Packets that never came; the packet after them comes next.

    Attributes:
        packets: How many.
        fill: How many of them, the last ones, are worth making up; 0 to `packets`.
        pts: Media time of the first of these.
        step: Length of each, in units of the clock rate.
        following: Payload of the packet that comes next: its in-band FEC (RFC 6716 section 2.1.7), if it has any,
            holds the last of the lost ones.
    """

    packets: int
    fill: int
    pts: int
    step: int
    following: T


Item: TypeAlias = Played[T] | Lost[T]


@dataclass(frozen=True, slots=True)
class JitterStatistics:
    """Packets; ``received == played + late + duplicates + strays + held`` at every moment.

    Attributes:
        received: Fed.
        played: Given out.
        lost: Given up.
        late: Came after they had been given up.
        duplicates: Came twice.
        reordered: Came late and still in time.
        strays: From elsewhere in the sequence, and alone.
        restarts: New sequences or new timestamps of the source.
        held: Wait behind a hole now.
        patience: Seconds for which the last hole was waited for.
    """

    received: int
    played: int
    lost: int
    late: int
    duplicates: int
    reordered: int
    strays: int
    restarts: int
    held: int
    patience: float


class JitterBuffer(Generic[T]):
    """One source's packets, put in order.

    Args:
        clock_rate: Of its RTP timestamps, in Hz (48,000 for Opus, RFC 7587 section 4.1).
    """

    def __init__(self, clock_rate: int = 48_000) -> None:
        self._clock_rate = clock_rate
        self._step = clock_rate // 50  # length of a packet; learned
        self._shortest, self._longest = int(_SHORTEST_PACKET * clock_rate), int(_LONGEST_PACKET * clock_rate)
        self._started = False  # whether there ever was a packet
        self._next = 0  # sequence number expected, never wrapped
        self._last_timestamp = 0
        self._last_pts = 0
        self._last_arrival = 0.0
        self._held: dict[int, tuple[int, T, float]] = {}  # by sequence number: timestamp, payload, arrival
        self._since = self._deadline = 0.0  # of the hole at the front: seen, given up; while packets are held
        self._given_up: deque[tuple[int, int, float]] = deque(maxlen=32)  # first and last sequence number, seen
        self._suspect: tuple[int, int, T, float] | None = None  # sequence number, timestamp, payload, arrival
        self._fresh = True  # the next packet begins a sequence
        self._patience = _Patience()
        self._received = self._played = self._lost = self._late = 0
        self._duplicates = self._reordered = self._strays = self._restarts = 0

    def feed(self, sequence: int, timestamp: int, payload: T, now: float) -> list[Item[T]]:
        """Take one packet.

        Args:
            sequence: Its RTP sequence number, 16 bit.
            timestamp: Its RTP timestamp, 32 bit.
            payload: Anything.
            now: When it came.

        Returns:
            What is to be played now, in order; often this very packet, maybe nothing.
        """
        self._received += 1
        expected = self._next
        if self._fresh:
            return self._begin(sequence, timestamp, payload, now)
        ahead = (sequence - expected) & 0xFFFF
        if not ahead and not self._held:
            # The common case, kept short: nothing is missing and nothing waits.
            delta = (timestamp - self._last_timestamp) & 0xFFFFFFFF
            if delta != self._step:
                return [self._play(expected, timestamp, payload, now)]
            self._next = expected + 1
            self._played += 1
            self._last_timestamp, self._last_arrival = timestamp, now
            self._last_pts = pts = self._last_pts + delta
            return [Played(payload, pts)]
        if ahead >= 0x10000 - MAX_MISORDER:
            self._came_late(expected + ahead - 0x10000, now)
            return []
        if ahead > MAX_DROPOUT:
            return self._from_elsewhere(sequence, timestamp, payload, now)
        return self._insert(expected + ahead, timestamp, payload, now)

    def next_deadline(self) -> float | None:
        """When `due` must be called (on the clock of `now`), or None if nothing waits."""
        return self._deadline if self._held else None

    def due(self, now: float) -> list[Item[T]]:
        """Give up the holes that have been waited for long enough.

        Returns:
            What is to be played now, in order. With `now` = infinity, everything.
        """
        out: list[Item[T]] = []
        while self._held and now >= self._deadline:
            self._give_up(out)
        return out

    def restart(self) -> None:
        """The next packet is of another source (another SSRC): it begins a new sequence, media time goes on.

        Call `due` with infinity before, to get what still waits.
        """
        self._fresh = True

    def statistics(self) -> JitterStatistics:
        """The figures now."""
        return JitterStatistics(
            received=self._received,
            played=self._played,
            lost=self._lost,
            late=self._late,
            duplicates=self._duplicates,
            reordered=self._reordered,
            strays=self._strays,
            restarts=self._restarts,
            held=len(self._held) + (self._suspect is not None),
            patience=self._patience.seconds,
        )

    # -- in order

    def _play(self, sequence: int, timestamp: int, payload: T, arrival: float) -> Played[T]:
        """The packet after the last one played, whatever its timestamp."""
        delta = (timestamp - self._last_timestamp) & 0xFFFFFFFF
        elapsed = max(arrival - self._last_arrival, 0.0)
        if delta > (elapsed + _CLOCK_SLACK) * self._clock_rate:
            # Backwards, or far ahead of the clock: another source's timestamps. If the clock confirms a leap, the
            # source is the same: the peer was silent (DTX) and sent nothing.
            self._restarts += 1
            delta = max(self._step, int(elapsed * self._clock_rate))
        elif sequence == self._next and self._shortest <= delta <= self._longest:
            self._step = delta
        self._played += 1
        self._next = sequence + 1
        self._last_timestamp, self._last_arrival = timestamp, arrival
        self._last_pts += delta
        return Played(payload, self._last_pts)

    def _begin(self, sequence: int, timestamp: int, payload: T, now: float) -> list[Item[T]]:
        """The first packet of a sequence."""
        out = self.due(float("inf"))
        restarted = self._started
        if restarted:
            self._restarts += 1
            self._last_pts += max(self._step, int((now - self._last_arrival) * self._clock_rate))
        self._started, self._fresh = True, False
        self._given_up.clear()
        self._drop_suspect()
        # Far from 0, so that sequence numbers just before the first one are not negative, whatever comes late.
        self._next = sequence + 0x10001
        self._last_timestamp, self._last_arrival = timestamp, now
        self._played += 1
        out.append(Played(payload, self._last_pts, restarted))
        return out

    # -- out of order

    def _insert(self, sequence: int, timestamp: int, payload: T, now: float) -> list[Item[T]]:
        """A packet that is not too late, while something is missing."""
        held = self._held
        if sequence in held:
            self._duplicates += 1
            return []
        if (overtaken := [arrival for number, (_, _, arrival) in held.items() if number > sequence]) != []:
            self._reordered += 1
            self._patience.learn(now - min(overtaken), now)
        if not held:
            self._watch(now)
        held[sequence] = (timestamp, payload, now)
        out: list[Item[T]] = []
        if (sequence - self._next) * self._step >= OUTAGE * self._clock_rate:
            while held:
                self._give_up(out)
        self._play_held(out)
        while len(held) > MAX_HELD:
            self._give_up(out)
        return out

    def _play_held(self, out: list[Item[T]]) -> None:
        """Play what is held up to the next hole."""
        held = self._held
        while (packet := held.pop(self._next, None)) is not None:
            out.append(self._play(self._next, *packet))
        if held:
            self._watch(min(arrival for _, _, arrival in held.values()))

    def _watch(self, since: float) -> None:
        """There is a hole at the front, seen at `since`."""
        self._since = since
        self._deadline = since + self._patience.at(since)

    def _give_up(self, out: list[Item[T]]) -> None:
        """Give up the hole at the front, and play what is held up to the next one."""
        first, last_pts, step = self._next, self._last_pts, self._step
        after = min(self._held)
        timestamp, payload, arrival = self._held.pop(after)
        count = after - first
        self._lost += count
        self._given_up.append((first, after - 1, self._since))
        played = self._play(after, timestamp, payload, arrival)
        fill = 0
        if count * step < OUTAGE * self._clock_rate:
            # No more than there is room for: packets may have grown shorter meanwhile.
            room = (played.pts - last_pts) // step - 1
            fill = max(0, min(count, room, int(MAX_FILL * self._clock_rate) // step))
        out.append(Lost(count, fill, played.pts - fill * step, step, payload))
        out.append(played)
        self._play_held(out)

    def _came_late(self, sequence: int, now: float) -> None:
        """A packet from before the one expected: given up, or a duplicate."""
        for first, last, seen in self._given_up:
            if first <= sequence <= last:
                self._late += 1
                self._patience.learn(now - seen, now)
                return
        self._duplicates += 1

    def _from_elsewhere(self, sequence: int, timestamp: int, payload: T, now: float) -> list[Item[T]]:
        """A packet that does not belong to the sequence: the second in a row begins a new one."""
        suspect = self._suspect
        self._suspect = (sequence, timestamp, payload, now)
        if suspect is None:
            return []
        if sequence != (suspect[0] + 1) & 0xFFFF:
            self._strays += 1
            return []
        self._suspect = None
        out = self._begin(*suspect)
        out.append(self._play(self._next, timestamp, payload, now))
        return out

    def _drop_suspect(self) -> None:
        if self._suspect is not None:
            self._strays += 1
            self._suspect = None


class _Patience:
    """How long to wait for a hole: as long as packets were lately late, and a quarter more.

    The largest lateness is left out, so that one late packet changes nothing and two do. The two largest of this window
    and of the last are remembered.
    """

    def __init__(self) -> None:
        self.seconds = MIN_PATIENCE
        self._began = float("-inf")
        self._these: list[float] = []
        self._those: list[float] = []

    def learn(self, late: float, now: float) -> None:
        """A packet came this many seconds after one that follows it."""
        self._forget(now)
        if not self._these:
            self._began = now
        self._these = sorted([*self._these, late])[-2:]

    def at(self, now: float) -> float:
        """Seconds for which a hole seen at `now` is waited for."""
        self._forget(now)
        latest = sorted([*self._those, *self._these])
        late = latest[-2] * 1.25 if len(latest) > 1 else 0.0
        self.seconds = min(max(late, MIN_PATIENCE), MAX_PATIENCE)
        return self.seconds

    def _forget(self, now: float) -> None:
        if (age := now - self._began) > PATIENCE_WINDOW:
            self._those, self._these = self._these if age <= 2 * PATIENCE_WINDOW else [], []
            self._began = now
