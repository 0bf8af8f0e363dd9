"""Video between aiortc's tracks and the queues. Runs in the engine's thread; aiortc codes in threads of its own."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, Final, cast

import anyio
import av
import numpy as np
from aiortc import MediaStreamTrack, RTCRtpReceiver, RTCRtpSender
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import MAX_FRAME_RATE, H264Encoder
from aiortc.codecs.vpx import Vp8Encoder, number_of_threads
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecCapability, RTCRtpCodecParameters
from av.frame import Frame
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from .._core.flow import Flow
from ..media.colours import PictureConverter
from ..media.pictures import CLOCK_RATE, KEY_TESTS, PictureBuffer, VideoPacket, key_size_vp8
from ..media.transport_feedback import ArrivalLog, PathWatch, parse_feedback
from ..media.video_rate import VideoRate
from .config import VideoConfig
from .seam.pictures import PicturePort, take_pictures

_TIME_BASE: Final = Fraction(1, CLOCK_RATE)
FALL: Final = 0.25
"""By how much of its bitrate an encoder must be above the target to be worth a new one, and its key picture. Bits that
it makes too many meanwhile are paid back (`media.video_rate`).
"""
RISE: Final = 0.35
"""By how much of its bitrate it must be below."""
REPEAT_AFTER: Final = 0.1
"""Seconds in which a new frame must come after a request for a key picture; else the last frame is sent again."""
RISE_AFTER: Final = 3.0
"""Seconds that an encoder is kept before one with a higher bitrate is opened."""


NARROW: Final = 400_000
"""Bits per second below which the buffer of VP8's encoder is half a second instead of one. Key pictures are smaller
then, and on a narrow path fewer pictures behind them are late."""

LONGEST_STEP: Final = CLOCK_RATE // 10
"""The longest time between two pictures that VP8's encoder is told. It gives a picture the bits of the time before it.
On a narrow path, where most pictures are left out, it would make each one larger than the last, until none fits."""

MAX_WAITING: Final = 60
"""Pictures that may wait for the decoder. More never get shown in time: a machine that slow drops them, and goes on
with the next key picture."""

ALIGNED: Final = 94 * 16_384 + 1953
"""Pixels by which FFmpeg's buffer of a picture may exceed the picture, whose sides have at most 16,384. FFmpeg's limit
is for the buffer. Its lines are filled up to 64 pixels, its columns to 32: (w + 63) (h + 31) - w h."""

MOST_BEFORE: Final = 65_536
"""Bytes of H.264 parameter sets that wait for their picture. They take a few hundred."""

_SLICE = re.compile(rb"\x00\x00\x01[\x01-\x05\x21-\x25\x41-\x45\x61-\x65]")
"""Where a part of a picture begins in H.264 (ITU-T H.264 section 7.3.1 and annex B): units of the types 1 to 5."""


class PictureDecoder:
    """Decodes the pictures of one remote track, in the thread that calls it.

    One thread decodes one track. libvpx's decoder could use several if a picture has several parts. They wait for one
    another without rest, so on a busy machine they take fifty times as long as one.

    Args:
        max_pixels: Larger pictures are dropped, and those that build on them.
        show: Gets each picture.
        on_error: Called with what is wrong with a picture that could not be decoded.

    Attributes:
        shown: How many pictures were decoded.
    """

    def __init__(
        self, max_pixels: int, show: Callable[[av.VideoFrame], object], on_error: Callable[[str], object]
    ) -> None:
        self.shown: int = 0
        self._max_pixels, self._show, self._on_error = max_pixels, show, on_error
        self._name = ""
        self._codec: VideoCodecContext | None = None
        self._too_large = False
        self._before = b""  # H.264 without a picture

    def decode(self, name: str, data: bytes, timestamp: int) -> None:
        """Decode one picture; `timestamp` in 1/90,000 s."""
        if self._codec is None or name != self._name:
            self._codec, self._name, self._too_large, self._before = self._open(name), name, False, b""
        if name == "H264":  # some senders mark the end of a picture behind each parameter set, too
            data, self._before = self._before + data, b""
            if not _SLICE.search(data):
                self._before = data if len(data) <= MOST_BEFORE else b""
                return
        if name == "VP8" and (size := key_size_vp8(data)) is not None:
            self._too_large = self._is_too_large(*size)
        if self._too_large or not data:  # a decoder takes an empty packet for the end
            return
        packet = av.Packet(data)
        packet.pts, packet.time_base = timestamp, _TIME_BASE
        try:
            frames = self._codec.decode(packet)
        except (av.FFmpegError, MemoryError) as error:
            self._on_error(f"a picture that cannot be decoded: {error}")
            return
        for frame in frames:
            if not self._is_too_large(frame.width, frame.height):
                self.shown += 1
                self._show(frame)

    def _is_too_large(self, width: int, height: int) -> bool:
        if width * height <= self._max_pixels:
            return False
        self._on_error(f"a picture of {width} × {height} pixels; see VideoConfig(max_pixels=…)")
        return True

    def _open(self, name: str) -> VideoCodecContext:
        codec = cast("VideoCodecContext", av.CodecContext.create({"VP8": "libvpx"}.get(name, name.lower()), "r"))
        codec.thread_count = 1
        codec.options = {"max_pixels": str(self._max_pixels + ALIGNED)}  # libvpx looks at it too late; see `decode`
        return codec


class PictureReceiver:
    """Packets of one remote track become pictures in `frames`; requests go to the sender.

    `media.pictures` decides, on the loop's clock. `run` is one of the peer's tasks: it does what is due when no packet
    comes. The decoder's thread decodes.

    Args:
        frames: Gets the pictures, from the decoder's thread.
        config: Its `max_pixels`.
        warn: Called, in the loop's thread, with what was wrong with a picture.
    """

    def __init__(self, frames: Flow[av.VideoFrame], config: VideoConfig, warn: Callable[[str], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._warn = warn
        self._decoder = PictureDecoder(config.max_pixels, frames.put_nowait, self._decoder_failed)
        self._buffer, self._arrivals = PictureBuffer(), ArrivalLog()
        self._port: PicturePort | None = None
        self._codec: RTCRtpCodecParameters | None = None
        self._ssrc: int | None = None
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def install(self, receiver: RTCRtpReceiver) -> bool:
        """Stand in for the buffer of `receiver`, which has not started; False if this aiortc is unknown."""
        self._port = take_pictures(receiver, self._add, self._act, self._arrived, self._decoder.decode)
        return self._port is not None

    def _arrived(self, number: int) -> bytes | None:
        now = self._loop.time()
        self._arrivals.add(number, now)
        return self._arrivals.feedback(now)

    def _add(self, packet: Any, payload: bytes) -> None:
        port, now = self._port, self._loop.time()
        if port is None:
            return
        codec = port.codec_of(packet.payload_type)
        if self._ssrc is not None and (packet.ssrc, codec.name) != (self._ssrc, self._codec and self._codec.name):
            self._buffer.restart(now)  # another encoder: its first picture is a key picture
        self._ssrc, self._codec = packet.ssrc, codec
        key = KEY_TESTS.get(codec.name.upper(), _always)(packet.payload)
        marker = packet.marker == 1
        self._buffer.put(VideoPacket(packet.sequence_number, packet.timestamp, marker, payload, key), now)

    async def _act(self) -> None:
        port, codec, ssrc = self._port, self._codec, self._ssrc
        if port is None or codec is None or ssrc is None:
            return
        now = self._loop.time()
        if port.waiting() > MAX_WAITING:
            port.skip()
            self._buffer.need_key(now)
        actions = self._buffer.poll(now)
        for picture in actions.pictures:
            port.decode(codec, picture.data, picture.timestamp)
        self._set_timer(self._buffer.due())
        if actions.lost:
            await port.report_lost(ssrc, actions.lost)
        if actions.ask_key:
            await port.ask_key(ssrc)

    def _set_timer(self, due: float | None) -> None:
        timer = self._timer
        if due is not None and (timer is None or due < timer.when()):
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(due, self._wake)

    def _decoder_failed(self, why: str) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody needs pictures
            self._loop.call_soon_threadsafe(self._ask_key, why, self._decoder.shown)

    def _ask_key(self, why: str, shown: int) -> None:
        self._warn(why)
        self._buffer.not_decoded(self._loop.time(), shown)
        self._due.set()

    def _wake(self) -> None:
        self._timer = None
        self._due.set()

    async def run(self) -> None:
        """Ask again, and give up holes, when it is time for it."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                await self._act()
        finally:
            if self._timer is not None:
                self._timer.cancel()


def _always(_: bytes) -> bool:
    """A codec whose key pictures are unknown here: every picture is taken for one."""
    return True


def video_rate(config: VideoConfig) -> VideoRate:
    """The rate of a track within the bounds of `config`."""
    return VideoRate(config.start_bitrate, config.min_bitrate, config.max_bitrate)


class Bitrate:
    """The bitrate that an encoder is opened with: that of the rate's target, and not changed for little. Pure.

    A new bitrate takes a new encoder, and its key picture costs as many bits as several others. A lower target counts
    at once, because the path is full; a higher one counts after `RISE_AFTER` seconds.
    """

    def __init__(self, rate: VideoRate) -> None:
        self._rate = rate
        self._opened, self._since = rate.target, -1e9

    @property
    def target(self) -> int:
        """Bits per second."""
        return self._rate.target

    def aim(self, bitrate: int) -> None:
        """The peer's estimate, bits per second."""
        self._rate.estimate(bitrate)

    def open(self, now: float) -> int:
        """An encoder is opened: with which bitrate."""
        self._opened, self._since = self.target, now
        return self.target

    def fits(self, now: float) -> bool:
        """Whether the open encoder's bitrate will do."""
        if self.target < self._opened * (1 - FALL):
            return False
        return self.target <= self._opened * (1 + RISE) or now - self._since < RISE_AFTER


class PictureEncoder(Vp8Encoder):
    """aiortc's VP8 encoder, but it encodes the pictures as they are.

    aiortc has libvpx take the noise out of them first (``noise-sensitivity=4``), as a browser does with what a camera
    sees. A handler's pictures were made, or have been through that in the browser. Without it, and one step faster in
    its search (``cpu-used=-8`` for -6), encoding takes three quarters of the time. The result is still nearer to what
    the handler emitted (``bench/vp8.py``).

    Relies on: ``codec`` is the PyAV context, which `encode` uses as it is while picture size and bitrate fit;
    ``target_bitrate`` is asked for them.
    """

    def __init__(
        self,
        config: VideoConfig = VideoConfig(),  # noqa: B008
        rate: VideoRate | None = None,
        pts: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self._threads, self._bitrate, self._pts = config.threads, Bitrate(rate or video_rate(config)), pts
        self._seen = self._told = 0
        self._converter = PictureConverter()

    @property
    def target_bitrate(self) -> int:
        """Bits per second that the open encoder has, so that `super().encode` never opens one by itself."""
        return self._bitrate.target if self.codec is None else int(self.codec.bit_rate or 0)

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._bitrate.aim(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:  # noqa: FBT001, FBT002
        """Encode one picture; returns the payloads of its packets, and its RTP timestamp."""
        assert isinstance(frame, av.VideoFrame)  # noqa: S101
        pts = _pts_of(frame, self._pts)
        frame = self._converter.own(frame, "yuv420p")
        codec, now = self.codec, time.monotonic()
        same_size = codec is not None and (frame.width, frame.height) == (codec.width, codec.height)
        if not (same_size and self._bitrate.fits(now)):
            self.codec = self._open(frame.width, frame.height, self._bitrate.open(now))
        frame.pts, frame.time_base = self._encoder_time(pts), _TIME_BASE
        payloads, _ = super().encode(frame, force_keyframe)
        return payloads, pts

    def _encoder_time(self, pts: int) -> int:
        """The time that the encoder is told; `pts` and the result in 1/90,000 s."""
        self._told += max(1, min(pts - self._seen, LONGEST_STEP))
        self._seen = pts
        return self._told

    def _open(self, width: int, height: int, bitrate: int) -> VideoCodecContext:
        codec = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate = bitrate
        codec.qmin, codec.qmax = 2, 56
        codec.gop_size = 3000  # key pictures are sent when the peer asks for one
        codec.thread_count = self._threads or 1  # two of them wait for each other without rest
        codec.options = {
            "deadline": "realtime",
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "minrate": str(bitrate),  # constant; a key picture takes three eighths of the buffer
            "maxrate": str(bitrate),
            "bufsize": str(bitrate if bitrate >= NARROW else bitrate // 2),
            "overshoot-pct": "15",
            "undershoot-pct": "100",
            "noise-sensitivity": "0",
            "static-thresh": "1",
            "partitions": "0",
        }
        return codec


class H264PictureEncoder(H264Encoder):
    """aiortc's H.264 packets, with an encoder for live pictures of any size.

    H.264 codes chroma at half the resolution, and libx264 takes even sizes only. An odd picture gets its last row or
    column twice.

    Relies on: ``_encode_frame(frame, force_keyframe)`` yields the NAL units of one picture, ``_split_bitstream`` cuts
    them out of an encoder's packet.
    """

    def __init__(
        self,
        config: VideoConfig = VideoConfig(),  # noqa: B008
        rate: VideoRate | None = None,
        pts: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self._threads, self._bitrate, self._pts = config.threads, Bitrate(rate or video_rate(config)), pts
        self._converter, self._odd = PictureConverter(), PictureConverter()  # each for one conversion

    @property
    def target_bitrate(self) -> int:
        """Bits per second to aim at."""
        return self._bitrate.target

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._bitrate.aim(bitrate)

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:  # noqa: FBT001, FBT002
        """Encode one picture; returns the payloads of its packets, and its RTP timestamp."""
        assert isinstance(frame, av.VideoFrame)  # noqa: S101
        pts = _pts_of(frame, self._pts)
        frame = self._converter.own(even(frame, self._odd), "yuv420p")
        frame.pts, frame.time_base = pts, _TIME_BASE
        return super().encode(frame, force_keyframe)

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:  # noqa: FBT001
        codec, now = self.codec, time.monotonic()
        same_size = codec is not None and (frame.width, frame.height) == (codec.width, codec.height)
        if codec is None or not (same_size and self._bitrate.fits(now)):
            self.codec = codec = self._open(frame.width, frame.height, self._bitrate.open(now))
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        data = b"".join(map(bytes, codec.encode(frame)))
        if data:
            yield from self._split_bitstream(data)

    def _open(self, width: int, height: int, bitrate: int) -> VideoCodecContext:
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate = bitrate
        codec.framerate, codec.time_base = Fraction(MAX_FRAME_RATE, 1), Fraction(1, MAX_FRAME_RATE)
        codec.profile = "Baseline"
        codec.thread_count = self._threads or number_of_threads(width * height, os.cpu_count() or 1)
        codec.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            # The rate over a second, as for VP8; without a bound a key picture would fill a slow path for seconds.
            "maxrate": str(bitrate),
            "bufsize": str(bitrate),
            # Level 3.1 is negotiated, which has 1280 × 720 pictures (ITU-T H.264 table A-1). Larger pictures name their
            # own level.
            **({"level": "31"} if width * height <= 3600 * 256 else {}),
        }
        return codec


def _pts_of(frame: av.VideoFrame, pts: Callable[[], int] | None) -> int:
    """When `frame` is shown, in 1/90,000 s: as the track has it, or without a track as the frame has it."""
    return (frame.pts or 0) if pts is None else pts()


def even(frame: av.VideoFrame, converter: PictureConverter) -> av.VideoFrame:
    """`frame`, or if its width or height is odd a copy of its picture that is wider or higher by one pixel."""
    down, right = frame.height % 2, frame.width % 2
    if not down and not right:
        return frame
    pixels = converter.own(frame, "rgb24").to_ndarray().astype(np.uint8, copy=False)
    return av.VideoFrame.from_ndarray(np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge"), format="rgb24")


def encoders(
    config: VideoConfig, rate: VideoRate | None = None, pts: Callable[[], int] | None = None
) -> dict[str, Callable[[], Encoder]]:
    """What makes the encoder of a codec, by its name in SDP.

    Args:
        config: The options.
        rate: How much is sent; by default that of `config`.
        pts: Returns when the frame is shown that is encoded now, in 1/90,000 s. By default the frame says so.
    """
    return {"VP8": partial(PictureEncoder, config, rate, pts), "H264": partial(H264PictureEncoder, config, rate, pts)}


def preferred(config: VideoConfig) -> list[RTCRtpCodecCapability]:
    """All codecs for an offer, in the order of `config.codecs`; the others, and retransmissions, after them."""
    ranks = {name: rank for rank, name in enumerate(config.codecs)}
    codecs = RTCRtpSender.getCapabilities("video").codecs
    return sorted(codecs, key=lambda codec: ranks.get(codec.name, len(ranks)))


class VideoOutTrack(MediaStreamTrack):
    """The track that sends the latest frame of a flow. Its time (`pts`) is the one at which it is sent.

    `media.video_rate` decides when the next frame may go. A peer that asks for a key picture gets one with the next
    frame. A handler that shows a still picture emits none for long, so its last frame is then sent again.

    Attributes:
        ended: Whether the flow has ended, so that the sender may.
        rate: How much is sent.
        stamps: Whether frames get that time, too. aiortc's encoders look for it there. Ours ask the track, because the
            frame is the handler's, and may be sent in other calls.
    """

    kind = "video"

    def __init__(self, frames: Flow[av.VideoFrame], rate: VideoRate) -> None:
        super().__init__()
        self.ended = False
        self.rate = rate
        self.stamps: bool = True
        self._path = PathWatch()
        self._frames, self._running = frames, asyncio.get_running_loop()
        self._origin: float | None = None
        self._last = -1
        self._shown: av.VideoFrame | None = None
        self._again: asyncio.TimerHandle | None = None

    async def recv(self) -> av.VideoFrame:
        """Wait until the next frame may go, and for a frame."""
        if (wait := self.rate.wait(self._running.time())) > 0:
            await asyncio.sleep(wait)
        try:
            frame = await self._frames.take()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self.ended = True
            raise MediaStreamError from None
        self._cancel_repeat()
        now = self._running.time()
        if self._origin is None:
            self._origin = now
        self._last = max(self._last + 1, round((now - self._origin) * CLOCK_RATE))
        if self.stamps:
            frame.pts, frame.time_base = self._last, _TIME_BASE
        self._shown = frame
        return frame

    def pts(self) -> int:
        """When the frame is shown that `recv` has returned last, in 1/90,000 s."""
        return self._last

    # -- what the sender tells; see `seam.pictures.SenderEvents`

    def sent(self, size: int, packets: int, *, key: bool) -> None:
        """A picture has left."""
        self.rate.sent(self._running.time(), size, packets, key=key)

    def reported(self, lost: float, round_trip: float | None) -> None:
        """The peer has reported."""
        self.rate.report(self._running.time(), lost, round_trip)

    def key_asked(self) -> bool:
        """The peer has asked for a key picture (PLI or FIR). Returns whether the next picture must be one."""
        if not self.rate.key_asked(self._running.time()):
            return False
        if self._shown is not None and self._again is None:
            self._again = self._running.call_later(REPEAT_AFTER, self._repeat)
        return True

    def may_send_again(self, sequence_number: int, size: int) -> bool:
        """Whether a lost packet is sent again."""
        return self.rate.may_send_again(self._running.time(), sequence_number, size)

    def packet_sent(self, number: int, size: int) -> None:
        """A packet with a number for the whole transport leaves."""
        self._path.sent(self._running.time(), number, size)

    def fed_back(self, body: bytes) -> None:
        """The peer tells which of those packets came, and when."""
        with suppress(ValueError):  # it cannot be read, and the next one is soon to come
            state = self._path.feedback(parse_feedback(body))
            if state is not None:
                self.rate.path(self._running.time(), *state)

    def _repeat(self) -> None:
        self._again = None
        if self._shown is not None and not len(self._frames):
            self._frames.put_nowait(self._shown)

    def _cancel_repeat(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def stop(self) -> None:
        """Send nothing more."""
        self._cancel_repeat()
        super().stop()


async def read_track(track: MediaStreamTrack, frames: Flow[av.VideoFrame]) -> None:
    """Bring every frame of a remote track into `frames`, until it ends.

    It is read whether anyone wants frames or not: aiortc's queue behind the track has no bound.
    """
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if isinstance(frame, av.VideoFrame):
            frames.put_nowait(frame)
