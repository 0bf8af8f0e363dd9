"""What `check_handler` sees of threads that a handler has started itself, and of locks that its methods keep."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from contract_cases import ANY_ORDER, REAL_TIME, SERVES, TRACES, assert_told, check_of, voice
from kinds import RATE

import rtcflow
from rtcflow.testing import check_handler, run_call
from rtcflow.testing._handler_time import seen_by

STOP = threading.Event()
"""For threads that a bug leaves behind."""

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class Hums(rtcflow.StreamHandler):
    """A thread makes 20 ms of a tone every 20 ms, by a deadline that it counts up."""

    def __init__(self):
        super().__init__(output_sample_rate=RATE)
        self.pieces = queue.Queue(maxsize=10)
        self.over = threading.Event()
        self.thread = None
        self.made = 0
        self.took = []

    def start_up(self):
        self.thread = threading.Thread(target=self.make)
        self.thread.start()

    def make(self):
        due = time.monotonic()
        while not self.over.is_set():
            self.put(self.piece())
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))

    def piece(self):
        at = self.made + np.arange(RATE // 50)
        self.made += RATE // 50
        return RATE, (8000 * np.sin(2 * np.pi * 220 * at / RATE)).astype(np.int16)

    def put(self, piece):
        if not self.pieces.full():
            self.pieces.put(piece)

    def receive(self, frame):
        pass

    def emit(self):
        try:
            return self.pieces.get(timeout=0.5)
        except queue.Empty:
            return None

    def shutdown(self):
        self.over.set()
        if self.thread is not None:
            self.thread.join()

    def copy(self):
        return type(self)()


class HumsWithAnEvent(Hums):
    """It waits for the end of the call, with a limit, in place of a sleep."""

    def make(self):
        due = time.monotonic()
        while not self.over.wait(max(0.0, due - time.monotonic())):
            self.put(self.piece())
            due += 0.02


class FallsBehind(Hums):
    """The time for the work comes on top of a sleep."""

    def make(self):
        while not self.over.is_set():
            time.sleep(0.001)
            self.put(self.piece())
            time.sleep(0.02)


@pytest.mark.parametrize("sound", [Hums, HumsWithAnEvent])
def test_a_thread_of_its_own_keeps_time(sound):
    """What it sleeps passes in the time of the call, so that what it makes is heard, and its drift is told."""
    assert_told(FallsBehind, "pieces in 8 s came 1.00 ms too late", REAL_TIME, [sound])
    check_of(SERVES)(sound())


@BACKENDS
def test_what_a_thread_makes_is_heard_in_time(backend):
    """As much of it as of the call."""
    handler = Hums()
    with seen_by(handler):
        record = run_call(handler, seconds=4.0, backend=backend)
    assert record.audio_seconds > 3.8
    assert record.handler.made / RATE == pytest.approx(4.0, abs=0.2)


class Fickle(Hums):
    """A thread waits in every way that has a limit, for what never comes."""

    def make(self):
        condition = threading.Condition()
        for wait in (
            lambda: time.sleep(0.3),
            lambda: threading.Event().wait(0.3),
            lambda: condition.wait(0.3),
            lambda: condition.wait_for(lambda: False, 0.3),
        ):
            began = time.monotonic()
            with condition:
                wait()
            self.took.append(round(time.monotonic() - began, 3))


@BACKENDS
def test_all_its_waits_pass_in_the_time_of_the_call(backend):
    handler = Fickle()
    with seen_by(handler):
        record = run_call(handler, seconds=2.0, backend=backend)
    assert record.handler.took == [0.3] * 4


class OutlivesItsCall(Hums):
    """Nobody ends its thread."""

    def make(self):
        while not STOP.is_set():
            time.sleep(0.01)

    def shutdown(self):
        pass


def test_a_thread_that_outlives_its_call_sleeps_really():
    """It does not live in the time of later calls, and is told."""
    handler = OutlivesItsCall()
    try:
        with seen_by(handler):
            threads = set(threading.enumerate())
            for _ in range(2):
                run_call(handler, seconds=1.0, backend="asyncio")
            left = set(threading.enumerate()) - threads
        assert len(left) == 2
        with pytest.raises(AssertionError, match="left threads running"):
            check_of(SERVES)(OutlivesItsCall())
    finally:
        STOP.set()
        for thread in set(threading.enumerate()) - {threading.main_thread()}:
            if "make" in thread.name:
                thread.join()
        STOP.clear()


class PlaysToneByTone(Hums):
    """A tone, and a pause in which it waits for the end of the call; the pause is meant."""

    def start_up(self):
        pass

    def emit(self):
        return None if self.ended.wait_sync(0.6) else voice(0.5)


def test_a_wait_with_a_limit_is_a_pause():
    """If it is longer than the audio, and no work comes on top of it."""
    check_of(REAL_TIME)(PlaysToneByTone())


class SavesForEver(Hums):
    """A timer saves a draft, and begins the next one; the end of the call may come while it saves."""

    ends = False

    def start_up(self):
        self.save_later()

    def save_later(self):
        if not (self.ends and self.over.is_set()) and not STOP.is_set():
            timer = threading.Timer(0.2, self.save)
            timer.start()
            self.thread = timer

    def save(self):
        time.sleep(0.15)
        self.save_later()

    def shutdown(self):
        self.over.set()
        if self.thread is not None:
            self.thread.cancel()
            if self.ends:
                self.thread.join()


class SavesUntilTheEnd(SavesForEver):
    ends = True


def test_a_timer_runs_in_the_time_of_the_call():
    """So that a call ends while it is at work."""
    check_of(TRACES)(SavesUntilTheEnd())
    before = set(threading.enumerate())
    try:
        with pytest.raises(AssertionError, match="left threads running"):
            check_of(TRACES)(SavesForEver())
    finally:
        STOP.set()
        for thread in set(threading.enumerate()) - before:
            if isinstance(thread, threading.Timer):
                thread.join()
        STOP.clear()


# -- locks that are kept while time passes


class KeepsTheLock(rtcflow.StreamHandler):
    """`receive` works with the lock, for longer than `emit` waits in the condition."""

    def __init__(self):
        super().__init__(output_sample_rate=RATE)
        self.changed = threading.Condition()
        self.heard = 0
        self.emitted = 0

    def receive(self, frame):
        with self.changed:
            self.heard += 1
            self.changed.notify()
            time.sleep(0.015)

    def emit(self):
        with self.changed:
            if not self.changed.wait(0.01) and not self.heard:
                return None
            self.emitted += 1
            return voice(0.02)

    def copy(self):
        return KeepsTheLock()


@BACKENDS
def test_time_goes_on_while_a_lock_is_kept(backend):
    """A wait whose limit is over needs the lock again, and whoever has it sleeps in the same time."""
    handler = KeepsTheLock()
    with seen_by(handler):
        began = time.process_time()
        record = run_call(handler, seconds=4.0, backend=backend, patience=30.0)
    assert record.stuck == ()
    assert record.handler.heard > 150
    assert time.process_time() - began < 20.0  # of the processor: time that stands is waited for by looking


# -- what others do


def test_work_of_others_in_a_pool_is_not_waited_for():
    """A job that was begun before the call does not belong to it, however long it takes."""
    over, begun = threading.Event(), threading.Event()

    def job():
        begun.set()
        over.wait(60.0)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(job)
        begun.wait()
        try:
            record = run_call(Hums(), seconds=1.0, patience=20.0)
            assert record.seconds >= 1.0
            assert not over.is_set()
        finally:
            over.set()


class TakesEverything(Hums):
    """A bare ``except`` takes what ends the wait of a thread after the call."""

    def start_up(self):
        pass

    def emit(self):
        while True:
            try:
                return self.pieces.get(timeout=0.5)
            except:  # noqa: E722
                if STOP.is_set():
                    return None

    def shutdown(self):
        pass


class TakesNothing(TakesEverything):
    def emit(self):
        while self.running:
            try:
                return self.pieces.get(timeout=0.5)
            except queue.Empty:
                continue
        return None


def test_a_method_that_does_not_return_is_named():
    """Not by the thread it runs in, and after the first call that shows it."""
    check_of(TRACES)(TakesNothing())
    try:
        with pytest.raises(AssertionError, match=r"TakesEverything\.emit did not return when the call was over"):
            check_handler(TakesEverything())
    finally:
        STOP.set()
        while any(thread.name.startswith("TakesEverything") for thread in threading.enumerate()):
            time.sleep(0.01)  # trio keeps the thread itself
        STOP.clear()


# -- a text between two lines


class ClearsTooLate(rtcflow.StreamHandler):
    """Each text is a button that plays a sound; the event is cleared after the work."""

    early = False

    def __init__(self):
        super().__init__(output_sample_rate=RATE)
        self.buttons = []
        self.pressed = threading.Event()

    def on_message(self, text):
        self.buttons.append(text)
        self.pressed.set()

    def receive(self, frame):
        pass

    def emit(self):
        if not self.pressed.wait(0.2):
            return None
        if self.early:
            self.pressed.clear()
        sounds = [voice(0.1)[1] for _ in self.taken()]
        if not self.early:
            self.pressed.clear()
        return (RATE, np.concatenate(sounds, axis=1)) if sounds else None

    def taken(self):
        taken, self.buttons[:] = list(self.buttons), []
        return taken

    def clear_queue(self):
        self.buttons.clear()
        return super().clear_queue()

    def copy(self):
        return type(self)()


class ClearsInTime(ClearsTooLate):
    early = True


def test_a_text_between_two_lines_is_answered():
    """Without another one that wakes the thread."""
    assert_told(ClearsTooLate, "stays in .buttons until another one comes", ANY_ORDER, [ClearsInTime])


def test_nothing_of_it_is_seen_without_a_check():
    """Outside of checks a thread of the handler's own sleeps as it always does."""
    began = time.monotonic()
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    thread.join()
    assert time.monotonic() - began >= 0.05
