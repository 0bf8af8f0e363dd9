"""Ogg Opus made of packets: FFmpeg reads it, and each side is what was put there."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from rtcflow.media.ogg import LOOK_AHEAD, SILENCE, OggOpus, checksum, coded_length


def encoded(loud, bitrate, count=150):
    """20 ms packets of a tone in mono."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48000, "mono", "s16"
    encoder.options = {"b": str(bitrate), "frame_duration": "20"}
    tone = (loud * np.sin(np.arange(960 * count) / 10)).astype(np.int16)
    packets = []
    for n in range(count):
        frame = av.AudioFrame.from_ndarray(tone[np.newaxis, 960 * n : 960 * (n + 1)], format="s16", layout="mono")
        frame.sample_rate = 48000
        packets += map(bytes, encoder.encode(frame))
    return packets


def test_the_checksum_is_that_of_the_standard():
    """The result of the algorithm of RFC 3533, bit by bit."""
    page = bytes(range(256))
    register = 0
    for byte in page:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x104C11DB7 if register & 0x80000000 else 0)
    assert checksum(page) == register


@pytest.mark.parametrize(("size", "length"), [(0, "00"), (251, "fb"), (252, "fc00"), (253, "fd00"), (1275, "ffff")])
def test_lengths(size, length):
    """As RFC 6716 section 3.2.1 writes them: n, or 252 + a and b for 4 * b + 252 + a."""
    assert coded_length(size) == bytes.fromhex(length)


@pytest.mark.parametrize("bitrate", [16_000, 64_000, 256_000])
def test_ffmpeg_reads_both_sides(bitrate):
    """A loud and a silent side, then the other way round; pages of small and of large packets."""
    loud = encoded(8000, bitrate)
    silent = [SILENCE] * len(loud)
    ogg = OggOpus(48000, 7)
    pairs = [*zip(loud, silent, strict=True), *zip(silent, loud, strict=True)]
    data = ogg.head() + b"".join(ogg.pages(pairs[begin : begin + 70]) for begin in range(0, 300, 70)) + ogg.end()
    with av.open(io.BytesIO(data)) as file:
        (stream,) = file.streams
        frames = list(file.decode(stream))
        assert (stream.codec_context.name, frames[0].layout.name, frames[0].sample_rate) == ("opus", "stereo", 48000)
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    assert samples.shape == (2, 300 * 960 - LOOK_AHEAD)
    loud = np.abs(samples[:, : 5 * 48000].reshape(2, 5, 48000)).max(axis=2) > 0.1
    assert loud[:, (0, 4)].tolist() == [[True, False], [False, True]]


def test_a_file_that_is_cut_off_can_be_read():
    """Up to the last whole page, as after a kill."""
    ogg = OggOpus(48000, 7)
    data = ogg.head() + ogg.pages([(SILENCE, SILENCE)] * 100)
    with av.open(io.BytesIO(data[:-20])) as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) == 50 * 960 - LOOK_AHEAD
