"""Turns where the user's own code is slow, raises, or never answers: the call goes on, and nobody is misheard."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time

import anyio
import numpy as np
import pytest
from turn_script import RATE, Long, Script, calling, sound, turn

from rtcflow.connection.connection import EndCause
from rtcflow.frames import AudioFrame
from rtcflow.handlers.turns import (
    Interrupted,
    PlayoutFinished,
    ReplyFailed,
    ReplyOnPause,
    ReplyStarted,
    Resumed,
    SpeechStarted,
    TurnEnded,
    VoiceTurns,
    detector_runner,
    reply_handler,
    state,
)
from rtcflow.outputs import CloseStream
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def said(seconds: float) -> np.ndarray:
    """Loud, and nowhere zero."""
    return np.full((1, round(seconds * RATE)), 5000, np.int16)


class Loud:
    """A model of FastRTC's kind that takes its time: speech is what is loud."""

    def __init__(self, *delays: float):
        self.delays = list(delays)

    def vad(self, audio, options):
        rate, samples = audio
        time.sleep(self.delays.pop(0) if self.delays else 0.0)
        return float(np.count_nonzero(np.abs(samples) > 1000)) / rate, []

    def warmup(self):
        pass


# -- slow models


@pytest.mark.parametrize("delays", [[0.3] * 8, [0.0, 0.7]], ids=["always slow", "one hiccup"])
async def test_a_slow_model_is_no_silence(delays):
    """While the model computes, frames wait; that is no silence: fn gets what was said, whole, in one turn."""
    given, events = [], []

    async def fn(audio):
        given.append(audio[1][0])
        yield sound(0.1)

    handler = ReplyOnPause(fn, model=Loud(*delays), input_sample_rate=RATE, on_event=events.append)
    async with open_caller(handler) as caller:
        await caller.play(said(3.0))
        await caller.wait(1.5)
    assert [type(event) for event in events].count(SpeechStarted) == 1
    assert [type(event) for event in events].count(TurnEnded) == 1
    (heard,) = given
    loud = np.flatnonzero(heard)
    assert len(loud) == pytest.approx(3.0 * RATE, abs=0.03 * RATE)
    assert loud[-1] - loud[0] + 1 == len(loud)


class Steady:
    """A streaming model that takes its time for each window."""

    window_size = 512

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.threads = set()

    def stream(self):
        return self

    def reset(self):
        pass

    def __call__(self, window):
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        return float(np.abs(window).max() > 0.1)


async def test_a_model_that_holds_up_the_loop_is_named_once(caplog, monkeypatch):
    """More than half the audio's own duration in the event loop: one warning, which says what to do."""
    monkeypatch.setattr(detector_runner, "MEASURED", 0.5)
    handler = ReplyOnPause(lambda audio: None, model=Steady(0.02), input_sample_rate=RATE)
    async with open_caller(handler) as caller:
        await caller.play(said(2.0))
    warnings = [record.message for record in caplog.records if "holds up the event loop" in record.message]
    assert len(warnings) == 1
    assert "VoiceTurns" in warnings[0]
    assert "blocking=True" in warnings[0]


async def test_a_slow_streaming_model_may_have_a_thread(caplog):
    """`blocking`, of the model or of `VoiceTurns`, takes it out of the event loop."""
    model = Steady(0.02)
    model.blocking = True
    async with open_caller(ReplyOnPause(lambda audio: None, model=model, input_sample_rate=RATE)) as caller:
        await caller.play(said(1.0))
    assert threading.get_ident() not in model.threads
    assert "holds up" not in caplog.text
    assert VoiceTurns(model, blocking=True).blocking


class Watched(Script):
    """A blocking detector that writes down who calls it, and whether two do at once."""

    def __init__(self, events, calls):
        super().__init__(events, blocking=True)
        self.calls, self.inside = calls, 0

    def note(self, what):
        self.inside += 1
        self.calls.append((what, threading.get_ident(), self.inside))
        time.sleep(0.001)
        self.inside -= 1

    def feed(self, samples, sample_rate, *, bot_speaking):
        self.note("feed")
        return super().feed(samples, sample_rate, bot_speaking=bot_speaking)

    def silence(self, seconds):
        self.note("silence")
        return super().silence(seconds)

    def reset(self):
        self.note("reset")


async def test_a_blocking_detector_is_asked_one_thing_at_a_time_in_a_thread():
    """`feed`, `silence` and `reset`, none of them in the event loop and none beside another."""
    calls, ended = [], []

    def fn(audio):
        ended.append(audio[1].shape[1])

    handler = ReplyOnPause(fn, detector=lambda: Watched(turn(0.3, 5.0, pause=0.5), calls), input_sample_rate=RATE)
    async with open_caller(handler) as caller:
        await caller.wait(0.9)
        caller.handler.trigger_response()
        await caller.wait(0.1)
        caller.microphone = False
        caller.handler._act_on([SpeechStarted(0.9)])
        await caller.wait(6)
    assert {what for what, _, _ in calls} == {"feed", "silence", "reset"}
    assert threading.get_ident() not in {thread for _, thread, _ in calls}
    assert max(at_once for _, _, at_once in calls) == 1
    assert len(ended) == 2


async def test_what_a_detector_judges_while_it_is_told_to_forget_is_void():
    """`trigger_response` during a slow `feed` whose answer is the end of the same turn: one reply, not two."""
    called, inside = [], threading.Event()

    class Slow(Script):
        def feed(self, samples, sample_rate, *, bot_speaking):
            events = super().feed(samples, sample_rate, bot_speaking=bot_speaking)
            if any(isinstance(event, TurnEnded) for event in events):
                inside.set()
                time.sleep(0.3)
            return events

    handler = ReplyOnPause(called.append, detector=lambda: Slow(turn(0.3, 0.6), blocking=True), input_sample_rate=RATE)
    async with open_caller(handler) as caller:
        await caller.wait(1.0)
        with anyio.fail_after(5):
            while not inside.is_set():
                await caller.wait(0.01)
        caller.handler.trigger_response()
        await caller.wait(2)
    assert len(called) == 1


# -- code of the user's that raises


class Broken(Script):
    """A detector of which one method raises, from a moment on."""

    def __init__(self, events, method, since=0.0, until=float("inf")):
        super().__init__(events)
        self.method, self.since, self.until = method, since, until

    def _maybe(self, method):
        if method == self.method and self.since <= self.now < self.until:
            raise OSError(f"{method} is broken")

    def feed(self, samples, sample_rate, *, bot_speaking):
        events = super().feed(samples, sample_rate, bot_speaking=bot_speaking)
        self._maybe("feed")
        return events

    def silence(self, seconds):
        self._maybe("silence")
        return super().silence(seconds)

    def reset(self):
        self._maybe("reset")
        super().reset()


def errors(call):
    return [message["data"] for message in call.messages if message["type"] == "error"]


async def test_a_detector_that_raises_costs_one_turn_and_is_told_once(caplog):
    """Fifty frames fail: one traceback, one message, one event; the turn is recorded as failed, the next is heard."""
    detector = Broken(turn(0.2, 2.0) + turn(3.0, 3.4), "feed", since=1.0, until=2.6)
    async with calling(Long(chunks=5), detector=lambda: detector) as call:
        await call.until(5)
        (failed,) = call.of(ReplyFailed)
        assert failed.turn == 1
        assert errors(call) == ["the turn detection model failed"]
        assert [turn.failed is not None for turn in call.handler.turns] == [True, False]
        assert len(call.of(PlayoutFinished)) == 1
    assert call.end.cause is EndCause.CLOSED
    assert caplog.text.count("feed is broken") == 1
    assert "the turn detection model Broken failed in turn 1" in caplog.text


@pytest.mark.parametrize("method", ["feed", "reset"])
async def test_a_reply_that_was_held_goes_on_when_the_detector_fails(method):
    """Nobody would ever say that it was a false alarm: the reply is resumed, and played to its end."""
    detector = Broken(turn(0.2, 0.6) + turn(2.0, 9.0), "feed", since=3.0, until=3.1)
    detector.until, reset = 3.1, detector.reset

    def broken_reset():
        reset()
        if method == "reset":
            raise OSError("reset is broken, too")

    detector.reset = broken_reset
    async with calling(Long(chunks=30), detector=lambda: detector, resume_false_interruption=True) as call:
        await call.until(6)
        assert len(call.of(Interrupted)) == len(call.of(Resumed)) == 1
        (finished,) = call.of(PlayoutFinished)
        assert finished.heard.complete
        assert call.handler._state.recording.so_far()[1].shape[1] == 0
    assert call.end.cause is EndCause.CLOSED


async def test_a_detector_whose_silence_raises_costs_one_turn(caplog):
    """It is asked while nothing comes; the call goes on when something does."""
    detector = Broken(turn(0.2, 5.0), "silence")
    async with calling(Long(), detector=lambda: detector, speak=False) as call:
        for _ in range(30):
            call.connection.transport.audio_in.put_nowait(AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
            await anyio.sleep(0.02)
        await call.until(3)
        assert errors(call) == ["the turn detection model failed"]
    assert call.end.cause is EndCause.CLOSED
    assert "silence is broken" in caplog.text


@pytest.mark.parametrize("events", [None, [1], "speech"])
async def test_what_no_detector_may_return_is_told(events, caplog):
    """Junk instead of events costs no call, and the log says what to write."""
    detector = Script([])
    detector.feed = lambda samples, rate, bot_speaking: events
    async with calling(Long(), detector=lambda: detector) as call:
        await call.until(1)
    assert call.end.cause is EndCause.CLOSED
    assert caplog.text.count("a turn detector must return a list of SpeechStarted") == 1


async def test_interrupt_when_that_raises_does_not_interrupt(caplog):
    """It is logged and told once; the reply is played to its end, and the next turn is answered."""

    def interrupt_when(audio):
        raise KeyError("no such word")

    script = turn(0.2, 0.6) + turn(2.0, 2.5) + turn(6.0, 6.4)
    async with calling(Long(chunks=30), script, interrupt_when=interrupt_when) as call:
        await call.until(7.5)
        assert call.of(Interrupted) == []
        assert len(call.of(PlayoutFinished)) == 1
        assert len(call.of(ReplyStarted)) == 2
        assert errors(call) == ["interrupt_when failed"]
        assert [turn.number for turn in call.handler.turns if turn.failed] == [2]
    assert call.end.cause is EndCause.CLOSED
    assert caplog.text.count("Traceback") == 1


async def test_a_judgement_that_raises_resumes_the_reply(caplog):
    """`resume_false_interruption` failed: nothing was said, as far as anybody knows."""

    def was_said(audio):
        raise RuntimeError("no recogniser")

    script = turn(0.2, 0.6) + turn(2.0, 3.0)
    async with calling(Long(chunks=30), script, resume_false_interruption=was_said) as call:
        await call.until(7)
        assert len(call.of(Resumed)) == 1
        assert len(call.of(PlayoutFinished)) == 1
        assert errors(call) == ["resume_false_interruption failed"]
    assert call.end.cause is EndCause.CLOSED
    assert "resume_false_interruption" in caplog.text
    assert "was_said failed in turn 2" in caplog.text


async def test_on_event_that_raises_harms_no_turn(caplog):
    """All events fail: each turn is answered all the same; tracebacks are logged once a turn."""
    async with calling(Long(chunks=5), turn(0.2, 0.6) + turn(3.0, 3.4)) as call:

        def on_event(event):
            raise ValueError("nobody wants to know")

        call.handler._on_event = on_event
        await call.until(5)
        assert len(call.handler.turns) == 2
        assert all(turn.playout_end and not turn.failed for turn in call.handler.turns)
    assert call.end.cause is EndCause.CLOSED
    assert caplog.text.count("Traceback") == 2


@pytest.mark.parametrize("where", ["feed", "interrupt_when", "on_event", "resume"])
async def test_any_of_them_ends_the_call_if_asked_to(where):
    """`on_turn_error="end"`: the connection raises what was raised."""

    def broken(given):
        raise ZeroDivisionError(where)

    options = {"interrupt_when": {"interrupt_when": broken}, "resume": {"resume_false_interruption": broken}}
    detector = Script(turn(0.2, 0.6) + turn(2.0, 3.0))
    if where == "feed":
        detector.feed = lambda samples, rate, bot_speaking: broken(samples)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with calling(Long(), detector=lambda: detector, on_turn_error="end", **options.get(where, {})) as call:
            if where == "on_event":
                call.handler._on_event = broken
            await call.until(5)
    assert raised.group_contains(ZeroDivisionError, match=where)


# -- what is judged while hearing goes on


async def test_hearing_goes_on_while_a_false_interruption_is_judged():
    """A slow `resume_false_interruption` holds up no frame; then the reply goes on."""
    free = threading.Event()

    def was_said(audio):
        free.wait(10)
        return False

    script = turn(0.2, 0.6) + turn(2.0, 2.5)
    async with calling(Long(chunks=30), script, resume_false_interruption=was_said) as call:
        await call.until(4.0)
        assert call.handler._detector.now == pytest.approx(4.0, abs=0.1)
        assert call.of(Resumed) == []
        free.set()
        deadline = time.monotonic() + 100
        while not call.of(Resumed) and time.monotonic() < deadline:
            await anyio.sleep(0.02)
        assert len(call.of(Resumed)) == 1


async def test_speech_during_the_judgement_counts():
    """Two turns before the judgement is there are one turn, with the audio of both; the judgement is not awaited."""
    free, given = threading.Event(), []

    async def fn(audio):
        given.append(audio[1].shape[1] / audio[0])
        for _ in range(50):
            yield sound(0.1)

    script = turn(0.2, 0.6) + turn(2.0, 2.5) + turn(4.0, 4.5)
    try:
        async with calling(fn, script, resume_false_interruption=lambda audio: free.wait(10)) as call:
            await call.until(5.5)
            assert [event.turn for event in call.of(ReplyStarted)] == [1, 2]
            assert given[1] == pytest.approx(2 * (0.4 + 0.5 + 0.5), abs=0.05)
            assert call.of(Resumed) == []
            assert call.handler.turns[0].interrupted == pytest.approx(call.began + 2.2, abs=0.03)
    finally:
        free.set()


async def test_interrupted_is_when_the_sound_stopped():
    """A reply that was held first and cancelled later was interrupted where it was held."""
    script = turn(0.2, 0.6) + turn(2.0, 5.0)
    async with calling(Long(), script, resume_false_interruption=True) as call:
        await call.until(6)
        assert call.handler.turns[0].interrupted == pytest.approx(call.began + 2.2, abs=0.03)
        assert max(at for at in call.loud() if at < 5.4) < 2.3


# -- each turn has its record


async def test_the_turn_under_way_at_the_end_is_recorded(caplog):
    """Hanging up in the midst of a reply: one record, that says so; and what was heard by then."""
    caplog.set_level("INFO", "rtcflow.turns")
    async with calling(Long(), turn(0.2, 0.6)) as call:
        await call.until(3)
    (times,) = call.handler.turns
    assert times.call_ended == pytest.approx(call.began + 3, abs=0.05)
    assert times.playout_end is times.interrupted is None
    assert [record.message for record in caplog.records if record.name == "rtcflow.turns"] == [str(times)]
    assert "cut off by the end of the call" in str(times)
    assert call.handler.heard().seconds == pytest.approx(1.9, abs=0.1)


async def test_a_turn_that_closes_the_call_is_recorded():
    """`CloseStream` from the reply function."""

    async def fn(audio):
        yield sound(0.1), CloseStream("bye")

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
    (times,) = call.handler.turns
    assert times.call_ended is not None
    assert call.handler.heard().seconds == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("options", [{}, {"resume_false_interruption": lambda audio: time.sleep(0.3)}])
async def test_a_turn_that_nobody_could_answer_is_recorded(options):
    """Hanging up while the user speaks, or while it is judged whether he does."""
    end = 9.0 if not options else 2.5
    async with calling(Long(), turn(0.2, 0.6) + turn(2.0, end), **options) as call:
        await call.until(3.01)
    assert sorted(times.number for times in call.handler.turns) == [1, 2]


# -- arguments that do not come


async def test_waiting_for_arguments_is_not_deaf(caplog):
    """With `can_interrupt=False` and a peer that does not answer `send_input`, the user is heard; the log says why."""

    def fn(audio, name):
        return sound(2.0)

    async with calling(fn, turn(0.2, 0.6) + turn(15.0, 15.5) + turn(17.0, 17.5), can_interrupt=False) as call:
        await call.until(16.5)
        assert len(call.of(TurnEnded)) == 2
        assert call.of(ReplyStarted) == []
        call.connection.set_args(["Ada"])
        await call.until(17.0)
        assert [event.turn for event in call.of(ReplyStarted)] == [2]
        await call.until(19.5)
        assert len(call.of(PlayoutFinished)) == 1
        assert len(call.of(TurnEnded)) == 2  # deaf while it was played
    assert caplog.text.count("waits for its arguments") == 1
    assert "turn 1 waits" in caplog.text


async def test_the_greeting_gets_what_it_takes():
    """A `startup_fn` without arguments beside an `fn` that has some does not wait for them."""
    async with calling(lambda audio, name: None, startup_fn=lambda: sound(0.1)) as call:
        await call.until(1)
        assert len(call.of(PlayoutFinished)) == 1
    given = []

    def greet(name="nobody", age=0):
        given.append((name, age))
        return sound(0.1)

    async with calling(lambda audio, name: None, startup_fn=greet) as call:
        await call.until(0.5)
        call.connection.set_args(["Ada", 36])
        await call.until(1)
    assert given == [("Ada", 36)]


# -- threads


async def test_threads_of_interrupted_replies_have_a_bound(caplog):
    """A function that blocks through eight barge-ins: three threads, not nine; the last turn is answered by one."""
    free, threads, answered = threading.Event(), set(), []

    def fn(audio):
        threads.add(threading.get_ident())
        free.wait(20)
        answered.append(audio)
        return sound(0.1)

    script = [event for n in range(9) for event in turn(0.3 + n, 0.6 + n, pause=0.3)]
    try:
        async with calling(fn, script) as call:
            await call.until(10)
            assert len(threads) == reply_handler.REPLY_THREADS
            assert len(answered) == 0
            free.set()
            deadline = time.monotonic() + 100
            while not call.of(PlayoutFinished) and time.monotonic() < deadline:
                await anyio.sleep(0.02)
            assert call.of(PlayoutFinished)[0].turn == 9
    finally:
        free.set()
    assert len(answered) == reply_handler.REPLY_THREADS + 1
    assert "3 worker threads of this connection are still in" in caplog.text
    assert "fn" in caplog.text


async def test_a_thread_that_raises_after_its_interruption_is_named(caplog):
    """The log names the user's function and no part of rtcflow."""
    free = threading.Event()

    def answer(audio):
        free.wait(10)
        raise LookupError("too late")
        yield

    async with calling(answer, turn(0.2, 0.6) + turn(2.0, 9.0)) as call:
        await call.until(2.5)
        free.set()
        deadline = time.monotonic() + 100
        while "too late" not in caplog.text and time.monotonic() < deadline:
            await anyio.sleep(0.02)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the reply function" in record.message
    assert "answer raised after its reply was over" in record.message
    assert "_drive" not in caplog.text.split("Traceback")[0]


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_a_reply_that_meets_a_cancelled_future_has_failed(caplog):
    """On asyncio that looks like the end of its own task, and nobody would be told."""

    async def answer(audio):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        yield sound(0.1)

    async with calling(answer, turn(0.2, 0.6) + turn(2.0, 2.4)) as call:
        await call.until(4)
        assert [event.turn for event in call.of(ReplyFailed)] == [1, 2]
    assert "somebody else had cancelled" in str(call.of(ReplyFailed)[0].error)
    assert "the reply function" in caplog.text


async def test_a_plain_function_around_an_async_one_runs_in_a_thread():
    """What its own lines do may block, whatever `functools.wraps` says."""
    threads = []

    async def inner(audio):
        yield sound(0.1)

    @functools.wraps(inner)
    def fn(audio):
        threads.append(threading.get_ident())
        return inner(audio)

    async with calling(fn, turn(0.2, 0.6)) as call:
        await call.until(3)
        assert len(call.of(PlayoutFinished)) == 1
    assert threading.get_ident() not in threads


# -- growth


async def test_interrupt_when_is_given_a_bounded_tail():
    """A caller who talks over the bot for long costs no more at each frame."""
    most = []

    def interrupt_when(audio):
        most.append(audio[1].shape[1] / audio[0])
        return False

    async with calling(Long(chunks=200), turn(0.2, 0.6) + turn(2.0, 19.0), interrupt_when=interrupt_when) as call:
        await call.until(16)
    assert max(most) == pytest.approx(state.JUDGED)
    assert most[0] == pytest.approx(0.6, abs=0.03)
    assert most == sorted(most)
