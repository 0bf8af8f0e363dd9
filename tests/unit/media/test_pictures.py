"""The jitter buffer of video: whole pictures in order, holes given up in time, requests to the sender."""

from __future__ import annotations

import heapq
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.pictures import (
    CAPACITY,
    HOPELESS,
    LEAST_WAIT,
    MOST_WAIT,
    PATIENCE,
    PictureBuffer,
    VideoPacket,
    is_key_h264,
    is_key_vp8,
    key_size_vp8,
)


def packet(number: int, timestamp: int, data: bytes = b"x", *, marker: bool = False, key: bool = False) -> VideoPacket:
    return VideoPacket(number % 65536, timestamp % 2**32, marker, data, key)


def feed(packets, buffer=None, now=0.0):
    """The pictures that leave with each packet, all at one moment."""
    buffer = buffer or PictureBuffer()
    out = []
    for one in packets:
        buffer.put(one, now)
        out.append([(picture.timestamp, picture.data) for picture in buffer.poll(now).pictures])
    return out


def test_a_picture_leaves_with_its_last_packet():
    """It does not wait for the next picture."""
    packets = [packet(1, 0, b"a", key=True), packet(2, 0, b"b", marker=True), packet(3, 3000, b"c", marker=True)]
    assert feed(packets) == [[], [(0, b"ab")], [(3000, b"c")]]


def test_without_markers_a_picture_leaves_when_the_next_one_begins():
    """Some senders mark no last packet."""
    packets = [packet(1, 0, b"a", key=True), packet(2, 0, b"b"), packet(3, 3000, b"c"), packet(4, 6000, b"d")]
    assert feed(packets) == [[], [], [(0, b"ab")], [(3000, b"c")]]


def test_all_that_a_filled_hole_held_back_leaves_at_once():
    """A hole leaves no delay behind."""
    packets = [packet(1, 0, b"a", marker=True, key=True)]
    packets += [packet(n, 3000 * n, b"%d" % n, marker=True) for n in (3, 4, 5, 2)]
    out = feed(packets)
    assert out[:4] == [[(0, b"a")], [], [], []]
    assert [data for _, data in out[4]] == [b"2", b"3", b"4", b"5"]


def test_padding_makes_no_picture():
    """Packets without a payload probe the path; they are passed over."""
    packets = [packet(1, 0, b"a", marker=True, key=True), packet(2, 0, b""), packet(3, 0, b"", marker=True)]
    assert feed([*packets, packet(4, 3000, b"b", marker=True)]) == [[(0, b"a")], [], [], [(3000, b"b")]]


def test_a_hole_is_reported_at_once_and_again_after_each_round_trip():
    """One request may be lost, too."""
    buffer = PictureBuffer()
    buffer.put(packet(1, 0, marker=True, key=True), 0.0)
    buffer.poll(0.0)
    buffer.put(packet(3, 6000, marker=True), 0.0)
    assert buffer.poll(0.0).lost == [2]
    assert buffer.poll(0.001).lost == []
    again = buffer.due()
    assert again is not None
    assert 0.02 <= again <= 0.15
    assert buffer.poll(again).lost == [2]


def test_a_hole_is_given_up_in_time_and_a_key_picture_asked_for():
    """Pictures that build on the hole are dropped; the next one that leaves is a key picture."""
    buffer = PictureBuffer()
    feed([packet(1, 0, marker=True, key=True), packet(3, 6000, b"after", marker=True)], buffer)
    assert not buffer.poll(LEAST_WAIT * 0.9).ask_key
    actions = buffer.poll(buffer.give_up)
    assert actions.ask_key
    assert actions.pictures == []
    assert buffer.give_up <= MOST_WAIT
    packets = [packet(4, 9000, b"delta", marker=True), packet(5, 12000, b"key", marker=True, key=True)]
    packets.append(packet(6, 15000, b"delta", marker=True))
    assert [data for pictures in feed(packets, buffer, 0.4) for _, data in pictures] == [b"key", b"delta"]


def test_a_key_picture_is_asked_for_until_it_comes():
    """The request may be lost; but it is not repeated faster than it can be answered."""
    buffer = PictureBuffer()
    buffer.put(packet(1, 0, marker=True), 0.0)
    asked, now = 0, 0.0
    while now < 1.0:
        asked += buffer.poll(now).ask_key
        now += 0.01
    assert 3 <= asked <= 8
    buffer.put(packet(2, 3000, key=True), now)  # it has begun to come
    assert not any(buffer.poll(now + n / 100).ask_key for n in range(50))


@pytest.mark.parametrize("shows_some", [False, True])
def test_a_decoder_that_fails_on_all_pictures_costs_few_key_pictures(shows_some):
    """Another key picture will hardly help if they are too large. A decoder that has shown some is helped at once."""
    buffer, asked, key = PictureBuffer(), [], True
    for number in range(round(60 * HOPELESS)):
        now = number / 30
        buffer.put(packet(number, 3000 * number, marker=True, key=key), now)
        actions = buffer.poll(now)
        for _ in actions.pictures:
            buffer.not_decoded(now, number if shows_some else 0)
        if key := actions.ask_key or buffer.poll(now).ask_key:
            asked.append(now)
    assert len(asked) > 5 * HOPELESS if shows_some else asked == [0, HOPELESS]


def test_a_picture_with_a_dropped_packet_never_leaves():
    """Not even if its other packets look like a key picture."""
    buffer = PictureBuffer()
    feed([packet(1, 0, marker=True, key=True), packet(3, 6000, b"rest", key=True)], buffer)
    assert buffer.poll(buffer.give_up).pictures == []
    assert feed([packet(4, 6000, b"end", marker=True, key=True)], buffer, 0.4) == [[]]
    assert feed([packet(5, 9000, b"whole", marker=True, key=True)], buffer, 0.4) == [[(9000, b"whole")]]


def test_a_sender_without_key_pictures_is_shown_after_a_while():
    """Some refresh their pictures bit by bit; a decoder conceals what is missing."""
    buffer = PictureBuffer()
    assert feed([packet(1, 0, b"a", marker=True)], buffer, 0.0) == [[]]
    assert feed([packet(2, 3000, b"b", marker=True)], buffer, PATIENCE) == [[(0, b"b")]]


def test_a_new_sequence_takes_two_packets():
    """A stray packet changes nothing; a sender that begins anew is followed, and time does not run backward."""
    buffer = PictureBuffer()
    feed([packet(1, 0, marker=True, key=True), packet(2, 30000, marker=True)], buffer)
    assert feed([packet(30000, 77, b"stray", marker=True, key=True)], buffer) == [[]]
    assert feed([packet(3, 60000, b"c", marker=True)], buffer) == [[(60000, b"c")]]
    packets = [packet(n, 7, b"n", marker=True, key=True) for n in (40000, 40001)]
    packets.append(packet(40002, 3007, b"o", marker=True))
    times = [timestamp for pictures in feed(packets, buffer, 1.0) for timestamp, _ in pictures]
    assert len(times) == 2
    assert 60000 < times[0] < times[1]


def test_a_sender_whose_timestamps_begin_anew():
    """Time goes on; it does not stand still until the new timestamps have caught up."""
    hour = 3600 * 90000
    packets = [packet(1, 0, marker=True, key=True), packet(2, hour, marker=True), packet(3, hour - 3000, marker=True)]
    packets += [packet(4 + n, 500 + 3000 * n, marker=True) for n in range(3)]
    times = [timestamp for pictures in feed(packets) for timestamp, _ in pictures]
    assert times == [0, hour, hour, hour + 3000, hour + 6000, hour + 9000]


def test_a_long_cut_asks_for_a_key_picture_at_once():
    """Nobody retransmits hundreds of packets."""
    buffer = PictureBuffer()
    feed([packet(1, 0, marker=True, key=True)], buffer)
    buffer.put(packet(600, 90000, marker=True), 1.0)
    actions = buffer.poll(1.0)
    assert actions.ask_key
    assert len(actions.lost) <= 250


def test_memory_is_bounded():
    """A hole that never ends, and a sender that never marks."""
    buffer = PictureBuffer()
    for n in range(10 * CAPACITY):
        buffer.put(packet(2 + n * 2, 5), 0.0)
        buffer.poll(0.0)
    assert len(buffer._packets) <= CAPACITY
    assert len(buffer._holes) <= CAPACITY


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b"", False),
        (b"\x10\x00", True),
        (b"\x10\x01", False),
        (b"\x00\x00", False),  # goes on with a partition
        (b"\x11\x00", False),  # a later partition
        (b"\x90\x80\x05\x00", True),  # a short picture id
        (b"\x90\x80\x85\x01\x00", True),  # a long one
        (b"\x90\xe0\x85\x01\x07\x20\x00", True),  # and TL0PICIDX, TID
        (b"\x90\xe0\x85\x01\x07\x20\x01", False),
        (b"\x90", False),
        (b"\x90\x80", False),
    ],
)
def test_key_pictures_of_vp8(payload, key):
    """RFC 7741 section 4.2."""
    assert is_key_vp8(payload) is key


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        (b"", False),
        (b"\x65\x88", True),
        (b"\x67\x42", True),
        (b"\x41\x9a", False),
        (b"\x7c\x85", True),  # FU-A with an IDR slice
        (b"\x7c\x81", False),
        (b"\x7c", False),
        (b"\x78\x00\x02\x68\xce\x00\x02\x65\x88", True),  # STAP-A: a parameter set 8, then an IDR slice
        (b"\x78\x00\x02\x41\x9a", False),
        (b"\x78\x00", False),
        (b"\x78\x00\x00\x00\x00\x00", False),
    ],
)
def test_key_pictures_of_h264(payload, key):
    """RFC 6184 sections 5.6 to 5.8."""
    assert is_key_h264(payload) is key


@given(st.binary(max_size=40))
def test_any_payload_can_be_looked_at(payload):
    """Bytes of a stranger raise nothing."""
    assert is_key_vp8(payload) in {True, False}
    assert is_key_h264(payload) in {True, False}


pictures_of_packets = st.lists(
    st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=4), min_size=1, max_size=20
)


def packed(pictures, first, key_every=1000):
    number = first
    for index, parts in enumerate(pictures):
        for place, data in enumerate(parts):
            last = place == len(parts) - 1
            yield packet(number, 3000 * index, data, marker=last, key=index % key_every == 0 and place == 0)
            number += 1


@given(pictures_of_packets, st.integers(0, 65535), st.randoms(use_true_random=False))
def test_pictures_are_whole_and_in_order_however_packets_swap(pictures, first, chance):
    """Nothing is lost, doubled or mixed by packets that overtake one another."""
    packets = list(packed(pictures, first))
    order = sorted(range(1, len(packets)), key=lambda n: n + chance.random() * 5)
    out = feed([packets[0], *(packets[n] for n in order)])
    assert [data for left in out for _, data in left] == [b"".join(parts) for parts in pictures]


@given(pictures_of_packets, st.integers(0, 65535), st.sets(st.integers(1, 60)), st.integers(1, 5))
def test_what_leaves_can_be_decoded(pictures, first, lost, key_every):
    """Each picture is whole, and builds only on pictures that left, whatever is lost."""
    pictures = [[index.to_bytes(2, "big"), *parts] for index, parts in enumerate(pictures)]
    packets = [one for n, one in enumerate(packed(pictures, first, key_every)) if n not in lost]
    buffer, now = PictureBuffer(), 0.0
    left = []
    for one in packets:
        now += 0.03
        buffer.put(one, now)
        left += buffer.poll(now).pictures
    left += buffer.poll(now + 1.0).pictures
    wholes = [b"".join(parts) for parts in pictures]
    at = -1
    for picture in left:
        index = int.from_bytes(picture.data[:2], "big")
        assert picture.data == wholes[index]
        assert index == at + 1 or index % key_every == 0
        assert index > at
        at = index


def simulate(loss: float, seconds: float, *, round_trip: float = 0.05, fps: int = 15, size: int = 8, seed: int = 1):
    """A sender that answers requests, over a path that loses packets both ways; when pictures left, in seconds."""
    chance = random.Random(seed)
    buffer = PictureBuffer()
    events: list[tuple[float, int, object]] = []
    sent: dict[int, VideoPacket] = {}
    left: list[float] = []
    number = order = 0
    key_wanted, want_at = True, 0.0

    def later(when: float, what: object) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, what))

    for index in range(int(seconds * fps)):
        later(index / fps, "picture")
    while events:
        now, _, what = heapq.heappop(events)
        if what == "picture":
            key = key_wanted and now >= want_at
            key_wanted = key_wanted and not key
            for place in range(size * (4 if key else 1)):
                last = place == size * (4 if key else 1) - 1
                one = packet(number, round(now * 90000), b"x", marker=last, key=key and place == 0)
                sent[number % 65536] = one
                number += 1
                if chance.random() >= loss:
                    later(now + round_trip / 2, one)
        elif isinstance(what, VideoPacket):
            buffer.put(what, now)
        elif isinstance(what, int):
            if chance.random() >= loss:
                later(now + round_trip / 2, sent[what])
        elif what == "key" and not key_wanted:
            key_wanted, want_at = True, now
        if what != "picture":
            actions = buffer.poll(now)
            left += [now] * len(actions.pictures)
            for missing in actions.lost:
                if chance.random() >= loss:
                    later(now + round_trip / 2, missing)
            if actions.ask_key and chance.random() >= loss:
                later(now + round_trip / 2, "key")
            due = buffer.due()
            if due is not None and now < seconds + 1:
                later(max(due, now + 0.001), "due")
    return left


@pytest.mark.parametrize(("loss", "shown"), [(0.01, 0.95), (0.03, 0.9), (0.05, 0.8)])
@pytest.mark.parametrize("seed", range(3))
def test_loss_freezes_the_picture_for_half_a_second_at_most(loss, shown, seed):
    """60 s over a path of 50 ms that loses packets at random, both ways."""
    left = simulate(loss, 60.0, seed=seed)
    assert len(left) >= 60 * 15 * shown
    assert max(b - a for a, b in pairwise(left)) <= 0.5


@pytest.mark.parametrize(
    ("data", "size"),
    [
        ("101900 9d012a 8002e001 00", (640, 480)),
        ("101900 9d012a 8042e081 00", (640, 480)),  # with scaling, which is for the screen
        ("101900 9d012a ff3fff3f 00", (16383, 16383)),
        ("111900 9d012a 8002e001 00", None),  # no key picture
        ("101900 9d012a 8002e0", None),  # cut off
        ("", None),
    ],
)
def test_the_size_of_a_vp8_picture(data, size):
    """RFC 6386 section 9.1: 14 bits each, behind the start code."""
    assert key_size_vp8(bytes.fromhex(data)) == size
