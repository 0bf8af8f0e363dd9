"""What an offer offers."""

from __future__ import annotations

import pytest
from chromium_offer import CHROMIUM
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.exceptions import InvalidOffer
from rtcflow.protocol.sdp import MAX_SECTIONS, order_codecs, summarise_offer, tidy

SESSION = "v=0\r\no=- 46117317 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n"
ICE = (
    "a=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlJQ\r\na=fingerprint:sha-256 19:E2:1C:3B\r\na=setup:actpass\r\n"
)
AUDIO = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0 8 126\r\nc=IN IP4 0.0.0.0\r\n"
    + ICE
    + "a=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n"
    "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\n"
    "a=rtpmap:126 telephone-event/8000\r\na=rtpmap:9 unlisted/8000\r\n"
)
VIDEO = (
    "m=video 9 UDP/TLS/RTP/SAVPF 96 102\r\nc=IN IP4 0.0.0.0\r\n" + ICE + "a=mid:1\r\na=recvonly\r\n"
    "a=rtpmap:96 VP8/90000\r\na=rtpmap:102 H264/90000\r\na=rtcp-fb:96 nack pli\r\n"
)
DATA = (
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n" + ICE + "a=mid:2\r\na=sctp-port:5000\r\n"
)
OFFER = SESSION + AUDIO + VIDEO + DATA


def test_a_browsers_offer_is_read() -> None:
    """Kinds, directions, codecs, names and whether there is a channel for messages."""
    offer = summarise_offer(OFFER)
    assert [(section.kind, section.mid, section.direction) for section in offer.sections] == [
        ("audio", "0", "sendrecv"),
        ("video", "1", "recvonly"),
        ("application", "2", "sendrecv"),
    ]
    assert offer.codecs("audio") == {"opus", "red", "pcmu", "pcma", "telephone-event"}
    assert offer.codecs("video") == {"vp8", "h264"}
    assert (offer.receive_audio, offer.send_audio) == (True, True)
    assert (offer.receive_video, offer.send_video) == (False, True)
    assert offer.messages


def test_what_is_not_offered_is_not_there() -> None:
    """An audio-only offer has neither video nor messages."""
    offer = summarise_offer(SESSION + AUDIO)
    assert not any([offer.receive_video, offer.send_video, offer.messages, offer.codecs("video")])


@pytest.mark.parametrize(
    ("direction", "receives", "sends"),
    [("sendrecv", True, True), ("sendonly", True, False), ("recvonly", False, True), ("inactive", False, False)],
)
def test_directions_are_seen_from_our_side(direction: str, receives: bool, sends: bool) -> None:
    """A peer that only sends is one that we only receive from; the session's direction is the default."""
    for sdp in (
        OFFER.replace("a=sendrecv", f"a={direction}"),
        OFFER.replace("a=sendrecv\r\n", "").replace("t=0 0\r\n", f"t=0 0\r\na={direction}\r\n"),
    ):
        offer = summarise_offer(sdp)
        assert (offer.receive_audio, offer.send_audio) == (receives, sends)


def test_a_rejected_section_offers_nothing() -> None:
    """Port 0 means no, unless the section is only bundled (RFC 9143 section 7.2)."""
    rejected = summarise_offer(OFFER.replace("m=audio 9", "m=audio 0").replace("m=application 9", "m=application 0"))
    assert not any([rejected.receive_audio, rejected.send_audio, rejected.messages, rejected.codecs("audio")])
    bundled = summarise_offer(OFFER.replace("m=audio 9", "m=audio 0").replace("a=mid:0", "a=mid:0\r\na=bundle-only"))
    assert bundled.receive_audio


def test_line_ends_may_be_bare() -> None:
    """Hand-written offers often end lines with LF alone, or lack the last one."""
    assert summarise_offer(OFFER.replace("\r\n", "\n").rstrip()) == summarise_offer(OFFER)


def test_credentials_may_stand_at_the_session() -> None:
    """For all sections at once."""
    bare = OFFER.replace(ICE, "")
    assert summarise_offer(bare.replace("t=0 0\r\n", "t=0 0\r\n" + ICE)) == summarise_offer(OFFER)


@pytest.mark.parametrize(
    ("sdp", "words"),
    [
        ("", 'must begin with "v=0"'),
        ("hello", 'must begin with "v=0"'),
        ("v=1\r\n", 'must begin with "v=0"'),
        ("v=0\r\nhello\r\n", "hello"),
        (SESSION, "no media section"),
        (SESSION + "m=audio\r\n", "broken media line"),
        (SESSION + "m=audio 65536 RTP/AVP 0\r\n", "broken media line"),
        (SESSION + AUDIO * (MAX_SECTIONS + 1), "more than 16"),
        (OFFER.replace("a=ice-ufrag:4ZcD\r\n", ""), "a=ice-ufrag"),
        (OFFER.replace("a=ice-pwd", "a=ice-pw"), "a=ice-pwd"),
        (OFFER.replace("a=fingerprint", "a=finger"), "a=fingerprint"),
        ("v=0\r\n" + "a=x\r\n" * 20_000, "at most"),
    ],
)
def test_what_is_no_offer_is_told_why(sdp: str, words: str) -> None:
    """The error names the line or what is missing."""
    with pytest.raises(InvalidOffer) as caught:
        summarise_offer(sdp)
    assert words in str(caught.value)
    assert caught.value.status in {413, 422}


@given(
    st.text()
    | st.lists(st.sampled_from(OFFER.splitlines()) | st.text(max_size=20), max_size=40).map(
        lambda lines: "v=0\n" + "\n".join(lines)
    )
)
def test_any_text_has_facts_or_is_an_invalid_offer(sdp: str) -> None:
    """Nothing else comes out."""
    try:
        offer = summarise_offer(sdp)
    except InvalidOffer:
        return
    assert 1 <= len(offer.sections) <= MAX_SECTIONS


def test_a_browsers_offer_is_tidy_already() -> None:
    """Nothing is taken out of a real offer but what cannot be used, and tidying twice is tidying once."""
    tidied = tidy(CHROMIUM)
    wanted = CHROMIUM.replace("a=msid-semantic: WMS", "a=msid-semantic:WMS")
    assert tidied.splitlines() == wanted.splitlines()
    assert tidy(tidied) == tidied


JUNK = ["a=ssrc:5", "a=rtpmap:77 foo", "m=audio", "m=audio 9 X 300", "c=", "a=", "=", ""]


@given(st.lists(st.sampled_from([*CHROMIUM.splitlines(), *JUNK])))
def test_tidying_never_fails(lines: list[str]) -> None:
    """Whatever lines there are, in whatever order; what it keeps it keeps the second time."""
    once = tidy("\n".join(lines))
    assert tidy(once) == once


def test_static_payload_types_are_named() -> None:
    """PCMU needs no a=rtpmap line (RFC 3551 section 6); types that would be taken for RTCP are taken out."""
    tidied = tidy("v=0\nm=audio 9/2 UDP/TLS/RTP/SAVPF 0 72 x 300\n")
    assert tidied == "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=rtpmap:0 PCMU/8000\r\n"


CODECS = (
    "m=video 9 UDP/TLS/RTP/SAVPF 102 103 96 97\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n"
    "a=fmtp:97 apt=96\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1\r\na=rtpmap:103 rtx/90000\r\n"
    "a=fmtp:103 apt=102\r\n"
)


def order_of(sdp: str) -> list[str]:
    return [line.split(":")[1].split(" ")[0] for line in sdp.splitlines() if line.startswith("a=rtpmap")]


def test_codecs_come_in_the_order_of_the_media_line() -> None:
    """That is the peer's preference (RFC 3264 section 6.1); sections do not mix, and nothing else moves."""
    ordered = order_codecs(SESSION + CODECS + DATA)
    assert order_of(ordered) == ["102", "103", "96", "97"]
    assert sorted(ordered.splitlines()) == sorted((SESSION + CODECS + DATA).splitlines())
    assert [line for line in ordered.splitlines() if "rtpmap" not in line] == [
        line for line in (SESSION + CODECS + DATA).splitlines() if "rtpmap" not in line
    ]
    assert order_codecs(ordered) == ordered


def test_a_preferred_codec_comes_first_with_its_retransmissions() -> None:
    """Whatever the peer prefers; names that are not offered change nothing."""
    assert order_of(order_codecs(SESSION + CODECS, ["VP8"])) == ["96", "97", "102", "103"]
    assert order_of(order_codecs(SESSION + CODECS, ["AV1", "H264", "VP8"])) == ["102", "103", "96", "97"]


@given(st.text(alphabet="am=rtp:0123456789 \r\nfx/", max_size=200))
def test_any_text_can_be_ordered(text: str) -> None:
    """Text that is not SDP comes back with the same lines."""
    assert sorted(order_codecs(text).splitlines()) == sorted(text.splitlines())
