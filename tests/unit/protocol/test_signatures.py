"""Signatures of carriers, against vectors of their own documentation and libraries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.protocol.signatures import (
    read_telnyx_key,
    same_secret,
    twilio_signature,
    verify_plivo,
    verify_telnyx,
    verify_twilio,
    verify_vonage,
)

# "Webhooks security", Twilio's documentation.
TWILIO_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
TWILIO_FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}
TWILIO_SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="

# Made with the `plivo` package, version 4 (validate_v3_signature).
PLIVO_TOKEN, PLIVO_NONCE = "MjcxYzE3", "05429567804466091622"
PLIVO = [
    (
        True,
        "https://answer.example.com/incoming",
        {"From": "+14155550100", "To": "+14155550199", "CallUUID": "a-b"},
        "YmdP7XaMxd/ckAVbuYG0nZzHWqnStv8BW45PPb1ElwM=",
    ),
    (
        True,
        "https://answer.example.com/incoming?b=2&a=1",
        {"From": "+1", "To": "+2"},
        "wav0d+cHSG/Xf7H3wbwBO7/0pYQ5KEcy6jNXQOybdDo=",
    ),
    (True, "https://answer.example.com/incoming?b=2&a=1", {}, "L1848fhjBgh6Jy57ohS/vCg6fwx0jcB1Z/HjWvPmuz8="),
    (True, "https://answer.example.com/incoming", {}, "a0NhZUGR+rlVbBnMGBK29Z/g250n2uaEICVQ6e+vAGs="),
    (False, "https://answer.example.com/incoming?b=2", {"From": "+1"}, "gLfnFOhhqLJgLiEuNF+biZJtS2PIHsinGNIcgZdi39A="),
    (False, "wss://answer.example.com/telephone/handler", {}, "+okyxVK4WsReX9+UTbFq+7KypVm5hsZLvDtMoYquFP0="),
]

# Made with the `pyjwt` package.
VONAGE_SECRET = "s3cret-s3cret-s3cret-s3cret-s3cret"
VONAGE_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3MDAwMDAwMDAsImp0aSI6IngiLCJpc3MiOiJWb25hZ2UiLCJwYXlsb2FkX2hhc2gi"
    "OiI0NDEzNmZhMzU1YjM2NzhhMTE0NmFkMTZmN2U4NjQ5ZTk0ZmI0ZmMyMWZlNzdlODMxMGMwNjBmNjFjYWFmZjhhIiwiYXBpX2tleSI6ImEifQ.fE8"
    "dIs4pMbVoFS965JNOTu8WHrEJNS2s9i4w7_V6wDc"
)


def test_twilios_own_example_verifies() -> None:
    """The vector of Twilio's documentation."""
    assert twilio_signature("12345", TWILIO_URL, TWILIO_FORM.items()) == TWILIO_SIGNATURE
    assert verify_twilio("12345", TWILIO_SIGNATURE, TWILIO_URL, TWILIO_FORM.items())


def test_twilios_websocket_upgrade_has_no_parameters() -> None:
    """What signs a media stream's upgrade is the wss URL alone, with or without its port."""
    url = "wss://answer.example.com/telephone/handler"
    signature = twilio_signature("12345", url)
    assert verify_twilio("12345", signature, url)
    assert verify_twilio("12345", signature, "wss://answer.example.com:443/telephone/handler")
    assert not verify_twilio("12345", signature, "wss://answer.example.com:8443/telephone/handler")
    assert not verify_twilio("12345", signature, url.replace("wss", "https"))


def test_twilios_json_body_is_checked_by_its_hash() -> None:
    """A body that is no form is covered by bodySHA256 in the signed URL; another body, or none, does not pass."""
    body = b'{"a": 1}'
    url = f"https://answer.example.com/hook?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = twilio_signature("12345", url)
    assert verify_twilio("12345", signature, url, body=body)
    assert not verify_twilio("12345", signature, url, body=body + b" ")
    bare = "https://answer.example.com/hook"
    assert not verify_twilio("12345", twilio_signature("12345", bare), bare, body=body)


@pytest.mark.parametrize("change", ["token", "url", "parameter", "signature", "none"])
def test_any_change_breaks_twilios_signature(change: str) -> None:
    """Another token, URL, parameter or signature does not verify, nor does none."""
    token, url, form, signature = "12345", TWILIO_URL, dict(TWILIO_FORM), TWILIO_SIGNATURE
    match change:
        case "token":
            token = "12346"
        case "url":
            url += "&x=1"
        case "parameter":
            form["Digits"] = "1235"
        case "signature":
            signature = signature.swapcase()
    assert not verify_twilio(token, None if change == "none" else signature, url, form.items())


@pytest.mark.parametrize(("post", "url", "form", "signature"), PLIVO)
def test_plivos_signatures_verify(post: bool, url: str, form: dict[str, str], signature: str) -> None:
    """What Plivo's own package signs verifies, also among several; with another nonce or token it does not."""
    fields = list(form.items())
    assert verify_plivo(PLIVO_TOKEN, signature, PLIVO_NONCE, url, fields, post=post)
    assert verify_plivo(PLIVO_TOKEN, f"abc, {signature}", PLIVO_NONCE, url, fields, post=post)
    assert not verify_plivo(PLIVO_TOKEN, signature, PLIVO_NONCE + "1", url, fields, post=post)
    assert not verify_plivo(PLIVO_TOKEN + "1", signature, PLIVO_NONCE, url, fields, post=post)
    assert not verify_plivo(PLIVO_TOKEN, None, PLIVO_NONCE, url, fields, post=post)
    assert not verify_plivo(PLIVO_TOKEN, signature, None, url, fields, post=post)


def vonage_token(claims: dict[str, object]) -> str:
    """What ``Authorization`` holds, signed."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    signed = part(b'{"alg":"HS256"}') + "." + part(json.dumps(claims).encode())
    signature = hmac.digest(VONAGE_SECRET.encode(), signed.encode(), "sha256")
    return f"Bearer {signed}.{part(signature)}"


def test_an_invalid_url_verifies_nothing() -> None:
    """Half an address in brackets raises nothing."""
    assert not verify_twilio("12345", "x", "https://[x/")
    assert not verify_twilio("12345", "x", "https://[x/", body=b"{}")
    assert not verify_plivo("12345", "x", "n", "https://[x/")


def test_vonages_token_verifies() -> None:
    """A JWT of another library verifies, with the right body and around its time only."""
    bearer = f"Bearer {VONAGE_TOKEN}"
    assert verify_vonage(VONAGE_SECRET, bearer, 1_700_000_000)
    assert verify_vonage(VONAGE_SECRET, bearer, 1_700_000_000, body=b"{}")
    assert not verify_vonage(VONAGE_SECRET, bearer, 1_700_000_000, body=b"[]")
    assert not verify_vonage(VONAGE_SECRET, bearer, 1_700_002_000)
    assert not verify_vonage(VONAGE_SECRET, bearer, 1_699_999_000)
    unbound = vonage_token({"iat": 1_700_000_000})
    assert verify_vonage(VONAGE_SECRET, unbound, 1_700_000_000)
    assert not verify_vonage(VONAGE_SECRET, unbound, 1_700_000_000, body=b"{}")
    assert not verify_vonage("another", bearer, 1_700_000_000)
    assert not verify_vonage(VONAGE_SECRET, f"Basic {VONAGE_TOKEN}", 1_700_000_000)
    assert not verify_vonage(VONAGE_SECRET, None, 1_700_000_000)


# "Webhook signing", Telnyx' documentation: timestamp, "|", body; the key is that of RFC 8032 section 7.1 (test 1).
TELNYX_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
TELNYX_KEY = base64.b64encode(
    bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
).decode()
TELNYX_BODY = b"CallSid=v3%3Aabc&From=%2B13125550100&To=%2B13125550199"


def telnyx_signature(timestamp: str, body: bytes) -> str:
    """As Telnyx signs."""
    return base64.b64encode(
        Ed25519PrivateKey.from_private_bytes(TELNYX_SEED).sign(f"{timestamp}|".encode() + body)
    ).decode()


def test_telnyx_signature_verifies() -> None:
    """The body signed with the account's key within five minutes: anything else is refused."""
    signature = telnyx_signature("1700000000", TELNYX_BODY)
    assert verify_telnyx(TELNYX_KEY, signature, "1700000000", 1_700_000_299, TELNYX_BODY)
    assert not verify_telnyx(TELNYX_KEY, signature, "1700000000", 1_700_000_301, TELNYX_BODY)
    assert not verify_telnyx(TELNYX_KEY, signature, "1700000001", 1_700_000_000, TELNYX_BODY)
    assert not verify_telnyx(TELNYX_KEY, signature, "1700000000", 1_700_000_000, TELNYX_BODY + b"&x=1")
    assert not verify_telnyx(TELNYX_KEY, signature[:-4], "1700000000", 1_700_000_000, TELNYX_BODY)
    assert not verify_telnyx(TELNYX_KEY, None, "1700000000", 1_700_000_000, TELNYX_BODY)
    assert not verify_telnyx(TELNYX_KEY, signature, None, 1_700_000_000, TELNYX_BODY)
    other = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    assert not verify_telnyx(other, signature, "1700000000", 1_700_000_000, TELNYX_BODY)


@pytest.mark.parametrize("key", ["", "abc", "MjcxYzE3", 44 * "%"])
def test_what_is_no_key_of_telnyx_is_refused(key: str) -> None:
    """A key that was cut short is noticed when the server is configured, not when somebody calls."""
    with pytest.raises(ValueError, match="is not a public key"):
        read_telnyx_key(key)


def test_a_token_that_signs_nothing_is_refused() -> None:
    """The algorithm "none" of RFC 7519 is not taken."""
    parts = ({"alg": "none"}, {"iat": 1_700_000_000})
    header, claims = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    assert not verify_vonage(VONAGE_SECRET, f"Bearer {header}.{claims}.", 1_700_000_000)


@given(st.text(), st.text(), st.text(), st.binary(max_size=40))
def test_strange_input_is_refused_and_nothing_else(first: str, second: str, third: str, body: bytes) -> None:
    """Whatever comes in the headers, the answer is no."""
    assert not verify_twilio("12345", first, second, [(third, first)], body)
    assert not verify_plivo("12345", first, second, third)
    assert not verify_vonage("12345", f"Bearer {first}.{second}.{third}", 0.0, body)
    assert not verify_telnyx(TELNYX_KEY, first, second, 0.0, body)
    assert same_secret(first, second) == (first == second)
