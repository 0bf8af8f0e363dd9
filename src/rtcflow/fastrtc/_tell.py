"""What handlers tell the page: warnings and errors, at once."""

from __future__ import annotations

from contextlib import suppress

import anyio

from ..handlers.base import get_current_handler
from ..protocol import messages


def Warning(message: str = "Warning issued.") -> None:  # noqa: A001, N802  FastRTC's name
    """Show `message` to the peer of the handler that calls this; without a peer, do nothing."""
    _tell(messages.Warning(message))


class WebRTCError(Exception):
    """An exception whose text the peer is told as soon as it is made. Raised out of a handler, it ends the connection.

    Attributes:
        told_peer: True: the connection need not tell the peer once more that its handler failed.
    """

    told_peer = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        _tell(messages.Error(message))


def _tell(message: messages.Message) -> None:
    handler = get_current_handler()
    if handler is not None and handler.channel is not None:
        with suppress(anyio.ClosedResourceError, anyio.WouldBlock):
            handler.channel.send(messages.encode(message))
