"""Wake-ups that are lost because something comes at a bad moment: while the one before it is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import anyio

from ...handlers.base import AsyncStreamHandler, StreamHandlerBase
from ...handlers.checking import has_own_method
from .. import signals
from .._held import backlogs_in
from .._scenarios import greeted, on_the_line
from .._tracing import LinesToTry, Switches
from ..caller import Caller
from ._commands import Command
from ._sentences import CheckInput, last_journal, probed, run_scenario

__all__ = ["no_command_is_left", "no_wakeup_is_lost"]

_Backlogs = dict[str, list[Any]]


def no_wakeup_is_lost(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that of two things that come one soon after the other the second is answered without a third one."""
    for what in _can_come(handler):

        def rests(pause: float, what: Command | None = what) -> tuple[list[_Backlogs], float]:
            return run_scenario(partial(_one_two_one, handler, given.args, what, pause), handler, given)

        pauses: Sequence[float] = _SPEAKS_AGAIN
        if what is not None:
            _, busy = rests(0.0)
            # A moment after `emit` was called again, in which it may look whether there is more.
            pauses = (0.0, *([busy + _MOMENT] if busy < _REST else []), _SOON)
        for pause in pauses:
            if name := _left_behind(rests(pause)[0]):
                said = "says two short words" if what is None else f"{what}, twice,"
                raise AssertionError(
                    f"when a caller {said} {pause:.3g} s apart, the second stays in .{name} until another one comes: a "
                    "wake-up is lost. Clear an event before you look whether there is something, never after the work "
                    "on what was there; or use a queue"
                )


_SPEAKS_AGAIN: Final = (0.06, 0.2)
"""Seconds between two short words."""

_SHORT: Final = 0.2
"""Seconds of a word, which may end while the one before it is worked on."""

_SOON: Final = 0.05
_MOMENT: Final = 0.003
"""Seconds."""

_REST: Final = 1.5
"""Seconds in which what came is answered."""

_STAYS: Final = 0.3
"""Seconds more, for which the second stays where it is."""


def _can_come(handler: StreamHandlerBase) -> list[Command | None]:
    """What may come: a text or a key, and (None) a word."""
    if has_own_method(handler, "on_message"):
        return [Command("hello 1"), None]
    return [Command.key("1"), None] if has_own_method(handler, "on_dtmf") else [None]


def no_command_is_left(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a text or a key which comes while a thread is between two lines is answered without another one."""
    command = _can_come(handler)[0]
    if command is None or isinstance(handler, AsyncStreamHandler):
        return
    tracer = Switches(handler, 0, LinesToTry())
    with probed(handler, tracer=tracer) as prototype, tracer:
        found = run_scenario(partial(_one_between_lines, prototype, given.args, tracer, command), prototype, given)
    if found is not None:
        line, name = found
        raise AssertionError(
            f"when {line}, and a caller {command} again in that moment, it stays in .{name} until another one comes: a "
            "wake-up is lost. Clear an event before you look whether there is something, never after the work on what "
            "was there; or use a queue"
        )


async def _one_between_lines(
    handler: StreamHandlerBase, args: Sequence[Any], tracer: Switches, command: Command
) -> tuple[str, str] | None:
    """Have a text come, and another one while a thread is held up before one line; each line has its turn.

    Returns:
        The line at which the second one was left behind, and the list in which it was.
    """
    async with on_the_line(handler, args) as caller:
        tracer.active = False
        if not await greeted(caller):
            return None
        await command.give(caller)
        await caller.wait(_REST)
        # It is emit that takes what a text has left for it. The lines behind its work are the ones to look at first.
        tracer.lines.left = deque(reversed([line for line in tracer.lines.left if line.method == "emit"]))
        for _ in range(_MOST_LINES):
            if not tracer.lines.left or caller.connection.end is not None:
                return None
            empty = {name for name, left in backlogs_in(caller.handler).items() if not left}
            tracer.begin_group()
            await command.give(caller)
            for _ in range(_HOLDS):
                await caller.wait(0.01)
                if tracer.holds:
                    await command.give(caller)
                    break
            tracer.active = False
            await caller.wait(_RESTS_SHORTLY)
            before = backlogs_in(caller.handler)
            await caller.wait(_STAYS)
            after = backlogs_in(caller.handler)
            stays = {name: left for name, left in after.items() if left and _same(left, before.get(name, []))}
            if "emit" in last_journal().running and (left := stays.keys() & empty):
                await command.give(caller)
                await caller.wait(_REST)
                later = backlogs_in(caller.handler)
                for name in left:
                    if name in later and all(one is not other for one in after[name] for other in later[name]):
                        return str(tracer.line), name
    return None


_MOST_LINES, _HOLDS, _RESTS_SHORTLY = 16, 20, 0.6
"""Lines that have their turn; looks whether a thread is held up, one in 10 ms; seconds in which both are answered."""


async def _one_two_one(
    handler: StreamHandlerBase, args: Sequence[Any], what: Command | None, pause: float
) -> tuple[list[_Backlogs], float]:
    """Have one thing come, then two with a pause between them, and one more; each time, wait.

    Returns:
        What is in the handler's lists and queues after each rest, as long as `emit` waits; and for how long it worked
        on the first one.
    """
    found: list[_Backlogs] = []
    busy = _REST
    async with on_the_line(handler, args) as caller:
        if not await greeted(caller):
            return [], _REST
        for n in (1, 2, 1):
            since = anyio.current_time()
            for again in range(n):
                if again:
                    await caller.wait(pause)
                await _give(caller, what)
            await caller.wait(_REST)
            before = backlogs_in(caller.handler)
            await caller.wait(_STAYS)  # a block that silence goes on filling is another one then
            journal = last_journal()
            if "emit" in journal.running:
                after = backlogs_in(caller.handler)
                found.append({name: left for name, left in after.items() if _same(left, before.get(name, []))})
            if not found[1:]:
                busy = min(busy, max(0.0, journal.entered.get("emit", 0.0) - since))
    return found, busy


def _same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


async def _give(caller: Caller, what: Command | None) -> None:
    if caller.connection.end is not None:
        return
    if what is None:
        await caller.play(signals.tone(_SHORT, 300, peak=0.5))
    else:
        await what.give(caller)


def _left_behind(rests: Sequence[_Backlogs]) -> str | None:
    """The list in which the second of two stayed, and was worked on when another one came."""
    if len(rests) < 3:
        return None
    one, two, later = rests[:3]
    for name, left in two.items():
        taken = all(item is not other for item in left for other in later.get(name, []))
        if left and one.get(name) == [] and name in later and taken:
            return name
    return None
