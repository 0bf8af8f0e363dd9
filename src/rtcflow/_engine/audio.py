"""Audio between the wire and the queues: packets in, frames out, and the reverse. Runs in the room's thread.

Sending: the sender of aiortc asks our track for the next packet; the track waits for the frame that is due, encodes it
right here (a quarter of a millisecond) and hands over a packet, which aiortc sends as it is. No thread, no queue.

Receiving: see `seam.take_packets` for how packets get here. Each goes through the jitter buffer (pure, ours), is
decoded right here, and is put into `Ports.audio_in`; one timer holds the buffer's next deadline.
"""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from typing import Any, cast

import anyio
import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from numpy.typing import NDArray

from ..frames import LAYOUTS, AudioFormat, AudioFrame
from ..media.resample import Converter
from ..player import Player
from .config import OPUS_RATES, OpusConfig
from .opus import RTP_RATE, OpusDecoder, OpusEncoder, PlainDecoder
from .ports import Ports
from .seam import Packet

_log = logging.getLogger("rtcflow.engine")


def send_format(wanted: AudioFormat) -> AudioFormat:
    """The format in which audio must be put for sending: as wanted if Opus knows the rate, else at 48 kHz."""
    return wanted if wanted.sample_rate in OPUS_RATES else AudioFormat(RTP_RATE, wanted.layout)


class PlayoutTrack(MediaStreamTrack):
    """The track that plays a `Player` to the peer, at its own pace."""

    kind = "audio"

    def __init__(self, player: Player, config: OpusConfig) -> None:
        super().__init__()
        self.opus = True
        self._player, self._config = player, config
        self._encoder: OpusEncoder | None = None

    async def recv(self) -> av.Packet[Any] | av.AudioFrame:
        """Wait for the next frame, until it is due; a packet if Opus was agreed on, else a frame for aiortc."""
        while True:
            try:
                samples, sample_rate, pts, _ = (await self._player.next_frame()).frame
            except anyio.EndOfStream:
                raise MediaStreamError from None
            if not self.opus:
                return _as_av(samples, sample_rate, pts)
            if self._encoder is None:
                self._encoder = OpusEncoder(sample_rate, self._config)
            if (packet := self._encoder.encode(samples, pts)) is not None:
                return packet


def _as_av(samples: NDArray[np.int16], sample_rate: int, pts: int) -> av.AudioFrame:
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=LAYOUTS[samples.shape[0]])
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, pts, Fraction(1, sample_rate)
    return frame


class AudioReceiver:
    """Turns one peer's audio packets into frames in `Ports.audio_in`.

    Args:
        ports: Where frames and figures go.
        loop: The room's loop, for the timer.
    """

    def __init__(self, ports: Ports, loop: asyncio.AbstractEventLoop) -> None:
        self._ports, self._loop = ports, loop
        self._codecs: dict[int, tuple[str, int]] = {}
        self._decoder: OpusDecoder | PlainDecoder | None = None
        self._decoding: tuple[int, str] | None = None
        self._ssrc: int | None = None
        self._next: int | None = None
        self._pts = 0

    def start(self, parameters: RTCRtpReceiveParameters) -> None:
        """Learn which payload type is which codec."""
        self._codecs = {codec.payloadType or 0: (codec.name.upper(), codec.clockRate) for codec in parameters.codecs}

    def packet(self, packet: Packet) -> None:
        """A packet has come."""
        figures, receive = self._ports.audio_figures, self._ports.receive
        codec = self._codecs.get(packet.payload_type)
        if receive is None or codec is None:
            return
        figures.received += 1
        if packet.ssrc != self._ssrc:
            self._ssrc, self._next, self._decoding = packet.ssrc, None, None
        if self._decoding != (packet.payload_type, receive.layout):
            self._decoder = _decoder(codec[0], receive)
            self._decoding = packet.payload_type, receive.layout
        if self._decoder is None:
            return
        sequence = packet.sequence_number
        missing = 0 if self._next is None else (sequence - self._next) & 0xFFFF
        if missing >= 0x8000:
            figures.late += 1
            return
        for _ in range(min(missing, 5)):
            figures.lost += 1
            if (made_up := self._decoder.conceal()) is not None:
                figures.concealed += 1
                self._put(made_up, concealed=True)
        self._next = (sequence + 1) & 0xFFFF
        try:
            samples = self._decoder.decode(packet.payload)
        except av.FFmpegError:
            figures.undecodable += 1
            return
        self._put(samples, concealed=False)

    def _put(self, samples: NDArray[np.int16], *, concealed: bool) -> None:
        assert self._decoder is not None
        frame = AudioFrame(samples, self._decoder.sample_rate, self._pts, concealed)
        self._pts += samples.shape[1]
        self._ports.audio_in.put_nowait(frame)

    def close(self) -> None:
        """Nothing more will come."""


async def read_track(track: MediaStreamTrack, ports: Ports) -> None:
    """The plain way to receive audio, should the seam be closed: through aiortc's own jitter buffer and decoder."""
    converter: Converter | None = None
    pts = 0
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        receive = ports.receive
        if receive is None or not isinstance(frame, av.AudioFrame):
            continue
        flat = cast("NDArray[np.int16]", frame.to_ndarray())
        channels = len(frame.layout.channels)
        samples = np.ascontiguousarray(flat.reshape(-1, channels).T)
        if converter is None:
            converter = Converter(receive)
        samples = converter.feed(samples, frame.sample_rate)
        ports.audio_figures.received += 1
        ports.audio_in.put_nowait(AudioFrame(samples, receive.sample_rate, pts))
        pts += samples.shape[1]


def _decoder(name: str, receive: AudioFormat) -> OpusDecoder | PlainDecoder | None:
    if name == "OPUS":
        return OpusDecoder(receive.layout)
    return PlainDecoder(name, receive.layout) if name in PlainDecoder.NAMES else None
