"""When a peer counts as gone: by ticks, so that this process' own stops count as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtcflow._engine.liveness import TICKS, Liveness, Verdict


def judge(*signs: tuple[int, int]) -> list[Verdict]:
    """The verdicts on `signs`: for each tick, how much was heard in it, and how many refusals came."""
    liveness, heard, refused, verdicts = Liveness(), 0, 0, []
    liveness.tick(0, 0)
    for more_heard, more_refused in signs:
        heard, refused = heard + more_heard, refused + more_refused
        verdicts.append(liveness.tick(heard, refused))
    return verdicts


def test_silence_ends_it_within_the_time() -> None:
    """The last sign of life comes in one tick; 39 silent ones later, within the forty, the peer is gone."""
    verdicts = judge((1, 0), *[(0, 0)] * (TICKS - 1))
    assert verdicts[-1] is Verdict.SILENT
    assert Verdict.SILENT not in verdicts[:-1]


def test_a_silent_peer_is_asked_at_every_other_tick() -> None:
    """From the first on, so that the last sign of a peer that only listens is never old."""
    verdicts = judge((1, 0), *[(0, 0)] * (TICKS - 2))
    asked = [number for number, verdict in enumerate(verdicts) if verdict is Verdict.ASK]
    assert asked == list(range(1, TICKS - 1, 2))


def test_an_unreachable_port_ends_it_after_six_silent_ticks() -> None:
    """Refusals alone end nothing while signs of life come, and those from before the last sign do not count."""
    assert judge((1, 5), (1, 5), (1, 5)) == [Verdict.ALIVE] * 3
    verdicts = judge((1, 0), *[(0, 1)] * 6)
    assert verdicts[-1] is Verdict.UNREACHABLE
    assert Verdict.UNREACHABLE not in verdicts[:-1]
    assert Verdict.UNREACHABLE not in judge((1, 9), *[(0, 0)] * (TICKS - 2))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=60))
def test_a_peer_that_is_heard_is_never_gone(signs: list[tuple[int, int]]) -> None:
    """Whatever comes: the tick in which something was heard ends no call, and silence is short before it does."""
    silent = 0
    for (heard, _), verdict in zip(signs, judge(*signs), strict=True):
        silent = 0 if heard else silent + 1
        if heard:
            assert verdict is Verdict.ALIVE
        if verdict is Verdict.SILENT:
            assert silent >= TICKS - 1
        if verdict is Verdict.UNREACHABLE:
            assert silent >= 6
        if silent >= TICKS - 1:
            assert verdict is Verdict.SILENT
