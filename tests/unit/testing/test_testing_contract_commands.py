"""What `check_handler` tells of commands given at any moment, of pictures, blocks and limits, beside sound handlers."""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections import deque
from contextlib import nullcontext

import anyio
import numpy as np
import pytest
from contract_cases import (
    BADLY,
    ERRORS,
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
from kinds import RATE

import rtcflow


class SyncSpeaker(rtcflow.StreamHandler):
    """The same, with threads."""

    def __init__(self):
        super().__init__()
        self.out = queue.Queue()

    def receive(self, frame):
        pass

    def emit(self):
        return self.out.get()

    def copy(self):
        return type(self)()


# -- commands at any moment


class StopsTooEarly(Speaker):
    """Thinks half a second, and then begins its answer: a "stop" that came while it thought is forgotten."""

    counts = False

    def __init__(self):
        super().__init__()
        self.asked, self.stops = rtcflow.Event(), 0

    async def on_message(self, text):
        if text == "stop":
            self.stop()
        else:
            self.asked.set()

    def stop(self):
        self.stops += 1
        self.clear_queue()

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            stops = self.stops
            await anyio.sleep(0.5)
            if not self.counts:
                stops = self.stops
            for _ in range(4):
                if stops == self.stops:
                    await self.say(voice(1.0))


class CountsStops(StopsTooEarly):
    """Compares with the stops before the question."""

    counts = True


class IgnoresStops(StopsTooEarly):
    """Says every answer to its end: that is no interruption which it forgets."""

    def stop(self):
        pass


class StopsTooEarlyInJson(StopsTooEarly):
    """The same, and its page writes JSON."""

    async def on_message(self, text):
        try:
            command = json.loads(text)
        except ValueError:
            command = None
        await super().on_message("stop" if command == {"type": "stop"} else "")


class ReadsNewsAllTheSame(Speaker):
    """Reads news for "#", until "*": while it gets them, that is forgotten."""

    counts = False

    def __init__(self):
        super().__init__()
        self.asked, self.stops = rtcflow.Event(), 0

    async def on_dtmf(self, digit):
        if digit == "#":
            self.asked.set()
        elif digit == "*":
            self.stops += 1
            self.frames.clear()
            self.clear_queue()

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            stops = self.stops
            await anyio.sleep(0.5)
            if stops == self.stops or not self.counts:
                for _ in range(30):
                    self.play(voice(0.1))


class ReadsNewsUntilThen(ReadsNewsAllTheSame):
    """Reads none that were stopped while it got them."""

    counts = True


class AnswersBoth(Speaker):
    """A new question takes back the one before, whose answer is made all the same."""

    counts = False

    def __init__(self):
        super().__init__()
        self.questions = 0

    async def on_message(self, text):
        self.questions += 1
        self.frames.clear()
        self.clear_queue()
        self.loop.create_task(self.answer(self.questions))

    async def answer(self, number):
        for _ in range(4):
            await anyio.sleep(0.3)
            if number == self.questions or not self.counts:
                self.play(voice(0.5))


class AnswersTheLast(AnswersBoth):
    """Makes no more of an answer that was taken back."""

    counts = True


class PlaysTheNext(Speaker):
    """A radio that pauses between two songs. There is nothing to skip in a pause."""

    def __init__(self):
        super().__init__()
        self.song = None

    async def on_message(self, text):
        if text == "next" and self.song is not None:
            self.song.cancel()
            self.clear_queue()

    async def start_up(self):
        while True:
            with anyio.CancelScope() as self.song:
                await self.say(voice(6.0))
            await anyio.sleep(2.0)


class SaysOneMore(Speaker):
    """Falls silent for a caller who speaks, and says all the same the sentence that `emit` makes at that moment."""

    counts = False

    def __init__(self):
        super().__init__()
        self.quiet = self.interruptions = 0

    async def on_message(self, text):
        for number in range(6):
            self.play(voice(0.8, 300 + 50 * number))

    async def receive(self, frame):
        if not loud(frame):
            self.quiet += 1
            return
        if self.quiet > 15:
            self.interruptions += 1
            self.frames.clear()
            self.clear_queue()
        self.quiet = 0

    async def emit(self):
        sentence, before = await super().emit(), self.interruptions
        await anyio.sleep(0.25)
        return None if self.counts and before != self.interruptions else sentence


class DropsThatToo(SaysOneMore):
    """Counts the interruptions, and drops that sentence as well."""

    counts = True


class TalksOn(SaysOneMore):
    """Does not listen while it speaks."""

    async def receive(self, frame):
        pass


class KeepsItsWords(Speaker):
    """Reads a text out word by word. "stop" drops what rtcflow has of it, and not the words that are left."""

    async def on_message(self, text):
        if text == "stop":
            self.drop()
            self.clear_queue()
        else:
            for _ in text.split():
                self.play(voice(0.12))

    def drop(self):
        pass


class DropsItsWords(KeepsItsWords):
    """Drops them there; nobody else clears its queue, so it needs no `clear_queue` of its own."""

    def drop(self):
        self.frames.clear()


class DropsThemInClearQueue(KeepsItsWords):
    """Drops them in its own `clear_queue`."""

    def clear_queue(self):
        self.frames.clear()
        return super().clear_queue()


# -- texts and keys that leave it dumb


class WaitsForWords(SyncSpeaker):
    """Waits for an answer to each text. A text without words has none."""

    def __init__(self):
        super().__init__()
        self.questions, self.answers = queue.Queue(), queue.Queue()

    def start_up(self):
        while True:
            if self.has_answer(self.questions.get()):
                self.answers.put(voice(0.3))

    def has_answer(self, text):
        return text.split()

    def on_message(self, text):
        self.questions.put(text)
        self.out.put(self.answers.get())


class AnswersBlanks(WaitsForWords):
    """Answers it like any other."""

    def has_answer(self, text):
        return True


class ForgetsWhoWaits(Speaker):
    """A radio: "pause" makes a new event, also while `emit` still waits for the one before."""

    def __init__(self):
        super().__init__()
        self.playing = rtcflow.Event()
        self.playing.set()

    async def on_message(self, text):
        if text == "pause":
            self.pause()
        elif text == "resume":
            self.playing.set()

    def pause(self):
        self.playing = rtcflow.Event()

    async def emit(self):
        while not self.playing.is_set():
            await self.playing.wait()
        return voice(0.2)


class ClearsOneEvent(ForgetsWhoWaits):
    """Keeps one event, and clears it."""

    def pause(self):
        self.playing.clear()


class AnswersOnce(Speaker):
    """Answers the first question, and has nothing more to say."""

    def __init__(self):
        super().__init__()
        self.done = False

    async def on_message(self, text):
        if text.strip() and not self.done:
            self.done = True
            self.play(voice(1.0))


class MutesForGood(Speaker):
    """A radio that "mute" silences for the rest of the call, however often it comes."""

    def __init__(self):
        super().__init__()
        self.muted = False

    async def on_message(self, text):
        self.muted = self.muted or text == "mute"

    async def emit(self):
        if self.muted:
            await anyio.sleep_forever()
        return voice(0.2)


class ForgetsTexts(Speaker):
    """Writes a note after each answer, and forgets what came meanwhile: it clears the event after that."""

    looks_first = False

    def __init__(self):
        super().__init__()
        self.asked = rtcflow.Event()

    async def on_message(self, text):
        self.asked.set()

    async def emit(self):
        await anyio.sleep(0.4)
        if not self.looks_first:
            self.asked.clear()
        await self.asked.wait()
        self.asked.clear()
        return voice(0.3)


class LooksForTexts(ForgetsTexts):
    """Clears it only when it answers."""

    looks_first = True


class RefusesFloods(Speaker):
    """Answers once in a second and a half."""

    def __init__(self):
        super().__init__()
        self.last = -math.inf

    async def on_message(self, text):
        now = anyio.current_time()
        if now - self.last >= 1.5:
            self.last = now
            self.play(voice(0.3))


class ForgetsKeys(ForgetsTexts):
    """The same, with keys."""

    on_message = Speaker.on_message

    async def on_dtmf(self, digit):
        self.asked.set()


class LooksForKeys(ForgetsKeys):
    """Clears it only when it answers."""

    looks_first = True


class AsksWithANewEvent(Speaker):
    """Asks two questions, and makes the event for the key when a question is over: an early key has set the old one."""

    renews = True

    def __init__(self):
        super().__init__()
        self.pressed = rtcflow.Event()

    async def on_dtmf(self, digit):
        self.pressed.set()

    async def start_up(self):
        for pitch in (300, 400):
            await self.say(voice(2.0, pitch))
            if self.renews:
                self.pressed = rtcflow.Event()
            await self.pressed.wait()
            self.pressed.clear()
        await self.say(voice(0.5, 800))


class AsksWithOneEvent(AsksWithANewEvent):
    """Takes the early key."""

    renews = False


class IgnoresKeysWhileItSpeaks(AsksWithANewEvent):
    """Takes no keys before its question is over, and means it."""

    speaks = True

    async def on_dtmf(self, digit):
        if not self.speaks:
            self.pressed.set()

    async def start_up(self):
        for pitch in (300, 400):
            self.speaks = True
            await self.say(voice(2.0, pitch))
            self.speaks = False
            await self.pressed.wait()
            self.pressed.clear()
        await self.say(voice(0.5, 800))


# -- traces


class StaysInBothRooms(Speaker):
    """ "join" takes the caller to another room. They stay in the one before, also after the call."""

    leaves = False

    def __init__(self, rooms=None):
        super().__init__()
        self.rooms, self.room = {} if rooms is None else rooms, "lobby"

    async def start_up(self):
        self.join(self.room)

    async def on_message(self, text):
        if text.startswith("join "):
            self.join(text[5:])

    def join(self, room):
        if self.leaves:
            self.leave()
        self.room = room
        self.rooms.setdefault(room, set()).add(self)

    def leave(self):
        members = self.rooms.get(self.room, set())
        members.discard(self)
        if not members:
            self.rooms.pop(self.room, None)

    async def shutdown(self):
        self.leave()

    def copy(self):
        return type(self)(self.rooms)


class ChangesRooms(StaysInBothRooms):
    """Leaves the one before."""

    leaves = True


class Recorder(threading.Thread):
    """Works until it is told that the recording is over."""

    def __init__(self):
        super().__init__(name="recorder", daemon=True)
        self.over = threading.Event()
        self.start()

    def run(self):
        self.over.wait()


class RecordsTwice(Speaker):
    """ "record" begins a recording. A second one takes the place of the first, which nobody stops."""

    def __init__(self):
        super().__init__()
        self.recorder = None

    async def on_message(self, text):
        if text == "record" and self.may_begin():
            self.recorder = Recorder()

    def may_begin(self):
        return True

    async def shutdown(self):
        if self.recorder is not None:
            self.recorder.over.set()


class ClosesTwice(Speaker):
    """Closes its session when the caller says goodbye, and again at the end."""

    looks = False

    def __init__(self):
        super().__init__()
        self.is_open = self.was_opened = False

    async def start_up(self):
        await anyio.sleep(0.1)
        self.is_open = self.was_opened = True

    def close(self):
        if not self.is_open:
            raise RuntimeError("closed already")
        self.is_open = False

    async def on_message(self, text):
        if text == "bye" and self.is_open:
            self.close()

    async def shutdown(self):
        if self.is_open or (self.was_opened and not self.looks):
            self.close()


class ClosesOnce(ClosesTwice):
    """Looks whether it is open."""

    looks = True


class RecordsOnce(RecordsTwice):
    """The first one goes on."""

    def may_begin(self):
        return self.recorder is None


# -- pictures


class Mirror(rtcflow.AsyncAudioVideoStreamHandler):
    """Shows the caller's pictures, each of them changed, and says nothing."""

    def __init__(self, video_format="rgb24"):
        super().__init__(video_format=video_format, fps=15)
        self.picture, self.seen = None, rtcflow.Event()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    async def video_receive(self, frame):
        self.picture = frame
        self.seen.set()

    async def video_emit(self):
        await self.seen.wait()
        self.seen.clear()
        return self.changed(self.picture)

    def changed(self, picture):
        return picture

    def copy(self):
        return type(self)()


class TakesRowsForFull(Mirror):
    """Takes it for granted that a row of a picture ends where the next one begins."""

    def __init__(self):
        super().__init__("frame")

    def changed(self, picture):
        return self.rows(picture.reformat(format="gray").planes[0])

    def rows(self, plane):
        return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.width).copy()


class CutsRows(TakesRowsForFull):
    """Cuts off what FFmpeg puts between two rows."""

    def rows(self, plane):
        return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()


class StandsStill(Mirror):
    """Mixes each picture with the ones before, and shows the last one again if that goes wrong."""

    def __init__(self):
        super().__init__()
        self.trail = None

    def begins_again(self, picture):
        return self.trail is None

    def changed(self, picture):
        try:
            self.trail = picture if self.begins_again(picture) else self.trail // 2 + picture // 2
        except ValueError:
            logging.getLogger(__name__).debug("no picture", exc_info=True)
        return self.trail.copy()


class BeginsAgain(StandsStill):
    """Begins again with a picture of another size."""

    def begins_again(self, picture):
        return self.trail is None or self.trail.shape != picture.shape


class ShowsOneTitle(StandsStill):
    """Its picture never changes."""

    def changed(self, picture):
        return np.full((48, 64, 3), 90, np.uint8)


class Brightens(Mirror):
    """Adds to uint8, which begins at black again beyond white."""

    def changed(self, picture):
        return picture + np.uint8(60)


class BrightensUpToWhite(Mirror):
    """Stops at white."""

    def changed(self, picture):
        return np.clip(picture.astype(np.int16) + 60, 0, 255).astype(np.uint8)


class Rolls(Mirror):
    """What goes out on the right comes in on the left."""

    def changed(self, picture):
        return np.roll(picture, picture.shape[1] // 3, axis=1)


class BlackOrWhite(Mirror):
    """Shows nothing between black and white."""

    def changed(self, picture):
        return np.where(picture > 128, np.uint8(255), np.uint8(0))


class MixesWithTheLast(Mirror):
    """A mean of two pictures, computed in uint8: half of the scale is lost where both are bright."""

    async def video_receive(self, picture):
        self.before = getattr(self, "now", picture)
        self.now = picture
        await super().video_receive(picture)

    def changed(self, picture):
        return (picture + self.before) // 2 if self.before.shape == picture.shape else picture


class ShowsContours(Mirror):
    """Shows where its picture changes, as bright as much."""

    def changed(self, picture):
        levels = picture.astype(np.int16)
        return np.clip(20 * np.abs(np.diff(levels, axis=1, prepend=levels[:, :1])), 0, 255).astype(np.uint8)


class PacesItsFilm(Mirror):
    """Shows a film of its own: draws a picture, and then sleeps for as long as it is shown."""

    draws, sleeps = 0.008, 1 / 15

    def __init__(self):
        super().__init__("frame")
        self.shown = 0

    async def video_emit(self):
        await self.draw()
        if self.sleeps:
            await anyio.sleep(self.sleeps)
        self.shown += 1
        return np.full((24, 32, 3), self.shown, np.uint8)

    async def draw(self):
        await anyio.sleep(self.draws)


class DrawsWhenAsked(PacesItsFilm):
    """Does not sleep."""

    sleeps = 0


class DrawsSlowly(DrawsWhenAsked):
    """Does not sleep either; it needs longer for a picture than it is shown."""

    draws = 0.09


# -- blocks, holes


class ForgetsMeanwhile(Speaker):
    """Works on blocks of half a second, and empties its list when the work is done: what came meanwhile is lost."""

    empties_first = False

    async def receive(self, frame):
        self.play(frame[1])

    async def emit(self):
        while sum(samples.shape[1] for samples in self.frames) < self.input_sample_rate // 2:
            self.came.clear()
            await self.came.wait()
        block = np.concatenate(self.frames, axis=1)
        if self.empties_first:
            self.frames.clear()
        await anyio.sleep(0.12)
        if not self.empties_first:
            self.frames.clear()
        return self.input_sample_rate, block


class KeepsMeanwhile(ForgetsMeanwhile):
    """Empties it when it takes the block."""

    empties_first = True


class CountsFrames(Speaker):
    """Plays back each second, which it takes for fifty frames."""

    by_frames = True

    def __init__(self):
        super().__init__()
        self.heard = []

    async def receive(self, frame):
        self.heard.append(frame[1][0])
        heard = np.concatenate(self.heard)
        if len(self.heard) == 50 if self.by_frames else heard.size >= self.input_sample_rate:
            self.play((self.input_sample_rate, heard))
            self.heard = []


class CountsSamples(CountsFrames):
    """Counts samples."""

    by_frames = False


class BeepsNowAndThen(Speaker):
    """Beeps after each half second of what it hears, for a shorter time."""

    def __init__(self):
        super().__init__()
        self.heard = 0

    async def receive(self, frame):
        self.heard += frame[1].shape[1]
        if self.heard >= self.input_sample_rate // 2:
            self.heard = 0
            self.play(voice(0.35))


class LeavesHoles(Speaker):
    """Reads a story, and makes a sentence when `emit` is asked for it: that takes longer than what is left to play."""

    async def sentence(self):
        await anyio.sleep(0.5)
        return voice(1.2)

    async def emit(self):
        return await self.sentence()


class LeavesHolesInThreads(LeavesHoles):
    """Its voice is one that blocks."""

    def make(self):
        time.sleep(0.5)
        return voice(1.2)

    async def sentence(self):
        return await self.run_sync(self.make)


class ReadsAhead(LeavesHoles):
    """Makes them meanwhile, and drops them when its queue is cleared."""

    async def start_up(self):
        while True:
            self.play(await self.sentence())
            while len(self.frames) > 2:
                await anyio.sleep(0.1)

    async def emit(self):
        return await Speaker.emit(self)

    def clear_queue(self):
        self.frames.clear()
        return super().clear_queue()


class Beeps(Speaker):
    """Waits between two beeps, on purpose."""

    async def emit(self):
        await anyio.sleep(0.6)
        return voice(0.35, 900)


class BeepsByItself(Speaker):
    """A task of its own beeps every 0.7 s."""

    async def start_up(self):
        while True:
            self.play(voice(0.35, 900))
            await anyio.sleep(0.7)


# -- limits


class HurriesKeys(SyncSpeaker):
    """The five seconds for a key begin when the question is handed over, which lasts four."""

    def now(self):
        return time.monotonic()

    def __init__(self):
        super().__init__()
        self.asked, self.until = False, 0.0

    def on_dtmf(self, digit):
        self.out.put(digit)

    def ask(self):
        self.until = self.now() + 5.0

    def heard(self):
        pass

    def emit(self):
        if not self.asked:
            self.asked = True
            self.ask()
            return voice(4.0)
        self.heard()
        while self.running and (left := self.until - self.now()) > 0:
            try:
                self.out.get(timeout=min(left, 0.2))
            except queue.Empty:
                continue
            self.asked = False
            return voice(0.4, 900)
        return rtcflow.CloseStream("nobody answers")


class LetsThemListen(HurriesKeys):
    """They begin when it was heard."""

    def ask(self):
        pass

    def heard(self):
        self.until = time.monotonic() + self.playback().waiting + 5.0


class EndsAnyway(HurriesKeys):
    """Its calls last five seconds, whatever is pressed: that is no time for an answer."""

    def on_dtmf(self, digit):
        pass


class CountsRefusals(Speaker):
    """Answers three texts in ten seconds, and counts those that it refuses as well."""

    counts_all = True

    def __init__(self):
        super().__init__()
        self.times = deque()

    async def on_message(self, text):
        now = anyio.current_time()
        while self.times and self.times[0] < now - 10.0:
            self.times.popleft()
        answers = len(self.times) < 3
        if answers or self.counts_all:
            self.times.append(now)
        if answers:
            self.play(voice(0.5))


class CountsRefusedKeys(CountsRefusals):
    """The same, with keys."""

    async def on_dtmf(self, digit):
        await CountsRefusals.on_message(self, digit)

    on_message = Speaker.on_message


class AnswersTen(Speaker):
    """Answers ten texts in a call."""

    def __init__(self):
        super().__init__()
        self.left = 10

    async def on_message(self, text):
        if self.left:
            self.left -= 1
            self.play(voice(0.5))


class HurriesOnItsLoopsClock(HurriesKeys):
    """Reads the clock of its loop."""

    def now(self):
        return self.loop.time()


class LimitsItsWords(Speaker):
    """A limit for its model, of 4 s, that is around all that it says as well."""

    around_all = True

    async def start_up(self):
        try:
            with anyio.fail_after(4.0) if self.around_all else nullcontext():
                for _ in range(5):
                    with anyio.fail_after(4.0):
                        await anyio.sleep(0.3)
                    await self.say(voice(1.6))
        except TimeoutError:
            await self.say(voice(0.8, 110))


class LimitsItsModel(LimitsItsWords):
    """The limit is around what it waits for."""

    around_all = False


class CountsAnswers(CountsRefusals):
    """Counts those that it answers."""

    counts_all = False


class GreetsTheFirst(Speaker):
    """Loads its greeting once, and clears an event that was set by then: all calls but the first are silent."""

    cache = {}
    clears = True

    def __init__(self):
        super().__init__()
        self.ready, self.greeted = rtcflow.Event(), False

    async def start_up(self):
        if "greeting" not in self.cache:
            await anyio.sleep(0.3)
            self.cache["greeting"] = voice(1.0)
        self.ready.set()

    async def emit(self):
        if self.greeted:
            return None
        if self.clears:
            self.ready.clear()
        await self.ready.wait()
        self.greeted = True
        return self.cache["greeting"]


class GreetsEverybody(GreetsTheFirst):
    """Does not clear it."""

    cache = {}
    clears = False


class FillsOneSheet(Mirror):
    """Hands four values at a time to a model, on a sheet that it writes to again while the model works."""

    copies = False

    def __init__(self):
        super().__init__()
        self.sheet, self.drawn, self.sheets = np.zeros(4), 0, queue.Queue()

    async def video_receive(self, picture):
        self.sheet[self.drawn % 4] = picture.mean() + self.drawn
        self.drawn += 1
        if self.drawn % 4 == 0:
            self.sheets.put(self.sheet.copy() if self.copies else self.sheet)
        await super().video_receive(picture)

    async def start_up(self):
        await self.run_sync(self.work)

    def work(self):
        while self.sheets.get() is not None:
            time.sleep(0.05)

    def shutdown(self):
        self.sheets.put(None)


class CopiesItsSheet(FillsOneSheet):
    """Hands over a copy."""

    copies = True


class SendsItsSheetBack(FillsOneSheet):
    """Writes to it again only when it came back."""

    def __init__(self):
        super().__init__()
        self.back = queue.Queue()
        self.back.put(self.sheet)

    async def video_receive(self, picture):
        if self.drawn % 4 == 0:
            self.sheet = await self.run_sync(self.back.get)
        await super().video_receive(picture)

    def work(self):
        while (sheet := self.sheets.get()) is not None:
            time.sleep(0.05)
            self.back.put(sheet)

    def shutdown(self):
        super().shutdown()
        self.back.put(np.zeros(4))


class WritesWhileItWaits(SyncSpeaker):
    """Puts pieces of one buffer into a queue, and writes the next ones over them before they are taken out."""

    def __init__(self):
        super().__init__()
        self.buffer, self.at = np.zeros(RATE, np.int16), 0

    def receive(self, frame):
        self.at = (self.at + 480) % RATE
        piece = self.buffer[self.at : self.at + 480]
        piece[:] = np.arange(480) + self.at
        if self.at % 4800 == 0:
            self.out.put(self.buffer)
            self.buffer[:10] += 1

    def emit(self):
        time.sleep(0.1)
        return RATE, self.out.get()[:480].copy()


# -- errors


PITCHES = {"1": 500}


class AsksNoFuture(SyncSpeaker):
    """Looks a key up in the loop, and does not ask whether that went well."""

    def on_dtmf(self, digit):
        self.ask(self.loop.run_coroutine_threadsafe(self.look_up(digit)))

    async def look_up(self, digit):
        await anyio.sleep(0.2)
        self.out.put(voice(0.3, PITCHES[digit]))

    def ask(self, future):
        pass


class AsksForTheResult(AsksNoFuture):
    """Asks."""

    def ask(self, future):
        try:
            future.result()
        except KeyError:
            self.out.put(voice(0.3, 200))


class LogsItsError(AsksNoFuture):
    """Logs what went wrong."""

    def ask(self, future):
        future.add_done_callback(self.log)

    def log(self, future):
        if not future.cancelled() and (error := future.exception()):
            logging.getLogger(__name__).warning("not found: %r", error)


@pytest.mark.parametrize(
    ("bug", "told", "sentence", "sound"),
    [
        (
            StopsTooEarly,
            "writes 'stop' in the middle of its answer to one who writes a long text, it falls silent. When",
            NOTICES,
            [CountsStops, IgnoresStops],
        ),
        (ReadsNewsAllTheSame, "in the middle of its answer to one who presses #", NOTICES, [ReadsNewsUntilThen]),
        (AnswersBoth, "writes 'hello' twice, it clears its queue, and then", STALE, [AnswersTheLast]),
        (ClosesTwice, "a caller writes 'bye', twice, it raised", TRACES, [ClosesOnce]),
        (CountsFrames, "it counts frames, where it means a time", LENGTHS, [CountsSamples]),
        (HurriesOnItsLoopsClock, "gives the caller 5 s, and begins to count", LIMITS, []),
        (GreetsTheFirst, "in the first call it says 1.0 s, and nothing", SERVES, [GreetsEverybody]),
        (StopsTooEarlyInJson, """writes '{"type": "stop"}' in the middle""", NOTICES, [PlaysTheNext]),
        (
            SaysOneMore,
            "when the caller says one short word in the middle of its answer to one who writes a long text, it",
            NOTICES,
            [DropsThatToo, TalksOn],
        ),
        (
            KeepsItsWords,
            "of audio were emitted that the handler had kept",
            STALE,
            [DropsItsWords, DropsThemInClearQueue],
        ),
        (
            WaitsForWords,
            "after a caller writes '' it neither says nor does anything",
            TEXTS,
            [AnswersBlanks, AnswersOnce],
        ),
        (ForgetsWhoWaits, "when the caller writes 'pause' twice, it neither", TEXTS, [ClearsOneEvent, MutesForGood]),
        (
            ForgetsTexts,
            "when the caller writes 'hello 2' two seconds after an answer",
            TEXTS,
            [LooksForTexts, RefusesFloods],
        ),
        (ForgetsKeys, "when the caller presses 5 two seconds after an answer", TEXTS, [LooksForKeys]),
        (
            AsksWithANewEvent,
            "nor make a new event before you wait for one",
            TEXTS,
            [AsksWithOneEvent, IgnoresKeysWhileItSpeaks],
        ),
        (StaysInBothRooms, "a caller who writes 'join hello', twice, leaves a trace", TRACES, [ChangesRooms]),
        (TakesRowsForFull, "whose camera is turned it raised ValueError('cannot reshape", BADLY, [CutsRows]),
        (StandsStill, "smaller pictures, its own stand still", BADLY, [BeginsAgain, ShowsOneTitle]),
        (Brightens, "as when uint8 overflows", BADLY, [BrightensUpToWhite, Rolls, BlackOrWhite]),
        (MixesWithTheLast, "as when uint8 overflows", BADLY, [ShowsContours]),
        (PacesItsFilm, "and is meant to show fps=15", BADLY, [DrawsWhenAsked, DrawsSlowly]),
        (
            ForgetsMeanwhile,
            "of a tone that goes on it makes 83 % of its length",
            LENGTHS,
            [KeepsMeanwhile, BeepsNowAndThen],
        ),
        (LeavesHoles, "after each piece of its audio comes a hole of", REAL_TIME, [ReadsAhead, Beeps, BeepsByItself]),
        (LeavesHolesInThreads, "after each piece of its audio comes a hole of", REAL_TIME, []),
        (HurriesKeys, "gives the caller 5 s, and begins to count", LIMITS, [LetsThemListen, EndsAnyway]),
        (CountsRefusals, "what was refused counts in the limit as well", LIMITS, [CountsAnswers, AnswersTen]),
        (CountsRefusedKeys, "a caller who presses 1 every 1.25 s", LIMITS, []),
        (LimitsItsWords, "for 3.2 s of which it speaks itself", LIMITS, [LimitsItsModel]),
        (
            FillsOneSheet,
            "the same array is put there again, with other content",
            SERVES,
            [CopiesItsSheet, SendsItsSheetBack],
        ),
        (WritesWhileItWaits, "an array that was put into a queue is not written to", SERVES, []),
        (
            AsksNoFuture,
            "KeyError('#') was raised in a job of a pool, or in",
            ERRORS,
            [AsksForTheResult, LogsItsError],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bug_is_told(bug, told, sentence, sound):
    """What is wrong is told under the sentence it breaks, and nothing is said of what is right."""
    assert_told(bug, told, sentence, sound)


def test_a_command_given_twice_leaves_no_thread_behind():
    """A second recording does not take the place of the first one, which would run for ever."""
    check = check_of(TRACES)
    check(RecordsOnce())
    try:
        with pytest.raises(AssertionError, match=r"shutdown\(\) left threads running: \['recorder'\]"):
            check(RecordsTwice())
    finally:
        for thread in threading.enumerate():
            if isinstance(thread, Recorder):
                thread.over.set()
                thread.join()
