"""What all transports of rtcflow have in common: a `Transport` whose queues and end are those of one `LinkEnd`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._core.flow import Flow
from .._core.link import LinkEnd
from .._core.player import Player
from ..abc import Transport
from ..frames import AudioFrame

if TYPE_CHECKING:
    import av


class LinkTransport(Transport):
    """A transport over `link`. A subclass starts, sends messages and closes in its own way.

    Args:
        link: Its queues, and how it ends.
    """

    def __init__(self, link: LinkEnd) -> None:
        self._link = link
        self.audio_in: Flow[AudioFrame] = link.audio_in
        self.audio_out: Player = link.audio_out
        self.video_in: Flow[av.VideoFrame] = link.video_in
        self.video_out: Flow[av.VideoFrame] = link.video_out
        self.messages_in: Flow[str] = link.messages_in

    @property
    def _state(self) -> str:
        """The state in one word, for `repr`."""
        return "closed" if self._link.closed else "ended" if self._link.ended.is_set() else "open"

    async def wait_connected(self) -> None:
        await self._link.wait_connected()

    async def wait_ended(self) -> None:
        await self._link.wait_ended()

    async def wait_messages_open(self) -> None:
        if not self.offer.messages:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()

    def _check_messages_open(self) -> None:
        """Whether a message can be sent now.

        Raises:
            anyio.ClosedResourceError: The peer has no channel for messages, or the link is over.
        """
        if self._link.ended.is_set() or not self.offer.messages:
            raise anyio.ClosedResourceError
