"""A peer of another make, aiortc as it is, in a thread and loop of its own, against our engine."""

from __future__ import annotations

import asyncio
import fractions
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCCertificate,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from conftest import ALL_BACKENDS

from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCTransport, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
VOICE = AudioFormat(48000)


class Tone(MediaStreamTrack):
    """20 ms frames of a tone, in real time."""

    kind = "audio"

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency, self.count, self.began = frequency, 0, None

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self.began = self.began or loop.time()
        await asyncio.sleep(self.began + self.count * 0.02 - loop.time())
        t = (np.arange(960) + self.count * 960) / 48000
        samples = (8000 * np.sin(2 * np.pi * self.frequency * t)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, self.count * 960, fractions.Fraction(1, 48000)
        self.count += 1
        return frame


class Picture(MediaStreamTrack):
    """A picture of one grey, 20 times a second."""

    kind = "video"

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level, self.count = level, 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(0.05)
        frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), self.level, np.uint8), format="bgr24")
        frame.pts, frame.time_base = self.count * 4500, fractions.Fraction(1, 90000)
        self.count += 1
        return frame


class ForeignPeer:
    """An RTCPeerConnection in a thread of its own, and what it heard, saw and read."""

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []
        self.seen: list[av.VideoFrame] = []
        self.read: list[str] = []
        self.state = "new"
        self.sent: list[float] = []
        self.cut_off = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="foreign peer")
        self._thread.start()
        self.connection: RTCPeerConnection
        self.channel: Any = None

    async def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Run a coroutine function in the foreign loop."""
        future = asyncio.run_coroutine_threadsafe(function(*args), self._loop)
        return await anyio.to_thread.run_sync(future.result, 30)

    async def make(self, change: Callable[[RTCPeerConnection], None], certificate: RTCCertificate | None) -> None:
        self.connection = connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        if certificate is not None:
            connection._RTCPeerConnection__certificates[:] = [certificate]
        connection.on("track", lambda track: asyncio.ensure_future(self._follow(track)))
        connection.on("connectionstatechange", lambda: setattr(self, "state", connection.connectionState))
        connection.on("datachannel", self._adopt)
        change(connection)

    async def open_channel(self, label: str = "text") -> None:
        self._adopt(self.connection.createDataChannel(label))

    def _adopt(self, channel: Any) -> None:
        self.channel = channel
        channel.on("message", self.read.append)

    async def _follow(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                frame = await track.recv()
                if track.kind == "audio":
                    self.heard.append(frame.to_ndarray()[0, ::2])
                else:
                    self.seen.append(frame)
        except MediaStreamError:
            pass

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def answer(self, sdp: str) -> str:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return self.connection.localDescription.sdp

    async def close(self) -> None:
        await self.connection.close()

    async def vanish(self) -> None:
        """Fall silent without a word, as a machine does that loses power."""
        for transceiver in self.connection.getTransceivers():
            for protocol in transceiver.receiver.transport.transport._connection._protocols:
                protocol.transport.close()

    async def watch_network(self) -> None:
        """From now on note when a datagram leaves, and lose all of them, either way, while `cut_off`."""

        def sent(original: Callable[..., object], *args: Any) -> None:
            if not self.cut_off:
                self.sent.append(time.monotonic())
                original(*args)

        def came(original: Callable[..., object], *args: Any) -> None:
            if not self.cut_off:
                original(*args)

        for transceiver in self.connection.getTransceivers():
            for protocol in transceiver.receiver.transport.transport._connection._protocols:
                protocol.transport.sendto = partial(sent, protocol.transport.sendto)
                protocol.datagram_received = partial(came, protocol.datagram_received)

    @property
    def longest_silence(self) -> float:
        """Seconds for which it has sent nothing at most, since `watch_network`."""
        return max(later - earlier for earlier, later in pairwise([*self.sent, time.monotonic()]))

    async def aclose(self) -> None:
        async def end() -> None:
            await self.connection.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._loop.shutdown_default_executor()

        with anyio.CancelScope(shield=True):
            await self.run(end)
            self._loop.call_soon_threadsafe(self._loop.stop)
            await anyio.to_thread.run_sync(self._thread.join)
        self._loop.close()


@asynccontextmanager
async def called_by_foreign(
    change: Callable[[RTCPeerConnection], None],
    *,
    certificate: RTCCertificate | None = None,
    channel: str | None = "text",
    config: WebRTCConfig = LOCAL,
    receive: AudioFormat = VOICE,
    spoil: Callable[[str], str] = str,
) -> AsyncIterator[tuple[ForeignPeer, WebRTCTransport]]:
    """A foreign peer that called our engine, connected."""
    foreign = ForeignPeer()
    try:
        async with open_engine(config) as engine:
            await foreign.run(foreign.make, change, certificate)
            if channel is not None:
                await foreign.run(foreign.open_channel, channel)
            transport = await engine.answer(spoil(await foreign.run(foreign.offer)))
            try:
                transport.start(receive, VOICE)
                await foreign.run(foreign.accept, transport.answer)
                with anyio.fail_after(120):
                    await transport.wait_connected()
                yield foreign, transport
            finally:
                await transport.aclose()
    finally:
        await foreign.aclose()


def pitch(samples: np.ndarray, rate: int = 48000) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


async def take(transport: WebRTCTransport, seconds: float) -> np.ndarray:
    got = []
    with anyio.fail_after(120):
        while sum(part.shape[1] for part in got) < seconds * 48000:
            got.append((await transport.audio_in.take()).samples)
    return np.concatenate(got, axis=1)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(120):
        while not condition():
            await anyio.sleep(0.02)


def tone(frequency: float, seconds: float) -> AudioFrame:
    t = np.arange(round(seconds * 48000)) / 48000
    return AudioFrame((8000 * np.sin(2 * np.pi * frequency * t)).astype(np.int16)[None], 48000, 0)


@pytest.mark.anyio
async def test_audio_and_messages_with_stock_aiortc() -> None:
    """A stock aiortc caller hears and is heard, at the right pitch, and exchanges messages; its binary is ignored."""
    async with called_by_foreign(lambda connection: connection.addTrack(Tone(440))) as (foreign, transport):
        assert abs(pitch((await take(transport, 0.8))[0]) - 440) < 5
        transport.audio_out.put(tone(1000, 1.5))
        await until(lambda: len(foreign.heard) > 50)
        assert abs(pitch(np.concatenate(foreign.heard[-30:])) - 1000) < 5
        with anyio.fail_after(120):
            await transport.wait_messages_open()
            transport.send_message_nowait("grüße")
            await until(lambda: foreign.read == ["grüße"])

            async def send() -> None:
                foreign.channel.send(b"\0\1")
                foreign.channel.send("hello")

            await foreign.run(send)
            assert await transport.messages_in.take() == "hello"
        assert transport.statistics().details["binary_messages_ignored"] == 1
        await foreign.run(foreign.close)
        with anyio.fail_after(120):
            await transport.wait_ended()


@pytest.mark.anyio
async def test_stereo() -> None:
    """A handler that hears in stereo gets two channels, and stereo that is put out arrives as stereo."""
    receive = AudioFormat(48000, "stereo")
    async with called_by_foreign(lambda c: c.addTrack(Tone(440)), receive=receive) as (foreign, transport):
        both = await take(transport, 0.3)
        assert both.shape[0] == 2
        left, right = tone(500, 1).samples, np.zeros((1, 48000), np.int16)
        transport.audio_out.put(AudioFrame(np.concatenate([left, right]), 48000, 0))
        await until(lambda: len(foreign.heard) > 35)
        assert abs(pitch(np.concatenate(foreign.heard[-20:])) - 500) < 5


@pytest.mark.anyio
async def test_video_both_ways() -> None:
    """Pictures arrive on both sides with the right brightness; the queue of unread ones holds one."""

    def change(connection: RTCPeerConnection) -> None:
        connection.addTrack(Picture(200))

    async with called_by_foreign(change) as (foreign, transport):
        assert transport.offer.receive_video
        assert transport.offer.send_video
        assert not transport.offer.receive_audio
        with anyio.fail_after(120):
            for _ in range(5):
                frame = await transport.video_in.take()
                assert (frame.width, frame.height) == (160, 120)
                transport.video_out.put_nowait(
                    av.VideoFrame.from_ndarray(np.full((120, 160, 3), 60, np.uint8), "bgr24")
                )
        assert abs(frame.to_ndarray(format="bgr24").mean() - 200) < 6
        await until(lambda: foreign.seen)
        assert abs(foreign.seen[-1].to_ndarray(format="bgr24").mean() - 60) < 6
        await until(lambda: transport.video_in.statistics().dropped > 3)
        assert len(transport.video_in) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("codec", "anyio_backend"),
    [
        pytest.param(codec, *backend.values, id=f"{codec}-{backend.id}", marks=backend.marks)
        for codec, backend in zip(["PCMU", "PCMA", "G722"], ALL_BACKENDS.values(), strict=True)
    ],
)
async def test_peers_without_opus(codec: str) -> None:
    """G.711 and G.722 peers hear and are heard; each on one backend, for codecs live in the engine's thread."""

    def change(connection: RTCPeerConnection) -> None:
        connection.addTrack(Tone(440))
        only = [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.name == codec]
        connection.getTransceivers()[0].setCodecPreferences(only)

    async with called_by_foreign(change) as (foreign, transport):
        frame = await transport.audio_in.take()
        assert frame.sample_rate == (16000 if codec == "G722" else 8000)
        got = []
        while len(got) < 40:
            frame = await transport.audio_in.take()
            got.append(frame.samples[0])
        assert abs(pitch(np.concatenate(got), frame.sample_rate) - 440) < 5
        transport.audio_out.put(tone(1000, 1.5))
        await until(lambda: len(foreign.heard) > 50)
        heard = np.concatenate([np.asarray(part) for part in foreign.heard[-30:]])
        # aiortc decodes to mono here, of which heard has every second sample
        assert abs(pitch(heard, frame.sample_rate // 2) - 1000) < 10


@pytest.mark.anyio
async def test_a_silent_peer() -> None:
    """A peer that sends no audio at all connects, hears us, and leaves no decoder thread waiting for it."""

    def change(connection: RTCPeerConnection) -> None:
        connection.addTransceiver("audio", direction="sendrecv")

    async with called_by_foreign(change, channel=None) as (foreign, transport):
        assert not transport.offer.messages
        transport.audio_out.put(tone(700, 1))
        await until(lambda: len(foreign.heard) > 30)
        assert len(transport.audio_in) == 0
        assert [t.name for t in threading.enumerate() if "audio-decoder" in t.name] == [
            "audio-decoder"
        ]  # the foreign one's


@pytest.mark.anyio
async def test_two_calls_of_a_source() -> None:
    """When the peer's SSRC and sequence change within a call, as after a renegotiation, audio goes on."""
    async with called_by_foreign(lambda c: c.addTrack(Tone(440))) as (foreign, transport):
        await take(transport, 0.2)

        async def another() -> None:
            sender = foreign.connection.getSenders()[0]
            sender._ssrc = (sender._ssrc + 12345) & 0xFFFFFFFF

        await foreign.run(another)
        await take(transport, 0.2)
        while transport.audio_in.statistics().waiting:
            transport.audio_in.clear()
        assert abs(pitch((await take(transport, 0.5))[0]) - 440) < 5


@pytest.mark.anyio
async def test_the_preferred_channel() -> None:
    """A channel labelled "text" that comes later takes the place of the first; other channels are ignored."""
    async with called_by_foreign(lambda c: c.addTrack(Tone(440)), channel="chat") as (foreign, transport):
        with anyio.fail_after(120):
            await transport.wait_messages_open()
        chat = foreign.channel
        await foreign.run(foreign.open_channel, "text")
        await until(lambda: foreign.channel.readyState == "open")

        async def send() -> None:
            chat.send("ignored")
            foreign.channel.send("heard")

        await foreign.run(send)
        assert await transport.messages_in.take() == "heard"


@pytest.mark.anyio
async def test_our_offer_to_stock_aiortc() -> None:
    """Our offer is answered by a stock aiortc peer, and media flows both ways."""
    foreign = ForeignPeer()
    try:
        async with open_engine(LOCAL) as engine:
            await foreign.run(foreign.make, lambda c: c.addTrack(Tone(440)), None)
            transport = await engine.offer()
            transport.start(VOICE, VOICE)
            await transport.accept_answer(await foreign.run(foreign.answer, transport.offer_sdp))
            with anyio.fail_after(120):
                await transport.wait_connected()
                await transport.wait_messages_open()
            assert abs(pitch((await take(transport, 0.5))[0]) - 440) < 5
            transport.audio_out.put(tone(900, 1))
            transport.send_message_nowait("hello")
            await until(lambda: len(foreign.heard) > 35 and foreign.read == ["hello"])
            assert abs(pitch(np.concatenate(foreign.heard[-20:])) - 900) < 5
            await transport.aclose()
            await until(lambda: foreign.state == "closed")
    finally:
        await foreign.aclose()


def rsa_certificate() -> RTCCertificate:
    """What GStreamer's peers have."""
    from aiortc.rtcdtlstransport import generate_certificate
    from cryptography.hazmat.primitives.asymmetric import rsa

    key: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    class Certificate(RTCCertificate):
        def _create_ssl_context(self, srtp_profiles: Any) -> Any:
            from OpenSSL import SSL

            context = super()._create_ssl_context(srtp_profiles)
            context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
            context.set_options(getattr(SSL, "OP_NO_TLSv1_3", 0))
            return context

    return Certificate(key=key, cert=generate_certificate(key))


@pytest.mark.anyio
@pytest.mark.parametrize("role", ["DTLS client", "DTLS server"])
async def test_a_peer_with_an_rsa_certificate(role: str) -> None:
    """Peers with an RSA certificate connect, whichever side is the DTLS client."""
    spoil = (lambda sdp: sdp.replace("a=setup:actpass", "a=setup:active")) if role == "DTLS client" else str
    change = lambda connection: connection.addTrack(Tone(440))  # noqa: E731
    async with called_by_foreign(change, certificate=rsa_certificate(), spoil=spoil) as (_, transport):
        assert abs(pitch((await take(transport, 0.3))[0]) - 440) < 10


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio-loop", "uvloop-loop"])
async def test_a_peer_whose_port_is_closed_is_gone_at_once(use_uvloop: bool) -> None:
    """Killed, crashed, closed without a goodbye: the network says that nobody listens, and the link breaks."""
    config = replace(LOCAL, use_uvloop=use_uvloop, peer_timeout=30.0)
    async with called_by_foreign(lambda c: c.addTrack(Tone(440)), config=config) as (foreign, transport):
        await take(transport, 0.1)
        transport.audio_out.put(tone(440, 10))
        await foreign.run(foreign.vanish)
        with anyio.fail_after(120), pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert "nobody listens at its address" in str(caught.value.__cause__)
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await transport.audio_in.take()


@pytest.mark.anyio
async def test_an_idle_peer_whose_port_is_closed_is_gone_soon() -> None:
    """Nothing is sent to it but questions whether it is there: the first is refused, and the second."""
    config = replace(LOCAL, peer_timeout=30.0)
    async with called_by_foreign(lambda c: c.addTransceiver("audio"), config=config) as (foreign, transport):
        await foreign.run(foreign.vanish)
        with anyio.fail_after(120), pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert "nobody listens at its address" in str(caught.value.__cause__)


SILENCES = pytest.mark.parametrize(
    ("seconds", "limit"), [(4, 5), pytest.param(8, 10, marks=[pytest.mark.nightly, pytest.mark.timeout(180)])]
)
"""For how long a peer is silent, and the `peer_timeout`; by night, the default one."""


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@SILENCES
async def test_a_stopped_peer_is_kept_for_a_while(seconds: float, limit: float) -> None:
    """Stopped for four fifths of the time it stays, as often as it likes; stopped for good the link breaks.

    Two peers at once: one talks, and one only listens.
    """
    async with anyio.create_task_group() as peers:
        for sends in (True, False):
            peers.start_soon(try_again, stop_again_and_again, sends, seconds, limit)


async def stop_again_and_again(sends: bool, seconds: float, limit: float) -> None:
    stop = threading.Event()
    async with called_by_foreign(talks(sends), config=replace(LOCAL, peer_timeout=limit)) as (foreign, transport):
        transport.audio_out.put(tone(440, 120))
        await foreign.run(foreign.watch_network)
        try:
            for _ in range(2):
                await foreign.run(stand_still, stop, seconds)
                await goes_on(foreign, transport, limit)
            foreign._loop.call_soon_threadsafe(stop.wait, 60)
            with anyio.fail_after(120), pytest.raises(anyio.BrokenResourceError) as caught:
                await transport.wait_ended()
            assert f"nothing came for {limit} s" in str(caught.value.__cause__)
        finally:
            stop.set()


class TooSlow(Exception):
    """The machine was so busy that the peer was silent for longer than it was to be: its call had to end."""


async def try_again(scenario: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Play a scenario in which a peer is silent for a while; once more, if it was silent for longer."""
    for _ in range(TRIES):
        try:
            await scenario(*args)
            return
        except* TooSlow:
            pass
    pytest.fail(f"in {TRIES} tries the machine was too busy")


TRIES = 10


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@pytest.mark.parametrize(("seconds", "limit"), [(2, 4), pytest.param(5, 10, marks=pytest.mark.nightly)])
async def test_a_blackout_is_survived(seconds: float, limit: float) -> None:
    """Nothing gets through, either way, for half of `peer_timeout`; then the call goes on. A longer one ends it.

    Two peers at once: one talks, and one only listens.
    """
    async with anyio.create_task_group() as peers:
        for sends in (True, False):
            peers.start_soon(try_again, cut_off_again_and_again, sends, seconds, limit)


async def cut_off_again_and_again(sends: bool, seconds: float, limit: float) -> None:
    async with called_by_foreign(talks(sends), config=replace(LOCAL, peer_timeout=limit)) as (foreign, transport):
        transport.audio_out.put(tone(440, 120))
        await foreign.run(foreign.watch_network)
        for _ in range(2):
            foreign.cut_off = True
            await anyio.sleep(seconds)
            foreign.cut_off = False
            await goes_on(foreign, transport, limit)
        foreign.cut_off = True
        with anyio.fail_after(120), pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert f"nothing came for {limit} s" in str(caught.value.__cause__)


def talks(sends: bool) -> Callable[[RTCPeerConnection], None]:
    """What a peer that talks, or only listens, offers."""
    return lambda connection: connection.addTrack(Tone(440)) if sends else connection.addTransceiver("audio")


async def goes_on(foreign: ForeignPeer, transport: WebRTCTransport, limit: float) -> None:
    """The peer hears us, and we have noticed that it is there.

    Raises:
        TooSlow: The call has ended, and the peer was silent for `limit` seconds.
    """
    ended, heard = transport._ports.ended, len(foreign.heard)
    await until(lambda: ended.is_set() or len(foreign.heard) > heard + 10)
    await until(lambda: ended.is_set() or transport._peer._liveness._silent == 0)
    if ended.is_set() and foreign.longest_silence > limit - 0.5:
        raise TooSlow
    assert not ended.is_set()


async def stand_still(stop: threading.Event, seconds: float) -> None:
    """Stop the whole loop, as SIGSTOP stops a process: its sockets stay open, and nobody reads."""
    stop.wait(seconds)


@pytest.mark.anyio
async def test_trickled_candidates() -> None:
    """A peer whose offer has no candidates connects through those it sends afterwards, and through "no more"."""
    from rtcflow.protocol.signalling import parse_candidate

    foreign = ForeignPeer()
    try:
        async with open_engine(LOCAL) as engine:
            await foreign.run(foreign.make, lambda c: c.addTrack(Tone(440)), None)
            offer = await foreign.run(foreign.offer)
            lines = [line for line in offer.splitlines() if line.startswith("a=candidate")]
            bare = "".join(f"{l}\r\n" for l in offer.splitlines() if not l.startswith(("a=candidate", "a=end-of")))
            transport = await engine.answer(bare)
            transport.start(VOICE, VOICE)
            # The foreign peer's own checks would do; so it learns our addresses only after it was reached.
            for line in lines:
                candidate = parse_candidate(line)
                assert candidate is not None
                await transport.add_candidate(candidate)
            await transport.add_candidate(None)
            await transport.add_candidate(None)
            await foreign.run(foreign.accept, transport.answer)
            with anyio.fail_after(120):
                await transport.wait_connected()
            await take(transport, 0.1)
            await transport.aclose()
    finally:
        await foreign.aclose()


@pytest.mark.anyio
async def test_without_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should aiortc not be as we know it, audio comes and goes through tracks as it does for anyone; all else is so."""
    monkeypatch.setattr("rtcflow._engine.seam.seam.take_packets", lambda *_: False)
    monkeypatch.setattr("rtcflow._engine.seam.wire.can_send", lambda _: False)
    receive = AudioFormat(48000, "stereo")
    async with called_by_foreign(lambda c: c.addTrack(Tone(440)), receive=receive) as (foreign, transport):
        both = await take(transport, 0.5)
        assert both.shape[0] == 2
        assert abs(pitch(both[0]) - 440) < 5
        transport.audio_out.put(tone(1000, 1.5))
        await until(lambda: len(foreign.heard) > 50)
        assert abs(pitch(np.concatenate(foreign.heard[-30:])) - 1000) < 5
        await foreign.run(foreign.close)
        with anyio.fail_after(120):
            await transport.wait_ended()


@pytest.mark.anyio
async def test_host_names_do_not_delay_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that must be looked up by multicast DNS are looked up after the answer, however long that takes."""
    answered = threading.Event()

    async def look_up(*_: object, **__: object) -> None:
        while not answered.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr("aioice.mdns.MDnsProtocol.resolve", look_up)
    foreign = ForeignPeer()
    try:
        async with open_engine(LOCAL) as engine:
            await foreign.run(foreign.make, lambda c: c.addTrack(Tone(440)), None)
            line = "a=candidate:1 1 udp 2122260223 6a9e2b5c-0000-4000-8000-{:012x}.local 50000 typ host\r\n"
            offer = await foreign.run(foreign.offer)
            hidden = "".join(f"{l}\r\n" for l in offer.splitlines() if not l.startswith(("a=candidate", "a=end-of")))
            with anyio.fail_after(120):
                given = "".join(map(line.format, range(5))) + "a=end-of-candidates\r\n"
                transport = await engine.answer(hidden + given)
            answered.set()
            transport.start(VOICE, VOICE)
            await foreign.run(foreign.accept, transport.answer)
            with anyio.fail_after(120):
                await transport.wait_connected()
            await transport.aclose()
    finally:
        await foreign.aclose()
