"""Both sides of a call on one timeline, for recordings. Pure: frames and `now` come in, stereo blocks go out.

The two sides have clocks of their own. The caller's media time (`AudioFrame.pts`) is counted by the caller's device,
and what left is counted by our playout. A recording that puts frames down as they arrive drifts, and moves at each
jitter. So a frame is placed by its media time. Arrivals only say where a side's media time 0 lies on our clock.

An arrival is late by the network's delay and never early. So the least delay of many frames is the best that can be
known about the origin. Frames that follow on each other are gathered into a *stretch* of up to `STRETCH` seconds, and
placed together: one decision for 25 frames costs a call next to nothing. Each stretch waits `HOLD` seconds before it is
placed, and the frames behind it are looked at:

- They come with the same least delay: nothing moves. Between two such frames the distance is exact to the sample.
- They catch up after a stall: the stall was the network's, and moves nothing either.
- They stay late after a pause of arrivals: the sender has paused without counting, and the side begins again there.
- The least delay of `WINDOW` seconds leaves the deadband: the device's clock runs faster or slower than ours. Single
  samples are then put in or taken out, at most one in `SLEW` samples, until the side is back in place.

The work is split in two. An `Intake` copies each frame's samples as it comes: that is all that the thread of the media
does. A `Timeline` gets the finished stretches from time to time, in the thread that writes the file.

What left has a slot on our own clock (`PlayoutFrame.slot`). Each talkspurt begins exactly at its slot.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat, AudioFrame
from .convert import to_channels
from .playout import PlayoutFrame
from .resample import Resampler, check_sample_rate

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
"""Samples of which one is doubled or left out while a side is moved: 0.2 %, ten times the worst crystals (200 ppm), and
a third of the smallest difference in pitch that is heard."""

PAUSE: Final = 0.1
"""Seconds without an arrival after which lasting lateness is taken for a pause of the sender."""

STEP: Final = 1.0
"""Seconds of lasting lateness after which a side begins again, whatever the reason."""

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


class _Stretch:
    """Frames of one side that follow on each other, none of them later than the one before by `PAUSE`.

    The samples are copied as they come, and nothing is kept of the frames. Frames that are kept would spread a second
    of a call over some thousand objects, and the thread that writes would find each of them far from its processor.

    Attributes:
        rate: Hz, of all frames.
        pts: Media time of the first sample; `end` is that after the last one.
        data: The samples in mono, int16.
        ends: For each frame, the media time after its last sample.
        times: For each frame, when it came, or its slot, in seconds on the timeline.
        fresh: Whether the stretch begins exactly at its first time.
    """

    __slots__ = ("_least", "data", "end", "ends", "fresh", "last", "most", "pts", "rate", "times", "until")

    def __init__(self, samples: NDArray[np.int16], rate: int, pts: int, at: float, *, fresh: bool) -> None:
        self.rate, self.pts, self.fresh, self.end = rate, pts, fresh, pts + samples.shape[1]
        self.most, self.until = pts + rate * STRETCH, at + STRETCH
        self.last = at - pts / rate
        self._least: float | None = None
        self.data = bytearray(_mono(samples))
        self.times, self.ends = array("d", (at,)), array("q", (self.end,))

    def follow(self, samples: NDArray[np.int16], rate: int, pts: int, at: float) -> bool:
        """Add a frame, if it belongs to this stretch."""
        delay = at - pts / rate
        if pts != self.end or rate != self.rate or pts >= self.most or at >= self.until or delay - self.last >= PAUSE:
            return False
        self.data.extend(_mono(samples))
        self.end = end = pts + samples.shape[1]
        self.last = delay
        self.times.append(at)
        self.ends.append(end)
        return True

    @property
    def least(self) -> float:
        """The least delay of a frame: how much later it came than its media time. Asked when no more frames follow."""
        if self._least is None:
            rate, begins = self.rate, (self.pts, *self.ends)
            self._least = min(at - begin / rate for at, begin in zip(self.times, begins, strict=False))
        return self._least

    def cut(self, moment: float) -> None:
        """Forget the frames that begin after `moment`."""
        kept = bisect_right(self.times, moment)
        if kept < len(self.times):
            length = self.ends[kept - 1] - self.pts if kept else 0
            del self.times[kept:], self.ends[kept:], self.data[2 * length :]
            self._least, self.end = None, -1  # nothing follows on it

    def samples(self) -> NDArray[np.int16]:
        """All samples, shape (n,)."""
        return np.frombuffer(self.data, np.int16)


def _mono(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Samples of any layout as (1, n), in one piece of memory."""
    if samples.shape[0] != 1:
        samples = to_channels(samples, 1)
    return samples if samples.strides[1] == 2 else np.ascontiguousarray(samples)


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
    """One side of the call: the samples placed so far, from `base` on, and the stretches that wait."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.lost = 0  # samples that were placed too far back
        self.end = self._base = 0
        self._parts: list[NDArray[np.int16]] = []
        self._waiting: deque[_Stretch] = deque()
        self._recent = _Least()
        self._last = float("-inf")  # the delay of the frame placed last
        self._anchor: tuple[int, int, int] | None = None  # rate, pts, and the position of that pts
        self._next = 0  # the pts that follows on
        self._slewing = self._finishing = False
        self._since_slew = 0
        self._run: list[NDArray[np.int16]] = []  # consecutive, not resampled yet
        self._run_at = 0
        self._resampler: Resampler | None = None

    def add(self, stretch: _Stretch) -> None:
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
            least = min(stretch.least for stretch in self._waiting)
            self._place(self._waiting.popleft(), least)

    def _position(self, pts: int) -> int:
        assert self._anchor is not None  # noqa: S101
        rate, begin, position = self._anchor
        return position + (pts - begin) * self.rate // rate

    def _place(self, stretch: _Stretch, least: float) -> None:
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
        self._recent.forget(at - WINDOW)
        self._recent.add(at, stretch.least)
        assert self._anchor is not None  # noqa: S101
        self._next = pts + samples.shape[0]
        off = min(least, self._recent.get(least)) + media - self._position(pts) / self.rate
        if self._slewing or abs(off) > DEADBAND:
            samples = self._slew(samples, off)
        self._run.append(samples)

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
        if abs(off) <= 1 / rate:
            self._slewing = False
        self._since_slew += n
        steps = min(self._since_slew // SLEW, round(abs(off) * rate))
        if not self._slewing or not steps or n < 2 * steps:
            return samples
        self._since_slew = 0
        more = steps if off > 0 else -steps
        self._anchor = (rate, begin - more, position)
        at = np.linspace(0, n - 1, n + more)
        stretched: NDArray[np.int16] = np.rint(np.interp(at, np.arange(n), samples)).astype(np.int16)
        return stretched

    # -- consecutive frames are resampled together

    def _begin_run(self, rate: int, position: int) -> None:
        self._end_run()
        self._run_at = position
        if rate != self.rate:
            self._resampler = Resampler(AudioFormat(rate), AudioFormat(self.rate))

    def _feed_run(self) -> None:
        if self._run:
            samples = self._run[0] if len(self._run) == 1 else np.concatenate(self._run)
            self._run = []
            if self._resampler is not None:
                samples = self._resampler.feed(samples[np.newaxis])[0]
            self._put(samples)

    def _end_run(self) -> None:
        self._feed_run()
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
        self._feed_run()
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
    """What an `Intake` has gathered, for a `Timeline`.

    Attributes:
        events: What happened, in order: a side (0 is the caller's) and its stretch, or a moment to which to cut.
        now: The latest moment that the intake knows of.
    """

    events: list[tuple[int, Any]]
    now: float


_CUT: Final = -1


class Intake:
    """Gathers what the caller said and what left for the caller.

    `now` and slots are seconds on one clock, the same for both sides. Nothing here takes longer than some microseconds.

    Args:
        start: When the recording begins. Audio from before is left out.

    Attributes:
        marks: Where audio was cleared.
    """

    def __init__(self, start: float) -> None:
        self.marks: list[Mark] = []
        self._start = self._now = start
        self._open: list[_Stretch | None] = [None, None]
        self._events: list[tuple[int, Any]] = []
        self._cleared = float("-inf")

    def heard(self, frame: AudioFrame, now: float) -> None:
        """The caller's `frame` has come."""
        samples, rate, pts, _ = frame
        stretch, at = self._open[0], now - self._start
        self._now = max(self._now, now)
        if stretch is None or not stretch.follow(samples, rate, pts, at):
            self._begin(0, _Stretch(samples, rate, pts, at, fresh=False))

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left for the caller at `now`."""
        (samples, rate, pts, _), fresh, _, slot = due
        stretch, at = self._open[1], slot - self._start
        self._now = max(self._now, now)
        if now <= self._cleared < slot:
            return
        if fresh or stretch is None or not stretch.follow(samples, rate, pts, at):
            self._begin(1, _Stretch(samples, rate, pts, at, fresh=fresh))

    def _begin(self, side: int, stretch: _Stretch) -> None:
        self._finish(side)
        self._open[side] = stretch

    def _finish(self, side: int) -> None:
        stretch, self._open[side] = self._open[side], None
        if stretch is not None:
            self._events.append((side, stretch))

    def cleared(self, now: float, seconds: float) -> None:
        """What waited for the caller was cleared, and so was what had left before its time (telephone)."""
        self._now = self._cleared = max(self._now, now)
        self._finish(1)
        self._events.append((_CUT, now - self._start))
        if seconds:
            self.marks.append(Mark(now - self._start, seconds))

    def take(self, now: float | None = None) -> Taken:
        """What was gathered since the last call; with `now`, all of it, because the recording ends then."""
        for side, stretch in enumerate(self._open):
            if stretch is not None and (now is not None or stretch.times[-1] <= self._now - self._start - HOLD):
                self._finish(side)
        events, self._events = self._events, []
        return Taken(events, max(self._now, self._now if now is None else now))


class Timeline:
    """Places what an `Intake` has gathered, and gives both sides as stereo.

    Args:
        sample_rate: Hz, of the recording. Other rates are converted.
        start: As the intake has it.
    """

    def __init__(self, sample_rate: int, start: float) -> None:
        self.sample_rate = check_sample_rate(sample_rate)
        self._start = start
        self._sides = _Side(self.sample_rate), _Side(self.sample_rate)
        self._taken = 0

    @property
    def lost(self) -> int:
        """Samples that are missing because there was no place for them, or they came too late."""
        return sum(side.lost for side in self._sides)

    def place(self, taken: Taken) -> NDArray[np.int16]:
        """Return what is settled since the last call: int16, shape (2, n), n maybe 0; the caller first."""
        self._add(taken)
        since = taken.now - self._start
        for side in self._sides:
            side.place(since - SILENT)
        return self._take(int((since - REACH) * self.sample_rate))

    def finish(self, taken: Taken) -> NDArray[np.int16]:
        """Return the rest, up to `taken.now` and to the end of frames that have begun by then; no more may come."""
        self._add(taken)
        for side in self._sides:
            side.finish()
        until = round((taken.now - self._start) * self.sample_rate)
        last = max(side.end for side in self._sides)
        return self._take(max(until, min(last, until + round(LEAP * self.sample_rate))))

    def _add(self, taken: Taken) -> None:
        for side, what in taken.events:
            if side == _CUT:
                self._sides[1].drop_after(what)
            else:
                self._sides[side].add(what)

    def _take(self, until: int) -> NDArray[np.int16]:
        out = np.empty((max(0, until - self._taken), 2), np.int16).T  # interleaved, as files want it
        if out.shape[1]:
            for side, row in zip(self._sides, out, strict=True):
                side.take(until, row)
            self._taken = until
        return out
