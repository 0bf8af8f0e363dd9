"""Suspends a connection whose link broke, and lets it go on over the next transport (`Stream(resume=...)`).

    live ──link broke──> suspended ──the peer is back──> live
                             └──nobody came in time──> the connection ends

While a connection is suspended, its three nurseries and its link have ended. The rest goes on: `start_up`, timers, what
the handler started through `handler.loop`, threads, and the time limit. Audio that waits to be played stays in the
player of the transport that broke (`Player.keep_rest`). Messages wait here. Both wait until the next transport has
them.

`carriage` decides. One task of the call (`run`) does all that takes time, so that nothing happens twice at once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel

from .._core.bridge import Event
from .._core.flow import FlowStatistics
from .._core.nursery import Nursery
from ..abc import Transport, TransportStatistics
from ..ends import End, EndCause, Timeouts
from ..exceptions import ConnectionExists
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import has_own_method
from .carriage import Carriage

logger: logging.Logger = logging.getLogger(__name__)

WAITING: Final = 1 << 18
"""Characters of messages to the peer that may wait while a connection is suspended. They are at most 1 MiB of UTF-8,
which every transport takes at once (`Transport.send_message_nowait`)."""


class Carried(Protocol):
    """A `Connection`, as far as it is needed here."""

    transport: Transport
    handler: StreamHandlerBase
    end: End | None
    _name: str
    _timeouts: Timeouts
    _connected: float | None
    _call: Nursery
    _messages_open: Event
    _ended: Event

    def begin_media(self) -> None:
        """Begin what lives as long as one transport."""

    async def end_media(self, *names: str, keep: bool = False) -> None:
        """End it."""

    def _adopt(self, transport: Transport) -> None: ...

    async def _wait_connected(self) -> End | None: ...

    async def _call_method(self, method: Callable[..., Any], *args: Any) -> None: ...

    def _finish(self, end: End) -> None: ...


class Resuming:
    """The transports of one connection, one after the other.

    All methods are called in the connection's loop, except `keep_message` and `is_suspended`.

    Args:
        connection: It.
        seconds: How long it waits without a transport.

    Attributes:
        count: How often it was resumed.
    """

    def __init__(self, connection: Carried, seconds: float) -> None:
        self.count: int = 0
        self._connection = connection
        self._state = Carriage(seconds)
        self._end: End | None = None  # how it ends if nobody comes back
        self._next: Transport | None = None  # offered, not adopted yet
        self._held: set[Transport] = {connection.transport}  # not closed yet
        # The transport, and what those before it have counted: replaced as one, because any thread may ask.
        self._counted: tuple[Transport, TransportStatistics | None] = connection.transport, None
        self._connecting: anyio.CancelScope | None = None
        self._changed = anyio.Event()
        self._released = anyio.Event()
        self._lock = threading.Lock()
        self._messages: deque[str] | None = None  # None while the link carries them
        self._waiting = 0  # characters

    @property
    def is_suspended(self) -> bool:
        """Whether no transport carries the connection."""
        return self._state.is_suspended

    @property
    def number(self) -> int:
        """Of the latest transport."""
        return self._state.number

    @property
    def latest(self) -> Transport:
        """The transport that was offered last."""
        return self._next or self._connection.transport

    # -- what happens to the link

    def lost(self, number: int, end: End) -> None:
        """The link of transport `number` has failed: suspend the connection. `end` says how it will have ended."""
        self._end = end
        self._change(self._state.lost(number, anyio.current_time()))

    def offer(self, transport: Transport) -> None:
        """Go on over `transport`, which is opened and not started, also if the present one seems to live.

        Raises:
            ConnectionExists: The connection has not begun yet, or has ended.
        """
        connection = self._connection
        if connection._connected is None or connection.end is not None or not connection._call.is_open:
            raise ConnectionExists("this call cannot be resumed now: it is not connected yet, or is about to end")
        self._held.add(transport)
        self._close_soon(self._next)  # a client that tries again has given up what it tried before
        self._next = transport
        if self._end is None:
            self._end = End(EndCause.LINK_BROKE, "the peer went to another link, which failed")
        self._change(self._state.offered(anyio.current_time()))
        if self._connecting is not None:
            self._connecting.cancel()

    def _change(self, state: Carriage) -> None:
        self._state = state
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # -- the task

    async def run(self) -> None:
        """Suspend and resume the connection, until it ends."""
        while True:
            while not self.is_suspended:
                await self._changed.wait()
            if not await self._suspend():
                return
            while self.is_suspended:
                if self._next is not None:
                    transport, self._next = self._next, None
                    await self._connect(transport)
                elif self._state.is_over(anyio.current_time()):
                    self._give_up()
                    return
                else:
                    with anyio.CancelScope(deadline=self._deadline):
                        await self._changed.wait()
            await self._resume()

    @property
    def _deadline(self) -> float:
        return math.inf if self._state.deadline is None else self._state.deadline

    async def _suspend(self) -> bool:
        """End the media and the link; False if a method did not let itself be cancelled in time."""
        connection = self._connection
        with self._lock:
            if self._messages is None:  # otherwise the last link has not taken them
                self._messages = deque()
        connection._messages_open.clear()
        connection.transport.audio_out.close()
        reason = "" if self._end is None else f" ({self._end.reason})"
        logger.info("call %s is suspended%s", connection._name, reason)
        with anyio.CancelScope(deadline=self._deadline) as limit:
            await connection.end_media(keep=True)
        if limit.cancelled_caught:
            self._give_up()
            return False
        self._close_soon(connection.transport)
        if has_own_method(connection.handler, "on_suspended"):
            await connection._call_method(connection.handler.on_suspended)
        return True

    async def _connect(self, transport: Transport) -> None:
        number, connected = self.number, False
        self._connection._adopt(transport)
        with anyio.CancelScope() as self._connecting:
            connected = await self._connection._wait_connected() is None
        self._connecting = None
        if connected and number == self.number:
            self._state = self._state.connected(number)
        else:
            self._state = self._state.lost(number, anyio.current_time())
            self._close_soon(transport)

    async def _resume(self) -> None:
        connection, self._end = self._connection, None
        self.count += 1
        logger.info("call %s is resumed", connection._name)
        if has_own_method(connection.handler, "on_resumed"):
            await connection._call_method(connection.handler.on_resumed)
        connection.begin_media()

    def _give_up(self) -> None:
        end = self._end or End(EndCause.LINK_BROKE, "the link broke")
        reason = f"{end.reason}; the peer did not come back within {self._state.seconds:g} s"
        self._connection._finish(End(EndCause.LINK_BROKE, reason, end.error))

    # -- figures, from any thread

    def statistics(self) -> TransportStatistics:
        """The figures of the transport, with the counts of those before it added: no count falls.

        Only `queued` does, for the moment in which audio that waits goes over to the next transport.
        """
        transport, before = self._counted
        figures = transport.statistics()
        return figures if before is None else _add_up(before, figures)

    def adopted(self, transport: Transport, moved: int) -> None:
        """`transport` has taken the place of the one before, and gets `moved` samples that waited there.

        They were not dropped, and are queued once: they count with `transport`.
        """
        before = self.statistics()
        out = before.audio_out
        out = replace(out, queued=out.queued - moved, dropped=out.dropped - moved)
        self._counted = transport, replace(before, audio_out=out)

    # -- messages, from any thread

    def keep_message(self, message: str) -> bool:
        """Keep `message` for the next link, if there is no link now.

        Raises:
            anyio.WouldBlock: `WAITING` characters wait.
        """
        with self._lock:
            if self._messages is None:
                return False
            if self._waiting + len(message) > WAITING:
                raise anyio.WouldBlock
            self._messages.append(message)
            self._waiting += len(message)
            return True

    def send_messages(self) -> None:
        """The next link carries messages: send those that waited, before any other."""
        with self._lock:
            while self._messages:
                self._connection.transport.send_message_nowait(self._messages[0])
                self._waiting -= len(self._messages.popleft())
            self._messages = None

    # -- closing transports

    def _close_soon(self, transport: Transport | None) -> None:
        if transport is not None:
            connection = self._connection
            connection._call.start_soon(self._close, transport, name=f"closing a link of {connection._name}")

    async def _close(self, transport: Transport) -> None:
        try:
            with anyio.move_on_after(self._connection._timeouts.goodbye):
                await transport.aclose()
        finally:
            self._held.discard(transport)
            self.tell_released()

    def tell_released(self) -> None:
        """Wake the tasks that wait for a transport to be closed."""
        released, self._released = self._released, anyio.Event()
        released.set()

    async def wait_released(self, transport: Transport) -> None:
        """Wait until the connection wants nothing more of `transport`. Safe to cancel."""
        await anyio.lowlevel.checkpoint()
        while transport in self._held and not self._connection._ended.is_set():
            await self._released.wait()

    async def close(self) -> None:
        """The connection has ended: close what nobody else closes."""
        left, self._next = self._next, None
        if left is not None:
            await left.aclose()


def _add_up(before: TransportStatistics, now: TransportStatistics) -> TransportStatistics:
    """The counts of both. What was measured, and what waits, is that of `now`."""

    def queue(first: FlowStatistics, second: FlowStatistics) -> FlowStatistics:
        return replace(
            second,
            put=first.put + second.put,
            taken=first.taken + second.taken,
            dropped=first.dropped + first.waiting + second.dropped,  # nobody takes what waited
            most_waiting=max(first.most_waiting, second.most_waiting),
        )

    old, new = before.audio_out, now.audio_out
    return replace(
        now,
        audio_in=queue(before.audio_in, now.audio_in),
        audio_out=replace(
            new,
            queued=old.queued + new.queued,
            played=old.played + new.played,
            dropped=old.dropped + old.waiting + new.dropped,
            shed=old.shed + new.shed,
            gaps=old.gaps + new.gaps,
        ),
        video_in=queue(before.video_in, now.video_in),
        video_out=queue(before.video_out, now.video_out),
        messages_in=queue(before.messages_in, now.messages_in),
        packets_lost=before.packets_lost + now.packets_lost,
        packets_concealed=before.packets_concealed + now.packets_concealed,
    )
