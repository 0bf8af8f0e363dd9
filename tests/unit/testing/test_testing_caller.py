"""A call of some lines: what was played arrives, what was sent is recorded with its moment, and blocking is told of."""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import anyio
import anyio.to_thread
import numpy as np
import pytest

import rtcflow
from rtcflow import AdditionalOutputs, CloseStream, EndCause, HandlerError
from rtcflow.testing import (
    HandlerHung,
    LossyLink,
    check_handler,
    find_gaps,
    latency,
    open_caller,
    run_call,
    signals,
    virtual_backend,
)
from rtcflow.testing import caller as caller_module
from rtcflow.testing._workers import A_LOCK, A_THREAD

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])


class Echo(rtcflow.StreamHandler):
    """Sync; blocks in a queue."""

    def __init__(self, block=None):
        super().__init__(input_sample_rate=24000)
        self.block = block
        self.frames = queue.Queue()

    def receive(self, frame):
        self.frames.put(frame)

    def emit(self):
        return self.frames.get() if self.block is None else self.block()

    def copy(self):
        return Echo(self.block)


class AsyncBot(rtcflow.AsyncStreamHandler):
    """Async; speaks once it has its arguments."""

    def __init__(self):
        super().__init__(input_sample_rate=24000)

    async def start_up(self):
        await self.wait_for_args()
        await self.send_message(f"hello {self.latest_args[1]}")

    async def receive(self, frame):
        pass

    async def emit(self):
        await self.args_set.wait()
        await anyio.sleep(1)
        return (24000, signals.tone(0.1)[0]), AdditionalOutputs("spoke")

    async def on_message(self, text):
        await self.send_message(text.upper())

    def copy(self):
        return AsyncBot()


@BACKENDS
def test_a_sync_echo_answers_frame_by_frame(backend):
    """What was played comes back unchanged, each frame 20 ms after the other to the microsecond."""
    said = signals.speech_like(3)
    record = run_call(Echo(), play=said, seconds=4, backend=backend)
    assert record.end.cause is EndCause.PEER_LEFT
    assert latency(record.timeline(), said, 24000) == pytest.approx(0, abs=0.021)
    assert np.array_equal(record.audio[:, : said.shape[1]], said)
    steps = [after.at - before.at for before, after in pairwise(record.heard)]
    assert steps == pytest.approx([0.02] * len(steps), abs=1e-6)


@BACKENDS
def test_a_long_call_is_over_soon(backend):
    """Two minutes of a sync echo, with its threads, take a few seconds, and nothing is lost."""
    real = time.monotonic()
    record = run_call(Echo(), seconds=120, backend=backend)
    assert len(record.heard) == pytest.approx(6000, abs=3)
    assert time.monotonic() - real < 30


@BACKENDS
def test_everything_is_in_the_record(backend):
    """Messages, outputs and audio come with their moments, arguments are posted when they are asked for."""
    record = run_call(AsyncBot(), seconds=2.5, args=["Ada"], send=["shout"], backend=backend)
    assert sorted(record.texts()) == ["SHOUT", "hello Ada"]
    assert [outputs.args for _, outputs in record.outputs] == [("spoke",), ("spoke",)]
    assert [round(at, 2) for at, _ in record.outputs] == [1.0, 2.0]
    assert record.heard[0].at == pytest.approx(1.0, abs=0.001)
    assert record.audio_seconds == pytest.approx(0.2)
    assert len(find_gaps(record.timeline(), 24000, shortest=0.5)) == 2
    assert record.statistics.emitted == 2
    assert record.seconds == pytest.approx(2.5, abs=0.5)


class Ear(rtcflow.AsyncStreamHandler):
    """Keeps what it hears."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.heard = []

    async def receive(self, frame):
        self.heard.append(frame)

    async def emit(self):
        return None

    def copy(self):
        return Ear(self.expected_layout, input_sample_rate=self.input_sample_rate)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("rate", "layout"), [(8000, "mono"), (16000, "stereo"), (44100, "mono"), (48000, "stereo")])
def test_frames_arrive_at_the_handlers_rate(rate, layout, channels):
    """By default a caller sends what the handler is to hear: the samples that the connection would make of it."""
    said = np.repeat(signals.speech_like(0.55), channels, axis=0)
    heard = []
    for options in ({}, {"sample_rate": 24000}):
        record = run_call(Ear(layout, input_sample_rate=rate), play=said, **options)
        heard.append(np.concatenate([samples for _, samples in record.handler.heard], axis=1))
    assert np.array_equal(*heard)
    assert np.abs(heard[0]).max() > 5000


@BACKENDS
def test_of_what_is_cut_short_nothing_comes_later(backend):
    """When playing is cancelled, the caller falls silent at once: what its converter holds is dropped as well."""

    async def main():
        async with open_caller(Ear(input_sample_rate=48000)) as caller:
            with anyio.move_on_after(0.1):
                await caller.play(signals.tone(1.0))
            frames = len(caller.handler.heard)
            await caller.wait(0.1)
            later = caller.handler.heard[frames:]
        assert len(later) >= 4
        assert not any(samples.any() for _, samples in later)

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


@BACKENDS
def test_who_plays_to_a_call_that_is_over_does_not_wait(backend):
    """`play` returns at once when the call has ended before."""

    async def main():
        async with open_caller(Ear()) as caller:
            caller.connection.close("enough")
            await caller.wait_ended()
            await caller.play(signals.tone(1.0))

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


def test_a_call_over_a_bad_link():
    """With a lossy link the handler misses what the link lost, and no more."""
    link = LossyLink(seed=3, loss=0.2)
    record = run_call(Echo(), seconds=10, link=link)
    assert link.statistics.lost > 50
    assert len(record.heard) == pytest.approx(link.statistics.arrived, abs=2)


def test_a_link_forgets_the_call_before():
    """Three calls over the same narrow link hear the same."""
    link = LossyLink(seed=1, loss=0.1, bandwidth=300_000)
    assert len({tuple(heard.at for heard in run_call(Echo(), seconds=5, link=link).heard) for _ in range(3)}) == 1


@pytest.mark.parametrize("link", [LossyLink, 0.1, "bad"])
def test_what_is_no_link_is_refused(link):
    """A class, a number: the error says what to write."""
    with pytest.raises(TypeError, match=r"write link=LossyLink\(loss=0"):
        run_call(Echo(), link=link)


def test_a_telephone_takes_no_texts():
    """What cannot be sent is refused before the call."""
    with pytest.raises(ValueError, match="no data channel"):
        run_call(Echo(), phone=True, send=["hello"])


def test_a_wav_file_is_played(tmp_path):
    """A path is read, and resampled to the caller's rate."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(signals.tone(1, 440, 16000).tobytes())
    record = run_call(Echo(), play=tmp_path / "a.wav")
    assert signals.level(record.audio[:, 2400:21600]) == pytest.approx(-9, abs=0.5)


def test_what_a_handler_raises_is_raised():
    """The handler's own exception comes out of run_call, unless it is asked to catch it."""

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_call(Echo(fail))
    record = run_call(Echo(fail), catch=True)
    assert record.end.cause is EndCause.HANDLER_RAISED
    assert isinstance(record.error, ZeroDivisionError)


def test_a_handler_that_closes_ends_the_call():
    """After CloseStream the call is over, however long it was to last."""
    record = run_call(Echo(lambda: CloseStream("bye")), seconds=60)
    assert record.end.cause is EndCause.HANDLER_CLOSED
    assert record.seconds < 5
    assert any("bye" in text for _, text in record.messages)


@BACKENDS
@pytest.mark.parametrize(
    ("block", "stuck"),
    [
        (lambda over: queue.Queue().get(), None),
        (lambda over: threading.Event().wait(), None),
        (lambda over: over.get(), "waiting"),
    ],
    ids=["queue", "event", "in C"],
)
def test_a_handler_that_blocks_for_ever_is_named(backend, block, stuck):
    """The call ends on time, and says which method was blocked; one that real time shows stuck is in `stuck`."""
    over = queue.SimpleQueue()
    try:
        record = run_call(Echo(lambda: block(over)), seconds=5, backend=backend, patience=0.5)
    finally:
        over.put(None)
    assert record.seconds < 12
    assert [blocked.method for blocked in record.blocked] == ["Echo.emit"]
    assert record.blocked[0].seconds == pytest.approx(5, abs=0.1)
    assert [item.doing for item in record.stuck] == ([] if stuck is None else [stuck])


def take_the_same_lock_again(over):
    with over.lock, over.lock:
        pass


def acquire_the_same_lock_again(over):
    over.lock.acquire()
    over.lock.acquire()


def enter_a_condition_that_another_thread_has(over):
    with threading.Condition(over.lock), over.lock:
        pass


def join_what_waits(over):
    thread = threading.Thread(target=over.event.wait)
    thread.start()
    thread.join()


class Over:
    """What a thread of a test waits for, and how to let it go."""

    def __init__(self):
        self.lock, self.event = threading.Lock(), threading.Event()

    def let_go(self):
        self.event.set()
        for thread in threading.enumerate():
            while thread.name.startswith("Echo") and thread.is_alive():
                with suppress(RuntimeError):
                    self.lock.release()
                thread.join(0.01)


@BACKENDS
@pytest.mark.parametrize(
    ("block", "doing"),
    [
        (take_the_same_lock_again, None),  # nobody else waits: the lock may stand for an event
        (acquire_the_same_lock_again, None),
        (enter_a_condition_that_another_thread_has, None),
        (join_what_waits, A_THREAD),
    ],
    ids=["with", "acquire", "condition", "join"],
)
def test_what_only_another_thread_can_end_takes_no_real_time(backend, block, doing):
    """Virtual time goes on at full speed, although real time would be waited for hours, and the method is named."""
    over = Over()
    try:
        record = run_call(Echo(lambda: block(over)), seconds=5, backend=backend, patience=7200)
    finally:
        over.let_go()
    assert [blocked.method for blocked in record.blocked] == ["Echo.emit"]
    assert [(item.method, item.doing) for item in record.stuck] == ([("Echo.emit", doing)] if doing else [])


@BACKENDS
def test_a_lock_that_a_waiting_method_keeps_is_named(backend):
    """Two methods that wait for one another are told after two seconds of the call."""
    lock = threading.Lock()

    class WaitsWithItsLock(Echo):
        def receive(self, frame):
            with lock:
                super().receive(frame)

        def emit(self):
            with lock:
                return super().emit()

        def copy(self):
            return WaitsWithItsLock()

    record = run_call(WaitsWithItsLock(), seconds=5, backend=backend, patience=7200)
    (stuck,) = record.stuck
    assert (stuck.method.rpartition(".")[2], stuck.doing) == ("receive", A_LOCK)
    assert stuck.seconds == pytest.approx(2, abs=0.1)
    assert str(stuck).endswith("receive has been waiting for a lock that another method keeps for 2.0 s")


@BACKENDS
def test_a_lock_that_is_given_back_is_waited_for(backend):
    """A lock that another method has for a while, and a thread that ends, are nothing that is stuck."""
    lock = threading.Lock()

    def emit():
        with lock:
            time.sleep(0.02)
        thread = threading.Thread(target=time.sleep, args=(0.02,))
        thread.start()
        thread.join()
        return 24000, signals.tone(0.02)

    class Shares(Echo):
        def receive(self, frame):
            with lock:
                super().receive(frame)

        def copy(self):
            return Shares(emit)

    record = run_call(Shares(emit), seconds=1, backend=backend)
    assert record.stuck == ()
    assert record.audio_seconds > 0.1


def test_a_thread_that_computes_for_ever_is_named():
    """A method that never returns and uses a processor is named, and time goes on without it."""
    over = threading.Event()

    def compute():
        while not over.is_set():
            pass

    try:
        record = run_call(Echo(compute), seconds=3, patience=0.5)
    finally:
        over.set()
    assert [(item.method, item.doing) for item in record.stuck] == [("Echo.emit", "computing")]


def test_a_thread_that_sleeps_goes_at_real_pace():
    """time.sleep in a worker thread takes its time of the call, about."""

    def nap():
        time.sleep(0.1)

    record = run_call(Echo(nap), seconds=1)
    assert 5 <= record.statistics.transport.audio_in.taken / 50 * 10 <= 60  # the call went on meanwhile
    assert record.stuck == ()


class Hog(rtcflow.AsyncStreamHandler):
    """Does in `emit` what it was made with."""

    def __init__(self, hold):
        super().__init__()
        self.hold = hold

    async def receive(self, frame):
        pass

    async def emit(self):
        hold = self.hold()
        if hold is not None:
            await hold

    def copy(self):
        return Hog(self.hold)


OVER = threading.Event()


def compute():
    while True:
        pass


def wait_in_c():
    waiter = queue.SimpleQueue()
    while not OVER.is_set():
        with suppress(queue.Empty):
            waiter.get(timeout=4)


async def refuse_to_end():
    while not OVER.is_set():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)


@pytest.fixture
def hang_soon(nothing_left_behind, monkeypatch):
    """What hangs is noticed soon; what was left behind ends with the test."""
    monkeypatch.setattr("rtcflow.testing._room.HANG", 0.5)
    monkeypatch.setattr("rtcflow.testing._room.UNWIND", 0.5)
    yield
    OVER.set()
    time.sleep(0.1)
    deadline = time.monotonic() + 6
    while any(thread.name == "rtcflow room" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    OVER.clear()


@BACKENDS
@pytest.mark.parametrize(
    ("hold", "told"),
    [
        (compute, "has held up the event loop"),
        (lambda: queue.Queue().get(), "has held up the event loop"),
        (wait_in_c, "has held up the event loop"),
        (lambda: anyio.to_thread.run_sync(OVER.wait), r"does not end: .* self\.run_sync"),
        (refuse_to_end, "does not end"),
    ],
    ids=["computes", "waits in a queue", "waits in C", "waits for a thread", "refuses to be cancelled"],
)
# The interruption may strike in a callback of the garbage collector (Hypothesis has one): then that is warned of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_hangs_the_call_is_named(backend, hold, told, hang_soon):
    """A method that holds up the loop, or keeps the call from ending, is told with its line, and not waited for."""
    with pytest.raises(HandlerHung, match=rf"Hog\.emit \(.*test_testing_caller\.py:\d+\) {told}"):
        run_call(Hog(hold), seconds=1, backend=backend, patience=0.3)


def test_a_contract_that_hangs_is_broken(hang_soon):
    """check_handler names the method that hangs, and does not try what would hang as well."""
    with pytest.raises(AssertionError, match=r"breaks 1 of \d+ .*\n.*\n.*\n.*it hung: Hog\.emit"):
        check_handler(Hog(wait_in_c))


@BACKENDS
@pytest.mark.parametrize("rate", [2000, 11025])
def test_a_rate_without_whole_frames_is_served(backend, rate):
    """11,025 Hz has no whole number of samples in 20 ms. The caller sends another rate, and rtcflow converts."""
    heard = []

    class Listener(rtcflow.StreamHandler):
        def __init__(self):
            super().__init__(input_sample_rate=rate)

        def receive(self, frame):
            heard.append(frame[0])

        def emit(self):
            time.sleep(0.02)

        def copy(self):
            return Listener()

    assert run_call(Listener(), play=signals.tone(0.5), seconds=1, backend=backend).error is None
    assert set(heard) == {rate}


@BACKENDS
def test_work_of_ones_own_threads_takes_no_time(backend):
    """Virtual time does not run ahead of an executor, or another limiter, that a handler waits for."""

    def work():
        began = time.thread_time()
        while time.thread_time() - began < 0.03:
            pass

    def wait_for_it():
        with ThreadPoolExecutor(1) as executor:
            executor.submit(work).result()
        return 24000, np.zeros((1, 480), np.int16)

    record = run_call(Echo(wait_for_it), seconds=0.1, backend=backend)
    assert len(record.heard) >= 4

    async def elsewhere():
        await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
        moments.append(anyio.current_time())

    moments = []
    run_call(Hog(elsewhere), seconds=0.05, backend=backend)
    assert moments
    assert moments[0] < 0.001


def test_patience_is_ones_own():
    """A method that takes long in real time is waited for as long as was said."""

    def nap():
        time.sleep(0.3)
        return 24000, np.zeros((1, 480), np.int16)

    assert run_call(Echo(nap), seconds=0.5, patience=0.1).stuck
    assert not run_call(Echo(nap), seconds=0.5, patience=5).stuck
    with pytest.raises(ValueError, match="more than 0"):
        run_call(Echo(nap), patience=0)


@pytest.mark.anyio
async def test_in_a_loop_open_caller_is_named(anyio_backend):
    """run_call in an async test says what to write there."""
    with pytest.raises(RuntimeError, match=r"async with open_caller\(handler\)"):
        run_call(Echo())


@BACKENDS
def test_a_caller_in_ones_own_loop_is_watched(backend, monkeypatch):
    """What an async test calls with open_caller is interrupted, where that is possible."""
    monkeypatch.setattr(caller_module, "HANG", 0.5)

    async def main():
        async with open_caller(Hog(compute)) as caller:
            await caller.wait(1)

    name, options = virtual_backend(backend)
    with pytest.raises(HandlerHung, match=r"Hog\.emit"):
        anyio.run(main, backend=name, backend_options=options)


@pytest.mark.anyio
async def test_a_caller_step_by_step(anyio_backend):
    """open_caller plays, waits, interrupts and hangs up, also in real time."""
    async with open_caller(Echo()) as caller:
        await caller.play(signals.tone(0.1))
        assert caller.seconds >= 0.079
        await caller.wait(0.3)
        assert len(caller.heard) >= 2
        with pytest.raises(RuntimeError, match="hang_up"):
            caller.record()
        await caller.hang_up()
        assert caller.record().end.cause is EndCause.PEER_LEFT


@pytest.mark.anyio
async def test_what_the_block_raises_comes_out_bare(anyio_backend):
    """An assertion that fails inside the block is that assertion outside, not a group."""
    with pytest.raises(AssertionError, match="mine"):
        async with open_caller(Echo()):
            raise AssertionError("mine")


@BACKENDS
def test_a_link_that_breaks(backend):
    """break_link ends the call as a broken link, with the cause."""

    async def main():
        async with open_caller(Echo()) as caller:
            await caller.wait(0.5)
            await caller.break_link(OSError("cable"))
        assert caller.record().end.cause is EndCause.LINK_BROKE

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


def test_a_video_handler_sees_and_shows():
    """An audio-video handler gets pictures of a default camera, and what it shows is in the record."""

    class Mirror(rtcflow.AsyncAudioVideoStreamHandler):
        def __init__(self):
            super().__init__(video_format="bgr24")
            self.pictures = []

        async def receive(self, frame):
            pass

        async def emit(self):
            return None

        async def video_receive(self, picture):
            self.pictures.append(picture)

        async def video_emit(self):
            return self.pictures.pop(0) if self.pictures else None

        def copy(self):
            return Mirror()

    record = run_call(Mirror(), seconds=1)
    assert 20 <= len(record.seen) <= 32
    assert record.seen[0][1].width == 64


def test_a_handler_that_is_not_copyable_is_refused():
    """A class, a copy that returns itself: each error says what to write."""

    class Same(Echo):
        def copy(self):
            return self

    with pytest.raises(HandlerError, match=r"Echo\(\)"):
        run_call(Echo)
    with pytest.raises(HandlerError, match=r"return .*Same\("):
        run_call(Same())
    with pytest.raises(ValueError, match="how long"):
        run_call(Echo(), seconds=-1)


class AsksAServer(rtcflow.AsyncStreamHandler):
    """Has a real server answer; this one never does."""

    address = None

    async def start_up(self):
        self.server = await anyio.connect_tcp(*self.address)

    async def receive(self, frame):
        self.answer = await self.server.receive()

    async def emit(self):
        await anyio.sleep_forever()

    async def shutdown(self):
        if hasattr(self, "server"):
            await self.server.aclose()

    def copy(self):
        return AsksAServer()


@BACKENDS
def test_a_real_socket_is_told(backend, monkeypatch):
    """Its answers come too late for virtual time. The text says so, where the silence is seen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(AsksAServer, "address", server.getsockname())
        record = run_call(AsksAServer(), seconds=3, backend=backend)
        told = r"3 s of virtual time passed while it waited for a real socket, to 127\.0\.0\.1:\d+\..* a stub of that"
        assert re.match(told, record.noticed)
        assert record.noticed in repr(record)
        with pytest.raises(AssertionError, match=r"\nnoticed:  .* a real socket, to 127.*\na test to paste"):
            check_handler(AsksAServer(), backends=[backend])
    assert not run_call(Echo(), seconds=3, backend=backend).noticed


@BACKENDS
def test_who_calls_is_known_on_a_telephone(backend):
    """As a carrier tells it; or what the test says."""

    class Greeter(rtcflow.AsyncStreamHandler):
        async def receive(self, frame): ...

        async def emit(self):
            return CloseStream(self.context.custom.get("caller", "nobody"))

        def copy(self):
            return Greeter()

    ann = rtcflow.Context("ann", custom={"caller": "Ann"})
    ends = [run_call(Greeter(), backend=backend, **given).end for given in ({}, {"phone": True}, {"context": ann})]
    assert [end.reason for end in ends] == ["nobody", "+15550100", "Ann"]


@BACKENDS
def test_keys_are_pressed_as_a_dialler_does(backend):
    """Each a quarter of a second after the last, a comma waits one; also where there is no channel for messages."""

    class Menu(rtcflow.AsyncStreamHandler):
        def __init__(self):
            super().__init__()
            self.pressed = []

        async def on_dtmf(self, digit):
            self.pressed.append((round(anyio.current_time() - self.began, 2), digit))

        async def start_up(self):
            self.began = anyio.current_time()

        async def receive(self, frame): ...

        async def emit(self):
            await anyio.sleep_forever()

        def copy(self):
            return Menu()

    async def call():
        async with open_caller(Menu(), phone=True) as caller:
            handler = caller.connection.handler
            with pytest.raises(ValueError, match="no key"):
                await caller.press("1e")
            await caller.wait(0.5)
            handler.began = anyio.current_time()
            await caller.press(",1,2#")
            await caller.wait(0.5)
            return handler.pressed

    name, options = virtual_backend(backend)
    assert anyio.run(call, backend=name, backend_options=options) == [(1.0, "1"), (2.25, "2"), (2.5, "#")]
