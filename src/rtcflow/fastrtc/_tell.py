"""What handlers tell the page: warnings and errors, at once."""

from __future__ import annotations

import anyio

from ..handlers.base import get_current_handler
from ..protocol import messages


def Warning(message: str = "Warning issued.") -> None:  # noqa: A001, N802  FastRTC's name
    """Show `message` to the peer of the handler that calls this; without a peer, do nothing."""
    _tell(messages.Warning(message))


class WebRTCError(Exception):
    """An exception whose text the peer is told as soon as it is made. Raised out of a handler, it ends the connection.

    Attributes:
        told_peer: Whether the peer was told: then nobody need tell it once more that the handler failed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.told_peer: bool = _tell(messages.Error(message))


def _tell(message: messages.Message) -> bool:
    """Tell the peer of the current handler; whether its channel is open, so that it hears this now."""
    handler = get_current_handler()
    if handler is None or handler.channel is None:
        return False
    is_open = handler.channel_set.is_set()
    try:
        handler.channel.send(messages.encode(message))
    except (anyio.ClosedResourceError, anyio.WouldBlock):
        return False
    return is_open
