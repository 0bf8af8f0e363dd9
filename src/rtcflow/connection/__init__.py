"""One transport, one handler, one task group: `connection` owns it, `media_loops` are its loops, `handler_loop` is the
`loop` that handlers see.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._core.moved import absent
from .._core.threads import ThreadStatistics, WorkerThreads
from .connection import Connection, ConnectionStatistics, run_connection
from .handler_loop import Future, Handle, HandlerLoop, Task

if TYPE_CHECKING:
    from ..media.recording import Mark
    from .recorder import Recording

__all__ = [
    "Connection",
    "ConnectionStatistics",
    "Future",
    "Handle",
    "HandlerLoop",
    "Mark",
    "Recording",
    "Task",
    "ThreadStatistics",
    "WorkerThreads",
    "run_connection",
]


_LATER = {"Mark": "..media.recording", "Recording": ".recorder"}
"""Names of recordings, which most programs do not make."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _LATER:
            return getattr(import_module(_LATER[name], __name__), name)
        raise absent(__name__, name)
