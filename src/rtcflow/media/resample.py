"""Sample rates and channels, converted so that chunking cannot be heard.

The filter is FFmpeg's libswresample (through PyAV), whose state lives on from chunk to chunk: cutting the same audio
differently gives the same samples, bit for bit. One 20 ms frame costs 50 to 100 µs; equal formats cost nothing.
"""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..frames import LAYOUTS, AudioFormat
from .convert import to_channels

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 384_000
"""Hz; outside of these a sample rate is taken for a mistake (the highest that audio hardware offers is 384 kHz)."""

_FILTER_REACH = 64
"""Samples, at the lower of the two rates, after which the filter has let go of everything: twice the 32 taps that
libswresample's default filter has."""

_LONGEST_HOLD = 250
"""Of a second: 4 ms, and twice what the filter ever holds back (at rates from 8 kHz)."""


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

    n samples in give n * target / source ± 1 samples out, once flushed; before that at most 2 ms are held back (of
    rates from 8 kHz). The output is not delayed against the input: its first sample is at the same moment.

    Args:
        source: What is fed.
        target: What comes out. Channels as `to_channels` has them.

    Raises:
        MediaError: A sample rate is not between 1 and 384 kHz.
    """

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self.source, self.target = source, target
        self._source_rate = check_sample_rate(source.sample_rate)
        self._target_rate = check_sample_rate(target.sample_rate)
        self._fed = self._given = 0
        self._filter = self._new_filter()

    def _new_filter(self) -> AudioResampler | None:
        if self._source_rate == self._target_rate:
            return None
        return AudioResampler(format="s16p", layout=self.target.layout, rate=self._target_rate)

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Convert some more, of any length.

        Args:
            samples: int16, shape (channels, n); channels 1 or 2, also if `source` says otherwise.

        Returns:
            int16, shape (target channels, n'), n' maybe 0; `samples` itself if nothing had to be done.
        """
        samples = to_channels(samples, self.target.channels)
        if self._filter is None:
            return samples
        self._fed += samples.shape[1]
        out = self._run(self._filter, samples)
        self._given += out.shape[1]
        return out

    def flush(self) -> NDArray[np.int16]:
        """Give what is held back, and begin anew as if nothing had ever been fed.

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

    def _run(self, resampler: AudioResampler, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        if not samples.shape[1]:
            return samples
        # Piece by piece: the filter needs many times the memory of what it is fed at once, and gives the same samples.
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
    """Turns audio of any rate and channels, changing as it likes, into one format.

    While the rate stays, the stream is one and chunking cannot be heard. When it changes, what the old filter held is
    given first and a new one begins. Channels may change at any time without that.

    Args:
        target: What comes out.
        live: Whether nothing may wait for more to come: what the filter holds back of the first chunk is made up for by
            as much silence before it (2 ms at the most), so that of whole frames whole frames come out at once.
    """

    def __init__(self, target: AudioFormat, *, live: bool = False) -> None:
        self.target = target
        self._live = live
        self._resampler: Resampler | None = None

    def feed(self, samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.int16]:
        """Convert some more: int16, shape (channels, n), channels 1 or 2.

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
        """Give what is held back: at the end of a piece of audio. The next piece begins anew."""
        if self._resampler is None:
            return np.empty((self.target.channels, 0), np.int16)
        return self._resampler.flush()
