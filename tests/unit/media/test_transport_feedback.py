"""Transport-wide feedback: its format, and what a sender finds out by it on paths in virtual time."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcflow.media.transport_feedback import EVERY, TICK, ArrivalLog, PacketReport, PathWatch, parse_feedback
from rtcflow.media.video_rate import VideoRate

FPS = 15


@given(
    st.integers(0, 0xFFFF),
    st.lists(st.tuples(st.booleans(), st.floats(0, 0.09)), min_size=1, max_size=60),
    st.floats(0, 1e6),
    st.randoms(use_true_random=False),
)
@example(0xFFFE, [(True, 0.01)] * 5, 5000.0, random.Random(1))
def test_what_is_written_is_read(
    first: int, packets: list[tuple[bool, float]], begin: float, chance: random.Random
) -> None:
    """Each number comes once and in order, with its moment to a tick; what did not come is told as lost."""
    log, told, now = ArrivalLog(), list[PacketReport](), begin
    log.add(first, now)
    came = {first: now}
    numbers = [(first + 1 + index) & 0xFFFF for index, (comes, _) in enumerate(packets) if comes]
    if len(numbers) > 1 and chance.random() < 0.5:
        numbers[0], numbers[1] = numbers[1], numbers[0]
    for number, (_, passed) in zip(numbers, packets, strict=False):
        now += passed
        log.add(number, now)
        came[number] = now
        if (body := log.feedback(now)) is not None:
            assert len(body) % 4 == 0
            told += parse_feedback(body)
    if (body := log.feedback(now + 2 * EVERY)) is not None:
        told += parse_feedback(body)
    assert [arrival.number for arrival in told] == [(first + index) & 0xFFFF for index in range(len(told))]
    assert sum(arrival.at is not None for arrival in told) >= len(came) - 1  # one that was overtaken may be too late
    wrap = 0x1000000 * 0.064
    for number, at in told:
        if at is not None:
            assert abs((at - came[number] + wrap / 2) % wrap - wrap / 2) <= 1.01 * TICK


@pytest.mark.parametrize(
    ("chunks", "deltas", "seconds"),
    [
        ("2003", "040404", [0.001, 0.002, 0.003]),  # a run of small ones
        ("4003", "0004fffc0004", [0.001, 0.0, 0.001]),  # a run of large or negative ones
        ("b000", "0404", [0.001, 0.002, None]),  # a vector of single bits
        ("d200", "04fffc", [0.001, None, 0.0]),  # a vector of pairs: 1, 0, 2
        ("00012002", "0404", [None, 0.001, 0.002]),  # two chunks
    ],
)
def test_the_format(chunks: str, deltas: str, seconds: list[float | None]) -> None:
    """Chunks and deltas by hand (sections 3.1.3 to 3.1.5 of the draft); the reference time is 128 ms."""
    body = bytes.fromhex("fffe0003" + "00000205" + chunks + deltas)
    found = parse_feedback(body)
    assert [arrival.number for arrival in found] == [0xFFFE, 0xFFFF, 0]
    for arrival, second in zip(found, seconds, strict=True):
        assert arrival.at == (None if second is None else pytest.approx(0.128 + second))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Nothing but `ValueError`, and no more than they say."""
    with suppress(ValueError):
        assert len(parse_feedback(body)) == int.from_bytes(body[2:4], "big")


def test_a_long_pause_and_a_jump_begin_anew() -> None:
    """No feedback is larger than it must be."""
    log = ArrivalLog()
    log.add(7, 1.0)
    log.add(8, 20.0)
    assert [arrival.number for arrival in parse_feedback(log.feedback(20.0) or b"")] == [7, 8]
    assert parse_feedback(log.feedback(20.0) or b"\0" * 8) == []
    log.add(9, 20.2)
    log.feedback(20.2)
    log.add(5000, 20.5)
    assert [arrival.number for arrival in parse_feedback(log.feedback(20.5) or b"")] == [5000]


def call(path: float, *, feedback: bool, jitter: float = 0.0, seconds: float = 30.0) -> tuple[list[float], int]:
    """Pictures over a path with a queue, some lost; the latencies after a second, and the last target."""
    chance, rate, watch, log = random.Random(1), VideoRate(300_000, 50_000, 2_500_000), PathWatch(), ArrivalLog()
    free, number, latencies = 0.0, 0, list[float]()
    coming, bodies, reports = list[tuple[float, int]](), list[tuple[float, bytes]](), list[tuple[float, float]]()
    for tick in range(round(seconds * FPS)):
        now = tick / FPS
        coming.sort()
        while coming and coming[0][0] <= now:
            at, arrived = coming.pop(0)
            log.add(arrived & 0xFFFF, at + 5000.0)  # a clock of its own
            if (body := log.feedback(at + 5000.0)) is not None:
                bodies.append((at + 0.025, body))
        while feedback and bodies and bodies[0][0] <= now:
            at, body = bodies.pop(0)
            if (state := watch.feedback(parse_feedback(body))) is not None:
                rate.path(at, *state)
        if tick % FPS == 0:
            reports.append((max(free, now) + 0.05, max(free - now, 0.0) + 0.05))
        while reports and reports[0][0] <= now:
            rate.report(reports[0][0], 0.0, reports.pop(0)[1])
        if rate.wait(now) > 0:
            continue
        size = left = round(rate.target / 8 / FPS * chance.uniform(0.6, 1.4) * (4 if tick == 0 else 1))
        while left > 0:
            part = min(1200, left)
            left -= part
            watch.sent(now, number & 0xFFFF, part + 40)
            free = max(free, now) + 8 * (part + 66) / path
            if chance.random() < 0.99:
                coming.append((free + 0.025 + chance.uniform(0, jitter), number))
            number += 1
        rate.sent(now, size, size // 1200 + 1)
        if now > 1.0:
            latencies.append(free + 0.025 - now)
    return sorted(latencies), rate.target


@pytest.mark.parametrize(("path", "limit"), [(64_000, 0.6), (300_000, 0.3), (1_000_000, 0.3)])
def test_a_queue_is_seen_sooner_than_by_the_round_trip(path: float, limit: float) -> None:
    """95 % of the pictures of half a minute are younger than without the feedback, and the path is used."""
    latencies, target = call(path, feedback=True)
    without, _ = call(path, feedback=False)
    p95, before = (found[int(0.95 * len(found))] for found in (latencies, without))
    assert p95 <= limit
    assert p95 <= before
    assert target >= 0.6 * path
    assert len(latencies) >= 5 * 30


def test_a_path_that_jitters_has_no_queue() -> None:
    """Packets that take up to 40 ms longer, each by itself, lower nothing."""
    _, target = call(5_000_000, feedback=True, jitter=0.04)
    assert target >= 2_000_000
