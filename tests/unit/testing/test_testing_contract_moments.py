"""What `check_handler` tells of things that come at a bad moment, of what waits in lists, and of frames and arguments.

Each bug has a sound handler beside it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

import anyio
import av
import numpy as np
import pytest
from contract_cases import (
    ANSWERS,
    ANY_ORDER,
    BADLY,
    LENGTHS,
    LIMITS,
    NOTICES,
    REAL_TIME,
    SERVES,
    STALE,
    TEXTS,
    TRACES,
    Speaker,
    assert_told,
    check_of,
    loud,
    voice,
)
from kinds import RATE, Echo

import rtcflow
from rtcflow.testing import check_handler, signals

# -- errors in a call of which something else is looked at


class ClosesTwice(Speaker):
    """A key ends the call. The line that was opened at its beginning is closed then, and by shutdown."""

    forgets = False

    def __init__(self):
        super().__init__()
        self.line = None

    async def start_up(self):
        await anyio.sleep(0.1)
        self.line = "open"

    async def on_dtmf(self, digit):
        if digit == "9":
            self.close()
            self.hang_up("goodbye")

    def close(self):
        if self.line == "closed":
            raise RuntimeError("it is closed already")
        if self.line == "open":
            self.line = None if self.forgets else "closed"

    async def shutdown(self):
        self.close()


class ClosesOnce(ClosesTwice):
    forgets = True


# -- what waits when the queue is cleared


class ReadsOn(Speaker):
    """Reads a long text in slices of an array of floats; speech clears the list of texts alone."""

    drops = False

    def __init__(self):
        super().__init__()
        self.texts = deque((0.3 * np.sin(np.arange(3 * RATE) * pitch)).astype(np.float32) for pitch in (0.1, 0.07))
        self.rest = np.zeros(0, np.float32)

    async def receive(self, frame):
        if loud(frame):
            self.clear_queue()

    async def emit(self):
        if not self.rest.size:
            if not self.texts:
                return None
            self.rest = self.texts.popleft()
        part, self.rest = self.rest[:2400], self.rest[2400:]
        return RATE, part

    def clear_queue(self):
        self.texts.clear()
        if self.drops:
            self.rest = self.rest[:0]
        return super().clear_queue()


class DropsTheRest(ReadsOn):
    drops = True


class PlaysMusic(ReadsOn):
    """Music goes on where it is, whatever is cleared."""

    def __init__(self):
        super().__init__()
        self.music, self.at = signals.speech_like(8.0), 0

    async def emit(self):
        part = self.music[:, self.at : self.at + 2400]
        self.at += 2400
        return (RATE, part) if part.size else None


class PlaysALoop(ReadsOn):
    """A melody of half a second, again and again."""

    def __init__(self):
        super().__init__()
        self.melody = np.sin(np.arange(RATE // 2) * 0.1).astype(np.float32)

    async def emit(self):
        return RATE, self.melody


# -- places


class LosesAPlace(Speaker):
    """Two callers at a time; who hangs up while the model works takes a place along."""

    frees = False
    at_work = 0

    def __init__(self):
        super().__init__()
        self.blocks = []

    async def receive(self, frame):
        self.blocks.append(frame[1])
        if len(self.blocks) == 25:
            self.blocks.clear()
            if type(self).at_work < 2:
                await self.work()

    async def work(self):
        kind = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        kind.at_work += 1
        try:
            await anyio.sleep(0.3)
        except BaseException:
            if self.frees:
                kind.at_work -= 1
            raise
        kind.at_work -= 1


class GivesItBack(LosesAPlace):
    frees = True
    at_work = 0


# -- arguments


class WaitsForArguments(Speaker):
    """Greets in a language that the page posts."""

    seconds = None

    async def start_up(self):
        with anyio.move_on_after(self.seconds or 1e9):
            await self.wait_for_args()
        self.play(voice(1.0))


class WaitsForAWhile(WaitsForArguments):
    seconds = 5.0


# -- arrays in lists


class AppendsOneSheet(Echo):
    """Collects three frames, scaled in one array."""

    copies = False

    def __init__(self):
        super().__init__()
        self.sheet, self.pieces = np.zeros((1, 4000), np.float32), []

    async def receive(self, frame):
        rate, samples = frame
        part = self.sheet[:, : samples.shape[1]]
        np.multiply(samples[:1], 0.5 / 32768, out=part, casting="same_kind")
        self.pieces.append(part.copy() if self.copies else part)
        if len(self.pieces) == 3:
            self.frames.append((rate, np.concatenate(self.pieces, axis=1)))
            self.pieces.clear()
            self.came.set()


class AppendsCopies(AppendsOneSheet):
    copies = True


class WritesUnderOneLine(AppendsOneSheet):
    """Adds to the block before the last one, whose memory is its own."""

    async def receive(self, frame):
        self.pieces.append(np.zeros(frame[1].shape[1], np.float32))
        if len(self.pieces) > 1:
            self.pieces[-2] += 0.1
        await Echo.receive(self, frame)
        del self.pieces[:-4]


# -- frames


class CountsFrames(Speaker):
    """Beeps after half a second of silence, counted in frames of 20 ms."""

    def seconds_of(self, frame):
        return 0.02

    def __init__(self):
        super().__init__()
        self.spoke, self.silent = False, 0.0

    async def receive(self, frame):
        if loud(frame):
            self.spoke, self.silent = True, 0.0
        elif self.spoke:
            self.silent += self.seconds_of(frame)
            if self.silent >= 0.5:
                self.spoke = False
                self.play(voice(0.2))


class CountsSamples(CountsFrames):
    def seconds_of(self, frame):
        return frame[1].shape[1] / frame[0]


class CutsPairs(Speaker):
    """Plays a record whose samples are left and right in turn, and takes its halves for the two sides."""

    def sides(self, pairs):
        return pairs.reshape(2, -1)

    def __init__(self):
        super().__init__()
        left, right = signals.speech_like(6.0, seed=1, activity=1.0), signals.tone(6.0, 130)
        self.record = deque(np.split(np.concatenate([left, right]).T.reshape(-1), 60))

    async def emit(self):
        if not self.record:
            await anyio.sleep_forever()
        return RATE, np.ascontiguousarray(self.sides(self.record.popleft())), "stereo"


class TakesPairs(CutsPairs):
    def sides(self, pairs):
        return pairs.reshape(-1, 2).T


class Whistles(CutsPairs):
    """A high tone changes its sign with almost every sample."""

    def sides(self, pairs):
        size = pairs.size // 2
        return np.stack(2 * [(8000 * np.sin(np.arange(size) * 2 * np.pi * 9000 / RATE)).astype(np.int16)])


class MakesItLonger(Echo):
    """An echo of 0.4 s ago comes to each frame: what a tone sounds like changes once, and not in each frame."""

    def __init__(self):
        super().__init__()
        self.past = np.zeros((1, 9600), np.int16)

    async def receive(self, frame):
        rate, samples = frame
        joined = np.concatenate([self.past, samples[:1]], axis=1)
        n = samples.shape[1]
        self.past = joined[:, n:]
        mixed = samples[:1].astype(np.int32) + joined[:, :n] // 2
        await super().receive((rate, np.clip(mixed, -32768, 32767).astype(np.int16)))


class NamesAnotherRate(Echo):
    """Hands on samples of 48 kHz as samples of 24 kHz."""

    def __init__(self):
        super().__init__()
        self.input_sample_rate, self.output_sample_rate = 48000, 24000

    def rate_of(self, frame):
        return self.output_sample_rate

    async def receive(self, frame):
        await super().receive((self.rate_of(frame), frame[1]))


class NamesItsRate(NamesAnotherRate):
    def rate_of(self, frame):
        return frame[0]


class BeginsAgain(Speaker):
    """A dial tone, whose pieces are not a whole number of periods."""

    goes_on = False
    at = 0

    async def emit(self):
        t = (np.arange(1000) + self.at) / RATE
        self.at += 1000 * self.goes_on
        both = np.sin(2 * np.pi * 350 * t) + np.sin(2 * np.pi * 440 * t)
        return RATE, (8000 * both).astype(np.int16)


class GoesOn(BeginsAgain):
    goes_on = True


class Ticks(BeginsAgain):
    """Each piece begins with a tick, and fades."""

    async def emit(self):
        return RATE, (8000 * np.exp(-np.arange(1000) / 100)).astype(np.int16)


# -- wake-ups


class WaitsForAnOldSignal(Speaker):
    """Says at once that it looks something up; the answer may come before it begins to wait for it."""

    early = False

    def __init__(self):
        super().__init__()
        self.jobs, self.asked, self.done = deque(), rtcflow.Event(), rtcflow.Event()

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            while self.jobs:
                self.jobs.popleft()
                await anyio.sleep(0.02)
                self.done.set()

    async def on_message(self, text):
        if self.early:
            self.done.clear()
        self.jobs.append(text)
        self.asked.set()
        await self.send_message("one moment")
        await anyio.sleep(0.1)
        if not self.early:
            self.done.clear()
        await self.done.wait()
        await self.send_message("42")


class WaitsForANewSignal(WaitsForAnOldSignal):
    early = True


class DiscardsOnce(Speaker):
    """Any text has it throw away what it has; of further ones it takes no notice."""

    kept = True

    async def on_message(self, text):
        if self.kept:
            self.kept = False
            await self.send_message("discarded")


class Uploads(Speaker):
    """Takes much longer for a frame than it lasts, and comes to all of them."""

    async def start_up(self):
        while True:
            while self.frames:
                self.frames.popleft()
                await anyio.sleep(0.2)
            self.came.clear()
            await self.came.wait()

    async def receive(self, frame):
        if len(self.frames) < 500:
            await Echo.receive(self, frame)

    async def emit(self):
        await self.ended.wait()


class ClearsAfterTheWork(Speaker):
    """Recognizes phrases; one that ends meanwhile waits for the next."""

    early = False

    def __init__(self):
        super().__init__()
        self.speech, self.phrases = [], []

    async def receive(self, frame):
        if loud(frame):
            self.speech.append(frame[1])
        elif self.speech:
            self.phrases.append(np.concatenate(self.speech, axis=1))
            self.speech = []
            self.came.set()

    async def emit(self):
        await self.came.wait()
        if self.early:
            self.came.clear()
        phrases, self.phrases = self.phrases, []
        await anyio.sleep(0.4 * len(phrases))
        if not self.early:
            self.came.clear()
        return rtcflow.AdditionalOutputs(*map(len, phrases)) if phrases else None


class ClearsBeforeTheWork(ClearsAfterTheWork):
    early = True


class LooksBeforeItClears(rtcflow.StreamHandler):
    """Keeps its books between the look into an empty list and the clearing of the event."""

    early = False

    def __init__(self):
        super().__init__()
        self.jobs, self.lock, self.wake = deque(), threading.Lock(), rtcflow.Event()

    def on_dtmf(self, digit):
        with self.lock:
            self.jobs.append(digit)
        self.wake.set()

    def receive(self, frame):
        pass

    def emit(self):
        if self.early:
            self.wake.clear()
        with self.lock:
            job = self.jobs.popleft() if self.jobs else None
        if job is None:
            time.sleep(0.01)
            if not self.early:
                self.wake.clear()
            self.wake.wait_sync()
            return None
        return voice(0.3)

    def shutdown(self):
        self.wake.set()

    def copy(self):
        return type(self)()


class ClearsBeforeItLooks(LooksBeforeItClears):
    early = True


# -- limits


class CountsHasty(Speaker):
    """One answer in 0.8 s; each refusal begins the time anew."""

    counts = True

    def __init__(self):
        super().__init__()
        self.last = -1.0

    async def on_dtmf(self, digit):
        now = time.monotonic()
        is_due = now - self.last >= 0.8
        if is_due or self.counts:
            self.last = now
        if is_due:
            self.play(voice(0.4))


class CountsAnswersAlone(CountsHasty):
    counts = False


class HangsUpOnItself(Speaker):
    """Asks something of three seconds, and hangs up two seconds after it began to."""

    waits = False

    def __init__(self):
        super().__init__()
        self.answered = rtcflow.Event()

    async def receive(self, frame):
        if loud(frame):
            self.answered.set()

    async def start_up(self):
        self.play(voice(3.0))
        if self.waits:
            await anyio.sleep(0.1)
            await self.wait_played(math.inf)
        with anyio.move_on_after(2.0):
            await self.answered.wait()
        self.hang_up("goodbye")


class HangsUpLater(HangsUpOnItself):
    waits = True


# -- the end of an answer


class KeepsABlock(Speaker):
    """Says a number for each key, in blocks: what does not fill one stays for the next key."""

    flushes = False

    def __init__(self):
        super().__init__()
        self.line = np.zeros(0, np.int16)

    async def on_dtmf(self, digit):
        word = signals.speech_like(1.03, seed=ord(digit), activity=1.0)[0]
        self.line = np.concatenate([self.line, word])
        while self.line.size >= 4800 or (self.flushes and self.line.size):
            block, self.line = self.line[:4800], self.line[4800:]
            self.play((RATE, block))


class FlushesABlock(KeepsABlock):
    flushes = True


class KeepsTheEnd(Speaker):
    """Resamples each clip with the same resampler, which keeps the last of it."""

    whole = False

    def __init__(self):
        super().__init__()
        self.resampler = av.AudioResampler("s16", "mono", RATE)

    async def start_up(self):
        samples = signals.tone(0.505, 310, 22050)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 22050
        frames = self.resampler.resample(frame)
        if self.whole:
            frames += self.resampler.resample(None)
            self.resampler = av.AudioResampler("s16", "mono", RATE)
        self.play((RATE, np.concatenate([one.to_ndarray() for one in frames], axis=1)))


class FlushesIt(KeepsTheEnd):
    whole = True


class StaysOnTheLine(Speaker):
    """Says one word to one whom it cannot hear, and nobody hangs up."""

    closes = False

    async def start_up(self):
        self.play(voice(0.5))
        if self.closes:
            self.play(rtcflow.CloseStream())


class HangsUpAtTheEnd(StaysOnTheLine):
    closes = True


# -- who goes on and on


class CountsRefusals(Speaker):
    """A soft tone for a snore, at most every two seconds; a snore that gets none counts as well."""

    def __init__(self):
        super().__init__()
        self.last = -math.inf

    def may_answer(self):
        now = time.monotonic()
        since, self.last = now - self.last, now
        return since >= 2.0

    async def receive(self, frame):
        if loud(frame) and self.may_answer():
            self.play(voice(0.3))


class CountsTones(CountsRefusals):
    def may_answer(self):
        now = time.monotonic()
        if now - self.last < 2.0:
            return False
        self.last = now
        return True


class TellsTheBeginning(CountsRefusals):
    """A tone for each snore, as soon as it begins."""

    snoring = False

    async def receive(self, frame):
        self.snoring, before = loud(frame), self.snoring
        if self.snoring and not before:
            self.play(voice(0.3))


class AnswersAfterAPause(CountsRefusals):
    """Answers whoever has been silent for half a second."""

    heard = False

    async def receive(self, frame):
        now = time.monotonic()
        if loud(frame):
            self.last, self.heard = now, True
        elif self.heard and now - self.last > 0.5:
            self.heard = False
            self.play(voice(0.3))


# -- what is left of a limit, and a word that comes while something is made


class CountsTheQuestion(Speaker):
    """The four seconds for the answer begin with the question, which lasts two and a half."""

    late = True

    def __init__(self):
        super().__init__()
        self.answered = rtcflow.Event()

    async def on_dtmf(self, digit):
        self.answered.set()

    async def start_up(self):
        begin = anyio.current_time()
        await self.say(voice(2.5))
        with anyio.move_on_after(begin + 4.0 - anyio.current_time() if self.late else 4.0):
            await self.answered.wait()
            await self.say(voice(0.3, 800))
            return
        self.hang_up("too late")


class CountsTheAnswer(CountsTheQuestion):
    late = False


class ForgetsAWord(Speaker):
    """Tells something, until somebody says a word; forgets the word if it comes while the next sentence is made."""

    forgets = True

    def __init__(self):
        super().__init__()
        self.silent = False

    async def start_up(self):
        for number in range(8):
            await anyio.sleep(0.25)
            if self.forgets:
                self.silent = False
            elif self.silent:
                return
            for _ in range(12):
                self.play(voice(0.1, 200 + 20 * number))
            while self.frames and not self.silent:
                await anyio.sleep(0.02)
            if self.silent:
                return

    async def receive(self, frame):
        if loud(frame):
            self.clear_queue()

    def clear_queue(self):
        self.silent = True
        self.frames.clear()
        return super().clear_queue()


class RemembersIt(ForgetsAWord):
    forgets = False


class CutsSomePairs(Speaker):
    """Plays a stereo station, whose pieces of bytes are not all whole; throws away what is left of a pair."""

    whole = False

    async def receive(self, frame):
        await self.send_message("heard")

    async def start_up(self):
        at = np.arange(6 * RATE)
        pairs = np.stack([9000 * np.sin(2 * np.pi * 440 * at / RATE), 3000 * np.sin(2 * np.pi * 660 * at / RATE)])
        data, rest, sizes = pairs.T.astype("<i2").tobytes(), b"", (4096, 2998, 4096, 1402, 3500)
        for turn in range(len(data) // 4000):
            piece, data = rest + data[: sizes[turn % 5]], data[sizes[turn % 5] :]
            end = len(piece) // 4 * 4
            rest = piece[end:] if self.whole else b""
            self.play((RATE, np.ascontiguousarray(np.frombuffer(piece[:end], "<i2").reshape(-1, 2).T)))


class KeepsThePairs(CutsSomePairs):
    whole = True


class CutsEveryPair(Speaker):
    """Reads a twentieth of a second at a time, an odd number of samples; the same places of both tones meet there."""

    whole = False

    async def receive(self, frame):
        await self.send_message("heard")

    async def start_up(self):
        at = np.arange(6 * 22050)
        pairs = np.stack([6000 * np.sin(2 * np.pi * pitch * at / 22050) for pitch in (200, 900)], axis=1)
        samples, rest = pairs.astype(np.int16).ravel(), np.zeros(0, np.int16)
        for begin in range(0, samples.size, 2205):
            piece = np.concatenate([rest, samples[begin : begin + 2205]])
            end = piece.size // 2 * 2
            rest = piece[end:] if self.whole else rest
            self.play((22050, np.ascontiguousarray(piece[:end].reshape(-1, 2).T)))


class ReadsWholePairs(CutsEveryPair):
    whole = True


class HushesTooEarly(Speaker):
    """Reads a step of a recipe for "next"; "hush" is forgotten if it comes while the voice is made."""

    forgets = True

    def __init__(self):
        super().__init__()
        self.wanted, self.hushed = rtcflow.Event(), False

    async def on_message(self, text):
        if text == "next":
            self.wanted.set()
        elif text == "hush":
            self.hushed = True
            self.frames.clear()
            self.clear_queue()

    async def start_up(self):
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            if not self.forgets:
                self.hushed = False
            await anyio.sleep(0.4)
            if self.forgets:
                self.hushed = False
            for _ in range(0 if self.hushed else 13):
                self.play(voice(0.1))


class Hushes(HushesTooEarly):
    forgets = False


class Desk:
    """Has four seats, and gives them out in any order."""

    def __init__(self):
        self.free = [1, 2, 3, 4]


class LosesASeat(Speaker):
    """A call takes a seat, and gives it back only if it was told which one."""

    desk = Desk()

    async def start_up(self):
        seat = self.desk.free.pop() if self.desk.free else None
        await self.send_message(f"seat {seat}")
        try:
            await anyio.sleep_forever()
        finally:
            if seat is not None:
                self.desk.free.append(seat)


class GivesSeatsBack(LosesASeat):
    """Also if it is cut short."""

    desk = Desk()

    async def start_up(self):
        seat = self.desk.free.pop() if self.desk.free else None
        try:
            await self.send_message(f"seat {seat}")
            await anyio.sleep_forever()
        finally:
            if seat is not None:
                self.desk.free.append(seat)


@pytest.mark.parametrize(
    ("bug", "told", "sentence", "sound"),
    [
        (ClosesTwice, "in one of these calls it raised RuntimeError('it is closed already')", TEXTS, [ClosesOnce]),
        (ReadsOn, "of audio were emitted that the handler had kept", STALE, [DropsTheRest, PlaysMusic, PlaysALoop]),
        (WaitsForArguments, "says and does nothing for 40 s if none come", BADLY, [WaitsForAWhile]),
        (AppendsOneSheet, "an array in .pieces is not written to", SERVES, [AppendsCopies, WritesUnderOneLine]),
        (CountsFrames, "it counts frames, where it means a time", LENGTHS, [CountsSamples]),
        (CutsPairs, "every second sample of a channel", REAL_TIME, [TakesPairs, Whistles, MakesItLonger]),
        (NamesAnotherRate, "of 1.2 s of speech at 48000 Hz it makes 2.4 s", LENGTHS, [NamesItsRate]),
        (BeginsAgain, "each piece of what it says of itself begins with a click", REAL_TIME, [GoesOn, Ticks]),
        (
            WaitsForAnOldSignal,
            "after a caller writes '' it neither says nor",
            TEXTS,
            [WaitsForANewSignal, DiscardsOnce],
        ),
        (HangsUpOnItself, "0.0 s are left", LIMITS, [HangsUpLater]),
        (ClearsAfterTheWork, "the second stays in .phrases until another", ANY_ORDER, [ClearsBeforeTheWork, Uploads]),
        (LooksBeforeItClears, "the second stays in .jobs until another", ANY_ORDER, [ClearsBeforeItLooks]),
        (CountsHasty, "a caller who presses 1 every 0.45 s", LIMITS, [CountsAnswersAlone]),
        (
            CountsRefusals,
            "a caller who makes a noise (or moves) all the time is noticed once",
            LIMITS,
            [CountsTones, TellsTheBeginning, AnswersAfterAPause],
        ),
        (CountsTheQuestion, "gives the caller 4 s, and begins to count 2.5 s before", LIMITS, [CountsTheAnswer]),
        (ForgetsAWord, "when the caller says one short word", NOTICES, [RemembersIt]),
        (CutsSomePairs, "left and right change sides", REAL_TIME, [KeepsThePairs]),
        (CutsEveryPair, "left and right change sides", REAL_TIME, [ReadsWholePairs]),
        (HushesTooEarly, "when the caller writes 'hush' in the middle", NOTICES, [Hushes]),
        (LosesASeat, "a caller who leaves before the data channel is open leaves a trace", TRACES, [GivesSeatsBack]),
        (KeepsTheEnd, ".resampler still holds the last", SERVES, [FlushesIt]),
        (StaysOnTheLine, "it says something for 0.5 s and then nothing more", REAL_TIME, [HangsUpAtTheEnd]),
        (KeepsABlock, "come at the beginning of the next one", ANSWERS, [FlushesABlock]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bug_is_told(bug, told, sentence, sound):
    """What is wrong is told under the sentence it breaks, and nothing is said of what is right."""
    assert_told(bug, told, sentence, sound)


def test_who_must_have_arguments_says_which():
    """A handler that cannot do without is not called by a page that posts none."""
    check_handler(WaitsForArguments(), args=["a", "de"])


def test_a_place_is_lost_by_a_call_that_ends_in_the_middle_of_work():
    """Also if all places are lost before the sentence about traces is looked at, after which nothing changes."""
    check_handler(GivesItBack(), shared={"at_work"})
    check_of(TRACES)(GivesItBack())
    with pytest.raises(AssertionError, match=r"a call set \.at_work of the class LosesAPlace"):
        check_handler(LosesAPlace())
