"""The data channel's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcflow.exceptions import RemoteProtocolError
from rtcflow.protocol.messages import (
    DIGITS,
    MAX_MESSAGE_SIZE,
    AppMessage,
    Dtmf,
    EndStream,
    Error,
    FetchOutput,
    Handshake,
    Log,
    Message,
    SendInput,
    StopWord,
    UpdateConnection,
    Warning,  # noqa: A004 - the message of that name
    decode,
    encode,
)

any_text = st.text(st.characters(codec=None, exclude_categories=[]))
ours = st.one_of(
    st.just(Handshake()),
    st.just(SendInput()),
    st.just(FetchOutput()),
    st.just(UpdateConnection()),
    st.sampled_from(DIGITS).map(Dtmf),
    *(st.builds(kind, any_text) for kind in (EndStream, StopWord, Log, Error, Warning)),
)
types = ["send_input", "fetch_output", "end_stream", "stopword", "log", "error", "warning", "update_connection"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
nearly_ours = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(types) | json_values,
        "data": json_values,
        "message": json_values,
        "more": json_values,
    },
).map(json.dumps)


@given(ours)
@example(Log(""))
@example(Error("\ud800"))
def test_every_message_survives_the_wire(message: Message) -> None:
    """decode(encode(m)) == m."""
    assert decode(encode(message)) == message


@given(any_text | nearly_ours)
@example("[" * 50_000)
@example('{"a":' * 10_000)
@example('{"type":' + "9" * 5_000 + "}")
@example('{"type": {}, "data": []}')
@example('{"type": ["log"]}')
@example("null")
def test_any_text_is_a_message(text: str) -> None:
    """Whatever is not ours is the application's, unchanged; what is ours loses nothing by being read."""
    message = decode(text)
    if isinstance(message, AppMessage):
        assert message.text == text
        assert encode(message) == text
    else:
        assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("handshake", Handshake()),
        ('{"type": "send_input", "data": []}', SendInput()),
        ('{"type": "fetch_output", "data": []}', FetchOutput()),
        ('{"type": "end_stream", "data": "bye"}', EndStream("bye")),
        ('{"type": "stopword", "data": ""}', StopWord()),
        ('{"type": "log", "data": "pause_detected"}', Log("pause_detected")),
        ('{"type": "update_connection", "data": "closed"}', UpdateConnection("closed")),
        ('{"type": "error", "message": "no", "data": "no"}', Error("no")),
        ('{"type": "warning", "message": "hm", "data": "hm"}', Warning("hm")),
        ('{"type": "dtmf", "data": "#"}', Dtmf("#")),
        ('{"type": "dtmf", "data": "10"}', AppMessage('{"type": "dtmf", "data": "10"}')),
        ("hello", AppMessage("hello")),
    ],
)
def test_the_wire_format_is_fastrtcs(text: str, message: Message) -> None:
    """Both ways, to the letter."""
    assert encode(message) == text
    assert decode(text) == message


@pytest.mark.parametrize("key", ["message", "data"])
def test_errors_are_read_under_either_key(key: str) -> None:
    """FastRTC's code sends `message`, its documentation says `data`."""
    assert decode(json.dumps({"type": "error", key: "no"})) == Error("no")
    assert decode(json.dumps({"type": "warning", key: "hm"})) == Warning("hm")


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "log", "data": "x", "level": 3},
        {"type": "log", "message": "x"},
        {"type": "log", "data": ["x"]},
        {"type": "log"},
        {"type": "error", "message": "a", "data": "b"},
        {"type": "end_stream", "data": None},
        {"type": "stopword", "data": 1},
        {"type": "warning", "data": {}},
        {"type": "error", "data": 1},
        {"type": "send_input", "data": [1]},
        {"type": "fetch_output", "data": ""},
        {"type": "update_connection", "data": "open"},
        {"type": "mine", "data": "x"},
        {"data": "x"},
    ],
)
def test_what_is_only_nearly_ours_is_the_applications(fields: Any) -> None:
    """A type of ours with other keys or other data reaches the application whole."""
    text = json.dumps(fields)
    assert decode(text) == AppMessage(text)


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀", "\ud800"])
def test_a_message_has_a_largest_size_in_bytes(letter: str) -> None:
    """64 KiB of UTF-8 and not one byte more."""
    width = len(letter.encode(errors="surrogatepass"))
    fits = letter * (MAX_MESSAGE_SIZE // width)
    assert decode(fits) == AppMessage(fits)
    with pytest.raises(RemoteProtocolError) as caught:
        decode(fits + letter)
    assert caught.value.close_code == 1009
    with pytest.raises(RemoteProtocolError):
        decode("abc", max_size=2)
