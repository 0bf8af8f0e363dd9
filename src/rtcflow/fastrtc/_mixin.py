"""FastRTC's `WebRTCConnectionMixin`: what answers offers for a class that is not a `Stream`.

A user's class sets `event_handler`, `modality`, `mode` and `concurrency_limit`, and calls `handle_offer` in a route.
Here a `Stream` of these attributes does the work. If nothing runs it (``async with self.rtc.running():``), it runs in a
thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..outputs import AdditionalOutputs
from ._stream import Stream


class WebRTCConnectionMixin:
    """Answers offers with the handler in `event_handler`.

    Attributes:
        rtc: The `Stream` that does so; made at its first use, of the attributes as they are then.
    """

    event_handler: Any = None
    modality: Any = "video"
    mode: Any = "send-receive"
    concurrency_limit: int | None = 1
    time_limit: float | None = None
    rtc_configuration: Any = None
    server_rtc_configuration: Any = None
    _rtc: Stream | None = None

    @property
    def rtc(self) -> Stream:
        """The `Stream`; run it with ``async with self.rtc.running():``, or mount it."""
        if self._rtc is None:
            self._rtc = Stream(
                self.event_handler,
                modality=self.modality,
                mode=self.mode,
                concurrency_limit=self.concurrency_limit,
                time_limit=self.time_limit,
                rtc_configuration=self.rtc_configuration,
                server_rtc_configuration=self.server_rtc_configuration,
            )
        return self._rtc

    @property
    def handlers(self) -> Mapping[str, Any]:
        """The handler of each live call, by its id."""
        return self.rtc.handlers

    @property
    def connections(self) -> Mapping[str, Any]:
        """The live calls, by their ids."""
        return self.rtc.connections

    async def handle_offer(self, body: Mapping[str, Any], set_outputs: Any = None) -> Any:
        """See `Stream.handle_offer`."""
        return await self.rtc.handle_offer(body, set_outputs)

    def set_additional_outputs(self, webrtc_id: str) -> Callable[[AdditionalOutputs], None]:  # noqa: ARG002
        """A function that does nothing: outputs reach `output_stream` always."""
        return lambda _: None

    def set_input(self, webrtc_id: str, *args: Any) -> None:
        """See `Stream.set_input`."""
        self.rtc.set_input(webrtc_id, *args)

    def output_stream(self, webrtc_id: str) -> Any:
        """See `Stream.output_stream`."""
        return self.rtc.output_stream(webrtc_id)

    async def fetch_latest_output(self, webrtc_id: str) -> AdditionalOutputs:
        """See `Stream.fetch_latest_output`."""
        return await self.rtc.fetch_latest_output(webrtc_id)
