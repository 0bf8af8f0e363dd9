"""The nurseries of a connection: what lives in which, what ends with which, and what nothing can hold up."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from contextlib import asynccontextmanager, suppress

import anyio
import numpy as np
import pytest

from rtcflow import Stream
from rtcflow._core.bridge import Event
from rtcflow._core.nursery import EVERY, TURNS, Nursery
from rtcflow.abc import MediaOffer
from rtcflow.connection import Connection
from rtcflow.ends import EndCause, Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncAudioVideoStreamHandler, AsyncStreamHandler, AudioVideoStreamHandler
from rtcflow.protocol import messages
from rtcflow.serving.session import CallRequest
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

VIDEO = MediaOffer(receive_video=True, send_video=True)
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
FRAME = AudioFrame(np.ones((1, 960), np.int16), 48000, 0)
PICTURE = np.zeros((16, 16, 3), np.uint8)


class Mirror(AsyncAudioVideoStreamHandler):
    """Notes which of its methods run, and how often they were begun and ended."""

    def __init__(self):
        super().__init__(output_sample_rate=48000, fps=100)
        self.calls = dict.fromkeys(("receive", "emit", "video_receive", "video_emit"), 0)
        self.start_up_runs = self.task_runs = False
        self.changed = Event()

    def note(self, method):
        self.calls[method] += 1
        self.changed.set()

    async def called(self, *methods):
        """Wait until each of these methods is called once more."""
        wanted = {method: self.calls[method] + 1 for method in methods}
        while any(self.calls[method] < count for method, count in wanted.items()):
            self.changed.clear()
            await self.changed.wait()

    async def start_up(self):
        self.loop.create_task(self.work())
        self.start_up_runs = True
        try:
            await anyio.sleep_forever()
        finally:
            self.start_up_runs = False

    async def work(self):
        self.task_runs = True
        try:
            await anyio.sleep_forever()
        finally:
            self.task_runs = False

    async def receive(self, frame):
        self.note("receive")

    async def emit(self):
        await anyio.sleep(0.005)
        self.note("emit")
        return 48000, np.zeros((1, 240), np.int16)

    async def video_receive(self, frame):
        self.note("video_receive")

    async def video_emit(self):
        self.note("video_emit")
        return PICTURE

    def copy(self):
        return type(self)()


class SyncMirror(AudioVideoStreamHandler):
    """The same with worker threads."""

    def __init__(self):
        super().__init__(output_sample_rate=48000, fps=100)
        self.calls = dict.fromkeys(("receive", "emit", "video_receive", "video_emit"), 0)
        self.start_up_runs = self.task_runs = False
        self.changed = Event()

    note = Mirror.note
    called = Mirror.called
    work = Mirror.work

    def start_up(self):
        self.loop.create_task(self.work())
        self.start_up_runs = True
        ended = threading.Event()
        while self.loop.is_running() and not self.ending:
            ended.wait(0.005)
        self.start_up_runs = False

    ending = False

    def receive(self, frame):
        self.note("receive")

    def emit(self):
        time.sleep(0.005)
        self.note("emit")
        return 48000, np.zeros((1, 240), np.int16)

    def video_receive(self, frame):
        self.note("video_receive")

    def video_emit(self):
        self.note("video_emit")
        return PICTURE

    def shutdown(self):
        self.ending = True

    def copy(self):
        return type(self)()


@asynccontextmanager
async def call(handler, *, offer=VIDEO, timeouts=QUICK, **options):
    """A running connection, and the caller's end of it, which sends audio and pictures all the time."""
    async with memory_pair(offer) as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=timeouts, **options)

        async def send():
            while not theirs._link.ended.is_set():
                theirs.audio_out.put(FRAME)
                theirs.video_out.put_nowait(_picture())
                await anyio.sleep(0.01)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                if offer is not None:
                    tasks.start_soon(send)
                yield connection, theirs
                tasks.cancel_scope.cancel()


def _picture():
    import av

    return av.VideoFrame.from_ndarray(PICTURE, format="bgr24")


OTHERS = {
    "receive": ("emit", "video_receive", "video_emit"),
    "emit": ("receive", "video_receive", "video_emit"),
    "video": ("receive", "emit"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("handler", [Mirror, SyncMirror])
async def test_one_nursery_is_ended_and_begun_again_while_the_rest_goes_on(handler, name):
    """The other two, start_up and the handler's own tasks do not notice."""
    handler = handler()
    async with call(handler) as (connection, _):
        await handler.called(*handler.calls)
        await connection.end_media(name)
        await anyio.sleep(0.05)  # a thread's call that was under way has returned by then
        mine = [method for method in handler.calls if method not in OTHERS[name]]
        before = [handler.calls[method] for method in mine]
        for _ in range(3):
            await handler.called(*OTHERS[name])
        assert [handler.calls[method] for method in mine] == before, "nothing of the ended nursery is called"
        assert (handler.start_up_runs, handler.task_runs) == (True, True)
        assert connection.end is None
        connection.begin_media()
        await handler.called(*handler.calls)
        assert (handler.start_up_runs, handler.task_runs) == (True, True)


async def test_all_media_ends_and_begins_anew_on_another_transport():
    """A call goes on over another transport: nothing of the handler but its media notices."""
    handler = Mirror()
    async with call(handler) as (connection, _), memory_pair(VIDEO) as (ours, theirs):
        await handler.called("receive", "emit")
        first = connection.transport
        await connection.end_media()
        await first.aclose()
        await anyio.sleep(0.02)
        assert connection.end is None, "nobody watches the old transport any more"
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection.begin_media(ours)
        theirs.audio_out.put(FRAME)
        await handler.called("receive", "emit", "video_emit")
        await theirs.audio_in.take()
        theirs.send_message_nowait("hello")
        assert (handler.start_up_runs, handler.task_runs) == (True, True)
        await theirs.aclose()
        assert (await connection.wait_ended()).cause is EndCause.PEER_LEFT


async def test_the_one_loop_waits_for_the_call_that_the_last_one_left():
    """No method is called twice at once, not even when its nursery is begun again while a thread is in it."""
    enter, leave = queue.Queue(), queue.Queue()

    class Slow(SyncMirror):
        inside = most = 0

        def emit(self):
            self.inside += 1
            self.most = max(self.most, self.inside)
            enter.put(None)
            leave.get()
            self.inside -= 1
            return 48000, np.ones((1, 240), np.int16)

    handler = Slow()
    async with call(handler) as (connection, theirs):
        await anyio.to_thread.run_sync(enter.get)
        await connection.end_media("emit")
        connection.begin_media()
        await anyio.sleep(0.05)
        assert enter.empty()
        leave.put(None)  # the old loop's call returns; what it returned is dropped
        await anyio.to_thread.run_sync(enter.get)
        assert handler.most == 1
        assert connection.statistics().emitted == 0
        for _ in range(3):
            leave.put(None)
        heard = await theirs.audio_in.take()
        assert heard.samples.max() == 1
        leave.put(None)
        await theirs.aclose()
        leave.put(None)


async def test_a_nursery_of_no_name_is_an_error_that_names_the_three():
    """A typing error is told, and nothing is disturbed."""
    async with call(Mirror()) as (connection, _):
        await anyio.sleep(0.02)
        with pytest.raises(RuntimeError, match="no nursery 'audio'; expected one of receive, emit, video"):
            await connection.end_media("audio")


def _names():
    """The names of all tasks, with the names of those above each; on trio."""
    import trio

    def walk(task, above):
        yield task.name, above
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from walk(child, [*above, task.name])

    return dict(walk(trio.lowlevel.current_root_task(), []))


@pytest.mark.parametrize("offer", [MediaOffer(), VIDEO], ids=["audio", "video"])
async def test_tasks_have_the_names_of_what_they_do(offer, anyio_backend_name):
    """Each nursery and each loop is seen in the task tree by method, handler and call; only those that are used."""
    handler = Mirror()
    async with call(handler, offer=offer, name="call-1") as (connection, _):
        await handler.called("receive", "emit")
        names = [task.name for task in anyio.get_running_tasks()]
        assert connection._call.is_open
        expected = ["call call-1", "receive of call-1", "emit of call-1", "link of call-1"]
        expected += [f"Mirror.{method} call-1" for method in ("receive", "emit", "start_up", "on_message")]
        video = ["video of call-1", "Mirror.video_receive call-1", "Mirror.video_emit call-1"]
        assert set(expected) <= set(names)
        assert (set(video) <= set(names)) is offer.receive_video, "an audio call has no nursery for video"
        assert ("video of call-1" in names) is offer.receive_video
        if anyio_backend_name == "trio":
            tree = _names()
            assert tree["Mirror.emit call-1"][-2:] == ["call call-1", "emit of call-1"]
            assert tree["Mirror.receive call-1"][-2:] == ["call call-1", "receive of call-1"]
            assert tree["Mirror.on_message call-1"][-2:] == ["call call-1", "link of call-1"]
            assert tree["Mirror.start_up call-1"][-1] == "call call-1"
            if offer.receive_video:
                assert tree["Mirror.video_emit call-1"][-2:] == ["call call-1", "video of call-1"]


async def test_a_late_track_starts_in_its_nursery(anyio_backend_name):
    """Media that the peer adds begins beside what runs: in the nursery of its kind, not in a place of its own."""
    handler = Mirror()
    async with call(handler, offer=MediaOffer(), name="call-1") as (connection, _):
        await handler.called("receive", "emit")
        connection.transport.offer = VIDEO
        connection.begin_media()
        await handler.called("video_receive", "video_emit", "receive")
        if anyio_backend_name == "trio":
            assert _names()["Mirror.video_emit call-1"][-1] == "video of call-1"


# -- nothing holds up the end


class Stubborn(AsyncStreamHandler):
    """One of its methods does not let itself be cancelled for `seconds`."""

    def __init__(self, where="receive", how="shield", seconds=40.0):
        super().__init__()
        self.where, self.how, self.seconds = where, how, seconds
        self.began = Event()

    def copy(self):
        return Stubborn(self.where, self.how, self.seconds)

    async def refuse(self, where):
        if where != self.where:
            await anyio.sleep_forever()
        self.began.set()
        until = anyio.current_time() + self.seconds
        if self.how == "shield":
            with anyio.CancelScope(shield=True):
                await anyio.sleep_until(until)
            return
        while anyio.current_time() < until:
            with suppress(BaseException):
                await anyio.sleep_until(until)

    async def receive(self, frame):
        await self.refuse("receive")

    async def emit(self):
        await self.refuse("emit")

    async def start_up(self):
        self.loop.create_task(self.refuse("a task"), name="a task")
        await self.refuse("start_up")

    async def on_message(self, message):
        await self.refuse("on_message")

    async def shutdown(self):
        if self.where == "shutdown":
            await self.refuse("shutdown")


@pytest.mark.parametrize("where", ["receive", "emit", "start_up", "on_message", "a task", "shutdown"])
@pytest.mark.parametrize("how", ["shield", "swallow"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_method_that_refuses_to_be_cancelled_does_not_hold_up_the_end(backend, how, where, caplog):
    """After `Timeouts.close` all is closed, the slot is free, and the log names who is left; that one ends later.

    Meanwhile the loop rests. A task that were cancelled at each step would keep it busy, and virtual time could not
    jump: this test would take 40 s, more than pytest lets it.
    """
    seconds, limit = 40.0, 6.0

    async def main():
        stream = Stream(Stubborn(where, how, seconds), timeouts=Timeouts(close=limit))
        async with stream.running(), memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            theirs.audio_out.put(FRAME)
            theirs.send_message_nowait("hello")
            async with stream.calls.admit(CallRequest(), "memory") as session:
                stream.calls.start(session, ours)
            if where == "shutdown":
                await anyio.sleep(1)
            else:
                await session.handler.began.wait()
            begun = anyio.current_time()
            session.close()
            await session.connection.wait_ended()
            closed = anyio.current_time() - begun
            await anyio.sleep(0.001)
            assert len(stream.calls) == 0
            with anyio.fail_after(0.5):
                await theirs.wait_ended()
            assert session.connection.statistics().tasks_abandoned == 1
            async with stream.calls.admit(CallRequest(), "memory") as another:  # the slot is anybody's
                another.handler.where = "nothing"
        return closed, anyio.current_time() - begun

    name, options = virtual_backend(backend)
    with caplog.at_level(logging.ERROR):
        closed, over = anyio.run(main, backend=name, backend_options=options)
    assert closed <= limit
    assert seconds - 2 < over < seconds + 2, "the stream's own block waits for what is left in it"
    named = "a task" if where == "a task" else f"Stubborn.{where}"
    assert any(record.getMessage().startswith(f"{named}") for record in caplog.records)
    assert "did not end with its connection" in caplog.text


@pytest.mark.parametrize("how", ["shield", "swallow"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_that_is_refused_gives_its_slot_back_in_time(backend, how, caplog):
    """A handler that was copied, never served, and refuses to be shut down."""

    async def main():
        stream = Stream(Stubborn("shutdown", how))
        async with stream.running():
            begun = anyio.current_time()
            with pytest.raises(KeyError):
                async with stream.calls.admit(CallRequest(), "memory"):
                    raise KeyError("the transport could not be opened")
            assert len(stream.calls) == 0
            return anyio.current_time() - begun

    name, options = virtual_backend(backend)
    assert anyio.run(main, backend=name, backend_options=options) <= 6.0
    assert "Stubborn.shutdown did not end" in caplog.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_shield_of_two_seconds_is_waited_for(backend):
    """What ends within half of `Timeouts.close` ends before `shutdown` is called, as a shield promises."""
    events = []

    class Handler(Stubborn):
        async def refuse(self, where):
            await super().refuse(where)
            events.append(where)

        async def shutdown(self):
            events.append("shutdown")

    async def main():
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            handler = Handler("start_up", "shield", 2.0)
            connection = Connection(ours, handler)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                await handler.began.wait()
                connection.close()
        assert connection.statistics().tasks_abandoned == 0

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert events == ["start_up", "shutdown"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_swallows_its_cancellation_costs_the_others_little(backend):
    """It is cancelled now and then only. A scope would cancel it at each step, and the loop would do nothing else."""
    steps = 0

    async def swallow():
        nonlocal steps
        until = anyio.current_time() + 100
        while anyio.current_time() < until:
            with suppress(BaseException):
                await anyio.sleep(100)
            steps += 1

    async def failed(error):
        raise AssertionError from error

    async def main():
        async with anyio.create_task_group() as tasks:
            nursery = Nursery(failed)
            tasks.start_soon(nursery.run, lambda: nursery.start_soon(swallow))
            await anyio.sleep(0.01)
            assert not await nursery.wind_up(10)
            first = steps
            assert first < TURNS + 10 / EVERY + 10
            assert not await nursery.wind_up(10)
            assert steps < 2 * first + 5
            assert await nursery.wind_up(200)

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert 100 / EVERY / 2 < steps < 3 * TURNS + 100 / EVERY + 30


async def test_ending_a_nursery_before_it_has_begun():
    """Whoever ends it first sees nothing run."""
    ran = []

    async def failed(error):
        raise AssertionError from error

    async with anyio.create_task_group() as tasks:
        nursery = Nursery(failed)
        with pytest.raises(RuntimeError, match="not open"):
            nursery.start_soon(anyio.sleep, 0)
        tasks.start_soon(nursery.run, lambda: ran.append(True))
        assert await nursery.wind_up(1)
    assert not ran


# -- who is told of what, and when


@pytest.mark.slow
async def test_a_blocked_loop_does_not_make_the_peers_end_a_failure():
    """The peer leaves while start_up blocks the loop for longer than any grace: the end is the peer's."""

    class Blocks(AsyncStreamHandler):
        async def receive(self, frame):
            pass

        async def emit(self):
            await anyio.sleep_forever()

        async def start_up(self):
            self.left = Event()
            await self.left.wait()
            time.sleep(1.5)
            raise anyio.ClosedResourceError

        def copy(self):
            return Blocks()

    handler = Blocks()
    errors = []
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=QUICK)

        async def run():
            try:
                await connection.run()
            except Exception as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.sleep(0.05)
            threading.Timer(0.2, ours._link.end).start()  # word of it comes while the loop is blocked
            handler.left.set()
            await connection.wait_ended()
    assert connection.end.cause is EndCause.PEER_LEFT
    assert not errors


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_word_of_the_peers_end_may_come_late(backend, seconds):
    """The queue ends first, and the transport says so a while later: no fault of anybody."""

    async def main():
        handler = Stubborn("nothing")
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            connection = Connection(ours, handler)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                await anyio.sleep(0.05)
                ours.audio_in.end()
                await anyio.sleep(seconds)
                await theirs.aclose()
        return connection.end.cause

    name, options = virtual_backend(backend)
    assert anyio.run(main, backend=name, backend_options=options) is EndCause.PEER_LEFT


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_start_up_has_begun_before_anything_else_is_called(kind):
    """What start_up sets in its first lines is there in on_message, on_dtmf, receive and emit."""
    seen = []

    class Handler(AsyncStreamHandler if kind == "async" else SyncMirror):
        if kind == "async":

            async def start_up(self):
                self.session = "open"
                await anyio.sleep_forever()

            async def receive(self, frame):
                seen.append(("receive", self.session))

            async def emit(self):
                seen.append(("emit", self.session))
                await anyio.sleep_forever()

            async def on_message(self, message):
                seen.append(("on_message", self.session))

            async def on_dtmf(self, digit):
                seen.append(("on_dtmf", self.session))

            def copy(self):
                return Handler()

        else:

            def start_up(self):
                self.session = "open"

            def on_message(self, message):
                seen.append(("on_message", self.session))

            def on_dtmf(self, digit):
                seen.append(("on_dtmf", self.session))

    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        theirs.audio_out.put(FRAME)
        theirs.send_message_nowait("hello")
        theirs.send_message_nowait(messages.encode(messages.Dtmf("1")))
        await anyio.sleep(0.02)  # all of it is there before the connection is
        connection = Connection(ours, Handler(), timeouts=QUICK)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                while not {"on_message", "on_dtmf"} <= {method for method, _ in seen}:
                    await anyio.sleep(0.01)
                await theirs.aclose()
    assert {session for _, session in seen} == {"open"}


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_cancelling_one_task_of_a_connection_ends_it_as_cancelled():
    """A handler finds its own task and cancels it: a connection without that task must not go on."""

    class Handler(Mirror):
        async def emit(self):
            asyncio.current_task().cancel()
            await anyio.sleep(1)

    async with call(Handler()) as (connection, _):
        end = await connection.wait_ended()
    assert end.cause is EndCause.CANCELLED


@pytest.mark.parametrize("when", ["while it connects", "as its media begins"])
async def test_a_further_offer_may_come_while_a_call_begins(when):
    """Media begins once, when the call has connected: neither the offer nor the call fails."""

    class Early(Mirror):
        async def start_up(self):
            if when == "while it connects":
                self.connection.begin_media()  # as `Session.renegotiate` does
            await super().start_up()

    async with memory_pair(VIDEO) as (ours, theirs), anyio.create_task_group() as tasks:
        connection = Connection(ours, handler := Early(), timeouts=QUICK)
        handler.connection = connection
        if when == "as its media begins":
            begin = connection.begin_media
            connection.begin_media = lambda: [begin(), begin()]
        tasks.start_soon(connection.serve)
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        with anyio.fail_after(20):
            await handler.called("emit")
            assert connection.end is None
            connection.close()
            assert (await connection.wait_ended()).cause is EndCause.CLOSED
