"""Does a handler keep its contract? A suite for anybody's handler.

    def test_my_handler():
        check_handler(MyHandler())

Each check is named after the sentence it holds against the contract of handlers; what breaks is reported with that
sentence. `HANDLER_CHECKS` is for a test of its own per sentence.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import contextvars
import itertools
import re
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures.thread import _worker as _pool_thread
from concurrent.futures.thread import _WorkItem
from contextlib import AsyncExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Final, Literal, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import loop_clock
from .._core.guard import is_asyncio_under_trio
from ..abc import MediaOffer
from ..connection.connection import shut_down
from ..ends import End, EndCause, Timeouts
from ..exceptions import MediaError
from ..frames import FRAME_SECONDS, AudioFormat, AudioFrame
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import check_handler as check_statically
from ..handlers.checking import copy_handler, has_own_method, has_video
from ..handlers.functions import is_video_function
from ..protocol import messages
from ..serving.session import CallRequest, Session
from ..stream import Stream
from ..transports.memory import memory_pair
from . import signals
from ._fair_clock import FairClock, fair_clock
from ._handler_time import handler_time, seen_by
from ._leaks import descriptors
from ._literals import texts_of, words_of
from ._probe import AUDIBLE, Journal, probe_copies
from ._room import HandlerHung, longest_hang, own_codes, refuse_in_a_loop, run_in_room
from ._scenarios import (
    ANSWERED,
    COUGH,
    NOTICES,
    SECOND,
    Asked,
    AtRest,
    Interruption,
    Pressed,
    Waited,
    arrays_in,
    asked_after_a_cough,
    asked_often,
    backlogs_in,
    clicks_at_edges,
    each_half_of_another,
    hangs_up,
    in_groups,
    interleaved,
    interrupted,
    kept_for_the_next,
    lateness,
    left_unsaid,
    listens_to_nobody,
    misread,
    names_in,
    numbers_in,
    pressed,
    seconds_audible,
    swapped_at_edges,
    taken_back,
    talked_to,
    texts_in,
    turned_around,
    waited,
)
from ._schedules import Schedule
from ._sharing import SharedChanges, pools, refuse_shared_state
from ._story import contract_broken
from ._tracing import LinesToTry, NoNumbers, Swallowed, Switches, Tracer
from ._virtual_asyncio import still_to_run
from ._workers import PATIENCE, waits_for_a_job, wants_a_processor
from .caller import Caller, CallRecord, open_caller, run_call
from .clocks import BackendName

__all__ = ["HANDLER_CHECKS", "check_handler"]

T = TypeVar("T")


@dataclass(frozen=True)
class _CheckInput:
    """What the checks are told of a handler."""

    args: Sequence[Any] = ("a", 1)
    shared: Collection[str] = ()
    patience: float = PATIENCE
    backends: Sequence[BackendName] = ("trio", "asyncio")
    pools: dict[str, list[int]] = field(default_factory=dict)
    """What is in the pools that copies share, before the first call."""

    def on(self, backend: BackendName) -> BackendName:
        """The backend of a call that could be on either: this one, if the handler runs on it."""
        return backend if backend in self.backends else self.backends[0]


class _Everywhere(AssertionError):
    """A sentence is broken in a way that all later calls would show as well: they are not played."""


HANDLER_CHECKS: dict[str, Callable[..., None]] = {}
"""The single checks of `check_handler`, by their sentence."""
_STEPS: dict[str, str] = {}
"""What each of them plays."""
ENOUGH: Final = 4.0
"""Seconds after which a handler that has broken a sentence is not looked at any further (see `FairClock`)."""
LONGEST: Final = 30.0
"""Seconds after which no new sentence is looked at, even if none is broken (see `FairClock`)."""
SHORT_HANG: Final = 4.0
"""Seconds for which a method of an async handler may hold up the loop (see `FairClock`)."""
GRACE: Final = 1.0
"""Seconds in which a thread that the handler started may end after `shutdown`. On a busy machine it first waits for a
processor, which does not count.
"""
_STEP: Final = 0.01


def check_handler(
    handler: StreamHandlerBase,
    *,
    args: Sequence[Any] = _CheckInput.args,
    shared: Collection[str] = _CheckInput.shared,
    patience: float = _CheckInput.patience,
    backends: Sequence[BackendName] = _CheckInput.backends,
) -> None:
    """Hold a handler to its contract: calls in virtual time, on both backends, ended in every way.

    Args:
        handler: As you give it to a `Stream`. It is copied for each call, and never runs itself.
        args: What the page posts when the handler asks for arguments.
        shared: Attributes that its copies share on purpose, and may change: a cache, a room.
        patience: Real seconds for which its threads may compute or block (see `run_call`).
        backends: What it is to run on: ``["asyncio"]`` for a handler that uses asyncio itself.

    Raises:
        ValueError: No backend is named, or one that does not exist.
        HandlerError: It cannot be run at all, or its copies are not its own; the text says what to write.
        AssertionError: Some sentences of the contract are broken; the text tells them, and gives a test to paste.
    """
    __tracebackhide__ = True
    refuse_in_a_loop("check_handler", "call it in a plain def, or write: await anyio.to_thread.run_sync(...)")
    if not backends or isinstance(backends, str) or not set(backends) <= set(_CheckInput.backends):
        raise ValueError(f'backends={backends!r} names no backends; write backends=["asyncio"], ["trio"], or both')
    check_statically(handler)
    refuse_shared_state(handler, copy_handler(handler), f"{type(handler).__qualname__}.copy()", shared)
    given = _CheckInput(args, shared, patience, tuple(backends), pools(handler, copy_handler(handler), shared))
    with seen_by(handler):
        contextvars.copy_context().run(_look_at, handler, given, list(HANDLER_CHECKS))


def _check_sentence(handler: StreamHandlerBase, sentence: str) -> None:
    """Hold a handler to one sentence of `HANDLER_CHECKS`; fails as `check_handler` does."""
    __tracebackhide__ = True
    with seen_by(handler):
        contextvars.copy_context().run(_look_at, handler, _CheckInput(), [sentence])


def _look_at(handler: StreamHandlerBase, given: _CheckInput, sentences: list[str]) -> None:
    __tracebackhide__ = True
    broken: list[tuple[str, str, str]] = []
    cause: BaseException | None = None
    clock = FairClock()
    fair_clock.set(clock)
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
            HANDLER_CHECKS[sentence](handler, given)
        except Exception as error:  # supervises: whatever the handler raises is what the sentence was about
            hung = error if isinstance(error, HandlerHung) else error.__cause__  # it may have come out of the method
            if isinstance(hung, HandlerHung):  # as would most other checks, some seconds each
                broken.append((sentence, _STEPS[sentence], f"it hung: {hung}"))
                break
            told = isinstance(error, AssertionError)
            broken.append((sentence, _STEPS[sentence], str(error) if told else f"it raised {error!r}"))
            cause = cause or (error.__cause__ if told else error)
            if isinstance(error, _Everywhere):
                break
    if broken:
        story = contract_broken(type(handler).__name__, broken, len(sentences))
        if cause is not None:  # behind the story, where the code of the handler is found
            story.add_note("".join(traceback.format_exception(cause)))
        raise story


def _handler_sentence(
    text: str, steps: str, *, probed: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(check: Callable[[StreamHandlerBase, _CheckInput], None]) -> Callable[..., None]:
        def run(handler: StreamHandlerBase, given: _CheckInput = _CheckInput()) -> None:
            if handler_time.get() is None:
                with seen_by(handler):
                    run(handler, given)
            elif not probed:  # a probed copy has a class of its own, on which it sets what it sets on its class
                check(handler, given)
            else:
                with _probed(handler) as prototype:
                    check(prototype, given)

        HANDLER_CHECKS[text], _STEPS[text] = run, steps
        return check

    return register


@contextmanager
def _probed(
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
    _JOURNALS.set(journals)
    try:
        yield prototype
    finally:
        for journal in journals:
            if journal.endless:  # whatever else was seen, it comes from this
                raise HandlerHung(journal.broken[-1]) from None
    for journal in journals:
        if journal.broken:
            raise AssertionError(f"this is broken: {journal.broken[0]}")


_JOURNALS: ContextVar[list[Journal]] = ContextVar("rtcflow_journals")
"""The journals of the check that runs."""


@_handler_sentence(
    "copy needs no event loop and works in any thread",
    "copy() in another thread",
)
def _copies_anywhere(handler: StreamHandlerBase, _: _CheckInput) -> None:
    made: list[Any] = []

    def make() -> None:
        try:
            made.append(copy_handler(handler))
        except Exception as error:  # handed to the thread that waits
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], Exception):
        raise AssertionError(f"in a thread it raised {made[0]!r}")


@_handler_sentence(
    "shutdown may be called on a copy that never served anybody, and returns in time",
    "copy(), and shutdown() at once",
)
def _shut_down_unused(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def drop() -> float:
        began = anyio.current_time()
        await shut_down(copy_handler(handler), _PATIENT.shutdown)
        return anyio.current_time() - began

    for backend in given.backends:
        took = run_in_room(drop, backend, handler, patience=given.patience)
        if not took <= Timeouts().shutdown:
            raise AssertionError(f"under {backend} shutdown() takes {took:g} s, and is cancelled after 5 s")


_PATIENT: Final = Timeouts(shutdown=60.0)
"""So that a shutdown that does not return in time is seen to take long, and is not just cut short."""
_LONGEST_END: Final = Timeouts().shutdown + Timeouts().grace + Timeouts().goodbye + 1.0


@_handler_sentence(
    "it serves a call on trio and on asyncio, and what emit returns is an EmitType",
    "a call of 6 s, 4 s of speech in it, on both backends",
)
def _serves(handler: StreamHandlerBase, given: _CheckInput) -> None:
    opened: list[Counter[str]] = []
    for backend in (*given.backends, *given.backends)[:2]:  # two calls: see what each leaves open
        before, files = set(threading.enumerate()), descriptors()
        record = _call(handler, given, backend)
        if isinstance(record.error, MediaError):
            raise AssertionError(str(record.error)) from record.error
        if record.error is not None:
            if is_asyncio_under_trio(record.error):
                raise _Everywhere(
                    f"under trio it raised {record.error!r}: it uses asyncio itself. Write it with anyio, which works "
                    "on both (anyio.create_memory_object_stream in place of asyncio.Queue); or, if your server runs "
                    'on asyncio, check_handler(..., backends=["asyncio"])'
                ) from record.error
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if record.stuck:
            raise _Everywhere(f"under {backend} {record.stuck[0]}")
        _no_thread_left(record, before)
        _no_pool_at_work(set(threading.enumerate()) - before, given.patience)
        opened.append(Counter({_folder(one): n for one, n in (descriptors() - files).items()}))
    # A client that all calls share may open what it keeps in the first call; what each call opens is lost.
    if lost := opened[0] & opened[1]:
        raise AssertionError(f"each call leaves open: {', '.join(sorted(lost))}; close it in shutdown()")


def _folder(descriptor: str) -> str:
    """A socket or a pipe as it is; a file without its name, which may be another one in each call."""
    return descriptor.rpartition("/")[0] + "/…" if descriptor.startswith("/") else descriptor


def _call(handler: StreamHandlerBase, given: _CheckInput, backend: BackendName) -> CallRecord:
    return run_call(handler, play=signals.speech_like(4.0), seconds=6.0, backend=backend, **_usual(given))


def _run(scenario: Callable[[], Awaitable[T]], handler: StreamHandlerBase, given: _CheckInput) -> T:
    """Run a scenario with calls of its own, on asyncio if the handler may run there."""
    return run_in_room(scenario, given.on("asyncio"), handler, patience=given.patience)


def _usual(given: _CheckInput) -> dict[str, Any]:
    return {"args": list(given.args), "catch": True, "patience": given.patience}


@_handler_sentence(
    "its limits count from the call's own moments, not from when the handler was made or copied",
    "a call; one an hour after the handler was made, and one an hour after it was copied",
)
def _limits(handler: StreamHandlerBase, given: _CheckInput) -> None:
    # Early among the checks: what counts from the making of the handler is over at some time in all later calls.
    shown = handler_time.get()
    assert shown is not None  # noqa: S101
    spoken = np.concatenate([signals.silence(0.4), signals.speech_like(1.5)], axis=1)

    def call(copied: Callable[[], object] = lambda: None) -> CallRecord:
        with _probed(handler, copied=copied) as prototype:
            return run_call(prototype, play=spoken, seconds=2.5, backend=given.on("asyncio"), **_usual(given))

    usual = call()
    if usual.error is not None:
        return
    closed = usual.end.cause is EndCause.HANDLER_CLOSED
    if closed and usual.seconds < 0.5 and not (usual.heard or usual.texts() or usual.outputs):
        raise AssertionError(
            f"it closes its call after {usual.seconds:.1f} s, and has said nothing: does its limit count on one clock "
            "from a moment on another? If it needs other arguments, give them: check_handler(..., args=[...])"
        )
    shown.skip(_AN_HOUR)
    later = {"made": call(), "copied": call(partial(shown.skip, _AN_HOUR))}
    for when, record in later.items():
        if record.error is not None:
            raise AssertionError(f"an hour after it was {when} it raised {record.error!r}") from record.error
        closed = record.end.cause is EndCause.HANDLER_CLOSED
        if closed and (usual.end.cause is not record.end.cause or record.seconds < usual.seconds - 0.5):
            raise AssertionError(
                f"a call that begins an hour after it was {when} is closed by the handler after "
                f"{record.seconds:.1f} s, and another one is not after {usual.seconds:.1f} s: "
                "start counting in start_up, not in __init__"
            )
        if usual.audio_seconds > 0.5 and record.audio_seconds < usual.audio_seconds / 2:
            raise AssertionError(
                f"in a call that begins an hour after it was {when} it says {record.audio_seconds:.1f} s, in "
                f"another one {usual.audio_seconds:.1f} s: start counting in start_up, not in __init__"
            )
        speaks_up = usual.audio_seconds < 0.1 and record.audio_seconds > 0.3
        if speaks_up or (record.texts() and not usual.texts()):
            raise AssertionError(
                f"in a call that begins an hour after it was {when} it says or writes something at once, and in "
                "another one it does not: start counting in start_up, not in __init__"
            )
    _time_to_answer(handler, given)


_AN_HOUR: Final = 3600.0


def _time_to_answer(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a limit for the caller's answer does not begin while the caller still hears the question."""
    shown = handler_time.get()
    assert shown is not None  # noqa: S101
    written = numbers_in(handler)

    def call(*, asks: bool, speaks_at: float | None = None) -> Waited:
        return _run(partial(waited, handler, given.args, shown.limits, asks=asks, speaks_at=speaks_at), handler, given)

    for asks in (False, True):
        silent = call(asks=asks)
        for limit in silent.limits:
            heard_until = silent.heard_until(limit.begun)
            left = limit.begun + limit.seconds - heard_until
            spoken_over = heard_until - limit.begun
            if limit.seconds not in written or spoken_over < _SPOKEN_OVER * limit.seconds or not 0.1 < left < _HASTY:
                continue
            if not silent.does(limit.begun + limit.seconds):
                continue
            # It is for the caller to act if it does not run out when they do.
            moments = (limit.begun + 0.3 * limit.seconds, heard_until + 0.1)
            if all(limit.begins_with(call(asks=asks, speaks_at=at).limits) for at in moments):
                continue
            raise AssertionError(
                f"{limit.place} gives the caller {limit.seconds:g} s, and begins to count {spoken_over:.1f} s before "
                f"what it says is heard to its end: {left:.1f} s are left. Begin to count when it was heard: after "
                "await self.say(...), or self.playback().waiting seconds later"
            )


_SPOKEN_OVER: Final = 0.4
"""The share of a limit for the caller that the handler may speak itself."""

_HASTY: Final = 2.5
"""Seconds that are too few for an answer, if the limit was meant to be longer."""


@_handler_sentence(
    "one call leaves no trace in another: lists, dicts, sets and arrays that copies share do not change",
    "a whole call; callers who are refused, interrupt, write or press keys; calls that end early; then a look at what "
    "copies share",
    probed=False,
)
def _no_trace(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def drop() -> None:
        await shut_down(copy_handler(handler), _PATIENT.shutdown)

    async def beside() -> None:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            await caller.wait(0.5)
            caller.microphone = False
            await caller.wait(0.5)
            quiet = traces.from_now()
            await drop()
            left = quiet.left() or quiet.left_around()
            if left is None or caller.connection.end is not None:
                return
            quiet = traces.from_now()
            for _ in range(7):
                await caller.wait(0.3)
                if quiet.left() or quiet.left_around():  # the call itself changes it from time to time
                    return
            raise _Everywhere(f"a caller who is refused while another one is on the line leaves a trace: {left}")

    async def crowd() -> None:
        async with AsyncExitStack() as callers:
            for _ in range(_CROWD):
                await callers.enter_async_context(open_caller(handler, args=list(given.args), catch=True))
            await anyio.sleep(2.0)

    async def cut(how: str, after: float) -> None:
        if told := _kept(await _end_at(how, after, handler, given)):
            raise _Everywhere(f"when a caller writes a text, and the call ends ({how} after {after:g} s): {told}")

    def write(texts: list[str]) -> None:
        short: dict[str, Any] = {"seconds": 0.3, "backend": given.on("asyncio"), **_usual(given)}
        if told := _kept(run_call(handler, send=texts, **short)):
            raise _Everywhere(f"when a caller writes {', '.join(map(repr, texts))}: {told}")

    pooled = pools(handler, copy_handler(handler), given.shared)
    for name, items in given.pools.items():
        if pooled.get(name) != items:
            raise _Everywhere(
                f"calls take something out of .{name}, which all copies share, and do not give it back when they are "
                "interrupted, or end: give it back in finally (a generator that is not read to its end is closed at "
                "its yield)"
            )
    traces = SharedChanges(handler, copy_handler(handler), given.shared)
    ways: dict[str, Callable[[], object]] = {"a call": partial(_call, handler, given, given.on("trio"))}
    run = partial(run_in_room, backend=given.on("trio"), handler=handler, patience=given.patience)
    ways["a caller who is refused"] = partial(run, drop)
    ways["a caller who is refused while another one is on the line"] = partial(run, beside)
    ways["one of twelve callers at once"] = partial(run, crowd)
    ways["a caller who sends nothing"] = partial(run, partial(_mute, handler, given))
    ways["a caller who interrupts an answer"] = partial(run, partial(_interrupted, handler, given))
    if has_own_method(handler, "on_message"):
        ways["a caller who writes texts"] = partial(write, list(_TEXTS))
    if has_own_method(handler, "on_dtmf"):
        for digit in messages.DIGITS:
            ways[f"a caller who presses {digit}"] = partial(write, [messages.encode(messages.Dtmf(digit))])
    for how, after in (("cancelled", 0.0), ("cancelled", 0.05), ("peer leaves", 0.011), ("link breaks", 0.25)):
        ways[f"a call that ends early ({how} after {after:g} s)"] = partial(run, partial(cut, how, after))
    for way, serve in ways.items():
        serve()
        left = traces.left() or (None if way == "a call" else traces.left_around())
        if way == "a call" and traces.accept():
            serve()
            left = left or traces.left() or traces.left_of_calls()
            traces.accept()
        if left is not None:
            raise _Everywhere(left if way == "a call" else f"{way} leaves a trace that a whole call does not: {left}")
    if not given.shared and not given.pools:  # else it may sound as what it took does
        _sounds_the_same(handler, given)


_CROWD: Final = 12
"""Callers at once: more than most handlers have slots for."""


def _kept(record: CallRecord) -> str | None:
    """What holds up a thread of a call that has ended. All later calls may show the same, some seconds each."""
    if record.stuck:
        return str(record.stuck[0])
    return "a worker thread does not come back: is a lock kept?" if record.statistics.threads_abandoned else None


def _sounds_the_same(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that what a call sounds like does not depend on the call before it: what copies share may keep its memory
    where nobody can look, as a model or a resampler.
    """
    sentence = signals.speech_like(0.5, seed=1, activity=1.0)
    # The call ends in the middle of a word: a filter then keeps something other than silence.
    usual = np.concatenate([sentence, signals.silence(0.7), sentence[:, ::-1]], axis=1)
    other = signals.tone(1.4, peak=0.9)

    def call(play: NDArray[np.int16] = usual) -> object:
        record = run_call(handler, play=play, seconds=1.4, backend=given.on("asyncio"), **_usual(given))
        return (
            record.audio.tobytes(),
            record.texts(),
            [repr(outputs) for _, outputs in record.outputs],
            record.end.cause,
        )

    if call() == (after_itself := call()):  # the call before these two was another one, that ended early
        return
    seen: list[tuple[object, object]] = []
    for _ in range(2):
        call(other)
        seen.append((call(), call()))
        if seen[-1] != seen[0] or seen[0][1] != after_itself or seen[0][0] == after_itself:
            return  # it is another one each time anyway, by chance or by the clock
    raise _Everywhere(
        "the same call sounds otherwise, or sends other texts, after a call with other audio: copies share something "
        "that remembers what it heard, as a model, a filter or a resampler does; make it in __init__ (or, if calls are "
        "to share it, name the attribute: shared={...})"
    )


@_handler_sentence(
    "it serves a caller who says nothing, whose network is bad, or who has no data channel",
    "calls in silence, over a bad network, from a telephone, from a microphone at 8 kHz; with a camera that is turned, "
    "or slow, if it sees pictures",
)
def _serves_badly(handler: StreamHandlerBase, given: _CheckInput) -> None:
    from .links import Bursts, LossyLink

    bad = LossyLink(1, Bursts(0.05, 4), 0.1, 0.03, 0.02, duplicate=0.02)
    calls: dict[str, dict[str, Any]] = {
        "without a word": {},
        "on a bad network": {"play": signals.speech_like(2.0), "link": bad},
        "on a telephone": {"play": signals.speech_like(1.0), "phone": True},
        "with a microphone at 8 kHz": {"play": signals.speech_like(0.5, 8000), "sample_rate": 8000},
    }
    if has_video(handler):
        calls["whose camera is turned"] = {"play": signals.speech_like(1.0), "camera": _turned}
    for name, call in calls.items():
        record = run_call(handler, seconds=3.0, backend=given.on("trio"), **_usual(given), **call)
        if record.error is not None:
            raise AssertionError(f"for a caller {name} it raised {record.error!r}") from record.error
        if "phone" in call and not seconds_audible(record.heard):
            page = run_call(handler, play=call["play"], seconds=3.0, backend=given.on("trio"), **_usual(given))
            if seconds_audible(page.heard) > 0.5:
                raise AssertionError(
                    "it speaks to a page, and says nothing on a telephone: does it wait for the data channel, or for a "
                    "message? A telephone has neither; look at self.phone_mode first"
                )
    if has_video(handler) and not is_video_function(handler):
        _keeps_its_pace(handler, given)
    used = names_in(type(handler))
    if "args_set" in used and not used & _ASKS:
        _needs_no_arguments(handler, given)


_ASKS: Final = {"wait_for_args", "wait_for_args_sync"}
"""The methods that ask a page for arguments."""


def _needs_no_arguments(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a handler which does not ask for arguments does not wait for them for ever."""

    async def call(*, posts: bool) -> float:
        async with open_caller(handler, catch=True) as caller:
            if posts:
                caller.set_args(list(given.args))
            await caller.play(signals.speech_like(2.0))
            await caller.wait(3.0)
            return seconds_audible(caller.heard)

    if _run(partial(call, posts=True), handler, given) > ANSWERED and not _run(
        partial(call, posts=False), handler, given
    ):
        raise AssertionError(
            "it says nothing before arguments are posted, and does not ask for them: a telephone has none, and a page "
            "posts them when it is asked. Write await self.wait_for_args(), with a time limit"
        )


def _turned(at: float) -> NDArray[np.uint8]:
    """What a camera sends at this moment: upright, then lying, then smaller, as on a bad network."""
    height, width = ((64, 48), (48, 64), (24, 32))[min(int(2 * at), 2)]
    return np.full((height, width, 3), int(60 * at) % 256, np.uint8)


def _keeps_its_pace(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a handler whose audio goes on without a pause does so for a slow camera, too."""

    async def call(fps: float) -> CallRecord:
        async with open_caller(handler, args=list(given.args), fps=fps, catch=True) as caller:
            await caller.play(signals.speech_like(2.0))
        return caller.record()

    often, seldom = (_run(partial(call, fps), handler, given).audio_seconds for fps in (30, 10))
    if often > 1.5 and seldom < 0.6 * often:
        raise AssertionError(
            f"its audio comes at the pace of the caller's pictures: in 2 s it makes {often:.1f} s of audio if 30 "
            f"pictures come in a second, and {seldom:.1f} s if 10 do; make as much as emit is asked for"
        )


@_handler_sentence(
    "it serves a caller who sends any text: on_message gets what strangers write, on_dtmf every digit",
    "a call in which the caller sends texts and digits",
)
def _any_text(handler: StreamHandlerBase, given: _CheckInput) -> None:
    digits = [messages.encode(messages.Dtmf(digit)) for digit in messages.DIGITS]
    every = [*_TEXTS, *(digits if has_own_method(handler, "on_dtmf") else ())]
    if has_own_method(handler, "on_message"):
        _takes_all_texts(handler, given)
        _leaves_nothing(handler, given)
        every += texts_of(handler)
        if hangs_up(handler):
            _hangs_up_at_once(handler, given)
    if has_own_method(handler, "on_dtmf"):
        _keeps_keys(handler, given)
    together = run_call(handler, seconds=1.0, send=every, backend=given.on("asyncio"), **_usual(given))
    if together.error is None and _kept(together) is None:
        return
    short: dict[str, Any] = {"seconds": 1.0, "backend": given.on("trio"), **_usual(given)}
    single = ((repr(text), run_call(handler, send=[text], **short)) for text in every)
    for texts, record in itertools.chain(single, [("one text after the other", together)]):
        if record.error is not None:
            raise AssertionError(f"when it got {texts} it raised {record.error!r}") from record.error
        if told := _kept(record):
            raise _Everywhere(f"when it got {texts}: {told}")


def _takes_all_texts(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that of texts that come at once none waits for the next one."""

    async def left(pause: float) -> int:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.microphone = False
            await caller.wait(0.3)
            for text in _THREE:
                if caller.connection.end is None:
                    caller.send_message(text)
                await caller.wait(pause)
            await caller.wait(_ALL_SAID - caller.seconds)
            asked = "emit" in _JOURNALS.get()[-1].running  # else it is still busy with one of them, or with a greeting
            return len(set(_THREE) & set(texts_in(caller.handler))) if asked else 0

    def run(pause: float) -> int:
        return _run(partial(left, pause), handler, given)

    if (at_once := run(0.0)) > run(2.0):
        raise AssertionError(
            f"of three texts that come at once {at_once} stay in its queue, although nothing more comes, and more than "
            "if they come one by one: a wake-up is lost. Take all that is there after each wait, or use one queue"
        )


def _leaves_nothing(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that what each text brings does not pile up while `emit` waits."""

    async def rests() -> list[dict[str, list[Any]]]:
        found: list[dict[str, list[Any]]] = []
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.microphone = False
            await caller.wait(_ALL_SAID - 3.0)
            for text in ("one two three", "four five six", "seven eight nine"):
                if caller.connection.end is None:
                    caller.send_message(text)
                await caller.wait(3.0)
                if "emit" in _JOURNALS.get()[-1].running:
                    found.append(backlogs_in(caller.handler))
        return found

    found = _run(rests, handler, given)
    for name in found[0] if len(found) == 3 else ():
        left = [rest.get(name, []) for rest in found]
        taken = [any(all(one is not other for other in after) for one in before) for before, after in pairwise(left)]
        if 0 < len(left[0]) < len(left[1]) < len(left[2]) and all(taken):
            raise AssertionError(
                f"each text leaves more in .{name} ({', '.join(str(len(one)) for one in left)} items), although emit "
                "waits for some: a wake-up is lost. See what is there before you wait: Condition.wait_for(...), or "
                "use a queue"
            )


def _hangs_up_at_once(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a text that ends the call while the caller speaks ends it as well while nobody does."""

    async def closed(text: str, pause: float) -> bool:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.play_nowait(signals.speech_like(_SPOKEN, activity=1.0))
            await caller.wait(pause)
            if caller.connection.end is not None:
                return False
            if text:
                caller.send_message(text)
            await caller.wait(5.0)
            return caller.connection.end is not None

    def run(text: str, pause: float) -> bool:
        return _run(partial(closed, text, pause), handler, given)

    words = words_of(handler)[:_MOST_WORDS]
    if not words or run("", 0.7 * _SPOKEN):  # speech alone ends it
        return
    for text in words:
        if run(text, 0.7 * _SPOKEN) and not run(text, _SPOKEN + 3.0):
            raise AssertionError(
                f"{text!r} ends the call if it comes while the caller speaks, and does not if it comes three seconds "
                "after they have spoken: a flag is raised, and nobody is woken. Set the event that the loop waits for, "
                "too; or put a sentinel into its queue"
            )


def _keeps_keys(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a key which cuts short what is said is answered, if it is after the last word."""

    def press(digit: str, at: float) -> Pressed:
        return _run(partial(pressed, handler, given.args, digit, at), handler, given)

    usual = press("", 0.0)
    if (prompt := usual.first_words) is None:
        return
    begin, end = prompt
    middle, after, forgotten = (begin + end) / 2, end + 0.4, list[str]()
    if not 1.0 < end - begin < usual.seconds - _ANSWERS - 1.0 or usual.did:
        return
    for digit in messages.DIGITS[:_MOST_KEYS]:
        early = press(digit, middle)
        if early.did or early.audible(middle + NOTICES, middle + _ANSWERS):
            continue
        late = press(digit, after)
        if late.did or late.audible(after, after + _ANSWERS) > usual.audible(after, after + _ANSWERS) + ANSWERED:
            forgotten.append(digit)
        if len(forgotten) == 2:
            raise AssertionError(
                f"when the caller presses {forgotten[0]} or {forgotten[1]} after its first words, it answers. When "
                "they press it meanwhile, it falls silent, and does not: the key is forgotten. Keep keys in a queue, "
                "and do not empty it before you wait for one"
            )


_ANSWERS: Final = 4.0
"""Seconds in which a key is answered."""

_MOST_KEYS: Final = 6

_SPOKEN: Final = 2.0
"""Seconds of speech, in which a text comes."""

_MOST_WORDS: Final = 8

_ALL_SAID: Final = 12.0
"""Seconds after which three short texts are answered, after a greeting."""

_THREE: Final = ("hello 1", "hello 2", "hello 3")

_TEXTS: Final = ("", "hello", "{", "{}", "[]", "null", "1", '{"type": "unknown", "data": {}}', '{"type": 1}')


@_handler_sentence(
    "its queue may be cleared at any moment, and the call goes on",
    "clear_queue() five times in a call",
)
def _cleared(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def interrupt() -> CallRecord:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.play_nowait(signals.speech_like(1.0))
            for _ in range(5):
                await caller.wait(0.13)
                if caller.connection.end is None:
                    caller.handler.clear_queue()
        return caller.record()

    for backend in given.backends:
        record = run_in_room(interrupt, backend, handler, patience=given.patience)
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error


@_handler_sentence(
    "after clear_queue the caller hears nothing that was made before: the handler drops its own backlog",
    "the caller speaks and writes; clear_queue() after 0.7, 2.4 and 3.9 s, and in the middle of an answer",
)
def _nothing_stale(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def after_clear(caller: Caller, seconds: float) -> float:
        """Clear the queue, and wait; the seconds of sound in that time."""
        caller.handler.clear_queue()
        journal = _JOURNALS.get()[-1]
        journal.watched, journal.stale = arrays_in(caller.handler), 0.0
        cleared, since = anyio.current_time(), caller.seconds
        await caller.wait(seconds)
        emits = sum(length for at, length in journal.loud if at > cleared)
        return max(emits, seconds_audible(caller.heard, since))

    async def interrupt() -> tuple[float, float]:
        kept = said = 0.0
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.play_nowait(signals.speech_like(1.5))
            caller.send_message(_LONG_TEXT)
            for wait in (0.7, 1.2, 1.0, None):
                if wait is None:
                    await caller.play(signals.speech_like(0.5, seed=1))
                    await _answered(caller)
                else:
                    await caller.wait(wait)
                if caller.connection.end is not None:
                    break
                sound = await after_clear(caller, 0.5)
                kept = max(kept, _JOURNALS.get()[-1].stale)
                if caller.seconds > 2.4:  # it says something, and nobody has spoken for long
                    said = max(said, sound)
        return kept, said

    async def write() -> tuple[float, float]:
        """Clear in the middle of the answer to a text; then before the next one begins."""
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            said = [0.0, 0.0]
            caller.microphone = False
            await caller.wait(0.5)
            caller.send_message("hello")
            thinks = await _answered(caller)
            if thinks is not None and caller.connection.end is None:
                said[0] = await after_clear(caller, 0.5)
                await caller.wait(1.0)
                caller.send_message("hello")
                await caller.wait(0.5 * thinks)
                if thinks > _THINKS and said[0] <= STALE and caller.connection.end is None:
                    said[1] = await after_clear(caller, 0.5 * thinks + 0.5)
        return said[0], said[1]

    def says_nothing_alone() -> bool:
        alone = run_call(handler, seconds=2.0, backend=given.on("asyncio"), **_usual(given))
        return not seconds_audible(alone.heard) and not _JOURNALS.get()[-1].loud

    itself = _clears_by_itself(handler, given)
    kept, said = _run(interrupt, handler, given)
    later = 0.0
    if max(kept, said) <= STALE and has_own_method(handler, "on_message"):
        said, later = _run(write, handler, given)
    if max(kept, said) > STALE and (itself or _falls_silent(handler, given) or _passes_on(handler, given)):
        return
    if kept > STALE:
        raise AssertionError(
            f"{kept:.2f} s of audio were emitted that the handler had kept when clear_queue() was called; "
            "override clear_queue, empty your own queue there, and return super().clear_queue()"
        )
    if said > STALE and says_nothing_alone():
        raise AssertionError(
            f"{said:.2f} s of a reply were emitted in the half second after clear_queue() was called, and the "
            "caller had said nothing new; override clear_queue, drop the reply that is being made there, and "
            "return super().clear_queue()"
        )
    if later > STALE and type(handler).clear_queue is not StreamHandlerBase.clear_queue and says_nothing_alone():
        raise AssertionError(
            "when clear_queue() is called while it answers a text, it falls silent. When it is called before the "
            f"answer begins, the answer is said nevertheless ({later:.2f} s): the interruption was noticed, and "
            "forgotten. Count interruptions, and begin an answer only if none came since it was asked for"
        )


def _clears_by_itself(handler: StreamHandlerBase, given: _CheckInput) -> bool:
    """Whether it clears its queue when a text or a key comes, and drops all that belongs to it."""
    own = type(handler).clear_queue is not StreamHandlerBase.clear_queue
    if own or "clear_queue" not in names_in(type(handler)):
        return False
    ways = {"writes 'hello'": "hello"} if has_own_method(handler, "on_message") else {}
    if has_own_method(handler, "on_dtmf"):
        ways |= {f"presses {digit}": messages.encode(messages.Dtmf(digit)) for digit in "15"}
    clears = False
    for way, text in ways.items():
        cleared, answer = _run(partial(taken_back, handler, given.args, text, 0.0), handler, given)
        clears = clears or cleared
        for spoken in (0.6, 0.8, 1.05, 1.25) if cleared and not answer else ():
            cleared, said = _run(partial(taken_back, handler, given.args, text, spoken), handler, given)
            if cleared and said > STALE:
                raise AssertionError(
                    f"when the caller speaks and then {way}, it clears its queue, and says {said:.1f} s after that "
                    "all the same: what it was making then. Count what is taken back, and drop what was begun before"
                )
    return clears


def _falls_silent(handler: StreamHandlerBase, given: _CheckInput) -> bool:
    """Whether it clears its queue by itself when the caller speaks in its answer, and says nothing more of that.

    Then it drops its own backlog where it calls `clear_queue`, and nobody else is meant to.
    """
    usual = _talk(handler, given, None)
    if not usual.answer:
        return False
    again = _talk(handler, given, usual.answer[0] - usual.asked + 0.3)
    return again.cleared and again.over_the_caller <= STALE


def _talk(
    handler: StreamHandlerBase, given: _CheckInput, pause: float | None, *, greeting: bool = False
) -> Interruption:
    talk = partial(interrupted, handler, given.args, pause, greeting=greeting)
    return _run(talk, handler, given)


async def _answered(caller: Caller) -> float | None:
    """Wait until the caller is answered, a moment into the answer; when it began, or None after two seconds."""
    asked, since, journal = anyio.current_time(), caller.seconds, _JOURNALS.get()[-1]
    for _ in range(20):
        await caller.wait(0.1)
        if any(at > asked for at, _ in journal.loud) or seconds_audible(caller.heard, since) > FRAME_SECONDS:
            return anyio.current_time() - asked
    return None


_IN_THE_GREETING: Final = 1.0
"""Seconds after the beginning of a call, at which a greeting is interrupted."""

_THINKS: Final = 0.3
"""Seconds that an answer must take before an interruption can come before it."""

_LONG_TEXT: Final = " ".join(["hello"] * 50)
"""What is said of it lasts longer than what may wait to be played."""

STALE: Final = 0.25
"""Seconds of audio that may still be emitted after a clear: what a method holds in its hands at that moment."""


@_handler_sentence(
    "it notices an interruption while an answer is being made, if it does while the answer is said",
    "a sentence, and another one that begins during the answer, or before it: at five moments",
)
def _notices(handler: StreamHandlerBase, given: _CheckInput) -> None:
    talk = partial(_talk, handler, given)
    usual = talk(None)
    if usual.seconds(usual.began, usual.asked) <= 0.1 and usual.seconds(0.0, usual.began) > SECOND:
        first = talk(_IN_THE_GREETING, greeting=True)
        if first.cleared and (said := first.over_the_caller) > STALE:
            raise AssertionError(
                f"when the caller speaks {_IN_THE_GREETING:g} s after the call has begun, it clears its queue, and "
                f"speaks on ({said:.1f} s in the next {SECOND:g} s): what it was saying is still being made, and fills "
                "its backlog again. Count interruptions, and drop what was begun before the last one; or cancel the "
                "task that makes it"
            )
    answer = usual.answer
    if not answer or usual.seconds(usual.began, usual.asked) > 0.1 or usual.seconds(answer[0], answer[0] + 1.5) < 1.0:
        return  # it does not take turns, or says too little
    thinks, again = answer[0] - usual.asked, answer[0] + 0.3
    if usual.seconds(again + NOTICES, again + SECOND) <= STALE:
        return  # it falls silent by itself
    if thinks < 0.1 or talk(thinks + 0.3).over_the_caller > 0.1:
        return  # it cannot be interrupted
    for part in (0.2, 0.4, 0.6, 0.8, 0.95):
        said = talk(part * thinks).over_the_caller
        if said > STALE:
            raise AssertionError(
                f"when the caller speaks again while it answers, it falls silent. When they do {part * thinks:.2f} s "
                f"after their last word, before the answer begins, it says the answer over them ({said:.1f} s in the "
                f"next {SECOND:g} s): the interruption was noticed, and forgotten. Count interruptions, and begin an "
                "answer only if none came since it was asked for; or cancel the task that makes it"
            )


@_handler_sentence(
    "it answers late in a call as it does early, and to the end",
    "the same sentence four times: at the beginning, after 4 s, 14 s and 31 s; then twice after a cough",
)
def _answers_late(handler: StreamHandlerBase, given: _CheckInput) -> None:
    ask = partial(asked_often, handler, given.args)
    answers = _run(ask, handler, given)
    if kept := kept_for_the_next(answers, handler.output_sample_rate):
        raise AssertionError(
            f"the last {1000 * kept:.0f} ms of its answer are not said, and come at the beginning of the next one: "
            "they stay in a FIFO, a resampler or a block that is not yet full. At the end of an answer, flush it: "
            "fifo.read(partial=True), resampler.resample(None)"
        )
    said = [one.seconds for one in answers]
    if len(said) == 4 and (early := min(said[:2])) > ANSWERED and said[3] < 0.3 * early:
        alone = run_call(handler, seconds=9.0, backend=given.on("asyncio"), **_usual(given))
        if seconds_audible(alone.heard):
            return  # a greeting, or an announcement, and no answer
        raise AssertionError(
            f"it answers what the caller says at first ({said[0]:.1f} s and {said[1]:.1f} s), and the same words "
            f"after 31 s for {said[3]:.1f} s: does a limit for one answer count from the beginning of the call?"
        )
    if len(said) == 4 and min(said) > ANSWERED:
        cough = partial(asked_after_a_cough, handler, given.args)
        answered = _run(cough, handler, given)
        if answered == 0.0:
            raise AssertionError(
                f"it answers what the caller says ({said[0]:.1f} s), and after a sound of {COUGH:g} s it answers "
                "neither the next sentence nor the one after: what is too short for a word leaves somebody waiting. "
                "Finish each utterance, also one without words: set its event, put an empty result"
            )


@_handler_sentence(
    "it does not hang up in the middle of its own answer, or while the caller speaks",
    "a sentence, and 40 s of silence; 40 s of speech without a pause",
)
def _says_it_all(handler: StreamHandlerBase, given: _CheckInput) -> None:
    if not hangs_up(handler):
        return

    def emitted() -> set[int]:
        return {one.checksum for one in _JOURNALS.get()[-1].given["emit"]}

    scenario = partial(left_unsaid, handler, given.args, emitted)
    left = _run(scenario, handler, given)
    if left is not None and left[1] > _UNSAID:
        raise AssertionError(
            f"it returned CloseStream while {left[1]:.1f} s of its answer were still in .{left[0]}: does a limit for "
            "the caller's silence count while the handler itself speaks? Count from the end of the answer; or, if it "
            "is to be cut short, clear your queue first"
        )

    def talk(seconds: float, *, pauses: bool) -> float | None:
        scenario = partial(talked_to, handler, given.args, seconds, pauses=pauses)
        return _run(scenario, handler, given)

    closed = talk(40.0, pauses=False)
    if closed is not None and talk(closed + 2.0, pauses=True) is None:
        raise AssertionError(
            f"it hung up after {closed:.1f} s of speech without a pause, and does not if the caller pauses meanwhile: "
            "does a limit for the caller's silence count from where they began to speak? Count from their last word"
        )


_UNSAID: Final = 0.5
"""Seconds of an answer that may be cut off."""


@_handler_sentence(
    "it serves a caller whose frames are of any length, read-only or a view, and come in bursts",
    "frames of 1 to 1920 samples, loud and silent, mono and stereo, some read-only, some views, in bursts",
)
def _any_length(handler: StreamHandlerBase, given: _CheckInput) -> None:
    rate = handler.input_sample_rate

    sizes = (rate // 50, 1, 7, 441, 333, 1023, rate // 50 + 1, 2 * rate // 50, 101)

    async def call(sizes: Sequence[int]) -> tuple[CallRecord, bool]:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            transport: Any = caller.connection.transport

            async def answered() -> bool:
                """Whether it emits something while ten usual frames come."""
                emits = len(_JOURNALS.get()[-1].emits)
                for _ in range(10):
                    if caller.connection.end is None:
                        transport.audio_in.put_nowait(AudioFrame(signals.speech_like(0.02, rate, seed=7), rate, 0))
                    await caller.wait(FRAME_SECONDS)
                return len(_JOURNALS.get()[-1].emits) > emits

            caller.microphone = False
            await caller.wait(0.1)
            alone = bool(_JOURNALS.get()[-1].emits)  # it speaks without being spoken to
            before = await answered() and not alone
            for seed, size in enumerate((*sizes, *sizes)):
                spoken = signals.speech_like(0.2, rate, seed=seed)[:, :size] * (seed < len(sizes))  # then silence
                for channels in (1, 2):
                    if caller.connection.end is None:
                        samples = np.repeat(spoken, channels, 0)
                        transport.audio_in.put_nowait(AudioFrame(_as_lines_do(samples, seed), rate, 0))
                if seed % 3 == 2:
                    await caller.wait(0.04)
            for _ in range(round(_MANY_ODD * rate / sizes[3])):  # more than a ring of a few seconds holds
                if caller.connection.end is None:
                    transport.audio_in.put_nowait(AudioFrame(signals.silence(sizes[3] / rate, rate), rate, 0))
                await caller.wait(sizes[3] / rate)
            await caller.wait(0.15)
            silent = before and caller.connection.end is None and not await answered()
        return caller.record(), silent

    for backend in given.backends:
        run = partial(run_in_room, backend=backend, handler=handler, patience=given.patience)
        record, silent = run(partial(call, sizes))
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if silent and not run(partial(call, [rate // 50] * len(sizes)))[1]:
            raise AssertionError(
                f"under {backend} it answers usual frames, and after frames of other lengths it does not any more: "
                "does it wait for something that such a frame does not bring?"
            )
    _passes_all_on(handler, given)


_MANY_ODD: Final = 2.5
"""Seconds of frames of an odd length."""


def _made_of(
    handler: StreamHandlerBase, given: _CheckInput, spoken: float, length: float = FRAME_SECONDS, lasts: float = 0.0
) -> float:
    """Send seconds of speech, in frames of a length, and nothing else; the seconds of audio that the handler made."""
    rate = handler.input_sample_rate
    samples = signals.speech_like(spoken, rate, activity=1.0)

    async def call() -> None:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.microphone = False
            transport: Any = caller.connection.transport
            size = round(length * rate)
            for begin in range(0, samples.shape[1], size):
                if caller.connection.end is None:
                    transport.audio_in.put_nowait(AudioFrame(samples[:, begin : begin + size], rate, begin))
                await caller.wait(length)
            await caller.wait(max(0.0, lasts - caller.seconds))

    _run(call, handler, given)
    return sum(seconds for _, seconds in _JOURNALS.get()[-1].emits)


def _passes_on(handler: StreamHandlerBase, given: _CheckInput) -> bool:
    """Whether it makes a second of audio of each second that it hears, as an echo does, or a filter."""
    more = _made_of(handler, given, 2 * _PASSED, lasts=5.0) - _made_of(handler, given, _PASSED, lasts=5.0)
    return abs(more - _PASSED) < 0.1 * _PASSED


def _passes_all_on(handler: StreamHandlerBase, given: _CheckInput) -> None:
    """See that a handler which passes on what it hears does so for frames of another length, too."""
    if abs(_made_of(handler, given, _PASSED) - _PASSED) > 0.1 * _PASSED:
        return
    for seconds in (FRAME_SECONDS / 2, 3 * FRAME_SECONDS, 0.95 * FRAME_SECONDS):
        if abs((heard := _made_of(handler, given, _PASSED, seconds)) - _PASSED) > 0.3 * _PASSED:
            raise AssertionError(
                f"it passes on {_PASSED:g} s of speech in frames of 20 ms whole, and makes {heard:.2f} s of it in "
                f"frames of {1000 * seconds:g} ms: frames are padded, or cut off. A frame tells its length: "
                "samples.shape[1]"
            )


_PASSED: Final = 1.2
"""Seconds of speech; a whole number of frames of 10, 20 and 60 ms. No block of 10 ms or more fits into 19 ms."""


def _as_lines_do(samples: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """Samples as they may come from the wire: some read-only, some a view of interleaved ones."""
    if seed % 3 == 1:
        samples = np.repeat(samples, 2, axis=1)[:, ::2]
    elif seed % 3 == 2:
        samples.setflags(write=False)
    return samples


@_handler_sentence(
    "its audio comes in real time and goes on, loud samples do not wrap around, nothing clicks from frame to frame",
    "a loud tone, 6.5 s of speech, another tone; if it listens to nobody, a call of ten minutes",
)
def _steady(handler: StreamHandlerBase, given: _CheckInput) -> None:
    loud = np.concatenate(
        [
            signals.tone(1.0, _TONE, peak=0.9),
            signals.speech_like(4.0),
            signals.speech_like(2.5),
            signals.tone(0.5, _IN_PHASE, peak=0.9),
        ],
        axis=1,
    )
    record = run_call(handler, play=loud, seconds=8.0, backend=given.on("asyncio"), **_usual(given))
    journal = _JOURNALS.get()[-1]
    emits = journal.emits
    waited, lost = journal.longest["receive"], record.statistics.transport.audio_in.dropped
    begun = journal.began["receive"] > 1 or journal.emits  # else it may wait for what starts the conversation
    if waited > 2.0 and lost and begun:
        raise AssertionError(
            f"receive did not return for {waited:.1f} s, and {lost} frames of the caller were lost meanwhile: it waits "
            "for what does not come, for example for room in a queue that nobody empties"
        )
    _goes_on(handler, given, record, emits)
    _makes_real_time(journal)
    run_call(handler, seconds=8.0, backend=given.on("asyncio"), **_usual(given))
    _makes_real_time(_JOURNALS.get()[-1])  # what speaks of itself may fall silent for a caller who speaks
    if sum(seconds for at, seconds in emits if at < 4) > 0.5 and not any(at > 5 for at, _ in emits):
        alone = run_call(handler, seconds=4.0, backend=given.on("asyncio"), **_usual(given))
        if record.end.cause is not EndCause.HANDLER_CLOSED and not alone.audio_seconds:
            raise AssertionError(
                "it answers a caller in the first seconds, and then falls silent, although the caller goes on: "
                "emit waits for what does not come, or an error was swallowed"
            )
    size = record.sample_rate // 50
    heard = [record.audio[:, at : at + size] for at in range(0, record.audio.shape[1] - size, size)]
    emitted = [one.buffer for one in journal.given["emit"] if isinstance(one.buffer, np.ndarray)]
    if max(sum(map(interleaved, pieces)) for pieces in (heard, emitted)) > _FEW:
        raise AssertionError(
            "the caller spoke with one voice, and what emit returns as stereo holds each sample twice in a row, louder "
            "or softer, and on the right another piece than on the left: L R L R … was reshaped to (2, n). From one "
            "channel write "
            "np.repeat(samples, 2, axis=0), from interleaved ones samples.reshape(-1, 2).T"
        )
    last = [one for one in journal.given["emit"] if isinstance(one.buffer, np.ndarray) and one.buffer.ndim == 2]
    if swapped_at_edges([one.buffer for one in last if one.buffer.shape[0] == 2]):
        raise AssertionError(
            "left and right change sides from one piece of its audio to the next: L R L R … was cut after an odd "
            "number of samples. Cut it at an even one, and keep the rest for the next piece"
        )
    found = Counter(misread(one.buffer[0], one.buffer.size / one.seconds, _IN_PHASE) for one in last if one.seconds)
    for way, cure in _MISREAD.items():
        if found[way] > _FEW:
            raise AssertionError(
                f"a tone comes back as noise, and is a tone again with another {way}: samples were taken for others; "
                f"they are signed, with the low byte first: {cure}"
            )
    audio = record.audio.astype(np.int32)
    jumps = int(np.count_nonzero(np.abs(np.diff(audio, axis=1)) > _JUMP))
    if jumps >= _MOST_JUMPS:
        raise AssertionError(
            f"{jumps} times a sample is at the other end of the scale than the one before it, as when int16 overflows; "
            "compute in float32 or int32, and np.clip(…, -32768, 32767) before astype(np.int16)"
        )
    if journal.steps["32768"] >= max(_MOST_JUMPS, 0.9 * journal.steps["much"]) and len(journal.levels) > 2:
        run_call(handler, seconds=2.0, backend=given.on("asyncio"), **_usual(given))
        if not _JOURNALS.get()[-1].steps["32768"]:  # else it is a sound of its own, such as a square wave
            raise AssertionError(
                f"{journal.steps['32768']} samples differ from the one before by 32,768: int16 overflowed where they "
                "were added or scaled, as in (a + b) // 2; compute in float32 or int32, and np.clip(…, -32768, 32767) "
                "before astype(np.int16)"
            )
    if clicks_at_edges(record.audio, record.sample_rate, _TONE):
        raise AssertionError(
            "a steady tone comes back with a click in each frame, or bent: a filter or a resampler begins again there; "
            "keep what it remembers from one frame to the next"
        )


def _makes_real_time(journal: Journal) -> None:
    """See that each piece of audio comes before the one before it is over."""
    emits = journal.emits
    late = lateness(emits)
    enough = len(late) >= (_MANY_LATE if not late or late[0] < 0.1 else _FEW_LATE)
    steadily = enough and float(np.std(late)) < 0.1 * float(np.mean(late))
    little = [gap for gap in late if gap < 0.1]
    # emit is asked for more when little is left. One that then waits for as long as a long piece lasts leaves a gap.
    long = [(took, seconds) for took, (_, seconds) in zip(journal.took, emits, strict=True) if seconds > _LONG]
    told = len(long) >= _FEW_LONG and all(seconds + 0.001 < took < 1.3 * seconds for took, seconds in long)
    sleeps = [one for one, (_, seconds) in zip(journal.slept, emits, strict=True) if seconds > _LONG]
    slow = len(long) >= _FEW_SLEEPS and all(seconds + 0.001 < took < 2.5 * seconds for took, seconds in long)
    if told or (slow and all(sleeps)):
        raise AssertionError(
            f"emit makes less than real time: it took {long[0][0]:.2f} s for {long[0][1]:.2f} s of audio, {len(long)} "
            "times. It need not wait while its audio is played: rtcflow asks for more in time"
        )
    if steadily or (len(little) >= _MOST_LATE and sum(little) >= _LATEST):
        raise AssertionError(
            f"emit makes less than real time: {len(late)} pieces in 8 s came {1000 * float(np.median(late)):.2f} ms "
            "too late. Either its audio is shorter than what it heard, or time for the work comes on top of a sleep: "
            "wait until a deadline that you count up instead"
        )


def _goes_on(
    handler: StreamHandlerBase, given: _CheckInput, record: CallRecord, emits: Sequence[tuple[float, float]]
) -> None:
    """See that a handler which nobody can reach speaks on, or hangs up. What listens may wait for its caller."""
    spoken, last = sum(seconds for _, seconds in emits), emits[-1][0] if emits else 0.0
    over = record.end.cause is EndCause.HANDLER_CLOSED or record.texts() or record.outputs
    if over or spoken < 1.0 or last > 5.0 or not listens_to_nobody(handler):
        return

    async def wait() -> CallRecord:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.microphone = False
            await caller.wait(_TEN_MINUTES)
        return caller.record()

    record = _run(wait, handler, given)
    emits = _JOURNALS.get()[-1].emits
    over = record.end.cause is not EndCause.PEER_LEFT or record.texts() or record.outputs
    if emits and emits[-1][0] < 10.0 and not over:
        raise AssertionError(
            f"it says something for {sum(seconds for _, seconds in emits):.1f} s and then nothing more, nobody can "
            "reach it (receive does nothing), and it does not hang up; return CloseStream() after the last piece"
        )


_TEN_MINUTES: Final = 600.0

_TONE: Final = 310.0
"""Hz; no whole number of its waves makes a frame, so each frame begins at another place of the wave."""


@_handler_sentence(
    "what a stereo handler hears on the left it does not play on the right",
    "500 Hz on the left, 1300 Hz on the right",
)
def _sides(handler: StreamHandlerBase, given: _CheckInput) -> None:
    if handler.expected_layout != "stereo":
        return
    both = np.concatenate([signals.tone(1.0, 500), signals.tone(1.0, 1300)])
    record = run_call(handler, play=both, backend=given.on("asyncio"), **_usual(given))
    alone = run_call(handler, seconds=record.seconds, backend=given.on("asyncio"), **_usual(given))
    if seconds_audible(alone.heard) > 0.7 * seconds_audible(record.heard):
        return  # most of what it plays is its own
    if turned_around(record.audio, record.sample_rate, 500, 1300):
        raise AssertionError("left and right are exchanged; samples have the shape (channels, n), left first")
    if each_half_of_another(record.audio, record.sample_rate, 500, 1300):
        raise AssertionError(
            "each frame comes back as the left side, twice as high, and then the right side: (2, n) was taken for "
            "L R L R …; left is samples[0], and right is samples[1]"
        )


_FEW_LATE, _MANY_LATE = 8, 150
"""Pieces that come too late by the same time, however short: a sample of each is missing."""

_LONG, _FEW_LONG = 0.3, 4
"""Seconds of a piece that is longer than what waits when `emit` is asked again; and how many of them tell enough."""

_FEW_SLEEPS: Final = 3
"""How many of them tell enough, if `emit` slept for as long as each of them lasts."""

_IN_PHASE: Final = 250.0
"""Hz; five waves in a frame, so it is loudest where frames are added."""

_MISREAD: Final = {
    "byte order": 'write np.frombuffer(data, "<i2")',
    "sign": "write array.astype(np.int16), and subtract 32768 only from unsigned ones",
}

_FEW: Final = 5
"""Pieces of audio that may look interleaved by chance."""

_MOST_LATE, _LATEST, _MOST_JUMPS, _JUMP = 10, 0.04, 20, 40000


@_handler_sentence(
    "it answers in the same way under every order of its tasks, and wherever its threads are switched",
    "frames in groups, under 24 orders of tasks or switches of threads",
)
def _any_order(handler: StreamHandlerBase, given: _CheckInput) -> None:
    def emitted() -> set[int]:
        return {one.checksum for one in _JOURNALS.get()[-1].given["emit"]}

    def asked() -> Asked:
        journal = _JOURNALS.get()[-1]
        return Asked(journal.began["emit"], len(journal.emits), "emit" in journal.running)

    def play(
        backend: BackendName, seed: int | None, *, spaced: bool = False
    ) -> tuple[list[AtRest], BaseException | None]:
        tracer = None if seed is None or isinstance(handler, AsyncStreamHandler) else Switches(handler, seed, lines)
        schedule = None if seed is None or tracer else Schedule(seed)
        with _probed(handler, tracer=tracer) as prototype, tracer or nullcontext():
            scenario = partial(in_groups, prototype, given.args, tracer, emitted=emitted, asked=asked, spaced=spaced)
            return run_in_room(scenario, backend, prototype, patience=given.patience, schedule=schedule)

    lines = LinesToTry()
    usual, error = play(given.on("asyncio"), None)
    if error is not None:
        return
    answers = [asked()]
    rests = [after.arrays for after in usual]
    # A handler may wait until it has enough; how much is below that is chance. A backlog only grows.
    below = max(rests) - min(rests) if rests != sorted(rests) else 0
    clock = fair_clock.get() or FairClock()
    began = clock.now()
    for n in range(2 * _ORDERS):
        if clock.now() - began > _ORDERS_SECONDS:
            return
        backend, seed = given.backends[n % len(given.backends)], n // 2
        held, error = play(backend, seed)
        where = f"in one order of its tasks (seed {seed}, {backend})"
        if not isinstance(handler, AsyncStreamHandler):
            where = f"when its threads are switched between two lines (seed {seed}, {backend})"
        if error is not None:
            raise AssertionError(f"{where} it raised {error!r}") from error
        answers.append(asked())
        most = max(one.emits for one in answers)
        if most >= _MANY_ANSWERS and any(one.emits == 0 and one.calls <= _FEW_CALLS for one in answers):
            raise AssertionError(
                f"in one order of its tasks it answers {most} times, and in another one never: emit waits for a signal "
                f"that may have come before (up to seed {seed}, {backend}). Use rtcflow.Event, which stays set"
            )
        more = [after.arrays - before.arrays for before, after in zip(usual, held, strict=True)]
        stuck = [after.line for after, n in zip(held, more, strict=True) if n > below and after.asked]
        if stuck:
            where = f"when {stuck[0]} ({backend})" if stuck[0] else where
            raise AssertionError(
                f"{where} {max(more)} pieces of audio stay in its queue, although nothing more comes: a wake-up is "
                "lost. Clear the event before you look whether there is something, never after you waited for it; "
                "or use a queue"
            )
        forgotten = [(after.line, name) for after in held for name in after.forgotten]
        if forgotten and not any(after.forgotten for after in play(given.on("asyncio"), None, spaced=True)[0]):
            line, name = forgotten[0]
            where = f"when {line} ({backend})" if line else where
            raise AssertionError(
                f"{where} the last frame stays in .{name}, and is not answered, although nothing more comes: a "
                "wake-up is lost. Clear or renew the event before you take the frame, not after; or use a queue"
            )


_MANY_ANSWERS, _FEW_CALLS = 5, 2
_ORDERS: Final = 12
_ORDERS_SECONDS: Final = 1.25
"""Seconds after which no new order is tried (see `FairClock`)."""


@_handler_sentence(
    "an error in its methods is not swallowed without a word",
    "a call of 5 s, one sentence in it, in which the handler's lines are followed",
)
def _tells_errors(handler: StreamHandlerBase, given: _CheckInput) -> None:
    shown = handler_time.get()
    assert shown is not None  # noqa: S101
    tracer = Swallowed(handler, lambda: any(journal.shutting_down for journal in _JOURNALS.get()))
    shown.gathered.clear()
    used = names_in(type(handler))

    async def talk(prototype: StreamHandlerBase) -> None:
        async with open_caller(prototype, args=list(given.args), catch=True) as caller:
            if "latest_args" in used and not used & _ASKS:
                caller.set_args(list(given.args))  # as a page does, of itself
            caller.play_nowait(signals.speech_like(1.0, activity=1.0))
            await caller.wait(5.0)

    numbers = NoNumbers(handler)
    with _probed(handler, tracer=numbers) as prototype, tracer:
        _run(partial(talk, prototype), prototype, given)
    for place, (times, error) in tracer.found.items():
        raise AssertionError(
            f"{place} takes {error!r} ({times} times in 5 s), and does nothing with it: name the exceptions that you "
            "expect, and log the others or let them end the call"
        )
    for results in shown.gathered:
        if results.errors and not results.looked:
            raise AssertionError(
                f"asyncio.gather in {results.place} gave back {results.errors[0]!r}, and nobody looked at it: after "
                "return_exceptions=True look for exceptions among the results, and log them; or leave it out"
            )
    for error in tracer.unseen():
        raise AssertionError(
            f"{error!r} was raised in a thread of a pool, and nobody looks at it: ask the future for its result(), or "
            "give it a callback that logs its exception()"
        )
    for place in numbers.found:
        raise AssertionError(
            f"{place} computes a NaN, as NumPy warns: samples are int16, whose squares and sums "
            "wrap around (astype(np.float32) first), and a division by the level of silence has no result"
        )
    for place in tracer.cancellations:
        raise AssertionError(
            f"{place} takes the cancellation of its call, and does not raise it again: write except Exception, not "
            "except BaseException (nor a bare except, nor a return in finally)"
        )


@_handler_sentence(
    "its call ends in time, and its threads come back, whatever ends it, and whenever",
    "calls that end by the peer, the link, the server, a limit or cancellation: at once, after 11 ms, 0.5 s, 1.2 s",
)
def _ends(handler: StreamHandlerBase, given: _CheckInput) -> None:
    early = [("cancelled", 0.0), ("peer leaves", 0.011)]
    ways: list[tuple[BackendName, str, float]] = []
    first = given.on("trio")
    ways.extend((first, how, after) for how, after in itertools.product(_ENDS, (0.0, 0.011, 0.5)))
    ways.append((first, "cancelled", 1.2))  # the caller has spoken, and waits for an answer
    if len(given.backends) > 1:
        ways.extend(("asyncio", how, after) for how, after in [*early, *((how, 0.5) for how in _ENDS)])
    for backend, how, after in ways:
        before = set(threading.enumerate())
        # Some callers do not answer when they are asked for arguments.
        answers = after != 0.011 and how != "peer leaves"
        end = partial(_end_at, how, after, handler, given, answers=answers)
        record = run_in_room(end, backend, handler, patience=given.patience)
        allowed = {_ENDS[how], EndCause.HANDLER_CLOSED} | ({EndCause.NOT_CONNECTED} if after == 0.0 else set())
        when = f"{how} after {after} s, under {backend}"
        if record.end.cause not in allowed:
            raise AssertionError(f"{when}: it ended by {record.end.cause}: {record.error!r}")
        held = _JOURNALS.get()[-1].entered.get("shutdown", after) - after
        if how in {"cancelled", "link breaks"} and held > SHIELDED and isinstance(handler, AsyncStreamHandler):
            raise AssertionError(
                f"{when}: its methods went on for {held:.1f} s after they were cancelled, and the call could not end: "
                "a scope with shield=True is for cleaning up alone, and short. anyio.to_thread.run_sync is shielded as "
                "well: write await self.run_sync(function), or give it abandon_on_cancel=True"
            )
        if not record.seconds - after <= _LONGEST_END:
            raise AssertionError(f"{when}: closing took {record.seconds - after:.1f} s")
        _no_thread_left(record, before)


async def _interrupted(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async with open_caller(handler, args=list(given.args), catch=True) as caller:
        await caller.play(signals.speech_like(1.0, seed=1))
        asked = caller.seconds
        for _ in range(10):
            await caller.wait(0.1)
            heard = caller.heard
            if heard and heard[-1].at > asked + FRAME_SECONDS and np.abs(heard[-1].frame.samples).max() > AUDIBLE:
                break
        if caller.connection.end is None:
            caller.handler.clear_queue()
            await caller.wait(0.1)


async def _mute(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async with open_caller(handler, args=list(given.args), catch=True) as caller:
        caller.microphone = False
        await caller.wait(0.2)


async def _end_at(
    how: str, after: float, handler: StreamHandlerBase, given: _CheckInput, *, answers: bool = True
) -> CallRecord:
    limit = after + 0.001 if how == "time limit" else None
    args = list(given.args) if answers else None
    call = open_caller(handler, args=args, time_limit=limit, timeouts=_PATIENT, catch=True)
    async with call as caller:
        caller.play_nowait(signals.tone(1.0))
        if after:  # so that cleaning up after a message is tried as well
            caller.send_message("hello")
        await anyio.sleep(after)
        match how:
            case "peer leaves":
                await caller.hang_up()
            case "link breaks":
                await caller.break_link()
            case "server closes":
                caller.connection.close("enough")
            case "cancelled":
                await caller.cancel()
        await caller.wait_ended()
        await anyio.sleep(0.1)
        if later := still_to_run(own_codes(caller.handler)):
            raise AssertionError(
                f"{how} after {after} s: {later} is still to run after the call is over, and uses a handler whose "
                "shutdown() has returned: cancel it there"
            )
    return caller.record()


SHIELDED: Final = 1.0
"""Seconds for which the methods of an async handler may go on after they were cancelled."""

_ENDS: Final = {
    "peer leaves": EndCause.PEER_LEFT,
    "link breaks": EndCause.LINK_BROKE,
    "server closes": EndCause.CLOSED,
    "time limit": EndCause.TIME_LIMIT,
    "cancelled": EndCause.CANCELLED,
}


@_handler_sentence(
    "its call ends in time when the whole stream is shut down",
    "the stream is shut down in the middle of a call",
)
def _stream_ends(handler: StreamHandlerBase, given: _CheckInput) -> None:
    for backend in given.backends:
        shut = partial(_stream_shut_down, handler, given)
        end, took = run_in_room(shut, backend, handler, patience=given.patience)
        causes = {EndCause.CLOSED, EndCause.HANDLER_CLOSED}
        if end is None:
            raise AssertionError(f"under {backend} it goes on")
        if end.cause not in causes:
            raise AssertionError(f"under {backend} it ended by {end.cause}: {end.error!r}")
        if not took <= _LONGEST_END:
            raise AssertionError(f"under {backend} closing took {took:.1f} s")


async def _stream_shut_down(handler: StreamHandlerBase, given: _CheckInput) -> tuple[End | None, float]:
    video, rate = has_video(handler), handler.input_sample_rate
    modality: Literal["audio", "video", "audio-video"] = "audio-video" if video else "audio"
    if is_video_function(handler):
        modality = "video"
    stream = Stream(handler, modality=modality, timeouts=_PATIENT)
    offer = MediaOffer(receive_video=video, send_video=video)
    async with memory_pair(offer) as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(handler.output_sample_rate), AudioFormat(rate))
        theirs.audio_out.put(AudioFrame(signals.tone(0.5, 440, rate), rate, 0))
        sessions: list[Session] = []

        async def serve() -> None:
            async with stream.calls.admit(CallRequest(), "memory") as session:
                sessions.append(session)
                if given.args is not _CheckInput.args:  # the application may post them unasked
                    session.handler.set_args(list(given.args))
                await stream.calls.run(session, ours)

        async def answer() -> None:
            with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                while True:
                    text = await theirs.messages_in.take()
                    if isinstance(messages.decode(text), messages.SendInput):
                        sessions[0].handler.set_args(list(given.args))

        async with stream.running():
            tasks.start_soon(serve)
            tasks.start_soon(answer)
            await anyio.sleep(0.5)
            began = anyio.current_time()
        while len(stream.calls):
            await anyio.sleep(0.1)
        took = anyio.current_time() - began
        tasks.cancel_scope.cancel()
    return sessions[0].end, took


def _no_thread_left(record: CallRecord, before: set[threading.Thread]) -> None:
    if record.statistics.threads_abandoned:
        raise _Everywhere("a worker thread did not come back: have shutdown() release it")
    idle, began = 0.0, time.process_time()
    while left := [thread for thread in set(threading.enumerate()) - before if not _pooled(thread)]:
        idle += 0.0 if any(wants_a_processor(thread.native_id or 0) for thread in left) else _STEP
        if idle > GRACE or time.process_time() - began > GRACE:
            names = sorted(re.sub(r"^Thread-\d+ ", "Thread ", thread.name) for thread in left)
            raise _Everywhere(f"shutdown() left threads running: {names}")
        time.sleep(_STEP)


def _no_pool_at_work(threads: Collection[threading.Thread], patience: float) -> None:
    """See that a pool's threads have nothing to do once the call is over. What computes or sleeps ends in time."""
    if waiting := _waits_in_a_closed_pool(threads):
        raise _Everywhere(
            f"shutdown() closes a pool in which work still waits ({waiting}): it is all done, for nobody, after the "
            "call is over; write pool.shutdown(wait=False, cancel_futures=True)"
        )
    until = time.monotonic() + patience
    while busy := _at_work(threads):
        if time.monotonic() > until:
            raise _Everywhere(
                f"{busy} is still at work in a pool {patience:g} s after the call: have shutdown() release it, for "
                "example with queue.put(None), or cancel its future"
            )
        time.sleep(_STEP)


def _waits_in_a_closed_pool(threads: Collection[threading.Thread]) -> str | None:
    """How many jobs wait in a pool of one of these threads, if it takes no new ones."""
    frames = sys._current_frames()
    for thread in threads:
        frame = frames.get(thread.ident or 0)
        while frame is not None and frame.f_code is not _pool_thread.__code__:
            frame = frame.f_back
        if frame is None:
            continue
        pool, jobs = frame.f_locals["executor_reference"](), frame.f_locals["work_queue"]
        waiting = jobs.qsize() - 1  # the last one sends the thread home
        if waiting > 0 and (pool is None or pool._shutdown):
            return f"{waiting} jobs"
    return None


def _at_work(threads: Collection[threading.Thread]) -> str | None:
    """The function that one of these threads runs for `concurrent.futures`."""
    frames = sys._current_frames()
    for thread in threads:
        frame, last = frames.get(thread.ident or 0), None
        while frame is not None and frame.f_code is not _WorkItem.run.__code__:
            frame, last = frame.f_back, frame
        if frame is not None and last is not None:
            return last.f_code.co_qualname
    return None


def _pooled(thread: threading.Thread) -> bool:
    # Idle threads that trio's, anyio's and the standard library's pools keep by design.
    names = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor")
    return thread.name.startswith(names) or waits_for_a_job(thread)


@_handler_sentence(
    "a temporary file that it removes after one call it removes after every call",
    "all the calls before",
    probed=False,
)
def _no_file_left(_: StreamHandlerBase, __: _CheckInput) -> None:
    shown = handler_time.get()
    assert shown is not None  # noqa: S101
    calls = [[file for file in files if file.exists()] for files in shown.files if files]
    left = [files[0] for files in calls if files]
    if left and len(left) < len(calls):
        raise AssertionError(
            f"{len(left)} of {len(calls)} calls left a temporary file behind, and the others removed theirs "
            f"({left[0].name}): remove it in shutdown(), which every call reaches"
        )
