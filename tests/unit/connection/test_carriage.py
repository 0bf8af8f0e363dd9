"""Which transport carries a call: laws over any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtcflow.connection.carriage import Carriage

SECONDS = 30.0

events = st.lists(
    st.tuples(
        st.sampled_from(["lost", "offered", "connected"]),
        st.integers(0, 5),  # of the transport, for lost and connected
        st.floats(0, 20),  # seconds since the event before
    ),
    max_size=30,
)


def run(events):
    """The states after each event, with the event and its time."""
    state, now = Carriage(SECONDS), 0.0
    yield state, state, ("begun", 0), now
    for event, number, later in events:
        before, now = state, now + later
        if event == "lost":
            state = before.lost(number, now)
        elif event == "offered":
            state = before.offered(now)
        else:
            state = before.connected(number)
        yield before, state, (event, number), now


@given(events)
def test_what_an_earlier_transport_reports_changes_nothing(events):
    """Neither its failure nor its success; and numbers only grow."""
    for before, after, (event, number), _ in run(events):
        if event in {"lost", "connected"} and number != before.number:
            assert after == before
        assert after.number - before.number == (event == "offered")


@given(events)
def test_a_call_waits_so_many_seconds_from_its_loss_and_not_longer(events):
    """Attempts to come back that fail do not begin the time anew; while live there is no deadline."""
    lost_at = None
    for _, state, _, now in run(events):
        lost_at = None if not state.is_suspended else now if lost_at is None else lost_at
        assert state.since == lost_at
        assert state.deadline == (None if lost_at is None else lost_at + SECONDS)
        assert state.is_over(now) == (lost_at is not None and not state.pending and now >= lost_at + SECONDS)


@given(events)
def test_only_what_was_offered_carries_the_call(events):
    """A suspended call becomes live by the transport that was offered last, and by nothing else."""
    for before, after, (event, number), _ in run(events):
        if before.is_suspended and not after.is_suspended:
            assert (event, number) == ("connected", before.number)
            assert before.pending
        if not before.is_suspended and after.is_suspended:
            assert event in {"lost", "offered"}
        assert after.is_suspended or not after.pending
