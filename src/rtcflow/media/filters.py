"""Filters of the caller's audio: noise, echo, gain. Pure: frames in, frames out, and the latency is declared.

A filter gets one frame after the other and returns as much audio as it was given. Samples that it holds back make the
audio later, never shorter. `AudioFilter.latency` says by how much, so times stay right. An echo canceller must know
what the caller hears. `PlayedAudio` keeps that, on the clock of the playout, and gives the part that belongs to a
frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import AudioFormat
from .convert import to_channels
from .playout import PlayoutFrame
from .resample import Converter

LOOK_BACK: Final = 0.04
"""Seconds by which a frame is compared with earlier playout than that of its own moment. A frame counts as left one or
two slots after it has. An echo needs longer than this to come back: each side has a buffer of 20 ms or more."""

KEPT: Final = 2.0
"""Seconds of played audio that are kept."""


@runtime_checkable
class AudioFilter(Protocol):
    """One filter of one call.

    Attributes:
        latency: Seconds by which what comes out is later than what went in.
        needs_played: Whether `feed` is to get what the caller hears.
    """

    latency: float
    needs_played: bool

    def feed(self, samples: NDArray[np.int16], played: NDArray[np.int16] | None) -> NDArray[np.int16]:
        """Filter the next frame. Called in the event loop: it must take less than a millisecond.

        Args:
            samples: int16, shape (channels, n), n mostly 20 ms; not to be changed.
            played: What the caller's device was sent to play in that time, int16, shape (1, n). Zeros where it was
                silent. None unless `needs_played`.

        Returns:
            int16, shape (channels, n).
        """


MakesFilter: TypeAlias = Callable[[AudioFormat], AudioFilter]
"""Makes a filter for one call, whose audio has this format. A class is one, or ``functools.partial`` of a class."""


class FilterChain:
    """Filters, one behind the other.

    Args:
        makers: They make the filters.
        format: Of the audio.

    Attributes:
        latency: Seconds, of all of them together.
        needs_played: Whether one of them does.
        names: Their classes, for errors.

    Raises:
        TypeError: One of them makes something that is not a filter.
    """

    def __init__(self, makers: Sequence[MakesFilter], format: AudioFormat) -> None:
        self._filters = [make(format) for make in makers]
        for made in self._filters:
            if not isinstance(made, AudioFilter):
                raise TypeError(f"{made!r:.80} is not an audio filter: it needs latency, needs_played and feed()")
        self.latency: float = sum(made.latency for made in self._filters)
        self.needs_played: bool = any(made.needs_played for made in self._filters)
        self.names: str = ", ".join(type(made).__qualname__ for made in self._filters)

    def feed(self, samples: NDArray[np.int16], played: NDArray[np.int16] | None) -> NDArray[np.int16]:
        """Filter a frame; see `AudioFilter.feed`.

        Raises:
            MediaError: A filter returned something other than int16 audio of the same length.
        """
        for one in self._filters:
            given: Any = one.feed(samples, played if one.needs_played else None)
            if not isinstance(given, np.ndarray) or given.dtype != np.int16 or given.shape != samples.shape:
                shape = f"{getattr(given, 'dtype', type(given).__name__)} of shape {getattr(given, 'shape', '?')}"
                raise MediaError(f"{shape} from the filter {type(one).__qualname__}", f"int16 of shape {samples.shape}")
            samples = given
        return samples


class PlayedAudio:
    """What has left for the caller, by the time at which it is heard. A `PlayerTap`.

    `left` and `cleared` may be called from any thread; `take` from one.

    Args:
        sample_rate: Hz, of what `take` gives.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._news: deque[tuple[PlayoutFrame | None, float]] = deque(maxlen=1000)
        self._converter = Converter(AudioFormat(sample_rate))
        self._line = np.zeros(round(KEPT * sample_rate), np.int16)  # the last part of the timeline
        self._start: float | None = None  # when its first sample is heard
        self._end: int | None = None  # where the talkspurt goes on, from `_start`
        self._next: float | None = None  # the moment up to which it was taken

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left."""
        self._news.append((due, now))

    def cleared(self, now: float, seconds: float) -> None:  # noqa: ARG002
        """The far side has dropped the audio that it had not played by `now`."""
        self._news.append((None, now))

    def take(self, n: int, now: float) -> NDArray[np.int16]:
        """The audio that was heard while the last `n` samples of the caller were made: int16, shape (1, n).

        It goes on where the last one ended, unless that is more than 0.1 s off `now`, as after a pause of the caller.
        """
        end = now - LOOK_BACK
        begin = end - n / self._rate
        if self._next is None or abs(self._next - begin) > 0.1:
            self._next = begin
        begin, self._next = self._next, self._next + n / self._rate
        if self._start is None:
            self._start = begin - KEPT / 2
        self._move_on(begin + n / self._rate)
        while self._news:
            due, at = self._news.popleft()
            if due is None:
                place = max(0, round((at - self._start) * self._rate))
                self._line[place:] = 0
                self._end = None
            else:
                self._put(due)
        first = round((begin - self._start) * self._rate)
        out = np.zeros((1, n), np.int16)
        if 0 <= first < len(self._line):
            part = self._line[first : first + n]
            out[0, : len(part)] = part
        return out

    def _move_on(self, end: float) -> None:
        """Leave room for half of `KEPT` behind `end`."""
        assert self._start is not None  # noqa: S101
        behind = round((end - self._start) * self._rate) - len(self._line) // 2
        if behind > len(self._line) // 4:
            self._start += behind / self._rate
            kept = self._line[behind:].copy()
            self._line[: len(kept)] = kept
            self._line[len(kept) :] = 0
            if self._end is not None:
                self._end -= behind

    def _put(self, due: PlayoutFrame) -> None:
        assert self._start is not None  # noqa: S101
        slot = round((due.slot - self._start) * self._rate)
        if due.talkspurt or self._end is None or abs(slot - self._end) > self._rate // 20:
            self._converter = Converter(AudioFormat(self._rate))
            self._end = slot
        samples = self._converter.feed(to_channels(due.frame.samples, 1), due.frame.sample_rate)[0]
        begin, self._end = self._end, self._end + len(samples)
        samples = samples[max(0, -begin) :]
        begin = max(0, begin)
        part = self._line[begin : begin + len(samples)]
        part[:] = samples[: len(part)]
