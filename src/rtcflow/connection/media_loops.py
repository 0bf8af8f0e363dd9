"""What runs in a connection's three nurseries: frames from the transport to the handler, and back.

    receive   transport.audio_in → resample → handler.receive
    emit      handler.emit → resample → transport.audio_out (which paces)
    video     transport.video_in → handler.video_receive, handler.video_emit → transport.video_out

Each direction is a loop in the handler's colour: a task of the nursery for an async handler, one long-lived worker
thread for a sync one. Each loop ends when its queue does; what the handler raises leaves through the nursery.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from .._core.flow import Flow, Policy
from .._core.threads import Crew
from ..abc import Transport
from ..frames import LAYOUTS, AudioFormat, AudioFrame
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.items import Emitted, VideoEmitted, parse_emit, parse_video_emit, video_to_handler
from ..media.pacing import Pacer
from ..media.resample import Converter
from ..outputs import AdditionalOutputs, CloseStream

logger = logging.getLogger(__name__)

STREAM_ENDS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

STALL: Final = 0.5
"""Seconds that one call of `receive` or `video_receive` may take before it is logged as a stall: audio_in holds 1 s."""

FAIR: Final = 8
"""Items that an async `emit` may give without waiting for anything before others on its loop have their turn."""

VIDEO_BURST: Final = 2
"""Video frames that may leave ahead of the clock, so that a camera a little faster than `fps` is not held up."""


class IdleWait:
    """How long to wait after an `emit` that had nothing: 1, 2, 4 … 20 ms.

    A handler that waits by itself before it returns None (0.5 ms or more) is not made to wait again. 20 ms is one
    frame: asking less often could be heard.
    """

    def __init__(self) -> None:
        self._wait = 0.0

    def reset(self) -> None:
        """There was something."""
        self._wait = 0.0

    def next(self, took: float) -> float:
        """Seconds to wait after an `emit` that took `took` seconds to say that there is nothing."""
        if took >= 0.0005:
            self._wait = 0.0
        else:
            self._wait = min(max(2 * self._wait, 0.001), 0.02)
        return self._wait


class _Voice:
    """What a handler emits, at the transport's sample rate; mono stays mono and stereo stereo."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._converters: dict[int, Converter] = {}

    def frame(self, samples: NDArray[np.int16], sample_rate: int) -> AudioFrame:
        channels = samples.shape[0]
        if channels not in self._converters:
            self._converters = {channels: Converter(AudioFormat(self._sample_rate, LAYOUTS[channels]), live=True)}
        return AudioFrame(self._converters[channels].feed(samples, sample_rate), self._sample_rate, 0)


class Nurseries:
    """The loops of one connection's nurseries, and what they count.

    Args:
        transport: Where frames come from and go to.
        handler: Whose methods are called; bound.
        crew: The worker threads of a sync handler, and of conversions.
        on_outputs: Called with the `AdditionalOutputs` that the handler emits, in the thread it emits them in.
        on_close: Called with the `CloseStream` that it returns, likewise.

    Attributes:
        clock: What stalls and idle times are measured with, readable in any thread; in virtual time the loop's.
        received: Calls of `receive` that were begun.
        emitted: Audio items that `emit` returned.
        video_received: Calls of `video_receive` that were begun.
        video_emitted: Frames that `video_emit` returned.
        stalls: Calls of `receive` or `video_receive` that took longer than `STALL`.
        longest_stall: The longest of them, in seconds.
    """

    def __init__(
        self,
        transport: Transport,
        handler: StreamHandlerBase,
        crew: Crew,
        *,
        on_outputs: Callable[[AdditionalOutputs], None],
        on_close: Callable[[CloseStream], None],
    ) -> None:
        self._transport = transport
        self._handler: Any = handler
        self._crew = crew
        self.clock: Callable[[], float] = time.monotonic
        self._on_outputs = on_outputs
        self._on_close = on_close
        self._ticks = Flow[None](VIDEO_BURST, Policy.BLOCK)
        self.received = self.emitted = self.video_received = self.video_emitted = 0
        self.stalls = 0
        self.longest_stall = 0.0

    # -- audio in

    def receive(self, heard: AudioFormat) -> Awaitable[None]:
        """Call `receive` with the peer's audio, as `heard`, until there is no more."""
        return self._in_its_colour(self._receive, self._receive_in_thread, Converter(heard, live=True))

    async def _receive(self, heard: Converter) -> None:
        while True:
            try:
                frame = await self._transport.audio_in.take()
            except STREAM_ENDS:
                return
            samples = heard.feed(frame.samples, frame.sample_rate)
            if samples.shape[1]:
                self.received += 1
                began = self.clock()
                await self._handler.receive((heard.target.sample_rate, samples))
                self._note_stall("receive", self.clock() - began)

    def _receive_in_thread(self, heard: Converter) -> None:
        while True:
            try:
                frame = self._transport.audio_in.take_sync()
            except STREAM_ENDS:
                return
            samples = heard.feed(frame.samples, frame.sample_rate)
            if samples.shape[1]:
                self.received += 1
                began = self.clock()
                self._crew.call(self._handler.receive, (heard.target.sample_rate, samples))
                self._note_stall("receive", self.clock() - began)

    # -- audio out

    def emit(self, sample_rate: int) -> Awaitable[None]:
        """Ask `emit` for audio, and put it into `audio_out` at `sample_rate`, until the stream is closed.

        Handlers also emit what is not for the peer's ears (`AdditionalOutputs`), so a peer who does not listen makes
        no difference but this: the audio passes into nothing, as fast as it would have been played.
        """
        return self._in_its_colour(self._emit, self._emit_in_thread, _Voice(sample_rate))

    async def _emit(self, voice: _Voice) -> None:
        idle, turns = IdleWait(), 0
        while True:
            began = self.clock()
            emitted = parse_emit(await self._handler.emit())
            if emitted.nothing:
                await anyio.sleep(idle.next(self.clock() - began))
                continue
            idle.reset()
            if not self._speak(emitted, voice):
                return
            if not self._transport.offer.send_audio:
                await anyio.sleep(emitted.seconds)
                continue
            try:
                await self._transport.audio_out.wait_for_room()
            except anyio.ClosedResourceError:
                return
            turns += 1
            if turns % FAIR == 0:
                await anyio.lowlevel.checkpoint()

    def _emit_in_thread(self, voice: _Voice) -> None:
        idle = IdleWait()
        while True:
            began = self.clock()
            emitted = parse_emit(self._crew.call(self._handler.emit))
            if emitted.nothing:
                self._crew.sleep(idle.next(self.clock() - began))
                continue
            idle.reset()
            if not self._speak(emitted, voice):
                return
            if not self._transport.offer.send_audio:
                self._crew.sleep(emitted.seconds)
                continue
            try:
                self._transport.audio_out.wait_for_room_sync()
            except anyio.ClosedResourceError:
                return

    def _speak(self, emitted: Emitted, voice: _Voice) -> bool:
        """Send what `emit` returned where it belongs; False if that ends the stream."""
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        if emitted.audio is not None:
            self.emitted += 1
            rate, samples = emitted.audio
            if not self._transport.offer.send_audio:
                return self._go_on(emitted.close)
            try:
                self._transport.audio_out.put(voice.frame(samples, rate))
            except anyio.ClosedResourceError:
                return False
        return self._go_on(emitted.close)

    # -- video in

    def see(self) -> Awaitable[None]:
        """Call `video_receive` with the latest frame of the peer, until there is no more."""
        return self._in_its_colour(self._see, self._see_in_thread)

    async def _see(self) -> None:
        video_format = self._handler.video_format
        while True:
            try:
                frame = await self._transport.video_in.take()
            except STREAM_ENDS:
                return
            seen: Any = frame
            if video_format != "frame":  # a millisecond of work, for the most part without the GIL
                seen = await self._crew.convert(partial(video_to_handler, frame, video_format))
            self.video_received += 1
            began = self.clock()
            await self._handler.video_receive(seen)
            self._note_stall("video_receive", self.clock() - began)

    def _see_in_thread(self) -> None:
        while True:
            try:
                frame = self._transport.video_in.take_sync()
            except STREAM_ENDS:
                return
            seen = video_to_handler(frame, self._handler.video_format)
            self.video_received += 1
            began = self.clock()
            self._crew.call(self._handler.video_receive, seen)
            self._note_stall("video_receive", self.clock() - began)

    # -- video out

    def show(self) -> Awaitable[None]:
        """Ask `video_emit` for frames, at most `fps` a second (`tick`), until the stream is closed."""
        return self._in_its_colour(self._show, self._show_in_thread)

    async def tick(self) -> None:
        """Give out the right to emit one video frame, `fps` times a second."""
        pacer = Pacer(self._handler.fps)
        try:
            while True:
                await anyio.sleep_until(pacer.next_deadline(anyio.current_time()))
                await self._ticks.put(None)
                pacer.frame_sent()
        finally:
            self._ticks.close()

    async def _show(self) -> None:
        idle = IdleWait()
        while True:
            await self._ticks.take()
            while True:
                began = self.clock()
                item = await self._handler.video_emit()
                if item is not None:
                    break
                await anyio.sleep(idle.next(self.clock() - began))
            idle.reset()
            parse = partial(parse_video_emit, item, self._handler.video_format)
            if not self._project(await self._crew.convert(parse)):
                return

    def _show_in_thread(self) -> None:
        idle = IdleWait()
        while True:
            try:
                self._ticks.take_sync()
            except STREAM_ENDS:
                return
            while True:
                began = self.clock()
                item = self._crew.call(self._handler.video_emit)
                if item is not None:
                    break
                self._crew.sleep(idle.next(self.clock() - began))
            idle.reset()
            if not self._project(parse_video_emit(item, self._handler.video_format)):
                return

    def _project(self, emitted: VideoEmitted) -> bool:
        """Send what `video_emit` returned where it belongs; False if that ends the stream."""
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        if emitted.frame is not None:
            self.video_emitted += 1
            self._transport.video_out.put_nowait(emitted.frame)
        return self._go_on(emitted.close)

    # -- all of them

    def _in_its_colour(
        self, in_task: Callable[..., Awaitable[None]], in_thread: Callable[..., None], *args: Any
    ) -> Awaitable[None]:
        """Run one direction for an async handler in the task that awaits this, for a sync one in a worker thread.

        No coroutine of its own: each wake-up passes through all that await one another.
        """
        if isinstance(self._handler, AsyncStreamHandler):
            return in_task(*args)
        name = f"{type(self._handler).__qualname__}.{in_thread.__name__}"
        return self._crew.run(name, partial(in_thread, *args))

    def _go_on(self, close: CloseStream | None) -> bool:
        if close is not None:
            self._on_close(close)
        return close is None

    def _note_stall(self, method: str, seconds: float) -> None:
        if seconds > STALL:
            self.stalls += 1
            self.longest_stall = max(self.longest_stall, seconds)
            name = type(self._handler).__qualname__
            logger.warning("%s.%s took %.2f s; media waits at most 1 s", name, method, seconds)
