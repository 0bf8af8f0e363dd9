"""Audio between the wire and the queues: packets to frames, and frames to packets. Runs in the engine's thread.

The idea is to do all the work of a frame in one callback: no task to wake, no queue between, no thread pool.

Sending. aiortc asks a track for the next frame in a task of its own. It encodes the frame in a thread pool and sends it
through a chain of coroutines. That costs more than Opus does. Here one callback takes each frame when it is due. It
encodes the frame on the spot (a quarter of a millisecond) and writes the packet to the socket (`seam/wire.py`). Only if
the peer has no Opus does aiortc's sender ask `PlayoutTrack.recv`.

Receiving. `seam.take_packets` says how packets get here. Each goes through the jitter buffer of `rtcflow.media.jitter`,
is decoded on the spot and put into `Ports.audio_in`. One timer holds the buffer's next deadline.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from math import ceil
from typing import Any, Final, cast

import anyio
import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from numpy.typing import NDArray

from .._core.player import Player
from ..frames import AudioFormat, AudioFrame
from ..media.codecs import av_frame
from ..media.jitter import Item, JitterBuffer, Lost, Played
from ..media.level import audio_level
from ..media.packets import LatestPackets
from ..media.playout import PlayoutFrame
from ..media.resample import Converter
from .config import OPUS_RATES, OpusConfig
from .load import EngineLoad
from .opus import DECODE_ERRORS, RTP_RATE, Decoder, OpusEncoder, make_decoder
from .ports import Ports
from .seam.seam import Packet
from .seam.wire import RtpWriter

_log = logging.getLogger("rtcflow.engine")


GRAIN: Final = 0.001
"""Seconds by which a timer may fire too early: libuv's timers count whole milliseconds."""


def send_format(wanted: AudioFormat) -> AudioFormat:
    """The format in which audio must be put for sending: as wanted if Opus knows the rate, else at 48 kHz."""
    return wanted if wanted.sample_rate in OPUS_RATES else AudioFormat(RTP_RATE, wanted.layout)


class PlayoutTrack(MediaStreamTrack):
    """The track that plays a `Player` to the peer, at its own pace.

    Args:
        player: What is played.
        config: How it is encoded.
        load: Of the engine; it chooses the complexity if `config` says ``"auto"``. Without it, that is the best.
        packets: Where each packet that was sent is shown.
    """

    kind = "audio"

    def __init__(
        self,
        player: Player,
        config: OpusConfig,
        load: EngineLoad | None = None,
        packets: LatestPackets | None = None,
    ) -> None:
        super().__init__()
        self.opus = True
        self._player, self._config = player, config
        self._packets = LatestPackets() if packets is None else packets
        self._load, self._adapts = load, config.complexity == "auto"
        self._complexity: int | None = None
        self._encoder: OpusEncoder | None = None

    async def recv(self) -> av.Packet[Any] | av.AudioFrame:
        """Wait until the next frame is due. Returns a packet if Opus was agreed on, otherwise a frame for aiortc."""
        while True:
            try:
                samples, sample_rate, pts, _ = (await self._player.next_frame()).frame
            except anyio.EndOfStream:
                raise MediaStreamError from None
            if not self.opus:
                return av_frame(samples, sample_rate, pts)
            if self._encoder is None:
                self._encoder = OpusEncoder(sample_rate, self._config)
            packet = self._encoder.encode(samples, pts)
            if not self._player.drop_stale() and packet is not None:
                return packet

    async def play(self, writer: RtpWriter) -> None:
        """Play to `writer` as Opus, until the player is closed or this is cancelled.

        Raises:
            ConnectionError: The connection is gone.
        """
        pump = _Pump(self._player, partial(self._write, writer))
        try:
            with nullcontext() if self._load is None else self._load.listening(self._set_complexity):
                await pump.ended
        finally:
            pump.stop()

    def _set_complexity(self, complexity: int) -> None:
        if not self._adapts:
            return
        self._complexity = complexity
        if self._encoder is not None:
            self._encoder.set_complexity(complexity)

    @property
    def complexity(self) -> int | None:
        """The complexity that the engine's load has led to; None if it does not matter."""
        return self._complexity

    def _open_encoder(self, sample_rate: int) -> OpusEncoder:
        self._encoder = encoder = OpusEncoder(sample_rate, self._config)
        if self._complexity is not None:
            encoder.set_complexity(self._complexity)
        return encoder

    def _write(self, writer: RtpWriter, due: PlayoutFrame) -> None:
        samples, sample_rate, pts, _ = due.frame
        encoder = self._encoder
        if encoder is None:
            encoder = self._open_encoder(sample_rate)
        payload = encoder.payload(samples)
        if not self._player.drop_stale() and payload is not None:
            level = audio_level(samples) if self._config.audio_level else None
            writer.write(payload, pts * encoder.step, marker=due.talkspurt, level=level)
            self._packets.sent, self._packets.sent_pts = payload, pts


class _Pump:
    """Hands each frame of a player to `write` when it is due, by callbacks of the running loop alone.

    Attributes:
        ended: Done when the player was closed, or with what `write` raised.
    """

    def __init__(self, player: Player, write: Callable[[PlayoutFrame], None]) -> None:
        self._player, self._write = player, write
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._context = contextvars.copy_context()  # not the context of the thread that wakes us
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.call_soon(self._run, context=self._context)

    def wake(self) -> None:
        """Look at the player soon. From any thread, with the player's lock held."""
        soon = self._loop.call_soon if threading.get_ident() == self._thread else self._loop.call_soon_threadsafe
        with suppress(RuntimeError):  # the loop has closed, so nothing is left to do
            soon(self._run, context=self._context)

    def stop(self) -> None:
        """Stop playing."""
        self._stop_timer()
        self.ended.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._stop_timer()
        if self.ended.done():
            return
        try:
            while isinstance(due := self._player.poll(self, GRAIN), PlayoutFrame):
                self._write(due)
        except anyio.EndOfStream:
            self.ended.set_result(None)
        except Exception as error:  # noqa: BLE001 - it is raised again where `ended` is awaited
            self.ended.set_exception(error)
        else:
            if due is not None:
                self._timer = self._loop.call_later(_whole(due), self._run, context=self._context)


def _whole(seconds: float) -> float:
    """Rounded up to the grain of the loop's timers."""
    return ceil(seconds / GRAIN) * GRAIN or GRAIN


class AudioReceiver:
    """Turns one peer's audio packets into frames in `Ports.audio_in`.

    Args:
        ports: Where frames and figures go.
        loop: The engine's loop, for the timer.
        on_error: Called with an error that occurs when the timer fires. Errors of `packet` go to its caller.
    """

    def __init__(
        self, ports: Ports, loop: asyncio.AbstractEventLoop, on_error: Callable[[BaseException], None]
    ) -> None:
        self._ports, self._loop, self._on_error = ports, loop, on_error
        self._codecs: dict[int, tuple[str, int]] = {}
        self._jitter = JitterBuffer[tuple[int, bytes]](RTP_RATE)
        self._clock_rate = RTP_RATE
        self._decoder: Decoder | None = None
        self._decoding: tuple[int, AudioFormat] | None = None
        self._converter: Converter | None = None
        self._ssrc: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, parameters: RTCRtpReceiveParameters) -> None:
        """Learn which payload type is which codec."""
        self._codecs = {codec.payloadType or 0: (codec.name.upper(), codec.clockRate) for codec in parameters.codecs}

    def packet(self, packet: Packet) -> None:
        """Take a packet that has come."""
        codec = self._codecs.get(packet.payload_type)
        if codec is None or self._ports.receive is None:
            return
        self._ports.audio_figures.received += 1
        if packet.ssrc != self._ssrc or codec[1] != self._clock_rate:
            self._new_source(packet.ssrc, codec[1])
        now = self._loop.time()
        self._play(
            self._jitter.feed(packet.sequence_number, packet.timestamp, (packet.payload_type, packet.payload), now)
        )
        if self._timer is None and self._jitter.next_deadline() is not None:
            self._set_timer(now)

    def _new_source(self, ssrc: int, clock_rate: int) -> None:
        """Begin again for another SSRC or another clock; what waits is played first."""
        self._play(self._jitter.due(float("inf")))
        if self._ssrc is None or clock_rate != self._clock_rate:
            self._jitter, self._clock_rate, self._decoding = JitterBuffer(clock_rate), clock_rate, None
        else:
            self._jitter.restart()
        self._ssrc = ssrc

    def _set_timer(self, now: float) -> None:
        deadline = self._jitter.next_deadline()
        # At least a grain ahead: a timer that fires early would be set again and again.
        self._timer = None if deadline is None else self._loop.call_at(max(deadline, now + GRAIN), self._due)

    def _due(self) -> None:
        now = self._loop.time()
        try:
            self._play(self._jitter.due(now))
        except Exception as error:  # noqa: BLE001 - the event loop would swallow it, and no audio would come any more
            self._on_error(error)
        self._set_timer(now)

    def _play(self, items: list[Item[tuple[int, bytes]]]) -> None:
        for item in items:
            if isinstance(item, Played):
                payload_type, payload = item.payload
                decoder = self._get_decoder(payload_type, restarted=item.restarted)
                if decoder is None:
                    continue
                try:
                    samples, made_up = decoder.decode(payload), False
                    packet = payload if self._codecs[payload_type][0] == "OPUS" else None
                except DECODE_ERRORS:
                    self._ports.audio_figures.undecodable += 1
                    substitute = decoder.conceal()
                    if substitute is None:
                        continue
                    samples, made_up, packet = substitute, True, None
                self._put(decoder, samples, item.pts, concealed=made_up, packet=packet)
            else:
                self._make_up(item)

    def _make_up(self, lost: Lost[tuple[int, bytes]]) -> None:
        figures = self._ports.audio_figures
        figures.lost += lost.packets
        decoder, (payload_type, following) = self._decoder, lost.following
        for index in range(lost.fill if decoder is not None else 0):
            beside = index == lost.fill - 1 and self._decoding is not None and self._decoding[0] == payload_type
            if decoder is not None and (samples := decoder.conceal(following if beside else None)) is not None:
                figures.concealed += 1
                self._put(decoder, samples, lost.pts + index * lost.step, concealed=True)

    def _get_decoder(self, payload_type: int, *, restarted: bool) -> Decoder | None:
        receive = self._ports.receive
        if receive is None or payload_type not in self._codecs:
            return None
        wanted = payload_type, receive
        if wanted != self._decoding or restarted:
            self._decoder = make_decoder(self._codecs[payload_type][0], receive)
            self._decoding = wanted
            fits = self._decoder is None or self._decoder.sample_rate == receive.sample_rate
            self._converter = None if fits else Converter(receive)
        return self._decoder

    def _put(
        self, decoder: Decoder, samples: NDArray[np.int16], pts: int, *, concealed: bool, packet: bytes | None = None
    ) -> None:
        rate = decoder.sample_rate
        if self._converter is not None:
            samples, rate = self._converter.feed(samples, rate), self._converter.target.sample_rate
        if rate != self._clock_rate:
            pts = pts * rate // self._clock_rate
        self._ports.packets.received = packet
        self._ports.audio_in.put_nowait(AudioFrame(samples, rate, pts, concealed))

    def close(self) -> None:
        """Stop the timer: no more packets will come."""
        if self._timer is not None:
            self._timer.cancel()

    def figures(self) -> dict[str, float]:
        """The figures of the jitter buffer; from any thread."""
        figures = self._jitter.statistics()
        return {
            "packets_late": float(figures.late),
            "packets_duplicate": float(figures.duplicates),
            "packets_reordered": float(figures.reordered),
            "jitter_patience": figures.patience,
        }


async def read_track(track: MediaStreamTrack, ports: Ports) -> None:
    """Receive audio through aiortc's own jitter buffer and decoder, if the seam cannot be used."""
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
