"""FastRTC's offer route, as bytes and as types."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtcflow.exceptions import (
    ConnectionExists,
    InvalidCandidate,
    InvalidOffer,
    NegotiationError,
    NotAuthorized,
    RemoteProtocolError,
    TooManyConnections,
    UnknownConnection,
)
from rtcflow.protocol.sdp import tidy
from rtcflow.protocol.signalling import (
    MAX_BODY,
    MAX_CANDIDATE,
    MAX_SDP,
    Answer,
    CandidateRequest,
    IceCandidate,
    Offer,
    error_body,
    parse_answer,
    parse_candidate,
    parse_request,
)

CHROME = (
    "candidate:2393089663 1 udp 2122260223 192.168.86.60 63692 typ host generation 0 ufrag LkZb network-id 1 "
    "network-cost 10"
)
MDNS = "candidate:1 1 UDP 2122252543 3f0b1a52-7f2c-4d0c-9d58-1f1e7d3f1d5b.local 50000 typ host"
REFLEXIVE = "candidate:842163049 1 udp 1677729535 203.0.113.7 61000 typ srflx raddr 192.168.1.2 rport 61000"
TCP = "candidate:3 1 tcp 1518280447 192.168.1.2 9 typ host tcptype active"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
candidate_inits = st.fixed_dictionaries(
    {},
    optional={
        "candidate": st.sampled_from([CHROME, MDNS, "", "candidate:"]) | json_values,
        "sdpMid": st.just("0") | json_values,
        "sdpMLineIndex": st.just(0) | json_values,
        "usernameFragment": st.just("LkZb") | json_values,
    },
)
nearly_requests = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["offer", "ice-candidate", "stop"]) | json_values,
        "webrtc_id": st.just("abc") | json_values,
        "sdp": st.just("v=0") | json_values,
        "candidate": candidate_inits | json_values,
        "token": st.text() | json_values,
    },
)
words = st.text("abcABC019+/", min_size=1, max_size=32)
ports = st.integers(0, 65_535)
addresses = st.ip_addresses().map(str) | st.sampled_from(["a.local", "stun.example.org"])
candidates = st.builds(
    IceCandidate,
    foundation=words,
    component=st.integers(1, 256),
    protocol=st.sampled_from(["udp", "tcp", "dccp"]),
    priority=st.integers(1, 2**31 - 1),
    ip=addresses,
    port=ports,
    type=st.sampled_from(["host", "srflx", "prflx", "relay", "token"]),
    related_address=st.none() | addresses,
    related_port=st.none() | ports,
    tcp_type=st.none() | st.sampled_from(["active", "passive", "so"]),
    username_fragment=st.none() | st.text("abcABC019+/", min_size=4, max_size=256),
)


def outcome(read: Callable[[Any], Any], text: Any) -> Any:
    """What reading `text` gives, or the error that it may raise."""
    try:
        return read(text)
    except InvalidOffer as error:
        return error


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def trickle(**init: Any) -> bytes:
    return body(type="ice-candidate", webrtc_id="abc", candidate={"sdpMid": "0", **init})


@given(st.binary() | st.text().map(str.encode) | nearly_requests.map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"type":' * 10_000)
@example(b"1" * 5_000)
@example(b"\xff\xfe{")
@example(b'{"type": "offer", "webrtc_id": "a", "sdp": "\\ud800"}')
def test_any_bytes_are_a_request_or_an_invalid_offer(data: bytes) -> None:
    """Whatever is posted, nothing else comes out; and what is read can be written and read again."""
    request = outcome(parse_request, data)
    if isinstance(request, InvalidOffer):
        assert request.status in {400, 413, 422}
        assert str(request).isprintable()
        assert len(str(request)) < 500
    else:
        assert parse_request(json.dumps(request.to_json()).encode()) == request


@given(
    st.text()
    | st.text("candidate:01 udptyhosa.-/+", max_size=100)
    | st.lists(st.sampled_from(CHROME.split())).map(" ".join)
)
@example("candidate:" + "1 " * 400)
def test_any_line_is_a_candidate_or_invalid(line: str) -> None:
    """Nothing else comes out of reading a candidate."""
    candidate = outcome(parse_candidate, line)
    if isinstance(candidate, InvalidOffer):
        assert isinstance(candidate, InvalidCandidate)
        assert str(candidate).isprintable()
    else:
        assert candidate is None or parse_candidate(candidate.to_line()) == candidate


@given(candidates)
def test_a_candidate_survives_the_wire(candidate: IceCandidate) -> None:
    """parse(write(c)) == c, alone and in a request."""
    assert parse_candidate(candidate.to_line()) == candidate
    assert parse_candidate("a=" + candidate.to_line() + "\r\n") == candidate
    request = CandidateRequest("abc", replace(candidate, sdp_mid="audio", sdp_mline_index=2))
    assert parse_request(json.dumps(request.to_json()).encode()) == request


def test_fastrtcs_offer_is_read() -> None:
    """To the letter, extra fields ignored."""
    data = b'{"sdp":"v=0\\r\\n","type":"offer","webrtc_id":"abc","more":1}'
    offer = Offer(sdp="v=0\r\n", webrtc_id="abc", type="offer")
    assert parse_request(data) == offer
    assert parse_request(json.dumps(offer.to_json()).encode()) == offer


def test_fastrtcs_candidate_is_read() -> None:
    """As Chrome writes it."""
    request = parse_request(trickle(candidate=CHROME, sdpMLineIndex=0.0, usernameFragment="LkZb"))
    assert request == CandidateRequest(
        "abc",
        IceCandidate(
            foundation="2393089663",
            component=1,
            protocol="udp",
            priority=2122260223,
            ip="192.168.86.60",
            port=63692,
            type="host",
            sdp_mid="0",
            sdp_mline_index=0,
            username_fragment="LkZb",
        ),
    )


@pytest.mark.parametrize(
    ("line", "usable"),
    [
        (CHROME, True),
        (MDNS, True),
        (REFLEXIVE, True),
        ("candidate:1 1 udp 1 2001:db8::1 5000 typ host", True),
        (TCP, False),
        ("candidate:1 1 udp 1 192.0.2.1 0 typ host", False),
        ("candidate:1 1 udp 1 turn.example.org 5000 typ relay", False),
        ("candidate:1 1 udp 1 192.0.2.1 5000 typ quantum", False),
        ("candidate:1 1 udp 1 fe80::1%eth0 5000 typ host", False),
        ("candidate:1 1 udp 1 fe80::1%a.local 5000 typ host", False),
    ],
)
def test_sound_candidates_may_be_of_no_use(line: str, usable: bool) -> None:
    """TCP, unknown types and names that only DNS knows are read, and marked as what to pass over."""
    candidate = parse_candidate(line)
    assert candidate is not None
    assert candidate.usable is usable


@pytest.mark.parametrize("spelling", ["2001:DB8:0:0::1", "2001:db8:0000:0000:0000:0000:0000:0001", "2001:0db8::0001"])
def test_an_address_has_one_spelling(spelling: str) -> None:
    """Otherwise one host would count as several, each with a budget of checks of its own."""
    for blank in ("", " "):
        line = f"candidate:{blank}1 1 udp 1 {spelling} 5000 typ srflx raddr {spelling} rport 6000 generation 0"
        candidate = parse_candidate(line)
        assert candidate is not None
        assert (candidate.ip, candidate.related_address) == ("2001:db8::1", "2001:db8::1")
        tidied = tidy(f"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na={line}\r\n")
        assert "udp 1 2001:db8::1 5000 typ srflx" in tidied
        assert "generation 0\r\n" in tidied


@pytest.mark.parametrize("zone", ["\x00", "\x1b[2J", "ü", 70 * "ü", "\ud83d"])
def test_a_zone_is_a_word(zone: str) -> None:
    """Other characters are no part of an address."""
    with pytest.raises(InvalidCandidate, match="neither an IP address nor a host name"):
        parse_candidate(f"candidate:1 1 udp 1 fe80::1%{zone} 5000 typ host")


def test_related_addresses_are_read() -> None:
    """raddr, rport and tcptype."""
    reflexive, tcp = parse_candidate(REFLEXIVE), parse_candidate(TCP)
    assert reflexive is not None
    assert tcp is not None
    assert (reflexive.related_address, reflexive.related_port) == ("192.168.1.2", 61000)
    assert tcp.tcp_type == "active"


@pytest.mark.parametrize(
    "init", [None, {}, {"candidate": ""}, {"candidate": "", "sdpMid": "0"}, {"candidate": "candidate:"}]
)
def test_an_empty_candidate_is_the_end(init: Any) -> None:
    """All the ways in which browsers say that no more candidates will come."""
    assert parse_request(body(type="ice-candidate", webrtc_id="abc", candidate=init)) == CandidateRequest("abc", None)


def test_the_end_survives_the_wire() -> None:
    """end-of-candidates, written and read."""
    request = CandidateRequest("abc", None)
    assert parse_request(json.dumps(request.to_json()).encode()) == request


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"[]", 400, "expected an object"),
        (b" " * (MAX_BODY + 1), 413, "131072"),
        (body(), 422, '"type" is null'),
        (body(type="answer"), 422, 'expected "offer", "ice-candidate" or "stop"'),
        (body(type="offer", webrtc_id="a"), 422, '"sdp" is null'),
        (body(type="offer", webrtc_id="a", sdp=" "), 422, '"sdp"'),
        (body(type="offer", webrtc_id="a", sdp="\ud800"), 422, "surrogate"),
        (body(type="offer", webrtc_id="a", sdp="x" * (MAX_SDP + 1)), 413, "65536"),
        (body(type="offer", sdp="v=0"), 422, '"webrtc_id" is null'),
        (body(type="offer", sdp="v=0", webrtc_id=""), 422, '"webrtc_id"'),
        (body(type="offer", sdp="v=0", webrtc_id="a/b"), 422, '"a/b"'),
        (body(type="offer", sdp="v=0", webrtc_id="x" * 129), 422, "128"),
        (body(type="offer", sdp="v=0", webrtc_id="a\n"), 422, '"webrtc_id"'),
        (body(type="ice-candidate", webrtc_id="a"), 422, "missing"),
        (body(type="stop", token="t"), 422, '"webrtc_id" is null'),
        (body(type="stop", webrtc_id="a"), 422, '"token" must be the text'),
        (body(type="stop", webrtc_id="a", token=["t"]), 422, '"token" must be the text'),
        (body(type="ice-candidate", webrtc_id="a", candidate=CHROME), 422, "expected an object"),
        (trickle(candidate=3), 422, '"candidate.candidate" is 3'),
        (trickle(candidate=CHROME, sdpMid=0), 422, "sdpMid"),
        (trickle(candidate=CHROME, sdpMid=None), 422, "neither"),
        (trickle(candidate=CHROME, sdpMLineIndex=True), 422, "sdpMLineIndex"),
        (trickle(candidate=CHROME, sdpMLineIndex="0"), 422, "write 0, without quotation marks"),
        (trickle(candidate=CHROME, sdpMLineIndex=0.5), 422, "sdpMLineIndex"),
        (trickle(candidate=CHROME, sdpMLineIndex=-1), 422, "sdpMLineIndex"),
        (trickle(candidate=CHROME, usernameFragment="x"), 422, "usernameFragment"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, status: int, words: str) -> None:
    """Each error has a status and says what was got and what was expected."""
    with pytest.raises(InvalidOffer) as caught:
        parse_request(data)
    assert caught.value.status == status
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hello", "expected"),
        (CHROME.replace("typ", "type"), "expected"),
        (CHROME.replace("2393089663", "*"), "foundation"),
        (CHROME.replace(" 1 udp", " 257 udp"), "component"),
        (CHROME.replace(" 1 udp", " \u0661 udp"), "component"),
        (CHROME.replace("udp", "u/dp"), "words"),
        (CHROME.replace("2122260223", "0"), "priority"),
        (CHROME.replace("2122260223", "9" * 5000), "characters"),
        (CHROME.replace("2122260223", "9" * 20), "priority"),
        (CHROME.replace("192.168.86.60", "a..b"), "neither an IP address"),
        (CHROME.replace("63692", "65536"), "port"),
        (CHROME.replace("host", "h/st"), "words"),
        (CHROME + " odd", "no value"),
        (CHROME.replace("LkZb", "x"), "ufrag"),
        (REFLEXIVE.replace("raddr 192.168.1.2", "raddr !"), "neither an IP address"),
        (REFLEXIVE.replace("rport 61000", "rport x"), "rport"),
        (TCP.replace("active", "lazy"), "tcptype"),
        ("x" * (MAX_CANDIDATE + 1), str(MAX_CANDIDATE)),
    ],
)
def test_what_is_wrong_with_a_candidate_is_named(line: str, words: str) -> None:
    """FastRTC's code for it is kept: invalid_candidate_format."""
    with pytest.raises(InvalidCandidate) as caught:
        parse_candidate(line)
    assert words in str(caught.value)
    assert error_body(caught.value)["meta"]["error"] == "invalid_candidate_format"


def test_errors_have_fastrtcs_form() -> None:
    """Its pages read status, meta.error and meta.limit."""
    assert error_body(TooManyConnections(3)) == {
        "status": "failed",
        "meta": {
            "error": "concurrency_limit_reached",
            "limit": 3,
            "message": "all 3 connections are in use; try again later",
        },
    }
    assert error_body(ConnectionExists("x"))["meta"]["error"] == "connection_already_exists"
    assert error_body(UnknownConnection("x"))["meta"]["error"] == "unknown_connection"


@given(st.text(min_size=1).filter(str.strip))
def test_an_answer_survives_the_wire(sdp: str) -> None:
    """parse(write(a)) == a."""
    assert parse_answer(json.dumps(Answer(sdp).to_json()).encode()) == Answer(sdp)


@pytest.mark.parametrize(
    "error",
    [TooManyConnections(3), ConnectionExists("there is one"), UnknownConnection("who?"), NotAuthorized("no")],
)
@pytest.mark.parametrize("status", [200, None])
def test_a_refusal_is_raised_at_the_client(error: NegotiationError, status: int | None) -> None:
    """The same words, code and status as on the server; with FastRTC's HTTP 200 as far as the code tells."""
    data = json.dumps(error_body(error)).encode()
    with pytest.raises(NegotiationError) as caught:
        parse_answer(data, status or error.status)
    assert str(caught.value) == str(error)
    assert caught.value.code == error.code
    if status is None:
        assert caught.value.status == error.status
    if not isinstance(error, NotAuthorized):
        assert type(caught.value) is type(error)


@pytest.mark.parametrize("meta", [None, {}, {"error": 3}, {"error": TooManyConnections.code, "limit": "many"}])
def test_a_strange_refusal_is_a_refusal(meta: Any) -> None:
    """Whatever is in it."""
    with pytest.raises(NegotiationError, match="refused"):
        parse_answer(body(status="failed", meta=meta))


@pytest.mark.parametrize(("data", "status"), [(b"<html>Not Found</html>", 404), (b'{"detail": "no"}', 422)])
def test_an_http_error_is_a_refusal(data: bytes, status: int) -> None:
    """The status and the beginning of the body are told."""
    with pytest.raises(NegotiationError, match=f"HTTP {status}") as caught:
        parse_answer(data, status)
    assert caught.value.status == status


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"{}", b'{"sdp": "v=0"}', b'{"sdp": " ", "type": "answer"}'])
def test_a_reply_that_makes_no_sense_is_the_peers_error(data: bytes) -> None:
    """It is neither an answer nor a refusal."""
    with pytest.raises(RemoteProtocolError):
        parse_answer(data)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(["sdp", "type", "status", "meta"]), json_values).map(lambda d: body(**d))
)
def test_any_reply_is_an_answer_a_refusal_or_the_peers_error(data: bytes) -> None:
    """Nothing else comes out of reading a reply."""
    with suppress(NegotiationError, RemoteProtocolError):
        parse_answer(data)
