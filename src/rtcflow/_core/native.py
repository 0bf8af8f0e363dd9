"""Whether asyncio itself, and no cancel scope, has cancelled the running task.

anyio knows its own cancel scopes only. `asyncio.timeout`, `asyncio.wait_for`, `task.cancel()` and the end of
`asyncio.run` cancel a task behind its back, and only asyncio can say so. This module asks it, and nothing else: the
rest of asyncio stays in `rtcflow._engine`.
"""

from __future__ import annotations

import asyncio


def cancellations() -> int:
    """How often `cancel` of the running asyncio task was called (and not taken back); under trio 0."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop of asyncio runs in this thread
        return 0
    return 0 if task is None else task.cancelling()
