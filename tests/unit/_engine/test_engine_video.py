"""The encoder of pictures that are sent, and the decoder of those that come."""

from __future__ import annotations

import asyncio
import re
from fractions import Fraction
from pathlib import Path

import anyio
import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Decoder, h264_depayload
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame
from webrtc_pair import webrtc_call

from rtcflow._core.flow import Flow, Policy
from rtcflow._engine.config import VideoConfig
from rtcflow._engine.video import (
    MOST_BEFORE,
    Bitrate,
    H264PictureEncoder,
    PictureDecoder,
    PictureEncoder,
    VideoOutTrack,
    encoders,
    even,
    preferred,
    video_rate,
)
from rtcflow.media.colours import PictureConverter

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
    """Peak signal-to-noise ratio of what comes out of the second and third second, in dB."""
    decoder, errors = Vp8Decoder(), []
    for number in range(90):
        (seen,) = decoder.decode(send(encoder, picture(number))[0])
        wanted = picture(number).reformat(format="yuv420p").to_ndarray()[:240].astype(float)
        if number >= 30:
            errors.append(np.mean((seen.to_ndarray()[:240] - wanted) ** 2))
    return 10 * np.log10(255**2 / np.mean(errors))


def test_pictures_are_sent_as_they_are():
    """Nothing is taken out of them as noise: what comes out is nearer to them than of aiortc's encoder, by 3 dB."""
    assert likeness(PictureEncoder(VideoConfig(start_bitrate=500_000))) > likeness(Vp8Encoder()) + 2


def test_a_new_encoder_is_opened_for_another_size_or_bitrate_only():
    """Whole pictures are dear: the first one, one that is asked for, and where the encoder must be another one."""
    encoder = PictureEncoder(VideoConfig(start_bitrate=500_000))
    assert [send(encoder, picture(number))[1] for number in range(3)] == [True, False, False]
    assert send(encoder, picture(3), whole=True)[1]
    encoder.target_bitrate = 420_000  # less than a quarter below
    assert not send(encoder, picture(4))[1]
    encoder.target_bitrate = 350_000
    assert send(encoder, picture(5))[1]
    assert encoder.codec.bit_rate == 350_000
    assert not send(encoder, picture(6))[1]
    frame, whole = send(encoder, picture(7, 160, 120))
    assert whole
    (seen,) = Vp8Decoder().decode(frame)
    assert (seen.width, seen.height) == (160, 120)
    assert abs(frame.timestamp - 21_000) <= 1


# -- frames that are sent more than once


@pytest.mark.parametrize("kind", ["yuv420p", "bgr24"])
@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_a_frame_may_be_sent_in_several_calls(codec, kind):
    """Each call has its own time, whatever the others do with the frame between its being taken and encoded."""

    async def check():
        shared, calls = picture(0).reformat(format=kind), []
        for _ in range(2):
            frames = Flow(1, Policy.DROP_OLDEST)
            track = VideoOutTrack(frames, video_rate(VideoConfig()))
            calls.append((frames, track, encoders(VideoConfig(), track.rate, track.pts)[codec]()))
        (old, old_track, old_encoder), (new, new_track, new_encoder) = calls
        old.put_nowait(shared)
        assert old_encoder.encode(await old_track.recv())[1] == 0
        for _ in range(2):
            for frames, _, _ in calls:
                frames.put_nowait(shared)
            first, second = await old_track.recv(), await new_track.recv()
            wanted = old_track.pts(), new_track.pts()
            assert wanted[0] > wanted[1]
            assert (old_encoder.encode(first)[1], new_encoder.encode(second)[1]) == wanted

    asyncio.run(check())


@pytest.mark.anyio
async def test_a_frame_that_is_sent_keeps_its_own_time():
    """It is the handler's, which may need its time."""
    frame = picture(5)
    frame.pts, frame.time_base = 1234, Fraction(1, 1000)
    async with webrtc_call(video=True) as (caller, callee):
        with anyio.fail_after(120):
            caller.video_out.put_nowait(frame)
            assert (await callee.video_in.take()).width == 320
    assert (frame.pts, frame.time_base) == (1234, Fraction(1, 1000))


@pytest.mark.parametrize("kind", ["yuv420p", "bgr24"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_a_frame_needs_no_time(codec, size, kind):
    """One that was made of an array has none; its track knows it."""
    frame = av.VideoFrame.from_ndarray(np.zeros((*size[::-1], 3), np.uint8), format="bgr24").reformat(format=kind)
    assert frame.time_base is None
    payloads, time = encoders(VideoConfig(), pts=lambda: 4500)[codec]().encode(frame)
    assert payloads
    assert time == 4500


@pytest.mark.parametrize("kind", ["yuv420p", "bgr24"])
def test_a_still_picture_is_a_key_picture_only_when_one_is_asked_for(kind):
    """Also if it is the same frame each time."""
    encoder, still = PictureEncoder(VideoConfig(start_bitrate=500_000)), picture(0).reformat(format=kind)
    whole = []
    for number in range(6):
        still.pts = 3000 * number
        whole.append(send(encoder, still, whole=number == 2)[1])
    assert whole == [True, False, True, False, False, False]


def samples(frame):
    """Each plane's samples, without the room behind its rows."""
    return [
        np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].astype(int) for plane in frame.planes
    ]


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1)])
def test_a_frame_that_is_sent_is_not_changed(size):
    """And what is sent is a true copy of it, whatever its size."""
    # From an even picture: libswscale 8.3 takes the colour of an odd picture's last column from behind its row.
    even_one = picture(3, size[0] + size[0] % 2, size[1] + size[1] % 2).reformat(format="yuv420p")
    frame = av.VideoFrame(*size, "yuv420p")
    frame.pts, frame.time_base = even_one.pts, even_one.time_base
    for plane, source in zip(frame.planes, samples(even_one), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        rows[:, : plane.width] = source[: plane.height, : plane.width]
    encoder, before = PictureEncoder(VideoConfig(start_bitrate=2_000_000)), samples(frame)
    kind = frame.pict_type
    (seen,) = Vp8Decoder().decode(send(encoder, frame, whole=True)[0])
    assert all(map(np.array_equal, samples(frame), before))
    assert (frame.pts, frame.time_base, frame.pict_type) == (9000, Fraction(1, 90_000), kind)
    for shown, wanted in zip(samples(seen), before, strict=True):
        assert np.abs(shown - wanted).mean() < 6


# -- bitrates, sizes and codecs


def test_a_lower_estimate_counts_at_once_and_a_higher_one_later():
    """The path is full; and each new encoder costs a key picture."""
    rate = Bitrate(video_rate(VideoConfig(start_bitrate=2_500_000)))
    rate.aim(500_000)
    assert rate.open(0.0) == 500_000
    rate.aim(420_000)
    assert rate.fits(0.1)
    rate.aim(350_000)
    assert not rate.fits(0.2)
    assert rate.open(0.2) == 350_000
    rate.aim(2_000_000)
    assert rate.fits(3.1)
    assert not rate.fits(3.3)
    rate.aim(450_000)  # not enough to be worth a key picture
    assert rate.fits(10.0)


def test_the_bitrate_stays_within_its_bounds():
    """Whatever the peer estimates."""
    rate = Bitrate(video_rate(VideoConfig(min_bitrate=100_000, start_bitrate=300_000, max_bitrate=800_000)))
    rate.aim(1)
    assert rate.target == 100_000
    rate.aim(10**9)
    assert rate.target == 300_000  # an estimate is a bound; what is used rises by itself


@pytest.mark.parametrize("size", [(641, 481), (640, 479), (3, 3), (1, 1), (64, 48)])
def test_h264_takes_pictures_of_any_size(size):
    """An odd one gets its last row or column twice."""
    encoder, decoder = H264PictureEncoder(), H264Decoder()
    payloads, timestamp = encoder.encode(picture(0, *size), True)
    data = b"".join(h264_depayload(payload) for payload in payloads)
    (seen,) = decoder.decode(JitterFrame(data, timestamp)) or decoder.codec.decode(None)
    assert (seen.width, seen.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)


@pytest.mark.parametrize("make", [PictureEncoder, H264PictureEncoder])
def test_encoders_keep_to_a_narrow_path(make):
    """At the lowest bitrate, ten seconds of pictures fit through a path of that bitrate with half a second of queue."""
    config = VideoConfig(start_bitrate=100_000, min_bitrate=100_000)
    encoder, bits, late = make(config), 0.0, 0.0
    for number in range(150):
        frame = picture(number)
        frame.pts = 6000 * number
        bits += sum(8 * len(payload) for payload in encoder.encode(frame)[0])
        late = max(late, bits / 100_000 - number / 15)
    assert bits / 10 <= 130_000
    assert late < 1.5


def test_codecs_that_are_preferred_come_first_in_an_offer():
    """The others follow, so that every peer finds one."""
    names = [codec.name for codec in preferred(VideoConfig(codecs=["H264"])) if codec.name != "rtx"]
    assert names[0] == "H264"
    assert names[-1] == "VP8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codecs": "VP8"}, r"write \('VP8',\)"),
        ({"codecs": ["VP9"]}, "'VP9'; expected of 'VP8', 'H264'"),
        ({"min_bitrate": 900_000}, "start_bitrate=300000 is not between min_bitrate=900000"),
        ({"max_bitrate": 1}, "max_bitrate=1; expected 30000 to"),
        ({"threads": 0}, "threads=0; expected 1 to 16"),
        ({"max_pixels": 100}, "max_pixels=100; expected 256 to 35651584"),
        ({"threads": 2.5}, "threads=2.5; expected a whole number, 1 to 16"),
        ({"start_bitrate": 1e6}, "start_bitrate=1000000.0; expected a whole number, 30000 to 20000000"),
        ({"codecs": None}, "codecs=None; expected a list or a tuple"),
    ],
)
def test_options_of_video_that_make_no_sense_are_refused(options, words):
    """At once, in words."""
    with pytest.raises((TypeError, ValueError), match=words):
        VideoConfig(**options)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to count threads of libraries")
def test_an_odd_picture_wakes_no_other_processors():
    """It is padded as RGB, and converted to that in this thread. PyAV's default has a thread for each processor."""
    frame, tasks = picture(0, 641, 481), Path("/proc/self/task")
    threads = {*tasks.iterdir()}
    padded = even(frame, PictureConverter())
    assert {*tasks.iterdir()} <= threads
    assert (padded.width, padded.height) == (642, 482)


def test_one_thread_encodes_unless_more_are_asked_for():
    """VP8's threads wait for one another without rest: on a busy machine two take far longer than one."""
    for config, threads in ((VideoConfig(), 1), (VideoConfig(threads=2), 2)):
        encoder = PictureEncoder(config)
        encoder.encode(picture(0, 1280, 720))
        assert encoder.codec.thread_count == threads


# -- the decoder

MAX_PIXELS = VideoConfig().max_pixels


def encoded(name, pictures):
    """Pictures as a decoder gets them, in 1/90,000 s."""
    encoder = PictureEncoder() if name == "VP8" else H264PictureEncoder()
    for number, frame in enumerate(pictures):
        payloads, timestamp = encoder.encode(frame, not number)
        yield (
            b"".join(map(h264_depayload, payloads))
            if name == "H264"
            else b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads),
            timestamp,
        )


def decode(name, packets, max_pixels=MAX_PIXELS):
    """The sizes and times of what was shown, and what was wrong."""
    seen, errors = [], []
    decoder = PictureDecoder(max_pixels, seen.append, errors.append)
    for data, timestamp in packets:
        decoder.decode(name, data, timestamp)
    return [(frame.width, frame.height, frame.pts) for frame in seen], errors


@pytest.mark.parametrize("name", ["VP8", "H264"])
def test_pictures_are_decoded_at_once(name):
    """Each picture is shown before the next one comes, with its time; also if the size changes."""
    pictures = [picture(0), picture(1), picture(2, 64, 48)]
    seen, errors = decode(name, encoded(name, pictures))
    assert (seen, errors) == ([(320, 240, 0), (320, 240, 3000), (64, 48, 6000)], [])


@pytest.mark.parametrize("name", ["VP8", "H264"])
def test_too_large_pictures_are_not_decoded(name):
    """Nor those that build on them; a smaller one afterwards is shown."""
    pictures = [picture(0), picture(1), picture(2, 64, 48)]
    seen, errors = decode(name, encoded(name, pictures), max_pixels=320 * 240 - 1)
    assert seen == [(64, 48, 6000)]
    assert 1 <= len(errors) <= 2
    assert name == "H264" or "320 × 240 pixels; see VideoConfig(max_pixels" in errors[0]


@pytest.mark.parametrize("name", ["VP8", "H264"])
@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (16, 16)])
def test_pictures_of_the_very_limit_are_decoded(name, size):
    """FFmpeg's own limit is for its buffers, whose sides are multiples of 16 to 64 pixels."""
    seen, errors = decode(name, encoded(name, [picture(0, *size)]), max_pixels=size[0] * size[1])
    assert (seen, errors) == ([(*size, 0)], [])


def test_a_few_bytes_take_no_memory():
    """A key picture may say that it has 16,383 pixels a side. libvpx would take 500 MB for it, and a second."""
    bomb = bytes.fromhex("101900 9d012a ff3fff3f") + bytes(range(256)) * 4
    tried = []
    decoder = PictureDecoder(MAX_PIXELS, tried.append, tried.append)
    decoder._codec = type("Untouched", (), {"decode": lambda *_: pytest.fail("libvpx has got it")})()
    decoder._name = "VP8"
    decoder.decode("VP8", bomb, 0)
    assert ["16383 × 16383" in error for error in tried] == [True]


@pytest.mark.parametrize("name", ["VP8", "H264"])
@pytest.mark.parametrize("junk", [b"", b"\0", bytes(range(256)), b"\xff" * 2000])
def test_junk_is_told_and_the_next_picture_is_shown(name, junk):
    """No error leaves the decoder: its thread would end."""
    packets = [(junk, 0), *encoded(name, [picture(0), picture(1)])]
    seen, _ = decode(name, packets)
    assert [size[:2] for size in seen[-2:]] == [(320, 240)] * 2


def test_parameter_sets_of_their_own_belong_to_the_next_picture():
    """Some senders mark the end of a picture behind each of them. By itself none is a picture, and that is no error."""
    parts = []
    for data, timestamp in encoded("H264", [picture(0), picture(1), picture(2)]):
        units = re.split(rb"(?=\x00\x00\x00\x01)", data)[1:]
        first = next(at for at, unit in enumerate(units) if unit[4] & 0x1F in {1, 5})
        parts += [(unit, timestamp) for unit in units[:first]]
        parts.append((b"".join(units[first:]), timestamp))
    assert len(parts) > 4
    seen, errors = decode("H264", parts)
    assert (seen, errors) == ([(320, 240, 0), (320, 240, 3000), (320, 240, 6000)], [])


def test_what_waits_for_its_picture_has_a_bound():
    """A peer may send no picture at all."""
    decoder = PictureDecoder(MAX_PIXELS, print, print)
    for _ in range(10):
        decoder.decode("H264", b"\0\0\0\1\x06" + bytes(30_000), 0)
        assert len(decoder._before) <= MOST_BEFORE


def test_a_picture_of_many_parts_is_decoded_by_one_thread():
    """With several threads libvpx waits without rest: 300 ms on a busy machine, in place of 6."""
    decoder = PictureDecoder(MAX_PIXELS, print, print)
    assert decoder._open("VP8").thread_count == 1
    assert decoder._open("H264").thread_count == 1
