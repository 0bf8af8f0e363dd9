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
    GeminiLive,
    OpenAIRealtime,
    SessionReady,
    ToolsCalled,
    Transcript,
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
