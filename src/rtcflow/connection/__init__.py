"""One transport, one handler, one task group: `connection` owns it, `media_loops` are its loops, `handler_loop` is the
`loop` that handlers see.
"""

from __future__ import annotations

from .connection import Connection, ConnectionStatistics, run_connection

__all__ = ["Connection", "ConnectionStatistics", "run_connection"]
