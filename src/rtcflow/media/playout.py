"""Playout as arithmetic: what was queued for the peer, when it is due, and what was dropped.

Pure: `now` comes in (seconds, on any one monotonic clock), frames go out. The thread-safe shell that transports use is
`rtcflow._core.player.Player`.

The schedule. Slot ``k`` of a stretch of audio is due ``k`` frames after its anchor. Deadlines are computed from the
count, never by adding up floats, so 24 hours of frames do not drift. Three cases at a pop:

- In time, or late by less than `max_lag`: the frame leaves now, and its media time follows on. Overdue frames leave one
  after the other at once. So a jitter of the handler up to `max_lag` never becomes lasting latency.
- Late by `max_lag` or more, because the handler was silent or stalled: media time skips the whole frames that were
  missed. An RTP timestamp counts through silence (RFC 3550 section 5.1). The schedule starts again.
- Nothing queued: nothing is due.

Audio can still wait for good in two cases: the frame that set the anchor came late itself, or a stall ended with a
backlog. Both show in the *slack* of frames, the time from the arrival of a frame to its slot. While a handler produces
in real time, the least slack within half a second is needless waiting. CoDel calls that a standing queue (RFC 8289
section 3). If it is small, the schedule moves, and some frames leave early. If it is more, `Latency` decides.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError, renamed
from ..frames import FRAME_SECONDS, AudioFrame
from .convert import to_channels

MAX_LAG: Final = 0.25
"""Seconds a frame may be late and still count as being on schedule. Receivers' buffers still use such frames. We
stopped the process for 150 of every 300 ms. libwebrtc's NetEq had to make up 46 % of the sound with 0.1, and 9 % with
0.15. With 0.2, 0.25 and 0.3 it was 2.2 to 2.7 %. The rest above 0.2 is for timers of a busy machine. A buffer cannot
use later frames; they would only add delay.
"""

SHED_AFTER: Final = 0.5
"""Seconds for which audio must have waited without need before anything is done about it."""

SHED_EVERY: Final = 2
"""While shedding, one of this many frames that are played is made of two: speech runs half as fast again, and can still
be followed.
"""

SHED_AT_ONCE: Final = 0.8
"""A standing queue longer than this (seconds) is cut to it at once. The rest is shed in twice that time, so the delay
is as before 3 s after a stall."""

SILENCE_PEAK: Final = 32
"""Largest sample (of 32768, -60 dBFS) of a frame that may be dropped as silence."""

CROSSFADE: Final = 0.005
"""Seconds over which the audio before a cut fades into the audio after it, so that there is no click."""

LONG_CHUNK: Final = 0.25
"""Seconds. A longer chunk was not made in real time. It is played whole, and so is all that waits before it."""

PARTIAL_WAIT: Final = 2 * FRAME_SECONDS
"""Seconds past its slot for which the beginning of a frame waits for its rest. In real time the rest comes within one
frame, whatever the length of chunks; one more frame is for jitter."""

EVEN: Final = 0.0015
"""Seconds within which frames come evenly. The schedule is then set by the first of them, and the others leave when
they come: a receiver's buffer does not notice. If they come less evenly, only what even the last of them waits is taken
back."""

_TIMER_NOISE = 0.002  # less slack does not move the schedule
_LEAST_WAIT = 0.0005  # nor does less, if frames come evenly


class Latency(enum.Enum):
    """What to do about audio that waits in the playout queue without need."""

    LIVE = "live"
    """The conversation matters more than each sample. A queue may stand for `SHED_AFTER` seconds, while the handler
    produces no faster than real time. Then its frames are shed: silent ones at once, others one by one.
    """

    BUFFERED = "buffered"
    """Every emitted sample is played. If at most `max_lag` stands, it leaves early, as after jitter."""


class PlayoutFrame(NamedTuple):
    """A frame that is due.

    Attributes:
        frame: Exactly one frame's worth of audio (`frame_size` samples); `pts` counts through silence.
        talkspurt: True for the first frame after silence (the RTP marker bit, RFC 3551 section 4.1).
        deadline: When it was due, on the clock of `now`.
        slot: When it is to be heard: its place in the schedule, without `ahead`.
    """

    frame: AudioFrame
    talkspurt: bool
    deadline: float
    slot: float


@dataclass(frozen=True, slots=True)
class PlayoutStatistics:
    """Samples per channel; ``queued == played + dropped + waiting`` always (what is padded is not counted).

    Attributes:
        queued: Pushed since the beginning.
        played: Popped since the beginning.
        dropped: Cleared or shed.
        shed: The part of `dropped` that `Latency.LIVE` shed.
        waiting: Waiting now.
        gaps: How often the audio ran dry and the schedule started again.
    """

    queued: int
    played: int
    dropped: int
    shed: int
    waiting: int
    gaps: int


class Playout:
    """A queue of samples that knows when each frame of them is due.

    Args:
        sample_rate: Hz; what is pushed must have it.
        latency: What to do about audio that waits without need.
        ahead: Seconds by which frames leave before their time, if they are there, for far sides that buffer by
            themselves (telephone).
        max_lag: See the module's text.

    Attributes:
        next_slot: When the next slot is, whether or not anything is queued for it; no frame is due before that. Long
            past before the first push.
        is_late: Whether the last frame was complete only after its slot, so that the next one may come late as well.
    """

    @renamed(lead="ahead")
    def __init__(
        self, sample_rate: int, *, latency: Latency = Latency.BUFFERED, ahead: float = 0.0, max_lag: float = MAX_LAG
    ) -> None:
        if sample_rate <= 0 or sample_rate % 50:
            raise MediaError(f"a playout sample rate of {sample_rate}", "a positive multiple of 50")
        self.sample_rate = sample_rate
        self.frame_size: int = sample_rate // 50
        self.latency = latency
        self.ahead = ahead
        self.max_lag = max_lag
        self._chunks: deque[tuple[NDArray[np.int16], float]] = deque()  # with the time of the push
        self._offset = 0  # samples of the first chunk that were taken
        self._waiting = 0
        self._queued = self._played = self._dropped = self._shed = self._gaps = 0
        self._anchor: float | None = None
        self._slot = 0  # frames since the anchor
        self.next_slot: float = float("-inf")
        self.is_late: bool = False
        self._scheduled = self.next_slot  # without `ahead`
        self._origin = 0.0  # when media time was 0
        self._frame = 0  # media time, in frames
        self._talkspurt = True
        self._precious = 0  # samples at the front of the queue that must be heard
        self._surplus = 0  # frames still to be shed
        self._spared = 0  # frames played since the last one shed
        self._slack = _Slack()

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio waiting."""
        return self._waiting / self.sample_rate

    @property
    def position(self) -> int:
        """How far playing has come in the pushed audio, in samples: played or shed audio counts, cleared audio does
        not.

        A sample was heard if it was pushed when ``position + waiting`` was less than the position is now.
        """
        return self._played + self._shed

    def push(self, samples: NDArray[np.int16], now: float) -> None:
        """Queue `samples`: int16, shape (channels, n), channels 1 or 2, any n. They must not be changed later."""
        n = samples.shape[1]
        if n:
            self._chunks.append((samples, now))
            self._waiting += n
            self._queued += n
            if n > LONG_CHUNK * self.sample_rate:
                self.held_back()

    def held_back(self) -> None:
        """The handler had to wait for room: it produces faster than real time, so its queue is not a backlog."""
        self._precious = self._waiting
        self._surplus = 0

    def next_deadline(self, now: float) -> float | None:
        """When the next `pop` will give a frame (seconds, may be past), or None if nothing is queued."""
        if not self._waiting:
            return None
        if self.is_partial:
            return max(self.next_slot, self._chunks[0][1]) + PARTIAL_WAIT
        return now if self._anchor is None else self.next_slot

    @property
    def is_partial(self) -> bool:
        """Whether less than a frame waits. Its rest may make it due earlier."""
        return 0 < self._waiting < self.frame_size

    def _set_slot(self, slot: int) -> None:
        assert self._anchor is not None  # noqa: S101
        self._slot = slot
        self._scheduled = self._anchor + slot * self.frame_size / self.sample_rate
        self.next_slot = self._scheduled - self.ahead

    def pop(self, now: float, within: float = 0.0) -> PlayoutFrame | None:
        """Take the frame that is due now or `within` seconds; None if there is no such frame."""
        deadline = self.next_deadline(now)
        if deadline is None or deadline > now + (within or 1e-9):
            return None
        if within:
            now = max(now, deadline)
        if self._anchor is None:
            self._anchor = self._origin = now
            self._set_slot(0)
        elif now - self._scheduled >= self.max_lag:
            self._anchor = now
            self._set_slot(0)
            self._frame = max(self._frame, int((now - self._origin) / FRAME_SECONDS + 1e-6))
            self._talkspurt = True
            self._gaps += 1
            self._slack.reset()
        slot = self._scheduled
        samples, complete = self._take_frame()
        self.is_late = complete > slot
        if samples.shape[1] < self.frame_size:
            self._slack.reset()
            samples = np.pad(samples, ((0, 0), (0, self.frame_size - samples.shape[1])))
        elif self._precious:
            self._slack.reset()
        else:
            self._settle(now, slot, complete)
        frame = AudioFrame(samples, self.sample_rate, self._frame * self.frame_size)
        talkspurt, self._talkspurt = self._talkspurt, False
        self._frame += 1
        self._set_slot(self._slot + 1)
        return PlayoutFrame(frame, talkspurt, deadline, slot)

    def clear(self) -> int:
        """Drop all that waits; returns how many samples that were. The schedule stays as it is."""
        dropped = self._waiting
        self._chunks.clear()
        self._offset = self._waiting = self._precious = self._surplus = 0
        self._dropped += dropped
        self._slack.reset()
        return dropped

    def waiting(self) -> list[NDArray[np.int16]]:
        """What waits, in order: int16, each of shape (channels, n). It goes on waiting."""
        rest = [chunk for chunk, _ in self._chunks]
        return [rest[0][:, self._offset :], *rest[1:]] if rest else []

    def statistics(self) -> PlayoutStatistics:
        """The figures now."""
        return PlayoutStatistics(self._queued, self._played, self._dropped, self._shed, self._waiting, self._gaps)

    # -- the queue

    def _take_frame(self) -> tuple[NDArray[np.int16], float]:
        """The next frame, or what there is of it, and when its last sample was pushed; made of two, if one is shed."""
        size = self.frame_size
        self._spared += 1
        if self._surplus:
            if self._waiting < 2 * size:
                self._surplus = 0  # the queue empties, so it stands no more: what comes later is not shed in its place
            elif self._spared >= SHED_EVERY:
                return self._take_and_shed()
        samples, complete = self._take(size)
        self._played += samples.shape[1]
        return samples, complete

    def _take_and_shed(self) -> tuple[NDArray[np.int16], float]:
        """The next frame, made of two or more."""
        size = self.frame_size
        shed = max(1, self._surplus - round(SHED_AT_ONCE / FRAME_SECONDS))
        shed = min(shed, self._waiting // size - 1)
        samples, complete = self._take((1 + shed) * size)
        self._surplus = self._surplus - shed if self._waiting >= size else 0
        self._slack.reset()
        self._spared = 0
        self._played += size
        self._count_shed(shed * size)
        return _without_middle(samples, size, round(CROSSFADE * self.sample_rate)), complete

    def _take(self, n: int) -> tuple[NDArray[np.int16], float]:
        """Remove up to n samples from the front; channels follow the first chunk taken."""
        n = min(n, self._waiting)
        self._waiting -= n
        if self._precious:
            self._precious = max(0, self._precious - n)
        first, pushed = self._chunks[0]
        channels = first.shape[0]
        parts: list[NDArray[np.int16]] = []
        while n:
            chunk, pushed = self._chunks[0]
            part = chunk[:, self._offset : self._offset + n]
            parts.append(part if part.shape[0] == channels else to_channels(part, channels))
            n -= part.shape[1]
            self._offset += part.shape[1]
            if self._offset == chunk.shape[1]:
                self._chunks.popleft()
                self._offset = 0
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), pushed

    def _count_shed(self, n: int) -> None:
        self._shed += n
        self._dropped += n

    # -- what waits without need

    def _settle(self, now: float, slot: float, complete: float) -> None:
        """Note the slack of one frame; after half a second, take back the least of them."""
        found = self._slack.note(now, slot - complete, self._queued / self.sample_rate, self.queued_seconds)
        if found is None or self._surplus:
            return
        # The last whole frame is not shed: there must be two to make one of.
        standing = max(found.least, found.standing) if found.even else found.standing
        frames = int((standing - self.ahead) / FRAME_SECONDS + 1e-6) - 1
        if self.latency is Latency.LIVE and frames > 0:
            self._surplus = frames - self._shed_silence(frames)
            self._slack.reset()
        elif not found.even:
            return
        elif found.most < -_TIMER_NOISE:
            # Every frame came late, and left when it came. The schedule is ahead, because of audio that was lost on the
            # way here or of a slow clock. It would take the next jitter for a stall.
            self._move(-found.most)
        else:
            even = found.most - found.least <= EVEN
            waits = (found.most if even else found.least) - self.ahead
            if (_LEAST_WAIT if even else _TIMER_NOISE) < waits <= self.max_lag:
                self._move(-waits)

    def _move(self, seconds: float) -> None:
        """Move the schedule: later, or if negative earlier."""
        assert self._anchor is not None  # noqa: S101
        self._anchor += seconds
        self._set_slot(self._slot)
        self._slack.reset()

    def _shed_silence(self, frames: int) -> int:
        """Drop at most this many silent frames, wherever they wait; returns how many were dropped."""
        size, kept, shed = self.frame_size, deque[tuple[NDArray[np.int16], float]](), 0
        begin, self._offset = self._offset, 0
        for chunk, pushed in self._chunks:
            for i in range(begin, chunk.shape[1], size):
                piece = chunk[:, i : i + size]
                if shed < frames and piece.shape[1] == size and _is_silent(piece):
                    shed += 1
                else:
                    kept.append((piece, pushed))
            begin = 0
        self._chunks = kept
        self._waiting -= shed * size
        self._count_shed(shed * size)
        return shed


class _Seen(NamedTuple):
    """What `SHED_AFTER` seconds of audio made in real time were like.

    Attributes:
        least: The least slack of a frame, in seconds.
        most: The most.
        even: Whether these are of audio that came evenly; if not, they may be of long ago, when it did not.
        standing: Seconds of audio that waited all the time.
    """

    least: float
    most: float
    even: bool
    standing: float


class _Slack:
    """How long before their slots frames are there, and how much waits, while they are made in real time."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._queued = self._least = self._most = self._standing = self._peak = 0.0

    def reset(self) -> None:
        """Forget what was seen, and begin again."""
        self._since = None

    def note(self, now: float, slack: float, queued: float, waiting: float) -> _Seen | None:
        """Take note of one frame.

        Args:
            now: When it left.
            slack: Seconds between its being there and its slot.
            queued: Seconds of audio that were pushed so far.
            waiting: Seconds of audio that wait behind it.

        Returns:
            At the end of `SHED_AFTER` seconds, what they were like. None if the handler did not produce in real time:
            about as much as was played, and steadily. Otherwise None: its queue fills or empties.
        """
        if self._since is None:
            self._since, self._queued, self._least, self._most = now, queued, slack, slack
            self._standing = self._peak = waiting
            return None
        # Comparisons, and no `min` and `max`: this runs for each frame.
        if slack < self._least:
            self._least = slack
        elif slack > self._most:
            self._most = slack
        if waiting < self._standing:
            self._standing = waiting
        elif waiting > self._peak:
            self._peak = waiting
        elapsed = now - self._since
        if elapsed < SHED_AFTER:
            return None
        self._since = None
        steady = 0.75 <= (queued - self._queued) / elapsed <= 1.25 and self._peak - self._standing < LONG_CHUNK
        even = self._most - self._least < LONG_CHUNK
        return _Seen(self._least, self._most, even, self._standing) if steady else None


def _is_silent(samples: NDArray[np.int16]) -> bool:
    return bool(samples.max() <= SILENCE_PEAK and samples.min() >= -SILENCE_PEAK)


def _without_middle(samples: NDArray[np.int16], size: int, fade: int) -> NDArray[np.int16]:
    """The first `size` samples, whose end fades into that of all of them."""
    weight = np.linspace(0, 1, fade, dtype=np.float32)
    out = samples[:, :size].copy()
    mixed = out[:, size - fade :] * (1 - weight) + samples[:, samples.shape[1] - fade :] * weight
    out[:, size - fade :] = np.rint(mixed).astype(np.int16)
    return out
