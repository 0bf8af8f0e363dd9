"""The WebSocket of an ASGI server, with limits, and with our own exceptions."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from .._core.bridge import loop_clock
from ..exceptions import RemoteProtocolError
from ..protocol.lines import OVER_LIMIT, TOO_BIG, Message
from ..protocol.rates import MessageRate

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.websockets import WebSocket

GOODBYE: Final = 1.0
"""Seconds that closing may take. Data that the peer has not taken by then is lost."""

FAIR: Final = 16
"""Messages after which the reader lets other tasks run, because receiving queued messages may never wait."""

PIECE: Final = 8192
"""Characters or bytes for which a message counts once, in `FAIR` and in `LineLimits.rate`. To read the longest message
that is taken costs up to 10 ms. 20 ms of audio have at most 5,120 characters.
"""

EARLY: Final = 0.001
"""Seconds by which a timer may come early, as asyncio's timers do. Without it a timer would be set again at once."""

STEADY: Final = 1.0
PAUSE: Final = 2.0
"""A peer that sends for this many seconds without such a pause sends all the time. Pages ping once a second."""

TURNS: Final = 50
"""Turns of the loop in which a peer that seems lost may still show itself: what came while the loop was stalled has to
be read first.
"""

REASON_BOUND: Final = 123
"""The most bytes of a close reason (RFC 6455 section 5.5: 125, less two for the code)."""

_NORMAL_ENDS: Final = (1000, 1001, 1005)
"""Close codes of a peer that left on purpose; 1005 stands for a close frame without a code (RFC 6455 7.4.1)."""


@dataclass(frozen=True, slots=True)
class LineLimits:
    """What a peer may do.

    Attributes:
        setup: Seconds until it must have started the call.
        max_message: Characters or bytes of one message. 256 KiB are 1 s of stereo samples at 48 kHz as base64.
        rate: Messages a second, for long. Audio takes 50, or 100 with 10 ms frames. It takes 375 if a browser sends
            each quantum of an AudioWorklet by itself (128 samples at 48 kHz). A message counts once for each 8 KiB
            that it begins, since a long one costs more to read.
        burst: Messages beyond that at once, after a stall of the network: 20 s of audio.
        stall: If the peer takes no data for this many seconds, the link counts as broken.
        idle: If the peer sends nothing, not even a ping, for this many seconds, it counts as gone. None means never,
            and also turns `peer_timeout` off. A server itself needs minutes to notice a network that died.
        peer_timeout: The same for a peer that sends all the time, as a microphone and a carrier do (for `STEADY`
            seconds, without a pause of `PAUSE`). None means that only `idle` counts.
    """

    setup: float = 10.0
    max_message: int = 256 * 1024
    rate: float = 500.0
    burst: int = 1000
    stall: float = 10.0
    idle: float | None = 300.0
    peer_timeout: float | None = 10.0

    def __post_init__(self) -> None:
        for name in ("setup", "rate", "stall", "idle", "peer_timeout"):
            value = getattr(self, name)
            if value is None and name in {"idle", "peer_timeout"}:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name}={value!r}; expected a number")
            if not value > 0:
                raise ValueError(f"{name}={value!r}; expected a number above 0")
        for name in ("max_message", "burst"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}={value!r}; expected a whole number")
            if value < 1:
                raise ValueError(f"{name}={value!r}; expected 1 or more")


class PeerLeft(Exception):
    """The WebSocket is closed.

    Attributes:
        code: Its close code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the WebSocket was closed with code {code}")
        self.code = code

    @property
    def is_goodbye(self) -> bool:
        """Whether the peer closed it with a normal close code."""
        return self.code in _NORMAL_ENDS


class PeerStalled(PeerLeft):
    """The peer takes no more data. The server would not notice it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1006)
        self.args: tuple[str] = (f"the peer took no data for {seconds:g} s",)


class PeerSilent(PeerLeft):
    """The peer has sent nothing for too long. A network that died gives no other sign."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1006)
        self.args: tuple[str] = (f"the peer said nothing for {seconds:g} s",)


class LineSocket:
    """The ASGI WebSocket with limits, in our exceptions."""

    _gone = Exception
    """What a server raises if its peer has gone. Servers differ: OSError, RuntimeError (Uvicorn's "unexpected ASGI
    message"), h11's LocalProtocolError, trio's BrokenResourceError. Each of them ends this one call."""

    def __init__(self, websocket: WebSocket, limits: LineLimits) -> None:
        from starlette.websockets import WebSocketState  # not before a call: importing takes long

        self._connecting, self._disconnected = WebSocketState.CONNECTING, WebSocketState.DISCONNECTED
        self._websocket = websocket
        self._limits = limits
        self._rate = MessageRate(limits.rate, limits.burst)
        self._now = loop_clock()
        self._over = False
        self._count = 0
        self._sending_since: float | None = None
        self._heard_at = self._sends_since = self._now()

    async def accept(self) -> None:
        """Accept the handshake, if that was not done.

        Raises:
            PeerLeft: The peer has gone.
        """
        if self._websocket.application_state is not self._connecting:
            return
        try:
            await self._websocket.accept()
        except self._gone as error:
            self._over = True
            raise PeerLeft(1006) from error

    async def deny(self, response: Response) -> None:
        """Answer the handshake with `response`, or with 403 where the server knows no other answer."""
        self._over = True
        with suppress(self._gone), anyio.move_on_after(GOODBYE):
            if "websocket.http.response" in (self._websocket.scope.get("extensions") or {}):
                await self._websocket.send_denial_response(response)
            else:
                await self._websocket.close(OVER_LIMIT)

    async def receive(self) -> Message:
        """The next message.

        Raises:
            PeerLeft: The WebSocket was closed.
            RemoteProtocolError: The message is beyond a limit.
        """
        if self._over or self._websocket.client_state is self._disconnected:
            raise PeerLeft(1006)
        if self._count >= FAIR:
            self._count = 0
            await anyio.lowlevel.checkpoint()
        said = await self._websocket.receive()
        if said["type"] == "websocket.disconnect":
            self._over = True
            raise PeerLeft(said.get("code") or 1005)
        text: str | None = said.get("text")
        message: Message = said.get("bytes") or b"" if text is None else text
        if len(message) > self._limits.max_message:
            problem = f"a message of {len(message)} bytes; at most {self._limits.max_message} are taken"
            raise RemoteProtocolError(problem, close_code=TOO_BIG)
        now = self._now()
        if now - self._heard_at > PAUSE:
            self._sends_since = now
        self._heard_at = now
        weight = 1 + len(message) // PIECE
        self._count += weight
        if not self._rate.take(now, weight):
            problem = f"too many messages; {self._limits.rate:g} a second are taken, or as many times 8 KiB"
            raise RemoteProtocolError(problem, close_code=OVER_LIMIT)
        return message

    async def send(self, message: Message) -> None:
        """Send a text or binary message; may take for ever, which `wait_lost` notices.

        Raises:
            PeerLeft: The WebSocket was closed.
        """
        if self._over:
            raise PeerLeft(1006)
        kind = "text" if isinstance(message, str) else "bytes"
        self._sending_since = self._now()
        try:
            await self._websocket.send({"type": "websocket.send", kind: message})
        except self._gone as error:
            self._over = True
            raise PeerLeft(1006) from error
        finally:
            self._sending_since = None

    async def wait_lost(self) -> PeerLeft:
        """Wait until one `send` has taken `LineLimits.stall` seconds, or nothing came for longer than the limits allow.

        A peer that stalled can be told nothing any more. One task that looks at the clock now and then costs less than
        a deadline for every message.
        """
        limits = self._limits
        seen: float | None = None
        while True:
            idle = math.inf if limits.idle is None else limits.idle
            soon = math.inf if limits.idle is None or limits.peer_timeout is None else limits.peer_timeout
            if self._heard_at - self._sends_since >= STEADY:
                idle = min(idle, soon)
            since, now = self._sending_since, self._now() + EARLY
            stalled = since is not None and since == seen and now >= since + limits.stall
            if stalled or now >= self._heard_at + idle:
                for _ in range(TURNS):
                    await anyio.lowlevel.checkpoint()
            if stalled and self._sending_since == since:
                self._over = True
                return PeerStalled(limits.stall)
            if now >= self._heard_at + idle:
                lost = PeerSilent(idle)
                await self.close(OVER_LIMIT, str(lost))
                return lost
            seen = since
            look = (self._now() if since is None else since) + limits.stall
            await anyio.sleep_until(min(look, self._now() + soon, self._heard_at + idle))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, if that was not done; never raises for a peer that is gone, nor waits long for one that stalls."""
        if self._over:
            return
        self._over = True
        with suppress(self._gone), anyio.move_on_after(GOODBYE):
            await self._websocket.close(code, _cut(reason))


def _cut(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:REASON_BOUND].decode("utf-8", "ignore")
