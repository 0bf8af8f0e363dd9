"""One end of a link to a peer: its five queues, their bounds, and how it ends.

Every transport is such an end, and only fills and empties the queues in its own way. The invariant: an end is in one of
three states, and the first change of state counts.

    open     media and messages may flow, once `connected` is set
    ended    the peer has left (`error` is None) or the link failed (`error` says how): `end`
    closed   this side wants nothing more: `close`; from then on every wait raises `anyio.ClosedResourceError`

Everything here may be touched from any thread: WebRTC's end is filled by the engine's thread and read by the
application's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from ..exceptions import RemoteProtocolError
from ..frames import AudioFrame
from .bridge import Event
from .flow import Flow, Policy
from .player import Player

if TYPE_CHECKING:
    import av

AUDIO_BOUND = 50
"""Received audio frames that may wait: 1 s. More would only be heard too late."""

MESSAGE_BOUND = 1000
"""Received messages that may wait. They are reliable and never dropped: one more breaks the link."""

POLICY_VIOLATION = 1008
"""The WebSocket close code for a peer that goes beyond a limit (RFC 6455 section 7.4.1)."""


class LinkEnd:
    """The queues of one end, and the flags that tell of its life.

    Args:
        audio_out: The player of the audio for the peer.
        connected: Whether media can flow from the beginning.

    Attributes:
        audio_in: Audio frames of the peer; at most `AUDIO_BOUND` wait, the oldest is dropped.
        audio_out: Audio for the peer.
        video_in: The peer's latest picture.
        video_out: The latest picture for the peer.
        messages_in: Text messages of the peer; at most `MESSAGE_BOUND` wait.
        connected: Set once media can flow; closed when the link ends.
        ended: Set when the link has ended, by either side.
        error: Why the link failed; set before `ended`. None if the peer said goodbye.
        closed: Whether this side has closed it.
    """

    def __init__(self, audio_out: Player, *, connected: bool = True) -> None:
        self.audio_in: Flow[AudioFrame] = Flow(AUDIO_BOUND, Policy.DROP_OLDEST)
        self.audio_out = audio_out
        self.video_in: Flow[av.VideoFrame] = Flow(1, Policy.DROP_OLDEST)
        self.video_out: Flow[av.VideoFrame] = Flow(1, Policy.DROP_OLDEST)
        self.messages_in: Flow[str] = Flow(MESSAGE_BOUND, Policy.BLOCK)
        self.connected: Event = Event()
        if connected:
            self.connected.set()
        self.ended: Event = Event()
        self.error: BaseException | None = None
        self.closed: bool = False
        self._lock = threading.Lock()

    def put_message(self, message: str) -> None:
        """Queue a message of the peer.

        Raises:
            RemoteProtocolError: `MESSAGE_BOUND` messages wait already; the transport then ends the link.
        """
        try:
            self.messages_in.put_nowait(message)
        except anyio.WouldBlock:
            problem = f"the peer sent more than {MESSAGE_BOUND} messages that nobody read"
            raise RemoteProtocolError(problem, close_code=POLICY_VIOLATION) from None

    def end(self, error: BaseException | None = None) -> None:
        """The peer said goodbye, or (`error`) the link failed. The first call counts."""
        with self._lock:
            if not self.ended.is_set():
                self.error = error
            for flow in (self.audio_in, self.video_in, self.messages_in):
                flow.end(self.error)
            self._stop_sending()

    def close(self) -> None:
        """This side wants nothing more. Idempotent."""
        with self._lock:
            self.closed = True
            for flow in (self.audio_in, self.video_in, self.messages_in):
                flow.close()
            self._stop_sending()

    def _stop_sending(self) -> None:
        self.audio_out.close()
        self.video_out.end()
        self.ended.set()
        self.connected.close()

    async def wait_connected(self) -> None:
        """Wait until media can flow. Safe to cancel.

        Raises:
            anyio.BrokenResourceError: The link ended first; ``__cause__`` is `error`.
            anyio.ClosedResourceError: This side closed it.
        """
        try:
            if not self.ended.is_set():
                await self.connected.wait()
                return
        except anyio.ClosedResourceError:
            pass
        if self.closed:
            raise anyio.ClosedResourceError
        raise anyio.BrokenResourceError from self.error

    async def wait_ended(self) -> None:
        """Wait until the peer is gone; returns if it said goodbye. Safe to cancel.

        Raises:
            anyio.BrokenResourceError: The link failed; ``__cause__`` is `error`.
            anyio.ClosedResourceError: This side closed it.
        """
        await self.ended.wait()
        if self.closed:
            raise anyio.ClosedResourceError
        if self.error is not None:
            raise anyio.BrokenResourceError from self.error
