"""After an interruption nothing is said that was made before it."""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio

from ...frames import FRAME_SECONDS
from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_own_method
from ...protocol import messages
from .. import signals
from .._held import arrays_in
from .._room import run_in_room
from .._scenarios import (
    NOTICES,
    SECOND,
    Interruption,
    asked_again,
    interrupted,
    names_in,
    on_the_line,
    seconds_audible,
    taken_back,
)
from ..caller import Caller, CallRecord, run_call
from ._audio import passes_on
from ._commands import acts_at_any_moment, falls_silent_for_a_text
from ._sentences import STALE, CheckInput, call_options, last_journal, run_scenario, sentence


@sentence(
    "its queue may be cleared at any moment, and the call goes on",
    "clear_queue() five times in a call",
)
def cleared(handler: StreamHandlerBase, given: CheckInput) -> None:
    async def interrupt() -> CallRecord:
        async with on_the_line(handler, given.args) as caller:
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


@sentence(
    "after clear_queue the caller hears nothing that was made before: the handler drops its own backlog",
    "the caller speaks and writes; clear_queue() after 0.7, 2.4 and 3.9 s, and in the middle of an answer",
)
def nothing_stale(handler: StreamHandlerBase, given: CheckInput) -> None:
    async def after_clear(caller: Caller, seconds: float) -> float:
        """Clear the queue, and wait; the seconds of sound in that time."""
        caller.handler.clear_queue()
        journal = last_journal()
        emitted = set(map(id, journal.emitted))
        kept = arrays_in(caller.handler).items()
        journal.watched, journal.stale = {name: array for name, array in kept if name not in emitted}, 0.0
        cleared, since = anyio.current_time(), caller.seconds
        await caller.wait(seconds)
        emits = sum(length for at, length in journal.loud if at > cleared)
        return max(emits, seconds_audible(caller.heard, since))

    async def interrupt() -> tuple[float, float]:
        kept = said = 0.0
        async with on_the_line(handler, given.args) as caller:
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
                kept = max(kept, last_journal().stale)
                if caller.seconds > 2.4:  # it says something, and nobody has spoken for long
                    said = max(said, sound)
        return kept, said

    async def interrupt_alone() -> float:
        """Clear what it says of itself; a caller who speaks for long, has it cleared with each frame."""
        async with on_the_line(handler, given.args) as caller:
            await caller.wait(1.0)
            if caller.connection.end is None:
                await after_clear(caller, 0.5)
        return last_journal().stale

    async def write() -> tuple[float, float]:
        """Clear in the middle of the answer to a text; then before the next one begins."""
        async with on_the_line(handler, given.args) as caller:
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
        alone = run_call(handler, seconds=2.0, backend=given.on("asyncio"), **call_options(given))
        return not seconds_audible(alone.heard) and not last_journal().loud

    itself = _clears_by_itself(handler, given)
    kept, said = run_scenario(interrupt, handler, given)
    if kept <= STALE and "clear_queue" in names_in(type(handler)):
        kept = run_scenario(interrupt_alone, handler, given)
    later = 0.0
    if max(kept, said) <= STALE and has_own_method(handler, "on_message"):
        said, later = run_scenario(write, handler, given)
    if max(kept, said) > STALE and (itself or _falls_silent(handler, given) or passes_on(handler, given)):
        return
    if max(kept, said) > STALE and falls_silent_for_a_text(handler, given):
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


def _clears_by_itself(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """Whether it clears its queue when a text or a key comes, and drops all that belongs to it."""
    own = type(handler).clear_queue is not StreamHandlerBase.clear_queue
    if own or "clear_queue" not in names_in(type(handler)):
        return False
    ways = {"writes 'hello'": "hello"} if has_own_method(handler, "on_message") else {}
    if has_own_method(handler, "on_dtmf"):
        ways |= {f"presses {digit}": messages.encode(messages.Dtmf(digit)) for digit in "15"}
    clears = False
    for way, text in ways.items():
        cleared, answer = run_scenario(partial(taken_back, handler, given.args, text, 0.0), handler, given)
        clears = clears or cleared
        if cleared:
            _answers_the_last(handler, given, way, text)
        for spoken in (0.6, 0.8, 1.05, 1.25) if cleared and not answer else ():
            cleared, said = run_scenario(partial(taken_back, handler, given.args, text, spoken), handler, given)
            if cleared and said > STALE:
                raise AssertionError(
                    f"when the caller speaks and then {way}, it clears its queue, and says {said:.1f} s after that "
                    "all the same: what it was making then. Count what is taken back, and drop what was begun before"
                )
    return clears


def _answers_the_last(handler: StreamHandlerBase, given: CheckInput, way: str, text: str) -> None:
    """See that of two questions, of which the second takes back the first, one is answered."""

    def said(pause: float | None) -> tuple[bool, float]:
        return run_scenario(partial(asked_again, handler, given.args, text, pause), handler, given)

    _, once = said(None)
    for pause in (0.2, 0.5, 0.8) if _SHORTEST < once < _LONGEST else ():
        cleared, twice = said(pause)
        if cleared and twice > once + 2 * STALE:
            raise AssertionError(
                f"when the caller {way} twice, it clears its queue, and then says {twice:.1f} s; once brings "
                f"{once:.1f} s: what makes the first answer goes on, and fills the backlog again. Count questions, and "
                "drop what was begun for an earlier one; or cancel the task that makes it"
            )


_SHORTEST, _LONGEST = 0.3, 6.0
"""Seconds of an answer that is compared with two."""


def _falls_silent(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """Whether it clears its queue by itself when the caller speaks in its answer, and says nothing more of that.

    Then it drops its own backlog where it calls `clear_queue`, and nobody else is meant to.
    """
    usual = _talk(handler, given, None)
    if not usual.answer:
        return False
    again = _talk(handler, given, usual.answer[0] - usual.asked + 0.3)
    return again.cleared and again.over_the_caller <= STALE


def _talk(
    handler: StreamHandlerBase, given: CheckInput, pause: float | None, *, greeting: bool = False
) -> Interruption:
    talk = partial(interrupted, handler, given.args, pause, greeting=greeting)
    return run_scenario(talk, handler, given)


async def _answered(caller: Caller) -> float | None:
    """Wait until the caller is answered, a moment into the answer; when it began, or None after two seconds."""
    asked, since, journal = anyio.current_time(), caller.seconds, last_journal()
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


@sentence(
    "it notices an interruption while an answer is being made, if it does while the answer is said",
    "a sentence, and another one that begins during the answer, or before it; then texts and keys in its place",
)
def notices(handler: StreamHandlerBase, given: CheckInput) -> None:
    _notices_speech(handler, given)
    acts_at_any_moment(handler, given)


def _notices_speech(handler: StreamHandlerBase, given: CheckInput) -> None:
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
