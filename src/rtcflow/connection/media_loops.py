"""What runs in a connection's three nurseries: frames from the transport to the handler, and back.

    receive   transport.audio_in → resample → handler.receive
    emit      handler.emit → resample → transport.audio_out (which paces)
    video     transport.video_in → handler.video_receive, handler.video_emit → transport.video_out

A nursery lives as long as the media of one transport, and begins when the peer offers media for it. It can be ended and
begun again while the other two go on. `start_up`, timers and the handler's own tasks are not here, and go on, too.

Each direction is a loop. For an async handler it is a task of the nursery, for a sync one a long-lived worker thread. A
loop ends when its queue ends. Ending a nursery cancels its tasks. A thread cannot be cancelled, so a flag tells it to
leave, and it looks at the flag after each call of the handler.

The invariant: no method is called twice at once. So the next loop of a direction waits for the thread of the last one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import Event
from .._core.flow import Flow, Policy
from .._core.mutex import Mutex
from .._core.nursery import Nursery
from .._core.player import Player
from .._core.threads import Crew
from ..abc import Transport
from ..frames import LAYOUTS, AudioFormat
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import has_video
from ..handlers.items import Emitted, VideoEmitted, parse_emit, parse_video_emit, video_to_handler
from ..media.colours import PictureConverter
from ..media.pacing import Pacer
from ..media.resample import Converter
from ..outputs import AdditionalOutputs, CloseStream

logger: logging.Logger = logging.getLogger(__name__)

STREAM_ENDS: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

STALL: Final = 0.5
"""Seconds that one call of `receive` or `video_receive` may take before it is logged as a stall: audio_in holds 1 s."""

FAIR: Final = 8
"""Items that an async `emit` may give without waiting before other tasks of its loop run."""

PIECE: Final = 0.5
"""Seconds of emitted audio that are converted at once: 2 ms of work, and more than any handler emits in real time."""

NURSERIES: Final[dict[str, tuple[str, ...]]] = {
    "receive": ("receive",),
    "emit": ("emit",),
    "video": ("video_receive", "video_emit", "tick"),
}
"""The three nurseries, and the loops that run in each."""

QUICK_TO_SEE, QUICK_TO_SHOW = 320 * 240, 640 * 480
"""Pixels of a picture up to which it is converted for the handler, and from what the handler returned, in the loop
itself. That takes up to 0.1 ms, which is what the way to a thread and back takes.
"""

VIDEO_BURST: Final = 2
"""Video frames that may leave ahead of the clock, so that a camera a little faster than `fps` is not held up."""


def _pixels(item: object) -> int:
    """About how many pixels a picture has that `video_emit` returned; 0 for anything else."""
    if isinstance(item, np.ndarray):
        return item.size // 3
    if isinstance(item, tuple):
        return sum(map(_pixels, item))
    width, height = getattr(item, "width", 0), getattr(item, "height", 0)  # an av.VideoFrame
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


class IdleWait:
    """How long to wait after an `emit` that returned None: 1, 2, 4 … 20 ms.

    If a handler waits by itself before it returns None (0.5 ms or more), it need not wait again. 20 ms is one frame;
    asking less often could be heard.
    """

    def __init__(self) -> None:
        self._wait = 0.0

    def reset(self) -> None:
        """`emit` returned an item."""
        self._wait = 0.0

    def next(self, took: float) -> float:
        """Seconds to wait after an `emit` that took `took` seconds to return None."""
        if took >= 0.0005:
            self._wait = 0.0
        else:
            self._wait = min(max(2 * self._wait, 0.001), 0.02)
        return self._wait


def _pieces(samples: NDArray[np.int16], rate: int, audio_out: Player) -> Iterator[NDArray[np.int16]]:
    """The audio in pieces that are quick to convert. If `clear_queue` is called meanwhile, the rest is dropped.

    Converted as one, ten minutes of it take many times their own memory.
    """
    size, clears = max(1, int(PIECE * rate)), audio_out.clears
    for begin in range(0, samples.shape[1], size):
        if audio_out.clears != clears:
            return
        yield samples[:, begin : begin + size]


class Voice:
    """What a handler emits, at the transport's sample rate; mono stays mono and stereo stereo."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._converters: dict[int, Converter] = {}

    def feed(self, samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.int16]:
        channels = samples.shape[0]
        if channels not in self._converters:
            self._converters = {channels: Converter(AudioFormat(self._sample_rate, LAYOUTS[channels]), live=True)}
        return self._converters[channels].feed(samples, sample_rate)


class EmitPace:
    """Holds back an `emit` that returns at once, again and again, and gives next to no audio.

    The room in `audio_out` holds audio back. Items without a length could keep the handler's loop busy for ever. So
    every item costs a little time, as in a token bucket: `OUTPUT_COST` without audio, `AUDIO_COST` with it.
    Items are held back once they are worth `BURST` more than the time that has passed.
    """

    OUTPUT_COST: Final = 0.01
    """Seconds: 100 outputs a second for long. A page can show no more, and readers of outputs keep 256."""

    AUDIO_COST: Final = 0.0005
    """Seconds: 2000 pieces of audio a second for long; the shortest that sound cards make are of 1 ms."""

    BURST: Final = 1.0
    """Seconds of cost that may come at once."""

    def __init__(self) -> None:
        self._debt = 0.0
        self._last = 0.0

    def next(self, now: float, *, audio: bool) -> float:
        """Seconds to wait after an item that was asked for at `now`."""
        left, self._last = self._debt - (now - self._last), now
        self._debt = debt = max(0.0, left) + (self.AUDIO_COST if audio else self.OUTPUT_COST)
        return debt - self.BURST if debt > self.BURST else 0.0


class _Turn:
    """One worker thread's turn at a direction, from its beginning until its loop is left."""

    def __init__(self) -> None:
        self.over = False  # asked to leave, after the call that is under way
        self.hands_over = False  # what that call returns, to the next turn
        self.left = Event()


class MediaLoops:
    """The loops of one connection's media, the nurseries they run in, and what they count.

    Args:
        transport: Where frames come from and go to.
        handler: The handler whose methods are called; bound.
        crew: The worker threads of a sync handler, and of conversions.
        call: The connection's name in the names of tasks and threads.
        on_outputs: Called with the `AdditionalOutputs` that the handler emits, in the thread it emits them in.
        on_close: Called in the same way with the `CloseStream` that it returns.
        on_end: Awaited with the method of a loop whose queue has ended.
        failed: Awaited with what a loop raised.

    Attributes:
        transport: Where frames come from and go to; changed only while nothing runs.
        floor: Held by what puts audio: `emit` for one item, `say` for all that it plays.
        begun: Set while media runs; closed at the end.
        speaks: Whether the peer listens to audio; once `begun`.
        clears: How often `clear_queue` was called, over all transports.
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
        call: str,
        *,
        on_outputs: Callable[[AdditionalOutputs], None],
        on_close: Callable[[CloseStream], None],
        on_end: Callable[[str], Awaitable[None]],
        failed: Callable[[BaseException], Awaitable[None]],
    ) -> None:
        self.transport = transport
        self._handler: Any = handler
        self._crew = crew
        self.floor: Mutex = Mutex()
        self.begun: Event = Event()
        self.speaks: bool = False
        self.clears: int = 0
        self._aside: Voice | None = None  # what `say` says
        self._since: tuple[Player, int] | None = None  # when that began: `Player.clears`
        self.clock: Callable[[], float] = time.monotonic
        self._on_outputs = on_outputs
        self._on_close = on_close
        self._on_end = on_end
        self._failed = failed
        self._call = call
        self._nurseries: dict[str, Nursery] = {}
        # The nursery in which each method is called, also while it ends. A method that swallowed its cancellation is
        # not called again.
        self._homes: dict[str, Nursery] = {}
        self._loops: set[str] = set()  # that run, or are about to
        self._turns: dict[str, _Turn] = {}
        # What was emitted when its loop ended and had not left, and `clears` when it was emitted.
        self._handed_over: tuple[Emitted, int] | None = None
        self._keeps = False  # whether the next loop speaks that
        self._ticks = Flow[None](VIDEO_BURST, Policy.BLOCK)
        self.received: int = 0
        self.emitted: int = 0
        self.video_received: int = 0
        self.video_emitted: int = 0
        self.stalls: int = 0
        self.longest_stall: float = 0.0

    # -- the nurseries

    def begin(self, owner: Nursery, heard: AudioFormat, sent: AudioFormat) -> None:
        """Begin what the peer offers and is not running yet, each loop in its nursery.

        Args:
            owner: The nursery that the three run in.
            heard: What `receive` is given.
            sent: What `audio_out` takes.
        """
        offer, video = self.transport.offer, has_video(self._handler)
        shows = video and (offer.send_video or offer.receive_video)
        self._begin_in("receive", owner, {"receive": offer.receive_audio and partial(self._receive, heard)})
        emits = offer.send_audio or offer.receive_audio  # also if the peer does not listen, see `_emit`
        self._begin_in("emit", owner, {"emit": emits and partial(self._emit, sent.sample_rate)})
        self._begin_in(
            "video",
            owner,
            {
                "video_receive": video and offer.receive_video and self._see,
                "video_emit": shows and self._show,
                "tick": shows and self._tick,
            },
        )
        self.speaks, self._aside = offer.send_audio, Voice(sent.sample_rate)
        self.begun.set()

    def _begin_in(self, name: str, owner: Nursery, wanted: dict[str, Any]) -> None:
        """Begin the `wanted` loops that exist and do not run yet, in the nursery `name`."""
        loops = {method: loop for method, loop in wanted.items() if loop and method not in self._loops}
        if not loops:
            return
        self._loops.update(loops)

        def begin() -> None:
            for method, loop in loops.items():
                self._homes[method] = nursery
                nursery.start_soon(self._run, method, loop, name=self._name(method))

        nursery = self._nurseries.get(name) or Nursery(self._failed)
        if nursery.is_open:
            begin()
        else:
            self._nurseries[name] = nursery
            owner.open(nursery, begin, name=f"{name} of {self._call}")

    async def end(self, *names: str, keep: bool = False) -> None:
        """End these nurseries, by default all: when this returns, their tasks have ended, and may be begun again.

        A method of a sync handler that is under way goes on; what it returns is dropped.

        Args:
            *names: Of `NURSERIES`.
            keep: Keep the result of an `emit` that is under way: the next `emit` loop sends it first.

        Raises:
            RuntimeError: No nursery has that name.
        """
        await anyio.lowlevel.checkpoint()
        for name in names or NURSERIES:
            if name not in NURSERIES:
                raise RuntimeError(f"a connection has no nursery {name!r}; expected one of {', '.join(NURSERIES)}")
            if name == "emit":
                self._keeps = keep
                self.begun.clear()
            if keep and "emit" in self._turns:
                self._turns["emit"].hands_over = True
            nursery = self._nurseries.pop(name, None)
            if nursery is not None:
                await nursery.wind_up(math.inf)
            self._loops.difference_update(NURSERIES[name])

    async def _run(self, method: str, loop: Callable[[], Awaitable[None]]) -> None:
        await loop()
        await self._on_end(method)

    def _name(self, method: str) -> str:
        return f"{type(self._handler).__qualname__}.{method} {self._call}"

    # -- audio in

    async def _receive(self, heard: AudioFormat) -> None:
        """Call `receive` with the peer's audio, as `heard`, until there is no more."""
        if not self._is_async:
            await self._in_thread("receive", self._receive_in_thread, Converter(heard, live=True))
            return
        converter, audio_in = Converter(heard, live=True), self.transport.audio_in
        home = self._homes["receive"]
        while home.is_open:
            try:
                frame = await audio_in.take_in_a_row()
            except STREAM_ENDS:
                return
            samples = converter.feed(frame.samples, frame.sample_rate)
            if samples.shape[1]:
                self.received += 1
                began = self.clock()
                await self._handler.receive((heard.sample_rate, samples))
                if (took := self.clock() - began) > STALL:
                    self._note_stall("receive", took)

    def _receive_in_thread(self, turn: _Turn, heard: Converter) -> None:
        audio_in = self.transport.audio_in
        while True:
            try:
                frame = audio_in.take_sync()
            except STREAM_ENDS:
                return
            if turn.over:
                return
            samples = heard.feed(frame.samples, frame.sample_rate)
            if samples.shape[1]:
                self.received += 1
                began = self.clock()
                self._crew.call(self._handler.receive, (heard.target.sample_rate, samples))
                if (took := self.clock() - began) > STALL:
                    self._note_stall("receive", took)

    # -- audio out

    async def _emit(self, sample_rate: int) -> None:
        """Ask `emit` for audio, and put it into `audio_out` at `sample_rate`, until the stream is closed.

        Handlers also emit `AdditionalOutputs`, which are not for the peer. So `emit` is called even if the peer does
        not listen. Then the audio is dropped, as fast as it would have been played.
        """
        voice = Voice(sample_rate)
        if not self._is_async:
            await self._in_thread("emit", self._emit_in_thread, voice)
            return
        idle, pace, turns, home = IdleWait(), EmitPace(), 0, self._homes["emit"]
        audio_out, listens = self.transport.audio_out, self.transport.offer.send_audio
        if listens:  # what the transport before had left to play may wait here
            try:
                await audio_out.wait_for_room_in_a_row()
            except anyio.ClosedResourceError:
                return
        while home.is_open:
            began = self.clock()
            emitted = self._take_over()
            if emitted is None:
                emitted = parse_emit(await self._handler.emit())
            if emitted.audio is None and emitted.nothing:
                await anyio.sleep(idle.next(self.clock() - began))
                continue
            idle.reset()
            if not self.floor.acquire_nowait():  # `say` has it
                clears = self.clears
                try:
                    await self.floor.acquire()
                except BaseException:
                    if self._keeps:
                        self._handed_over = emitted, clears
                    raise
                if self.clears != clears:
                    emitted = emitted._replace(audio=None)
            try:
                audio = emitted.audio
                if listens and audio is not None and audio[1].shape[1] > PIECE * audio[0]:
                    if not await self._speak_at_length(emitted, voice, audio_out):
                        return
                elif not self._speak(emitted, voice, audio_out if listens else None):
                    return
            finally:
                self.floor.release()
            wait = pace.next(began, audio=emitted.audio is not None)
            if not listens:
                wait = max(wait, emitted.seconds)
            if wait:
                await anyio.sleep(wait)
            if not listens:
                continue
            try:
                await audio_out.wait_for_room_in_a_row()
            except anyio.ClosedResourceError:
                return
            turns += 1
            if turns % FAIR == 0:
                await anyio.lowlevel.checkpoint()

    def _emit_in_thread(self, turn: _Turn, voice: Voice) -> None:
        idle, pace = IdleWait(), EmitPace()
        audio_out, listens = self.transport.audio_out, self.transport.offer.send_audio
        if listens:  # as above
            try:
                audio_out.wait_for_room_sync()
            except anyio.ClosedResourceError:
                return
        while not turn.over:
            began = self.clock()
            emitted = self._take_over()
            if emitted is None:
                emitted = parse_emit(self._crew.call(self._handler.emit))
            clears = self.clears
            if turn.over:
                if turn.hands_over:
                    self._handed_over = emitted, clears
                return
            if emitted.audio is None and emitted.nothing:
                self._crew.sleep(idle.next(self.clock() - began))
                continue
            idle.reset()
            if not self.floor.acquire_nowait():  # `say` has it
                self.floor.acquire_sync()
                if self.clears != clears:
                    emitted = emitted._replace(audio=None)
            try:
                if turn.over:
                    if turn.hands_over:
                        self._handed_over = emitted, clears
                    return
                if not self._speak(emitted, voice, audio_out if listens else None):
                    return
            finally:
                self.floor.release()
            wait = pace.next(began, audio=emitted.audio is not None)
            if not listens:
                wait = max(wait, emitted.seconds)
            if wait:
                self._crew.sleep(wait)
            if not listens:
                continue
            try:
                audio_out.wait_for_room_sync()
            except anyio.ClosedResourceError:
                return

    def _take_over(self) -> Emitted | None:
        """What the loop before has left; without its audio, if `clear_queue` was called since."""
        if self._handed_over is None:
            return None
        (emitted, clears), self._handed_over = self._handed_over, None
        return emitted if self.clears == clears else emitted._replace(audio=None)

    def _speak(self, emitted: Emitted, voice: Voice, audio_out: Player | None) -> bool:
        """Pass on what `emit` returned; False if that ends the stream."""
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        if emitted.audio is not None:
            if not emitted.is_rest:
                self.emitted += 1
            if audio_out is not None:
                (rate, samples), done, clears = emitted.audio, 0, self.clears
                try:
                    if samples.shape[1] <= PIECE * rate:
                        audio_out.put(voice.feed(samples, rate))
                    else:
                        for piece in _pieces(samples, rate, audio_out):
                            audio_out.put(voice.feed(piece, rate))
                            done += piece.shape[1]
                except anyio.ClosedResourceError:  # if another transport has taken the place of this one, it plays on
                    self._leave_rest(emitted, done, clears)
                    return False
        return self._go_on(emitted.close)

    async def _speak_at_length(self, emitted: Emitted, voice: Voice, audio_out: Player) -> bool:
        """`_speak` in a task, for audio that takes long to convert: other tasks run in between."""
        assert emitted.audio is not None  # noqa: S101
        rate, samples = emitted.audio
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        if not emitted.is_rest:
            self.emitted += 1
        done, clears = 0, self.clears
        try:
            for piece in _pieces(samples, rate, audio_out):
                audio_out.put(voice.feed(piece, rate))
                done += piece.shape[1]
                await anyio.lowlevel.checkpoint()
        except anyio.ClosedResourceError:
            return False
        except BaseException:
            self._leave_rest(emitted, done, clears)
            raise
        return self._go_on(emitted.close)

    def _leave_rest(self, emitted: Emitted, done: int, clears: int) -> None:
        """The loop ends when `done` samples of `emitted` are in `audio_out`: leave the rest to the next loop.

        `clears` is of the time when the first of them was put: a rest that was cleared meanwhile is not spoken.
        """
        if self._keeps and emitted.audio is not None:
            rate, samples = emitted.audio
            rest = (rate, samples[:, done:]) if done < samples.shape[1] else None
            self._handed_over = Emitted(rest, None, emitted.close, is_rest=True), clears

    def begin_aside(self) -> None:
        """Something else is said from now on, by what holds the floor."""
        self._since = None

    async def speak_aside(self, emitted: Emitted) -> bool:
        """Pass on what `say` says, which holds the floor; False if it ends with that.

        While no transport carries the connection, this waits. If `clear_queue` was called since `begin_aside`, the
        audio is dropped.

        Raises:
            anyio.ClosedResourceError: The call is over.
        """
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        rate, samples = emitted.audio or (1, np.empty((1, 0), np.int16))
        for piece in _pieces(samples, rate, self.transport.audio_out):
            await self.begun.wait()
            audio_out = self.transport.audio_out
            if self._since is None or self._since[0] is not audio_out:
                self._since = audio_out, audio_out.clears
            assert self._aside is not None  # noqa: S101
            if not audio_out.put(self._aside.feed(piece, rate), since=self._since[1]):
                return False
        return self._go_on(emitted.close)

    async def wait_for_room(self) -> None:
        """Wait until `audio_out` has room, also that of the next transport.

        Raises:
            anyio.ClosedResourceError: The call is over.
        """
        while True:
            await self.begun.wait()
            audio_out = self.transport.audio_out
            try:
                return await audio_out.wait_for_room_in_a_row()
            except anyio.ClosedResourceError:
                if audio_out is self.transport.audio_out and self.begun.is_set():
                    raise

    # -- video in

    async def _see(self) -> None:
        """Call `video_receive` with the latest frame of the peer, until there is no more."""
        if not self._is_async:
            await self._in_thread("video_receive", self._see_in_thread)
            return
        video_format, video_in = self._handler.video_format, self.transport.video_in
        converter = PictureConverter()
        home = self._homes["video_receive"]
        while home.is_open:
            try:
                frame = await video_in.take()
            except STREAM_ENDS:
                return
            seen: Any = frame
            if video_format != "frame":  # a millisecond of work, for the most part without the GIL
                convert = partial(video_to_handler, frame, video_format, converter)
                quick = frame.width * frame.height <= QUICK_TO_SEE
                seen = await self._crew.convert(convert, quick=quick)
            self.video_received += 1
            began = self.clock()
            await self._handler.video_receive(seen)
            if (took := self.clock() - began) > STALL:
                self._note_stall("video_receive", took)

    def _see_in_thread(self, turn: _Turn) -> None:
        video_in, converter = self.transport.video_in, PictureConverter()
        while True:
            try:
                frame = video_in.take_sync()
            except STREAM_ENDS:
                return
            if turn.over:
                return
            seen = video_to_handler(frame, self._handler.video_format, converter)
            self.video_received += 1
            began = self.clock()
            self._crew.call(self._handler.video_receive, seen)
            if (took := self.clock() - began) > STALL:
                self._note_stall("video_receive", took)

    # -- video out

    async def _tick(self) -> None:
        """Allow one more video frame, `fps` times a second."""
        pacer = Pacer(self._handler.fps)
        while True:
            await anyio.sleep_until(pacer.next_deadline(anyio.current_time()))
            await self._ticks.put(None)
            pacer.frame_sent()

    async def _show(self) -> None:
        """Ask `video_emit` for frames, at most `fps` a second (`_tick`), until the stream is closed."""
        if not self._is_async:
            await self._in_thread("video_emit", self._show_in_thread)
            return
        idle, home = IdleWait(), self._homes["video_emit"]
        while home.is_open:
            await self._ticks.take()
            while True:
                began = self.clock()
                item = await self._handler.video_emit()
                if item is not None:
                    break
                await anyio.sleep(idle.next(self.clock() - began))
            idle.reset()
            parse = partial(parse_video_emit, item, self._handler.video_format)
            if not self._project(await self._crew.convert(parse, quick=_pixels(item) <= QUICK_TO_SHOW)):
                return

    def _show_in_thread(self, turn: _Turn) -> None:
        idle = IdleWait()
        while True:
            try:
                self._ticks.take_sync()
            except STREAM_ENDS:
                return
            while not turn.over:
                began = self.clock()
                item = self._crew.call(self._handler.video_emit)
                if item is not None:
                    break
                self._crew.sleep(idle.next(self.clock() - began))
            if turn.over:
                return
            idle.reset()
            if not self._project(parse_video_emit(item, self._handler.video_format)):
                return

    def _project(self, emitted: VideoEmitted) -> bool:
        """Pass on what `video_emit` returned; False if that ends the stream."""
        if emitted.outputs is not None:
            self._on_outputs(emitted.outputs)
        if emitted.frame is not None:
            self.video_emitted += 1
            self.transport.video_out.put_nowait(emitted.frame)
        return self._go_on(emitted.close)

    def close(self) -> None:
        """Send and ask for no more. A thread that waits for the time of its next picture goes on."""
        self._ticks.close()
        self.begun.close()

    # -- all of them

    @property
    def _is_async(self) -> bool:
        return isinstance(self._handler, AsyncStreamHandler)

    async def _in_thread(self, method: str, loop: Callable[..., None], *args: Any) -> None:
        """Run the loop of a sync handler in a worker thread, after the one before it was left."""
        before = self._turns.get(method)
        if before is not None:
            await before.left.wait()
        turn = self._turns[method] = _Turn()

        def run() -> None:
            try:
                loop(turn, *args)
            finally:
                turn.left.set()

        try:
            await self._crew.run(self._name(method), run)
        finally:
            turn.over = True

    def _go_on(self, close: CloseStream | None) -> bool:
        if close is not None:
            self._on_close(close)
        return close is None

    def _note_stall(self, method: str, seconds: float) -> None:
        self.stalls += 1
        self.longest_stall = max(self.longest_stall, seconds)
        name = type(self._handler).__qualname__
        logger.warning("%s.%s took %.2f s; media waits at most 1 s", name, method, seconds)
