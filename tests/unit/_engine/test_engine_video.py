"""The buffer in which packets of video become pictures, and the encoder of those that are sent."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from rtcflow._engine.video import PictureBuffer, PictureEncoder


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


# -- the encoder


def picture(number, width=320, height=240):
    """Of shapes that move, with some noise that stays."""
    y, x = np.mgrid[0:height, 0:width]
    grey = 110 + 60 * np.sin((x - 4 * number) / 17) * np.cos(y / 13)
    pixels = (grey + np.random.default_rng(1).normal(0, 6, grey.shape)).clip(0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, axis=2), format="bgr24")
    frame.pts, frame.time_base = 3000 * number, Fraction(1, 90_000)
    return frame


def send(encoder, frame, *, whole=False):
    """Encode one; returns what a decoder is given, and whether it is a whole picture (RFC 6386 section 9.1)."""
    payloads, timestamp = encoder.encode(frame, whole)
    data = b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads)
    return JitterFrame(data, timestamp), not data[0] & 1


def likeness(encoder):
    """Peak signal-to-noise ratio of what comes out of two seconds, in dB."""
    decoder, errors = Vp8Decoder(), []
    for number in range(60):
        (seen,) = decoder.decode(send(encoder, picture(number))[0])
        wanted = picture(number).reformat(format="yuv420p").to_ndarray()[:240].astype(float)
        errors.append(np.mean((seen.to_ndarray()[:240] - wanted) ** 2))
    return 10 * np.log10(255**2 / np.mean(errors))


def test_pictures_are_sent_as_they_are():
    """Nothing is taken out of them as noise: what comes out is nearer to them than of aiortc's encoder, by 3 dB."""
    assert likeness(PictureEncoder()) > likeness(Vp8Encoder()) + 2


def test_a_new_encoder_is_opened_for_another_size_or_bitrate_only():
    """Whole pictures are dear: the first one, one that is asked for, and where the encoder must be another one."""
    encoder = PictureEncoder()
    assert [send(encoder, picture(number))[1] for number in range(3)] == [True, False, False]
    assert send(encoder, picture(3), whole=True)[1]
    encoder.target_bitrate = 540_000  # less than a tenth more
    assert not send(encoder, picture(4))[1]
    encoder.target_bitrate = 600_000
    assert send(encoder, picture(5))[1]
    assert encoder.codec.bit_rate == 600_000
    assert not send(encoder, picture(6))[1]
    frame, whole = send(encoder, picture(7, 160, 120))
    assert whole
    (seen,) = Vp8Decoder().decode(frame)
    assert (seen.width, seen.height) == (160, 120)
    assert abs(frame.timestamp - 21_000) <= 1
