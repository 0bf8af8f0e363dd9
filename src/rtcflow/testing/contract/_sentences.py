"""What all sentences of a handler's contract have in common: what they are told, and how they play calls."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from ..._core.bridge import loop_clock
from ...ends import Timeouts
from ...handlers.base import StreamHandlerBase
from ...handlers.checking import copy_handler
from .. import signals
from .._handler_time import HandlerTime, handler_time, seen_by
from .._probe import Journal, probe_copies
from .._room import HandlerHung, run_in_room
from .._sharing import SharedChanges
from .._tracing import Tracer
from .._workers import PATIENCE
from ..caller import CallRecord, errors_of_calls, run_call
from ..clocks import BackendName

T = TypeVar("T")


@dataclass(frozen=True)
class CheckInput:
    """What the checks are told of a handler."""

    args: Sequence[Any] = ("a", 1)
    shared: Collection[str] = ()
    custom: Mapping[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    backends: Sequence[BackendName] = ("trio", "asyncio")
    pools: dict[str, list[int]] = field(default_factory=dict)
    """What is in the pools that copies share, before the first call."""
    untouched: SharedChanges | None = None
    """What copies share, as it was before the first call."""

    def on(self, backend: BackendName) -> BackendName:
        """The backend of a call that could be on either: this one, if the handler runs on it."""
        return backend if backend in self.backends else self.backends[0]


class Everywhere(AssertionError):
    """A sentence is broken in a way that all later calls would show as well: they are not played."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of the contract.

    Attributes:
        text: It.
        steps: What its check plays, in words.
        check: Raises AssertionError with what was seen.
        probed: The check gets a copy whose copies keep journals. It has a class of its own, so what it sets on its
            class is not seen on the handler's.
    """

    text: str
    steps: str
    check: Callable[[StreamHandlerBase, CheckInput], None]
    probed: bool

    def __call__(self, handler: StreamHandlerBase, given: CheckInput = CheckInput()) -> None:
        """Hold a handler to it."""
        if handler_time.get() is None:
            with seen_by(handler):
                self(handler, given)
        else:
            with _no_errors(), probed(handler) if self.probed else nullcontext(handler) as prototype:
                self.check(prototype, given)


def sentence(
    text: str, steps: str, *, probed: bool = True
) -> Callable[[Callable[[StreamHandlerBase, CheckInput], None]], Sentence]:
    """Make a sentence of its check."""
    return partial(Sentence, text, steps, probed=probed)


@contextmanager
def _no_errors() -> Iterator[None]:
    """See that no call in the block ended with an error, whatever its check has looked at."""
    errors: list[Exception] = []
    token = errors_of_calls.set(errors)
    try:
        yield
    finally:
        errors_of_calls.reset(token)
    if errors:
        raise AssertionError(f"in one of these calls it raised {errors[0]!r}") from errors[0]


@contextmanager
def probed(
    handler: StreamHandlerBase, *, tracer: Tracer | None = None, copied: Callable[[], object] = lambda: None
) -> Iterator[StreamHandlerBase]:
    """A copy of `handler` whose copies keep journals: what these tell is looked at when the block ends.

    Args:
        handler: The handler.
        tracer: Follows the lines of its copies.
        copied: Called when a copy was made.
    """
    journals: list[Journal] = []

    def new_journal() -> Journal:
        try:
            clock = loop_clock()
        except RuntimeError:  # a copy that is made outside of any loop serves nobody
            clock = time.monotonic
        journals.append(Journal(clock, tracer=tracer))
        copied()
        return journals[-1]

    prototype = copy_handler(handler)
    probe_copies(prototype, new_journal)
    JOURNALS.set(journals)
    try:
        yield prototype
    finally:
        for journal in journals:
            if journal.endless:  # whatever else was seen, it comes from this
                raise HandlerHung(journal.broken[-1]) from None
    for journal in journals:
        if journal.broken:
            raise AssertionError(f"this is broken: {journal.broken[0]}")
    if (shown := handler_time.get()) is not None and shown.queued.broken:
        raise AssertionError(f"this is broken: {shown.queued.broken}")


JOURNALS: ContextVar[list[Journal]] = ContextVar("rtcflow_journals")
"""The journals of the check that runs."""


def last_journal() -> Journal:
    """The journal of the copy that was made last."""
    return JOURNALS.get()[-1]


def time_of_handler() -> HandlerTime:
    """The clocks that the modules of the handler see."""
    shown = handler_time.get()
    if shown is None:
        raise RuntimeError("no handler is being looked at")
    return shown


PATIENT: Final = Timeouts(shutdown=60.0)
"""So that a shutdown that does not return in time is seen to take long, and is not just cut short."""


def whole_call(handler: StreamHandlerBase, given: CheckInput, backend: BackendName) -> CallRecord:
    """A call of 6 s, 4 s of speech in it."""
    return run_call(handler, play=signals.speech_like(4.0), seconds=6.0, backend=backend, **call_options(given))


def run_scenario(scenario: Callable[[], Awaitable[T]], handler: StreamHandlerBase, given: CheckInput) -> T:
    """Run a scenario with calls of its own, on asyncio if the handler may run there."""
    return run_in_room(scenario, given.on("asyncio"), handler, patience=given.patience)


def call_options(given: CheckInput) -> dict[str, Any]:
    """What `run_call` is told in every check."""
    return {"args": list(given.args), "catch": True, "patience": given.patience}


STALE: Final = 0.25
"""Seconds of audio that may still be emitted after a clear: what a method holds in its hands at that moment."""
