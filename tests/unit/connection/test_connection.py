"""A connection's life: media both ways, every end, shutdown once, nothing left behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import asynccontextmanager

import anyio
import av
import numpy as np
import pytest

from rtcflow._core.bridge import Event
from rtcflow._core.flow import Flow, Policy
from rtcflow._core.threads import INTERRUPT_GRACE, WorkerThreads
from rtcflow.abc import MediaOffer
from rtcflow.connection.connection import Connection, run_connection
from rtcflow.connection.media_loops import IdleWait
from rtcflow.context import Context, get_current_context
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import HandlerError, MediaError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
)
from rtcflow.outputs import AdditionalOutputs, CloseStream
from rtcflow.protocol import messages
from rtcflow.testing import run_call, signals, virtual_backend
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

VIDEO = MediaOffer(receive_video=True, send_video=True)
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)


class Log:
    """What happened to a handler, in order."""

    def __init__(self):
        self.events: list[str] = []

    def __call__(self, event: str) -> None:
        self.events.append(event)


class AsyncEcho(AsyncStreamHandler):
    def __init__(self, log: Log | None = None, **options):
        super().__init__(output_sample_rate=48000, **options)
        self.log = log or Log()
        self.flow = Flow(100, Policy.BLOCK)

    async def receive(self, frame):
        await self.flow.put(frame)

    async def emit(self):
        return await self.flow.take()

    def copy(self):
        return AsyncEcho()

    def shutdown(self):
        self.log("shutdown")


class SyncEcho(StreamHandler):
    """The usual one: emit blocks in queue.get(), nobody ever releases it."""

    def __init__(self, log: Log | None = None):
        super().__init__(output_sample_rate=48000)
        self.log = log or Log()
        self.queue: queue.Queue = queue.Queue()
        self.threads: set[int] = set()

    def receive(self, frame):
        self.threads.add(threading.get_ident())
        self.queue.put(frame)

    def emit(self):
        self.threads.add(threading.get_ident())
        return self.queue.get()

    def copy(self):
        return SyncEcho()

    def shutdown(self):
        self.log("shutdown")


@asynccontextmanager
async def call(handler, *, offer=None, timeouts=QUICK, **options):
    """A running connection and the caller's end of it; yields (connection, caller, errors)."""
    errors: list[BaseException] = []
    async with memory_pair(offer) as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=timeouts, **options)

        async def serve():
            try:
                await connection.run()
            except Exception as error:
                errors.append(error)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tg:
                tg.start_soon(serve)
                yield connection, theirs, errors
                await theirs.aclose()
                await connection.wait_ended()


def tone(n: int = 960, start: int = 0) -> np.ndarray:
    t = np.arange(start, start + n) / 48000
    return (10000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[np.newaxis]


@pytest.mark.parametrize("make", [AsyncEcho, SyncEcho])
async def test_an_echo_comes_back_sample_for_sample(make):
    """What the caller says comes back unchanged and in order, from an async and from a sync handler."""
    log = Log()
    async with call(make(log)) as (connection, caller, errors):
        sent = [tone(start=960 * i) for i in range(10)]
        for samples in sent:
            caller.audio_out.put(AudioFrame(samples, 48000, 0))
        heard = [(await caller.audio_in.take()).samples for _ in sent]
        np.testing.assert_array_equal(np.concatenate(heard, axis=1), np.concatenate(sent, axis=1))
    assert not errors
    assert connection.end.cause is EndCause.PEER_LEFT
    assert log.events == ["shutdown"]


@pytest.mark.parametrize("base", [AsyncEcho, SyncEcho])
async def test_a_slow_receive_hears_one_frame_at_a_time(base):
    """While `receive` is busy the frames after it wait, and then come in order."""
    running, heard = [], []

    class Slow(AsyncEcho):
        async def receive(self, frame):
            running.append(frame)
            heard.append((len(running), int(frame[1][0, 0])))
            await anyio.sleep(0.03)
            running.pop()

    class SlowSync(SyncEcho):
        def receive(self, frame):
            running.append(frame)
            heard.append((len(running), int(frame[1][0, 0])))
            time.sleep(0.03)
            running.pop()

    async with call((Slow if base is AsyncEcho else SlowSync)()) as (_, caller, _errors):
        for n in range(5):
            caller.audio_out.put(AudioFrame(np.full((1, 960), n, np.int16), 48000, 0))
        with anyio.fail_after(30):
            while len(heard) < 5:
                await anyio.sleep(0.01)
    assert heard == [(1, n) for n in range(5)]


async def test_a_sync_handler_runs_in_worker_threads_and_they_come_back():
    """receive and emit of a sync handler have a thread each, and none of them is left after the call."""
    handler = SyncEcho()
    before = threading.active_count()
    async with call(handler) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()
        assert len(handler.threads) == 2
        assert threading.get_ident() not in handler.threads
    assert connection.statistics().threads_abandoned == 0
    for thread in threading.enumerate():
        if thread.name.startswith("SyncEcho"):  # about to end
            thread.join(30)
    busy = [t for t in threading.enumerate() if t.ident in handler.threads and not t.name.startswith(("AnyIO", "Trio"))]
    assert not busy
    assert threading.active_count() <= before + 3, "idle pool threads only"


async def test_the_handler_sees_its_context_in_every_method():
    """get_current_context() gives the connection's context in loop and worker threads alike."""
    seen = []

    class Handler(SyncEcho):
        def receive(self, frame):
            seen.append(get_current_context().webrtc_id)
            super().receive(frame)

        def emit(self):
            item = super().emit()
            seen.append(get_current_context().webrtc_id)
            return item

        def shutdown(self):
            seen.append(get_current_context().webrtc_id)

    async with call(Handler(), context=Context("me")) as (_, caller, _errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()
    assert seen == ["me"] * 3
    with pytest.raises(RuntimeError, match="no connection"):
        get_current_context()


@pytest.mark.parametrize("where", ["receive", "emit", "start_up"])
@pytest.mark.parametrize("base", [AsyncEcho, SyncEcho])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_handler_raises_ends_the_connection_and_arrives_bare(base, where, backend):
    """An exception of any method ends the call, reaches whoever runs it unwrapped, and the peer is told."""
    error = KeyError("mine")

    if base is AsyncEcho:

        async def fail(self, *args):
            raise error
    else:

        def fail(self, *args):
            raise error

    async def main():
        log = Log()
        handler = type("Handler", (base,), {where: fail})(log)
        async with call(handler) as (connection, caller, errors):
            caller.audio_out.put(AudioFrame(tone(), 48000, 0))
            with pytest.raises(anyio.EndOfStream), anyio.fail_after(60):  # of virtual time
                while True:
                    message = messages.decode(await caller.messages_in.take())
            assert message == messages.Error("the handler failed")
        assert errors == [error]
        assert connection.end.cause is EndCause.HANDLER_RAISED
        assert connection.end.error is error
        assert log.events == ["shutdown"]

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)


METHODS = ["receive", "emit", "video_receive", "video_emit", "start_up", "on_message"]


class Panic(BaseException):
    """What pyo3 calls a panic is such a class."""


@asynccontextmanager
async def call_that_fails(base, where, fail):
    """A call to a handler of which the method `where` is `fail`, and everything that has it called."""
    handler = type("Handler", (base,), {where: fail})()
    async with call(handler, offer=VIDEO) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        caller.video_out.put_nowait(picture(100))
        caller.send_message_nowait("hello")
        yield connection, caller, errors


@pytest.mark.parametrize("where", METHODS)
async def test_a_cancelled_future_in_a_handler_ends_its_connection(where):
    """On asyncio it looks like a cancelled task: it must not end one loop only, and leave a deaf connection."""

    async def fail(self, *args):
        future = self.loop.create_future()
        future.cancel()
        await future

    async with call_that_fails(AsyncMirror, where, fail) as (connection, caller, errors):
        with anyio.fail_after(30):
            await connection.wait_ended()
            assert messages.decode(await caller.messages_in.take()) == messages.Error("the handler failed")
    assert connection.end.cause is EndCause.HANDLER_RAISED
    assert errors == [connection.end.error], "an error, and not the cancellation of whoever runs the connection"


@pytest.mark.parametrize("where", METHODS)
@pytest.mark.parametrize("base", ["AsyncMirror", "SyncMirror"])
async def test_a_handler_may_raise_what_is_no_exception(base, where):
    """SystemExit and the like end the connection like any error, and come out of it as they are."""
    error = Panic("native code")

    if base == "AsyncMirror":

        async def fail(self, *args):
            raise error
    else:

        def fail(self, *args):
            raise error

    with pytest.raises(Panic) as info:
        async with memory_pair(VIDEO) as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            connection = Connection(ours, type("Handler", (globals()[base],), {where: fail})(), timeouts=QUICK)
            theirs.audio_out.put(AudioFrame(tone(), 48000, 0))
            theirs.video_out.put_nowait(picture(100))
            theirs.send_message_nowait("hello")
            with anyio.fail_after(30):
                await connection.run()
    assert info.value is error
    assert connection.end.error is error


async def test_a_group_that_a_handler_raises_arrives_as_it_is():
    """Only groups of our own are undone."""
    error = ExceptionGroup("the handler's own", [ValueError("x")])

    async def fail(self, *args):
        raise error

    async with call_that_fails(AsyncMirror, "video_emit", fail) as (connection, _, errors):
        await connection.wait_ended()
    assert errors == [error]
    assert connection.end.error is error


async def test_what_several_methods_raise_comes_as_a_group():
    """Nothing is lost when a second method raises while the first one's error ends the connection."""

    class Handler(AsyncEcho):
        async def start_up(self):
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("in start_up")

        async def emit(self):
            await anyio.sleep(0.01)
            raise KeyError("in emit")

        async def shutdown(self):
            raise TypeError("in shutdown")

    async with call(Handler()) as (connection, _, errors):
        await connection.wait_ended()
    assert [type(error) for error in errors[0].exceptions] == [KeyError, ValueError, TypeError]
    assert connection.end.error is errors[0].exceptions[0]


@pytest.mark.parametrize("make", [AsyncEcho, SyncEcho])
@pytest.mark.parametrize("how", ["left", "broken"])
async def test_a_handler_whose_caller_is_gone_before_the_call_is_up_is_shut_down(make, how):
    """Its other methods are not called, but it may hold something since it was copied."""
    async with memory_pair() as (ours, theirs):
        if how == "broken":
            ours.break_link(OSError("gone"))
        else:
            await theirs.aclose()
            await ours.wait_ended()
        handler = make()
        end = await run_connection(ours, handler, timeouts=QUICK)
    assert end.cause is EndCause.NOT_CONNECTED
    assert handler.log.events == ["shutdown"]


async def test_a_shutdown_in_which_something_was_cancelled_cancels_nobody():
    """A CancelledError out of shutdown() is an error, too."""

    class Handler(AsyncEcho):
        async def shutdown(self):
            future = self.loop.create_future()
            future.cancel()
            await future

    async with call(Handler()) as (connection, _, errors):
        connection.close()
        await connection.wait_ended()
    assert len(errors) == 1


@pytest.mark.slow
async def test_a_loop_that_ends_too_early_ends_its_connection():
    """Without its receive loop a connection would be deaf: that is no way to go on."""
    async with call(AsyncEcho()) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()
        connection.transport.audio_in.end()
        await connection.wait_ended()
    assert "'receive'" in str(errors[0])


async def test_debug_tells_the_peer_what_was_raised():
    """With debug the error message holds the exception's text; without it does not (see above)."""

    class Handler(AsyncEcho):
        async def emit(self):
            raise ValueError("secret")

    async with call(Handler(), debug=True) as (_, caller, _errors):
        message = messages.decode(await caller.messages_in.take())
        assert isinstance(message, messages.Error)
        assert "secret" in message.text


@pytest.mark.parametrize(
    "junk", [np.zeros(960, np.float64), "text", (24000, np.zeros(10, np.int32)), (0, np.zeros(10, np.int16))]
)
async def test_junk_from_emit_is_an_error_that_says_so(junk):
    """What emit must not return ends the call with a MediaError, not with silence."""

    class Handler(AsyncEcho):
        async def emit(self):
            return junk

    async with call(Handler()) as (connection, _, errors):
        await connection.wait_ended()
    assert isinstance(errors[0], MediaError)


async def test_close_stream_plays_what_is_queued_then_says_goodbye():
    """After CloseStream the audio emitted before is played to its end, then the peer is told and let go."""

    class Handler(AsyncEcho):
        said = 0

        async def emit(self):
            self.said += 1
            return (48000, tone(960 * 10)) if self.said == 1 else CloseStream("bye")

    log = Log()
    async with call(Handler(log)) as (connection, caller, errors):
        n = 0
        with pytest.raises(anyio.EndOfStream):
            while True:
                n += (await caller.audio_in.take()).samples.shape[1]
        assert n == 9600
        texts = []
        with pytest.raises(anyio.EndOfStream):
            while True:
                texts.append(messages.decode(await caller.messages_in.take()))
        assert texts == [messages.EndStream("bye")]
    assert not errors
    assert connection.end.cause is EndCause.HANDLER_CLOSED
    assert connection.end.reason == "bye"
    assert log.events == ["shutdown"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_time_limit_ends_the_call(backend):
    """A connection ends when its time is up, counted from connected."""
    log = Log()

    async def main():
        async with call(AsyncEcho(log), time_limit=5) as (connection, _, _errors):
            with anyio.fail_after(60):  # of virtual time
                end = await connection.wait_ended()
            assert anyio.current_time() == pytest.approx(5, abs=0.1)
        return end

    name, options = virtual_backend(backend)
    end = anyio.run(main, backend=name, backend_options=options)
    assert end.cause is EndCause.TIME_LIMIT
    assert log.events == ["shutdown"]


async def test_close_from_another_thread():
    """close() may be called from any thread, and its reason is the recorded one."""
    async with call(AsyncEcho()) as (connection, _, _errors):
        await anyio.to_thread.run_sync(connection.close, "drained")
        end = await connection.wait_ended()
    assert (end.cause, end.reason) == (EndCause.CLOSED, "drained")


async def test_a_broken_link_is_the_recorded_reason():
    """When the link breaks its cause is the reason, and shutdown runs."""
    log, cause = Log(), OSError("cable pulled")
    async with call(AsyncEcho(log)) as (connection, _, _errors):
        while connection.statistics().setup is None:  # connected: before that, it would be a failure to connect
            await anyio.sleep(0.001)
        connection.transport.break_link(cause)
        end = await connection.wait_ended()
    assert (end.cause, end.error) == (EndCause.LINK_BROKE, cause)
    assert "cable pulled" in end.reason
    assert log.events == ["shutdown"]


async def test_cancelling_ends_it_in_order():
    """Cancelling whoever runs a connection runs shutdown and closes the transport all the same."""
    log = Log()
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, AsyncEcho(log), timeouts=QUICK)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.run)
            await anyio.sleep(0.02)
            tg.cancel_scope.cancel()
        assert connection.end.cause is EndCause.CANCELLED
        assert log.events == ["shutdown"]
        with anyio.fail_after(20):
            await theirs.wait_ended()


async def test_a_cancelled_run_does_not_return():
    """Whoever is cancelled in run() stays cancelled: what stands after it is not reached."""
    went_on = []
    async with memory_pair() as (ours, _):

        async def serve():
            await run_connection(ours, AsyncEcho(), timeouts=QUICK)
            went_on.append(True)

        async with anyio.create_task_group() as tg:
            tg.start_soon(serve)
            await anyio.sleep(0.02)
            tg.cancel_scope.cancel()
    assert not went_on


async def test_close_before_run_ends_at_once():
    """A connection that was closed before it ran ends without calling the handler, but for shutdown."""
    log = Log()
    async with memory_pair() as (ours, _):
        connection = Connection(ours, AsyncEcho(log))
        connection.close("no")
        end = await connection.run()
    assert end.cause is EndCause.CLOSED
    assert log.events == ["shutdown"]


async def test_a_connection_runs_once():
    """A second run is refused, and so is a handler that serves another connection, which is not disturbed."""
    log = Log()
    handler = AsyncEcho(log)
    async with call(handler) as (connection, caller, _errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()
        with pytest.raises(RuntimeError, match="runs once"):
            await connection.run()
        async with memory_pair() as (ours, _):
            with pytest.raises(HandlerError, match="copy"):
                await run_connection(ours, handler)
        assert not log.events
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()


async def test_an_emit_that_always_returns_none_costs_little():
    """Returning None at once, for ever, is asked for again at most some 100 times a second."""

    class Handler(AsyncEcho):
        calls = 0

        async def emit(self):
            self.calls += 1

    async with call(handler := Handler()) as (connection, _, _errors):
        await anyio.sleep(0.3)
    assert handler.calls < 40
    assert connection.statistics().transport.audio_out.queued == 0


async def test_an_emit_faster_than_real_time_is_held_back():
    """A handler that emits without waiting queues 0.2 s and one item, not memory without end."""

    class Handler(AsyncEcho):
        async def emit(self):
            return (48000, tone())

    async with call(Handler()) as (connection, caller, _errors):
        for _ in range(10):
            await caller.audio_in.take()
        queued = connection.transport.audio_out.queued_seconds
    assert 0.1 < queued <= 0.22


async def test_clear_queue_takes_effect_at_once():
    """Audio queued before clear_queue() does not leave after it returned."""

    class Handler(AsyncEcho):
        async def emit(self):
            self.emitted = getattr(self, "emitted", 0) + 1
            if self.emitted > 1:
                await anyio.sleep_forever()
            return (48000, tone(48000))

    async with call(handler := Handler()) as (_, caller, _errors):
        await caller.audio_in.take()
        assert handler.clear_queue() > 0.9
        await anyio.wait_all_tasks_blocked()
        before = len(caller.audio_in)
        await anyio.sleep(0.05)
        assert len(caller.audio_in) == before


async def test_outputs_reach_the_application_and_the_peer_is_told():
    """AdditionalOutputs, alone or beside audio, are handed on in order, and fetch_output is sent."""
    got = []

    class Handler(AsyncEcho):
        async def start_up(self):
            await self.channel_set.wait()
            await self.flow.put(AdditionalOutputs(1))
            await self.flow.put(((48000, tone()), AdditionalOutputs(2)))

        async def receive(self, frame):
            pass

    async with call(Handler(), on_outputs=got.append) as (_, caller, _errors):
        await caller.audio_in.take()
        assert messages.decode(await caller.messages_in.take()) == messages.FetchOutput()
    assert got == [AdditionalOutputs(1), AdditionalOutputs(2)]


async def test_messages_go_both_ways():
    """send_message reaches the peer, and text of the peer reaches on_message."""

    class Handler(AsyncEcho):
        async def start_up(self):
            await self.send_message("hello")

        async def on_message(self, text):
            await self.send_message(text.upper())

    async with call(Handler()) as (_, caller, _errors):
        assert await caller.messages_in.take() == "hello"
        caller.send_message_nowait("echo me")
        assert await caller.messages_in.take() == "ECHO ME"


async def test_a_peer_without_a_channel_is_no_reason_to_wait(caplog):
    """To a peer that opens no channel messages are dropped, counted, and warned of once; audio flows."""

    class Handler(AsyncEcho):
        async def receive(self, frame):
            await self.send_message("dropped")
            await super().receive(frame)

    with caplog.at_level(logging.WARNING):
        async with call(Handler(), offer=MediaOffer(messages=False)) as (connection, caller, _errors):
            for _ in range(3):
                caller.audio_out.put(AudioFrame(tone(), 48000, 0))
                await caller.audio_in.take()
    assert connection.statistics().messages_dropped == 3
    assert caplog.text.count("no data channel") == 1


def closed(_message):
    raise anyio.ClosedResourceError


@pytest.mark.parametrize("make", [AsyncEcho, SyncEcho])
@pytest.mark.parametrize("by", ["send_message", "channel"])
async def test_a_channel_that_the_peer_closes_is_no_end(make, by, caplog):
    """When only the peer's channel is gone messages are dropped, with one warning, and audio goes on."""

    class AsyncSender(AsyncEcho):
        async def receive(self, frame):
            await self.channel_set.wait()
            if by == "channel":
                self.channel.send("dropped")
            else:
                await self.send_message("dropped")
            await super().receive(frame)

    class SyncSender(SyncEcho):
        def receive(self, frame):
            self.channel_set.wait_sync()
            if by == "channel":
                self.channel.send("dropped")
            else:
                self.send_message_sync("dropped")
            super().receive(frame)

    with caplog.at_level(logging.WARNING):
        async with call((AsyncSender if make is AsyncEcho else SyncSender)()) as (connection, caller, errors):
            connection.transport.send_message_nowait = closed
            for _ in range(3):
                caller.audio_out.put(AudioFrame(tone(), 48000, 0))
                await caller.audio_in.take()
            await anyio.sleep(0.15)
            assert connection.end is None
    assert not errors
    assert connection.end.cause is EndCause.PEER_LEFT
    assert connection.statistics().messages_dropped == 3
    assert caplog.text.count("has closed its data channel") == 1


async def test_a_channel_that_closes_with_the_call_is_no_news(caplog):
    """Whoever hangs up closes the channel a moment before the rest: no warning."""

    class Handler(AsyncEcho):
        async def receive(self, frame):
            await self.send_message("dropped")
            await super().receive(frame)

    with caplog.at_level(logging.WARNING):
        async with call(Handler()) as (connection, caller, errors):
            connection.transport.send_message_nowait = closed
            caller.audio_out.put(AudioFrame(tone(), 48000, 0))
            await caller.audio_in.take()
    assert not errors
    assert connection.end.cause is EndCause.PEER_LEFT
    assert "data channel" not in caplog.text


@pytest.mark.parametrize("base", [AsyncEcho, SyncEcho])
@pytest.mark.parametrize("broken", [False, True])
async def test_what_fails_because_the_peer_is_gone_is_no_error_of_the_handler(base, broken, caplog):
    """A handler may notice the end a moment before its connection does: the end is still the peer's."""
    raised = Event()

    def raise_closed():
        raise anyio.ClosedResourceError

    if base is AsyncEcho:

        async def receive(self, frame):
            raised.set()
            raise_closed()
    else:

        def receive(self, frame):
            raised.set()
            raise_closed()

    async with call(type("Handler", (base,), {"receive": receive})()) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await raised.wait()
        await anyio.sleep(0.02)
        assert connection.end is None
        if broken:
            connection.transport.break_link(OSError("cable pulled"))
        else:
            await caller.aclose()
        await connection.wait_ended()
    assert not errors
    assert connection.end.cause is (EndCause.LINK_BROKE if broken else EndCause.PEER_LEFT)
    assert not caplog.records


@pytest.mark.slow
async def test_a_closed_resource_of_the_handler_is_its_error_while_the_peer_is_there():
    """The same exception from a stream of the handler's own, in mid-call, is an error like others."""

    class Handler(AsyncEcho):
        async def receive(self, frame):
            raise anyio.ClosedResourceError

    async with call(Handler()) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await connection.wait_ended()
    assert connection.end.cause is EndCause.HANDLER_RAISED
    assert isinstance(errors[0], anyio.ClosedResourceError)


@pytest.mark.parametrize("base", [AsyncEcho, SyncEcho])
async def test_a_last_message_to_a_peer_that_is_gone_does_not_cut_shutdown_short(base):
    """A shutdown() that says goodbye first still frees what it has to free."""
    log = Log()

    class Polite(AsyncEcho):
        async def shutdown(self):
            await self.send_message("goodbye")
            self.log("freed")

    class PoliteSync(SyncEcho):
        def shutdown(self):
            self.send_message_sync("goodbye")
            self.log("freed")

    handler = (Polite if base is AsyncEcho else PoliteSync)(log)
    async with call(handler) as (_, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await caller.audio_in.take()
    assert not errors
    assert log.events == ["freed"]


async def test_send_message_sync_in_the_loop_shows_the_right_call():
    """The blocking form refuses to block the loop, and says what to write."""

    class Handler(AsyncEcho):
        async def receive(self, frame):
            self.send_message_sync("no")

    async with call(Handler()) as (connection, caller, errors):
        caller.audio_out.put(AudioFrame(tone(), 48000, 0))
        await connection.wait_ended()
    assert "await self.send_message" in str(errors[0])


async def test_a_message_waits_for_the_channel():
    """A message sent before the peer's channel is open is not sent before, and is sent then."""
    opened, asked = anyio.Event(), anyio.Event()

    class Handler(AsyncEcho):
        async def start_up(self):
            asked.set()
            await self.send_message("hello")

    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        ours.wait_messages_open = opened.wait
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(run_connection, ours, Handler())
                await asked.wait()
                await anyio.wait_all_tasks_blocked()
                assert not len(theirs.messages_in)
                opened.set()
                assert await theirs.messages_in.take() == "hello"
                await theirs.aclose()


@pytest.mark.slow
async def test_a_sync_handler_waiting_for_a_channel_is_let_go():
    """A worker thread in send_message_sync to a peer whose channel never opens ends with the connection."""
    seen, begun = [], threading.Event()

    class Handler(SyncEcho):
        def start_up(self):
            begun.set()
            try:
                self.send_message_sync("x")
            except anyio.ClosedResourceError as error:
                seen.append(error)

    handler = Handler()
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        ours.wait_messages_open = anyio.sleep_forever
        async with anyio.create_task_group() as tg:
            tg.start_soon(run_connection, ours, handler)
            with anyio.fail_after(30):
                while not begun.is_set():
                    await anyio.sleep(0.05)
            await theirs.aclose()
    assert len(seen) == 1


@pytest.mark.slow
async def test_a_shutdown_that_hangs_is_given_up(caplog):
    """A shutdown that does not return delays the end by its deadline, not for ever."""
    free = threading.Event()

    class Handler(SyncEcho):
        def shutdown(self):
            free.wait(55)

    began = time.monotonic()
    try:
        with caplog.at_level(logging.ERROR):
            async with call(Handler()) as (connection, _, _errors):
                connection.close()
                await connection.wait_ended()
        assert time.monotonic() - began < 30
        assert "shutdown did not return" in caplog.text
    finally:
        free.set()


@pytest.mark.slow
async def test_a_shutdown_thread_that_is_lost_is_counted(caplog):
    """A shutdown() that blocks beyond reach is an abandoned thread like others, in the figures of the stream, too."""
    free = threading.Lock()
    free.acquire()

    class Handler(AsyncEcho):
        def shutdown(self):
            free.acquire()

    workers = WorkerThreads()
    try:
        with caplog.at_level(logging.ERROR):
            async with call(Handler(), workers=workers) as (connection, _, _errors):
                connection.close()
                await connection.wait_ended()
        assert connection.statistics().threads_abandoned == 1
        assert workers.statistics().abandoned == 1
        assert "shutdown did not return when its connection ended" in caplog.text
    finally:
        free.release()


@pytest.mark.slow
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_shutdown_thread_that_waits_comes_back(colour):
    """A shutdown() that waits where it can be interrupted costs its deadline, and no thread."""
    handler = (SyncEcho if colour == "sync" else AsyncEcho)()
    handler.shutdown = queue.Queue().get
    async with call(handler) as (connection, _, errors):
        connection.close()
        await connection.wait_ended()
    assert connection.statistics().threads_abandoned == 0
    assert not errors


@pytest.mark.parametrize(
    ("timeouts", "longest"),
    [(Timeouts(), 6.0), (Timeouts(shutdown=20), 21.0), (Timeouts(close=2.0), 2.0), (Timeouts(goodbye=9), 6.0)],
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_whole_end_has_a_deadline(timeouts, longest, backend):
    """However long shutdown(), lost threads and the goodbye take together, the end is bounded."""

    async def join(grace):
        await anyio.sleep(grace + INTERRUPT_GRACE)
        return ["emit"]

    class Handler(AsyncEcho):
        async def shutdown(self):
            await anyio.sleep(60)

    async def main():
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            connection = Connection(ours, Handler(), timeouts=timeouts)
            connection._crew.settle, connection._crew.join, close = anyio.sleep, join, ours.aclose
            ours.aclose = lambda: anyio.sleep(60)
            async with anyio.create_task_group() as tg:
                tg.start_soon(connection.run)
                await anyio.sleep(1)
                connection.close()
                await connection.wait_ended()
                await close()
                return anyio.current_time() - 1

    name, options = virtual_backend(backend)
    assert anyio.run(main, backend=name, backend_options=options) == pytest.approx(longest)


async def test_shutdown_that_raises_is_not_swallowed():
    """What shutdown raises reaches whoever runs the connection, and the transport is closed all the same."""

    class Handler(AsyncEcho):
        async def shutdown(self):
            raise ValueError("in shutdown")

    async with call(Handler()) as (connection, caller, errors):
        connection.close()
        await connection.wait_ended()
        with pytest.raises(anyio.EndOfStream):
            while True:
                await caller.audio_in.take()
    assert [str(error) for error in errors] == ["in shutdown"]


@pytest.mark.slow
async def test_a_stall_is_measured_and_named(caplog):
    """A receive that takes half a second or more is logged with the handler's name and counted."""

    class Sleepy(SyncEcho):
        def receive(self, frame):
            time.sleep(0.55)

    with caplog.at_level(logging.WARNING):
        async with call(Sleepy()) as (connection, caller, _errors):
            caller.audio_out.put(AudioFrame(tone(), 48000, 0))
            await anyio.sleep(0.7)
    assert connection.statistics().stalls == 1
    assert "Sleepy.receive" in caplog.text


async def test_rates_and_layouts_are_converted():
    """receive gets the handler's rate and layout, and emit may use any."""
    shapes = []

    class Handler(AsyncEcho):
        def __init__(self):
            super().__init__(input_sample_rate=16000, expected_layout="stereo")

        async def receive(self, frame):
            shapes.append((frame[0], frame[1].dtype, frame[1].shape))
            await self.flow.put((8000, np.zeros(800, np.float32)))

    async with call(Handler()) as (_, caller, _errors):
        caller.audio_out.put(AudioFrame(tone(4800), 48000, 0))
        for _ in range(5 * 5):
            assert (await caller.audio_in.take()).sample_rate == 48000
    rates, dtypes, sizes = zip(*shapes, strict=True)
    assert set(rates) == {16000}
    assert set(dtypes) == {np.dtype(np.int16)}
    assert {shape[0] for shape in sizes} == {2}
    assert 1500 <= sum(shape[1] for shape in sizes) <= 1600


def picture(value: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="bgr24")


class SyncMirror(AudioVideoStreamHandler):
    def __init__(self):
        super().__init__()
        self.pictures: queue.Queue = queue.Queue()

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def video_receive(self, frame):
        self.pictures.put(frame)

    def video_emit(self):
        return self.pictures.get()

    def copy(self):
        return SyncMirror()


class AsyncMirror(AsyncAudioVideoStreamHandler):
    def __init__(self):
        super().__init__()
        self.flow = Flow(10, Policy.BLOCK)

    async def receive(self, frame):
        pass

    async def emit(self):
        return None

    async def video_receive(self, frame):
        await self.flow.put(frame)

    async def video_emit(self):
        return await self.flow.take()

    def copy(self):
        return AsyncMirror()


@pytest.mark.parametrize("make", [SyncMirror, AsyncMirror])
async def test_a_mirrored_picture_looks_the_same(make):
    """What goes in by video_receive and out by video_emit unchanged looks the same."""
    async with call(make(), offer=VIDEO) as (_, caller, _errors):
        for value in (10, 128, 250):
            caller.video_out.put_nowait(picture(value))
            back = (await caller.video_in.take()).to_ndarray(format="bgr24")
            np.testing.assert_array_equal(back, np.full((48, 64, 3), value, np.uint8))


async def test_a_slow_video_handler_leaves_its_audio_alone():
    """While a video_receive does not return, the audio of the same connection goes on."""
    busy, free = threading.Event(), threading.Event()

    class Handler(SyncMirror):
        def __init__(self):
            super().__init__()
            self.queue: queue.Queue = queue.Queue()

        def receive(self, frame):
            self.queue.put(frame)

        def emit(self):
            return self.queue.get()

        def video_receive(self, frame):
            busy.set()
            free.wait(100)

    try:
        async with call(Handler(), offer=VIDEO) as (_, caller, _errors):
            caller.video_out.put_nowait(picture(1))
            while not busy.is_set():
                await anyio.sleep(0.001)
            for _ in range(10):
                caller.audio_out.put(AudioFrame(tone(), 48000, 0))
                await caller.audio_in.take()
            free.set()
    finally:
        free.set()


async def test_a_slow_video_handler_sees_the_latest_frame():
    """Frames that come while video_receive is busy are dropped but for the newest."""
    seen = []

    class Handler(SyncMirror):
        def video_receive(self, frame):
            seen.append(int(frame.to_ndarray(format="bgr24")[0, 0, 0]))
            time.sleep(0.1)

    async with call(Handler(), offer=VIDEO) as (_, caller, _errors):
        for value in range(0, 100, 10):
            caller.video_out.put_nowait(picture(value))
            await anyio.sleep(0.02)
        await anyio.sleep(0.15)
    assert len(seen) < 6
    assert seen[-1] >= 80
    assert seen == sorted(seen)


async def test_a_generated_video_is_paced():
    """A video_emit that returns at once is asked for fps frames a second."""

    class Handler(AsyncMirror):
        n = 0

        async def video_emit(self):
            self.n += 1
            return np.zeros((16, 16, 3), np.uint8)

    async with call(handler := Handler(), offer=VIDEO) as (_, _caller, _errors):
        began = anyio.current_time()
        await anyio.sleep(0.5)
        asked, passed = handler.n, anyio.current_time() - began
        assert asked <= 30 * passed + 5
        assert asked >= 12 or passed > 0.52, "it is too slow, and this task was not"


@pytest.mark.slow
async def test_thirty_two_blocking_echoes_at_once():
    """32 sync handlers that block in queue.get() all echo, and ending them frees every thread."""
    handlers = [SyncEcho() for _ in range(32)]
    heard = []

    async def one(handler):
        async with call(handler) as (connection, caller, errors):
            caller.audio_out.put(AudioFrame(tone(), 48000, 0))
            heard.append(await caller.audio_in.take())
            await barrier.wait()
        assert connection.statistics().threads_abandoned == 0
        assert not errors

    barrier = anyio.Event()
    async with anyio.create_task_group() as tg:
        for handler in handlers:
            tg.start_soon(one, handler)
        with anyio.fail_after(60):
            while len(heard) < 32:
                await anyio.sleep(0.01)
        barrier.set()


@pytest.mark.parametrize("rates", [(48000, 24000), (44100, 24000), (16000, 8000), (8000, 48000), (48000, 22050)])
def test_an_echo_at_another_rate_is_not_a_frame_later(rates):
    """What a resampler holds back is made up for: each frame that comes in can leave at once."""

    class Echo(AsyncStreamHandler):
        def __init__(self):
            super().__init__(input_sample_rate=rates[0], output_sample_rate=rates[1])
            self.flow = Flow(100, Policy.BLOCK)

        def copy(self):
            return Echo()

        async def receive(self, frame):
            await self.flow.put(frame)

        async def emit(self):
            return await self.flow.take()

    record = run_call(Echo(), play=signals.tone(1.0), seconds=1.5)
    heard = record.heard[0]
    assert heard.at == pytest.approx(0)
    assert heard.frame.samples.shape == (1, rates[1] // 50)
    loud = np.abs(heard.frame.samples[0, -rates[1] // 100 :])
    assert loud.max() > 1000


def test_an_emit_that_has_nothing_is_asked_again_within_a_frame():
    """1, 2, 4 … 20 ms, and no longer; an emit that waits by itself is asked at once."""
    idle = IdleWait()
    assert [idle.next(0.0) for _ in range(8)] == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02, 0.02])
    assert idle.next(0.02) == 0
