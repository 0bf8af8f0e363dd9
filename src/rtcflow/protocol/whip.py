"""WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep): what their requests say, and the headers of what they get.

WHIP sends media to a server, WHEP fetches media from one. Both post an offer, and get an answer and a session's URL. To
that URL the client sends its candidates (PATCH, RFC 8840's fragments of SDP) and its goodbye (DELETE).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from ..exceptions import InvalidOffer, NegotiationError, UnsupportedMedia
from .sdp import MediaSection, summarise_offer
from .signalling import MAX_SDP, IceCandidate, parse_candidate

SDP_TYPE: Final = "application/sdp"
FRAGMENT_TYPE: Final = "application/trickle-ice-sdpfrag"
"""RFC 8840 section 9."""
PROBLEM_TYPE: Final = "application/problem+json"
"""RFC 9457 section 3; RFC 9725 section 4.1 allows it."""

MAX_BODY: Final = MAX_SDP
"""Bytes of one request: an SDP of the largest size; fragments are smaller."""


class Direction(enum.Enum):
    """Which way media flows, seen from the client."""

    WHIP = "whip"
    """It sends."""
    WHEP = "whep"
    """It receives."""


@dataclass(frozen=True, slots=True)
class WhipOffer:
    """An offer that fits the endpoint.

    Attributes:
        sdp: The offer, otherwise unread.
        ufrag: Of its ICE session: which candidates belong to it, and which request wants a restart.
    """

    sdp: str
    ufrag: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """The body of a PATCH.

    Attributes:
        ufrag: The user name of the ICE session that the candidates belong to. None if the body has none.
        candidates: In their order; also those of unknown protocols and kinds (`IceCandidate.usable`).
        ended: There will be no more.
        pwd: The password of that ICE session. None if the body has none.
    """

    ufrag: str | None
    candidates: tuple[IceCandidate, ...]
    ended: bool
    pwd: str | None = None


# -- what is posted


def read_offer(body: bytes, direction: Direction, *, audio: bool = True, video: bool = True) -> WhipOffer:
    """Read the body of a POST.

    An endpoint takes an offer as a whole or not at all (RFC 9725 section 4.4). An offer with a section that cannot be
    served is refused, so that the client knows.

    Args:
        body: Any bytes.
        direction: Which endpoint it was posted to.
        audio: Whether audio is served there.
        video: Whether video is.

    Raises:
        InvalidOffer: The body is not a WebRTC offer.
        UnsupportedMedia: It is one, but not for this endpoint; the message says what to change.
    """
    sdp = _decode(body)
    sections = summarise_offer(sdp).sections
    media = [section for section in sections if section.kind in {"audio", "video"} and not section.rejected]
    if not media:
        raise UnsupportedMedia("the offer has neither audio nor video")
    for kind, served in (("audio", audio), ("video", video)):
        count = sum(section.kind == kind for section in media)
        if count > 1:
            raise UnsupportedMedia(f"the offer has {count} {kind} sections; one is served (RFC 9725 section 4.4.2)")
        if count and not served:
            raise UnsupportedMedia(f"{kind} is not served here; offer none")
    for section in media:
        if not _flows(section, direction):
            expected = "sendonly" if direction is Direction.WHIP else "recvonly"
            raise UnsupportedMedia(
                f"the offer's {section.kind} is {section.direction}; {direction.value.upper()} takes {expected} "
                "(or sendrecv)"
            )
    ufrag = re.search(r"^a=ice-ufrag:([^\s]+)[ \t]*\r?$", sdp, re.MULTILINE)
    if ufrag is None:
        raise InvalidOffer(
            'the "a=ice-ufrag" line has blanks before or in its value (RFC 8839 section 5.4)', status=422
        )
    return WhipOffer(sdp, ufrag[1])


def _flows(section: MediaSection, direction: Direction) -> bool:
    return section.peer_sends if direction is Direction.WHIP else section.peer_receives


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidOffer("the body is not UTF-8") from None


# -- what is patched


def read_fragment(body: bytes) -> Fragment:
    """Read the body of a PATCH (RFC 8840 section 9; RFC 9725 section 4.3.1).

    Unknown lines are skipped. Candidates before the first ``m=`` line belong to the first section, with which all
    others are bundled.

    Raises:
        InvalidOffer: It cannot be read; `InvalidCandidate` if a candidate cannot.
    """
    ufrags: set[str] = set()
    pwds: set[str] = set()
    candidates: list[IceCandidate] = []
    ended = False
    section, mid = -1, None
    for line in _lines(_decode(body)):
        name, _, value = line.partition(":")
        if line.startswith("m="):
            section, mid = section + 1, None
        elif name == "a=mid":
            mid = value
        elif name == "a=ice-ufrag":
            ufrags.add(value)
        elif name == "a=ice-pwd":
            pwds.add(value)
        elif line == "a=end-of-candidates":
            ended = True
        elif name == "a=candidate":
            candidate = parse_candidate(line)
            if candidate is None:
                ended = True
            else:
                index = None if mid is not None else max(section, 0)
                candidates.append(replace(candidate, sdp_mid=mid, sdp_mline_index=index))
    if len(ufrags) > 1 or len(pwds) > 1:
        count = max(len(ufrags), len(pwds))
        raise InvalidOffer(f"the fragment speaks of {count} ICE sessions (a=ice-ufrag, a=ice-pwd); expected one")
    return Fragment(next(iter(ufrags), None), tuple(candidates), ended, next(iter(pwds), None))


def restart_offer(offer: str, fragment: Fragment) -> str:
    """The offer that restarts ICE: the client's last one, with the credentials of `fragment` (RFC 9725 section 4.3.3).

    The old candidates are left out, because they belong to the ICE session that ends.

    Args:
        offer: The last offer that was answered.
        fragment: Its `ufrag` is not that of `offer`.

    Raises:
        InvalidOffer: A restart needs a new user name and a new password, and `fragment` does not have both.
    """
    ufrag, pwd = fragment.ufrag, fragment.pwd
    if ufrag is None or pwd is None or f"a=ice-pwd:{pwd}" in offer.split():
        raise InvalidOffer(
            "an ICE restart needs a new a=ice-ufrag and a new a=ice-pwd (RFC 8445 section 9); the session goes on",
            status=422,
        )
    kept: list[str] = []
    for line in offer.splitlines():
        if line.startswith("a=ice-ufrag:"):
            kept.append(f"a=ice-ufrag:{ufrag}")
        elif line.startswith("a=ice-pwd:"):
            kept.append(f"a=ice-pwd:{pwd}")
        elif not line.startswith(("a=candidate:", "a=end-of-candidates")):
            kept.append(line)
    return "\r\n".join([*kept, ""])


def write_fragment(answer: str) -> str:
    """The fragment of `answer` that tells a client of a new ICE session (RFC 9725 section 4.3.3).

    It has the credentials, and the candidates of the first media section. All others are bundled with that section.

    Args:
        answer: An SDP of this server's.
    """
    session, *sections = re.split(r"^(?=m=)", answer, flags=re.MULTILINE)
    first = sections[0]
    lines = [line for line in session.splitlines() if line.startswith(("a=group:BUNDLE", "a=ice-options:"))]
    lines += [line for line in first.splitlines() if line.startswith(("a=ice-ufrag:", "a=ice-pwd:"))]
    lines.append(first.splitlines()[0])
    kept = ("a=mid:", "a=candidate:", "a=end-of-candidates")
    lines += [line for line in first.splitlines() if line.startswith(kept)]
    return "\r\n".join([*lines, ""])


def _lines(text: str) -> Iterator[str]:
    for line in text.replace("\r\n", "\n").split("\n"):
        if line and not re.match(r"[a-z]=", line):
            raise InvalidOffer(
                f'the body is not a fragment of SDP: a line must be "<letter>=<text>", not {line[:60]!r}'
            )
        if line:
            yield line.rstrip()


def etag_matches(if_match: str, etag: str) -> bool:
    """Whether the `If-Match` header (RFC 9110 section 13.1.1) names `etag`, or any.

    RFC 9725 writes it in quotes, RFC 9110 without; both are known here.
    """
    named = {part.strip() for part in if_match.split(",")}
    return bool(named & {etag, "*", '"*"'})


# -- what is answered


class Links(NamedTuple):
    """ICE servers for a client.

    Attributes:
        headers: Values of `Link` headers, one for each URL.
        left_out: URLs of servers that no such header can carry, as they are to be logged.
    """

    headers: list[str]
    left_out: list[str]


def link_headers(rtc_configuration: Mapping[str, Any]) -> Links:
    """The `Link` headers that name ICE servers (RFC 9725 section 4.6).

    A header holds printable ASCII (RFC 9110 section 5.5). The URL in it has no blanks and no angle brackets (RFC 8288
    section 3). A server whose name or password holds anything else is left out as a whole: without them it would
    refuse.

    Args:
        rtc_configuration: What `read_rtc_configuration` returns.
    """
    links = Links([], [])
    for server in rtc_configuration.get("iceServers", ()):
        urls, parts = server["urls"], ['rel="ice-server"']
        if server.get("username") is not None and server.get("credential") is not None:
            parts += [
                f"username={_quoted(server['username'])}",
                f"credential={_quoted(server['credential'])}",
                'credential-type="password"',
            ]
        for url in [urls] if isinstance(urls, str) else urls:
            link = "; ".join([f"<{url}>", *parts])
            if link.isascii() and link.isprintable() and not re.search(r'[\s<>"]', url):
                links.headers.append(link)
            else:
                links.left_out.append(ascii(url))
    return links


def _quoted(text: str) -> str:
    """A quoted string (RFC 9110 section 5.6.4)."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def problem(error: NegotiationError) -> dict[str, Any]:
    """What a client is told about `error` (RFC 9457): to be sent as `PROBLEM_TYPE`."""
    return {"type": "about:blank", "title": error.code, "status": error.status, "detail": str(error)}
