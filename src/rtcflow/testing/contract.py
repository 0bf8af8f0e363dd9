"""Does a handler keep its contract? A suite for anybody's handler.

    def test_my_handler():
        check_handler(MyHandler())

Each check is named after the sentence it holds against the contract of handlers; what breaks is reported with that
sentence. `HANDLER_CHECKS` is for a test of its own per sentence.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from ..connection import shut_down
from ..ends import EndCause, Timeouts
from ..exceptions import MediaError
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import check_handler as check_statically
from ..handlers.checking import copy_handler
from . import signals
from ._sharing import Traces, refuse_shared_state
from .caller import CallRecord, open_caller, run_call
from .clocks import BackendName, virtual_backend

__all__ = ["HANDLER_CHECKS", "check_handler"]


@dataclass(frozen=True)
class _Given:
    """What the checks are told of a handler."""

    args: Sequence[Any] = ("a", 1)
    shared: Collection[str] = ()


HANDLER_CHECKS: dict[str, Callable[..., None]] = {}
GRACE: Final = 1.0
"""Real seconds in which a thread that the handler started may end after `shutdown`."""


def check_handler(
    handler: StreamHandlerBase, *, args: Sequence[Any] = _Given.args, shared: Collection[str] = _Given.shared
) -> None:
    """Hold a handler to its contract: calls in virtual time, on both backends, ended in every way.

    Args:
        handler: As you give it to a `Stream`. It is copied for each call, and never runs itself.
        args: What the page posts when the handler asks for arguments.
        shared: Attributes that its copies share on purpose, and may change: a cache, a room.

    Raises:
        HandlerError: It cannot be run at all, or its copies are not its own; the text says what to write.
        AssertionError: Some sentences of the contract are broken; the text lists them.
    """
    check_statically(handler)
    refuse_shared_state(handler, copy_handler(handler), f"{type(handler).__qualname__}.copy()", shared)
    given = _Given(args, shared)
    broken: list[str] = []
    for sentence, check in HANDLER_CHECKS.items():
        try:
            check(handler, given)
        except AssertionError as error:
            broken.append(f"{sentence}\n      {error}")
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
    assert not isinstance(made[0], Exception), f"in a thread it raised {made[0]!r}"


@_handler_sentence("shutdown may be called on a copy that never served anybody")
def _shut_down_unused(handler: StreamHandlerBase, _: _Given) -> None:
    async def drop() -> None:
        await shut_down(copy_handler(handler), Timeouts().shutdown)

    for backend in ("trio", "asyncio"):
        _in_virtual_time(drop, backend)


@_handler_sentence("it serves a call on trio and on asyncio, and what emit returns is an EmitType")
def _serves(handler: StreamHandlerBase, given: _Given) -> None:
    for backend in ("trio", "asyncio"):
        before = set(threading.enumerate())
        record = _call(handler, given, backend)
        if isinstance(record.error, MediaError):
            raise AssertionError(str(record.error)) from record.error
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        assert not record.stuck, f"under {backend} {record.stuck[0]}"
        _no_thread_left(record, before)


def _call(handler: StreamHandlerBase, given: _Given, backend: BackendName) -> CallRecord:
    speech = signals.speech_like(2.0)
    return run_call(handler, play=speech, seconds=3.0, backend=backend, args=list(given.args), catch=True)


@_handler_sentence("it serves a caller who says nothing, whose network is bad, or who has no data channel")
def _serves_badly(handler: StreamHandlerBase, given: _Given) -> None:
    from .links import Bursts, LossyLink

    bad = LossyLink(1, Bursts(0.05, 4), 0.1, 0.03, 0.02, duplicate=0.02)
    calls: dict[str, dict[str, Any]] = {
        "who says nothing": {},
        "on a bad network": {"play": signals.speech_like(2.0), "link": bad},
        "on a telephone": {"play": signals.speech_like(1.0), "phone": True},
        "with a microphone at 8 kHz": {"play": signals.speech_like(0.5, 8000), "sample_rate": 8000},
    }
    for who, call in calls.items():
        record = run_call(handler, seconds=3.0, args=list(given.args), catch=True, **call)
        if record.error is not None:
            raise AssertionError(f"for a caller {who} it raised {record.error!r}") from record.error


@_handler_sentence("it serves a caller who sends any text: on_message gets what strangers write")
def _any_text(handler: StreamHandlerBase, given: _Given) -> None:
    for text in _TEXTS:
        record = run_call(handler, seconds=1.0, send=[text], args=list(given.args), catch=True)
        if record.error is not None:
            raise AssertionError(f"when it got {text!r} it raised {record.error!r}") from record.error


_TEXTS: Final = ("", "hello", "{", "{}", "[]", "null", "1", '{"type": "unknown", "data": {}}', '{"type": 1}')


@_handler_sentence("its call ends in time, and its threads come back, whatever ends it, and whenever")
def _ends(handler: StreamHandlerBase, given: _Given) -> None:
    times = Timeouts()
    most = times.shutdown + times.grace + times.goodbye + 1.0
    for how, cause in _ENDS.items():
        for after in (0.0, 0.011, 0.5):
            before = set(threading.enumerate())

            async def end(how: str = how, after: float = after) -> CallRecord:
                limit = after + 0.001 if how == "time limit" else None
                async with open_caller(handler, args=list(given.args), time_limit=limit, catch=True) as caller:
                    caller.play_nowait(signals.tone(1.0))
                    await anyio.sleep(after)
                    match how:
                        case "peer leaves":
                            await caller.hang_up()
                        case "link breaks":
                            await caller.break_link()
                        case "server closes":
                            caller.connection.close("enough")
                    await caller.wait_ended()
                return caller.record()

            record = _in_virtual_time(end, "trio")
            allowed = {cause, EndCause.HANDLER_CLOSED}
            when = f"{how} after {after} s"
            assert record.end.cause in allowed, f"{when}: it ended by {record.end.cause}: {record.error!r}"
            assert record.seconds - after <= most, f"{when}: closing took {record.seconds - after:.1f} s"
            _no_thread_left(record, before)


_ENDS: Final = {
    "peer leaves": EndCause.PEER_LEFT,
    "link breaks": EndCause.LINK_BROKE,
    "server closes": EndCause.CLOSED,
    "time limit": EndCause.TIME_LIMIT,
}


@_handler_sentence("one call leaves no trace in another: lists, dicts, sets and arrays that copies share do not change")
def _no_trace(handler: StreamHandlerBase, given: _Given) -> None:
    traces = Traces(handler, copy_handler(handler), given.shared)
    _call(handler, given, "trio")
    left = traces.left()
    assert left is None, left


def _no_thread_left(record: CallRecord, before: set[threading.Thread]) -> None:
    assert not record.statistics.threads_abandoned, "a worker thread did not come back: have shutdown() release it"
    deadline = time.monotonic() + GRACE
    while left := [thread for thread in set(threading.enumerate()) - before if not _pooled(thread)]:
        names = sorted(thread.name for thread in left)
        assert time.monotonic() < deadline, f"shutdown() left threads running: {names}"
        time.sleep(0.01)


def _pooled(thread: threading.Thread) -> bool:
    # Idle threads that trio's, anyio's and the standard library's pools keep by design.
    return thread.name.startswith(("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor"))


def _in_virtual_time(function: Callable[[], Awaitable[Any]], backend: BackendName) -> Any:
    name, options = virtual_backend(backend)
    return anyio.run(function, backend=name, backend_options=options)
