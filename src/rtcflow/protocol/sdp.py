"""Reads the facts of an offer: enough of SDP (RFC 8866) and JSEP (RFC 8829) to admit or refuse it early.

`summarise_offer` reads facts and negotiates nothing: the engine reads the offer again, with aiortc's parser, to answer
it. That parser gives up at the first line that it cannot read, needed or not. `tidy` therefore takes such lines out
first, and writes the others as the parser expects them. So a broken line that nobody needs does not end a call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
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
        rejected: Port 0, and not because it is bundled. Such a section only keeps its place.
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
        """Whether the peer may send us audio."""
        return any(section.peer_sends for section in self._of("audio"))

    @property
    def send_audio(self) -> bool:
        """Whether the peer wants our audio."""
        return any(section.peer_receives for section in self._of("audio"))

    @property
    def receive_video(self) -> bool:
        """Whether the peer may send us video."""
        return any(section.peer_sends for section in self._of("video"))

    @property
    def send_video(self) -> bool:
        """Whether the peer wants our video."""
        return any(section.peer_receives for section in self._of("video"))

    @property
    def messages(self) -> bool:
        """Whether the peer offers data channels (RFC 8841)."""
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
    """Read the facts of an offer.

    Args:
        sdp: Any text.
        max_sections: The most media sections.

    Raises:
        InvalidOffer: The text is not SDP, or has no media section or more than `max_sections`. Or it is not a WebRTC
            offer, because ICE credentials (RFC 8839 section 5.4) or a certificate's fingerprint (RFC 8122) are missing.
    """
    if len(sdp) > MAX_SDP:
        raise InvalidOffer(f"the offer has {len(sdp)} characters; at most {MAX_SDP} are read", status=413)
    lines = [line for line in sdp.replace("\r\n", "\n").split("\n") if line]
    if not lines or lines[0].strip() != "v=0":
        raise InvalidOffer('the offer is not SDP: it must begin with "v=0" (RFC 8866 section 5.1)', status=422)
    session, sections = _Section("", "", 9, []), list[_Section]()
    for line in lines:
        if not _LINE.fullmatch(line):
            raise InvalidOffer(f'the offer is not SDP: a line must be "<letter>=<text>", not {line[:60]!r}', status=422)
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
            raise InvalidOffer(f'the offer is not a WebRTC offer: it has no "a={name}" line ({source})', status=422)
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
    """The candidates in an offer or answer, each address once. Lines that cannot be read are ignored."""
    found: dict[tuple[str, int], IceCandidate] = {}
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            with suppress(InvalidOffer):
                candidate = parse_candidate(line.removeprefix("a="))
                if candidate is not None:
                    found.setdefault((candidate.ip, candidate.port), candidate)
    return list(found.values())


# -- tidying


_INT_PARAMETERS: Final = frozenset(
    {"apt", "max-fr", "max-fs", "maxplaybackrate", "minptime", "stereo", "useinbandfec", "packetization-mode"}
)
_WANTED: Final = {
    "extmap": re.compile(r"([0-9]{1,5}(?:/[a-z]+)? [^ ]+)(?: .*)?", re.ASCII),
    "fingerprint": re.compile(r"([^ ]+ [^ ]+)"),
    "fmtp": re.compile(r"([0-9]{1,3} .+)", re.ASCII),
    "group": re.compile(r"([^ ]+(?: .*)?)"),
    "ice-options": re.compile(r"(.*)"),
    "ice-pwd": re.compile(r"([^ ]+)"),
    "ice-ufrag": re.compile(r"([^ ]+)"),
    "max-message-size": re.compile(r"([0-9]{1,10})", re.ASCII),
    "mid": re.compile(r"([^ ]+)"),
    "msid": re.compile(r"(.+)"),
    "msid-semantic": re.compile(r" ?([^ ]+(?: .*)?)"),
    "rtcp": re.compile(r"([0-9]{1,5}(?: IN IP[46] [^ ]+)?)", re.ASCII),
    "rtcp-fb": re.compile(r"((?:\*|[0-9]{1,3}) [^ ].*)", re.ASCII),
    "rtpmap": re.compile(r"([0-9]{1,3} [^/ ]+/[0-9]{1,6}(?:/[0-9]{1,2})?)", re.ASCII),
    "sctp-port": re.compile(r"([0-9]{1,5})", re.ASCII),
    "sctpmap": re.compile(r"([0-9]{1,5} .+)", re.ASCII),
    "setup": re.compile(r"(actpass|active|passive)"),
    "ssrc": re.compile(r"([0-9]{1,10} [^: ]+:.*)", re.ASCII),
    "ssrc-group": re.compile(r"([^ ]+(?: [0-9]{1,10})+)", re.ASCII),
}
"""Attributes that the engine's parser reads, and the form in which it can read them. The group is kept."""
_CONNECTION: Final = re.compile(r"c=IN IP[46] [^ ]+", re.ASCII)
_STATIC_RTPMAPS: Final = {"0": "PCMU/8000", "8": "PCMA/8000", "9": "G722/8000"}  # RFC 3551 section 6
_RESERVED: Final = range(72, 77)
"""Payload types that would be taken for RTCP (RFC 5761 section 4)."""


def tidy(sdp: str) -> str:
    """The same description without lines that cannot be read, and with blanks where the grammar has them.

    If a needed line is taken out, the later error names it: a broken ``a=setup`` line counts as a missing one.
    Candidates that cannot be used (TCP, host names other than mDNS) are taken out, too (RFC 8839 section 5.1). The
    addresses of the others are written in their canonical spelling. ``a=end-of-candidates`` is taken out, because the
    peer's own checks may still show a way to it (RFC 8863 section 3).

    Args:
        sdp: An offer or answer.
    """
    session, *sections = _split(sdp)
    lines = [kept for line in session if (kept := _tidy_line(line)) is not None]
    for section in sections:
        lines += _tidy_section(section)
    return "".join(f"{line}\r\n" for line in lines)


def _split(sdp: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in sdp.splitlines():
        text = line.strip()
        if text.startswith("m="):
            parts.append([])
        if text:
            parts[-1].append(text)
    return parts


def _tidy_line(line: str) -> str | None:
    if line.startswith("c="):
        return line if _CONNECTION.fullmatch(line) else None
    if not line.startswith("a="):
        return line
    name, _, value = line[2:].partition(":")
    if name == "end-of-candidates":
        return None
    if name == "candidate":
        return _tidy_candidate(line)
    if (form := _WANTED.get(name)) is None:
        return line
    found = form.fullmatch(value.strip())
    return None if found is None else f"a={name}:{found[1]}"


def _tidy_candidate(line: str) -> str | None:
    try:
        candidate = parse_candidate(line)
    except InvalidOffer:
        return None
    if candidate is None or not candidate.usable:
        return None
    head, name, value = line.partition("candidate:")
    words = value.split()
    return line if words[4] == candidate.ip else head + name + " ".join([*words[:4], candidate.ip, *words[5:]])


def _tidy_section(section: list[str]) -> list[str]:
    head, *rest = section
    lines = [kept for line in rest if (kept := _tidy_line(line)) is not None]
    words = head.split()
    if len(words) > 3 and words[0] in {"m=audio", "m=video"}:
        formats = [word for word in words[3:] if word.isdecimal() and int(word) < 128 and int(word) not in _RESERVED]
        named = {line[9:].split(" ")[0] for line in lines if line.startswith("a=rtpmap:")}
        lines += [f"a=rtpmap:{one} {_STATIC_RTPMAPS[one]}" for one in formats if one in _STATIC_RTPMAPS.keys() - named]
        known = named | (_STATIC_RTPMAPS.keys() & set(formats))
        lines = [tidied for line in lines if (tidied := _tidy_parameters(line, known)) is not None]
        words[3:] = formats or words[3:]
    if len(words) > 1:
        words[1] = words[1].partition("/")[0]
    return [" ".join(words), *lines]


def _tidy_parameters(line: str, known: set[str]) -> str | None:
    """Format parameters (RFC 8866 section 6.15) without blanks between them; None if their format is unknown."""
    if not line.startswith("a=fmtp:"):
        return line
    number, _, text = line[7:].partition(" ")
    if number not in known:
        return None
    parameters = []
    for part in text.split(";"):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name and not (name in _INT_PARAMETERS and not value.isdecimal()):
            parameters.append(f"{name}{equals}{value}")
    return f"a=fmtp:{number} {';'.join(parameters)}" if parameters else None


# -- H.264


_PROFILES: Final = {
    0x42: "Baseline",
    0x4D: "Main",
    0x58: "Extended",
    0x64: "High",
    0x6E: "High 10",
    0x7A: "High 4:2:2",
    0xF4: "High 4:4:4 Predictive",
}


def describe_h264(profile_level_id: str | None, packetization_mode: str | None) -> str:
    """Describe an offer's H.264 in words (RFC 6184 section 8.1).

    >>> describe_h264("640028", "1")
    'High profile (profile-level-id=640028), packetization-mode=1'
    """
    mode = f"packetization-mode={packetization_mode or 0}"
    if profile_level_id is None:
        return mode
    try:
        number = int(profile_level_id[:2], 16)
    except ValueError:
        return f"profile-level-id={profile_level_id[:20]}, {mode}"
    name = _PROFILES.get(number, "unknown")
    return f"{name} profile (profile-level-id={profile_level_id[:20]}), {mode}"


_RTPMAP_LINE = re.compile(r"a=rtpmap:(\d+) ([^/ \r\n]+)/")
_APT = re.compile(r"a=fmtp:(\d+) (?:.*;)?\s*apt=(\d+)")


def order_codecs(sdp: str, preferred: Sequence[str] = ()) -> str:
    """Return the description with its ``a=rtpmap`` lines in order of preference.

    The order of the numbers in the ``m=`` line is the peer's preference, and an answer should keep to it (RFC 3264
    section 6.1). aiortc reads the order of the ``a=rtpmap`` lines instead.

    Args:
        sdp: An offer or answer.
        preferred: Names of codecs that come first, whatever the peer prefers. A retransmission codec (``rtx``) stays
            with the codec that it serves.
    """
    lines = sdp.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if line.startswith("m=")]
    ranks = {name.lower(): rank for rank, name in enumerate(preferred)}
    for start, end in pairwise([*starts, len(lines)]):
        numbers = {number: at for at, number in enumerate(lines[start].split()[3:])}
        served = {found[1]: found[2] for line in lines[start:end] if (found := _APT.match(line))}
        places = [at for at in range(start, end) if _RTPMAP_LINE.match(lines[at])]
        names = {found[1]: found[2].lower() for at in places if (found := _RTPMAP_LINE.match(lines[at]))}

        def rank(
            line: str,
            numbers: dict[str, int] = numbers,
            served: dict[str, str] = served,
            names: dict[str, str] = names,
        ) -> tuple[int, int, bool]:
            found = _RTPMAP_LINE.match(line)
            number = found[1] if found else ""
            base = served.get(number, number)
            return ranks.get(names.get(base, ""), len(ranks)), numbers.get(base, len(numbers)), base != number

        for at, line in zip(places, sorted((lines[at] for at in places), key=rank), strict=True):
            lines[at] = line
    return "".join(lines)
