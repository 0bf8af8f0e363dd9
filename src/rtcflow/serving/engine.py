"""Where the calls of a stream live while it runs: their task group, and the WebRTC engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from .._core.guard import is_cancellation

if TYPE_CHECKING:
    from ..transports.webrtc import WebRTCConfig, WebRTCEngine

logger = logging.getLogger(__name__)


class Room:
    """Where connections run: exists while `Stream.running` does."""

    def __init__(self, token: Any, connections: anyio.abc.TaskGroup, engine: EngineRoom) -> None:
        self.token = token
        self.connections = connections
        self.engine = engine


class EngineRoom:
    """Opens the WebRTC engine at the first call and keeps it until `stop`; if it fails, the next call gets another."""

    def __init__(self, tasks: anyio.abc.TaskGroup, config: WebRTCConfig | None) -> None:
        self._tasks = tasks
        self._config = config
        self._lock = anyio.Lock()
        self._stop = anyio.Event()
        self._engine: WebRTCEngine | None = None

    async def get(self) -> WebRTCEngine:
        """The engine. Safe to cancel."""
        async with self._lock:
            if self._engine is None or not self._engine.is_open:
                self._engine = await self._tasks.start(self._keep)
            return self._engine

    def stop(self) -> None:
        """Have the engine closed."""
        self._stop.set()

    async def _keep(self, *, task_status: anyio.abc.TaskStatus[WebRTCEngine]) -> None:
        from ..transports.webrtc import open_engine

        engine = None
        try:
            async with open_engine(self._config) as engine:
                task_status.started(engine)
                # Cancelled together with the connections it must still outlive them: `stop` comes after their end.
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as waiting:
                        waiting.start_soon(self._cancel_at_stop, waiting.cancel_scope)
                        await engine.wait_ended()
                        waiting.cancel_scope.cancel()
        except BaseException as error:
            if engine is None or is_cancellation(error):
                raise  # to the call that wanted it
            # Supervises, whatever ended its thread: its connections have seen it break; the next offer opens a new one.
            logger.exception("the WebRTC engine failed; the next call opens another")
        finally:
            if self._engine is engine:
                self._engine = None

    async def _cancel_at_stop(self, waiting: anyio.CancelScope) -> None:
        await self._stop.wait()
        waiting.cancel()
