"""The WebSocket protocol: FastRTC's own messages, what can be asked for beyond them, and laws."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.exceptions import RemoteProtocolError
from rtcflow.protocol.lines import (
    CallStarted,
    LineEvent,
    MarkPlayed,
    Media,
    MediaFormat,
    Ping,
    SendAccepted,
    SendClear,
    SendMark,
    SendMedia,
    SendPong,
    SendText,
    Stopped,
    TextMessage,
)
from rtcflow.protocol.websocket import StartOptions, WebSocketCodec, read_start_options

START = '{"event":"start","websocket_id":"abc"}'
NAMED = '{"event":"start","websocket_id":"abc","codec":"pcm_s16le","sample_rate":16000,"binary":true,"clear":true}'


def test_fastrtcs_client_is_understood() -> None:
    """start, media, ping, stop and a data message as FastRTC's clients send them."""
    codec = WebSocketCodec()
    assert codec.receive(START) == CallStarted("abc", "abc", format=None)
    assert codec.options == StartOptions()
    assert codec.receive('{"event": "media", "media": {"payload": "/38AfQ=="}}') == Media(b"\xff\x7f\x00\x7d")
    assert codec.receive('{"event": "ping"}') == Ping()
    said = '{"type": "input", "data": 1}'
    assert codec.receive(said) == TextMessage(said)
    assert codec.receive('{"event": "stop"}') == Stopped()


def test_fastrtcs_client_is_answered_as_it_knows() -> None:
    """Audio, pong and data messages have FastRTC's form."""
    codec = WebSocketCodec()
    codec.receive(START)
    said = [codec.send(command) for command in (SendMedia(b"\xff\x7f\x00\x7d"), SendPong(), SendText('{"type":"log"}'))]
    assert [json.loads(message) for message in said] == [
        {"event": "media", "media": {"payload": "/38AfQ=="}},
        {"event": "pong"},
        {"type": "log"},
    ]


def test_a_client_may_ask_for_more() -> None:
    """Codec, rate and binary messages are the client's choice, and it is told what was agreed."""
    codec = WebSocketCodec()
    codec.receive(NAMED)
    assert codec.options == StartOptions("pcm_s16le", 16000, "mono", binary=True, clear=True, named=True)
    assert codec.receive(b"\x01\x02") == Media(b"\x01\x02")
    assert codec.send(SendMedia(b"\x01\x02")) == b"\x01\x02"
    agreed = MediaFormat("pcm_s16le", 16000)
    one = {"codec": "pcm_s16le", "sample_rate": 16000, "layout": "mono"}
    assert json.loads(codec.send(SendAccepted("abc", agreed, agreed))) == {
        "event": "started",
        "websocket_id": "abc",
        "receive": one,
        "send": one,
        "binary": True,
    }


@pytest.mark.parametrize(
    ("first", "message", "code", "hint"),
    [
        (None, "nonsense", 1007, "not JSON"),
        (None, b"\x00", 1002, "before the call was started"),
        (None, '{"event":"media","media":{"payload":""}}', 1002, "send the start message first"),
        (None, '{"type":"input"}', 1002, "before the call was started"),
        (None, '{"event":"start","websocket_id":"a b"}', 1007, "1 to 128 letters"),
        (None, json.dumps({"event": "start", "websocket_id": 129 * "a"}), 1007, "1 to 128 letters"),
        (None, '{"event":"start","websocket_id":7}', 1007, "must be a string"),
        (None, '{"event":"start","codec":"mp3"}', 1003, "expected one of pcm_s16le, opus, mulaw, alaw"),
        (None, '{"event":"start","sample_rate":11025}', 1003, "multiple of 50 from 8000 to 48000"),
        (None, '{"event":"start","codec":"opus","sample_rate":44100}', 1003, "Opus has 8000"),
        (None, '{"event":"start","layout":"quad"}', 1003, "mono or stereo"),
        (None, '{"event":"start","binary":1}', 1007, "true or false"),
        (START, START, 1002, "started twice"),
        (START, b"\x00", 1003, '"binary": true'),
        (None, START.encode(), 1003, "'start' came as a binary message; send JSON as a text message"),
        (START, b'{"event":"stop"}', 1003, "'stop' came as a binary message"),
        (None, '{"event":"start","sample_rate":16000.5}', 1007, "whole number, not '16000.5'"),
        (START, '{"event":"media","media":{"payload":"%"}}', 1007, "base64"),
        (START, '{"event":"weather"}', 1002, "unknown event"),
        (START, "{}", 1002, "unknown event"),
        (START, '{"type":5}', 1002, "unknown event"),
        (NAMED, '{"event":"media","media":{"payload":"AAA="}}', 1003, "text where binary was agreed"),
        (NAMED, b"\x00\x01\x02", 1007, "not a multiple of 2"),
    ],
)
def test_bad_messages_have_their_code_and_a_helpful_reason(
    first: str | None, message: str | bytes, code: int, hint: str
) -> None:
    """What is wrong is said in words, with the close code that fits."""
    codec = WebSocketCodec()
    if first is not None:
        codec.receive(first)
    with pytest.raises(RemoteProtocolError, match=hint) as caught:
        codec.receive(message)
    assert caught.value.close_code == code


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
start_options = st.builds(
    StartOptions,
    codec=st.sampled_from(["pcm_s16le", "mulaw", "alaw"]),
    sample_rate=st.none() | st.integers(160, 960).map(lambda count: count * 50),
    layout=st.sampled_from(["mono", "stereo"]),
    binary=st.booleans(),
    clear=st.booleans(),
    marks=st.booleans(),
    named=st.just(True),
) | st.just(StartOptions())
whole_samples = st.binary(max_size=64).map(lambda payload: payload[: len(payload) // 4 * 4])
messages = st.dictionaries(st.just("type"), words, min_size=1).map(json.dumps) | st.text()
events: st.SearchStrategy[LineEvent] = st.one_of(
    st.builds(Media, whole_samples),
    st.builds(TextMessage, messages),
    st.builds(MarkPlayed, words),
    st.just(Ping()),
)


@given(start_options, st.from_regex(r"[A-Za-z0-9_.~-]{1,128}", fullmatch=True), st.lists(events, max_size=5))
def test_the_server_understands_clients(options: StartOptions, call_id: str, said: list[LineEvent]) -> None:
    """Options and events survive the way through the messages."""
    theirs, ours = WebSocketCodec(options), WebSocketCodec()
    start = CallStarted(call_id, call_id, format=None)
    assert ours.receive(theirs.send_event(start)) == start
    assert ours.options == options
    for event in said:
        assert ours.receive(theirs.send_event(event)) == event


@given(start_options, words, whole_samples, messages)
def test_clients_understand_the_server(options: StartOptions, name: str, payload: bytes, text: str) -> None:
    """Commands survive the way through the messages."""
    theirs, ours = WebSocketCodec(options), WebSocketCodec()
    ours.receive(theirs.send_event(CallStarted("abc", "abc", format=None)))
    agreed = MediaFormat(options.codec, options.sample_rate or 24000, options.layout)
    if not options.named:  # FastRTC's own clients get text as it is
        text = json.dumps({"type": text})
    for command in (
        SendMedia(payload),
        SendMark(name),
        SendClear(),
        SendPong(),
        SendText(text),
        SendAccepted(name, agreed, agreed),
    ):
        assert theirs.receive_command(ours.send(command)) == command


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    """JSON has one kind of number: 16000.0 is 16000."""
    codec = WebSocketCodec()
    codec.receive('{"event":"start","sample_rate":16000.0}')
    assert codec.options.sample_rate == 16000
    assert isinstance(codec.options.sample_rate, int)


keys = st.sampled_from(["websocket_id", "codec", "sample_rate", "layout", "binary", "clear", "marks", "media", "mark"])
kinds = st.sampled_from(["start", "media", "stop", "ping", "mark", "pong", "clear", "started", "x"])


@given(
    st.sampled_from([None, START, NAMED]),
    st.one_of(
        st.text(),
        st.binary(max_size=50),
        json_values.map(json.dumps),
        st.builds(lambda kind, rest: json.dumps({"event": kind, **rest}), kinds, st.dictionaries(keys, json_values)),
        st.just("[" * 100_000),
    ),
)
def test_whatever_comes_is_understood_or_a_protocol_error(first: str | None, message: str | bytes) -> None:
    """Malformed messages raise RemoteProtocolError with a close code, and nothing else."""
    codec = WebSocketCodec()
    if first is not None:
        codec.receive(first)
    for read in (codec.receive, codec.receive_command):
        try:
            read(message)
        except RemoteProtocolError as error:
            assert error.close_code in {1002, 1003, 1007}


@pytest.mark.parametrize(
    "options",
    [
        StartOptions("pcm_s16le"),
        StartOptions(sample_rate=16000),
        StartOptions(layout="stereo"),
        StartOptions(binary=True),
        StartOptions(clear=True),
        StartOptions(marks=True),
        StartOptions(resume=True),
    ],
)
def test_a_client_says_what_it_does_not_leave_to_the_server(options: StartOptions) -> None:
    """Also without `named`: otherwise the server would take its audio for mu-law at the handler's rate."""
    server = WebSocketCodec()
    server.receive(WebSocketCodec(options).send_event(CallStarted("abc", "abc", format=None)))
    assert server.options == replace(options, named=True)


def test_defaults_are_fastrtcs() -> None:
    """A start without any of our keys asks for nothing, and nothing is answered to it."""
    assert read_start_options({"event": "start", "websocket_id": "abc"}) == StartOptions()
    assert not read_start_options({}).named
    assert read_start_options({"binary": False}).named
