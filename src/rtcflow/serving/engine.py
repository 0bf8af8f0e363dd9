"""Where the calls of a stream live while it runs: their task group, and the WebRTC engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from .._core.guard import is_for_the_process
from ..exceptions import NotServing

if TYPE_CHECKING:
    from ..transports.webrtc import WebRTCConfig, WebRTCEngine

logger: logging.Logger = logging.getLogger(__name__)


class SharedEngine:
    """Opens the WebRTC engine at the first call and keeps it until `aclose`; if it fails, the next call gets another.

    No task keeps the engine: it is a thread, and the task that asks first opens it. A task that is cancelled while it
    opens the engine closes it again, and the next one begins again. (A task of its own, begun with ``start``, was
    tried, and it hung. A cancelled ``start`` waits, shielded, for a task that has called ``started`` and now waits for
    the stream's end.)
    """

    def __init__(self, config: WebRTCConfig | None) -> None:
        self._config = config
        self._lock = anyio.Lock()
        self._engine: WebRTCEngine | None = None
        self._closed = False

    async def get(self) -> WebRTCEngine:
        """The open engine. Safe to cancel.

        Raises:
            NotServing: The stream has ended.
            Exception: The engine could not be opened: what `open_engine` raises.
        """
        from ..transports.webrtc import WebRTCEngine

        async with self._lock:
            if self._engine is not None and not self._engine.is_open:
                await self._close()
            if self._engine is None:
                engine = WebRTCEngine(self._config)
                try:
                    self._check()
                    await engine._open()
                    self._check()
                except BaseException:
                    await engine.aclose()
                    raise
                self._engine = engine
            return self._engine

    def _check(self) -> None:
        if self._closed:
            raise NotServing("this stream is not running any more")

    async def aclose(self) -> None:
        """Close the engine, after the connections: their goodbyes go through it. Not cut short by cancelling."""
        self._closed = True
        try:
            with anyio.CancelScope(shield=True):
                async with self._lock:  # a task that opens the engine now closes it again
                    pass
        finally:
            await self._close()

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            await engine.aclose()
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # Supervises: whatever ended the engine's thread, its connections have seen their links break.
            logger.exception("the WebRTC engine failed; the next call opens another")
