"""What `check_handler` tells of keys, limits, pools and arguments: each bug has a sound handler beside it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import anyio
import numpy as np
import pytest

import rtcflow
from rtcflow.testing import HANDLER_CHECKS, check_handler, run_call, signals
from rtcflow.testing._handler_time import seen_by

RATE = 24000


def voice(seconds, pitch=300):
    return RATE, signals.tone(seconds, pitch)


class Speaker(rtcflow.AsyncStreamHandler):
    """Says what is in its queue."""

    def __init__(self):
        super().__init__(input_sample_rate=RATE)
        self.out, self.came = deque(), rtcflow.Event()

    def play(self, item):
        self.out.append(item)
        self.came.set()

    async def receive(self, frame):
        pass

    async def emit(self):
        while not self.out:
            self.came.clear()
            await self.came.wait()
        return self.out.popleft()

    def copy(self):
        return type(self)()


def loud(frame):
    return np.abs(frame[1].astype(np.int32)).mean() > 500


# -- who calls


class Transfers(Speaker):
    """Hands the caller over to a colleague: the number of the call is only known on a telephone."""

    async def start_up(self):
        self.play(voice(0.5))

    async def on_dtmf(self, digit):
        self.call = self.context.custom["call_id"], self.context.custom["desk"]
        self.play(voice(0.2))


def test_a_handler_may_look_at_who_calls():
    """All callers have what a carrier tells, and what the application adds is given. Without it, its lack is told."""
    check_handler(Transfers(), custom={"desk": "+15550123"})
    with pytest.raises(AssertionError, match=r"raised KeyError\('desk'\)"):
        check_handler(Transfers())


# -- keys


class ForgetsKeys(Speaker):
    """A key cuts the menu short. It is forgotten then, because the menu waits for a new one."""

    forgets = True

    def __init__(self):
        super().__init__()
        self.pressed, self.saying = rtcflow.Event(), None

    async def on_dtmf(self, digit):
        self.pressed.set()
        if self.saying is not None:
            self.saying.cancel()

    async def start_up(self):
        while True:
            with anyio.CancelScope() as self.saying:
                await self.say(voice(2.5))
            if self.forgets:
                self.pressed.clear()
            with anyio.move_on_after(8.0):
                await self.pressed.wait()
                self.pressed.clear()
                await self.say(voice(1.0, 500))


class KeepsKeys(ForgetsKeys):
    """Answers it."""

    forgets = False


class AnswersAtOnce(Speaker):
    """A key takes back the question, and its answer is over before the question would have been."""

    async def start_up(self):
        for number in range(20):
            self.play(voice(0.2, 200 + 10 * number))

    async def on_dtmf(self, digit):
        self.out.clear()
        self.clear_queue()
        self.play(voice(0.6, 900))


class SaysItAgain(Speaker):
    """Clears its queue for a key, and says all the same what it was making of the caller's words."""

    keeps = True

    def __init__(self):
        super().__init__()
        self.heard, self.asked, self.version = 0, rtcflow.Event(), 0

    async def receive(self, frame):
        self.heard += loud(frame)
        if self.heard == 25:
            self.heard = 0
            self.asked.set()

    async def start_up(self):
        while True:
            await self.asked.wait()
            self.asked.clear()
            version = self.version
            await anyio.sleep(0.4)
            if self.keeps or version == self.version:
                self.play(voice(0.5))

    async def on_dtmf(self, digit):
        self.version += 1
        self.out.clear()
        self.clear_queue()


class TakesItBack(SaysItAgain):
    """Drops it."""

    keeps = False


# -- limits


class AsksInAHurry(Speaker):
    """The time for the answer begins with the question."""

    waits_first = False

    def __init__(self):
        super().__init__()
        self.answered, self.asking = rtcflow.Event(), None

    async def receive(self, frame):
        if loud(frame):
            self.answered.set()

    async def start_up(self):
        if self.waits_first:
            await self.say(voice(2.0))
        with anyio.move_on_after(3.0):
            if not self.waits_first:
                self.play(voice(2.0))
            await self.answered.wait()
            await self.say(voice(0.3, 800))
            return
        self.hang_up("too late")


class AsksFirst(AsksInAHurry):
    """It begins when the question was heard."""

    waits_first = True


class LooksAtTheClock(Speaker):
    """The same, with a clock that is looked at with each frame."""

    limit = 3.0

    def __init__(self):
        super().__init__()
        self.since, self.over = None, False

    async def start_up(self):
        self.since = self.begins()
        self.play(voice(2.0))

    def begins(self):
        return time.monotonic()

    async def receive(self, frame):
        if loud(frame):
            self.over = True
        elif not self.over and self.since is not None and time.monotonic() - self.since > self.limit:
            self.over = True
            self.play((voice(0.5, 200), rtcflow.CloseStream("too late")))


class LooksLater(LooksAtTheClock):
    """It counts from the moment in which its question will have been heard."""

    def begins(self):
        return time.monotonic() + 2.0


class CallsEnd(Speaker):
    """A call lasts three seconds, whatever is said in it."""

    async def start_up(self):
        self.play(voice(2.0))
        with anyio.move_on_after(3.0):
            await anyio.sleep_forever()
        self.hang_up("three seconds are over")


class WaitsInAQueue(rtcflow.StreamHandler):
    """As `AsksInAHurry`, with threads."""

    def __init__(self):
        super().__init__()
        self.out, self.answers = queue.Queue(), queue.Queue()

    def receive(self, frame):
        if loud(frame):
            self.answers.put(True)

    def start_up(self):
        self.out.put(voice(2.0))
        self.wait_for_it()
        try:
            self.answers.get(timeout=3.0)
            self.out.put(voice(0.3, 800))
        except queue.Empty:
            self.out.put(rtcflow.CloseStream("too late"))

    def wait_for_it(self):
        pass

    def emit(self):
        return self.out.get()

    def copy(self):
        return type(self)()


class WaitsUntilItIsHeard(WaitsInAQueue):
    """It begins when the question was heard."""

    def wait_for_it(self):
        self.ended.wait_sync(2.0)


# -- what comes, and stays


class PilesUp(rtcflow.StreamHandler):
    """Waits to be told of words, and does not look whether there are some."""

    def __init__(self):
        super().__init__()
        self.words, self.changed = deque(["hello"]), threading.Condition()

    def on_message(self, text):
        for word in text.split():
            with self.changed:
                self.words.append(word)
                self.changed.notify()

    def receive(self, frame):
        pass

    def wait(self):
        self.changed.wait()

    def emit(self):
        with self.changed:
            self.wait()
            self.words.popleft()
        return voice(0.2)

    def copy(self):
        return type(self)()


class LooksFirst(PilesUp):
    """Looks."""

    def wait(self):
        self.changed.wait_for(lambda: self.words)


class GreetsAndReads(LooksFirst):
    """Is busy with a long greeting for a while: what comes meanwhile is read later."""

    def __init__(self):
        super().__init__()
        self.words.extend(["hello"] * 20)


class WantsArguments(Speaker):
    """Waits for arguments for which it has not asked."""

    async def start_up(self):
        await self.arguments()
        self.play(voice(1.0))

    async def arguments(self):
        await self.args_set.wait()


class WaitsForThemAWhile(WantsArguments):
    """Goes on without them."""

    async def arguments(self):
        with anyio.move_on_after(1.0):
            await self.args_set.wait()


class SquaresIntegers(Speaker):
    """The loudness of int16, whose squares wrap around."""

    async def receive(self, frame):
        self.level = np.sqrt(np.mean(self.samples(frame) ** 2))

    def samples(self, frame):
        return frame[1]


class SquaresFloats(SquaresIntegers):
    """Of floats."""

    def samples(self, frame):
        return frame[1].astype(np.float32)


class HandsOverItsList(rtcflow.AsyncStreamHandler):
    """Puts out one list of numbers each time, and writes on in it."""

    def __init__(self):
        super().__init__()
        self.bands, self.fresh = [0.0] * 4, rtcflow.Event()

    async def receive(self, frame):
        self.bands[0] = float(np.abs(frame[1]).mean())
        self.fresh.set()

    def shown(self):
        return self.bands

    async def emit(self):
        await self.fresh.wait()
        self.fresh.clear()
        return rtcflow.AdditionalOutputs(self.shown())

    def copy(self):
        return type(self)()


class HandsOverACopy(HandsOverItsList):
    """Puts out a copy."""

    def shown(self):
        return list(self.bands)


class KeepsAHistory(HandsOverItsList):
    """Puts out a list that grows."""

    async def receive(self, frame):
        self.bands.append(float(np.abs(frame[1]).mean()))
        self.fresh.set()


class DropsTheRest(Speaker):
    """Passes blocks of 10 ms on, and forgets what is left of a frame."""

    def __init__(self):
        super().__init__()
        self.rest = np.zeros((1, 0), np.int16)

    def joined(self, samples):
        return samples

    async def receive(self, frame):
        samples = self.joined(frame[1])
        whole = samples.shape[1] // (RATE // 100) * (RATE // 100)
        self.rest = samples[:, whole:]
        if whole:
            self.play((RATE, samples[:, :whole]))


class KeepsTheRest(DropsTheRest):
    """Keeps it for the next frame."""

    def joined(self, samples):
        return np.concatenate([self.rest, samples], axis=1)


class Delays(Speaker):
    """An echo after 0.4 s. It knows of no interruptions, so nothing is stale."""

    def __init__(self):
        super().__init__()
        self.out.append((RATE, signals.silence(0.4)))

    async def receive(self, frame):
        self.play(frame)


class ReadsNews(Speaker):
    """Reads the news, and falls silent for a caller who speaks: each frame takes 4 ms, and then its own length."""

    def __init__(self):
        super().__init__()
        self.heard = False

    async def receive(self, frame):
        self.heard = self.heard or loud(frame)

    async def start_up(self):
        begun = anyio.current_time()
        for number in range(400):
            await anyio.sleep(0.004)
            if self.heard:
                return
            self.play(voice(0.02))
            await self.pace(begun + 0.02 * (number + 1))

    async def pace(self, due):
        await anyio.sleep(0.02)


class ReadsOnTime(ReadsNews):
    """Counts the deadlines up."""

    async def pace(self, due):
        await anyio.sleep_until(due)


class Model:
    """Of the application; a call takes one, and gives it back."""


class KeepsAModel(Speaker):
    """Takes one of two models for each call."""

    gives_back = False

    def __init__(self, models=None):
        super().__init__()
        if models is None:
            models = queue.Queue()
            models.put(Model())
            models.put(Model())
        self.models, self.model = models, None

    async def start_up(self):
        try:
            self.model = self.models.get_nowait()
        except queue.Empty:
            return
        self.play(voice(0.5))

    async def shutdown(self):
        if self.gives_back and self.model is not None:
            self.models.put(self.model)

    def copy(self):
        return type(self)(self.models)


class GivesItsModelBack(KeepsAModel):
    """Gives it back, in another order."""

    gives_back = True


KEYS = "it serves a caller who sends any text"
STALE = "after clear_queue the caller hears nothing"
LIMITS = "its limits count"
TRACES = "one call leaves no trace"
BADLY = "it serves a caller who says nothing"
ERRORS = "an error in its methods is not swallowed"
SERVES = "it serves a call on trio"
LENGTHS = "it serves a caller whose frames are of any length"
REAL_TIME = "its audio comes in real time"


@pytest.mark.parametrize(
    ("bug", "told", "sentence", "sound"),
    [
        (ForgetsKeys, "the key is forgotten", KEYS, [KeepsKeys, AnswersAtOnce]),
        (SaysItAgain, "and then presses 1, it clears its queue, and says 0.5 s", STALE, [TakesItBack, Delays]),
        (AsksInAHurry, "(in start_up) gives the caller 3 s, and begins to count 2.0 s", LIMITS, [AsksFirst, CallsEnd]),
        (LooksAtTheClock, "(in receive) gives the caller 3 s, and begins to count 2.0 s", LIMITS, [LooksLater]),
        (WaitsInAQueue, "(in start_up) gives the caller 3 s, and begins", LIMITS, [WaitsUntilItIsHeard]),
        (PilesUp, "each text leaves more in .words (3, 5, 7 items)", KEYS, [LooksFirst, GreetsAndReads]),
        (WantsArguments, "it says nothing before arguments are posted", BADLY, [WaitsForThemAWhile]),
        (SquaresIntegers, "(in receive) computes a NaN", ERRORS, [SquaresFloats]),
        (HandsOverItsList, "nor are numbers in a list", SERVES, [HandsOverACopy, KeepsAHistory]),
        (DropsTheRest, "in frames of 19 ms", LENGTHS, [KeepsTheRest]),
        (ReadsNews, "pieces in 8 s came 4.00 ms too late", REAL_TIME, [ReadsOnTime]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bug_is_told(bug, told, sentence, sound):
    """What is wrong is told under the sentence it breaks, and nothing is said of what is right."""
    (check,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(sentence)]
    for handler in sound:
        check(handler())
    with pytest.raises(AssertionError) as caught:
        check(bug())
    assert told in str(caught.value)


def test_what_calls_take_out_of_a_pool_is_given_back():
    """A queue with models that copies share is one on purpose, as long as each call gives back what it took."""
    check_handler(GivesItsModelBack())
    with pytest.raises(AssertionError, match=r"calls take something out of \.models"):
        check_handler(KeepsAModel())


def test_a_shared_queue_may_be_meant():
    """The error says how to say so."""

    class Archives(Speaker):
        def __init__(self, archive=None):
            super().__init__()
            self.archive = deque() if archive is None else archive

        def copy(self):
            return type(self)(self.archive)

    with pytest.raises(rtcflow.HandlerError, match=r"say so: shared=\{'archive'\}"):
        check_handler(Archives())
    check_handler(Archives(), shared={"archive"})


class SleepsInAPool(rtcflow.StreamHandler):
    """Its model takes 10 s for each answer, in a pool."""

    def __init__(self):
        super().__init__()
        self.pool, self.words = ThreadPoolExecutor(1), queue.Queue()

    def start_up(self):
        self.pool.submit(self.work)

    def work(self):
        for _ in range(10):
            time.sleep(10)
            self.words.put(time.monotonic())

    def receive(self, frame):
        pass

    def emit(self):
        return rtcflow.AdditionalOutputs(self.words.get())

    def shutdown(self):
        self.pool.shutdown(wait=False, cancel_futures=True)

    def copy(self):
        return type(self)()


def test_a_pool_sleeps_in_virtual_time():
    """A job of a pool that sleeps does so in the time of the call: 100 s are over at once."""
    handler = SleepsInAPool()
    with seen_by(handler):
        record = run_call(handler, seconds=101)
    moments = [outputs.args[0] for _, outputs in record.outputs]
    assert len(moments) == 10
    assert np.diff(moments) == pytest.approx([10.0] * 9, abs=0.1)


GATE = threading.Event()


class LeavesJobs(SleepsInAPool):
    """Closes its pool, in which jobs still wait."""

    def start_up(self):
        for _ in range(3):
            self.pool.submit(GATE.wait)

    def emit(self):
        return voice(0.02)

    def shutdown(self):
        self.pool.shutdown(wait=False)


def test_jobs_that_wait_in_a_closed_pool_are_told():
    """They would all be done after the call, for nobody."""
    (check,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(SERVES)]
    try:
        with pytest.raises(AssertionError, match=r"a pool in which work still waits \(2 jobs\)"):
            check(LeavesJobs())
    finally:
        GATE.set()
