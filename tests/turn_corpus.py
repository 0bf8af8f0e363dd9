"""Spoken conversations with known times: espeak-ng's sentences, pauses, noise, music. For tests and benchmarks.

Everything comes from a seed. The truth is taken from the clean speech itself: an utterance begins and ends where its
level, over 10 ms, passes 35 dB below its loudest.
"""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE = 48_000
HAS_ESPEAK = shutil.which("espeak-ng") is not None

VOICES = ["en-us", "en-us+f2", "en-us+f5", "en-gb+m3", "en-us+m7", "en-gb+f4"]
PHRASES = [
    "hello there",
    "how are you doing today",
    "what is the weather like in Paris",
    "could you tell me a story",
    "I would like to book a table for two",
    "please turn on the light in the kitchen",
    "yes",
    "no thank you",
    "that is all I wanted to know",
    "can you say that again",
    "tomorrow at a quarter past nine",
    "my number is four seven one one",
    "I am not quite sure about that",
    "let me think about it",
    "wait a moment",
    "who wrote this book",
    "the train to London leaves at noon",
    "play some music for me",
]


@dataclass(frozen=True)
class Conversation:
    """One caller's side.

    Attributes:
        audio: float32, shape (n,), in [-1, 1], at `RATE`.
        utterances: (start, end) in seconds, of whole utterances: what shall be one turn each.
    """

    audio: NDArray[np.float32]
    utterances: list[tuple[float, float]]

    @property
    def pcm(self) -> NDArray[np.int16]:
        """int16, shape (1, n)."""
        return (np.clip(self.audio, -1, 32767 / 32768) * 32768).astype(np.int16)[np.newaxis]


@functools.cache
def speak(text: str, voice: str = "en-us", speed: int = 160) -> NDArray[np.float32]:
    """`text` as espeak-ng says it, trimmed to where it can be heard, at `RATE`, RMS 0.05 (-26 dBFS)."""
    out = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text], capture_output=True, check=True
    )
    with wave.open(io.BytesIO(out.stdout)) as file:
        rate = file.getframerate()
        data = out.stdout[44:]
    samples = np.frombuffer(data[: len(data) // 2 * 2], np.int16).astype(np.float32) / 32768
    n = int(len(samples) * RATE / rate)
    samples = np.interp(np.arange(n) * rate / RATE, np.arange(len(samples)), samples).astype(np.float32)
    hop = RATE // 100
    levels = np.sqrt(np.mean(samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2, axis=1))
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-35 / 20))
    samples = samples[loud[0] * hop : (loud[-1] + 1) * hop]
    return samples * np.float32(0.05 / np.sqrt(np.mean(samples**2)))


def conversation(seed: int, utterances: int, *, longest_breath: float = 0.3) -> Conversation:
    """A caller who speaks `utterances` times: one to three phrases, breaths between, then 1.2 to 2.2 s of silence."""
    random = np.random.default_rng(seed)
    parts: list[NDArray[np.float32]] = [np.zeros(RATE, np.float32)]
    at, times = 1.0, []
    for _ in range(utterances):
        voice, speed = str(random.choice(VOICES)), int(random.choice([140, 160, 180]))
        start = at
        for index in range(int(random.integers(1, 4))):
            if index:
                breath = float(random.uniform(0.1, longest_breath))
                parts.append(np.zeros(round(breath * RATE), np.float32))
                at += len(parts[-1]) / RATE
            parts.append(speak(str(random.choice(PHRASES)), voice, speed))
            at += len(parts[-1]) / RATE
        times.append((start, at))
        parts.append(np.zeros(round(float(random.uniform(1.2, 2.2)) * RATE), np.float32))
        at += len(parts[-1]) / RATE
    return Conversation(np.concatenate(parts), times)


def pink_noise(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise that falls by 3 dB per octave, RMS 1."""
    length = 1 << (n - 1).bit_length()  # quick to transform
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(length))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20 * length / RATE))
    noise = np.fft.irfft(spectrum, length)[:n]
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def music(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Chords of plucked tones with a beat, RMS 1: nothing sings in it."""
    random = np.random.default_rng(seed)
    out = np.zeros(n, np.float32)
    step = RATE // 4
    t = np.arange(2 * step) / RATE
    for start in range(0, n, step):
        root = 110 * 2 ** (random.choice([0, 3, 5, 7, 10]) / 12)
        note = sum(
            np.sin(2 * np.pi * root * ratio * k * t) / k**1.5 for ratio in (1, 1.26, 1.5) for k in range(1, 6)
        ) * np.exp(-4 * t)
        note = note + random.standard_normal(len(t)) * np.exp(-60 * t)
        end = min(n, start + len(t))
        out[start:end] += note[: end - start].astype(np.float32)
    return out / np.sqrt(np.mean(out**2))


def with_noise(spoken: Conversation, noise: NDArray[np.float32], snr: float) -> Conversation:
    """The same with `noise` (RMS 1) `snr` dB below the speech (RMS 0.05 while it lasts)."""
    audio = spoken.audio + noise[: len(spoken.audio)] * np.float32(0.05 * 10 ** (-snr / 20))
    return Conversation(audio.astype(np.float32), spoken.utterances)


@dataclass(frozen=True)
class Score:
    """How well turns were told apart.

    Attributes:
        precision: Share of detected turns that are an utterance, detected once, between its end and the next one.
        recall: Share of utterances that were.
        delays: Seconds from the end of each of those to its detection.
    """

    precision: float
    recall: float
    delays: list[float]

    def delay(self, percent: float) -> float:
        return float(np.percentile(self.delays, percent))


def score(utterances: list[tuple[float, float]], turn_ends: list[float]) -> Score:
    """Compare detected ends of turns (seconds) with the truth."""
    delays = []
    ends = [end for _, end in utterances]
    nexts = [start for start, _ in utterances[1:]] + [float("inf")]
    for end, following in zip(ends, nexts, strict=True):
        hits = [turn for turn in turn_ends if end <= turn < following]
        if hits:
            delays.append(hits[0] - end)
    return Score(len(delays) / max(1, len(turn_ends)), len(delays) / len(utterances), delays)
