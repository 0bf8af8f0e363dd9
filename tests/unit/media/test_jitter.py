"""Packets in order, nothing waiting without need."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.jitter import (
    MAX_FILL,
    MAX_HELD,
    MAX_MISORDER,
    MAX_PATIENCE,
    MIN_PATIENCE,
    OUTAGE,
    PATIENCE_WINDOW,
    Item,
    JitterBuffer,
    Lost,
    Played,
)

STEP = 960  # 20 ms at 48 kHz
FRAME = 0.02


class Arrival(NamedTuple):
    number: int
    now: float


class Listener:
    """Feeds a buffer and calls `due` in time; remembers what was played when. Payloads are the packets' indices."""

    def __init__(self, first_sequence: int = 0, first_timestamp: int = 0) -> None:
        self.buffer = JitterBuffer[int]()
        self.first_sequence, self.first_timestamp = first_sequence, first_timestamp
        self.items: list[Item[int]] = []
        self.played_at: dict[int, float] = {}

    def packet(self, index: int, now: float, timestamp: int | None = None) -> list[Item[int]]:
        self.run_until(now)
        sequence = (self.first_sequence + index) & 0xFFFF
        timestamp = index * STEP if timestamp is None else timestamp
        return self.note(self.buffer.feed(sequence, (self.first_timestamp + timestamp) & 0xFFFFFFFF, index, now), now)

    def run_until(self, now: float) -> None:
        while (deadline := self.buffer.next_deadline()) is not None and deadline <= now:
            assert self.note(self.buffer.due(deadline), deadline), "a deadline at which nothing was due"

    def note(self, items: list[Item[int]], now: float) -> list[Item[int]]:
        self.items += items
        self.played_at |= {item.payload: now for item in items if isinstance(item, Played)}
        return items

    def hear(self, arrivals: list[Arrival]) -> None:
        for index, now in arrivals:
            self.packet(index, now)

    def played(self) -> list[int]:
        return [item.payload for item in self.items if isinstance(item, Played)]

    def lost(self) -> list[Lost[int]]:
        return [item for item in self.items if isinstance(item, Lost)]


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    """One second or two of packets, each lost, doubled or late as it comes."""
    n = draw(st.integers(1, 80))
    fates = draw(st.lists(st.tuples(st.sampled_from("=======-2"), st.floats(0, 0.15)), min_size=n, max_size=n))
    calm = draw(st.booleans())
    out = []
    for index, (fate, late) in enumerate(fates):
        copies = {"=": 1, "-": 0, "2": 2}[fate] if index else 1
        out += [Arrival(index, index * FRAME + (0 if calm else late) + 0.001 * copy) for copy in range(copies)]
    return sorted(out, key=lambda arrival: arrival.now)


@given(arrivals(), st.sampled_from([0, 65_500, 65_535]), st.sampled_from([0, 2**32 - 5 * STEP]))
def test_packets_are_played_in_order_or_said_to_be_lost(
    heard: list[Arrival], first_sequence: int, first_timestamp: int
) -> None:
    """Loss, doubles, disorder, numbers that wrap: each is played once, in order, at its media time, or lost."""
    first = heard[0].number
    listener = Listener(first_sequence, first_timestamp)
    listener.hear(heard)
    listener.note(listener.buffer.due(math.inf), math.inf)
    played = listener.played()
    assert played == sorted(set(played))
    expected = first
    for item, following in zip(listener.items, [*listener.items[1:], None], strict=True):
        if isinstance(item, Lost):
            assert isinstance(following, Played)
            assert item.following == following.payload
            assert 0 <= item.fill <= item.packets
            assert item.fill * STEP <= MAX_FILL * 48_000
            assert item.pts == following.pts - item.fill * STEP
            expected += item.packets
        else:
            assert item.payload == expected
            assert item.pts == (item.payload - first) * STEP
            assert not item.restarted
            expected += 1
    figures = listener.buffer.statistics()
    assert figures.received == len(heard)
    assert figures.played == len(played)
    assert figures.lost == sum(item.packets for item in listener.lost())
    assert figures.received == figures.played + figures.late + figures.duplicates + figures.strays + figures.held
    assert figures.held == 0


@given(arrivals())
def test_nothing_waits_longer_than_the_greatest_patience(heard: list[Arrival]) -> None:
    """And what comes when nothing is missing does not wait at all."""
    listener = Listener()
    first_arrival: dict[int, float] = {}
    for index, now in heard:
        first_arrival.setdefault(index, now)
        waiting = listener.buffer.statistics().held
        listener.packet(index, now)
        if not waiting and listener.buffer.next_deadline() is None and index in listener.played_at:
            assert listener.played_at[index] == first_arrival[index]
    listener.run_until(math.inf)
    for index, played_at in listener.played_at.items():
        assert played_at - first_arrival[index] <= MAX_PATIENCE + 1e-9


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=100))
def test_uneven_but_ordered_packets_are_played_on_arrival(gaps: list[float]) -> None:
    """Jitter alone makes no delay."""
    listener, now = Listener(), 0.0
    for index, gap in enumerate(gaps):
        now += gap
        assert listener.packet(index, now) == [Played(index, index * STEP)]
    assert listener.buffer.next_deadline() is None


@pytest.mark.parametrize("trouble", ["one lost", "two swapped", "five lost", "all at once"])
def test_the_delay_afterwards_is_what_it_was(trouble: str) -> None:
    """Once the trouble is over every packet is played when it comes."""
    heard = [Arrival(index, index * FRAME) for index in range(200)]
    match trouble:
        case "one lost":
            del heard[50]
        case "two swapped":
            heard[50:52] = [Arrival(51, heard[50].now), Arrival(50, heard[50].now + 0.001)]
        case "five lost":
            del heard[50:55]
        case "all at once":
            heard[50:65] = [Arrival(index, 65 * FRAME) for index in range(50, 65)]
    listener = Listener()
    listener.hear(heard)
    assert all(listener.played_at[index] == now for index, now in heard if index > 66)
    assert sum(item.packets for item in listener.lost()) == {"one lost": 1, "five lost": 5}.get(trouble, 0)


def test_one_hole_is_one_loss_and_all_that_waited_behind_it_is_played() -> None:
    """Giving up a hole says so once, and gives every packet that waited behind it, in order."""
    buffer = JitterBuffer[int]()
    for n in (0, 2, 3, 4):
        buffer.feed(n, 960 * n, n, 0.0)
    lost, *played = buffer.due(1.0)
    assert isinstance(lost, Lost)
    assert lost.packets == 1
    assert [item.payload for item in played if isinstance(item, Played)] == [2, 3, 4]
    assert len(played) == 3


def test_a_lost_packet_can_be_made_up_with_the_one_after_it() -> None:
    """After a short wait the loss is said, with the payload that may hold its FEC; then that packet is played."""
    listener = Listener()
    listener.packet(0, 0.0)
    assert listener.packet(2, 0.04) == []
    assert listener.buffer.next_deadline() == pytest.approx(0.04 + MIN_PATIENCE)
    assert listener.buffer.due(0.045) == []
    assert listener.buffer.due(0.04 + MIN_PATIENCE) == [
        Lost(packets=1, fill=1, pts=STEP, step=STEP, following=2),
        Played(2, 2 * STEP),
    ]


def test_only_the_end_of_a_long_hole_is_made_up() -> None:
    """Of five, the last three: more would be played so late that it became lasting delay."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(6, 0.12)])
    assert listener.buffer.due(1.0) == [Lost(5, 3, 3 * STEP, STEP, 6), Played(6, 6 * STEP)]


def test_an_outage_is_neither_waited_for_nor_made_up() -> None:
    """Half a second missing at once: the next packet is played on arrival, and media time has gone on."""
    listener = Listener()
    listener.packet(0, 0.0)
    missing = int(OUTAGE / FRAME)
    assert listener.packet(missing + 1, 0.52) == [
        Lost(missing, 0, (missing + 1) * STEP, STEP, missing + 1),
        Played(missing + 1, (missing + 1) * STEP),
    ]


def test_an_outage_gives_up_what_was_waited_for() -> None:
    """Two holes at once, the second of them an outage: everything is played in order."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(2, 0.04)])
    items = listener.packet(60, 0.045)
    assert [item.payload if isinstance(item, Played) else -item.packets for item in items] == [-1, 2, -57, 60]


def reordering(listener: Listener, indices: range, late: float) -> None:
    """Every fifth packet comes `late` seconds after its time."""
    listener.hear(
        sorted(
            (Arrival(index, index * FRAME + (late if index % 5 == 0 else 0)) for index in indices),
            key=lambda arrival: arrival.now,
        )
    )


def test_patience_grows_with_lateness_and_shrinks_again() -> None:
    """Two packets lost to impatience teach the buffer to wait; when there is no more disorder it forgets."""
    listener = Listener()
    reordering(listener, range(1, 500), late=0.07)
    figures = listener.buffer.statistics()
    assert figures.late == figures.lost == 2
    assert figures.reordered == 97
    assert figures.patience == pytest.approx(0.05 * 1.25)
    quiet_until = 500 + int(2 * PATIENCE_WINDOW / FRAME) + 50
    listener.hear([Arrival(index, index * FRAME) for index in range(500, quiet_until)])
    listener.packet(quiet_until + 1, quiet_until * FRAME)
    assert listener.buffer.statistics().patience == MIN_PATIENCE


def test_patience_shrinks_with_smaller_lateness() -> None:
    """After a time of much lateness and one of less, it is the less that counts."""
    listener = Listener()
    reordering(listener, range(1, 500), late=0.09)
    much = listener.buffer.statistics().patience
    reordering(listener, range(500, 2000), late=0.03)
    assert listener.buffer.statistics().patience < much / 2


def test_one_straggler_teaches_nothing() -> None:
    """A single late packet does not make every later loss wait."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(2, 0.04), Arrival(1, 0.12), Arrival(4, 0.13)])
    assert listener.buffer.next_deadline() == pytest.approx(0.13 + MIN_PATIENCE)
    assert listener.buffer.statistics().late == 1


def test_a_straggler_among_the_slightly_late_teaches_nothing() -> None:
    """The largest lateness of all is left out."""
    listener = Listener()
    reordering(listener, range(1, 100), late=0.03)
    before = listener.buffer.statistics()
    listener.hear([Arrival(101, 2.02), Arrival(100, 2.09), Arrival(102, 2.1), Arrival(104, 2.14)])
    after = listener.buffer.statistics()
    assert after.late == before.late + 1
    assert after.patience == pytest.approx(before.patience)


def test_duplicates_are_dropped_wherever_they_come() -> None:
    """Played already, or held at this moment."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(0, 0.0), Arrival(2, 0.04), Arrival(2, 0.041), Arrival(1, 0.045)])
    assert listener.played() == [0, 1, 2]
    assert listener.buffer.statistics().duplicates == 2


def test_silence_is_not_loss() -> None:
    """The sequence goes on, time has leapt (DTX): media time leaps, too, and nothing is said to be lost."""
    listener = Listener()
    listener.packet(0, 0.0)
    assert listener.packet(1, 0.02) == [Played(1, STEP)]
    assert listener.packet(2, 10.0, timestamp=48_000 * 10) == [Played(2, 48_000 * 10)]
    assert listener.packet(3, 10.02, timestamp=48_000 * 10 + STEP) == [Played(3, 48_000 * 10 + STEP)]
    assert listener.buffer.statistics().restarts == 0


@pytest.mark.parametrize("strange", [-48_000, 48_000 * 3600, 2**31])
def test_strange_timestamps_are_those_of_a_new_source(strange: int) -> None:
    """If they leap where the clock did not, media time goes on as the clock does."""
    listener = Listener(first_timestamp=10**6)
    listener.packet(0, 0.0)
    assert listener.packet(1, 0.02, timestamp=strange) == [Played(1, STEP)]
    assert listener.packet(2, 0.04, timestamp=strange + STEP) == [Played(2, 2 * STEP)]
    assert listener.buffer.statistics().restarts == 1


@pytest.mark.parametrize("length", [0.01, 0.04, 0.06])
def test_the_length_of_packets_is_learned(length: float) -> None:
    """A hole of longer or shorter packets is measured in these."""
    step = int(length * 48_000)
    listener = Listener()
    for index in range(4):
        listener.packet(index, index * length, timestamp=index * step)
    listener.packet(5, 5 * length, timestamp=5 * step)
    assert listener.buffer.due(math.inf) == [Lost(1, 1, 4 * step, step, 5), Played(5, 5 * step)]


def test_what_is_made_up_fits_in_the_hole() -> None:
    """Packets that became shorter meanwhile leave less room than the sequence numbers say."""
    listener = Listener()
    listener.packet(0, 0.0)
    listener.packet(3, 0.03, timestamp=int(1.5 * STEP))
    assert listener.buffer.due(math.inf) == [Lost(2, 0, int(1.5 * STEP), STEP, 3), Played(3, int(1.5 * STEP))]


def test_a_new_sequence_is_believed_at_its_second_packet() -> None:
    """RFC 3550 appendix A.1; neither packet is lost, media time goes on by the clock, the decoder is told."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(2, 0.04)])
    assert listener.packet(30_000, 1.0, timestamp=77) == []  # alone it may be a stray
    assert listener.packet(30_001, 1.02, timestamp=77 + STEP) == [
        Played(30_000, 2 * STEP + int((1.0 - 0.04) * 48_000), restarted=True),
        Played(30_001, 2 * STEP + int((1.0 - 0.04) * 48_000) + STEP),
    ]
    assert listener.buffer.statistics().restarts == 1


def test_strays_are_dropped() -> None:
    """Packets from elsewhere in the sequence, each alone, change nothing."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(30_000, 0.01), Arrival(1, 0.02), Arrival(40_000, 0.03), Arrival(2, 0.04)])
    assert listener.played() == [0, 1, 2]
    listener.packet(40_001 + MAX_MISORDER, 0.05)
    figures = listener.buffer.statistics()
    assert (figures.strays, figures.held, figures.restarts) == (2, 1, 0)
    listener.buffer.restart()
    listener.packet(3, 0.06)
    assert listener.buffer.statistics().strays == 3


def test_a_restart_is_a_new_source_and_the_same_media_time() -> None:
    """After `restart` any sequence number and timestamp begin anew; what was held is played first."""
    listener = Listener()
    listener.hear([Arrival(0, 0.0), Arrival(2, 0.04)])
    listener.buffer.restart()
    items = listener.packet(500, 0.041, timestamp=5)
    assert items == [Lost(1, 1, STEP, STEP, 2), Played(2, 2 * STEP), Played(500, 3 * STEP, restarted=True)]


def test_a_restart_before_anything_changes_nothing() -> None:
    """The first packet of all is at 0."""
    listener = Listener()
    listener.buffer.restart()
    assert listener.packet(7, 3.0, timestamp=5) == [Played(7, 0)]


def test_what_comes_from_before_the_first_packet_is_a_duplicate() -> None:
    """It is too late for it, and no hole was ever waited for."""
    listener = Listener(first_sequence=0)
    listener.hear([Arrival(3, 0.0), Arrival(2, 0.001)])
    assert listener.played() == [3]
    assert listener.buffer.statistics().duplicates == 1


def test_no_more_than_the_bound_is_held() -> None:
    """A flood of packets behind a hole gives the hole up."""
    listener = Listener()
    buffer = listener.buffer
    for index in range(2):
        buffer.feed(index, index * 240, index, index * 0.005)  # of 5 ms: 64 of them are no outage yet
    for index in range(3, 3 + MAX_HELD + 1):
        assert buffer.statistics().lost == 0
        buffer.feed(index, index * 240, index, 0.01)
        assert buffer.statistics().held <= MAX_HELD
    assert buffer.statistics().lost == 1


def test_timestamps_that_hardly_move_are_no_length_of_a_packet() -> None:
    """A source whose packets are a tick apart does not make us fill a hole with thousands."""
    listener = Listener()
    for index in range(4):
        listener.packet(index, index * FRAME, timestamp=index)
    listener.packet(20, 20 * FRAME, timestamp=20)
    assert listener.buffer.due(math.inf)[0] == Lost(16, 0, 20, STEP, 20)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.floats(0, 1)), max_size=60))
def test_any_packets_at_all_are_taken(packets: list[tuple[int, int, float]]) -> None:
    """Nonsense is sorted out, bounded and counted; media time never goes back."""
    buffer = JitterBuffer[int]()
    items: list[Any] = []
    now = 0.0
    for index, (sequence, timestamp, gap) in enumerate(packets):
        now += gap
        items += buffer.due(now)
        items += buffer.feed(sequence, timestamp, index, now)
        figures = buffer.statistics()
        assert figures.received == figures.played + figures.late + figures.duplicates + figures.strays + figures.held
        assert figures.held <= MAX_HELD + 1
    items += buffer.due(math.inf)
    played = [item for item in items if isinstance(item, Played)]
    assert [item.pts for item in played] == sorted(item.pts for item in played)
    assert max(Counter(item.payload for item in played).values(), default=1) == 1
