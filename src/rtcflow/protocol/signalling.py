"""FastRTC's offer route, ``POST {path}/webrtc/offer``: its JSON, and typed requests and replies.

A page posts ``{"type": "offer", "sdp", "webrtc_id"}`` and gets ``{"type": "answer", "sdp"}``; then, as it finds them,
``{"type": "ice-candidate", "candidate", "webrtc_id"}`` and gets ``{"status": "success"}``. A page that may come back
(`protocol.resume`) ends its call with ``{"type": "stop", "webrtc_id", "token"}``, also without a link. Failures are
``{"status": "failed", "meta": {"error": code}}``; FastRTC sends them with HTTP 200, we with a status that says so.

Whatever bytes come in, what comes out is a request or `InvalidOffer`, nothing else. Fields we do not know are ignored.
"""

from __future__ import annotations

import ipaddress
import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from ..exceptions import (
    ConnectionExists,
    InvalidCandidate,
    InvalidOffer,
    NegotiationError,
    RemoteProtocolError,
    TooManyConnections,
    UnknownConnection,
    absent_name,
)
from .json_text import read_json, read_json_object
from .resume import Permit, Proof, read_permit, read_request

MAX_BODY: Final = 131_072
"""Bytes of one request: an SDP of the largest size, with every second character escaped in JSON."""

MAX_SDP: Final = 65_536
"""Bytes of one SDP. A browser's offer with audio, video, data and fifty candidates has 10,000."""

MAX_CANDIDATE: Final = 1_024
"""Characters of one candidate; browsers' have up to 200."""

_WEBRTC_ID = re.compile(r"[A-Za-z0-9_.~-]{1,128}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,32}", re.ASCII)  # RFC 8866 section 9, token
_FOUNDATION = re.compile(r"[A-Za-z0-9+/]{1,32}", re.ASCII)
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}", re.ASCII)
_MID = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class IceCandidate:
    """One way in which the peer may be reached (RFC 8839 section 5.1).

    Attributes:
        foundation: 1 to 32 characters; equal for candidates of the same kind and base.
        component: 1 to 256; 1 is RTP.
        protocol: ``"udp"``, ``"tcp"`` or another token, in lower case.
        priority: 1 to 2^31 - 1.
        ip: An IPv4 or IPv6 address, read in any spelling and kept in the one of RFC 5952. Or a host name; browsers hide
            addresses behind ``….local`` names (mDNS).
        port: 0 to 65,535.
        type: ``"host"``, ``"srflx"``, ``"prflx"``, ``"relay"``, or another token.
        related_address: For reflexive and relayed candidates, what they are related to.
        related_port: Its port.
        tcp_type: ``"active"``, ``"passive"`` or ``"so"`` (RFC 6544 section 4.5).
        sdp_mid: The media section it belongs to, by name …
        sdp_mline_index: … and by number; at least one of the two is given by a peer that trickles.
        username_fragment: The ICE generation it belongs to.
    """

    foundation: str
    component: int
    protocol: str
    priority: int
    ip: str
    port: int
    type: str
    related_address: str | None = None
    related_port: int | None = None
    tcp_type: str | None = None
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None
    username_fragment: str | None = None

    @property
    def usable(self) -> bool:
        """Whether anything can be done with it: UDP, of a known type, to an address or an mDNS name.

        Others are valid, and are ignored without an error (RFC 8839 section 5.1). So is an IPv6 address with a zone
        (``fe80::1%eth0``), which has a meaning only on the machine that wrote it (RFC 4007 section 6). The system looks
        a zone up when something is sent, and raises other errors than those of the network. With one of them asyncio
        closes the socket.
        """
        return (
            self.protocol == "udp"
            and "%" not in self.ip
            and self.type in {"host", "srflx", "prflx", "relay"}
            and self.port > 0
            and (_is_address(self.ip) or self.ip.lower().endswith(".local"))
        )

    def to_line(self) -> str:
        """Write it as ``candidate:…``, which `parse_candidate` reads."""
        words = [
            f"candidate:{self.foundation} {self.component} {self.protocol} {self.priority} {self.ip} {self.port}",
            f"typ {self.type}",
        ]
        for name, value in (
            ("raddr", self.related_address),
            ("rport", self.related_port),
            ("tcptype", self.tcp_type),
            ("ufrag", self.username_fragment),
        ):
            if value is not None:
                words.append(f"{name} {value}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Offer:
    """A page wants to connect.

    Attributes:
        sdp: Its offer: not empty, at most `MAX_SDP` bytes; otherwise unread (see `rtcflow.protocol.sdp`).
        webrtc_id: The name it chose for the connection: 1 to 128 letters, digits and ``_ . ~ -``.
        type: ``"offer"``.
        resume: True: the page would like to come back if its link breaks. A proof: it comes back (`protocol.resume`).
    """

    sdp: str
    webrtc_id: str
    type: str = "offer"
    resume: bool | Proof = False

    def to_json(self) -> dict[str, Any]:
        """The request's body, to be written as JSON."""
        body: dict[str, Any] = {"sdp": self.sdp, "type": self.type, "webrtc_id": self.webrtc_id}
        if self.resume:
            body["resume"] = self.resume.to_json() if isinstance(self.resume, Proof) else True
        return body


@dataclass(frozen=True, slots=True)
class CandidateRequest:
    """A page has found one more candidate.

    Attributes:
        webrtc_id: Of the connection it is for.
        candidate: The candidate, or None: there will be no more.
    """

    webrtc_id: str
    candidate: IceCandidate | None

    def to_json(self) -> dict[str, Any]:
        """The request's body, to be written as JSON."""
        candidate = self.candidate
        return {
            "type": "ice-candidate",
            "webrtc_id": self.webrtc_id,
            "candidate": {
                "candidate": "" if candidate is None else candidate.to_line(),
                "sdpMid": None if candidate is None else candidate.sdp_mid,
                "sdpMLineIndex": None if candidate is None else candidate.sdp_mline_index,
                "usernameFragment": None if candidate is None else candidate.username_fragment,
            },
        }


@dataclass(frozen=True, slots=True)
class StopRequest:
    """A caller hangs up, beside the link of its call, which may be broken.

    Attributes:
        webrtc_id: Of the call.
        token: `Permit.stop` of this call.
    """

    webrtc_id: str
    token: str

    def to_json(self) -> dict[str, Any]:
        """The request's body, to be written as JSON."""
        return {"type": "stop", "webrtc_id": self.webrtc_id, "token": self.token}


@dataclass(frozen=True, slots=True)
class InputRequest:
    """A page sets the arguments of its call's handler.

    Attributes:
        webrtc_id: Of the call.
        args: Any JSON values.
    """

    webrtc_id: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an offer is answered with.

    Attributes:
        sdp: The answer.
        type: ``"answer"``.
        permit: The server's message to a page that may come back.
    """

    sdp: str
    type: str = "answer"
    permit: Permit | None = None

    def to_json(self) -> dict[str, Any]:
        """The reply's body, to be written as JSON."""
        body: dict[str, Any] = {"sdp": self.sdp, "type": self.type}
        if self.permit is not None:
            body["resume"] = self.permit.to_json()
        return body


Request: TypeAlias = Offer | CandidateRequest | StopRequest

SUCCESS: Final = {"status": "success"}
"""The reply to a candidate, and to a request to stop."""


# -- the server's side


def parse_request(body: bytes) -> Request:
    """Read the body of a POST to the offer route.

    Args:
        body: Any bytes.

    Raises:
        InvalidOffer: The text says what was wrong. `status` is 413 for a body that is too long, and 400 for one that is
            not a JSON object. It is 422 for a field that is missing or wrong. `InvalidCandidate` where it is the
            candidate.
    """
    if len(body) > MAX_BODY:
        raise InvalidOffer(f"the request has {len(body)} bytes; at most {MAX_BODY} are read", status=413)
    fields = _parse_object(body)
    kind = fields.get("type")
    if kind == "offer":
        return Offer(_sdp(fields), _webrtc_id(fields), resume=_resume(fields))
    if kind == "ice-candidate":
        return CandidateRequest(_webrtc_id(fields), _candidate(fields))
    if kind == "stop":
        return StopRequest(_webrtc_id(fields), _token(fields))
    raise InvalidOffer(f'"type" is {_show(kind)}; expected "offer", "ice-candidate" or "stop"', status=422)


def parse_input(body: bytes) -> InputRequest:
    """Read the body of a POST to the input route, ``{"webrtc_id": ..., "args": [...]}``.

    Raises:
        InvalidOffer: As for `parse_request`.
    """
    fields = _parse_object(body)
    args = fields.get("args")
    if not isinstance(args, list):
        raise InvalidOffer(f'"args" is {_show(args)}; expected a list of the arguments', status=422)
    return InputRequest(_webrtc_id(fields), tuple(args))


def error_body(error: NegotiationError) -> dict[str, Any]:
    """What the peer is told about `error`, in FastRTC's form; to be sent with the status ``error.status``."""
    meta: dict[str, Any] = {"error": error.code, "message": str(error)}
    if isinstance(error, TooManyConnections):
        meta["limit"] = error.limit
    return {"status": "failed", "meta": meta}


def parse_candidate(line: str) -> IceCandidate | None:
    """Read one candidate, ``candidate:…`` with or without ``a=`` before it; None for the empty one, the end.

    The grammar is that of RFC 8839 section 5.1; extensions we do not know are skipped.

    Raises:
        InvalidCandidate: The line does not follow the grammar; the text says where.
    """
    if len(line) > MAX_CANDIDATE:
        raise InvalidCandidate(f"the candidate has {len(line)} characters; at most {MAX_CANDIDATE} are read")
    text = line.strip().removeprefix("a=")
    if not text.removeprefix("candidate:"):
        return None
    words = text.removeprefix("candidate:").split()
    if len(words) < 8 or words[6] != "typ":
        raise _not_a_candidate(
            line, 'expected "candidate:<foundation> <component> <protocol> <priority> <address> <port> typ <type> …"'
        )
    foundation, component, protocol, priority, address, port, _, type_, *rest = words
    if len(rest) % 2:
        raise _not_a_candidate(line, f"the extension {_show(rest[-1])} has no value")
    extensions = dict(zip(rest[::2], rest[1::2], strict=True))
    if not _FOUNDATION.fullmatch(foundation):
        raise _not_a_candidate(line, f"the foundation {_show(foundation)} is not 1 to 32 letters, digits, + and /")
    if not (_TOKEN.fullmatch(protocol) and _TOKEN.fullmatch(type_)):
        raise _not_a_candidate(line, "protocol and type must be words")
    related, tcp_type, ufrag = extensions.get("raddr"), extensions.get("tcptype"), extensions.get("ufrag")
    if tcp_type is not None and tcp_type not in {"active", "passive", "so"}:
        raise _not_a_candidate(line, f'the tcptype {_show(tcp_type)} is not "active", "passive" or "so"')
    if ufrag is not None and not _UFRAG.fullmatch(ufrag):
        raise _not_a_candidate(line, f"the ufrag {_show(ufrag)} is not 4 to 256 letters, digits, + and /")
    return IceCandidate(
        foundation=foundation,
        component=_number(line, "component", component, 1, 256),
        protocol=protocol.lower(),
        priority=_number(line, "priority", priority, 1, 2**31 - 1),
        ip=_address(line, address),
        port=_number(line, "port", port, 0, 65_535),
        type=type_,
        related_address=None if related is None else _address(line, related),
        related_port=_number(line, "rport", extensions["rport"], 0, 65_535) if "rport" in extensions else None,
        tcp_type=tcp_type,
        username_fragment=ufrag,
    )


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        fields = read_json(body)
    except ValueError:
        raise InvalidOffer("the request is not JSON") from None
    if not isinstance(fields, dict):
        raise InvalidOffer(f"the request is {_show(fields)}; expected an object")
    return fields


def _sdp(fields: dict[str, Any]) -> str:
    sdp = fields.get("sdp")
    if not isinstance(sdp, str) or not sdp.strip():
        raise InvalidOffer(f'"sdp" is {_show(sdp)}; expected the offer', status=422)
    try:
        size = len(sdp.encode())
    except UnicodeEncodeError:
        raise InvalidOffer('"sdp" has half a surrogate pair in it', status=422) from None
    if size > MAX_SDP:
        raise InvalidOffer(f'"sdp" has {size} bytes; at most {MAX_SDP} are read', status=413)
    return sdp


def _webrtc_id(fields: dict[str, Any]) -> str:
    webrtc_id = fields.get("webrtc_id")
    if not isinstance(webrtc_id, str) or not _WEBRTC_ID.fullmatch(webrtc_id):
        raise InvalidOffer(
            f'"webrtc_id" is {_show(webrtc_id)}; expected 1 to 128 letters, digits and _ . ~ -', status=422
        )
    return webrtc_id


def _token(fields: dict[str, Any]) -> str:
    token = fields.get("token")
    if not isinstance(token, str):
        raise InvalidOffer('"token" must be the text "stop" of the server\'s "resume"', status=422)
    return token


def _resume(fields: dict[str, Any]) -> bool | Proof:
    try:
        return read_request(fields.get("resume"))
    except ValueError as error:
        raise InvalidOffer(str(error), status=422) from None


def _candidate(fields: dict[str, Any]) -> IceCandidate | None:
    if "candidate" not in fields:
        raise InvalidCandidate('"candidate" is missing', status=422)
    init = fields["candidate"]
    if init is None:
        return None
    if not isinstance(init, dict):
        raise InvalidCandidate(f'"candidate" is {_show(init)}; expected an object', status=422)
    line, mid, index = init.get("candidate", ""), init.get("sdpMid"), init.get("sdpMLineIndex")
    ufrag = init.get("usernameFragment")
    if not isinstance(line, str):
        raise InvalidCandidate(f'"candidate.candidate" is {_show(line)}; expected text', status=422)
    if mid is not None and not (isinstance(mid, str) and _MID.fullmatch(mid)):
        raise InvalidCandidate(f'"candidate.sdpMid" is {_show(mid)}; expected 1 to 64 characters', status=422)
    if type(index) is float and index.is_integer():  # JSON has one kind of number (RFC 8259 section 6)
        index = int(index)
    if index is not None and not (type(index) is int and 0 <= index < 1000):
        cure = f": write {index}, without quotation marks" if isinstance(index, str) and index.isdecimal() else ""
        words = f'"candidate.sdpMLineIndex" is {_show(index)}; expected a number from 0{cure}'
        raise InvalidCandidate(words, status=422)
    if ufrag is not None and not (isinstance(ufrag, str) and _UFRAG.fullmatch(ufrag)):
        raise InvalidCandidate(f'"candidate.usernameFragment" is {_show(ufrag)}; expected text', status=422)
    candidate = parse_candidate(line)
    if candidate is None:
        return None
    if mid is None and index is None:
        raise InvalidCandidate('the candidate has neither "sdpMid" nor "sdpMLineIndex"', status=422)
    return replace(
        candidate, sdp_mid=mid, sdp_mline_index=index, username_fragment=ufrag or candidate.username_fragment
    )


def _number(line: str, name: str, word: str, least: int, most: int) -> int:
    if _NUMBER.fullmatch(word) and least <= (number := int(word)) <= most:
        return number
    raise _not_a_candidate(line, f"the {name} {_show(word)} is not a number from {least} to {most}")


def _address(line: str, word: str) -> str:
    """The address in its one canonical spelling (RFC 5952), since addresses are compared and counted as texts."""
    with suppress(ValueError):
        address = ipaddress.ip_address(word)
        if word.isascii() and word.isprintable():  # a zone may have any characters there
            return str(address)
    if not _HOST_NAME.fullmatch(word):
        raise _not_a_candidate(line, f"{_show(word)} is neither an IP address nor a host name")
    return word


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _not_a_candidate(line: str, why: str) -> InvalidCandidate:
    return InvalidCandidate(f"not an ICE candidate: {why}; got {_show(line)} (RFC 8839 section 5.1)", status=422)


def _show(value: object) -> str:
    """`value` in words short enough for an error message, and safe to print."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


# -- the client's side


def parse_answer(body: bytes, status: int = 200) -> Answer:
    """Read the reply to an offer, of our server or of FastRTC's (which fails with status 200).

    Args:
        body: The reply's body.
        status: Its HTTP status.

    Raises:
        NegotiationError: The server refused; the subclass, `code` and `status` say why, as far as it told.
        RemoteProtocolError: The reply is neither an answer nor a refusal.
    """
    fields = parse_reply(body, status)
    sdp = fields.get("sdp")
    if isinstance(sdp, str) and sdp.strip() and fields.get("type") == "answer":
        try:
            return Answer(sdp, permit=read_permit(fields.get("resume")))
        except ValueError as error:
            raise RemoteProtocolError(f"the server's reply: {error}") from None
    raise RemoteProtocolError(f"the server's reply (HTTP {status}) is not an answer: {_show_bytes(body)}")


def parse_reply(body: bytes, status: int) -> dict[str, Any]:
    """The JSON object in the reply of a server, rtcflow's or FastRTC's. Raises as `parse_answer` does."""
    fields = read_json_object(body[: 4 * MAX_BODY])
    if fields is not None and fields.get("status") == "failed":
        raise _refusal(fields.get("meta"), status)
    if status >= 400:
        raise NegotiationError(f"the server refused (HTTP {status}): {_show_bytes(body)}", status=status)
    if fields is None:
        raise RemoteProtocolError(f"the server's reply (HTTP {status}) is not a JSON object: {_show_bytes(body)}")
    return fields


def _show_bytes(body: bytes) -> str:
    return _show(body[:100].decode(errors="replace"))


def _refusal(meta: object, status: int) -> NegotiationError:
    fields: dict[str, Any] = meta if isinstance(meta, dict) else {}
    code, message, limit = fields.get("error"), fields.get("message"), fields.get("limit")
    code = code if isinstance(code, str) else "negotiation_failed"
    message = message if isinstance(message, str) else f"the server refused: {code}"
    error: NegotiationError
    if code == TooManyConnections.code and type(limit) is int:
        error = TooManyConnections(limit, message)
    elif code == ConnectionExists.code:
        error = ConnectionExists(message)
    elif code == UnknownConnection.code:
        error = UnknownConnection(message)
    else:
        error = NegotiationError(message)
        error.code = code
    if status >= 400:
        error.status = status
    return error


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent_name(__name__, name, {"check_reply": f"{__name__}.parse_reply"})
