"""The buffer in which packets of video become pictures."""

from __future__ import annotations

from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from rtcflow._engine.video import PictureBuffer


def packet(number, timestamp, data=b"x", *, marker=False):
    made = RtpPacket(sequence_number=number % 65536, timestamp=timestamp, marker=int(marker), payload=data)
    made._data = data
    return made


def feed(packets, buffer=None):
    """The pictures that come out with each packet."""
    buffer = buffer or PictureBuffer()
    return [frame and (frame.timestamp, frame.data) for _, frame in map(buffer.add, packets)]


def test_a_picture_leaves_with_its_last_packet():
    """It does not wait for the next picture."""
    assert feed([packet(1, 0, b"a"), packet(2, 0, b"b", marker=True), packet(3, 3000, b"c", marker=True)]) == [
        None,
        (0, b"ab"),
        (3000, b"c"),
    ]


def test_without_marks_a_picture_leaves_when_the_next_one_begins():
    """As aiortc's own buffer does it."""
    assert feed([packet(1, 0, b"a"), packet(2, 0, b"b"), packet(3, 3000, b"c"), packet(4, 6000, b"d")]) == [
        None,
        None,
        (0, b"ab"),
        (3000, b"c"),
    ]


def test_a_hole_holds_pictures_back_until_it_is_filled():
    """What was retransmitted comes in order."""
    late = packet(2, 0, b"b", marker=True)
    assert feed([packet(1, 0, b"a"), packet(3, 3000, b"c", marker=True), late, packet(4, 6000, b"d", marker=True)]) == [
        None,
        None,
        (0, b"ab"),
        (3000, b"c"),
    ]


def test_padding_makes_no_picture():
    """Packets without a payload, after a picture or between two, are passed over."""
    first, second = packet(1, 0, b"a", marker=True), packet(4, 3000, b"b", marker=True)
    assert feed([first, packet(2, 0, b""), packet(3, 0, b"", marker=True), second, packet(5, 3000, b"")]) == [
        (0, b"a"),
        None,
        None,
        (3000, b"b"),
        None,
    ]
    assert feed([first, packet(2, 0, b""), packet(3, 0, b""), second]) == [(0, b"a"), None, None, (3000, b"b")]


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(0, 65535),
    st.randoms(use_true_random=False),
)
def test_pictures_are_whole_and_in_order(pictures, first, random):
    """However packets swap by a few places, what comes out is a beginning of what went in."""
    packets = []
    for number, parts in enumerate(pictures):
        for place, part in enumerate(parts):
            packets.append(packet(first + len(packets), 3000 * number, part, marker=place == len(parts) - 1))
    shuffled = [p for _, p in sorted(enumerate(packets[1:]), key=lambda item: item[0] + random.uniform(0, 3))]
    out = [frame for frame in feed([packets[0], *shuffled]) if frame]
    whole = [(3000 * number, b"".join(parts)) for number, parts in enumerate(pictures)]
    assert out == whole[: len(out)]
    if shuffled == packets[1:]:
        assert out == whole
