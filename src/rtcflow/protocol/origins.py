"""Which web pages may call: the origin of a request (RFC 6454) against its host and an allow-list.

Browsers say in `Origin` which site's script makes a request: always on a WebSocket's handshake and on a POST.
Other clients send no origin, or any that they like. So origins protect the users of browsers; `authorize` protects the
server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
"""In an allow-list: every origin."""

_PORTS: Final = {"http": 80, "https": 443}


def read_allow_list(origins: Iterable[str]) -> frozenset[str]:
    """An allow-list, checked and with every origin written in one way.

    Raises:
        ValueError: One of them is not an origin; the message says what to write.
        TypeError: It is a string, which would be a list of letters.
    """
    if isinstance(origins, str):
        raise TypeError(f"allowed_origins={origins!r} must be a list; write allowed_origins=[{origins!r}]")
    found = set()
    for origin in origins:
        normal = origin if origin in {ANY, "null"} else _normalise(origin)
        if normal is None:
            raise ValueError(
                f"{origin!r} is not an origin; write for example 'https://app.example.org' (no path), or '*'"
            )
        found.add(normal)
    return frozenset(found)


def is_allowed(origin: str, host: str | None, allowed: frozenset[str]) -> bool:
    """Whether a page of `origin` may make a request.

    Args:
        origin: The request's `Origin` header.
        host: Its `Host` header: a page of that very host and port may.
        allowed: What `read_allow_list` returned.
    """
    if ANY in allowed or origin in allowed:
        return True
    normal = _normalise(origin)
    if normal is None:  # also "null": a sandboxed frame, or a page from a file
        return False
    scheme = normal.partition(":")[0]
    return normal in allowed or (host is not None and normal == _normalise(f"{scheme}://{host}"))


def _normalise(origin: str) -> str | None:
    """Lower case, and no port where it is the scheme's own; None if it is not the origin of a web page."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or origin.count("/") != 2:
        return None
    if parts.query or parts.fragment:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in {None, _PORTS[parts.scheme]} else f":{port}")
