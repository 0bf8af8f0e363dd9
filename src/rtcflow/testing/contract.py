"""Does a handler keep its contract? A suite for anybody's handler.

    def test_my_handler():
        check_handler(MyHandler())

Each check is named after the sentence it holds against the contract of handlers; what breaks is reported with that
sentence. `HANDLER_CHECKS` is for a test of its own per sentence.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import anyio

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
from ._room import HandlerHung, refuse_in_a_loop, run_in_room
from ._sharing import Traces, refuse_shared_state
from ._workers import PATIENCE
from .caller import CallRecord, open_caller, run_call
from .clocks import BackendName

__all__ = ["HANDLER_CHECKS", "check_handler"]


@dataclass(frozen=True)
class _Given:
    """What the checks are told of a handler."""

    args: Sequence[Any] = ("a", 1)
    shared: Collection[str] = ()
    patience: float = PATIENCE


HANDLER_CHECKS: dict[str, Callable[..., None]] = {}
"""The single checks of `check_handler`, by their sentence."""
GRACE: Final = 1.0
"""Real seconds in which a thread that the handler started may end after `shutdown`."""


def check_handler(
    handler: StreamHandlerBase,
    *,
    args: Sequence[Any] = _Given.args,
    shared: Collection[str] = _Given.shared,
    patience: float = _Given.patience,
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
    given = _Given(args, shared, patience)
    broken: list[str] = []
    for sentence, check in HANDLER_CHECKS.items():
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


def _handler_sentence(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(check: Callable[[StreamHandlerBase, _Given], None]) -> Callable[..., None]:
        HANDLER_CHECKS[text] = lambda handler, given=_Given(): check(handler, given)
        return check

    return register


@_handler_sentence("copy needs no event loop and works in any thread")
def _copies_anywhere(handler: StreamHandlerBase, _: _Given) -> None:
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
def _shut_down_unused(handler: StreamHandlerBase, given: _Given) -> None:
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
def _serves(handler: StreamHandlerBase, given: _Given) -> None:
    for backend in _BACKENDS:
        before = set(threading.enumerate())
        record = _call(handler, given, backend)
        if isinstance(record.error, MediaError):
            raise AssertionError(str(record.error)) from record.error
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if record.stuck:
            raise AssertionError(f"under {backend} {record.stuck[0]}")
        _no_thread_left(record, before)


def _call(handler: StreamHandlerBase, given: _Given, backend: BackendName) -> CallRecord:
    speech = signals.speech_like(2.0)
    return run_call(handler, play=speech, seconds=3.0, backend=backend, **_usual(given))


def _usual(given: _Given) -> dict[str, Any]:
    return {"args": list(given.args), "catch": True, "patience": given.patience}


@_handler_sentence("it serves a caller who says nothing, whose network is bad, or who has no data channel")
def _serves_badly(handler: StreamHandlerBase, given: _Given) -> None:
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
def _any_text(handler: StreamHandlerBase, given: _Given) -> None:
    digits = [messages.encode(messages.Dtmf(digit)) for digit in messages.DIGITS]
    for texts in ([text] for text in (*_TEXTS, *(digits if has_own_method(handler, "on_dtmf") else ()))):
        record = run_call(handler, seconds=1.0, send=texts, **_usual(given))
        if record.error is not None:
            raise AssertionError(f"when it got {texts[0]!r} it raised {record.error!r}") from record.error


_TEXTS: Final = ("", "hello", "{", "{}", "[]", "null", "1", '{"type": "unknown", "data": {}}', '{"type": 1}')


@_handler_sentence("its queue may be cleared at any moment, and the call goes on")
def _cleared(handler: StreamHandlerBase, given: _Given) -> None:
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


@_handler_sentence("its call ends in time, and its threads come back, whatever ends it, and whenever")
def _ends(handler: StreamHandlerBase, given: _Given) -> None:
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


async def _end_at(how: str, after: float, handler: StreamHandlerBase, given: _Given) -> CallRecord:
    limit = after + 0.001 if how == "time limit" else None
    call = open_caller(handler, args=list(given.args), time_limit=limit, timeouts=_PATIENT, catch=True)
    async with call as caller:
        caller.play_nowait(signals.tone(1.0))
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
def _stream_ends(handler: StreamHandlerBase, given: _Given) -> None:
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


async def _stream_shut_down(handler: StreamHandlerBase, given: _Given) -> tuple[End | None, float]:
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


@_handler_sentence("one call leaves no trace in another: lists, dicts, sets and arrays that copies share do not change")
def _no_trace(handler: StreamHandlerBase, given: _Given) -> None:
    traces = Traces(handler, copy_handler(handler), given.shared)
    _call(handler, given, "trio")
    left = traces.left()
    if left is not None:
        raise AssertionError(left)


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
