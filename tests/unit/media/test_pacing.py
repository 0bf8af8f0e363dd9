"""The schedule of frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.exceptions import MediaError
from rtcflow.media.pacing import Pacer


@pytest.mark.parametrize("rate", [9.99])
def test_a_day_of_frames_does_not_drift(rate: float) -> None:
    """After 24 hours of frames, each sent a little late, the next deadline is where it must be to the microsecond."""
    pacer = Pacer(rate)
    start = now = 1_000_000.0
    frames = int(rate * 86_400)
    for n in range(frames):
        now = max(now, pacer.next_deadline(now))
        pacer.frame_sent()
        if n % 1000 == 0:
            now += 0.9 / rate
    assert pacer.next_deadline(now) == pytest.approx(start + frames / rate, abs=1e-6)


@given(st.floats(1, 120), st.lists(st.floats(0, 0.5), max_size=30), st.floats(0, 1e6))
def test_frames_never_come_in_bursts(rate: float, stalls: list[float], start: float) -> None:
    """Whatever stalls there are, no two deadlines are closer than one period, and none is later than one ahead."""
    pacer = Pacer(rate)
    now, before = start, None
    for stall in stalls:
        deadline = pacer.next_deadline(now)
        assert now - pacer.max_lag - 1e-9 <= deadline <= now + 1 / rate + 1e-9
        if before is not None:
            assert deadline - before >= 1 / rate - 1e-6
        before = deadline
        now = max(now, deadline) + stall
        pacer.frame_sent()


def test_one_late_frame_is_made_up_for() -> None:
    """A delay within max_lag leaves the schedule as it was."""
    pacer = Pacer(10)
    assert pacer.next_deadline(5.0) == 5.0
    pacer.frame_sent()
    assert pacer.next_deadline(5.25) == pytest.approx(5.1)
    pacer.frame_sent()
    assert pacer.next_deadline(5.25) == pytest.approx(5.2)


def test_a_stall_starts_the_schedule_anew() -> None:
    """What was missed in a stall is not sent in a burst."""
    pacer = Pacer(10, max_lag=0.15)
    pacer.next_deadline(5.0)
    pacer.frame_sent()
    assert pacer.next_deadline(5.26) == 5.26
    pacer.frame_sent()
    assert pacer.next_deadline(5.26) == pytest.approx(5.36)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_must_be_a_positive_number(rate: float) -> None:
    """Anything else is an error that shows it."""
    with pytest.raises(MediaError, match="frame rate"):
        Pacer(rate)
