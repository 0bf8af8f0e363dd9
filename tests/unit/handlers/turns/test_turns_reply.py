"""ReplyOnPause in a connection: replies of every kind, barge-in, what was heard; in virtual time."""

from __future__ import annotations

import functools
import threading
import time

import anyio
import numpy as np
import pytest
from turn_script import RATE, Long, Script, calling, sound, turn

from rtcflow.connection.connection import EndCause
from rtcflow.frames import AudioFrame
from rtcflow.handlers.base import get_current_handler
from rtcflow.handlers.turns import (
    AlgoOptions,
    EnergyVad,
    FirstAudio,
    Heard,
    Interrupted,
    PlayoutFinished,
    ReplyFailed,
    ReplyOnPause,
    ReplyStarted,
    Resumed,
    Say,
    SileroVadOptions,
    SpeechEnded,
    SpeechStarted,
    TurnEnded,
)
from rtcflow.outputs import AdditionalOutputs, CloseStream
from rtcflow.testing.clocks import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


pytestmark = pytest.mark.anyio


# -- every kind of reply function


def generator(audio):
    yield sound(0.1)
    yield sound(0.1)


async def async_generator(audio):
    yield sound(0.1)
    await anyio.sleep(0.01)
    yield sound(0.1)


def plain(audio):
    return sound(0.2)


async def coroutine(audio):
    await anyio.sleep(0.01)
    return sound(0.2)


def gives_generator(audio):
    return generator(audio)


async def gives_async_generator(audio):
    return async_generator(audio)


class Callable:
    async def __call__(self, audio):
        yield sound(0.2)


KINDS = [
    generator,
    async_generator,
    plain,
    coroutine,
    gives_generator,
    gives_async_generator,
    Callable(),
    functools.partial(lambda extra, audio: generator(audio), 1),
]


@pytest.mark.parametrize("fn", KINDS, ids=lambda fn: getattr(fn, "__name__", type(fn).__name__))
async def test_every_kind_of_function_is_a_reply(fn):
    """Generators and functions, async or not, plain objects and partials: 0.2 s are heard, and the turn is over."""
    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(2.5)
        (finished,) = call.of(PlayoutFinished)
        assert finished.heard.seconds == pytest.approx(0.2, abs=0.005)
        assert finished.heard.complete
        assert len(call.loud()) == 10
        assert call.logs() == ["started_talking", "pause_detected", "response_starting"]


async def test_fn_is_given_what_was_said():
    """The audio begins 0.4 s before the speech and ends where the turn did: int16, (1, n), at the input rate."""
    given = []

    def fn(audio):
        given.append(audio)

    async with calling(fn, turn(1.0, 2.0)) as call:
        await call.until(4)
    ((rate, samples),) = given
    assert rate == 48000
    assert samples.dtype == np.int16
    assert samples.shape[0] == 1
    assert samples.shape[1] / rate == pytest.approx(0.4 + 1.0 + 0.5, abs=0.03)


async def test_the_timeline_is_in_order(caplog):
    """Each turn's times follow one another, and the same times go to the page, and as data into the log."""
    caplog.set_level("INFO", "rtcflow.turns")
    async with calling(async_generator, turn(0.4, 0.8)) as call:
        await call.until(3)
        (times,) = call.handler.turns
        assert times.speech_start == pytest.approx(call.began + 0.4, abs=0.03)
        assert times.speech_end == pytest.approx(call.began + 0.8, abs=0.03)
        assert times.turn_end == pytest.approx(call.began + 1.3, abs=0.03)
        order = [times.speech_start, times.speech_end, times.turn_end, times.reply_called]
        order += [times.first_chunk, times.first_frame, times.playout_end]
        assert order == sorted(order)
        assert times.playout_end - times.first_frame == pytest.approx(0.2, abs=0.06)
        assert times.response_time == pytest.approx(0.5, abs=0.05)
        assert {"type": "turn", "data": times.as_dict()} in call.messages
        (record,) = [record for record in caplog.records if record.name == "rtcflow.turns"]
        assert record.turn == times.as_dict()
        assert record.getMessage() == f"turn 1: played, first sound {times.response_time:.3f} s after the user"
        kinds = [type(event) for _, event in call.events]
        assert kinds == [
            SpeechStarted, SpeechEnded, TurnEnded, ReplyStarted, FirstAudio, PlayoutFinished,
        ]  # fmt: skip


async def test_the_timeline_is_in_order_after_a_burst():
    """What a stalled network brings all at once seems to have been said earlier; not before the turn began."""
    async with calling(plain, turn(0.2, 0.6), speak=False) as call:
        for index in range(80):
            call.connection.transport.audio_in.put_nowait(AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
            await anyio.sleep(0.02 if index < 20 or index % 4 == 0 else 0)
        await call.until(2)
        (times,) = call.handler.turns
        assert times.speech_start <= times.speech_end <= times.turn_end


async def test_a_slow_turn_just_works():
    """Seventy seconds to the first chunk are no error, and the function is called once."""
    calls = []

    async def fn(audio):
        calls.append(1)
        await anyio.sleep(70)
        yield sound(0.1)

    async with calling(fn, speak=False) as call:
        await call.until(0.5)
        call.handler.trigger_response()
        await call.until(75)
        assert len(call.of(PlayoutFinished)) == 1
        assert calls == [1]


async def test_turn_follows_turn():
    """Ten turns, ten replies, in order."""
    script = [event for number in range(10) for event in turn(1 + 2 * number, 1.5 + 2 * number)]
    async with calling(async_generator, script) as call:
        await call.until(22)
        assert [times.number for times in call.handler.turns] == list(range(1, 11))
        assert len(call.of(PlayoutFinished)) == 10


async def test_nothing_is_emitted_and_nobody_wakes_while_nobody_speaks():
    """emit waits: it does not return None again and again."""
    async with calling(async_generator) as call:
        await call.until(20)
        assert call.connection.statistics().emitted == 0
        assert call.events == []


# -- barge-in


async def test_barge_in_silences_and_cancels_at_speech_start():
    """At confirmed speech: the generator's finally within 20 ms, the last loud frame within 60 ms."""
    fn = Long()
    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 4.0)) as call:
        await call.until(3.7)
        (interrupted,) = call.at(Interrupted)
        assert interrupted == pytest.approx(3.2, abs=0.03)
        assert fn.closed - call.began - interrupted <= 0.02
        assert max(call.loud()) - 3.0 <= 0.2 + 0.06
        assert call.handler.turns[0].interrupted == pytest.approx(call.began + 3.2, abs=0.03)


async def test_heard_is_what_was_played():
    """After an interruption the position tells seconds and words that left: what reached the caller, to the frame."""
    fn = Long()
    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 4.0)) as call:
        await call.until(3.7)
        position: Heard = call.of(Interrupted)[0].position
        assert position.seconds == pytest.approx(0.02 * len(call.loud()), abs=0.021)
        assert not position.complete
        words = position.text.split()
        assert words == [f"word{n}" for n in range(len(words))]
        assert len(words) == pytest.approx(position.seconds / 0.1, abs=1)
        assert call.handler.heard() == position


async def test_the_peer_is_told_of_the_reply():
    """Each event of a reply goes to the page, with what was heard of it."""
    async with calling(Long(), turn(0.2, 0.6) + turn(3.0, 3.4)) as call:
        await call.until(3.7)
        position = call.of(Interrupted)[0].position
        told = [message["data"] for message in call.messages if message["type"] == "reply"]
    assert [event["event"] for event in told] == ["reply_started", "first_audio", "interrupted"]
    assert {event["turn"] for event in told} == {1}
    assert told[-1]["heard"] == {
        "seconds": position.seconds,
        "total": position.total,
        "text": position.text,
        "complete": False,
    }


@pytest.mark.parametrize("chunk", [0.02, 1.0, 30.0])
async def test_barge_in_drops_chunks_of_any_length(chunk):
    """A chunk of 30 s that was emitted whole is silenced as quickly as one of 20 ms."""
    async with calling(Long(chunk, round(30 / chunk)), turn(0.2, 0.6) + turn(3.0, 4.0)) as call:
        await call.until(4)
        assert 2.9 < max(call.loud()) <= 3.26
        assert call.of(Interrupted)[0].position.total >= call.of(Interrupted)[0].position.seconds


async def test_barge_in_while_the_bot_still_thinks():
    """Speech before the first chunk cancels the reply, too: nothing of it is ever heard."""
    closed = []

    async def fn(audio):
        try:
            await anyio.sleep(5)
            yield sound(1)
        finally:
            closed.append(anyio.current_time() - call.began)

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.5)) as call:
        await call.until(2.9)
        assert closed == [pytest.approx(2.2, abs=0.03)]
        assert call.loud() == []


async def test_barge_in_after_the_generator_ended():
    """What a finished generator left in the queue is dropped all the same."""

    async def fn(audio):
        yield sound(10)

    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 3.5)) as call:
        await call.until(3.9)
        assert max(call.loud()) <= 3.26
        assert len(call.of(Interrupted)) == 1


async def test_an_interrupted_turn_is_answered_by_a_new_reply():
    """The words that interrupted are the next turn, and get their own reply."""
    given = []

    async def fn(audio):
        given.append(audio[1].shape[1] / audio[0])
        for _ in range(50):
            yield sound(0.1)

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.5)) as call:
        await call.until(9)
        assert len(given) == 2
        assert given[1] == pytest.approx(0.4 + 0.5 + 0.5, abs=0.03)
        assert len(call.of(PlayoutFinished)) == 1


async def test_finally_may_await():
    """Clean-up with awaits in an interrupted async generator runs to its end."""
    done = []

    async def fn(audio):
        try:
            while True:
                yield sound(0.1)
        finally:
            await anyio.sleep(0.5)
            done.append(anyio.current_time() - call.began)

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.5)) as call:
        await call.until(2.8)
        assert done == [pytest.approx(2.7, abs=0.05)]


async def test_task_groups_inside_a_reply():
    """A generator may hold a task group open across its yields: it lives in one task."""
    ended = []

    async def fn(audio):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            try:
                for _ in range(20):
                    yield sound(0.1)
            finally:
                ended.append(anyio.current_time() - call.began)
            tasks.cancel_scope.cancel()

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.5)) as call:
        await call.until(2.4)
        assert ended == [pytest.approx(2.2, abs=0.03)]
        await call.until(6)
        assert len(call.of(PlayoutFinished)) == 1
    assert call.end.cause is EndCause.CLOSED


async def test_an_interrupted_sync_generator_is_closed_in_its_thread():
    """It runs on to its next yield, is closed there, in the thread that began it; what it yields is dropped at once."""
    threads, closed = [], []

    def fn(audio):
        threads.append(threading.get_ident())
        try:
            while True:
                yield sound(0.5)
        finally:
            threads.append(threading.get_ident())
            closed.append(True)

    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 10.0)) as call:
        await call.until(4)
        assert closed == [True]
        assert len(set(threads)) == 1
        assert threads[0] != threading.get_ident()
        assert max(call.loud()) <= 3.26


async def test_can_interrupt_false_does_not_listen():
    """While the reply is played speech is ignored; afterwards the user is heard again."""
    async with calling(Long(), turn(0.2, 0.6) + turn(3.0, 3.5) + turn(12.0, 12.5), can_interrupt=False) as call:
        await call.until(10)
        assert len(call.of(SpeechStarted)) == 1
        assert call.of(Interrupted) == []
        await call.until(11.5)
        assert len(call.of(PlayoutFinished)) == 1
        assert call.handler._detector.now < 5  # it was deaf in between


async def test_interrupt_when_hears_backchannels():
    """Who is not let interrupt, and is silent again, has said nothing: the reply goes on and no turn is made."""
    asked = []

    def interrupt_when(audio):
        asked.append(audio[1].shape[1] / audio[0])
        return asked[-1] > 0.4 + 0.7  # 0.7 s of it, with what came before

    fn = Long()
    script = turn(0.2, 0.6) + turn(3.0, 3.3, pause=0.3) + turn(5.0, 6.0)
    async with calling(fn, script, interrupt_when=interrupt_when) as call:
        await call.until(4.9)
        assert call.of(Interrupted) == []
        assert asked
        await call.until(5.9)
        assert call.at(Interrupted) == [pytest.approx(5.7, abs=0.05)]


async def test_a_false_interruption_is_resumed_where_it_was():
    """A cough holds the reply and lets it go on: no sample is lost, none is heard twice."""

    async def fn(audio):
        for number in range(20):
            yield Say((RATE, np.full((1, RATE // 10), 1000 + number, np.int16)), f"{number} ")

    script = turn(0.2, 0.6) + turn(2.0, 2.2, pause=0.5)
    async with calling(fn, script, resume_false_interruption=True) as call:
        await call.until(6)
        assert len(call.of(Interrupted)) == len(call.of(Resumed)) == 1
        (finished,) = call.of(PlayoutFinished)
        assert finished.heard.seconds == pytest.approx(2.0, abs=0.01)
        assert finished.heard.text == "".join(f"{number} " for number in range(20))
        peaks = [peak for _, peak in call.heard if peak > 100]
        assert peaks == sorted(peaks)
        assert len(peaks) == pytest.approx(100, abs=2)
        quiet = [at for at in call.loud() if 2.27 < at < 2.67]
        assert quiet == []


async def test_a_true_interruption_is_not_resumed():
    """Whoever says a whole sentence is answered; the held reply is cancelled."""
    fn = Long()
    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 3.5), resume_false_interruption=True) as call:
        await call.until(3.9)
        assert fn.closed is None
        await call.until(4.2)
        assert fn.closed is not None
        assert len(call.of(ReplyStarted)) == 2
        assert call.of(Resumed) == []


async def test_resume_asks_the_given_function():
    """`resume_false_interruption` may judge the audio itself: False means that nothing was said."""
    judged = []

    def was_said(audio):
        judged.append(audio[1].shape)
        return False

    async with calling(Long(), turn(0.2, 0.6) + turn(2.0, 4.0), resume_false_interruption=was_said) as call:
        await call.until(5)
        assert len(judged) == 1
        assert len(call.of(Resumed)) == 1


async def test_resuming_when_the_generator_had_ended():
    """A reply that was all emitted when it was held is played to its end, once."""

    async def fn(audio):
        yield sound(3)

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.2), resume_false_interruption=True) as call:
        await call.until(8)
        (finished,) = call.of(PlayoutFinished)
        assert finished.heard.seconds == pytest.approx(3, abs=0.01)
        assert len(call.loud()) == pytest.approx(150, abs=2)


# -- errors


async def _raises(audio):
    yield sound(0.1)
    raise ValueError("no more words")


def _raises_in_thread(audio):
    yield sound(0.1)
    raise ValueError("no more words")


def _junk(audio):
    yield sound(0.1)
    yield "hello"


async def _float64(audio):
    yield sound(0.1)
    yield RATE, np.zeros(10)


async def _none(audio):
    yield sound(0.1)
    yield None
    raise ValueError("after None")


FAILING = [_raises, _raises_in_thread, _junk, _float64, _none]


@pytest.mark.parametrize("fn", FAILING)
async def test_a_failing_turn_is_told_and_the_next_one_works(fn, caplog):
    """The peer gets an error message, the log a traceback; what was said before is played, the next turn answered."""
    async with calling(fn, turn(0.2, 0.6) + turn(3.0, 3.4)) as call:
        await call.until(5)
        assert len(call.of(ReplyFailed)) == 2
        assert [message["data"] for message in call.messages if message["type"] == "error"] == [
            "the reply function failed"
        ] * 2
        assert len(call.loud()) == 10
        assert call.handler.turns[0].failed is not None
    assert call.end.cause is EndCause.CLOSED
    assert f"the reply function {fn.__name__} failed in turn 1" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("fn", [_raises, _raises_in_thread])
async def test_a_failing_turn_ends_the_call_if_asked_to(fn):
    """`on_turn_error="end"`: the connection raises the reply's own exception."""
    with pytest.raises(BaseExceptionGroup) as raised:
        async with calling(fn, turn(0.2, 0.6), on_turn_error="end") as call:
            await call.until(5)
    assert raised.group_contains(ValueError, match="no more words")


async def test_a_finally_that_raises_while_interrupted_harms_nobody(caplog):
    """It is logged; the next turn is answered."""

    async def fn(audio):
        try:
            while True:
                yield sound(0.1)
        finally:
            raise KeyError("in finally")

    async with calling(fn, turn(0.2, 0.6) + turn(2.0, 2.5)) as call:
        await call.until(3.5)
        assert len(call.of(ReplyStarted)) == 2
        assert call.of(ReplyFailed) == []
    assert "in finally" in caplog.text


class Model:
    """A model of one's own, of FastRTC's protocol."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.threads = set()

    def vad(self, audio, options):
        self.threads.add(threading.get_ident())
        answer = self.answers.pop(0) if self.answers else 0.0
        if isinstance(answer, Exception):
            raise answer
        return answer, []

    def warmup(self):
        pass


async def test_a_model_of_ones_own_works_as_in_fastrtc():
    """Chunks of 0.6 s: more than 0.2 s of speech starts, less than 0.1 s ends; called in a worker thread."""
    model = Model([0.0, 0.5, 0.6, 0.05])
    async with calling(async_generator, model=model) as call:
        await call.until(4)
        (started,), (ended,) = call.of(SpeechStarted), call.of(TurnEnded)
        assert started.at == pytest.approx(0.6, abs=0.03)
        assert ended.at == pytest.approx(2.4, abs=0.03)
        assert len(call.of(PlayoutFinished)) == 1
    assert threading.get_ident() not in model.threads


async def test_a_model_that_raises_costs_one_chunk(caplog):
    """The peer is told, and the next turn is heard."""
    model = Model([0.5, OSError("out of memory"), 0.5, 0.0])
    async with calling(async_generator, model=model) as call:
        await call.until(5)
        assert len(call.of(ReplyFailed)) == 1
        assert len(call.of(PlayoutFinished)) == 1
    assert "out of memory" in caplog.text


# -- further ways in and out


async def test_trigger_response_replies_at_once():
    """From any thread, with what was said so far in this turn; with nothing if nobody spoke."""
    given = []

    def fn(audio):
        given.append(audio[1].shape)
        assert get_current_handler() is call.handler
        yield sound(0.1)

    async with calling(fn, [(1.2, SpeechStarted(1.0))]) as call:
        await call.until(0.5)
        thread = threading.Thread(target=call.handler.trigger_response)
        thread.start()
        thread.join()
        await call.until(2.0)
        call.handler.trigger_response()
        await call.until(3)
        assert given[0] == (1, 0)
        assert given[1][1] / 48000 == pytest.approx(1.4, abs=0.05)
        assert len(call.of(PlayoutFinished)) == 2


async def test_startup_fn_greets():
    """What it yields is heard first, as turn 0."""

    def greet():
        yield sound(0.3)

    async with calling(async_generator, startup_fn=greet) as call:
        await call.until(1)
        assert len(call.loud()) == 15
        assert call.of(PlayoutFinished)[0].turn == 0


async def test_arguments_come_before_the_reply():
    """fn with a second parameter waits for the peer's arguments (`send_input`), anew for each turn."""
    given = []

    def fn(audio, name, temperature):
        given.append((name, temperature))
        yield sound(0.1)

    async with calling(fn, turn(0.2, 0.4) + turn(3.0, 3.2)) as call:
        await call.until(1.5)
        assert given == []
        assert {"type": "send_input", "data": []} in call.messages
        call.connection.set_args(["Ada", 0.5])
        await call.until(3.9)
        assert given == [("Ada", 0.5)]
        call.connection.set_args(["Bob", 0.7])
        await call.until(5)
        assert given[1:] == [("Bob", 0.7)]


async def test_additional_outputs_and_close():
    """Outputs reach the application; CloseStream ends the call after the last word."""

    async def fn(audio):
        yield Say(sound(0.1), "good"), AdditionalOutputs("transcript")
        yield AdditionalOutputs("more")
        yield sound(0.3), CloseStream("bye")

    outputs = []
    async with calling(fn, turn(0.2, 0.6)) as call:
        call.connection._on_outputs = outputs.append
        await call.until(3)
    assert outputs == [AdditionalOutputs("transcript"), AdditionalOutputs("more")]
    assert call.end.cause is EndCause.HANDLER_CLOSED
    assert len(call.loud()) == 20


async def test_a_muted_caller_has_finished():
    """When no audio comes at all in the midst of a turn, that is silence: the turn ends all the same."""
    async with calling(async_generator, turn(0.2, 5.0, confirmed=0.1, pause=0.5), speak=False) as call:
        for _ in range(30):
            call.connection.transport.audio_in.put_nowait(AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
            await anyio.sleep(0.02)
        await call.until(8)
        (ended,) = call.at(TurnEnded)
        assert ended == pytest.approx(5.5, abs=0.3)
        assert len(call.of(PlayoutFinished)) == 1


async def test_hanging_up_ends_the_reply():
    """When the connection ends in the midst of a reply its finally has run, within the connection."""
    fn = Long()
    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
        assert fn.closed is None
    assert fn.closed is not None


async def test_hanging_up_frees_a_sync_reply():
    """A generator in its thread, waiting for room, is let go and closed when the connection ends."""
    closed = []

    def fn(audio):
        try:
            while True:
                yield sound(0.5)
        finally:
            closed.append(True)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
    deadline = time.monotonic() + 30
    while not closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert closed == [True]


async def test_bot_speaking_is_told_to_the_detector():
    """From the first chunk to the end of playout, and not while the bot thinks."""

    async def fn(audio):
        await anyio.sleep(0.5)
        yield sound(0.5)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
        told = call.handler._detector.spoken_to
    first, last = told.index(True), len(told) - told[::-1].index(True)
    assert first * 0.02 == pytest.approx(1.6, abs=0.06)
    assert (last - first) * 0.02 == pytest.approx(0.5, abs=0.06)


# -- at construction


def no_arguments():
    yield sound(0.1)


def keyword_only(audio, *, voice):
    yield sound(0.1)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (no_arguments, "takes no argument"),
        (keyword_only, "keyword argument 'voice'"),
        (generator((48000, np.zeros((1, 0)))), "leave out the"),
        ("reply", "must be a function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(fn, words):
    """At construction, with what to write."""
    with pytest.raises(TypeError, match=words):
        ReplyOnPause(fn, model=EnergyVad())


def taking_two(one, two):
    return True


async def async_callback(audio):
    return True


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("startup_fn", "hello", "must be a function"),
        ("startup_fn", generator(None), "leave out the"),
        ("startup_fn", keyword_only, "keyword argument 'voice'"),
        ("on_event", 3, "must be a function"),
        ("on_event", no_arguments, "called with one argument, but takes 0"),
        ("on_event", async_callback, "not an async one"),
        ("interrupt_when", taking_two, "called with one argument, but takes 2"),
        ("interrupt_when", async_callback, "not an async one"),
        ("resume_false_interruption", "yes", "must be a function"),
        ("resume_false_interruption", async_callback, "not an async one"),
        ("algo_options", {"pause_duration": 1}, r"write: AlgoOptions\(pause_duration=1\)"),
        ("model_options", {"threshold": 0.6}, r"write: SileroVadOptions\(threshold=0.6\)"),
        ("model", EnergyVad, r"write: model=EnergyVad\(\)"),
        ("detector", Script(), "function that makes a TurnDetector"),
        ("detector", lambda: None, "which is not a TurnDetector: it has no 'feed'"),
    ],
)
def test_what_an_argument_cannot_be_is_refused(argument, value, words):
    """At construction, naming the argument, with what to write."""
    options = {argument: value}
    if argument not in {"model", "detector"}:
        options["model"] = EnergyVad()
    with pytest.raises(TypeError, match=f"{argument}.*{words}"):
        ReplyOnPause(generator, **options)


def test_a_model_beside_a_detector_is_refused():
    """It would not be asked."""
    with pytest.raises(TypeError, match="leave out one of the two"):
        ReplyOnPause(generator, model=EnergyVad(), detector=Script)


def test_a_thing_that_is_no_model_is_refused():
    """At construction, naming both protocols."""
    with pytest.raises(TypeError, match="PauseDetectionModel or StreamingVadModel"):
        ReplyOnPause(generator, model=object())


def test_a_missing_extra_is_named(monkeypatch):
    """Without a model the error names the extra and the alternative."""
    import importlib.util

    from rtcflow.handlers.turns import silero

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    silero.get_silero_model.cache_clear()
    with pytest.raises(RuntimeError, match=r"rtcflow\[vad\].*EnergyVad"):
        ReplyOnPause(generator)


@pytest.mark.parametrize(
    "options",
    [
        {"audio_chunk_duration": 0},
        {"started_talking_threshold": 0.7},
        {"speech_threshold": -0.1},
        {"pause_duration": 0},
        {"max_continuous_speech_s": float("nan")},
        {"interrupt_probability": 1.5},
        {"interrupt_level_dbfs": 3},
        {"interrupt_level_dbfs": "loud"},
        {"audio_chunk_duration": float("inf")},
        {"audio_chunk_duration": "0.6"},
        {"pause_duration": float("inf")},
        {"pause_duration": 61},
        {"started_talking_threshold": None},
        {"interrupt_threshold": "0.1"},
    ],
)
def test_options_out_of_range_are_refused(options):
    """With the argument's name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        AlgoOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": None},
        {"threshold": 1.0},
        {"min_speech_duration_ms": float("inf")},
        {"speech_pad_ms": "400"},
        {"min_silence_duration_ms": -1},
        {"max_speech_duration_s": 0},
    ],
)
def test_options_of_the_model_out_of_range_are_refused(options):
    """With the argument's name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        SileroVadOptions(**options)


def test_a_copy_has_the_same_settings_and_nothing_else_in_common():
    """Each connection gets its own detector; the model's weights are shared."""
    model = EnergyVad()
    handler = ReplyOnPause(generator, algo_options=AlgoOptions(pause_duration=1), model=model, can_interrupt=False)
    copy = handler.copy()
    assert copy.algo_options is handler.algo_options
    assert copy.model is model
    assert copy.can_interrupt is False
    assert copy._detector is not handler._detector
