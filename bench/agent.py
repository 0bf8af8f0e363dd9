"""Voice agents, measured in calls over WebRTC in real time, with fake services of fixed delays.

    python bench/agent.py --turns           100 turns: end of speech → first sound; interruption → requests cancelled
    python bench/agent.py --idle            processor time of idle calls, beside `ReplyOnPause` alone
    python bench/agent.py --lock            gaps in other calls' sound while one holds the interpreter's lock

The callers are another process on the same machine, and encode as browsers do (`turns_live.py`). The services take
150 ms (speech to text), 200 ms (the first token, which is a whole sentence) and 100 ms (the first audio).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import anyio
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import turn_corpus
from turns_common import BROWSER, milliseconds
from turns_live import TONE, first, serve

import rtcflow
from rtcflow.agents import VoiceAgent
from rtcflow.handlers.turns import AlgoOptions, Interrupted, ReplyOnPause, get_silero_model

STT, FIRST_TOKEN, FIRST_AUDIO = 0.15, 0.2, 0.1
CALLS, EACH = 4, 25


class Services:
    """One call's fakes; what happened, on the machine's monotonic clock."""

    def __init__(self):
        self.interrupted, self.cancelled = [], []

    async def stt(self, audio):
        await anyio.sleep(STT)
        return "words"

    async def chat(self, messages, tools):
        try:
            await anyio.sleep(FIRST_TOKEN)
            for _ in range(20):  # far longer than any caller listens
                yield "That is a good idea. "
                await anyio.sleep(1)
        finally:
            self.cancelled.append(time.monotonic())

    async def tts(self, text):
        await anyio.sleep(FIRST_AUDIO)
        return TONE[0], np.tile(TONE[1], 7)  # 1.4 s

    def note(self, event):
        if isinstance(event, Interrupted):
            self.interrupted.append(time.monotonic())

    def agent(self, **options):
        return VoiceAgent(self.chat, stt=self.stt, tts=self.tts, on_event=self.note, **options)


def turns():
    config = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",), opus=BROWSER)
    spoken = [turn_corpus.conversation(100 + number, EACH) for number in range(CALLS)]
    audios = [said.pcm for said in spoken]
    marks = [[at for utterance in said.utterances for at in utterance] for said in spoken]
    pause = AlgoOptions().pause
    print(f"{CALLS} calls at once, {EACH} turns each, pause {1000 * pause:.0f} ms; ms, median / p95 / most\n")
    print("| | end of speech → first sound at the caller | Interrupted → request cancelled |\n|---|---|---|")
    for speculative in (False, True):
        services = [Services() for _ in audios]
        times, heard = anyio.run(
            serve,
            audios,
            marks,
            lambda number, services=services, speculative=speculative: services[number].agent(speculative=speculative),
            lambda: None,
            config,
        )
        sounded, cancelled = [], []
        for when, service, loud in zip(times, services, heard, strict=True):
            for end, following in zip(when[1::2], [*when[2::2], np.inf], strict=True):
                if at := first(loud, end, following):
                    sounded.append(at - end)
            for at in service.interrupted:
                cancelled.append(min(abs(gone - at) for gone in service.cancelled))
        cells = [f"{milliseconds(v)} / {milliseconds(v, 100)} (n={len(v)})" for v in (sounded, cancelled)]
        print(f"| speculative={speculative} | {' | '.join(cells)} |", flush=True)


def idle(calls, rounds=8, seconds=6.0):
    noise = (turn_corpus.pink_noise(round(48000 * seconds)) * 30).astype(np.int16)[np.newaxis]
    audios = [noise] * calls
    get_silero_model()

    def cost(make):
        began = []
        anyio.run(serve, audios, [[]] * calls, lambda number: make(), lambda: began.append(time.process_time()))
        return 1000 * (time.process_time() - began[0]) / seconds / calls

    async def reply(audio):
        yield TONE

    kinds = {"ReplyOnPause": lambda: ReplyOnPause(reply), "VoiceAgent": lambda: Services().agent()}
    costs = {name: [] for name in kinds}
    for number in range(rounds):
        for name in sorted(kinds, reverse=bool(number % 2)):
            costs[name].append(cost(kinds[name]))
    print(f"{calls} calls in room noise, {rounds} rounds in turn; ms of processor time per call and second")
    for name, values in costs.items():
        print(f"  {name}: {min(values):.2f} least, {statistics.median(values):.2f} median")
    plain, agent = (statistics.median(costs[name]) for name in ("ReplyOnPause", "VoiceAgent"))
    print(f"  VoiceAgent beside ReplyOnPause: {100 * (agent / plain - 1):+.1f} % by the median")


def hold_the_lock(_=None):
    """Some 0.3 s in C, which let no other Python code of the process run: as a speech recognizer does."""
    return sum(range(15_000_000))


class Tone(rtcflow.AsyncStreamHandler):
    """Plays a tone; if it is told how, it computes meanwhile."""

    def __init__(self, how=None):
        super().__init__()
        self.how = how

    def copy(self):
        return Tone(self.how)

    async def start_up(self):
        while self.how is not None:
            await (self.run_process if self.how == "process" else self.run_sync)(hold_the_lock, 0)

    async def receive(self, frame):
        pass

    async def emit(self):
        return TONE


def lock(seconds=8.0):
    silence = np.zeros((1, round(48000 * seconds)), np.int16)
    print("gaps between frames of four calls, while a fifth computes without a pause; ms, median / p99 / most\n")
    print("| the fifth call | gaps |\n|---|---|")
    for how in (None, "process", "thread"):
        make = [Tone, Tone, Tone, Tone, partial(Tone, how)]
        _, heard = anyio.run(serve, [silence] * 5, [[]] * 5, lambda number, make=make: make[number]())
        gaps = np.concatenate([np.diff(times[50:]) for times in heard[:4]])
        name = {None: "does not compute", "process": "in run_process", "thread": "in run_sync, a thread"}[how]
        print(
            f"| {name} | {milliseconds(gaps, 50)} / {milliseconds(gaps, 99)} / {milliseconds(gaps, 100)} |", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", action="store_true")
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--calls", type=int, default=20, help="calls at once, for --idle")
    options = parser.parse_args()
    if options.turns:
        turns()
    if options.idle:
        idle(options.calls)
    if options.lock:
        lock()


if __name__ == "__main__":
    main()
