"""What an offer offers: enough of SDP (RFC 8866) and JSEP (RFC 8829) to admit or refuse before anything is made.

A reader of facts and not a negotiator: the engine reads the offer again, with aiortc's parser, to answer it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ..exceptions import InvalidOffer
from .signalling import MAX_SDP, IceCandidate, parse_candidate

MAX_SECTIONS: Final = 16
"""The most media sections of one offer. A call has three: audio, video, data."""

_LINE = re.compile(r"[a-z]=.*")
_MEDIA = re.compile(r"([a-z]+) ([0-9]{1,5})(?:/[0-9]+)? ([A-Za-z0-9/]+)((?: [^ ]+)+)", re.ASCII)
_RTPMAP = re.compile(r"rtpmap:([0-9]{1,3}) ([^/ ]+)/.*")
_DIRECTIONS = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})
_STATIC_CODECS = {"0": "pcmu", "8": "pcma", "9": "g722"}  # RFC 3551 section 6


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One ``m=`` section of an offer.

    Attributes:
        kind: ``"audio"``, ``"video"``, ``"application"``, or another word.
        mid: Its name, or None.
        protocol: Such as ``"UDP/TLS/RTP/SAVPF"``.
        direction: What the peer would do: ``"sendrecv"``, ``"sendonly"``, ``"recvonly"`` or ``"inactive"``.
        codecs: Names of its codecs, in lower case.
        rejected: Port 0, and not only because it is bundled: it is there for its place alone.
    """

    kind: str
    mid: str | None
    protocol: str
    direction: str
    codecs: frozenset[str]
    rejected: bool

    @property
    def peer_sends(self) -> bool:
        """Whether the peer would send here."""
        return not self.rejected and self.direction in {"sendrecv", "sendonly"}

    @property
    def peer_receives(self) -> bool:
        """Whether the peer would receive here."""
        return not self.rejected and self.direction in {"sendrecv", "recvonly"}


@dataclass(frozen=True, slots=True)
class OfferSummary:
    """The facts of one offer; "receive" and "send" are ours.

    Attributes:
        sections: Its media sections, in order.
    """

    sections: tuple[MediaSection, ...]

    def _of(self, kind: str) -> list[MediaSection]:
        return [section for section in self.sections if section.kind == kind]

    @property
    def receive_audio(self) -> bool:
        """The peer may send us audio."""
        return any(section.peer_sends for section in self._of("audio"))

    @property
    def send_audio(self) -> bool:
        """The peer wants our audio."""
        return any(section.peer_receives for section in self._of("audio"))

    @property
    def receive_video(self) -> bool:
        """The peer may send us video."""
        return any(section.peer_sends for section in self._of("video"))

    @property
    def send_video(self) -> bool:
        """The peer wants our video."""
        return any(section.peer_receives for section in self._of("video"))

    @property
    def messages(self) -> bool:
        """The peer offers data channels (RFC 8841)."""
        return any(not section.rejected and "SCTP" in section.protocol for section in self._of("application"))

    def codecs(self, kind: str) -> frozenset[str]:
        """Names, in lower case, of all codecs offered for audio or video that was not rejected."""
        return frozenset().union(*(section.codecs for section in self._of(kind) if not section.rejected))


@dataclass
class _Section:
    kind: str
    protocol: str
    port: int
    formats: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)
    direction: str | None = None

    def summary(self, default_direction: str) -> MediaSection:
        codecs = {self.codecs.get(number) or _STATIC_CODECS.get(number) for number in self.formats}
        return MediaSection(
            kind=self.kind,
            mid=self.attributes.get("mid"),
            protocol=self.protocol,
            direction=self.direction or default_direction,
            codecs=frozenset(name for name in codecs if name),
            rejected=self.port == 0 and "bundle-only" not in self.attributes,
        )


def summarise_offer(sdp: str, *, max_sections: int = MAX_SECTIONS) -> OfferSummary:
    """Read the facts of an offer that can be read at all.

    Args:
        sdp: Any text.
        max_sections: The most media sections.

    Raises:
        InvalidOffer: It is no SDP, has no media section or more than `max_sections`, or is no WebRTC offer: nowhere
            are there ICE credentials (RFC 8839 section 5.4) and a certificate's fingerprint (RFC 8122).
    """
    if len(sdp) > MAX_SDP:
        raise InvalidOffer(f"the offer has {len(sdp)} characters; at most {MAX_SDP} are read", status=413)
    lines = [line for line in sdp.replace("\r\n", "\n").split("\n") if line]
    if not lines or lines[0].strip() != "v=0":
        raise InvalidOffer('the offer is no SDP: it must begin with "v=0" (RFC 8866 section 5.1)', status=422)
    session, sections = _Section("", "", 9, []), list[_Section]()
    for line in lines:
        if not _LINE.fullmatch(line):
            raise InvalidOffer(f'the offer is no SDP: a line must be "<letter>=<text>", not {line[:60]!r}', status=422)
        if line.startswith("m="):
            sections.append(_media_line(line))
            if len(sections) > max_sections:
                raise InvalidOffer(f"the offer has more than {max_sections} media sections", status=422)
        elif line.startswith("a="):
            _attribute(sections[-1] if sections else session, line[2:].strip())
    if not sections:
        raise InvalidOffer('the offer has no media section ("m=" line)', status=422)
    for name, source in (
        ("ice-ufrag", "RFC 8839 section 5.4"),
        ("ice-pwd", "RFC 8839 section 5.4"),
        ("fingerprint", "RFC 8122 section 5"),
    ):
        if not any(part.attributes.get(name) for part in (session, *sections)):
            raise InvalidOffer(f'the offer is no WebRTC offer: it has no "a={name}" line ({source})', status=422)
    default = session.direction or "sendrecv"
    return OfferSummary(tuple(section.summary(default) for section in sections))


def _media_line(line: str) -> _Section:
    found = _MEDIA.fullmatch(line[2:].strip())
    if found is None or int(found[2]) > 65_535:
        raise InvalidOffer(f"the offer has a broken media line, {line[:60]!r} (RFC 8866 section 5.14)", status=422)
    return _Section(kind=found[1], port=int(found[2]), protocol=found[3], formats=found[4].split())


def _attribute(section: _Section, text: str) -> None:
    if text in _DIRECTIONS:
        section.direction = text
    elif found := _RTPMAP.fullmatch(text):
        section.codecs[found[1]] = found[2].lower()
    else:
        name, _, value = text.partition(":")
        section.attributes.setdefault(name, value)


def read_candidates(sdp: str) -> list[IceCandidate]:
    """The candidates in an offer or answer, each address once; what is no candidate is passed over."""
    found: dict[tuple[str, int], IceCandidate] = {}
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            with suppress(InvalidOffer):
                candidate = parse_candidate(line.removeprefix("a="))
                if candidate is not None:
                    found.setdefault((candidate.ip, candidate.port), candidate)
    return list(found.values())
