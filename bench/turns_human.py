"""The end of a turn in human speech: how often a listener is cut short, and how soon it is answered.

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-g722     then, for each: dpkg-deb -x FILE sounds
    python bench/turns_human.py sounds                              the plain pause, of four lengths
    python bench/turns_human.py sounds --smart-turn MODEL.onnx      Smart Turn beside it, at four thresholds

The prompts of the Asterisk PBX are spoken by five people in five languages. A prompt of 2 s or more is a turn. Each is
heard twice: whole, and with a hesitation that we cut into it. The cut is where the level is least in the middle part,
between two words or within one. A silence of 0.3 to 1.2 s (from a seed) is put there. *Cut short*: the turn ended
within that silence. *Time to reply*: from the end of the speech to the decision, in audio; the model's computing is
told apart. Prompts with a silence of their own of more than 0.2 s are left out, because they have an end within.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict
from pathlib import Path

import av
import numpy as np

from rtcflow.turns import AlgoOptions, SmartTurn, SmartTurnModel, TurnEnd, TurnEnded, VoiceTurns, get_silero_model

RATE, FRAME = 16000, 320
BEFORE, AFTER = 0.6, 2.6
ROOM = 10 ** (-60 / 20) * 32767  # noise of a quiet room: no line is digitally silent
PAUSES = (0.3, 0.5, 0.8, 1.2)
SURE = (0.3, 0.5, 0.7, 0.9)


def read(path):
    with av.open(str(path), format="g722") as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def levels(pcm):
    hop = RATE // 100
    return 20 * np.log10(np.sqrt(np.mean(pcm[: len(pcm) // hop * hop].reshape(-1, hop).astype(float) ** 2, axis=1)) + 1)


def speech(pcm):
    """The part that can be heard, or None if it is short or has a long silence within."""
    level = levels(pcm)
    loud = np.flatnonzero(level > level.max() - 35)
    if loud[-1] - loud[0] < 200 or np.diff(loud).max() > 20:
        return None
    return pcm[loud[0] * RATE // 100 : (loud[-1] + 1) * RATE // 100]


def hesitating(said, rng):
    """`said` with a silence in it: (audio, where it begins and ends in seconds)."""
    level = np.convolve(levels(said), np.ones(3) / 3, "same")
    first, last = round(0.35 * len(level)), round(0.75 * len(level))
    at = (first + int(level[first:last].argmin())) * RATE // 100
    gap = rng.uniform(0.3, 1.2)
    audio = np.concatenate([said[:at], np.zeros(round(gap * RATE), np.int16), said[at:]])
    return audio, (at / RATE, at / RATE + gap)


def hear(turns, audio, rng):
    """(Seconds, reason) of each end of a turn, from the beginning of `audio`."""
    whole = np.concatenate([np.zeros(round(BEFORE * RATE)), audio, np.zeros(round(AFTER * RATE))])
    whole = np.clip(whole + ROOM * rng.standard_normal(len(whole)), -32768, 32767).astype(np.int16)
    ends = []
    for at in range(0, len(whole) - FRAME + 1, FRAME):
        for event in turns.feed(whole[np.newaxis, at : at + FRAME], RATE, bot_speaking=False):
            if isinstance(event, TurnEnded):
                ends.append(((at + FRAME) / RATE - BEFORE, event.reason))
    return ends


class Remembering:
    """The model, asked once for the same audio: thresholds share its answers. Keeps how long it computes."""

    def __init__(self, model):
        self.model, self.known, self.seconds = model, {}, []

    def __call__(self, audio):
        key = audio.tobytes()
        if key not in self.known:
            began = time.perf_counter()
            self.known[key] = self.model(audio)
            self.seconds.append(time.perf_counter() - began)
        return self.known[key]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smart-turn", metavar="ONNX")
    parser.add_argument("--prompts", type=int, default=60, help="of each language, at most")
    options = parser.parse_args()

    listeners = {
        f"pause {pause} s": lambda pause=pause: VoiceTurns(vad.stream(), AlgoOptions(pause_duration=pause))
        for pause in PAUSES
    }
    vad = get_silero_model()
    if options.smart_turn:
        model = Remembering(SmartTurnModel(options.smart_turn))
        listeners |= {
            f"Smart Turn, sure {sure}": lambda sure=sure: SmartTurn(model, vad=vad, sure=sure) for sure in SURE
        }

    prompts = defaultdict(list)
    for path in sorted(options.folder.rglob("*.g722")):
        language = next(part for part in path.parts if re.match("[a-z]{2}_[A-Z]{2}_", part))
        if len(prompts[language]) < options.prompts and (said := speech(read(path))) is not None:
            prompts[language].append(said)
    if not prompts:
        sys.exit(f"there are no .g722 files in {options.folder}")
    print("| language | prompts | listener | cut short | time to reply, median / p95 | not ended by itself |")
    print("|---|---|---|---|---|---|")
    total = {name: [0, [], 0] for name in listeners}
    for language, spoken in prompts.items():
        for name, listener in listeners.items():
            short, replies, pauses = 0, [], 0
            rng = np.random.default_rng(0)  # the same silences for all
            for said in spoken:
                audio, (begins, ends) = hesitating(said, rng)
                noise = int(rng.integers(1 << 30))
                short += any(
                    begins < at < ends + 0.05 for at, _ in hear(listener(), audio, np.random.default_rng(noise))
                )
                whole = hear(listener(), said, np.random.default_rng(noise))
                replies += [at - len(said) / RATE for at, _ in whole[-1:]]
                pauses += "Smart" in name and bool(whole) and whole[-1][1] is TurnEnd.PAUSE
            row(language, len(spoken), name, short, replies, pauses)
            for at, value in enumerate((short, replies, pauses)):
                total[name][at] += value
    for name, (short, replies, pauses) in total.items():
        row("all", sum(map(len, prompts.values())), name, short, replies, pauses)
    if options.smart_turn:
        print(f"\nthe model computes for {1000 * np.median(model.seconds):.0f} ms (median of {len(model.seconds)})")


def row(language, prompts, name, short, replies, pauses):
    late = f"{1000 * np.median(replies):.0f} / {1000 * np.percentile(replies, 95):.0f} ms"
    by_pause = f"{100 * pauses / prompts:.0f} %" if "Smart" in name else ""
    print(f"| {language} | {prompts} | {name} | {100 * short / prompts:.0f} % | {late} | {by_pause} |", flush=True)


if __name__ == "__main__":
    main()
