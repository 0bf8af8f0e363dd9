"""FastRTC's five handler classes: `rtcflow`'s, with what FastRTC's users rely on beyond its reference.

Video is uint8 BGR. `latest_args` is an empty list before arguments come. `fps` may be the fifth positional argument.
`_clear_queue` can be read, tested and set. Without a call, messages go nowhere. In a call `channel` is there from the
beginning on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import anyio

from ..frames import ChannelLayout
from ..handlers import base
from ..handlers.base import VideoFormat
from ..outputs import DataChannel
from ._overrides import refuse_overrides

NOT_CALLED = {
    "resample": "rtcflow converts audio before `receive`; set input_sample_rate and expected_layout, "
    "or convert the frame at the beginning of `receive`",
}
"""Methods of FastRTC's handlers that rtcflow does not call. To override them would change nothing."""


EARLY = 1000
"""The most messages that wait for the channel to open."""


class _EarlyChannel:
    """A call's channel from its beginning on. Messages wait in order until it is open.

    FastRTC calls no method of a handler before the channel is open. So its programs send at once.
    """

    def __init__(self, handler: StreamHandlerBase) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._messages: deque[str] = deque()
        self.is_sending = False

    def send(self, message: str) -> None:
        """Send `message` when the channel is open. A peer that has none gets nothing.

        Raises:
            anyio.ClosedResourceError: The connection has ended.
            anyio.WouldBlock: 1000 messages wait already.
        """
        handler = self._handler
        with self._lock:
            open_channel = None if self.is_sending else handler._channel
            if open_channel is None:
                if handler._ended:
                    raise anyio.ClosedResourceError
                if len(self._messages) >= EARLY:
                    raise anyio.WouldBlock
                self._messages.append(message)
                if self.is_sending:
                    return
                self.is_sending = True
        if open_channel is not None:
            open_channel.send(message)
        else:
            handler.loop.create_task(self._send_all(), name="early messages")

    async def _send_all(self) -> None:
        while True:
            with self._lock:
                if not self._messages:
                    self.is_sending = False
                    return
                message = self._messages.popleft()
            await self._handler.send_message(message)


class StreamHandlerBase(base.StreamHandlerBase):
    """What all handlers have; see `rtcflow.StreamHandlerBase`.

    Args:
        expected_layout: ``"mono"`` or ``"stereo"``: what `receive` is given.
        output_sample_rate: Hz; a multiple of 50.
        output_frame_size: Deprecated and ignored.
        input_sample_rate: Hz of what `receive` is given.
        fps: Frames a second at which `video_emit` is called at most.
        video_format: See `rtcflow.VideoFormat`; ``"bgr24"`` by default.

    Raises:
        TypeError: A subclass overrides a method that rtcflow does not call (raised when the class is made).
    """

    _default_video_format: ClassVar[VideoFormat] = "bgr24"
    _own_clear_queue: Callable[[], Any] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_overrides(cls, NOT_CALLED)

    latest_args: str | list[Any]
    _early: _EarlyChannel | None = None

    def __init__(
        self,
        expected_layout: ChannelLayout = "mono",
        output_sample_rate: int = 24000,
        output_frame_size: int | None = None,
        input_sample_rate: int = 48000,
        fps: float = 30,
        *,
        video_format: VideoFormat | None = None,
    ) -> None:
        super().__init__(
            expected_layout,
            output_sample_rate,
            output_frame_size,
            input_sample_rate,
            video_format=video_format,
            fps=fps,
        )
        self.latest_args = []

    @property
    def channel(self) -> DataChannel | None:
        """The call's channel, from the beginning of the call on: what is sent before it is open waits."""
        if self._binding is None or (self._channel is not None and (self._early is None or not self._early.is_sending)):
            return self._channel
        if self._early is None:
            self._early = _EarlyChannel(self)
        return self._early

    @property
    def _clear_queue(self) -> Callable[[], Any] | None:
        """What `clear_queue` calls: None before the call, as in FastRTC; may be set."""
        if self._own_clear_queue is None and self._binding is not None:
            return super().clear_queue
        return self._own_clear_queue

    @_clear_queue.setter
    def _clear_queue(self, function: Callable[[], Any] | None) -> None:
        self._own_clear_queue = function

    def clear_queue(self) -> float:
        """As in `rtcflow.StreamHandlerBase`; without a call it does nothing."""
        function = self._clear_queue
        return 0.0 if function is None else function() or 0.0

    async def send_message(self, msg: str) -> None:
        """As in `rtcflow.StreamHandlerBase`; without a call it does nothing."""
        if self._binding is not None:
            await super().send_message(msg)

    def send_message_sync(self, msg: str) -> None:
        """As in `rtcflow.StreamHandlerBase`; without a call it does nothing."""
        if self._binding is not None:
            super().send_message_sync(msg)


class StreamHandler(StreamHandlerBase, base.StreamHandler):
    """A sync handler for audio; see `rtcflow.StreamHandler`."""


class AsyncStreamHandler(StreamHandlerBase, base.AsyncStreamHandler):
    """An async handler for audio; see `rtcflow.AsyncStreamHandler`."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


class AudioVideoStreamHandler(StreamHandler, base.AudioVideoStreamHandler):
    """A sync handler for audio and video; its pictures are uint8 BGR arrays, shape (height, width, 3)."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


class AsyncAudioVideoStreamHandler(AsyncStreamHandler, base.AsyncAudioVideoStreamHandler):
    """An async handler for audio and video; its pictures are uint8 BGR arrays, shape (height, width, 3)."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"
