"""Replies under the application's control, and speculative ones; in virtual time."""

from __future__ import annotations

import os
import threading

import anyio
import numpy as np
import pytest
from line_pairs import telephone_pair, websocket_pair
from turn_script import QUICK, Long, Script, calling, sound, turn

import rtcflow
from rtcflow.connection.connection import Connection, EndCause
from rtcflow.frames import AudioFormat
from rtcflow.handlers.turns import (
    EnergyVad,
    Heard,
    Interrupted,
    PlayoutFinished,
    ReplyHandler,
    ReplyOnPause,
    ReplyStarted,
    Say,
    SpeechEnded,
    SpeechStarted,
)
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


# -- interrupt and clear_queue


@pytest.mark.parametrize("how", ["interrupt", "clear_queue"])
@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_the_application_interrupts_as_speech_does(how, where):
    """The reply function is cancelled, nothing more is heard, `Interrupted` tells what was."""
    fn = Long()
    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
        stop = getattr(call.handler, how)
        stop() if where == "loop" else in_a_thread(stop)
        await call.until(6)
        (interrupted,) = call.of(Interrupted)
        assert fn.closed - call.began == pytest.approx(3, abs=0.05)
        assert max(call.loud()) <= 3.06
        assert interrupted.position.seconds == pytest.approx(0.02 * len(call.loud()), abs=0.021)
        assert call.handler.heard() == interrupted.position
        assert call.handler.turns[0].interrupted == pytest.approx(call.began + 3, abs=0.03)


async def test_interrupting_nobody_does_nothing():
    """Before, between and after replies."""
    async with calling(Long(chunks=2), turn(0.2, 0.6)) as call:
        await call.until(0.1)
        call.handler.interrupt()
        assert call.handler.clear_queue() == 0.0
        await call.until(3)
        call.handler.interrupt()
        assert call.of(Interrupted) == []
        assert len(call.of(PlayoutFinished)) == 1


async def test_a_reply_may_clear_its_own_queue():
    """It goes on, and what it dropped is not heard."""

    async def fn(audio):
        yield Say(sound(5), "never mind ")
        await anyio.sleep(1)
        call.handler.clear_queue()
        yield Say(sound(1), "listen")

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(8)
        (finished,) = call.of(PlayoutFinished)
        assert call.of(Interrupted) == []
        assert finished.heard.seconds == pytest.approx(2, abs=0.1)
        assert finished.heard.seconds == pytest.approx(0.02 * len(call.loud()), abs=0.03)
        assert finished.heard.text.endswith("listen")


class Menu(ReplyOnPause):
    """`on_dtmf` clears the queue, as the page about telephones shows."""

    def on_dtmf(self, digit):
        self.clear_queue()


LINES = {carrier: telephone_pair(carrier) for carrier in ("twilio", "telnyx")}
LINES["websocket"] = websocket_pair("pcm_s16le", 8000)


@pytest.mark.parametrize("line", LINES)
async def test_a_key_stops_the_reply_on_a_line(line):
    """`clear_queue` in a worker thread: the reply ends, and `heard` counts nothing that was dropped."""
    events, loud = [], []

    async def fn(audio):
        for number in range(60):
            yield Say((8000, np.full((1, 800), 8000, np.int16)), f"w{number} ")

    handler = Menu(
        fn,
        detector=lambda: Script([]),
        on_event=events.append,
        output_sample_rate=8000,
        input_sample_rate=8000,
    )
    async with LINES[line]() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(8000), AudioFormat(8000))
        connection = Connection(ours, handler, timeouts=QUICK)
        began = anyio.current_time()

        async def listen():
            while True:
                frame = await theirs.audio_in.take()
                if np.abs(frame.samples).max() > 1000:
                    loud.append(anyio.current_time() - began)

        tasks.start_soon(connection.run)
        tasks.start_soon(listen)
        await anyio.sleep(0.5)
        handler.trigger_response()
        await anyio.sleep(1.5)
        await anyio.to_thread.run_sync(handler.on_dtmf, "1")
        await anyio.sleep(2)
        heard = handler.heard()
        tasks.cancel_scope.cancel()
    assert [type(event) for event in events if not isinstance(event, ReplyStarted)][-1] is Interrupted
    assert max(loud) <= 2.1
    assert heard.seconds <= 0.02 * len(loud) + 0.021
    assert not heard.complete


# -- say and reply_to


async def test_say_speaks_and_tells_what_was_heard():
    """It waits until it was played; the page and the events know of it as of any reply."""
    async with calling(Long(), startup_fn=lambda: sound(0.5)) as call:
        await call.until(0.1)
        heard = await call.handler.say(Say(sound(1), "Your taxi is here."))
        assert heard == Heard(pytest.approx(1, abs=0.005), pytest.approx(1, abs=0.005), "Your taxi is here.", True)
        assert len(call.loud()) == 75  # after the greeting
        assert [event.turn for event in call.of(PlayoutFinished)] == [0, 1]


async def test_say_waits_for_the_reply_and_keeps_its_order():
    """Three at once, during a reply: after it, one after the other."""
    said = []

    async def speak(word):
        said.append((await call.handler.say(Say(sound(0.2), word))).text)

    async with calling(Long(chunks=5), turn(0.2, 0.6)) as call, anyio.create_task_group() as tasks:
        await call.until(1.3)
        for word in ("one", "two", "three"):
            tasks.start_soon(speak, word)
            await anyio.sleep(0.01)
        await call.until(6)
        assert said == ["one", "two", "three"]
        assert call.of(Interrupted) == []


async def test_say_waits_for_the_user():
    """Nobody is talked over."""
    async with calling(Long(chunks=5), turn(0.2, 2.0)) as call:
        await call.until(1)
        await call.handler.say(sound(0.2))
        times = call.at(PlayoutFinished)
        assert len(times) == 2
        assert min(call.loud()) > 2.4


async def test_speech_interrupts_what_is_said_unless_it_must_not():
    """`interruptible=False` is played to its end, and the user is not listened to meanwhile."""
    async with calling(Long(chunks=1), turn(0.5, 1.0) + turn(5.5, 6.0)) as call:
        await call.until(0.1)
        heard = await call.handler.say(Say(sound(3), "word"))
        assert not heard.complete
        assert heard.seconds == pytest.approx(0.6, abs=0.1)
        await call.until(5)
        heard = await call.handler.say(Say(sound(3), "word"), interruptible=False)
        assert heard.complete
        assert heard.text == "word"


async def test_cancelling_say_interrupts_it():
    """A timeout around it stops the sound."""
    async with calling(Long(), ()) as call:
        await call.until(0.1)
        with anyio.move_on_after(1):
            await call.handler.say(sound(5))
        await call.until(3)
        assert max(call.loud()) < 1.15
        assert len(call.of(Interrupted)) == 1


async def test_say_from_a_thread():
    """Through the loop, as any coroutine."""
    results = []

    def work():
        results.append(call.handler.loop.create_task(call.handler.say(Say(sound(0.2), "hi"))).result(timeout=20))

    async with calling(Long()) as call:
        await call.until(0.1)
        await call.handler.run_sync(work)
    assert results[0].text == "hi"


@pytest.mark.parametrize("kind", ["async", "a task of it", "sync"])
async def test_say_in_a_reply_function_is_an_error(kind, caplog):
    """The reply has the turn, so it would wait for itself, and the caller would hear nothing any more."""

    async def fn(audio):
        yield sound(0.2)
        if kind == "async":
            await call.handler.say(sound(0.2))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call.handler.say, sound(0.2))

    def sync_fn(audio):
        yield sound(0.2)
        call.handler.say_sync(sound(0.2))

    script = turn(0.2, 0.6) + turn(3.2, 3.6)
    async with calling(sync_fn if kind == "sync" else fn, script) as call:
        await call.until(6)
        assert [one.outcome for one in call.handler.turns] == ["failed", "failed"]
    assert len(call.loud()) == 20
    assert "yield what is to be said" in caplog.text


async def test_a_task_that_a_reply_function_leaves_behind_may_say_something():
    """It waits for the end of the reply, as anybody does."""

    async def fn(audio):
        call.handler.loop.create_task(call.handler.say(sound(0.2)))
        yield sound(0.5)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(5)
        assert [one.outcome for one in call.handler.turns] == ["played", "played"]
    assert len(call.loud()) == 35


@pytest.mark.parametrize("item", ["hello", 5, (24000, "x"), None])
async def test_say_refuses_what_nobody_can_hear(item):
    """The error comes out of `say` and costs nothing."""
    async with calling(Long(chunks=1)) as call:
        await call.until(0.1)
        if item is None:
            await call.handler.say(None)  # nothing: played at once
        else:
            with pytest.raises(rtcflow.MediaError):
                await call.handler.say(item)
        assert (await call.handler.say(sound(0.1))).complete


async def test_reply_to_answers_a_text():
    """The reply function gets the text; it interrupts what is being said; from any thread."""
    given = []

    async def fn(said):
        given.append(said if isinstance(said, str) else "audio")
        for _ in range(20):
            yield sound(0.1)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(2)
        call.handler.reply_to("What is the time?")
        await call.until(3)
        in_a_thread(lambda: call.handler.reply_to("Never mind."))
        await call.until(7)
    assert given == ["audio", "What is the time?", "Never mind."]
    assert [type(event) for _, event in call.events if isinstance(event, Interrupted | PlayoutFinished)] == [
        Interrupted,
        Interrupted,
        PlayoutFinished,
    ]


def test_control_needs_a_connection():
    """Before a call each says so in words."""
    handler = ReplyOnPause(Long(), detector=lambda: Script([]))
    for wish in (handler.interrupt, handler.clear_queue, lambda: handler.reply_to("x")):
        with pytest.raises(RuntimeError, match="needs a connection"):
            wish()
    with pytest.raises(TypeError, match="needs the text"):
        handler.reply_to(b"x")


# -- marks


async def test_marks_are_in_the_timeline():
    """From the reply's task and from its thread; a mark belongs to the reply that made it."""

    async def fn(audio):
        call.handler.mark("stt")
        await anyio.sleep(0.2)
        call.handler.mark("llm_first_token")
        await call.handler.run_sync(call.handler.mark, "in a thread")
        yield sound(0.1)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
        call.handler.mark("nobody's")
        (times,) = call.handler.turns
        assert list(times.marks) == ["stt", "llm_first_token", "in a thread"]
        assert times.marks["stt"] == pytest.approx(times.reply_called, abs=0.01)
        assert times.marks["llm_first_token"] == pytest.approx(times.reply_called + 0.2, abs=0.01)
        assert {"type": "turn", "data": times.as_dict()} in call.messages


# -- speculation


def likely(start: float, *pauses: tuple[float, float], end: float) -> list:
    """Somebody speaks, with pauses that are told and do not end the turn."""
    script = turn(start, end)
    for quiet, loud in pauses:
        script += [
            (quiet + 0.1, rtcflow.turns.SpeechEnded(quiet, 0.2)),
            (loud + 0.05, rtcflow.turns.SpeechStarted(loud)),
        ]
    return sorted(script, key=lambda entry: entry[0])


class Slow:
    """A reply that takes 0.45 s to its first sound, as speech to text, a language model and a voice do."""

    def __init__(self):
        self.called, self.closed = [], 0

    async def __call__(self, audio):
        self.called.append(audio[1].shape[1] / audio[0])
        try:
            await anyio.sleep(0.45)
            yield sound(0.5)
        finally:
            self.closed += 1


async def test_speculation_saves_the_pause():
    """From the end of speech to the first sound: 0.55 s in place of 0.95, and the caller is told in the usual order."""
    times = {}
    for speculative in (False, True):
        async with calling(Slow(), turn(0.2, 1.0), speculative=speculative) as call:
            await call.until(4)
            (finished,) = call.of(PlayoutFinished)
            assert finished.heard.complete
            times[speculative] = call.handler.turns[0].response_time
            assert call.logs() == ["started_talking", "pause_detected", "response_starting"]
            assert len(call.of(ReplyStarted)) == 1
    assert times[False] == pytest.approx(0.95, abs=0.05)
    assert times[True] == pytest.approx(0.55, abs=0.05)


async def test_speculation_is_dropped_for_free_when_the_user_goes_on():
    """Each breath starts a reply and each further word drops it: nothing of them is heard or told."""
    fn = Slow()
    async with calling(fn, likely(0.2, (0.6, 0.9), (1.2, 1.5), end=2.0), speculative=True) as call:
        await call.until(2.3)
        assert len(fn.called) == 3
        assert fn.closed == 2
        assert call.loud() == []
        assert call.of(ReplyStarted) == call.of(Interrupted) == []
        await call.until(5)
        assert len(call.of(PlayoutFinished)) == 1
        assert len(call.handler.turns) == 1
        assert fn.called == sorted(fn.called)  # each time with all that was said so far
        assert call.handler.heard().complete


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_speculative_reply_that_raises_counts_when_it_would_be_heard(goes_on, caplog):
    """Dropped, nobody learns of it; committed, it is told like any other."""

    async def fn(audio):
        raise ValueError("no words")
        yield

    script = likely(0.2, (0.6, 0.9), end=9.0) if goes_on else turn(0.2, 0.6)
    async with calling(fn, script, speculative=True) as call:
        await call.until(3)
        errors = [message for message in call.messages if message["type"] == "error"]
    assert len(errors) == (0 if goes_on else 1)
    assert ("no words" in caplog.text) is not goes_on


async def test_nothing_is_speculated_while_a_reply_is_held():
    """With `resume_false_interruption` the reply under way may go on: it is decided first."""
    fn = Long(chunks=30)
    options = {"speculative": True, "resume_false_interruption": True}
    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.3), **options) as call:
        await call.until(7)
        assert len(call.of(ReplyStarted)) == 1
        assert call.of(PlayoutFinished)[0].heard.complete


# -- a handler of one's own


class PushToTalk(ReplyHandler):
    """Answers what is typed."""

    async def receive(self, frame):
        pass

    def on_message(self, message):
        if message == "stop":
            self.interrupt()
        else:
            self.reply_to(message)

    def copy(self):
        return PushToTalk(self.fn)


async def test_a_handler_of_ones_own_has_the_same_control():
    """`ReplyHandler`: reply_to, interrupt and say without any turn detection."""
    given = []

    async def answer(text):
        given.append(text)
        for _ in range(50):
            yield Say(sound(0.1), "la ")

    async with open_caller(PushToTalk(answer)) as caller:
        caller.send_message("sing")
        await caller.wait(1)
        caller.send_message("stop")
        await caller.wait(1)
        heard = caller.handler.heard()
        assert 0.8 < heard.seconds < 1.1
        assert (await caller.handler.say(Say(sound(0.2), "bye"))).text == "bye"
    assert given == ["sing"]


# -- hanging up


@pytest.mark.parametrize("where", ["in the reply", "in another task"])
async def test_a_call_ends_after_its_last_word(where):
    """`hang_up(after="played")` while the reply is being made: all of it is heard, then the call ends."""

    async def fn(audio):
        yield sound(0.5)
        if where == "in the reply":
            call.handler.hang_up("goodbye")
        await anyio.sleep(1)
        yield sound(0.5)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(1.4)
        if where == "in another task":
            call.handler.hang_up("goodbye")
        with anyio.fail_after(10):
            await call.connection.wait_ended()
    assert len(call.loud()) == 50
    assert (call.end.cause, call.end.reason) == (EndCause.HANDLER_CLOSED, "goodbye")


async def test_hanging_up_now_drops_what_waits():
    """And before a reply, or without one, it ends the call at once."""
    async with calling(Long(chunk=5), turn(0.2, 0.6)) as call:
        await call.until(2)
        call.handler.hang_up(after="now")
        with anyio.fail_after(10):
            await call.connection.wait_ended()
    assert max(call.loud()) <= 2.06
    with pytest.raises(ValueError, match="after must be"):
        call.handler.hang_up(after="later")


async def test_an_interruption_calls_the_hang_up_off():
    """The user has more to say."""
    async with calling(Long(), turn(0.2, 0.6) + turn(2.0, 2.4)) as call:
        await call.until(1.5)
        call.handler.hang_up()
        await call.until(4)
        assert call.connection.end is None


async def test_a_dropped_speculation_hangs_up_on_nobody():
    """It said goodbye too early: the user goes on, and the call ends after the reply that was heard."""

    async def fn(audio):
        yield sound(0.5)
        call.handler.hang_up("goodbye")

    async with calling(fn, likely(0.2, (0.6, 0.9), end=3.0), speculative=True) as call:
        await call.until(2.5)
        assert call.connection.end is None
        with anyio.fail_after(10):
            await call.connection.wait_ended()
    assert call.end.reason == "goodbye"
    assert len(call.loud()) == 25


@pytest.mark.parametrize("line", LINES)
async def test_the_last_word_is_heard_on_a_line(line):
    """The carrier has played all of it when the line closes."""
    loud = []

    async def fn(audio):
        yield 8000, np.full((1, 8000), 8000, np.int16)
        handler.hang_up()

    handler = ReplyOnPause(fn, detector=lambda: Script([]), output_sample_rate=8000, input_sample_rate=8000)
    async with LINES[line]() as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(8000), AudioFormat(8000))
        connection = Connection(ours, handler, timeouts=QUICK)

        async def listen():
            while True:
                frame = await theirs.audio_in.take()
                if np.abs(frame.samples).max() > 1000:
                    loud.append(anyio.current_time())

        tasks.start_soon(connection.run)
        tasks.start_soon(_until_gone, listen)
        await anyio.sleep(0.5)
        handler.trigger_response()
        with anyio.fail_after(10):
            end = await connection.wait_ended()
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert end.cause is EndCause.HANDLER_CLOSED
    assert len(loud) == pytest.approx(50, abs=1)


async def _until_gone(work):
    try:
        await work()
    except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        return


# -- processes


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_function_runs_in_a_process():
    """`run_process`: another process computes, what it raises is raised here, and a call is needed."""
    handler = ReplyOnPause(Long(), detector=lambda: Script([]))
    with pytest.raises(RuntimeError, match="needs a connection"):
        await handler.run_process(os.getpid)
    async with open_caller(handler) as caller:
        await caller.wait(0.1)
        assert await caller.handler.run_process(os.getpid) != os.getpid()
        with pytest.raises(ZeroDivisionError):
            await caller.handler.run_process(divmod, 1, 0)


# -- what the page is shown


def shown(call, kind):
    return [message["data"] for message in call.messages if message["type"] == kind]


async def test_the_page_is_told_what_happens_and_what_was_heard():
    """Listening, thinking, speaking, each once; the words as they are emitted, and how far they were heard."""

    async def fn(audio):
        call.handler.show_question("Tell me.")
        await anyio.sleep(0.3)
        yield Say(sound(1.0), "One two three. ")
        yield Say(sound(3.0), "Four five six seven.")

    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 3.4)) as call:
        await call.until(3.6)
        assert shown(call, "state") == ["listening", "thinking", "speaking", "listening"]
        question, *_, last = shown(call, "transcript")
        assert question == {"role": "user", "text": "Tell me.", "id": "1-user"}
        heard = call.of(Interrupted)[0].position.text
        assert last == {
            "role": "assistant", "text": "One two three. Four five six seven.", "id": "1-bot", "heard": heard,
        }  # fmt: skip
        assert heard.startswith("One two three. ")
        assert heard != last["text"]


async def test_words_of_a_reply_that_goes_on_are_shown_once():
    """A false alarm holds the reply and lets it go on: nothing is doubled, and all of it was heard."""

    async def fn(audio):
        yield Say(sound(4.0), "One two three four.")

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.3), resume_false_interruption=True) as call:
        await call.until(9)
        last = shown(call, "transcript")[-1]
        assert (last["text"], last["heard"]) == ("One two three four.", "One two three four.")
        assert shown(call, "state") == ["listening", "thinking", "speaking", "listening", "speaking", "listening"]


async def test_words_of_a_dropped_speculation_are_not_shown():
    """The user breathes and goes on: the page gets the question of the turn that counts, when it has ended."""
    asked = []

    async def fn(audio):
        asked.append(len(asked))
        call.handler.show_question(f"question {len(asked)}")
        yield Say(sound(0.5), "Yes.")

    script = sorted(
        [*turn(0.2, 2.0), (0.9, SpeechEnded(0.8, 0.2)), (1.4, SpeechStarted(1.3))], key=lambda entry: entry[0]
    )
    async with calling(fn, script, speculative=True) as call:
        await call.until(5)
        assert asked == [0, 1]
        assert [data["text"] for data in shown(call, "transcript") if data["role"] == "user"] == ["question 2"]


async def test_a_question_needs_a_reply():
    """Outside of one it is an error that says so."""
    async with calling(Long()) as call:
        await call.until(0.1)
        with pytest.raises(RuntimeError, match="in the reply function"):
            call.handler.show_question("what?")


@pytest.mark.parametrize("when", ["waiting", "speaking", "after"])
async def test_say_returns_when_the_call_ends(when):
    """Also in a task that is not of the call: while it waits for its turn, while it speaks, and after the end."""
    script = [(0.2, SpeechStarted(0.1))] if when == "waiting" else []
    handler, heard = ReplyOnPause(Long(), detector=lambda: Script(script)), []
    async with open_caller(handler) as caller, anyio.create_task_group() as tasks:
        await caller.wait(0.5)

        async def speak():
            heard.append(await caller.handler.say(sound(60)))

        if when == "after":
            await caller.hang_up()
        tasks.start_soon(speak)
        await anyio.sleep(1)
        await caller.hang_up()
    assert not heard[0].complete


async def test_a_speculative_reply_begins_a_tenth_of_a_second_into_the_silence():
    """With the usual detector: the pause of 0.5 s is left to the services."""
    called = []

    async def fn(audio):
        called.append(anyio.current_time())
        yield sound(1)

    handler = ReplyOnPause(fn, model=EnergyVad(), speculative=True)
    async with open_caller(handler) as caller:
        tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.int16)
        await caller.play(np.concatenate([np.zeros(24000, np.int16), tone]))
        silent = anyio.current_time()
        caller.play_nowait(np.zeros(48000, np.int16))
        await caller.wait(0.4)
        assert called == [pytest.approx(silent + 0.09, abs=0.04)]
