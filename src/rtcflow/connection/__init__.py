"""One transport, one handler, one task group: `connection` owns it, `media_loops` are its loops, `handler_loop` is the
`loop` that handlers see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .._core.moved import absent
from .._core.threads import ThreadStatistics, WorkerThreads
from ..media.recording import Mark
from .connection import Connection, ConnectionStatistics, run_connection
from .handler_loop import Future, Handle, HandlerLoop, Task
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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
