"""What noise suppression does for turn-taking and for speech recognition, and what it costs.

    pip install pywebrtc-audio webrtc-noise-gain pocketsphinx
    python bench/noise.py                   both libraries, at each of their levels
    python bench/noise.py --echo            echo cancellation: what is left of the bot's voice, and what of the caller's

The corpus is espeak-ng's (`tests/turn_corpus.py`), at 16 kHz, in pink and white noise and music. Precision and recall
are those of turn ends with Silero VAD. Word errors are Pocketsphinx's, which has to choose one of the 18 phrases.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import turn_corpus

from rtcflow.handlers.turns import AlgoOptions, TurnEnded, VoiceTurns, get_silero_model

RATE, FRAME = 16000, 320


class Nothing:
    def feed(self, samples):
        return samples


class PyWebRTC:
    def __init__(self, level):
        from pywebrtc_audio import AudioProcessor

        self.processor = AudioProcessor(sample_rate=RATE, noise_suppression=True, ns_level=level)

    def feed(self, samples):
        return self.processor.process(samples)


class NoiseGain:
    def __init__(self, level):
        from webrtc_noise_gain import AudioProcessor

        self.processor = AudioProcessor(0, level)

    def feed(self, samples):
        parts = [self.processor.Process10ms(samples[at : at + 160].tobytes()).audio for at in (0, 160)]
        return np.frombuffer(b"".join(parts), np.int16)


FILTERS = {
    "none": Nothing,
    **{f"pywebrtc-audio, level {level}": (lambda level=level: PyWebRTC(level)) for level in (0, 1, 2, 3)},
    **{f"webrtc-noise-gain, level {level}": (lambda level=level: NoiseGain(level)) for level in (1, 2, 4)},
}


def to_pcm(conversation):
    """int16 at 16 kHz, shape (n,)."""
    audio = conversation.audio[: len(conversation.audio) // 3 * 3].reshape(-1, 3).mean(axis=1)
    return (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def run(make, pcm):
    """What comes out, and the ms of CPU per second of audio."""
    chosen, out, began = make(), [], time.process_time()
    for at in range(0, len(pcm) - FRAME + 1, FRAME):
        out.append(chosen.feed(np.ascontiguousarray(pcm[at : at + FRAME])))
    return np.concatenate(out), 1000 * (time.process_time() - began) / (len(pcm) / RATE)


def delay(make, pcm):
    """By how many ms what comes out is later: where clean speech fits best."""
    out, _ = run(make, pcm)
    before, after = pcm[RATE : 9 * RATE].astype(float), out[RATE : 9 * RATE].astype(float)
    spectrum = np.fft.rfft(after, 2**18) * np.conj(np.fft.rfft(before, 2**18))
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    return 1000 * (lag if lag < 2**17 else lag - 2**18) / RATE


def score(pcm, utterances):
    detector, ends = VoiceTurns(get_silero_model().stream(), AlgoOptions()), []
    for at in range(0, len(pcm) - FRAME + 1, FRAME):
        events = detector.feed(pcm[np.newaxis, at : at + FRAME], RATE, bot_speaking=False)
        ends += [(at + FRAME) / RATE for event in events if isinstance(event, TurnEnded)]
    return turn_corpus.score(utterances, ends)


def recognizer():
    from pocketsphinx import Decoder

    phrases = " | ".join(phrase.lower() for phrase in turn_corpus.PHRASES)
    grammar = f"#JSGF V1.0; grammar phrases; public <phrase> = {phrases} ;"
    with tempfile.NamedTemporaryFile("w", suffix=".jsgf", delete=False) as file:
        file.write(grammar)
    return Decoder(jsgf=file.name, samprate=RATE, loglevel="FATAL")


def recognized(decoder, pcm):
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return [] if hypothesis is None else hypothesis.hypstr.split()


def errors(said, found):
    """Words that must be put in, taken out or changed."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def suppression(args):
    spoken = turn_corpus.conversation(1, args.utterances)
    n = len(spoken.audio)
    white = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    pink, music = turn_corpus.pink_noise(n), turn_corpus.music(n)
    conditions = {
        "room, 40 dB": turn_corpus.with_noise(spoken, white, 40),
        "pink 0 dB": turn_corpus.with_noise(spoken, pink, 0),
        "pink -5 dB": turn_corpus.with_noise(spoken, pink, -5),
        "white -5 dB": turn_corpus.with_noise(spoken, white, -5),
        "music 0 dB": turn_corpus.with_noise(spoken, music, 0),
    }
    decoder = recognizer()
    phrases = turn_corpus.PHRASES[: args.phrases]
    print("| filter | delay ms | CPU ms per s | " + " | ".join(f"{name}: P / R, WER %" for name in conditions) + " |")
    print("|---" * (3 + len(conditions)) + "|")
    for name, make in FILTERS.items():
        if args.only and not any(only in name for only in args.only):
            continue
        cells = []
        for condition in conditions.values():
            out, cpu = run(make, to_pcm(condition))
            found = score(out, spoken.utterances)
            cells.append(f"{found.precision:.2f} / {found.recall:.2f}")
        wrong, words = [0] * len(conditions), 0
        for number, phrase in enumerate(phrases * 2):
            said = turn_corpus.speak(phrase, turn_corpus.VOICES[number // len(phrases)])
            said = np.concatenate([np.zeros(48000, np.float32), said, np.zeros(24000, np.float32)])
            one = turn_corpus.Conversation(said, [(1.0, len(said) / 48000 - 0.5)])
            words += len(phrase.split())
            for place, label in enumerate(conditions):
                kind, _, snr = label.replace(",", "").partition(" ")
                noise = {"pink": pink, "music": music}.get(kind, white)
                heard = turn_corpus.with_noise(one, noise[: len(said)], float(snr.split()[0]))
                out, _ = run(make, to_pcm(heard))
                wrong[place] += errors(phrase.lower().split(), recognized(decoder, out))
        cells = [f"{cell}, {100 * bad / words:.0f}" for cell, bad in zip(cells, wrong, strict=True)]
        print(f"| {name} | {delay(make, to_pcm(spoken)):.1f} | {cpu:.2f} | {' | '.join(cells)} |", flush=True)


def echo(args):
    """The bot's voice comes back, delayed and filtered by a room; the caller speaks now and then."""
    from rtcflow.frames import AudioFormat
    from rtcflow.speech.denoise import EchoCanceller

    bot = to_pcm(turn_corpus.conversation(3, args.utterances)).astype(float)
    caller = to_pcm(turn_corpus.conversation(1, args.utterances)).astype(float)
    n = min(len(bot), len(caller), 60 * RATE)
    bot, caller = bot[:n], caller[:n] * (np.arange(n) // (10 * RATE) % 2 == 1)  # ten seconds of either
    rng = np.random.default_rng(5)
    room = rng.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    room *= 0.3 / np.sqrt((room**2).sum())
    back = np.convolve(bot, room)[:n]
    print("| echo after ms | echo left dB, after 10 s | caller's voice dB | turn ends while only the bot spoke |")
    print("|---|---|---|---|")
    for late in (60, 150, 300, 450):
        shifted = np.concatenate([np.zeros(late * RATE // 1000), back])[:n]
        near = np.clip(shifted + caller, -32768, 32767).astype(np.int16)
        chosen, out = EchoCanceller(AudioFormat(RATE), denoise=not args.plain), []
        for at in range(0, n - FRAME + 1, FRAME):
            played = bot[np.newaxis, at : at + FRAME].astype(np.int16)
            out.append(chosen.feed(near[np.newaxis, at : at + FRAME], played)[0])
        clean = np.concatenate(out).astype(float)
        quiet = (np.arange(len(clean)) // (10 * RATE) % 2 == 0) & (np.arange(len(clean)) >= 10 * RATE)
        speech = ~quiet & (np.arange(len(clean)) >= 10 * RATE)
        level = lambda x: 10 * np.log10(np.mean(x**2) + 1)  # noqa: E731
        left = level(clean[quiet]) - level(near[: len(clean)][quiet].astype(float))
        kept = level(clean[speech]) - level(caller[: len(clean)][speech])
        ends = []
        for heard in (near[: len(clean)], clean.astype(np.int16)):
            detector, count = VoiceTurns(get_silero_model().stream(), AlgoOptions()), 0
            for at in range(0, len(heard) - FRAME + 1, FRAME):
                found = detector.feed(heard[np.newaxis, at : at + FRAME], RATE, bot_speaking=False)
                # A turn of the caller's may end some time after the caller.
                count += sum(
                    isinstance(event, TurnEnded) and bool(quiet[at] and quiet[at - 2 * RATE]) for event in found
                )
            ends.append(count)
        print(f"| {late} | {left:.1f} | {kept:.1f} | {ends[0]} without, {ends[1]} with |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=30)
    parser.add_argument("--phrases", type=int, default=18)
    parser.add_argument("--only", nargs="*", help="parts of names of filters")
    parser.add_argument("--echo", action="store_true")
    parser.add_argument("--plain", action="store_true", help="echo cancellation without noise suppression")
    args = parser.parse_args()
    (echo if args.echo else suppression)(args)


main()
