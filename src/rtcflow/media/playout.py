"""What was queued for the peer, when it is due, and what was dropped: playout as arithmetic.

Pure: `now` comes in (seconds, on any one monotonic clock), frames go out. The thread-safe shell that transports use is
`rtcflow.player.Player`.

The schedule. Slot ``k`` of a stretch of speech is due ``k`` frames after its anchor; deadlines are computed from the
count, never by adding up floats, so 24 hours of frames drift by nothing. Three cases at a pop:

- In time, or late by less than `max_lag`: the frame leaves now, its media time follows on. Frames that are overdue
  leave one after the other at once, so a jitter of the handler up to `max_lag` never becomes lasting latency.
- Late by `max_lag` or more (the handler was silent or stalled): media time skips as many whole frames as were missed,
  as RFC 3550 section 5.1 wants of a timestamp that counts also through silence, and the schedule starts anew.
- Nothing queued: nothing is due.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import FRAME_SECONDS, AudioFrame

MAX_LAG = 0.06
"""Seconds a frame may be late and still count as being on schedule: three frames, the order of jitter that a
receiver's buffer absorbs without growing for good."""

SILENCE_PEAK = 32
"""Largest sample (of 32768, −60 dBFS) of a frame that may be dropped as silence."""


class Latency(enum.Enum):
    """What is done about audio that waits in the playout queue without need."""

    LIVE = "live"
    """The conversation matters more than each sample: a queue that stood for `SHED_AFTER` seconds, while the handler
    produced no faster than real time, is shed frame by frame, silence first."""

    BUFFERED = "buffered"
    """Every emitted sample is played."""


SHED_AFTER = 0.5
"""Seconds for which a queue must never have been shorter than what is then shed: a standing queue, after CoDel
(RFC 8289 section 3)."""


@dataclass(frozen=True, slots=True)
class PlayoutFrame:
    """A frame that is due.

    Attributes:
        frame: Exactly one frame's worth of audio (`frame_size` samples); `pts` counts through silence.
        talkspurt: True for the first frame after silence (the RTP marker bit, RFC 3551 section 4.1).
        deadline: When it was due, on the clock of `now`.
    """

    frame: AudioFrame
    talkspurt: bool
    deadline: float


@dataclass(frozen=True, slots=True)
class PlayoutStatistics:
    """Samples per channel; ``queued == played + dropped + waiting`` always (what is padded is not counted).

    Attributes:
        queued: Pushed since the beginning.
        played: Popped since the beginning.
        dropped: Cleared or shed.
        shed: The part of `dropped` that `Latency.LIVE` shed.
        waiting: Waiting now.
        gaps: How often the schedule started anew after having run dry.
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
        latency: Whether a standing queue is shed.
        lead: Seconds by which frames leave before their time, for far sides that buffer by themselves (telephone).
        max_lag: See the module's text.
    """

    def __init__(
        self, sample_rate: int, *, latency: Latency = Latency.BUFFERED, lead: float = 0.0, max_lag: float = MAX_LAG
    ) -> None:
        if sample_rate <= 0 or sample_rate % 50:
            raise MediaError(f"a playout sample rate of {sample_rate}", "a positive multiple of 50")
        self.sample_rate = sample_rate
        self.frame_size = sample_rate // 50
        self.latency = latency
        self.lead = lead
        self.max_lag = max_lag
        self._chunks: deque[NDArray[np.int16]] = deque()
        self._offset = 0  # samples of the first chunk that were played
        self._waiting = 0
        self._queued = self._played = self._dropped = self._shed = self._gaps = 0
        self._anchor: float | None = None
        self._slot = 0  # frames since the anchor
        self._pts = 0
        self._talkspurt = True
        self._partial_since: float | None = None
        self._standing_since: float | None = None
        self._standing = 0

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio waiting."""
        return self._waiting / self.sample_rate

    def push(self, samples: NDArray[np.int16], now: float) -> None:
        """Queue `samples`: int16, shape (channels, n), channels 1 or 2, any n."""
        n = samples.shape[1]
        if n:
            if self.latency is Latency.LIVE and n > 3 * self.frame_size:
                # A long chunk was made ahead of real time: it is meant to be heard, whole.
                self._standing_since = None
            self._chunks.append(samples)
            self._waiting += n
            self._queued += n
            self._partial_since = now

    def held_back(self) -> None:
        """The handler had to wait for room: it produces faster than real time, so its queue is no backlog."""
        self._standing_since = None

    def next_deadline(self, now: float) -> float | None:
        """When the next `pop` will give a frame (seconds, may be past), or None if nothing is queued."""
        if not self._waiting:
            return None
        due = now if self._anchor is None else self._due()
        if self._waiting < self.frame_size and self._partial_since is not None:
            # Less than a frame: give the handler one frame's time to complete it, then play it padded.
            due = max(due, self._partial_since + FRAME_SECONDS)
        return due

    def _due(self) -> float:
        assert self._anchor is not None
        return self._anchor + self._slot * self.frame_size / self.sample_rate - self.lead

    def pop(self, now: float) -> PlayoutFrame | None:
        """Take the frame that is due, or None if none is due yet."""
        deadline = self.next_deadline(now)
        if deadline is None or deadline > now + 1e-9:
            return None
        if self._anchor is None:
            self._anchor, self._slot = now + self.lead, 0
        elif (late := now - self._due()) >= self.max_lag:
            missed = int(late / FRAME_SECONDS)
            self._pts += missed * self.frame_size
            self._anchor, self._slot = now + self.lead, 0
            self._talkspurt = True
            self._gaps += 1
        if self.latency is Latency.LIVE:
            self._shed_standing_queue(now)
        samples = self._take(self.frame_size)
        self._played += samples.shape[1]
        if samples.shape[1] < self.frame_size:
            samples = np.pad(samples, ((0, 0), (0, self.frame_size - samples.shape[1])))
        frame = AudioFrame(samples, self.sample_rate, self._pts)
        out = PlayoutFrame(frame, self._talkspurt, deadline)
        self._pts += self.frame_size
        self._slot += 1
        self._talkspurt = False
        return out

    def clear(self) -> int:
        """Drop all that waits; returns how many samples that were. The schedule stays as it is."""
        dropped = self._waiting
        self._chunks.clear()
        self._offset = self._waiting = 0
        self._dropped += dropped
        self._standing_since = None
        return dropped

    def _take(self, n: int) -> NDArray[np.int16]:
        """Remove up to n samples from the front; channels follow the first chunk taken."""
        first = self._chunks[0]
        if self._offset + n < first.shape[1]:
            out = first[:, self._offset : self._offset + n]
            self._offset += n
            self._waiting -= n
            return out
        if self._offset + n == first.shape[1]:
            out = first[:, self._offset :] if self._offset else first
            self._chunks.popleft()
            self._offset = 0
            self._waiting -= n
            return out
        channels = first.shape[0]
        parts: list[NDArray[np.int16]] = []
        while n and self._chunks:
            chunk = self._chunks[0]
            part = chunk[:, self._offset : self._offset + n]
            if part.shape[0] != channels:
                part = np.repeat(part, 2, axis=0) if channels == 2 else (part.mean(axis=0, keepdims=True)).astype(np.int16)
            parts.append(part)
            n -= part.shape[1]
            self._waiting -= part.shape[1]
            self._offset += part.shape[1]
            if self._offset == chunk.shape[1]:
                self._chunks.popleft()
                self._offset = 0
        return np.concatenate(parts, axis=1)

    def _shed_standing_queue(self, now: float) -> None:
        """Drop what has stood in the queue for `SHED_AFTER` seconds: one frame a pop, silence at once."""
        surplus = self._waiting - self.frame_size
        if surplus < self.frame_size:
            self._standing_since = None
            return
        if self._standing_since is None:
            self._standing_since, self._standing = now, surplus
            return
        self._standing = min(self._standing, surplus)
        if now - self._standing_since < SHED_AFTER:
            return
        frame = self._take(self.frame_size)
        self._shed += frame.shape[1]
        self._dropped += frame.shape[1]

    def statistics(self) -> PlayoutStatistics:
        """The figures now."""
        return PlayoutStatistics(self._queued, self._played, self._dropped, self._shed, self._waiting, self._gaps)
