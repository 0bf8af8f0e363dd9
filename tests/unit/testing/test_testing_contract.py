"""What `check_handler` tells apart: each handler with a bug has a sound one beside it that looks much like it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import anyio
import av
import numpy as np
import pytest

import rtcflow
from rtcflow.testing import HANDLER_CHECKS, contract, signals
from rtcflow.testing._tracing import Tracer

RATE = 24000
PIECE = (RATE, signals.tone(0.02))

REAL_TIME = "its audio comes in real time"
ANY_ORDER = "it answers in the same way under every order"
ERRORS = "an error in its methods is not swallowed"
LIMITS = "its limits count"
NOTICES = "it notices an interruption"
SAYS_ALL = "it does not hang up in the middle"
LENGTHS = "it serves a caller whose frames are of any length"
ENDS = "its call ends in time, and its threads"
STALE = "after clear_queue the caller hears nothing"
BADLY = "it serves a caller who says nothing"
LATE = "it answers late in a call"
SERVES = "it serves a call on trio"
SIDES = "what a stereo handler hears on the left"
SHUT_DOWN = "its call ends in time when the whole stream"
TRACES = "one call leaves no trace"
TEXTS = "it serves a caller who sends any text"


class Echo(rtcflow.AsyncStreamHandler):
    """What the handlers below are made of."""

    def __init__(self):
        super().__init__()
        self.frames, self.came = deque(), rtcflow.Event()

    async def receive(self, frame):
        self.frames.append(frame)
        self.came.set()

    async def next(self):
        while not self.frames:
            self.came.clear()
            await self.came.wait()
        return self.frames.popleft()

    async def emit(self):
        return await self.next()

    def copy(self):
        return type(self)()


class SyncEcho(rtcflow.StreamHandler):
    """The same with threads."""

    def __init__(self):
        super().__init__()
        self.frames = queue.Queue()

    def receive(self, frame):
        self.frames.put(frame)

    def emit(self):
        try:
            return self.frames.get(timeout=0.05)
        except queue.Empty:
            return None

    def copy(self):
        return type(self)()


# -- the latest frame


class Box:
    """Holds the latest frame."""

    frame = None


class RenewsTooLate(Echo):
    """Renews its event after it took the frame: one that comes in between is not answered."""

    def __init__(self):
        super().__init__()
        self.box, self.new = Box(), None

    async def start_up(self):
        self.new = anyio.Event()

    async def receive(self, frame):
        self.box.frame = frame
        self.new.set()

    async def emit(self):
        await self.new.wait()
        frame = self.box.frame
        await anyio.sleep(0)
        self.new = anyio.Event()
        return frame


class RenewsInTime(RenewsTooLate):
    """Renews its event first: the latest frame wins, and older ones may be dropped."""

    async def emit(self):
        await self.new.wait()
        self.new = anyio.Event()
        await anyio.sleep(0)
        return self.box.frame


class Remembers(Echo):
    """Keeps the last spectrum, which nobody is to hear."""

    async def receive(self, frame):
        self.spectrum = np.fft.rfft(frame[1])
        await super().receive(frame)


class IgnoresWhileBusy(Echo):
    """Is told of one frame at a time, and drops what comes meanwhile."""

    async def receive(self, frame):
        if not self.frames:
            await super().receive(frame)


class MissesTheSignal(Echo):
    """Waits for a signal that start_up gives once: in most orders it has come before."""

    def __init__(self):
        super().__init__()
        self.pulse, self.begun = None, False

    async def start_up(self):
        self.pulse = anyio.Event()
        await anyio.sleep(0)
        self.pulse.set()
        self.pulse = anyio.Event()

    async def emit(self):
        if not self.begun:
            await self.pulse.wait()
            self.begun = True
        return await self.next()


# -- errors and cancellations


class RetriesForEver(Echo):
    """Takes its cancellation for an error of the service."""

    async def emit(self):
        while True:
            try:
                return await self.next()
            except BaseException:
                await anyio.sleep(0.01)


class CleansUp(Echo):
    """Takes everything, and raises it again."""

    async def emit(self):
        try:
            return await self.next()
        except BaseException:
            self.frames.clear()
            raise


class StopsItsTask(Echo):
    """Cancels a task of its own, and waits for it: that is not the call's cancellation."""

    async def emit(self):
        task = self.loop.create_task(anyio.sleep(60))
        await anyio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
        return await self.next()


class ReturnsInFinally(SyncEcho):
    """The return drops the error."""

    def emit(self):
        item = None
        try:
            item = self.frames.get(timeout=0.05)
            item = self.effects(item)
        finally:
            return item  # noqa: B012


class LogsBeforeFinally(SyncEcho):
    """The error is told before."""

    def emit(self):
        item = None
        try:
            item = self.frames.get(timeout=0.05)
            item = self.effects(item)
        except queue.Empty:
            item = None
        except AttributeError:
            logging.getLogger("nobody").error("no effects")
        finally:
            return item  # noqa: B012


class WorkerFails(Echo):
    """A task of its own gives up without a word."""

    async def start_up(self):
        self.loop.create_task(self.work())

    async def work(self):
        try:
            await anyio.sleep(0.1)
            self.model.warm_up()
        except Exception:
            pass


class FailsInAPool(SyncEcho):
    """Nobody asks the pool what has become of its work."""

    pool = None

    def start_up(self):
        self.pool = ThreadPoolExecutor(1)

    def receive(self, frame):
        if self.pool is not None:
            self.submit(frame)

    def submit(self, frame):
        self.pool.submit(self.work, frame)

    def work(self, frame):
        self.frames.put(self.model(frame))

    def shutdown(self):
        if self.pool is not None:
            self.pool.shutdown()


class AsksThePool(FailsInAPool):
    """The result is asked for, and the error is told."""

    def submit(self, frame):
        self.pool.submit(self.work, frame).add_done_callback(self.done)

    def done(self, future):
        logging.getLogger("nobody").error("%r", future.exception())


class ShutDownFails(Echo):
    """Closing is a best effort."""

    async def shutdown(self):
        with suppress(Exception):
            self.session.close()


# -- real time


class FallsSilent(Echo):
    """Says something, and nothing more; nobody can reach it."""

    n = 0

    async def receive(self, frame):
        pass

    async def emit(self):
        self.n += 1
        if self.n > 100:
            await anyio.sleep_forever()
        return PIECE


class HangsUp(FallsSilent):
    """Says something, and hangs up."""

    async def emit(self):
        self.n += 1
        return PIECE if self.n < 100 else rtcflow.CloseStream()


class Greets(FallsSilent):
    """Says something, and then listens."""

    async def receive(self, frame):
        await self.send_message("heard")


class IsTold(FallsSilent):
    """Says something, and then what its application wants."""

    def announce(self, text):
        self.n = 0


class WaitsForRoom(SyncEcho):
    """Waits for room in a queue that is emptied when the caller is silent."""

    def __init__(self):
        super().__init__()
        self.frames = queue.Queue(10)

    def receive(self, frame):
        self.frames.put(frame if np.abs(frame[1]).max() > 0 else None)

    def emit(self):
        self.ended.wait_sync(0.1)

    def shutdown(self):
        self.frames.get_nowait()
        self.frames.put(None)


class WaitsForItsQueue(SyncEcho):
    """Waits until its first frame was worked off, and nobody says so."""

    def receive(self, frame):
        self.frames.put(frame)
        self.frames.join()

    def shutdown(self):
        with suppress(ValueError):
            while True:
                self.frames.task_done()


class WaitsToBegin(Echo):
    """Listens once a message has come."""

    async def start_up(self):
        self.begun = rtcflow.Event()

    async def on_message(self, text):
        self.begun.set()

    async def receive(self, frame):
        await self.begun.wait()


class SleepsThroughItsAudio(Echo):
    """Half a second of audio, and then a sleep of half a second and the model's time."""

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.55)
        return RATE, signals.tone(0.5)


class Chimes(SleepsThroughItsAudio):
    """Half a second of audio, once a second."""

    async def emit(self):
        await anyio.sleep(1.0)
        return RATE, signals.tone(0.5)


class SynthesizesFirst(SleepsThroughItsAudio):
    """Makes a second of audio, and then sleeps for as long as it lasts."""

    async def emit(self):
        await anyio.sleep(0.4)
        audio = signals.tone(1.0)
        await anyio.sleep(audio.shape[1] / RATE)
        return RATE, audio


class SynthesizesInAThread(SyncEcho):
    """The same in a thread."""

    def receive(self, frame):
        pass

    def emit(self):
        time.sleep(0.4)
        audio = signals.tone(1.0)
        time.sleep(audio.shape[1] / RATE)
        return RATE, audio


class Bells(SleepsThroughItsAudio):
    """A second of audio, and a pause that was meant."""

    async def emit(self):
        await anyio.sleep(1.4)
        return RATE, signals.tone(1.0)


# -- limits and traces


class FiveMinutes(Echo):
    """Counts from when it was made, by the calendar."""

    def __init__(self):
        super().__init__()
        self.began = datetime.now()

    async def emit(self):
        if datetime.now() - self.began > timedelta(minutes=5):
            return rtcflow.CloseStream("five minutes")
        return await self.next()


class FiveMinutesOfCall(FiveMinutes):
    """Counts from the call's beginning."""

    async def start_up(self):
        self.began = datetime.now()


class TwoClocks(Echo):
    """Its limit is over at once."""

    async def emit(self):
        if datetime.now().timestamp() - self.loop.time() > 60:
            return rtcflow.CloseStream("a minute")
        return await self.next()


class KeepsItsPlace(Echo):
    """Gives a place back with the last piece of a reply. An interrupted reply has no last piece."""

    free = 5
    loud = 0

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 500:
            self.loud += 1
        elif self.loud > 5 and not self.frames:
            self.loud = 0
            KeepsItsPlace.free -= 1
            self.frames.extend([PIECE] * 40)
            self.came.set()

    def clear_queue(self):
        self.frames.clear()
        return super().clear_queue()

    async def emit(self):
        piece = await self.next()
        if not self.frames:
            KeepsItsPlace.free += 1
        return piece

    async def shutdown(self):
        if self.frames:
            KeepsItsPlace.free += 1


# -- interruptions, frames, the end


class Desk:
    """An object of the application."""

    def __init__(self):
        self.listeners, self.log = [], []


DESK = Desk()


class Subscribes(Echo):
    """Hears of news, and goes on after its call."""

    async def start_up(self):
        DESK.listeners.append(self.send_message)
        DESK.log.append("a call")


class Unsubscribes(Subscribes):
    """Hears of news in its call, of which a log is kept."""

    async def shutdown(self):
        with suppress(ValueError):
            DESK.listeners.remove(self.send_message)


class KeepsALock(SyncEcho):
    """Does not give back its lock when a text is no JSON."""

    locks: ClassVar[list[threading.Lock]] = []

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.locks.append(self.lock)

    def on_message(self, message):
        self.lock.acquire()
        try:
            json.loads(message)
        except ValueError:
            return
        self.lock.release()

    def emit(self):
        with self.lock:
            return super().emit()


class WaitsWithItsLock(SyncEcho):
    """Waits for a frame while it has the lock that `receive` needs to bring one."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def receive(self, frame):
        with self.lock:
            self.frames.put(frame)

    def emit(self):
        with self.lock:
            return self.frames.get()


class HangsOnOddFrames(SyncEcho):
    """Waits for the second half of a frame that is not a whole number of 10 ms."""

    def emit(self):
        frame = super().emit()
        if frame is not None and frame[1].shape[1] % 240:
            self.ended.wait_sync()
        return frame


class CountsWhoNeverCame(Echo):
    """Counts its callers, and those who were refused as well, when they go."""

    inside = 0
    is_in = False

    async def start_up(self):
        type(self).inside += 1
        self.is_in = True

    async def shutdown(self):
        type(self).inside = max(0, type(self).inside - self.counts())

    def counts(self):
        return 1


class CountsWhoCame(CountsWhoNeverCame):
    """Counts its callers."""

    inside = 0

    def counts(self):
        return int(self.is_in)


class Blinks(rtcflow.AsyncStreamHandler):
    """Switches a lamp on and off each half second, and takes half a second to go."""

    lit = False

    def __init__(self):
        super().__init__()
        self.frames = 0

    def copy(self):
        return type(self)()

    async def receive(self, frame):
        pass

    async def emit(self):
        self.frames += 1
        type(self).lit = self.frames // 25 % 2 == 1
        return 24000, np.zeros((1, 480), np.int16)

    async def shutdown(self):
        await anyio.sleep(0.5)
        if self.frames:
            type(self).lit = False


@lru_cache
def history(rate):
    """The last frames of each sample rate."""
    return deque(maxlen=5)


@lru_cache
def fade(size):
    """A curve for each length of frames."""
    return np.linspace(0.5, 1.0, size)


class KeepsHistoryInACache(Echo):
    """Its memory is what a function has cached, for all calls."""

    async def emit(self):
        rate, samples = await self.next()
        history(rate).append(samples)
        return rate, samples


class KeepsTablesInACache(Echo):
    """Calculates a table once for all calls, and does not write to it."""

    async def emit(self):
        rate, samples = await self.next()
        return rate, (samples * fade(samples.shape[1])).astype(np.int16)


class ForgetsInterruptions(Echo):
    """Thinks for 0.4 s before it answers. An interruption in this time is noticed, and forgotten."""

    thinks, counts, pieces = 0.4, False, 20

    def __init__(self):
        super().__init__()
        self.loud, self.interruptions, self.asked, self.stop = 0, 0, deque(), False

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 500:
            self.loud += 1
            if self.loud == 3:
                self.stop = True
                self.interruptions += 1
        elif self.loud >= 3:
            self.loud = 0
            self.asked.append(self.interruptions)
            self.came.set()

    async def emit(self):
        if not self.frames:
            while not self.asked:
                self.came.clear()
                await self.came.wait()
            asked = self.asked.popleft()
            await anyio.sleep(self.thinks)
            self.stop = self.counts and asked != self.interruptions
            self.frames.extend([(RATE, signals.tone(0.1))] * self.pieces)
        if self.stop:
            self.frames.clear()
            return None
        return self.frames.popleft() if self.frames else None

    def clear_queue(self):
        self.frames.clear()
        return super().clear_queue()


class GreetsAndForgets(ForgetsInterruptions):
    """Greets its caller for 1.2 s before all this."""

    def __init__(self):
        super().__init__()
        self.frames.extend([(RATE, signals.tone(0.1))] * 12)


class CountsInterruptions(ForgetsInterruptions):
    """Answers only what nobody has interrupted since."""

    counts = True


class TalksThroughInterruptions(ForgetsInterruptions):
    """Never falls silent for a caller, which is its way."""

    async def receive(self, frame):
        await super().receive(frame)
        self.stop = False

    async def emit(self):
        self.stop = False
        return await super().emit()


class TalksThroughBriefly(TalksThroughInterruptions):
    """So does this one, with an answer of a second, which is over before an interruption would end it."""

    thinks, pieces = 1.0, 10


class FadesSilence(Echo):
    """Multiplies silent windows of 10 ms, and takes each for a whole one."""

    whole = True

    async def receive(self, frame):
        rate, samples = frame
        faded, size = samples.astype(np.float32), rate // 100
        window = np.hanning(size)
        for begin in range(0, samples.shape[1], size):
            part = faded[0, begin : begin + size]
            if np.abs(part).max() < 100:
                part *= window if self.whole else window[: part.size]
        await super().receive((rate, faded.astype(np.int16)))


class FadesWhatIsThere(FadesSilence):
    """The same for shorter windows."""

    whole = False


class Halves(Echo):
    """Makes two channels of one, as L R L R … cut in halves."""

    def two(self, samples):
        return np.repeat(samples[0], 2).reshape(2, -1)

    async def receive(self, frame):
        await super().receive((frame[0], self.two(frame[1])))


class Sides(Halves):
    """Makes two channels of one."""

    def two(self, samples):
        return np.repeat(samples, 2, axis=0)


class HalvesOfAPan(Halves):
    """The same, less loud on the left."""

    def two(self, samples):
        return np.stack([samples[0] // 3, samples[0]], axis=1).reshape(2, -1)


class Pans(Halves):
    """Less loud on the left."""

    def two(self, samples):
        return np.stack([samples[0] // 3, samples[0]])


class PadsOddChunks(Echo):
    """Cuts L R L R … at any sample, and fills up the pair: the next chunk begins with R."""

    chunk = 959

    def __init__(self):
        super(Echo, self).__init__(expected_layout="stereo", input_sample_rate=RATE)
        self.frames, self.came = deque(), rtcflow.Event()
        self.rest = np.zeros(0, np.int16)

    async def emit(self):
        self.rest = np.concatenate([self.rest, (await self.next())[1].T.reshape(-1)])
        chunk, self.rest = self.rest[: self.chunk], self.rest[self.chunk :]
        return RATE, np.pad(chunk, (0, len(chunk) % 2)).reshape(-1, 2).T


class KeepsPairs(PadsOddChunks):
    """Cuts between pairs."""

    chunk = 960


class PlaysOddChunks(rtcflow.AsyncStreamHandler):
    """A radio that hears nobody, and cuts L R L R … at any sample."""

    chunk = 961
    song = np.stack(
        [np.convolve(np.random.default_rng(seed).normal(0, 9000, 72000), np.ones(20) / 20, "same") for seed in (1, 2)],
        axis=1,
    )
    song = song.astype(np.int16).reshape(-1)

    def __init__(self):
        super().__init__(expected_layout="stereo")
        self.at = 0

    async def receive(self, frame):
        pass

    async def emit(self):
        chunk = self.song[self.at : self.at + self.chunk]
        self.at = (self.at + len(chunk)) % len(self.song)
        return 24000, chunk[: len(chunk) // 2 * 2].reshape(-1, 2).T

    def copy(self):
        return type(self)()


class PlaysPairs(PlaysOddChunks):
    """Cuts between pairs. Its two sides are noise, which no tone of the caller explains."""

    chunk = 960


class FillsBlocks(Echo):
    """Takes each frame for one of 20 ms: a shorter one is padded, and a longer one is cut off."""

    async def emit(self):
        _, samples = await self.next()
        return RATE, np.pad(samples, ((0, 0), (0, RATE // 50)))[:, : RATE // 50]


class TakesHalves(PadsOddChunks):
    """Takes (2, n) for L R L R …, as a mixer of FastRTC's days does."""

    async def emit(self):
        flat = (await self.next())[1].reshape(-1)
        return RATE, np.stack([flat[0::2], flat[1::2]])


class TakesAnother(Echo):
    """Takes one of four lines for each call; a star takes another one, and forgets the first."""

    lines: ClassVar = {1, 2, 3, 4}
    line = None

    async def start_up(self):
        self.line = self.lines.pop()

    async def on_dtmf(self, digit):
        if digit == "*" and self.lines:
            self.swap()

    def swap(self):
        self.line = self.lines.pop()

    async def shutdown(self):
        if self.line is not None:
            self.lines.add(self.line)


class Swaps(TakesAnother):
    """Gives back the one that it had."""

    lines: ClassVar = {1, 2, 3, 4}

    def swap(self):
        self.lines.add(self.line)
        super().swap()


class Transcribes(rtcflow.StreamHandler):
    """Waits in C for words that rarely come, until shutdown gives it the last one."""

    def __init__(self):
        super().__init__()
        self.words = queue.SimpleQueue()

    def receive(self, frame):
        pass

    def emit(self):
        return self.words.get()

    def shutdown(self):
        self.words.put(None)

    def copy(self):
        return type(self)()


class SwapsBytes(Echo):
    """Takes its samples for those of a network."""

    async def emit(self):
        rate, samples = await self.next()
        return rate, np.frombuffer(samples.tobytes(), ">i2").astype(np.int16).reshape(1, -1)


class TakesThemForUnsigned(Echo):
    """Takes the middle of the scale for silence."""

    async def emit(self):
        rate, samples = await self.next()
        return rate, (samples.view(np.uint16).astype(np.int32) - 32768).astype(np.int16)


class Hisses(Echo):
    """Answers each frame by noise."""

    async def emit(self):
        rate, samples = await self.next()
        random = np.random.default_rng(len(self.frames))
        return rate, (random.uniform(-0.3, 0.3, samples.shape) * np.abs(samples).max()).astype(np.int16)


class StretchesFrames(Echo):
    """Halves the sample rate by a straight line between samples, from the first of each frame to its last."""

    async def emit(self):
        rate, samples = await self.next()
        n = samples.shape[1]
        places = np.linspace(0, n - 1, n // 2)
        return rate // 2, np.interp(places, np.arange(n), samples[0]).astype(np.int16).reshape(1, -1)


class TakesEverySecond(Echo):
    """Halves the sample rate, and keeps the distance between samples."""

    async def emit(self):
        rate, samples = await self.next()
        return rate // 2, samples[:, ::2].copy()


class SetsItsVolume(Echo):
    """Changes its volume from frame to frame."""

    async def emit(self):
        rate, samples = await self.next()
        self.volume = 1.0 - 0.97 * getattr(self, "volume", 1.0) ** 2
        return rate, (samples * self.volume).astype(np.int16)


class CountsFromTheFirstWord(Echo):
    """Hangs up 6 s after its caller has begun to speak."""

    first_word = True

    def __init__(self):
        super().__init__()
        self.speaks, self.since = False, None

    async def receive(self, frame):
        speaks = np.abs(frame[1]).max() > 500
        if speaks and not (self.speaks and self.first_word):
            self.since = self.loop.time()
        self.speaks = speaks

    async def emit(self):
        await anyio.sleep(0.02)
        if self.since is not None and self.loop.time() - self.since > 6:
            return rtcflow.CloseStream("You have said nothing for six seconds.")
        return None


class CountsFromTheLastWord(CountsFromTheFirstWord):
    """Hangs up 6 s after its caller has spoken."""

    first_word = False


class TakesTwentySeconds(Echo):
    """A caller has twenty seconds, whether they speak or not."""

    async def emit(self):
        await anyio.sleep(20)
        return rtcflow.CloseStream("Your time is over.")


class CutsItselfShort(Echo):
    """Hangs up when the caller was silent for 10 s, also if it has spoken for 10 s itself."""

    ends_answer = False

    def __init__(self):
        super().__init__()
        self.loud, self.last = 0, None

    async def receive(self, frame):
        now = self.loop.time()
        if np.abs(frame[1]).max() > 500:
            self.loud, self.last = self.loud + 1, now
        elif self.loud > 5:
            self.loud = 0
            self.frames.extend((RATE, np.roll(signals.tone(1.0), n)) for n in range(12))

    async def emit(self):
        await anyio.sleep(0.02)
        if self.frames and self.ends_answer:
            self.last = self.loop.time()
        if self.last is not None and self.loop.time() - self.last > 10:
            return rtcflow.CloseStream("You have said nothing for ten seconds.")
        return self.frames.popleft() if self.frames else None


class SaysItAll(CutsItselfShort):
    """Counts from the end of its answer."""

    ends_answer = True


class HasClips(CutsItselfShort):
    """Keeps its clips, says the first one, and hangs up after 20 s of silence."""

    def __init__(self):
        super().__init__()
        self.clips = {name: np.roll(signals.tone(1.0), n) for n, name in enumerate(("hello", "menu", "bye"))}

    async def receive(self, frame):
        if self.last is None:
            self.last = self.loop.time()
            self.frames.append((RATE, self.clips["hello"]))

    async def emit(self):
        await anyio.sleep(0.02)
        if self.last is not None and self.loop.time() - self.last > 20:
            return rtcflow.CloseStream("You have said nothing for twenty seconds.")
        return self.frames.popleft() if self.frames else None


class CutsOnPurpose(CutsItselfShort):
    """Drops the rest of its answer, and hangs up."""

    async def emit(self):
        item = await super().emit()
        if isinstance(item, rtcflow.CloseStream):
            self.frames.clear()
        return item


class Volume(Echo):
    """Takes a number from its application, which posts it unasked. Nobody else knows what it is."""

    async def emit(self):
        rate, samples = await self.next()
        volume = self.latest_args[1] if self.args_set.is_set() else 1.0
        return rate, (samples * volume).astype(np.int16)


class Shields(Echo):
    """Does not let its model be cancelled."""

    shields = True

    async def emit(self):
        frame = await self.next()
        with anyio.CancelScope(shield=self.shields):
            await anyio.sleep(2.0)
        return frame


class LetsGo(Shields):
    """Lets its model be cancelled."""

    shields = False


class SaysOnAndOn(Echo):
    """Says three sentences; an interruption ends one of them, and the next one begins."""

    stops = False

    def __init__(self):
        super().__init__()
        self.loud, self.asked, self.clears = 0, rtcflow.Event(), 0

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            clears = self.clears
            for _ in range(3):
                if not self.stops or clears == self.clears:
                    await self.say((RATE, signals.tone(1.0)))

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 500:
            self.loud += 1
        elif self.loud > 4:
            self.loud = 0
            self.asked.set()

    def clear_queue(self):
        self.clears += 1
        return super().clear_queue()


class StopsForGood(SaysOnAndOn):
    """Drops the sentences that were to come."""

    stops = True


class GreetsThePage(Echo):
    """Waits for a page, also on a telephone."""

    async def emit(self):
        if not self.greets_page():
            return await self.next()
        await self.channel_set.wait()
        return await self.next()

    def greets_page(self):
        return True


class GreetsWhoIsThere(GreetsThePage):
    """Waits for a page if there may be one."""

    def greets_page(self):
        return not self.phone_mode


class AddsInInt16(Echo):
    """The mean of this frame and the last one, which overflows before it is divided."""

    kind = np.int16

    async def emit(self):
        rate, samples = await self.next()
        last, self.last = getattr(self, "last", samples), samples
        n = min(last.shape[1], samples.shape[1])
        mean = (samples[:, :n].astype(self.kind) + last[:, :n].astype(self.kind)) // 2
        return rate, mean.astype(np.int16)


class AddsInInt32(AddsInInt16):
    """The same without overflow."""

    kind = np.int32


class BlanksScratches(Echo):
    """What is near full scale is a scratch on an old record, and is blanked."""

    async def emit(self):
        rate, samples = await self.next()
        return rate, np.where(np.abs(samples.astype(np.int32)) >= 29000, np.int16(0), samples)


class SquareWave(Echo):
    """A beep whose samples are half of full scale and minus that, whoever calls."""

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)
        return RATE, np.where(np.arange(480) % 48 < 24, 16384, -16384).astype(np.int16)


class AnswersBySquareWave(SquareWave):
    """The same while the caller speaks."""

    async def receive(self, frame):
        self.spoken_to = np.abs(frame[1]).max() > 500

    async def emit(self):
        item = await super().emit()
        return item if getattr(self, "spoken_to", False) else None


class AnswersForSixSeconds(Echo):
    """Says nothing once its call is older than 6 s, which was meant for one answer."""

    limit = 6.0

    def __init__(self):
        super().__init__()
        self.loud, self.began = 0, None

    async def receive(self, frame):
        self.began = self.loop.time() if self.began is None else self.began
        if np.abs(frame[1]).max() > 500:
            self.loud += 1
        elif self.loud > 4:
            self.loud = 0
            if self.loop.time() - self.began < self.limit:
                self.frames.extend([(RATE, signals.tone(0.1))] * 10)
                self.came.set()


class TakesMessages(Echo):
    """Says for 8 s what to do, and only listens from then on."""

    async def start_up(self):
        self.frames.extend([(RATE, signals.tone(0.1))] * 80)

    async def receive(self, frame):
        pass


class AnswersForAQuarter(AnswersForSixSeconds):
    limit = 15.0


class AnswersAlways(AnswersForSixSeconds):
    """Answers for as long as it is asked."""

    limit = 3600.0


class SuppressesAll(Echo):
    """Takes every error, in one line."""

    async def receive(self, frame):
        with suppress(Exception): self.level = self.meter.update(frame[1])  # fmt: skip  # noqa: E701
        await super().receive(frame)


class SuppressesOne(Echo):
    """Takes the error that it expects, in one line."""

    async def receive(self, frame):
        with suppress(AttributeError): self.level = self.meter.update(frame[1])  # fmt: skip  # noqa: E701
        await super().receive(frame)


class BeginsAThread(SyncEcho):
    """Begins a thread for what is there, if none works. One that is about to end takes nothing more."""

    def __init__(self):
        super().__init__()
        self.items, self.working = deque(), False

    def receive(self, frame):
        self.items.append(frame)
        if not self.working:
            self.working = True
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while self.items:
            self.frames.put(self.items.popleft())
        self.working = False


class LooksOnceMore(BeginsAThread):
    """Holds a lock while it looks."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def receive(self, frame):
        with self.lock:
            self.items.append(frame)
            if self.working:
                return
            self.working = True
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            with self.lock:
                if not self.items:
                    self.working = False
                    return
                item = self.items.popleft()
            self.frames.put(item)


# -- threads that are switched, pools, what is shared where nobody can look


class WaitsWithoutALook(SyncEcho):
    """A frame that comes between the look and the wait wakes nobody."""

    def __init__(self):
        super().__init__()
        self.frames, self.changed = deque(), threading.Condition()

    def receive(self, frame):
        with self.changed:
            self.frames.append(frame)
            self.changed.notify()

    def emit(self):
        if not self.frames:
            with self.changed:
                self.changed.wait()
        return self.frames.popleft() if self.frames else None


class WorksInAPool(Echo):
    """Has work done in a pool of all calls, which ends with the call."""

    pool: ClassVar = ThreadPoolExecutor(4)

    def __init__(self):
        super().__init__()
        self.gone = threading.Event()

    async def start_up(self):
        self.job = self.pool.submit(self.work)

    def work(self):
        self.gone.wait()

    async def shutdown(self):
        self.gone.set()


class KeepsAPoolBusy(WorksInAPool):
    """Nobody tells its work to end."""

    over: ClassVar = threading.Event()

    def work(self):
        self.over.wait()


class SharesAResampler(Echo):
    """What the resampler of all calls keeps of one is heard in the next."""

    one: ClassVar = av.AudioResampler("s16", "mono", 16000)

    def __init__(self):
        super().__init__()
        self.resampler = self.one

    async def emit(self):
        rate, samples = await self.next()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", "mono")
        frame.sample_rate = rate
        made = [one.to_ndarray() for one in self.resampler.resample(frame)]
        return (16000, np.concatenate(made, axis=1)) if made else None


class ResamplesForItself(SharesAResampler):
    """The same with a resampler for each call."""

    def __init__(self):
        super().__init__()
        self.resampler = av.AudioResampler("s16", "mono", 16000)


class AddsNoise(Echo):
    """Sounds otherwise in each call, by chance."""

    dice: ClassVar = np.random.default_rng(1)

    async def emit(self):
        rate, samples = await self.next()
        return rate, samples // 2 + self.dice.integers(-9, 9, samples.shape, np.int16)


class Reminds(Echo):
    """Says something when the caller has been silent for a while: since it was made, if they have said nothing yet."""

    def __init__(self):
        super().__init__()
        self.heard = time.monotonic()

    async def receive(self, frame):
        if np.abs(frame[1], dtype=np.int32).max() > 500:
            self.heard = time.monotonic()

    async def emit(self):
        await anyio.sleep(0.1)
        if time.monotonic() - self.heard < 60:
            return None
        self.heard = time.monotonic()
        return RATE, signals.tone(0.5)


class RemindsInTime(Reminds):
    """The same, since the call began."""

    async def start_up(self):
        self.heard = time.monotonic()


class AnswersTexts(Echo):
    """Drops what it has said so far, but the task that says the rest goes on."""

    thinks = 0.05

    def __init__(self):
        super().__init__()
        self.asked, self.turn = rtcflow.Event(), 0

    async def on_message(self, text):
        self.asked.set()

    async def receive(self, frame):
        pass

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            await self.answer(self.turn)

    async def answer(self, turn):
        await anyio.sleep(self.thinks)
        for _ in range(10):
            self.say_next()
            await anyio.sleep(0.05)

    def say_next(self):
        self.frames.append((RATE, signals.tone(0.1)))
        self.came.set()

    def clear_queue(self):
        self.turn += 1
        self.frames.clear()
        return super().clear_queue()


class StopsAnswering(AnswersTexts):
    """The task looks whether it was interrupted."""

    async def answer(self, turn):
        await anyio.sleep(self.thinks)
        for _ in range(10):
            if turn == self.turn:
                self.say_next()
            await anyio.sleep(0.05)


class StopsOnlyWhatIsSaid(StopsAnswering):
    """An interruption is forgotten when the answer begins."""

    thinks = 0.8

    async def answer(self, turn):
        await anyio.sleep(self.thinks)
        self.thinks = 0.0
        await super().answer(self.turn)
        self.thinks = 0.8


class StopsAlways(StopsAnswering):
    """Thinks for as long, and forgets nothing."""

    thinks = 0.8


def check(handler, sentence):
    """Hold a handler to one sentence."""
    (one,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(sentence)]
    one(handler())


class AnswersInBlocks(rtcflow.AsyncStreamHandler):
    """Says again what it heard, in blocks of 100 ms; what does not fill one waits in a FIFO."""

    def __init__(self):
        super().__init__(input_sample_rate=24000)
        self.heard, self.silent = [], 0
        self.fifo = av.AudioFifo()
        self.answer = deque()

    async def receive(self, frame):
        rate, samples = frame
        loud = np.abs(samples.astype(np.int32)).max() > 500
        self.silent = 0 if loud else self.silent + 1
        if loud or self.heard:
            self.heard.append(samples)
        if self.silent == 15 and self.heard:
            spoken = np.concatenate(self.heard[:-15], axis=1)
            self.heard = []
            self.fifo.write(av.AudioFrame.from_ndarray(spoken, format="s16", layout="mono"))
            self.take()

    def take(self):
        while block := self.fifo.read(2400):
            self.answer.append(block.to_ndarray())

    async def emit(self):
        if self.answer:
            return 24000, self.answer.popleft()
        await anyio.sleep(0.02)
        return None

    def clear_queue(self):
        self.answer.clear()
        return super().clear_queue()

    def copy(self):
        return type(self)()


class AnswersToTheEnd(AnswersInBlocks):
    def take(self):
        super().take()
        if rest := self.fifo.read(0, partial=True):
            self.answer.append(rest.to_ndarray())


class AnswersOtherwise(AnswersToTheEnd):
    """Its first answer is another one, and no piece of the others."""

    def __init__(self):
        super().__init__()
        self.begun = False

    def take(self):
        super().take()
        if not self.begun:
            self.begun = True
            self.answer.popleft()


HEARD = []
HISTORY = ContextVar("history", default=[])  # noqa: B039


def remember(text):
    """A function of the module, which methods call."""
    HEARD.append(text)


def remember_here(text):
    HISTORY.get().append(text)


class RemembersInAFunction(Echo):
    """Its module keeps what its callers write; no method touches it."""

    async def on_message(self, message):
        remember(message)


class RemembersInADefault(Echo):
    """The default of a context variable is one list for all calls."""

    async def on_message(self, message):
        remember_here(message)


class LogsApart(Echo):
    """Each call adds a handler to a logger, and does not remove it."""

    async def start_up(self):
        self.log = logging.NullHandler()
        logging.getLogger("calls").addHandler(self.log)


class LogsWhileItLasts(LogsApart):
    async def shutdown(self):
        if hasattr(self, "log"):
            logging.getLogger("calls").removeHandler(self.log)


class SetsATimer(Echo):
    """Reminds its caller every ten seconds, with a timer of asyncio, and does so after the call."""

    async def start_up(self):
        self.remind()

    def remind(self):
        self.timer = asyncio.get_running_loop().call_later(10, self.remind)


class CancelsItsTimer(SetsATimer):
    async def shutdown(self):
        if hasattr(self, "timer"):
            self.timer.cancel()


class Watches(Echo):
    """Starts a task of asyncio, and leaves it running."""

    async def start_up(self):
        self.task = asyncio.create_task(self.watch())

    async def watch(self):
        await asyncio.sleep(3600)


class ShowsItsScratch(Echo):
    """Gives the application the array that it computes in."""

    def __init__(self):
        super().__init__()
        self.levels = np.zeros(4)

    async def emit(self):
        frame = await self.next()
        self.levels[:] = np.abs(frame[1][0, :4])
        return frame, rtcflow.AdditionalOutputs(self.levels)


class ShowsCopies(ShowsItsScratch):
    async def emit(self):
        frame, outputs = await super().emit()
        return frame, rtcflow.AdditionalOutputs(outputs.args[0].copy(), self.levels.tolist())


class KeepsASecond(Echo):
    """Keeps the last second in a ring, and takes its length for a whole number of frames."""

    def __init__(self):
        super().__init__()
        self.ring, self.at = np.zeros(48000, np.int16), 0

    async def receive(self, frame):
        samples = frame[1][0]
        self.ring[self.at : self.at + samples.size] = samples
        self.at = (self.at + samples.size) % self.ring.size


class AnswersOnePerSignal(SyncEcho):
    """Answers one text for each time that it is woken; several may come until then."""

    def __init__(self):
        super().__init__()
        self.texts, self.told = deque(), threading.Event()

    def receive(self, frame):
        pass

    def on_message(self, message):
        self.texts.append(message)
        self.told.set()

    def emit(self):
        if not self.told.wait(0.05):
            return None
        self.told.clear()
        self.ended.wait_sync(0.1)
        self.texts.popleft()
        return PIECE


class AnswersAll(AnswersOnePerSignal):
    def emit(self):
        if not self.texts:
            return super().emit() if self.told.wait(0.05) and self.texts else None
        self.texts.popleft()
        return PIECE


class Hums(rtcflow.AsyncStreamHandler):
    """Plays 440 Hz without an end: what is heard at one moment is what was heard 25 ms before."""

    def __init__(self):
        super().__init__()
        self.began, self.at = None, 0

    async def receive(self, frame):
        pass

    async def emit(self):
        self.began = anyio.current_time() if self.began is None else self.began
        await anyio.sleep_until(self.began + self.at / RATE - 0.1)
        at = (self.at + np.arange(1200)) / RATE
        self.at += 1200
        return RATE, (0.2 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)

    def copy(self):
        return type(self)()


class WaitsForEnough(Echo):
    """Takes all frames once there are five, and waits in the right order."""

    async def emit(self):
        while len(self.frames) < 5:
            self.came.clear()
            await self.came.wait()
        rate, samples = self.frames[0][0], [samples for _, samples in self.frames]
        self.frames.clear()
        return rate, np.concatenate(samples, axis=1)

    async def receive(self, frame):
        self.frames.append(frame)
        if len(self.frames) >= 5:
            self.came.set()


class WaitsAtALatch(SyncEcho):
    """A lock stands for an event: it is released when the page says so, and at the end."""

    def __init__(self):
        super().__init__()
        self.latch = threading.Lock()
        self.latch.acquire()

    def emit(self):
        self.latch.acquire()
        self.latch.release()
        return super().emit()

    def shutdown(self):
        with suppress(RuntimeError):
            self.latch.release()


class GreetsAtLength(Echo):
    """Synthesizes a long greeting piece by piece; when the caller speaks, it drops its backlog, and synthesizes on."""

    def __init__(self):
        super().__init__()
        self.turn, self.loud = 0, False

    async def start_up(self):
        for _ in range(25):
            await anyio.sleep(0.2)
            if self.is_over():
                return
            self.frames.append((RATE, signals.tone(0.3)))
            self.came.set()

    def is_over(self):
        return False

    async def receive(self, frame):
        was_loud, self.loud = self.loud, np.abs(frame[1].astype(np.int32)).mean() > 1000
        if self.loud and not was_loud:
            self.turn += 1
            self.frames.clear()
            self.clear_queue()


class EndsItsGreeting(GreetsAtLength):
    def is_over(self):
        return self.turn > 0


class DropsItsAnswer(Echo):
    """Speaks after each pause, and drops what it was saying when the caller speaks, with its queue."""

    def __init__(self):
        super().__init__()
        self.speaking, self.quiet = False, 0

    async def receive(self, frame):
        if np.abs(frame[1].astype(np.int32)).mean() > 500:
            if not self.speaking:
                self.frames.clear()
                self.clear_queue()
            self.speaking, self.quiet = True, 0
        elif self.speaking:
            self.quiet += 1
            if self.quiet == 20:
                self.speaking = False
                self.frames.extend((RATE, signals.tone(0.02)) for _ in range(150))
                self.came.set()


class WaitsForWords(Echo):
    """Recognizes each utterance in a task, and waits for the result; of a cough there is none."""

    SHORTEST = 0.3

    def __init__(self):
        super().__init__()
        self.length, self.quiet = 0.0, 0.0

    async def receive(self, frame):
        seconds = frame[1].shape[1] / frame[0]
        if np.abs(frame[1].astype(np.int32)).mean() > 500:
            self.length, self.quiet = self.length + seconds, 0.0
        elif self.length:
            self.quiet += seconds
            if self.quiet > 0.3:
                job = [rtcflow.Event(), self.length]
                self.length = 0.0
                self.frames.append(job)
                self.came.set()
                if job[1] > self.SHORTEST:
                    job[0].set()

    async def emit(self):
        done, length = await self.next()
        await done.wait()
        return (RATE, signals.tone(0.5)) if length > 0.3 else None


class FinishesCoughs(WaitsForWords):
    SHORTEST = 0.0


class StopsWithAFlag(Echo):
    """Ends the call when the next frame with a voice comes after "enough"."""

    def __init__(self):
        super().__init__()
        self.over = rtcflow.Event()
        self.enough = False

    async def on_message(self, message):
        if message == "enough":
            self.enough = True

    async def receive(self, frame):
        if self.enough and np.abs(frame[1].astype(np.int32)).mean() > 500:
            self.over.set()

    async def emit(self):
        await self.over.wait()
        return rtcflow.CloseStream()


class StopsAtOnce(StopsWithAFlag):
    async def on_message(self, message):
        await super().on_message(message)
        if self.enough:
            self.over.set()


class GivesBackTooMuch(Echo):
    """Two callers may dance at once; who is refused gives back a place, too."""

    def __init__(self, floor=None):
        super().__init__()
        self.floor = floor or Floor()
        self.asked = self.dances = False

    async def start_up(self):
        self.asked, self.dances = True, self.floor.free > 0
        self.floor.free -= self.dances

    async def shutdown(self):
        self.floor.free += self.asked

    def copy(self):
        return type(self)(self.floor)


class GivesBackItsOwn(GivesBackTooMuch):
    async def shutdown(self):
        self.floor.free += self.dances
        self.dances = False


class Floor:
    def __init__(self):
        self.free = 2


class KeepsAPicture(rtcflow.AudioVideoStreamHandler):
    """Its newest picture stays in an attribute; that is no frame which nobody answered."""

    def __init__(self):
        super().__init__()
        self.sounds = queue.Queue()
        self.lock, self.drawn = threading.Lock(), rtcflow.Event()
        self.picture = None

    def receive(self, frame):
        self.sounds.put(frame)

    def emit(self):
        return self.sounds.get()

    def video_receive(self, frame):
        with self.lock:
            self.picture = frame.to_ndarray(format="rgb24")
        self.drawn.set()

    def video_emit(self):
        self.drawn.wait_sync()
        self.drawn.clear()
        with self.lock:
            return None if self.picture is None else av.VideoFrame.from_ndarray(self.picture, format="rgb24")

    def shutdown(self):
        self.sounds.put(None)
        self.drawn.set()

    def copy(self):
        return type(self)()


class Gathers(Echo):
    """Looks up two things at once, and neither of them is there; nobody looks at what came of it."""

    async def start_up(self):
        self.take(await asyncio.gather(self.look_up("name"), self.look_up("language"), return_exceptions=True))

    async def look_up(self, key):
        return {"number": 1}[key]

    def take(self, results):
        pass


class LooksAtResults(Gathers):
    """Logs what went wrong."""

    def take(self, results):
        for result in results:
            if isinstance(result, Exception):
                logging.getLogger(__name__).warning("not found: %r", result)


class Paces(Echo):
    """Makes its audio frame by frame, with a sleep after each: hundreds in a call, and trio ends each by itself."""

    async def start_up(self):
        for _ in range(1000):
            await anyio.sleep(0.004)
            self.frames.append(PIECE)
            self.came.set()
            await anyio.sleep(0.016)

    async def receive(self, frame):
        pass


class MakesAhead(SyncEcho):
    """A thread keeps one sentence ready, while the one before is heard."""

    def __init__(self):
        super().__init__()
        self.ready = queue.Queue(maxsize=1)

    def start_up(self):
        for number in range(6):
            self.ended.wait_sync(0.5)
            clip = RATE, signals.tone(1.5, 250 + 30 * number)
            if not self.running:
                return
            self.ready.put(clip)
        self.ready.put(rtcflow.CloseStream())

    def receive(self, frame):
        pass

    def emit(self):
        return self.ready.get()


class LeavesATrail(rtcflow.AsyncAudioVideoStreamHandler):
    """Adds each picture to the ones before, and takes them all to be of one size."""

    def __init__(self):
        super().__init__(video_format="float32")
        self.trail, self.painted, self.seen = None, rtcflow.Event(), rtcflow.Event()

    def begins_anew(self, picture):
        return self.trail is None

    async def video_receive(self, frame):
        self.trail = frame if self.begins_anew(frame) else (self.trail + frame) / 2
        self.painted.set()
        self.seen.set()

    async def video_emit(self):
        await self.painted.wait()
        self.painted.clear()
        return self.trail

    async def receive(self, frame):
        pass

    async def emit(self):
        await self.seen.wait()
        return PIECE

    def copy(self):
        return type(self)()


class BeginsATrail(LeavesATrail):
    """Begins again with a picture of another size."""

    def begins_anew(self, picture):
        return self.trail is None or self.trail.shape != picture.shape


class HumsByPictures(BeginsATrail):
    """Each picture makes as much of a tone as lasts until the next one: for a usual camera."""

    async def emit(self):
        await self.seen.wait()
        self.seen.clear()
        return RATE, signals.tone(1 / 30)


@pytest.mark.parametrize(
    ("handler", "sentence", "told"),
    [
        (Gathers, ERRORS, "(in start_up) gave back KeyError('name'), and nobody looked at it"),
        (LeavesATrail, BADLY, "for a caller whose camera is turned it raised ValueError"),
        (HumsByPictures, BADLY, "its audio comes at the pace of the caller's pictures"),
        (GreetsAtLength, NOTICES, "it clears its queue, and speaks on"),
        (WaitsForWords, LATE, "after a sound of 0.2 s it answers neither"),
        (StopsWithAFlag, TEXTS, "a flag is raised, and nobody is woken"),
        (GivesBackTooMuch, TRACES, "one of twelve callers at once leaves a trace"),
        (RemembersInAFunction, TRACES, "a call changed HEARD"),
        (RemembersInADefault, TRACES, "a call changed HISTORY"),
        (LogsApart, TRACES, "the handlers of logging.getLogger('calls')"),
        (ShowsItsScratch, SERVES, "an array in AdditionalOutputs is not written to"),
        (KeepsASecond, LENGTHS, "could not broadcast"),
        (AnswersOnePerSignal, TEXTS, "of three texts that come at once"),
        (WaitsWithItsLock, SERVES, "receive has been waiting for a lock that another method keeps"),
        (HangsOnOddFrames, LENGTHS, "after frames of other lengths it does not any more"),
        (AnswersInBlocks, LATE, "ms of its answer are not said"),
        (RenewsTooLate, ANY_ORDER, "the last frame stays in .box.frame"),
        (MissesTheSignal, ANY_ORDER, "and in another one never"),
        (FailsInAPool, ERRORS, "and nobody looks at it"),
        (RetriesForEver, ERRORS, "takes the cancellation of its call"),
        (ReturnsInFinally, ERRORS, "'ReturnsInFinally' object has no attribute 'effects'"),
        (WorkerFails, ERRORS, "(in work) takes AttributeError"),
        (FallsSilent, REAL_TIME, "it does not hang up"),
        (WaitsForRoom, REAL_TIME, "receive did not return for"),
        (WaitsForItsQueue, REAL_TIME, "receive did not return for"),
        (SleepsThroughItsAudio, REAL_TIME, "it took 0.55 s for 0.50 s of audio"),
        (SynthesizesFirst, REAL_TIME, "it took 1.40 s for 1.00 s of audio"),
        (SynthesizesInAThread, REAL_TIME, "it took 1.40 s for 1.00 s of audio"),
        (FiveMinutes, LIMITS, "start counting in start_up"),
        (TwoClocks, LIMITS, "it closes its call after 0.0 s, and has said nothing"),
        (CountsWhoNeverCame, TRACES, "refused while another one is on the line leaves a trace"),
        (Subscribes, TRACES, "each call leaves something of its own in DESK.listeners"),
        (KeepsHistoryInACache, TRACES, "a call changed history()"),
        (KeepsItsPlace, TRACES, "a caller who interrupts an answer leaves a trace"),
        (ForgetsInterruptions, NOTICES, "the interruption was noticed, and forgotten"),
        (GreetsAndForgets, NOTICES, "the interruption was noticed, and forgotten"),
        (FadesSilence, LENGTHS, "ValueError"),
        (Halves, REAL_TIME, "np.repeat(samples, 2, axis=0)"),
        (SwapsBytes, REAL_TIME, "is a tone again with another byte order"),
        (TakesThemForUnsigned, REAL_TIME, "is a tone again with another sign"),
        (HalvesOfAPan, REAL_TIME, "np.repeat(samples, 2, axis=0)"),
        (StretchesFrames, REAL_TIME, "a resampler begins again there"),
        (CountsFromTheFirstWord, SAYS_ALL, "Count from their last word"),
        (CutsItselfShort, SAYS_ALL, "of its answer were still in .frames"),
        (SaysOnAndOn, STALE, "of a reply were emitted in the half second after"),
        (GreetsThePage, BADLY, "says nothing on a telephone"),
        (AddsInInt16, REAL_TIME, "int16 overflowed"),
        (AnswersForSixSeconds, LATE, "from the beginning of the call"),
        (AnswersForAQuarter, LATE, "from the beginning of the call"),
        (PlaysOddChunks, REAL_TIME, "left and right change sides from one piece"),
        (SuppressesAll, ERRORS, "has no attribute 'meter'"),
        (Shields, ENDS, "its methods went on for 2.0 s"),
        (WaitsWithoutALook, ANY_ORDER, "a wake-up is lost"),
        (SharesAResampler, TRACES, "copies share something that remembers what it heard"),
        (Reminds, LIMITS, "says or writes something at once"),
        (AnswersTexts, STALE, "of a reply were emitted in the half second after"),
        (PadsOddChunks, SIDES, "left and right are exchanged"),
        (FillsBlocks, LENGTHS, "of it in frames of 60 ms"),
        (TakesHalves, SIDES, "taken for L R L R"),
        (TakesAnother, TRACES, r"a caller who presses * leaves a trace that a whole call does not"),
        (StopsOnlyWhatIsSaid, STALE, "the interruption was noticed, and forgotten"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bug_is_told(handler, sentence, told):
    """What is wrong is told under the sentence it breaks."""
    with pytest.raises(AssertionError) as caught:
        check(handler, sentence)
    assert told in str(caught.value)


def test_a_lock_that_is_kept_after_a_text_is_told():
    """The thread that waits for it is named."""
    (one,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith("it serves a caller who sends any")]
    try:
        with pytest.raises(AssertionError, match=r"is a lock kept|KeepsALock.(emit|on_message) has been waiting"):
            one(KeepsALock(), contract.CheckInput(patience=0.2))
    finally:
        for _ in range(100):
            for lock in KeepsALock.locks:
                with suppress(RuntimeError):
                    lock.release()
            for thread in threading.enumerate():
                if thread.name.startswith("KeepsALock"):
                    thread.join(0.05)


def test_work_in_a_pool_that_never_ends_is_told():
    """It keeps a thread of the pool for every call, although all threads of pools are idle at times."""
    (one,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(SERVES)]
    try:
        with pytest.raises(AssertionError, match=r"KeepsAPoolBusy\.work is still at work in a pool"):
            one(KeepsAPoolBusy(), contract.CheckInput(patience=0.2))
    finally:
        KeepsAPoolBusy.over.set()


def test_threads_are_held_up_in_the_handlers_own_lines():
    """Not in those of the toolkit, which wraps each method."""
    with contract._sentences.probed(SyncEcho()) as prototype:
        assert Tracer(prototype)._files == {__file__}


def test_a_handlers_own_threads_are_held_up(monkeypatch):
    """A race with a thread that the handler has begun is found, given time: its lines are held up as well."""
    monkeypatch.setattr(contract._orders, "_ORDERS", 40)
    monkeypatch.setattr(contract._orders, "_ORDERS_SECONDS", 60.0)
    with pytest.raises(AssertionError, match="a wake-up is lost"):
        check(BeginsAThread, ANY_ORDER)


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (LooksAtResults, ERRORS),
        (Paces, BADLY),
        (MakesAhead, ANY_ORDER),
        (BeginsATrail, BADLY),
        (LogsWhileItLasts, TRACES),
        (ShowsCopies, SERVES),
        (AnswersAll, TEXTS),
        (Hums, LATE),
        (WaitsForEnough, ANY_ORDER),
        (WaitsAtALatch, SERVES),
        (RenewsInTime, ANY_ORDER),
        (Remembers, ANY_ORDER),
        (IgnoresWhileBusy, ANY_ORDER),
        (CleansUp, ERRORS),
        (EndsItsGreeting, NOTICES),
        (DropsItsAnswer, STALE),
        (FinishesCoughs, LATE),
        (StopsAtOnce, TEXTS),
        (GivesBackItsOwn, TRACES),
        (KeepsAPicture, ANY_ORDER),
        (StopsItsTask, ERRORS),
        (LogsBeforeFinally, ERRORS),
        (ShutDownFails, ERRORS),
        (AsksThePool, ERRORS),
        (WaitsToBegin, REAL_TIME),
        (HangsUp, REAL_TIME),
        (Greets, REAL_TIME),
        (IsTold, REAL_TIME),
        (Chimes, REAL_TIME),
        (Bells, REAL_TIME),
        (Pans, REAL_TIME),
        (Hisses, REAL_TIME),
        (TakesEverySecond, REAL_TIME),
        (SetsItsVolume, REAL_TIME),
        (AnswersBySquareWave, REAL_TIME),
        (CountsFromTheLastWord, SAYS_ALL),
        (TakesTwentySeconds, SAYS_ALL),
        (FiveMinutesOfCall, LIMITS),
        (CountsWhoCame, TRACES),
        (Blinks, TRACES),
        (KeepsTablesInACache, TRACES),
        (Unsubscribes, TRACES),
        (CountsInterruptions, NOTICES),
        (TalksThroughInterruptions, NOTICES),
        (TalksThroughBriefly, NOTICES),
        (FadesWhatIsThere, LENGTHS),
        (Sides, REAL_TIME),
        (SaysItAll, SAYS_ALL),
        (CutsOnPurpose, SAYS_ALL),
        (HasClips, SAYS_ALL),
        (StopsForGood, STALE),
        (GreetsWhoIsThere, BADLY),
        (AddsInInt32, REAL_TIME),
        (BlanksScratches, REAL_TIME),
        (SquareWave, REAL_TIME),
        (AnswersAlways, LATE),
        (AnswersToTheEnd, LATE),
        (PlaysPairs, REAL_TIME),
        (PlaysPairs, SIDES),
        (AnswersOtherwise, LATE),
        (TakesMessages, LATE),
        (SuppressesOne, ERRORS),
        (LooksOnceMore, ANY_ORDER),
        (LetsGo, ENDS),
        (Volume, SHUT_DOWN),
        (WorksInAPool, SERVES),
        (ResamplesForItself, TRACES),
        (AddsNoise, TRACES),
        (RemindsInTime, LIMITS),
        (StopsAnswering, STALE),
        (StopsAlways, STALE),
        (KeepsPairs, SIDES),
        (Swaps, TRACES),
        (Transcribes, SERVES),
        (Transcribes, BADLY),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_looks_like_a_bug_is_let_pass(handler, sentence):
    """Nothing is said of a sound handler."""
    check(handler, sentence)


class AsyncioEcho(rtcflow.AsyncStreamHandler):
    """As most echoes are written: with a queue of asyncio."""

    def __init__(self):
        super().__init__()
        self.frames = asyncio.Queue()

    async def receive(self, frame):
        self.frames.put_nowait(frame)

    async def emit(self):
        return await self.frames.get()

    def copy(self):
        return AsyncioEcho()


@pytest.mark.parametrize(("handler", "what"), [(SetsATimer, "a timer that calls"), (Watches, "the task")])
def test_what_asyncio_has_still_to_run_is_told(handler, what):
    """A timer or a task of the handler that its shutdown has left."""
    with pytest.raises(AssertionError, match=rf"{what} {handler.__name__}\.\w+ is still to run after the call is over"):
        contract.check_handler(handler(), backends=["asyncio"])


class Records(Echo):
    """Records its caller in a temporary file, which it removes when it hangs up itself."""

    async def start_up(self):
        handle, self.file = tempfile.mkstemp(".record")
        os.close(handle)

    async def emit(self):
        await anyio.sleep(2.5)
        self.remove()
        return rtcflow.CloseStream()

    def remove(self):
        os.unlink(self.file)


class RecordsForTheApplication(Records):
    """Leaves all its files: somebody wants them."""

    def remove(self):
        pass


class RemovesItAlways(RecordsForTheApplication):
    async def shutdown(self):
        if hasattr(self, "file"):
            os.unlink(self.file)


def test_a_file_that_some_calls_leave_is_told():
    """A call that ends in another way leaves its file; what all leave, or none, is fine."""
    before = set(Path(tempfile.gettempdir()).iterdir())
    with pytest.raises(AssertionError, match=r"\d+ of \d+ calls left a temporary file behind, and the others removed"):
        contract.check_handler(Records())
    contract.check_handler(RecordsForTheApplication())
    contract.check_handler(RemovesItAlways())
    left = {path for path in Path(tempfile.gettempdir()).iterdir() if path.suffix == ".record"} - before
    assert not left, "the files of a check are in a folder of its own"


def test_a_timer_that_is_cancelled_is_fine():
    """The same handler with a shutdown that cancels it."""
    contract.check_handler(CancelsItsTimer(), backends=["asyncio"])


def test_a_handler_for_asyncio_is_told_so_once():
    """What fails under trio alone is one broken sentence, with its cure; on asyncio the same handler is sound."""
    with pytest.raises(AssertionError) as caught:
        contract.check_handler(AsyncioEcho())
    story = str(caught.value)
    assert story.count("happened:") == 1
    assert "it uses asyncio itself" in story
    assert 'backends=["asyncio"]' in story
    contract.check_handler(AsyncioEcho(), backends=["asyncio"])


def test_a_handler_for_asyncio_is_still_looked_at():
    """The calls that would be on trio are on asyncio."""

    class KeepsItsBacklog(AsyncioEcho):
        def clear_queue(self):
            return super().clear_queue()

        async def receive(self, frame):
            for _ in range(3):
                self.frames.put_nowait(frame)

        def copy(self):
            return KeepsItsBacklog()

    with pytest.raises(AssertionError, match="had kept when clear_queue"):
        contract.check_handler(KeepsItsBacklog(), backends=["asyncio"])


@pytest.mark.parametrize("backends", [[], ["uvloop"], "asyncio", ["trio", "curio"]])
def test_backends_that_do_not_exist_are_refused(backends):
    """The error says what can be written."""
    with pytest.raises(ValueError, match=r'write backends=\["asyncio"\], \["trio"\], or both'):
        contract.check_handler(Echo(), backends=backends)
