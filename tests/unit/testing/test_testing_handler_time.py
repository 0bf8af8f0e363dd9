"""What handlers see of time while they are checked: clocks, sleeps and timeouts are those of the call."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Queue

import pytest

import rtcflow
from rtcflow.testing import HandlerLifecycle, run_call, signals
from rtcflow.testing._handler_time import seen_by

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class Measuring(rtcflow.StreamHandler):
    """Notes what each step of `wait` took, on its own clock and on the call's."""

    def __init__(self, wait):
        super().__init__()
        self.wait = wait
        self.frames, self.never = Queue(), threading.Event()
        self.condition, self.speech = threading.Condition(), threading.Condition()
        self.unset, self.came = rtcflow.Event(), rtcflow.Event()
        self.took = []

    def receive(self, frame):
        self.frames.put(frame)
        self.came.set()
        with self.speech:
            self.speech.notify()

    def emit(self):
        began, call_began = time.monotonic(), self.loop.time()
        self.wait(self)
        self.took.append((round(time.monotonic() - began, 3), round(self.loop.time() - call_began, 3)))
        return 24000, signals.tone(0.02)

    def copy(self):
        return Measuring(self.wait)


def get_from_nobody(handler):
    with pytest.raises(queue.Empty):
        queue.Queue().get(timeout=0.5)


def put_into_what_is_full(handler):
    full = queue.Queue(1)
    full.put(1, timeout=3)
    with pytest.raises(queue.Full):
        full.put(2, timeout=0.5)


def wait_for_what_never_comes(handler):
    assert not handler.never.wait(0.5)


def wait_for_what_nobody_notifies(handler):
    with handler.condition:
        assert not handler.condition.wait(0.5)


def wait_for_what_never_holds(handler):
    with handler.condition:
        assert not handler.condition.wait_for(lambda: False, 0.5)


def wait_for_what_is_never_set(handler):
    assert not handler.unset.wait_sync(0.5)


@BACKENDS
@pytest.mark.parametrize(
    "wait",
    [
        lambda _: time.sleep(0.5),
        get_from_nobody,
        put_into_what_is_full,
        wait_for_what_never_comes,
        wait_for_what_nobody_notifies,
        wait_for_what_never_holds,
        wait_for_what_is_never_set,
    ],
    ids=["sleep", "get", "put", "threading.Event", "threading.Condition", "wait_for", "rtcflow.Event"],
)
def test_waits_take_a_moment(wait, backend):
    """A handler that waits for half a second does so in the time of the call, whatever it waits with."""
    handler, began = Measuring(wait), time.monotonic()
    with seen_by(handler):
        record = run_call(handler, seconds=10.2, backend=backend)
    assert time.monotonic() - began < 8, "in real time it takes more than ten"
    took = record.handler.took
    assert len(took) in {20, 21}
    assert {round(call, 2) for _, call in took} == {0.5}
    assert {round(own, 2) for own, _ in took} == {0.5}


def get_the_next_frame(handler):
    handler.frames.get(timeout=10)


def wait_for_the_next_frame(handler):
    assert handler.came.wait_sync(10)
    handler.came.clear()


def wait_for_a_notice(handler):
    with handler.speech:
        assert handler.speech.wait(10)


@BACKENDS
@pytest.mark.parametrize(
    "wait",
    [get_the_next_frame, wait_for_the_next_frame, wait_for_a_notice],
    ids=["get", "rtcflow.Event", "threading.Condition"],
)
def test_what_comes_in_time_is_got_at_once(wait, backend):
    """A timeout that is not needed makes nothing late."""
    handler = Measuring(wait)
    with seen_by(handler):
        record = run_call(handler, seconds=1.0, backend=backend)
    took = record.handler.took
    assert 48 <= len(took) <= 51
    assert all(call <= 0.0201 for _, call in took)


@BACKENDS
def test_a_wait_that_goes_on_for_long_ends_with_the_call(backend):
    """The end of the call interrupts a wait with a timeout as it interrupts one without."""
    seconds = []
    for timeout in (60, None):
        handler = Measuring(lambda handler, timeout=timeout: handler.unset.wait_sync(timeout))
        with seen_by(handler):
            seconds.append(run_call(handler, seconds=1.0, backend=backend).seconds)
    assert seconds[0] == pytest.approx(seconds[1])
    assert seconds[0] < 3


@BACKENDS
@pytest.mark.parametrize("wait", ["rtcflow.Event", "threading.Event", "threading.Condition", "get", "sleep"])
def test_what_is_left_until_a_deadline_is_waited_for(wait, backend):
    """However little that is, time passes: a loop that looks at the clock again comes to its end."""

    def wait_for(handler, left):
        match wait:
            case "rtcflow.Event":
                handler.unset.wait_sync(left)
            case "threading.Event":
                handler.never.wait(left)
            case "threading.Condition":
                with handler.condition:
                    handler.condition.wait(left)
            case "get":
                with suppress(queue.Empty):
                    queue.Queue().get(timeout=left)
            case "sleep":
                time.sleep(left)

    def until_due(handler):
        handler.due = getattr(handler, "due", time.monotonic()) + 0.1
        while (left := handler.due - time.monotonic()) > 0:
            wait_for(handler, min(left, 1e-12 if left < 1e-5 else left - 5e-6))

    handler = Measuring(until_due)
    with seen_by(handler):
        record = run_call(handler, seconds=1.05, backend=backend)
    assert 9 <= len(record.handler.took) <= 11


def test_a_calendar_shows_the_time_of_the_call():
    """`datetime.now()` goes on as `time.time()` does; what it gives is an ordinary datetime."""
    real = datetime
    with seen_by(Measuring(lambda _: None)) as shown:
        moments = [datetime.now(), datetime.now(UTC), datetime.today()]
        shown.skip(3600)
        assert datetime.now() - moments[0] >= timedelta(hours=1)
        assert datetime.now(UTC) - moments[1] >= timedelta(hours=1)
        assert datetime.now().timestamp() == pytest.approx(time.time(), abs=1)
        assert type(moments[0]) is real
        assert isinstance(moments[0], datetime)
        assert datetime(2026, 1, 2, tzinfo=UTC).isoformat() == "2026-01-02T00:00:00+00:00"
    assert datetime is real


def test_time_is_given_back():
    """After the block the names are the system's again, and its clock never goes back."""
    real = time, queue.Queue, threading.Event, Queue
    handler = Measuring(lambda _: time.sleep(1))
    with seen_by(handler) as shown:
        moments = [time.time(), time.monotonic()]
        shown.skip(3600)
        assert time.monotonic() - moments[1] >= 3600 - 1e-6
        assert time.time() - moments[0] >= 3600 - 1e-6
        run_call(handler, seconds=2)
        assert time.monotonic() - moments[1] >= 3602 - 1e-6
        assert time.strftime
        assert threading.current_thread()
    assert (time, queue.Queue, threading.Event, Queue) == real


def test_a_machine_shows_it_too():
    """`HandlerLifecycle` lets a handler see the time of its stories."""

    class Life(HandlerLifecycle):
        def make_handler(self):
            return Measuring(lambda _: time.sleep(0.5))

    state = Life()
    state.the_first_call_begins()
    state.time_passes(seconds=6.0)
    assert len(state.handler.took) in {11, 12}
    state.teardown()
    assert not hasattr(time, "skip")
