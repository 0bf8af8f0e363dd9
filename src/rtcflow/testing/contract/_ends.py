"""How calls end, and what is at work afterwards."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Collection
from concurrent.futures.thread import _worker as _pool_thread
from concurrent.futures.thread import _WorkItem
from contextlib import suppress
from functools import partial
from typing import Final, Literal

import anyio

from ...abc import MediaOffer
from ...ends import End, EndCause, Timeouts
from ...frames import AudioFormat, AudioFrame
from ...handlers.base import AsyncStreamHandler, StreamHandlerBase
from ...handlers.checking import has_video
from ...handlers.functions import is_video_function
from ...protocol import messages
from ...serving.session import CallRequest, Session
from ...stream import Stream
from ...transports.memory import memory_pair
from .. import signals
from .._room import own_codes, run_in_room
from .._scenarios import on_the_line
from .._virtual_asyncio import still_to_run
from .._workers import waits_for_a_job, wants_a_processor
from ..caller import CallRecord
from ..clocks import BackendName
from ._sentences import PATIENT, CheckInput, Everywhere, last_journal, sentence

GRACE: Final = 1.0
"""Seconds in which a thread that the handler started may end after `shutdown`. On a busy machine it first waits for a
processor, which does not count.
"""

_STEP: Final = 0.01

_LONGEST_END: Final = Timeouts().shutdown + Timeouts().grace + Timeouts().goodbye + 1.0


def held_up(record: CallRecord) -> str | None:
    """What holds up a thread of a call that has ended. All later calls may show the same, some seconds each."""
    if record.stuck:
        return str(record.stuck[0])
    return "a worker thread does not come back: is a lock kept?" if record.statistics.threads_abandoned else None


@sentence(
    "its call ends in time, and its threads come back, whatever ends it, and whenever",
    "calls that end by the peer, the link, the server, a limit or cancellation: at once, after 11 ms, 0.5 s, 1.2 s",
)
def ends(handler: StreamHandlerBase, given: CheckInput) -> None:
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
        end = partial(end_at, how, after, handler, given, answers=answers)
        record = run_in_room(end, backend, handler, patience=given.patience)
        allowed = {_ENDS[how], EndCause.HANDLER_CLOSED} | ({EndCause.NOT_CONNECTED} if after == 0.0 else set())
        when = f"{how} after {after} s, under {backend}"
        if record.end.cause not in allowed:
            raise AssertionError(f"{when}: it ended by {record.end.cause}: {record.error!r}")
        held = last_journal().entered.get("shutdown", after) - after
        if how in {"cancelled", "link breaks"} and held > SHIELDED and isinstance(handler, AsyncStreamHandler):
            raise AssertionError(
                f"{when}: its methods went on for {held:.1f} s after they were cancelled, and the call could not end: "
                "a scope with shield=True is for cleaning up alone, and short. anyio.to_thread.run_sync is shielded as "
                "well: write await self.run_sync(function), or give it abandon_on_cancel=True"
            )
        if not record.seconds - after <= _LONGEST_END:
            raise AssertionError(f"{when}: closing took {record.seconds - after:.1f} s")
        no_thread_left(before, record)


async def end_at(
    how: str, after: float, handler: StreamHandlerBase, given: CheckInput, *, answers: bool = True
) -> CallRecord:
    limit = after + 0.001 if how == "time limit" else None
    args = list(given.args) if answers else None
    call = on_the_line(handler, args, time_limit=limit, timeouts=PATIENT)
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


SHIELDED: Final = 1.5
"""Seconds for which the methods of an async handler may go on after they were cancelled."""

_ENDS: Final = {
    "peer leaves": EndCause.PEER_LEFT,
    "link breaks": EndCause.LINK_BROKE,
    "server closes": EndCause.CLOSED,
    "time limit": EndCause.TIME_LIMIT,
    "cancelled": EndCause.CANCELLED,
}


@sentence(
    "its call ends in time when the whole stream is shut down",
    "the stream is shut down in the middle of a call",
)
def stream_ends(handler: StreamHandlerBase, given: CheckInput) -> None:
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


async def _stream_shut_down(handler: StreamHandlerBase, given: CheckInput) -> tuple[End | None, float]:
    video, rate = has_video(handler), handler.input_sample_rate
    modality: Literal["audio", "video", "audio-video"] = "audio-video" if video else "audio"
    if is_video_function(handler):
        modality = "video"
    stream = Stream(handler, modality=modality, timeouts=PATIENT)
    offer = MediaOffer(receive_video=video, send_video=video)
    async with memory_pair(offer) as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(handler.output_sample_rate), AudioFormat(rate))
        theirs.audio_out.put(AudioFrame(signals.tone(0.5, 440, rate), rate, 0))
        sessions: list[Session] = []

        async def serve() -> None:
            async with stream.calls.admit(CallRequest(), "memory") as session:
                sessions.append(session)
                if given.args is not CheckInput.args:  # the application may post them unasked
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


def no_thread_left(before: set[threading.Thread], record: CallRecord | None = None) -> None:
    if record is not None and record.statistics.threads_abandoned:
        raise Everywhere(_did_not_return(threading.enumerate()))  # a pool's thread may have been there before
    idle, began = 0.0, time.process_time()
    while left := [thread for thread in set(threading.enumerate()) - before if not _pooled(thread)]:
        idle += 0.0 if any(wants_a_processor(thread.native_id or 0) for thread in left) else _STEP
        if idle > GRACE or time.process_time() - began > GRACE:
            if any(map(_method_of, left)):
                raise Everywhere(_did_not_return(left))
            names = sorted(re.sub(r"^Thread-\d+ ", "Thread ", thread.name) for thread in left)
            raise Everywhere(f"shutdown() left threads running: {names}")
        time.sleep(_STEP)


def _did_not_return(threads: Collection[threading.Thread]) -> str:
    methods = {name for thread in threads if (name := _method_of(thread))} or {"a method"}
    return (
        f"{', '.join(sorted(methods))} did not return when the call was over: have shutdown() release what it waits "
        "for. What ends a wait is an exception, which a bare except takes"
    )


def _method_of(thread: threading.Thread) -> str | None:
    """The method that runs in a worker thread of a call."""
    method, _, connection = thread.name.partition(" ")
    return method if connection.startswith("memory-") else None


def no_pool_at_work(threads: Collection[threading.Thread], patience: float) -> None:
    """See that a pool's threads have nothing to do once the call is over. What computes or sleeps ends in time."""
    if waiting := _waits_in_a_closed_pool(threads):
        raise Everywhere(
            f"shutdown() closes a pool in which work still waits ({waiting}): it is all done, for nobody, after the "
            "call is over; write pool.shutdown(wait=False, cancel_futures=True)"
        )
    until = time.monotonic() + patience
    while busy := _at_work(threads):
        if time.monotonic() > until:
            raise Everywhere(
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
