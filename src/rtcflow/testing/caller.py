"""Call a handler: play something to it, and get everything it sent, with the moment it was sent.

    record = run_call(MyBot(), play=signals.speech_like(3), seconds=10)
    assert record.audio_seconds > 1
    assert not find_gaps(record.audio, record.sample_rate)

`run_call` is a plain function and runs in virtual time: ten seconds of call take a moment. `open_caller` is the same
step by step, for async tests, in virtual or real time.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import anyio
import anyio.lowlevel
import av
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import loop_clock
from .._core.moved import absent
from .._core.player import Player
from ..abc import MediaOffer
from ..client.lines import COMMA_SECONDS, DIGIT_SECONDS
from ..connection.connection import Connection, ConnectionStatistics
from ..context import Context
from ..ends import End, Timeouts, sole_error
from ..frames import FRAME_SECONDS, AudioFormat, AudioFrame
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import check_handler, copy_handler, has_video
from ..media.convert import as_pcm, to_channels
from ..media.playout import PlayoutFrame
from ..media.resample import Converter
from ..outputs import AdditionalOutputs
from ..protocol import messages
from ..transports.memory import Link, MemoryTransport, memory_pair, play_in_a_task
from ._facts import TELEPHONE, custom
from ._fair_clock import LOOK
from ._room import HANG, UNWIND, HandlerHung, Watch, refuse_in_a_loop, run_in_room
from ._virtual_time import ROUNDING, Alarm
from ._workers import PATIENCE
from .clocks import BackendName, Stuck, VirtualTime, virtual_time
from .signals import read_wav

__all__ = ["Blocked", "CallRecord", "Caller", "HandlerHung", "HeardFrame", "open_caller", "run_call"]

logger: logging.Logger = logging.getLogger(__name__)

Playable: TypeAlias = "NDArray[Any] | tuple[int, NDArray[Any]] | str | PathLike[str]"
"""Samples (int16 or float32; at the caller's sample rate), ``(sample_rate, samples)``, or the path of a wav file."""

LONG_BLOCK = 1.0
"""Seconds of call time that a call into a handler lasts before it is listed in `CallRecord.blocked`."""

SAMPLE_RATE = 24000
"""Hz, of what a caller plays where nothing says otherwise."""

MOMENT = 1e-8
"""Seconds. Less than anybody measures, and more than asyncio rounds."""

LONGEST_CLOSE = 600.0
"""Seconds of call time after which a call whose caller has hung up is not waited for any more."""


opens_after: ContextVar[float] = ContextVar("rtcflow_opens_after", default=0.0)
"""Seconds after which the data channels of the callers in this context are open."""

errors_of_calls: ContextVar[list[Exception] | None] = ContextVar("rtcflow_errors_of_calls", default=None)
"""Those that end the calls which are made in this context."""


@dataclass(frozen=True, slots=True)
class HeardFrame:
    """One frame that the caller heard.

    Attributes:
        at: Seconds of call time.
        frame: What the handler sent.
    """

    at: float
    frame: AudioFrame


@dataclass(frozen=True, slots=True)
class Blocked:
    """A call into a sync handler that had not returned when the caller hung up.

    Attributes:
        method: Its qualified name (``"Echo.emit"``).
        seconds: Seconds of call time it had lasted.
    """

    method: str
    seconds: float


@dataclass(frozen=True, repr=False)
class CallRecord:
    """All that happened in one call. Moments are seconds of call time: 0 is when the connection began.

    Attributes:
        handler: The copy that served the call.
        heard: The audio frames the caller heard, in order.
        seen: The video frames the caller saw: ``(at, frame)``.
        messages: Texts from the handler: ``(at, text)``, those of the protocol included.
        outputs: Its `AdditionalOutputs`: ``(at, outputs)``.
        end: How the call ended.
        error: What the handler raised, or None.
        statistics: The connection's figures at the end.
        seconds: How long the call lasted, until everything was closed.
        blocked: Calls into a sync handler that had lasted more than a second when the caller hung up.
        stuck: Calls that did not return in real time either, without which virtual time went on.
        noticed: What may have made this call another one than in real time: that it waited for a real socket. An empty
            text if there is nothing.
    """

    handler: StreamHandlerBase
    heard: list[HeardFrame]
    seen: list[tuple[float, av.VideoFrame]]
    messages: list[tuple[float, str]]
    outputs: list[tuple[float, AdditionalOutputs]]
    end: End
    error: BaseException | None
    statistics: ConnectionStatistics
    seconds: float
    blocked: tuple[Blocked, ...]
    stuck: tuple[Stuck, ...]
    noticed: str = ""

    def __repr__(self) -> str:
        heard, sent = f"{self.audio_seconds:.2f} s of audio", f"{len(self.messages)} messages"
        noticed = self.noticed and f"; {self.noticed}"
        return f"<CallRecord {self.seconds:.2f} s, {heard}, {sent}, {self.end.cause.name}{noticed}>"

    @property
    def sample_rate(self) -> int:
        """Of what was heard, in Hz."""
        return self.heard[0].frame.sample_rate if self.heard else self.handler.output_sample_rate

    @property
    def audio(self) -> NDArray[np.int16]:
        """What was heard, one frame after the other: int16, shape (channels, n); pauses between frames left out."""
        return _join([heard.frame.samples for heard in self.heard])

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio heard."""
        return sum(heard.frame.duration for heard in self.heard)

    def timeline(self) -> NDArray[np.int16]:
        """What was heard, each frame where it arrived: int16, shape (channels, n); sample 0 is moment 0."""
        rate = self.sample_rate
        channels = max((heard.frame.samples.shape[0] for heard in self.heard), default=1)
        ends = [round(heard.at * rate) + heard.frame.samples.shape[1] for heard in self.heard]
        line = np.zeros((channels, max([round(self.seconds * rate), *ends])), np.int16)
        for heard in self.heard:
            begin = round(heard.at * rate)
            samples = to_channels(heard.frame.samples, channels)
            line[:, begin : begin + samples.shape[1]] = samples
        return line

    def texts(self) -> list[str]:
        """The application's own messages, in order."""
        read = [messages.decode(text) for _, text in self.messages]
        return [message.text for message in read if isinstance(message, messages.AppMessage)]


@dataclass
class _Tape:
    heard: list[HeardFrame] = field(default_factory=list)
    seen: list[tuple[float, av.VideoFrame]] = field(default_factory=list)
    messages: list[tuple[float, str]] = field(default_factory=list)
    outputs: list[tuple[float, AdditionalOutputs]] = field(default_factory=list)
    blocked: tuple[Blocked, ...] = ()
    error: BaseException | None = None
    ended_at: float = 0.0


class Caller:
    """One end of a live call; made by `open_caller`.

    Like a browser it sends a frame every 20 ms, silence where there is nothing to play.

    Attributes:
        connection: The connection that serves the call.
        handler: The copy of the handler that serves it.
        transport: The caller's own end of the memory pair.
        sample_rate: Hz, of what is played where it does not say itself.
        microphone: Whether anything is sent while there is nothing to play.
    """

    def __init__(
        self,
        connection: Connection,
        transport: MemoryTransport,
        args: list[Any] | None,
        sample_rate: int,
        sent: AudioFormat | None,
    ) -> None:
        self.connection: Connection = connection
        self.handler: StreamHandlerBase = connection.handler
        self.transport: MemoryTransport = transport
        self.sample_rate: int = sample_rate
        self.microphone: bool = True
        self._sent = sent
        self._sent_rate = sample_rate if sent is None else sent.sample_rate
        self._converter = self._new_converter()
        self._rings = False  # the end of what was played is still in the converter
        self._clock = loop_clock()
        self._began = self._clock()
        self._args = args
        self._tape = _Tape()
        self._line: deque[NDArray[np.int16]] = deque()
        self._silent = anyio.Event()
        self._silent.set()
        self._frames = 0  # that were due
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        return f"<Caller {self.seconds:.3f} s, heard {len(self._tape.heard)} frames>"

    @property
    def seconds(self) -> float:
        """Call time now."""
        return self._clock() - self._began

    # -- what a caller can do

    def play_nowait(self, audio: Playable) -> float:
        """Say `audio` after what is being said already; returns its length in seconds.

        Raises:
            MediaError: It is not audio.
        """
        samples = _at_rate(audio, self.sample_rate)
        size = self.sample_rate // 50
        rest = -samples.shape[1] % size
        padded = np.pad(samples, ((0, 0), (0, rest)))
        if frames := padded.shape[1] // size:
            # As one, because the frames of a long call, one by one, take as long as all else in it.
            self._line.extend(np.split(self._convert(padded), frames, axis=1))
            self._rings = True
        if self._line and not self._ended.is_set():
            self._silent = anyio.Event()
        return float(samples.shape[1] / self.sample_rate)

    async def play(self, audio: Playable) -> None:
        """Say `audio`, and wait until it was said or the call has ended. Cancelling this falls silent. A checkpoint."""
        self.play_nowait(audio)
        try:
            await self._silent.wait()
        finally:
            if self._line:  # cut short: neither the rest nor what the converter holds of it is sent
                self._line.clear()
                self._converter, self._rings = self._new_converter(), False

    async def wait(self, seconds: float) -> None:
        """Let `seconds` of call time pass, or less if the call ends. A checkpoint."""
        with anyio.move_on_after(seconds):
            await self._ended.wait()

    async def wait_ended(self) -> End:
        """Wait until the call has ended by itself, and is closed. A checkpoint."""
        await self._ended.wait()
        assert self.connection.end is not None  # noqa: S101
        return self.connection.end

    def send_message(self, text: str) -> None:
        """Send a text on the data channel.

        Raises:
            anyio.ClosedResourceError: The call has ended.
        """
        self.transport.send_message_nowait(text)

    async def press(self, digits: str) -> None:
        """Press keys, one after the other in the time a dialler takes (0.25 s each); a comma waits 1 s. A checkpoint.

        Raises:
            ValueError: A telephone has no such key; nothing was pressed.
            anyio.ClosedResourceError: The call has ended.
        """
        messages.check_keys(digits, more=",")
        await anyio.lowlevel.checkpoint()
        for digit in digits:
            if digit != ",":
                self.transport.press(digit)
            await self.wait(COMMA_SECONDS if digit == "," else DIGIT_SECONDS)

    def set_args(self, args: list[Any]) -> None:
        """Post arguments, as a page does."""
        self.connection.set_args(args)

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Send one video frame: uint8, shape (height, width, 3), BGR; even sides."""
        self.transport.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))

    async def hang_up(self) -> None:
        """Say goodbye, and wait until the call is closed. A checkpoint."""
        self._leave()
        await self.transport.aclose()
        await self._ended.wait()

    async def break_link(self, error: BaseException | None = None) -> None:
        """Have the link fail under the connection, and wait until the call is closed. A checkpoint."""
        self._leave()
        ours = self.connection.transport
        assert isinstance(ours, MemoryTransport)  # noqa: S101
        ours.break_link(error or OSError("the network is gone"))
        await self._ended.wait()

    async def cancel(self) -> None:
        """Cancel the task that serves the call, as a server that is stopped does, and wait until it is closed.

        A checkpoint.
        """
        self._leave()
        self._scope.cancel()
        await self._ended.wait()

    # -- what a caller has noticed

    @property
    def heard(self) -> list[HeardFrame]:
        """What was heard so far."""
        return list(self._tape.heard)

    @property
    def messages(self) -> list[tuple[float, str]]:
        """Texts from the handler so far."""
        return list(self._tape.messages)

    def record(self) -> CallRecord:
        """All that happened, once the call has ended.

        Raises:
            RuntimeError: The call goes on.
        """
        if self.connection.end is None or not self._ended.is_set():
            raise RuntimeError("the call goes on; write await caller.hang_up() first, or ask after the block")
        tape, time_ = self._tape, _virtual_time()
        return CallRecord(
            handler=self.handler,
            heard=tape.heard,
            seen=tape.seen,
            messages=tape.messages,
            outputs=tape.outputs,
            end=self.connection.end,
            error=tape.error,
            statistics=self.connection.statistics(),
            seconds=tape.ended_at,
            blocked=tape.blocked,
            stuck=() if time_ is None else time_.stuck,
            noticed="" if time_ is None else time_.sockets.told(),
        )

    # -- tasks

    async def _serve(self) -> None:
        try:
            with self._scope:
                await self.connection.run()
        except Exception as error:  # supervises: kept for the code that opened the caller, which gets it unchanged
            self._tape.error = error
            if (errors := errors_of_calls.get()) is not None:
                errors.append(error)
        finally:
            self._tape.ended_at = self.seconds
            self._ended.set()
            self._silent.set()

    def _new_converter(self) -> Converter | None:
        return None if self._sent is None else Converter(self._sent, live=True)

    def _convert(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        return samples if self._converter is None else self._converter.feed(samples, self.sample_rate)

    def _quiet(self) -> NDArray[np.int16]:
        """A frame of silence, behind the end of what was played."""
        if not self._rings:
            return np.zeros((1, self._sent_rate // 50), np.int16)
        self._rings = False
        return self._convert(np.zeros((1, self.sample_rate // 50), np.int16))

    async def _speak(self) -> None:
        """Send a frame every 20 ms, until the call ends."""
        due = self._began
        try:
            clock = virtual_time()
        except RuntimeError:
            while due < math.inf:
                await anyio.sleep_until(due)
                due = self._send_frame()
            return
        with Alarm(clock, self._send_frame, due):
            await anyio.sleep_forever()

    def _send_frame(self) -> float:
        """Send the frame that is due; returns when the next one is."""
        samples = self._line.popleft() if self._line else self._quiet() if self.microphone else None
        n, self._frames = self._frames, self._frames + 1
        try:
            if samples is not None:  # past `audio_out`, whose clock would only be a second one
                frame = AudioFrame(samples, self._sent_rate, n * self._sent_rate // 50)
                self.transport.send_audio_nowait(frame)
        except anyio.ClosedResourceError:
            return math.inf
        if not self._line:
            self._silent.set()
        # A moment later: what the caller does at this time (hangs up, speaks) comes first, always.
        return self._began + self._frames * FRAME_SECONDS + MOMENT

    def _hear(self, frame: AudioFrame) -> None:
        self._tape.heard.append(HeardFrame(self.seconds, frame))

    def _see(self, frame: av.VideoFrame) -> None:
        self._tape.seen.append((self.seconds, frame))

    async def _read(self) -> None:
        with _until_the_end():
            while True:
                text = await self.transport.messages_in.take()
                self._tape.messages.append((self.seconds, text))
                if self._args is not None and isinstance(messages.decode(text), messages.SendInput):
                    self.set_args(self._args)

    async def _film(self, camera: Callable[[float], NDArray[np.uint8]], fps: float) -> None:
        n = 0
        while True:
            await anyio.sleep_until(self._began + n / fps)
            n += 1
            self.show(camera(self.seconds))

    def _put_out(self, outputs: AdditionalOutputs) -> None:
        self._tape.outputs.append((self.seconds, outputs))

    def _leave(self) -> None:
        """The caller is about to go: look which calls into the handler block, and begin to count how long it takes."""
        try:
            clock = virtual_time()
        except RuntimeError:
            return
        calls, now = clock.workers.calls(), self._clock()
        clock.over_by = now + LONGEST_CLOSE
        self._tape.blocked = tuple(Blocked(method, now - since) for method, since in calls if now - since >= LONG_BLOCK)


async def _play(player: Player, send: Callable[[AudioFrame], None]) -> None:
    """Play what an end of the call has queued: in virtual time without the steps of a task (`Alarm`)."""
    try:
        clock = virtual_time()
    except RuntimeError:
        await play_in_a_task(player, send)
        return
    over = anyio.Event()

    def ring() -> float:
        while True:
            try:
                due = player.poll(alarm_waiter, ROUNDING)
            except anyio.EndOfStream:
                over.set()
                return math.inf
            if not isinstance(due, PlayoutFrame):
                return math.inf if due is None else clock.now + due
            send(due.frame)

    with Alarm(clock, ring) as alarm:
        alarm_waiter = _AlarmWaiter(alarm)
        alarm.call()
        await over.wait()


@dataclass(frozen=True)
class _AlarmWaiter:
    """Waits in a `ParkingLot`, for an alarm."""

    alarm: Alarm

    def wake(self) -> None:
        self.alarm.call()


@asynccontextmanager
async def open_caller(
    handler: StreamHandlerBase,
    *,
    sample_rate: int | None = None,
    args: list[Any] | None = None,
    camera: Callable[[float], NDArray[np.uint8]] | None = None,
    fps: float = 30,
    link: Link | None = None,
    back: Link | None = None,
    phone: bool = False,
    messages: bool = True,
    context: Context | None = None,
    time_limit: float | None = None,
    timeouts: Timeouts | None = None,
    debug: bool = False,
    catch: bool = False,
) -> AsyncIterator[Caller]:
    """Call `handler` and stay on the line for the length of the block; then hang up, if the call still goes on.

    Args:
        handler: As you give it to a `Stream`; its `copy()` serves the call.
        sample_rate: Hz, at which the caller's frames arrive, a multiple of 50; and of what is played where it does
            not say itself. By default frames arrive at the handler's own rate, as over WebRTC, and what is played is
            at 24 kHz.
        args: Arguments to post whenever the handler asks for them.
        camera: Gives the picture for a moment of call time: uint8, shape (height, width, 3), BGR, even sides. By
            default an audio-video handler sees a grey square that grows lighter.
        fps: Pictures a second.
        link: What happens to the caller's media on its way (`rtcflow.testing.links`).
        back: The same for the handler's.
        phone: Whether the caller is on a telephone line.
        messages: Whether the caller opens a data channel.
        context: Facts about the caller. By default `Context.custom` is that of a telephone call, with `phone`.
        time_limit: As for `Connection`.
        timeouts: As for `Connection`.
        debug: As for `Connection`.
        catch: Leave an error of the handler in the record only. Otherwise it is raised at the end of the block.

    Yields:
        The caller.

    Raises:
        HandlerError: The handler, or its copy, cannot be run; the text says what to write.
        BaseException: What the handler raised, as it is.
    """
    check_handler(handler)
    copied = copy_handler(handler)
    video = has_video(copied)
    offer = MediaOffer(receive_video=video, send_video=video, messages=messages and not phone)
    facts = {**(TELEPHONE if phone else {}), **custom.get()}
    try:
        async with memory_pair(offer, link=link, back=back, phone=phone, play=_play) as (ours, theirs):
            ours.opens_after = opens_after.get()
            connection = Connection(
                ours,
                copied,
                context=context or Context(f"memory-{id(copied):x}", custom=facts),
                time_limit=time_limit,
                timeouts=timeouts,
                debug=debug,
                on_outputs=lambda outputs: caller._put_out(outputs),  # noqa: PLW0108  there is no caller yet
            )
            rate = copied.input_sample_rate
            own = sample_rate is None and rate >= 8000 and not rate % 50  # its frames have whole samples
            sent = AudioFormat(rate, copied.expected_layout) if own else None
            caller = Caller(connection, theirs, args, SAMPLE_RATE if sample_rate is None else sample_rate, sent)
            theirs.start(AudioFormat(copied.output_sample_rate), sent or AudioFormat(caller.sample_rate))
            theirs.audio_in.tap(caller._hear)  # tasks that take the frames would cost a step of the loop each time
            theirs.video_in.tap(caller._see)
            async with anyio.create_task_group() as tasks:
                for task in (caller._serve, caller._read, caller._speak):
                    tasks.start_soon(task)
                if video:
                    tasks.start_soon(caller._film, camera or _grey, fps)
                with _watched(handler):
                    yield caller
                    if not caller._ended.is_set():
                        await caller.hang_up()
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The tasks in here are supervised: this is what the block itself raised, and is given as it is.
        raise sole_error(group) from None
    if caller._tape.error is not None and not catch:
        raise caller._tape.error


def run_call(
    handler: StreamHandlerBase,
    *,
    play: Playable | None = None,
    seconds: float | None = None,
    send: list[str] | None = None,
    backend: BackendName = "trio",
    sample_rate: int | None = None,
    args: list[Any] | None = None,
    camera: Callable[[float], NDArray[np.uint8]] | None = None,
    link: Link | None = None,
    back: Link | None = None,
    phone: bool = False,
    context: Context | None = None,
    time_limit: float | None = None,
    timeouts: Timeouts | None = None,
    debug: bool = False,
    catch: bool = False,
    patience: float = PATIENCE,
) -> CallRecord:
    """Call `handler` in virtual time, play something to it, hang up, and return all that happened.

    Args:
        handler: As you give it to a `Stream`; its `copy()` serves the call.
        play: What the caller says from the first moment on; then, or without it, silence.
        seconds: After how much call time the caller hangs up; by default 1 s after the last word.
        send: Texts that the caller sends on the data channel at the beginning.
        backend: ``"trio"`` or ``"asyncio"``.
        sample_rate: See there.
        args: As for `open_caller`, and so are the rest.
        camera: See there.
        link: See there.
        back: See there.
        phone: See there.
        context: See there.
        time_limit: See there.
        timeouts: See there.
        debug: See there.
        catch: See there.
        patience: Real seconds for which a thread of the handler may compute, or block in a way that virtual time cannot
            see through (`time.sleep`, a socket). After that, time goes on without it (`CallRecord.stuck`).

    The call runs in a thread of its own, which is left behind if the handler hangs it.

    Raises:
        HandlerError: The handler, or its copy, cannot be run; the text says what to write.
        HandlerHung: A method of the handler held up the loop for more than 30 s of real time, or kept the call from
            ending. The text names it.
        RuntimeError: An event loop runs in this thread: use `open_caller`.
        BaseException: What the handler raised, as it is.
    """
    refuse_in_a_loop("run_call", "in an async test write: async with open_caller(handler) as caller: ...")
    if seconds is not None and seconds < 0:
        raise ValueError(f"seconds is how long the call lasts, not {seconds}")
    if send and phone:
        raise ValueError("a telephone has no data channel to send texts on; leave out send, or phone")
    rate = SAMPLE_RATE if sample_rate is None else sample_rate
    speech = np.zeros((1, 0), np.int16) if play is None else _at_rate(play, rate)
    length = speech.shape[1] / rate + 1.0 if seconds is None else seconds

    async def call() -> CallRecord:
        async with open_caller(
            handler,
            sample_rate=sample_rate,
            args=args,
            camera=camera,
            link=link,
            back=back,
            phone=phone,
            context=context,
            time_limit=time_limit,
            timeouts=timeouts,
            debug=debug,
            catch=catch,
        ) as caller:
            caller.play_nowait(speech)
            for text in send or []:
                caller.send_message(text)
            await caller.wait(length)
        return caller.record()

    switch_interval = sys.getswitchinterval()
    # The loop gives up the interpreter's lock at each of its turns. A thread that computes without end would keep it
    # for 5 ms each time, and a short call would take minutes.
    sys.setswitchinterval(min(switch_interval, 0.0002))
    try:
        return run_in_room(call, backend, handler, patience=patience)
    finally:
        sys.setswitchinterval(switch_interval)


def _at_rate(audio: Playable, sample_rate: int) -> NDArray[np.int16]:
    """`audio` as int16, shape (channels, n), at `sample_rate`."""
    if isinstance(audio, str | PathLike):
        audio = read_wav(audio)
    if not isinstance(audio, tuple):
        return as_pcm(audio, what="what the caller is to play")
    rate, samples = audio
    pcm = as_pcm(samples, what="what the caller is to play")
    if rate == sample_rate:
        return pcm
    converter = Converter(AudioFormat(sample_rate, "stereo" if pcm.shape[0] == 2 else "mono"))
    return np.concatenate([converter.feed(pcm, rate), converter.flush()], axis=1)


def _join(parts: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    if not parts:
        return np.zeros((1, 0), np.int16)
    channels = max(part.shape[0] for part in parts)
    return np.concatenate([to_channels(part, channels) for part in parts], axis=1)


def _grey(at: float) -> NDArray[np.uint8]:
    return np.full((48, 64, 3), int(at * 50) % 256, np.uint8)


@contextmanager
def _until_the_end() -> Iterator[None]:
    try:
        yield
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


def _virtual_time() -> VirtualTime | None:
    try:
        return virtual_time()
    except RuntimeError:
        return None


@contextmanager
def _watched(handler: StreamHandlerBase) -> Iterator[None]:
    """In virtual time, have a method of `handler` that holds up this loop interrupted, and named in any case."""
    try:
        clock = virtual_time()
    except RuntimeError:
        clock = None
    if clock is None or clock.watched:
        yield
        return
    ident, over = threading.get_ident(), threading.Event()
    watch = Watch(clock, handler, HANG)

    def look() -> None:
        watch.begin()
        while not over.wait(LOOK):
            if text := watch.found(ident):
                watch.interrupt(ident, text)
                if over.wait(UNWIND):
                    return
                logger.critical("%s, and cannot be interrupted; run_call would go on without it", text)
                while not over.wait(UNWIND):  # the exception is lost if it strikes in a callback of the collector
                    watch.interrupt(ident, text)

    watchdog = threading.Thread(target=look, name="rtcflow call watchdog", daemon=True)
    clock.watched = True
    watchdog.start()
    try:
        yield
    finally:
        over.set()
        watchdog.join()
        clock.watched, clock.over_by = False, math.inf


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
