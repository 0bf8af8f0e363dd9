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
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import anyio
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import loop_clock
from ..abc import MediaOffer
from ..connection.connection import shut_down
from ..ends import End, EndCause, Timeouts
from ..exceptions import MediaError
from ..frames import AudioFormat, AudioFrame
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import check_handler as check_statically
from ..handlers.checking import copy_handler, has_own_method, has_video
from ..handlers.functions import is_video_function
from ..protocol import messages
from ..serving.session import CallRequest, Session
from ..stream import Stream
from ..transports.memory import memory_pair
from . import signals
from ._leaks import descriptors
from ._probe import Journal, probe_copies
from ._room import HandlerHung, longest_hang, refuse_in_a_loop, run_in_room
from ._sharing import SharedChanges, refuse_shared_state
from ._workers import PATIENCE
from .caller import CallRecord, open_caller, run_call
from .clocks import BackendName

__all__ = ["HANDLER_CHECKS", "check_handler"]


@dataclass(frozen=True)
class _CheckInput:
    """What the checks are told of a handler."""

    args: Sequence[Any] = ("a", 1)
    shared: Collection[str] = ()
    patience: float = PATIENCE


HANDLER_CHECKS: dict[str, Callable[..., None]] = {}
"""The single checks of `check_handler`, by their sentence."""
ENOUGH: Final = 5.0
"""Real seconds after which a handler that has broken a sentence is not looked at any further."""
LONGEST: Final = 90.0
"""Real seconds after which no new sentence is looked at, even if none is broken."""
SHORT_HANG: Final = 8.0
"""Real seconds for which a method of an async handler may hold up the loop."""
GRACE: Final = 1.0
"""Real seconds in which a thread that the handler started may end after `shutdown`."""


def check_handler(
    handler: StreamHandlerBase,
    *,
    args: Sequence[Any] = _CheckInput.args,
    shared: Collection[str] = _CheckInput.shared,
    patience: float = _CheckInput.patience,
) -> None:
    """Hold a handler to its contract: calls in virtual time, on both backends, ended in every way.

    Args:
        handler: As you give it to a `Stream`. It is copied for each call, and never runs itself.
        args: What the page posts when the handler asks for arguments.
        shared: Attributes that its copies share on purpose, and may change: a cache, a room.
        patience: Real seconds for which its threads may compute or block (see `run_call`).

    Raises:
        HandlerError: It cannot be run at all, or its copies are not its own; the text says what to write.
        AssertionError: Some sentences of the contract are broken; the text lists them.
    """
    refuse_in_a_loop("check_handler", "call it in a plain def, or write: await anyio.to_thread.run_sync(...)")
    check_statically(handler)
    refuse_shared_state(handler, copy_handler(handler), f"{type(handler).__qualname__}.copy()", shared)
    contextvars.copy_context().run(_look_at_all, handler, _CheckInput(args, shared, patience))


def _look_at_all(handler: StreamHandlerBase, given: _CheckInput) -> None:
    broken: list[str] = []
    began = time.monotonic()
    longest_hang.set(SHORT_HANG)
    for n, (sentence, check) in enumerate(HANDLER_CHECKS.items()):
        if not broken and time.monotonic() - began > LONGEST:
            warnings.warn(
                f"check_handler ended early: it looked at {n} of {len(HANDLER_CHECKS)} sentences in {LONGEST:g} s; the "
                "handler blocks its threads for long, in time.sleep() or a computation: give the tests a shorter one",
                stacklevel=3,
            )
            break
        if broken and time.monotonic() - began > ENOUGH:
            broken.append("(this took long, so the other sentences were not looked at)")
            break
        try:
            check(handler, given)
        except AssertionError as error:
            broken.append(f"{sentence}\n      {error}")
        except HandlerHung as error:  # as would most other checks, half a minute each
            broken.append(f"{sentence}\n      it hung: {error}")
            break
        except Exception as error:  # supervises: whatever the handler raises is what the sentence was about
            broken.append(f"{sentence}\n      it raised {error!r}")
    if broken:
        lines = "\n  - ".join(broken)
        raise AssertionError(f"{len(broken)} of {len(HANDLER_CHECKS)} sentences are broken:\n  - {lines}")


def _handler_sentence(text: str, *, probed: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(check: Callable[[StreamHandlerBase, _CheckInput], None]) -> Callable[..., None]:
        def run(handler: StreamHandlerBase, given: _CheckInput = _CheckInput()) -> None:
            if not probed:  # a probed copy has a class of its own, on which it sets what it sets on its class
                check(handler, given)
                return
            with _probed(handler) as prototype:
                check(prototype, given)

        HANDLER_CHECKS[text] = run
        return check

    return register


@contextmanager
def _probed(handler: StreamHandlerBase) -> Iterator[StreamHandlerBase]:
    """A copy of `handler` whose copies keep journals: what these tell is looked at when the block ends."""
    journals: list[Journal] = []

    def new_journal() -> Journal:
        try:
            clock = loop_clock()
        except RuntimeError:  # a copy that is made outside of any loop serves nobody
            clock = time.monotonic
        journals.append(Journal(clock))
        return journals[-1]

    prototype = copy_handler(handler)
    probe_copies(prototype, new_journal)
    _JOURNALS.set(journals)
    yield prototype
    for journal in journals:
        if journal.broken:
            raise AssertionError(journal.broken[0])


_JOURNALS: ContextVar[list[Journal]] = ContextVar("rtcflow_journals")
"""The journals of the check that runs."""


@_handler_sentence("copy needs no event loop and works in any thread")
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


@_handler_sentence("shutdown may be called on a copy that never served anybody, and returns in time")
def _shut_down_unused(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def drop() -> float:
        began = anyio.current_time()
        await shut_down(copy_handler(handler), _PATIENT.shutdown)
        return anyio.current_time() - began

    for backend in _BACKENDS:
        took = run_in_room(drop, backend, handler, patience=given.patience)
        if not took <= Timeouts().shutdown:
            raise AssertionError(f"under {backend} shutdown() takes {took:g} s, and is cancelled after 5 s")


_BACKENDS: Final[tuple[BackendName, ...]] = ("trio", "asyncio")
_PATIENT: Final = Timeouts(shutdown=60.0)
"""So that a shutdown that does not return in time is seen to take long, and is not just cut short."""
_LONGEST_END: Final = Timeouts().shutdown + Timeouts().grace + Timeouts().goodbye + 1.0


@_handler_sentence("it serves a call on trio and on asyncio, and what emit returns is an EmitType")
def _serves(handler: StreamHandlerBase, given: _CheckInput) -> None:
    opened: list[Counter[str]] = []
    for backend in _BACKENDS:
        before, files = set(threading.enumerate()), descriptors()
        record = _call(handler, given, backend)
        if isinstance(record.error, MediaError):
            raise AssertionError(str(record.error)) from record.error
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if record.stuck:
            raise AssertionError(f"under {backend} {record.stuck[0]}")
        _no_thread_left(record, before)
        opened.append(descriptors() - files)
    # A client that all calls share may open what it keeps in the first call; what each call opens is lost.
    if lost := opened[0] & opened[1]:
        raise AssertionError(f"shutdown() left open: {', '.join(sorted(lost))}")


def _call(handler: StreamHandlerBase, given: _CheckInput, backend: BackendName) -> CallRecord:
    speech = signals.speech_like(2.0)
    return run_call(handler, play=speech, seconds=3.0, backend=backend, **_usual(given))


def _usual(given: _CheckInput) -> dict[str, Any]:
    return {"args": list(given.args), "catch": True, "patience": given.patience}


@_handler_sentence("it serves a caller who says nothing, whose network is bad, or who has no data channel")
def _serves_badly(handler: StreamHandlerBase, given: _CheckInput) -> None:
    from .links import Bursts, LossyLink

    bad = LossyLink(1, Bursts(0.05, 4), 0.1, 0.03, 0.02, duplicate=0.02)
    calls: dict[str, dict[str, Any]] = {
        "without a word": {},
        "on a bad network": {"play": signals.speech_like(2.0), "link": bad},
        "on a telephone": {"play": signals.speech_like(1.0), "phone": True},
        "with a microphone at 8 kHz": {"play": signals.speech_like(0.5, 8000), "sample_rate": 8000},
    }
    for name, call in calls.items():
        record = run_call(handler, seconds=3.0, **_usual(given), **call)
        if record.error is not None:
            raise AssertionError(f"for a caller {name} it raised {record.error!r}") from record.error


@_handler_sentence("it serves a caller who sends any text: on_message gets what strangers write, on_dtmf every digit")
def _any_text(handler: StreamHandlerBase, given: _CheckInput) -> None:
    digits = [messages.encode(messages.Dtmf(digit)) for digit in messages.DIGITS]
    every = [*_TEXTS, *(digits if has_own_method(handler, "on_dtmf") else ())]
    if run_call(handler, seconds=1.0, send=every, backend="asyncio", **_usual(given)).error is None:
        return
    for texts in ([text] for text in every):
        record = run_call(handler, seconds=1.0, send=texts, **_usual(given))
        if record.error is not None:
            raise AssertionError(f"when it got {texts[0]!r} it raised {record.error!r}") from record.error


_TEXTS: Final = ("", "hello", "{", "{}", "[]", "null", "1", '{"type": "unknown", "data": {}}', '{"type": 1}')


@_handler_sentence("its queue may be cleared at any moment, and the call goes on")
def _cleared(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def interrupt() -> CallRecord:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.play_nowait(signals.speech_like(1.0))
            for _ in range(5):
                await caller.wait(0.13)
                if caller.connection.end is None:
                    caller.handler.clear_queue()
        return caller.record()

    for backend in _BACKENDS:
        record = run_in_room(interrupt, backend, handler, patience=given.patience)
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error


@_handler_sentence("after clear_queue the caller hears nothing that was made before: the handler drops its own backlog")
def _nothing_stale(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def interrupt() -> list[tuple[float, float]]:
        stale: list[tuple[float, float]] = []
        call = open_caller(handler, args=list(given.args), catch=True)
        async with call as caller:
            caller.play_nowait(signals.speech_like(1.5))
            caller.send_message("hello")
            for wait in (0.7, 1.2, 1.0):
                await caller.wait(wait)
                if caller.connection.end is not None:
                    break
                caller.handler.clear_queue()
                held, journal = _arrays_in(caller.handler), _JOURNALS.get()[-1]
                journal.watched, journal.stale = held, 0.0
                await caller.wait(0.5)
                stale.append((journal.stale, len(held)))
        return stale

    for seconds, _ in run_in_room(interrupt, "asyncio", handler, patience=given.patience):
        if seconds > STALE:
            raise AssertionError(
                f"{seconds:.2f} s of audio were emitted that the handler had kept when clear_queue() was called; "
                "override clear_queue, empty your own queue there, and return super().clear_queue()"
            )


STALE: Final = 0.25
"""Seconds of audio that may still be emitted after a clear: what a method holds in its hands at that moment."""


def _arrays_in(handler: StreamHandlerBase) -> dict[int, NDArray[Any]]:
    """The arrays in a handler's own lists and queues, by identity; kept, so that no identity is used twice."""
    found: dict[int, NDArray[Any]] = {}

    def look(value: Any, depth: int) -> None:
        if isinstance(value, np.ndarray):
            found[id(value)] = value
        elif depth and isinstance(value, list | tuple | deque):
            for item in list(value):
                look(item, depth - 1)
        elif depth and isinstance(value, dict):
            look(list(value.values()), depth)
        elif depth and type(value).__module__ in {"queue", "asyncio.queues", type(handler).__module__}:
            look(list(getattr(value, "__dict__", {}).values()), depth - 1)

    look([value for name, value in vars(handler).items() if not name.startswith("_StreamHandler")], 5)
    return found


@_handler_sentence("it serves a caller whose frames are of any length, and who sends them in bursts")
def _any_length(handler: StreamHandlerBase, given: _CheckInput) -> None:
    rate = handler.input_sample_rate

    async def call() -> CallRecord:
        async with open_caller(handler, args=list(given.args), catch=True) as caller:
            caller.microphone = False
            await caller.wait(0.1)
            transport: Any = caller.connection.transport
            for seed, size in enumerate((rate // 50, 1, 7, 441, 333, 1023, rate // 50 + 1, 2 * rate // 50, 101)):
                for channels in (1, 2):
                    if caller.connection.end is None:
                        samples = signals.speech_like(0.2, rate, seed=seed)[:, :size]
                        transport.audio_in.put_nowait(AudioFrame(np.repeat(samples, channels, 0), rate, 0))
                if seed % 3 == 2:
                    await caller.wait(0.1)
            await caller.wait(0.3)
        return caller.record()

    for backend in _BACKENDS:
        record = run_in_room(call, backend, handler, patience=given.patience)
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error


@_handler_sentence("its audio comes in real time, and loud samples do not wrap around")
def _steady(handler: StreamHandlerBase, given: _CheckInput) -> None:
    loud = np.concatenate([signals.tone(1.0, 300, peak=0.9), signals.speech_like(7.0)], axis=1)
    record = run_call(handler, play=loud, seconds=10.0, backend="asyncio", **_usual(given))
    late = _late(_JOURNALS.get()[-1].emits)
    if len(late) >= _MOST_LATE:
        raise AssertionError(
            f"emit makes less than real time: {len(late)} pieces in 10 s came {1000 * float(np.median(late)):.1f} ms "
            "too late (time for the work comes on top of a sleep; wait until a deadline that you count up instead)"
        )
    audio = record.audio.astype(np.int32)
    jumps = int(np.count_nonzero(np.abs(np.diff(audio, axis=1)) > _JUMP))
    if jumps >= _MOST_JUMPS:
        raise AssertionError(
            f"{jumps} times a sample is at the other end of the scale than the one before it, as when int16 overflows; "
            "compute in float32 or int32, and np.clip(…, -32768, 32767) before astype(np.int16)"
        )


_MOST_LATE, _MOST_JUMPS, _JUMP = 50, 20, 40000


def _late(emits: list[tuple[float, float]]) -> list[float]:
    """By how much each piece came too late to follow the one before it; longer pauses are made on purpose."""
    late: list[float] = []
    played_until = -1.0
    for at, seconds in emits:
        gap = at - played_until
        if 0.0005 < gap < min(0.1, seconds):
            late.append(gap)
        played_until = max(played_until, at) + seconds
    return late


@_handler_sentence("its call ends in time, and its threads come back, whatever ends it, and whenever")
def _ends(handler: StreamHandlerBase, given: _CheckInput) -> None:
    for backend, how, after in itertools.product(_BACKENDS, _ENDS, (0.0, 0.011, 0.5)):
        before = set(threading.enumerate())
        end = partial(_end_at, how, after, handler, given)
        record = run_in_room(end, backend, handler, patience=given.patience)
        allowed = {_ENDS[how], EndCause.HANDLER_CLOSED} | ({EndCause.NOT_CONNECTED} if after == 0.0 else set())
        when = f"{how} after {after} s, under {backend}"
        if record.end.cause not in allowed:
            raise AssertionError(f"{when}: it ended by {record.end.cause}: {record.error!r}")
        if not record.seconds - after <= _LONGEST_END:
            raise AssertionError(f"{when}: closing took {record.seconds - after:.1f} s")
        _no_thread_left(record, before)


async def _end_at(how: str, after: float, handler: StreamHandlerBase, given: _CheckInput) -> CallRecord:
    limit = after + 0.001 if how == "time limit" else None
    call = open_caller(handler, args=list(given.args), time_limit=limit, timeouts=_PATIENT, catch=True)
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
    return caller.record()


_ENDS: Final = {
    "peer leaves": EndCause.PEER_LEFT,
    "link breaks": EndCause.LINK_BROKE,
    "server closes": EndCause.CLOSED,
    "time limit": EndCause.TIME_LIMIT,
    "cancelled": EndCause.CANCELLED,
}


@_handler_sentence("its call ends in time when the whole stream is shut down")
def _stream_ends(handler: StreamHandlerBase, given: _CheckInput) -> None:
    for backend in _BACKENDS:
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
                session.handler.set_args(list(given.args))
                await stream.calls.run(session, ours)

        async with stream.running():
            tasks.start_soon(serve)
            await anyio.sleep(0.5)
            began = anyio.current_time()
        while len(stream.calls):
            await anyio.sleep(0.1)
        took = anyio.current_time() - began
    return sessions[0].end, took


@_handler_sentence(
    "one call leaves no trace in another: lists, dicts, sets and arrays that copies share do not change", probed=False
)
def _no_trace(handler: StreamHandlerBase, given: _CheckInput) -> None:
    async def drop() -> None:
        await shut_down(copy_handler(handler), _PATIENT.shutdown)

    async def cut(how: str, after: float) -> None:
        await _end_at(how, after, handler, given)

    traces = SharedChanges(handler, copy_handler(handler), given.shared)
    ways: dict[str, Callable[[], object]] = {"a call": partial(_call, handler, given, "trio")}
    run = partial(run_in_room, backend="trio", handler=handler, patience=given.patience)
    ways["a caller who is refused"] = partial(run, drop)
    for how, after in (("cancelled", 0.0), ("cancelled", 0.05), ("peer leaves", 0.011), ("link breaks", 0.25)):
        ways[f"a call that ends early ({how} after {after:g} s)"] = partial(run, partial(cut, how, after))
    for way, serve in ways.items():
        serve()
        left = traces.left()
        if left is not None:
            raise AssertionError(
                left if way == "a call" else f"{way} leaves a trace that a whole call does not: {left}"
            )


def _no_thread_left(record: CallRecord, before: set[threading.Thread]) -> None:
    if record.statistics.threads_abandoned:
        raise AssertionError("a worker thread did not come back: have shutdown() release it")
    deadline = time.monotonic() + GRACE
    while left := [thread for thread in set(threading.enumerate()) - before if not _pooled(thread)]:
        names = sorted(thread.name for thread in left)
        if not time.monotonic() < deadline:
            raise AssertionError(f"shutdown() left threads running: {names}")
        time.sleep(0.01)


def _pooled(thread: threading.Thread) -> bool:
    # Idle threads that trio's, anyio's and the standard library's pools keep by design.
    return thread.name.startswith(("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor"))
