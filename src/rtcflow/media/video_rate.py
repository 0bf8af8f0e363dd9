"""How much video may be sent: the target of the encoder, and when the next picture may go. Pure: `now` comes in.

The path's rate is unknown, and what exceeds it waits in queues on the way. Four signals tell of it:

- The receiver's estimate (REMB) is an upper bound.
- The round trip, from the receiver's reports. The part above its least value is time in queues. From its growth follows
  the rate of the path. If ``sent`` bits a second make the round trip grow by ``g`` seconds a second, the path carries
  ``sent / (1 + g)``, less the losses.
- The queue that transport-wide feedback shows, if that was agreed on (`media.transport_feedback`). It takes the place
  of the round trip, because it comes ten times a second instead of once, and knows nothing of the way back.
- The share of lost packets. Above 10 % the target falls by half of the share (draft-ietf-rmcat-gcc-02 section 6).

Without trouble the target rises by 8 % a second, as in the same draft, if it is used. Before the first trouble it rises
faster.

An encoder does not keep to a target from picture to picture. A key picture takes ten times as much as others, and a
picture full of detail cannot be made small enough. So what was sent above the target is a *debt*, and the next picture
waits until it is paid down to `ALLOWANCE`. Pictures that the handler emits meanwhile are left out: the one that goes is
the newest. So no queue builds up here or on the path, and the frame rate falls instead. A queue that the round trip
shows is owed as well.

Requests of the receiver are bounded by the same idea. A key picture that is asked for while one is on its way answers
both requests. A packet is sent again at most once a round trip, and not while the debt is high.
"""

from __future__ import annotations

from collections import deque
from typing import Final

ALLOWANCE: Final = 0.2
"""Seconds' worth of the target that may be owed when a picture goes."""

MOST_DEBT: Final = 0.5
"""Seconds' worth of the target above which lost packets are not sent again: a key picture will be cheaper."""

QUEUE: Final = 0.1
"""Seconds of round trip above the least that mean a queue. Wireless links alone add some tens of milliseconds."""

UNDER: Final = 0.85
"""The share of the path's rate that is taken after a queue, so that the queue empties (the factor of the draft)."""

FIRST_PACE: Final = 2.0
"""Until the first trouble, the debt is paid this many times as fast: no call begins with half a second of one
picture.
"""

LEAST_FALL: Final = 0.85
"""The most of the target that is kept when a queue was seen, whatever its growth."""

FALL_PAUSE: Final = 0.3
"""Seconds, beyond the queue itself, in which feedback shows what a fall has done."""

FED: Final = 0.5
"""Seconds after a feedback in which the round trip is not asked for a queue. Feedback comes more often, unless nothing
comes because the queue is that long.
"""

LOSSY: Final = 0.1
"""Share of lost packets above which the target falls. Both in a report and in the mean of the last reports: a report
tells of some forty packets, so at 5 % of random loss each twentieth report has more than this."""

LOSS_MEMORY: Final = 3.0
"""Seconds over which that mean is taken."""

OVERFLOW: Final = 0.3
"""Share of lost packets that means a queue that is full. The path carries what is not lost."""

FULL_QUEUE: Final = 1.0
"""Seconds that such a queue is taken to hold."""

GOOD: Final = 0.02
"""Share of lost packets below which it may rise."""

RISE: Final = 1.08
"""Growth of the target in a second without trouble."""

FIRST_RISE: Final = 1.5
"""The same until the first trouble: from 300 to 2,500 kbit/s in five seconds."""

USED: Final = 0.6
"""Share of the target that must have been sent for a rise: what is not tried is not known."""

USUAL: Final = 0.2
"""Seconds. In the first `DOUBT` reports a longer round trip counts as a queue: the first pictures may have made it."""

DOUBT: Final = 8
"""Reports with a round trip. After these the least one that was seen counts: it may be a path by satellite."""

FORGET: Final = 30.0
"""Seconds after which a least round trip counts no more: the path may be another one."""

OVERHEAD: Final = 66
"""Bytes of each packet beyond the payload: IPv4, UDP, RTP with extensions, and the SRTP tag."""

KEY_MARGIN: Final = 0.1
"""Seconds, beyond its own time on the path, in which a key picture must have come."""


class VideoRate:
    """The rate of one video track that is sent.

    Args:
        start: Bits per second at first.
        least: The target is never lower.
        most: The target is never higher.
    """

    def __init__(self, start: int, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._ours = float(start)
        self._estimate = float("inf")
        self._sent: deque[tuple[float, float]] = deque()  # moment and bits, of the last two seconds
        self._owed, self._owed_at = 0.0, float("-inf")  # bits
        self._trips: deque[tuple[float, float]] = deque()  # moment and round trip, rising; the first is the least
        self._trip: tuple[float, float] | None = None
        self._trips_seen = 0
        self._fed = self._fallen = float("-inf")
        self._growth = 0.0  # of the round trip, in seconds a second
        self._reported: float | None = None
        self._loss: float | None = None  # mean of the last reports
        self._troubled = False
        self._resent: dict[int, float] = {}
        self._key_until = float("-inf")

    @property
    def target(self) -> int:
        """Bits per second for the encoder."""
        return round(max(self._least, min(self._ours, self._estimate, self._most)))

    def estimate(self, bitrate: float) -> None:
        """The receiver estimates that the path carries this many bits per second (REMB)."""
        self._estimate = bitrate

    def report(self, now: float, lost: float, round_trip: float | None) -> None:
        """The receiver has reported.

        Args:
            now: Seconds, on any monotonic clock.
            lost: Share of the packets that were lost since its last report, 0 to 1.
            round_trip: Seconds, as this report shows it. None if it does not.
        """
        queued = self._note_trip(now, round_trip) if round_trip is not None else 0.0
        if now - self._fed < FED:
            queued = 0.0
        sent = self._sent_rate(now)
        passed = 0.0 if self._reported is None else min(now - self._reported, 2.0)
        self._loss = lost if self._loss is None else self._loss + (lost - self._loss) * passed / LOSS_MEMORY
        lossy = min(lost, self._loss) > LOSSY
        self._troubled = self._troubled or queued > QUEUE or lossy
        if queued > QUEUE and sent is not None:
            path = sent * (1 - lost) / (1 + self._growth)
            self._ours = max(self._least, min(LEAST_FALL * self.target, UNDER * path))
            self._owed, self._owed_at = max(self._owed_now(now), queued * path), now  # what is on the path is owed, too
        elif lost > OVERFLOW and sent is not None:
            path = sent * (1 - lost)
            self._ours = max(self._least, min(self.target * (1 - lost / 2), UNDER * path))
            self._owed, self._owed_at = max(self._owed_now(now), FULL_QUEUE * path), now
        elif lossy:
            self._ours = max(self._least, self.target * (1 - lost / 2))
        elif self._trip is None:
            pass  # no report has come back through the queue, so nothing is known of it
        elif lost < GOOD and queued < QUEUE / 2 and sent is not None and sent > USED * self.target:
            rise = RISE if self._troubled else FIRST_RISE
            self._ours = min(self._most, self.target * rise**passed)
        self._reported = now

    def path(self, now: float, queue: float, rate: float) -> None:
        """Transport-wide feedback has come.

        Args:
            now: Seconds.
            queue: Seconds that packets wait on the way.
            rate: Bits per second that arrive.
        """
        self._fed = now
        if queue <= QUEUE:
            return
        self._owed, self._owed_at, self._troubled = queue * rate, now, True
        if now - self._fallen >= queue + FALL_PAUSE:
            self._fallen = now
            self._ours = max(self._least, min(LEAST_FALL * self.target, UNDER * rate))

    def _note_trip(self, now: float, trip: float) -> float:
        """Seconds that this round trip has of queues."""
        before, self._trip = self._trip, (now, trip)
        grown = 0.0 if before is None else (trip - before[1]) / max(now - before[0], 0.1)
        self._growth = min(max(grown, 0.0), 4.0)
        while self._trips and self._trips[-1][1] >= trip:
            self._trips.pop()
        self._trips.append((now, trip))
        while self._trips[0][0] < now - FORGET:
            self._trips.popleft()
        least = self._trips[0][1]
        self._trips_seen += 1
        if self._trips_seen <= DOUBT:
            least = min(least, USUAL)
        return max(trip - least, grown if grown > QUEUE else 0.0)

    def _sent_rate(self, now: float) -> float | None:
        """Bits per second of the last two seconds; None at the beginning."""
        self._forget_sent(now)
        if not self._sent or now - self._sent[0][0] < 0.5:
            return None
        return sum(bits for _, bits in self._sent) / (now - self._sent[0][0])

    def _forget_sent(self, now: float) -> None:
        while self._sent and self._sent[0][0] < now - 2.0:
            self._sent.popleft()

    # -- pictures

    def sent(self, now: float, size: int, packets: int, *, key: bool = False) -> None:
        """A picture was sent.

        Args:
            now: Seconds.
            size: Bytes of its payloads.
            packets: How many packets it took.
            key: Whether it is a key picture. One may have been asked for while this one was being encoded.
        """
        bits = 8.0 * (size + OVERHEAD * packets)
        self._owe(now, bits)
        if key:
            trip = 0.0 if self._trip is None else self._trip[1]
            self._key_until = now + self._owed / self.target + trip + KEY_MARGIN

    def _owe(self, now: float, bits: float) -> None:
        self._owed = self._owed_now(now) + bits
        self._owed_at = now
        self._forget_sent(now)  # here, too: a peer need not report
        self._sent.append((now, bits))

    def _owed_now(self, now: float) -> float:
        return max(0.0, self._owed - (now - self._owed_at) * self._pays()) if self._owed else 0.0

    def _pays(self) -> float:
        """Bits of the debt that are paid in a second."""
        return self.target if self._troubled else FIRST_PACE * self.target

    def wait(self, now: float) -> float:
        """Seconds until the next picture may go; 0 if it may go now."""
        return max(0.0, self._owed_now(now) - ALLOWANCE * self.target) / self._pays()

    # -- requests of the receiver

    def key_asked(self, now: float) -> bool:
        """The receiver asks for a key picture. Returns whether the next picture must be one; it need not if one is on
        its way.
        """
        return now >= self._key_until

    def may_send_again(self, now: float, sequence_number: int, size: int) -> bool:
        """Whether a packet that the receiver misses is sent again.

        Args:
            now: Seconds.
            sequence_number: Of the packet.
            size: Its bytes.
        """
        trip = 0.05 if self._trip is None else self._trip[1]
        if now - self._resent.get(sequence_number, float("-inf")) < trip:
            return False
        if self._owed_now(now) > MOST_DEBT * self.target:
            return False
        if len(self._resent) > 1000:
            self._resent = {number: at for number, at in self._resent.items() if now - at < 2.0}
        self._resent[sequence_number] = now
        self._owe(now, 8.0 * size)
        return True
