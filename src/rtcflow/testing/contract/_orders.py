"""Every order of tasks and threads; errors that are swallowed."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Final

from ...handlers.base import AsyncStreamHandler, StreamHandlerBase
from ...handlers.checking import has_own_method
from .. import signals
from .._fair_clock import FairClock, fair_clock
from .._room import run_in_room
from .._scenarios import PAUSE, Asked, AtRest, in_groups, names_in, on_the_line
from .._schedules import Schedule
from .._tracing import LinesToTry, NoNumbers, Swallowed, Switches
from ..clocks import BackendName
from ._callers import ASKS
from ._commands import Command
from ._sentences import JOURNALS, CheckInput, last_journal, probed, run_scenario, sentence, time_of_handler
from ._wakeups import no_command_is_left, no_wakeup_is_lost


@sentence(
    "it answers in the same way under every order of its tasks, and wherever its threads are switched",
    "texts, keys and words one soon after the other; frames in groups, under 24 orders of tasks or switches of threads",
)
def any_order(handler: StreamHandlerBase, given: CheckInput) -> None:
    def emitted() -> set[int]:
        return {one.checksum for one in last_journal().given["emit"]}

    def asked() -> Asked:
        journal = last_journal()
        return Asked(journal.began["emit"], len(journal.emits), "emit" in journal.running)

    def play(
        backend: BackendName, seed: int | None, *, spaced: bool = False, pause: float = PAUSE
    ) -> tuple[list[AtRest], BaseException | None]:
        tracer = None if seed is None or isinstance(handler, AsyncStreamHandler) else Switches(handler, seed, lines)
        schedule = None if seed is None or tracer else Schedule(seed)
        with probed(handler, tracer=tracer) as prototype, tracer or nullcontext():
            scenario = partial(
                in_groups,
                prototype,
                given.args,
                tracer,
                emitted=emitted,
                asked=asked,
                usual=rests,
                spaced=spaced,
                pause=pause,
            )
            return run_in_room(scenario, backend, prototype, patience=given.patience, schedule=schedule)

    no_wakeup_is_lost(handler, given)
    no_command_is_left(handler, given)
    lines, rests = LinesToTry(), list[int]()
    usual, error = play(given.on("asyncio"), None)
    if error is not None:
        return
    answers = [asked()]
    rests += [after.arrays for after in usual]
    # A handler may wait until it has enough; how much is below that is chance. A backlog only grows.
    below = max(rests) - min(rests) if rests != sorted(rests) else 0
    most_seconds = _ASYNC_ORDERS_SECONDS if isinstance(handler, AsyncStreamHandler) else _ORDERS_SECONDS
    clock = fair_clock.get() or FairClock()
    began = clock.now()
    chosen = 0  # orders in which a seed held up threads, because each line had had its turn
    for n in range(2 * _ORDERS):
        if clock.now() - began > most_seconds or chosen > len(lines.seen) > 0:
            return
        chosen += bool(lines.seen) and not lines.left
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
        if stuck and isinstance(handler, AsyncStreamHandler):  # or what takes them is slow, and will come to them
            later, _ = play(backend, seed, pause=_MUCH_LATER)
            if all(after.arrays - before.arrays <= below for before, after in zip(usual, later, strict=True)):
                stuck = []
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


_MUCH_LATER: Final = 3.0
"""Seconds in which even something slow has come to an end with three frames."""

_MANY_ANSWERS, _FEW_CALLS = 5, 2

_ORDERS: Final = 12

_ORDERS_SECONDS, _ASYNC_ORDERS_SECONDS = 0.9, 6.0
"""Seconds after which no new order is tried (see `FairClock`), for threads and for tasks. Orders of tasks are the same
in each run. So a bug that the last of them shows must not depend on how fast the machine is.
"""


@sentence(
    "an error in its methods is not swallowed without a word",
    "a call of 5 s, with a sentence, a text and two keys in it, in which the handler's lines are followed",
)
def tells_errors(handler: StreamHandlerBase, given: CheckInput) -> None:
    shown = time_of_handler()
    tracer = Swallowed(handler, lambda: any(journal.shutting_down for journal in JOURNALS.get()))
    shown.gathered.clear()
    used = names_in(type(handler))

    async def talk(prototype: StreamHandlerBase) -> None:
        async with on_the_line(prototype, given.args) as caller:
            if "latest_args" in used and not used & ASKS:
                caller.set_args(list(given.args))  # as a page does, of itself
            caller.play_nowait(signals.speech_like(1.0, activity=1.0))
            await caller.wait(2.0)
            for command in commands:
                await command.give(caller)
            await caller.wait(3.0)

    commands = [Command("hello")] if has_own_method(handler, "on_message") else []
    if has_own_method(handler, "on_dtmf"):
        commands += map(Command.key, "1#")
    numbers = NoNumbers(handler)
    with probed(handler, tracer=numbers) as prototype, tracer:
        run_scenario(partial(talk, prototype), prototype, given)
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
            f"{error!r} was raised in a job of a pool, or in a coroutine that a thread has started, and nobody looks "
            "at it: ask the future for its result(), or give it a callback that logs its exception()"
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
