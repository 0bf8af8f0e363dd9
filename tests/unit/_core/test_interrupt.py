"""A thread is interrupted in a wait that can take it, and nowhere else; nothing stays locked, and nothing is cut."""

from __future__ import annotations

import concurrent.futures
import io
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType

import pytest

from rtcflow import Event
from rtcflow._core import interrupt as interrupting
from rtcflow._core.interrupt import current_frames, interrupt


class Stop(BaseException):
    """What is raised."""


def call(function: Callable[[], object]) -> object:
    """The boundary: inside of it a thread may be interrupted."""
    return function()


BOUNDARY: CodeType = call.__code__


@contextmanager
def thread_in(function: Callable[[], object]) -> Iterator[tuple[threading.Thread, list[type[BaseException]]]]:
    raised: list[type[BaseException]] = []

    def run() -> None:
        try:
            call(function)
        except BaseException as error:
            raised.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread, raised
    finally:
        thread.join(30)
        assert not thread.is_alive()


def wait_until_parked(thread: threading.Thread, code: CodeType) -> None:
    """Until it is in `code`, and does not move: so it waits there."""
    assert thread.ident is not None
    same, deadline = 0, time.monotonic() + 100
    while same < 5:
        assert time.monotonic() < deadline
        frame = current_frames().get(thread.ident)
        same = same + 1 if frame is not None and frame.f_code is code else 0
        time.sleep(0.002)


WAIT = threading.Condition.wait.__code__
Q: queue.Queue[object] = queue.Queue()


def in_a_try() -> None:
    while True:
        try:
            Q.get()
        except ValueError:
            continue
        finally:
            len("")


def in_a_for() -> None:
    for _ in iter(Q.get, None):
        pass


def in_a_while() -> None:
    while Q.get() is not None:
        pass


def in_a_with() -> None:
    with io.StringIO():
        Q.get()


def in_a_condition() -> None:
    condition = threading.Condition()
    with condition:
        condition.wait()


def full() -> None:
    bounded: queue.Queue[int] = queue.Queue(1)
    bounded.put(1)
    bounded.put(2)


TOLERABLE = [
    Q.get,
    in_a_try,
    in_a_for,
    in_a_while,
    in_a_with,
    in_a_condition,
    full,
    lambda: threading.Event().wait(),
    lambda: threading.Semaphore(0).acquire(),
    lambda: concurrent.futures.Future[None]().result(),
]


@pytest.mark.parametrize("function", TOLERABLE)
def test_a_wait_without_a_timeout_is_ended(function):
    """The thread is freed, and what it waited for works as before."""
    with thread_in(function) as (thread, raised):
        wait_until_parked(thread, WAIT)
        assert interrupt(thread.ident, BOUNDARY, Stop)
    assert raised == [Stop]
    assert not Q.mutex.locked()
    assert not Q.not_empty._waiters
    Q.put(1)
    assert Q.get_nowait() == 1


def test_a_wait_of_our_own_is_ended():
    """`Event.wait_sync` raises by itself."""
    event = Event()
    with thread_in(event.wait_sync) as (thread, raised):
        while not event._lot.waiters:
            time.sleep(0.001)
        while not interrupt(thread.ident, BOUNDARY, Stop):
            time.sleep(0.001)
    assert raised == [Stop]
    event.set()
    assert event.wait_sync(0)


def in_finally(mine: queue.Queue[None]) -> None:
    try:
        len("")
    finally:
        mine.get()


def in_finally_with_an_exception(mine: queue.Queue[None]) -> None:
    try:
        raise ValueError
    finally:
        for _ in iter(mine.get, None):
            pass


def in_except(mine: queue.Queue[None]) -> None:
    try:
        raise ValueError
    except ValueError:
        mine.get()


def called_in_finally(mine: queue.Queue[None]) -> None:
    try:
        len("")
    finally:
        deeper(mine)


def deeper(mine: queue.Queue[None]) -> None:
    mine.get()


class Closing:
    def __init__(self, mine: queue.Queue[None]) -> None:
        self.mine = mine

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.mine.get()


def in_exit(mine: queue.Queue[None]) -> None:
    with Closing(mine):
        pass


def timed(mine: queue.Queue[None]) -> None:
    mine.get(timeout=60)


@pytest.mark.parametrize(
    "function", [in_finally, in_finally_with_an_exception, in_except, called_in_finally, in_exit, timed]
)
def test_other_waits_are_left_alone(function):
    """In a `finally`, an `except`, an `__exit__`, or with a timeout: it is not interrupted, and goes on."""
    mine: queue.Queue[None] = queue.Queue()
    with thread_in(lambda: function(mine)) as (thread, raised):
        wait_until_parked(thread, WAIT)
        assert not any(interrupt(thread.ident, BOUNDARY, Stop) for _ in range(20))
        mine.put(None)
    assert Stop not in raised


def test_running_threads_and_waits_in_c_are_left_alone():
    """A thread that computes, sleeps, or waits for a lock, is never interrupted."""
    done, lock = False, threading.Lock()
    lock.acquire()

    def computes() -> None:
        while not done:
            lock.locked()

    with thread_in(computes) as (one, raised), thread_in(lock.acquire) as (two, also), thread_in(sleeps) as (three, _):
        for _ in range(200):
            assert not any(interrupt(thread.ident, BOUNDARY, Stop) for thread in (one, two, three))
        done = True
        lock.release()
    assert not raised
    assert not also


def sleeps() -> None:
    time.sleep(0.2)


def test_a_thread_outside_of_a_call_is_left_alone():
    """It serves others by then."""
    mine: queue.Queue[None] = queue.Queue()
    thread = threading.Thread(target=mine.get)
    thread.start()
    wait_until_parked(thread, WAIT)
    assert not interrupt(thread.ident, BOUNDARY, Stop)
    mine.put(None)
    thread.join()


def test_a_lock_that_somebody_holds_is_not_waited_for():
    """While the queue's lock is taken nobody is interrupted, and the loop that asks is not held up."""
    mine: queue.Queue[None] = queue.Queue()
    with thread_in(mine.get) as (thread, raised):
        wait_until_parked(thread, WAIT)
        with mine.mutex:
            assert not interrupt(thread.ident, BOUNDARY, Stop)
        assert interrupt(thread.ident, BOUNDARY, Stop)
    assert raised == [Stop]


def test_one_that_was_notified_is_left_alone():
    """It gets its item, and no other waits in vain for the notification."""
    for _ in range(200):
        mine: queue.Queue[int] = queue.Queue()
        got: list[int] = []
        with thread_in(lambda mine=mine, got=got: got.append(mine.get())) as (thread, raised):
            wait = 0
            while thread.ident is None or not mine.not_empty._waiters:
                wait += 1
            mine.put(1)
            interrupt(thread.ident, BOUNDARY, Stop)
        assert got == [1]
        assert raised == []


def test_condition_wait_is_as_it_is_known():
    """Where this fails, a new Python has a new `Condition.wait`: nothing is interrupted until somebody looks."""
    assert interrupting._waits()


# -- stress: whatever the moment, nothing stays locked and nothing is cut


class Shared:
    """What all threads of one stress test use, and a journal of whether any of their steps was cut short."""

    def __init__(self, tmp_path) -> None:
        self.lock, self.rlock, self.condition = threading.Lock(), threading.RLock(), threading.Condition()
        self.queue: queue.Queue[int] = queue.Queue()
        self.small: queue.Queue[int] = queue.Queue(2)
        self.simple: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.log = logging.getLogger("rtcflow.test_interrupt")
        self.file = (tmp_path / "lines").open("a", encoding="utf-8")
        self.begun = self.ended = self.stopped = 0
        self.taken = self.given = 0

    def step(self, work: Callable[[Shared], None]) -> None:
        with COUNT:
            self.begun += 1
        try:
            work(self)
        except Stop:
            with COUNT:
                self.stopped += 1
            raise
        with COUNT:
            self.ended += 1


COUNT = threading.Lock()


def with_lock(shared: Shared) -> None:
    with shared.lock:
        sum(range(50))


def acquire_try_finally(shared: Shared) -> None:
    shared.lock.acquire()
    try:
        sum(range(50))
    finally:
        shared.lock.release()


def rlock(shared: Shared) -> None:
    with shared.rlock, shared.rlock:
        sum(range(50))


def condition(shared: Shared) -> None:
    with shared.condition:
        shared.condition.wait(0.0001)
        shared.condition.notify_all()


def nowait(shared: Shared) -> None:
    shared.queue.put_nowait(1)
    shared.queue.get_nowait()


def blocking(shared: Shared) -> None:
    """Two sides meet in a queue of two places; both wait for ever if they are alone."""
    if threading.get_ident() % 2:
        shared.small.put(1)
        with COUNT:
            shared.given += 1
    else:
        shared.small.get()
        with COUNT:
            shared.taken += 1


def simple_queue(shared: Shared) -> None:
    shared.simple.put(1)
    shared.simple.get()


def logs(shared: Shared) -> None:
    shared.log.warning("a line of some length")


def writes(shared: Shared) -> None:
    with shared.lock:
        shared.file.write("begin ")
        shared.file.write("end\n")


STEPS = [with_lock, acquire_try_finally, rlock, condition, nowait, blocking, simple_queue, logs, writes]


def stress(work: Callable[[Shared], None], ends: int, tmp_path) -> None:
    shared = Shared(tmp_path)
    handler = logging.StreamHandler(io.StringIO())
    shared.log.addHandler(handler)
    shared.log.propagate = False
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)  # threads change as often as they can
    try:
        left = ends
        while left > 0:
            left -= 8
            together(shared, work)
    finally:
        sys.setswitchinterval(before)
        shared.log.removeHandler(handler)
        shared.file.close()
    assert shared.begun == shared.ended + shared.stopped, "a step was cut"
    if work is not blocking:
        assert not shared.stopped, "a step that waits for nothing was cut"
    assert shared.lock.acquire(blocking=False)
    assert shared.rlock.acquire(blocking=False)
    assert shared.condition.acquire(blocking=False)
    assert not shared.queue.mutex.locked()
    assert shared.queue.empty()
    assert not shared.small.mutex.locked()
    assert shared.small.qsize() == shared.given - shared.taken
    assert not shared.small.not_empty._waiters
    assert not shared.small.not_full._waiters
    assert handler.lock is not None
    assert handler.lock.acquire(blocking=False)
    lines = (tmp_path / "lines").read_text("utf-8").splitlines()
    assert set(lines) <= {"begin end"}


def together(shared: Shared, work: Callable[[Shared], None]) -> None:
    """Eight ends at once: each thread works, then waits for ever, and is interrupted whenever it may be."""
    ends: list[type[BaseException]] = []

    def handler() -> None:
        for _ in range(10):
            shared.step(work)
        queue.Queue[None]().get()

    def run() -> None:
        try:
            call(handler)
        except BaseException as error:
            ends.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    alive = threads
    deadline = time.monotonic() + 100
    while alive:
        assert time.monotonic() < deadline
        for thread in alive:
            interrupt(thread.ident or 0, BOUNDARY, Stop)
        alive = [thread for thread in alive if thread.is_alive()]
    for thread in threads:
        thread.join()
    assert ends == [Stop] * 8


@pytest.mark.parametrize("work", STEPS)
def test_nothing_stays_locked_and_nothing_is_cut(work, tmp_path):
    """At 80 ends."""
    stress(work, 80, tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("work", STEPS)
def test_nothing_stays_locked_and_nothing_is_cut_at_2000_ends(work, tmp_path):
    """At 2,000."""
    stress(work, 2000, tmp_path)
