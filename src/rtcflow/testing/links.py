"""Lossy links by seed: what a network does to what is sent over it. Pure: `now` comes in, moments of arrival go out.

    bad = LossyLink(seed=7, loss=Bursts(start=0.01, length=5), delay=0.08, jitter=0.02, reorder=0.01)
    async with memory_pair(link=bad, back=LossyLink(seed=8, loss=0.02)) as (ours, theirs): ...

A link is for one direction of one `rtcflow.transports.memory.memory_pair` (the protocol is
`rtcflow.transports.memory.Link`). A new pair begins again with the seed. The same seed loses and delays the same frames
in the same way. Media is lost, late, doubled and out of order; messages ride on a reliable channel, so they are only
late, and never overtake one another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Blackout", "Bursts", "Chain", "LinkStatistics", "LossyLink", "Trace"]

RETRANSMISSION = 0.2
"""Seconds by which a lost message comes later: about one retransmission time-out of SCTP on a good path. RFC 9260
section 16 lets it go down to RTO.Min; browsers use some 0.2 s.
"""


class _OneWayLink(Protocol):
    def begin(self) -> None: ...

    def send(self, now: float, size: int) -> list[float]: ...

    def send_reliable(self, now: float, size: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Bursts:
    """Loss in bursts: the two-state model of Gilbert (Bell System Technical Journal 39, 1960) and Elliott (42, 1963).

    Args:
        start: Probability per frame that a burst begins.
        length: Mean length of a burst, in frames, at least 1.
        loss: Probability that a frame in a burst is lost.
        between: Probability that a frame between bursts is lost.

    The share of frames lost in the long run is ``rate``.
    """

    start: float
    length: float
    loss: float = 1.0
    between: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "loss", "between"):
            _probability(name, getattr(self, name))
        if self.length < 1:
            raise ValueError(f"a burst is at least 1 frame long, not {self.length}")

    @property
    def rate(self) -> float:
        """The share of frames lost in the long run."""
        if not self.start:
            return self.between
        bad = self.start / (self.start + 1 / self.length)
        return bad * self.loss + (1 - bad) * self.between


@dataclass(frozen=True, slots=True)
class Blackout:
    """A stretch of time in which nothing gets through.

    Args:
        begin: Seconds, on the clock of `now`.
        end: The same; messages arrive after it, so it comes.
    """

    begin: float
    end: float

    def __post_init__(self) -> None:
        if self.end < self.begin:
            raise ValueError(f"a blackout ends after it begins; write Blackout({self.end}, {self.begin})")
        if not (math.isfinite(self.begin) and math.isfinite(self.end)):
            raise ValueError(
                "a blackout has an end, after which messages arrive; for a link that is gone for good write: "
                "await caller.break_link(), or transport.break_link(error)"
            )


@dataclass(slots=True)
class LinkStatistics:
    """What a link has done; ``sent == lost + arrived - duplicated``.

    Attributes:
        sent: Frames sent into it.
        lost: Frames that never arrive, those in `queue_full` included.
        duplicated: Frames that arrive twice.
        arrived: Arrivals.
        reordered: Frames that arrive before one sent earlier.
        queue_full: Frames lost because the bottleneck's queue was full.
    """

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    arrived: int = 0
    reordered: int = 0
    queue_full: int = 0


@dataclass(slots=True)
class LossyLink:
    """One direction of a bad network.

    Args:
        seed: Decides everything random.
        loss: Probability that a frame is lost, or `Bursts`.
        delay: Seconds every frame takes.
        jitter: Standard deviation of what is added to that, in seconds; never less than 0 is added. Frames stay in
            order (as in one router's queue) unless `reorder` says otherwise.
        reorder: Probability that a frame is held up by `reorder_by` and overtaken.
        reorder_by: Seconds.
        duplicate: Probability that a frame arrives twice.
        bandwidth: Bits per second for everything together, or None for no limit. An audio frame counts with its size in
            memory, 16 bits per sample: 384 kbit/s for mono at 24 kHz. A video frame counts with a byte per pixel.
        queue: Seconds of traffic that may wait in front of that bottleneck. Further traffic is lost.
        blackouts: When nothing gets through.

    Raises:
        ValueError: An argument is out of range; the text says what to write.
    """

    seed: int = 0
    loss: float | Bursts = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    reorder_by: float = 0.05
    duplicate: float = 0.0
    bandwidth: float | None = None
    queue: float = 0.2
    blackouts: Sequence[Blackout] = ()
    statistics: LinkStatistics = field(default_factory=LinkStatistics, init=False)
    _random: random.Random = field(init=False, repr=False)
    _in_burst: bool = field(default=False, init=False, repr=False)
    _bottleneck_free: float = field(default=0.0, init=False, repr=False)
    _last_arrival: float = field(default=0.0, init=False, repr=False)
    _last_message: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Bursts):
            _probability("loss", self.loss)
        for name in ("reorder", "duplicate"):
            _probability(name, getattr(self, name))
        for name in ("delay", "jitter", "reorder_by", "queue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is in seconds and not negative, not {getattr(self, name)}")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise ValueError(f"bandwidth is in bits per second, not {self.bandwidth}; write loss=1 for a dead link")
        self.begin()

    def begin(self) -> None:
        """A call begins: the seed decides from the start again, and nothing is on its way. The statistics go on."""
        self._random = random.Random(self.seed)  # noqa: S311  a simulation, and meant to be repeated
        self._in_burst = False
        self._bottleneck_free = self._last_arrival = self._last_message = 0.0

    def send(self, now: float, size: int) -> list[float]:
        """A frame of `size` bytes leaves at `now`: when it arrives (twice, if duplicated; never: empty)."""
        figures = self.statistics
        figures.sent += 1
        # Everything random is drawn for every frame, so that changing one impairment leaves the others' dice alone.
        lost = self._lost()
        late = max(0.0, self._random.gauss(0.0, self.jitter)) if self.jitter else 0.0
        overtaken = self._random.random() < self.reorder
        twice = self._random.random() < self.duplicate
        through = self._through_bottleneck(now, size)
        if through is None:
            figures.queue_full += 1
        if through is None or lost or self._dark(now):
            figures.lost += 1
            return []
        arrival = through + self.delay + late
        if overtaken:
            arrival += self.reorder_by
        else:
            self._last_arrival = arrival = max(arrival, self._last_arrival)
        figures.reordered += overtaken
        figures.duplicated += twice
        figures.arrived += 1 + twice
        return [arrival, arrival + self.delay / 2] if twice else [arrival]

    def send_reliable(self, now: float, size: int) -> float:
        """A message leaves at `now`: when it arrives; later if it had to be sent again, and never before another."""
        arrival = self._queued(now, size) + self.delay
        while self._dark(arrival - self.delay) or self._random.random() < self._loss_rate:
            arrival += RETRANSMISSION
        self._last_message = arrival = max(arrival, self._last_message)
        return arrival

    @property
    def _loss_rate(self) -> float:
        # Not 1: a message that cannot ever arrive would be one that is not reliable.
        return min(self.loss.rate if isinstance(self.loss, Bursts) else self.loss, 0.9)

    def _lost(self) -> bool:
        draw, change = self._random.random(), self._random.random()
        if not isinstance(self.loss, Bursts):
            return draw < self.loss
        if self._in_burst:
            self._in_burst = change >= 1 / self.loss.length
        else:
            self._in_burst = change < self.loss.start
        return draw < (self.loss.loss if self._in_burst else self.loss.between)

    def _through_bottleneck(self, now: float, size: int) -> float | None:
        if self.bandwidth is None:
            return now
        if self._bottleneck_free - now > self.queue:
            return None
        return self._queued(now, size)

    def _queued(self, now: float, size: int) -> float:
        """When `size` bytes are through the bottleneck, behind all that waits there."""
        if self.bandwidth is None:
            return now
        self._bottleneck_free = max(self._bottleneck_free, now) + 8 * size / self.bandwidth
        return self._bottleneck_free

    def _dark(self, now: float) -> bool:
        return any(blackout.begin <= now < blackout.end for blackout in self.blackouts)


@dataclass(slots=True)
class Trace:
    """A link whose every frame's fate is written down: for examples, and for `strategies.traces`.

    Args:
        fates: For each frame in turn, the delays in seconds of its arrivals: ``()`` lost, ``(0.0,)`` at once,
            ``(0.0, 0.1)`` doubled. Frames beyond the last one arrive at once.
    """

    fates: Sequence[tuple[float, ...]]
    _n: int = field(default=0, init=False, repr=False)

    def begin(self) -> None:
        """The first fate is that of the next frame."""
        self._n = 0

    def send(self, now: float, size: int) -> list[float]:  # noqa: ARG002
        """The fate of the next frame."""
        fate = self.fates[self._n] if self._n < len(self.fates) else (0.0,)
        self._n += 1
        return [now + delay for delay in fate]

    def send_reliable(self, now: float, size: int) -> float:  # noqa: ARG002
        """At once."""
        return now


class Chain:
    """Links one after the other: what arrives from the first is sent into the second.

    >>> Chain(LossyLink(delay=0.25), LossyLink(delay=0.5)).send(1.0, 960)
    [1.75]
    """

    def __init__(self, *links: _OneWayLink) -> None:
        if not links:
            raise ValueError("a chain needs a link: Chain(LossyLink(...), ...)")
        self.links = links

    def begin(self) -> None:
        """Each of them begins again."""
        for link in self.links:
            link.begin()

    def send(self, now: float, size: int) -> list[float]:
        """When a frame arrives at the far end, each time it does."""
        moments = [now]
        for link in self.links:
            moments = [arrival for moment in sorted(moments) for arrival in link.send(moment, size)]
        return moments

    def send_reliable(self, now: float, size: int) -> float:
        """When a message arrives at the far end."""
        for link in self.links:
            now = link.send_reliable(now, size)
        return now


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, from 0 to 1 (0.05 for 5 %), not {value}")
