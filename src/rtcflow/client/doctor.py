"""Why a call to a server works, or does not: what `rtcflow doctor` finds out, and says in plain words.

`examine` places a call as a browser would, and notes the result of each step. It uses the ICE servers (and
``iceTransportPolicy``) that the server tells its callers. `explain` is pure: it makes sentences of what was found.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from .._core.urls import shown_url
from .._engine import libopus
from ..exceptions import NegotiationError, NegotiationTimeout, RemoteProtocolError
from ..frames import AudioFormat
from ..protocol.ice import parse_ice_url
from ..protocol.sdp import read_candidates
from ..protocol.signalling import IceCandidate
from ..transports.webrtc import (
    Route,
    ServerReport,
    ServerTrouble,
    WebRTCConfig,
    WebRTCTransport,
    open_engine,
    read_ice_servers,
)
from .webrtc import connect, get_configuration

__all__ = ["DoctorReport", "examine", "explain"]

TIMEOUT: Final = 10.0
"""Seconds for each step: the server's answers, the ICE servers' answers, the connection."""


@dataclass(slots=True)
class DoctorReport:
    """What was found out about calling a server.

    Attributes:
        url: The server.
        relay_only: Whether host candidates were forbidden: by us, or by the server (`policy`).
        refused: Why there was no answer to the offer, in words; "" if there was one.
        ice_servers: The results of asking the ICE servers that the server tells its callers.
        ours: Our candidates.
        theirs: The server's.
        route: The candidate pair in use, if there was a connection.
        setup: Seconds from the server's answer until media could flow, if there was a connection.
        phase: What did not finish: ``"ice"`` or ``"dtls"``; "" if all did.
        problems: What is wrong, a sentence or two each, with what to do about it.
        notes: What is not wrong, but good to know.
        policy: Whether the server tells its callers to use relays only (``iceTransportPolicy``).
        opus: The Opus library of this machine, "libopus 1.5.2". None if Opus goes through FFmpeg.
    """

    url: str
    relay_only: bool = False
    refused: str = ""
    ice_servers: tuple[ServerReport, ...] = ()
    ours: Sequence[IceCandidate] = ()
    theirs: Sequence[IceCandidate] = ()
    route: Route | None = None
    setup: float | None = None
    phase: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    policy: bool = False
    opus: str | None = field(default_factory=libopus.version)

    @property
    def connected(self) -> bool:
        """Whether media could flow."""
        return self.setup is not None

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can carry it."""

        def candidates(found: Sequence[IceCandidate]) -> list[dict[str, Any]]:
            return [{"type": found.type, "address": found.ip, "port": found.port} for found in found]

        return {
            "url": shown_url(self.url),
            "connected": self.connected,
            "relay_only": self.relay_only,
            "policy": "relay" if self.policy else "all",
            "opus": self.opus,
            "refused": self.refused,
            "ice_servers": [
                asdict(report) | {"trouble": report.trouble and report.trouble.name.lower()}
                for report in self.ice_servers
            ],
            "ours": candidates(self.ours),
            "theirs": candidates(self.theirs),
            "route": None if self.route is None else asdict(self.route),
            "setup": self.setup,
            "phase": self.phase,
            "problems": self.problems,
            "notes": self.notes,
        }


async def examine(
    url: str, *, headers: Mapping[str, str] | None = None, relay_only: bool = False, timeout: float = TIMEOUT
) -> DoctorReport:
    """Call the server at `url`, hang up as soon as media could flow, and say what was found. A checkpoint.

    As in a browser, the server's own settings count: its ICE servers, and whether only relays may be used.

    Args:
        url: Where its stream is mounted.
        headers: For its ``authorize``.
        relay_only: Forbid host candidates: does the call work for those who need TURN?
        timeout: Seconds for each step.

    Raises:
        ValueError: `url` is not an http or https URL.
    """
    report = DoctorReport(url, relay_only)
    try:
        told = await get_configuration(url, headers=headers, timeout=timeout)
        report.policy = told["rtcConfiguration"].get("iceTransportPolicy") == "relay"
        report.relay_only = relay_only or report.policy
        config = _config(told, relay_only=report.relay_only, policy=report.policy, timeout=timeout)
        video = told.get("modality") == "video"
        async with (
            open_engine(config) as engine,
            connect(url, audio=not video, video=video, headers=headers, timeout=timeout, engine=engine) as call,
        ):
            await _wait_connected(call, report)
    except (ConnectionError, NegotiationError, RemoteProtocolError) as error:
        report.refused = _refusal(error)
    report.problems, report.notes = explain(report)
    return report


def _config(told: Mapping[str, Any], *, relay_only: bool, policy: bool, timeout: float) -> WebRTCConfig:
    try:
        servers = read_ice_servers(told["rtcConfiguration"])
    except (TypeError, ValueError) as error:
        raise RemoteProtocolError(f"the ICE servers that it tells its callers cannot be used: {error}") from None
    if relay_only and not any(url.relays for server in servers for _, url in server.parsed_urls):
        told_so = (
            "its callers are told to use relays only (iceTransportPolicy), and" if policy else "its callers are told"
        )
        raise RemoteProtocolError(f"{told_so} of no TURN server, so there is no relay to try")
    return WebRTCConfig(
        ice_servers=servers, relay_only=relay_only, gather_timeout=min(timeout, 5.0), connect_timeout=timeout
    )


def _refusal(error: Exception) -> str:
    status = error.status if isinstance(error, NegotiationError) else 0
    if status in {401, 403}:
        return f"{error}; if it wants credentials, give them with --header"
    if status == 404:
        return f"{error}; no stream is mounted at this path"
    return str(error)


async def _wait_connected(call: WebRTCTransport, report: DoctorReport) -> None:
    report.ice_servers = call.ice_servers
    report.ours, report.theirs = read_candidates(call.offer_sdp), read_candidates(call.remote_sdp)
    if not report.ours or not report.theirs:
        report.phase = "ice"  # what cannot come need not be waited for
        return
    began = anyio.current_time()
    call.start(AudioFormat(48000), AudioFormat(48000))
    try:
        await call.wait_connected()
    except NegotiationTimeout as error:
        report.phase = error.phase
    except anyio.BrokenResourceError as error:
        report.phase = "dtls" if "DTLS" in str(error.__cause__) else "ice"
    else:
        report.setup, report.route = anyio.current_time() - began, call.route


# -- in words


def explain(report: DoctorReport) -> tuple[list[str], list[str]]:
    """What is wrong, and what is good to know, in sentences."""
    problems = [_about_server(server) for server in report.ice_servers if server.trouble is not None]
    notes: list[str] = []
    if report.refused:
        problems.insert(0, report.refused[:1].upper() + report.refused[1:].rstrip(".") + ".")
    elif report.connected:
        notes += _about_success(report)
    elif report.phase == "dtls":
        problems.append(
            "The two sides reach one another, but could not agree on encryption (DTLS). Either something on the way "
            "changes or drops large UDP packets, or one side's certificate is not the one of its offer."
        )
    else:
        problems.append(_about_failure(report))
    return problems, notes


def _about_success(report: DoctorReport) -> list[str]:
    notes = []
    if report.policy:
        notes.append("The server tells its callers to use TURN relays only (iceTransportPolicy).")
    if report.route is not None and "relay" in {report.route.local_type, report.route.remote_type}:
        notes.append("Media goes over a TURN relay.")
    if not any(_relays(server) for server in report.ice_servers):
        notes.append(
            "Callers are told of no TURN server: those whose network lets no UDP through to this server cannot call. "
            "Give one by Stream(rtc_configuration=...)."
        )
    return notes


def _about_server(server: ServerReport) -> str:
    """Why an ICE server did not help, and what to do."""
    url, what = parse_ice_url(server.url), "TURN" if _relays(server) else "STUN"
    words = f" ({server.words})" if server.words else ""
    match server.trouble:
        case ServerTrouble.WRONG_CREDENTIALS:
            return (
                f"The TURN server {server.url} refused the credentials{words}: the name, the password or the shared "
                "secret is wrong, or their time is over; compare the clocks of the two machines."
            )
        case ServerTrouble.NO_ANSWER if url.transport == "udp":
            advice = " Try it with ?transport=tcp, or turns:." if what == "TURN" else ""
            return (
                f"The {what} server {server.url} did not answer within {server.seconds:.1f} s: it is down, or UDP to "
                f"port {url.port} is blocked on the way.{advice}"
            )
        case ServerTrouble.NO_ANSWER:
            return f"The {what} server {server.url} did not answer within {server.seconds:.1f} s."
        case ServerTrouble.UNKNOWN_HOST:
            return f"The {what} server {server.url}: there is no host of that name{words}."
        case ServerTrouble.UNREACHABLE:
            return f"The {what} server {server.url} cannot be reached{words}: nothing listens there, or it is blocked."
        case ServerTrouble.TLS:
            return f"The {what} server {server.url} and this machine could not agree on TLS{words}."
        case ServerTrouble.REFUSED:
            return f"The {what} server {server.url} refused{words}."
    return f"The {what} server {server.url} cannot be tried from here{words}; browsers may know how."


def _about_failure(report: DoctorReport) -> str:
    """Why no pair of candidates worked."""
    ours, theirs = _usable(report.ours), _usable(report.theirs)
    working = [server for server in report.ice_servers if _relays(server) and server.trouble is None]
    if not ours and report.relay_only:
        return "Only relays were allowed, and no TURN server gave one: there was no candidate to offer."
    if not ours:
        return "This machine has no network address but 127.0.0.1, so there was no candidate to offer."
    if not theirs:
        return (
            "The server offered no candidate. Either it has no network address but 127.0.0.1, or only relays are "
            "allowed there and its TURN servers failed (its log says which)."
        )
    if not {ipaddress.ip_address(found.ip).version for found in ours} & {
        ipaddress.ip_address(found.ip).version for found in theirs
    }:
        return (
            "The two sides have no kind of address in common: one offers IPv4 and the other IPv6 only. A TURN server "
            "on the one with both would help."
        )
    where = ", ".join(dict.fromkeys(found.ip for found in theirs))
    host = urlsplit(report.url).hostname or ""
    if all(_inside(found.ip) for found in theirs) and not _inside(host):
        return (
            f"The server offered addresses of its own network only ({where}), which cannot be reached from here. If it "
            f"is in a container or behind a NAT, tell it the address by which the world reaches it: "
            "WebRTCConfig(public_address=...), with a port_range that is let through. Or give it a TURN server."
        )
    ports = ", ".join(f"{found.ip}:{found.port}" for found in theirs)
    blocked = f"No answer came by UDP from what the server offered ({ports}): UDP is blocked on the way"
    if working:
        return (
            f"{blocked}, and from the TURN relay, too. Does the server's firewall let UDP in, to its port_range, from "
            "the relay?"
        )
    return (
        f"{blocked}, by the server's firewall (open the ports of its WebRTCConfig(port_range=...)) or by this side's. "
        "A TURN server that both sides reach would carry the call: Stream(rtc_configuration=...)."
    )


def _relays(server: ServerReport) -> bool:
    return parse_ice_url(server.url).relays


def _usable(candidates: Sequence[IceCandidate]) -> list[IceCandidate]:
    """Those whose addresses are told."""
    return [found for found in candidates if found.usable and not found.ip.lower().endswith(".local")]


def _inside(host: str) -> bool:
    """Whether `host` is an address of a private network, or of this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_private or address.is_loopback or address.is_link_local
