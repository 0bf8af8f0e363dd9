"""`say`, `interrupt` and `reply_to` of handlers of one's own: beside `emit`, from tasks and threads, sync and async."""

from __future__ import annotations

import asyncio
import math
import queue
import threading

import anyio
import anyio.to_thread
import numpy as np
import pytest
from line_pairs import telephone_pair, websocket_pair

import rtcflow
from rtcflow.connection.connection import Connection
from rtcflow.exceptions import HandlerError, MediaError
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import get_current_handler
from rtcflow.handlers.turns import Say
from rtcflow.testing import open_caller, run_call
from rtcflow.testing.clocks import virtual_backend

pytestmark = pytest.mark.anyio

RATE = 24000
LOW, HIGH = 2000, 9000


def sound(level, seconds=0.2):
    return RATE, np.full((1, round(seconds * RATE)), level, np.int16)


class Own(rtcflow.AsyncStreamHandler):
    """Emits a low sound all the time; what it says is higher."""

    def __init__(self):
        super().__init__(output_sample_rate=RATE)
        self.answered = []

    def copy(self):
        return Own()

    async def receive(self, frame):
        pass

    async def emit(self):
        return sound(LOW, 0.02)

    async def reply(self, text):
        self.answered.append(text)
        yield Say(sound(HIGH), text)


class Sync(rtcflow.StreamHandler):
    """The same, with threads, and an `emit` that blocks until there is something."""

    def __init__(self):
        super().__init__(output_sample_rate=RATE)
        self.answered, self.queue = [], queue.Queue()

    def copy(self):
        return Sync()

    def receive(self, frame):
        self.queue.put(sound(LOW, 0.02))

    def emit(self):
        return self.queue.get()

    def reply(self, text):
        self.answered.append(text)
        yield Say(sound(HIGH), text)

    def shutdown(self):
        self.queue.put(None)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def levels(caller):
    """What the caller heard, frame by frame: "-" nothing, "l" of `emit`, "H" of `say`."""
    peaks = [np.abs(one.frame.samples).max() for one in caller.heard]
    return "".join("-" if peak < 500 else "l" if peak < 5000 else "H" for peak in peaks)


both = pytest.mark.parametrize("make", [Own, Sync])


@both
async def test_speech_by_say_is_heard_in_one_piece(make):
    """What `emit` gives meanwhile waits, and nothing of it is between; `say` tells what was heard."""

    async def words():
        for word in ["good ", *[""] * 18, "morning"]:
            yield Say(sound(HIGH, 0.05), word)

    async with open_caller(make()) as caller:
        caller.play_nowait(np.zeros(48000 * 4, np.int16))
        await caller.wait(1)
        heard = await caller.handler.say(words())
        assert heard.complete
        assert heard.text == "good morning"
        assert heard.seconds == pytest.approx(1.0, abs=0.03)
        await caller.wait(0.5)
        said = levels(caller).strip("-")
        assert "H" * 49 in said
        assert said.startswith("l")
        assert said.endswith("l")
        assert len(said.strip("l")) in {50, 51}, "in one piece"


@both
@pytest.mark.parametrize("how", ["interrupt", "clear_queue"])
@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_it_is_interrupted_from_everywhere(make, how, where):
    """The generator is closed, the sound stops, and `heard` counts nothing that was dropped."""
    closed = []

    async def talk():
        try:
            for number in range(100):
                yield Say(sound(HIGH, 0.1), f"w{number} ")
        finally:
            closed.append(anyio.current_time())

    async with open_caller(make()) as caller:
        await caller.wait(0.5)
        task = caller.handler.loop.create_task(caller.handler.say(talk()))
        await caller.wait(1)
        stop = getattr(caller.handler, how)
        if where == "loop":
            stop()
        else:
            await anyio.to_thread.run_sync(stop)
        at = anyio.current_time()
        heard = await task
        await caller.wait(1)
        assert not heard.complete
        assert heard.seconds == pytest.approx(0.8 if make is Own else 1.0, abs=0.05)  # after what `emit` gave
        assert closed == [pytest.approx(at, abs=0.02)]
        frames = levels(caller).count("H")
        assert heard.seconds == pytest.approx(0.02 * frames, abs=0.03)
        assert heard.text.split() == [f"w{number}" for number in range(round(heard.seconds * 10))]


@both
async def test_a_text_is_answered(make):
    """From the loop and from a thread. The second text takes the place of the first answer."""
    async with open_caller(make()) as caller:
        await caller.wait(0.2)
        caller.handler.reply_to("one")
        await caller.wait(1)
        assert levels(caller).count("H") == 10
        await anyio.to_thread.run_sync(caller.handler.reply_to, "two")
        caller.handler.reply_to("three")
        await caller.wait(1)
        assert caller.handler.answered[0] == "one"
        assert caller.handler.answered[-1] == "three"
        assert 20 <= levels(caller).count("H") <= 30


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_an_answer_has_the_context_of_its_call(where):
    """`reply` is a method of the handler, wherever code of the application calls `reply_to`."""

    class Knows(Own):
        def copy(self):
            return Knows()

        async def reply(self, text):
            self.answered.append((rtcflow.get_current_context(), get_current_handler()))

    async with open_caller(Knows()) as caller:
        await caller.wait(0.2)
        if where == "loop":
            caller.handler.reply_to("one")
        else:
            await anyio.to_thread.run_sync(caller.handler.reply_to, "one")
        await caller.wait(0.2)
        assert caller.handler.answered == [(caller.handler.context, caller.handler)]


async def test_an_answer_may_be_anything():
    """A plain function in a thread, audio alone, or None if the handler emits by itself."""

    class Plain(Sync):
        def copy(self):
            return Plain()

        def reply(self, text):
            self.answered.append(threading.current_thread())
            return sound(HIGH) if text == "say" else self.queue.put(sound(HIGH, 0.4))

    async with open_caller(Plain()) as caller:
        await caller.wait(0.1)
        for text in ("say", "emit"):
            caller.handler.reply_to(text)
            await caller.wait(1)
        assert levels(caller).count("H") == 30
        assert threading.current_thread() not in caller.handler.answered


def test_a_greeting_may_be_said_at_the_beginning():
    """`say` in `start_up` waits until there is somebody to hear it; in a worker thread it is `say_sync`."""

    class Greets(Sync):
        def copy(self):
            return Greets()

        def start_up(self):
            self.heard = self.say_sync(Say(sound(HIGH, 0.5), "hello"))

    record = run_call(Greets(), seconds=2)
    assert record.error is None
    assert record.handler.heard.complete


async def test_what_cannot_be_said_is_told_to_the_caller_of_say():
    """The call goes on, and so does the next `say`."""

    def broken():
        yield sound(HIGH)
        raise KeyError("voice")

    async with open_caller(Own()) as caller:
        await caller.wait(0.1)
        with pytest.raises(MediaError, match="array alone"):
            await caller.handler.say(np.zeros(10))
        with pytest.raises(KeyError, match="voice"):
            await caller.handler.say(broken())
        with pytest.raises(TypeError, match="needs the text"):
            caller.handler.reply_to(7)
        with pytest.raises(RuntimeError, match="write: await self"):
            caller.handler.say_sync(sound(HIGH))
        assert (await caller.handler.say(sound(HIGH))).complete


async def test_what_is_being_said_cannot_wait_for_its_own_end():
    """A generator that calls `say` would stop the call's sound for ever. Another task may: it waits."""
    later = []

    async def talk():
        yield sound(HIGH)
        later.append(caller.handler.loop.create_task(caller.handler.say(sound(HIGH))))
        await caller.handler.say(sound(HIGH))

    async with open_caller(Own()) as caller:
        await caller.wait(0.1)
        with anyio.fail_after(20), pytest.raises(RuntimeError, match="yield what is to be said"):
            await caller.handler.say(talk())
        assert (await later[0]).complete


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_what_meets_a_cancelled_future_is_told_to_the_caller_of_say():
    """On asyncio that looks like the end of the task that makes it, and `say` would wait for ever."""

    async def talk():
        yield sound(HIGH)
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with open_caller(Own()) as caller:
        await caller.wait(0.1)
        with anyio.fail_after(20), pytest.raises(HandlerError, match="somebody else had cancelled"):
            await caller.handler.say(talk())
        assert (await caller.handler.say(sound(HIGH))).complete


async def test_a_handler_that_does_not_answer_says_what_to_write():
    """`reply_to` needs `reply`; all need a connection."""

    class Mute(Own):
        reply = rtcflow.AsyncStreamHandler.reply

        def copy(self):
            return Mute()

    with pytest.raises(RuntimeError, match="serves none"):
        Mute().reply_to("hello")
    with pytest.raises(RuntimeError, match="serves none"):
        Mute().interrupt()
    async with open_caller(Mute()) as caller:
        await caller.wait(0.1)
        with pytest.raises(HandlerError, match="async def reply"):
            caller.handler.reply_to("hello")


async def test_cancelling_say_falls_silent_and_the_next_is_played():
    """Several are played one after the other."""
    async with open_caller(Own()) as caller:
        await caller.wait(0.1)
        with anyio.move_on_after(0.5):
            await caller.handler.say(sound(HIGH, 5))
        await caller.wait(0.5)
        assert 10 <= levels(caller).count("H") <= 20
        handler = caller.handler
        first, second = (handler.loop.create_task(handler.say(sound(HIGH))) for _ in range(2))
        assert (await first).complete
        assert (await second).complete


async def test_a_call_that_ends_ends_what_is_said():
    """Wherever `say` is awaited."""
    heard = []
    async with open_caller(Own()) as caller, anyio.create_task_group() as tasks:
        await caller.wait(0.1)

        async def say():
            heard.append(await caller.handler.say(sound(HIGH, 60)))
            heard.append(await caller.handler.say(sound(HIGH, 60)))

        tasks.start_soon(say)
        await caller.wait(1)
        await caller.hang_up()
    assert [one.complete for one in heard] == [False, False]
    assert heard[0].seconds == pytest.approx(0.8, abs=0.1)


LINES = {carrier: telephone_pair(carrier) for carrier in ("twilio", "telnyx", "plivo", "vonage")}
LINES["websocket"] = websocket_pair("pcm_s16le", 8000)


@pytest.mark.parametrize("line", LINES)
async def test_say_waits_for_what_a_line_confirms(line):
    """On telephones and WebSockets: what was said was heard, and an interruption counts what was played."""
    async with LINES[line]() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(8000), AudioFormat(8000))
        handler = Own()
        tasks.start_soon(Connection(ours, handler).run)
        await anyio.sleep(0.1)
        heard = await handler.say(Say((8000, np.full((1, 8000), HIGH, np.int16)), "one"))
        assert heard.complete
        assert heard.text == "one"
        handler.loop.call_later(1, handler.interrupt)
        heard = await handler.say(Say((8000, np.full((1, 80000), HIGH, np.int16)), "two"))
        assert heard.seconds == pytest.approx(1, abs=0.45)
        assert not heard.complete
        tasks.cancel_scope.cancel()
    assert math.isfinite(heard.seconds)
