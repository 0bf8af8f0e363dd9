"""One peer: an RTCPeerConnection from its first description to its last task. Lives in the engine's thread.

`answer` or `propose` opens a peer, once, and `close` closes it. All that happens in between reaches the outside through
`Ports`. The end has exactly one way there, `_end`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCDtlsTransport,
    RTCIceCandidate,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import OperationError
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from ..abc import MediaOffer
from ..exceptions import ConnectionExists, InvalidOffer, LocalProtocolError, NegotiationTimeout, UnsupportedMedia
from ..protocol.messages import MAX_MESSAGE_SIZE
from ..protocol.signalling import IceCandidate
from . import audio, offers, video
from .config import IceServer, WebRTCConfig
from .liveness import TICKS, Liveness, Verdict
from .loop_thread import Family, LoopThread
from .messages import LABEL, MessageChannel
from .opus import RTP_RATE
from .ports import Ports
from .seam import feedback, gathering, restart, seam
from .seam.gate import Contact
from .seam.one_port import OnePort
from .seam.pictures import encode_pictures

_log = logging.getLogger("rtcflow.engine")


@dataclass(frozen=True, slots=True)
class LocalMedia:
    """What this side is willing to do.

    Attributes:
        audio: Audio at all.
        video: Video at all.
        messages: To open a message channel (when offering; what the peer opens is always taken).
        send: To send media.
        receive: To receive media.
    """

    audio: bool = True
    video: bool = True
    messages: bool = True
    send: bool = True
    receive: bool = True

    def wants(self, kind: str) -> bool:
        """Whether media of this kind is wanted."""
        return self.audio if kind == "audio" else self.video

    @property
    def direction(self) -> str:
        """In SDP's words (RFC 8866 section 6.7)."""
        return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}[self.send, self.receive]


class Peer:
    """One RTCPeerConnection, and everything that belongs to it.

    Args:
        thread: Where it lives.
        config: The engine's options.
        ports: Where media, messages and events go.
        port: The UDP port that all calls share, if they do.

    Attributes:
        offer: What was agreed on; valid once `answer` or `accept_answer` has returned.
        audio_codec: What the peer's audio is coded in, in capitals.
        audio_clock: The clock rate of its RTP timestamps, Hz.
        messages: The message channel.
        family: Every task that runs for this peer.
    """

    def __init__(self, thread: LoopThread, config: WebRTCConfig, ports: Ports, port: OnePort | None = None) -> None:
        self.offer: MediaOffer = MediaOffer()
        self.audio_codec: str = "OPUS"
        self.audio_clock: int = RTP_RATE
        self.messages: MessageChannel = MessageChannel(thread, ports, self._end)
        self.family: Family = Family(self._task_failed)
        self._thread, self._config, self._ports, self._port = thread, config, ports, port
        self._connection: RTCPeerConnection | None = None
        self._audio_in: audio.AudioReceiver | None = None
        self._audio_out: audio.PlayoutTrack | None = None
        self._audio: RTCRtpTransceiver | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[Any] | None = None
        self._hurry = asyncio.Event()
        self._candidates = offers.CandidateCount()
        self._negotiating = asyncio.Lock()
        self._theirs: offers.Description | None = None
        self._torn = False
        self._contact = Contact(private=config.private_candidates)
        self._liveness = Liveness()
        self._watched = False
        self._watch: asyncio.TimerHandle | None = None

    # -- negotiation

    async def answer(self, sdp: str, local: LocalMedia) -> str:
        """Take an offer, and return the answer's SDP, candidates included.

        Raises:
            InvalidOffer: The offer is invalid.
            UnsupportedMedia: Nothing in it can be served.
        """
        offer = offers.read(sdp, preferred=self._config.video.codecs)
        self.offer = _agreement(offer, local, ours_first=False)
        connection = self._open(RTCBundlePolicy.BALANCED)
        await self._set_remote(connection, offer, "offer", local)
        self._choose_directions(connection, local)
        self._furnish(connection)
        await connection.setLocalDescription(await connection.createAnswer())
        answer = connection.localDescription.sdp
        self._learn_codec(answer)
        self._start_timer()
        self._theirs = offer
        return answer

    async def renegotiate(self, sdp: str, local: LocalMedia) -> str:
        """Take a further offer of the same peer, with tracks added or taken away, and return the answer's SDP.

        An offer with new ICE credentials, both of them, and the same certificate restarts ICE (RFC 8445 section 2.4).

        Raises:
            InvalidOffer: The offer is invalid, or does not fit what was agreed on.
            UnsupportedMedia: Nothing in it can be served.
            ConnectionExists: It is not of this peer's ICE session.
        """
        async with self._negotiating:
            connection, agreed = self._connection, self._theirs
            offer = offers.read(sdp, preferred=self._config.video.codecs)
            if connection is None or self._closing is not None or agreed is None:
                raise ConnectionExists
            restarts = offers.restarts_ice(agreed, offer)
            if self._torn:
                raise InvalidOffer("an earlier change of this call failed halfway; make a new call", status=422)
            offers.check_further(agreed, offer)
            media = _agreement(offer, local, ours_first=False)
            transport = self._transport_to_restart(connection) if restarts else None
            candidates = offers.CandidateCount() if restarts else self._candidates
            candidates.add_offer(offer)
            self._candidates = candidates
            self._torn = True  # until it is through: aiortc has no way back
            if transport is not None:
                restart.begin(transport, *offer.ice)
            await self._apply(connection, offer, "offer")
            self._choose_directions(connection, local)
            await connection.setLocalDescription(await connection.createAnswer())
            self._torn = False
            self._theirs, self.offer, answer = offer, media, connection.localDescription.sdp
            self._learn_codec(answer)
            if transport is not None:
                self._start(self._restart(transport))
            return answer

    def _transport_to_restart(self, connection: RTCPeerConnection) -> RTCDtlsTransport:
        found = seam.transports(connection)
        if len(found) != 1:
            raise InvalidOffer("ICE can be restarted for a call with one transport: bundle its media", status=422)
        if not restart.can_restart(found[0]):
            raise InvalidOffer("ICE cannot be restarted before the call is connected", status=422)
        return found[0]

    async def _restart(self, transport: RTCDtlsTransport) -> None:
        """Find another way to the peer; without one the old way stays, and `liveness` judges it."""
        if await restart.check(transport, self._config.connect_timeout):
            self._ports.route = seam.route(transport)
        elif self._closing is None:
            _log.info("an ICE restart found no other way to the peer; the old one is kept")

    async def propose(self, local: LocalMedia) -> str:
        """Make an offer, and return its SDP, candidates included."""
        connection = self._open(RTCBundlePolicy.MAX_BUNDLE)
        for kind in ("audio", "video"):
            if local.wants(kind):
                track = self._out_track(kind) if local.send else None
                transceiver = connection.addTransceiver(track or kind, direction=local.direction)
                self._shortcut(transceiver, track)
                if kind == "video" and self._config.video.codecs:
                    transceiver.setCodecPreferences(video.preferred(self._config.video))
        if local.messages:
            self.messages.adopt(connection.createDataChannel(LABEL))
        self._furnish(connection)
        await connection.setLocalDescription(await connection.createOffer())
        self._start_timer()
        return connection.localDescription.sdp

    async def accept_answer(self, sdp: str, local: LocalMedia) -> None:
        """Take the answer to our offer.

        Raises:
            InvalidOffer: The answer is invalid, or does not fit the offer.
            LocalProtocolError: There is nothing to be answered.
        """
        connection = self._connection
        if connection is None or connection.signalingState != "have-local-offer":
            raise LocalProtocolError("there is no offer that waits for an answer")
        answer = offers.read(sdp, "answer")
        self.offer = _agreement(answer, local, ours_first=True)
        await self._set_remote(connection, answer, "answer", local)
        self._learn_codec(sdp)
        self._start_timer()

    async def _set_remote(
        self, connection: RTCPeerConnection, description: offers.Description, kind: str, local: LocalMedia
    ) -> None:
        def on_track(track: MediaStreamTrack) -> None:
            transceiver = next(t for t in connection.getTransceivers() if t.receiver.track is track)
            first = next(t for t in connection.getTransceivers() if t.kind == track.kind)
            if transceiver is first and local.wants(track.kind) and local.receive:
                self._receive(transceiver, track)

        self._candidates.add_offer(description)
        connection.on("track", on_track)
        await self._apply(connection, description, kind)

    async def _apply(self, connection: RTCPeerConnection, description: offers.Description, kind: str) -> None:
        offers.check_codecs(description, kind)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(description.sdp, kind))
        except OperationError as error:
            raise UnsupportedMedia(
                f"the {kind} has a media section without any codec that is known here ({offers.KNOWN_CODECS})"
            ) from error
        except Exception as error:  # aiortc's own checks fail in many ways, all of which mean this
            raise InvalidOffer(f"the {kind} cannot be used: {str(error) or type(error).__name__}") from error
        feedback.agree(connection, description.media)
        if description.later:
            self._start(self._add_later(connection, description))

    def _choose_directions(self, connection: RTCPeerConnection, local: LocalMedia) -> None:
        seen: set[str] = set()
        for transceiver in connection.getTransceivers():
            kind = transceiver.kind
            if kind in seen or not local.wants(kind):
                transceiver.direction = "inactive"
                continue
            seen.add(kind)
            if local.send and transceiver.sender.track is None:
                track = self._out_track(kind)
                transceiver.sender.replaceTrack(track)
                self._shortcut(transceiver, track)
            transceiver.direction = local.direction

    def _out_track(self, kind: str) -> MediaStreamTrack:
        if kind == "video":
            return video.VideoOutTrack(self._ports.video_out, video.video_rate(self._config.video))
        self._audio_out = audio.PlayoutTrack(
            self._ports.audio_out, self._config.opus, self._thread.load, self._ports.packets
        )
        return self._audio_out

    def _shortcut(self, transceiver: RTCRtpTransceiver, track: MediaStreamTrack | None) -> None:
        if isinstance(track, audio.PlayoutTrack):
            seam.send_packets(transceiver.sender, track.play)
        elif isinstance(track, video.VideoOutTrack):
            ended = partial(getattr, track, "ended")
            encoders = video.encoders(self._config.video, track.rate, track.pts)
            track.stamps = not encode_pictures(transceiver.sender, encoders, ended, self._task_failed, track)

    def _learn_codec(self, answer: str) -> None:
        """The first codec of an answer is the one that is sent, by both sides."""
        media = offers.read(answer, "answer").first("audio")
        if media is None or not media.rtp.codecs:
            return
        codec = media.rtp.codecs[0]
        self.audio_codec, self.audio_clock = codec.name.upper(), codec.clockRate
        if self._audio_out is not None:
            self._audio_out.opus = self.audio_codec == "OPUS"

    async def add_candidate(self, candidate: IceCandidate | None) -> None:
        """Add one trickled candidate of the peer, or (None) learn that no more will come. Returns without waiting.

        That no more will come fails nothing: the peer's own checks may still show where it is, until `connect_timeout`
        (RFC 8863 section 3).

        Raises:
            InvalidOffer: The peer has sent too many.
        """
        connection = self._connection
        if connection is None or self._closing is not None or candidate is None:
            return
        self._candidates.add(candidate)
        self._start(_add(connection, offers.to_aiortc(candidate)))

    async def _add_later(self, connection: RTCPeerConnection, description: offers.Description) -> None:
        await asyncio.gather(*(_add(connection, candidate) for candidate in description.later))

    # -- life

    def _furnish(self, connection: RTCPeerConnection) -> None:
        """Put rtcflow's parts into the transports that `connection` has by now."""
        self._watched = gathering.install(connection, self._config, self._ports.asked, self._contact, self._port)
        seam.contain_faults(connection, MAX_MESSAGE_SIZE, self._contact.warn_once)

    def _open(self, bundle: RTCBundlePolicy) -> RTCPeerConnection:
        config = self._config
        self._connection = connection = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[server for one in config.servers for server in _ice_server(one)],
                iceTransportPolicy=RTCIceTransportPolicy.RELAY if config.relay_only else RTCIceTransportPolicy.ALL,
                bundlePolicy=bundle,
            )
        )
        self._thread.residents.add(self)
        seam.use_certificate(connection, seam.Certificate.generateCertificate())

        def on_datachannel(channel: RTCDataChannel) -> None:
            self.messages.adopt(channel)

        def on_state() -> None:
            self._state_changed(connection)

        connection.on("datachannel", on_datachannel)
        connection.on("connectionstatechange", on_state)
        return connection

    def _receive(self, transceiver: RTCRtpTransceiver, track: MediaStreamTrack) -> None:
        ports = self._ports
        if track.kind == "video":
            seam.stop_without_blocking(transceiver.receiver)
            pictures = video.PictureReceiver(ports.video_in, self._config.video, self._contact.warn_once)
            if pictures.install(transceiver.receiver):
                self._start(pictures.run())
            else:
                self._start(video.read_track(track, ports.video_in))
            return
        self._audio = transceiver
        receiver = audio.AudioReceiver(ports, asyncio.get_running_loop(), self._task_failed)
        if seam.take_packets(transceiver.receiver, receiver.start, receiver.packet, self._task_failed):
            self._audio_in = receiver
        else:
            self._start(audio.read_track(track, ports))

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._thread.start_soon(coroutine, self.family)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _state_changed(self, connection: RTCPeerConnection) -> None:
        state = connection.connectionState
        if state == "connected":
            self._stop_timer()
            self._ports.route = next((seam.route(transport) for transport in seam.transports(connection)), None)
            self._ports.connected.set()
            if self._watched and self._watch is None:
                self._look_again(connection)
        elif state == "failed":
            phase = self._phase(connection)
            self._end(ConnectionError("no candidate pair works" if phase == "ice" else "the DTLS handshake failed"))
        elif state == "closed":
            self._end(ConnectionError("the peer has gone silent (ICE consent expired, RFC 7675)"))

    def _look_again(self, connection: RTCPeerConnection) -> None:
        tick = self._config.peer_timeout / TICKS
        self._watch = asyncio.get_running_loop().call_later(tick, self._look_after, connection)

    def _look_after(self, connection: RTCPeerConnection) -> None:
        """Whether the peer is still there; see `liveness`."""
        contact = self._contact
        match self._liveness.tick(contact.heard + seam.packets_decrypted(connection), contact.refused):
            case Verdict.SILENT:
                self._lose(f"the peer has gone silent: nothing came for {self._config.peer_timeout:g} s")
                return
            case Verdict.UNREACHABLE:
                self._lose("the peer is gone: nobody listens at its address any more (ICMP)")
                return
            case Verdict.ASK:
                self._start(seam.ask_peer(connection))
        self._look_again(connection)

    def _lose(self, why: str) -> None:
        self._hurry.set()  # nobody is there who could acknowledge anything
        self._end(ConnectionError(why))

    def _phase(self, connection: RTCPeerConnection) -> str:
        if connection.signalingState == "have-local-offer":
            return "answer"
        return "dtls" if connection.iceConnectionState == "completed" else "ice"

    def _start_timer(self) -> None:
        self._stop_timer()
        if not self._ports.connected.is_set():
            self._timer = asyncio.get_running_loop().call_later(self._config.connect_timeout, self._too_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        if self._connection is not None:
            self._end(NegotiationTimeout(self._phase(self._connection), self._config.connect_timeout))

    def _task_failed(self, error: BaseException) -> None:
        if self._closing is not None:
            _log.debug("while closing: %r", error)
        else:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """The link has ended: with `error`, unless the peer has said goodbye, which explains any error."""
        connection = self._connection
        said_goodbye = connection is not None and any(map(seam.goodbye_received, seam.transports(connection)))
        self._ports.end(None if said_goodbye else error)
        self._begin_close()

    def abort(self, error: BaseException) -> None:
        """The engine's thread has ended."""
        self._ports.end(error)

    # -- the end

    async def close(self, *, goodbye: bool = True) -> None:
        """Say goodbye, and free everything; returns when nothing is left. Cancelling this hurries it.

        Args:
            goodbye: Whether to wait, for `WebRTCConfig.close_timeout` seconds, until what was sent has arrived.
        """
        if not goodbye or self._ports.error is not None:
            self._hurry.set()
        try:
            await asyncio.shield(self._begin_close())
        except asyncio.CancelledError:
            self._hurry.set()
            raise

    def _begin_close(self) -> asyncio.Task[Any]:
        if self._closing is None:
            self._closing = self._thread.start_soon(self._close(), self.family)
        return self._closing

    async def _close(self) -> None:
        self._stop_timer()
        if self._watch is not None:
            self._watch.cancel()
        connection = self._connection
        try:
            if connection is not None:
                if connection.connectionState == "connected" and not self._hurry.is_set():
                    await self._drain()
                async with asyncio.timeout(self._config.close_timeout):
                    await connection.close()
        except TimeoutError:
            _log.warning("a connection did not close within %g s", self._config.close_timeout)
        finally:
            if connection is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._config.close_timeout):
                        await seam.close_sockets(connection)
            if self._audio_in is not None:
                self._audio_in.close()
            for task in self._tasks:
                task.cancel()
            await self.family.wait(timeout=0.5)
            self._ports.end()
            self._thread.residents.discard(self)

    async def _drain(self) -> None:
        """Wait until the peer has all messages, for a limited time."""
        drain = asyncio.ensure_future(self.messages.drain())  # noqa: TID251 - awaited or cancelled right here
        hurry = asyncio.ensure_future(self._hurry.wait())  # noqa: TID251
        try:
            await asyncio.wait({drain, hurry}, timeout=self._config.close_timeout, return_when="FIRST_COMPLETED")
        finally:
            drain.cancel()
            hurry.cancel()

    # -- figures, from any thread

    def round_trip(self) -> float | None:
        """Seconds, as the peer's RTCP reports have it."""
        return None if self._audio is None else seam.round_trip(self._audio.sender)

    def datagrams_received(self) -> int:
        """How many packets have come, of RTP, RTCP and DTLS."""
        connection = self._connection
        return 0 if connection is None else sum(map(seam.packets_received, seam.transports(connection)))

    def figures(self) -> dict[str, float]:
        """Figures of the audio received and sent, by name."""
        figures = {} if self._audio_in is None else self._audio_in.figures()
        if self._audio_out is not None and self._audio_out.complexity is not None:
            figures["opus_complexity"] = float(self._audio_out.complexity)
        if self._audio_out is not None:
            figures["engine_lag"] = self._thread.load.lag
        if self._audio is not None and (jitter := seam.jitter(self._audio.receiver, self.audio_clock)) is not None:
            figures["jitter"] = jitter
        return figures


def _agreement(theirs: offers.Description, local: LocalMedia, *, ours_first: bool) -> MediaOffer:
    """What both sides want, from our side.

    Raises:
        UnsupportedMedia: The two sides have no media in common.
    """
    ways: dict[str, tuple[bool, bool]] = {}
    for kind in ("audio", "video"):
        media = theirs.first(kind) if local.wants(kind) else None
        direction = "inactive" if media is None else media.direction or "sendrecv"
        receive = local.receive and direction in {"sendrecv", "sendonly"}
        send = local.send and direction in {"sendrecv", "recvonly"}
        ways[kind] = receive, send
    messages = theirs.first("application") is not None
    if not any(map(any, ways.values())):
        kinds = ", ".join(sorted({f"{media.kind} ({media.direction or 'sendrecv'})" for media in theirs.media}))
        ours = " and ".join(kind for kind in ("audio", "video") if local.wants(kind))
        what = "answer" if ours_first else "offer"
        here = f"{ours} ({local.direction})"
        raise UnsupportedMedia(f"the {what} has {kinds}; none of that can be served: here is {here}")
    return MediaOffer(*ways["audio"], *ways["video"], messages=messages)


def _ice_server(server: IceServer) -> list[RTCIceServer]:
    """The servers as aiortc takes them. It cannot read IPv6 addresses. `gathering` decides which servers are asked."""
    urls = [url for url, parsed in server.parsed_urls if ":" not in parsed.host]
    return [RTCIceServer(urls, server.username, server.credential)] if urls else []


async def _add(connection: RTCPeerConnection, candidate: RTCIceCandidate) -> None:
    try:
        await connection.addIceCandidate(candidate)
    except OSError as error:  # no multicast here: that candidate cannot be looked up, others may still do
        _log.info("a candidate could not be looked up: %s", error)
