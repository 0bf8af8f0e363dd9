"""Both sides of a call on one timeline, for recordings. Pure: frames and `now` come in, stereo blocks go out.

The two sides have clocks of their own. The caller's media time (`AudioFrame.pts`) is counted by the caller's device,
and what left is counted by our playout. A recording that puts frames down as they arrive drifts, and moves at each
jitter. So a frame is placed by its media time. Arrivals only say where a side's media time 0 lies on our clock.

An arrival is late by the network's delay and never early. So the least delay of many frames is the best that can be
known about the origin. Each frame waits `HOLD` seconds before it is placed, and the frames behind it are looked at:

- They come with the same least delay: nothing moves. Between two such frames the distance is exact to the sample.
- They catch up after a stall: the stall was the network's, and moves nothing either.
- They stay late after a pause of arrivals: the sender has paused without counting, and the side begins again there.
- The least delay of `WINDOW` seconds leaves the deadband: the device's clock runs faster or slower than ours. Single
  samples are then put in or taken out, at most one in `SLEW` samples, until the side is back in place.

What left has a slot on our own clock (`PlayoutFrame.slot`). Each talkspurt begins exactly at its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat, AudioFrame
from .convert import to_channels
from .playout import PlayoutFrame
from .resample import Resampler, check_sample_rate

HOLD: Final = 2.0
"""Seconds for which a frame waits before it is placed. Longer stalls of a network end most calls."""

REACH: Final = 5.0
"""Seconds between the end of what `Timeline.take` gives and now. A frame that is placed farther back is lost."""

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


class _WaitingFrame(NamedTuple):
    samples: NDArray[np.int16]  # shape (n,)
    rate: int
    pts: int
    at: float  # seconds on the timeline: when it came, or its slot
    fresh: bool  # it begins exactly at `at`

    @property
    def delay(self) -> float:
        return self.at - self.pts / self.rate


class _Least:
    """The least delay among frames, of which the oldest are taken away again."""

    def __init__(self, frames: Iterable[tuple[float, float]] = ()) -> None:
        self._frames: deque[tuple[float, float]] = deque()
        for at, delay in frames:
            self.add(at, delay)

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
    """One side of the call: the samples placed so far, from `base` on, and the frames that wait."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.lost = 0  # samples that were placed too far back
        self.end = self._base = 0
        self._parts: list[NDArray[np.int16]] = []
        self._waiting: deque[_WaitingFrame] = deque()
        self._least, self._recent = _Least(), _Least()
        self._last = float("-inf")  # the delay of the frame placed last
        self._anchor: tuple[int, int, int] | None = None  # rate, pts, and the position of that pts
        self._next = 0  # the pts that follows on
        self._slewing = self._finishing = False
        self._since_slew = 0
        self._run: list[NDArray[np.int16]] = []  # consecutive, not resampled yet
        self._run_at = 0
        self._resampler: Resampler | None = None

    def add(self, frame: _WaitingFrame) -> None:
        self.place(frame.at - HOLD)  # before: so it does not matter when blocks are taken
        self._waiting.append(frame)
        self._least.add(frame.at, frame.delay)

    def drop_after(self, moment: float) -> None:
        """Forget the frames that wait and begin after `moment`."""
        self._waiting = deque(frame for frame in self._waiting if frame.at <= moment)
        self._least = _Least((frame.at, frame.delay) for frame in self._waiting)

    def place(self, until: float) -> None:
        """Place the frames that came until then."""
        while self._waiting and self._waiting[0].at <= until:
            frame = self._waiting.popleft()
            self._place(frame, self._least.get(frame.delay))
            self._least.forget(self._waiting[0].at if self._waiting else float("inf"))

    def _position(self, pts: int) -> int:
        assert self._anchor is not None  # noqa: S101
        rate, begin, position = self._anchor
        return position + (pts - begin) * self.rate // rate

    def _place(self, frame: _WaitingFrame, least: float) -> None:
        samples, rate, pts, at, fresh = frame
        delay, media = frame.delay, pts / rate
        anchor = self._anchor
        if anchor is None or fresh or anchor[0] != rate or pts < self._next:
            self._begin(rate, pts, at if fresh else least + media)
        else:
            off = least + media - self._position(pts) / self.rate
            paused = delay - self._last >= PAUSE and not self._finishing
            if off < -LEAP or off > (PAUSE if paused else STEP):
                self._begin(rate, pts, least + media)
            elif pts != self._next:
                self._begin_run(rate, self._position(pts))
        self._last = delay
        self._recent.forget(at - WINDOW)
        self._recent.add(at, delay)
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
        """Stretch or squeeze a frame by as many samples as are due: one, if it is short. Samples are interpolated."""
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


class Timeline:
    """Places what the caller said and what left for the caller, and gives both as stereo.

    `now` and slots are seconds on one clock, the same for both sides.

    Args:
        sample_rate: Hz, of the recording. Other rates are converted.
        start: When the recording begins, on the clock of `now`. Audio from before is left out.

    Attributes:
        marks: Where audio was cleared.
    """

    def __init__(self, sample_rate: int, start: float) -> None:
        self.sample_rate = check_sample_rate(sample_rate)
        self.marks: list[Mark] = []
        self._start = self._now = start
        self._sides = _Side(self.sample_rate), _Side(self.sample_rate)
        self._cleared = float("-inf")
        self._taken = 0

    @property
    def lost(self) -> int:
        """Samples that are missing because there was no place for them, or they came too late."""
        return sum(side.lost for side in self._sides)

    def heard(self, frame: AudioFrame, now: float) -> None:
        """The caller's `frame` has come."""
        self._now = max(self._now, now)
        samples = to_channels(frame.samples, 1)[0]
        self._sides[0].add(_WaitingFrame(samples, frame.sample_rate, frame.pts, now - self._start, fresh=False))

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left for the caller at `now`."""
        self._now = max(self._now, now)
        if now <= self._cleared < due.slot:
            return
        frame = due.frame
        samples = to_channels(frame.samples, 1)[0]
        slot = due.slot - self._start
        self._sides[1].add(_WaitingFrame(samples, frame.sample_rate, frame.pts, slot, due.talkspurt))

    def cleared(self, now: float, seconds: float) -> None:
        """What waited for the caller was cleared, and so was what had left before its time (telephone)."""
        self._now = self._cleared = max(self._now, now)
        self._sides[1].drop_after(now - self._start)
        if seconds:
            self.marks.append(Mark(now - self._start, seconds))

    def take(self) -> NDArray[np.int16]:
        """Return what is settled since the last call: int16, shape (2, n), n maybe 0; the caller first."""
        since = self._now - self._start
        for side in self._sides:
            side.place(since - HOLD)
        return self._take(int((since - REACH) * self.sample_rate))

    def finish(self, now: float) -> NDArray[np.int16]:
        """Return the rest, up to `now` and to the end of frames that have begun by then; nothing may come later."""
        for side in self._sides:
            side.finish()
        until = round((max(self._now, now) - self._start) * self.sample_rate)
        last = max(side.end for side in self._sides)
        return self._take(max(until, min(last, until + round(LEAP * self.sample_rate))))

    def _take(self, until: int) -> NDArray[np.int16]:
        out = np.empty((2, max(0, until - self._taken)), np.int16)
        if out.shape[1]:
            for side, row in zip(self._sides, out, strict=True):
                side.take(until, row)
            self._taken = until
        return out
