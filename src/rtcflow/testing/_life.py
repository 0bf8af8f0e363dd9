"""The two ends that `HandlerLifecycle` plays: a stream that serves, and a caller with a life of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any

import anyio
import anyio.abc
import av
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import Event
from ..abc import MediaOffer, Transport
from ..ends import End, EndCause
from ..exceptions import ConnectionExists, NegotiationError
from ..frames import FRAME_SECONDS, AudioFormat, AudioFrame
from ..handlers.base import StreamHandlerBase
from ..outputs import AdditionalOutputs, CloseStream
from ..serving.session import CallRequest, Session
from ..stream import Stream
from ..transports.linked import LinkTransport
from ..transports.memory import memory_pair
from . import signals
from . import strategies as rtc
from ._facts import TELEPHONE
from ._probe import LIMIT_SLACK, Cause, Fault, InjectedError, Journal
from ._sharing import SharedChanges
from .clocks import VirtualTime

__all__ = ["EMITS", "START_UPS", "Call", "Serving", "count_tasks", "make_item", "refused"]


EMITS = (
    "none",
    "audio",
    "long audio",
    "stereo audio",
    "float audio",
    "outputs",
    "audio and outputs",
    "close",
    "audio and close",
)

START_UPS = {
    "is slow": Fault(delay=1.0),
    "raises": Fault(error=InjectedError("start_up was told to raise")),
}
"""What may be wrong with a call's `start_up`."""


@lru_cache
def _speech(rate: int) -> NDArray[np.int16]:
    return signals.speech_like(2.0, rate)


class Serving:
    """A stream that runs in the machine's room until it is told to stop."""

    def __init__(self, stream: Stream, time_limit: float | None) -> None:
        self.stream = stream
        self.time_limit = time_limit
        self.stop = Event()
        self.over = False

    async def run(self) -> None:
        try:
            async with self.stream.running():
                await self.stop.wait()
        finally:
            self.over = True


class Call:
    """One call, seen from the caller's side."""

    ours: Transport
    theirs: Any  # a `MemoryTransport`, or the caller's end of a line
    session: Session
    traces: SharedChanges
    journal: Journal
    scope: anyio.CancelScope
    _offer: MediaOffer
    _tasks: anyio.abc.TaskGroup

    def __init__(
        self,
        prototype: StreamHandlerBase,
        clock: VirtualTime,
        shared: Collection[str],
        *,
        over: str,
        start_up: str,
        resumes: bool,
        custom: Mapping[str, str],
    ) -> None:
        self._prototype, self._shared = prototype, shared
        self._over = over
        self._custom = {**TELEPHONE, **custom}
        self.resumes = resumes
        self._start_up = start_up
        self._rate = prototype.input_sample_rate
        self._speaks = AudioFormat(prototype.output_sample_rate)
        self._clock = clock
        self.heard: list[float] = []
        self.end: End | None = None
        self.ended_at: float | None = None
        self.over_at: float | None = None
        self.over: bool = False
        self.outputs = 0
        self.was_cancelled: bool = False
        self._n = 0

    async def run(self, stream: Stream, offer: MediaOffer, already: str | None, journal: Callable[[], Journal]) -> None:
        try:
            async with (
                open_pair(self._over, offer) as (self.ours, self.theirs),
                anyio.create_task_group() as tasks,
            ):
                self._offer, self._tasks = offer, tasks
                self._begin_to_listen()
                async with stream.calls.admit(CallRequest(), "memory") as self.session:
                    self._count_outputs(self.session)
                    if self.resumes:
                        self.session.permit_resume()
                    self.traces = SharedChanges(self._prototype, self.session.handler, self._shared)
                    self.journal = journal()
                    self.journal.context_id = self.session.webrtc_id
                    if self._start_up in START_UPS:
                        self.journal.faults["start_up"].append(START_UPS[self._start_up])
                    if stream.options.limits.time_limit is not None:
                        self._limit(stream.options.limits.time_limit)
                    if already == "peer left":
                        self.journal.ends(EndCause.NOT_CONNECTED, "the peer was gone already")
                        await self.theirs.aclose()
                        await self.ours.wait_ended()
                    elif already == "closed":
                        self.journal.ends(EndCause.CLOSED, "the server closed it before it began")
                        self.session.close("enough")
                    with anyio.CancelScope() as self.scope:
                        await stream.calls.run(self.session, self.ours, self._custom)
                    self.was_cancelled = self.scope.cancelled_caught
                self.over_at = self._clock.now
                tasks.cancel_scope.cancel()
        finally:
            self.over = True

    def _count_outputs(self, session: Session) -> None:
        put = session.outputs.put

        def count(outputs: AdditionalOutputs) -> None:
            self.outputs += 1
            put(outputs)

        session.outputs.put = count  # type: ignore[method-assign,assignment]

    def _limit(self, seconds: float) -> None:
        cause = Cause(self._clock.now + seconds, -1, EndCause.TIME_LIMIT, "the time limit was reached")
        self.journal.causes.append(cause)

    def lose(self, n: int) -> None:
        """`n` frames of the caller's are lost on their way."""
        self._n += n

    def break_link(self, error: BaseException) -> None:
        """The link fails under the connection."""
        if isinstance(self.ours, LinkTransport):
            self.ours._link.end(error)

    def come_back(self) -> None:
        """The caller goes on over another link."""
        self._tasks.start_soon(self._carry_on)

    async def _carry_on(self) -> None:
        connection = self.session.connection
        assert connection is not None  # noqa: S101
        async with open_pair(self._over, self._offer) as (ours, theirs):
            try:
                connection.resume(ours)
            except ConnectionExists:  # the call has ended in this very moment
                return
            self.ours, self.theirs = ours, theirs
            self._begin_to_listen()
            await connection.wait_released(ours)

    def _begin_to_listen(self) -> None:
        self.theirs.start(self._speaks, AudioFormat(self._rate))
        self._tasks.start_soon(self._listen, self.theirs)
        self._tasks.start_soon(self._read, self.theirs)

    def hear(self, n: int, *, speech: bool = False) -> None:
        """`n` frames arrive now, numbered by their first sample; of speech, or of nearly nothing."""
        size = self._rate // 50
        for _ in range(n):
            self._n += 1
            samples = np.zeros((1, size), np.int16)
            if speech:
                word = _speech(self._rate)
                begin = self._n * size % (word.shape[1] - size)
                samples[:] = word[:, begin : begin + size]
            samples[0, 0] = min(self._n, 32767)
            self.ours.audio_in.put_nowait(AudioFrame(samples, self._rate, self._n * size))

    async def talk(self, seconds: float, *, speech: bool) -> None:
        """A frame every 20 ms, for `seconds` or until the call ends."""
        connection = self.session.connection
        for _ in range(round(seconds / FRAME_SECONDS)):
            if connection is None or connection.end is not None:
                return
            if any(self._clock.now > at + LIMIT_SLACK for at in self.journal.limits()):
                return  # it should have ended: what follows looks why not
            self.hear(1, speech=speech)
            await self._clock.advance(FRAME_SECONDS)

    def see(self, n: int) -> None:
        """`n` grey pictures arrive."""
        picture = np.full((16, 16, 3), 128, np.uint8)
        for _ in range(n):
            self.ours.video_in.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))

    def say(self, texts: list[str]) -> None:
        """The caller sends texts."""
        for text in texts:
            self.theirs.send_message_nowait(text)

    async def _listen(self, theirs: Any) -> None:
        try:
            while True:
                await theirs.audio_in.take()
                self.heard.append(self._clock.now)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def _read(self, theirs: Any) -> None:
        try:
            while True:
                await theirs.messages_in.take()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return


def open_pair(over: str, offer: MediaOffer) -> AbstractAsyncContextManager[tuple[Any, Any]]:
    """The two ends of a call over one kind of transport."""
    if over in {"memory", "phone"}:
        return memory_pair(offer, phone=over == "phone")
    from ._lines import telephone_pair, websocket_pair

    return telephone_pair("twilio")() if over == "telephone" else websocket_pair("pcm_s16le", 16000)()


async def count_tasks() -> int:
    return len(anyio.get_running_tasks())


async def refused(stream: Stream) -> BaseException | None:
    try:
        async with stream.calls.admit(CallRequest(), "memory"):
            return None
    except NegotiationError as error:
        return error


def make_item(what: str, rate: int) -> Any:
    """What `emit_returns` has `emit` return."""
    if what in rtc.JUNK:
        return rtc.make_junk(what)
    audio = (rate, np.full((1, rate // 50), 1000, np.int16))
    return {
        "none": None,
        "audio": audio,
        "long audio": (rate, np.full((1, 2 * rate), 1000, np.int16)),
        "stereo audio": (48000, np.full((2, 960), 1000, np.int16)),
        "float audio": (16000, np.full(777, 0.5, np.float32)),
        "outputs": AdditionalOutputs("a word"),
        "audio and outputs": (audio, AdditionalOutputs("a word")),
        "close": CloseStream("that was all"),
        "audio and close": (audio, CloseStream("that was all")),
    }[what]
