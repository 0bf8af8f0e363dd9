"""Links lose, delay and reorder as they were told to, and as their seed says."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.testing import strategies as rtc
from rtcflow.testing.links import Blackout, Bursts, Chain, LossyLink, Trace


def fates(link, n=5000, size=960):
    return [link.send(i * 0.02, size) for i in range(n)]


@given(st.integers(0, 1000), rtc.links())
def test_the_seed_decides_everything(_, link):
    """Two links with the same arguments do the same."""
    again = LossyLink(
        link.seed,
        link.loss,
        link.delay,
        link.jitter,
        link.reorder,
        link.reorder_by,
        link.duplicate,
        link.bandwidth,
        link.queue,
        link.blackouts,
    )
    assert fates(link, 200) == fates(again, 200)


@given(rtc.links())
def test_a_link_keeps_its_books(link):
    """sent == lost + arrived - duplicated, and nothing arrives before it was sent."""
    for i in range(300):
        assert all(arrival >= i * 0.02 for arrival in link.send(i * 0.02, 960))
        figures = link.statistics
        assert figures.sent == figures.lost + figures.arrived - figures.duplicated == i + 1


@given(rtc.links())
def test_messages_arrive_in_order(link):
    """Messages may be late, but none is lost and none overtakes another."""
    moments = [link.send_reliable(i * 0.05, 10) for i in range(100)]
    assert moments == sorted(moments)
    assert all(moment >= i * 0.05 for i, moment in enumerate(moments))


def test_random_loss_has_its_rate():
    """Of 5000 frames with 10 % loss, about 500 are lost."""
    assert sum(not fate for fate in fates(LossyLink(1, loss=0.1))) == pytest.approx(500, rel=0.2)


def test_loss_in_bursts_has_its_rate_and_length():
    """Bursts of mean length 8 come as such, and their overall rate is what `rate` says."""
    bursts = Bursts(start=0.01, length=8)
    lost = [not fate for fate in fates(LossyLink(2, loss=bursts), 50_000)]
    starts = sum(now and not before for before, now in zip([False, *lost], lost, strict=False))
    assert sum(lost) / len(lost) == pytest.approx(bursts.rate, rel=0.15)
    assert sum(lost) / starts == pytest.approx(8, rel=0.15)


def test_delay_is_exact_and_jitter_keeps_order():
    """Without jitter every frame takes `delay`; with it, frames still do not overtake."""
    assert fates(LossyLink(delay=0.1), 3) == [[0.1], [pytest.approx(0.12)], [pytest.approx(0.14)]]
    moments = [arrival for fate in fates(LossyLink(3, delay=0.1, jitter=0.05)) for arrival in fate]
    assert moments == sorted(moments)
    assert max(moment - i * 0.02 for i, moment in enumerate(moments)) > 0.15


def test_reordered_frames_are_overtaken():
    """With reorder some frames arrive after later ones, and the link counts them."""
    link = LossyLink(4, reorder=0.1)
    moments = [arrival for fate in fates(link) for arrival in fate]
    assert sum(a > b for a, b in pairwise(moments)) == pytest.approx(link.statistics.reordered, rel=0.3)


def test_a_bottleneck_lets_through_what_it_can():
    """At half the needed bandwidth half of the frames get through, none later than the queue allows."""
    link = LossyLink(bandwidth=192_000, queue=0.2)  # 960 bytes each 20 ms are 384 kbit/s
    sent = fates(link)
    assert sum(len(fate) for fate in sent) == pytest.approx(2500, rel=0.02)
    assert max(fate[0] - i * 0.02 for i, fate in enumerate(sent) if fate) <= 0.2 + 0.04 + 1e-9


def test_nothing_gets_through_a_blackout():
    """Between its beginning and end every frame is lost, and none outside."""
    sent = fates(LossyLink(blackouts=[Blackout(1.0, 2.0)]), 150)
    assert [i for i, fate in enumerate(sent) if not fate] == list(range(50, 100))


def test_a_chain_adds_up():
    """Delays of links in a row add up; what the first loses the second does not see."""
    second = LossyLink(delay=0.05)
    chain = Chain(LossyLink(5, loss=0.5, delay=0.1), second)
    sent = fates(chain, 100)
    assert {round(fate[0] - i * 0.02, 6) for i, fate in enumerate(sent) if fate} == {0.15}
    assert second.statistics.sent == sum(bool(fate) for fate in sent)
    assert chain.send_reliable(0.0, 1) >= 0.15


def test_messages_wait_at_the_bottleneck_too():
    """What is queued there is through later, media and messages alike."""
    link = LossyLink(bandwidth=80_000)
    assert [link.send_reliable(0.0, 1000) for _ in range(3)] == [pytest.approx(0.1 * n) for n in (1, 2, 3)]
    assert link.send(0.0, 1000) == []  # the queue is longer than 0.2 s
    assert link.send_reliable(10.0, 1000) == pytest.approx(10.1)


@given(rtc.links())
def test_each_call_begins_anew(link):
    """The same seed and frames have the same fate in each call, whatever was sent in another."""
    chain = Chain(link, Trace([(), (0.5,)]))
    first = fates(chain, 100), [chain.send_reliable(2.0 + n, 100) for n in range(20)]
    chain.begin()
    assert (fates(chain, 100), [chain.send_reliable(2.0 + n, 100) for n in range(20)]) == first


def test_a_trace_does_as_it_was_told():
    """A frame's fate is the one written down for it."""
    link = Trace([(), (0.0, 0.1)])
    assert [link.send(1.0, 1), link.send(2.0, 1), link.send(3.0, 1)] == [[], [2.0, 2.1], [3.0]]
    assert link.send_reliable(5.0, 1) == 5.0


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: LossyLink(loss=5), "0.05 for 5 %"),
        (lambda: LossyLink(delay=-1), "not negative"),
        (lambda: LossyLink(bandwidth=0), "loss=1"),
        (lambda: Bursts(0.1, 0.5), "at least 1 frame"),
        (lambda: Blackout(2, 1), r"Blackout\(1, 2\)"),
        (lambda: Blackout(1, float("inf")), "break_link"),
        (lambda: Chain(), "needs a link"),
    ],
)
def test_nonsense_is_refused(make, cure):
    """Arguments that make no sense are refused with a word on what would."""
    with pytest.raises(ValueError, match=cure):
        make()
