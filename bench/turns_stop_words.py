"""`bench/turns.py --stop-words`: how often phrases are found, mistaken and imagined, voice by voice."""

from __future__ import annotations

import time

import numpy as np
import turn_corpus

from rtcflow.frames import AudioFormat
from rtcflow.handlers.turns import PocketsphinxSpotter
from rtcflow.media.resample import Resampler

PHRASES = ["hello computer", "stop the music", "hey robot", "okay assistant"]
WORDS = ["computer", "assistant", "robot", "stop"]


def at_16k(audio):
    pcm = (np.clip(audio * 3, -1, 0.99) * 32767).astype(np.int16)[np.newaxis]
    return Resampler(AudioFormat(48000), AudioFormat(16000)).feed(pcm)[0]


def found(spotter, heard):
    hits = [hit.phrase for at in range(0, len(heard), 320) for hit in spotter.feed(heard[at : at + 320])]
    spotter.reset()
    return hits


def stop_words():
    gap = np.zeros(24000, np.float32)
    talk = at_16k(turn_corpus.conversation(5, 40).audio)
    for phrases in (PHRASES, WORDS):
        spotter = PocketsphinxSpotter(phrases)
        print(f"\n| {', '.join(phrases)} | found | mistaken |\n|---|---|---|")
        sums = np.zeros(3, int)
        for voice in turn_corpus.VOICES:
            heard = [
                (phrase, found(spotter, at_16k(np.concatenate([gap, turn_corpus.speak(phrase, voice, speed), gap]))))
                for phrase in phrases
                for speed in (140, 160)
            ]
            hits = sum(phrase in hits for phrase, hits in heard)
            wrong = sum(len([hit for hit in hits if hit != phrase]) for phrase, hits in heard)
            sums += (hits, wrong, len(heard))
            print(f"| {voice} | {hits} of {len(heard)} | {wrong} |")
        began = time.process_time()
        alarms = found(spotter, talk)
        seconds = len(talk) / 16000
        cost = (time.process_time() - began) / seconds * 1000
        print(f"| all | {sums[0]} of {sums[2]} | {sums[1]} |")
        print(f"\n{len(alarms)} false alarms in {seconds:.0f} s of other talk; {cost:.0f} ms of CPU a second")
