"""A voice agent lives through anything: each call of a tool has exactly one result. In virtual time, on both backends.

`HandlerLifecycle` is Hypothesis' `RuleBasedStateMachine`: callers speak, breathe, interrupt and leave at any moment.
The rules here add what an agent meets: text that is typed, models that answer, call tools of every policy, or fail.
"""

from __future__ import annotations

import json
from collections import Counter

import anyio
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from machine_runs import run_machine

import rtcflow
from rtcflow.agents import ServiceError, ToolCall, VoiceAgent, tool
from rtcflow.handlers.base import get_current_handler
from rtcflow.testing import HandlerLifecycle

pytestmark = pytest.mark.slow

LONG = "This takes a while to say, so that somebody can interrupt it. It goes on for some time. " * 2
CALLS = {policy: ToolCall("x", policy, '{"seconds": 2}') for policy in ("cancel", "remember", "speak")}
ANSWERS = {
    "short": ["Fine."],
    "long": [LONG],
    "fails": ["Half of ", ServiceError("gone")],
    "both": ["One moment. ", CALLS["cancel"], CALLS["speak"], CALLS["remember"]],
    "unknown": [ToolCall("x", "nobody", "{}"), ToolCall("x", "cancel", "junk")],
    **{name: ["One moment. ", call] for name, call in CALLS.items()},
}


async def chat(messages, tools):
    check(messages)
    agent = get_current_handler()
    answer = agent.answers.pop(0) if agent.answers else "short"
    agent.open += 1
    try:
        await anyio.sleep(0.2)
        for part in ANSWERS[answer]:
            if isinstance(part, Exception):
                raise part
            yield part
            await anyio.sleep(0.02)
    finally:
        agent.open -= 1


async def stt(audio):
    await anyio.sleep(0.15)
    return "words"


async def tts(text):
    await anyio.sleep(0.1)
    return 24000, np.full((1, 1600 * len(text)), 800, np.int16)


def make(name, policy):
    @tool(name=name, policy=policy)
    async def work(seconds: float) -> str:
        """Work."""
        agent = get_current_handler()
        agent.begun.append(name)
        try:
            await anyio.sleep(seconds)
            agent.done.append(name)
            return f"{name} done"
        finally:
            agent.ended.append(name)

    return work


TOOLS = [make("cancel", "cancel"), make("remember", "finish_and_remember"), make("speak", "finish_and_speak")]


def check(messages):
    """What every chat service demands: each call has exactly one result, right behind the message that made it."""
    wanted = []
    seen = set()
    for message in messages:
        if message["role"] == "tool":
            assert wanted.pop(0) == message["tool_call_id"]
            assert message["tool_call_id"] not in seen
            seen.add(message["tool_call_id"])
        else:
            assert wanted == [], f"{wanted} have no result before {message}"
            wanted = [call["id"] for call in message.get("tool_calls", ())]
    assert wanted == []
    json.dumps(messages)


class Agent(VoiceAgent):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.answers, self.begun, self.done, self.ended, self.open = [], [], [], [], 0


class AgentLife(HandlerLifecycle):
    options = {}
    transports = ("memory",)  # lines have a test of their own
    expected_errors = (ServiceError,)

    def make_handler(self):
        self.seen = None
        return Agent(
            chat, stt=stt, tts=tts, tools=TOOLS, model=rtcflow.turns.EnergyVad(), greeting="Welcome.", **self.options
        )

    def _answers(self, *kinds):
        if self._live:
            self.handler.answers[:] = kinds

    @rule(
        seconds=st.sampled_from((0.5, 1.5)),
        pause=st.sampled_from((0.8, 0.3, 2.0)),
        kinds=st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=3),
    )
    def caller_has_a_turn(self, seconds, pause, kinds):
        """They speak and pause, and interrupt whatever is under way."""
        self._answers(*kinds)
        self.caller_speaks(seconds=seconds)
        self.caller_is_silent(seconds=pause)

    @rule(kinds=st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=3), seconds=st.sampled_from((0.1, 2)))
    def text_is_typed(self, kinds, seconds):
        """Answered like speech."""
        if self._live and self.connection.statistics().setup is not None:
            self._answers(*kinds)
            self.handler.reply_to("typed")
            self.time_passes(seconds=seconds)

    @rule(how=st.sampled_from(("interrupt", "clear_queue")))
    def application_interrupts(self, how):
        """Without speech."""
        if self._live and self.connection.statistics().setup is not None:
            getattr(self.handler, how)()
            self.time_passes(seconds=0.02)

    def check(self):
        super().check()
        agent = self.handler if self._live else self.seen
        if agent is None:
            return
        self.seen = agent
        conversation = agent.conversation
        check(conversation.messages)
        results = [message["content"] for message in conversation.messages if message["role"] == "tool"]
        kept = Counter(result.removesuffix(" done") for result in results if result.endswith(" done"))
        assert kept <= Counter(agent.done), "no result is made up or doubled"
        finished = Counter(agent.done)
        for name in ("remember", "speak"):
            assert kept[name] == finished[name], f"the result of {name} is in the context: {results}"
        if not self._live:
            self.seen = None
            assert sorted(agent.begun) == sorted(agent.ended), "no tool outlives the call"
            assert agent.open == 0, "no request outlives the call"
            assert conversation.running() == [], "each call that was made has its result"


class SpeculatingLife(AgentLife):
    options = {"speculative": True}


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("life", [AgentLife, SpeculatingLife])
def test_an_agent_lives_through_anything(life, backend):
    """No sequence of turns, text, interruptions, failing services and ends loses or doubles a result."""
    run_machine(life, backend)
