"""FastRTC's `ReplyOnPause` and `ReplyOnStopWords`, plain and as its users subclass them, in a call."""

from __future__ import annotations

import json
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest

from rtcflow import fastrtc
from rtcflow.connection.connection import Connection, Timeouts
from rtcflow.connection.handler_loop import Task
from rtcflow.fastrtc.reply_on_pause import AppState
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers import turns
from rtcflow.handlers.checking import copy_handler
from rtcflow.speech.options import warn_if_in_loop
from rtcflow.transports.memory import memory_pair

RATE = 24000
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
pytestmark = pytest.mark.anyio


class Loud:
    """A model that takes what is loud for speech."""

    def __init__(self):
        self.options = []

    def vad(self, audio, options):
        self.options.append(options)
        rate, samples = audio
        assert samples.ndim == 1
        loud = int(np.count_nonzero(np.abs(samples) > 0.01 if samples.dtype == np.float32 else np.abs(samples) > 100))
        return loud / rate, [{"start": 0, "end": samples.size}] if loud else []

    def warmup(self):
        pass


def options(**changes):
    return fastrtc.AlgoOptions(
        **({"audio_chunk_duration": 0.1, "started_talking_threshold": 0.05, "speech_threshold": 0.02} | changes)
    )


def sound(seconds=0.1, value=1000):
    return RATE, np.full((1, round(RATE * seconds)), value, np.int16)


def reply(audio):
    yield sound()


@asynccontextmanager
async def call(handler):
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(RATE), AudioFormat(RATE))
        connection = Connection(ours, copy_handler(handler), timeouts=QUICK)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.run)
            with anyio.fail_after(120):
                yield connection, theirs
            connection.close()


def say(theirs, *levels, seconds=0.1):
    """Send audio: so many stretches of `seconds`, each of a level."""
    size = RATE // 50
    for level in levels:
        for _ in range(round(seconds * 50)):
            theirs.audio_out.put(AudioFrame(np.full((1, size), level, np.int16), RATE, 0))


async def hear(theirs, level, *, least=1):
    """Wait for frames of about this level."""
    heard = 0
    while heard < least:
        frame = await theirs.audio_in.take()
        heard += abs(int(np.median(frame.samples)) - level) <= level // 20


async def logs(theirs, count):
    said = []
    while len(said) < count:
        message = json.loads(await theirs.messages_in.take())
        if message["type"] == "log":
            said.append(message["data"])
    return said


# -- plain


async def test_the_plain_class_is_run_by_rtcflows_own():
    """`copy` makes rtcflow's handler, to `isinstance` it is FastRTC's; options may change until then."""
    model = turns.EnergyVad()
    handler = fastrtc.ReplyOnPause(reply, model=model, input_sample_rate=16000)
    handler.algo_options.audio_chunk_duration = 3.0
    made = handler.copy()
    assert type(made) is turns.ReplyOnPause
    assert isinstance(made, fastrtc.ReplyOnPause)
    assert isinstance(made, fastrtc.StreamHandler)
    assert isinstance(handler, fastrtc.StreamHandler)
    assert made.algo_options.audio_chunk_duration == 3.0
    assert made.input_sample_rate == 16000
    assert fastrtc.ReplyOnPause(reply, model=model, on_turn_error="end").copy().on_turn_error == "end"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"fn": 3}, TypeError, "fn must be a function"),
        ({"algo_options": 3}, TypeError, "AlgoOptions"),
        ({"model": 3}, TypeError, "vad"),
        ({"nonsense": 3}, TypeError, "nonsense"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, error, text):
    with pytest.raises(error, match=text):
        fastrtc.ReplyOnPause(**({"fn": reply, "model": turns.EnergyVad()} | options))


def test_options_may_be_changed_and_subclassed():
    """As dataclasses; what is out of range is refused when it is set up, or when a call begins with it."""

    @dataclass
    class Mine(fastrtc.AlgoOptions):
        extra: int = 7

    mine = Mine(audio_chunk_duration=0.5)
    assert (mine.extra, mine.audio_chunk_duration) == (7, 0.5)
    with pytest.raises(ValueError, match="started_talking_threshold"):
        fastrtc.AlgoOptions(started_talking_threshold=2)
    with pytest.warns(UserWarning, match=r"is all of audio_chunk_duration=0\.8; it is taken as 0\.72"):
        fastrtc.AlgoOptions(started_talking_threshold=0.8, audio_chunk_duration=0.8)
    with pytest.raises(ValueError, match="threshold"):
        fastrtc.SileroVadOptions(threshold=2)
    handler = fastrtc.ReplyOnPause(reply, algo_options=mine, model=turns.EnergyVad())
    mine.speech_threshold = 9
    with pytest.raises(ValueError, match="speech_threshold=9"):
        handler.copy()


class Voice:
    """A speech model that is computed by FastRTC's sync method."""

    def __init__(self):
        self.threads = []

    def tts(self, text, options=None):
        warn_if_in_loop("Voice.tts", "something else")
        self.threads.append(threading.get_ident())
        return sound()


@pytest.mark.parametrize("cls", [fastrtc.ReplyOnPause, type("Sub", (fastrtc.ReplyOnPause,), {})], ids=["plain", "sub"])
async def test_models_of_a_sync_reply_function_compute_in_worker_threads(cls):
    """A reply function written with plain `def` may call its models: no warning, and not in the loop's thread."""
    model = Voice()

    def speaking(_):
        yield model.tts("Yes.")

    handler = cls(speaking, algo_options=options(), model=Loud(), input_sample_rate=RATE)
    async with call(handler) as (_, theirs):
        say(theirs, 0, 5000, 5000, *[0] * 10)
        await hear(theirs, 1000)
    assert model.threads
    assert threading.get_ident() not in model.threads


# -- subclasses


class Mine(fastrtc.ReplyOnPause):
    """Every method overridden, as users do; each is called."""

    def __init__(self, fn=reply, **settings):
        super().__init__(fn, algo_options=options(), model=Loud(), input_sample_rate=RATE, **settings)
        self.called = set()

    def copy(self):
        return type(self)(self.fn, startup_fn=self.startup_fn)

    def receive(self, frame):
        self.called.add("receive")
        super().receive(frame)

    def process_audio(self, audio, state):
        self.called.add("process_audio")
        assert isinstance(state, AppState)
        super().process_audio(audio, state)

    def determine_pause(self, audio, sampling_rate, state):
        self.called.add("determine_pause")
        return super().determine_pause(audio, sampling_rate, state)

    def emit(self):
        self.called.add("emit")
        return super().emit()

    def start_up(self):
        self.called.add("start_up")
        super().start_up()

    def reset(self):
        self.called.add("reset")
        super().reset()


async def test_every_override_of_a_subclass_is_called():
    """The reply is heard after a pause; the page is told of each step."""
    given = []

    def noting(audio):
        given.append(audio)
        yield sound()
        yield sound()

    async with call(Mine(noting)) as (connection, theirs):
        say(theirs, 0, 5000, 5000, 0)
        await hear(theirs, 1000, least=8)
        assert await logs(theirs, 3) == ["started_talking", "pause_detected", "response_starting"]
        handler: Any = connection.handler
        assert handler.called >= {"receive", "process_audio", "determine_pause", "emit", "start_up"}
    ((rate, audio),) = given
    assert (rate, audio.dtype, audio.shape) == (RATE, np.int16, (1, round(0.3 * RATE)))


class Eager(fastrtc.ReplyOnPause):
    """Decides on its own when a turn is over: after a quarter of a second of anything."""

    def determine_pause(self, audio, sampling_rate, state):
        if len(audio) < sampling_rate / 4:
            return False
        state.stream, state.buffer = audio, None
        return True


async def test_determine_pause_decides():
    """An override is asked with the chunk so far, and a turn ends when it says so: silence is a turn here."""
    sizes = []

    async def noting(audio):
        sizes.append(audio[1].size)
        yield sound(value=3000)

    handler = Eager(noting, model=Loud(), input_sample_rate=RATE)
    async with call(handler) as (_, theirs):
        say(theirs, 0, 0, 0)
        await hear(theirs, 3000)
    assert sizes == [RATE * 26 // 100]


REPLIES: list[Any] = []


def kind(fn):
    REPLIES.append(fn)
    return fn


@kind
def generator(audio):
    yield sound()


@kind
async def async_generator(audio):
    yield sound()


@kind
def function(audio):
    return sound()


@kind
async def coroutine(audio):
    return sound()


@pytest.mark.slow
@pytest.mark.parametrize("fn", REPLIES, ids=lambda fn: fn.__name__)
async def test_every_kind_of_function_replies_in_a_subclass(fn):
    """Twice: the state after a reply is that of the beginning."""
    async with call(Mine(fn)) as (_, theirs):
        for _ in range(2):
            say(theirs, 5000, 5000, 0)
            await hear(theirs, 1000, least=4)
            assert (await logs(theirs, 3))[-1] == "response_starting"


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_speech_interrupts_a_reply_of_a_subclass(asynchronous):
    """The generator under way is closed, what it had queued is not heard, and the next turn is replied to."""
    closed = threading.Event()
    turns_taken = []

    def endless(audio):
        turns_taken.append(1)
        if len(turns_taken) > 1:
            yield sound(value=4000)
            return
        try:
            while True:
                yield sound(0.02)
        finally:
            closed.set()

    async def endless_async(audio):
        for item in endless(audio):
            yield item
            await anyio.sleep(0)

    async with call(Mine(endless_async if asynchronous else endless)) as (_, theirs):
        say(theirs, 5000, 5000, 0)
        await hear(theirs, 1000)
        say(theirs, 5000, 5000, 0)
        await hear(theirs, 4000)
    if not asynchronous:
        assert closed.is_set()


async def test_an_async_reply_of_a_subclass_may_end_before_it_is_asked_for(monkeypatch):
    """The loop may be faster than the thread that asks for the next item; the end of a reply is no error then."""
    result = Task.result

    def late(task, timeout=None):
        settled = threading.Event()
        task.add_done_callback(lambda _: task.get_loop().call_soon(settled.set))
        assert settled.wait(30)
        return result(task, timeout)

    monkeypatch.setattr(Task, "result", late)

    async def once(audio):
        yield sound()

    async with call(Mine(once)) as (connection, theirs):
        for _ in range(2):
            say(theirs, 5000, 5000, 0)
            await hear(theirs, 1000, least=1)
        assert connection.end is None


async def test_what_a_reply_of_a_subclass_raises_ends_the_call():
    """As in FastRTC, `emit` raises it; afterwards nothing of the handler runs on."""

    def fails(audio):
        yield sound()
        raise LookupError("no answer")

    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="no answer"), flatten_subgroups=True):
        async with call(Mine(fails)) as (connection, theirs):
            say(theirs, 5000, 5000, 0)
            await connection.wait_ended()


async def test_a_webrtc_error_of_a_reply_is_told_once():
    """The page shows its last alert: "the reply function failed" would take the place of the program's own words."""

    def failing(audio):
        raise fastrtc.WebRTCError("no more credit")
        yield

    async with call(fastrtc.ReplyOnPause(failing, algo_options=options(), model=Loud())) as (connection, theirs):
        say(theirs, 0, 5000, 5000, *[0] * 10)
        errors, turn = [], None
        while turn is None:
            message = json.loads(await theirs.messages_in.take())
            errors += [message["data"]] if message["type"] == "error" else []
            turn = message if message["type"] == "turn" else None
        assert errors == ["no more credit"]
        assert connection.end is None


async def test_a_greeting_and_a_triggered_reply_of_a_subclass():
    """`startup_fn` is played first; `trigger_response()` replies to nothing."""

    def greet():
        yield sound(value=2000)

    async with call(Mine(startup_fn=greet)) as (connection, theirs):
        await hear(theirs, 2000)
        while (handler := connection.handler).event.is_set():  # type: ignore[attr-defined]
            await anyio.sleep(0.005)
        handler.trigger_response()  # type: ignore[attr-defined]
        await hear(theirs, 1000)


class WithoutCopy(fastrtc.ReplyOnPause):
    """Has an `__init__` of its own, and a reply that is one of its methods."""

    def __init__(self, name):
        super().__init__(self.answer, algo_options=options(), model=Loud(), input_sample_rate=RATE)
        self.name = name

    def answer(self, audio):
        self.name = f"{self.name}!"
        yield sound()


async def test_a_subclass_without_copy_is_copied_with_its_attributes():
    """Each call has its own; the method that replies belongs to the copy."""
    original = WithoutCopy("bot")
    async with call(original) as (connection, theirs):
        say(theirs, 5000, 5000, 0)
        await hear(theirs, 1000)
        handler: Any = connection.handler
        assert (type(handler), handler.name) == (WithoutCopy, "bot!")
    assert original.name == "bot"


@pytest.mark.parametrize("name", ["receive", "emit", "start_up", "determine_pause"])
def test_async_overrides_are_refused_when_the_class_is_made(name):
    """By name, with the line to write."""

    async def method(self, *args):
        pass

    with pytest.raises(TypeError, match=rf"Bad\.{name} is async.*def {name}\(self"):
        type("Bad", (fastrtc.ReplyOnPause,), {name: method})


@pytest.mark.parametrize("base", [fastrtc.StreamHandler, fastrtc.AsyncStreamHandler, fastrtc.ReplyOnPause])
def test_overrides_that_nobody_calls_are_refused_when_the_class_is_made(base):
    """`resample` would never be called."""
    with pytest.raises(TypeError, match=r"Bad\.resample would never be called: .*input_sample_rate"):
        type("Bad", (base,), {"resample": lambda self, frame: [frame]})


def test_what_only_rtcflows_own_can_do_is_refused_in_a_subclass():
    """With the class to subclass instead; so is a model without `vad`."""
    with pytest.raises(TypeError, match=r"interrupt_when.*subclass rtcflow\.ReplyOnPause"):
        Eager(reply, model=Loud(), interrupt_when=lambda audio: True)
    with pytest.raises(TypeError, match="vad"):
        Eager(reply, model=turns.EnergyVad())


# -- stop words


class Transcript:
    """A recognizer that understands a word in what is loud enough."""

    def __init__(self):
        self.heard = []

    def stt(self, audio):
        rate, samples = audio
        self.heard.append(rate)
        level = float(np.abs(samples).max(initial=0)) * (32768 if samples.dtype == np.float32 else 1)
        return "Hey, Computer!" if level > 8000 else "well"


@pytest.mark.slow
async def test_stop_words_are_found_in_the_transcript():
    """With `stt_model` given, plain: the page is told, and what comes after the words is replied to."""
    model = Transcript()
    handler = fastrtc.ReplyOnStopWords(
        reply, ["computer"], algo_options=options(), model=Loud(), input_sample_rate=RATE, stt_model=model
    )
    assert isinstance(handler.copy(), fastrtc.ReplyOnStopWords)
    async with call(handler) as (_, theirs):
        say(theirs, 12000, seconds=2)
        while json.loads(await theirs.messages_in.take())["type"] != "stopword":
            pass
        say(theirs, 0, 5000, 5000, 0)
        await hear(theirs, 1000)
    assert set(model.heard) == {16000}


class OwnWords(fastrtc.ReplyOnStopWords):
    def stop_word_detected(self, text):
        return text == "well"

    def copy(self):
        return OwnWords(
            self.fn, self.stop_words, algo_options=options(), model=Loud(), input_sample_rate=RATE,
            stt_model=Transcript(),
        )  # fmt: skip


async def test_stop_word_detected_decides_in_a_subclass():
    """An override is asked with the transcript; then a turn is heard chunk by chunk."""
    handler = OwnWords(
        reply, ["computer"], algo_options=options(), model=Loud(), input_sample_rate=RATE, stt_model=Transcript()
    )
    async with call(handler) as (_, theirs):
        say(theirs, 3000, 3000)
        while json.loads(await theirs.messages_in.take())["type"] != "stopword":
            pass
        say(theirs, 5000, 5000, 0)
        await hear(theirs, 1000)


# -- handlers


class Echo(fastrtc.StreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        return None

    def copy(self):
        return Echo()


async def test_handlers_without_a_call():
    """`latest_args` is an empty list, `_clear_queue` is None, and messages go nowhere."""
    handler = Echo("mono", 24000, None, 16000, 12)
    assert (handler.latest_args, handler.fps, handler._clear_queue) == ([], 12, None)
    assert handler.clear_queue() == 0.0
    await handler.send_message("x")
    handler.send_message_sync("x")


@pytest.mark.parametrize("make", [Echo, lambda: fastrtc.ReplyOnPause(reply, model=Loud())], ids=["handler", "reply"])
async def test_latest_args_are_an_empty_list_in_a_call_before_arguments_come(make):
    """The live handler's are, too: also of a plain `ReplyOnPause`."""
    async with call(make()) as (connection, _):
        assert connection.handler.latest_args == []


async def test_a_plain_reply_on_pause_replies_on_the_telephone_without_arguments():
    """The reply function gets the audio although `latest_args` is empty."""
    handler = fastrtc.ReplyOnPause(reply, model=Loud(), needs_args=True).copy()
    handler.phone_mode = True
    turn = SimpleNamespace(turn=SimpleNamespace(number=1))
    assert await handler._arguments(turn, given=(RATE, "audio")) == [(RATE, "audio")]


async def test_the_queue_of_a_call_can_be_cleared_by_its_private_name():
    """`self._clear_queue` is there in a call, clears, and may be replaced."""
    async with call(Echo()) as (connection, _):
        handler: Any = connection.handler
        while handler._clear_queue is None:
            await anyio.sleep(0.005)
        assert handler._clear_queue() == 0.0
        cleared = []
        handler._clear_queue = lambda: cleared.append(1)
        handler.clear_queue()
        assert cleared == [1]
