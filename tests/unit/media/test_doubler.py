"""The cheap way up to twice the sample rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.doubler import Doubler


def sine(hertz, rate):
    return np.rint(20000 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype(np.int16)[np.newaxis]


def doubled(*pieces):
    doubler = Doubler()
    return np.concatenate([*map(doubler.feed, pieces), doubler.flush()], axis=1)


@pytest.mark.parametrize("hertz", [50, 440, 3000, 6000, 9000])
def test_it_is_the_same_sound(hertz):
    """Up to 0.75 of the old Nyquist frequency it is the sine at twice the rate, at its moments, to 60 dB below."""
    wanted, found = sine(hertz, 48000), doubled(sine(hertz, 24000))
    assert found.shape == wanted.shape
    off = (found - wanted)[0, 100:-100].astype(float)
    assert np.sqrt(np.mean(off**2)) < 20000 / np.sqrt(2) / 1000


def test_loud_sound_is_not_wrapped():
    """What goes beyond 16 bits between two samples stays at the limit."""
    square = np.where(np.arange(4800) // 2 % 2, 32767, -32768).astype(np.int16)[np.newaxis]
    found = doubled(square)
    assert np.array_equal(found[:, ::2], square)
    between, alike = found[0, 1:-1:2], square[0, :-1] == square[0, 1:]
    assert np.array_equal(between[alike], square[0, :-1][alike])


@given(st.lists(st.integers(0, 300), max_size=30))
def test_chunking_cannot_be_heard(sizes):
    """The same audio in other pieces gives the same samples, and two for each."""
    audio = np.random.default_rng(0).integers(-20000, 20000, (1, sum(sizes)), np.int16)
    pieces = [audio[:, a:b] for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]
    found = doubled(*pieces)
    assert np.array_equal(found, doubled(audio))
    assert np.array_equal(found[:, ::2], audio)
