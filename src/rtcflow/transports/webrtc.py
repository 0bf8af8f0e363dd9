"""WebRTC: the engine, and the transport of one peer connection.

Everything of asyncio and aiortc stays in `rtcflow._engine`, which is imported when an engine is opened. The code here
runs on any anyio backend and in any thread.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from .._core.hooks import ask
from .._core.installed import check_versions
from .._core.threads import observer
from .._engine.config import IceServer, OpusConfig, VideoConfig, WebRTCConfig, read_ice_servers
from .._engine.ports import Ports, Route, ServerReport, ServerTrouble
from ..abc import MediaOffer, TransportStatistics
from ..exceptions import NegotiationTimeout, renamed
from ..frames import AudioFormat
from ..media.packets import LatestPackets
from ..media.playout import Latency
from ..protocol.json_text import scalar_text
from .linked import LinkTransport

if TYPE_CHECKING:
    from .._engine.loop_thread import LoopThread
    from .._engine.peer import LocalMedia, Peer
    from .._engine.seam.one_port import OnePort
    from ..protocol.signalling import IceCandidate

__all__ = [
    "IceServer",
    "OpusConfig",
    "Route",
    "ServerReport",
    "ServerTrouble",
    "VideoConfig",
    "WebRTCConfig",
    "WebRTCEngine",
    "WebRTCTransport",
    "open_engine",
    "read_ice_servers",
]


@asynccontextmanager
async def open_engine(config: WebRTCConfig | None = None) -> AsyncIterator[WebRTCEngine]:
    """Open an engine: one thread that carries any number of WebRTC connections.

    Yields:
        The engine. At the end of the block every open transport is closed, and the thread has ended. An error in the
        thread itself is raised there.

    Raises:
        ValueError: No network interface of this machine has a name in `WebRTCConfig.interfaces`.
        OSError: `WebRTCConfig.port` is in use.
    """
    engine = WebRTCEngine(config)
    try:
        await engine._open()
        yield engine
    finally:
        await engine.aclose()


class WebRTCEngine:
    """Makes WebRTC transports; see `open_engine`.

    Args:
        config: The options of all its connections.
    """

    def __init__(self, config: WebRTCConfig | None = None) -> None:
        self.config: WebRTCConfig = config or WebRTCConfig()
        self._thread: LoopThread | None = None
        self._port: OnePort | None = None
        self._switch_interval: float | None = None

    async def _open(self) -> None:
        if observer.get() is not None:
            raise RuntimeError(
                "WebRTC lives in real time, and this loop's time is virtual; "
                "in virtual time use rtcflow.memory_pair(), for WebRTC a backend in real time"
            )
        check_versions("aiortc", "av", "anyio", "cryptography", "pyopenssl")
        import rtcflow._engine.peer  # noqa: F401  half a second of imports, so that no call waits for them

        from .._engine.loop_thread import LoopThread
        from .._engine.seam.gathering import host_addresses

        host_addresses(self.config)  # raises now what would otherwise fail in each call
        self._thread = LoopThread(use_uvloop=self.config.use_uvloop)  # before it is open, so that `aclose` finds it
        await self._thread.open()
        if self.config.port is not None:
            await self._thread.call(self._open_port, self._thread, self.config.port, host_addresses(self.config))
        if self.config.switch_interval is not None:
            self._switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(self.config.switch_interval)

    async def _open_port(self, thread: LoopThread, number: int, addresses: list[str]) -> None:
        from .._engine.seam import seam
        from .._engine.seam.one_port import open_port

        if not seam.can_gather():
            raise RuntimeError("port=... does not work with this release of aioice, which is not known; leave it out")
        self._port = await open_port(number, addresses, thread.shared)

    @property
    def is_open(self) -> bool:
        """Whether transports can be made: until `aclose`, or until the thread fails."""
        return self._thread is not None and self._thread.is_open

    async def wait_ended(self) -> None:
        """Wait until the thread has ended, by itself or because of `aclose`. Safe to cancel. A checkpoint."""
        if self._thread is None:
            await anyio.lowlevel.checkpoint()
        else:
            await self._thread._gone.wait()

    async def next_config(self) -> WebRTCConfig:
        """The options of one connection: `config`, with what the function in `WebRTCConfig.ice_servers` returns now.
        A checkpoint.

        `answer` and `offer` ask for it by themselves.

        Raises:
            Exception: What that function raises.
            TypeError: The function returned something else.
            ValueError: A server's URL is invalid, or `relay_only` has no relay.
        """
        servers = self.config.ice_servers
        if callable(servers):
            return self.config.with_servers(await ask(servers))
        await anyio.lowlevel.checkpoint()
        return self.config

    async def answer(
        self,
        offer_sdp: str,
        *,
        audio: bool = True,
        video: bool = True,
        send: bool = True,
        receive: bool = True,
        latency: Latency = Latency.BUFFERED,
        config: WebRTCConfig | None = None,
    ) -> WebRTCTransport:
        """Answer a peer's offer. A checkpoint.

        The answer holds all our candidates, and the connection is being made from now on. The caller closes the
        transport. Cancelling this leaves nothing behind.

        Args:
            offer_sdp: The offer.
            audio: Whether audio is served. If not, an offered audio section is answered with "inactive".
            video: The same for video.
            send: Whether we send media.
            receive: Whether we want the peer's media.
            latency: What to do with a standing backlog of audio for the peer.
            config: The result of `next_config`. Pass it if you must tell errors of `next_config` from those of the
                offer.

        Raises:
            InvalidOffer: The offer is invalid; the message says what is wrong with it.
            UnsupportedMedia: The offer is valid, but nothing in it can be served.
            anyio.ClosedResourceError: The engine is closed.
        """
        from .._engine.peer import LocalMedia

        transport = self._transport(
            latency, LocalMedia(audio, video, True, send, receive), config or await self.next_config()
        )
        await transport._begin(transport._peer.answer, offer_sdp, transport._local)
        transport.remote_sdp = offer_sdp
        return transport

    async def offer(
        self,
        *,
        audio: bool = True,
        video: bool = False,
        messages: bool = True,
        send: bool = True,
        receive: bool = True,
        latency: Latency = Latency.BUFFERED,
    ) -> WebRTCTransport:
        """Make an offer: be the calling side. A checkpoint.

        Send `WebRTCTransport.offer_sdp` to the peer and hand its answer to `WebRTCTransport.accept_answer`. The caller
        closes the transport. Cancelling this leaves nothing behind.

        Args:
            audio: Whether audio is offered.
            video: Whether video is offered.
            messages: Whether a message channel is opened.
            send: Whether we send media.
            receive: Whether we want the peer's media.
            latency: As for `answer`.
        """
        from .._engine.peer import LocalMedia

        if not (audio or video) or not (send or receive):
            raise ValueError("nothing is offered; expected audio or video, and send or receive")
        local = LocalMedia(audio, video, messages, send, receive)
        transport = self._transport(latency, local, await self.next_config())
        transport.offer = MediaOffer(audio and receive, audio and send, video and receive, video and send, messages)
        await transport._begin(transport._peer.propose, transport._local)
        return transport

    def _transport(self, latency: Latency, local: LocalMedia, config: WebRTCConfig) -> WebRTCTransport:
        if self._thread is None:
            raise anyio.ClosedResourceError
        from .._engine.peer import Peer

        ports = Ports(latency)
        return WebRTCTransport(self._thread, Peer(self._thread, config, ports, self._port), ports, local)

    async def aclose(self) -> None:
        """Close every transport that is still open, and end the thread. Idempotent, and not cut short by cancelling.

        A checkpoint.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            await anyio.lowlevel.checkpoint()
            return
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
        await thread.aclose()


class WebRTCTransport(LinkTransport):
    """One peer connection. Made by `WebRTCEngine.answer` and `WebRTCEngine.offer`.

    Attributes:
        answer: The SDP to send to the peer, if this side answers; otherwise "".
        offer_sdp: The SDP to send to the peer, if this side offers; otherwise "".
        remote_sdp: The peer's own SDP, as it came; "" before that.
    """

    kind = "webrtc"

    @renamed(room="thread", wish="local")
    def __init__(self, thread: LoopThread, peer: Peer, ports: Ports, local: LocalMedia) -> None:
        super().__init__(ports)
        self.answer: str = ""
        self.offer_sdp: str = ""
        self.remote_sdp: str = ""
        self.offer: MediaOffer = peer.offer
        self.packets: LatestPackets | None = ports.packets
        self._thread, self._peer, self._ports, self._local = thread, peer, ports, local

    def __repr__(self) -> str:
        state = str(self.route or "connecting") if self._state == "open" else self._state
        return f"<WebRTCTransport {state}>"

    @property
    def route(self) -> Route | None:
        """The candidate pair that carries the connection; None before it is connected."""
        return self._ports.route

    @property
    def ice_servers(self) -> tuple[ServerReport, ...]:
        """The result of asking each of our STUN and TURN servers, once the answer or offer was made."""
        return tuple(self._ports.asked.values())

    async def _begin(self, negotiate: Any, *args: Any) -> None:
        peer = self._peer
        try:
            sdp = await self._thread.call(negotiate, *args, context=peer.family.context)
        except BaseException:
            await self._free()
            raise
        if negotiate == peer.answer:
            self.answer, self.offer = sdp, peer.offer
        else:
            self.offer_sdp = sdp

    async def renegotiate(self, offer_sdp: str) -> str:
        """Answer a further offer of the same peer, which adds tracks or takes them away. Media goes on meanwhile.
        A checkpoint.

        This sets `offer`, `remote_sdp` and `answer`, and returns `answer`. Call `Connection.begin_media` after it for
        new media.

        Raises:
            InvalidOffer: The offer is invalid, or does not fit what was agreed on.
            UnsupportedMedia: Nothing in it can be served.
            ConnectionExists: The offer is not of this peer. It has neither this ICE session's credentials, nor new ones
                with the same certificate (a restart).
        """
        peer = self._peer
        self.answer = await self._thread.call(peer.renegotiate, offer_sdp, self._local, context=peer.family.context)
        self.offer, self.remote_sdp = peer.offer, offer_sdp
        return self.answer

    async def accept_answer(self, sdp: str) -> None:
        """Take the peer's answer to our offer; the connection is being made from now on. A checkpoint.

        Raises:
            InvalidOffer: The answer is invalid, or does not fit the offer.
            UnsupportedMedia: The peer has refused everything.
            LocalProtocolError: An answer was accepted before, or this side did not offer.
        """
        await self._thread.call(self._peer.accept_answer, sdp, self._local, context=self._peer.family.context)
        self.offer = self._peer.offer
        self.remote_sdp = sdp

    async def add_candidate(self, candidate: IceCandidate | None) -> None:
        """Add one trickled candidate of the peer; None says that no more will come. Does not wait for its effect.
        A checkpoint.

        A candidate that cannot be used (TCP, an unknown type) is ignored, and so is one that comes after the end.

        Raises:
            InvalidOffer: The peer has sent too many.
        """
        if candidate is None or candidate.usable:
            await self._thread.call(self._peer.add_candidate, candidate, context=self._peer.family.context)
        else:
            await anyio.lowlevel.checkpoint()

    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:
        from .._engine.audio import send_format
        from .._engine.opus import decoded_rate

        receive = AudioFormat(decoded_rate(self._peer.audio_codec, receive.sample_rate), receive.layout)
        send = send_format(send)
        self.audio_out.open(send)
        self._ports.receive = receive
        return receive, send

    async def wait_connected(self) -> None:
        try:
            await super().wait_connected()
        except anyio.BrokenResourceError:
            if isinstance(error := self._ports.error, NegotiationTimeout):
                raise NegotiationTimeout(error.phase, error.timeout) from None
            raise

    async def wait_messages_open(self) -> None:
        await self._ports.messages_open.wait()

    def send_message_nowait(self, message: str) -> None:
        if self._ports.closed:
            raise anyio.ClosedResourceError
        self._peer.messages.send_nowait(scalar_text(message))

    async def aclose(self) -> None:
        self._ports.close()
        try:
            await self._thread.call(self._peer.close)
        except anyio.ClosedResourceError:  # the engine's thread has ended, and everything in it
            await anyio.lowlevel.cancel_shielded_checkpoint()
        except BaseException:
            await self._free()
            raise

    async def _free(self) -> None:
        """Free everything at once. Cancelling does not cut this short."""
        self._ports.close()
        with suppress(anyio.ClosedResourceError):  # the engine's thread has ended, and everything in it
            await self._thread.complete(_close_at_once, self._peer)

    def statistics(self) -> TransportStatistics:
        figures, peer = self._ports.audio_figures, self._peer
        details = {
            "packets_received": float(figures.received),
            "packets_undecodable": float(figures.undecodable),
            "binary_messages_ignored": float(self._ports.message_figures.binary_ignored),
        }
        details |= peer.figures()
        details["datagrams_received"] = float(peer.datagrams_received())
        return TransportStatistics(
            audio_in=self.audio_in.statistics(),
            audio_out=self.audio_out.statistics(),
            video_in=self.video_in.statistics(),
            video_out=self.video_out.statistics(),
            messages_in=self.messages_in.statistics(),
            round_trip=peer.round_trip(),
            packets_lost=figures.lost,
            packets_concealed=figures.concealed,
            details=details,
        )


async def _close_at_once(peer: Peer) -> None:
    await peer.close(goodbye=False)
