"""Does a handler remember one call in the next one, in a place where nobody can look: a database, a file of its own?

The same call is made twice with a handler. If the second one is answered otherwise, a handler that was just made serves
the same two calls, and another one. Only if the answers are the same with each of them, it is the first call that
changed the second, and not chance or a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..handlers.base import StreamHandlerBase
from . import signals
from ._handler_time import seen_by
from ._room import HandlerHung, longest_hang
from .caller import run_call
from .clocks import BackendName

__all__ = ["remembered"]

TEXTS: Final = ("hello", "hello again")
HANDLERS: Final = 4
"""New handlers that must answer alike. Threads may bring one of two answers by chance."""

Answers = tuple[list[str], list[str]]
"""The texts that were sent to the caller, and the outputs."""


def remembered(make: Callable[[], StreamHandlerBase], backend: BackendName, patience: float, hang: float) -> str | None:
    """What the second of two equal calls is told, and the first one is not; None if the handler forgets its calls.

    Args:
        make: Makes a new handler.
        backend: Of the calls.
        patience: As for `run_call`.
        hang: Seconds for which a call may be held up; of such a handler, None is returned.
    """

    def twice() -> tuple[Answers, Answers]:
        handler = make()
        with seen_by(handler):
            return call(handler), call(handler)

    def call(handler: StreamHandlerBase) -> Answers:
        usual: dict[str, Any] = {"backend": backend, "catch": True, "patience": patience}
        record = run_call(handler, play=signals.speech_like(0.5), seconds=1.5, send=list(TEXTS), **usual)
        if isinstance(record.error, HandlerHung):
            raise record.error
        return record.texts(), [repr(outputs) for _, outputs in record.outputs]

    limit = longest_hang.set(hang)
    try:
        first, second = twice()
        if first == second or any(twice() != (first, second) for _ in range(HANDLERS - 1)):
            return None
    except HandlerHung:  # which the stories tell better
        return None
    finally:
        longest_hang.reset(limit)
    pairs = [(one, other) for one, other in zip(first, second, strict=True) if one != other]
    return f"a caller who writes {TEXTS[0]!r} is answered {pairs[0][0]}, and the next one {pairs[0][1]}"
