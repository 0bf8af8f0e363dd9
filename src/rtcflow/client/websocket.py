"""A client's WebSocket over httpx2, with plain errors: for lines, and for services that a handler talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from .._core.installed import import_extra
from .._core.native import task_group
from .._core.urls import shown_url
from ..ends import sole_error
from ..exceptions import NegotiationTimeout
from ..protocol.lines import Message
from .webrtc import check_url, read_headers

if TYPE_CHECKING:
    import httpx2.websockets

__all__ = ["ClientSocket", "Goodbye", "UpgradeRefused", "open_dialer", "open_websocket"]

MAX_MESSAGE: Final = 1 << 20
"""Bytes of one message of the server."""

_STATUSES: Final = frozenset(HTTPStatus)


class Goodbye(Exception):
    """The server closed the WebSocket in good order."""


class UpgradeRefused(ConnectionError):
    """The server answered with a status, and opened no WebSocket.

    Attributes:
        status: It.
    """

    def __init__(self, url: str, status: int) -> None:
        words = HTTPStatus(status).phrase if status in _STATUSES else ""
        super().__init__(f"{shown_url(url)} answered {status} {words}".rstrip() + ", and opened no WebSocket")
        self.status = status


class ClientSocket(Protocol):
    """A client's WebSocket."""

    async def receive(self) -> Message:
        """The next message. A checkpoint.

        Raises:
            Goodbye: The server closed it in good order.
            ConnectionError: It did so otherwise, or the network failed.
        """

    async def send(self, message: Message) -> None:
        """Send a message. A checkpoint.

        Raises:
            ConnectionError: The server has gone.
        """

    async def close(self) -> None:
        """Close it; idempotent. A checkpoint."""


class _HttpxSocket(ClientSocket):
    """The WebSocket of httpx2."""

    def __init__(self, session: httpx2.websockets.AsyncWebSocketSession) -> None:
        self._session = session

    async def receive(self) -> Message:
        import httpx2.websockets as ws
        from wsproto.events import BytesMessage
        from wsproto.events import TextMessage as Text

        try:
            while True:
                event = await self._session.receive()
                if isinstance(event, Text):
                    return event.data
                if isinstance(event, BytesMessage):
                    return bytes(event.data)
        except ws.WebSocketDisconnect as closed:
            if closed.code in {1000, 1001, 1005}:
                raise Goodbye from closed
            reason = f": {closed.reason}" if closed.reason else ""
            raise ConnectionError(f"the server closed the WebSocket with {closed.code}{reason}") from closed
        except ws.WebSocketNetworkError as error:
            raise ConnectionError("the network failed") from error

    async def send(self, message: Message) -> None:
        import httpx2.websockets as ws
        from wsproto.utilities import LocalProtocolError

        try:
            if isinstance(message, str):
                await self._session.send_text(message)
            else:
                await self._session.send_bytes(message)
        except (ws.HTTPXWSException, LocalProtocolError) as error:  # a protocol error: it was closed in the meantime
            raise ConnectionError("the server has gone") from error

    async def close(self) -> None:
        await self._session.close()


@asynccontextmanager
async def open_websocket(
    url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0, max_message: int = MAX_MESSAGE
) -> AsyncIterator[ClientSocket]:
    """Open a WebSocket for the block.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: Of the upgrade.
        timeout: Seconds for the server to accept.
        max_message: Bytes of one message of the server. A longer one closes the WebSocket.

    Raises:
        ValueError: `url` is not a ws or wss URL.
        UpgradeRefused: The server answered with a status.
        ConnectionError: Nobody answers there.
        NegotiationTimeout: The server did not accept in time.
        BaseException: What the block raises, as it is.
    """
    async with open_dialer(headers=headers, timeout=timeout, max_message=max_message) as dial:
        yield await dial(url)


@asynccontextmanager
async def open_dialer(
    *, headers: Mapping[str, str] | None = None, timeout: float = 10.0, max_message: int = MAX_MESSAGE
) -> AsyncIterator[Callable[[str], Awaitable[ClientSocket]]]:
    """Get a function that opens a WebSocket, and closes the one that it opened before, as `open_websocket` does.

    The last one is closed at the end of the block.
    """
    httpx2, sent = _import_httpx2(), read_headers(headers)
    failure: BaseException | None = None
    try:
        async with httpx2.AsyncClient(timeout=timeout, headers=sent) as client, task_group() as tasks:
            scope = anyio.CancelScope()

            async def dial(url: str) -> ClientSocket:
                nonlocal scope
                check_url(url, {"ws", "wss"}, "a WebSocket")
                scope.cancel()
                scope = anyio.CancelScope()
                return _HttpxSocket(await tasks.start(_keep_session, client, url, timeout, max_message, scope))

            yield dial
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = sole_error(group)
    if failure is not None:
        raise failure  # what the block raised, as it was


async def _keep_session(
    client: httpx2.AsyncClient,
    url: str,
    timeout: float,
    max_message: int,
    scope: anyio.CancelScope,
    *,
    task_status: anyio.abc.TaskStatus[Any],
) -> None:
    """Hold the client's WebSocket open until `scope` is cancelled.

    httpx2 wraps what passes through its block, so nothing of ours does.
    """
    import httpx2.websockets
    from wsproto.utilities import LocalProtocolError

    try:
        with scope, anyio.fail_after(timeout) as opening:
            async with client.websocket(url, max_message_size_bytes=max_message) as session:
                opening.deadline = float("inf")
                task_status.started(session)
                await anyio.sleep_forever()
    except BaseExceptionGroup as group:
        # httpx2 answers a ping also after it has begun to close, and wsproto refuses that. The call is over by then.
        rest = group.split(LocalProtocolError)[1]
        if rest is not None:
            raise
    except LocalProtocolError:
        pass  # the same, as httpx2 unwraps it
    except TimeoutError:
        raise NegotiationTimeout("answer", timeout) from None
    except httpx2.websockets.WebSocketUpgradeError as error:
        raise UpgradeRefused(url, error.response.status_code) from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise ValueError(f"{shown_url(url)!r} is not the URL of a WebSocket: {error}") from None
    except httpx2.TransportError as error:
        raise ConnectionError(f"nobody answers at {shown_url(url)}: {str(error) or type(error).__name__}") from error


def _import_httpx2() -> Any:
    for module in ("wsproto", "httpx2.websockets"):
        import_extra(module, extra="client", what="calling a server")
    return import_extra("httpx2", extra="client", what="calling a server")
