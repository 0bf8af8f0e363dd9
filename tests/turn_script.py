"""A turn detector that follows a script, and calls in which it does: for tests of what happens when somebody speaks."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import numpy as np

from rtcflow.connection.connection import Connection, Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.turns import ReplyOnPause, Say, SpeechEnded, SpeechStarted, TurnEnded
from rtcflow.transports.memory import memory_pair

RATE = 24000
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)


@dataclass
class Script:
    """A turn detector that says what it was told to, at its media times."""

    events: list = field(default_factory=list)
    blocking: bool = False
    now: float = 0.0
    resets: int = 0
    spoken_to: list = field(default_factory=list)

    def feed(self, samples, sample_rate, *, bot_speaking):
        self.spoken_to.append(bot_speaking)
        return self._advance(samples.shape[1] / sample_rate)

    def silence(self, seconds):
        return self._advance(seconds)

    def _advance(self, seconds):
        self.now += seconds
        due = [event for at, event in self.events if at <= self.now + 1e-6]
        self.events = [(at, event) for at, event in self.events if at > self.now + 1e-6]
        return due

    def reset(self):
        self.resets += 1


def turn(start: float, end: float, *, confirmed: float = 0.2, pause: float = 0.5) -> list:
    """Somebody speaks from `start` to `end`."""
    return [
        (start + confirmed, SpeechStarted(start)),
        (end + 0.1, SpeechEnded(end, 0.2)),
        (end + pause, TurnEnded(end + pause, end, end - start)),
    ]


def sound(seconds: float, value: int = 1000) -> tuple[int, np.ndarray]:
    return RATE, np.full((1, round(seconds * RATE)), value, np.int16)


@dataclass
class Call:
    """One connection in virtual time, seen from both sides."""

    handler: ReplyOnPause
    connection: Connection
    events: list
    heard: list = field(default_factory=list)  # (time, loudest sample) of each frame that reached the caller
    messages: list = field(default_factory=list)
    end: object = None
    began: float = 0.0

    def at(self, kind) -> list[float]:
        return [at for at, event in self.events if isinstance(event, kind)]

    def of(self, kind) -> list:
        return [event for _, event in self.events if isinstance(event, kind)]

    def logs(self) -> list[str]:
        return [message["data"] for message in self.messages if message["type"] == "log"]

    def loud(self) -> list[float]:
        return [at - self.began for at, peak in self.heard if peak > 100]

    async def until(self, seconds: float) -> None:
        """Until so many seconds into the call."""
        await anyio.sleep_until(self.began + seconds)


@asynccontextmanager
async def calling(fn, script=(), *, speak: bool = True, **options):
    """A caller who sends 20 ms of (silent) audio all the time, and writes down what he gets."""
    events: list = []
    detector = Script(list(script))
    if "model" not in options:
        options.setdefault("detector", lambda: detector)
    handler = ReplyOnPause(
        fn,
        on_event=lambda event: events.append((anyio.current_time() - call.began, event)),
        output_sample_rate=RATE,
        input_sample_rate=48000,
        **options,
    )
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(RATE), AudioFormat(48000))
        call = Call(handler, Connection(ours, handler, timeouts=QUICK), events)

        served = anyio.Event()

        async def serve():
            try:
                call.end = await call.connection.run()
            finally:
                served.set()

        async def send():
            while True:
                theirs.audio_out.put(AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
                await anyio.sleep(0.02)

        async def hear():
            while True:
                frame = await theirs.audio_in.take()
                call.heard.append((anyio.current_time(), int(np.abs(frame.samples).max())))

        async def read():
            while True:
                call.messages.append(json.loads(await theirs.messages_in.take()))

        async with anyio.create_task_group() as tasks:
            call.began = anyio.current_time()
            tasks.start_soon(serve)
            if speak:
                tasks.start_soon(_until_ended, send)
            tasks.start_soon(_until_ended, hear)
            tasks.start_soon(_until_ended, read)
            try:
                yield call
            finally:
                call.connection.close()
                with anyio.CancelScope(shield=True):
                    await served.wait()  # what it raises counts, too
                tasks.cancel_scope.cancel()


async def _until_ended(work):
    try:
        await work()
    except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        return


@dataclass
class Long:
    """A reply of ten seconds that writes down its end."""

    chunk: float = 0.1
    chunks: int = 100
    closed: float | None = None
    yielded: int = 0

    async def __call__(self, audio):
        try:
            for _ in range(self.chunks):
                yield Say(sound(self.chunk), f"word{self.yielded} ")
                self.yielded += 1
                await anyio.sleep(0.01)
        finally:
            self.closed = anyio.current_time()
