"""How a connection ends: the causes, the record, and how long each phase of it may take."""

from __future__ import annotations

import enum
import signal
import threading
from dataclasses import dataclass

__all__ = ["End", "EndCause", "Timeouts", "describe_error", "errors_in", "in_words", "shorten", "sole_error"]

LONGEST_TEXT = 2000
"""The most characters of an exception or a reason that are passed on. Messages of libraries are shorter, and a message
to the peer may have 64 KiB."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the phases of a connection may take, in seconds.

    Attributes:
        connect: From `run` until media can flow.
        shutdown: For the handler's `shutdown()`.
        grace: For the handler's worker threads to return after that.
        goodbye: For the transport to close. The last audio may play this much longer than its own length, too.
        close: Limits the whole end, from its cause on; later phases share what is left of it. Only the last audio of a
            handler that closed the stream may play for longer. None means 1 s more than `shutdown`.
    """

    connect: float = 30.0
    shutdown: float = 5.0
    grace: float = 1.0
    goodbye: float = 1.0
    close: float | None = None

    @property
    def whole(self) -> float:
        """`close`, or its default if it is None."""
        return self.shutdown + 1.0 if self.close is None else self.close


class EndCause(enum.Enum):
    """Why a connection ended."""

    PEER_LEFT = "the peer left"
    LINK_BROKE = "the link broke"
    HANDLER_CLOSED = "the handler closed the stream"
    HANDLER_RAISED = "the handler raised"
    TIME_LIMIT = "the time limit was reached"
    CLOSED = "closed by the server"
    CANCELLED = "cancelled"
    NOT_CONNECTED = "never connected"


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended: exactly one per connection.

    Attributes:
        cause: The first thing that ended it.
        reason: The cause in words, with details.
        error: What the handler raised, or how the link failed.
    """

    cause: EndCause
    reason: str
    error: BaseException | None = None


def describe_error(error: BaseException) -> str:
    """Give the type and the text of an exception, as ``KeyError: 'x'``; at most `LONGEST_TEXT` characters of its text.

    Never raises: an exception of an application may fail to say what it is.
    """
    try:
        text = str(error)
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        # The application's code; its exception is described in any case.
        text = f"its text is not known, because __str__ raised {type(failure).__name__}"
    return f"{type(error).__name__}: {shorten(text)}" if text else type(error).__name__


def shorten(text: str) -> str:
    """Cut a text to `LONGEST_TEXT` characters."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def in_words(what: str, error: BaseException) -> str:
    """Say `what` happened and, if it is known, why: the text of the error's cause."""
    cause = error.__cause__
    return f"{what}: {cause}" if cause is not None and str(cause) else what


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in the group of a task group, as it was raised; or the group itself if there are several.

    Only this one group is taken off. A group inside it was raised by an application, and stays as it is.
    """
    return group.exceptions[0] if len(group.exceptions) == 1 else group


def errors_in(error: BaseException) -> list[BaseException]:
    """Every single error in a group, however deep. An error that is not a group comes alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [found for inner in error.exceptions for found in errors_in(inner)]


def is_interrupt(error: BaseException) -> bool:
    """Whether an error, or one in its group, is Ctrl-C. That is for the whole process, and no failure of its own code.

    Code may also raise `KeyboardInterrupt` itself. That is an error like others wherever Ctrl-C raises nothing.
    """
    return any(isinstance(one, KeyboardInterrupt) for one in errors_in(error)) and ctrl_c_raises()


def ctrl_c_raises() -> bool:
    """Whether Ctrl-C raises `KeyboardInterrupt` in the code that runs in this thread.

    It does in the main thread, as long as Python, `asyncio.run` or `trio.run` handle SIGINT. `rtcflow serve`, Uvicorn
    and Hypercorn handle it themselves: they stop, and nothing is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGINT)
    function = getattr(handler, "func", handler)  # asyncio's is a partial
    return function is signal.default_int_handler or getattr(function, "__module__", "") in _RAISE_AT_CTRL_C


_RAISE_AT_CTRL_C = ("asyncio.runners", "trio._core._ki")
"""Modules whose handler of SIGINT raises `KeyboardInterrupt` in the code that happens to run."""
