"""The message channel: one data channel of the peer, strings both ways."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
from aiortc import InvalidStateError, RTCDataChannel

from ..exceptions import LocalProtocolError, RemoteProtocolError
from ..protocol.messages import MAX_MESSAGE_SIZE
from .loop_thread import LoopThread
from .ports import Ports
from .seam import seam

_log = logging.getLogger("rtcflow.engine")

LABEL: Final = "text"
"""The channel's label; FastRTC's clients use it, too."""
SEND_BOUND: Final = 2**20
"""Bytes that may wait to be sent: 1 MiB, browsers queue far more."""


class MessageChannel:
    """Chooses the channel, and carries messages. Made in the engine's thread; `send_nowait` is for any thread.

    The newest open channel is used, and one labelled ``"text"`` before all others. If it closes, the next newest takes
    its place, so a peer may close its channel and open another. Binary messages, and those of other channels, are
    counted and ignored; the first of each kind is logged.

    Args:
        thread: Where the channel lives.
        ports: Where messages go.
        fail: Called with the error that must end the link.
    """

    def __init__(self, thread: LoopThread, ports: Ports, fail: Callable[[BaseException], None]) -> None:
        self._thread, self._ports, self._fail = thread, ports, fail
        self._channels: list[RTCDataChannel] = []
        self._channel: RTCDataChannel | None = None
        self._lock = threading.Lock()
        self._outbox: deque[str] = deque()
        self._outbox_size = 0

    @property
    def channel(self) -> RTCDataChannel | None:
        """The channel in use."""
        return self._channel

    def adopt(self, channel: RTCDataChannel) -> None:
        """A channel exists, opened by the peer or by us."""
        self._channels.append(channel)

        def on_message(message: str | bytes) -> None:
            self._receive(channel, message)

        def on_close() -> None:
            if channel in self._channels:
                self._channels.remove(channel)
                self._choose()

        channel.on("message", on_message)
        channel.on("open", self._choose)
        channel.on("close", on_close)
        self._choose()

    def _choose(self) -> None:
        usable = [channel for channel in self._channels if channel.readyState == "open"]
        if usable:
            self._channel = max(usable, key=lambda channel: (channel.label == LABEL, usable.index(channel)))
            self._ports.messages_open.set()

    def _receive(self, channel: RTCDataChannel, message: str | bytes) -> None:
        figures = self._ports.message_figures
        if channel is not self._channel:
            figures.other_channels += 1
            if figures.other_channels == 1:
                used = self._channel.label if self._channel is not None else ""
                _log.warning(
                    'a message on the data channel "%s" is ignored: "%s" is used; open one channel', channel.label, used
                )
        elif not isinstance(message, str):
            figures.binary_ignored += 1
            if figures.binary_ignored == 1:
                _log.warning("a binary message of %d bytes is ignored: send text (strings)", len(message))
        elif len(message) > MAX_MESSAGE_SIZE or len(message.encode()) > MAX_MESSAGE_SIZE:
            size = len(message.encode())
            text = f"the peer sent a message of {size} bytes; at most {MAX_MESSAGE_SIZE} are read (a=max-message-size)"
            self._fail(RemoteProtocolError(text, close_code=1009))
        else:
            try:
                self._ports.put_message(message)
            except RemoteProtocolError as error:
                self._fail(error)

    def send_nowait(self, message: str) -> None:
        """See `Transport.send_message_nowait`.

        Raises:
            LocalProtocolError: The message is longer than the peer takes.
        """
        channel = self._channel
        if channel is None or channel.readyState != "open" or self._ports.ended.is_set():
            raise anyio.ClosedResourceError
        size = len(message) if message.isascii() else len(message.encode())
        if size > (limit := seam.max_message_size(channel.transport)):
            raise LocalProtocolError(f"a message of {size} bytes; this peer takes at most {limit}: send it in parts")
        with self._lock:
            if self._outbox_size + channel.bufferedAmount >= SEND_BOUND:
                raise anyio.WouldBlock
            first = not self._outbox
            self._outbox.append(message)
            self._outbox_size += size
        if first:
            self._thread.post(self._flush)

    def _flush(self) -> None:
        with self._lock:
            waiting, self._outbox = self._outbox, deque()
            self._outbox_size = 0
        if (channel := self._channel) is None:
            return
        for message in waiting:
            try:
                channel.send(message)
            except InvalidStateError:  # it was closed meanwhile: nobody reads any more
                return

    async def drain(self) -> None:
        """Wait until the peer has everything that was sent."""
        self._flush()
        if self._channel is not None and self._channel.readyState == "open":
            await seam.all_acknowledged(self._channel.transport)
