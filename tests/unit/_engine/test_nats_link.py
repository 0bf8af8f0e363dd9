"""The connection to NATS: the end of a subscription loses no message, leaves nothing behind and harms nothing."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from cluster_fleet import Link
from nats_process import NatsProcess

from rtcflow._core.bridge import loop_clock
from rtcflow._engine import nats_link
from rtcflow._engine.nats_link import CannotConnect, LinkDown, NatsLink, NatsOptions, NoListener

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def nats():
    server = NatsProcess()
    yield server
    server.kill()


@asynccontextmanager
async def linked(nats):
    link = NatsLink(NatsOptions(servers=(nats.url,), prefix="test"), loop_clock())
    with anyio.fail_after(120):
        try:
            await link.open()
            yield link
        finally:
            await link.aclose()


async def told(link):
    """Wait until what was posted has been handed to the connection."""
    await link._thread.call(link._outbox.join)


async def heard(link):
    """Wait until NATS has heard what was posted."""
    await told(link)
    await nobody_listens(link, "test.other")


async def nobody_listens(link, subject):
    with pytest.raises(NoListener):
        await link.request(subject, b"", 15)


async def test_a_message_on_its_way_is_delivered(nats):
    """The question has reached the connection, but nobody has read it, when the subscription ends."""
    async with linked(nats) as one, linked(nats) as two:
        await one.subscribe("test.name")
        await heard(one)  # `end_now` holds up what is still to be written
        sent, ended = threading.Event(), threading.Event()

        async def end_now():
            one._end("test.name")
            ended.set()
            assert sent.wait(30)  # this loop reads nothing meanwhile

        async def ask():
            assert await anyio.to_thread.run_sync(ended.wait, 10)
            two.publish("test.name", b"question")
            await told(two)
            await two._thread.call(two._client.flush)
            await anyio.sleep(0.05)  # NATS has sent it on
            sent.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await one._thread.call(end_now)
        message = await one.messages.take_in_a_row()
        assert message.data == b"question"
        await heard(one)
        await nobody_listens(two, "test.name")


async def test_a_late_answer_does_not_deafen_the_connection(nats, monkeypatch):
    """NATS is busy, and the wait for the end of a subscription ends first; then all goes on."""
    monkeypatch.setattr(nats_link, "ROUND", 0.05)
    async with linked(nats) as link:
        await link.subscribe("test.name")
        nats.pause()
        try:
            link.unsubscribe("test.name")
            await told(link)
            while link._forgetting is not None:
                await anyio.sleep(0.01)
        finally:
            nats.go_on()
        await heard(link)
        assert link.is_up


async def connected_again(first):
    """Wait until each link has another connection than the one it had: `first` says since when."""
    for link, since in first.items():
        while link.up_since in {None, since}:
            await anyio.sleep(0.01)


async def test_a_subscription_that_has_ended_stays_away_after_a_restart(nats):
    async with linked(nats) as one, linked(nats) as two:
        await one.subscribe("test.name")
        await one.subscribe("test.kept")
        await told(two)
        first = {link: link.up_since for link in (one, two)}
        nats.pause()
        one.unsubscribe("test.name")
        await told(one)
        nats.kill()
        nats.start()
        await connected_again(first)
        await heard(one)
        await nobody_listens(two, "test.name")
        with pytest.raises(TimeoutError):
            await two.request("test.kept", b"", 0.1)


async def test_a_subscription_that_was_cut_short_is_ended(nats):
    """Whenever `subscribe` is cancelled, `unsubscribe` leaves nothing."""
    async with linked(nats) as one, linked(nats) as two:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await one.subscribe("test.name")
        one.unsubscribe("test.name")
        await heard(one)
        await nobody_listens(two, "test.name")


async def test_a_connection_that_is_lost_while_a_question_times_out_is_made_again(nats):
    async with linked(nats) as one, linked(nats) as two:
        await two.subscribe("test.silent")
        await heard(two)
        lost, outcomes = one._on_lost, []

        async def lost_just_then():
            (waiting,) = one._waiting
            waiting.reschedule(0)
            while not waiting.expired():
                await asyncio.sleep(0)
            assert one._waiting  # the question does not know yet
            await lost()

        async def ask():
            with pytest.raises(LinkDown):
                await one.request("test.silent", b"", 100)
            outcomes.append("told")

        one._client._disconnected_cb = lost_just_then
        first = {link: link.up_since for link in (one, two)}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            await told(one)
            nats.kill()
            nats.start()
        await connected_again(first)
        assert outcomes == ["told"]
        one._client._disconnected_cb = lost


@asynccontextmanager
async def full(nats):
    """A connection on which nothing passes any more, with all buffers full. There is another way to the server."""
    way = Link(nats.port)
    options = NatsOptions(
        servers=(f"nats://127.0.0.1:{way.port}", nats.url), prefix="test", login={"dont_randomize": True}
    )
    link = NatsLink(options, loop_clock())

    async def fill():
        writer = link._client._transport._io_writer
        while not writer.transport.get_write_buffer_size():
            writer.write(b"PUB test.other 100000\r\n" + bytes(100_000) + b"\r\n")
            await asyncio.sleep(0)

    try:
        await link.open()
        way.cut()
        await link._thread.call(fill)
        with anyio.fail_after(120):
            yield link
    finally:
        way.mend()
        await link.aclose()
        await anyio.to_thread.run_sync(way.close)


async def test_a_server_that_takes_nothing_is_left_for_another_one(nats):
    async with full(nats) as link:
        first = {link: link.up_since}
        await link._thread.call(link._client._process_op_err, OSError())  # as its pings have no answer
        await connected_again(first)


async def test_a_server_that_takes_nothing_does_not_keep_the_connection_open(nats):
    """A node in this state never ended."""
    async with full(nats) as link:
        await link.aclose()


async def never(*_, **__):
    """`nats.connect` as it may be: a cancellation that comes just when an attempt ends is lost."""
    for _ in range(2):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


async def test_a_connection_that_loses_its_cancellation_is_given_up(nats, monkeypatch):
    """A node whose NATS refuses it hung for ever, now and then, and did not say why."""
    monkeypatch.setattr(nats_link, "CANCEL_AGAIN", 0.01)
    monkeypatch.setattr("nats.connect", never)
    with anyio.fail_after(120):
        link = NatsLink(NatsOptions(servers=(nats.url,), prefix="test", timeout=0.01), loop_clock())
        with pytest.raises(CannotConnect, match="within"):
            await link.open()
        link = NatsLink(NatsOptions(servers=(nats.url,), prefix="test", timeout=1000), loop_clock())
        with anyio.move_on_after(0.1) as scope:
            await link.open()
        assert scope.cancelled_caught
