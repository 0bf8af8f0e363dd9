"""Ids of calls that say where the call lives, and cannot be made up by a stranger. Pure.

An id that a node makes is ``{node}.{random}.{tag}``. The tag is an HMAC over the rest, with a key that the node makes
at its start and tells the other nodes over NATS. So each node can route the id without a table, and an id that
somebody made up is not routed to a node that is known. One that is not known may have just started: it is asked over
NATS, if it is there. A node has another name and another key after a restart: ids from before never reach it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final, NamedTuple

NAME_BYTES: Final = 9
RANDOM_BYTES: Final = 18
TAG_BYTES: Final = 15
"""120 bits: a guess succeeds once in 2**120 tries."""
KEY_BYTES: Final = 32

# All three counts are multiples of three, so base64 needs no padding.
_NODE, _RANDOM, _TAG = (f"[A-Za-z0-9_-]{{{count * 4 // 3}}}" for count in (NAME_BYTES, RANDOM_BYTES, TAG_BYTES))
_FORM: Final = re.compile(rf"(?P<signed>(?P<node>{_NODE})\.{_RANDOM})\.(?P<tag>{_TAG})")


class RoutedId(NamedTuple):
    """The parts of an id that has the form of one of ours; the tag is not checked yet."""

    node: str
    signed: str
    tag: str


def new_name() -> str:
    """A name for a node, for one life of its process."""
    return secrets.token_urlsafe(NAME_BYTES)


def new_key() -> bytes:
    """A key to sign ids with."""
    return secrets.token_bytes(KEY_BYTES)


def make_id(node: str, key: bytes) -> str:
    """A new id of a call on `node`, which nobody can guess."""
    signed = f"{node}.{secrets.token_urlsafe(RANDOM_BYTES)}"
    return f"{signed}.{_tag(signed, key)}"


def read_id(webrtc_id: str) -> RoutedId | None:
    """The parts of an id, or None if it does not have the form of `make_id`. Callers may choose any other id."""
    found = _FORM.fullmatch(webrtc_id)
    return None if found is None else RoutedId(found["node"], found["signed"], found["tag"])


def is_signed(found: RoutedId, key: bytes) -> bool:
    """Whether the node with this key made the id."""
    return hmac.compare_digest(_tag(found.signed, key).encode(), found.tag.encode())


def _tag(signed: str, key: bytes) -> str:
    digest = hmac.digest(key, signed.encode(), hashlib.sha256)[:TAG_BYTES]
    return base64.urlsafe_b64encode(digest).decode()
