"""The wire formats of speech-to-speech services: text in, events out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.protocol.chat import ServiceError, ToolCall
from rtcflow.protocol.realtime import (
    AudioReceived,
    CallsCancelled,
    GeminiLive,
    OpenAIRealtime,
    ResponseDone,
    ServiceFailed,
    SessionEnding,
    SessionReady,
    ToolsCalled,
    Transcript,
    UserInterrupted,
    UserStopped,
)

WORDS = st.sampled_from(
    ["type", "delta", "item_id", "response", "output", "error", "message", "serverContent", "modelTurn", "parts",
     "inlineData", "data", "toolCall", "functionCalls", "id", "name", "goAway", "sessionResumptionUpdate"]
)  # fmt: skip
TYPES = st.sampled_from(["response.done", "error", "response.audio.delta", "session.updated"])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | TYPES, lambda v: st.lists(v) | st.dictionaries(WORDS, v)
)


@pytest.mark.parametrize("kind", [OpenAIRealtime, GeminiLive])
def test_no_message_raises_anything_but_a_service_error(kind):
    """Whatever JSON, or no JSON, comes."""

    @given(VALUES.map(json.dumps) | st.text() | st.binary())
    def law(message):
        try:
            kind("key").read(message)
        except ServiceError:
            return

    law()


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_audio_goes_through_as_it_is(values):
    """What is sent in one format can be read in the same."""
    samples = np.array([values], np.int16)
    (sent,) = OpenAIRealtime("key").audio(samples)
    encoded = json.loads(sent)["audio"]
    (event,) = OpenAIRealtime("key").read(
        json.dumps({"type": "response.output_audio.delta", "item_id": "a", "delta": encoded})
    )
    assert isinstance(event, AudioReceived)
    assert np.array_equal(event.samples, samples)


def test_names_of_the_beta_are_understood():
    """Services that are compatible often speak the older names."""
    protocol = OpenAIRealtime(None)
    assert protocol.headers == {}
    assert protocol.read('{"type": "session.updated"}') == [SessionReady()]
    assert protocol.read('{"type": "response.audio_transcript.delta", "delta": "Hi"}') == [
        Transcript("assistant", "Hi")
    ]
    assert protocol.read('{"type": "rate_limits.updated"}') == []
    call = {"type": "function_call", "call_id": "1", "name": "x", "arguments": "{}"}
    read = protocol.read(json.dumps({"type": "response.done", "response": {"output": [call]}}))
    assert read[0] == ToolsCalled((ToolCall("1", "x", "{}"),))


def test_gemini_is_told_the_history_only_without_a_handle():
    """With one, the service resumes by itself."""
    messages = [{"role": "user", "content": "Hi."}]
    protocol = GeminiLive("key")
    (sent,) = protocol.history(messages)
    content = json.loads(sent)["clientContent"]
    assert content == {"turns": [{"role": "user", "parts": [{"text": "Hi."}]}], "turnComplete": False}
    protocol.read('{"sessionResumptionUpdate": {"newHandle": "h", "resumable": true}}')
    assert protocol.history(messages) == []


TALK = "conversation.item.input_audio_transcription.completed"
WEATHER = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
OPENAI = {
    "speech begins": ({"type": "input_audio_buffer.speech_started"}, [UserInterrupted()]),
    "speech ends": ({"type": "input_audio_buffer.speech_stopped"}, [UserStopped()]),
    "the user's words": ({"type": TALK, "transcript": "Hi.", "item_id": "u"}, [Transcript("user", "Hi.", "u")]),
    "the bot's words": (
        {"type": "response.output_audio_transcript.delta", "delta": "Hello,", "item_id": "b"},
        [Transcript("assistant", "Hello,", "b")],
    ),
    "a call": (
        {"type": "response.done", "response": {"status": "completed", "output": [WEATHER, {"type": "message"}]}},
        [ToolsCalled((ToolCall("c1", "weather", '{"city": "Rome"}'),)), ResponseDone()],
    ),
    "a call that was cut off": (
        {"type": "response.done", "response": {"output": [WEATHER | {"status": "incomplete"}]}},
        [ResponseDone()],
    ),
    "a failed response": (
        {"type": "response.done", "response": {
            "status": "failed", "output": None, "status_details": {"error": {"message": "no quota"}}}},
        [ServiceFailed("no quota"), ResponseDone()],
    ),
    "a failed response without a reason": (
        {"type": "response.done", "response": {"status": "failed"}},
        [ServiceFailed("no reason"), ResponseDone()],
    ),
    "an error": ({"type": "error", "error": {"message": "bad"}}, [ServiceFailed("bad")]),
    "an error with a code": ({"type": "error", "error": {"message": None, "code": "e7"}}, [ServiceFailed("e7")]),
    "a long error": ({"type": "error", "error": {"message": "x" * 999}}, [ServiceFailed("x" * 300)]),
}  # fmt: skip
GEMINI = {
    "ready": ({"setupComplete": {}}, [SessionReady()]),
    "the session ends soon": ({"goAway": {"timeLeft": "10s"}}, [SessionEnding()]),
    "the user's words": (
        {"serverContent": {"inputTranscription": {"text": "Hi."}}}, [Transcript("user", "Hi.", "0")]),
    "the bot's words and the end": (
        {"serverContent": {"outputTranscription": {"text": "Hello."}, "turnComplete": True}},
        [Transcript("assistant", "Hello.", "0"), ResponseDone()]),
    "an interruption": ({"serverContent": {"interrupted": True}}, [UserInterrupted()]),
    "text in place of audio": ({"serverContent": {"modelTurn": {"parts": [{"text": "a thought"}]}}}, []),
    "a call": (
        {"toolCall": {"functionCalls": [{"id": "1", "name": "weather", "args": {"city": "Rome"}}]}},
        [ToolsCalled((ToolCall("1", "weather", '{"city": "Rome"}'),))]),
    "a call without arguments": (
        {"toolCall": {"functionCalls": [{"id": "1", "name": "time"}]}}, [ToolsCalled((ToolCall("1", "time", "{}"),))]),
    "calls that are not needed": ({"toolCallCancellation": {"ids": ["1", "2"]}}, [CallsCancelled(("1", "2"))]),
    "something new": ({"usageMetadata": {"tokens": 3}}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENAI)
def test_openais_events(name):
    event, meaning = OPENAI[name]
    assert OpenAIRealtime("key").read(json.dumps(event)) == meaning


@pytest.mark.parametrize("name", GEMINI)
def test_geminis_messages(name):
    message, meaning = GEMINI[name]
    assert GeminiLive("key").read(json.dumps(message)) == meaning


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OpenAIRealtime, {"type": TALK, "transcript": 3}),
        (OpenAIRealtime, {"type": "response.audio.delta", "item_id": "a", "delta": "no base64!"}),
        (OpenAIRealtime, {"type": "response.done", "response": {"output": [{"type": "function_call"}]}}),
        (GeminiLive, {"toolCallCancellation": {"ids": [7]}}),
        (GeminiLive, {"serverContent": {"modelTurn": {"parts": [{"inlineData": {"data": "AAA"}}]}}}),
    ],
    ids=str,
)
def test_a_message_that_is_not_in_the_format_is_named(kind, message):
    with pytest.raises(ServiceError, match="what is not in its format"):
        kind("key").read(json.dumps(message))


def test_geminis_audio_belongs_to_the_message_of_its_turn():
    """An interruption and the end of a turn begin a new message, so late audio can be told from new audio."""
    protocol = GeminiLive("key")
    part = {
        "inlineData": {
            "data": json.loads(protocol.audio(np.ones((1, 2), np.int16))[0])["realtimeInput"]["audio"]["data"]
        }
    }
    turn = json.dumps({"serverContent": {"modelTurn": {"parts": [part]}}})
    items = []
    for message in (
        turn,
        '{"serverContent": {"turnComplete": true}}',
        turn,
        '{"serverContent": {"interrupted": true}}',
        turn,
    ):
        items += [event.item for event in protocol.read(message) if isinstance(event, AudioReceived)]
    assert items == ["0", "1", "2"]
    assert protocol.truncated("0", 100) == []


def test_what_openai_is_told():
    protocol = OpenAIRealtime("key", voice="ash", transcription=None)
    assert protocol.headers == {"Authorization": "Bearer key"}
    assert protocol.url == "wss://api.openai.com/v1/realtime?model=gpt-realtime"
    compatible = OpenAIRealtime("key", model="mine & yours", url="wss://host/realtime?api-version=1")
    assert compatible.url == "wss://host/realtime?api-version=1&model=mine%20%26%20yours"
    session = json.loads(protocol.hello("Be kind.", [{"name": "weather"}])[0])["session"]
    assert session["instructions"] == "Be kind."
    assert session["audio"]["output"]["voice"] == "ash"
    assert "transcription" not in session["audio"]["input"]
    assert session["tools"] == [{"type": "function", "name": "weather"}]
    said, respond = map(json.loads, protocol.text("Hi."))
    assert said["item"]["content"] == [{"type": "input_text", "text": "Hi."}]
    assert respond == {"type": "response.create"}
    call = ToolCall("c1", "weather", "{}")
    assert [json.loads(one)["type"] for one in protocol.result(call, "sunny", answer=True)] == [
        "conversation.item.create", "response.create"]  # fmt: skip
    (quiet,) = map(json.loads, protocol.result(call, "sunny", answer=False))
    assert quiet["item"] == {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    (cut,) = map(json.loads, protocol.truncated("b", 1200))
    assert (cut["item_id"], cut["audio_end_ms"]) == ("b", 1200)
    asked, answered = map(
        json.loads, protocol.history([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}])
    )
    assert asked["item"]["content"] == [{"type": "input_text", "text": "Hi."}]
    assert answered["item"]["content"] == [{"type": "output_text", "text": "Yes?"}]


def test_what_gemini_is_told():
    protocol = GeminiLive("key", model="models/mine")
    assert protocol.headers == {"x-goog-api-key": "key"}
    tool = {"name": "weather", "description": "Of a city.", "parameters": {"type": "object"}}
    setup = json.loads(protocol.hello("Be kind.", [tool])[0])["setup"]
    assert setup["model"] == "models/mine"
    assert setup["systemInstruction"] == {"parts": [{"text": "Be kind."}]}
    assert setup["sessionResumption"] == {}
    (declared,) = setup["tools"][0]["functionDeclarations"]
    assert declared == {"name": "weather", "description": "Of a city.", "parametersJsonSchema": {"type": "object"}}
    protocol.read('{"sessionResumptionUpdate": {"newHandle": "h", "resumable": true}}')
    protocol.read('{"sessionResumptionUpdate": {"newHandle": "", "resumable": false}}')  # this moment is not a place
    setup = json.loads(protocol.hello("", [])[0])["setup"]
    assert setup["sessionResumption"] == {"handle": "h"}
    assert not {"tools", "systemInstruction"} & set(setup)
    (said,) = map(json.loads, protocol.text("Hi."))
    assert said["clientContent"] == {"turns": [{"role": "user", "parts": [{"text": "Hi."}]}], "turnComplete": True}
    for answer, scheduling in ((True, "WHEN_IDLE"), (False, "SILENT")):
        (sent,) = map(json.loads, protocol.result(ToolCall("1", "weather", "{}"), "sunny", answer=answer))
        (response,) = sent["toolResponse"]["functionResponses"]
        assert response == {"id": "1", "name": "weather", "response": {"result": "sunny", "scheduling": scheduling}}
