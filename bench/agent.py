"""Voice agents, measured in calls over WebRTC in real time, with fake services of fixed delays.

    python bench/agent.py --turns           100 turns: end of speech → first sound; interruption → requests cancelled
    python bench/agent.py --turns --speculative     the same, begun before the pause is over
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
CALLS, EACH = 5, 20


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


def turns(speculative):
    config = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",), opus=BROWSER)
    spoken = [turn_corpus.conversation(100 + number, EACH) for number in range(CALLS)]
    audios = [said.pcm for said in spoken]
    marks = [[at for utterance in said.utterances for at in utterance] for said in spoken]
    pause = AlgoOptions().pause
    print(f"{CALLS} calls at once, {EACH} turns each, pause {1000 * pause:.0f} ms; ms, median / p95 / most\n")
    print("| | end of speech → first sound at the caller | the same, after the pause | Interrupted → cancelled |")
    print("|---|---|---|---|")
    services = [Services() for _ in audios]
    make = lambda number: services[number].agent(speculative=speculative)  # noqa: E731
    times, heard = anyio.run(serve, audios, marks, make, lambda: None, config)
    sounded, cancelled = [], []
    for when, service, loud in zip(times, services, heard, strict=True):
        for end, following in zip(when[1::2], [*when[2::2], np.inf], strict=True):
            if at := first(loud, end, following):
                sounded.append(at - end)
        for at in service.interrupted:
            cancelled.append(min(abs(gone - at) for gone in service.cancelled))
    after = [at - pause for at in sounded]
    cells = [f"{milliseconds(v)} / {milliseconds(v, 100)} (n={len(v)})" for v in (sounded, after, cancelled)]
    print(f"| speculative={speculative} | {' | '.join(cells)} |", flush=True)


class Account:
    """Processor time that one kind of handler takes, in calls that go on side by side with those of the other kind."""

    def __init__(self, base):
        self.took, account = 0.0, self

        class Timed(base):
            async def receive(self, frame):
                began = time.thread_time()
                try:
                    await super().receive(frame)
                finally:
                    account.took += time.thread_time() - began

        self.kind = Timed


def idle(calls, rounds=5, seconds=30.0):
    """Half of the calls are of each kind, at the same time in one process, in turn. So both meet the same conditions.

    All that a call does outside of `receive` is the same for both: nobody speaks, so `emit` waits.
    """
    noise = (turn_corpus.pink_noise(round(48000 * seconds)) * 30).astype(np.int16)[np.newaxis]
    get_silero_model()

    async def reply(audio):
        yield TONE

    services, differences = Services(), []
    print(f"{calls} calls in room noise, half of each kind; ms of processor time per call and second")
    for _ in range(rounds):
        plain, agent, began = Account(ReplyOnPause), Account(VoiceAgent), []

        def make(number, plain=plain, agent=agent):
            if number % 2:
                return agent.kind(services.chat, stt=services.stt, tts=services.tts)
            return plain.kind(reply)

        def begin(began=began):
            began.append(time.process_time())

        anyio.run(serve, [noise] * calls, [[]] * calls, make, begin)
        whole = 1000 * (time.process_time() - began[0]) / seconds / calls
        each = [1000 * one.took / seconds / (calls / 2) for one in (plain, agent)]
        differences.append(100 * (each[1] - each[0]) / whole)
        print(
            f"  a whole call {whole:.2f}; in receive: ReplyOnPause {each[0]:.3f}, VoiceAgent {each[1]:.3f}; "
            f"a call of VoiceAgent takes {differences[-1]:+.2f} % more",
            flush=True,
        )
    print(f"  median {statistics.median(differences):+.2f} %, most {max(differences):+.2f} %")


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
    parser.add_argument("--speculative", action="store_true")
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--calls", type=int, default=20, help="calls at once, for --idle")
    options = parser.parse_args()
    if options.turns:
        turns(options.speculative)
    if options.idle:
        idle(options.calls)
    if options.lock:
        lock()


if __name__ == "__main__":
    main()
