"""A WebRTC call that comes back over another peer connection when its link breaks; see `connect(resume=True)`.

    application ── queues of the call ── pumps ── queues of one `WebRTCTransport` ── server
                                                  (then of the next one)

The application holds the call, whose queues stay. One task carries one transport after the other. Pumps move what comes
in, as long as that transport lives. Tasks that outlive each transport move what goes out. Pictures and sound that are
due while there is no link are dropped, because a microphone goes on. Messages wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.bridge import loop_clock
from .._core.link import LinkEnd
from .._core.native import task_group
from .._core.player import Player
from ..abc import MediaOffer, TransportStatistics
from ..exceptions import NegotiationError, NegotiationTimeout, RemoteProtocolError
from ..frames import AudioFormat
from ..protocol.resume import Permit, may_try_again
from ..transports.linked import LinkTransport

if TYPE_CHECKING:
    from ..transports.webrtc import Route, WebRTCTransport

PEER_TIMEOUT: Final = 1.2
"""Seconds of silence after which the server counts as gone (`WebRTCConfig.peer_timeout`). Its answers to ICE checks are
signs of life, too. Ten seconds, the engine's own value, would be heard."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds after which an attempt to come back counts as failed (`WebRTCConfig.connect_timeout`)."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to come back; the pauses double."""

WAITING: Final = 1 << 18
"""Characters of messages that may wait while there is no link: at most 1 MiB of UTF-8, which the next link takes."""


class ResumingCall(LinkTransport):
    """One call over one peer connection after the other. Made by `rtcflow.client.connect(url, resume=True)`.

    Attributes:
        permit: What the server said about coming back; None if it does not wait for callers.
        resumed: How often the call went on over another peer connection.

    Args:
        first: The transport that the call begins with.
        permit: See above.
        stop: Tells the server that the caller hangs up, beside the transport, which may be broken.
    """

    kind = "webrtc"

    def __init__(
        self,
        first: WebRTCTransport,
        permit: Permit | None,
        stop: Callable[[Permit], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(LinkEnd(Player(clock=loop_clock()), connected=False))
        self.offer: MediaOffer = first.offer
        self.permit: Permit | None = permit
        self.resumed: int = 0
        self._inner = first
        self._stop = stop
        self._coming_back: anyio.CancelScope | None = None
        self._up = anyio.Event()  # `_inner` is connected
        self._formats: tuple[AudioFormat, AudioFormat] | None = None
        self._began = anyio.Event()
        self._waiting: deque[str] = deque()
        self._media_time = self._heard_to = 0  # where the audio of the present transport begins, and has come to

    def __repr__(self) -> str:
        return f"<ResumingCall {self._state} over {self._inner!r}>"

    @property
    def route(self) -> Route | None:
        """The candidate pair that carries the call now; None before it is connected."""
        return self._inner.route

    # -- the transport that the application has

    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:
        self._formats = receive, send
        heard, sent = self._inner.start(receive, send)
        self.audio_out.open(sent)
        self._began.set()
        return heard, sent

    async def wait_messages_open(self) -> None:
        await self._inner.wait_messages_open()

    def send_message_nowait(self, message: str) -> None:
        self._check_messages_open()
        if self._up.is_set() and not self._waiting:
            with suppress(anyio.ClosedResourceError):
                self._inner.send_message_nowait(message)
                return
        if sum(map(len, self._waiting)) + len(message) > WAITING:
            raise anyio.WouldBlock
        self._waiting.append(message)

    def clear_audio(self) -> float:
        return self.audio_out.clear() + self._inner.clear_audio()

    def statistics(self) -> TransportStatistics:
        """See `Transport.statistics`: the queues are the call's, everything else is the present connection's."""
        own, inner = super().statistics(), self._inner.statistics()
        return replace(
            own,
            round_trip=inner.round_trip,
            packets_lost=inner.packets_lost,
            packets_concealed=inner.packets_concealed,
            details={**inner.details, "resumed": float(self.resumed)},
        )

    async def aclose(self) -> None:
        over = self._link.ended.is_set()
        self._link.close()
        if self._coming_back is not None:
            self._coming_back.cancel()
        await self._inner.aclose()
        if self._stop is not None and self.permit is not None and not over:
            await self._stop(self.permit)

    # -- carrying it

    async def run(self, redial: Callable[[], Awaitable[WebRTCTransport]]) -> None:
        """Carry the call until it is over, in a task of the one who opened it. A checkpoint.

        Args:
            redial: Opens another peer connection to the same call. Raises `OSError` if the server cannot be reached,
                or an error for which `may_try_again` is true if it is not ready; then it is called again.
        """
        await self._began.wait()
        async with task_group() as tasks:
            tasks.start_soon(self._speak)
            tasks.start_soon(self._show)
            error: BaseException | None
            while True:
                error = await self._carry(self._inner)
                if error is None or self.permit is None or self._link.closed:
                    break
                error = await self._come_back(redial, self.permit, error)
                if error is not None:
                    break
            self._link.end(error)
            tasks.cancel_scope.cancel()

    async def _carry(self, inner: WebRTCTransport) -> BaseException | None:
        """Be carried by `inner` until it ends. What broke it; None if the server has hung up."""
        error: BaseException | None = None
        try:
            await inner.wait_connected()
            self._up.set()
            self._link.connected.set()
            async with task_group() as pumps:
                for pump in (self._hear, self._see, self._read, self._send_waiting):
                    pumps.start_soon(pump, inner)
                try:
                    await inner.wait_ended()
                except anyio.BrokenResourceError as broken:
                    error = broken.__cause__ or broken
                except anyio.ClosedResourceError:  # by `aclose`
                    pass
                pumps.cancel_scope.cancel()
        except (anyio.BrokenResourceError, NegotiationTimeout) as broken:
            error = broken.__cause__ or broken
        except anyio.ClosedResourceError:  # the same
            pass
        self._up = anyio.Event()
        return error

    async def _come_back(
        self, redial: Callable[[], Awaitable[WebRTCTransport]], permit: Permit, error: BaseException
    ) -> BaseException | None:
        """Open another connection; why that was not possible, or None."""
        broken, pause = self._inner, FIRST_PAUSE
        with anyio.move_on_after(permit.seconds) as self._coming_back:
            while True:
                try:
                    inner = await redial()
                    break
                except OSError:  # nobody can be reached yet
                    pass
                except (NegotiationError, RemoteProtocolError) as refusal:
                    if not (isinstance(refusal, NegotiationError) and may_try_again(refusal)):
                        return ConnectionError(f"the call could not be resumed: {refusal}")
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            assert self._formats is not None  # noqa: S101
            self._media_time = self._heard_to
            self._inner, self.offer = inner, inner.offer
            inner.start(*self._formats)
            self.resumed += 1
            await broken.aclose()
            return None
        return error

    async def _hear(self, inner: WebRTCTransport) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                frame = await inner.audio_in.take()
                frame = frame._replace(pts=self._media_time + frame.pts)
                self._heard_to = frame.pts + frame.samples.shape[1]
                self.audio_in.put_nowait(frame)

    async def _see(self, inner: WebRTCTransport) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                self.video_in.put_nowait(await inner.video_in.take())

    async def _read(self, inner: WebRTCTransport) -> None:
        try:
            while True:
                self._link.put_message(await inner.messages_in.take())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        except RemoteProtocolError as error:
            self._link.end(error)

    async def _send_waiting(self, inner: WebRTCTransport) -> None:
        with suppress(anyio.ClosedResourceError):
            await inner.wait_messages_open()
            while self._waiting:
                inner.send_message_nowait(self._waiting[0])
                self._waiting.popleft()

    async def _speak(self) -> None:
        with suppress(anyio.EndOfStream):
            while True:
                due = await self.audio_out.next_frame()
                if self._up.is_set():
                    with suppress(anyio.ClosedResourceError):
                        self._inner.audio_out.put(due.frame)

    async def _show(self) -> None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                picture = await self.video_out.take()
                if self._up.is_set():
                    self._inner.video_out.put_nowait(picture)


__all__ = ["ResumingCall"]
