"""A linked pair of transports without a network, for tests, for docs, and for handlers that call handlers.

It runs in the caller's loop and on the caller's clock, so in virtual time a ten-minute call takes seconds. A `Link` in
each direction decides when each frame arrives; the default one delivers everything at once.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.bridge import loop_clock
from .._core.flow import Flow, Policy
from .._core.link import LinkEnd
from .._core.native import task_group
from .._core.player import Player
from ..abc import MediaOffer
from ..exceptions import RemoteProtocolError
from ..frames import AudioFormat, AudioFrame
from ..media.playout import Latency
from ..protocol.messages import Dtmf, check_keys, encode
from .linked import LinkTransport

if TYPE_CHECKING:
    import av

IN_FLIGHT_BOUND: Final = 10_000
"""The most frames that may be on their way in one direction (200 s of audio). The link loses further ones."""
SEND_BOUND: Final = 2**20
"""Bytes of messages that may be on their way before sending is refused; an empty one counts as one byte."""


class Link(Protocol):
    """One direction of a link: decides when each frame arrives. Pure; it may keep state."""

    def begin(self) -> None:
        """Begin again for a new pair: forget what was sent over another one."""

    def send(self, now: float, size: int) -> list[float]:
        """When a frame of `size` bytes that leaves at `now` arrives: several moments if doubled, empty if lost."""

    def send_reliable(self, now: float, size: int) -> float:
        """The same for a message, which always arrives, and in order."""


class PerfectLink:
    """Delivers everything, once, at once."""

    def begin(self) -> None:
        """Do nothing: there is no state."""

    def send(self, now: float, size: int) -> list[float]:  # noqa: ARG002
        """Return `now`."""
        return [now]

    def send_reliable(self, now: float, size: int) -> float:  # noqa: ARG002
        """Return `now`."""
        return now


_GOODBYE: Final = object()


def _carry_nothing(_: AudioFrame) -> None:
    """How an end without a pair treats audio."""


class MemoryTransport(LinkTransport):
    """One end of a `memory_pair`.

    `start` accepts every format. `audio_in` holds frames in the format in which the other end sends.

    Attributes:
        opens_after: Seconds after which messages can be sent; 0 by default.
    """

    kind = "memory"

    def __init__(self, offer: MediaOffer, *, latency: Latency, phone: bool) -> None:
        super().__init__(LinkEnd(Player(latency=latency, clock=loop_clock())))
        self.offer = offer
        self.phone = phone
        self.opens_after: float = 0.0
        self._outbox = Flow[Any](SEND_BOUND + 1, Policy.BLOCK)  # and a goodbye
        self._on_their_way = 0
        self._carry_audio: Callable[[AudioFrame], None] = _carry_nothing
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryTransport{' closed' if self._link.closed else ''}>"

    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:
        self.audio_out.open(send)
        return receive, send

    async def wait_messages_open(self) -> None:
        if self.opens_after:  # as a data channel does, when the handshake is over
            await anyio.sleep(self.opens_after)
        await super().wait_messages_open()

    def send_message_nowait(self, message: str) -> None:
        self._check_messages_open()
        with self._lock:
            if self._on_their_way >= SEND_BOUND:
                raise anyio.WouldBlock
            self._on_their_way += _size(message)
        self._outbox.put_nowait(message)

    def send_audio_nowait(self, frame: AudioFrame) -> None:
        """Send `frame` at this moment, past `audio_out`: for an end that keeps its own time. In the pair's own loop.

        Raises:
            anyio.ClosedResourceError: The link is over.
        """
        if self._link.ended.is_set():
            raise anyio.ClosedResourceError
        self._carry_audio(frame)

    def press(self, digits: str) -> None:
        """Press these keys (``0123456789*#ABCD``); the other end gets them as messages, as from a telephone.

        Raises:
            ValueError: A telephone has no such key; nothing was pressed.
            anyio.ClosedResourceError: The link is over.
        """
        check_keys(digits)
        if self._link.ended.is_set():
            raise anyio.ClosedResourceError
        for digit in digits:
            message = encode(Dtmf(digit))
            with self._lock:
                self._on_their_way += _size(message)
            self._outbox.put_nowait(message)

    def _arrived(self, message: object) -> None:
        with self._lock:
            self._on_their_way -= _size(message)

    def break_link(self, error: BaseException) -> None:
        """Let the link fail for this end, with `error` as the cause; from any thread. For tests."""
        self._link.end(error)

    async def aclose(self) -> None:
        if not self._link.closed:
            self._say_goodbye()
            self._link.close()
        await anyio.lowlevel.checkpoint()

    def _say_goodbye(self) -> None:
        self._outbox.put_nowait(_GOODBYE)
        self._outbox.end()

    # -- what the other end sent arrives here

    def _hear(self, frame: AudioFrame) -> None:
        self.audio_in.put_nowait(frame)

    def _see(self, frame: av.VideoFrame) -> None:
        self.video_in.put_nowait(frame)

    def _read(self, message: object) -> None:
        if message is _GOODBYE:
            self._link.end()
            return
        assert isinstance(message, str)  # noqa: S101
        try:
            self._link.put_message(message)
        except RemoteProtocolError as error:
            self._link.end(error)


class _Wire:
    """One kind of thing on its way in one direction, in order of arrival."""

    def __init__(self, deliver: Callable[[Any], None], bound: float) -> None:
        self._deliver = deliver
        self._bound = bound
        self._in_flight: list[tuple[float, int, Any]] = []
        self._count = itertools.count()
        self._changed = anyio.Event()

    def send(self, arrivals: list[float], item: object, now: float) -> None:
        for arrival in arrivals:
            if arrival <= now and not self._in_flight:
                self._deliver(item)
            elif len(self._in_flight) < self._bound:
                heapq.heappush(self._in_flight, (arrival, next(self._count), item))
                self._changed.set()

    async def run(self) -> None:
        while True:
            while self._in_flight and self._in_flight[0][0] <= anyio.current_time():
                self._deliver(heapq.heappop(self._in_flight)[2])
            self._changed = anyio.Event()
            if not self._in_flight:
                await self._changed.wait()
            else:
                with anyio.CancelScope(deadline=self._in_flight[0][0]):
                    await self._changed.wait()


async def _carry(
    take: Callable[[], Awaitable[Any]], wire: _Wire, arrivals: Callable[[float, Any], list[float]]
) -> None:
    """Put what `take` gives onto the wire, until that ends."""
    while True:
        try:
            item = await take()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return
        now = anyio.current_time()
        wire.send(arrivals(now, item), item, now)


Play: TypeAlias = Callable[[Player, Callable[[AudioFrame], None]], Coroutine[Any, Any, None]]
"""Hands each frame of a `Player` to a function when it is due, until the player ends."""


async def play_in_a_task(player: Player, send: Callable[[AudioFrame], None]) -> None:
    """As `Play` says, in the task that awaits it."""
    with suppress(anyio.EndOfStream):
        while True:
            send((await player.next_frame()).frame)


@asynccontextmanager
async def memory_pair(
    offer: MediaOffer | None = None,
    *,
    link: Link | None = None,
    back: Link | None = None,
    latency: Latency = Latency.BUFFERED,
    phone: bool = False,
    play: Play = play_in_a_task,
) -> AsyncIterator[tuple[MemoryTransport, MemoryTransport]]:
    """Open two transports that are linked to each other.

    Args:
        offer: What the second end offers the first one; by default audio both ways and messages.
        link: From the second end to the first; `PerfectLink` by default.
        back: From the first end to the second; like `link`.
        latency: The latency policy of the first end's playout.
        phone: Whether the first end looks like a telephone line.
        play: Plays what each end queues: awaited in a task of its own. A call in virtual time brings a cheaper one.

    Yields:
        ``(ours, theirs)``: give `ours` to a connection, and act as the caller on `theirs` (call its `start` before
        you put anything into its `audio_out`). Both are closed at the end of the block.
    """
    ways = _way("link", link), _way("back", back)
    offer = offer or MediaOffer()
    mirrored = MediaOffer(
        receive_audio=offer.send_audio,
        send_audio=offer.receive_audio,
        receive_video=offer.send_video,
        send_video=offer.receive_video,
        messages=offer.messages,
    )
    ours = MemoryTransport(offer, latency=latency, phone=phone)
    theirs = MemoryTransport(mirrored, latency=Latency.BUFFERED, phone=False)
    error: BaseException | None = None
    try:
        async with task_group() as pumps:
            for source, target, way in ((theirs, ours, ways[0]), (ours, theirs, ways[1])):
                way.begin()
                _start_pumps(pumps, source, target, way, play)
            try:
                yield ours, theirs
            except BaseException as raised:  # noqa: BLE001  supervises: the block's own error leaves as it is
                error = raised
            with anyio.CancelScope(shield=True):
                await ours.aclose()
                await theirs.aclose()
            pumps.cancel_scope.cancel()
    except BaseException:
        # If the scope around us is cancelled, trio's task group raises `Cancelled` here. The block's own error counts.
        if error is None:
            raise
    if error is not None:
        raise error


def _way(name: str, link: Link | None) -> Link:
    """The link, or a perfect one.

    Raises:
        TypeError: `link` is something else; the text says what to write.
    """
    if link is None:
        return PerfectLink()
    if isinstance(link, type) or not all(hasattr(link, method) for method in ("begin", "send", "send_reliable")):
        made = f"LossyLink(loss={link})" if isinstance(link, float | int) else "LossyLink(loss=0.05)"
        raise TypeError(
            f"{name} is a link, with begin, send and send_reliable (rtcflow.transports.memory.Link), "
            f"not {link!r}; write {name}={made}"
        )
    return link


def _start_pumps(
    pumps: anyio.abc.TaskGroup, source: MemoryTransport, target: MemoryTransport, link: Link, play: Play
) -> None:
    def read(message: object) -> None:
        source._arrived(message)
        target._read(message)

    def carry_audio(frame: AudioFrame) -> None:
        now = clock()
        audio.send(link.send(now, frame.samples.nbytes), frame, now)

    clock = source.audio_out.clock
    audio, video = _Wire(target._hear, IN_FLIGHT_BOUND), _Wire(target._see, IN_FLIGHT_BOUND)
    source._carry_audio = carry_audio
    messages = _Wire(read, math.inf)  # the source bounds it (`SEND_BOUND`)
    pumps.start_soon(play, source.audio_out, carry_audio)
    pumps.start_soon(_carry, source.video_out.take, video, lambda now, seen: link.send(now, seen.width * seen.height))
    pumps.start_soon(_carry, source._outbox.take, messages, lambda now, text: [link.send_reliable(now, _size(text))])
    for wire in (audio, video, messages):
        pumps.start_soon(wire.run)


def _size(message: object) -> int:
    return max(1, len(message.encode("utf-8", "replace"))) if isinstance(message, str) else 0
