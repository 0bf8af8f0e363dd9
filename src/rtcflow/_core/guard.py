"""What an exception of a handler is: its cancellation, something that only looks like it, or an error."""

from __future__ import annotations

import math

import anyio

from ..exceptions import HandlerError
from .bridge import current_loop_token
from .native import cancellations


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


def beside_cancellation(error: BaseException) -> BaseException | None:
    """What is in `error` beside the cancellation of this task; None if nothing is."""
    cancelled = anyio.get_cancelled_exc_class()
    if is_being_cancelled():
        if isinstance(error, BaseExceptionGroup):  # of a task group of the handler's own
            return error.split(cancelled)[1]
        return None if isinstance(error, cancelled) else error
    if isinstance(error, cancelled):
        # Raised again as it is, it would cancel whoever runs the connection.
        told = HandlerError(
            "the handler was cancelled, but not by its connection: it awaited a task or a future that somebody else "
            "had cancelled"
        )
        told.__cause__ = error
        return told
    return error


def explain(error: BaseException) -> str | None:
    """The way out, where a handler has used asyncio under trio; also added to `error` as a note. None otherwise.

    asyncio's own errors do not say it: ``'NoneType' object has no attribute 'create_future'``.
    """
    if not hasattr(current_loop_token(), "run_sync_soon"):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    if module.split(".")[0] != "asyncio":
        return None
    text = (
        f"the handler has used asyncio ({module}), but this server runs on trio; write it with anyio, "
        "which works on both (anyio.sleep, anyio.Event, anyio.create_memory_object_stream in place of asyncio.Queue), "
        "or run the server on asyncio"
    )
    error.add_note(text)
    return text
