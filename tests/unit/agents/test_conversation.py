"""The context of a call: cut to what was heard, one result for each call of a tool, bounded, kept and resumed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.agents import Conversation, ServiceError, ToolCall, read_chat


def time_now(zone: str = "UTC") -> str:
    """The time."""


def check(messages: list[dict]) -> None:
    """What every chat service demands: each call has exactly one result, right behind it, and nothing else does."""
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        assert message["role"] != "tool", "a result without its call"
        for call in message.get("tool_calls", ()):
            assert messages[at]["role"] == "tool"
            assert messages[at]["tool_call_id"] == call["id"]
            at += 1
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert len(ids) == len(set(ids))
    json.dumps(messages)


def test_a_conversation_reads_as_chat_services_want_it():
    """System, user, a call with its result, the answer."""
    conversation = Conversation("Be brief.", [time_now])
    conversation.add_user("What time is it?", 1)
    conversation.add_text("Let me see. ", 1)
    (call,) = conversation.add_calls([ToolCall("a", "time_now", "{}")], 1)
    assert conversation.messages[-1]["content"] == '{"status": "still running"}'
    assert conversation.running() == [call]
    conversation.add_result("a", "noon")
    conversation.add_text("It is ", 1)
    conversation.add_text("noon.", 1)
    check(conversation.messages)
    assert [message["role"] for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[2]["content"] == "Let me see. "
    assert conversation.messages[3]["content"] == "noon"
    assert conversation.messages[4]["content"] == "It is noon."
    assert conversation.schemas()[0]["function"]["name"] == "time_now"


def test_what_was_not_heard_is_not_in_the_context():
    """The cut goes through all texts of the reply, and leaves calls alone."""
    conversation = Conversation()
    conversation.add_user("Hi", 1)
    conversation.add_text("Let me see. ", 1)
    conversation.add_calls([ToolCall("a", "time_now")], 1)
    conversation.add_result("a", "noon")
    conversation.add_text("It is noon already.", 1)
    conversation.cut(1, "Let me see. It is ")
    assert conversation.messages[1]["content"] == "Let me see."
    assert conversation.messages[-1]["content"] == "It is"
    conversation.cut(1, "")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "tool"]
    assert conversation.messages[1]["content"] is None
    check(conversation.messages)


def test_ids_that_a_service_repeats_are_made_unique():
    """So each result finds its call."""
    conversation = Conversation()
    first = conversation.add_calls([ToolCall("a", "x"), ToolCall("a", "y"), ToolCall("", "z")], 1)
    second = conversation.add_calls([ToolCall("a", "x")], 2)
    assert len({call.id for call in first + second}) == 4
    check(conversation.messages)


def test_the_first_result_counts():
    """A second one for the same call is refused, and so is one for a call that was taken back."""
    conversation = Conversation()
    conversation.add_calls([ToolCall("a", "x")], 1)
    assert conversation.add_result("a", "one")
    assert not conversation.add_result("a", "two")
    assert conversation.messages[-1]["content"] == "one"
    conversation.take_back(1)
    assert not conversation.add_result("a", "three")
    assert conversation.messages == []


steps = st.lists(
    st.tuples(
        st.sampled_from(["user", "text", "calls", "result", "cut", "take back", "keep"]),
        st.integers(1, 4),
        st.integers(0, 30),
    ),
    max_size=40,
)


@given(steps)
def test_the_context_is_valid_whatever_happens(steps):
    """In any order: each call has exactly one result, and a reply reads as the beginning of what it said."""
    conversation, said = Conversation("system", limit=5000), {}
    for what, reply, number in steps:
        match what:
            case "user":
                conversation.add_user(f"words {number}", reply)
            case "text":
                conversation.add_text(f"text {number}. ", reply)
                said[reply] = said.get(reply, "") + f"text {number}. "
            case "calls":
                conversation.add_calls([ToolCall(f"c{number}", "tool")] * (number % 3), reply)
            case "result":
                for call in conversation.running()[:1]:
                    assert conversation.add_result(call.id, "done")
            case "cut":
                conversation.cut(reply, said.get(reply, "")[:number])
            case "take back":
                conversation.take_back(reply)
                said.pop(reply, None)
            case "keep":
                kept = json.loads(json.dumps(conversation.as_dict()))
                resumed = Conversation.from_dict(kept, limit=5000)
                assert len(resumed.messages) == len(conversation.messages)
                assert resumed.running() == []
                check(resumed.messages)
        check(conversation.messages)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 900)), max_size=60))
def test_the_context_has_a_bound(parts):
    """Whatever is said: the messages stay within the limit, and the latest words of the user are among them."""
    conversation = Conversation("system", limit=3000)
    for is_user, size in parts:
        if is_user:
            conversation.add_user("u" * (size + 1), 1)
        else:
            conversation.add_text("a" * (size + 1), 1)
        messages = conversation.messages
        assert sum(len(json.dumps(message)) for message in messages) <= 3000 + 100
        assert messages[0] == {"role": "system", "content": "system"}
        check(messages)


def test_what_is_left_out_is_told(caplog):
    """A warning, and a count."""
    conversation = Conversation(limit=1500)
    for number in range(20):
        conversation.add_user(f"{number} " + "word " * 20, number)
    assert conversation.messages[-1]["content"].startswith("19 ")
    assert conversation.dropped > 0
    assert "are left out" in caplog.text


def test_what_is_too_long_by_itself_is_cut():
    """A single message beyond the limit: the end of it is kept, and the call goes on."""
    conversation = Conversation(limit=2000)
    conversation.add_user("x" * 10_000 + " the end", 1)
    (message,) = conversation.messages
    assert message["content"].endswith(" the end")
    assert len(message["content"]) <= 2000


def test_of_an_exchange_that_is_too_long_the_newest_results_are_kept():
    """Otherwise the model would ask for them again and again."""
    conversation = Conversation("system", limit=4000)
    conversation.add_user("Which of them is open?", 1)
    for number in range(12):
        conversation.add_calls([ToolCall(f"call-{number}", "look", "{}")], 1)
        conversation.add_result(f"call-{number}", f"{number}: " + "x" * (450 if number < 6 else 40))
        messages = conversation.messages
        check(messages)
        assert messages[1] == {"role": "user", "content": "Which of them is open?"}
        assert messages[-1]["content"].startswith(f"{number}: ")
        assert sum(len(json.dumps(message)) for message in messages) <= 4000 + 100
    assert sum(message["role"] == "tool" for message in messages) > 6


@pytest.mark.parametrize("calls", [1, 4])
def test_results_that_are_too_long_are_cut(calls):
    """The model reads the beginning, and that there was more."""
    conversation = Conversation("system", limit=10_000)
    conversation.add_user("Read these pages.", 1)
    for call in conversation.add_calls([ToolCall("", "read", "{}")] * calls, 1):
        conversation.add_result(call.id, "<p>" + "x" * 50_000)
    results = [message["content"] for message in conversation.messages if message["role"] == "tool"]
    assert len(results) == calls
    assert all(result.startswith("<p>xxx") and result.endswith("(the rest was too long)") for result in results)


def test_two_tools_of_one_name_are_refused():
    """And so is a limit that leaves no space, and a dict from elsewhere."""
    with pytest.raises(ValueError, match="two tools are called 'time_now'"):
        Conversation(tools=[time_now, time_now])
    with pytest.raises(ValueError, match="leaves no space"):
        Conversation("x" * 5000, limit=5000)
    with pytest.raises(ValueError, match=r"not what Conversation\.as_dict gave"):
        Conversation.from_dict({"entries": [{}]})
    with pytest.raises(ValueError, match=r"not what Conversation\.as_dict gave"):
        Conversation.from_dict([])


# -- a chat service's stream


async def lines(*texts):
    for text in texts:
        yield text


def event(delta, finish=None):
    return "data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]})


@pytest.mark.anyio
async def test_a_stream_is_read():
    """Text as it comes, then the calls, whose parts come in any number of events."""
    parts = [
        {"index": 0, "id": "a", "function": {"name": "time_now", "arguments": '{"zo'}},
        {"index": 1, "id": "b", "function": {"name": "stop", "arguments": ""}},
        {"index": 0, "function": {"arguments": 'ne": "CET"}'}},
    ]
    stream = [": hello", "", event({"role": "assistant", "content": ""}), event({"content": "One "})]
    stream += [event({"content": "moment."}), *(event({"tool_calls": [part]}) for part in parts)]
    stream += [event({}, "tool_calls"), 'data: {"choices": [], "usage": {}}', "data: [DONE]"]
    read = [item async for item in read_chat(lines(*stream))]
    assert read == ["One ", "moment.", ToolCall("a", "time_now", '{"zone": "CET"}'), ToolCall("b", "stop", "")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (["data: garbage"], "not in the format"),
        (["data: []"], "not in the format"),
        (["data: " + "[" * 5000], "not in the format"),
        (['data: {"choices": 5}'], "not in the format"),
        (['data: {"choices": [{"delta": {"content": 5}}]}'], "not in the format"),
        (['data: {"error": {"message": "overloaded"}}'], "overloaded"),
        ([event({"content": "Half a"})], "hung up in the middle"),
        ([], "hung up in the middle"),
    ],
)
async def test_a_service_that_fails_has_one_error(stream, words):
    """Garbage, errors and hanging up: `ServiceError` says which."""
    with pytest.raises(ServiceError, match=words):
        async for _ in read_chat(lines(*stream)):
            pass


@given(st.lists(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["choices", "delta", "tool_calls", "index", "function", "content", "error"]), inner))))  # fmt: skip
def test_no_garbage_raises_anything_else(values):
    """Whatever JSON comes."""
    import anyio

    async def read():
        try:
            async for _ in read_chat(lines(*("data: " + json.dumps(value) for value in values))):
                pass
        except ServiceError:
            return

    anyio.run(read, backend="trio")
