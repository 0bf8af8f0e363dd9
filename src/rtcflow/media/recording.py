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

The work is split in two. An `Intake` notes each frame as it comes, with a copy of its samples: that is all that the
thread of the media does. A `Timeline` gets the notes from time to time, in the thread that writes the file. There, the
same work for many frames costs a third, because the processor's caches hold it.

What comes and leaves as Opus can be recorded as it is, without coding it again. Then the intake notes packets in place
of samples, and a `PacketTimeline` places them by the same rules. For these a packet is twenty samples at 1000 Hz, whose
value is the packet's number. Then each packet gets the slot of 20 ms that is nearest. What left goes by the caller's
error in that: a slot is taken that makes the error of both sides alike. So the sides are nearer to each other than each
is to its place. That holds also at the moment when a drifting device leaves a slot out.

What left has a slot on our own clock (`PlayoutFrame.slot`). Each talkspurt begins exactly at its slot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat, AudioFrame
from .convert import to_channels
from .doubler import Doubler
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


Note = tuple[int, float, int, int, bytes, bool, bool]
"""A frame, as an `Intake` notes it. In order: its side (0 is the caller's); when it came, or its slot, in seconds on
the timeline; its rate in Hz; its `pts`; its samples in mono or its packet; whether that is a packet; and whether it
must be exactly at that time.
"""

Cut = tuple[int, float]
"""Stands among the notes: `_CUT`, and the moment to which the side that left is cut."""

_CUT: Final = -1


class _Stretch:
    """Frames of one side that follow on each other, none of them later than the one before by `PAUSE`.

    Attributes:
        rate: Hz, of all frames.
        pts: Media time of the first sample; `end` is that after the last one.
        parts: The samples of each frame in mono, int16; or its packet.
        packets: Whether these are packets.
        times: For each frame, when it came, or its slot, in seconds on the timeline.
        fresh: Whether the stretch begins exactly at its first time.
        least: The least delay of a frame: how much later it came than its media time. `last` is that of the last one.
    """

    __slots__ = ("end", "fresh", "last", "least", "most", "packets", "parts", "pts", "rate", "times", "until")

    def __init__(self, note: Note) -> None:
        _, at, self.rate, self.pts, part, self.packets, self.fresh = note
        self.end = self.pts + (self.rate // UNITS if self.packets else len(part) // 2)
        self.most, self.until = self.pts + self.rate * STRETCH, at + STRETCH
        self.last = self.least = at - self.pts / self.rate
        self.parts, self.times = [part], [at]

    def follow(self, note: Note) -> bool:
        """Add a frame, if it belongs to this stretch."""
        _, at, rate, pts, part, packets, fresh = note
        delay = at - pts / rate
        if (
            fresh
            or pts != self.end
            or rate != self.rate
            or packets is not self.packets
            or pts >= self.most
            or at >= self.until
            or delay - self.last >= PAUSE
        ):
            return False
        self.parts.append(part)
        self.times.append(at)
        self.end = pts + (rate // UNITS if packets else len(part) // 2)
        self.last = delay
        self.least = min(self.least, delay)
        return True

    def cut(self, moment: float) -> None:
        """Forget the frames that begin after `moment`."""
        kept = bisect_right(self.times, moment)
        if kept < len(self.times):
            del self.parts[kept:], self.times[kept:]
            self.end = -1  # nothing follows on it

    @property
    def size(self) -> int:
        """The number of all samples."""
        return len(self.parts) * self.rate // UNITS if self.packets else sum(map(len, self.parts)) // 2

    def samples(self) -> NDArray[np.int16]:
        """All samples, shape (n,)."""
        return np.frombuffer(b"".join(self.parts), np.int16)


class _Numbers:
    """A stretch whose frames have become pieces of 20 ms, each of which has a number: what a `_Side` is to place."""

    def __init__(self, stretch: _Stretch, numbers: NDArray[np.int16]) -> None:
        self.rate, self.fresh = GRID, stretch.fresh
        self.pts = round(stretch.pts * GRID / stretch.rate)
        phase = stretch.pts / stretch.rate - self.pts / GRID
        self.last, self.least = stretch.last + phase, stretch.least + phase
        times, count = stretch.times, numbers.shape[0]
        self.times = [times[index * len(times) // count] for index in range(count)]
        size = round((stretch.pts + stretch.size) * GRID / stretch.rate) - self.pts
        self._samples = np.repeat(numbers, SLOT)[:size]

    def cut(self, moment: float) -> None:
        """Forget the pieces that begin after `moment`."""
        del self.times[bisect_right(self.times, moment) :]
        self._samples = self._samples[: SLOT * len(self.times)]

    def samples(self) -> NDArray[np.int16]:
        """The number of the piece in each millisecond, shape (n,)."""
        return self._samples


def _mono(samples: NDArray[np.int16]) -> bytes:
    """A copy of samples of any layout."""
    return samples.tobytes() if len(samples) == 1 else to_channels(samples, 1).tobytes()


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
    """One side of the call: the samples placed so far, from `base` on, and the stretches that wait.

    Args:
        rate: Hz, of what is placed.
        deadband: Seconds by which it may be off.
        slots: Whether the frames' times are slots on our own clock. Then nothing is to be found out about their origin.
    """

    def __init__(self, rate: int, deadband: float, *, slots: bool) -> None:
        self.rate, self._deadband, self._slots = rate, deadband, slots
        self.lost = 0  # samples that were placed too far back
        self.end = self._base = 0
        self._parts: list[NDArray[np.int16]] = []
        self._waiting: deque[_Stretch | _Numbers] = deque()
        self._recent = _Least()
        self._last = float("-inf")  # the delay of the frame placed last
        self._anchor: tuple[int, int, int] | None = None  # rate, pts, and the position of that pts
        self._next = 0  # the pts that follows on
        self._slewing = self._finishing = False
        self._since_slew = 0
        self._run_at = 0  # where the next samples belong
        self._resampler: Resampler | Doubler | None = None

    def add(self, stretch: _Stretch | _Numbers) -> None:
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

    def _place(self, stretch: _Stretch | _Numbers, least: float) -> None:
        rate, pts, at, fresh = stretch.rate, stretch.pts, stretch.times[0], stretch.fresh
        samples, media = stretch.samples(), pts / rate
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
        self._next = pts + samples.shape[0]
        off = min(least, self._recent.get(least)) + media - self._position(pts) / self.rate
        if self._slewing or abs(off) > self._deadband:
            samples = self._slew(samples, off)
        if self._resampler is not None:
            samples = self._resampler.feed(samples[np.newaxis])[0]
        self._put(samples)

    def _begin(self, rate: int, pts: int, at: float) -> None:
        """Let this side's media time begin again: `pts` is at `at` seconds."""
        self._anchor = (rate, pts, round(at * self.rate))
        self._recent = _Least()
        self._slewing = False
        self._begin_run(rate, self._anchor[2])

    def _slew(self, samples: NDArray[np.int16], off: float) -> NDArray[np.int16]:
        """Make it longer or shorter by as many samples as are due: one, if it is short. Samples are interpolated."""
        assert self._anchor is not None  # noqa: S101
        rate, begin, position = self._anchor
        n = samples.shape[0]
        if not self._slewing:
            self._slewing, self._since_slew = True, SLEW
        if abs(off) <= 0.5 / rate:
            self._slewing = False
        self._since_slew += n
        steps = min(self._since_slew // SLEW, round(abs(off) * rate))
        if not self._slewing or not steps or n < 2 * steps:
            return samples
        self._since_slew = 0
        more = steps if off > 0 else -steps
        self._anchor = (rate, begin - more, position)
        at = np.linspace(0, n - 1, n + more)
        if rate == GRID:
            return samples[np.rint(at).astype(np.intp)]
        stretched: NDArray[np.int16] = np.rint(np.interp(at, np.arange(n), samples)).astype(np.int16)
        return stretched

    # -- a run: samples that follow on each other, and go through one resampler

    def _begin_run(self, rate: int, position: int) -> None:
        self._end_run()
        self._run_at = position
        if rate != self.rate:
            doubles = self.rate == 2 * rate
            self._resampler = Doubler() if doubles else Resampler(AudioFormat(rate), AudioFormat(self.rate))

    def _end_run(self) -> None:
        if self._resampler is not None:
            self._put(self._resampler.flush()[0])
            self._resampler = None

    def _put(self, samples: NDArray[np.int16]) -> None:
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
        """Write the samples from `base` to `until` into `out`, shape (until - base,); `base` is `until` then."""
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
        self._base = until

    def finish(self) -> None:
        self._finishing = True  # too little is known of the last frames' lateness
        self.place(float("inf"))
        self._end_run()


class Taken(NamedTuple):
    """What an `Intake` has noted, for a `Timeline`.

    Attributes:
        notes: In order.
        now: The latest moment that the intake knows of, in seconds on the timeline.
    """

    notes: list[Note | Cut]
    now: float


class Intake:
    """Notes what the caller said and what left for the caller.

    `now` and slots are seconds on one clock, the same for both sides. Nothing here takes longer than some microseconds.

    Args:
        start: When the recording begins. Audio from before is left out.

    Attributes:
        marks: Where audio was cleared.
        notes: What waits to be taken.
    """

    def __init__(self, start: float) -> None:
        self.marks: list[Mark] = []
        self.notes: list[Note | Cut] = []
        self._start = self._now = start
        self._cleared = float("-inf")
        self._packets: tuple[dict[int, bytes], dict[int, bytes]] = {}, {}  # by pts, of frames that are still to come
        self._lost = b""  # stands for a lost packet of the caller's

    def packet(self, side: int, pts: int, payload: bytes) -> None:
        """Note the Opus packet of the next frame of that side, which has that pts. From any thread."""
        packets = self._packets[side]
        if len(packets) >= UNITS:  # frames that were cleared
            packets.clear()
        packets[pts] = payload

    def _packet_of(self, side: int, frame: AudioFrame) -> bytes | None:
        """The packet of `frame`, if it can be used: it holds 20 ms in one piece (RFC 6716 section 3.2.2)."""
        packet = self._packets[side].pop(frame.pts, None)
        fits = frame.samples.shape[1] * UNITS == frame.sample_rate
        if packet:
            return packet if fits and not packet[0] & 3 and len(packet) <= LONGEST else None
        return self._lost if fits and frame.concealed and self._lost else None

    def heard(self, frame: AudioFrame, now: float) -> None:
        """The caller's `frame` has come."""
        samples, rate, pts, _ = frame
        packet = None
        if self._packets[0] or self._lost:
            packet = self._packet_of(0, frame)
            self._lost = packet[:1] if packet else b""
        self._now = max(self._now, now)
        part = _mono(samples) if packet is None else packet
        self.notes.append((0, now - self._start, rate, pts, part, packet is not None, False))

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left for the caller at `now`."""
        frame, fresh, _, slot = due
        samples, rate, pts, _ = frame
        packet = self._packet_of(1, frame) if self._packets[1] else None
        self._now = max(self._now, now)
        if not now <= self._cleared < slot:
            part = _mono(samples) if packet is None else packet
            self.notes.append((1, slot - self._start, rate, pts, part, packet is not None, fresh))

    def cleared(self, now: float, seconds: float) -> None:
        """What waited for the caller was cleared, and so was what had left before its time (telephone)."""
        self._now = self._cleared = max(self._now, now)
        self.notes.append((_CUT, now - self._start))
        if seconds:
            self.marks.append(Mark(now - self._start, seconds))

    def take(self, now: float | None = None) -> Taken:
        """What was noted since the last call; the recording ends at `now`."""
        notes, self.notes = self.notes, []
        return Taken(notes, (self._now if now is None else max(self._now, now)) - self._start)


class _Gatherer:
    """Makes stretches of notes."""

    def __init__(self) -> None:
        self._open: list[_Stretch | None] = [None, None]

    def gather(self, taken: Taken, *, last: bool = False) -> list[tuple[int, Any]]:
        """Return what is finished, in order: a side and its stretch, or a `Cut`. With `last`, everything is."""
        finished: list[tuple[int, Any]] = []
        streams = self._open
        for note in taken.notes:
            side = note[0]
            if side == _CUT:
                self._finish(1, finished)
                finished.append(cast("Cut", note))
                continue
            stretch = streams[side]
            if stretch is None or not stretch.follow(cast("Note", note)):
                self._finish(side, finished)
                streams[side] = _Stretch(cast("Note", note))
        for side, stretch in enumerate(streams):
            if stretch is not None and (last or stretch.times[-1] <= taken.now - HOLD):
                self._finish(side, finished)
        return finished

    def _finish(self, side: int, finished: list[tuple[int, Any]]) -> None:
        stretch, self._open[side] = self._open[side], None
        if stretch is not None:
            finished.append((side, stretch))


class Timeline:
    """Places what an `Intake` has noted, and gives both sides as stereo.

    Args:
        sample_rate: Hz, of the recording. Other rates are converted.
        deadband: Seconds by which the caller's side may be off.
    """

    def __init__(self, sample_rate: int, deadband: float = DEADBAND) -> None:
        self.sample_rate: int = sample_rate
        self._gatherer = _Gatherer()
        self._sides = _Side(sample_rate, deadband, slots=False), _Side(sample_rate, deadband, slots=True)
        self._taken = 0
        self._block = np.empty((0, 2), np.int16)  # used again: fresh memory must be cleared first

    @property
    def lost(self) -> int:
        """Samples that are missing because there was no place for them, or they came too late."""
        return sum(side.lost for side in self._sides)

    def place(self, taken: Taken) -> NDArray[np.int16]:
        """Return what is settled since the last call: int16, shape (2, n), n maybe 0; the caller first.

        It is good until the next call.
        """
        return self.place_stretches(self._gatherer.gather(taken), taken.now)

    def place_stretches(self, events: list[tuple[int, Any]], now: float) -> NDArray[np.int16]:
        """As `place`, for what a `_Gatherer` has finished."""
        self._add(events)
        for side in self._sides:
            side.place(now - SILENT)
        return self._take(int((now - REACH) * self.sample_rate))

    def finish(self, taken: Taken) -> NDArray[np.int16]:
        """Return the rest, up to `taken.now` and to the end of frames that have begun by then; no more may come."""
        return self.finish_stretches(self._gatherer.gather(taken, last=True), taken.now)

    def finish_stretches(self, events: list[tuple[int, Any]], now: float) -> NDArray[np.int16]:
        """As `finish`, for what a `_Gatherer` has finished."""
        self._add(events)
        for side in self._sides:
            side.finish()
        until = round(now * self.sample_rate)
        last = max(side.end for side in self._sides)
        return self._take(max(until, min(last, until + round(LEAP * self.sample_rate))))

    def _add(self, events: list[tuple[int, Any]]) -> None:
        for side, what in events:
            if side == _CUT:
                self._sides[1].drop_after(what)
            else:
                self._sides[side].add(what)

    def _take(self, until: int) -> NDArray[np.int16]:
        n = max(0, until - self._taken)
        if n > len(self._block):
            self._block = np.empty((n, 2), np.int16)
        out = self._block[:n].T  # interleaved, as files want it
        if n:
            for side, row in zip(self._sides, out, strict=True):
                side.take(until, row)
            self._taken = until
        return out


Piece = bytes | AudioFrame | None
"""20 ms of one side: a packet of Opus, audio of which there is no packet, or silence."""


class _Row:
    """The pieces of one side, on their way from their moments to slots.

    Attributes:
        error: Milliseconds by which the last piece lies behind its moment.
    """

    def __init__(self) -> None:
        self.error = 0
        self._pieces: dict[int, Piece] = {}
        self._next = 1  # 0 is silence
        self._number = self._begin = 0  # of the piece that the last sample belongs to
        self._waiting: deque[tuple[int, Piece]] = deque()
        self._running = False  # the slot before has a piece

    def number(self, pieces: list[Piece]) -> NDArray[np.int16]:
        """Keep pieces under numbers of their own. Few numbers are in use at a time."""
        first = self._next
        if first + len(pieces) > np.iinfo(np.int16).max:
            first = 1
        self._next = first + len(pieces)
        self._pieces.update(enumerate(pieces, first))
        return np.arange(first, first + len(pieces), dtype=np.int16)

    def add(self, numbers: NDArray[np.int16], begin: int) -> None:
        """Take the numbers of some more milliseconds, from `begin` on."""
        changes = np.flatnonzero(np.diff(numbers, prepend=np.int16(self._number)))
        for at, number in zip((changes + begin).tolist(), numbers[changes].tolist(), strict=True):
            self.end_piece(at)
            self._number, self._begin = number, at

    def end_piece(self, at: int) -> None:
        """The last piece ends there. Less than half of one does not count."""
        piece = self._pieces.pop(self._number, None)
        if piece is not None and at - self._begin >= SLOT // 2:
            self._waiting.append((self._begin, piece))

    def take(self, slot: int, error: int) -> Piece:
        """Return what belongs into the slot that begins there, if pieces are to be behind their moments by `error`."""
        waiting, aim = self._waiting, slot - error
        while waiting and aim - waiting[0][0] > SLOT // 2 + SLACK:
            waiting.popleft()
        self._running = bool(waiting) and waiting[0][0] - aim <= SLOT // 2 + (SLACK if self._running else 0)
        if not self._running:
            return None
        moment, piece = waiting.popleft()
        self.error = slot - moment
        return piece


class PacketTimeline:
    """As a `Timeline`, but gives packets, as far as there are any.

    The caller's are at most 16 ms off their places, and so is what left from its place beside the caller's.
    """

    def __init__(self) -> None:
        self._gatherer = _Gatherer()
        self._timeline = Timeline(GRID, FINE)
        self._rows = _Row(), _Row()
        self._known = self._given = 0  # milliseconds

    def place(self, taken: Taken) -> list[tuple[Piece, Piece]]:
        """Return what is settled since the last call: for each 20 ms, the caller's piece and what left."""
        events = self._number_all(self._gatherer.gather(taken))
        self._add(self._timeline.place_stretches(events, taken.now))
        return self._take(self._known - 3 * SLOT)  # a piece is known when the next one begins

    def finish(self, taken: Taken) -> list[tuple[Piece, Piece]]:
        """As `Timeline.finish`."""
        events = self._number_all(self._gatherer.gather(taken, last=True))
        self._add(self._timeline.finish_stretches(events, taken.now))
        for row in self._rows:
            row.end_piece(self._known)
        return self._take(self._known)

    def _number_all(self, events: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return [(side, what if side == _CUT else self._number(self._rows[side], what)) for side, what in events]

    @staticmethod
    def _number(row: _Row, stretch: _Stretch) -> _Numbers:
        return _Numbers(stretch, row.number(list(stretch.parts) if stretch.packets else _cut_up(stretch)))

    def _add(self, numbers: NDArray[np.int16]) -> None:
        for row, its in zip(self._rows, numbers, strict=True):
            row.add(its, self._known)
        self._known += numbers.shape[1]

    def _take(self, until: int) -> list[tuple[Piece, Piece]]:
        ours, theirs = self._rows
        slots = range(self._given, until, SLOT)
        self._given += SLOT * len(slots)
        return [(ours.take(slot, 0), theirs.take(slot, ours.error)) for slot in slots]


def _cut_up(stretch: _Stretch) -> list[Piece]:
    pieces: list[Piece] = []
    samples, size = stretch.samples()[np.newaxis], stretch.rate // UNITS
    for begin in range(0, samples.shape[1], size):
        piece = samples[:, begin : begin + size]
        if piece.shape[1] < size:
            piece = np.pad(piece, ((0, 0), (0, size - piece.shape[1])))
        pieces.append(AudioFrame(piece, stretch.rate, 0))
    return pieces
