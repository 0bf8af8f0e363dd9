"""Gathering candidates: which sockets a peer opens, which servers it asks, and what it offers. Runs in the engine's
thread.

This replaces aioice's own gathering, which has no port range, no public address and no choice of interfaces. It also
takes the first server of each kind only, waits 5 s for the slowest, and does not tell what went wrong.
"""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import ipaddress
import logging
import secrets
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import aioice
import ifaddr
from aioice import ice as stock
from aioice import stun
from aioice.candidate import candidate_foundation, candidate_priority
from aiortc import RTCPeerConnection

from ...exceptions import TooManyConnections
from ...protocol.ice import IceUrl
from ..config import IceServer, WebRTCConfig
from ..ports import ServerReport, ServerTrouble
from . import seam
from .gate import Contact, Gate
from .one_port import OnePort, give_name

_log = logging.getLogger("rtcflow.engine")

OTHERS: Final = 0.25
"""Seconds that a STUN server's answers to further addresses may come after its first: some have no way out."""

_RECEIVE_BUFFER: Final = 262144
"""Bytes; aioice's own choice."""

_TAKEN: Final = {errno.EADDRINUSE, errno.EACCES}
_STUN_CODES: Final = {401: ServerTrouble.WRONG_CREDENTIALS, 403: ServerTrouble.WRONG_CREDENTIALS}
"""RFC 8489 section 14.8, RFC 8656 section 19; every other code is a refusal."""


def install(
    connection: RTCPeerConnection,
    config: WebRTCConfig,
    asked: dict[str, ServerReport],
    contact: Contact | None = None,
    port: OnePort | None = None,
) -> bool:
    """Have the transports that `connection` has so far gather candidates as `config` says.

    Relies on: ``RTCIceTransport._connection`` is the `aioice.Connection`, beside what `seam.gather_by` relies on.

    Args:
        connection: Of aiortc's, with the transports that will be needed.
        config: The engine's options.
        asked: Gets the result of asking each server, by URL.
        contact: Is told what its sockets hear of the peer.
        port: Where the host candidates are, if all calls share one port.

    Returns:
        False if this aioice is not as we know it; then it gathers by itself, and nobody tells `contact`.
    """
    if seam.can_gather():
        if port is not None:
            for transport in seam.transports(connection):
                give_name(transport.transport._connection)
        seam.gather_by(connection, partial(_gather, config, asked, contact or Contact(), port))
        return True
    _log.warning("this aioice is not known: it gathers candidates by itself, and only ice_servers count")
    return False


def host_addresses(config: WebRTCConfig) -> list[str]:
    """The local addresses on which host candidates are gathered.

    Raises:
        ValueError: No interface has such a name.
    """
    if config.relay_only:
        return []
    if config.host_addresses is not None:
        return list(config.host_addresses)
    if config.interfaces is None:
        return [address for address in stock.get_host_addresses(use_ipv4=True, use_ipv6=True) if address != "::1"]
    adapters = {adapter.name: list(_addresses_of(adapter)) for adapter in ifaddr.get_adapters()}
    chosen = [name for name in adapters if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.interfaces)]
    if not chosen:
        raise ValueError(
            f"no network interface is called {' or '.join(map(repr, config.interfaces))}; there are "
            f"{', '.join(sorted(adapters))}"
        )
    return [address for name in chosen for address in adapters[name]]


def _addresses_of(adapter: Any) -> Iterator[str]:
    for found in adapter.ips:
        if isinstance(found.ip, str):
            yield found.ip
        elif not ipaddress.ip_address(found.ip[0]).is_link_local:  # those need a scope that candidates cannot tell
            yield found.ip[0]


async def _gather(
    config: WebRTCConfig,
    asked: dict[str, ServerReport],
    contact: Contact,
    port: OnePort | None,
    ice: Any,
    component: int,
) -> list[Any]:
    """The candidates of one component, in the order of their kinds; their sockets are `ice`'s from the first on.

    Relies on: aioice's `Candidate`; ``Connection._protocols``, which ``Connection.close`` closes;
    ``server_reflexive_candidate`` and ``relayed_candidate``.
    """
    addresses = host_addresses(config)
    candidates = []
    for address in addresses:
        if port is None:
            protocol = await _open(ice, address, config, contact)
        else:
            protocol = await port.gate(address, ice, contact)
        if protocol is not None:
            ice._protocols.append(protocol)
            protocol.local_candidate = _host(component, *protocol.transport.get_extra_info("sockname")[:2])
            candidates.append(protocol.local_candidate)
    sockets = list(ice._protocols)
    if config.public_address is not None:
        candidates += _public(config.public_address, candidates)
    if not addresses and not config.relay_only:
        _log.warning("this machine has no address but 127.0.0.1: peers are offered no host candidate")
    servers = [(server, *url) for server in config.servers for url in server.parsed_urls]
    async with asyncio.TaskGroup() as tasks:
        asking = [
            tasks.create_task(_ask(Gate(ice, contact), config, component, sockets, *server)) for server in servers
        ]
    for task in asking:
        report, found = task.result()
        asked[report.url] = report
        if report.trouble is not None:
            _log.warning("%s", report)
        candidates += [candidate for candidate in found if not _known(candidate, candidates)]
    return candidates


def _host(component: int, host: str, port: int) -> Any:
    return aioice.Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, "host"),
        host=host,
        port=port,
        type="host",
    )


async def _open(ice: Any, address: str, config: WebRTCConfig, contact: Contact) -> Gate | None:
    """A socket for host candidates on `address`; None if the system has no such address any more.

    Raises:
        TooManyConnections: No port of the range is free.
    """
    for port in _ports(config.port_range):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            opened.bind((address, port))
        except OSError as error:
            opened.close()
            if port and error.errno in _TAKEN:
                continue
            _log.info("no host candidate on %s: %s", address, error.strerror)
            return None
        _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Gate(ice, contact), sock=opened)
        protocol.listen_for_errors(opened)
        return protocol
    assert config.port_range is not None  # noqa: S101
    low, high = config.port_range
    raise TooManyConnections(high - low + 1, f"no UDP port from {low} to {high} is free; try again later")


def _ports(port_range: tuple[int, int] | None) -> Iterable[int]:
    """Every port of the range once, from anywhere in it; 0 for any port at all."""
    if port_range is None:
        return (0,)
    low, high = port_range
    first = low + secrets.randbelow(high - low + 1)
    return (*range(first, high + 1), *range(low, first))


def _public(address: str, candidates: list[Any]) -> list[Any]:
    """The candidate behind which a NAT has one of `candidates`, port for port (RFC 8445 section 5.1.1.1)."""
    version = ipaddress.ip_address(address).version
    mapped = [candidate for candidate in candidates if ipaddress.ip_address(candidate.host).version == version]
    if not mapped:
        return []
    way_out = _way_out(version)
    base = next((candidate for candidate in mapped if candidate.host == way_out), mapped[0])
    if base.host == address:
        return []
    return [
        aioice.Candidate(
            foundation=candidate_foundation("srflx", "udp", base.host),
            component=base.component,
            transport="udp",
            priority=candidate_priority(base.component, "srflx"),
            host=address,
            port=base.port,
            type="srflx",
            related_address=base.host,
            related_port=base.port,
        )
    ]


def _way_out(version: int) -> str | None:
    """The local address of the default route; nothing is sent."""
    family, anywhere = (socket.AF_INET6, "2001:db8::1") if version == 6 else (socket.AF_INET, "198.51.100.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect((anywhere, 9))
            return str(trial.getsockname()[0])
    except OSError:
        return None


def _known(candidate: Any, candidates: list[Any]) -> bool:
    return any((candidate.host, candidate.port) == (other.host, other.port) for other in candidates)


# -- servers


async def _ask(
    gate: Gate, config: WebRTCConfig, component: int, sockets: list[Any], server: IceServer, url: str, parsed: IceUrl
) -> tuple[ServerReport, list[Any]]:
    """The result of asking one server, and the candidates that it gave."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    report, found = ServerReport(url, 0.0), []
    try:
        async with asyncio.timeout(config.gather_timeout):
            if parsed.relays:
                found = [await _relay(gate, component, server, parsed, hidden=config.relay_only)]
            else:
                found = await _reflexive(parsed, sockets)
    except (OSError, stun.TransactionError, ValueError) as error:
        trouble, words = _trouble(error)
        report = replace(report, trouble=trouble, words=words)
    else:
        report = replace(report, address=(found[0].host, found[0].port) if found else None)
    return replace(report, seconds=loop.time() - began), found


async def _relay(gate: Gate, component: int, server: IceServer, url: IceUrl, *, hidden: bool) -> Any:
    """The candidate at a TURN server.

    Relies on: ``aioice.ice.relayed_candidate`` returns it with its protocol; ``Connection._protocols`` holds what is
    closed with the connection.
    """
    if url.secure and url.transport == "udp":
        raise ValueError("TURN over DTLS")
    candidate, protocol = await stock.relayed_candidate(
        component=component,
        hide_related_address=hidden,
        protocol_factory=lambda: gate,
        turn_server=(url.host, url.port),
        turn_username=server.username,
        turn_password=server.credential,
        turn_ssl=url.secure,
        turn_transport=url.transport,
    )
    gate.receiver._protocols.append(protocol)
    return candidate


async def _reflexive(url: IceUrl, sockets: list[Any]) -> list[Any]:
    """Our addresses as a STUN server sees them: of each socket from which it answers soon."""
    if url.secure:
        raise ValueError("STUN over TLS")
    if ":" in url.host:
        raise ValueError("STUN over IPv6")
    asking = [socket for socket in sockets if ipaddress.ip_address(socket.local_candidate.host).version == 4]
    if not asking:
        raise ValueError("there is no IPv4 address to ask from")
    loop = asyncio.get_running_loop()
    host = await loop.run_in_executor(None, socket.gethostbyname, url.host)
    async with asyncio.TaskGroup() as tasks:
        waiting = {tasks.create_task(_see(protocol, (host, url.port))) for protocol in asking}
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        while waiting and not any(task.result() for task in done):
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        if waiting:
            more, waiting = await asyncio.wait(waiting, timeout=OTHERS)
            done |= more
        for task in waiting:
            task.cancel()
    found = [candidate for task in done if (candidate := task.result()) is not None]
    if not found:
        raise TimeoutError
    return found


async def _see(protocol: Any, server: tuple[str, int]) -> Any:
    try:
        candidate, _ = await stock.server_reflexive_candidate(protocol, server)
    except (OSError, stun.TransactionError, KeyError):  # from this address it does not answer, or nonsense
        return None
    return candidate


def _trouble(error: Exception) -> tuple[ServerTrouble, str]:
    match error:
        case TimeoutError() | stun.TransactionTimeout():
            return ServerTrouble.NO_ANSWER, ""
        case stun.TransactionFailed():
            code, reason = error.response.attributes.get("ERROR-CODE", (0, ""))
            return _STUN_CODES.get(code, ServerTrouble.REFUSED), f"{code} {reason}".strip()
        case socket.gaierror():
            return ServerTrouble.UNKNOWN_HOST, error.strerror or ""
        case ssl.SSLError():
            return ServerTrouble.TLS, error.reason or str(error)
        case OSError():
            return ServerTrouble.UNREACHABLE, error.strerror or str(error)
    return ServerTrouble.UNSUPPORTED, str(error)
