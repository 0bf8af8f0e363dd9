"""Tells what an exception of a handler is: its cancellation, something that only looks like it, or an error.

The class of the exception proves nothing. A handler that awaits a future which somebody else has cancelled raises the
same class, and asyncio then takes the task for ended quietly. So this module asks the task itself: is a cancel scope
around it cancelled, or was `task.cancel()` called?
"""

from __future__ import annotations

import math

import anyio

from ..ends import is_interrupt
from ..exceptions import HandlerError
from .bridge import current_loop_token
from .native import cancellations


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the running task, and does not only look like one.

    True if a cancel scope around the task was cancelled, or the task itself (asyncio's `task.cancel()`,
    `asyncio.timeout`, `asyncio.wait_for`, the end of `asyncio.run`). False if the task awaited something else that was
    cancelled.
    """
    return isinstance(error, anyio.get_cancelled_exc_class()) and is_being_cancelled()


def is_for_the_process(error: BaseException) -> bool:
    """Whether an error that left the application's code is not its failure: Ctrl-C, or the end of our own task."""
    return is_interrupt(error) or is_cancellation(error)


def is_being_cancelled() -> bool:
    """Whether the running task is cancelled, by a cancel scope or by asyncio itself."""
    return anyio.current_effective_deadline() == -math.inf or cancellations() > 0


def beside_cancellation(error: BaseException) -> BaseException | None:
    """The part of `error` that is not the cancellation of this task; None if there is no other part."""
    cancelled = anyio.get_cancelled_exc_class()
    if is_being_cancelled():
        if isinstance(error, BaseExceptionGroup):  # of a task group of the handler's own
            return error.split(cancelled)[1]
        return None if isinstance(error, cancelled) else error
    if isinstance(error, cancelled):
        # Raised again as it is, it would cancel the task that runs the connection.
        told = HandlerError(
            "the handler was cancelled, but not by its connection: it awaited a task or a future that somebody else "
            "had cancelled"
        )
        told.__cause__ = error
        return told
    return error


def failure_in(error: BaseException) -> Exception | None:
    """What failed in the application's code, if `error` is a failure that only its owner is to be told of.

    None if it is to be raised again: the cancellation of this task, or what ends the process.
    """
    found = beside_cancellation(error)
    return found if isinstance(found, Exception) else None


def explain(error: BaseException) -> str | None:
    """What to write instead, where the text of an error does not help; also added to `error` as a note. None otherwise.

    There are two such cases. The first is asyncio used under trio (``'NoneType' object has no attribute
    'create_future'``). The second is a task group that was opened in one method and closed in another, or not closed.
    """
    text = _about_scopes(error) or _about_asyncio_under_trio(error)
    if text is not None:
        error.add_note(text)
    return text


def _about_scopes(error: BaseException) -> str | None:
    if isinstance(error, RuntimeError) and str(error).startswith(_SCOPES):
        return (
            "a task group or cancel scope must be opened and closed within one method: open it in start_up with "
            "'async with' and stay in it, or start the tasks with handler.loop.create_task"
        )
    return None


_SCOPES = (
    "Attempted to exit a cancel scope that isn't the current",  # anyio on asyncio
    "Attempted to exit cancel scope in a different task",
    "Cancel scope stack corrupted",  # trio
)


def _about_asyncio_under_trio(error: BaseException) -> str | None:
    if not hasattr(current_loop_token(), "run_sync_soon"):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    if module.split(".")[0] != "asyncio":
        return None
    return (
        f"{_USED_ASYNCIO} ({module}), but this server runs on trio; write it with anyio, "
        "which works on both (anyio.sleep, anyio.Event, anyio.create_memory_object_stream in place of asyncio.Queue), "
        "or run the server on asyncio"
    )


_USED_ASYNCIO = "the handler has used asyncio"


def is_asyncio_under_trio(error: BaseException) -> bool:
    """Whether `explain` has said of it that it comes from asyncio used under trio."""
    return any(note.startswith(_USED_ASYNCIO) for note in getattr(error, "__notes__", ()))
