"""URLs of STUN and TURN servers (RFC 7064, RFC 7065)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PORTS: Final = {"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349}
"""The default ports (RFC 7064 section 3.2, RFC 7065 section 3.2)."""

_URL: Final = re.compile(r"(stuns?|turns?):([^\s:?/@]+)(?::(\d{1,5}))?(?:\?transport=(\w+))?", re.ASCII)


class IceUrl(NamedTuple):
    """What such a URL says.

    Attributes:
        scheme: ``"stun"``, ``"stuns"``, ``"turn"`` or ``"turns"``.
        host: A name or an IPv4 address.
        port: UDP's or TCP's.
        transport: ``"udp"`` or ``"tcp"``, between us and the server.
    """

    scheme: str
    host: str
    port: int
    transport: str

    @property
    def relays(self) -> bool:
        """Whether it is a TURN server."""
        return self.scheme.startswith("turn")

    @property
    def secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.scheme.endswith("s")


def parse_ice_url(url: str) -> IceUrl:
    """Read the URL of a STUN or TURN server.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise ValueError(
            f"{url!r} is no URL of a STUN or TURN server; write for example 'stun:stun.example.org:3478' or "
            "'turn:turn.example.org?transport=tcp'"
        )
    scheme, host, port, transport = match.groups()
    number = int(port or PORTS[scheme])
    if not 1 <= number <= 65535:
        raise ValueError(f"{url!r} has port {number}; expected 1 to 65535")
    if scheme.startswith("stun") and transport is not None:
        raise ValueError(f"{url!r}: only TURN URLs have ?transport= (RFC 7064 section 3.1)")
    if transport not in {None, "udp", "tcp"}:
        raise ValueError(f"{url!r} has transport={transport}; expected udp or tcp")
    return IceUrl(scheme, host, number, transport or ("tcp" if scheme.endswith("s") else "udp"))
