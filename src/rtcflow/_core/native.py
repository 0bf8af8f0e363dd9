"""Whether asyncio itself, and not a cancel scope, has cancelled the running task.

anyio knows its own cancel scopes only. `asyncio.timeout`, `asyncio.wait_for`, `task.cancel()` and the end of
`asyncio.run` cancel a task without anyio, and only asyncio can say so. This module asks it, and nothing else: the
rest of asyncio stays in `rtcflow._engine`.

Such a cancellation reaches a task once. A cancel scope that swallows it by mistake leaves the caller of `task.cancel()`
waiting. anyio 4.16 makes this mistake if a child of a task group has a task group of its own, and both are cancelled:
the child's group counts its own cancellations towards the task of the outer group, which then takes back one too many.
`task_group` therefore remembers how its block ended, and cancels the task again if that was lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.lowlevel


def cancellations() -> int:
    """How often `cancel` of the running asyncio task was called (and not taken back); under trio 0."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop of asyncio runs in this thread
        return 0
    return 0 if task is None else task.cancelling()


@asynccontextmanager
async def task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group whose block never loses asyncio's own cancellation; otherwise anyio's.

    Start tasks and wait for them inside the block, and end the block by `tasks.cancel_scope.cancel()` as its last line.
    """
    cancelled = 0
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except anyio.get_cancelled_exc_class():
                if anyio.current_effective_deadline() != -math.inf:  # so no cancel scope did this
                    cancelled = cancellations()
                raise
    except anyio.get_cancelled_exc_class():
        if cancellations() >= cancelled:
            raise
    if cancellations() < cancelled:
        await _cancel_again(cancelled)


async def _cancel_again(times: int) -> None:
    """Give the running asyncio task its cancellation back."""
    task = asyncio.current_task()
    while task is not None and task.cancelling() < times:
        task.cancel()
    await anyio.lowlevel.checkpoint()
