"""Ids of calls that say where the call lives, and cannot be made up by a stranger. Pure.

An id that a node makes is ``{node}.{random}.{tag}``. The tag is an HMAC over the rest, with a key that the node makes
at its start and tells the other nodes over NATS. So each node can route the id without a table, and an id that
somebody made up is not routed. A node has another name and another key after a restart: ids from before never reach it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final, NamedTuple

NAME_BYTES: Final = 9
RANDOM_BYTES: Final = 18
TAG_BYTES: Final = 15
"""120 bits: a guess succeeds once in 2**120 tries."""
KEY_BYTES: Final = 32


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
    parts = webrtc_id.split(".")
    lengths = [_length(NAME_BYTES), _length(RANDOM_BYTES), _length(TAG_BYTES)]
    if [len(part) for part in parts] != lengths:
        return None
    return RoutedId(parts[0], f"{parts[0]}.{parts[1]}", parts[2])


def is_signed(found: RoutedId, key: bytes) -> bool:
    """Whether the node with this key made the id."""
    return hmac.compare_digest(_tag(found.signed, key).encode(), found.tag.encode())


def _tag(signed: str, key: bytes) -> str:
    digest = hmac.digest(key, signed.encode(), hashlib.sha256)[:TAG_BYTES]
    return base64.urlsafe_b64encode(digest).decode()


def _length(count: int) -> int:
    """How many characters `count` bytes have in base64 without padding; all three counts are multiples of three."""
    return count * 4 // 3
