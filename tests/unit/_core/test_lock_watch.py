"""Who holds the interpreter's lock is named, whatever part of a handler runs in a thread."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import numpy as np
import pytest

import rtcflow
from rtcflow._core import lock_watch
from rtcflow._core.lock_watch import LockWatch, holds_lock
from rtcflow.testing import open_caller

SILENCE = (24000, np.zeros((1, 480), np.int16))


@pytest.mark.parametrize(
    ("late", "theirs", "ours", "guilty"),
    [
        (0.5, 0.5, 0.0, True),
        (0.5, 0.3, 0.1, True),  # a busy machine
        (0.1, 0.1, 0.0, False),  # nobody hears that
        (0.5, 0.5, 0.4, False),  # the loop computed by itself
        (0.5, 0.05, 0.0, False),  # the machine was busy, or stopped
    ],
)
def test_only_the_culprit_is_named(late, theirs, ours, guilty):
    """The thread must have computed while the loop did not."""
    assert holds_lock(late, theirs, ours) is guilty


class FakeTime:
    """Clocks of a loop and of worker threads, by hand; its timers fire when they are told to."""

    def __init__(self):
        self.now, self.who, self.cpu = 0.0, "loop", {"loop": 0.0}
        self.timer, self.cancelled = None, 0

    def perf_counter(self):
        return self.now

    def thread_time(self):
        return self.cpu[self.who]

    def pthread_getcpuclockid(self, _):
        return self.who

    def clock_gettime(self, who):
        return self.cpu[who]

    def repeat(self, seconds, callback):
        self.timer = callback
        return SimpleNamespace(cancel=self.cancel)

    def cancel(self):
        self.timer = None
        self.cancelled += 1

    def start(self, watch, name):
        thread = watch.enter(name)
        self.who, self.cpu[name] = name, 0.0
        thread.begin()
        self.who = "loop"
        return thread

    def end(self, watch, thread):
        self.who = thread.name
        thread.end()
        self.who = "loop"
        watch.leave(thread)


@pytest.fixture
def fake(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(lock_watch, "time", fake)
    return fake


def stall(fake, seconds, **cpu):
    """So many seconds pass in which the loop does not run."""
    fake.now += seconds
    for name, used in cpu.items():
        fake.cpu[name] += used


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if "interpreter's lock" in record.getMessage()]


def test_of_two_threads_the_one_that_computed_is_named_once_a_minute(fake, caplog):
    """The timer fires a second late; the thread that waited meanwhile is innocent."""
    watch = LockWatch(fake.repeat)
    fake.start(watch, "idle")
    fake.start(watch, "hog")
    for wait in (0.2, 0.2, 60.0):
        stall(fake, wait)
        fake.timer()
        stall(fake, 1.2, hog=0.9)
        fake.timer()
    found = warnings(caplog)
    assert len(found) == 2
    assert all("hog held the interpreter's lock for 1.00 s" in text for text in found)


def test_a_function_that_ends_before_the_timer_is_named_too(fake, caplog):
    """It has ended when the loop runs again: its own last reading counts."""
    watch = LockWatch(fake.repeat)
    thread = fake.start(watch, "hog")
    stall(fake, 1.0, hog=1.0)
    fake.end(watch, thread)
    assert "hog held the interpreter's lock for 0.80 s" in warnings(caplog)[0]


def test_without_threads_there_is_no_timer(fake, caplog):
    """It runs while the first thread does, until the last has ended."""
    watch = LockWatch(fake.repeat)
    assert fake.timer is None
    first, second = fake.start(watch, "a"), fake.start(watch, "b")
    fake.end(watch, first)
    assert (fake.timer is not None, fake.cancelled) == (True, 0)
    fake.end(watch, second)
    assert (fake.timer, fake.cancelled) == (None, 1)
    assert warnings(caplog) == []


# -- every part of a handler


class Sync(rtcflow.StreamHandler):
    def copy(self):
        return Sync()

    def receive(self, frame):
        pass

    def emit(self):
        return SILENCE


class Async(rtcflow.AsyncStreamHandler):
    def copy(self):
        return Async()

    async def receive(self, frame):
        await self.run_sync(self.work)

    async def emit(self):
        return SILENCE

    def work(self):
        pass


class Starting(Async):
    def copy(self):
        return Starting()

    async def receive(self, frame):
        pass

    def on_message(self, message):
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("handler", "name"), [(Sync, "Sync."), (Async, "Async.work"), (Starting, "Starting.on_message")]
)
async def test_all_code_in_worker_threads_is_watched(handler, name, monkeypatch, caplog):
    """Methods of sync handlers, `run_sync` of async ones, and plain `on_message`. (Every look finds a culprit here.)"""
    monkeypatch.setattr(lock_watch, "holds_lock", lambda *_: True)
    async with open_caller(handler()) as caller:
        await caller.wait(0.1)
        await caller.play(SILENCE)
        caller.send_message("hello")
        with anyio.fail_after(120):
            while not warnings(caplog):
                await caller.wait(0.05)
    assert name in warnings(caplog)[0]
