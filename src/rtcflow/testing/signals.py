"""Audio to play, and measures of what came back: tones, sweeps, chirps, speech-like noise; SNR, gaps, latency, level.

Everything made here is int16, shape (channels, n), full scale ±32768. `receive` is given it so, and `emit` may return
it. `peak` is a share of full scale. Everything random comes from a seed.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..media.correlate import correlate

__all__ = [
    "Gap",
    "chirp",
    "find_gaps",
    "latency",
    "level",
    "read_wav",
    "silence",
    "snr",
    "speech_like",
    "sweep",
    "tone",
    "white_noise",
]

Pcm = NDArray[np.int16]


def silence(seconds: float, sample_rate: int = 24000, *, channels: int = 1) -> Pcm:
    """Digital silence."""
    return np.zeros((channels, round(seconds * sample_rate)), np.int16)


def tone(
    seconds: float, frequency: float = 1000.0, sample_rate: int = 24000, *, peak: float = 0.5, channels: int = 1
) -> Pcm:
    """A sine that begins at 0; the same in all channels.

    Args:
        seconds: How long.
        frequency: Hz.
        sample_rate: Hz.
        peak: Of full scale.
        channels: 1 or 2.
    """
    return _pcm(peak * np.sin(2 * np.pi * frequency * _times(seconds, sample_rate)), channels)


def sweep(
    seconds: float,
    low: float = 100.0,
    high: float = 8000.0,
    sample_rate: int = 24000,
    *,
    peak: float = 0.5,
    channels: int = 1,
) -> Pcm:
    """A sine whose frequency rises exponentially from `low` to `high` Hz (Farina, AES 108, 2000).

    No part of it looks like another one, so `latency` finds where any piece of it belongs.
    """
    t = _times(seconds, sample_rate)
    rate = np.log(high / low)
    return _pcm(peak * np.sin(2 * np.pi * low * seconds / rate * (np.exp(t / seconds * rate) - 1)), channels)


def chirp(sample_rate: int = 24000, *, seconds: float = 0.05, peak: float = 0.5) -> Pcm:
    """A short sweep from 500 to 3000 Hz under a smooth window: a mark to measure `latency` with, telephone included."""
    samples = sweep(seconds, 500.0, 3000.0, sample_rate, peak=1.0)[0] / 32768
    return _pcm(peak * samples * np.hanning(len(samples)))


def white_noise(seconds: float, sample_rate: int = 24000, *, seed: int = 0, peak: float = 0.25) -> Pcm:
    """Uniform white noise."""
    n = round(seconds * sample_rate)
    return _pcm(np.random.default_rng(seed).uniform(-peak, peak, n))


def speech_like(
    seconds: float, sample_rate: int = 24000, *, seed: int = 0, peak: float = 0.4, activity: float = 0.6
) -> Pcm:
    """Noise with what makes speech speech to a detector: a voice's pitch, its spectrum, syllables and pauses.

    These are harmonics of a wandering pitch of 100 to 180 Hz, falling by 12 dB per octave above 500 Hz. Syllables
    follow in a rhythm of 4 Hz, the modulation peak of speech (Houtgast and Steeneken, JASA 77, 1985). Phrases are about
    1 s long, with pauses. It is not a recording: use it to have *something* going on, not to judge a recogniser.

    Args:
        seconds: How long.
        sample_rate: Hz.
        seed: Decides pitch, rhythm and pauses.
        peak: Of full scale.
        activity: Share of the time in which the voice is on; 1 for no pauses.
    """
    if not 0 < activity <= 1:
        raise ValueError(f"activity is a share of the time, more than 0 and up to 1, not {activity}; write silence(…)")
    voice = _short_voice if seconds <= _SHORT else _voice
    return voice(seconds, sample_rate, seed, peak, activity).copy()


def _voice(seconds: float, sample_rate: int, seed: int, peak: float, activity: float) -> Pcm:
    random = np.random.default_rng(seed)
    t = _times(seconds, sample_rate)
    knots = np.arange(0, seconds + 1, 0.3)
    pitch = 140 + 40 * np.interp(t, knots, _walk(random, len(knots)))
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    voice = np.zeros_like(t)
    for harmonic in range(1, 25):
        if harmonic * 180 < sample_rate / 2:
            voice += np.sin(harmonic * phase) / max(1.0, (harmonic * 140 / 500) ** 2)
    voice += 0.05 * random.standard_normal(len(t))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t + random.uniform(0, 6.28))
    voice *= syllables * _phrases(random, seconds, sample_rate, activity)
    loudest = float(np.max(np.abs(voice), initial=0.0))
    return _pcm(voice * (peak / loudest if loudest else 0.0))


_short_voice = lru_cache(maxsize=32)(_voice)
"""To make a second of it takes as long as to play one in virtual time, and tests play the same again and again."""

_SHORT: Final = 6.0
"""Seconds of what is kept: at most 0.6 MB at 48 kHz."""


def read_wav(path: str | PathLike[str]) -> tuple[int, Pcm]:
    """Read a 16 bit PCM wav file: ``(sample_rate, samples)``.

    Raises:
        ValueError: It is of another kind; the text says how to convert it.
    """
    converted = f"convert it: ffmpeg -i {path} -c:a pcm_s16le converted.wav"
    try:
        opened = wave.open(str(path), "rb")  # noqa: SIM115  what cannot be opened is told apart from what cannot be read
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a wav file of 16 bit PCM ({error}); {converted}") from None
    with opened as file:
        if file.getsampwidth() != 2:
            raise ValueError(f"{path} has {8 * file.getsampwidth()} bits per sample, not 16; {converted}")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
        return file.getframerate(), np.ascontiguousarray(samples.reshape(-1, file.getnchannels()).T)


# -- measures


def level(samples: NDArray[np.int16]) -> float:
    """The level in dBFS: 0 for a full-scale square wave, −3 for a full-scale sine, −inf for silence."""
    if not samples.size:
        return float("-inf")
    mean = float(np.mean(np.square(samples.astype(np.float64)))) ** 0.5
    return 20 * float(np.log10(mean / 32768)) if mean else float("-inf")


def snr(heard: NDArray[np.int16], sent: NDArray[np.int16]) -> float:
    """How faithfully `heard` follows `sent`, in dB: the energy that is `sent` against that which is not.

    A constant gain does not count against it. Both have to be aligned (see `latency`), and as long.

    Raises:
        ValueError: They differ in shape.
    """
    if heard.shape != sent.shape:
        raise ValueError(f"shapes differ: {heard.shape} and {sent.shape}; cut both to the same stretch first")
    a, b = heard.astype(np.float64).ravel(), sent.astype(np.float64).ravel()
    energy = float(b @ b)
    if not energy:
        raise ValueError("there is nothing but silence in `sent`")
    wanted = b * (float(a @ b) / energy)
    rest = a - wanted
    noise = float(rest @ rest)
    return float("inf") if not noise else 10 * float(np.log10(max(float(wanted @ wanted), 1e-12) / noise))


def latency(heard: NDArray[np.int16], sent: NDArray[np.int16], sample_rate: int) -> float:
    """How much later than in `sent` it is in `heard`, in seconds, by a matched filter; to a sample.

    Args:
        heard: int16, shape (1, n) or (n,).
        sent: The same; shorter is fine: a `chirp`.
        sample_rate: Hz, of both.

    Raises:
        ValueError: `sent` is not in `heard` (normalised correlation below 0.3).
    """
    a, b = (np.atleast_2d(samples)[0].astype(np.float64) for samples in (heard, sent))
    lags = correlate(b, a, before=len(b) - 1)
    best = int(np.argmax(np.abs(lags)))
    lag = best - (len(b) - 1)
    begin = max(lag, 0)
    overlap = a[begin : lag + len(b)]
    energy = float(np.linalg.norm(overlap)) * float(np.linalg.norm(b))
    if not energy or abs(lags[best]) / energy < 0.3:
        raise ValueError("what was sent is not in what was heard")
    return lag / sample_rate


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of silence.

    Attributes:
        begin: Seconds from the beginning of the samples.
        seconds: How long.
    """

    begin: float
    seconds: float


def find_gaps(
    samples: NDArray[np.int16], sample_rate: int, *, floor: float = -60.0, shortest: float = 0.005
) -> list[Gap]:
    """Stretches of at least `shortest` seconds in which no sample exceeds `floor` dBFS; in order.

    5 ms is half a period of 100 Hz: a tone above that has no gap of its own.
    """
    quiet = np.max(np.abs(np.atleast_2d(samples).astype(np.int32)), axis=0, initial=0) <= 32768 * 10 ** (floor / 20)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    return [
        Gap(begin / sample_rate, (end - begin) / sample_rate)
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        if end - begin >= shortest * sample_rate
    ]


# -- parts


def _times(seconds: float, sample_rate: int) -> NDArray[np.float64]:
    return np.arange(round(seconds * sample_rate)) / sample_rate


def _pcm(samples: NDArray[np.float64], channels: int = 1) -> Pcm:
    out = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return np.repeat(out[np.newaxis], channels, axis=0)


def _walk(random: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A smooth random curve in [-1, 1]."""
    return np.sin(np.cumsum(random.uniform(-1, 1, n)))


def _phrases(random: np.random.Generator, seconds: float, sample_rate: int, activity: float) -> NDArray[np.float64]:
    """1 while the voice is on, 0 in pauses, with edges of 20 ms; it is on at the beginning."""
    on = np.zeros(round(seconds * sample_rate))
    t = 0.0
    while t < seconds:
        phrase = random.uniform(0.7, 1.3)
        on[int(t * sample_rate) : int((t + phrase) * sample_rate)] = 1.0
        t += phrase if activity == 1 else phrase / activity
    edge = np.hanning(max(3, int(0.02 * sample_rate)))
    return np.convolve(on, edge / edge.sum(), mode="same")[: len(on)]
