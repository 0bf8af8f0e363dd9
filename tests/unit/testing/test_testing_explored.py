"""rtcflow's own parts under many orders of their tasks, and with their threads held up between lines."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import numpy as np
import pytest

import rtcflow
import rtcflow.testing
from rtcflow._core import bridge, flow, player, threads
from rtcflow._core.bridge import loop_clock
from rtcflow._core.flow import Flow, Policy
from rtcflow._core.player import Player
from rtcflow._core.threads import Crew, WorkerThreads
from rtcflow.connection import connection, media_loops
from rtcflow.frames import AudioFormat
from rtcflow.testing import explore

BACKENDS = ["trio", "asyncio"]
SEEDS = range(24)


def test_a_flow_hands_over_everything_in_order():
    """Two producers and a consumer that is cancelled in the middle: nothing is lost, doubled or out of order."""

    async def scenario():
        flow = Flow(100, Policy.DROP_OLDEST)
        got = []

        async def put(name):
            for n in range(4):
                flow.put_nowait((name, n))
                await anyio.lowlevel.checkpoint()

        async def take():
            while len(got) < 8:
                got.append(await flow.take())

        async def take_and_give_up(n):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(take)
                    for _ in range(n):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(put, "a")
            group.start_soon(put, "b")
            await take_and_give_up(3)
            group.start_soon(take)
        for name in "ab":
            assert [n for one, n in got if one == name] == [0, 1, 2, 3]

    explore(scenario, seeds=SEEDS)


def test_an_event_that_is_set_wakes_everybody():
    """Whoever waits, whenever the event is set, and whoever is cancelled meanwhile."""

    async def scenario():
        event, woken = rtcflow.Event(), []

        async def wait(n):
            await event.wait()
            woken.append(n)

        async def give_up():
            with anyio.move_on_after(0):
                await event.wait()

        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(wait, n)
                group.start_soon(give_up)
            group.start_soon(_set, event)
        assert sorted(woken) == [0, 1, 2]

    explore(scenario, seeds=SEEDS)


async def _set(event):
    await anyio.lowlevel.checkpoint()
    event.set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_ends_in_every_order(backend):
    """A whole connection: the peer hangs up while the handler is interrupted and the server closes."""

    class Tone(rtcflow.AsyncStreamHandler):
        async def receive(self, frame):
            pass

        async def emit(self):
            return 24000, rtcflow.testing.signals.tone(0.1)

        def copy(self):
            return Tone()

    async def scenario():
        await _end_from_both_sides(Tone())

    explore(scenario, seeds=range(12), backends=[backend])


async def _end_from_both_sides(handler):
    """A call that its caller and its server end while its queue is cleared; the record of it."""
    async with rtcflow.testing.open_caller(handler) as caller:
        await caller.wait(0.05)
        async with anyio.create_task_group() as group:
            group.start_soon(caller.hang_up)
            group.start_soon(_close, caller.connection)
            caller.handler.clear_queue()
        record = caller.record()
    assert record.error is None
    assert record.end.cause in {rtcflow.EndCause.PEER_LEFT, rtcflow.EndCause.CLOSED}
    return record


async def _close(connection):
    await anyio.lowlevel.checkpoint()
    connection.close("enough")


def test_a_full_flow_takes_one_after_the_other():
    """Two producers that wait for room, and one of them gives up: what was put arrives once, in order."""

    async def scenario():
        flow = Flow(2, Policy.BLOCK)
        put = {"a": [], "b": []}

        async def produce(name, patience):
            with anyio.move_on_after(patience):
                for n in range(4):
                    await flow.put((name, n))
                    put[name].append(n)

        got = []

        async def consume():
            with anyio.move_on_after(1):
                while True:
                    got.append(await flow.take())

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await anyio.sleep(0.01)  # it waits
            group.start_soon(produce, "a", 0.5)
            group.start_soon(produce, "b", 0.0)
        assert put["a"] == [0, 1, 2, 3]
        for name, sent in put.items():
            assert [n for one, n in got if one == name][: len(sent)] == sent

    explore(scenario, seeds=SEEDS)


def _frames(n):
    return [np.full((1, 480), 100 + i, np.int16) for i in range(n)]


async def _speak(audio_out, frames, over=None):
    try:
        for frame in frames:
            await audio_out.wait_for_room()
            audio_out.put(frame)
    except anyio.ClosedResourceError:
        pass
    if over is not None:
        over.append("speaker")


def _player():
    audio_out = Player(most_waiting=0.04, clock=loop_clock())
    audio_out.open(AudioFormat(24000))
    return audio_out


def test_a_player_plays_everything_in_order():
    """A handler that is held back again and again, a transport that takes, a goodbye that waits for the last frame."""

    async def scenario():
        audio_out, heard, over = _player(), [], []

        async def transport():
            while len(heard) < 8:
                heard.append(int((await audio_out.next_frame()).frame.samples[0, 0]))

        async with anyio.create_task_group() as group:
            group.start_soon(transport)
            await _speak(audio_out, _frames(8), over)
            await audio_out.drained()
            await audio_out.wait_played(0.15)
        assert heard == list(range(100, 108))

    explore(scenario, seeds=SEEDS, limit=10)


def test_a_player_lets_everybody_go_when_it_is_cleared():
    """Whoever waits for room or for the last frame goes on when everything is dropped."""

    async def scenario():
        audio_out, over = _player(), []
        async with anyio.create_task_group() as group:
            group.start_soon(_speak, audio_out, _frames(4), over)
            group.start_soon(audio_out.drained)
            group.start_soon(audio_out.wait_played, 10.0)
            for _ in range(3):
                await anyio.sleep(0.1)
                audio_out.clear()
        assert over

    explore(scenario, seeds=SEEDS, limit=10)


def test_a_player_lets_everybody_go_at_the_end():
    """Whoever waits for room when the call ends is told, in whatever order that happens."""

    async def scenario():
        audio_out, over = _player(), []
        async with anyio.create_task_group() as group:
            group.start_soon(_speak, audio_out, _frames(100), over)
            group.start_soon(_speak, audio_out, _frames(100), over)
            await anyio.lowlevel.checkpoint()
            audio_out.end()
        assert over == ["speaker", "speaker"]

    explore(scenario, seeds=SEEDS, limit=10)


def test_a_player_sends_nothing_stale():
    """A clear between the moment in which a frame is taken and the one in which it is sent."""

    async def scenario():
        audio_out, sent, stale = _player(), [], []

        async def transport():
            while True:
                frame = (await audio_out.next_frame()).frame
                await anyio.lowlevel.checkpoint()  # it is encoded
                if not audio_out.drop_stale():
                    sent.append(int(frame.samples[0, 0]))

        async with anyio.create_task_group() as group:
            group.start_soon(transport)
            audio_out.put(np.concatenate(_frames(6), axis=1))
            for _ in range(4):
                await anyio.lowlevel.checkpoint()
            audio_out.clear()
            stale[:] = sent
            await anyio.sleep(0.5)
            group.cancel_scope.cancel()
        assert sent == stale

    explore(scenario, seeds=SEEDS)


def test_an_event_that_is_closed_wakes_everybody():
    """Whoever waits for arguments when the call ends gets an error, in a task and in a thread."""

    async def scenario():
        event, told = rtcflow.Event(), []
        crew = Crew(WorkerThreads())

        async def wait():
            try:
                await event.wait()
            except anyio.ClosedResourceError:
                told.append("task")

        def wait_in_thread():
            try:
                event.wait_sync()
            except anyio.ClosedResourceError:
                told.append("thread")

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(crew.run, "waiter", wait_in_thread)
            await anyio.lowlevel.checkpoint()
            event.close()
        assert sorted(told) == ["task", "thread"]

    explore(scenario, seeds=range(8), limit=10)


def test_threads_and_tasks_wake_one_another():
    """A thread that takes and one that puts, held up between any two lines outside of locks: nothing is lost."""

    async def scenario():
        there, back = Flow(2, Policy.BLOCK), Flow(4, Policy.DROP_OLDEST)
        begun = rtcflow.Event()
        crew = Crew(WorkerThreads())

        def echo():
            begun.wait_sync()
            for _ in range(4):
                item = there.take_sync()
                back.put_sync(item)

        def send():
            begun.set()
            for n in range(4):
                there.put_sync(n)

        got = []

        async def hear():
            while len(got) < 4:
                got.append(await back.take())

        async with anyio.create_task_group() as group:
            group.start_soon(crew.run, "echo", echo)
            group.start_soon(crew.run, "send", send)
            group.start_soon(hear)
        assert got == [0, 1, 2, 3]

    explore(scenario, seeds=range(12), limit=30, threads=[flow, bridge, threads])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_with_threads_ends_in_every_order(backend):
    """A sync handler's call whose threads are held up anywhere while the peer hangs up and the server closes."""

    class Echo(rtcflow.StreamHandler):
        def __init__(self):
            super().__init__()
            self.frames = Flow(50, Policy.DROP_OLDEST)

        def receive(self, frame):
            self.frames.put_nowait(frame)

        def emit(self):
            return self.frames.take_sync()

        def shutdown(self):
            self.frames.close()

        def copy(self):
            return Echo()

    async def scenario():
        record = await _end_from_both_sides(Echo())
        assert record.statistics.threads_abandoned == 0

    modules = [flow, player, threads, media_loops, connection]
    explore(scenario, seeds=range(6), backends=[backend], threads=modules)
