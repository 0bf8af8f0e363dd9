"""Where a transport shows its Opus packets. Recordings take them as they are, and need not encode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

RECEIVED: Final = 0
SENT: Final = 1

PacketTap = Callable[[int, int, bytes], object]
"""Gets `RECEIVED` or `SENT`, the `pts` of the frame, and the packet."""


class PacketTaps:
    """The taps on one transport's packets.

    A packet is shown just before its frame goes into `Transport.audio_in`, or just after it was sent. In the second
    case `PlayerTap.left` follows later. Frames that are made up have no packet.

    Attributes:
        taps: To be called with each packet, in the thread of the media. Most calls have none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.taps: tuple[PacketTap, ...] = ()

    def tap(self, tap: PacketTap) -> None:
        """Have `tap` called with each packet from now on. It must return at once."""
        with self._lock:
            self.taps = (*self.taps, tap)

    def untap(self, tap: PacketTap) -> None:
        """Take back `tap`. Does nothing if `tap` is not there."""
        with self._lock:
            self.taps = tuple(one for one in self.taps if one != tap)
