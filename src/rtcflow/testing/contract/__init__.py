"""Does a handler keep its contract? A suite for anybody's handler.

    def test_my_handler():
        check_handler(MyHandler())

Each check is named after the sentence it holds against the contract of handlers; what breaks is reported with that
sentence. `HANDLER_CHECKS` is for a test of its own per sentence.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import contextvars
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from ...handlers.base import StreamHandlerBase
from ...handlers.checking import check_handler as check_statically
from ...handlers.checking import copy_handler
from .._facts import TELEPHONE
from .._facts import custom as facts
from .._fair_clock import FairClock, fair_clock
from .._handler_time import seen_by
from .._room import HandlerHung, longest_hang, refuse_in_a_loop
from .._scenarios import never_silent
from .._sharing import SharedChanges, pools, refuse_shared_state
from .._story import contract_broken
from ..clocks import BackendName
from . import _answers, _audio, _callers, _copies, _ends, _interruptions, _limits, _orders, _texts
from ._sentences import CheckInput, Everywhere, Sentence, time_of_handler

__all__ = ["HANDLER_CHECKS", "check_handler"]

SENTENCES: tuple[Sentence, ...] = (
    _copies.copies_anywhere,
    _copies.shut_down_unused,
    _callers.serves,
    _limits.limits,
    _copies.no_trace,
    _callers.serves_badly,
    _interruptions.cleared,
    _audio.any_length,
    _audio.steady,
    _audio.sides,
    _ends.ends,
    _ends.stream_ends,
    _orders.tells_errors,
    _interruptions.nothing_stale,
    _texts.any_text,
    _interruptions.notices,
    _answers.answers_late,
    _answers.says_it_all,
    _orders.any_order,
    _copies.no_file_left,
)
"""In this order. Limits are early: one that counts from the making of the handler is over in later calls. Those that
play the most calls are late: for a handler that computes, each second of a call takes long.
"""

HANDLER_CHECKS: dict[str, Callable[..., None]] = {one.text: one for one in SENTENCES}
"""The single checks of `check_handler`, by their sentence."""

ENOUGH: Final = 4.0
"""Seconds after which a handler that has broken a sentence is not looked at any further (see `FairClock`)."""

LONGEST: Final = 30.0
"""Seconds after which no new sentence is looked at, even if none is broken (see `FairClock`)."""

SHORT_HANG: Final = 4.0
"""Seconds for which a method of an async handler may hold up the loop (see `FairClock`)."""


def check_handler(
    handler: StreamHandlerBase,
    *,
    args: Sequence[Any] = CheckInput.args,
    shared: Collection[str] = CheckInput.shared,
    custom: Mapping[str, str] = {},
    patience: float = CheckInput.patience,
    backends: Sequence[BackendName] = CheckInput.backends,
) -> None:
    """Hold a handler to its contract: calls in virtual time, on both backends, ended in every way.

    Args:
        handler: As you give it to a `Stream`. It is copied for each call, and never runs itself.
        args: What the page posts when the handler asks for arguments.
        shared: Attributes that its copies share on purpose, and may change: a cache, a room.
        custom: Parameters of the application's own in `Context.custom`, beside what is known of each telephone call:
            the caller's number, for example. All callers have both, because a page's may press keys here.
        patience: Real seconds for which its threads may compute or block (see `run_call`).
        backends: What it is to run on: ``["asyncio"]`` for a handler that uses asyncio itself.

    Raises:
        ValueError: No backend is named, or one that does not exist.
        HandlerError: It cannot be run at all, or its copies are not its own; the text says what to write.
        AssertionError: Some sentences of the contract are broken; the text tells them, and gives a test to paste.
    """
    __tracebackhide__ = True
    refuse_in_a_loop("check_handler", "call it in a plain def, or write: await anyio.to_thread.run_sync(...)")
    if not backends or isinstance(backends, str) or not set(backends) <= set(CheckInput.backends):
        raise ValueError(f'backends={backends!r} names no backends; write backends=["asyncio"], ["trio"], or both')
    check_statically(handler)
    refuse_shared_state(handler, copy_handler(handler), f"{type(handler).__qualname__}.copy()", shared)
    copied = copy_handler(handler)
    untouched = SharedChanges(handler, copied, shared)
    given = CheckInput(args, shared, custom, patience, tuple(backends), pools(handler, copied, shared), untouched)
    with seen_by(handler):
        contextvars.copy_context().run(_look_at, handler, given, SENTENCES)


def _check_sentence(handler: StreamHandlerBase, sentence: str) -> None:
    """Hold a handler to one sentence of `HANDLER_CHECKS`; fails as `check_handler` does."""
    __tracebackhide__ = True
    with seen_by(handler):
        contextvars.copy_context().run(
            _look_at, handler, CheckInput(), [one for one in SENTENCES if one.text == sentence]
        )


def _look_at(handler: StreamHandlerBase, given: CheckInput, sentences: Sequence[Sentence]) -> None:
    __tracebackhide__ = True
    broken: list[tuple[str, str, str]] = []
    cause: BaseException | None = None
    clock = FairClock()
    fair_clock.set(clock)
    never_silent.set([])
    facts.set({**TELEPHONE, **given.custom})
    longest_hang.set(SHORT_HANG)
    for n, sentence in enumerate(sentences):
        passed = clock.now()
        if broken and passed > ENOUGH:
            break
        if passed > LONGEST:
            warnings.warn(
                f"check_handler ended early: it looked at {n} of {len(sentences)} sentences in {LONGEST:g} s; the "
                "handler blocks its threads for long, in a computation or a wait: give the tests a shorter one",
                stacklevel=4,
            )
            break
        try:
            sentence(handler, given)
        except Exception as error:  # supervises: whatever the handler raises is what the sentence was about
            hung = error if isinstance(error, HandlerHung) else error.__cause__  # it may have come out of the method
            if isinstance(hung, HandlerHung):  # as would most other checks, some seconds each
                broken.append((sentence.text, sentence.steps, f"it hung: {hung}"))
                break
            told = isinstance(error, AssertionError)
            broken.append((sentence.text, sentence.steps, str(error) if told else f"it raised {error!r}"))
            cause = cause or (error.__cause__ if told else error)
            if isinstance(error, Everywhere):
                break
    if broken:
        noticed = time_of_handler().sockets.told()
        story = contract_broken(type(handler).__name__, broken, len(sentences), noticed)
        if cause is not None:  # behind the story, where the code of the handler is found
            story.add_note("".join(traceback.format_exception(cause)))
        raise story
