"""The cheap way down to a fraction of the sample rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.frames import AudioFormat
from rtcflow.media.decimate import Decimator
from rtcflow.media.resample import Resampler

SECOND = 48000


def sine(hertz: float, level: float = 0.5) -> np.ndarray:
    return np.rint(level * 32767 * np.sin(2 * np.pi * hertz * np.arange(SECOND) / SECOND)).astype(np.int16)


def db(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(samples[500:-500].astype(np.float64) ** 2))


@pytest.mark.parametrize("hertz", [50, 440, 3000, 6000])
def test_what_can_be_heard_stays_as_it_is(hertz):
    """Up to 6 of 8 kHz it is what libswresample makes of it, in level and time, to 40 dB below."""
    ours = Decimator(3).feed(sine(hertz))
    theirs = Resampler(AudioFormat(48000), AudioFormat(16000)).feed(sine(hertz)[np.newaxis])[0] / 32768
    n = min(len(ours), len(theirs))
    assert n >= 15900
    assert db(ours[:n] - theirs[:n]) < db(theirs) - 40


@pytest.mark.parametrize("hertz", [8600, 10000, 15000, 23000])
def test_what_does_not_fit_is_kept_out(hertz):
    """From 8.6 kHz on nothing folds back: 45 dB down."""
    assert db(Decimator(3).feed(sine(hertz))) < db(sine(hertz) / 32768) - 45


@given(st.lists(st.integers(0, 3000), max_size=30), st.integers(2, 6))
def test_chunking_cannot_be_heard(sizes, factor):
    """The same audio in other pieces gives the same samples; at most 1 ms and half a filter are held back."""
    audio = np.random.default_rng(0).integers(-20000, 20000, sum(sizes), np.int16)
    whole = Decimator(factor).feed(audio)
    pieces = Decimator(factor)
    edges = np.cumsum([0, *sizes])
    got = [pieces.feed(audio[a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate([np.empty(0, np.float32), *got]), whole, atol=1e-6)
    assert len(audio) / factor - len(whole) <= 16 + 12 + 1
