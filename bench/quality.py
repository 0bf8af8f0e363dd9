"""How near to the original audio is after the encoder: rtcflow's against aiortc's, at the same real bitrate.

nox -s bench_quality        needs espeak-ng for the speech

Two distances, over the frames that are not silent: log-spectral distance (Gray & Markel, 1976; dB, less is nearer;
32 ms Hann windows, every 16 ms) and segmental signal-to-noise ratio (20 ms segments, each limited to -10 to 35 dB; more
is nearer). What is compared is mono, decoded at 48 kHz, moved to where it fits the original best.

aiortc's settings are libopus in its voice mode, in stereo, at complexity 10 and 96 kbit/s. Each signal is compared at
the bitrate that our defaults take, and at the one that aiortc's take. The other side's bitrate is set, by bisection, so
that its packets take as many bytes: both are variable, and neither keeps to the figure that it was given.
"""

from __future__ import annotations

import io
import subprocess
import wave
from dataclasses import replace

import numpy as np

from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import OpusEncoder, make_decoder
from rtcflow.frames import AudioFormat
from rtcflow.media.complexity import BEST, LEAST
from rtcflow.media.resample import Converter

RATE = 48_000
AIORTC = OpusConfig(bitrate=48_000, complexity=10, application="voip")
"""Of aiortc's encoder, for each of its two channels."""
WORDS = (
    "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue background. "
    "It is easy to tell the depth of a well. These days a chicken leg is a rare dish."
)  # Harvard sentences, list 1 (IEEE 297-1969)


def speech(voice: str) -> np.ndarray:
    """A synthetic voice, int16 at 48 kHz."""
    spoken = subprocess.run(["espeak-ng", "-v", voice, "--stdout", WORDS], check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        samples = np.frombuffer(file.readframes(10**9), np.int16)[np.newaxis]
        return Converter(AudioFormat(RATE)).feed(samples, file.getframerate())[0]


def sweep() -> np.ndarray:
    """100 Hz to 8 kHz in six seconds, int16 at 48 kHz."""
    t = np.arange(6 * RATE) / RATE
    octaves = np.log2(80)
    return (8000 * np.sin(2 * np.pi * 100 * 6 / octaves / np.log(2) * (2 ** (octaves * t / 6) - 1))).astype(np.int16)


def code(signal: np.ndarray, rate: int, config: OpusConfig, channels: int = 1) -> tuple[np.ndarray, float]:
    """There and back: what is heard, and the real bitrate."""
    encoder, decoder = OpusEncoder(rate, config), make_decoder("OPUS", AudioFormat(RATE))
    assert decoder is not None
    samples = np.repeat(Converter(AudioFormat(rate)).feed(signal[np.newaxis], RATE), channels, axis=0)
    size = rate // 50
    packets = [encoder.payload(samples[:, i : i + size]) for i in range(0, samples.shape[1] - size + 1, size)]
    heard = np.concatenate([decoder.decode(packet)[0] for packet in packets if packet])
    return heard, 50 * 8 * float(np.mean([len(packet or b"") for packet in packets]))


def at(bitrate: float, signal: np.ndarray, rate: int, config: OpusConfig, channels: int = 1) -> np.ndarray:
    """What settings make of it at that real bitrate."""
    low, high, heard = 6_000, 128_000, signal
    for _ in range(9):
        middle = (low + high) // 2
        heard, real = code(signal, rate, replace(config, bitrate=middle), channels)
        low, high = (middle, high) if real < bitrate else (low, middle)
    return heard


def align(signal: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut both to what they have in common."""
    n = 1 << (len(signal) + len(heard)).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, n) * np.conj(np.fft.rfft(signal, n)), n)
    delay = int(np.argmax(product[:4800]))
    length = min(len(signal), len(heard) - delay)
    return signal[:length].astype(float), heard[delay : delay + length].astype(float)


def pieces(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def log_spectral_distance(signal: np.ndarray, heard: np.ndarray) -> float:
    """dB."""
    window = np.hanning(1536)
    spectra = [np.abs(np.fft.rfft(pieces(samples, 1536, 768) * window)) for samples in (signal, heard)]
    power = (spectra[0] ** 2).sum(axis=1)
    loud = power > power.max() * 1e-5
    # What is 60 dB below the loudest is not heard beside it.
    floor = spectra[0].max() * 1e-3
    ours, theirs = (20 * np.log10(np.maximum(spectrum[loud], floor)) for spectrum in spectra)
    return float(np.sqrt(((ours - theirs) ** 2).mean(axis=1)).mean())


def segmental_snr(signal: np.ndarray, heard: np.ndarray) -> float:
    """dB."""
    ours, error = pieces(signal, 960, 960), pieces(heard - signal, 960, 960)
    power = (ours**2).sum(axis=1)
    loud = power > power.max() * 1e-5
    ratio = 10 * np.log10(power[loud] / np.maximum((error[loud] ** 2).sum(axis=1), 1))
    return float(np.clip(ratio, -10, 35).mean())


def main() -> None:
    print("| signal | Hz | kbit/s | LSD: core full | with time | aiortc | SNR: core full | with time | aiortc |")
    print("|---|---|---|---|---|---|---|---|---|")
    signals = {"speech, en-us": speech("en-us"), "speech, de": speech("de"), "speech, en+f3": speech("en+f3")}
    ours, full = OpusConfig(complexity=BEST), OpusConfig(complexity=LEAST)  # the two levels of the default, "auto"
    for whose in ("ours", "aiortc's"):
        for name, signal in (signals | {"sweep": sweep()}).items():
            for rate in (24_000, 48_000):
                _, bitrate = code(signal, rate, ours) if whose == "ours" else code(signal, RATE, AIORTC, channels=2)
                heard = [at(bitrate, signal, rate, config) for config in (full, ours)]
                heard.append(at(bitrate, signal, RATE, AIORTC, channels=2))
                pairs = [align(signal, one) for one in heard]
                figures = [measure(*pair) for measure in (log_spectral_distance, segmental_snr) for pair in pairs]
                values = " | ".join(f"{value:.2f}" for value in figures)
                print(f"| {name} | {rate} | {bitrate / 1000:.1f} ({whose}) | {values} |")


if __name__ == "__main__":
    main()
