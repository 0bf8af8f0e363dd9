"""Limits count from the right moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...ends import EndCause
from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_own_method
from .. import signals
from .._limits import SHORTEST
from .._scenarios import (
    ANSWERED,
    LISTENS,
    Waited,
    greeted,
    moments_audible,
    numbers_in,
    on_the_line,
    seconds_between,
    waited,
)
from ..caller import CallRecord, run_call
from ._commands import Command, reads_a_clock
from ._sentences import CheckInput, call_options, probed, run_scenario, sentence, time_of_handler


@sentence(
    "its limits count from the call's own moments, not from when the handler was made or copied",
    "a call; one an hour after the handler was made, and one an hour after it was copied",
)
def limits(handler: StreamHandlerBase, given: CheckInput) -> None:
    shown = time_of_handler()
    spoken = np.concatenate([signals.silence(0.4), signals.speech_like(1.5)], axis=1)

    def call(copied: Callable[[], object] = lambda: None) -> CallRecord:
        with probed(handler, copied=copied) as prototype:
            return run_call(prototype, play=spoken, seconds=2.5, backend=given.on("asyncio"), **call_options(given))

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
    if reads_a_clock(handler):
        _reacts_again(handler, given)
    if has_own_method(handler, "on_message") and reads_a_clock(handler):
        _answers_who_insists(handler, given, Command("hello"))
    if has_own_method(handler, "on_dtmf") and reads_a_clock(handler):
        _answers_who_insists(handler, given, Command.key("1"))


_AN_HOUR: Final = 3600.0


def _time_to_answer(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a limit for the caller's answer does not begin while the caller still hears the question."""
    shown = time_of_handler()
    written = {number for number in numbers_in(handler) if SHORTEST < number < LISTENS}
    if not written:
        return

    def call(*, asks: bool, act: Command | None = None, at: float = 0.0) -> Waited:
        give = None if act is None else act.give
        scenario = partial(waited, handler, given.args, shown.limits, asks=asks, act=give, at=at)
        return run_scenario(scenario, handler, given)

    acts = [Command(None)]
    if has_own_method(handler, "on_dtmf"):
        acts.append(Command.key("1"))
    if has_own_method(handler, "on_message"):
        acts.append(Command("hello"))
    for asks in (False, True):
        silent = call(asks=asks)
        for limit in silent.limits:
            over = limit.begun + limit.seconds
            if limit.said >= _SPOKEN_OVER * limit.seconds and limit.seconds in written and silent.does(over):
                raise AssertionError(
                    f"{limit.place} gives {limit.seconds:g} s, for {limit.said:.1f} s of which it speaks itself: it "
                    "runs out although nothing took too long. Put the limit around what it waits for, and not around "
                    "await self.say(...)"
                )
            heard_until = silent.heard_until(limit.begun)
            left = limit.begun + limit.seconds - heard_until
            spoken_over = heard_until - limit.begun
            hasty = 0.1 < left < _HASTY or (left <= 0.1 and silent.closed < heard_until + 0.6)
            if limit.seconds not in written or spoken_over < _SPOKEN_OVER * limit.seconds or not hasty:
                continue
            if not silent.does(limit.begun + limit.seconds):
                continue
            # It is for the caller to act if it does not run out when they do.
            moments = (limit.begun + 0.3 * limit.seconds, heard_until + 0.1)
            if all(limit.begins_with(call(asks=asks, act=act, at=at).limits) for act in acts for at in moments):
                continue
            raise AssertionError(
                f"{limit.place} gives the caller {limit.seconds:g} s, and begins to count {spoken_over:.1f} s before "
                f"what it says is heard to its end: {max(0.0, left):.1f} s are left. Begin to count when it was "
                "heard: after await self.say(...), or self.playback().waiting seconds later"
            )


_SPOKEN_OVER: Final = 0.4
"""The share of a limit for the caller that the handler may speak itself."""

_HASTY: Final = 2.5
"""Seconds that are too few for an answer, if the limit was meant to be longer."""


def _answers_who_insists(handler: StreamHandlerBase, given: CheckInput, command: Command) -> None:
    """See that a caller who writes, or presses a key, again and again is answered again at some time."""

    async def insist(*pauses: float) -> tuple[float, float]:
        """Do it with these pauses; the seconds that could be heard in the first and in the second half of the time."""
        async with on_the_line(handler, given.args) as caller:
            await greeted(caller)
            began = caller.seconds
            for pause in pauses:
                await command.give(caller)
                await caller.wait(pause)
            ended = caller.connection.end is not None
            moments = moments_audible(caller.heard)
        insists = _TIMES * min(pauses)
        early = seconds_between(moments, began, began + insists / 4)
        late = seconds_between(moments, began + insists / 2 + min(_LAST, insists / 8), math.inf)
        return early, late if not ended else -1.0

    def run(*pauses: float) -> tuple[float, float]:
        return run_scenario(partial(insist, *pauses), handler, given)

    for each in _EACH:
        early, late = run(*[each] * _TIMES)
        # One that answers a few and then no more is silent for one who gives up for a while, too.
        if early >= ANSWERED and late == 0.0 and run(*[each] * (_TIMES // 2), _WAITS, _LAST)[1] >= ANSWERED:
            raise AssertionError(
                f"a caller who {command} every {each:g} s is answered at first, and then no more; after a pause of "
                f"{_WAITS:g} s they are answered again: what was refused counts in the limit as well. Note the moment "
                "of a question only when it is answered"
            )


def _reacts_again(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that one who makes a noise, or moves, all the time is noticed more than once, if it is so after a pause."""
    limits = time_of_handler().limits

    async def insist() -> tuple[float, bool]:
        """For how long it was noticed no more, and whether it was after a pause in which nothing came."""
        moves = True

        def camera(at: float) -> NDArray[np.uint8]:
            return np.full((48, 64, 3), int(at * 100) % 256 if moves else 0, np.uint8)

        def noticed(begin: float, end: float) -> bool:
            moments = [*moments_audible(caller.heard), *(at for at, _ in caller.messages)]
            return any(begin < at <= end for at in moments)

        async with on_the_line(handler, given.args, camera=camera) as caller:
            if not await greeted(caller):
                return 0.0, False
            limits.renewed.clear()
            began = caller.seconds
            await caller.play(signals.tone(_INSISTS, 300, peak=0.5))
            renewed = [seconds for seconds, times in limits.renewed.items() if times > _OFTEN and seconds < _LONGEST]
            longest = max(renewed, default=0.0)
            if not longest or not noticed(-1.0, began + 3.0) or noticed(began + 4.0, caller.seconds):
                return 0.0, False
            await caller.play(signals.tone(2 * longest + 1.0, 300, peak=0.5))
            until = caller.seconds
            if noticed(began + 4.0, until) or caller.connection.end is not None:
                return 0.0, False
            caller.microphone, moves = False, False
            await caller.wait(longest + 2.0)
            again = caller.seconds
            if noticed(again - 1.0, again):
                return 0.0, False
            caller.microphone, moves = True, True
            await caller.play(signals.tone(1.5, 300, peak=0.5))
            return until - began - 3.0, noticed(again, caller.seconds)

    seconds, after_a_pause = run_scenario(insist, handler, given)
    if after_a_pause:
        raise AssertionError(
            f"a caller who makes a noise (or moves) all the time is noticed once, and not in the next {seconds:.0f} s; "
            "after a pause they are noticed again: what was refused counts in the limit as well. Note the moment only "
            "when you do something. (If the beginning alone is meant, keep a flag in place of a time)"
        )


_INSISTS: Final = 8.0
"""Seconds of noise in which most limits run out."""

_OFTEN: Final = 20
"""How often a limit begins again that each frame renews."""

_LONGEST: Final = 60.0
"""Seconds of a limit that is waited for."""

_TIMES: Final = 32
"""How often a caller asks."""

_EACH: Final = (1.25, 0.45)
"""Seconds from one question to the next: a limit may be shorter than the first."""

_LAST, _WAITS = 3.0, 16.0
"""Seconds in which the last question is answered, and for which they wait before it."""
