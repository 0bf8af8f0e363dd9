"""Tasks whose errors are reported to their connection, and never left to the task group they run in.

Why not simply let them out: a task group wraps what its tasks raise; on asyncio it does not even notice a
`CancelledError` that nobody's cancelling caused (a handler awaits a future which somebody has cancelled), since it
looks like the end of a task that the group itself has cancelled; and `SystemExit` leaves asyncio's loop at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc

from ..exceptions import HandlerError
from .native import cancellations


class Guard:
    """Starts tasks in a task group, and reports what they raise.

    Args:
        tasks: Where they run; what cancels it cancels them.
        failed: Awaited with what a task raised, unless that is the group's own cancellation.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup, failed: Callable[[BaseException], Awaitable[None]]) -> None:
        self._tasks, self._failed = tasks, failed

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """As of a task group.

        Raises:
            RuntimeError: The task group takes nothing any more.
        """
        task = self._run(function, args)
        try:
            self._tasks.start_soon(lambda: task, name=name or function)
        except RuntimeError:
            task.close()
            raise

    async def _run(self, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except BaseException as error:
            found = _without_cancellation(error)
            if found is None:
                raise
            await self._failed(found)


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the task that asks, and does not only look like one.

    It is, if a cancel scope around the task was cancelled, or the task itself (asyncio's `task.cancel()`,
    `asyncio.timeout`, `asyncio.wait_for`, the end of `asyncio.run`). It is not, if the task awaited something else that
    was cancelled.
    """
    return isinstance(error, anyio.get_cancelled_exc_class()) and is_being_cancelled()


def is_being_cancelled() -> bool:
    """Whether the running task is cancelled, by a cancel scope or by asyncio itself."""
    return anyio.current_effective_deadline() == -math.inf or cancellations() > 0


def _without_cancellation(error: BaseException) -> BaseException | None:
    """What is in `error` beside the cancellation of this task; None if nothing is."""
    cancelled = anyio.get_cancelled_exc_class()
    if is_being_cancelled():
        if isinstance(error, BaseExceptionGroup):  # of a task group of the handler's own
            return error.split(cancelled)[1]
        return None if isinstance(error, cancelled) else error
    if isinstance(error, cancelled):
        # Raised again as it is, it would cancel whoever runs the connection.
        told = HandlerError(
            "the handler was cancelled, and not by its connection: it awaited a task or a future that somebody else "
            "had cancelled"
        )
        told.__cause__ = error
        return told
    return error
