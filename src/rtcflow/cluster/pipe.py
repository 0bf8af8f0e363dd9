"""A stream of messages between two nodes over NATS: the rest of a long answer, or a WebSocket that is served elsewhere.

NATS gives no promise that a message arrives. So each message is a request, and the next one is sent when it has been
answered. Messages have numbers: one that comes twice, because its answer was lost, counts once. So a restart of NATS
loses nothing, and a slow reader holds the writer back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from .messages import pack, pack_event, unpack_event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOM: Final = 32
"""Messages that wait for their reader at most; the writer then waits."""

ANSWER: Final = 2.0
"""Seconds after which a message without an answer is sent again."""

PATIENCE: Final = 30.0
"""Seconds for which the writer tries to get one message across."""

TAKEN: Final = b"taken"
GONE: Final = b"gone"


class PipeBroken(OSError):
    """The other node has gone, or has closed the pipe. To an ASGI application this is a client that has left."""


class PipeNode(Protocol):
    """What a pipe asks of its `Node`."""

    def node_subject(self, name: str) -> str:
        """Where a node gets its messages."""

    def watch(self, subject: str, gone: Callable[[], object]) -> None:
        """Call `gone` when nobody listens to the subject any more."""

    def unwatch(self, subject: str, gone: Callable[[], object]) -> None:
        """End `watch`. Idempotent."""

    async def deliver(self, subject: str, message: bytes, timeout: float) -> bytes:
        """Send a message until it has an answer."""


class Pipe:
    """One node's end of a pipe. `Node.open_pipe` makes it and closes it.

    Args:
        node: The node that it belongs to.
        number: Its number here, by which the other node writes to it.
    """

    def __init__(self, node: PipeNode, number: int) -> None:
        self.number = number
        self._node = node
        self._subject = ""
        self._peer = 0
        self._arrived: deque[dict[str, Any]] = deque()
        self._news = anyio.Event()
        self._last = 0
        self._sent = 0
        self._unanswered: Callable[[], None] | None = None
        self._broken = False

    def join(self, peer: str, number: int) -> None:
        """Say where the other end is, and have it watched."""
        self._peer, self._subject = number, self._node.node_subject(peer)
        self._node.watch(self._subject, self.fail)

    def leave(self) -> None:
        """End the watch. Messages that the other end still sends are answered with `GONE`."""
        self._node.unwatch(self._subject, self.fail)

    @property
    def broken(self) -> bool:
        """Whether the other end has gone."""
        return self._broken

    def take(self, number: int, event: tuple[dict[str, Any], bytes], taken: Callable[[], None]) -> None:
        """A message has arrived; `taken` tells its writer to go on."""
        if number <= self._last:  # again, since the answer was lost, or is not due yet
            if self._unanswered is None:
                taken()
            else:
                self._unanswered = taken
            return
        self._last = number
        self._arrived.append(unpack_event(*event))
        if len(self._arrived) < ROOM:
            taken()
        else:
            self._unanswered = taken
        self._news.set()

    def fail(self) -> None:
        """The other end has gone: what has arrived can still be read."""
        self._broken = True
        self._news.set()

    async def receive(self) -> dict[str, Any]:
        """The next message. Safe to cancel.

        Raises:
            PipeBroken: The other end has gone.
        """
        while not self._arrived:
            if self._broken:
                raise PipeBroken
            self._news = anyio.Event()
            await self._news.wait()
        event = self._arrived.popleft()
        taken, self._unanswered = self._unanswered, None
        if taken is not None:
            taken()
        return event

    async def send(self, event: Mapping[str, Any]) -> None:
        """Write a message, and wait until the other end has taken it. Cancelling this may lose it.

        Raises:
            PipeBroken: The other end has gone, or did not take it within `PATIENCE` seconds.
        """
        if self._broken:
            raise PipeBroken
        self._sent += 1
        head, data = pack_event(event)
        message = pack({"kind": "pipe", "to": self._peer, "n": self._sent, "event": head}, data)
        with anyio.move_on_after(PATIENCE):
            if await self._node.deliver(self._subject, message, ANSWER) == TAKEN:
                return
        self.fail()
        raise PipeBroken
