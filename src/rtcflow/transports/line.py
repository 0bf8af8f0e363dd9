"""One call over a WebSocket of an ASGI server: what the WebSocket and the telephone transport have in common.

A *line* is one call over one WebSocket. Four tasks serve it, owned by `open_line`. One reads, one plays (paced by
`audio_out`), and one sends what is not audio. The fourth watches whether the peer is alive and takes what is sent.

The invariant: a message or a clear never comes after audio that was put after it. All sending goes through one lock,
and the task that holds it sends what waits in the outbox first. The codec decides what messages mean
(`protocol.lines.LineCodec`); queues and ends are those of a `LinkEnd`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.lowlevel

from .._core.bridge import ParkingLot, loop_clock
from .._core.link import LinkEnd
from .._core.native import task_group
from .._core.player import Player
from ..abc import MediaOffer, TransportStatistics
from ..ends import sole_error
from ..exceptions import MediaError, NegotiationTimeout, RemoteProtocolError
from ..frames import FRAME_SECONDS, AudioFormat, AudioFrame
from ..media.codecs import Coder, make_coder
from ..media.playout import Latency, PlayoutFrame
from ..protocol.json_text import scalar_text
from ..protocol.lines import (
    NORMAL,
    OVER_LIMIT,
    TELEPHONE,
    TOO_BIG,
    WRONG_CONTENT,
    CallStarted,
    CarrierFailed,
    KeyPressed,
    LineCodec,
    LineCommand,
    LineEvent,
    MarkPlayed,
    MarkTracker,
    Media,
    MediaClock,
    MediaFormat,
    Message,
    Ping,
    SendClear,
    SendGoodbye,
    SendMark,
    SendMedia,
    SendPong,
    SendText,
    Stopped,
    TextMessage,
    Unknown,
    write,
)
from ..protocol.messages import MAX_MESSAGE_SIZE
from .line_socket import GOODBYE, LineLimits, LineSocket, PeerLeft
from .linked import LinkTransport

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

logger: logging.Logger = logging.getLogger(__name__)

OUTBOX_BOUND: Final = 1 << 20
"""Characters of messages that may wait to be sent, as `Transport.send_message_nowait` promises."""

MARK_EVERY: Final = 0.2
"""Seconds of audio between two marks: how exactly we know what was heard, if the far side answers marks."""

ERRORS_TOLD: Final = 10
"""How many errors that a carrier reports in one call are logged. `statistics` counts them all."""


class _MessageQueue:
    """What waits to be sent and is not audio; put from any thread, bounded, in order."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lock = threading.Lock()
        self._lot = ParkingLot(self._lock)
        self._messages: deque[Message] = deque()
        self._size = 0

    def put(self, message: Message) -> None:
        """Queue `message`.

        Raises:
            anyio.WouldBlock: `bound` characters wait already.
        """
        with self._lock:
            if self._size >= self._bound:
                raise anyio.WouldBlock
            self._messages.append(message)
            self._size += len(message)
            self._lot.wake_all()

    def take(self) -> Message | None:
        """The next message, or None."""
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._size -= len(message)
            return message

    async def wait(self) -> None:
        """Wait until something waits. Safe to cancel."""
        with self._lock:
            while not self._messages:
                await self._lot.park()


def _say_nothing() -> tuple[int, str]:
    return NORMAL, ""


class LineTransport(LinkTransport):
    """See `Transport`, and the module's text. Opened by `open_websocket_transport` and `open_telephone_transport`.

    Attributes:
        call: How the call began: ids, numbers, the application's own parameters.
        ahead: Seconds by which audio is sent before its time.
        farewell: Called for the close code and the reason of an end that is not the peer's fault.
    """

    offer: MediaOffer = MediaOffer()

    def __init__(
        self,
        socket: LineSocket,
        codec: LineCodec,
        call: CallStarted,
        *,
        ahead: float,
        latency: Latency,
        receive: bool = True,
        send: bool = True,
    ) -> None:
        super().__init__(LinkEnd(Player(latency=latency, ahead=ahead, clock=loop_clock())))
        self.call = call
        self.offer = replace(self.offer, receive_audio=receive, send_audio=send)
        self.farewell: Callable[[], tuple[int, str]] = _say_nothing
        self.ahead = ahead
        self._codec = codec
        self._socket = socket
        self._outbox = _MessageQueue(OUTBOX_BOUND)
        self._writing = threading.Lock()
        self._sending = anyio.Lock(fast_acquire=True)
        self._began = anyio.Event()
        self._all_heard = anyio.Event()
        self._figures = dict.fromkeys(
            ("messages_received", "media_received", "carrier_errors", "protocol_errors", "unknown_events"), 0
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._codec.name} {self._state}>"

    # -- formats

    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:
        """See `Transport.start`."""
        heard, spoken = self._agree(receive, send)
        self._hears, self._speaks = heard, spoken
        self._decoder: Coder = make_coder(heard.codec, heard.sample_rate, heard.layout)
        self._encoder: Coder = make_coder(spoken.codec, spoken.sample_rate, spoken.layout)
        self._clock = MediaClock(heard.sample_rate)
        self._heard = MarkTracker(round(MARK_EVERY * spoken.sample_rate))
        self._heard_lock = threading.Lock()
        self._marks: dict[str, float] = {}  # unanswered: how far playing had come
        self._plays_to = -math.inf  # when what was sent is over, if the far side plays it in time
        self.audio_out.open(spoken.audio)
        self._tell_agreed(heard, spoken)
        self._began.set()
        return heard.audio, spoken.audio

    def _agree(self, receive: AudioFormat, send: AudioFormat) -> tuple[MediaFormat, MediaFormat]:  # noqa: ARG002
        """The format of the line, near to the handler's. A carrier's line has the carrier's format."""
        told = self.call.format or TELEPHONE
        return told, told

    def _tell_agreed(self, receive: MediaFormat, send: MediaFormat) -> None:
        """Tell the peer, if it asked."""

    # -- the state of the link

    def send_message_nowait(self, message: str) -> None:
        """See `Transport.send_message_nowait`."""
        self._check_messages_open()
        self._put_out(SendText(scalar_text(message)))

    def _put_out(self, command: LineCommand) -> None:
        """Queue `command` to be sent; from any thread. Some carriers count messages, so they are queued as counted.

        Raises:
            anyio.WouldBlock: `OUTBOX_BOUND` characters wait already.
        """
        with self._writing:
            self._outbox.put(self._codec.send(command))

    def clear_audio(self) -> float:
        """See `Transport.clear_audio`. The far side is told to drop what it buffers, if it has a message for that."""
        dropped = self.audio_out.clear()
        if self._began.is_set() and not self._link.ended.is_set():
            with self._heard_lock:
                self._heard.clear()
                self._marks.clear()
                self._plays_to = -math.inf
            if self._codec.clears:
                try:
                    self._put_out(SendClear())
                except anyio.WouldBlock:
                    logger.warning("%r does not read; it was not told to drop its audio", self)
        return dropped

    async def refuse(self, code: int, reason: str, message: str) -> None:
        """Close a call that was opened and will not be served: tell the peer `message`, if it reads any."""
        if self.offer.messages:
            with suppress(PeerLeft), anyio.move_on_after(GOODBYE):
                async with self._sending:
                    await self._socket.send(message)
        await self._socket.close(code, reason)
        await self.aclose()

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        if self._link.closed:
            await anyio.lowlevel.checkpoint()
            return
        try:
            if not self._link.ended.is_set():
                await self._wait_heard()
                async with self._sending:
                    await self._send_waiting()
                    if self._codec.answers:
                        await self._socket.send(self._codec.send(SendGoodbye()))
                if self._codec.answers:  # it answers by hanging up
                    with anyio.move_on_after(GOODBYE):
                        await self._link.ended.wait()
            if self._codec.answers and self._link.ended.is_set() and self._link.error is None:
                await self._socket.send(self._codec.send(SendGoodbye()))
        except PeerLeft:
            pass
        finally:
            self._link.close()
            error = self._link.error
            told = (error.close_code, str(error)) if isinstance(error, RemoteProtocolError) else self.farewell()
            await self._socket.close(*told)

    async def _wait_heard(self) -> None:
        """Closing a line stops what the far side plays: wait until it has played all, as it tells or as time tells."""
        if not self._began.is_set():
            return
        if not self._codec.marks:
            left = self._plays_to - anyio.current_time()
            await anyio.sleep(min(max(left, 0), self.ahead + self._codec.message_seconds))
            return
        with anyio.move_on_after(self.ahead + 2 * MARK_EVERY):
            if self._heard.unmarked:
                async with self._sending:
                    await self._send_mark(self._heard.mark())
            while self._heard.pending:
                self._all_heard = anyio.Event()
                await self._all_heard.wait()

    def statistics(self) -> TransportStatistics:
        """See `Transport.statistics`.

        Its details: ``messages_received``, ``media_received``, ``protocol_errors``, ``carrier_errors``,
        ``unknown_events`` (counts); ``sent_seconds``, and where the far side answers marks ``heard_seconds`` (played
        for certain), ``cut_seconds`` (cleared before it was confirmed) and ``marks_pending``.
        """
        details: dict[str, float] = {**self._figures}
        if self._began.is_set():
            with self._heard_lock:
                heard, rate = self._heard, self._speaks.sample_rate
                details["sent_seconds"] = heard.sent / rate
                if self._codec.marks:
                    details["heard_seconds"] = heard.heard / rate
                    details["cut_seconds"] = heard.cut / rate
                    details["marks_pending"] = heard.pending
        return replace(super().statistics(), details=details)

    # -- reading

    async def _read(self) -> None:
        await self._began.wait()
        try:
            while not self._link.ended.is_set():
                message = await self._socket.receive()
                self._figures["messages_received"] += 1
                for event in self._in_order(self._codec.receive(message)):
                    self._take(event)
        except RemoteProtocolError as error:
            self._figures["protocol_errors"] += 1
            logger.warning("%r is closed: %s", self, error)
            self._link.end(error)
            await self._socket.close(error.close_code, str(error))
        except PeerLeft as left:
            for waiting in self._left_over():
                self._take(waiting)
            self._link.end(None if self._is_goodbye(left) else left)

    def _is_goodbye(self, left: PeerLeft) -> bool:
        """Whether the peer has closed its WebSocket on purpose.

        Hypercorn tells 1006 whatever the peer's code was. So a goodbye without a message looks like a broken link
        there. It counts as a goodbye only if the carrier has no other one.
        """
        return left.is_goodbye or not self._codec.stops

    def _in_order(self, event: LineEvent | None) -> Iterable[LineEvent]:
        return () if event is None else (event,)

    def _left_over(self) -> Iterable[LineEvent]:
        """What waited for its turn, since nothing more will come."""
        return ()

    def _take(self, event: LineEvent) -> None:
        match event:
            case Media(payload, _, timestamp):
                self._figures["media_received"] += 1
                if self.offer.receive_audio:
                    self._hear(payload, timestamp)
            case TextMessage(text):
                self._pass_on(text)
            case KeyPressed(digit):
                self._pass_on(write({"type": "dtmf", "data": digit}))
            case MarkPlayed(name):
                with self._heard_lock:
                    self._heard.played(name)
                    position = self._marks.pop(name, None)
                if position is not None:
                    self.audio_out.confirm(position)
                if not self._heard.pending:
                    self._all_heard.set()
            case Ping():
                self._answer_ping()
            case CarrierFailed(reason):
                self._figures["carrier_errors"] += 1
                if self._figures["carrier_errors"] <= ERRORS_TOLD:
                    logger.warning("%r: %s reports an error: %.200r", self, self._codec.name, reason)
            case Stopped():
                for left in self._left_over():
                    self._take(left)
                self._link.end()
            case Unknown(name):
                self._figures["unknown_events"] += 1
                if self._figures["unknown_events"] == 1:
                    logger.warning(
                        "%r: %s has an event %.60r, which is not known here; ignored", self, self._codec.name, name
                    )
            case _:
                pass

    def _hear(self, payload: bytes, timestamp: int | None) -> None:
        try:
            samples = self._decoder.decode(payload)
        except MediaError as error:
            raise RemoteProtocolError(str(error), close_code=WRONG_CONTENT) from error
        if n := samples.shape[1]:
            self.audio_in.put_nowait(AudioFrame(samples, self._hears.sample_rate, self._clock.pts(n, timestamp)))

    def _pass_on(self, text: str) -> None:
        if len(text) > MAX_MESSAGE_SIZE or len(text.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_SIZE:
            raise RemoteProtocolError(f"a data message has at most {MAX_MESSAGE_SIZE} bytes", close_code=TOO_BIG)
        self._link.put_message(text)

    def _answer_ping(self) -> None:
        try:
            self._put_out(SendPong())
        except anyio.WouldBlock:
            raise RemoteProtocolError("the answers are not being read", close_code=OVER_LIMIT) from None

    # -- sending

    async def _play(self) -> None:
        await self._began.wait()
        try:
            while True:
                frame = await self._next_frame()
                payload, n = (b"", 0) if frame is None else self._encode(frame)
                async with self._sending:
                    await self._send_waiting()
                    if frame is None:
                        if self._heard.unmarked:
                            await self._send_mark(self._heard.mark())
                    elif not self.audio_out.drop_stale() and payload:
                        with self._heard_lock:
                            mark = self._heard.send(n)
                            self._plays_to = frame.slot + n / self._speaks.sample_rate
                        await self._socket.send(self._codec.send(SendMedia(payload)))
                        if mark is not None and self._codec.marks:
                            await self._send_mark(mark)
        except (anyio.EndOfStream, PeerLeft):
            return  # the reader tells why

    def _encode(self, frame: PlayoutFrame) -> tuple[bytes, int]:
        """`frame`, and more audio that may leave with it. This halves the messages of a handler ahead of real time."""
        payload, n = self._encoder.encode(frame.frame.samples), frame.frame.samples.shape[1]
        while self._codec.joins and (more := self.audio_out.more(self._codec.message_seconds)) is not None:
            payload += self._encoder.encode(more.frame.samples)
            n += more.frame.samples.shape[1]
        return payload, n

    async def _watch_peer(self) -> None:
        self._link.end(await self._socket.wait_lost())

    async def _next_frame(self) -> PlayoutFrame | None:
        """The next frame when it is due, or None when it is time to mark the end of a stretch of speech."""
        if not self._codec.marks or not self._heard.unmarked:
            return await self.audio_out.next_frame()
        with anyio.move_on_after(3 * FRAME_SECONDS):  # two may have left together
            return await self.audio_out.next_frame()
        return None

    async def _send_mark(self, name: str) -> None:
        with self._heard_lock:
            self._marks[name] = self.audio_out.playback().played
            if len(self._marks) > MarkTracker.PENDING_BOUND:  # a far side that never answers
                del self._marks[next(iter(self._marks))]
        await self._socket.send(self._codec.send(SendMark(name)))

    async def _send_messages(self) -> None:
        await self._began.wait()
        try:
            while True:
                await self._outbox.wait()
                async with self._sending:
                    await self._send_waiting()
        except PeerLeft:
            return

    async def _send_waiting(self) -> None:
        """Send what waits in the outbox; called with the sending lock held."""
        while (message := self._outbox.take()) is not None:
            await self._socket.send(message)


LineT = TypeVar("LineT", bound=LineTransport)


@asynccontextmanager
async def open_line(
    websocket: WebSocket,
    make_codec: Callable[[Message], LineCodec],
    make_transport: Callable[[LineSocket, LineCodec, CallStarted], LineT],
    limits: LineLimits,
    check: Callable[[str, LineEvent], None] | None = None,
) -> AsyncIterator[LineT]:
    """Accept `websocket`, wait until the call is started, and run its tasks for the block.

    Args:
        websocket: Accepted or not.
        make_codec: Chooses the codec by the first message.
        make_transport: Makes the transport.
        limits: What the peer may do.
        check: Called with the codec's name and each event up to the start; raises
            `RemoteProtocolError` to refuse the call.

    Raises:
        NegotiationTimeout: The call was not started in time.
        RemoteProtocolError: Another message came, or an invalid one.
        anyio.EndOfStream: The peer left before.
        anyio.BrokenResourceError: The link failed before.
    """
    socket = LineSocket(websocket, limits)
    try:
        with anyio.move_on_after(limits.setup) as waiting:
            await socket.accept()
            codec, call = await _wait_started(socket, make_codec, check)
        if waiting.cancelled_caught:
            await socket.close(OVER_LIMIT, f"the call was not started within {limits.setup:g} s")
            raise NegotiationTimeout("start", limits.setup)
        transport = make_transport(socket, codec, call)
    except RemoteProtocolError as error:
        await socket.close(error.close_code, str(error))
        raise
    except PeerLeft as left:
        if left.is_goodbye:
            raise anyio.EndOfStream from left
        raise anyio.BrokenResourceError from left
    failure: BaseException | None = None
    try:
        async with task_group() as tasks:
            for task in (transport._read, transport._play, transport._send_messages, transport._watch_peer):
                tasks.start_soon(task)
            try:
                yield transport
            finally:
                with anyio.move_on_after(GOODBYE, shield=True):
                    await transport.aclose()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = sole_error(group)
    if failure is not None:
        raise failure  # what the block raised, as it was


async def _wait_started(
    socket: LineSocket, make_codec: Callable[[Message], LineCodec], check: Callable[[str, LineEvent], None] | None
) -> tuple[LineCodec, CallStarted]:
    codec: LineCodec | None = None
    while True:
        message = await socket.receive()
        if codec is None:
            codec = make_codec(message)
        event = codec.receive(message)
        if event is not None and check is not None:
            check(codec.name, event)
        if isinstance(event, Ping):
            await socket.send(codec.send(SendPong()))
        if isinstance(event, Stopped):
            await socket.close()
            raise PeerLeft(NORMAL)
        if isinstance(event, CallStarted):
            return codec, event
