"""Video between aiortc's tracks and the queues. Runs in the room's thread; aiortc codes in threads of its own."""

from __future__ import annotations

import asyncio
import os
from fractions import Fraction
from typing import Final

import anyio
import av
from aiortc import MediaStreamTrack
from aiortc.codecs.vpx import Vp8Encoder, number_of_threads
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import MediaStreamError
from av.frame import Frame
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from .._core.flow import Flow

CLOCK_RATE: Final = 90_000
"""The RTP clock of video in Hz (RFC 6184 section 8.2.1, RFC 7741 section 6.1)."""
_TIME_BASE: Final = Fraction(1, CLOCK_RATE)
BITRATE_STEP: Final = 0.1
"""By how much the bitrate that the peer asks for must differ from the encoder's to be worth a new one; as in aiortc."""


class PictureBuffer(JitterBuffer):
    """aiortc's buffer, but a picture leaves it with its own last packet, not with the first packet of the next one.

    The last packet is marked (RFC 7741 section 4.1, RFC 6184 section 5.1), so this is one picture, 33 ms, earlier. Of a
    sender that marks none, pictures leave when the timestamp changes, as in aiortc. Packets without a payload, which
    senders use to probe the path, make no picture.

    Relies on: ``add`` returns what ``_remove_frame`` returns; ``_packets`` is a ring, ``_origin`` its first number;
    ``packet._data`` is the payload without its codec's header.
    """

    def __init__(self) -> None:
        super().__init__(capacity=512, is_video=True)  # as aiortc's receiver has it

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:  # noqa: ARG002
        parts: list[bytes] = []
        count = 0
        while self._origin is not None and count < self._capacity:
            packet = self._packets[(self._origin + count) % self._capacity]
            if packet is None:
                return None
            if count == 0:
                timestamp = packet.timestamp
            done = packet.timestamp != timestamp
            if not done:
                parts.append(packet._data)  # type: ignore[attr-defined]
                count += 1
                done = packet.marker == 1
            if done:
                self.remove(count)
                if any(parts):
                    return JitterFrame(b"".join(parts), timestamp)
                parts, count = [], 0
        return None


class PictureEncoder(Vp8Encoder):
    """aiortc's VP8 encoder, but it encodes the pictures as they are.

    aiortc has libvpx take the noise out of them first (``noise-sensitivity=4``), as a browser does with what a camera
    sees. A handler's pictures were made, or have been through that in the browser. Without it, and one step faster in
    its search (``cpu-used=-8`` for -6), encoding takes three quarters of the time, and what comes out is still nearer
    to what the handler emitted (``bench/vp8.py``).

    Relies on: ``codec`` is the PyAV context, which `encode` uses as it is while picture size and bitrate fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reformatter = VideoReformatter()  # one for all: a frame's own is made anew for each

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:  # noqa: FBT001, FBT002
        """Encode one picture; returns the payloads of its packets, and its RTP timestamp."""
        assert isinstance(frame, av.VideoFrame)
        frame = self._reformatter.reformat(frame, format="yuv420p")
        if not self._fits(frame):
            self.codec = self._open(frame.width, frame.height)
        return super().encode(frame, force_keyframe)

    def _fits(self, frame: av.VideoFrame) -> bool:
        codec, bitrate = self.codec, self.target_bitrate
        if codec is None or not codec.bit_rate:
            return False
        # The bitrate cannot be changed but by a new encoder, which begins with a whole picture.
        near = abs(bitrate - codec.bit_rate) <= codec.bit_rate * BITRATE_STEP
        return near and (frame.width, frame.height) == (codec.width, codec.height)

    def _open(self, width: int, height: int) -> VideoCodecContext:
        bitrate = self.target_bitrate
        codec = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate = bitrate
        codec.qmin, codec.qmax = 2, 56
        codec.gop_size = 3000  # whole pictures are sent when the peer asks for one
        codec.thread_count = number_of_threads(width * height, os.cpu_count() or 1)
        codec.options = {
            "deadline": "realtime",
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "minrate": str(bitrate),  # constant, over a buffer of one second
            "maxrate": str(bitrate),
            "bufsize": str(bitrate),
            "overshoot-pct": "15",
            "undershoot-pct": "100",
            "noise-sensitivity": "0",
            "static-thresh": "1",
            "partitions": "0",
        }
        return codec


class VideoOutTrack(MediaStreamTrack):
    """The track that sends the latest frame of a flow, stamped with the time at which it is sent."""

    kind = "video"

    def __init__(self, frames: Flow[av.VideoFrame]) -> None:
        super().__init__()
        self._frames = frames
        self._origin: float | None = None
        self._last = -1

    async def recv(self) -> av.VideoFrame:
        """Wait for the next frame to send."""
        try:
            frame = await self._frames.take()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise MediaStreamError from None
        now = asyncio.get_running_loop().time()
        if self._origin is None:
            self._origin = now
        self._last = max(self._last + 1, round((now - self._origin) * CLOCK_RATE))
        frame.pts, frame.time_base = self._last, _TIME_BASE
        return frame


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
