"""Playout as arithmetic: when audio leaves, what is dropped, and that nothing waits for good."""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow._core.player import MOST_WAITING_LIVE
from rtcflow.exceptions import MediaError
from rtcflow.media import playout as playout_module
from rtcflow.media.playout import (
    EVEN,
    LONG_CHUNK,
    MAX_LAG,
    PARTIAL_WAIT,
    SHED_AFTER,
    SHED_EVERY,
    Latency,
    Playout,
    PlayoutFrame,
)

RATE = 8000
SIZE = RATE // 50
FRAME = 0.02


class Line:
    """A playout and a transport that pops on time; remembers when each frame left.

    Frames pushed by `frame` hold their number in every sample, so that what left can be told.
    """

    def __init__(self, latency: Latency = Latency.BUFFERED, **options: Any) -> None:
        self.playout = Playout(RATE, latency=latency, **options)
        self.left: list[tuple[float, PlayoutFrame]] = []
        self.now = 0.0

    def run_until(self, now: float) -> None:
        while (deadline := self.playout.next_deadline(self.now)) is not None and deadline <= now:
            self.now = max(self.now, deadline)
            frame = self.playout.pop(self.now)
            assert frame is not None, "a deadline at which nothing was due"
            self.left.append((self.now, frame))
            figures = self.playout.statistics()
            assert figures.queued == figures.played + figures.dropped + figures.waiting
        self.now = max(self.now, now)

    def push(self, samples: Any, now: float) -> None:
        self.run_until(now)
        self.playout.push(samples, now)
        self.run_until(now)

    def frame(self, number: int, now: float) -> None:
        self.push(np.full((1, SIZE), number % 30_000 + 1000, np.int16), now)

    def latencies(self, since: float) -> list[float]:
        """Of frame n, which was made at n * FRAME: by how much later it left."""
        return [now - (int(left.frame.samples[0, -1]) - 1000) * FRAME for now, left in self.left if now >= since]

    def samples(self) -> Any:
        return np.concatenate([np.empty((1, 0), np.int16), *(left.frame.samples for _, left in self.left)], axis=1)


def count_up(n: int, start: int = 0) -> Any:
    return (np.arange(start, start + n) % 60_000 - 30_000).astype(np.int16)[np.newaxis]


# -- the schedule


@pytest.mark.parametrize("hours", [0.2, pytest.param(24, marks=pytest.mark.nightly)])
def test_deadlines_do_not_drift(hours: float) -> None:
    """Hours of frames, each popped a little late, end where they must to the microsecond."""
    playout = Playout(50)
    playout.push(np.zeros((1, int(hours * 3600 * 50)), np.int16), 1000.0)
    for n in itertools.count():
        deadline = playout.next_deadline(1000.0)
        if deadline is None:
            break
        assert abs(deadline - (1000.0 + n * FRAME)) < 1e-6
        assert playout.pop(deadline + 0.013 * (n % 7 == 6)) is not None
    assert playout.statistics().gaps == 0


def test_nothing_leaves_before_its_time() -> None:
    """The first frame is due when it comes, the others one frame apart."""
    playout = Playout(RATE)
    assert playout.next_deadline(5.0) is None
    assert playout.pop(5.0) is None
    playout.push(count_up(2 * SIZE), 5.0)
    assert playout.next_deadline(5.0) == 5.0
    assert playout.pop(5.0) is not None
    assert playout.next_deadline(5.0) == pytest.approx(5.02)
    assert playout.pop(5.019) is None
    assert playout.pop(5.02) is not None
    assert playout.queued_seconds == 0


def test_overdue_frames_leave_at_once() -> None:
    """A handler that was late by less than max_lag has its frames played, all of them, and is on time again."""
    line = Line()
    for number in range(10):
        line.frame(number, max(number * FRAME, 0.13 if number >= 2 else 0))
    assert [round(now, 6) for now, _ in line.left] == [0, 0.02, *[0.13] * 5, 0.14, 0.16, 0.18]
    assert line.playout.statistics().gaps == 0
    assert [left.frame.pts for _, left in line.left] == [n * SIZE for n in range(10)]
    assert [left.talkspurt for _, left in line.left] == [True, *[False] * 9]


def test_silence_counts_in_media_time() -> None:
    """After a pause the schedule starts anew, at the media time that the clock says, in whole frames."""
    line = Line()
    line.frame(0, 0.0)
    line.frame(1, 1.033)
    line.frame(2, 1.053)
    assert [left.frame.pts // SIZE for _, left in line.left] == [0, 51, 52]
    assert [left.talkspurt for _, left in line.left] == [True, True, False]
    assert line.playout.statistics().gaps == 1


def test_media_time_stays_with_the_clock_over_many_pauses() -> None:
    """What whole frames leave over at each pause does not add up."""
    line = Line()
    for n in range(500):
        line.frame(n, n * 0.333)
    now, last = line.left[-1]
    assert 0 <= now - last.frame.pts / RATE < FRAME


def test_a_lead_lets_frames_leave_before_their_time() -> None:
    """With a lead of 60 ms three frames leave at once, the others that much early; each 20 ms apart."""
    line = Line(ahead=0.06)
    line.push(count_up(6 * SIZE), 1.0)
    line.run_until(2.0)
    assert [round(now, 6) for now, _ in line.left] == [1.0, 1.0, 1.0, 1.0, 1.02, 1.04]


def test_a_lead_is_no_slack() -> None:
    """A live handler's frames leave when they come, lead or not, and the lead is still there when it is needed."""
    line = Line(ahead=0.06)
    for n in range(200):
        line.frame(n, n * FRAME)
    assert max(line.latencies(0)) == pytest.approx(0)
    line.push(count_up(6 * SIZE), 4.0)
    line.run_until(5.0)
    assert [round(now, 6) for now, _ in line.left[200:]] == [4.0, 4.0, 4.0, 4.0, 4.02, 4.04]


@pytest.mark.parametrize("first", [0.0, 0.0015, 0.012])
def test_what_comes_evenly_waits_for_nothing(first: float) -> None:
    """However late the first frame came: a second later each of the others leaves when it comes, within half a ms."""
    line, chance = Line(), random.Random(1)
    came = [n * FRAME + (first if n == 0 else chance.uniform(0.002, 0.003)) for n in range(150)]
    for n, now in enumerate(came):
        line.frame(n, now)
    waited = [now - at for (now, _), at in zip(line.left, came, strict=True)][100:]
    assert max(waited) <= 0.0005 + 1e-9


@given(
    st.lists(st.floats(0, EVEN), min_size=60, max_size=90),
    st.lists(st.floats(0, 0.9 * MAX_LAG), max_size=60),
    st.floats(0, 0.05),
    st.sampled_from(Latency),
    st.sampled_from([0.0, 0.06]),
)
def test_small_waits_are_taken_back_at_no_price(
    even: list[float], jitter: list[float], first: float, latency: Latency, lead: float
) -> None:
    """After even frames, jitter below `MAX_LAG` makes no gap. No frame leaves later than if waits were left alone."""
    came = [n * FRAME + late for n, late in enumerate([first, *even, *jitter])]
    came = list(itertools.accumulate(came, max))

    def play() -> Line:
        line = Line(latency, ahead=lead)
        for n, now in enumerate(came):
            line.frame(n, now)
        line.run_until(came[-1] + 1)
        return line

    line = play()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playout_module, "EVEN", -1.0)
        before = play()
    assert line.playout.statistics() == before.playout.statistics()
    assert line.playout.statistics().gaps == 0
    assert all(now <= then + 1e-9 for (now, _), (then, _) in zip(line.left, before.left, strict=True))


def test_what_leaves_early_by_a_lead_is_not_taken_back() -> None:
    """The far side is ahead of us by as much as the first frame was late; the schedule stays with it."""
    line = Line(ahead=0.1)
    for n in range(200):
        line.frame(n, max(n * FRAME, 0.09 if n < 5 else 0))
    line.push(count_up(4 * SIZE), 4.0)
    line.run_until(5.0)
    assert [round(now, 6) for now, _ in line.left[200:]] == [4.0, 4.01, 4.03, 4.05]


# -- samples in, frames out


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "push", "push", "run", "clear", "held back"]), st.integers(0, 2000)),
        max_size=40,
    ),
    st.sampled_from(Latency),
    st.sampled_from([0.0, 0.06]),
)
def test_the_figures_add_up(steps: list[tuple[str, int]], latency: Latency, lead: float) -> None:
    """Whatever happens: queued == played + dropped + waiting, frames are whole, media time and deadlines go on."""
    line = Line(latency, ahead=lead)
    playout, pushed = line.playout, 0
    for step, amount in steps:
        match step:
            case "push":
                line.push(count_up(amount, pushed), line.now)
                pushed += amount
            case "run":
                line.run_until(line.now + amount / 2000)
            case "clear":
                waiting = playout.statistics().waiting
                assert playout.clear() == waiting
                assert playout.next_deadline(line.now) is None
            case _:
                playout.held_back()
        figures = playout.statistics()
        assert figures.queued == figures.played + figures.dropped + figures.waiting == pushed
        assert 0 <= figures.shed <= figures.dropped
        assert playout.position == figures.played + figures.shed
        assert playout.queued_seconds == figures.waiting / RATE
    assert all(left.frame.samples.shape == (1, SIZE) for _, left in line.left)
    assert all(a.frame.pts < b.frame.pts for (_, a), (_, b) in itertools.pairwise(line.left))
    assert all(left.deadline <= now + 1e-9 for now, left in line.left)


@given(st.lists(st.tuples(st.integers(0, 900), st.floats(0, 0.3)), max_size=30))
def test_buffered_plays_every_sample(chunks: list[tuple[int, float]]) -> None:
    """In order, once, with nothing but silence in between."""
    line, now, pushed = Line(Latency.BUFFERED), 0.0, 0
    for n, pause in chunks:
        now += pause
        line.push(np.arange(pushed + 1, pushed + n + 1, dtype=np.int16)[np.newaxis], now)
        pushed += n
    line.run_until(now + 10)
    heard = line.samples()[0]
    np.testing.assert_array_equal(heard[heard != 0], np.arange(1, pushed + 1))
    assert line.playout.statistics().dropped == 0


@given(st.integers(1, 5 * SIZE), st.sampled_from(Latency))
def test_chunks_of_any_length_made_in_real_time_leave_no_gap(chunk: int, latency: Latency) -> None:
    """The beginning of a frame waits for its rest: nothing is padded, dropped or played with a pause."""
    line = Line(latency)
    chunks = min(300, 8 * RATE // chunk)
    for n in range(chunks):
        line.push(count_up(chunk, n * chunk), n * chunk / RATE)
    figures = line.playout.statistics()
    assert (figures.gaps, figures.dropped) == (0, 0)
    assert figures.played == len(line.left) * SIZE
    np.testing.assert_array_equal(line.samples(), count_up(figures.played))


def test_the_end_of_an_utterance_is_padded() -> None:
    """A frame whose rest never comes is played with silence, a little later."""
    line = Line()
    line.push(count_up(SIZE + 10), 1.0)
    line.run_until(2.0)
    (_, whole), (now, last) = line.left
    np.testing.assert_array_equal(whole.frame.samples, count_up(SIZE))
    assert now == pytest.approx(1.02 + PARTIAL_WAIT)
    np.testing.assert_array_equal(last.frame.samples[:, :10], count_up(10, SIZE))
    assert not last.frame.samples[:, 10:].any()
    assert line.playout.statistics().played == SIZE + 10


def test_channels_may_vary() -> None:
    """A frame has as many as its first chunk."""
    playout = Playout(RATE)
    playout.push(np.full((1, SIZE // 2), 100, np.int16), 0.0)
    playout.push(np.array([[10], [20]], np.int16).repeat(SIZE, axis=1), 0.0)
    playout.push(np.full((1, SIZE // 2), 7, np.int16), 0.0)
    frames = [playout.pop(1.0), playout.pop(1.02)]
    assert [frame and np.unique(frame.frame.samples, axis=1).tolist() for frame in frames] == [
        [[15, 100]],
        [[7, 10], [7, 20]],
    ]


@pytest.mark.parametrize("rate", [0, -8000, 44_101])
def test_frames_must_be_whole(rate: int) -> None:
    """20 ms must be a whole number of samples."""
    with pytest.raises(MediaError, match="multiple of 50"):
        Playout(rate)


def test_clear_keeps_the_schedule() -> None:
    """What waits is dropped and counted; what is pushed right after is played as if nothing had been."""
    line = Line()
    line.push(count_up(5 * SIZE), 0.0)
    line.run_until(0.03)
    assert line.playout.clear() == 3 * SIZE
    assert line.playout.statistics().dropped == 3 * SIZE
    line.frame(2, 0.03)
    line.run_until(1.0)
    assert [round(now, 6) for now, _ in line.left] == [0, 0.02, 0.04]


def test_a_position_tells_what_of_the_pushed_audio_was_heard() -> None:
    """It stops where a clear cuts, and counts what was shed as passed."""
    line = Line(Latency.LIVE)
    line.push(count_up(10 * SIZE), 0.0)
    line.run_until(0.05)
    start_of_next = line.playout.position + line.playout.statistics().waiting
    assert (line.playout.position, start_of_next) == (3 * SIZE, 10 * SIZE)
    line.playout.clear()
    assert line.playout.position == 3 * SIZE


# -- nothing waits for good


@given(
    st.lists(st.floats(0, MAX_LAG * 0.95), min_size=1, max_size=60),
    st.sampled_from(Latency),
    st.sampled_from([0.0, 0.06]),
)
def test_jitter_never_becomes_lasting_latency(jitter: list[float], latency: Latency, lead: float) -> None:
    """However unevenly a handler emits, 3 s after it emits on time its frames leave when they come; nothing is lost."""
    line = Line(latency, ahead=lead)
    times: list[float] = []
    for n in range(len(jitter) + 200):
        at = n * FRAME + (jitter[n] if n < len(jitter) else 0)
        times.append(max(at, times[-1] if times else 0))
        line.frame(n, times[-1])
    assert max(line.latencies((len(jitter) + 150) * FRAME)) <= 0.0021
    assert line.playout.statistics().gaps == 0
    if latency is Latency.BUFFERED:
        assert line.playout.statistics().dropped == 0


def stalled(latency: Latency, stall: float, seconds: float = 7.0, frame: Any = None) -> Line:
    """An echo whose handler did nothing from second 2 on for `stall` seconds, then all it had missed."""
    line = Line(latency)
    for n in range(int(seconds / FRAME)):
        now = n * FRAME
        now = 2 + stall if 2 <= now < 2 + stall else now
        if frame is None:
            line.frame(n, now)
        else:
            line.push(frame(n), now)
    return line


@given(st.floats(0.0, 0.5))
def test_a_stall_leaves_no_latency_in_live(stall: float) -> None:
    """Three seconds after any stall up to 0.5 s latency is what it was; as much was shed as had to be."""
    line = stalled(Latency.LIVE, stall)
    assert max(line.latencies(0)) < stall + FRAME
    after = line.latencies(2 + stall + 3)
    assert max(after) < 0.01
    assert line.playout.statistics().shed / RATE <= stall + FRAME


def test_a_backlog_behind_the_door_is_found() -> None:
    """An echo that asks for room before each frame, as connections do: its backlog gets in, and is shed."""
    line, upstream = Line(Latency.LIVE), deque[int]()
    for n in range(450):
        now = n * FRAME
        upstream.append(n)
        line.run_until(now)
        if 2 <= now < 2.9:
            continue
        while upstream:
            if line.playout.queued_seconds >= MOST_WAITING_LIVE:
                line.playout.held_back()
                break
            line.frame(upstream.popleft(), now)
    assert max(line.latencies(7.5)) < 0.01


def test_a_stall_loses_nothing_in_buffered() -> None:
    """Every sample is played, late."""
    line = stalled(Latency.BUFFERED, 0.3)
    line.run_until(10)
    assert line.playout.statistics().dropped == 0
    assert len(line.left) == 350


def test_a_short_stall_is_made_up_for_in_buffered() -> None:
    """A backlog of at most max_lag leaves early, whole."""
    line = Line(Latency.BUFFERED)
    for n in range(200):
        line.frame(n, max(n * FRAME, 0.09 if n < 5 else 0))  # the first frame, and so the schedule, is late
    assert line.latencies(0.2)[0] == pytest.approx(0.09)
    assert max(line.latencies(1.2)) == pytest.approx(0)
    assert line.playout.statistics().dropped == 0


@pytest.mark.parametrize("latency", Latency)
@pytest.mark.parametrize("skew", [-2000e-6, 2000e-6])
def test_a_clock_that_runs_fast_or_slow_makes_no_queue_and_no_gap(latency: Latency, skew: float) -> None:
    """A handler whose clock is wrong by 0.3 s in the end (0.2 %: far more than any crystal)."""
    line = Line(latency)
    for n in range(7_500):
        line.frame(n, n * FRAME * (1 + skew))
        assert line.playout.queued_seconds <= FRAME
    figures = line.playout.statistics()
    assert (figures.gaps, figures.dropped) == (0, 0)


def test_silence_is_shed_first() -> None:
    """As long as enough silence waits no speech is cut, and it goes at once."""
    line = stalled(Latency.LIVE, 0.3, frame=lambda n: np.full((1, SIZE), 9 if 110 <= n < 200 else 1000 + n, np.int16))
    numbers = {int(left.frame.samples[0, 0]) for _, left in line.left}
    assert {1000 + n for n in range(349) if not 110 <= n < 200} <= numbers
    assert line.playout.statistics().shed == 14 * SIZE


def test_silence_is_shed_at_once() -> None:
    """All of it at one moment."""
    line = stalled(Latency.LIVE, 0.3, seconds=2.4, frame=lambda n: np.zeros((1, SIZE), np.int16))
    for n in range(120, 200):
        shed = line.playout.statistics().shed
        line.push(np.zeros((1, SIZE), np.int16), n * FRAME)
        if line.playout.statistics().shed > shed:
            break
    assert line.playout.statistics().shed == 14 * SIZE


def test_silence_is_found_in_the_middle_of_chunks() -> None:
    """And what is left of the chunk keeps its order."""
    playout = Playout(RATE, latency=Latency.LIVE)
    speech, silence = np.full((1, SIZE), 1000, np.int16), np.full((1, SIZE), -5, np.int16)
    playout.push(np.concatenate([speech, silence, speech * 2, silence, silence, speech * 3], axis=1), 0.0)
    assert playout.pop(0.0) is not None
    assert playout._shed_silence(2) == 2
    rest = [playout.pop(n * FRAME) for n in range(1, 4)]
    assert [int(frame.frame.samples[0, 0]) for frame in rest if frame] == [2000, -5, 3000]


def test_shedding_speech_makes_no_click() -> None:
    """A sine that is cut has no step larger than its own steepest one and the crossfade's."""
    amplitude, fade = 10_000, RATE // 200
    steepest = amplitude * 2 * np.pi * 440 / RATE

    def sine(n: int) -> Any:
        t = np.arange(n * SIZE, (n + 1) * SIZE)
        return np.rint(amplitude * np.sin(2 * np.pi * 440 * t / RATE)).astype(np.int16)[np.newaxis]

    line = stalled(Latency.LIVE, 0.3, frame=sine)
    assert line.playout.statistics().shed == 14 * SIZE
    heard = line.samples()[0].astype(float)
    assert np.abs(np.diff(heard)).max() <= steepest + 2 * amplitude / fade + 2


def test_speech_is_shed_slowly_enough_to_follow() -> None:
    """Every second frame is made of two, at the most, and not before half a second."""
    line = stalled(Latency.LIVE, 0.3)
    numbers = [int(left.frame.samples[0, 0]) - 1000 for _, left in line.left]
    leaps = [i for i, (a, b) in enumerate(itertools.pairwise(numbers)) if b - a > 1]
    assert len(leaps) == 14
    assert min(b - a for a, b in itertools.pairwise(leaps)) >= SHED_EVERY
    assert line.left[leaps[0]][0] >= 2.3 + SHED_AFTER


def test_a_long_chunk_is_heard_whole() -> None:
    """Two seconds of synthesised speech at once, in live: it drains in real time, and the next one, too."""
    line = Line(Latency.LIVE)
    line.push(count_up(2 * RATE), 0.0)
    line.push(count_up(2 * RATE, 2 * RATE), 1.0)
    line.run_until(10)
    np.testing.assert_array_equal(line.samples(), count_up(4 * RATE))


def test_what_was_held_back_is_heard_whole() -> None:
    """Small chunks made faster than real time, as fast as there is room for, are no backlog; pauses neither."""
    line, pushed = Line(Latency.LIVE), 0
    for _ in range(2000):
        if line.playout.queued_seconds < 1.0:
            speaks = pushed // RATE % 2
            line.push(count_up(SIZE, pushed) * speaks, line.now)
            pushed += SIZE
        else:
            line.playout.held_back()
            line.run_until(line.now + FRAME)
    assert line.playout.statistics().dropped == 0


def test_a_burst_that_drains_is_heard_whole() -> None:
    """A handler that emits half a second in small chunks and then rests produces slower than real time."""
    line = Line(Latency.LIVE)
    for burst in range(5):
        for n in range(25):
            line.push(count_up(SIZE, (burst * 25 + n) * SIZE), burst * 1.0)
    line.run_until(10)
    assert line.playout.statistics().dropped == 0


def test_a_queue_that_empties_is_heard_whole() -> None:
    """A handler that is a little slower than real time needs what is queued."""
    line = Line(Latency.LIVE)
    for n in range(50):
        line.frame(n, 0.0)
    for n in range(90):
        line.frame(50 + n, n * FRAME / 0.7)
    assert line.playout.statistics().dropped == 0


def test_a_backlog_after_a_long_chunk_is_shed() -> None:
    """Only the chunk itself, and what was before it, must be heard."""
    line = Line(Latency.LIVE)
    line.push(count_up(RATE), 0.0)
    line.run_until(1.5)
    for n in range(75, 400):
        line.frame(n, 2.3 if 2 <= n * FRAME < 2.3 else n * FRAME)
    assert line.playout.statistics().shed == 14 * SIZE
    assert max(line.latencies(5.5)) < 0.01


@pytest.mark.parametrize("interruption", ["clear", "held back", "long chunk", "pause"])
def test_shedding_ends_when_its_reason_does(interruption: str) -> None:
    """What is emitted after a clear or a pause, or made ahead of time, is not cut for the backlog before it."""
    line = stalled(Latency.LIVE, 0.5, seconds=3.7)
    shed = line.playout.statistics().shed
    assert 0 < shed < 0.4 * RATE
    speech = count_up(int(1.1 * LONG_CHUNK * RATE))
    match interruption:
        case "clear":
            line.playout.clear()
            line.frame(185, line.now)
        case "held back":
            line.playout.held_back()
        case "pause":  # the backlog is played, and the next reply comes in chunks of 0.1 s
            line.run_until(line.now + 2)
            shed = line.playout.statistics().shed
            assert shed < 0.5 * RATE
            for n in range(100):
                line.frame(200 + n, line.now + 0.1 * (not n % 5))
        case _:
            line.push(speech, line.now)
    line.run_until(line.now + 5)
    assert line.playout.statistics().shed == shed


def test_after_shedding_a_backlog_as_large_is_shed_again() -> None:
    """One stall after the other."""
    line = Line(Latency.LIVE)
    for n in range(800):
        now = n * FRAME
        now = next((stop for start, stop in ((2, 2.3), (8, 8.3)) if start <= now < stop), now)
        line.frame(n, now)
    assert line.playout.statistics().shed == 28 * SIZE
    assert max(line.latencies(12)) < 0.01


@pytest.mark.parametrize("seed", range(6))
def test_after_an_overload_the_latency_comes_back(seed: int) -> None:
    """Live, whoever is late and for how long during an overload: 3 s after it the echo is as late as before."""
    chance, line = random.Random(seed), Playout(8000, latency=Latency.LIVE)
    waiting, said = deque[int](), 0  # what the handler has gathered, by the number of its frame
    handler_free = player_free = 0.0
    latencies: list[tuple[float, float]] = []
    for millisecond in range(9000):
        now = millisecond / 1000
        if millisecond % 20 == 0:
            waiting.append(said)
            said += 1
        while now >= handler_free and waiting:
            line.push(np.full((1, 160), 100 + waiting.popleft(), np.int16), now)
        while now >= player_free and (left := line.pop(now)) is not None:
            number = int(left.frame.samples[0, 0]) - 100
            latencies.append((now, now - number * 0.02))
        if now < 5 and chance.random() < 0.004:
            handler_free = now + 0.6 * chance.random()
        if now < 5 and chance.random() < 0.01:
            player_free = now + 0.4 * chance.random()
    assert max(latency for now, latency in latencies if now < 5) > 1
    over = max(5.0, handler_free, player_free)
    assert max(latency for now, latency in latencies if now > over + 3) < 0.05


@pytest.mark.parametrize("latency", Latency)
def test_a_process_that_is_stopped_again_and_again_sends_everything(latency: Latency) -> None:
    """Stopped for 150 of every 300 ms: frames leave at once when the process runs, and media time skips nothing."""
    line = Line(latency)
    for n in range(500):
        at = n * FRAME
        line.frame(n, at if at % 0.3 < 0.15 else (at // 0.3 + 1) * 0.3)
    assert line.playout.statistics().gaps == 0
    assert line.playout.statistics().dropped == 0
