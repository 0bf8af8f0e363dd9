"""The options of WebRTC connections. Imports neither asyncio nor aiortc."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, ulp
from operator import index
from typing import Any, Final, Literal, SupportsIndex

from ..protocol.ice import IceUrl, parse_ice_url, read_rtc_configuration

OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)
"""Sample rates that Opus encodes directly, in Hz (RFC 6716 section 2)."""


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name}={value!r}; expected a whole number, {low} to {high}")
    if not low <= index(value) <= high:
        raise ValueError(f"{name}={value!r}; expected {low} to {high}")


def _check_seconds(name: str, value: object, low: float, high: float, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}; expected {expected}")


def _check_address(name: str, value: object) -> None:
    try:
        ipaddress.ip_address(value)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"{name} has {value!r}; expected an IPv4 or IPv6 address") from None


def _check_names(name: str, value: object) -> None:
    """A sequence of strings: a string alone would be taken for its characters."""
    if isinstance(value, str):
        raise TypeError(f"{name}={value!r} is a string; write ({value!r},)")
    if not isinstance(value, Sequence):
        raise TypeError(f"{name}={value!r}; expected a list or a tuple of strings")


@dataclass(frozen=True, slots=True)
class OpusConfig:
    """How audio for the peer is encoded.

    The default complexity, ``"auto"``, is the best one while the engine has time, and 0 when the core is full. At 0 a
    core serves the most calls. The quality was measured (``nox -s bench_quality``) against aiortc's settings (voice
    mode, complexity 10, stereo, 96 kbit/s) at the same real bitrate. With time, speech at our bitrate is nearer to the
    original by both measures. These are 0.02 to 0.08 dB of log-spectral distance (1.3 to 1.7 dB), and 7 to 9 dB of
    segmental signal-to-noise ratio. At 0 it is farther by 0.4 to 0.7 dB of log-spectral distance.

    Args:
        bitrate: Bits per second and channel, 6000 to 256000, that variable bitrate aims at; speech takes about a
            fifth more. RFC 7587 section 3.1.1 recommends 16 to 20 kbit/s for wideband speech, 28 to 40 for fullband
            speech, 48 to 64 for fullband mono music.
        complexity: 0 to 10, or ``"auto"`` for 10 or 0 by the engine's load. 10 takes about 0.15 ms more for a frame
            than 0. ``"auto"`` goes to 0 when 80 % of the core is used or the engine's loop is late by 5 ms. It goes
            back to 10 when less than 45 % was used for 5 s. Nobody hears the change. 1 to 6 take a third more bits than
            0 and are no better at the same bitrate. Through FFmpeg, where libopus is not found, ``"auto"`` is 0.
        application: ``"audio"`` codes the waveform. ``"voip"`` models the voice, which is better below 30 kbit/s and
            takes three times as long. ``"lowdelay"`` looks ahead 2.5 ms instead of 6.5 ms, at lower quality. Take it if
            milliseconds count more than quality, for music played together, say, on a network with little jitter.
        fec: Send a coarse copy of each speech frame in the next packet (RFC 6716 section 2.1.7), for peers that
            lose packets. It belongs to the voice model, so choose ``"voip"``, and an `expected_loss` above 0.
        expected_loss: Percent of packets that the encoder expects to be lost.
        dtx: Send almost nothing during silence (RFC 6716 section 2.1.9).
        audio_level: Tell peers that ask for it how loud each packet is (RFC 6464). Peers that do not decode need it,
            such as conference servers and `RTCRtpReceiver.getSynchronizationSources`. Takes 10 µs a packet.
    """

    bitrate: int = 40_000
    complexity: int | Literal["auto"] = "auto"
    application: Literal["audio", "voip", "lowdelay"] = "audio"
    fec: bool = False
    expected_loss: int = 0
    dtx: bool = False
    audio_level: bool = False

    def __post_init__(self) -> None:
        _check_range("bitrate", self.bitrate, 6_000, 256_000)
        if self.complexity != "auto":
            if isinstance(self.complexity, str):
                raise ValueError(f'complexity={self.complexity!r}; expected "auto", or 0 to 10')
            _check_range("complexity", self.complexity, 0, 10)
        _check_range("expected_loss", self.expected_loss, 0, 100)
        if self.application not in {"voip", "audio", "lowdelay"}:
            raise ValueError(f'application={self.application!r}; expected "voip", "audio" or "lowdelay"')


VIDEO_CODECS: Final = ("VP8", "H264")
"""Codecs of video that are known here, by their names in SDP (RFC 7741, RFC 6184)."""


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """How video for the peer is encoded.

    The bitrate follows the path, within the bounds given here. What counts is the peer's estimate (REMB), its
    transport-wide feedback or the round trip, and the losses that it reports. If an encoder makes more, that is paid
    back before the next picture goes. So a narrow path gets fewer pictures, not older ones. A new bitrate takes a new
    encoder, which begins with a key picture. So the bitrate rises in steps.

    Args:
        codecs: Codecs in order of preference, of ``"VP8"`` and ``"H264"``. The first one that the peer offers is used.
            A codec that is not named is used only if the peer offers nothing else. Empty, the default: the peer's
            order decides.
        start_bitrate: Bits per second at first, 30,000 to 20,000,000.
        min_bitrate: Bits per second below which the encoder does not go. Below 50,000 pictures are hard to recognise.
        max_bitrate: Bits per second above which it does not go.
        threads: Threads of each encoder, 1 to 16. By default VP8 has one, because its threads wait for one another
            without rest: on a busy machine two of them take far longer than one. H.264 has as many as the picture's
            size and the machine suggest.
        max_pixels: Pixels of the largest picture that is decoded, 256 to 35,651,584; by default those of 4096 × 2304
            (ITU-T H.264 table A-1, level 5.2). Larger ones are dropped before they are decoded: a peer could make
            hundreds of megabytes out of a few bytes.

    Raises:
        TypeError: `codecs` is a string or no sequence, or a number is not whole.
        ValueError: A codec that is unknown here, or bitrates out of range or out of order.
    """

    codecs: Sequence[str] = ()
    start_bitrate: int = 300_000
    min_bitrate: int = 50_000
    max_bitrate: int = 2_500_000
    threads: int | None = None
    max_pixels: int = 36_864 * 256

    def __post_init__(self) -> None:
        _check_names("codecs", self.codecs)
        for codec in self.codecs:
            if codec not in VIDEO_CODECS:
                raise ValueError(f"codecs has {codec!r}; expected of {', '.join(map(repr, VIDEO_CODECS))}")
        for name in ("start_bitrate", "min_bitrate", "max_bitrate"):
            _check_range(name, getattr(self, name), 30_000, 20_000_000)
        if not self.min_bitrate <= self.start_bitrate <= self.max_bitrate:
            raise ValueError(
                f"start_bitrate={self.start_bitrate} is not between min_bitrate={self.min_bitrate} and "
                f"max_bitrate={self.max_bitrate}"
            )
        if self.threads is not None:
            _check_range("threads", self.threads, 1, 16)
        _check_range("max_pixels", self.max_pixels, 256, 139_264 * 256)


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server.

    Args:
        urls: One or more ``stun:``, ``turn:`` or ``turns:`` URLs (RFC 7064, RFC 7065). Each is asked.
        username: For TURN.
        credential: For TURN: the password.

    Raises:
        ValueError: A URL is not of these kinds.
    """

    urls: str | Sequence[str]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _ = self.parsed_urls

    @property
    def parsed_urls(self) -> list[tuple[str, IceUrl]]:
        """Each URL, as text and parsed."""
        return [(url, parse_ice_url(url)) for url in ([self.urls] if isinstance(self.urls, str) else self.urls)]


def read_ice_servers(configuration: Mapping[str, Any]) -> tuple[IceServer, ...]:
    """The servers of an ``RTCConfiguration``, as browsers take it: ``{"iceServers": [{"urls": ...}, ...]}``.

    Raises:
        TypeError: `configuration` has another shape.
        ValueError: A server's URL is invalid.
    """
    servers = read_rtc_configuration(configuration, "the configuration").get("iceServers", ())
    return tuple(IceServer(server["urls"], server.get("username"), server.get("credential")) for server in servers)


@dataclass(frozen=True, slots=True)
class WebRTCConfig:
    """Options of an engine; they hold for all its connections.

    Args:
        ice_servers: STUN and TURN servers. Empty by default. That is enough on a local network, and for servers with a
            public address. A client behind a NAT finds the way to such a server by itself. May be a function, sync (it
            runs in a worker thread) or async, that is called for each connection. It returns the servers, or what
            browsers take, ``{"iceServers": [...]}``. Use one for credentials that are valid for minutes.
        host_addresses: Local IP addresses to offer to peers. By default all of this machine but 127.0.0.1. For tests
            and demonstrations on one machine, write ``("127.0.0.1",)``.
        interfaces: In place of `host_addresses`: offer the addresses of the network interfaces with these names. ``*``
            and ``?`` stand for any characters, as in ``("eth0",)`` and ``("en*", "wl*")``.
        port_range: The lowest and the highest UDP port to receive media on, for firewalls and containers. A call takes
            one port for each address that is offered. By default any port that the system gives. If no port is free,
            the call is refused with `TooManyConnections`. The TURN server chooses the ports of relays.
        port: One UDP port for all calls of the engine, 1 to 65535, in place of `port_range`. It needs one rule in the
            firewall and one published port of the container. It is opened on each address that is offered, by IPv4 and
            IPv6. Each engine needs one of its own: two streams, or two worker processes, cannot share it. For servers:
            two engines that both use one port can have one call between them at a time.
        public_address: The IP address by which the world reaches this machine, if the machine itself does not have it.
            Use it behind a NAT that maps each port to the same port, as clouds and published ports of containers do.
            It is offered beside the local address of the default route (or the first address).
        relay_only: Use TURN relays only, so that no local address is shown to the peer.
        private_candidates: Whether a peer may be at an address that is not of the public internet (a local network,
            this machine). Use False for servers that only the internet calls. Then no offer can make the server send
            anything into its own network.
        gather_timeout: Seconds in which STUN and TURN servers must have answered. An answer or offer waits for them no
            longer than that.
        connect_timeout: Seconds from the answer until media must flow; after that, `NegotiationTimeout`.
        peer_timeout: Seconds of silence after which a peer counts as gone, 1 to 30 (the limit of RFC 7675). Its call
            ends then, or within two seconds if the network says that its port is unreachable. A live peer is never
            silent: it answers STUN. A peer that was cut off or stopped stays, if that was at least a
            second shorter than this.
        close_timeout: Seconds that the goodbye may take, messages under way included.
        opus: How audio is encoded.
        video: How video is encoded.
        use_uvloop: Whether the engine's thread runs uvloop; by default where it is installed.
        switch_interval: If given, `sys.setswitchinterval` is called with it while the engine is open. It is how long,
            in seconds, a thread of pure Python code may keep the others waiting. A handler that computes in Python for
            200 ms delays media by up to five of these intervals. 0.0005 keeps gaps below 40 ms and costs about 2 % more
            CPU. It changes the whole process, so by default it is not set (Python's own value is 0.005).
    """

    ice_servers: Sequence[IceServer] | Callable[[], Any] = ()
    host_addresses: Sequence[str] | None = None
    interfaces: Sequence[str] | None = None
    port_range: tuple[int, int] | None = None
    port: int | None = None
    public_address: str | None = None
    relay_only: bool = False
    private_candidates: bool = True
    gather_timeout: float = 3.0
    connect_timeout: float = 20.0
    peer_timeout: float = 10.0
    close_timeout: float = 2.0
    opus: OpusConfig = OpusConfig()
    video: VideoConfig = VideoConfig()
    use_uvloop: bool | None = None
    switch_interval: float | None = None

    def __post_init__(self) -> None:
        for name, several in (("host_addresses", self.host_addresses), ("interfaces", self.interfaces)):
            if several is not None:
                _check_names(name, several)
        if self.host_addresses is not None and self.interfaces is not None:
            raise ValueError("host_addresses and interfaces exclude each other; give one of them")
        for address in self.host_addresses or ():
            _check_address("host_addresses", address)
        if self.public_address is not None:
            _check_address("public_address", self.public_address)
        if self.port_range is not None:
            if not isinstance(self.port_range, tuple | list) or len(self.port_range) != 2:
                raise ValueError(f"port_range={self.port_range!r}; expected two ports, as in (50000, 50199)")
            low, high = self.port_range
            _check_range("port_range[0]", low, 1, 65535)
            _check_range("port_range[1]", high, low, 65535)
        if self.port is not None:
            _check_range("port", self.port, 1, 65535)
            if self.port_range is not None:
                raise ValueError("port and port_range exclude each other; give one port for all calls, or a range")
            if self.relay_only:
                raise ValueError("port has no effect with relay_only: the TURN server chooses the ports of relays")
        if not callable(self.ice_servers):
            for server in self.ice_servers:
                if not isinstance(server, IceServer):
                    raise TypeError(
                        f"ice_servers holds a {type(server).__name__}; expected IceServer(...), or "
                        "read_ice_servers({'iceServers': [...]}) of what browsers take"
                    )
            if self.relay_only and not any(url.relays for server in self.servers for _, url in server.parsed_urls):
                raise ValueError("relay_only needs a TURN server in ice_servers")
        _check_seconds("peer_timeout", self.peer_timeout, 1, 30, "1 to 30 seconds (RFC 7675 section 5.1)")
        for name in ("gather_timeout", "connect_timeout"):
            _check_seconds(name, getattr(self, name), ulp(0.0), inf, "more than 0 seconds")
        _check_seconds("close_timeout", self.close_timeout, 0, inf, "0 seconds or more")
        if self.switch_interval is not None:
            _check_seconds("switch_interval", self.switch_interval, ulp(0.0), inf, "more than 0 seconds")

    @property
    def servers(self) -> Sequence[IceServer]:
        """The ICE servers of one connection.

        Raises:
            TypeError: `ice_servers` is a function, which must be called first; see `with_servers`.
        """
        if callable(self.ice_servers):
            raise TypeError("ice_servers is a function, which is asked for each connection")
        return self.ice_servers

    def with_servers(self, found: object) -> WebRTCConfig:
        """The options for one connection, with `found`, the result of the function in `ice_servers`.

        Raises:
            TypeError: The function returned something else.
            ValueError: A server's URL is invalid, or `relay_only` has no relay.
        """
        if isinstance(found, list | tuple):
            return replace(self, ice_servers=tuple(found))
        return replace(self, ice_servers=read_ice_servers(read_rtc_configuration(found, "what ice_servers() returned")))
