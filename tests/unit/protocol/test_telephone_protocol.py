"""Carriers' messages, as their documentation prints them, and laws of the codecs."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.exceptions import RemoteProtocolError
from rtcflow.protocol.lines import (
    TELEPHONE,
    CallStarted,
    CarrierFailed,
    Cleared,
    Connected,
    KeyPressed,
    LineCodec,
    LineEvent,
    MarkPlayed,
    MarkTracker,
    Media,
    MediaClock,
    MediaFormat,
    Ping,
    Reorder,
    SendAccepted,
    SendClear,
    SendDtmf,
    SendGoodbye,
    SendMark,
    SendMedia,
    SendPong,
    Stopped,
    Unknown,
)
from rtcflow.protocol.telephone import CARRIERS, MEDIA_STREAMS, answer_call, carrier_codec, detect
from rtcflow.protocol.telephone.answers import check_parameters, read_call
from rtcflow.protocol.telephone.json_media import read_extra_headers, write_extra_headers

# -- what each carrier says, from its documentation

TWILIO = [
    '{"event":"connected","protocol":"Call","version":"1.0.0"}',
    '{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC1","streamSid":"MZ1","callSid":"CA1",'
    '"tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},'
    '"customParameters":{"FirstName":"Jane","caller":"+14155550100"}},"streamSid":"MZ1"}',
    '{"event":"media","sequenceNumber":"3","media":{"track":"inbound","chunk":"1","timestamp":"5","payload":"/38AfQ=="},'
    '"streamSid":"MZ1"}',
    '{"event":"dtmf","streamSid":"MZ1","sequenceNumber":"5","dtmf":{"track":"inbound_track","digit":"1"}}',
    '{"event":"mark","sequenceNumber":"4","streamSid":"MZ1","mark":{"name":"my label"}}',
    '{"event":"stop","sequenceNumber":"5","stop":{"accountSid":"AC1","callSid":"CA1"},"streamSid":"MZ1"}',
]
TWILIO_EVENTS: list[LineEvent] = [
    Connected(),
    CallStarted("CA1", "MZ1", "+14155550100", "", {"FirstName": "Jane"}, MediaFormat("mulaw", 8000)),
    Media(b"\xff\x7f\x00\x7d", 1, 5),
    KeyPressed("1"),
    MarkPlayed("my label"),
    Stopped(),
]
TELNYX = [
    '{"event":"connected","version":"1.0.0","x-telnyx-streaming-auth-token":"abc"}',
    '{"event":"start","sequence_number":"1","stream_id":"32DE","start":{"user_id":"3E6F","call_control_id":"v2:T02",'
    '"call_session_id":"ff55","from":"+13122010094","to":"+13122123456","tags":["TAG1"],"client_state":"aGF2",'
    '"custom_parameters":{"customer_id":"customer_123"},"media_format":{"encoding":"PCMU","sample_rate":8000,'
    '"channels":1}}}',
    '{"event":"media","sequence_number":"4","media":{"track":"inbound","chunk":"2","timestamp":"5","payload":"/38AfQ=="},'
    '"stream_id":"32DE"}',
    '{"event":"dtmf","stream_id":"32DE","occurred_at":"2026-01-01T00:00:00Z","sequence_number":"5","dtmf":{"digit":"#"}}',
    '{"event":"mark","sequence_number":"6","stream_id":"32DE","mark":{"name":"m"}}',
    '{"event":"error","stream_id":"32DE","payload":{"code":100003,"title":"malformed_frame","detail":"A bad frame."}}',
    '{"event":"stop","sequence_number":"7","stop":{"user_id":"3E6F","call_control_id":"v2:T02"},"stream_id":"32DE"}',
]
TELNYX_EVENTS: list[LineEvent] = [
    Connected("abc"),
    CallStarted(
        "v2:T02", "32DE", "+13122010094", "+13122123456", {"customer_id": "customer_123"}, MediaFormat("mulaw", 8000)
    ),
    Media(b"\xff\x7f\x00\x7d", 2, 5),
    KeyPressed("#"),
    MarkPlayed("m"),
    CarrierFailed("malformed_frame"),
    Stopped(),
]
PLIVO = [
    '{"sequenceNumber":0,"event":"start","start":{"callId":"c1","streamId":"s1","accountId":"1","tracks":["inbound"],'
    '"mediaFormat":{"encoding":"audio/x-l16","sampleRate":16000}},"extra_headers":"a=b;caller=%2B1415"}',
    '{"sequenceNumber":1,"streamId":"s1","event":"media","media":{"track":"inbound","timestamp":"1700000000123","chunk":1,'
    '"payload":"/38AfQ=="},"extra_headers":"{}"}',
    '{"event":"dtmf","streamId":"s1","sequenceNumber":5,"dtmf":{"track":"inbound","digit":"*","timestamp":"1700"}}',
    '{"sequenceNumber":6,"event":"playedStream","streamId":"s1","name":"chunk-1"}',
    '{"sequenceNumber":7,"event":"clearedAudio","streamId":"s1"}',
]
PLIVO_EVENTS: list[LineEvent] = [
    CallStarted("c1", "s1", "+1415", "", {"a": "b"}, MediaFormat("pcm_s16le", 16000)),
    Media(b"\xff\x7f\x00\x7d", 1, 1700000000123),
    KeyPressed("*"),
    MarkPlayed("chunk-1"),
    Cleared(),
]
VONAGE: list[str | bytes] = [
    '{"event":"websocket:connected","content-type":"audio/l16;rate=16000","prop1":"value1","caller":"44","call_id":"u1"}',
    b"\x01\x02" * 320,
    '{"event":"websocket:dtmf","digit":"5","duration":260}',
    '{"event":"websocket:cleared"}',
    '{"event":"websocket:notify","payload":{"name":"m"}}',
]
VONAGE_EVENTS: list[LineEvent] = [
    CallStarted("u1", "u1", "44", "", {"prop1": "value1"}, MediaFormat("pcm_s16le", 16000)),
    Media(b"\x01\x02" * 320),
    KeyPressed("5"),
    Cleared(),
    MarkPlayed("m"),
]
EXOTEL = [
    '{"event":"connected"}',
    '{"event":"start","sequence_number":1,"stream_sid":"st1","start":{"stream_sid":"st1","call_sid":"ca1","account_sid":'
    '"ex1","from":"098","to":"080","custom_parameters":{"k":"v"},"media_format":{"encoding":"base64","sample_rate":'
    '"8000","bit_rate":"128kbps"}}}',
    '{"event":"media","sequence_number":3,"stream_sid":"st1","media":{"chunk":2,"timestamp":"10","payload":"/38AfQ=="}}',
    '{"event":"dtmf","sequence_number":"5","stream_sid":"st1","dtmf":{"duration":"100","digit":"1"}}',
    '{"event":"mark","sequence_number":"4","stream_sid":"st1","mark":{"name":"m"}}',
    '{"event":"stop","sequence_number":"9","stream_sid":"st1","stop":{"call_sid":"ca1","reason":"callended"}}',
]
EXOTEL_EVENTS: list[LineEvent] = [
    Connected(),
    CallStarted("ca1", "st1", "098", "080", {"k": "v"}, MediaFormat("pcm_s16le", 8000)),
    Media(b"\xff\x7f\x00\x7d", 2, 10),
    KeyPressed("1"),
    MarkPlayed("m"),
    Stopped(),
]
GENESYS: list[str | bytes] = [
    '{"version":"2","id":"se1","type":"open","seq":1,"serverseq":0,"position":"PT0S","parameters":{"organizationId":"o",'
    '"conversationId":"co1","participant":{"id":"p","ani":"+1415","aniName":"Jane","dnis":"+1416"},"media":[{"type":'
    '"audio","format":"PCMU","channels":["external","internal"],"rate":8000},{"type":"audio","format":"PCMU","channels":'
    '["external"],"rate":8000}],"inputVariables":{"k":"v"},"language":"en-US"}}',
    b"\xff\x7f",
    '{"version":"2","id":"se1","type":"ping","seq":2,"serverseq":1,"position":"PT1S","parameters":{"rtt":"PT0.1S"}}',
    '{"version":"2","id":"se1","type":"dtmf","seq":3,"serverseq":2,"position":"PT2S","parameters":{"digit":"7"}}',
    '{"version":"2","id":"se1","type":"error","seq":4,"serverseq":2,"position":"PT3S","parameters":{"code":429,'
    '"message":"too many"}}',
    '{"version":"2","id":"se1","type":"close","seq":5,"serverseq":2,"position":"PT4S","parameters":{"reason":"end"}}',
]
GENESYS_EVENTS: list[LineEvent] = [
    CallStarted("co1", "se1", "+1415", "+1416", {"k": "v"}),
    Media(b"\xff\x7f"),
    Ping(),
    KeyPressed("7"),
    CarrierFailed("too many"),
    Stopped(),
]
CALLS = {
    "exotel": (EXOTEL, EXOTEL_EVENTS),
    "genesys": (GENESYS, GENESYS_EVENTS),
    "twilio": (TWILIO, TWILIO_EVENTS),
    "telnyx": (TELNYX, TELNYX_EVENTS),
    "plivo": (PLIVO, PLIVO_EVENTS),
    "vonage": (VONAGE, VONAGE_EVENTS),
}
every_carrier = pytest.mark.parametrize("carrier", list(CARRIERS))
every_stream = pytest.mark.parametrize("carrier", list(MEDIA_STREAMS))


@every_stream
def test_a_call_as_documented_is_understood(carrier: str) -> None:
    """Each message of the carrier's documentation gives its event, and the first one tells whose it is."""
    messages, events = CALLS[carrier]
    codec = detect(messages[0])
    assert codec.name == carrier
    assert [codec.receive(message) for message in messages] == events


COMMANDS = [SendMedia(b"\xff\x7f\x00\x7d"), SendMark("m"), SendClear()]
SAID: dict[str, list[Any]] = {
    "twilio": [
        {"event": "media", "streamSid": "MZ1", "media": {"payload": "/38AfQ=="}},
        {"event": "mark", "streamSid": "MZ1", "mark": {"name": "m"}},
        {"event": "clear", "streamSid": "MZ1"},
    ],
    "telnyx": [
        {"event": "media", "media": {"payload": "/38AfQ=="}},
        {"event": "mark", "mark": {"name": "m"}},
        {"event": "clear"},
    ],
    "plivo": [
        {
            "event": "playAudio",
            "streamId": "s1",
            "media": {"contentType": "audio/x-l16", "sampleRate": 16000, "payload": "/38AfQ=="},
        },
        {"event": "checkpoint", "streamId": "s1", "name": "m"},
        {"event": "clearAudio", "streamId": "s1"},
    ],
    "vonage": [b"\xff\x7f\x00\x7d", {"action": "notify", "payload": {"name": "m"}}, {"action": "clear"}],
}


@every_carrier
def test_commands_are_said_as_documented(carrier: str) -> None:
    """Audio, mark and clear have exactly the form of the carrier's documentation."""
    codec = _begun(carrier)
    said = [codec.send(command) for command in COMMANDS]
    assert [message if isinstance(message, bytes) else json.loads(message) for message in said] == SAID[carrier]


def _begun(carrier: str) -> LineCodec:
    codec = carrier_codec(carrier)
    for message in CALLS[carrier][0][: 2 if carrier in {"twilio", "telnyx"} else 1]:
        codec.receive(message)
    return codec


# -- laws

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = words.filter(lambda name: name not in {"caller", "callee", "call_id", "event", "content-type"})
numbers = st.text("+0123456789", max_size=15)
ids = st.text("abcdefAB0123-:", min_size=1, max_size=40)
digits = st.sampled_from("0123456789*#ABCD").map(KeyPressed)
samples = st.binary(max_size=64).map(lambda payload: payload[: len(payload) // 2 * 2])
formats = {
    "twilio": st.just(MediaFormat("mulaw", 8000)),
    "telnyx": st.sampled_from([MediaFormat("mulaw", 8000), MediaFormat("alaw", 8000)]),
    "plivo": st.sampled_from(
        [MediaFormat("mulaw", 8000), MediaFormat("pcm_s16le", 8000), MediaFormat("pcm_s16le", 16000)]
    ),
    "vonage": st.sampled_from([MediaFormat("pcm_s16le", rate) for rate in (8000, 16000, 24000)]),
}
own_events: dict[str, st.SearchStrategy[LineEvent]] = {
    "twilio": st.just(Stopped()),
    "telnyx": st.one_of(st.just(Stopped()), st.builds(CarrierFailed, words)),
    "plivo": st.one_of(st.just(Stopped()), st.just(Cleared())),
    "vonage": st.one_of(st.just(Stopped()), st.just(Cleared())),
}


@every_carrier
@given(data=st.data())
def test_what_a_carrier_says_is_what_is_understood(carrier: str, data: st.DataObject) -> None:
    """Every event survives the way through the carrier's messages."""
    call_id = data.draw(ids)
    stream_id = call_id if carrier == "vonage" else data.draw(ids)
    custom = data.draw(st.dictionaries(names, words, max_size=3))
    start = CallStarted(call_id, stream_id, data.draw(numbers), data.draw(numbers), custom, data.draw(formats[carrier]))
    theirs, ours = carrier_codec(carrier), carrier_codec(carrier)
    assert ours.receive(theirs.send_event(start)) == start
    counts = st.none() if carrier == "vonage" else st.integers(0, 10**9)
    media = st.builds(Media, samples, counts, counts)
    for event in data.draw(st.lists(st.one_of(media, digits, st.builds(MarkPlayed, words)), max_size=5)):
        assert ours.receive(theirs.send_event(event)) == event
    last = data.draw(own_events[carrier])
    assert ours.receive(theirs.send_event(last)) == last


@every_carrier
@given(payload=samples, name=words)
def test_what_is_commanded_is_what_the_carrier_does(carrier: str, payload: bytes, name: str) -> None:
    """Every command survives the way through the carrier's messages."""
    codec = _begun(carrier)
    for command in (SendMedia(payload), SendMark(name), SendClear()):
        assert codec.receive_command(codec.send(command)) == command


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def _mutations(message: str | bytes) -> st.SearchStrategy[str | bytes]:
    """Messages close to `message`: one value replaced by any other, a key removed, or the text cut or spoiled."""
    if isinstance(message, bytes):
        return st.binary(max_size=50)
    fields = json.loads(message)

    def paths(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        inner = value.items() if isinstance(value, dict) else ()
        return [path] * bool(path) + [deeper for key, part in inner for deeper in paths(part, (*path, key))]

    def change(path: tuple[str, ...], value: object, remove: bool) -> str:
        changed = json.loads(message)
        place = changed
        for key in path[:-1]:
            place = place[key]
        if remove:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return json.dumps(changed)

    return st.one_of(
        st.builds(change, st.sampled_from(paths(fields)), json_values, st.booleans()),
        st.integers(0, len(message)).map(lambda cut: message[:cut]),
        json_values.map(json.dumps),
        st.text(),
        st.binary(max_size=50),
        st.just("[" * 100_000),
        st.just('{"a":' * 5_000),
    )


@every_stream
@given(data=st.data())
def test_whatever_comes_is_understood_or_a_protocol_error(carrier: str, data: st.DataObject) -> None:
    """Malformed messages raise RemoteProtocolError with a close code, at any point of a call, and nothing else."""
    messages = CALLS[carrier][0]
    codec = carrier_codec(carrier)
    for message in messages[: data.draw(st.integers(0, len(messages)))]:
        codec.receive(message)
    for role in (codec.receive, codec.receive_command, detect):
        spoiled = data.draw(_mutations(data.draw(st.sampled_from(messages))))
        _understood_or_refused(role, spoiled)


def _understood_or_refused(read: Callable[[Any], object], message: str | bytes) -> None:
    try:
        read(message)
    except RemoteProtocolError as error:
        assert error.close_code in {1002, 1003, 1007, 1009}
        assert str(error)


# -- order, and what is refused


@pytest.mark.parametrize(
    "write",
    [
        base64.encodebytes,
        lambda payload: base64.encodebytes(payload).replace(b"\n", b"\r\n"),
        lambda payload: base64.b64encode(payload).rstrip(b"="),
        lambda payload: b" " + base64.b64encode(payload) + b"\t",
    ],
    ids=["lines", "Android's lines", "no padding", "blanks"],
)
@given(payload=st.binary(max_size=400))
def test_base64_of_mail_encoders_is_read(write: Callable[[bytes], bytes], payload: bytes) -> None:
    """Android's DEFAULT and Python's encodebytes put line breaks in; some leave the padding out."""
    message = json.dumps({"event": "media", "media": {"payload": write(payload).decode()}})
    assert _begun("twilio").receive(message) == Media(payload)


@pytest.mark.parametrize("payload", ["%%%%", "AAAAA", "AA==AA", "A=", "ä", "AA=A", "=", "-_-_"])
def test_what_is_not_base64_is_refused(payload: str) -> None:
    """Nothing is guessed at: letters of another alphabet, and bits that are missing, are errors."""
    words = "URL-safe" if payload == "-_-_" else "not base64"
    with pytest.raises(RemoteProtocolError, match=words) as caught:
        _begun("twilio").receive(json.dumps({"event": "media", "media": {"payload": payload}}))
    assert caught.value.close_code == 1007


@every_stream
def test_a_start_in_a_binary_message_is_called_that(carrier: str) -> None:
    """Some WebSocket libraries send text as binary messages: the error says so, and not that audio came too early."""
    start = carrier_codec(carrier).send_event(CallStarted("CA1", "MZ1"))
    for read in (detect, carrier_codec(carrier).receive):
        with pytest.raises(RemoteProtocolError, match="binary message; send JSON as a text message") as caught:
            read(start.encode())
        assert caught.value.close_code == 1003


@pytest.mark.parametrize("inside", [True, False])
def test_plivos_stream_id_is_read_wherever_it_stands(inside: bool) -> None:
    """In `start`, as documented, or beside it, as streams of Plivo's kind have it."""
    start = {"callId": "c", "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000.0}}
    said = {"event": "start", "start": {**start, **({"streamId": "s"} if inside else {})}}
    message = json.dumps(said if inside else {**said, "streamId": "s"})
    codec = detect(message)
    assert codec.name == "plivo"
    started = codec.receive(message)
    assert isinstance(started, CallStarted)
    assert (started.call_id, started.stream_id) == ("c", "s")


@pytest.mark.parametrize(
    ("message", "code", "hint"),
    [
        ("nonsense", 1007, "not JSON"),
        ("[1]", 1007, "not an object"),
        ('{"event": "media", "media": {"payload": "%%%"}}', 1007, "base64"),
        ('{"event": "media", "media": {}}', 1007, "payload"),
        ('{"event": "media"}', 1007, "'media' must be an object"),
        ('{"event": "dtmf", "dtmf": {"digit": "11"}}', 1007, "digit"),
        ("{}", 1002, "unknown event 'None'"),
        ('{"event": 5}', 1002, "unknown event '5'"),
        ('{"event": "start"}', 1007, "'start' must be an object"),
        (b"\x00", 1003, "binary"),
        (TWILIO[1], 1002, "started twice"),
        (TWILIO[0], 1002, "after the call was started"),
    ],
)
def test_bad_messages_have_their_code_and_a_helpful_reason(message: str | bytes, code: int, hint: str) -> None:
    """What is wrong is said in words, with the close code that fits."""
    codec = _begun("twilio")
    with pytest.raises(RemoteProtocolError, match=hint) as caught:
        codec.receive(message)
    assert caught.value.close_code == code


@every_stream
def test_nothing_comes_before_the_start_or_after_the_stop(carrier: str) -> None:
    """Media before the start, and anything after the stop, is a protocol error."""
    theirs, ours = carrier_codec(carrier), carrier_codec(carrier)
    with pytest.raises(RemoteProtocolError, match="before the call was started"):
        ours.receive(theirs.send_event(Media(b"\x00\x00")))
    theirs, ours = carrier_codec(carrier), _begun(carrier)
    assert ours.receive(theirs.send_event(Stopped())) == Stopped()
    with pytest.raises(RemoteProtocolError, match="after the call was over"):
        ours.receive(theirs.send_event(Media(b"\x00\x00")))


def test_formats_that_cannot_be_served_say_what_to_set() -> None:
    """A carrier configured for another codec is told which to choose."""
    start = TELNYX[1].replace("PCMU", "G722")
    with pytest.raises(RemoteProtocolError, match="set codec and bidirectionalCodec to PCMU") as caught:
        carrier_codec("telnyx").receive(start)
    assert caught.value.close_code == 1003
    with pytest.raises(RemoteProtocolError, match="rate=8000, 16000 or 24000"):
        carrier_codec("vonage").receive('{"event":"websocket:connected","content-type":"audio/l16;rate=44100"}')
    with pytest.raises(RemoteProtocolError, match="whole number of 16-bit samples"):
        _begun("vonage").receive(b"\x00\x00\x00")


@every_carrier
def test_events_that_a_carrier_has_added_do_not_end_calls(carrier: str) -> None:
    """Before the start as after it: they are named, and nothing else happens."""
    for codec in (carrier_codec(carrier), _begun(carrier)):
        assert codec.receive('{"event":"weather","sky":{}}') == Unknown("weather")
    assert _begun("vonage").receive('{"event":"websocket:notify"}') is None
    assert _begun("vonage").receive('{"event":"websocket:notify","payload":{"ours":1}}') is None


def test_vonages_audio_is_bounded() -> None:
    """More than two seconds in a message is too big, and not of the wrong kind."""
    with pytest.raises(RemoteProtocolError, match="at most 65536") as caught:
        _begun("vonage").receive(bytes(65537))
    assert caught.value.close_code == 1009


def test_the_simulated_carriers_say_what_the_real_ones_do() -> None:
    """Twilio's stop names account and call; a parameter of Vonage cannot take the place of the event."""
    twilio = carrier_codec("twilio")
    twilio.send_event(CallStarted("CA1", "MZ1"))
    assert json.loads(twilio.send_event(Stopped()))["stop"] == {"accountSid": "AC" + 32 * "0", "callSid": "CA1"}
    custom = {"event": "party", "content-type": "x", "k": "v"}
    started = CallStarted("CA1", "CA1", custom=custom, format=MediaFormat("pcm_s16le", 16000))
    said = json.loads(carrier_codec("vonage").send_event(started))
    assert said == {
        "event": "websocket:connected",
        "content-type": "audio/l16;rate=16000",
        "call_id": "CA1",
        "k": "v",
    }


def test_our_own_voice_is_not_taken_for_the_callers() -> None:
    """Where a carrier sends both tracks, the outbound one is ignored."""
    codec = _begun("telnyx")
    assert codec.receive(TELNYX[2].replace('"inbound"', '"outbound"')) is None


def test_what_begins_like_no_carrier_is_refused() -> None:
    """Neither audio nor a WebSocket client's start is taken for a carrier."""
    with pytest.raises(RemoteProtocolError, match="audio came before"):
        detect(b"\x00\x00")
    with pytest.raises(RemoteProtocolError, match="unknown event"):
        detect('{"event": "ping"}')
    with pytest.raises(ValueError, match="known are twilio, telnyx, plivo, vonage"):
        carrier_codec("acme")


# -- answers to webhooks


@every_carrier
@given(data=st.data())
def test_answers_carry_url_and_parameters_unharmed(carrier: str, data: st.DataObject) -> None:
    """What stands in the answer, read by an XML or JSON parser, is what was put in."""
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=12)
    parameters = data.draw(st.dictionaries(printable.filter(bool), printable, max_size=4))
    url = "wss://answer.example.com/telephone/handler?a=1&b=<2>"
    media_type, body = answer_call(carrier, url, parameters)
    if carrier == "vonage":
        [action] = json.loads(body)
        [endpoint] = action["endpoint"]
        assert media_type == "application/json"
        assert (action["action"], endpoint["type"], endpoint["uri"]) == ("connect", "websocket", url)
        assert endpoint["headers"] == parameters
        return
    assert media_type == "application/xml"
    stream = next(ET.fromstring(body).iter("Stream"))
    if carrier == "plivo":
        assert stream.text == url
        assert stream.get("bidirectional") == "true"
        assert read_extra_headers(stream.get("extraHeaders")) == parameters
    else:
        assert stream.get("url") == url
        assert {part.get("name"): part.get("value") for part in stream} == parameters
        assert (stream.get("bidirectionalMode") == "rtp") == (carrier == "telnyx")


def test_the_twiml_answer_is_as_documented() -> None:
    """Connect, Stream, Parameter: the form of Twilio's documentation."""
    _, body = answer_call("twilio", "wss://h/telephone/handler", {"k": "v"})
    assert body.endswith(
        '<Response><Connect><Stream url="wss://h/telephone/handler"><Parameter name="k" value="v"/></Stream></Connect>'
        "</Response>"
    )


def test_vonage_gets_no_more_than_it_takes() -> None:
    """More than 512 bytes of parameters are refused before the carrier does."""
    with pytest.raises(ValueError, match="512 bytes"):
        answer_call("vonage", "wss://h", {"k": 600 * "v"})
    with pytest.raises(ValueError, match="512 bytes"):
        answer_call("plivo", "wss://h", {"k": 200 * "ä"})
    with pytest.raises(ValueError, match="'event' of its own"):
        answer_call("vonage", "wss://h", {"event": "v"})
    with pytest.raises(ValueError, match="unknown carrier"):
        answer_call("acme", "wss://h")


@pytest.mark.parametrize("carrier", ["plivo", "vonage"])
@given(
    size=st.integers(0, 520),
    said=st.dictionaries(st.sampled_from(["From", "To", "uuid"]), st.text(st.characters(codec="ascii"), min_size=64)),
)
def test_parameters_that_fit_fit_every_call(carrier: str, size: int, said: dict[str, str]) -> None:
    """What was let through when it was configured has room beside the numbers of any caller."""
    parameters = {"k": size * "v"}
    try:
        check_parameters(carrier, parameters)
    except ValueError:
        assert size > 300
        return
    told = read_call(said)
    if carrier != "vonage":
        told.pop("call_id", None)
    assert answer_call(carrier, "wss://h", {**parameters, **told})


def test_webhooks_tell_who_calls() -> None:
    """Numbers and the call's id are found under each carrier's names."""
    assert read_call({"From": "+1", "To": "+2", "CallSid": "CA"}) == {"caller": "+1", "callee": "+2", "call_id": "CA"}
    assert read_call({"From": "+1", "CallUUID": "u"}) == {"caller": "+1", "call_id": "u"}
    assert read_call({"from": "1", "to": "2", "uuid": "u"}) == {"caller": "1", "callee": "2", "call_id": "u"}


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
@given(said=st.dictionaries(st.sampled_from(["From", "To", "CallSid", "uuid"]), st.text(st.characters(), min_size=100)))
def test_any_webhook_can_be_answered(carrier: str, said: dict[str, str]) -> None:
    """Lone surrogates from JSON, control characters, endless ids: the answer has room for them, or leaves them out."""
    _, answer = answer_call(carrier, "wss://h", read_call(said))
    assert answer.encode()


@given(st.dictionaries(words, words, max_size=4))
def test_extra_headers_survive(parameters: dict[str, str]) -> None:
    """Any parameters go through Plivo's header string and back, with either separator."""
    assert re.fullmatch("[A-Za-z0-9%=;]*", write_extra_headers(parameters))
    for separator in ";,":
        assert read_extra_headers(write_extra_headers(parameters, separator)) == parameters


# -- order, time and marks, as arithmetic


@given(st.permutations(range(1, 40)), st.integers(1, 8))
def test_reordering_gives_everything_once_and_in_order(chunks: list[int], bound: int) -> None:
    """What comes out is in order, without doubles, and at most `bound` items ever wait."""
    reorder = Reorder(bound)
    out: list[int] = []
    for seen, chunk in enumerate(chunks, 1):
        out += [media.chunk or 0 for media in reorder.push(Media(b"", chunk))]
        assert seen - len(out) - reorder.late <= bound
    assert out == sorted(set(out))


def test_reordering_swaps_neighbours_without_loss() -> None:
    """Neighbours that overtook each other are swapped back; a lost one holds up the rest only for the bound."""
    reorder = Reorder(2)
    order = [1, 3, 2, 4, 6, 7, 8, 9]
    assert [media.chunk for chunk in order for media in reorder.push(Media(b"", chunk))] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert reorder.push(Media(b"", 5)) == []
    assert reorder.late == 1
    assert reorder.push(Media(b"x", None)) == [Media(b"x", None)]


def test_the_first_frames_may_overtake_each_other() -> None:
    """Numbers begin with 1: what comes before it waits for it, but not for ever; a later beginning is one."""
    reorder = Reorder(5)
    assert [media.chunk for chunk in (2, 1, 3) for media in reorder.push(Media(b"", chunk))] == [1, 2, 3]
    reorder = Reorder(2)
    assert [media.chunk for chunk in (2, 3, 4) for media in reorder.push(Media(b"", chunk))] == [2, 3, 4]
    reorder = Reorder()  # a far side that counts from 0 all the same
    assert [media.chunk for chunk in (0, 1) for media in reorder.push(Media(b"", chunk))] == [0, 1]
    assert [media.chunk for media in Reorder().push(Media(b"", 400))] == [400]


@given(st.permutations(range(1, 30)), st.integers(1, 8))
def test_what_still_waits_at_the_end_is_not_lost(chunks: list[int], bound: int) -> None:
    """Whatever was not too late comes out by then, in order."""
    reorder = Reorder(bound)
    out = [media.chunk or 0 for chunk in chunks for media in reorder.push(Media(b"", chunk))]
    out += [media.chunk or 0 for media in reorder.flush()]
    assert out == sorted(set(out))
    assert len(out) + reorder.late == len(chunks)
    assert reorder.flush() == []


def test_a_counter_that_starts_anew_is_followed() -> None:
    """A far side that counts from 1 again is not taken for an hour of late audio."""
    reorder = Reorder(2)
    reorder.push(Media(b"", 1000))
    assert [media.chunk for media in reorder.push(Media(b"", 1))] == [1]


@given(st.lists(st.tuples(st.integers(1, 400), st.none() | st.integers(0, 10**15)), max_size=30))
def test_media_time_never_runs_backwards(parts: list[tuple[int, int | None]]) -> None:
    """Whatever a carrier says the time is, later audio has a later time."""
    clock, last = MediaClock(8000), 0
    for n, timestamp in parts:
        pts = clock.pts(n, timestamp)
        assert pts >= last
        last = pts + n


def test_a_gap_in_the_timestamps_is_a_gap_in_media_time() -> None:
    """Rounding to milliseconds is no gap; lost frames are, by as much as was lost."""
    clock = MediaClock(8000)
    assert [clock.pts(160, 1000 + timestamp) for timestamp in (5, 25, 46, 65, 125, 145)] == [
        0,
        160,
        320,
        480,
        960,
        1120,
    ]


def test_what_was_heard_is_what_marks_confirmed() -> None:
    """Marks confirm what was before them; what a clear cut off is not heard, though its marks come back."""
    heard = MarkTracker(every=400)
    marks = [heard.send(160) for _ in range(10)]
    named = [mark for mark in marks if mark]
    assert [index for index, mark in enumerate(marks) if mark] == [2, 5, 8]
    heard.played(named[0])
    assert (heard.sent, heard.heard, heard.pending, heard.unmarked) == (1600, 480, 2, 160)
    heard.clear()
    heard.played(named[1])
    heard.played(named[2])
    assert (heard.heard, heard.cut, heard.pending) == (480, 1120, 0)
    heard.send(160)
    heard.played(heard.mark())
    heard.played("strange")
    assert (heard.heard, heard.cut) == (640, 1120)


@given(st.lists(st.sampled_from(["send", "mark", "played", "clear"]), max_size=60))
def test_heard_and_cut_never_exceed_sent(steps: list[str]) -> None:
    """In any order of events the figures add up."""
    heard, names = MarkTracker(every=300), ["none"]
    for step in steps:
        match step:
            case "send":
                names += [name for name in [heard.send(160)] if name]
            case "mark":
                names.append(heard.mark())
            case "played":
                heard.played(names.pop())
                names = names or ["none"]
            case "clear":
                heard.clear()
        assert 0 <= heard.heard + heard.cut <= heard.sent


def test_payloads_are_plain_base64() -> None:
    """The payload is what any base64 decoder reads: no line breaks, standard alphabet."""
    payload = bytes(range(256))
    said = json.loads(_begun("twilio").send(SendMedia(payload)))
    assert base64.b64decode(said["media"]["payload"], validate=True) == payload


# -- what only some have


def test_keys_are_pressed_in_plivos_way_and_refused_elsewhere() -> None:
    """Plivo alone has a message for it."""
    ours, theirs = _begun("plivo"), carrier_codec("plivo")
    assert json.loads(str(ours.send(SendDtmf("1#")))) == {"event": "sendDTMF", "dtmf": "1#"}
    assert theirs.receive_command(ours.send(SendDtmf("1#"))) == SendDtmf("1#")
    assert [name for name, codec in MEDIA_STREAMS.items() if codec.presses] == ["plivo"]


def test_a_session_of_genesys_is_answered_counted_and_closed() -> None:
    """opened names the format, pong and barge-in count on, close is answered with closed and ours says disconnect."""
    codec = carrier_codec("genesys")
    codec.receive(GENESYS[0])
    opened = json.loads(str(codec.send(SendAccepted("", TELEPHONE, TELEPHONE))))
    assert opened == {
        "version": "2",
        "type": "opened",
        "seq": 1,
        "clientseq": 1,
        "id": "se1",
        "parameters": {
            "startPaused": False,
            "media": [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}],
        },
    }
    codec.receive(GENESYS[2])
    pong, barge_in, over = (json.loads(str(codec.send(say))) for say in (SendPong(), SendClear(), SendGoodbye()))
    assert [pong["type"], pong["seq"], pong["clientseq"]] == ["pong", 2, 2]
    assert barge_in["parameters"] == {"entities": [{"type": "barge_in", "data": {}}]}
    assert [over["type"], over["parameters"]] == ["disconnect", {"reason": "completed"}]
    codec.receive(GENESYS[5])
    assert json.loads(str(codec.send(SendGoodbye())))["type"] == "closed"
    for quiet in ("paused", "resumed", "discarded", "update", "playback_started", "playback_completed"):
        other = carrier_codec("genesys")
        other.receive(GENESYS[0])
        assert other.receive(json.dumps({"version": "2", "type": quiet, "seq": 2, "parameters": {}})) is None


def test_what_cannot_be_served_of_exotel_and_genesys_says_what_to_set() -> None:
    """Another codec, or both channels mixed into one stream."""
    with pytest.raises(RemoteProtocolError, match="set sample-rate to 8000, 16000 or 24000"):
        carrier_codec("exotel").receive(EXOTEL[1].replace('"8000"', '"44100"'))
    with pytest.raises(RemoteProtocolError, match="choose Audio Connector"):
        carrier_codec("genesys").receive(str(GENESYS[0]).replace('["external"]', '["internal"]'))
    assert detect(EXOTEL[1]).name == "exotel"
