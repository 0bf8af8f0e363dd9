"""Whether asyncio itself, and not a cancel scope, has cancelled the running task.

anyio knows its own cancel scopes only. `asyncio.timeout`, `asyncio.wait_for`, `task.cancel()` and the end of
`asyncio.run` cancel a task without anyio, and only asyncio can say so. This module asks it, and nothing else: the
rest of asyncio stays in `rtcflow._engine`.

Such a cancellation reaches a task once. A cancel scope that swallows it by mistake leaves the caller of `task.cancel()`
waiting. anyio 4.16 makes this mistake if a child of a task group has a task group of its own, and both are cancelled.
The child's group counts its own cancellations towards the task of the outer group. The outer group then takes back one
too many. The outer group may be the application's. So `task_group` passes nothing on: when it is cancelled itself, it
shields itself for its last moment, and looks for the outer cancellation afterwards. It also remembers how its block
ended, and cancels the task again if that was lost.
"""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel

if TYPE_CHECKING:
    import asyncio


def _current_task() -> asyncio.Task[object] | None:
    """The running asyncio task; None under trio."""
    if "asyncio" not in sys.modules:  # then trio runs, and does not need it
        return None
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop of asyncio runs in this thread
        return None


def cancellations() -> int:
    """How often `cancel` of the running asyncio task was called (and not taken back); under trio 0."""
    task = _current_task()
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
            except BaseException as error:
                cancelled_here = isinstance(error, anyio.get_cancelled_exc_class())
                if cancelled_here and anyio.current_effective_deadline() != -math.inf:  # so no cancel scope did this
                    cancelled = cancellations()
                keep_count(tasks.cancel_scope)
                raise
            if tasks.cancel_scope.cancel_called:
                keep_count(tasks.cancel_scope)
    except anyio.get_cancelled_exc_class():
        if cancellations() >= cancelled:
            raise
    if cancellations() < cancelled:
        await _cancel_again(cancelled)
    await anyio.lowlevel.checkpoint_if_cancelled()


def keep_count(scope: anyio.CancelScope) -> None:
    """Cancel `scope` at its end, in a way that no other scope counts its cancellations.

    Its tasks are cancelled as before. The code that leaves it has to look for a cancellation from outside again, by
    `checkpoint_if_cancelled`. Under trio nothing is done: trio does not count.
    """
    if _current_task() is not None:
        scope.cancel()
        scope.shield = True


async def _cancel_again(times: int) -> None:
    """Give the running asyncio task its cancellation back."""
    task = _current_task()
    while task is not None and task.cancelling() < times:
        task.cancel()
    await anyio.lowlevel.checkpoint()
