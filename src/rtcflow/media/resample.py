"""Sample rates and channels, converted so that chunking cannot be heard.

The filter is FFmpeg's libswresample (through PyAV). Its state lives on from chunk to chunk. So the same audio, cut
differently, gives the same samples, bit for bit. One 20 ms frame costs 50 to 100 µs; equal formats cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import LAYOUTS, AudioFormat
from .convert import to_channels

if TYPE_CHECKING:
    import av

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 384_000
"""Hz. A sample rate outside of these counts as a mistake. The highest that audio hardware offers is 384 kHz."""

_FILTER_REACH = 64
"""Samples of silence, at the lower of the two rates, that push everything out of the filter: twice the 32 taps of
libswresample's default filter."""

_LONGEST_HOLD = 250
"""This part of a second (4 ms) is twice what the filter holds back at most (at rates from 8 kHz)."""


def check_sample_rate(sample_rate: Any, what: str = "a sample rate") -> int:
    """Return `sample_rate` as an int.

    Raises:
        MediaError: It is not a whole number between 1 and 384 kHz.
    """
    whole = isinstance(sample_rate, (int, np.integer)) and not isinstance(sample_rate, bool)
    if whole and MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        return int(sample_rate)
    raise MediaError(f"{what} of {sample_rate!r}", f"a whole number of Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")


class Resampler:
    """Turns one stream of `source` audio into `target` audio.

    n samples in give n * target / source ± 1 samples out, once flushed. Before that at most 2 ms are held back (for
    rates from 8 kHz). The output is not delayed against the input: its first sample is at the same moment.

    Args:
        source: What is fed.
        target: What comes out. `to_channels` says how channels are mixed.

    Raises:
        MediaError: A sample rate is not between 1 and 384 kHz.
    """

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self.source: AudioFormat = source
        self.target: AudioFormat = target
        self._channels = target.channels
        self._source_rate = check_sample_rate(source.sample_rate)
        self._target_rate = check_sample_rate(target.sample_rate)
        self._fed = self._given = 0
        self._filter = self._new_filter()

    def _new_filter(self) -> av.AudioResampler | None:
        if self._source_rate == self._target_rate:
            return None
        import av

        return av.AudioResampler(format="s16p", layout=self.target.layout, rate=self._target_rate)

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Convert the next samples, of any length.

        Args:
            samples: int16, shape (channels, n); channels 1 or 2, also if `source` says otherwise.

        Returns:
            int16, shape (target channels, n'), n' maybe 0; `samples` itself if nothing had to be done.
        """
        if samples.shape[0] != self._channels:
            samples = to_channels(samples, self._channels)
        if self._filter is None:
            return samples
        self._fed += samples.shape[1]
        out = self._run(self._filter, samples)
        self._given += out.shape[1]
        return out

    def flush(self) -> NDArray[np.int16]:
        """Return what is held back, and begin again.

        Returns:
            int16, shape (target channels, n).
        """
        due = -(-self._fed * self._target_rate // self._source_rate) - self._given
        out = np.empty((self.target.channels, 0), np.int16)
        if self._filter is not None and due > 0:
            # Silence pushes the rest out. (Flushing the filter itself loses streams shorter than its half length.)
            reach = _FILTER_REACH * max(1, -(-self._source_rate // self._target_rate))
            out = self._run(self._filter, np.zeros((self.target.channels, reach), np.int16))[:, :due]
        if self._fed:
            self._fed = self._given = 0
            self._filter = self._new_filter()
        return out

    def _run(self, resampler: av.AudioResampler, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        if not samples.shape[1]:
            return samples
        import av

        # In pieces, because the filter needs many times the memory of one feed. The samples are the same.
        parts = []
        for begin in range(0, samples.shape[1], self._source_rate):
            piece = np.ascontiguousarray(samples[:, begin : begin + self._source_rate])
            frame = av.AudioFrame.from_ndarray(piece, format="s16p", layout=self.target.layout)
            frame.sample_rate = self._source_rate
            parts += [cast("NDArray[np.int16]", out.to_ndarray()) for out in resampler.resample(frame)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((self.target.channels, 0), np.int16), *parts], axis=1)


class Converter:
    """Turns audio of any rate and channels into one format. Both may change from chunk to chunk.

    While the rate stays, chunking cannot be heard. When it changes, what the old filter holds comes first, and a new
    filter begins. Channels may change at any time without that.

    Args:
        target: What comes out.
        live: Whether whole frames must give whole frames at once. Then as much silence as the filter holds back (2 ms
            at most) comes before the first chunk.
    """

    def __init__(self, target: AudioFormat, *, live: bool = False) -> None:
        self.target = target
        self._live = live
        self._resampler: Resampler | None = None

    def feed(self, samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.int16]:
        """Convert the next samples: int16, shape (channels, n), channels 1 or 2.

        Returns:
            int16, shape (target channels, n').

        Raises:
            MediaError: `sample_rate` is not between 1 and 384 kHz, or there are more than two channels; nothing else is
                disturbed.
        """
        resampler = self._resampler
        if resampler is not None and resampler.source.sample_rate == sample_rate:
            return resampler.feed(samples)
        source = AudioFormat(check_sample_rate(sample_rate), LAYOUTS.get(samples.shape[0], "mono"))
        new = Resampler(source, self.target)
        if self._live and sample_rate != self.target.sample_rate:
            new.feed(np.zeros((1, sample_rate // _LONGEST_HOLD), np.int16))
        out = new.feed(samples)
        if self._live:
            out = out[:, max(0, out.shape[1] - samples.shape[1] * self.target.sample_rate // sample_rate) :]
        if resampler is not None and (rest := resampler.flush()).shape[1]:
            out = np.concatenate([rest, out], axis=1)
        self._resampler = new
        return out

    def flush(self) -> NDArray[np.int16]:
        """Return what is held back, at the end of a piece of audio. The next piece begins again."""
        if self._resampler is None:
            return np.empty((self.target.channels, 0), np.int16)
        return self._resampler.flush()
