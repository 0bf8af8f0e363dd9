"""libopus called directly: at any rate, over losses, and what it says of nonsense."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turn_corpus import HAS_ESPEAK

from rtcflow._engine import libopus
from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import OpusEncoder, decoded_rate, make_decoder
from rtcflow.frames import AudioFormat, ChannelLayout

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
from quality import AIORTC, align, at, code, log_spectral_distance, segmental_snr, speech


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_decoding_at_the_rate_that_is_wanted(rate: int, layout: ChannelLayout) -> None:
    """libopus decodes at any of its rates: frames are 20 ms long from the first on, and nothing is resampled."""
    library = libopus.load()
    assert library is not None
    encoder = OpusEncoder(48000, OpusConfig())
    decoder = make_decoder("OPUS", AudioFormat(rate, layout))
    assert decoder is not None
    assert decoder.sample_rate == decoded_rate("OPUS", rate) == rate
    tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(960 * 50) / 48000)).astype(np.int16)
    frames = [decoder.decode(encoder.payload(tone[None, i : i + 960]) or b"") for i in range(0, len(tone), 960)]
    assert {frame.shape for frame in frames} == {(1 if layout == "mono" else 2, rate // 50)}
    heard = np.concatenate(frames, axis=1)[0, rate // 5 :]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.argmax(spectrum) * rate / len(heard) - 300) < 3
    assert 6000 < np.abs(heard).max() < 10000


def test_a_lost_frame_is_read_out_of_the_next_packet() -> None:
    """With in-band FEC the frame before a packet is in it, and sounds nearer to the original than what is made up."""
    library = libopus.load()
    assert library is not None
    wanted = AudioFormat(16000)
    config = OpusConfig(application="voip", fec=True, expected_loss=30, bitrate=24000)
    rise = np.linspace(0.1, 1, 320 * 30) ** 2
    voice = (9000 * rise * np.sin(2 * np.pi * np.linspace(150, 400, 320 * 30).cumsum() / 16000)).astype(np.int16)
    encoder = OpusEncoder(16000, config)
    packets = [encoder.payload(voice[None, i : i + 320]) or b"" for i in range(0, len(voice), 320)]
    heard = {}
    for way in ("played", "fec", "made up"):
        decoder = libopus.NativeDecoder(library, wanted)
        for packet in packets[:20]:
            decoder.decode(packet)
        if way == "played":
            found = decoder.decode(packets[20])
        else:
            found = decoder.conceal(packets[21] if way == "fec" else None)
        assert found is not None
        heard[way] = found[0].astype(float)
    errors = {way: np.abs(heard[way] - heard["played"]).mean() for way in ("fec", "made up")}
    assert errors["fec"] < 0.7 * errors["made up"]


def test_libopus_says_what_is_wrong() -> None:
    """A packet that makes no sense is an error with words, and the decoder goes on; before any, nothing is made up."""
    library = libopus.load()
    assert library is not None
    decoder = libopus.NativeDecoder(library, AudioFormat(24000))
    assert decoder.conceal() is None
    with pytest.raises(libopus.OpusError, match="corrupted stream"):
        decoder.decode(b"\xff\xff\xff")
    packet = OpusEncoder(24000, OpusConfig()).payload(np.zeros((1, 480), np.int16)) or b""
    assert decoder.decode(packet).shape == (1, 480)


def test_without_libopus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is not found, or is not what it is called, FFmpeg decodes, at 48 kHz."""
    libopus.load.cache_clear()
    monkeypatch.setattr(libopus.Path, "glob", lambda *_: [])
    try:
        monkeypatch.setattr(libopus.ctypes.util, "find_library", lambda _: "libm.so.6")
        assert libopus.load() is None
        assert decoded_rate("OPUS", 24000) == 48000
    finally:
        libopus.load.cache_clear()


@pytest.mark.parametrize("application", ["audio", "voip", "lowdelay"])
@pytest.mark.parametrize("rate", [16000, 48000])
def test_no_step_is_heard_when_the_complexity_changes(application: Any, rate: int) -> None:
    """A glide with a change of level twice a second: each frame is as near to the original as at one of the levels."""
    seconds, size = 4, rate // 50
    phase = np.linspace(200, 900, seconds * rate).cumsum() / rate
    voice = sum(np.sin(2 * np.pi * phase * harmonic) / harmonic for harmonic in (1, 2, 3, 5))
    original = (6000 * voice).astype(np.int16)

    def errors(*levels: int) -> np.ndarray:
        encoder = OpusEncoder(rate, OpusConfig(application=application))
        decoder = make_decoder("OPUS", AudioFormat(rate))
        assert decoder is not None
        heard = []
        for frame in range(seconds * 50):
            if frame % 25 == 0:
                encoder.set_complexity(levels[frame // 25 % len(levels)])
            part = original[None, frame * size : (frame + 1) * size]
            heard.append(decoder.decode(encoder.payload(part) or b"")[0])
        out = np.concatenate(heard).astype(float)
        # A step is a jump from sample to sample that the original does not have.
        steps = np.abs(np.diff(out)).reshape(-1)[: seconds * 50 * size - size].reshape(-1, size).max(axis=1)
        return steps[25:]

    changing, steady = errors(0, 10), np.maximum(errors(0), errors(10))
    assert (changing <= 1.25 * steady.max()).all()
    levels = np.array([changing.max(), steady.max()])
    assert levels.min() > 100  # there is sound


def test_the_complexity_can_be_set_at_any_time() -> None:
    """Before the first frame and between frames; more work shows in the packets."""
    speech = (3000 * np.random.default_rng(1).standard_normal((1, 48000))).astype(np.int16)

    def sizes(*, first: int, then: int) -> list[int]:
        encoder = OpusEncoder(48000, OpusConfig())
        encoder.set_complexity(first)
        out = []
        for frame in range(50):
            if frame == 25:
                encoder.set_complexity(then)
            out.append(len(encoder.payload(speech[:, frame * 960 : (frame + 1) * 960]) or b""))
        return out

    low, high, changed = sizes(first=0, then=0), sizes(first=10, then=10), sizes(first=0, then=10)
    assert low != high
    assert changed[:25] == low[:25]
    assert changed[25:] != low[25:]


def voice() -> np.ndarray:
    """One second at 48 kHz: a glide with harmonics, four syllables, and a hiss."""
    t = np.arange(48_000) / 48_000
    phase = 2 * np.pi * (90 * t + 45 * t * t)
    tone = sum(np.sin(harmonic * phase) / (1 + harmonic / 8) for harmonic in range(1, 60))
    hiss = np.random.default_rng(5).standard_normal(len(t))
    return (2000 * tone * (1 + np.sin(2 * np.pi * 4 * t)) / 3 + 300 * hiss).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("bitrate", [6_000, 16_000, 20_000, 32_000, 40_000, 55_000])
def test_no_bitrate_runs_away(rate: int, bitrate: int) -> None:
    """Variable bitrate stays near what was asked for, however the bits are shared out.

    A mask at 20 kbit/s, say, would make libopus send 510.
    """
    sound = voice()[:: 48_000 // rate]
    for config in (OpusConfig(bitrate=bitrate), OpusConfig(bitrate=bitrate, fec=True, expected_loss=20)):
        encoder = OpusEncoder(rate, config)
        sizes = [len(encoder.payload(part) or b"") for part in np.split(sound[np.newaxis], 50, axis=1)]
        assert 8 * 50 * np.mean(sizes) <= 2.1 * bitrate + 4_000


@pytest.mark.skipif(not HAS_ESPEAK, reason="espeak-ng is not installed")
@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_speech_is_as_near_to_the_original_as_aiortcs(rate: int) -> None:
    """By spectrum and by waveform, at our default bitrate, with a core that has time."""
    signal = speech("en-us")[: 4 * 48_000]
    heard, bitrate = code(signal, rate, OpusConfig(complexity=10))
    ours, theirs = align(signal, heard), align(signal, at(bitrate, signal, 48_000, AIORTC, channels=2))
    assert log_spectral_distance(*ours) <= log_spectral_distance(*theirs) + 0.05
    assert segmental_snr(*ours) >= segmental_snr(*theirs)
