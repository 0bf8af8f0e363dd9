"""What copies of a handler share, and what one call leaves for the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import anyio
import numpy as np
from numpy.typing import NDArray

from ...connection.connection import shut_down
from ...ends import Timeouts
from ...frames import FRAME_SECONDS
from ...handlers.base import StreamHandlerBase
from ...handlers.checking import copy_handler, has_own_method
from ...protocol import messages
from .. import signals
from .._held import AUDIBLE
from .._room import run_in_room
from .._scenarios import names_in, on_the_line
from .._sharing import SharedChanges, pools
from ..caller import CallRecord, errors_of_calls, opens_after, run_call
from ._commands import Command, commands_of
from ._ends import end_at, held_up, no_thread_left
from ._sentences import (
    PATIENT,
    CheckInput,
    Everywhere,
    call_options,
    last_journal,
    probed,
    run_scenario,
    sentence,
    time_of_handler,
    whole_call,
)
from ._texts import TEXTS


@sentence(
    "copy needs no event loop and works in any thread",
    "copy() in another thread",
)
def copies_anywhere(handler: StreamHandlerBase, _: CheckInput) -> None:
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


@sentence(
    "shutdown may be called on a copy that never served anybody, and returns in time",
    "copy(), and shutdown() at once",
)
def shut_down_unused(handler: StreamHandlerBase, given: CheckInput) -> None:
    async def drop() -> float:
        began = anyio.current_time()
        await shut_down(copy_handler(handler), PATIENT.shutdown)
        return anyio.current_time() - began

    for backend in given.backends:
        took = run_in_room(drop, backend, handler, patience=given.patience)
        if not took <= Timeouts().shutdown:
            raise AssertionError(f"under {backend} shutdown() takes {took:g} s, and is cancelled after 5 s")


@sentence(
    "one call leaves no trace in another: lists, dicts, sets and arrays that copies share do not change",
    "a whole call; callers who are refused, interrupt, write or press keys; calls that end early; then a look at what "
    "copies share",
    probed=False,
)
def no_trace(handler: StreamHandlerBase, given: CheckInput) -> None:
    async def drop() -> None:
        await shut_down(copy_handler(handler), PATIENT.shutdown)

    async def beside() -> None:
        async with on_the_line(handler, given.args) as caller:
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
            raise Everywhere(f"a caller who is refused while another one is on the line leaves a trace: {left}")

    async def crowd() -> None:
        errors_of_calls.set(None)  # there may be no room for all of them
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(on_the_line(handler, given.args)) for _ in range(_CROWD)]
            await anyio.sleep(0.6)
            await callers[0].hang_up()
            async with anyio.create_task_group() as tasks:
                for caller in callers:
                    tasks.start_soon(caller.hang_up)

    async def cut(how: str, after: float) -> None:
        if told := held_up(await end_at(how, after, handler, given)):
            raise Everywhere(f"when a caller writes a text, and the call ends ({how} after {after:g} s): {told}")

    async def unopened() -> None:
        opens_after.set(1.0)  # of this call alone
        await cut("peer leaves", 0.25)

    def write(texts: list[str]) -> None:
        short: dict[str, Any] = {"seconds": 0.3, "backend": given.on("asyncio"), **call_options(given)}
        if told := held_up(run_call(handler, send=texts, **short)):
            raise Everywhere(f"when a caller writes {', '.join(map(repr, texts))}: {told}")

    async def twice(command: Command) -> CallRecord:
        async with on_the_line(handler, given.args) as caller:
            await caller.wait(0.1)
            if has_own_method(handler, "on_message"):
                await Command("hello").give(caller)
            await caller.wait(0.4)
            await command.give(caller)
            await caller.wait(0.15)
            await command.give(caller)
            await caller.wait(0.4)
        return caller.record()

    def command_twice(command: Command) -> None:
        before = set(threading.enumerate())
        record = run(partial(twice, command))
        if record.error is not None:
            raise Everywhere(f"when a caller {command}, twice, it raised {record.error!r}") from record.error
        if told := held_up(record):
            raise Everywhere(f"when a caller {command}, twice: {told}")
        no_thread_left(before, record)

    pooled = pools(handler, copy_handler(handler), given.shared)
    for name, items in given.pools.items():
        if pooled.get(name) != items:
            raise Everywhere(
                f"calls take something out of .{name}, which all copies share, and do not give it back when they are "
                "interrupted, or end: give it back in finally (a generator that is not read to its end is closed at "
                "its yield)"
            )
    if given.untouched is not None and (left := given.untouched.left()):
        raise Everywhere(left)  # a place that each call takes is soon taken for good, and then nothing changes any more
    traces = SharedChanges(handler, copy_handler(handler), given.shared)
    ways: dict[str, Callable[[], object]] = {"a call": partial(whole_call, handler, given, given.on("trio"))}
    run = partial(run_in_room, backend=given.on("trio"), handler=handler, patience=given.patience)
    ways["a caller who is refused"] = partial(run, drop)
    ways["a caller who is refused while another one is on the line"] = partial(run, beside)
    # Trio would keep the threads of these callers, and all of them would be looked at in the next calls.
    ways["one of twelve callers at once"] = many = partial(run_scenario, crowd, handler, given)
    ways["a caller who sends nothing"] = partial(run, partial(_mute, handler, given))
    ways["a caller who interrupts an answer"] = partial(run, partial(_interrupted, handler, given))
    if has_own_method(handler, "on_message"):
        ways["a caller who writes texts"] = partial(write, list(TEXTS))
    if has_own_method(handler, "on_dtmf"):
        for digit in messages.DIGITS:
            ways[f"a caller who presses {digit}"] = partial(write, [messages.encode(messages.Dtmf(digit))])
    for command in commands_of(handler, spoken=False):
        ways[f"a caller who {command}, twice,"] = partial(command_twice, command)
    for how, after in (("cancelled", 0.0), ("cancelled", 0.05), ("peer leaves", 0.011), ("link breaks", 0.25)):
        ways[f"a call that ends early ({how} after {after:g} s)"] = partial(run, partial(cut, how, after))
    if "send_message" in names_in(type(handler)):
        ways["a caller who leaves before the data channel is open"] = partial(run, unopened)
    for method, at in _works_at(handler, given).items():
        ways[f"a call that ends while {method} works"] = partial(run, partial(cut, "cancelled", at))
    for way, serve in ways.items():
        before = set(threading.enumerate())
        serve()
        no_thread_left(before)  # or all later calls might leave some as well, and each of them takes seconds
        if serve is many and traces.only_moved():  # they have given back what they took, one before the other
            traces = traces.from_now()
        left = traces.left() or (None if way == "a call" else traces.left_around())
        if way == "a call" and traces.accept():
            serve()
            left = left or traces.left() or traces.left_of_calls()
            traces.accept()
        if left is not None:
            raise Everywhere(left if way == "a call" else f"{way} leaves a trace that a whole call does not: {left}")
    if not given.shared and not given.pools:  # else it may sound as what it took does
        _sounds_the_same(handler, given)


def _works_at(handler: StreamHandlerBase, given: CheckInput) -> dict[str, float]:
    """When in a short call each method is in the middle of its longest work; those that return at once are left out."""
    with probed(handler) as prototype:
        run_scenario(partial(end_at, "peer leaves", _SHORT, prototype, given), prototype, given)
        journal = last_journal()
    works = {method: at for method, at in journal.amid.items() if method not in _WAIT and at < _SHORT}
    return {method: at for method, at in works.items() if journal.longest[method] > _WORK}


_SHORT: Final = 1.5
"""Seconds of a call in which the caller speaks for one second."""

_WORK: Final = 0.02
"""Seconds for which a method must run so that a call can end in it."""

_WAIT: Final = {"emit", "video_emit", "shutdown"}
"""The methods that wait for something to do, or run when the call has ended."""

_CROWD: Final = 12
"""Callers at once: more than most handlers have slots for."""


def _sounds_the_same(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that what a call sounds like does not depend on the call before it: what copies share may keep its memory
    where nobody can look, as a model or a resampler.
    """
    sentence = signals.speech_like(0.5, seed=1, activity=1.0)
    # The call ends in the middle of a word: a filter then keeps something other than silence.
    usual = np.concatenate([sentence, signals.silence(0.7), sentence[:, ::-1]], axis=1)
    other = signals.tone(1.4, peak=0.9)

    def call(play: NDArray[np.int16] = usual) -> object:
        record = run_call(handler, play=play, seconds=1.4, backend=given.on("asyncio"), **call_options(given))
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
    raise Everywhere(
        "the same call sounds otherwise, or sends other texts, after a call with other audio: copies share something "
        "that remembers what it heard, as a model, a filter or a resampler does; make it in __init__ (or, if calls are "
        "to share it, name the attribute: shared={...})"
    )


async def _interrupted(handler: StreamHandlerBase, given: CheckInput) -> None:
    async with on_the_line(handler, given.args) as caller:
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


async def _mute(handler: StreamHandlerBase, given: CheckInput) -> None:
    async with on_the_line(handler, given.args) as caller:
        caller.microphone = False
        await caller.wait(0.2)


@sentence(
    "a temporary file that it removes after one call it removes after every call",
    "all the calls before",
    probed=False,
)
def no_file_left(_: StreamHandlerBase, __: CheckInput) -> None:
    shown = time_of_handler()
    calls = [[file for file in files if file.exists()] for files in shown.files if files]
    left = [files[0] for files in calls if files]
    if left and len(left) < len(calls):
        raise AssertionError(
            f"{len(left)} of {len(calls)} calls left a temporary file behind, and the others removed theirs "
            f"({left[0].name}): remove it in shutdown(), which every call reaches"
        )
