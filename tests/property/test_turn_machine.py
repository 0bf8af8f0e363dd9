"""Turns and barge-in live through anything: `HandlerLifecycle` around `ReplyOnPause`, on both backends."""

from __future__ import annotations

import time

import anyio
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from machine_runs import run_machine

import rtcflow
from rtcflow.handlers.base import get_current_handler
from rtcflow.handlers.turns import (
    FirstAudio,
    Interrupted,
    PlayoutFinished,
    ReplyFailed,
    ReplyStarted,
    Resumed,
    SpeechStarted,
)
from rtcflow.testing import HandlerLifecycle

pytestmark = pytest.mark.slow

CHUNK = (24000, np.full((1, 2400), 800, np.int16))
KINDS = ("short", "long", "slow", "raises", "junk", "nothing", "raises late")


class Answer:
    """One call of the reply function: what it was told to be, and what became of it."""

    def __init__(self, handler):
        self.kind = handler.kinds.pop(0) if handler.kinds else "short"
        self.turn = handler.started
        self.closed = self.yielded = 0
        handler.answers.append(self)

    def chunks(self):
        """How many chunks of 0.1 s it has, and what comes instead of one."""
        match self.kind:
            case "nothing":
                return []
            case "raises":
                return [ValueError("no words")]
            case "raises late":
                return [CHUNK, CHUNK, ValueError("no more words")]
            case "junk":
                return [CHUNK, "hello"]
            case "long":
                return [CHUNK] * 40
        return [CHUNK] * 3


async def reply(audio):
    answer = Answer(get_current_handler())
    try:
        if answer.kind == "slow":
            await anyio.sleep(3)
        for chunk in answer.chunks():
            if isinstance(chunk, Exception):
                raise chunk
            answer.yielded += 1
            yield chunk
            await anyio.sleep(0)
    finally:
        answer.closed += 1


def reply_in_thread(audio):
    answer = Answer(get_current_handler())
    try:
        for chunk in answer.chunks():
            if isinstance(chunk, Exception):
                raise chunk
            answer.yielded += 1
            yield chunk
    finally:
        answer.closed += 1


def note(event):
    handler = get_current_handler()
    handler.events.append(event)
    if isinstance(event, ReplyStarted):
        handler.started = event.turn


class Talker(rtcflow.ReplyOnPause):
    """Writes down all that happens in its turns."""

    def __init__(self, **options):
        super().__init__(**options)
        self.events, self.answers, self.kinds, self.started = [], [], [], 0


class TalkLife(HandlerLifecycle):
    """A caller who speaks, pauses and interrupts; replies of every kind."""

    fn = staticmethod(reply)
    model = rtcflow.turns.EnergyVad()
    resume = False
    options = {}
    transports = ("memory",)  # lines have a test of their own

    def make_handler(self):
        self.seen = None
        return Talker(
            fn=self.fn, model=self.model, on_event=note, resume_false_interruption=self.resume, **self.options
        )

    @rule(seconds=st.sampled_from((0.5, 0.3, 1.5)), pause=st.sampled_from((0.7, 0.3, 2.0)), kind=st.sampled_from(KINDS))
    def caller_has_a_turn(self, seconds, pause, kind):
        """He speaks and pauses; whatever reply is under way is interrupted by it."""
        if self._live:
            self.handler.kinds[:] = [kind]
        self.caller_speaks(seconds=seconds)
        self.caller_is_silent(seconds=pause)

    @rule(kind=st.sampled_from(KINDS))
    def application_triggers(self, kind):
        """A reply is asked for without speech."""
        if self._live and self.connection.statistics().setup is not None:
            self.handler.kinds[:] = [kind]
            self.handler.trigger_response()
            self.time_passes(seconds=0.1)

    def check(self):
        super().check()
        handler = self.handler if self._live else self.seen
        if handler is None:
            return
        self.replies_take_turns(handler)
        self.interrupted_replies_stop(handler)
        self.times_are_in_order(handler)
        if self._live:
            self.seen = handler
        else:
            self.seen = None
            self.every_generator_was_closed(handler)
            answered = {event.turn for event in handler.events if isinstance(event, ReplyStarted)}
            assert answered <= {turn.number for turn in handler.turns}, (
                "each reply has its record when the call is over"
            )

    def replies_take_turns(self, handler):
        """One reply at a time, each with one end, numbered in order."""
        speaking, held, last, ended = None, None, 0, set()
        for event in handler.events:
            match event:
                case ReplyStarted(turn):
                    ended |= {held} - {None}
                    assert speaking is None, f"a reply begins when the one before has ended: {turn} within {speaking}"
                    assert turn > last, f"turns are counted: {turn} after {last}"
                    speaking, held, last = turn, None, turn
                case FirstAudio(turn) | ReplyFailed(turn):
                    assert turn in {speaking, held}, f"{event} belongs to the reply under way, {speaking}"
                case PlayoutFinished(turn):
                    assert speaking == turn, f"a reply ends once: {event}"
                    speaking = None
                    ended.add(turn)
                case Interrupted(turn):
                    assert speaking == turn, f"a reply ends once: {event}"
                    speaking, held = None, turn
                case Resumed(turn):
                    assert self.resume
                    assert (speaking, held) == (None, turn), f"what was held goes on: {event}"
                    speaking, held = turn, None
        assert ended <= {turn.number for turn in handler.turns}, "each reply that has ended has its times"
        open_answers = [answer for answer in handler.answers if not answer.closed and answer.turn == speaking]
        assert len(open_answers) <= 1

    def interrupted_replies_stop(self, handler):
        """What was interrupted has been closed by the end of the step, if it is async; and nothing is closed twice."""
        if not self.resume and self.fn is reply:
            gone = {event.turn for event in handler.events if isinstance(event, Interrupted)}
            for answer in handler.answers:
                assert answer.closed or answer.turn not in gone, f"reply {answer.turn} goes on after its interruption"
        assert all(answer.closed <= 1 for answer in handler.answers)

    def times_are_in_order(self, handler):
        """Each turn's times follow one another."""
        for turn in handler.turns:
            times = turn.as_dict()
            order = [times[name] for name in ("speech_start", "speech_end", "turn_end", "reply_called", "first_chunk")]
            order = [at for at in [*order, turn.first_frame] if at is not None]
            assert order == sorted(order), times
            ends = [end for end in (turn.playout_end, turn.interrupted, turn.call_ended) if end is not None]
            if turn.reply_called is None and turn.failed is not None:
                assert ends == [], times  # it was given up before it was answered
            else:
                (end,) = ends
                assert end >= order[-1], times
        numbers = [turn.number for turn in handler.turns]
        assert len(numbers) == len(set(numbers)), "each turn has one record"

    def every_generator_was_closed(self, handler):
        """Each exactly once, when the call is over. (A thread may need a moment for it.)"""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(answer.closed for answer in handler.answers):
            time.sleep(0.001)
        assert [answer.closed for answer in handler.answers] == [1] * len(handler.answers)


class ThreadLife(TalkLife):
    fn = staticmethod(reply_in_thread)


class ResumeLife(TalkLife):
    resume = True


def said_something(audio):
    """Half of what is heard is a cough."""
    return audio[1].shape[1] % 2 == 0


class JudgedLife(TalkLife):
    """A function judges, in a worker thread, whether anything was said."""

    resume = staticmethod(said_something)


class DeafLife(TalkLife):
    """The bot is never interrupted by speech."""

    options = {"can_interrupt": False}

    def replies_take_turns(self, handler):
        """Only the application interrupts; whoever speaks meanwhile is not heard."""
        super().replies_take_turns(handler)
        speaking = None
        for event in handler.events:
            match event:
                case ReplyStarted(turn):
                    speaking = turn
                case Interrupted() | PlayoutFinished():
                    speaking = None
                case SpeechStarted():
                    assert speaking is None, "nobody is heard while the bot speaks"


class PickyLife(TalkLife):
    """Not every word interrupts: `interrupt_when`."""

    options = {"interrupt_when": lambda audio: audio[1].shape[1] > 48000}


class EndLife(TalkLife):
    """A reply that fails ends the call: `on_turn_error="end"`."""

    options = {"on_turn_error": "end"}
    expected_errors = (ValueError, rtcflow.MediaError)


class _InThread(rtcflow.turns.EnergyVad):
    blocking = True


class BlockingLife(TalkLife):
    """Turns are detected in a worker thread."""

    model = _InThread()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(
    "life", [TalkLife, ThreadLife, ResumeLife, JudgedLife, DeafLife, PickyLife, EndLife, BlockingLife]
)
def test_turns_live_through_anything(life, backend):
    """No sequence of speech, pauses, interruptions, failing and slow replies, and ends breaks a promise of a turn."""
    run_machine(life, backend)
