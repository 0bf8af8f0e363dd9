"""Tools at work in a reply function of one's own, in virtual time."""

from __future__ import annotations

import json

import anyio
import pytest
from turn_script import Script, sound, turn

from rtcflow.agents import Conversation, ToolCall, run_tools, tool
from rtcflow.agents.calling import CANCELLED
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend
from rtcflow.turns import ReplyOnPause, Say

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def working(policy, seconds, log):
    @tool(policy=policy, name="work")
    async def work() -> str:
        """Work."""
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise
        log.append("done")
        return "forty-two"

    return work


@pytest.mark.parametrize(
    ("policy", "log", "spoken"),
    [
        ("cancel", ["cancelled"], []),
        ("finish_and_remember", ["done"], []),
        ("finish_and_speak", ["done"], ["a"]),
    ],
)
async def test_an_interrupted_reply_function_leaves_its_tools_to_their_policy(policy, log, spoken):
    """A plain `ReplyOnPause` with its own `Conversation`: one result, spoken about if the policy says so."""
    happened, told = [], []
    conversation = Conversation(tools=[working(policy, 3.0, happened)])

    async def speak(call):
        told.append(call.id)
        await caller.handler.say(Say(sound(0.2), "forty-two"))

    async def reply(audio):
        if not conversation.messages:
            conversation.add_user("Work.")
            await run_tools(conversation, [ToolCall("a", "work")], speak=speak)
        yield Say(sound(0.2), "Yes.")

    handler = ReplyOnPause(reply, detector=lambda: Script(turn(0.3, 0.8) + turn(2.0, 2.4)), output_sample_rate=24000)
    async with open_caller(handler) as caller:
        await caller.wait(3.5)
        if policy != "cancel":
            assert "still running" in json.dumps(conversation.messages)
        await caller.wait(5)
    assert (happened, told) == (log, spoken)
    (answer,) = [message["content"] for message in conversation.messages if message["role"] == "tool"]
    assert answer == (CANCELLED if policy == "cancel" else "forty-two")


async def test_results_are_there_when_it_returns():
    """Side by side: two tools of a second each take a second; calls with one id keep a result each."""
    took = []
    conversation = Conversation(tools=[working("cancel", 1.0, [])])

    async def reply(audio):
        began = anyio.current_time()
        await run_tools(conversation, [ToolCall("a", "work"), ToolCall("a", "work"), ToolCall("b", "nothing")])
        took.append(anyio.current_time() - began)
        yield Say(sound(0.2), "Yes.")

    handler = ReplyOnPause(reply, detector=lambda: Script(turn(0.3, 0.8)), output_sample_rate=24000)
    async with open_caller(handler) as caller:
        await caller.wait(4)
    assert took == [pytest.approx(1.0, abs=0.01)]
    answers = [message["content"] for message in conversation.messages if message["role"] == "tool"]
    assert answers[:2] == ["forty-two"] * 2
    assert "there is no tool 'nothing'; there are: work" in answers[2]


async def test_the_end_of_the_call_ends_its_tools():
    """Nothing outlives the call, whatever the policy; the call has its result all the same."""
    log = []
    conversation = Conversation(tools=[working("finish_and_speak", 60.0, log)])

    async def reply(audio):
        await run_tools(conversation, [ToolCall("a", "work")])
        yield Say(sound(0.2), "Yes.")

    handler = ReplyOnPause(reply, detector=lambda: Script(turn(0.3, 0.8)), output_sample_rate=24000)
    async with open_caller(handler) as caller:
        await caller.wait(3)
    assert log == ["cancelled"]
    assert conversation.running() == []


async def test_tools_need_a_call():
    """Outside of one it is an error that says so."""
    with pytest.raises(RuntimeError, match="needs a call"):
        await run_tools(Conversation(), [])
