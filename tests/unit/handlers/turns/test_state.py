"""Whose turn it is, as a pure state: laws over every order of events."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.handlers.turns import ReplyFailed, ReplyStarted, SpeechEnded, SpeechStarted, TurnEnded, state
from rtcflow.handlers.turns.state import (
    AskInterrupt,
    CommitReply,
    DropReply,
    FinishReply,
    HoldReply,
    JudgeSpeech,
    Record,
    Resume,
    ResumeReply,
    StartReply,
    StopReply,
    Tell,
    TurnState,
)
from rtcflow.handlers.turns.turn_audio import TurnAudio

RATE = 1000

EVENTS = (
    "frame", "speech", "silence", "turn ends", "long turn ends", "called", "emitted", "left", "raised", "played",
    "yes", "no", "something", "nothing", "judge fails", "listening fails", "respond", "speak", "speak on", "interrupt",
    "greet", "forget", "call ends",
)  # fmt: skip


class World:
    """Does what the state decides, as a handler would, and checks that it makes sense."""

    def __init__(self, state):
        self.state, self.now = state, 0.0
        self.started, self.speculative, self.live, self.held = [], None, None, None
        self.turn_of, self.recorded, self.told_started, self.asked = {}, [], [], None
        self.asking = False

    def step(self, event):
        self.now += 0.1
        now, state = self.now, self.state
        reply = (self.speculative or self.live or 0) if self.started else 0
        media = state.recording.now
        match event:
            case "frame":
                state.heard(np.zeros((1, RATE // 10), np.int16), now)
                actions = state.forget_user() if state.deaf else state.still_speaking(now)
            case "speech":
                actions = state.detected(SpeechStarted(media), now)
            case "silence":
                actions = state.detected(SpeechEnded(media, 0.5), now)
            case "turn ends" | "long turn ends":
                actions = state.detected(TurnEnded(media, media, 0.3 if event == "turn ends" else 2.0), now)
            case "called":
                actions = state.called(reply, now)
            case "emitted":
                # No chunk of a speculative or a held reply is handed over.
                may = self.live is not None and self.held is None
                actions = state.emitted(self.live, now) if may else []
            case "left":
                actions = state.left(self.live, now) if self.live is not None else []
            case "raised":
                # Its handler waits with that until the reply was committed.
                actions = state.raised(self.live, ValueError(), now) if self.live is not None else []
            case "played":
                may = self.live is not None and self.held is None
                actions = state.played(self.live, now) if may else []
            case "yes" | "no":
                actions = state.interrupt_answered(event == "yes", now)
            case "something" | "nothing" | "judge fails":
                turn = self.asked or 0
                actions = state.speech_judged(turn, event == "something", now, failed=event == "judge fails")
            case "listening fails":
                actions = state.listening_failed(now)
            case "respond":
                actions = state.respond(now)
            case "speak" | "speak on":
                actions = state.speak(now, interruptible=event == "speak")
            case "interrupt":
                actions = state.interrupt(now)
            case "greet":
                actions = state.greet(now) if not self.started else []
            case "forget":
                actions = state.forget_user()
            case "call ends":
                actions = state.call_ended(reply, now)
                self.speculative = None
        for action in actions:
            self.do(action)
        self.check()

    def do(self, action):
        match action:
            case StartReply(reply, turn, _, speculative):
                assert self.live is None, "a reply starts when the one before is over"
                assert self.speculative is None, "one reply at a time, also ahead of time"
                assert reply not in self.started
                self.started.append(reply)
                self.turn_of[reply] = turn.number
                if speculative:
                    self.speculative = reply
                else:
                    self.live = reply
            case CommitReply(reply):
                assert reply == self.speculative
                self.live, self.speculative = reply, None
            case DropReply(reply):
                assert reply == self.speculative, "only what nobody has heard is dropped without a word"
                self.speculative = None
            case StopReply(reply, turn, tell):
                assert reply == self.live
                assert tell is (self.held is None), "an interruption is told once: when it is held, or stopped"
                assert turn.interrupted is not None
                self.live = self.held = None
                self.recorded.append(turn.number)
            case FinishReply(reply, turn, tell):
                assert reply == self.live
                assert (turn.playout_end is None) is not tell
                self.live = self.held = None
                self.recorded.append(turn.number)
            case HoldReply(reply):
                assert reply == self.live
                assert self.held is None
                self.held = reply
            case ResumeReply(reply):
                assert reply == self.held == self.live
                self.held = None
            case JudgeSpeech(turn, _):
                assert self.held is not None
                self.asked = turn.number
            case AskInterrupt():
                assert self.state.asks
                assert self.live is not None
            case Record(turn):
                self.recorded.append(turn.number)
            case Tell(ReplyStarted(turn)):
                current = self.live if self.speculative is None else self.speculative
                assert self.turn_of[current] == turn
                self.told_started.append(turn)
            case Tell(ReplyFailed(turn)):
                assert self.turn_of[self.live] == turn

    def check(self):
        bot = self.state.bot
        assert (bot and bot.reply) == (self.live or self.speculative)
        assert len(self.recorded) == len(set(self.recorded)), "each turn has one record"
        if self.state.bot_speaking:
            assert self.live is not None
            assert self.held is None
        if self.state.user is not None:
            assert self.state.user.number not in self.recorded
        if self.state.deaf:
            assert self.live is not None


options = st.fixed_dictionaries(
    {
        "can_interrupt": st.booleans(),
        "asks": st.booleans(),
        "resume": st.sampled_from(Resume),
        "speculative": st.booleans(),
    }
)


def world(**settings):
    return World(TurnState(TurnAudio(RATE, before=0.5), **settings))


@given(options, st.lists(st.sampled_from(EVENTS), max_size=40))
def test_replies_take_turns_whatever_happens(settings, events):
    """In any order of events: one reply at a time, one end and one record for each, and every action makes sense."""
    live = world(**settings)
    for event in events:
        live.step(event)
    live.step("interrupt")
    assert live.live is None
    assert live.speculative is None


@given(options, st.lists(st.sampled_from(EVENTS), max_size=25))
def test_the_same_events_have_the_same_actions(settings, events):
    """The state reads no clock and has no chance in it."""
    one, other = world(**settings), world(**settings)
    for event in events:
        one.step(event)
        other.step(event)
    assert (one.started, one.recorded, one.told_started) == (other.started, other.recorded, other.told_started)


@given(st.lists(st.sampled_from(("frame", "silence", "speech", "called")), max_size=30))
def test_speculation_is_never_told(events):
    """Before the turn has ended nobody hears of a speculative reply, however often the user goes on."""
    live = world(speculative=True)
    for event in ["speech", *events]:
        live.step(event)
    assert live.told_started == []
    assert live.recorded == []


def test_a_speculative_reply_is_committed_at_the_end_of_the_turn():
    """It started at the end of speech, and its turn has all its times."""
    live = world(speculative=True)
    for event in ("frame", "speech", "frame", "silence", "called", "frame", "turn ends", "emitted", "played"):
        live.step(event)
    assert live.started == [1]
    assert live.told_started == live.recorded == [1]


def test_it_starts_anew_when_the_user_goes_on():
    """Two ends of speech, two calls; the first is dropped."""
    live = world(speculative=True)
    for event in ("speech", "silence", "called", "speech", "silence", "turn ends", "called"):
        live.step(event)
    assert live.started == [1, 2]
    assert live.told_started == [1]


@pytest.mark.parametrize("module", ["anyio", "asyncio", "time", "threading", "random"])
def test_the_state_is_pure(module):
    """No clock, no thread, no await."""
    tree = ast.parse(inspect.getsource(state))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert module not in names
    assert not any(isinstance(node, ast.Await | ast.AsyncFunctionDef) for node in ast.walk(tree))


def test_an_interruption_is_told_once():
    """When the reply is held, and not again when it is stopped; and its time is that of the silence."""
    live = world(resume=Resume.IF_SHORT)
    for event in ("greet", "called", "emitted", "speech", "interrupt"):
        live.step(event)
    assert live.recorded == [0]
