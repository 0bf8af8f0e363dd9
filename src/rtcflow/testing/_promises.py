"""What always holds of calls and connections, as `HandlerLifecycle` checks it after each step of a story.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from .._core.flow import FlowStatistics
from .._core.guard import is_asyncio_under_trio
from .._core.player import MOST_WAITING
from .._core.threads import INTERRUPT_GRACE, SETTLE
from ..connection.connection import Connection
from ..ends import EndCause, Timeouts, errors_in
from ..handlers.base import AsyncStreamHandler
from ..stream import Stream
from ._life import Call
from ._probe import LIMIT_SLACK, InjectedError, Journal
from ._workers import Stuck, waits_for_a_job, wants_a_processor

TIMEOUTS: Final = Timeouts()

LONGEST_END: Final = TIMEOUTS.shutdown + TIMEOUTS.grace + 2 * TIMEOUTS.goodbye + SETTLE + INTERRUPT_GRACE
"""Seconds within which an end is over, beside what is queued to be played."""

POOLS: Final = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "rtcflow life")
"""Names of threads that pools keep, idle, by design."""


STILL: Final = 40
"""Looks, 5 ms apart, for which a thread uses no processor before it is taken to have been left behind."""

LONGEST_RUN: Final = 5.0
"""Real seconds after which a thread that still computes was left behind, too."""

Errors = tuple[type[BaseException], ...]


def are_kept(journals: Iterable[Journal]) -> None:
    """Once, in order, one at a time, in a context, not after shutdown (see `_probe.Journal`)."""
    for journal in journals:
        if journal.broken:
            raise AssertionError(journal.broken[0])


def shutdown_goes_well(journals: Iterable[Journal], expected: Errors) -> None:
    """It raises nothing by itself, and returns. Looked at last: where another method failed before, it is the story."""
    for journal in journals:
        error = journal.shutdown_error
        if error is not None and not isinstance(error, expected):
            raise AssertionError(f"shutdown raised by itself: {error!r}") from error
        if journal.shutdown_cut:
            raise AssertionError(
                f"shutdown returns in time: after {TIMEOUTS.shutdown:g} s it still waited, and was cut off; does it "
                "wait for what only some calls set?"
            )


def nobody_waits_for_ever(stuck: Iterable[Stuck]) -> None:
    """A method that waits for a lock gets it, and a thread that it joins ends."""
    for one in stuck:
        if one.endless:
            raise AssertionError(f"what a method waits for comes: {one}")


def figures_add_up(call: Call) -> None:
    """Each queue keeps its bound, and nothing that went in is unaccounted for."""
    connection = _connection(call)
    transport = connection.transport
    for name in ("audio_in", "video_in", "video_out", "messages_in"):
        _check_flow(name, getattr(transport, name).statistics())
    out = transport.audio_out.statistics()
    total = out.played + out.dropped + out.waiting
    if out.queued != total:
        raise AssertionError(f"audio_out: queued is played + dropped + waiting: {out}")
    most = MOST_WAITING + call.journal.longest_audio + 0.04
    waiting = transport.audio_out.queued_seconds
    if not waiting <= most:
        raise AssertionError(f"audio_out holds at most {most:g} s of what this handler emits: {waiting:g} s wait")
    figures, begun = connection.statistics(), call.journal.began["receive"]
    if not 0 <= figures.received - begun <= 1:
        raise AssertionError(f"statistics count each receive: {figures.received}, called {begun}")


def one_reason_for_the_end(call: Call, expected: Errors) -> None:
    """The end that is recorded is the one that came first, and does not change."""
    end = _connection(call).end
    if end is None:
        return
    call.end = call.end or end
    if call.end is not end:
        raise AssertionError(f"a connection has one end: {call.end} became {end}")
    first = call.journal.first_causes()
    seen = any(cause.cause is EndCause.HANDLER_RAISED for cause in first)
    if end.cause is EndCause.HANDLER_RAISED and not (seen and any(cause.injected for cause in first)):
        own = [error for error in (errors_in(end.error) if end.error else []) if not isinstance(error, InjectedError)]
        for error in own:
            if not isinstance(error, expected):
                cure = (
                    ""
                    if not is_asyncio_under_trio(error)
                    else (
                        '; it uses asyncio itself: if your server runs on asyncio, write backend = "asyncio" in the '
                        "class of the machine; else write the handler with anyio"
                    )
                )
                raise AssertionError(f"the handler raised by itself: {error!r}{cure}") from error
        if own and not seen:  # in a task or callback made through handler.loop, which has no journal
            return
    words = " or ".join(f"{cause.cause.name} ({cause.why})" for cause in first) or "nothing did"
    told = f"it ended as {end.cause.name}, but what ended it: {words}"
    if end.cause not in {cause.cause for cause in first}:
        raise AssertionError(told)


def an_end_in_time(call: Call, now: float) -> None:
    """What ends a call ends it at once, and closing takes as long as `Timeouts` say at most."""
    if _connection(call).end is None:
        slack = {-1: LIMIT_SLACK}  # what is due by itself is due at its moment
        due = [cause for cause in call.journal.causes if cause.at < now - slack.get(cause.step, 0.5)]
        if due:
            raise AssertionError(f"{due[0].why} {now - due[0].at:g} s ago, and the call goes on")
        return
    call.ended_at = now if call.ended_at is None else call.ended_at
    most = LONGEST_END + call.journal.longest_audio + MOST_WAITING + 0.1
    took = now - call.ended_at
    if not took <= most:
        raise AssertionError(f"an end is over within {most:g} s: it has taken {took:g} s")


def nothing_runs_on(call: Call) -> None:
    """A call that is over was shut down once, has a reason, and neither runs nor sends anything any more."""
    times = call.journal.began["shutdown"]
    if times != 1:
        raise AssertionError(f"shutdown is called exactly once: it was called {times} times")
    if call.journal.running:
        raise AssertionError(f"nothing runs after the end: {', '.join(call.journal.running)} does")
    after = [at for at in call.heard if call.over_at is not None and at > call.over_at + 1e-9]
    if after:
        raise AssertionError(f"nothing is sent after the end: {len(after)} frames were")
    end = _connection(call).end
    if end is None:
        raise AssertionError("a call that is over has a reason")
    # An error of the handler takes precedence over the cancellation, and is logged.
    if end.cause is EndCause.CANCELLED and not call.journal.has_raised and not call.was_cancelled:
        raise AssertionError("a cancelled call does not return as if nothing had been: its cancellation was swallowed")
    items = call.journal.items
    if isinstance(call.session.handler, AsyncStreamHandler):  # a thread may return while nobody listens any more
        if call.outputs != items["outputs"]:
            raise AssertionError(f"{items['outputs']} outputs were emitted, {call.outputs} put out")
        emitted = _connection(call).statistics().emitted
        if emitted != items["audio"]:
            raise AssertionError(f"statistics count each emitted item: {emitted}, of {items['audio']}")


def everything_is_given_back(stream: Stream) -> None:
    """Neither a slot nor a worker thread is still taken."""
    if len(stream.calls) != 0:
        raise AssertionError(f"the slot is free after the end: {len(stream.calls)} are taken")
    crew = stream.calls.threads.statistics()
    if crew.reserved:
        raise AssertionError(f"threads are given back: {crew.reserved} are reserved")
    if crew.abandoned:
        raise AssertionError("every worker thread comes back: one was abandoned")


def no_thread_is_left(before: set[threading.Thread]) -> None:
    """Give threads that are about to end the real time they need; one that stands still is left behind."""
    still, deadline = 0, time.monotonic() + LONGEST_RUN
    while left := threads() - before:
        still = 0 if any(wants_a_processor(thread.native_id or 0) for thread in left) else still + 1
        ended = still < STILL and time.monotonic() < deadline
        if not ended:
            raise AssertionError(
                f"no thread is left after shutdown: {', '.join(sorted(thread.name for thread in left))}"
            )
        time.sleep(0.005)


def _connection(call: Call) -> Connection:
    assert call.session.connection is not None  # noqa: S101
    return call.session.connection


def threads() -> set[threading.Thread]:
    running = {thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)}
    return {thread for thread in running if not waits_for_a_job(thread)}


def _check_flow(name: str, figures: FlowStatistics) -> None:
    if not figures.most_waiting <= figures.bound:
        raise AssertionError(f"{name} holds at most {figures.bound}: {figures.most_waiting} waited")
    if not figures.waiting <= figures.bound:
        raise AssertionError(f"{name} holds at most {figures.bound}: {figures.waiting} wait")
    total = figures.taken + figures.dropped + figures.waiting
    if figures.put != total:
        raise AssertionError(f"{name}: put is taken + dropped + waiting: {figures}")
