"""Reading SDP that a stranger wrote, before anything is started because of it.

aiortc's parser says "no" in a dozen ways (ValueError, KeyError, AssertionError, StopIteration, …) and only checks what
it happens to need. Here everything that it would stumble over later is found first, and said in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiortc import RTCIceCandidate
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS
from aiortc.sdp import MediaDescription, SessionDescription, candidate_from_sdp

from ..exceptions import InvalidOffer, UnsupportedMedia

MAX_SDP: Final = 200_000
"""Characters; a browser's offer with audio, video and fifty candidates has 10,000."""
MAX_CANDIDATES: Final = 100
"""The most candidates of one peer: the limit on connectivity checks of RFC 8445 section 6.1.2.5."""
MAX_SECTIONS: Final = 16

_CANDIDATE = re.compile(r"^a=candidate:[^\r\n]*\.local[^\r\n]*\r?\n?", re.MULTILINE)
_END_OF_CANDIDATES = re.compile(r"^a=end-of-candidates[^\r\n]*\r?\n?", re.MULTILINE)


@dataclass(frozen=True)
class Description:
    """An offer or answer that makes sense.

    Attributes:
        sdp: The text for aiortc, without the candidates in `later`.
        media: Its sections.
        later: Candidates whose host name must be asked for by multicast DNS, which can take a second: they are added
            while the connection is being made. Browsers send them when the user has not granted the microphone.
        ended: Whether the text said that no more candidates will come; if so, and there are some in `later`, it is
            for us to say so after them.
    """

    sdp: str
    media: tuple[MediaDescription, ...]
    later: tuple[RTCIceCandidate, ...]
    ended: bool

    def first(self, kind: str) -> MediaDescription | None:
        """The first section of this kind, or None."""
        return next((media for media in self.media if media.kind == kind), None)


def read(sdp: str, what: str = "offer") -> Description:
    """Read the SDP of an offer or answer.

    Raises:
        InvalidOffer: It is no SDP, or no WebRTC (RFC 8829): no ICE credentials, no fingerprint, no RTCP multiplexing …
        UnsupportedMedia: A section of a kind that nobody here knows.
    """
    if not isinstance(sdp, str):
        raise InvalidOffer(f"the {what} is a {type(sdp).__name__}; expected the SDP as a string")
    if len(sdp) > MAX_SDP:
        raise InvalidOffer(f"the {what} has {len(sdp)} characters; at most {MAX_SDP} are read", status=413)
    if not sdp.lstrip().startswith("v=0"):
        raise InvalidOffer(f'the {what} is no SDP: it must begin with "v=0" (RFC 8866 section 5.1)')
    description = _parse(sdp, what)
    if not description.media:
        raise InvalidOffer(f'the {what} has no media section ("m=" line)')
    if len(description.media) > MAX_SECTIONS:
        raise InvalidOffer(f"the {what} has {len(description.media)} media sections; at most {MAX_SECTIONS} are read")
    for index, media in enumerate(description.media):
        _check(media, f"media section {index} ({media.kind}) of the {what}", what)
    mids = [media.rtp.muxId for media in description.media]
    if len(mids) > 1 and len(set(mids)) < len(mids):
        raise InvalidOffer(f'the media sections of the {what} need different "a=mid" values (RFC 8829 section 5.2.1)')
    if sum(len(media.ice_candidates) for media in description.media) > MAX_CANDIDATES:
        raise InvalidOffer(f"the {what} has more than {MAX_CANDIDATES} candidates")
    later = tuple(
        _of_section(candidate, index)
        for index, media in enumerate(description.media)
        for candidate in media.ice_candidates
        if candidate.ip.endswith(".local")
    )
    ended = any(media.ice_candidates_complete for media in description.media)
    if later:
        sdp = _END_OF_CANDIDATES.sub("", _CANDIDATE.sub("", sdp))
    return Description(sdp, tuple(description.media), later, ended)


def _parse(sdp: str, what: str) -> SessionDescription:
    try:
        return SessionDescription.parse(sdp)
    except Exception as error:  # a foreign parser on foreign input: it fails in many ways, all of which mean this
        raise InvalidOffer(f"the {what} cannot be read as SDP: {type(error).__name__} {error}".rstrip()) from error


def _check(media: MediaDescription, where: str, what: str) -> None:
    if media.kind not in {"audio", "video", "application"}:
        raise UnsupportedMedia(f'{where} is neither "audio" nor "video" nor "application"')
    if not media.ice.usernameFragment or not media.ice.password:
        raise InvalidOffer(f"{where} has no ICE credentials (a=ice-ufrag, a=ice-pwd; RFC 8839 section 5.4)")
    if not (media.ice.usernameFragment + media.ice.password).isascii() or len(media.ice.password) > 256:
        raise InvalidOffer(f"{where} has ICE credentials that are none (RFC 8839 section 5.4)")
    if media.dtls is None:
        raise InvalidOffer(f'{where} has no "a=setup" line (RFC 8842 section 5.2)')
    if what == "answer" and media.dtls.role == "auto":
        raise InvalidOffer(f'{where} must choose "a=setup:active" or "a=setup:passive" (RFC 8842 section 5.3)')
    if not any(fingerprint.algorithm.lower() in X509_DIGEST_ALGORITHMS for fingerprint in media.dtls.fingerprints):
        raise InvalidOffer(f'{where} has no "a=fingerprint" with {", ".join(X509_DIGEST_ALGORITHMS)} (RFC 8122)')
    if media.kind == "application":
        if media.profile == "DTLS/SCTP":
            if not (media.fmt and str(media.fmt[0]).isdigit()):
                raise InvalidOffer(f"{where} has no SCTP port")
        elif media.sctp_port is None:
            raise InvalidOffer(f'{where} has no "a=sctp-port" line (RFC 8841 section 5.1)')
    elif not media.rtcp_mux:
        raise InvalidOffer(f'{where} has no "a=rtcp-mux" line, which WebRTC requires (RFC 8829 section 4.1.1)')


def _of_section(candidate: RTCIceCandidate, index: int) -> RTCIceCandidate:
    candidate.sdpMLineIndex = index
    return candidate


def read_candidate(line: str, mid: str | None, index: int | None) -> RTCIceCandidate:
    """Read one trickled candidate.

    Args:
        line: ``candidate:…`` as browsers give it, with or without ``a=`` before it.
        mid: The mid of its media section, or None.
        index: The index of its media section, or None; with neither it belongs to the first.

    Raises:
        InvalidOffer: It is no candidate (RFC 8839 section 5.1).
    """
    text = line.strip().removeprefix("a=").removeprefix("candidate:")
    try:
        candidate = candidate_from_sdp(text)
    except Exception as error:  # as in _parse
        raise InvalidOffer(f"not an ICE candidate (RFC 8839 section 5.1): {line[:100]!r}") from error
    candidate.sdpMid = mid
    candidate.sdpMLineIndex = 0 if mid is None and index is None else index
    return candidate
