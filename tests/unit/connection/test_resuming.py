"""A connection whose link breaks waits, and goes on over another: what lives on, what is kept, and when it gives up."""

from __future__ import annotations

import math
import queue
import threading
import wave
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import numpy as np
import pytest

from rtcflow.connection.connection import Connection
from rtcflow.connection.media_loops import Voice
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import ConnectionExists
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.handlers.turns import ReplyHandler
from rtcflow.media.playout import Latency
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
BROKEN = ConnectionError("the network has gone")


def run(backend, main, *args):
    name, options = virtual_backend(backend)

    async def limited():
        with anyio.fail_after(300):
            return await main(*args)

    return anyio.run(limited, backend=name, backend_options=options)


def tone(value, seconds):
    return np.full((1, round(24000 * seconds)), value, np.int16)


class Notes(AsyncStreamHandler):
    """Notes what it is told, and emits what is put into its queue."""

    def __init__(self):
        super().__init__(output_sample_rate=24000, input_sample_rate=24000)
        self.events = []
        self.heard = 0
        self.send, self.take = anyio.create_memory_object_stream(math.inf)

    def copy(self):
        return Notes()

    async def start_up(self):
        self.events.append("start_up")
        self.ticks = 0
        self.loop.create_task(self.tick())

    async def tick(self):
        while True:
            await anyio.sleep(0.1)
            self.ticks += 1

    async def receive(self, frame):
        self.heard += 1

    async def emit(self):
        return 24000, await self.take.receive()

    async def on_suspended(self):
        self.events.append("suspended")

    def on_resumed(self):
        self.events.append("resumed")

    async def on_message(self, message):
        self.events.append(message)

    def shutdown(self):
        self.events.append("shutdown")
        self.send.close()
        self.take.close()


@asynccontextmanager
async def link(latency=Latency.BUFFERED):
    """A link, with the caller's end started and sending."""
    async with memory_pair(latency=latency) as (ours, theirs):
        theirs.start(AudioFormat(24000), AudioFormat(24000))
        theirs.audio_out.put(tone(500, 100))
        yield ours, theirs


@asynccontextmanager
async def call(handler, *, resume=30.0, latency=Latency.BUFFERED, **options):
    async with link(latency) as (ours, theirs):
        connection = Connection(ours, handler, timeouts=QUICK, resume=resume, **options)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.serve)
            await anyio.sleep(1)
            yield connection, ours, theirs
            tasks.cancel_scope.cancel()


async def hear(transport, seconds):
    """The values heard in so many seconds, each once in a row."""
    heard, until = [], anyio.current_time() + seconds
    with anyio.CancelScope(deadline=until):
        while True:
            frame = await transport.audio_in.take()
            heard += [int(value) for value in frame.samples[0, ::48]]
    return heard


@BACKENDS
def test_handler_start_up_tasks_and_state_live_on(backend):
    """A link breaks and another takes its place: on_suspended, on_resumed, and media both ways as before."""

    async def main():
        handler = Notes()
        async with call(handler, name="call-1") as (connection, ours, _):
            heard = handler.heard
            assert heard > 40
            ours.break_link(BROKEN)
            await anyio.sleep(5)
            assert handler.events == ["start_up", "suspended"]
            assert handler.heard == heard
            assert connection.end is None
            names = [task.name for task in anyio.get_running_tasks()]
            assert not [name for name in names if "receive" in str(name) or "emit" in str(name)]
            async with link() as (again, theirs):
                connection.resume(again)
                await anyio.sleep(1)
                assert handler.events == ["start_up", "suspended", "resumed"]
                assert handler.heard > heard + 40
                handler.send.send_nowait(tone(700, 0.5))
                assert 700 in await hear(theirs, 1)
                theirs.send_message_nowait("hello")
                await anyio.sleep(0.1)
                assert handler.ticks > 75, "its own task went on all the time"
                assert connection.statistics().resumed == 1
                await theirs.aclose()
                end = await connection.wait_ended()
                assert end.cause is EndCause.PEER_LEFT
        assert handler.events == ["start_up", "suspended", "resumed", "hello", "shutdown"]

    run(backend, main)


@BACKENDS
def test_no_count_falls_when_a_call_is_resumed(backend):
    """Metrics take a count that falls for a new process. So the counts of all transports add up."""

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _):
            handler.send.send_nowait(tone(700, 0.1))
            await anyio.sleep(1)
            handler.send.send_nowait(tone(700, 0.1))
            await anyio.sleep(1)
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            before = connection.statistics().transport
            assert before.audio_out.gaps == 1
            async with link() as (again, _):
                connection.resume(again)
                await anyio.sleep(1)
                both, new = connection.statistics().transport, again.statistics()
                assert 40 < new.audio_in.put < before.audio_in.put
                for queue in (both.audio_in, both.messages_in, both.video_in, both.video_out):
                    assert queue.put == queue.taken + queue.dropped + queue.waiting
                assert both.audio_in.put == before.audio_in.put + new.audio_in.put
                assert both.audio_in.taken == before.audio_in.taken + new.audio_in.taken
                assert both.audio_in.dropped >= before.audio_in.dropped
                sound = both.audio_out
                assert sound.queued == sound.played + sound.dropped + sound.waiting == before.audio_out.queued
                assert sound.gaps == 1

    run(backend, main)


@BACKENDS
def test_nobody_comes_back_in_time(backend):
    """The call ends after `resume` seconds, with the cause that it would have had, and says how long it waited."""

    async def main():
        handler = Notes()
        async with call(handler, resume=12.0) as (connection, ours, _):
            began = anyio.current_time()
            ours.break_link(BROKEN)
            end = await connection.wait_ended()
            assert anyio.current_time() - began == pytest.approx(12, abs=0.2)
        assert end.cause is EndCause.LINK_BROKE
        assert end.reason == "the link broke: the network has gone; the peer did not come back within 12 s"
        assert end.error is BROKEN
        assert handler.events == ["start_up", "suspended", "shutdown"]

    run(backend, main)


@BACKENDS
def test_a_goodbye_and_a_close_end_a_call_at_once(backend):
    """Only a link that breaks is waited for. A suspended call can be closed, and its time limit goes on."""

    async def main():
        async with call(Notes()) as (connection, _, theirs):
            await theirs.aclose()
            assert (await connection.wait_ended()).cause is EndCause.PEER_LEFT
        async with call(Notes()) as (connection, ours, _):
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            connection.close("enough")
            assert (await connection.wait_ended()).reason == "enough"
        async with call(Notes(), time_limit=5) as (connection, ours, _):
            ours.break_link(BROKEN)
            assert (await connection.wait_ended()).cause is EndCause.TIME_LIMIT

    run(backend, main)


@BACKENDS
@pytest.mark.parametrize("latency", Latency)
def test_audio_that_waits_is_kept_or_dropped_by_latency(backend, latency):
    """Buffered: each emitted sample is played, before or after. Live: what waited when the link broke is dropped."""

    async def main():
        handler = Notes()
        async with call(handler, latency=latency) as (connection, ours, theirs):
            for value in range(1, 31):  # 3 s, in pieces of 100 ms
                handler.send.send_nowait(tone(value, 0.1))
            heard = await hear(theirs, 1)
            before = connection.playback()
            ours.break_link(BROKEN)
            await anyio.sleep(10)
            during = connection.playback()
            assert during.played == pytest.approx(before.played, abs=0.05)
            async with link(latency) as (again, theirs_now):
                connection.resume(again)
                heard += await hear(theirs_now, 4)
                after = connection.playback()
                sound = connection.statistics().transport.audio_out
        values = sorted(set(heard) - {0})
        if latency is Latency.BUFFERED:
            assert values == list(range(1, 31))
            assert heard.count(15) == heard.count(3), "no part of a piece is lost or played twice"
            assert after.played == pytest.approx(3, abs=0.03)
            assert during.waiting > 0.1
            assert (sound.queued, sound.played, sound.dropped) == (72_000, 72_000, 0), "what went over counts once"
        else:
            assert during.waiting == 0
            assert len(values) < 30
        assert after.waiting == 0

    run(backend, main)


class Music(AsyncStreamHandler):
    """Always has another second of music."""

    def __init__(self):
        super().__init__(output_sample_rate=24000)

    def copy(self):
        return type(self)()

    async def receive(self, frame):
        pass

    async def emit(self):
        return 24000, tone(500, 1)


class MusicInAThread(StreamHandler):
    """The same, in a thread."""

    def __init__(self):
        super().__init__(output_sample_rate=24000)

    def copy(self):
        return type(self)()

    def receive(self, frame):
        pass

    def emit(self):
        return 24000, tone(500, 1)


@BACKENDS
@pytest.mark.parametrize("music", [Music, MusicInAThread])
def test_no_more_waits_however_often_the_link_is_replaced(backend, music):
    """With each new link, `emit` is asked only when little is left of what waited before."""

    async def main():
        async with call(music()) as (connection, ours, _), AsyncExitStack() as links:
            for _ in range(6):
                ours.break_link(BROKEN)
                await anyio.sleep(0.1)
                ours, _ = await links.enter_async_context(link())
                connection.resume(ours)
                await anyio.sleep(0.1)
                assert connection.playback().waiting < 1.25

    run(backend, main)


class Sync(StreamHandler):
    """Its `emit` waits in a queue, as most do, so it is under way when the link breaks."""

    def __init__(self):
        super().__init__(output_sample_rate=24000)
        self.queue = queue.Queue()
        self.events = []

    def copy(self):
        return Sync()

    def receive(self, frame):
        pass

    def emit(self):
        return self.queue.get()

    def on_suspended(self):
        self.events.append("suspended")

    async def on_resumed(self):
        self.events.append("resumed")

    def shutdown(self):
        self.queue.put(None)


@pytest.mark.anyio
async def test_what_a_thread_emits_while_suspended_is_spoken_afterwards():
    """The `emit` that was under way returns while nobody listens: its audio is the first that is heard."""
    handler = Sync()
    async with call(handler) as (connection, ours, _):
        ours.break_link(BROKEN)
        while not handler.events:
            await anyio.sleep(0.01)
        handler.queue.put((24000, tone(900, 0.1)))
        handler.queue.put((24000, tone(901, 0.1)))
        async with link() as (again, theirs):
            connection.resume(again)
            heard = []
            while 901 not in heard:
                heard += [int(v) for v in (await theirs.audio_in.take()).samples[0, ::48]]
            assert [value for value in dict.fromkeys(heard) if value] == [900, 901]
        assert handler.events[:2] == ["suspended", "resumed"]


@pytest.mark.anyio
@pytest.mark.parametrize("tried", [False, True], ids=["no link between", "a link between that failed"])
async def test_what_was_cleared_while_suspended_is_not_spoken_afterwards(tried):
    """Neither what waits to be played, nor what `emit` has given and nobody has taken."""
    handler = Sync()
    async with call(handler) as (connection, ours, _):
        ours.break_link(BROKEN)
        while not handler.events:
            await anyio.sleep(0.01)
        handler.queue.put((24000, tone(900, 0.1)))
        await connection._media._turns["emit"].left.wait()
        async with link() as (dead, _), link() as (again, theirs):
            dead.break_link(BROKEN)
            if tried:
                connection.resume(dead)
                while connection.transport is not dead:
                    await anyio.sleep(0.01)
            connection.clear_queue()
            handler.queue.put((24000, tone(901, 0.1)))
            connection.resume(again)
            heard = []
            while 901 not in heard:
                heard += [int(v) for v in (await theirs.audio_in.take()).samples[0, ::48]]
            assert 900 not in heard


class CutOff(Notes):
    """Its link breaks while what it has emitted is being converted."""

    def copy(self):
        return CutOff()

    async def emit(self):
        emitted = await super().emit()
        self.loop.call_soon(self.cut)
        return emitted


@BACKENDS
def test_a_long_piece_that_was_being_converted_is_played_to_its_end(backend):
    """It is converted half a second at a time; the link breaks after some of them."""

    async def main():
        handler = CutOff()
        async with call(handler) as (connection, ours, _):
            handler.cut = lambda: ours.break_link(BROKEN)
            handler.send.send_nowait(tone(700, 60))
            await anyio.sleep(1)
            assert "suspended" in handler.events
            assert connection.playback().waiting < 50
            handler.cut = lambda: None
            async with link() as (again, _):
                connection.resume(again)
                await anyio.sleep(70)
                assert connection.playback().played == pytest.approx(60, abs=0.1)
                assert connection.statistics().emitted == 1

    run(backend, main)


@pytest.mark.anyio
@pytest.mark.parametrize("cleared", [False, True])
async def test_a_long_piece_that_a_thread_was_converting_is_played_to_its_end(cleared, monkeypatch):
    """The link breaks and the next one is there while a worker thread converts: the next one plays the rest.

    Unless it was cleared before the next one came.
    """
    handler, calls, resumed, feed = Sync(), [], threading.Event(), Voice.feed
    with anyio.fail_after(20):
        async with call(handler) as (connection, ours, _), link() as (again, theirs):

            def slow(voice, samples, rate):
                calls.append(rate)
                if len(calls) == 2:
                    ours.break_link(BROKEN)
                    assert resumed.wait(20)
                return feed(voice, samples, rate)

            monkeypatch.setattr(Voice, "feed", slow)
            handler.queue.put((24000, tone(902, 0.75)))
            while not handler.events:
                await anyio.sleep(0.01)
            if cleared:
                connection.clear_queue()
            connection.resume(again)
            while "resumed" not in handler.events:
                await anyio.sleep(0.01)
            resumed.set()
            handler.queue.put((24000, tone(903, 0.1)))
            heard = set()
            while 903 not in heard:
                heard |= {*(await theirs.audio_in.take()).samples.ravel().tolist()}
            assert (902 in heard) is not cleared
            if not cleared:
                assert connection.playback().played == pytest.approx(0.75, abs=0.1)


@BACKENDS
def test_the_peer_may_come_back_before_the_loss_is_noticed(backend):
    """A live call goes over to the new link; what the old one reports later changes nothing, and it is closed."""

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _), link() as (again, theirs):
            connection.resume(again)
            ours._link.end()  # a goodbye over the old link, in the same moment
            await connection.wait_released(ours)
            assert ours._link.closed
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            assert handler.events == ["start_up", "suspended", "resumed"]
            handler.send.send_nowait(tone(700, 0.5))
            assert 700 in await hear(theirs, 1)
            async with link() as (third, theirs):
                connection.resume(third)
                await anyio.sleep(1)
                assert handler.events.count("resumed") == 2
                await theirs.aclose()
                await connection.wait_ended()

    run(backend, main)


@BACKENDS
def test_an_attempt_that_fails_leaves_the_call_waiting(backend):
    """A link that does not connect is closed, and the next may come; audio that waited is still there."""

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _):
            for value in range(1, 11):
                handler.send.send_nowait(tone(value, 0.1))
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            async with link() as (dead, _), link() as (slow, nobody), link() as (again, theirs):
                dead.break_link(BROKEN)
                connection.resume(dead)
                await anyio.sleep(1)
                assert handler.events == ["start_up", "suspended"]
                slow._link.connected.clear()
                connection.resume(slow)
                heard = await hear(nobody, 0.5)  # a link in memory carries audio before it is connected
                connection.resume(again)  # the client has given up `slow`
                heard += await hear(theirs, 3)
                assert set(heard) - {0} == set(range(1, 11))
                assert slow._link.closed
                assert dead._link.closed
                assert handler.events == ["start_up", "suspended", "resumed"]

    run(backend, main)


@BACKENDS
def test_messages_wait_for_the_next_link(backend):
    """`send_message` waits; `channel.send` is kept, up to a bound; both come in order."""

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _):
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            handler.channel.send("one")
            handler.channel.send("two")
            handler.loop.create_task(handler.send_message("three"))
            await anyio.sleep(1)
            with pytest.raises(anyio.WouldBlock):
                for _ in range(1000):
                    handler.channel.send("x" * 1000)
            async with link() as (again, theirs):
                connection.resume(again)
                got = [await theirs.messages_in.take() for _ in range(2)]
                while (message := await theirs.messages_in.take()).startswith("x"):
                    pass
                assert [*got, message] == ["one", "two", "three"]

    run(backend, main)


@BACKENDS
def test_messages_that_the_next_link_did_not_take_wait_for_the_one_after(backend, monkeypatch):
    """A data channel may still be closed when its connection breaks again."""

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _), link() as (closed, _), link() as (again, theirs):
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            handler.channel.send("one")
            monkeypatch.setattr(closed, "wait_messages_open", anyio.sleep_forever)
            connection.resume(closed)
            await anyio.sleep(1)
            assert handler.events[-1] == "resumed"
            handler.channel.send("two")
            closed.break_link(BROKEN)
            await anyio.sleep(1)
            handler.channel.send("three")
            connection.resume(again)
            assert [await theirs.messages_in.take() for _ in range(3)] == ["one", "two", "three"]

    run(backend, main)


@BACKENDS
def test_a_reply_goes_on_where_it_was(backend):
    """A reply that was being spoken is not taken for played: the rest is heard after, and it ends then."""

    async def main():
        events = []

        def reply(_):
            for value in range(1, 41):
                yield 24000, tone(value, 0.1)

        class Replies(ReplyHandler):
            async def receive(self, frame):
                pass

            def copy(self):
                return Replies(reply)

        handler = Replies(reply, on_event=lambda event: events.append(type(event).__name__))
        async with call(handler) as (connection, ours, theirs):
            handler.reply_to("hello")
            heard = await hear(theirs, 2)
            ours.break_link(BROKEN)
            await anyio.sleep(8)
            assert handler.bot_speaking
            assert "PlayoutFinished" not in events
            assert 1.5 < handler.heard().seconds < 2.2
            async with link() as (again, theirs):
                connection.resume(again)
                heard += await hear(theirs, 4)
                assert sorted(set(heard) - {0}) == list(range(1, 41))
                assert events[-1] == "PlayoutFinished"
                assert handler.heard().complete
                assert handler.heard().seconds == pytest.approx(4, abs=0.05)

    run(backend, main)


@BACKENDS
def test_a_method_that_swallows_its_cancellation_does_not_hold_a_call_for_ever(backend):
    """The call ends when its time is over, as if nobody had come back."""

    async def main():
        class Stubborn(Notes):
            async def receive(self, frame):
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(40)

        async with call(Stubborn(), resume=10.0) as (connection, ours, _):
            began = anyio.current_time()
            ours.break_link(BROKEN)
            await connection._over.wait()
            assert anyio.current_time() - began == pytest.approx(10, abs=0.2)
            assert connection.end.cause is EndCause.LINK_BROKE

    run(backend, main)


@BACKENDS
def test_without_resume_nothing_waits(backend):
    """The link broke, the call ends; and there is nothing to resume before it begins or after its end."""

    async def main():
        handler = Notes()
        async with call(handler, resume=None) as (connection, ours, theirs):
            ours.break_link(BROKEN)
            assert (await connection.wait_ended()).cause is EndCause.LINK_BROKE
            with pytest.raises(RuntimeError, match="resume=seconds"):
                connection.resume(theirs)
        assert handler.events == ["start_up", "shutdown"]
        async with link() as (ours, theirs):
            with pytest.raises(ConnectionExists):
                Connection(ours, Sync(), resume=5).resume(theirs)

    run(backend, main)


@BACKENDS
def test_an_offered_link_is_closed_with_the_call(backend):
    """Whatever was offered in the last moment, nobody else would close it."""

    async def main():
        async with call(Notes()) as (connection, ours, _), link() as (again, _):
            ours.break_link(BROKEN)
            await anyio.sleep(1)
            connection.resume(again)
            connection.close()
            await connection.wait_ended()
            assert again._link.closed
            await connection.wait_released(again)

    run(backend, main)


@BACKENDS
def test_what_is_being_said_goes_on_over_the_next_link(backend):
    """`say` waits while there is no link, then says the rest; what `emit` gave meanwhile comes after it."""

    async def main():
        handler, heard = Notes(), []

        async def words():
            for _ in range(30):
                yield 24000, tone(900, 0.1)

        async def say():
            heard.append(await handler.say(words()))

        async with call(handler) as (connection, ours, theirs), anyio.create_task_group() as tasks:
            tasks.start_soon(say)
            await anyio.sleep(0.2)
            handler.send.send_nowait(tone(700, 0.5))
            before = (await hear(theirs, 0.8)).count(900)
            ours.break_link(BROKEN)
            await anyio.sleep(5)
            assert not heard
            async with link() as (again, other):
                connection.resume(again)
                after = [value for value in await hear(other, 4) if value]
                assert after.count(900) + before == pytest.approx(30 * 50, rel=0.1)
                assert after.index(700) > after.count(900) - 60, "in one piece"
                assert 700 in after
                assert heard[0].complete
                assert heard[0].seconds == pytest.approx(3, abs=0.1)
                tasks.cancel_scope.cancel()

    run(backend, main)


@BACKENDS
def test_a_recording_goes_on(backend, tmp_path):
    """One file for the whole call: both sides before and after, with silence while nobody was there."""
    path = tmp_path / "call.wav"

    async def main():
        handler = Notes()
        async with call(handler) as (connection, ours, _):
            recording = connection.record(path)
            handler.send.send_nowait(tone(700, 1))
            await anyio.sleep(2)
            ours.break_link(BROKEN)
            await anyio.sleep(5)
            assert connection.is_suspended
            async with link() as (again, _):
                connection.resume(again)
                handler.send.send_nowait(tone(900, 1))
                await anyio.sleep(3)
                assert not connection.is_suspended
                connection.close()
                await connection.wait_ended()
            assert recording.error is None
            assert recording.dropped == 0

    run(backend, main)
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(2**30), np.int16).reshape(-1, 2)
    assert len(samples) / 24000 == pytest.approx(10, abs=0.2)
    caller, left = np.flatnonzero(samples[:, 0]) / 24000, samples[:, 1]
    assert caller[0] < 0.1
    assert np.diff(caller).max() == pytest.approx(5, abs=0.3)
    assert (np.count_nonzero(left == 700) / 24000, np.count_nonzero(left == 900) / 24000) == pytest.approx(
        (1, 1), abs=0.03
    )
    assert np.flatnonzero(left == 900)[0] / 24000 == pytest.approx(7, abs=0.3)
