"""What a stream asks of a cluster. Without a cluster, nothing here is used.

A stream that runs on several processes, or machines, has a `CallRouter` in each. It makes ids that say where their call
lives. It makes sure that an id, and a slot of the whole cluster, is given only once. It carries requests to the node of
their call. `rtcflow.cluster` has the implementation over NATS.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio.abc

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class About(enum.Enum):
    """What a request is about."""

    NEW = enum.auto()
    """A new call."""
    LIVE = enum.auto()
    """A live call."""
    EITHER = enum.auto()
    """A live call; a new one if no call has that id."""


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """Which call a request is about: what decides where it is served.

    Attributes:
        about: A new call or a live one.
        webrtc_id: The id in the request, or None.
        early: Whether it may come a moment before the request that opens its call, as trickled candidates do.
    """

    about: About
    webrtc_id: str | None = None
    early: bool = False


class CallRouter(Protocol):
    """One node of a cluster, as its stream uses it. All methods are called in the stream's event loop."""

    def new_id(self) -> str:
        """An id for a call of this node, which nobody can guess or make up."""

    async def claim(self, webrtc_id: str) -> None:
        """Take an id for a call of this node, and a slot of the cluster's limit.

        Raises:
            ConnectionExists: A call on another node has this id.
            TooManyConnections: The cluster has no slot left.
            NotServing: The cluster cannot be asked now.
        """

    async def rename(self, webrtc_id: str, new_id: str) -> None:
        """Take another id for a call of this node, in place of the one that it has.

        Raises:
            ConnectionExists: A call on another node has this id.
        """

    def release(self, webrtc_id: str) -> None:
        """Give back what `claim` took. The second time does nothing."""

    async def route(
        self, target: RequestTarget, endpoint: str, scope: Scope, receive: Receive, send: Send, body: bytes | None
    ) -> bool:
        """Have another node answer a request, if it is not for this one.

        Args:
            target: Which call the request is about.
            endpoint: Which of `Calls.endpoints` answers it.
            scope: The request.
            receive: The request's messages, after its body.
            send: Where the answer goes.
            body: Its whole body; None for a WebSocket.

        Returns:
            Whether it was answered. If not, it is served here.

        Raises:
            CallLost: The node that carried the call has gone.
            NotServing: The cluster cannot be asked now.
        """


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application whose request's body has been read already."""
    left: list[bytes] = [body]

    async def receive_again() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receive_again


class RouterSource(Protocol):
    """A `rtcflow.cluster.Cluster`, as a stream uses it. The cluster knows the stream's calls; they do not know it."""

    def joined(self, calls: Any, tasks: anyio.abc.TaskGroup) -> AbstractAsyncContextManager[CallRouter]:
        """Be a node of the cluster inside this block."""
