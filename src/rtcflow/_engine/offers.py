"""Reads and checks the peer's SDP before anything is started for it.

aiortc's parser fails in a dozen ways (ValueError, KeyError, AssertionError, StopIteration, …) and only checks what it
needs at that moment. This module finds first what aiortc would fail on later, and says in words what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiortc import RTCDtlsFingerprint, RTCIceCandidate

from ..exceptions import ConnectionExists, InvalidOffer, UnsupportedMedia
from ..protocol.sdp import MAX_SECTIONS, describe_h264, order_codecs, tidy
from ..protocol.signalling import MAX_SDP, IceCandidate
from .seam.description import MediaDescription, SessionDescription, common_codecs, digests

MAX_CANDIDATES: Final = 100
"""The most candidates of one peer: the limit on connectivity checks of RFC 8445 section 6.1.2.5."""

KNOWN_CODECS: Final = (
    "audio: Opus, G.722, PCMU, PCMA; video: VP8, H.264 (Baseline or Constrained Baseline, packetization-mode=1)"
)

_CANDIDATE = re.compile(r"^a=candidate:[^\r\n]*\.local[^\r\n]*\r?\n?", re.MULTILINE)
_SECTION = re.compile(r"^(?=m=)", re.MULTILINE)
_DIRECTION = re.compile(r"^a=(sendrecv|sendonly|recvonly|inactive)\b", re.MULTILINE)


@dataclass(frozen=True)
class Description:
    """An offer or answer that was checked.

    Attributes:
        sdp: The text for aiortc, without the candidates in `later`.
        media: Its sections.
        later: Candidates with a host name that multicast DNS must resolve, which can take a second. They are added
            while the connection is being made. Browsers send them when the user has not granted the microphone.
        bundled: Names (mids) of the sections that share one transport. The transport is that of the first.
    """

    sdp: str
    media: tuple[MediaDescription, ...]
    later: tuple[RTCIceCandidate, ...]
    bundled: tuple[str, ...] = ()

    @property
    def ice(self) -> tuple[str, str]:
        """User name and password of the ICE session that carries the first section, and what is bundled with it."""
        ice = self.media[0].ice
        return ("", "") if ice is None else (ice.usernameFragment or "", ice.password or "")

    def first(self, kind: str) -> MediaDescription | None:
        """The first section of this kind, or None."""
        return next((media for media in self.media if media.kind == kind), None)


def read(sdp: str, what: str = "offer", preferred: Sequence[str] = ()) -> Description:
    """Read the SDP of an offer or answer.

    Args:
        sdp: The text.
        what: ``"offer"`` or ``"answer"``.
        preferred: Names of codecs to use before the one that the peer prefers.

    Raises:
        InvalidOffer: The text is not SDP, or not WebRTC (RFC 8829): for example, ICE credentials, a fingerprint or RTCP
            multiplexing are missing.
        UnsupportedMedia: A section has an unknown kind.
    """
    if not isinstance(sdp, str):
        raise _invalid(f"the {what} is a {type(sdp).__name__}; expected the SDP as a string")
    if len(sdp) > MAX_SDP:
        raise InvalidOffer(f"the {what} has {len(sdp)} characters; at most {MAX_SDP} are read", status=413)
    if not sdp.lstrip().startswith("v=0"):
        raise _invalid(f'the {what} is not SDP: it must begin with "v=0" (RFC 8866 section 5.1)')
    sdp = order_codecs(tidy(sdp), preferred)
    description = _parse(sdp, what)
    if not description.media:
        raise _invalid(f'the {what} has no media section ("m=" line)')
    if len(description.media) > MAX_SECTIONS:
        raise _invalid(f"the {what} has {len(description.media)} media sections; at most {MAX_SECTIONS} are read")
    for index, media in enumerate(description.media):
        _check(media, f"media section {index} ({media.kind}) of the {what}", what)
    mids = [media.rtp.muxId for media in description.media]
    if len(mids) > 1 and len(set(mids)) < len(mids):
        raise _invalid(f'the media sections of the {what} need different "a=mid" values (RFC 8829 section 5.2.1)')
    if sum(media.kind == "application" for media in description.media) > 1:
        raise _invalid(f"the {what} has several data sections (m=application); one is enough for all channels")
    for group in description.group:
        if group.semantic == "BUNDLE" and (strangers := [str(mid) for mid in group.items if str(mid) not in mids]):
            raise _invalid(f"the {what} bundles {', '.join(strangers)}, which no media section is called (RFC 9143)")
    if sum(len(media.ice_candidates) for media in description.media) > MAX_CANDIDATES:
        raise _invalid(f"the {what} has more than {MAX_CANDIDATES} candidates")
    later = tuple(
        _of_section(candidate, index)
        for index, media in enumerate(description.media)
        for candidate in media.ice_candidates
        if candidate.ip.endswith(".local")
    )
    if later:
        sdp = _CANDIDATE.sub("", sdp)
    if any(media.direction is None and media.kind != "application" for media in description.media):
        sdp = _with_directions(sdp, description.media)
    bundle = next((group.items for group in description.group if group.semantic == "BUNDLE"), [])
    return Description(sdp, tuple(description.media), later, tuple(map(str, bundle)))


class CandidateCount:
    """Counts the candidates of one ICE session: those of all its offers, each once, and those that come one by one.

    With one limit for each offer, further offers could bring in any number, and each candidate makes all later ones
    cost more.
    """

    def __init__(self) -> None:
        self._count = 0
        self._known: set[tuple[str, int]] = set()

    def add_offer(self, description: Description) -> None:
        """Count the candidates that are new.

        Raises:
            InvalidOffer: They are too many; none is counted.
        """
        new = {(one.ip, one.port) for media in description.media for one in media.ice_candidates} - self._known
        self._check(self._count + len(new))
        self._count += len(new)
        self._known |= new

    def add(self, candidate: IceCandidate) -> None:
        """Count one that came by itself.

        Raises:
            InvalidOffer: It is one too many.
        """
        self._check(self._count + 1)
        self._count += 1
        self._known.add((candidate.ip, candidate.port))

    def _check(self, count: int) -> None:
        if count > MAX_CANDIDATES:
            raise InvalidOffer(f"more than {MAX_CANDIDATES} candidates", status=413)


def _parse(sdp: str, what: str) -> SessionDescription:
    try:
        return SessionDescription.parse(sdp)
    except Exception as error:  # a foreign parser on foreign input: it fails in many ways, all of which mean this
        raise _invalid(f"the {what} cannot be read as SDP: {type(error).__name__} {error}".rstrip()) from error


def _with_directions(sdp: str, described: list[MediaDescription]) -> str:
    """The same with a direction in every section: the session's or "sendrecv" by default (RFC 8866 section 6.7)."""
    session, *sections = _SECTION.split(sdp)
    found = _DIRECTION.search(session)
    default = "sendrecv" if found is None else found[1]
    for index, media in enumerate(described):
        if media.direction is None and media.kind != "application":
            media.direction = default
            sections[index] = f"{sections[index].rstrip()}\r\na={default}\r\n"
    return "".join([session, *sections])


def _check(media: MediaDescription, where: str, what: str) -> None:
    if media.kind not in {"audio", "video", "application"}:
        raise UnsupportedMedia(f'{where} is neither "audio" nor "video" nor "application"')
    ice = media.ice
    if ice is None or not ice.usernameFragment or not ice.password:
        raise _invalid(f"{where} has no ICE credentials (a=ice-ufrag, a=ice-pwd; RFC 8839 section 5.4)")
    if not (ice.usernameFragment + ice.password).isascii() or max(len(ice.usernameFragment), len(ice.password)) > 256:
        raise _invalid(f"{where} has invalid ICE credentials (RFC 8839 section 5.4)")
    if media.dtls is None:
        raise _invalid(f'{where} has no "a=setup" line (RFC 8842 section 5.2)')
    if what == "answer" and media.dtls.role == "auto":
        raise _invalid(f'{where} must choose "a=setup:active" or "a=setup:passive" (RFC 8842 section 5.3)')
    if not any(fingerprint.algorithm.lower() in digests() for fingerprint in media.dtls.fingerprints):
        raise _invalid(f'{where} has no "a=fingerprint" with {", ".join(digests())} (RFC 8122)')
    if media.kind == "application":
        if media.profile == "DTLS/SCTP":
            if not (media.fmt and str(media.fmt[0]).isdigit()):
                raise _invalid(f"{where} has no SCTP port")
        elif media.sctp_port is None:
            raise _invalid(f'{where} has no "a=sctp-port" line (RFC 8841 section 5.1)')
    elif not media.rtcp_mux:
        raise _invalid(f'{where} has no "a=rtcp-mux" line, which WebRTC requires (RFC 8829 section 4.1.1)')


def restarts_ice(agreed: Description, further: Description) -> bool:
    """Whether a further offer restarts ICE: other credentials, both of them (RFC 8445 section 9), same certificate.

    Raises:
        ConnectionExists: The offer is not of this peer: another certificate, or only one credential has changed.
    """
    if further.ice == agreed.ice:
        return False
    changed = all(new != old for new, old in zip(further.ice, agreed.ice, strict=True))
    if not changed or _certificate(further.media[0]) != _certificate(agreed.media[0]):
        raise ConnectionExists("this id is in use, and the offer is not of its ICE session")
    return True


def _certificate(media: MediaDescription) -> set[tuple[str, str]]:
    return set() if media.dtls is None else {_key(one) for one in media.dtls.fingerprints}


def check_further(agreed: Description, further: Description) -> None:
    """Check that a further offer of the same peer fits what was agreed on, before any of it is applied.

    aiortc cannot undo an offer that it has applied in part, so everything that it would fail on is found here. Existing
    sections keep their place, kind, name, transport, certificate and codec (RFC 8829 section 5.2.2). Directions may
    change. New sections that share the transport may come at the end.

    Raises:
        InvalidOffer: It does not fit; the text says where.
        UnsupportedMedia: A new section has no codec that is known here.
    """
    for index, old in enumerate(agreed.media):
        if index >= len(further.media):
            raise _unfit(
                f"has {len(further.media)} media sections, and {len(agreed.media)} are agreed on; set those that are "
                "no longer wanted to inactive"
            )
        _check_same(old, further.media[index], f"media section {index} ({old.kind})", further.media[0])
    _check_bundle(agreed, further.bundled)
    for index, new in enumerate(further.media[len(agreed.media) :], len(agreed.media)):
        if _codec(new) is None:
            where = f"media section {index} ({new.kind}) of the further offer"
            raise UnsupportedMedia(f"{without_codec(where, new)}; the call goes on as it is")
        if new.rtp.muxId not in further.bundled:
            # Without a port or a way for it, aiortc would end the whole call.
            raise _unfit(f"gives media section {index} ({new.kind}) a transport of its own; put it into a=group:BUNDLE")


def _check_bundle(agreed: Description, bundled: tuple[str, ...]) -> None:
    """Check that what is agreed on keeps its transport: aiortc cannot move what is live."""
    names = [media.rtp.muxId for media in agreed.media]
    if bundled and bundled[0] not in names:
        raise _unfit(f'bundles by the transport of "{bundled[0]}", which is new; begin with one that is agreed on')
    if agreed.bundled and bundled[:1] != agreed.bundled[:1]:
        raise _unfit(f'no longer bundles by the transport of "{agreed.bundled[0]}"')
    before, now = set(agreed.bundled or bundled[:1]), {name for name in bundled if name in names}
    if now - before:
        raise _unfit(f"bundles {', '.join(sorted(now - before))}, which has a transport of its own")
    if agreed.bundled and before - now:
        raise _unfit(f"no longer bundles {', '.join(sorted(before - now))}")


def _check_same(old: MediaDescription, new: MediaDescription, where: str, first: MediaDescription) -> None:
    """Check that `new` is the section `old` again; `first` is the first section beside it."""
    if new.kind != old.kind:
        raise _unfit(f"has {new.kind} as {where}; add new sections at the end")
    if new.rtp.muxId != old.rtp.muxId:
        raise _unfit(f'names {where} "{new.rtp.muxId}"; its "a=mid" was "{old.rtp.muxId}"')
    if _ufrag(new) not in {_ufrag(old), _ufrag(first)}:
        raise _unfit(f"restarts ICE for {where} alone; restart it for the whole call")
    if old.dtls is not None and new.dtls is not None:
        if {_key(one) for one in new.dtls.fingerprints} != {_key(one) for one in old.dtls.fingerprints}:
            raise _unfit(f"has another certificate (a=fingerprint) for {where}; make a new call")
        if new.dtls.role not in {"auto", "server" if old.dtls.role == "auto" else old.dtls.role}:
            raise _unfit(f"has another DTLS role for {where}; write a=setup:actpass")
    if _codec(new) != _codec(old):
        raise _unfit(f"has other codecs for {where}; they are agreed on")


def _ufrag(media: MediaDescription) -> str | None:
    return None if media.ice is None else media.ice.usernameFragment


def _key(fingerprint: RTCDtlsFingerprint) -> tuple[str, str]:
    return fingerprint.algorithm.lower(), fingerprint.value.upper()


def _codec(media: MediaDescription) -> tuple[str, int | None] | None:
    """The codec that both sides send, with its number: the first of theirs that is known here; None if none is."""
    if media.kind == "application":
        return "data", 0
    common = common_codecs(media)
    return (common[0].mimeType.lower(), common[0].payloadType) if common else None


def without_codec(where: str, media: MediaDescription) -> str:
    """Words for an error: no codec of `media` can be served, and these are its codecs."""
    offered = []
    for codec in media.rtp.codecs:
        name = codec.name
        if name.upper() == "H264":
            given = codec.parameters
            mode = given.get("packetization-mode")
            profile = given.get("profile-level-id")
            name = (
                f"H.264 {describe_h264(None if profile is None else str(profile), None if mode is None else str(mode))}"
            )
        if name.lower() not in _NO_CODECS and name not in offered:
            offered.append(name)
    text = f"{where} has no codec that is known here; it offers {'; '.join(offered[:8]) or 'none'}"
    return f"{text}, and here is {KNOWN_CODECS}"


_NO_CODECS: Final = {"rtx", "red", "ulpfec", "flexfec-03", "cn", "telephone-event"}


def check_codecs(description: Description, what: str) -> None:
    """Check that every section has a codec that is known here.

    Raises:
        UnsupportedMedia: A section has no such codec; the text says which codecs it offers.
    """
    for index, media in enumerate(description.media):
        if _codec(media) is None:
            raise UnsupportedMedia(without_codec(f"media section {index} ({media.kind}) of the {what}", media))


def _unfit(what: str) -> InvalidOffer:
    return _invalid(f"the further offer {what} (RFC 8829 section 5.2.2); the call goes on as it is")


def _invalid(message: str) -> InvalidOffer:
    """The error for an offer that could be read and is wrong (HTTP status 422)."""
    return InvalidOffer(message, status=422)


def _of_section(candidate: RTCIceCandidate, index: int) -> RTCIceCandidate:
    candidate.sdpMLineIndex = index
    return candidate


def to_aiortc(candidate: IceCandidate) -> RTCIceCandidate:
    """The same candidate, as aiortc has it."""
    return RTCIceCandidate(
        component=candidate.component,
        foundation=candidate.foundation,
        ip=candidate.ip,
        port=candidate.port,
        priority=candidate.priority,
        protocol=candidate.protocol,
        type=candidate.type,
        relatedAddress=candidate.related_address,
        relatedPort=candidate.related_port,
        sdpMid=candidate.sdp_mid,
        sdpMLineIndex=0
        if candidate.sdp_mid is None and candidate.sdp_mline_index is None
        else candidate.sdp_mline_index,
        tcpType=candidate.tcp_type,
    )
