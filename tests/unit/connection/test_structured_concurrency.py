"""What docs/structured-concurrency.md says, where no other test shows it; and that each of its rows has a test."""

from __future__ import annotations

import queue
import re
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from rtcflow._core.bridge import Event
from rtcflow.connection import Connection
from rtcflow.context import get_current_context
from rtcflow.ends import EndCause, Timeouts
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.protocol import messages
from rtcflow.stream import Stream
from rtcflow.testing import open_caller
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
QUICK = Timeouts(connect=5, shutdown=1, grace=0.1, goodbye=0.5)


def test_each_sentence_has_its_test():
    """Every row of the tables in docs/structured-concurrency.md names a test that exists."""
    text = (ROOT / "docs" / "structured-concurrency.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| What")]
    assert len(rows) > 20
    for row in rows:
        (found,) = re.findall(r"\| `(test_\w+\.py)::(test_\w+)` \|$", row)
        files = list((ROOT / "tests").rglob(found[0]))
        assert files, row
        assert f"def {found[1]}(" in files[0].read_text(), row


class Quiet(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return type(self)()


@asynccontextmanager
async def call(handler):
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=QUICK)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                await anyio.sleep(0.3)
                yield connection, theirs
                connection.close()


async def test_a_goodbye_in_shutdown_reaches_the_peer():
    """The link is open as long as shutdown runs; rtcflow's own goodbye comes after it."""

    class Polite(Quiet):
        async def shutdown(self):
            await anyio.sleep(0.01)
            await self.send_message("goodbye")

    async with call(Polite()) as (connection, theirs):
        connection.close()
        assert await theirs.messages_in.take() == "goodbye"
        assert isinstance(messages.decode(await theirs.messages_in.take()), messages.EndStream)


async def test_everything_that_was_started_has_ended_before_shutdown():
    """Async methods and tasks of handler.loop are cancelled, and have ended, when shutdown is called."""
    events = []

    class Handler(Quiet):
        async def work(self, name):
            try:
                await anyio.sleep_forever()
            finally:
                events.append(name)

        async def start_up(self):
            self.loop.create_task(self.work("task"))
            await self.work("start_up")

        async def emit(self):
            await self.work("emit")

        async def shutdown(self):
            events.append("shutdown")

    async with call(Handler()):
        pass
    assert sorted(events[:-1]) == ["emit", "start_up", "task"]
    assert events[-1] == "shutdown"


async def test_a_sync_method_may_still_run_beside_shutdown():
    """Threads cannot be cancelled: shutdown is where to release what they wait for."""
    beside = []

    class Handler(StreamHandler):
        def __init__(self):
            super().__init__()
            self.free, self.inside, self.began = threading.Event(), False, Event()

        def receive(self, frame):
            pass

        def emit(self):
            self.inside = True
            self.began.set()
            self.free.wait(5)
            self.inside = False

        def shutdown(self):
            beside.append(self.inside)
            self.free.set()

        def copy(self):
            return Handler()

    handler = Handler()
    async with call(handler):
        await handler.began.wait()
    assert beside == [True]


async def test_a_thread_that_waits_for_ever_is_interrupted_after_shutdown():
    """Until then, shutdown may release it in its own way."""
    events = []

    class Handler(StreamHandler):
        def receive(self, frame):
            pass

        def emit(self):
            try:
                began.set()
                queue.Queue().get()
            finally:
                events.append("interrupted")

        def shutdown(self):
            events.append("shutdown")

        def copy(self):
            return Handler()

    began = Event()
    async with call(Handler()):
        await began.wait()
    assert events == ["shutdown", "interrupted"]


async def test_waits_for_arguments_end_after_shutdown():
    """`args_set` and `channel_set` are closed when shutdown has returned."""
    released = []

    class Handler(Quiet):
        async def shutdown(self):
            await anyio.sleep(0.02)
            released.append("shutdown")

    handler = Handler()

    async def wait():
        with pytest.raises(anyio.ClosedResourceError):
            await handler.args_set.wait()
        released.append("waiter")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        async with call(handler):
            pass
    assert released == ["shutdown", "waiter"]


async def test_context_variables_of_the_call_are_seen_in_tasks_it_starts():
    """A task group of the handler's own, and a task of handler.loop, see whose call it is."""
    seen = []

    class Handler(Quiet):
        async def look(self):
            seen.append(get_current_context().transport)

        async def start_up(self):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.look)
            await self.loop.create_task(self.look())

    async with call(Handler()):
        while len(seen) < 2:
            await anyio.sleep(0.01)
    assert seen == ["memory", "memory"]


async def test_a_task_group_opens_and_closes_within_one_method():
    """The way that works: start_up opens it and stays in it; the other methods start tasks in it."""
    ran = []

    class Handler(Quiet):
        async def start_up(self):
            async with anyio.create_task_group() as self.tasks:
                await anyio.sleep_forever()

        async def on_message(self, message):
            self.tasks.start_soon(self.work, message)

        async def work(self, message):
            try:
                ran.append(message)
                await anyio.sleep_forever()
            finally:
                ran.append("cancelled")

    async with call(Handler()) as (_, theirs):
        theirs.send_message_nowait("hello")
        while not ran:
            await anyio.sleep(0.01)
    assert ran == ["hello", "cancelled"]


async def test_a_task_group_that_stays_open_is_an_error_that_says_what_to_write():
    """A group that start_up enters and shutdown leaves ends the call; the server and its other tasks go on."""

    class Handler(Quiet):
        async def start_up(self):
            self.tasks = anyio.create_task_group()
            await self.tasks.__aenter__()

        async def shutdown(self):
            await self.tasks.__aexit__(None, None, None)

    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        connection = Connection(ours, Handler(), timeouts=QUICK)
        await connection.serve()
    assert connection.end.cause is EndCause.HANDLER_RAISED
    assert "must be opened and closed within one method" in connection.end.reason
    await anyio.sleep(0)


@pytest.mark.parametrize(
    "open_block",
    [memory_pair, lambda: Stream(Quiet()).running(), lambda: open_caller(Quiet())],
    ids=["memory_pair", "running", "open_caller"],
)
@pytest.mark.parametrize("number", [1, 2])
async def test_a_group_that_a_block_raises_arrives_as_it_is(open_block, number):
    """The task groups behind these blocks add no group of their own, and take none away."""
    mine = ExceptionGroup("mine", [ValueError(each) for each in range(number)])
    with pytest.raises(ExceptionGroup) as raised:
        async with open_block():
            raise mine
    assert (raised.value.message, raised.value.exceptions) == ("mine", mine.exceptions)  # trio copies groups


async def test_a_sync_method_asks_whether_the_call_is_running():
    """`running` turns false, and `ended.wait_sync` returns, as soon as the call ends."""
    seen, began = [], Event()

    class Handler(StreamHandler):
        def receive(self, frame):
            pass

        def emit(self):
            began.set()
            while self.running:
                seen.append(self.ended.wait_sync(30))

        def copy(self):
            return Handler()

    async with call(Handler()) as (connection, _):
        await began.wait()
    assert seen in ([True], [])  # the latter: the call ended before `running` was asked
    assert connection.statistics().threads_abandoned == 0


@pytest.fixture
async def pair():
    async with memory_pair() as pair:
        yield pair


async def test_a_pair_works_as_a_fixture_of_anyios_plugin(pair):
    """Its task group is opened and closed in one task: the plugin runs a fixture in a task of its own."""
    ours, theirs = pair
    theirs.start(AudioFormat(48000), AudioFormat(48000))
    handler = Quiet()
    began = Event()
    async with anyio.create_task_group() as tasks:
        connection = Connection(ours, handler, timeouts=QUICK)
        tasks.start_soon(connection.run)
        began.set()
        await theirs.aclose()
    assert connection.end is not None
