"""The caller's end of a line over a WebSocket: a simulated telephone carrier, and a WebSocket client.

A bot can be called without an account at a carrier, and tests can listen to what a caller hears. The simulated carrier
does what a real one does. It sends the caller's voice in frames of 20 ms in real time. It puts what the server sends
into a buffer, and plays the buffer in real time. It answers a mark when the audio before it was played, and drops its
buffer at a clear. `audio_in` is what comes out of that buffer, which is what the caller hears.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import anyio
import anyio.lowlevel
import numpy as np

from .._core.bridge import loop_clock
from .._core.flow import Flow, Policy
from .._core.link import LinkEnd
from .._core.native import task_group
from .._core.player import Player
from ..abc import MediaOffer, TransportStatistics
from ..ends import sole_error
from ..exceptions import MediaError, NegotiationError, RemoteProtocolError, renamed
from ..frames import AudioFormat
from ..media.codecs import make_coder
from ..protocol.lines import (
    TELEPHONE,
    WRONG_CONTENT,
    CallStarted,
    Cleared,
    Connected,
    KeyPressed,
    LineCodec,
    LineEvent,
    MarkPlayed,
    Media,
    MediaFormat,
    Message,
    Ping,
    SendAccepted,
    SendClear,
    SendDtmf,
    SendGoodbye,
    SendMark,
    SendMedia,
    SendText,
    Stopped,
    TextMessage,
)
from ..protocol.messages import Dtmf, check_keys, encode
from ..protocol.resume import Permit, may_try_again, prove
from ..protocol.signalling import parse_reply
from ..protocol.telephone import carrier_codec
from ..protocol.websocket import StartOptions, WebSocketCodec
from ..transports.linked import LinkTransport
from .webrtc import HANG_UP, OFFER_ROUTE, check_url, hang_up, read_headers
from .websocket import ClientSocket, Goodbye, open_dialer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CallerTransport", "call_by_telephone", "call_by_websocket", "join_line"]

BUFFER: Final = 60.0
"""Seconds that a carrier buffers at most; Vonage's documentation names 3072 messages of 20 ms, which is 61 s."""

DIGIT_SECONDS: Final = 0.25
"""Seconds from one digit to the next; a telephone's own dialler takes 0.1 to 0.3 s."""

KEEP_ALIVE: Final = 3.0
"""A caller that has sent nothing for this many seconds sends a sign of life. After ten, servers count it as dead."""

PING_EVERY: Final = 0.4
"""Seconds between two pings of a caller that may come back."""

SILENCE: Final = 1.2
"""If nothing, not even an answer to a ping, comes for this many seconds, such a caller takes its link for broken. A
network that went away gives no other sign. Three pings in a row are lost by then.
"""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to come back; the pauses double."""

ATTEMPT: Final = 5.0
"""Seconds that one attempt may take."""

GOODBYE: Final = 1.0
"""Seconds that a goodbye over the link may take."""

COMMA_SECONDS: Final = 1.0
"""Seconds that a comma among the keys waits."""

FORMATS: Final[Mapping[str, tuple[MediaFormat, ...]]] = {
    "twilio": (TELEPHONE,),
    "telnyx": (TELEPHONE, MediaFormat("alaw", 8000)),
    "plivo": (TELEPHONE, MediaFormat("pcm_s16le", 8000), MediaFormat("pcm_s16le", 16000)),
    "vonage": tuple(MediaFormat("pcm_s16le", rate) for rate in (16000, 8000, 24000)),
    "exotel": (*(MediaFormat("pcm_s16le", rate) for rate in (8000, 16000, 24000)), TELEPHONE),
    "genesys": (TELEPHONE,),
}
"""How each carrier can code audio; the first by default."""

DEFAULT_FORMATS: Final[Mapping[str, MediaFormat]] = {carrier: formats[0] for carrier, formats in FORMATS.items()}


class CallerTransport(LinkTransport):
    """The caller's end; opened by `call_by_telephone` and `call_by_websocket`, and used as any other transport.

    It sends what is put into `audio_out`. After `KEEP_ALIVE` seconds without any, it sends a sign of life: a ping (by
    WebSocket) or a frame of silence (by telephone).

    Attributes:
        clears: How often the server had the buffer dropped.
        marks: How many marks were answered.
        agreed: What the server said about formats, or None.
        pressed: The keys that the server has pressed.
        resumed: How often the call went on over another WebSocket.
    """

    def __init__(
        self,
        socket: ClientSocket,
        codec: LineCodec,
        call: CallStarted,
        carried: MediaFormat,
        redial: Callable[[], Awaitable[ClientSocket]] | None = None,
        stop: Callable[[Permit], Awaitable[None]] | None = None,
    ) -> None:
        clock = loop_clock()
        super().__init__(LinkEnd(Player(clock=clock)))
        self.kind = "websocket" if isinstance(codec, WebSocketCodec) else "telephone"
        self.offer: MediaOffer = MediaOffer(messages=self.kind == "websocket")
        self.clears: int = 0
        self.marks: int = 0
        self.agreed: SendAccepted | None = None
        self.pressed: str = ""
        self.resumed: int = 0
        self._redial = redial
        self._tell_stop = stop
        self._coming_back: anyio.CancelScope | None = None
        self._up = anyio.Event()  # there is a link
        self._up.set()
        self._heard_at = anyio.current_time()
        self._receiving: anyio.CancelScope | None = None
        self._attempts = 0
        self._socket, self._codec, self._call, self._carried = socket, codec, call, carried
        # Opus is decoded to 48 kHz whatever it was encoded from.
        self._heard = AudioFormat(48000 if carried.codec == "opus" else carried.sample_rate, carried.layout)
        self._silence = np.zeros((1, carried.audio.frame_size), np.int16)
        self._coder = make_coder(carried.codec, carried.sample_rate, carried.layout)
        self._outbox = Flow[LineEvent | None](1000, Policy.BLOCK)  # None: a pause
        self._buffer = Player(most_waiting=BUFFER, clock=clock)
        self._buffer.open(self._heard)
        self._received = 0  # samples put into the buffer
        self._marks: deque[tuple[int, str]] = deque()
        self._sending = anyio.Lock(fast_acquire=True)
        self._began = anyio.Event()

    def __repr__(self) -> str:
        return f"<CallerTransport {self._codec.name} {self._state}>"

    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:  # noqa: ARG002
        """See `Transport.start`: the line has a format of its own."""
        self.audio_out.open(self._carried.audio)
        self._began.set()
        return self._heard, self._carried.audio

    def send_message_nowait(self, message: str) -> None:
        """See `Transport.send_message_nowait`."""
        self._check_messages_open()
        self._outbox.put_nowait(TextMessage(message))

    def press(self, digits: str) -> None:
        """Press these keys (``0123456789*#ABCD``), one after the other in the time a dialler takes; a comma waits 1 s.

        Raises:
            ValueError: A telephone has no such key; nothing was pressed.
        """
        check_keys(digits, more=",")
        for digit in digits:
            self._outbox.put_nowait(None if digit == "," else KeyPressed(digit))

    async def aclose(self) -> None:
        """See `Transport.aclose`: hang up. A checkpoint."""
        if self._link.closed:
            await anyio.lowlevel.checkpoint()
            return
        over = self._link.ended.is_set()
        self._link.close()
        self._stop()
        if self._coming_back is not None:
            self._coming_back.cancel()
        try:
            if self._codec.stops and not over:
                with anyio.move_on_after(GOODBYE):
                    await self._say(Stopped())
        except ConnectionError:
            pass
        finally:
            await self._socket.close()
        if self._tell_stop is not None and self._permit is not None and not over:
            await self._tell_stop(self._permit)

    def _end(self, error: BaseException | None) -> None:
        self._link.end(error)
        self._stop()

    def _stop(self) -> None:
        self._buffer.close()
        self._outbox.close()
        self._up.set()  # tasks that wait for another link find that none comes

    def statistics(self) -> TransportStatistics:
        """See `Transport.statistics`; details: ``clears``, ``marks``, ``buffered_seconds``, ``received_seconds``."""
        figures = super().statistics()
        figures.details.update(
            clears=self.clears,
            marks=self.marks,
            buffered_seconds=self._buffer.queued_seconds,
            received_seconds=self._received / self._heard.sample_rate,
        )
        return figures

    # -- the line's tasks

    async def _begin(self) -> None:
        if self._codec.name in {"twilio", "telnyx", "exotel"}:
            await self._socket.send(self._codec.send_event(Connected()))
        await self._socket.send(self._codec.send_event(self._call))

    async def _read(self) -> None:
        try:
            while True:
                try:
                    await self._obey(await self._receive())
                except ConnectionError as error:
                    if not await self._come_back(error):
                        raise
        except (Goodbye, anyio.ClosedResourceError):  # closed: we have hung up meanwhile
            self._end(None)
        except (ConnectionError, RemoteProtocolError) as error:
            self._end(error)

    async def _receive(self) -> Message:
        if self._redial is None:
            return await self._socket.receive()
        if not self._up.is_set():
            raise ConnectionError("the server has gone")
        message: Message | None = None
        with anyio.CancelScope() as self._receiving:
            message = await self._socket.receive()
        self._receiving = None
        if message is None:
            raise ConnectionError(f"the server has said nothing for {SILENCE:g} s")
        self._heard_at = anyio.current_time()
        return message

    # -- coming back

    async def _watch(self) -> None:
        """Take the link for broken if the server falls silent; only where the call could go on over another."""
        await self._began.wait()
        while not self._link.ended.is_set():
            await anyio.sleep(PING_EVERY)
            if self._receiving is not None and anyio.current_time() - self._heard_at > SILENCE:
                if self._permit is not None:
                    self._lose()
            elif self._up.is_set():
                with suppress(ConnectionError):  # `_read` learns of it
                    await self._say(Ping())

    def _lose(self) -> None:
        """The link has broken: have `_read` come back."""
        if self._up.is_set():
            self._up = anyio.Event()
        if self._receiving is not None:
            self._receiving.cancel()

    @property
    def _permit(self) -> Permit | None:
        return None if self.agreed is None else self.agreed.permit

    async def _come_back(self, error: ConnectionError) -> bool:
        """Go on over another WebSocket; False if that is not possible, or not in time.

        Raises:
            ConnectionError: The server refused.
        """
        permit = self._permit
        if self._redial is None or permit is None or self._link.ended.is_set():
            return False
        self._lose()
        self._marks.clear()  # of a link that nobody reads any more
        pause = FIRST_PAUSE
        with anyio.move_on_after(permit.seconds) as self._coming_back:
            while True:
                try:
                    await self._begin_again(self._redial, permit)
                    self.resumed += 1
                    self._up.set()
                    return True
                except (OSError, Goodbye):  # nobody can be reached yet
                    pass
                except NegotiationError as refusal:
                    if not may_try_again(refusal):
                        raise ConnectionError(f"the call could not be resumed: {refusal}") from error
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        return False

    async def _begin_again(self, redial: Callable[[], Awaitable[ClientSocket]], permit: Permit) -> None:
        self._attempts += 1
        assert isinstance(self._codec, WebSocketCodec)  # noqa: S101
        proof = prove(permit.secret, self._call.call_id, self._attempts)
        start = WebSocketCodec(replace(self._codec.options, resume=proof)).send_event(self._call)
        with anyio.move_on_after(ATTEMPT) as limit:
            socket = await redial()
            await socket.send(start)
            answer = await socket.receive()
        if limit.cancelled_caught:
            raise ConnectionError("the server has not answered")
        if not isinstance(self._codec.receive_command(answer), SendAccepted):
            parse_reply(answer.encode() if isinstance(answer, str) else answer, 200)
            raise RemoteProtocolError("the server did not say whether the call goes on")
        self._socket, self._heard_at = socket, anyio.current_time()
        self._coder = make_coder(self._carried.codec, self._carried.sample_rate, self._carried.layout)

    # -- what the server says

    async def _obey(self, message: Message) -> None:
        match command := self._codec.receive_command(message):
            case SendMedia(payload):
                samples = self._decode(payload)
                self._received += samples.shape[1]
                self._buffer.put(samples)
            case SendMark(name):
                self._marks.append((self._received, name))
                await self._answer_marks()
            case SendClear():
                self.clears += 1
                self._buffer.clear()
                await self._answer_marks()
                if self._codec.name in {"plivo", "vonage", "genesys"}:
                    await self._say(Cleared())
            case SendText(text):
                self._link.put_message(text)
            case SendAccepted():
                self.agreed = command
            case SendDtmf(digits):
                self.pressed += digits
            case SendGoodbye() if not self._link.ended.is_set():
                await self._say(Stopped())
                raise Goodbye
            case _:
                pass

    def _decode(self, payload: bytes) -> NDArray[np.int16]:
        try:
            return self._coder.decode(payload)
        except MediaError as error:
            raise RemoteProtocolError(f"the server's audio: {error}", close_code=WRONG_CONTENT) from error

    async def _answer_marks(self) -> None:
        """Return the marks of all that was played or dropped."""
        figures = self._buffer.statistics()
        while self._marks and self._marks[0][0] <= figures.played + figures.dropped:
            self.marks += 1
            await self._say(MarkPlayed(self._marks.popleft()[1]))

    async def _say(self, event: LineEvent) -> None:
        """Send `event`. While there is no link, what is of the moment is dropped, and the rest waits."""
        while True:
            if not self._up.is_set():
                if isinstance(event, Media | Ping | MarkPlayed):
                    return
                await self._up.wait()
            try:
                async with self._sending:
                    await self._socket.send(self._codec.send_event(event))
                return
            except ConnectionError:
                if self._redial is None or self._permit is None or self._link.ended.is_set():
                    raise
                self._lose()

    async def _listen(self) -> None:
        """Play the buffer to the caller's ear."""
        try:
            while True:
                frame = (await self._buffer.next_frame()).frame
                self.audio_in.put_nowait(frame)
                await self._answer_marks()
        except (anyio.EndOfStream, ConnectionError):
            return

    async def _speak(self) -> None:
        await self._began.wait()
        try:
            while True:
                samples: NDArray[np.int16] | None = None
                with anyio.move_on_after(KEEP_ALIVE):
                    samples = (await self.audio_out.next_frame()).frame.samples
                if samples is None and self.kind == "websocket":
                    await self._say(Ping())
                elif payload := self._coder.encode(self._silence if samples is None else samples):
                    await self._say(Media(payload))
        except (anyio.EndOfStream, ConnectionError):
            return

    async def _send_others(self) -> None:
        await self._began.wait()
        try:
            while True:
                event = await self._outbox.take()
                if event is None:
                    await anyio.sleep(COMMA_SECONDS)
                    continue
                if isinstance(event, KeyPressed):
                    # On a page's line keys are messages. Only a telephone line has keys of its own.
                    as_message = TextMessage(encode(Dtmf(event.digit))) if self.offer.messages else event
                    await self._say(as_message)
                    await anyio.sleep(DIGIT_SECONDS)
                else:
                    await self._say(event)
        except (anyio.EndOfStream, anyio.ClosedResourceError, ConnectionError):
            return


def line_url(url: str, route: str) -> str:
    """Where a stream that is mounted at `url` takes calls: ``ws://host/talk`` → ``ws://host/talk/websocket/offer``.

    Raises:
        ValueError: `url` is not a ws or wss URL.
    """
    check_url(url, {"ws", "wss"}, "a WebSocket")
    url, question, query = url.partition("?")
    if "/websocket/offer" not in url and "/telephone/handler" not in url:
        url = url.rstrip("/") + route
    return url + question + query


@asynccontextmanager
async def call_by_telephone(
    url: str,
    carrier: str,
    *,
    caller: str = "+15550100",
    callee: str = "+15550199",
    custom: Mapping[str, str] | None = None,
    carried: MediaFormat | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> AsyncIterator[CallerTransport]:
    """Call a stream's telephone line as a carrier would, and hang up at the end of the block.

    Args:
        url: Where the stream is mounted, ``ws://127.0.0.1:8000``, or its handler route itself.
        carrier: ``"twilio"``, ``"telnyx"``, ``"plivo"``, ``"vonage"``, ``"exotel"`` or ``"genesys"``.
        caller: The caller's number.
        callee: The called number.
        custom: Parameters, as the answer to a webhook would have given them.
        carried: How audio is coded; the carrier's usual format by default.
        headers: Of the WebSocket's upgrade, such as a signature.
        timeout: Seconds for the server to accept.

    Raises:
        ValueError: `url` is not a ws or wss URL, the carrier is unknown, or it does not carry audio in this format.
        ConnectionError: Nobody answers there, or the answer is not from such a server.
        NegotiationTimeout: It did not accept in time.
    """
    codec = carrier_codec(carrier)
    carried = carried or DEFAULT_FORMATS[carrier]
    if carried not in FORMATS[carrier]:
        known = ", ".join(f"{one.codec} at {one.sample_rate} Hz" for one in FORMATS[carrier])
        raise ValueError(f"{carrier} does not carry {carried.codec} at {carried.sample_rate} Hz; it has {known}")
    call_id, stream_id = "CA" + secrets.token_hex(16), "MZ" + secrets.token_hex(16)
    if carrier == "vonage":
        stream_id = call_id
    call = CallStarted(call_id, stream_id, caller, callee, dict(custom or {}), carried)
    target = line_url(url, f"/telephone/handler/{carrier}")
    async with _open(target, codec, call, carried, headers, timeout) as transport:
        yield transport


@renamed(wish="options")
@asynccontextmanager
async def call_by_websocket(
    url: str,
    options: StartOptions | None = None,
    *,
    websocket_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    resume: bool = False,
) -> AsyncIterator[CallerTransport]:
    """Call a stream's WebSocket, and hang up at the end of the block.

    Args:
        url: Where the stream is mounted, ``ws://127.0.0.1:8000``, or its offer route itself.
        options: What to ask for; linear samples at 48 kHz in binary messages by default. It must name a sample rate,
            because in FastRTC's protocol both sides must know it beforehand.
        websocket_id: The connection's id; by default one that cannot be guessed.
        headers: Of the WebSocket's upgrade, such as ``Authorization``.
        timeout: Seconds for the server to accept.
        resume: If the link breaks, come back over another WebSocket, if the server waits (`Stream(resume=...)`). The
            server counts as gone once it has said nothing for `SILENCE` seconds. Audio that is put in meanwhile is
            dropped; messages wait.

    Raises:
        ValueError: `url` is not a ws or wss URL, or `options` does not name a sample rate.
        ConnectionError: Nobody answers there, or the answer is not from such a server.
        NegotiationTimeout: It did not accept in time.
    """
    options = options or StartOptions("pcm_s16le", 48000, binary=True, clear=True, marks=True, named=True)
    if options.sample_rate is None:
        raise ValueError("a caller must know the sample rate; write StartOptions(sample_rate=...)")
    own_id = websocket_id or secrets.token_urlsafe(18)
    call = CallStarted(own_id, own_id, format=None)
    carried = MediaFormat(options.codec, options.sample_rate, options.layout)
    if resume:
        options = replace(options, named=True, resume=True)
    target = line_url(url, "/websocket/offer")
    async with _open(target, WebSocketCodec(options), call, carried, headers, timeout, resume=resume) as transport:
        yield transport


@asynccontextmanager
async def join_line(
    socket: ClientSocket,
    codec: LineCodec,
    call: CallStarted,
    carried: MediaFormat,
    redial: Callable[[], Awaitable[ClientSocket]] | None = None,
    stop: Callable[[Permit], Awaitable[None]] | None = None,
) -> AsyncIterator[CallerTransport]:
    """Begin `call` over an open socket, and run the caller's end of it for the block.

    Args:
        socket: Open; closed at the end of the block.
        codec: In the caller's role, new.
        call: How the call begins.
        carried: How audio is coded.
        redial: Opens another socket to the same server, for a WebSocket call that may come back.
        stop: Tells the server that such a call is over, beside its socket, which may be broken.
    """
    failure: BaseException | None = None
    try:
        async with task_group() as tasks:
            transport = CallerTransport(socket, codec, call, carried, redial, stop)
            try:
                await transport._begin()
                for task in (transport._read, transport._listen, transport._speak, transport._send_others):
                    tasks.start_soon(task)
                if redial is not None:
                    tasks.start_soon(transport._watch)
                yield transport
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE + HANG_UP):
                    await transport.aclose()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = sole_error(group)
    if failure is not None:
        raise failure  # what the block raised, as it was


@asynccontextmanager
async def _open(
    url: str,
    codec: LineCodec,
    call: CallStarted,
    carried: MediaFormat,
    headers: Mapping[str, str] | None,
    timeout: float,
    *,
    resume: bool = False,
) -> AsyncIterator[CallerTransport]:
    async with open_dialer(headers=headers, timeout=timeout) as dial:
        scheme, rest = url.split("://", 1)
        beside = f"{scheme.lower().replace('ws', 'http')}://{rest.replace('/websocket/offer', OFFER_ROUTE, 1)}"
        again = f"{url}{'&' if '?' in url else '?'}resume={quote(call.call_id, safe='')}"

        async def redial() -> ClientSocket:
            return await dial(again)

        async def stop(permit: Permit) -> None:
            await hang_up(beside, call.call_id, permit, read_headers(headers))

        async with join_line(
            await dial(url), codec, call, carried, redial if resume else None, stop if resume else None
        ) as transport:
            yield transport
