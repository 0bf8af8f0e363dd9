"""Did the carrier really send this? Each carrier's way of signing its requests, checked in constant time.

- Twilio: ``X-Twilio-Signature``, "Webhooks security": base64 of HMAC-SHA1 over the URL and the POST parameters.
- Telnyx: ``x-telnyx-streaming-auth-token`` on the WebSocket, a secret of the application's own choice. Webhooks have
  ``telnyx-signature-ed25519`` ("Webhook signing"), an Ed25519 signature (RFC 8032) over the timestamp, a bar and the
  body.
- Plivo: ``X-Plivo-Signature-V3`` and its nonce, "Signature validation": base64 of HMAC-SHA256.
- Vonage: ``Authorization: Bearer`` with a JWT (RFC 7519, RFC 7515) signed HS256, "Signed webhooks".

Everything here is pure; URLs are the public ones that the carrier was configured with.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .json_text import read_json_object

__all__ = [
    "plivo_signature",
    "read_telnyx_key",
    "same_secret",
    "twilio_signature",
    "verify_plivo",
    "verify_telnyx",
    "verify_twilio",
    "verify_vonage",
]


def same_secret(given: str | None, expected: str) -> bool:
    """Whether `given` is `expected`; how long it takes tells nothing of where they differ."""
    return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def twilio_signature(token: str, url: str, parameters: Iterable[tuple[str, str]] = ()) -> str:
    """What Twilio puts into ``X-Twilio-Signature``: URL and parameters in order of their names, keyed by the token."""
    signed = url + "".join(name + value for name, value in sorted(set(parameters)))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode("utf-8", "replace"), "sha1")).decode("ascii")


def verify_twilio(
    token: str,
    signature: str | None,
    url: str,
    parameters: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> bool:
    """Whether Twilio, which shares `token`, signed this request.

    Args:
        token: The account's auth token.
        signature: The header ``X-Twilio-Signature``; it also comes with a WebSocket's upgrade, without parameters.
        url: The full URL as configured at Twilio, with its query.
        parameters: The form fields of a POST.
        body: The raw body if it is not a form. Then its SHA-256 is in the query (``bodySHA256``) and is checked, too.
    """
    if body is not None:
        told = dict(parse_qsl(url.partition("?")[2])).get("bodySHA256")
        if not same_secret(told, hashlib.sha256(body).hexdigest()):
            return False
    fields = list(parameters)
    # Twilio signs with or without the standard port, depending on the product ("Webhooks security", the note on ports).
    variants = [twilio_signature(token, variant, fields) for variant in _with_and_without_port(url)]
    return any([same_secret(signature, expected) for expected in variants])  # noqa: C419 - all, whichever fits


def _with_and_without_port(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no number, half an address in brackets: signed as it stands or not at all
        return [url]
    standard = {"https": 443, "wss": 443, "http": 80, "ws": 80}.get(parts.scheme)
    host = parts.netloc
    if port is None and standard is not None:
        return [url, parts._replace(netloc=f"{host}:{standard}").geturl()]
    if port == standard:
        return [url, parts._replace(netloc=host.rpartition(":")[0]).geturl()]
    return [url]


def plivo_signature(
    token: str, nonce: str, url: str, parameters: Iterable[tuple[str, str]] = (), *, post: bool = True
) -> str:
    """What Plivo puts into ``X-Plivo-Signature-V3``.

    The signature is over ``base?query.params.nonce``. The query is sorted and joined as ``a=b&c=d``. For a POST the
    parameters are sorted and joined without separators. For a GET they are merged into the query. Empty parts leave
    their separator out, except that parameters without a query still follow a ``?``.
    """
    parts = urlsplit(url)
    query, fields = parse_qsl(parts.query, keep_blank_values=True), list(parameters)
    if not post:
        query, fields = query + fields, []
    signed = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if query or fields:
        signed += "?" + "&".join(f"{name}={value}" for name, value in sorted(query))
    if query and fields:
        signed += "."
    signed += "".join(name + value for name, value in sorted(fields)) + "." + nonce
    return base64.b64encode(hmac.digest(token.encode(), signed.encode("utf-8", "replace"), "sha256")).decode("ascii")


def verify_plivo(
    token: str,
    signature: str | None,
    nonce: str | None,
    url: str,
    parameters: Iterable[tuple[str, str]] = (),
    *,
    post: bool = True,
) -> bool:
    """Whether Plivo, which shares `token`, signed this request.

    Args:
        token: The account's auth token.
        signature: The header ``X-Plivo-Signature-V3``: one signature, or several with commas.
        nonce: The header ``X-Plivo-Signature-V3-Nonce``.
        url: The full URL as configured at Plivo.
        parameters: The form fields.
        post: False for a GET, and for a WebSocket's upgrade.
    """
    if signature is None or nonce is None:
        return False
    try:
        expected = plivo_signature(token, nonce, url, parameters, post=post)
    except ValueError:  # not a URL
        return False
    return any([same_secret(one.strip(), expected) for one in signature.split(",")])  # noqa: C419 - all of them


TELNYX_TOLERANCE = 300.0
"""Seconds by which Telnyx' timestamp may differ from our clock, as in its own libraries: what is older is a replay."""


def read_telnyx_key(text: str) -> Ed25519PublicKey:
    """The public key of a Telnyx account, as its portal shows it: 32 bytes as base64.

    Raises:
        ValueError: It is not a public key.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a public key; Telnyx' are 32 bytes as base64 (44 characters)") from None


def verify_telnyx(public_key: str, signature: str | None, timestamp: str | None, now: float, body: bytes) -> bool:
    """Whether Telnyx signed this webhook.

    Args:
        public_key: The account's.
        signature: The header ``telnyx-signature-ed25519``.
        timestamp: The header ``telnyx-timestamp``: seconds since 1970.
        now: Seconds since 1970.
        body: The raw body.
    """
    if signature is None or timestamp is None or not (timestamp.isascii() and timestamp.isdecimal()):
        return False
    if len(timestamp) > 12 or abs(now - int(timestamp)) > TELNYX_TOLERANCE:
        return False
    try:
        signed = base64.b64decode(signature, validate=True)
        read_telnyx_key(public_key).verify(signed, timestamp.encode() + b"|" + body)
    except (ValueError, InvalidSignature):
        return False
    return True


LEEWAY = 60.0
"""Seconds by which the carrier's clock may differ from ours."""
LIFETIME = 900.0
"""Seconds after which a token without an expiry of its own is taken for an old one played back."""


def verify_vonage(secret: str, authorization: str | None, now: float, body: bytes | None = None) -> bool:
    """Whether Vonage, which shares `secret`, signed this request.

    Args:
        secret: The account's signature secret.
        authorization: The header ``Authorization``.
        now: Seconds since 1970.
        body: The raw body of a POST: its SHA-256 must be the claim ``payload_hash``, or a token that was seen once
            would do for any body.
    """
    scheme, _, token = (authorization or "").partition(" ")
    signed, _, signature = token.strip().rpartition(".")
    header, _, claims = signed.partition(".")
    if scheme.lower() != "bearer" or (read_json_object(_unpad(header)) or {}).get("alg") != "HS256":
        return False
    expected = hmac.digest(secret.encode(), signed.encode("utf-8", "replace"), "sha256")
    if not hmac.compare_digest(_unpad(signature), expected):
        return False
    said = read_json_object(_unpad(claims)) or {}
    issued, expires = said.get("iat"), said.get("exp")
    if not isinstance(issued, int | float) or not issued - LEEWAY <= now:
        return False
    if not now <= (expires if isinstance(expires, int | float) else issued + LIFETIME) + LEEWAY:
        return False
    told = said.get("payload_hash")
    return body is None or (isinstance(told, str) and same_secret(told, hashlib.sha256(body).hexdigest()))


def _unpad(part: str) -> bytes:
    try:
        padded = part.encode("ascii", "replace") + b"=" * (-len(part) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        return b""
