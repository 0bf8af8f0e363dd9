"""A client's call over one transport after the other, in virtual time. Real peer connections: test_resume_webrtc.py."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import av
import numpy as np
import pytest

from rtcflow.client import resuming
from rtcflow.client.resuming import ResumingCall
from rtcflow.exceptions import (
    ConnectionExists,
    InvalidOffer,
    NegotiationError,
    NotServing,
    RemoteProtocolError,
    TooManyRequests,
)
from rtcflow.frames import AudioFormat
from rtcflow.protocol.resume import Permit
from rtcflow.protocol.signalling import error_body, parse_reply
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
PERMIT = Permit("secret", 30.0)
GONE = ConnectionError("the network has gone")
SPEECH = AudioFormat(24000)


def run(backend, main):
    name, options = virtual_backend(backend)

    async def limited():
        with anyio.fail_after(300):
            await main()

    anyio.run(limited, backend=name, backend_options=options)


class Server:
    """Gives the client one link after the other; `refusals` are raised first."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.refusals, self.asked, self.ends, self.stopped = [], [], [], []

    async def stop(self, permit):
        self.stopped.append(permit)

    async def open(self):
        self.asked.append(anyio.current_time())
        if self.refusals:
            raise self.refusals.pop(0)
        ours, theirs = self.pairs.pop()
        theirs.start(SPEECH, SPEECH)
        self.ends.append((ours, theirs))
        return ours


@asynccontextmanager
async def call(*refusals, permit=PERMIT):
    """A call that runs over its first link, and the server."""
    async with AsyncExitStack() as links:
        server = Server([await links.enter_async_context(memory_pair()) for _ in range(2)])
        made = ResumingCall(await server.open(), permit, server.stop)
        server.refusals, server.asked = list(refusals), []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.run, server.open)
            made.start(SPEECH, SPEECH)
            await made.wait_connected()
            yield made, server
            tasks.cancel_scope.cancel()


def parse_error(error):
    """What a client makes of the body in which a server tells of `error`."""
    try:
        parse_reply(json.dumps(error_body(error)).encode(), 200)
    except NegotiationError as refusal:
        return refusal


def tone(value, seconds):
    return np.full((1, round(24000 * seconds)), value, np.int16)


@BACKENDS
def test_audio_goes_on_over_the_next_link_and_its_time_with_it(backend):
    async def main():
        async with call(OSError(), OSError()) as (made, server):
            ours, theirs = server.ends[0]
            theirs.audio_out.put(tone(300, 1))
            first = [await made.audio_in.take() for _ in range(50)]
            ours.break_link(GONE)
            while len(server.ends) < 2:
                await anyio.sleep(0.05)
            await made.wait_connected()
            pauses = np.diff(server.asked)
            assert pauses == pytest.approx([0.1, 0.2], abs=0.01)  # they double
            server.ends[1][1].audio_out.put(tone(700, 1))
            second = await made.audio_in.take()
            assert {int(frame.samples[0, 0]) for frame in first} == {300}
            assert int(second.samples[0, 0]) == 700
            assert second.pts >= first[-1].pts + first[-1].samples.shape[1]
            assert made.resumed == 1
            assert made.statistics().details["resumed"] == 1
            assert "over <MemoryTransport" in repr(made)

    run(backend, main)


@BACKENDS
def test_messages_wait_while_there_is_no_link_and_keep_their_order(backend):
    async def main():
        async with call(OSError()) as (made, server):
            made.send_message_nowait("one")
            assert await server.ends[0][1].messages_in.take() == "one"
            server.ends[0][0].break_link(GONE)
            await anyio.sleep(0.05)
            made.send_message_nowait("two")
            made.send_message_nowait("three")
            with pytest.raises(anyio.WouldBlock):
                made.send_message_nowait("x" * resuming.WAITING)
            while len(server.ends) < 2:
                await anyio.sleep(0.05)
            await made.wait_messages_open()
            assert [await server.ends[1][1].messages_in.take() for _ in range(2)] == ["two", "three"]
            server.ends[1][1].send_message_nowait("four")
            assert await made.messages_in.take() == "four"

    run(backend, main)


@BACKENDS
def test_speech_and_pictures_reach_the_present_link_and_are_dropped_without_one(backend):
    async def main():
        async with call(*[OSError()] * 4) as (made, server):
            made.audio_out.put(tone(500, 10))
            made.video_out.put_nowait(av.VideoFrame(64, 48, "yuv420p"))
            _, theirs = server.ends[0]
            assert int((await theirs.audio_in.take()).samples[0, 0]) == 500
            assert (await theirs.video_in.take()).width == 64
            theirs.video_out.put_nowait(av.VideoFrame(32, 24, "yuv420p"))
            assert (await made.video_in.take()).width == 32
            server.ends[0][0].break_link(GONE)
            await anyio.sleep(0.05)
            before = made.audio_out.statistics().played
            made.video_out.put_nowait(av.VideoFrame(16, 16, "yuv420p"))  # nobody sees it
            while len(server.ends) < 2:
                await anyio.sleep(0.05)
            _, theirs = server.ends[1]
            assert int((await theirs.audio_in.take()).samples[0, 0]) == 500
            assert made.audio_out.statistics().played - before > 24000 * 0.5  # it went on meanwhile
            made.clear_audio()
            made.video_out.put_nowait(av.VideoFrame(64, 48, "yuv420p"))
            assert (await theirs.video_in.take()).width == 64

    run(backend, main)


@BACKENDS
@pytest.mark.parametrize("refusal", [InvalidOffer("the call is over"), RemoteProtocolError("what is this?")], ids=repr)
def test_a_refusal_ends_the_call_at_once(backend, refusal):
    async def main():
        async with call(OSError(), refusal) as (made, server):
            server.ends[0][0].break_link(GONE)
            with pytest.raises(anyio.BrokenResourceError) as ended:
                await made.wait_ended()
            assert f"the call could not be resumed: {refusal}" in str(ended.value.__cause__)
            assert len(server.asked) == 2

    run(backend, main)


@BACKENDS
@pytest.mark.parametrize(
    "refusal",
    [
        NotServing("the servers cannot reach one another now; try again"),
        NegotiationError("Bad Gateway", status=502),
        TooManyRequests(1),
        ConnectionExists(),
        parse_error(NotServing("the same over a WebSocket, whose answers have no status")),
    ],
    ids=repr,
)
def test_a_server_that_is_not_ready_is_asked_again(backend, refusal):
    """In a cluster, or behind a proxy, that takes a moment; the permit says for how long it is worth it."""

    async def main():
        async with call(refusal, refusal) as (made, server):
            server.ends[0][0].break_link(GONE)
            while not made.resumed:
                await anyio.sleep(0.05)
            assert len(server.asked) == 3

    run(backend, main)


@BACKENDS
def test_it_gives_up_after_the_permits_seconds(backend):
    async def main():
        async with call(*[OSError()] * 99) as (made, server):
            begin = anyio.current_time()
            server.ends[0][0].break_link(GONE)
            with pytest.raises(anyio.BrokenResourceError) as ended:
                await made.wait_ended()
            assert ended.value.__cause__ is GONE
            assert anyio.current_time() - begin == pytest.approx(PERMIT.seconds, abs=0.1)
            assert max(np.diff(server.asked)) == pytest.approx(resuming.LONGEST_PAUSE, abs=0.01)

    run(backend, main)


@BACKENDS
@pytest.mark.parametrize("how", ["the server hangs up", "we close it", "no permit"])
def test_it_does_not_come_back_if(backend, how):
    async def main():
        async with call(permit=None if how == "no permit" else PERMIT) as (made, server):
            ours, theirs = server.ends[0]
            expected = None
            if how == "the server hangs up":
                await theirs.aclose()
            elif how == "we close it":
                await made.aclose()
                await made.aclose()
                expected = anyio.ClosedResourceError
            else:
                ours.break_link(GONE)
                expected = anyio.BrokenResourceError
            if expected is None:
                await made.wait_ended()
            else:
                with pytest.raises(expected):
                    await made.wait_ended()
            await anyio.sleep(1)
            assert server.asked == []
            assert server.stopped == [PERMIT] * (how == "we close it")

    run(backend, main)


@BACKENDS
def test_a_call_that_is_closed_while_it_comes_back_says_so_and_tries_no_more(backend):
    """The server would wait for the caller otherwise: the link that could carry a goodbye is broken."""

    async def main():
        async with call(*[OSError()] * 99) as (made, server):
            server.ends[0][0].break_link(GONE)
            await anyio.sleep(5)
            await made.aclose()
            await made.aclose()
            assert server.stopped == [PERMIT]
            tries = len(server.asked)
            assert tries > 3
            await anyio.sleep(10)
            assert len(server.asked) == tries

    run(backend, main)
