"""One transport, one handler, one task group: `connection` owns it, `media_loops` are its loops, `handler_loop` is the
`loop` that handlers see.
"""

from __future__ import annotations

from .._core.threads import ThreadStatistics, WorkerThreads
from .connection import Connection, ConnectionStatistics, run_connection
from .handler_loop import Future, Handle, HandlerLoop, Task

__all__ = [
    "Connection",
    "ConnectionStatistics",
    "Future",
    "Handle",
    "HandlerLoop",
    "Task",
    "ThreadStatistics",
    "WorkerThreads",
    "run_connection",
]
