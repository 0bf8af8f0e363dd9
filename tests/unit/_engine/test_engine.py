"""The engine from outside: negotiation, ends, cancelling, and what is left behind (nothing)."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace

import anyio
import numpy as np
import pytest
from OpenSSL import SSL
from webrtc_pair import webrtc_call

from rtcflow.exceptions import InvalidOffer, LocalProtocolError, NegotiationTimeout, UnsupportedMedia
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig, WebRTCEngine, WebRTCTransport, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
VOICE = AudioFormat(48000)


async def in_the_room(engine: WebRTCEngine) -> list[str]:
    """What runs in the engine's loop, besides the engine itself and this question."""
    import asyncio

    async def tasks() -> list[str]:
        await asyncio.sleep(0)
        return [str(task) for task in asyncio.all_tasks() if not task.done()]

    return [
        task
        for task in await engine._thread.call(tasks)
        if "LoopThread._main" not in task and "_PostedCall" not in task
    ]


def tone(frequency: float, seconds: float, rate: int = 48000) -> AudioFrame:
    t = np.arange(round(seconds * rate)) / rate
    return AudioFrame((8000 * np.sin(2 * np.pi * frequency * t)).astype(np.int16)[None], rate, 0)


async def hear(transport: WebRTCTransport, seconds: float) -> np.ndarray:
    """Samples of the first channel, of so much received audio."""
    got, length = [], 0.0
    with anyio.fail_after(120):
        while length < seconds - 0.001:
            frame = await transport.audio_in.take()
            got.append(frame.samples[0])
            length += frame.duration
    return np.concatenate(got)


def pitch(samples: np.ndarray, rate: int = 48000) -> float:
    """The strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


# -- life


@pytest.mark.anyio
async def test_audio_both_ways() -> None:
    """A tone put in on either side comes out on the other at the same frequency."""
    async with webrtc_call() as (caller, callee):
        caller.audio_out.put(tone(440, 1))
        callee.audio_out.put(tone(1000, 1))
        assert abs(pitch(await hear(callee, 0.8)) - 440) < 5
        assert abs(pitch(await hear(caller, 0.8)) - 1000) < 5


@pytest.mark.anyio
async def test_messages_both_ways() -> None:
    """Messages arrive, whole and in order, in both directions; a long one and an empty one too."""
    async with webrtc_call() as (caller, callee):
        with anyio.fail_after(120):
            await caller.wait_messages_open()
            await callee.wait_messages_open()
            sent = ["", "grüße", "x" * 60_000, *map(str, range(100))]
            for message in sent:
                caller.send_message_nowait(message)
                callee.send_message_nowait(message)
            assert [await callee.messages_in.take() for _ in sent] == sent
            assert [await caller.messages_in.take() for _ in sent] == sent


@pytest.mark.anyio
async def test_last_words_arrive() -> None:
    """Messages sent just before aclose arrive before the end does."""
    # On a busy machine the last packet may be lost, and SCTP sends it again after a second at the earliest.
    async with webrtc_call(replace(LOCAL, close_timeout=60)) as (caller, callee):
        with anyio.fail_after(90):
            await callee.wait_messages_open()
            for number in range(300):
                callee.send_message_nowait(f"{number} " + "x" * 1000)
            await callee.aclose()
            await caller.wait_ended()
        got = []
        with pytest.raises(anyio.EndOfStream):
            while True:
                got.append(int((await caller.messages_in.take()).split()[0]))
        assert got == list(range(300))


@pytest.mark.anyio
async def test_messages_are_bounded() -> None:
    """A peer that does not read makes sending raise WouldBlock at 1 MiB, and a message beyond its limit is refused."""
    async with webrtc_call() as (caller, callee):
        with anyio.fail_after(120):
            await caller.wait_messages_open()
        with pytest.raises(LocalProtocolError, match="takes at most"):
            caller.send_message_nowait("x" * 300_000)
        with pytest.raises(anyio.WouldBlock):
            for _ in range(100):
                caller.send_message_nowait("x" * 60_000)


@pytest.mark.anyio
async def test_peer_leaves() -> None:
    """When the peer closes, wait_ended returns and every flow ends; our own end raises ClosedResourceError."""
    async with webrtc_call() as (caller, callee):
        await caller.aclose()
        with anyio.fail_after(120):
            await callee.wait_ended()
        with pytest.raises(anyio.EndOfStream):
            while True:
                await callee.audio_in.take()
        with pytest.raises(anyio.ClosedResourceError):
            callee.audio_out.put(tone(440, 0.1))
        with pytest.raises(anyio.ClosedResourceError):
            callee.send_message_nowait("too late")
        with pytest.raises(anyio.ClosedResourceError):
            await caller.wait_ended()
        with pytest.raises(anyio.ClosedResourceError):
            await caller.audio_in.take()


@pytest.mark.anyio
async def test_a_close_that_fails_leaves_no_socket() -> None:
    """aiortc ends its own close at the first error, here of the TLS library, before it closes the sockets."""
    async with webrtc_call() as (caller, _callee):
        connection = caller._peer._connection
        assert connection is not None
        assert connection.sctp is not None
        dtls = connection.sctp.transport
        (gate,) = dtls.transport._connection._protocols

        def refuse(_data: bytes) -> int:
            raise SSL.ZeroReturnError

        vars(dtls)["_ssl"] = Refusing(dtls._ssl, refuse)
        await caller.aclose()
        assert dtls.transport.state == "closed"
        assert gate.transport.is_closing()


class Refusing:
    """A connection of pyOpenSSL, but for `send`."""

    def __init__(self, stock: SSL.Connection, send: Callable[[bytes], int]) -> None:
        self._stock, self.send = stock, send

    def __getattr__(self, name: str) -> object:
        return getattr(self._stock, name)


@pytest.mark.anyio
async def test_messages_nobody_reads() -> None:
    """A peer that sends more messages than may wait breaks the link."""
    async with webrtc_call() as (caller, callee):
        with anyio.fail_after(120):
            await caller.wait_messages_open()
            for _ in range(1001):
                caller.send_message_nowait("x")
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await callee.wait_ended()
        assert "1000 messages" in str(caught.value.__cause__)


@pytest.mark.anyio
async def test_statistics() -> None:
    """The figures tell of packets, and the route of addresses."""
    async with webrtc_call() as (caller, callee):
        caller.audio_out.put(tone(440, 0.2))
        await hear(callee, 0.2)
        figures = callee.statistics()
        assert figures.details["packets_received"] == 10
        assert figures.packets_lost == figures.packets_concealed == 0
        assert callee.route is not None
        assert callee.route.local_address[0] == callee.route.remote_address[0] == "127.0.0.1"


@pytest.mark.anyio
async def test_closing_the_engine_closes_everything() -> None:
    """Transports that are open when the engine's block ends are closed: who waits is told, the thread is gone."""
    errors: list[type[BaseException]] = []

    async def wait(transport: WebRTCTransport) -> None:
        try:
            await transport.wait_ended()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            errors.append(type(error))

    async with anyio.create_task_group() as tasks:
        async with open_engine(LOCAL) as engine:
            caller = await engine.offer()
            callee = await engine.answer(caller.offer_sdp)
            await caller.accept_answer(callee.answer)
            tasks.start_soon(wait, caller)
            tasks.start_soon(wait, callee)
            await callee.wait_connected()
    await caller.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rtcflow")]
    with pytest.raises(anyio.ClosedResourceError):
        await engine.answer("v=0")


@pytest.mark.anyio
@pytest.mark.slow
async def test_fifty_calls_leave_nothing() -> None:
    """After 50 calls that ended in every way, no task is left in the room (threads and descriptors: see conftest)."""
    async with open_engine(LOCAL) as engine:
        for number in range(50):
            caller = await engine.offer(video=number % 5 == 0)
            callee = await engine.answer(caller.offer_sdp)
            if number % 5 != 1:
                await caller.accept_answer(callee.answer)
            if number % 5 not in {1, 2}:
                await callee.wait_connected()
            with anyio.CancelScope() as scope:
                if number % 5 == 3:
                    scope.cancel()
                await (callee if number % 2 else caller).aclose()
            await caller.aclose()
            await callee.aclose()
        assert await in_the_room(engine) == []


# -- what can go wrong


@pytest.mark.anyio
async def test_nobody_answers() -> None:
    """Without an answer, an answer's peer or a DTLS peer in time, wait_connected says which phase did not finish."""
    config = WebRTCConfig(host_addresses=("127.0.0.1",), connect_timeout=0.3)
    async with open_engine(config) as engine:
        caller = await engine.offer()
        with pytest.raises(NegotiationTimeout) as caught:
            await caller.wait_connected()
        assert caught.value.phase == "answer"
        await caller.aclose()

        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        await caller.aclose()
        with pytest.raises(NegotiationTimeout) as caught:
            await callee.wait_connected()
        assert caught.value.phase == "ice"
        with pytest.raises(anyio.BrokenResourceError) as broken:
            await callee.wait_ended()
        assert isinstance(broken.value.__cause__, NegotiationTimeout)
        await callee.aclose()
        assert await in_the_room(engine) == []


@pytest.mark.anyio
async def test_cancelling_each_phase_leaves_nothing() -> None:
    """Cancelling offer, answer, accept_answer, wait_connected or aclose leaves no task behind."""
    async with open_engine(LOCAL) as engine:
        for phase in ("offer", "answer", "accept", "connect", "close"):
            for delay in (0, 0.0005, 0.002, 0.01):
                opened: list[WebRTCTransport] = []
                with anyio.move_on_after(delay if phase == "offer" else 5):
                    opened.append(await engine.offer(video=True))
                if phase != "offer":
                    with anyio.move_on_after(delay if phase == "answer" else 5):
                        opened.append(await engine.answer(opened[0].offer_sdp))
                if phase not in {"offer", "answer"}:
                    with anyio.move_on_after(delay if phase == "accept" else 5):
                        await opened[0].accept_answer(opened[1].answer)
                if phase in {"connect", "close"}:
                    with anyio.move_on_after(delay if phase == "connect" else 5):
                        await opened[0].wait_connected()
                if phase == "close":
                    with anyio.move_on_after(delay):
                        await opened[0].aclose()
                for transport in opened:
                    await transport.aclose()
                assert await in_the_room(engine) == [], (phase, delay)
                assert not engine._thread.residents


@pytest.mark.anyio
async def test_wrong_order() -> None:
    """Accepting an answer twice, or without an offer, is refused and changes nothing."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        await caller.accept_answer(callee.answer)
        for transport in (caller, callee):
            with pytest.raises(LocalProtocolError):
                await transport.accept_answer(callee.answer)
        with anyio.fail_after(120):
            await callee.wait_connected()
        await caller.aclose()
        await callee.aclose()
        with pytest.raises(ValueError, match="nothing is offered"):
            await engine.offer(audio=False)


def _without(word: str):
    return lambda sdp: "".join(line + "\r\n" for line in sdp.splitlines() if word not in line)


GARBAGE = {
    "empty": lambda sdp: "",
    "text": lambda sdp: "hello",
    "version only": lambda sdp: "v=0\r\n",
    "no media": lambda sdp: sdp[: sdp.index("m=")],
    "cut": lambda sdp: sdp[: sdp.index("m=audio") + 12],
    "no ufrag": _without("ice-ufrag"),
    "no password": _without("ice-pwd"),
    "no fingerprint": _without("fingerprint"),
    "no setup": _without("a=setup"),
    "no mux": _without("rtcp-mux"),
    "no sctp port": _without("sctp-port"),
    "no mids": _without("a=mid"),
    "strange setup": lambda sdp: sdp.replace("a=setup:actpass", "a=setup:maybe"),
    "strange port": lambda sdp: sdp.replace("m=audio ", "m=audio x"),
    "ufrag not ASCII": lambda sdp: sdp.replace("a=ice-ufrag:", "a=ice-ufrag:ü"),
    "too long": lambda sdp: sdp + "a=x:y\r\n" * 20_000,
    "too many sections": lambda sdp: sdp + sdp[sdp.index("m=audio") : sdp.index("m=application")] * 20,
    "too many candidates": lambda sdp: sdp + "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n" * 101,
    "zero bytes": lambda sdp: "\0" * 100,
}


@pytest.mark.anyio
async def test_garbage_is_refused() -> None:
    """An offer that makes no sense raises InvalidOffer with a sentence and a 4xx, and nothing is left of it."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer()
        for name, spoil in GARBAGE.items():
            with pytest.raises(InvalidOffer) as caught:
                await engine.answer(spoil(caller.offer_sdp))
            assert len(str(caught.value)) > 20, name
            assert 400 <= caught.value.status < 500, name
        assert len(engine._thread.residents) == 1
        with pytest.raises(InvalidOffer):
            await caller.accept_answer("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n")
        await caller.aclose()
        assert await in_the_room(engine) == []


def _after_audio(line: str) -> Callable[[str], str]:
    return lambda sdp: sdp.replace("a=rtcp-mux\r\n", f"a=rtcp-mux\r\n{line}\r\n", 1)


UNTIDY: dict[str, Callable[[str], str]] = {
    "a broken candidate": _after_audio("a=candidate:x y z"),
    "half a candidate": _after_audio("a=candidate"),
    "no candidate that is UDP": lambda sdp: re.sub(r"( 1 )udp( .*typ host)", r"\1tcp\2 tcptype active", sdp),
    "a name nobody can resolve": lambda sdp: re.sub(r"(a=candidate:.*) 127\.0\.0\.1 ", r"\1 nobody-there.local ", sdp),
    "none, and the end of candidates": lambda sdp: re.sub(r"a=candidate:.*\r\n", "", sdp),
    "payload type out of range": lambda sdp: sdp.replace("SAVPF 96", "SAVPF 999 96"),
    "a format that has no codec": _after_audio("a=fmtp:77 x=y"),
    "blanks in format parameters": lambda sdp: re.sub(r";", " ; ", sdp),
    "a codec without a rate": _after_audio("a=rtpmap:77 foo"),
    "a source without a name": _after_audio("a=ssrc:5"),
    "feedback of nothing": _after_audio("a=rtcp-fb:96"),
    "an extension with attributes": _after_audio("a=extmap:9 urn:ietf:params:rtp-hdrext:toffset with more"),
    "an empty extension": _after_audio("a=extmap:"),
    "a group of no sources": _after_audio("a=ssrc-group:FID"),
    "a strange connection line": _after_audio("c=IN ATM 7"),
    "a strange port of RTCP": _after_audio("a=rtcp:nine"),
    "a strange second role": _after_audio("a=setup:holdconn"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", UNTIDY)
async def test_untidy_offers_are_answered_and_connect(name: str) -> None:
    """A line that nobody needs may be broken, and candidates may be missing: the call connects by the peer's checks."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer()
        spoilt = UNTIDY[name](caller.offer_sdp)
        if name != "blanks in format parameters":  # there are none in every offer
            assert spoilt != caller.offer_sdp
        callee = await engine.answer(spoilt)
        await callee.add_candidate(None)
        await caller.accept_answer(callee.answer)
        with anyio.fail_after(120):
            await caller.wait_connected()
            await callee.wait_connected()
        await caller.aclose()
        await callee.aclose()


@pytest.mark.anyio
async def test_a_refused_h264_is_named() -> None:
    """Profile and packetization mode are said: those that are offered, and those that are known."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer(video=True)
        begin = caller.offer_sdp.index("m=video")
        lines = [
            line
            for line in caller.offer_sdp[begin:].splitlines()
            if not line.startswith(("a=rtpmap", "a=fmtp", "a=rtcp-fb"))
        ]
        lines[1:1] = ["a=rtpmap:98 H264/90000", "a=fmtp:98 profile-level-id=640028; packetization-mode=1"]
        lines[1:1] = ["a=rtpmap:99 H264/90000", "a=fmtp:99 profile-level-id=42e01f"]
        with pytest.raises(UnsupportedMedia) as caught:
            await engine.answer(caller.offer_sdp[:begin] + "\r\n".join(lines) + "\r\n")
        told = str(caught.value)
        assert "H.264 High profile (profile-level-id=640028), packetization-mode=1" in told
        assert "H.264 Baseline profile (profile-level-id=42e01f), packetization-mode=0" in told
        assert "packetization-mode=1)" in told
        await caller.aclose()


@pytest.mark.anyio
async def test_media_that_cannot_be_served() -> None:
    """A sound offer without anything for us raises UnsupportedMedia, which says what was offered."""
    async with open_engine(LOCAL) as engine:
        audio = await engine.offer()
        video = await engine.offer(audio=False, video=True)
        for offer, options, word in (
            (
                audio.offer_sdp.replace("opus/48000/2", "speex/8000")
                .replace("PCMU", "X")
                .replace("PCMA", "Y")
                .replace("G722", "Z"),
                {},
                "codec",
            ),
            (audio.offer_sdp, {"audio": False}, "audio"),
            (video.offer_sdp, {"video": False}, "video"),
            (audio.offer_sdp.replace("a=sendrecv", "a=inactive"), {}, "inactive"),
            (audio.offer_sdp.replace("a=sendrecv", "a=sendonly"), {"receive": False}, "sendonly"),
            (
                audio.offer_sdp[: audio.offer_sdp.index("m=audio")].replace("BUNDLE 0 1", "BUNDLE 1")
                + audio.offer_sdp[audio.offer_sdp.index("m=application") :],
                {},
                "application",
            ),
            (audio.offer_sdp.replace("m=application", "m=image"), {}, "image"),
        ):
            with pytest.raises(UnsupportedMedia, match=word):
                await engine.answer(offer, **options)
        await audio.aclose()
        await video.aclose()
        assert await in_the_room(engine) == []


@pytest.mark.anyio
async def test_directions() -> None:
    """What the offer of a transport says is what both sides want of each kind of media."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer(video=True, send=False)
        callee = await engine.answer(caller.offer_sdp, video=False)
        offer = callee.offer
        assert (offer.receive_audio, offer.send_audio) == (False, True)
        assert (offer.receive_video, offer.send_video) == (False, False)
        assert offer.messages
        await caller.accept_answer(callee.answer)
        assert (caller.offer.receive_audio, caller.offer.send_audio, caller.offer.receive_video) == (True, False, False)
        caller.start(VOICE, VOICE)
        callee.start(VOICE, VOICE)
        callee.audio_out.put(tone(600, 0.5))
        assert abs(pitch(await hear(caller, 0.4)) - 600) < 10
        await caller.aclose()
        await callee.aclose()


@pytest.mark.anyio
async def test_a_blocked_application_does_not_stop_audio() -> None:
    """Audio that was queued goes on in real time while the application's loop is blocked."""
    import time

    async with webrtc_call() as (caller, callee):
        callee.audio_out.put(tone(500, 1.0))
        await hear(caller, 0.1)
        time.sleep(0.5)
        waiting = len(caller.audio_in)
        assert 20 <= waiting <= 30


@pytest.mark.anyio
async def test_formats() -> None:
    """Opus is sent and received at any rate it knows; other rates are to be resampled to and from 48 kHz."""
    async with open_engine(LOCAL) as engine:
        for rate, real in (
            (8000, 8000),
            (16000, 16000),
            (24000, 24000),
            (48000, 48000),
            (22050, 48000),
            (44100, 48000),
        ):
            caller = await engine.offer()
            receive, send = caller.start(AudioFormat(rate, "stereo"), AudioFormat(rate))
            assert (receive, send) == (AudioFormat(real, "stereo"), AudioFormat(real))
            await caller.aclose()
