"""Resampling: chunking cannot be heard, nothing is lost, nothing is late."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcflow.exceptions import MediaError
from rtcflow.frames import AudioFormat
from rtcflow.media.convert import as_pcm
from rtcflow.media.resample import Converter, Resampler, check_sample_rate

rates = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]) | st.integers(4000, 100_000)
layouts = st.sampled_from(["mono", "stereo"])
cuts = st.lists(st.integers(0, 2000), max_size=8)


def noise(channels: int, n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-20000, 20000, (channels, n)).astype(np.int16)


def whole(resampler: Any, chunks: list[Any]) -> Any:
    return np.concatenate([*(resampler.feed(chunk) for chunk in chunks), resampler.flush()], axis=1)


@given(rates, rates, layouts, layouts, st.integers(0, 2000), cuts)
@example(48000, 24000, "mono", "mono", 5, [])
@example(48000, 8000, "stereo", "mono", 1, [])
def test_chunking_cannot_be_heard(
    source_rate: int, target_rate: int, source_layout: Any, target_layout: Any, n: int, cuts: list[int]
) -> None:
    """However the audio is cut, the same samples come out, n * r ± 1 of them; and again after a flush."""
    source, target = AudioFormat(source_rate, source_layout), AudioFormat(target_rate, target_layout)
    samples = noise(source.channels, n)
    resampler = Resampler(source, target)
    at_once = whole(resampler, [samples])
    in_pieces = whole(resampler, np.split(samples, sorted(cut for cut in cuts if cut <= n), axis=1))
    np.testing.assert_array_equal(at_once, in_pieces)
    assert at_once.dtype == np.int16
    assert at_once.shape[0] == target.channels
    assert abs(at_once.shape[1] - n * target_rate / source_rate) <= 1


@pytest.mark.parametrize(
    ("source_rate", "target_rate"),
    [(48000, 24000), (24000, 48000), (8000, 48000), (48000, 8000), (44100, 48000), (16000, 24000), (44101, 48000)],
)
def test_a_sine_stays_the_same_sine_at_the_same_time(source_rate: int, target_rate: int) -> None:
    """1 kHz through the filter is 1 kHz, undelayed, with an SNR above 80 dB."""
    n = source_rate // 2
    sine = np.rint(10000 * np.sin(2 * np.pi * 1000 * np.arange(n) / source_rate)).astype(np.int16)[np.newaxis]
    out = whole(Resampler(AudioFormat(source_rate), AudioFormat(target_rate)), np.split(sine, range(0, n, 111), axis=1))
    ideal = 10000 * np.sin(2 * np.pi * 1000 * np.arange(out.shape[1]) / target_rate)
    inner = slice(200, -200)
    error = out[0, inner] - ideal[inner]
    assert 10 * np.log10(np.mean(ideal[inner] ** 2) / np.mean(error**2)) > 80


@pytest.mark.parametrize("target_rate", [8000, 24000, 44100, 48000])
def test_little_is_held_back(target_rate: int) -> None:
    """Before a flush at most 2 ms are missing."""
    for source_rate in (8000, 16000, 24000, 44100, 48000):
        resampler = Resampler(AudioFormat(source_rate), AudioFormat(target_rate))
        out = resampler.feed(noise(1, source_rate // 50))
        assert out.shape[1] / target_rate >= 0.018 - 1 / target_rate


def test_equal_formats_cost_nothing() -> None:
    """The very same array comes back."""
    samples = noise(1, 480)
    resampler = Resampler(AudioFormat(24000), AudioFormat(24000))
    assert resampler.feed(samples) is samples
    assert resampler.flush().shape == (1, 0)


def test_channels_of_the_chunk_count_and_not_those_announced() -> None:
    """A stereo chunk in a mono stream is heard."""
    resampler = Resampler(AudioFormat(24000, "mono"), AudioFormat(48000, "stereo"))
    assert resampler.feed(noise(2, 480)).shape[0] == 2
    assert resampler.feed(noise(1, 480)).shape == (2, 960)


@given(st.lists(st.tuples(st.sampled_from([8000, 24000, 44100]), st.integers(1, 2), st.integers(0, 900)), max_size=8))
def test_the_rate_may_change_at_any_time(pieces: list[tuple[int, int, int]]) -> None:
    """Each stretch of one rate comes out whole, as if it had been resampled alone."""
    target = AudioFormat(24000, "stereo")
    converter = Converter(target)
    out = [converter.feed(noise(channels, n, seed), rate) for seed, (rate, channels, n) in enumerate(pieces)]
    out.append(converter.flush())
    expected, resampler = [np.empty((2, 0), np.int16)], None
    for seed, (rate, channels, n) in enumerate(pieces):
        if resampler is None or rate != resampler.source.sample_rate:
            if resampler is not None:
                expected.append(resampler.flush())
            resampler = Resampler(AudioFormat(rate), target)
        expected.append(resampler.feed(noise(channels, n, seed)))
    if resampler is not None:
        expected.append(resampler.flush())
    np.testing.assert_array_equal(np.concatenate(out, axis=1), np.concatenate(expected, axis=1))


def test_a_bad_rate_disturbs_nothing() -> None:
    """After the error the stream goes on as if it had not been."""
    converter, undisturbed = Converter(AudioFormat(48000)), Converter(AudioFormat(48000))
    first, second = noise(1, 480, 1), noise(1, 480, 2)
    out = [converter.feed(first, 24000)]
    with pytest.raises(MediaError):
        converter.feed(first, 0)
    with pytest.raises(MediaError):
        converter.feed(noise(3, 4), 16000)
    out.append(converter.feed(second, 24000))
    expected = [undisturbed.feed(first, 24000), undisturbed.feed(second, 24000)]
    np.testing.assert_array_equal(np.concatenate(out, axis=1), np.concatenate(expected, axis=1))


@pytest.mark.parametrize("rate", [0, -8000, 48000.0, "48000", True, None, 10**9, float("nan")])
def test_what_is_no_sample_rate_is_named(rate: Any) -> None:
    """The error shows what was given."""
    with pytest.raises(MediaError, match="whole number of Hz"):
        check_sample_rate(rate)


def test_numpy_integers_are_sample_rates() -> None:
    """They come out of wav readers."""
    assert type(check_sample_rate(np.int64(24000))) is int


@given(
    source=st.sampled_from([8000, 16000, 22050, 24000, 32000, 44100, 48000]),
    target=st.sampled_from([8000, 12000, 16000, 22050, 24000, 44100, 48000]),
    channels=st.sampled_from([1, 2]),
)
def test_live_of_whole_frames_whole_frames_come_out_at_once(source, target, channels):
    """What a live converter's filter holds back is made up for; after at most 2 ms of silence the audio is the same."""
    converter, plain = Converter(AudioFormat(target), live=True), Converter(AudioFormat(target))
    t = np.arange(source // 5) / source
    audio = np.repeat(np.rint(8000 * np.sin(2 * np.pi * 300 * t)).astype(np.int16)[np.newaxis], channels, axis=0)
    frames = np.split(audio, 10, axis=1)
    out = [converter.feed(frame, source) for frame in frames]
    assert {frame.shape for frame in out} == {(1, target // 50)}
    live, whole = (
        np.concatenate([*out, converter.flush()], axis=1),
        np.concatenate([plain.feed(audio, source), plain.flush()], axis=1),
    )
    silence = live.shape[1] - whole.shape[1]
    assert 0 <= silence <= target // 500
    a_sample = 8000 * 2 * np.pi * 300 / min(source, target)  # the silence need not be of whole samples
    assert np.abs(live[:, silence:].astype(int) - whole).max() <= a_sample + 10


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is measured in /proc")
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_ten_minutes_at_once_take_memory_of_their_own_order(kind: str) -> None:
    """Converted piece by piece: beside what went in and what comes out there is little; the sound is the same."""
    samples = (noise(1, 24000, 1)[0].astype(kind) / (1 if kind == "int16" else 32768)).astype(kind)
    long = np.tile(samples, 600)
    as_pcm(samples), Converter(AudioFormat(48000)).feed(noise(1, 480, 1), 24000)
    before, most, over = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        heard = Converter(AudioFormat(48000)).feed(as_pcm(long), 24000)
    finally:
        over.set()
        watcher.join()
    size = 2 * long.size  # as int16
    assert heard.shape[1] == pytest.approx(2 * long.size, abs=200)
    assert most - before <= 6.5 * size + 20e6, (most - before) / size  # a copy, and twice as many samples, joined


def test_pieces_cannot_be_heard() -> None:
    """Two and a half seconds at once are what they are frame by frame."""
    samples = noise(2, 60000, 3)
    frames = Converter(AudioFormat(48000, "stereo"))
    parts = [frames.feed(samples[:, begin : begin + 480], 24000) for begin in range(0, 60000, 480)]
    at_once = Converter(AudioFormat(48000, "stereo")).feed(samples, 24000)
    np.testing.assert_array_equal(at_once, np.concatenate(parts, axis=1))
