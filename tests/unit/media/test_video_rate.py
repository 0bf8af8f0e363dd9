"""How much video is sent: an encoder and a narrow path in virtual time, and laws."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.video_rate import ALLOWANCE, VideoRate

FPS = 15
KEY = 8.0
"""How many times the bits of another picture a key picture takes."""


@dataclass
class Path:
    """A path with a queue, and a receiver that reports once a second.

    Attributes:
        rate: Bits per second it carries. A function of time.
        latencies: For each picture: when it was emitted, and the seconds until all of it was there.
    """

    rates: list[tuple[float, float]]
    delay: float = 0.025
    deepest: float = 2.0
    free: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)

    def rate(self, now: float) -> float:
        return next(rate for begin, rate in reversed(self.rates) if now >= begin)

    def send(self, now: float, bits: float) -> float | None:
        """When it arrives; None if the queue is full."""
        begin = max(now, self.free)
        if begin - now > self.deepest:
            return None
        self.free = begin + bits / self.rate(begin)
        return self.free + self.delay


def call(
    path: Path, seconds: float, *, start: int = 300_000, detail: float = 0.0, impatient: bool = False
) -> VideoRate:
    """Emit pictures over the path; `detail` is the least bits of one, `impatient` a receiver that asks for keys."""
    chance, rate = random.Random(1), VideoRate(start, 50_000, 2_500_000)
    opened, opened_at, key = 0.0, -9.0, True
    asks, answers = 1.0, list[tuple[float, float]]()  # the next sender report; reports under way, and their round trips
    sent = lost = 0
    for number in range(round(seconds * FPS)):
        now = number / FPS
        if now >= asks:
            asks = now + chance.uniform(0.5, 1.5)
            if (arrives := path.send(now, 600.0)) is not None:
                answers.append((arrives + path.delay, arrives + path.delay - now))
        while answers and answers[0][0] <= now:
            at, trip = answers.pop(0)
            rate.report(at, lost / max(sent, 1), trip)
            sent = lost = 0
        if impatient and now > max([0.0, *(at + late for at, late in path.latencies if at + late <= now)]) + 0.5:
            key = rate.key_asked(now) or key
        if rate.wait(now) > 0:
            continue  # the next picture is newer
        if not 0.9 * opened <= rate.target <= 1.25 * opened and (now - opened_at > 3 or rate.target < opened):
            opened, opened_at, key = rate.target, now, True  # another encoder
        bits = max(detail, rate.target / FPS * chance.uniform(0.6, 1.2)) * (KEY if key else 1.0)
        packets = round(bits / 9600) + 1
        sent += packets
        rate.sent(now, round(bits / 8), packets, key=key)
        key = False
        arrived = path.send(now, bits + 528 * packets)
        if arrived is None:
            lost += packets
        else:
            path.latencies.append((now, arrived - now))
    return rate


def p95(path: Path, begin: float = 0.0) -> float:
    found = sorted(latency for at, latency in path.latencies if at >= begin)
    return found[int(0.95 * len(found))]


@pytest.mark.parametrize("impatient", [False, True])
@pytest.mark.parametrize(
    ("carries", "limit", "shown"), [(64_000, 1.6, 2.0), (300_000, 0.5, 6.0), (1_000_000, 0.5, 8.0)]
)
def test_a_narrow_path_has_no_queue(carries: float, limit: float, shown: float, *, impatient: bool) -> None:
    """95 % of the pictures of a minute are there in half a second at 300 kbit/s, whatever the receiver asks for."""
    path = Path([(0.0, carries)])
    rate = call(path, 60.0, impatient=impatient)
    assert p95(path) <= limit
    assert len(path.latencies) >= shown * 60
    assert 0.4 * carries <= rate.target <= 1.25 * carries


def test_pictures_full_of_detail_come_less_often() -> None:
    """An encoder that cannot make them small enough does not fill the path; the frame rate falls."""
    path = Path([(0.0, 64_000.0)])
    call(path, 60.0, detail=20_000.0)
    assert p95(path, 5.0) <= 1.5
    assert 1.0 <= len(path.latencies) / 60 <= 4.0


def test_a_path_that_becomes_narrow_and_wide_again() -> None:
    """The queue is gone within seconds, and what the path carries is found again."""
    path = Path([(0.0, 1_000_000.0), (20.0, 200_000.0), (40.0, 1_000_000.0)])
    rate = call(path, 100.0)
    narrow = sorted(latency for at, latency in path.latencies if 25 <= at < 40)
    assert narrow[int(0.95 * len(narrow))] <= 0.6
    assert rate.target >= 400_000


def test_the_receivers_estimate_is_an_upper_bound() -> None:
    """At once, within the bounds; and our own signals do not go above it."""
    rate = VideoRate(500_000, 50_000, 800_000)
    rate.estimate(200_000)
    assert rate.target == 200_000
    rate.estimate(10)
    assert rate.target == 50_000
    rate.estimate(10_000_000)
    assert rate.target == 500_000
    for second in range(60):
        rate.sent(second, rate.target // 8, 1)
        rate.report(second + 0.9, 0.0, 0.05)
    assert rate.target == 800_000


def test_loss_lowers_the_target_and_silence_does_not_raise_it() -> None:
    """By half of the share above 10 %; what is not used is not known to fit."""
    rate = VideoRate(500_000, 50_000, 2_000_000)
    rate.report(1.0, 0.2, 0.05)
    assert rate.target == 450_000
    for second in range(2, 60):
        rate.report(second, 0.0, 0.05)
    assert rate.target == 450_000


@pytest.mark.parametrize(("share", "falls"), [(0.03, False), (0.05, False), (0.2, True)])
def test_random_loss_is_told_from_too_much(share: float, *, falls: bool) -> None:
    """A report tells of some forty packets. At 5 % one in twenty has more than 10 % by chance; the rate stays."""
    for seed in range(20):
        chance = np.random.default_rng(seed)
        rate = VideoRate(300_000, 50_000, 2_500_000)
        for second in range(60):
            for picture in range(15):
                rate.sent(second + picture / 15, 2500, 3)
            rate.report(second + 1.0, chance.binomial(45, share) / 45, 0.1)
        assert (rate.target < 150_000) if falls else (rate.target >= 270_000), seed


def test_a_wide_path_is_soon_used() -> None:
    """Five seconds after the first picture the target is at its upper bound; after trouble it rises slowly."""
    rate = VideoRate(300_000, 50_000, 2_500_000)
    for tick in range(55):
        rate.sent(tick / 10, rate.target // 80, 1)
        if tick % 10 == 9:
            rate.report(tick / 10, 0.0, 0.05)
    assert rate.target > 1_000_000
    rate.report(6.0, 0.5, 0.05)
    fallen = rate.target
    for tick in range(60, 110):
        rate.sent(tick / 10, rate.target // 80, 1)
        if tick % 10 == 9:
            rate.report(tick / 10, 0.0, 0.05)
    assert fallen < rate.target < 1.6 * fallen


def test_a_key_picture_on_its_way_answers_later_requests() -> None:
    """A request is granted at once, and the next one when the picture must have come."""
    rate = VideoRate(100_000, 50_000, 2_000_000)
    assert rate.key_asked(0.0)
    rate.sent(0.01, 1000, 1)  # was being encoded when the request came, and is no answer to it
    assert rate.key_asked(0.015)
    rate.sent(0.02, 10_000, 9, key=True)  # takes about 0.8 s
    assert not rate.key_asked(0.5)
    assert rate.key_asked(1.1)


def test_packets_are_sent_again_once_a_round_trip() -> None:
    """And not while the path is full of what was sent."""
    rate = VideoRate(100_000, 50_000, 2_000_000)
    rate.report(0.0, 0.0, 0.08)
    assert rate.may_send_again(1.0, 7, 1000)
    assert not rate.may_send_again(1.05, 7, 1000)
    assert rate.may_send_again(1.05, 8, 1000)
    assert rate.may_send_again(1.09, 7, 1000)
    rate.sent(1.1, 10_000, 9)
    assert rate.wait(1.1) > 0
    assert not rate.may_send_again(1.2, 9, 1000)
    assert rate.may_send_again(2.5, 9, 1000)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["sent", "report", "estimate", "key", "again"]),
        st.floats(0, 2),
        st.floats(0, 1),
        st.integers(0, 300_000),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_comes_the_target_is_within_its_bounds_and_waiting_ends(
    events: list[tuple[str, float, float, int]],
) -> None:
    """Laws: bounds, and a wait that ends when it says so."""
    rate, now = VideoRate(300_000, 100_000, 900_000), 0.0
    for what, passed, share, size in events:
        now += passed
        match what:
            case "sent":
                rate.sent(now, size, 1 + size // 1200)
            case "report":
                rate.report(now, share, passed if size % 2 else None)
            case "estimate":
                rate.estimate(size * 10)
            case "key":
                rate.key_asked(now)
            case "again":
                rate.may_send_again(now, size % 65536, 1200)
        assert 100_000 <= rate.target <= 900_000
        wait = rate.wait(now)
        assert wait >= 0
        assert rate.wait(now + wait + 1e-6) <= 1e-3
    assert ALLOWANCE > 0


def test_a_peer_that_never_reports_costs_no_memory() -> None:
    """What was sent is remembered for two seconds, also if no report asks for it."""
    rate = VideoRate(500_000, 100_000, 2_000_000)
    for n in range(3000):
        rate.sent(n / 30, 1000, 1)
    assert len(rate._sent) <= 62
