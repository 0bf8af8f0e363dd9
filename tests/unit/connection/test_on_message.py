"""What a peer says beside the media reaches `on_message`, whatever it came over, in either colour."""

from __future__ import annotations

import json
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from line_pairs import websocket_pair

from rtcflow import AsyncStreamHandler, AudioFormat, StreamHandler, WebRTCConfig, memory_pair, open_engine
from rtcflow.connection.connection import Connection
from rtcflow.ends import EndCause, Timeouts
from rtcflow.protocol import messages

pytestmark = pytest.mark.anyio

TEXTS = [
    "hello",
    json.dumps({"type": "move", "x": 1, "words": "größer"}),
    json.dumps([1, 2]),
    # What only a server says is nothing to the server: here it is the application's.
    *map(messages.encode, (messages.Log("mine"), messages.SendInput(), messages.UpdateConnection("closed"))),
]


class Hears(AsyncStreamHandler):
    """Notes what it hears; "raise" makes it fail."""

    def __init__(self):
        super().__init__()
        self.heard, self.threads, self.busy = [], set(), False

    async def receive(self, frame): ...

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return type(self)()

    async def on_message(self, message):
        assert not self.busy, "one at a time"
        self.busy = True
        await anyio.sleep(0)
        self.note(message)
        self.busy = False

    async def on_dtmf(self, digit):
        self.note(("key", digit))

    def note(self, what):
        if what == "raise":
            raise LookupError(what)
        self.threads.add(threading.get_ident())
        self.heard.append(what)


class PlainHears(Hears):
    """An async handler may have a plain method, too."""

    def on_message(self, message):
        self.note(message)


class SyncHears(StreamHandler):
    """The same in worker threads."""

    def __init__(self):
        super().__init__()
        self.heard, self.threads = [], set()

    def receive(self, frame): ...

    def emit(self):
        return None

    def copy(self):
        return SyncHears()

    note, on_message = Hears.note, PlainHears.on_message

    def on_dtmf(self, digit):
        self.note(("key", digit))


@asynccontextmanager
async def webrtc():
    async with open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as engine:
        theirs = await engine.offer()
        ours = await engine.answer(theirs.offer_sdp)
        await theirs.accept_answer(ours.answer)
        yield ours, theirs
        await theirs.aclose()
        await ours.aclose()


PAIRS = {"memory": memory_pair, "webrtc": webrtc, "websocket": websocket_pair("pcm_s16le", 48000)}


async def serve(make_pair, handler, texts, until):
    """Say `texts` to `handler` until `until()`; returns how the connection ended."""
    with anyio.fail_after(20):
        async with make_pair() as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, handler, timeouts=Timeouts(shutdown=0.5, grace=0.1, goodbye=0.1))

            async def run():
                try:
                    await connection.run()
                except LookupError:
                    return

            tasks.start_soon(run)
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            await theirs.wait_connected()
            await theirs.wait_messages_open()
            for text in texts:
                theirs.send_message_nowait(text)
            while not until():
                await anyio.sleep(0.005)
            connection.close("enough")
            await connection.wait_ended()
    return connection.end


@pytest.mark.parametrize("handler", [Hears, PlainHears, SyncHears])
@pytest.mark.parametrize("pair", list(PAIRS))
async def test_messages_reach_on_message_as_they_came(pair, handler):
    """All of them, in order, one at a time, in the method's colour; keys go to on_dtmf, the handshake nowhere."""
    hears = handler()
    said = ["handshake", *TEXTS, messages.encode(messages.Dtmf("5"))]
    await serve(PAIRS[pair], hears, said, lambda: len(hears.heard) > len(TEXTS))
    assert hears.heard == [*TEXTS, ("key", "5")]
    in_loop = threading.get_ident() in hears.threads
    assert in_loop is (handler is not SyncHears)
    assert (hears.threads != {threading.get_ident()}) is (handler is not Hears)


@pytest.mark.parametrize("handler", [Hears, SyncHears])
async def test_what_on_message_raises_ends_the_connection(handler):
    """As with every other method of a handler."""
    hears = handler()
    end = await serve(memory_pair, hears, ["hello", "raise", "later"], lambda: hears._ended)
    assert end.cause is EndCause.HANDLER_RAISED
    assert isinstance(end.error, LookupError)
    assert hears.heard == ["hello"]


async def test_a_handler_that_does_not_listen_is_not_asked():
    """The base class's empty method takes no thread, however much is said."""

    class Deaf(SyncHears):
        on_message = StreamHandler.on_message

    deaf = Deaf()
    await serve(memory_pair, deaf, [*TEXTS, messages.encode(messages.Dtmf("#"))], lambda: deaf.heard)
    assert deaf.heard == [("key", "#")]
