"""Signals sound as they say, and the measures find what was put in."""

from __future__ import annotations

import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.testing import signals


def test_speech_belongs_to_who_asked_for_it():
    """The same speech is made once, and may be written to all the same."""
    speech = signals.speech_like(0.2, seed=5)
    before = speech.copy()
    speech[:] = 0
    assert np.array_equal(signals.speech_like(0.2, seed=5), before)


def test_a_tone_has_its_level():
    """A sine of half scale is 9 dB below a full-scale square wave."""
    assert signals.level(signals.tone(1.0, peak=0.5)) == pytest.approx(-9.03, abs=0.01)


def test_silence_has_no_level():
    """Silence is -inf dBFS, and one gap."""
    quiet = signals.silence(0.5, 8000)
    assert signals.level(quiet) == float("-inf")
    assert signals.find_gaps(quiet, 8000) == [signals.Gap(0.0, 0.5)]


@given(st.integers(0, 4000), st.integers(200, 2000))
def test_gaps_are_found_where_they_are(begin, length):
    """A stretch of zeros in a tone is found to within a few samples."""
    samples = signals.tone(0.5, 300, 16000)
    samples[:, begin : begin + length] = 0
    (gap,) = signals.find_gaps(samples, 16000)
    assert gap.begin * 16000 == pytest.approx(begin, abs=3)
    assert gap.seconds * 16000 == pytest.approx(length, abs=6)


@given(st.integers(-300, 3000))
def test_latency_is_found_to_a_sample(shift):
    """The matched filter finds a delay, or a head start, to the sample, in noise and with the sign turned."""
    mark = signals.chirp(16000)
    noise = signals.white_noise(0.5, 16000, peak=0.02)
    heard = noise[0].astype(int)
    piece = mark[0][max(0, -shift) :]
    heard[max(0, shift) : max(0, shift) + len(piece)] -= piece
    assert signals.latency(heard[np.newaxis].astype(np.int16), mark, 16000) * 16000 == pytest.approx(shift)


def test_latency_says_when_there_is_nothing():
    """What was never sent is not found."""
    with pytest.raises(ValueError, match="not in what was heard"):
        signals.latency(signals.white_noise(1.0, seed=1), signals.chirp(), 24000)


@pytest.mark.parametrize("decibels", [10, 30, 50])
def test_snr_measures_what_was_added(decibels):
    """Noise a known amount below the signal is measured as that."""
    sent = signals.sweep(1.0, peak=0.5)
    noise = np.random.default_rng(1).standard_normal(sent.shape)
    noise *= np.linalg.norm(sent) / np.linalg.norm(noise) / 10 ** (decibels / 20)
    assert signals.snr(np.rint(sent + noise).astype(np.int16), sent) == pytest.approx(decibels, abs=0.3)


def test_gain_does_not_count_as_noise():
    """Half as loud is not less faithful."""
    sent = signals.tone(1.0)
    assert signals.snr((sent // 2).astype(np.int16), sent) > 60


def test_speech_like_noise_is_like_speech():
    """It has pauses, a low pitch, most of its energy below 1 kHz, and its seed decides it."""
    samples = signals.speech_like(10.0, 16000, seed=3)
    assert np.array_equal(samples, signals.speech_like(10.0, 16000, seed=3))
    assert not np.array_equal(samples, signals.speech_like(10.0, 16000, seed=4))
    pauses = [gap for gap in signals.find_gaps(samples, 16000, floor=-50) if gap.seconds > 0.2]
    assert len(pauses) >= 3
    spectrum = np.abs(np.fft.rfft(samples[0])) ** 2
    assert spectrum[: 10 * 1000].sum() > 0.8 * spectrum.sum()


def test_a_wav_file_is_read_as_it_was_written(tmp_path):
    """Stereo comes back as shape (2, n), unchanged."""
    samples = np.stack([signals.tone(0.1)[0], signals.sweep(0.1)[0]])
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(np.ascontiguousarray(samples.T).tobytes())
    rate, read = signals.read_wav(tmp_path / "x.wav")
    assert rate == 24000
    assert np.array_equal(read, samples)


def test_a_wav_file_of_another_kind_is_refused(tmp_path):
    """Eight bits: the error shows how to convert."""
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 100)
    with pytest.raises(ValueError, match="pcm_s16le"):
        signals.read_wav(tmp_path / "x.wav")
