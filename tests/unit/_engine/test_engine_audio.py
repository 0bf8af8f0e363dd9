"""Packets to frames and frames to packets, on a clock of our own."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters

from rtcflow._core.player import Player
from rtcflow._engine import libopus
from rtcflow._engine.audio import AudioReceiver, PlayoutTrack
from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import FFmpegOpusDecoder, OpusEncoder, make_decoder
from rtcflow._engine.ports import Ports
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.media.playout import Latency

OPUS, PCMU = 96, 0
VOICE = AudioFormat(48000)


class Clock:
    """The part of a loop that the receiver uses."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, function: Any) -> Any:
        timer = (when, function)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def go_to(self, now: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= now]:
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = now


class Line:
    """A receiver, and a sender of its packets at 20 ms a piece."""

    def __init__(self, receive: AudioFormat | None = VOICE) -> None:
        self.ports, self.clock = Ports(Latency.BUFFERED), Clock()
        self.ports.receive = receive
        self.errors: list[BaseException] = []
        self.receiver = AudioReceiver(self.ports, self.clock, self.errors.append)  # type: ignore[arg-type]
        self.receiver.start(
            RTCRtpReceiveParameters(
                codecs=[
                    RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48000, channels=2, payloadType=OPUS),
                    RTCRtpCodecParameters(mimeType="audio/PCMU", clockRate=8000, channels=1, payloadType=PCMU),
                ]
            )
        )
        t = np.arange(960 * 200) / 48000
        voice = (8000 * np.sin(2 * np.pi * 300 * t)).astype(np.int16)
        encoder = OpusEncoder(48000, OpusConfig())
        self.opus = [bytes(encoder.encode(voice[None, i : i + 960], i) or b"") for i in range(0, len(voice), 960)]

    def send(self, index: int, *, ssrc: int = 1, payload_type: int = OPUS, payload: bytes | None = None) -> None:
        step = 160 if payload_type == PCMU else 960
        self.receiver.packet(
            SimpleNamespace(
                payload_type=payload_type,
                marker=0,
                sequence_number=index & 0xFFFF,
                timestamp=index * step & 0xFFFFFFFF,
                ssrc=ssrc,
                payload=self.opus[index % len(self.opus)] if payload is None else payload,
            )
        )

    def run(self, indices: list[int], *, first: int = 0, **options: Any) -> list[AudioFrame]:
        """Send these packets, one each 20 ms, and return the frames that came out."""
        for index in indices:
            self.send(index, **options)
            self.clock.go_to(self.clock.now + 0.02)
        self.clock.go_to(self.clock.now + 0.2)
        return self.frames()

    def frames(self) -> list[AudioFrame]:
        return self.ports.audio_in.clear()


@pytest.fixture(autouse=True, params=["libopus", "ffmpeg"])
def opus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way Opus goes: by libopus itself, or, where that is not found, through FFmpeg."""
    if request.param == "ffmpeg":
        monkeypatch.setattr(libopus, "load", lambda: None)
    return str(request.param)


def test_packets_become_frames_at_once() -> None:
    """Every packet in order is a frame of 20 ms, without any wait; media time counts on."""
    line = Line()
    for index in range(40):
        line.send(index)
        (frame,) = line.frames()
        assert (frame.samples.shape, frame.sample_rate, frame.pts, frame.concealed) == (
            (1, 960),
            48000,
            index * 960,
            False,
        )
        line.clock.go_to(line.clock.now + 0.02)
    assert not line.clock.timers


@pytest.mark.parametrize("missing", [{10}, {10, 11, 12}, {10, 15, 20, 25}])
def test_lost_packets_are_made_up(missing: set[int]) -> None:
    """In place of each lost packet there is audio, not silence, marked as concealed; time does not shift."""
    line = Line()
    frames = line.run([index for index in range(40) if index not in missing])
    assert [frame.pts for frame in frames] == [index * 960 for index in range(40)]
    assert {frame.pts // 960 for frame in frames if frame.concealed} == missing
    assert all(np.abs(frame.samples).max() > 500 for frame in frames if frame.concealed)
    assert line.ports.audio_figures.lost == line.ports.audio_figures.concealed == len(missing)


def test_swapped_and_doubled_packets() -> None:
    """Packets that overtook one another, or came twice, are put in order, and nothing is made up."""
    line = Line()
    order = list(range(40))
    order[10], order[11] = order[11], order[10]
    order[20:20] = [19, 19, 18]
    for index in order:
        line.send(index)
        line.clock.go_to(line.clock.now + 0.004)
    line.clock.go_to(line.clock.now + 0.2)
    frames = line.frames()
    assert [frame.pts for frame in frames] == [index * 960 for index in range(40)]
    assert not any(frame.concealed for frame in frames)
    assert line.receiver.figures()["packets_duplicate"] == 3
    assert line.receiver.figures()["packets_reordered"] == 1


def test_a_hole_is_not_waited_for_long() -> None:
    """After a lost packet the next ones are out within 30 ms, and the one after those at once."""
    line = Line()
    line.run(list(range(10)))
    line.send(11)
    began = line.clock.now
    assert line.frames() == []
    line.clock.go_to(began + 0.03)
    assert len(line.frames()) == 2
    line.send(12)
    assert len(line.frames()) == 1


def test_what_fails_at_a_holes_deadline_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error when a hole is given up reaches whoever ends the call, and the next hole still has a deadline."""
    line = Line()
    line.run([0, 1])

    def fail(*_: object) -> None:
        raise KeyError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(line.receiver, "_make_up", fail)
        line.send(3)
        line.clock.go_to(line.clock.now + 0.2)
    assert [type(error) for error in line.errors] == [KeyError]
    line.frames()
    line.send(5)
    line.clock.go_to(line.clock.now + 0.2)
    assert len(line.frames()) == 2  # the lost one, made up, and the one after it
    assert len(line.errors) == 1


def test_one_hole_after_another() -> None:
    """While one hole is waited for another may open: each is given up at its time, without another packet's help."""
    line = Line()
    line.run(list(range(10)))
    line.send(11)
    line.clock.go_to(line.clock.now + 0.008)
    line.send(13)
    began = line.clock.now
    line.clock.go_to(began + 0.1)
    assert [frame.pts // 960 for frame in line.frames()] == [10, 11, 12, 13]
    assert not line.clock.timers


def test_sequence_numbers_wrap() -> None:
    """Nothing happens where sequence numbers and timestamps wrap around."""
    line = Line()
    frames = line.run(list(range(0xFFFF - 10, 0xFFFF + 10)))
    assert [frame.pts for frame in frames] == [index * 960 for index in range(20)]


def test_another_source() -> None:
    """A new SSRC is heard at once, and media time goes on."""
    line = Line()
    before = line.run(list(range(10)))
    after = line.run(list(range(30000, 30010)), ssrc=2)
    assert len(after) == 10
    assert after[0].pts > before[-1].pts


def test_the_codec_changes() -> None:
    """PCMU in the midst of Opus comes out in the format that was promised, and Opus after it."""
    line = Line()
    assert len(line.run(list(range(10)))) == 10
    frames = line.run(list(range(100, 120)), payload_type=PCMU, payload=b"\x55" * 160)
    assert {frame.sample_rate for frame in frames} == {48000}
    assert abs(sum(frame.samples.shape[1] for frame in frames) - 20 * 960) < 200
    assert len(line.run(list(range(200, 210)))) == 10


def test_garbage_in_a_packet() -> None:
    """A packet that cannot be decoded is counted and made up; unknown payload types are passed over."""
    line = Line()
    line.run(list(range(10)))
    line.send(10, payload=b"\xff\xff\xff")
    line.send(11, payload_type=55)
    frames = line.frames()
    assert line.ports.audio_figures.undecodable == 1
    assert [frame.concealed for frame in frames] == [True]
    assert len(line.run(list(range(11, 15)))) == 4


def test_before_the_start() -> None:
    """Packets that come before the transport was started are dropped, and not kept."""
    line = Line(receive=None)
    assert line.run(list(range(10))) == []
    line.ports.receive = AudioFormat(48000, "stereo")
    assert {frame.samples.shape for frame in line.run(list(range(10, 20)))} == {(2, 960)}


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_encoding_keeps_pitch_and_time(rate: int, channels: int, opus: str) -> None:
    """What is encoded at any of Opus' rates, mono or stereo, decodes to the same tone; packets count in 1/48000 s."""
    encoder, decoder = OpusEncoder(rate, OpusConfig()), make_decoder("OPUS", AudioFormat(48000, "stereo"))
    assert decoder is not None
    assert isinstance(decoder, FFmpegOpusDecoder) == (opus == "ffmpeg")
    n = rate // 50
    t = np.arange(n * 50) / rate
    voice = np.repeat((8000 * np.sin(2 * np.pi * 700 * t)).astype(np.int16)[None], channels, axis=0)
    out = []
    for index in range(50):
        packet = encoder.encode(voice[:, index * n : (index + 1) * n], index * n)
        assert packet is not None
        assert (packet.pts, float(packet.time_base)) == (index * 960, 1 / 48000)
        assert bool(bytes(packet)[0] & 4) == (channels == 2)  # the TOC byte's stereo flag, RFC 6716 section 3.1
        out.append(decoder.decode(bytes(packet))[0])
    heard = np.concatenate(out)[4800:]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.argmax(spectrum) * 48000 / len(heard) - 700) < 3
    assert 6000 < np.abs(heard).max() < 10000


def test_the_track_plays_and_ends() -> None:
    """The track gives a packet per frame at its time, a frame if Opus was not agreed on, and ends with the player."""

    async def play() -> None:
        player = Player()
        player.open(AudioFormat(16000))
        track = PlayoutTrack(player, OpusConfig())
        player.put(AudioFrame(np.ones((1, 960), np.int16), 16000, 0))
        began = time.monotonic()
        first, second = await track.recv(), await track.recv()
        assert isinstance(first, av.Packet)
        assert (first.pts, second.pts) == (0, 960)
        track.opus = False
        frame = await track.recv()
        assert isinstance(frame, av.AudioFrame)
        assert (frame.samples, frame.sample_rate, frame.pts, frame.layout.name) == (320, 16000, 640, "mono")
        assert time.monotonic() - began > 0.035
        track.opus = True
        waiting = asyncio.create_task(track.recv())
        await asyncio.sleep(0.01)
        threading.Thread(target=player.put, args=[AudioFrame(np.ones((1, 320), np.int16), 16000, 0)]).start()
        assert isinstance(await asyncio.wait_for(waiting, 20), av.Packet)
        waiting = asyncio.create_task(track.recv())
        await asyncio.sleep(0.01)
        player.close()
        with pytest.raises(MediaStreamError):
            await asyncio.wait_for(waiting, 20)

    asyncio.run(play())


class Writer:
    """Stands for what puts packets on the wire."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, int, bool]] = []
        self.levels: list[int | None] = []
        self.fails = False

    def write(self, payload: bytes, timestamp: int, *, marker: bool, level: int | None) -> None:
        if self.fails:
            raise ConnectionError
        self.levels.append(level)
        self.packets.append((payload, timestamp, marker))


def test_the_track_plays_to_the_wire() -> None:
    """Each frame is written at its time, whichever thread put it, until the player is closed or the link is gone."""

    async def play() -> None:
        player, writer = Player(), Writer()
        player.open(AudioFormat(16000))
        track = PlayoutTrack(player, OpusConfig())
        began = time.monotonic()
        playing = asyncio.create_task(track.play(writer))  # type: ignore[arg-type]
        player.put(AudioFrame(np.ones((1, 960), np.int16), 16000, 0))
        while len(writer.packets) < 3:
            await asyncio.sleep(0.005)
        assert time.monotonic() - began > 0.038
        assert [(timestamp, marker) for _, timestamp, marker in writer.packets] == [
            (0, True),
            (960, False),
            (1920, False),
        ]
        assert all(payload for payload, _, _ in writer.packets)
        await asyncio.sleep(0.05)
        threading.Thread(target=player.put, args=[AudioFrame(np.ones((1, 320), np.int16), 16000, 0)]).start()
        while len(writer.packets) < 4:
            await asyncio.sleep(0.005)
        player.close()
        await asyncio.wait_for(playing, 20)
        assert writer.levels == [None] * 4

    async def tell_level() -> None:
        player, writer = Player(), Writer()
        player.open(AudioFormat(16000))
        playing = asyncio.create_task(PlayoutTrack(player, OpusConfig(audio_level=True)).play(writer))  # type: ignore[arg-type]
        player.put(AudioFrame(np.full((1, 320), 16384, np.int16), 16000, 0))
        while not writer.packets:
            await asyncio.sleep(0.005)
        player.close()
        await asyncio.wait_for(playing, 20)
        assert writer.levels == [6]

    async def lose() -> None:
        player, writer = Player(), Writer()
        player.open(AudioFormat(16000))
        writer.fails = True
        player.put(AudioFrame(np.ones((1, 320), np.int16), 16000, 0))
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(PlayoutTrack(player, OpusConfig()).play(writer), 1)  # type: ignore[arg-type]

    async def cancel() -> None:
        player, writer = Player(), Writer()
        player.open(AudioFormat(16000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(PlayoutTrack(player, OpusConfig()).play(writer), 0.02)  # type: ignore[arg-type]
        player.put(AudioFrame(np.ones((1, 320), np.int16), 16000, 0))
        await asyncio.sleep(0.02)
        assert not writer.packets

    for story in (play, tell_level, lose, cancel):
        asyncio.run(story())


def test_what_was_cleared_does_not_leave() -> None:
    """A frame that is being encoded while the queue is cleared is not sent any more."""

    async def play() -> None:
        player = Player()
        player.open(AudioFormat(16000))
        track = PlayoutTrack(player, OpusConfig())
        real = OpusEncoder(16000, OpusConfig())

        def encode(samples: np.ndarray, pts: int) -> Any:
            player.clear()
            track._encoder = real
            return real.encode(samples, pts)

        track._encoder = SimpleNamespace(encode=encode)  # type: ignore[assignment]
        player.put(AudioFrame(np.ones((1, 640), np.int16), 16000, 0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(track.recv(), 0.1)

    asyncio.run(play())


def test_options_are_checked() -> None:
    """Options out of range are refused with what would be right."""
    for wrong in ({"bitrate": 1}, {"complexity": 11}, {"complexity": "best"}, {"expected_loss": -1}):
        with pytest.raises(ValueError, match="expected"):
            OpusConfig(**wrong)
    with pytest.raises(ValueError, match="voip"):
        OpusConfig(application="music")  # type: ignore[arg-type]
