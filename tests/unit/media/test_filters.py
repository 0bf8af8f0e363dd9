"""Filters before turn detection: the chain, and what was played at which time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.exceptions import MediaError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.media.filters import LOOK_BACK, FilterChain, PlayedAudio
from rtcflow.media.playout import PlayoutFrame

RATE = 8000
SIZE = RATE // 50


class Louder:
    """Doubles the samples, and notes what was played."""

    latency, needs_played = 0.01, False

    def __init__(self, format, by=2):
        self.format, self.by, self.seen = format, by, []

    def feed(self, samples, played):
        self.seen.append(played)
        return samples * np.int16(self.by)


class Listening(Louder):
    latency, needs_played = 0.002, True


def ones(n=SIZE):
    return np.ones((1, n), np.int16)


def test_filters_are_in_order_and_their_latencies_add_up():
    """Only those that ask get what was played."""
    chain = FilterChain([Louder, Listening, lambda of: Louder(of, by=5)], AudioFormat(RATE))
    assert chain.latency == pytest.approx(0.022)
    assert chain.needs_played
    played = ones()
    assert (chain.feed(ones(), played) == 20).all()
    assert [one.seen[0] is played for one in chain._filters] == [False, True, False]
    assert chain._filters[0].format == AudioFormat(RATE)
    assert not FilterChain([Louder], AudioFormat(RATE)).needs_played


@pytest.mark.parametrize(
    ("given_back", "words"),
    [
        (None, "NoneType of shape"),
        (np.ones((1, SIZE)), "float64 of shape"),
        (np.ones((1, SIZE - 1), np.int16), r"shape \(1, 159\)"),
        (np.ones(SIZE, np.int16), r"shape \(160,\)"),
    ],
)
def test_a_filter_that_returns_something_else(given_back, words):
    """The error names the filter, what came, and what it has to return."""

    class Wrong(Louder):
        def feed(self, samples, played):
            return given_back

    with pytest.raises(MediaError, match=rf"{words}.*filter .*Wrong.*int16 of shape \(1, 160\)"):
        FilterChain([Wrong], AudioFormat(RATE)).feed(ones(), None)


def test_what_is_not_a_filter():
    """An instance in place of its class is the likely mistake."""
    with pytest.raises(TypeError, match="is not an audio filter: it needs latency, needs_played and feed"):
        FilterChain([lambda _: 7], AudioFormat(RATE))


def leave(played, number, slot, *, first=False, rate=RATE, now=None):
    samples = np.zeros((1, rate // 50), np.int16)
    samples[0, 0] = 20000
    frame = PlayoutFrame(AudioFrame(samples, rate, number * rate // 50), first, slot, slot)
    played.left(frame, slot if now is None else now)


def heard(played, frames, begin):
    """What belongs to so many frames of the caller, the first of which comes at `begin`."""
    return np.concatenate([played.take(SIZE, begin + n * 0.02)[0] for n in range(frames)])


@given(jitter=st.lists(st.floats(0, 0.05), min_size=100, max_size=100), phase=st.floats(0, 0.02))
def test_played_audio_is_where_it_was_heard(jitter, phase):
    """However the caller's frames come, the distance of what was played is exact to the sample."""
    played, out, now = PlayedAudio(RATE), [], 100.0
    for n in range(100):
        if n >= 10:
            leave(played, n, 100.0 + phase + n * 0.02, first=n == 10)
        now = max(now, 100.01 + n * 0.02 + jitter[n])
        out.append(played.take(SIZE, now)[0])
    at = np.flatnonzero(np.concatenate(out) > 10000)
    assert len(at) >= 80
    assert set(np.diff(at)) == {SIZE}
    first_frame = 100.01 + jitter[0]
    assert at[0] / RATE == pytest.approx(100.0 + phase + 0.2 - (first_frame - 0.02 - LOOK_BACK), abs=1 / RATE)


def test_other_rates_and_long_calls():
    """Two minutes of audio at 48 kHz are at their place at 8 kHz, in bounded memory."""
    played = PlayedAudio(RATE)
    size = len(played._line)
    for n in range(6_000):
        leave(played, n, n * 0.02, first=n == 0, rate=48000)
        out = played.take(SIZE, n * 0.02 + 0.06)
    assert len(played._line) == size
    assert int(np.argmax(out[0])) in {0, 1, SIZE - 1}
    assert out.max() > 2000


def test_what_was_cleared_was_not_heard():
    """A carrier that was sent audio ahead of its time drops it."""
    played = PlayedAudio(RATE)
    played.take(SIZE, 0.0)
    for n in range(20):
        leave(played, n, n * 0.02, first=n == 0, now=max(0.0, n * 0.02 - 0.2))
    played.cleared(0.2, 0.2)
    out = heard(played, 30, 0.02)
    assert len(np.flatnonzero(out > 10000)) == 10


def test_silence_and_pauses_of_either_side():
    """Nothing played is zeros; after a pause of the caller the clock counts."""
    played = PlayedAudio(RATE)
    assert not heard(played, 10, 0.0).any()
    assert not played.take(SIZE, 4.0).any()
    leave(played, 0, 5.0, first=True)
    assert played.take(SIZE, 5.0 + LOOK_BACK + 0.02).max() == 20000
