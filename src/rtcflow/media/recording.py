"""Both sides of a call on one timeline, for recordings. Pure: frames and `now` come in, stereo blocks go out.

The two sides have clocks of their own. The caller's media time (`AudioFrame.pts`) is counted by the caller's device,
and what left is counted by our playout. A recording that puts frames down as they arrive drifts, and moves at each
jitter. So a frame is placed by its media time. Arrivals only say where a side's media time 0 lies on our clock.

An arrival is late by the network's delay and never early. So the least delay of many frames is the best that can be
known about the origin. Frames that follow on each other are gathered into a *stretch* of up to `STRETCH` seconds, and
placed together. So 25 frames need one decision, which costs a call next to nothing. Each stretch waits `HOLD` seconds
before it is placed, and the frames behind it are looked at:

- They come with the same least delay: nothing moves. Between two such frames the distance is exact to the sample.
- They catch up after a stall: the stall was the network's, and moves nothing either.
- They stay late after a pause of arrivals: the sender has paused without counting, and the side begins again there.
- The least delay of `WINDOW` seconds leaves the deadband: the device's clock runs faster or slower than ours. Single
  samples are then put in or taken out, at most one in `SLEW` samples, until the side is back in place.

The work is split in two. An `Intake` notes each frame as it comes: that is all that the thread of the media does. The
caller's samples are copied, because a handler may change what it gets. What left is the player's own, so it need not
be. A `Timeline` gets the notes of `BATCH` seconds, in the thread that writes the file. There, the same work for many
frames costs a third, because the processor's caches hold it.

What comes and leaves as Opus can be recorded as it is, without coding it again. Then the intake notes packets in place
of samples, and a `PacketTimeline` places them by the same rules, to the millisecond. Then each packet gets the slot of
20 ms that is nearest. What left goes by the caller's error in that: a slot is taken that makes the error of both sides
alike. So the sides are nearer to each other than each is to its place. That holds also at the moment when a drifting
device leaves a slot out. Packets that follow on each other need one such decision together.

What left has a slot on our own clock (`PlayoutFrame.slot`). Each talkspurt begins exactly at its slot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat, AudioFrame
from .convert import to_channels
from .doubler import Doubler
from .packets import LatestPackets
from .playout import PlayoutFrame
from .resample import Resampler

HOLD: Final = 2.0
"""Seconds for which a frame waits before it is placed. Longer stalls of a network end most calls."""

STRETCH: Final = 0.5
"""Seconds of audio that are placed together. Where a device's clock is off by 200 ppm, they drift by 0.1 ms."""

REACH: Final = 5.0
"""Seconds between the end of what `Timeline.take` gives and now. A frame that is placed farther back is lost."""

SILENT: Final = 2 * HOLD + STRETCH
"""Seconds after which a stretch is placed although no later one has come. By then no frame is in an open stretch that
came within `HOLD` after it."""

WINDOW: Final = 10.0
"""Seconds of the past in which the least delay is looked for: 500 frames."""

DEADBAND: Final = 0.01
"""Seconds by which a side may be off before it is moved back: half a frame. Less would follow a network's jitter."""

SLEW: Final = 500
"""While a side is moved, one of this many samples is doubled or left out. That is 0.2 %: ten times the worst crystals
(200 ppm), and a third of the smallest difference in pitch that is heard.
"""

PAUSE: Final = 0.1
"""Seconds without an arrival after which lasting lateness is taken for a pause of the sender."""

STEP: Final = 1.0
"""Seconds of lasting lateness after which a side begins again, whatever the reason."""

LONGEST: Final = 1276
"""Bytes of a packet with one frame (RFC 6716 section 3.4)."""

UNITS: Final = 50
"""Pieces in a second of a `PacketTimeline`: the packets of 20 ms that almost every sender of Opus uses."""

GRID: Final = 1000
"""Hz, of the samples by which packets are placed."""

SLOT: Final = GRID // UNITS

FINE: Final = 0.002
"""The deadband of packets, in seconds: to move them costs nothing as long as they stay in their slots."""

SLACK: Final = 2
"""Milliseconds that packets in a row may be off beyond half a slot, so that they stay where they are."""

LEAP: Final = 2.0
"""Seconds by which media time may run ahead of our clock before it counts as leapt (as in `media.jitter`)."""


class Mark(NamedTuple):
    """A moment at which waiting audio was cleared, as a barge-in does.

    Attributes:
        position: Seconds from the beginning of the recording.
        seconds: How much audio was cleared.
    """

    position: float
    seconds: float


_CUT: Final = -1
"""Stands for a side in the events of a timeline: what left is cut at a moment."""

FIELDS: Final = 6
"""How many values an `Intake` notes of a frame: when it came, or its slot; its rate in Hz; its `pts`; its samples in
mono (bytes, or an array that nobody changes) or its packet; whether that is a packet; and whether it must be exactly at
that time. A rate of 0 tells that the side is cut at that time."""

MOST: Final = 1600
"""Frames of one side that may wait for the writer: 32 s in frames of 20 ms. It is also told when half of them wait:
frames of 2.7 ms, as an AudioWorklet of a browser brings them, fill that in 2 s."""

_ROOM: Final = MOST * FIELDS
_HALF: Final = MOST // 2 * FIELDS

BATCH: Final = 8.0
"""Seconds after which the writer is told. Each time, it finds the processor's caches used by others."""


class _Stretch:
    """Frames of one side that follow on each other, none of them later than the one before by `PAUSE`.

    Attributes:
        rate: Hz, of all frames.
        pts: Media time of the first sample; `end` is that after the last one.
        parts: The samples of each frame in mono, int16, as bytes or an array; or its packet.
        packets: Whether these are packets.
        times: For each frame, when it came, or its slot, in seconds on the timeline.
        fresh: Whether the stretch begins exactly at its first time.
        least: The least delay of a frame: how much later it came than its media time. `last` is that of the last one.
    """

    __slots__ = ("end", "fresh", "last", "least", "packets", "parts", "pts", "rate", "times")

    def __init__(self, rate: int, pts: int, packets: bool, fresh: bool) -> None:  # noqa: FBT001
        self.rate: int = rate
        self.pts: int = pts
        self.packets: bool = packets
        self.fresh: bool = fresh
        self.end: int = pts
        self.last: float = float("inf")
        self.least: float = self.last
        self.parts: list[Any] = []
        self.times: list[float] = []

    def cut(self, moment: float) -> None:
        """Forget the frames that begin after `moment`."""
        kept = bisect_right(self.times, moment)
        for part in self.parts[kept:]:
            self.end -= self.rate // UNITS if self.packets else _length(part)
        del self.parts[kept:], self.times[kept:]

    @property
    def size(self) -> int:
        """The number of all samples."""
        return self.end - self.pts

    def samples(self) -> NDArray[np.int16]:
        """All samples, shape (n,)."""
        return np.frombuffer(b"".join(self.parts), np.int16)


def _length(part: bytes | NDArray[np.int16]) -> int:
    """How many samples there are."""
    return len(part) // 2 if isinstance(part, bytes) else part.size


class _Least:
    """The least delay among stretches, of which the oldest are taken away again."""

    def __init__(self) -> None:
        self._frames: deque[tuple[float, float]] = deque()

    def add(self, at: float, delay: float) -> None:
        frames = self._frames
        while frames and frames[-1][1] >= delay:
            frames.pop()
        frames.append((at, delay))

    def forget(self, before: float) -> None:
        frames = self._frames
        while frames and frames[0][0] < before:
            frames.popleft()

    def get(self, default: float) -> float:
        return self._frames[0][1] if self._frames else default


class _Side:
    """One side of the call: the stretches that wait, and where each of them belongs.

    Args:
        rate: Hz, of the positions.
        deadband: Seconds by which it may be off.
        slots: Whether the frames' times are slots on our own clock. Then nothing is to be found out about their origin.
        unit: Hz, of what is put in or left out while it is moved. By default samples of the frames.

    Attributes:
        end: The position behind all that is placed.
        lost: Samples that were placed too far back.
    """

    def __init__(self, rate: int, deadband: float, *, slots: bool, unit: int | None = None) -> None:
        self.rate: int = rate
        self._deadband, self._slots, self._unit = deadband, slots, unit
        self.lost: int = 0
        self.end: int = 0
        self._waiting: deque[_Stretch] = deque()
        self._recent = _Least()
        self._last = float("-inf")  # the delay of the frame placed last
        self._anchor: tuple[int, int, int] | None = None  # rate, pts, and the position of that pts
        self._next = 0  # the pts that follows on
        self._slewing = self._finishing = False
        self._since_slew = 0
        self._run_at = 0  # where the next samples belong

    def _begin_run(self, rate: int, position: int) -> None:
        """The next stretch does not follow on the one before."""
        raise NotImplementedError

    def _put(self, stretch: _Stretch, steps: int) -> None:
        """Place a stretch at the end of the run, and make it longer by `steps` units, or shorter by them."""
        raise NotImplementedError

    def add(self, stretch: _Stretch) -> None:
        """Take a stretch, to place it later."""
        self.place(stretch.times[0] - HOLD)  # before: so it does not matter when blocks are taken
        self._waiting.append(stretch)

    def drop_after(self, moment: float) -> None:
        """Forget the frames that wait and begin after `moment`."""
        for stretch in self._waiting:
            stretch.cut(moment)
        self._waiting = deque(stretch for stretch in self._waiting if stretch.times)

    def place(self, until: float) -> None:
        """Place the stretches whose frames came until then."""
        while self._waiting and self._waiting[0].times[-1] <= until:
            waiting = self._waiting
            least = waiting[0].least if self._slots else min(stretch.least for stretch in waiting)
            self._place(waiting.popleft(), least)

    def _position(self, pts: int) -> int:
        assert self._anchor is not None  # noqa: S101
        rate, begin, position = self._anchor
        return position + (pts - begin) * self.rate // rate

    def _place(self, stretch: _Stretch, least: float) -> None:
        rate, pts, at, fresh = stretch.rate, stretch.pts, stretch.times[0], stretch.fresh
        media = pts / rate
        anchor = self._anchor
        if anchor is None or fresh or anchor[0] != rate or pts < self._next:
            self._begin(rate, pts, at if fresh else least + media)
        else:
            off = least + media - self._position(pts) / self.rate
            paused = at - media - self._last >= PAUSE and not self._finishing
            if off < -LEAP or off > (PAUSE if paused else STEP):
                self._begin(rate, pts, least + media)
            elif pts != self._next:
                self._begin_run(rate, self._position(pts))
        self._last = stretch.last
        if not self._slots:
            self._recent.forget(at - WINDOW)
            self._recent.add(at, stretch.least)
        assert self._anchor is not None  # noqa: S101
        self._next = pts + stretch.size
        off = min(least, self._recent.get(least)) + media - self._position(pts) / self.rate
        self._put(stretch, self._steps(rate, stretch.size, off) if self._slewing or abs(off) > self._deadband else 0)

    def _begin(self, rate: int, pts: int, at: float) -> None:
        """Let this side's media time begin again: `pts` is at `at` seconds."""
        self._anchor = (rate, pts, round(at * self.rate))
        self._recent = _Least()
        self._slewing = False
        self._begin_run(rate, self._anchor[2])

    def _steps(self, rate: int, size: int, off: float) -> int:
        """By how many units a stretch of `size` is to be longer, or shorter. It is one, if the stretch is short."""
        assert self._anchor is not None  # noqa: S101
        _, begin, position = self._anchor
        unit = self._unit or rate
        n = size * unit // rate
        if not self._slewing:
            self._slewing, self._since_slew = True, SLEW
        if abs(off) <= 0.5 / unit:
            self._slewing = False
        self._since_slew += n
        steps = min(self._since_slew // SLEW, round(abs(off) * unit))
        if not self._slewing or not steps or n < 2 * steps:
            return 0
        self._since_slew = 0
        more = steps if off > 0 else -steps
        self._anchor = (rate, begin - more * rate // unit, position)
        return more

    def finish(self) -> None:
        """Place all that waits. No more will come."""
        self._finishing = True  # too little is known of the last frames' lateness
        self.place(float("inf"))


class _SampleSide(_Side):
    """A side whose samples are placed. Those that follow on each other are a run, and go through one resampler."""

    def __init__(self, rate: int, *, slots: bool) -> None:
        super().__init__(rate, DEADBAND, slots=slots)
        self._raw: list[Any] = []  # the end of the run, at its own rate: long pieces are converted in half the time
        self._parts: list[NDArray[np.int16]] = []  # samples that are placed and not taken
        self._resampler: Resampler | Doubler | None = None

    def _begin_run(self, rate: int, position: int) -> None:
        self._end_run()
        self._run_at = position
        if rate != self.rate:
            doubles = self.rate == 2 * rate
            self._resampler = Doubler() if doubles else Resampler(AudioFormat(rate), AudioFormat(self.rate))

    def _end_run(self) -> None:
        self._convert()
        if self._resampler is not None:
            self._add(self._resampler.flush()[0])
            self._resampler = None

    def _put(self, stretch: _Stretch, steps: int) -> None:
        if steps:
            samples = stretch.samples()
            n = samples.shape[0]
            interpolated = np.interp(np.linspace(0, n - 1, n + steps), np.arange(n), samples)
            self._raw.append(np.rint(interpolated).astype(np.int16).tobytes())
        else:
            self._raw += stretch.parts

    def _convert(self, until: float = float("inf")) -> None:
        """Place what has come of the run, up to `until`."""
        done = 0
        while self.end <= until and done < len(self._raw):
            samples = np.frombuffer(b"".join(self._raw[done : done + UNITS]), np.int16)
            self._add(samples if self._resampler is None else self._resampler.feed(samples[np.newaxis])[0])
            done += UNITS
        del self._raw[:done]

    def _add(self, samples: NDArray[np.int16]) -> None:
        position = self._run_at
        self._run_at += samples.shape[0]
        if position > self.end:
            self._parts.append(np.zeros(position - self.end, np.int16))
            self.end = position
        elif position < self.end:
            samples = samples[self.end - position :]
            self.lost += min(self.end - position, self._run_at - position)
        self._parts.append(samples)
        self.end += samples.shape[0]

    def take(self, until: int, out: NDArray[np.int16]) -> None:
        """Write the samples up to `until`, that were not taken before, into `out`."""
        self._convert(until)
        if self.end < until and self._resampler is not None:
            self._end_run()  # what the filter holds belongs here; what follows begins a new run
            self._next = -1
        if self.end < until:
            self._parts.append(np.zeros(until - self.end, np.int16))
            self.end = until
        filled = 0
        for index, part in enumerate(self._parts):
            n = min(part.shape[0], out.shape[0] - filled)
            out[filled : filled + n] = part[:n]
            filled += n
            if n < part.shape[0]:
                self._parts = [part[n:], *self._parts[index + 1 :]]
                break
        else:
            self._parts = []

    def finish(self) -> None:
        super().finish()
        self._end_run()


Piece = bytes | AudioFrame | None
"""20 ms of one side: a packet of Opus, audio of which there is no packet, or silence."""


class _PacketSide(_Side):
    """A side whose pieces of 20 ms are placed, and go from their places to slots.

    Attributes:
        error: Milliseconds by which the last piece lies behind its place.
    """

    def __init__(self, *, slots: bool) -> None:
        super().__init__(GRID, FINE, slots=slots, unit=GRID)
        self.error: int = 0
        self._runs: deque[tuple[int, list[Piece]]] = deque()  # pieces that follow on each other, and the first place
        self._running = False  # the slot before has a piece

    def _begin_run(self, rate: int, position: int) -> None:  # noqa: ARG002
        self._run_at = position

    def _put(self, stretch: _Stretch, steps: int) -> None:
        position = self._run_at
        self._run_at = position + stretch.size * GRID // stretch.rate + steps
        pieces: list[Piece] = [*stretch.parts] if stretch.packets else _cut_up(stretch)
        late = max(0, self.end - position + SLOT // 2 - 1) // SLOT  # those of which half is covered
        if late:
            self.lost += min(late, len(pieces)) * SLOT
            pieces, position = pieces[late:], position + late * SLOT
        self.end = max(self.end, self._run_at)
        if not pieces:
            return
        if self._runs and (run := self._runs[-1])[0] + len(run[1]) * SLOT == position:
            run[1].extend(pieces)
        else:
            self._runs.append((position, pieces))

    def look(self, slot: int, error: int, most: int) -> tuple[int, list[Piece] | None]:
        """Find what belongs into the slots from that one on, if pieces are to be behind their places by `error`.

        Returns:
            For how many slots it is known, 1 to `most`, and a list that begins with their pieces; None for silence.
        """
        runs, aim, bound = self._runs, slot - error, SLOT // 2 + SLACK
        while runs and aim - runs[0][0] > bound:
            self._drop(-(-(aim - runs[0][0] - bound) // SLOT))
        if not runs:
            return most, None
        place, pieces = runs[0]
        gap = place - aim
        if gap > (bound if self._running else SLOT // 2):
            return min(most, max(1, -(-(gap - SLOT // 2) // SLOT))), None
        self.error = slot - place
        return min(most, len(pieces)), pieces

    def used(self, count: int, pieces: list[Piece] | None) -> None:
        """So many slots have got what `look` has found."""
        self._running = pieces is not None
        if pieces is not None:
            self._drop(count)

    def _drop(self, count: int) -> None:
        place, pieces = self._runs.popleft()
        if count < len(pieces):
            self._runs.appendleft((place + count * SLOT, pieces[count:]))


def _cut_up(stretch: _Stretch) -> list[Piece]:
    pieces: list[Piece] = []
    samples, size = stretch.samples()[np.newaxis], stretch.rate // UNITS
    for begin in range(0, samples.shape[1], size):
        piece = samples[:, begin : begin + size]
        if piece.shape[1] < size:
            piece = np.pad(piece, ((0, 0), (0, size - piece.shape[1])))
        pieces.append(AudioFrame(piece, stretch.rate, 0))
    return pieces


class Taken(NamedTuple):
    """What an `Intake` has noted, for a `Timeline`.

    Attributes:
        notes: Of both sides, the caller's first: `FIELDS` values for each frame, in order.
        start: When the recording began, on the clock of the notes.
        now: The latest moment that the intake knows of, on that clock.
    """

    notes: tuple[list[Any], list[Any]]
    start: float
    now: float


class Intake:
    """Notes what the caller said and what left for the caller.

    A note is a few values at the end of a list, so that a frame costs one or two microseconds. A function called for a
    part of it would cost another: the processor's caches hold the code of the call's other work. There are no objects
    for the garbage collector to follow, however many notes wait. No lock is taken. Each side is noted under the lock of
    the queue that it passes; another thread may take what was noted, because lists are extended and cut in one step.

    Args:
        clock: See there. The recording begins now. Audio from before is left out.
        first: Seconds until `wake` is called first.
        wake: Called each `BATCH` seconds then, when half of `MOST` frames wait, and for each frame that finds no room,
            in the thread that notes.

    Attributes:
        clock: That of the frames' arrival, and of slots, in seconds.
        packets: The packets of both sides, or None: then samples are noted.
        marks: Where audio was cleared.
        dropped: Frames that were not noted, because `MOST` waited.
    """

    def __init__(self, clock: Callable[[], float], first: float, wake: Callable[[], object]) -> None:
        self.clock: Callable[[], float] = clock
        self.packets: LatestPackets | None = None
        self.marks: list[Mark] = []
        self.dropped: int = 0
        self._start = self._now = start = clock()
        self._wake, self._due = wake, start + first
        self._heard: list[Any] = []
        self._left: list[Any] = []
        self._cleared = float("-inf")
        self._packet: bytes | None = None  # the caller's last one

    def heard(self, frame: AudioFrame) -> None:
        """The caller's `frame` has come."""
        samples, rate, pts, _ = frame
        notes, packets = self._heard, self.packets
        self._now = now = self.clock()
        waiting = len(notes)
        if waiting >= _ROOM:
            self._drop()
        elif packets is not None and (packet := self._packet_of(packets, frame)):
            notes.extend((now, rate, pts, packet, True, False))
        else:
            mono = samples if len(samples) == 1 else to_channels(samples, 1)
            notes.extend((now, rate, pts, mono.tobytes(), False, False))
        if now >= self._due or waiting == _HALF:
            self._due = now + BATCH
            self._wake()

    def _packet_of(self, packets: LatestPackets, frame: AudioFrame) -> bytes | None:
        """The packet of the frame that has come, if it can be used; what stands for a lost one, if it was made up."""
        packet, last = packets.received, self._packet
        if frame.samples.shape[1] * UNITS != frame.sample_rate:
            packet = None
        elif packet is None:
            return last and last[:1] if frame.concealed else None
        self._packet = packet = packet if packet and _fits(packet) else None
        return packet

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left for the caller at `now`."""
        (samples, rate, pts, _), fresh, _, slot = due
        notes, packets = self._left, self.packets
        self._now = now
        if now <= self._cleared < slot:
            return
        waiting = len(notes)
        if waiting >= _ROOM:
            self._drop()
        elif packets is not None and packets.sent_pts == pts and _fits(packets.sent):
            notes.extend((slot, rate, pts, packets.sent, True, fresh))
        else:
            mono = samples if len(samples) == 1 else to_channels(samples, 1)
            notes.extend((slot, rate, pts, mono, False, fresh))
        if now >= self._due or waiting == _HALF:
            self._due = now + BATCH
            self._wake()

    def cleared(self, now: float, seconds: float) -> None:
        """What waited for the caller was cleared, and so was what had left before its time (telephone)."""
        self._now = self._cleared = now
        if len(self._left) < _ROOM:
            self._left.extend((now, 0, 0, b"", False, False))
        if seconds:
            self.marks.append(Mark(now - self._start, seconds))

    def _drop(self) -> None:
        self.dropped += 1
        self._wake()

    def take(self, now: float | None = None) -> Taken:
        """What was noted since the last call; the recording ends at `now`. In one thread at a time."""
        until = self._now if now is None else max(self._now, now)  # first: what is noted later may be later
        return Taken((_cut_off(self._heard), _cut_off(self._left)), self._start, until)


def _cut_off(notes: list[Any]) -> list[Any]:
    """Take all that is there out of a list that others extend."""
    taken = notes[:]
    del notes[: len(taken)]
    return taken


def _fits(packet: bytes) -> bool:
    """Whether a packet of 20 ms can be taken as it is: it is in one piece (RFC 6716 section 3.2.2)."""
    return 0 < len(packet) <= LONGEST and not packet[0] & 3


class _Gatherer:
    """Makes stretches of notes."""

    def __init__(self) -> None:
        self._open: list[_Stretch | None] = [None, None]

    def gather(self, taken: Taken, *, last: bool = False) -> list[tuple[int, Any]]:
        """Return what is finished, in order: a side and its stretch, or `_CUT` and a moment. With `last`, all of it."""
        finished: list[tuple[int, Any]] = []
        for side, notes in enumerate(taken.notes):
            stretch = self._follow(side, notes, taken.start, finished)
            if stretch is not None and (last or stretch.times[-1] <= taken.now - taken.start - HOLD):
                finished.append((side, stretch))
                stretch = None
            self._open[side] = stretch
        return finished

    def _follow(self, side: int, notes: list[Any], start: float, finished: list[tuple[int, Any]]) -> _Stretch | None:
        """Add what is finished of one side to `finished`, and return the stretch that is still open."""
        stretch, each = self._open[side], iter(notes)
        until = most = 0.0
        if stretch is not None:
            until, most = stretch.times[0] + STRETCH, stretch.pts + stretch.rate * STRETCH
        for at, rate, pts, part, packet, fresh in zip(each, each, each, each, each, each, strict=True):
            if not rate:
                if stretch is not None:
                    finished.append((side, stretch))
                    stretch = None
                finished.append((_CUT, at - start))
                continue
            at -= start  # noqa: PLW2901
            delay = at - pts / rate
            if (
                stretch is None
                or fresh
                or pts != stretch.end
                or rate != stretch.rate
                or packet is not stretch.packets
                or pts >= most
                or at >= until
                or delay - stretch.last >= PAUSE
            ):
                if stretch is not None:
                    finished.append((side, stretch))
                stretch = _Stretch(rate, pts, packet, fresh)
                until, most = at + STRETCH, pts + rate * STRETCH
            stretch.parts.append(part)
            stretch.times.append(at)
            stretch.end = pts + (rate // UNITS if packet else _length(part))
            stretch.last = delay
            if delay < stretch.least:  # noqa: PLR1730  quicker than `min`
                stretch.least = delay
        return stretch


class _BothSides:
    """Places what an `Intake` has noted.

    Attributes:
        sides: The caller, and what left.
    """

    def __init__(self, ours: _Side, theirs: _Side) -> None:
        self._gatherer = _Gatherer()
        self._sides = ours, theirs

    @property
    def lost(self) -> int:
        """Samples that are missing because there was no place for them, or they came too late."""
        return sum(side.lost for side in self._sides)

    def _place(self, taken: Taken) -> float:
        """Returns up to where nothing changes any more, in seconds."""
        self._add(self._gatherer.gather(taken))
        now = taken.now - taken.start
        for side in self._sides:
            side.place(now - SILENT)
        return now - REACH

    def _finish(self, taken: Taken) -> float:
        """Returns the end of the recording: frames that have begun by `taken.now` are whole."""
        self._add(self._gatherer.gather(taken, last=True))
        for side in self._sides:
            side.finish()
        now, rate = taken.now - taken.start, self._sides[0].rate
        last = max(side.end for side in self._sides) / rate
        return max(now, min(last, now + LEAP))

    def _add(self, events: list[tuple[int, Any]]) -> None:
        for side, what in events:
            if side == _CUT:
                self._sides[1].drop_after(what)
            else:
                self._sides[side].add(what)


class Timeline(_BothSides):
    """Places what an `Intake` has noted, and gives both sides as stereo.

    Args:
        sample_rate: Hz, of the recording. Other rates are converted.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rows = _SampleSide(sample_rate, slots=False), _SampleSide(sample_rate, slots=True)
        super().__init__(*self._rows)
        self.sample_rate: int = sample_rate
        self._taken = 0
        self._block = np.empty((sample_rate, 2), np.int16)  # used again: fresh memory must be cleared first

    def place(self, taken: Taken) -> Iterator[NDArray[np.int16]]:
        """Give what is settled since the last call, in blocks: int16, shape (2, n), the caller first.

        A block is good until the next one is asked for. Take them all.
        """
        yield from self._take(int(self._place(taken) * self.sample_rate))

    def finish(self, taken: Taken) -> Iterator[NDArray[np.int16]]:
        """Give the rest, up to `taken.now` and to the end of frames that have begun by then; no more may come."""
        yield from self._take(round(self._finish(taken) * self.sample_rate))

    def _take(self, until: int) -> Iterator[NDArray[np.int16]]:
        for begin in range(self._taken, until, self.sample_rate):
            self._taken = end = min(until, begin + self.sample_rate)
            out = self._block[: end - begin].T  # interleaved, as files want it
            for side, row in zip(self._rows, out, strict=True):
                side.take(end, row)
            yield out


class PacketTimeline(_BothSides):
    """As a `Timeline`, but gives packets, as far as there are any.

    The caller's are at most 16 ms off their places, and so is what left from its place beside the caller's.
    """

    def __init__(self) -> None:
        self._rows = _PacketSide(slots=False), _PacketSide(slots=True)
        super().__init__(*self._rows)
        self._given = 0  # milliseconds

    def place(self, taken: Taken) -> Iterator[list[tuple[Piece, Piece]]]:
        """Give what is settled since the last call: for each 20 ms, the caller's piece and what left."""
        until = int(self._place(taken) * GRID)
        for side in self._rows:
            side.end = max(side.end, until)
        yield from self._take(until - 2 * SLOT)  # a piece behind a slot may belong there

    def finish(self, taken: Taken) -> Iterator[list[tuple[Piece, Piece]]]:
        """As `Timeline.finish`."""
        yield from self._take(round(self._finish(taken) * GRID))

    def _take(self, until: int) -> Iterator[list[tuple[Piece, Piece]]]:
        while self._given < until:  # a second at a time: other writers wait for the one that encodes
            yield self._pairs(min(until, self._given + GRID))

    def _pairs(self, until: int) -> list[tuple[Piece, Piece]]:
        ours, theirs = self._rows
        pairs: list[tuple[Piece, Piece]] = []
        left = -(-(until - self._given) // SLOT)
        while left:
            slot = self._given
            count, heard = ours.look(slot, 0, left)
            count, said = theirs.look(slot, ours.error, count)
            silence = [None] * count
            pairs += islice(zip(heard or silence, said or silence, strict=False), count)
            ours.used(count, heard)
            theirs.used(count, said)
            left -= count
            self._given += count * SLOT
        return pairs
