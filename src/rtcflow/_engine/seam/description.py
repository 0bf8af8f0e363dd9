"""The parts of aiortc's SDP parser and codec tables that we use. None of them is in aiortc's documentation.

Relies on: ``aiortc.sdp.SessionDescription.parse(text)`` has `media` and `group`; ``aiortc.codecs.CODECS`` lists what
aiortc can code, by kind; ``aiortc.rtcpeerconnection.find_common_codecs(ours, theirs)`` is what it answers with, in the
order of theirs; ``aiortc.rtcdtlstransport.X509_DIGEST_ALGORITHMS`` names the digests that it can check.
"""

from __future__ import annotations

from aiortc.codecs import CODECS
from aiortc.rtcdtlstransport import X509_DIGEST_ALGORITHMS
from aiortc.rtcpeerconnection import find_common_codecs
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.sdp import MediaDescription, SessionDescription

__all__ = ["MediaDescription", "SessionDescription", "common_codecs", "digests"]


def common_codecs(media: MediaDescription) -> list[RTCRtpCodecParameters]:
    """The codecs of an audio or video section that aiortc can code, in the peer's order."""
    return find_common_codecs(CODECS[media.kind], media.rtp.codecs)


def digests() -> list[str]:
    """The digests of fingerprints that aiortc can check, in lower case."""
    return list(X509_DIGEST_ALGORITHMS)
