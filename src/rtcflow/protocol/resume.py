"""Coming back to a call whose link broke: what a client and a server say to each other, and the proof in it.

    client → server   "resume": true                              when it begins a call: it would like to come back
    server → client   "resume": {"secret": S, "stop": T, "seconds": 30}   how long the call waits; or no such key
    client → server   "resume": {"number": N, "proof": P}         over a new link, with the call's id

The id of a call stands in URLs, and so in logs of servers and proxies. Therefore it is not enough to take a call over.
The secret is told once, over the link that began the call, and never again. A client proves that it knows it::

    P = HMAC-SHA256(S, "rtcflow-resume" LF id LF N LF offer)      in hexadecimal digits; RFC 2104

``N`` is a whole number, greater than in each proof that this call has accepted before, such as the time in
milliseconds. So a proof counts once. ``offer`` is the SDP of a WebRTC client, with the fingerprint of its certificate,
and empty for a WebSocket. So a proof is of use only to the owner of that certificate.

A caller may also want to hang up while its link is broken. Then the client sends ``T`` with the call's id. It is
another secret, so that a request to stop that is seen on its way does not help to take the call over.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final

from ..exceptions import ConnectionExists, NegotiationError, NotServing, TooManyConnections, TooManyRequests

LATER: Final = {NotServing.code, TooManyConnections.code, TooManyRequests.code, ConnectionExists.code}
"""Codes of refusals that may be over in a moment. A call whose last link is still being made exists already."""

LARGEST_NUMBER: Final = 2**53 - 1
"""The largest number in a proof: what JavaScript counts exactly."""

_PROOF: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client sends to come back.

    Attributes:
        number: Greater than in each proof before; 1 to `LARGEST_NUMBER`.
        proof: 64 hexadecimal digits, of `prove`.
    """

    number: int
    proof: str

    def to_json(self) -> dict[str, Any]:
        """What goes over the wire at the key ``resume``."""
        return {"number": self.number, "proof": self.proof}


@dataclass(frozen=True, slots=True)
class Permit:
    """The server's message to a client that may come back.

    Attributes:
        secret: Known to this client and the server only.
        seconds: How long the call waits after its link broke.
        stop: Sent with the call's id, it ends the call. Empty if the server takes no such request.
    """

    secret: str
    seconds: float
    stop: str = ""

    def to_json(self) -> dict[str, Any]:
        """What goes over the wire at the key ``resume``."""
        return {"secret": self.secret, "seconds": self.seconds} | ({"stop": self.stop} if self.stop else {})


def prove(secret: str, call_id: str, number: int, offer: str = "") -> Proof:
    """The proof that a client knows the secret of its call.

    Args:
        secret: As the server told it.
        call_id: The call's id.
        number: See `Proof`.
        offer: The SDP that is sent with it; "" for a WebSocket.
    """
    words = f"rtcflow-resume\n{call_id}\n{number}\n{offer}"
    digest = hmac.new(secret.encode(), words.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return Proof(number, digest.hexdigest())


class Ticket:
    """The server's side of one call that may be resumed: its secrets, and which proofs have been used.

    Args:
        secret: A new one, which nobody can guess.
        stop: Another one, which ends the call.
    """

    def __init__(self, secret: str, stop: str) -> None:
        self.secret = secret
        self.stop = stop
        self._last = 0

    def may_stop(self, token: str) -> bool:
        """Whether `token` is the one that ends the call."""
        return hmac.compare_digest(self.stop.encode(), token.encode("utf-8", "surrogatepass"))

    def accept(self, proof: Proof, call_id: str, offer: str = "") -> bool:
        """Whether `proof` is right and was not used before; from now on it is used."""
        expected = prove(self.secret, call_id, proof.number, offer)
        if proof.number <= self._last or not hmac.compare_digest(expected.proof, proof.proof):
            return False
        self._last = proof.number
        return True


def read_request(value: object) -> bool | Proof:
    """What a client says at the key ``resume``: whether it would like to come back later, or that it is back.

    Raises:
        ValueError: It is neither; the text says what was expected.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, dict):
        raise ValueError('"resume" must be true, or {"number": ..., "proof": ...}')  # noqa: TRY004  of the peer, not of a caller
    number, proof = value.get("number"), value.get("proof")
    if isinstance(number, float) and number.is_integer():  # JSON has one kind of number (RFC 8259 section 6)
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= LARGEST_NUMBER:
        raise ValueError(f'"resume.number" must be a whole number from 1 to {LARGEST_NUMBER}')
    if not isinstance(proof, str) or not _PROOF.fullmatch(proof):
        raise ValueError('"resume.proof" must be 64 hexadecimal digits, in lower case')
    return Proof(number, proof)


def read_permit(value: object) -> Permit | None:
    """What a server says at the key ``resume``: None if the call cannot be resumed.

    Raises:
        ValueError: It says neither.
    """
    if value is None:
        return None
    secret = value.get("secret") if isinstance(value, dict) else None
    seconds = value.get("seconds") if isinstance(value, dict) else None
    if not isinstance(secret, str) or not secret or not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise ValueError('"resume" must be {"secret": ..., "seconds": ...}')
    if not 0 <= seconds <= LARGEST_NUMBER:  # so neither NaN nor more than a float holds
        raise ValueError(f'"resume.seconds" must be a number from 0 to {LARGEST_NUMBER}')
    stop = value.get("stop", "") if isinstance(value, dict) else ""
    if not isinstance(stop, str):
        raise ValueError('"resume.stop" must be text')  # noqa: TRY004  of the peer, not of a caller
    return Permit(secret, float(seconds), stop)


def may_try_again(refusal: NegotiationError) -> bool:
    """Whether a caller who comes back may succeed a little later: the server, or a proxy before it, is not ready now.

    The status of an answer over a WebSocket is not known, so the code counts, too.
    """
    return refusal.status >= 500 or refusal.code in LATER
