"""STUN and TURN servers: their URLs (RFC 7064, RFC 7065), and the configuration that browsers take."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .json_text import check_json

PORTS: Final = {"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349}
"""The default ports (RFC 7064 section 3.2, RFC 7065 section 3.2)."""

_URL: Final = re.compile(
    r"(stuns?|turns?):(\[[0-9A-Fa-f:.]+\]|[^\s:?/@\[\]]+)(?::(\d{1,5}))?(?:\?transport=(\w+))?", re.ASCII
)


class IceUrl(NamedTuple):
    """What such a URL says.

    Attributes:
        scheme: ``"stun"``, ``"stuns"``, ``"turn"`` or ``"turns"``.
        host: A name, or an IPv4 or IPv6 address (without the brackets that it has in the URL).
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
        ValueError: It is not such a URL; the text says what to write.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise ValueError(
            f"{url!r} is not the URL of a STUN or TURN server; write for example 'stun:stun.example.org:3478' or "
            "'turn:turn.example.org?transport=tcp'"
        )
    scheme, host, port, transport = match.groups()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(
                f"{url!r} has [{host}], which is not an IPv6 address; write for example [2001:db8::1]"
            ) from None
    number = int(port or PORTS[scheme])
    if not 1 <= number <= 65535:
        raise ValueError(f"{url!r} has port {number}; expected 1 to 65535")
    if scheme.startswith("stun") and transport is not None:
        raise ValueError(f"{url!r}: only TURN URLs have ?transport= (RFC 7064 section 3.1)")
    if transport not in {None, "udp", "tcp"}:
        raise ValueError(f"{url!r} has transport={transport}; expected udp or tcp")
    return IceUrl(scheme, host, number, transport or ("tcp" if scheme.endswith("s") else "udp"))


def read_rtc_configuration(given: object, name: str = "rtc_configuration") -> dict[str, Any]:
    """What browsers give to their ``RTCPeerConnection`` (``RTCConfiguration``), with a list of servers or none.

    `None` counts as an empty configuration. A single server becomes a list of one. URLs are not checked: browsers may
    know more of them than we do.

    Args:
        given: What an application wrote.
        name: Of the option, for errors; none of them shows a name or password.

    Raises:
        TypeError: It is not a configuration.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} is a {type(given).__name__}; expected a dict such as {_EXAMPLE}")
    configuration = dict(given)
    if "iceServers" in configuration:
        servers = configuration["iceServers"]
        if isinstance(servers, Mapping):
            servers = [servers]
        elif not isinstance(servers, list | tuple | None):
            raise TypeError(f"{name}: iceServers is a {type(servers).__name__}; expected a list, as in {_EXAMPLE}")
        configuration["iceServers"] = [_read_server(server, name) for server in servers or ()]
    try:
        check_json(configuration)
    except TypeError:
        raise TypeError(
            f"{name} is sent to browsers as JSON, and holds what cannot be: use texts and finite numbers"
        ) from None
    return configuration


_EXAMPLE: Final = "{'iceServers': [{'urls': 'turn:turn.example.org', 'username': ..., 'credential': ...}]}"


def _read_server(server: object, name: str) -> dict[str, Any]:
    if not isinstance(server, Mapping):
        raise TypeError(f"{name}: iceServers holds a {type(server).__name__}; expected dicts, as in {_EXAMPLE}")
    urls = server.get("urls")
    if not urls or not (isinstance(urls, str) or (isinstance(urls, list | tuple) and all(map(_is_text, urls)))):
        raise TypeError(f"{name}: one of iceServers has no urls; expected a text or a list of texts, as in {_EXAMPLE}")
    for key in ("username", "credential"):
        if not isinstance(server.get(key), str | None):
            raise TypeError(
                f"{name}: the {key} of one of iceServers is a {type(server[key]).__name__}; expected a text"
            )
    return dict(server)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
