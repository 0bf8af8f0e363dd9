"""`bench/turns.py --live` and `--idle`: turn-taking over WebRTC calls in real time; the callers are another process.

Callers of `--live` encode as browsers do. That matters: at the lowest complexity, ours when the core is full, Opus lets
the end of speech fade by 5 dB in 20 ms, and turns end that much later. When a caller begins and ends to speak is when
that left them, frame by frame: a frame of 20 ms leaves when its last sample has been spoken, as from a microphone. Both
processes are on one machine and share its monotonic clock; the network between them is the loopback interface.
"""

from __future__ import annotations

import multiprocessing
import time
from bisect import bisect

import anyio
import anyio.to_thread
import numpy as np
import turn_corpus
from turns_common import BROWSER, milliseconds

import rtcflow
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.turns import Interrupted, ReplyOnPause, ReplyStarted, VoiceTurns, get_silero_model

LOCAL = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))
LOUD = 1000
TONE = (24000, (8000 * np.sin(2 * np.pi * 440 * np.arange(4800) / 24000)).astype(np.int16)[np.newaxis])


# -- the callers


def callers(pipe, audios, marks, config):
    anyio.run(_call_all, pipe, audios, marks, config)


async def _call_all(pipe, audios, marks, config):
    heard = [[] for _ in audios]
    said = [[] for _ in audios]

    async def call(number, transport):
        await anyio.sleep(0.137 * number)
        transport.audio_out.put(AudioFrame(audios[number], 48000, 0))
        async with anyio.create_task_group() as tasks:

            async def listen():
                while True:
                    frame = await transport.audio_in.take()
                    if np.abs(frame.samples).max() > LOUD:
                        heard[number].append(time.monotonic())

            tasks.start_soon(listen)
            for mark in marks[number]:
                await transport.audio_out.wait_played(mark)
                said[number].append(time.monotonic() - (0.02 - mark % 0.02))
            await transport.audio_out.drained()
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()

    async with rtcflow.open_engine(config) as engine:
        transports = []
        for _ in audios:
            transport = await engine.offer(audio=True)
            pipe.send(transport.offer_sdp)
            await transport.accept_answer(await anyio.to_thread.run_sync(pipe.recv))
            transport.start(AudioFormat(24000), AudioFormat(48000))
            await transport.wait_connected()
            transports.append(transport)
        pipe.send("all connected")
        await anyio.to_thread.run_sync(pipe.recv)
        async with anyio.create_task_group() as calls:
            for number, transport in enumerate(transports):
                calls.start_soon(call, number, transport)
        pipe.send((said, heard))


async def serve(audios, marks, make_handler, begin=lambda: None, config=LOCAL):
    """Answer one call for each audio with a handler of its own.

    Returns:
        Of each caller, when he said what stands at his `marks` (seconds), and when he heard something loud.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=callers, args=(theirs, audios, marks, config), daemon=True)
    process.start()
    try:
        async with rtcflow.open_engine(LOCAL) as engine, anyio.create_task_group() as calls:
            for number in range(len(audios)):
                transport = await engine.answer(await anyio.to_thread.run_sync(ours.recv))
                connection = rtcflow.Connection(transport, make_handler(number))
                calls.start_soon(connection.run)
                ours.send(transport.answer)
            await anyio.to_thread.run_sync(ours.recv)
            begin()
            ours.send("go")
            noted = await anyio.to_thread.run_sync(ours.recv)
            calls.cancel_scope.cancel()
    finally:
        process.join(10)
    return noted


# -- replies and barge-in


class Call:
    """What happened on the server's side of one call."""

    def __init__(self):
        self.called, self.interrupted, self.closed = [], [], []

    def handler(self):
        return ReplyOnPause(self.reply, on_event=self.note)

    def note(self, event):
        if isinstance(event, ReplyStarted):
            self.called.append(time.monotonic())
        elif isinstance(event, Interrupted):
            self.interrupted.append(time.monotonic())

    async def reply(self, audio):
        try:
            for _ in range(100):
                yield TONE
        finally:
            self.closed.append(time.monotonic())


def first(times, low, high):
    at = bisect(times, low)
    return times[at] if at < len(times) and times[at] < high else None


def live(options):

    config = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",), opus=BROWSER)
    each = -(-options.utterances // options.calls)
    spoken = [turn_corpus.conversation(100 + number, each) for number in range(options.calls)]
    print(f"{options.calls} calls at once, {each} utterances each; ms, median / p95 / most\n")
    print("| | end of speech → reply called | speech → interrupted | speech → last loud frame | cancelled → finally |")
    print("|---|---|---|---|---|")
    conditions = (("clean", None), ("pink noise, 10 dB", 10), ("pink noise, 0 dB", 0))
    for name, snr in conditions[:1] if options.clean else conditions:
        noisy = [
            said if snr is None else turn_corpus.with_noise(said, turn_corpus.pink_noise(len(said.audio), at), snr)
            for at, said in enumerate(spoken)
        ]
        calls = [Call() for _ in noisy]
        audios = [said.pcm for said in noisy]
        marks = [[at for utterance in said.utterances for at in utterance] for said in noisy]
        make = [call.handler for call in calls]
        times, heard = anyio.run(serve, audios, marks, lambda number, make=make: make[number](), lambda: None, config)
        replied, stopped, silent, closed = [], [], [], []
        for when, call, loud in zip(times, calls, heard, strict=True):
            speeches = list(zip(when[::2], when[1::2], [*when[2::2], np.inf], strict=True))
            for index, (start, end, following) in enumerate(speeches):
                if called := first(call.called, end, following):
                    replied.append(called - end)
                if index and (at := first(call.interrupted, start, end)):
                    stopped.append(at - start)
                    silent.append(loud[bisect(loud, at + 0.3) - 1] - start)
                    closed.append(first(call.closed, at - 0.1, at + 5) - at)
        cells = [
            f"{milliseconds(values)} / {milliseconds(values, 100)} (n={len(values)})"
            for values in (replied, stopped, silent, closed)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


# -- nobody speaks


class Silent(rtcflow.AsyncStreamHandler):
    """Hears, and says nothing."""

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Silent()


class Timed(VoiceTurns):
    """Adds up the processor time of all detectors, in the calls they serve: there it is up to twice that of a loop."""

    took = 0.0

    def feed(self, *args, **options):
        began = time.thread_time()
        try:
            return super().feed(*args, **options)
        finally:
            Timed.took += time.thread_time() - began


def idle(options, seconds=20.0):
    noise = (turn_corpus.pink_noise(round(48000 * seconds)) * 30).astype(np.int16)[np.newaxis]
    audios = [noise] * options.idle
    get_silero_model()

    def cost(make):
        began = []
        anyio.run(serve, audios, [[]] * len(audios), lambda number: make(), lambda: began.append(time.process_time()))
        return (time.process_time() - began[0]) / (seconds + 0.137 * options.idle)

    def make():
        return ReplyOnPause(Call().reply, detector=lambda: Timed(get_silero_model().stream()))

    without, with_ = cost(Silent), cost(make)
    detection = Timed.took / (seconds + 0.137 * options.idle)
    print(f"{options.idle} calls in room noise, % of a core: {100 * without:.1f} without ReplyOnPause, ")
    print(f"{100 * with_:.1f} with it, of which speech detection took {100 * detection:.1f}; ", end="")
    print(f"beside that {100 * (with_ - detection) / without - 100:+.0f} %")


def main(options):
    if options.idle:
        idle(options)
    else:
        live(options)
