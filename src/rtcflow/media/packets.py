"""Where a transport shows its Opus packets. Recordings take them as they are, and need not encode."""

from __future__ import annotations


class LatestPackets:
    """The Opus packets of one transport's latest frames. Each is set for each frame, whether or not anybody looks.

    Attributes:
        received: The packet of the frame that goes into `Transport.audio_in` now. None if the frame was made up.
        sent: The packet that was sent last, once there is one.
        sent_pts: The `pts` of its frame. It is set after `sent`, so a thread that finds it here finds the packet, too.
    """

    __slots__ = ("received", "sent", "sent_pts")

    def __init__(self) -> None:
        self.received: bytes | None = None
        self.sent: bytes = b""
        self.sent_pts: int | None = None
