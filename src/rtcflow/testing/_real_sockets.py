"""Real sockets for which a loop waits while its time is virtual: what comes from them comes too late.

A peer on the network answers in real time. Meanwhile seconds of virtual time may have passed, so that a handler which
works looks as if it said nothing. A peer that runs in the same loop answers in time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from typing import Final

__all__ = ["RealSockets"]

LONG: Final = 1.0
"""Seconds of virtual time for which a socket is waited for before it is told."""


class RealSockets:
    """How much virtual time has passed while a loop waited for each.

    Attributes:
        seconds: By the address of the other end.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def waited(self, files: Collection[int], seconds: float) -> None:
        """Time goes on by `seconds`, and the loop waits for these files."""
        for file in files:
            address = _other_end(file)
            if address:
                self.seconds[address] = self.seconds.get(address, 0.0) + seconds

    def told(self) -> str:
        """What to write instead; an empty text if no socket was waited for."""
        if not self.seconds or max(self.seconds.values()) < LONG:
            return ""
        seconds, address = max((seconds, address) for address, seconds in self.seconds.items())
        return (
            f"{seconds:.3g} s of virtual time passed while it waited for a real socket, to {address}. Real answers "
            "take real time, which does not pass here: give the handler a stub of that service in tests, or call it in "
            "real time (async with open_caller(handler), in a loop of your own)"
        )


def _other_end(file: int) -> str | None:
    """The address to which a socket is connected; None for anything else that is open."""
    try:
        with socket.socket(fileno=os.dup(file)) as found:
            peer = found.getpeername()
    except OSError:  # a pipe, or a socket that listens
        return None
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer) or None
