"""What a caller tells a handler by a text or a key works at any moment, and leaves the handler alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self

from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_own_method
from ...protocol import messages
from .. import signals
from .._literals import keys_of, texts_of, words_of
from .._scenarios import (
    NOTICES,
    SECOND,
    greeted,
    moments_audible,
    moments_of_acts,
    names_in,
    on_the_line,
    seconds_audible,
    seconds_between,
)
from ..caller import Caller
from ._sentences import STALE, CheckInput, last_journal, run_scenario, time_of_handler

_LISTENS: Final = 6.0
"""Seconds of an answer that nobody interrupts."""

_AT_ONCE: Final = 0.4
"""Seconds in which a handler falls silent: what was already on its way is played."""

_QUIET: Final = 1.6
"""Seconds after a command until which nothing is to be heard."""

_ROOM: Final = 0.35
"""Seconds of an answer that are enough to tell whether it goes on."""

_THINKS: Final = 0.15
"""Seconds that an answer must take before a command can come before it."""

_MIDDLES, _MOST_OF_THEM = (0.25, 0.5, 0.75), 2
"""Moments in an answer, as parts of it, and at how many of them a command must silence it to be one that interrupts."""

_BEFORE: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
_WITHIN: Final = (0.08, 0.16, 0.24, 0.38, 0.46, 0.62, 0.7, 0.78, 0.86, 0.94)
"""Moments at which it is interrupted, as parts of the time until the answer begins, and of the answer."""

_WORD: Final = 0.15
"""Seconds of a short word."""

_LONG_TEXT: Final = 60
"""Characters."""

_MOST: Final = 8
"""Commands that are tried."""

_BLANK: Final = ("", "  ")
"""Texts without a word."""


@dataclass(frozen=True)
class Command:
    """Something that a caller does: write, press a key, or (no text) speak for some seconds."""

    text: str | None
    seconds: float = SECOND

    @classmethod
    def key(cls, digit: str) -> Self:
        """Press a key."""
        return cls(messages.encode(messages.Dtmf(digit)))

    def __str__(self) -> str:
        if self.text is None:
            return "speaks" if self.seconds == SECOND else "says one short word"
        if len(self.text) > _LONG_TEXT:
            return "writes a long text"
        decoded = messages.decode(self.text)
        return f"presses {decoded.digit}" if isinstance(decoded, messages.Dtmf) else f"writes {self.text!r}"

    async def give(self, caller: Caller) -> None:
        """Do it; do nothing, if the call is over."""
        if caller.connection.end is not None:
            return
        if self.text is None:
            await caller.play(signals.speech_like(self.seconds, seed=2, activity=1.0, peak=0.8))
        else:
            caller.send_message(self.text)

    def window(self, lasts: float) -> tuple[float, float]:
        """The seconds after it in which nothing is to be heard, if it interrupts an answer of this length."""
        begin, end = (NOTICES, SECOND) if self.text is None else (_AT_ONCE, _QUIET)
        return begin, max(begin, min(end, (begin + lasts) / 2))


_PROMPT: Final = Command(" ".join(3 * ["hello there. how are you today? one two three four. five six seven eight."]))
"""A text whose answer is long, whether it is read out word by word or sentence by sentence."""

_Prompt = Command | Literal["greeting", "nothing"]
"""What is answered: a command, the beginning of the call, or nothing."""


def commands_of(handler: StreamHandlerBase, *, spoken: bool) -> list[Command]:
    """What a handler may know: words and keys in its methods, and (`spoken`) speech, if it clears its queue."""
    found: list[Command] = []
    if has_own_method(handler, "on_message"):
        reads_json = {"loads", "JSONDecoder"} & names_in(type(handler))
        words = [text for text in texts_of(handler) if text[0] == "{"] if reads_json else words_of(handler)
        found += [Command(word + "hello" if word[-1] in " :=" else word) for word in words[:_MOST]]
    if has_own_method(handler, "on_dtmf"):
        keys = dict.fromkeys(keys_of(handler) + "1#")
        found += map(Command.key, list(keys)[: _MOST // 2])
    return [*found, Command(None)] if spoken and "clear_queue" in names_in(type(handler)) else found


def reads_a_clock(handler: StreamHandlerBase) -> bool:
    """Whether a handler's methods name a clock: what it does may depend on when it did it last."""
    return bool({"monotonic", "perf_counter", "time", "current_time", "now"} & names_in(type(handler)))


async def _interrupted(
    handler: StreamHandlerBase, args: Sequence[Any], prompt: _Prompt, command: Command | None, at: float
) -> tuple[float, ...]:
    """Ask for something after the greeting, and give a command `at` seconds later.

    Returns:
        When something could be heard, frame by frame, in seconds from the question on; nothing, if it was still
        speaking before it was asked.
    """
    async with on_the_line(handler, args) as caller:
        asked = 0.0
        if prompt != "greeting":
            await greeted(caller)
            asked = caller.seconds
        time_of_handler().begin_naps()
        if isinstance(prompt, Command):
            await prompt.give(caller)
        if command is None:
            await caller.wait(_LISTENS)
        else:
            await caller.wait(asked + at - caller.seconds)
            await command.give(caller)
            await caller.wait(asked + at + command.window(_LISTENS)[1] + 0.1 - caller.seconds)
    heard = moments_audible(caller.record().heard)
    speaks_on = isinstance(prompt, Command) and seconds_between(heard, asked - 0.5, asked)
    return () if speaks_on else tuple(one - asked for one in heard if one > asked)


@dataclass(frozen=True)
class _Talk:
    """What a handler says after a prompt, if nobody interrupts it.

    Attributes:
        begins: When, in seconds.
        lasts: For how long, as far as it was listened to.
        silenced_by: The commands that cut it short in its middle.
        works: Moments in which it sleeps, which a test has in place of work.
    """

    begins: float
    lasts: float
    silenced_by: list[Command]
    works: list[float]

    def moment(self, part: float, command: Command) -> float:
        """A moment in it at which there is room for a command, by its part of these."""
        return self.begins + part * (self.lasts - command.window(self.lasts)[1])


def _said_after(
    handler: StreamHandlerBase, given: CheckInput, prompt: _Prompt, command: Command | None, at: float = 0.0
) -> tuple[float, ...]:
    return run_scenario(partial(_interrupted, handler, given.args, prompt, command, at), handler, given)


def _goes_on(
    handler: StreamHandlerBase, given: CheckInput, prompt: _Prompt, command: Command, at: float, lasts: float
) -> float:
    """Seconds that it says in the time in which a command should have silenced it."""
    begin, end = command.window(lasts)
    return seconds_between(_said_after(handler, given, prompt, command, at), at + begin, at + end)


def _talk(handler: StreamHandlerBase, given: CheckInput, prompt: _Prompt, commands: Sequence[Command]) -> _Talk | None:
    usual = _said_after(handler, given, prompt, None)
    works = _at_work(time_of_handler().naps)
    if not usual or (isinstance(prompt, Command) and _said_after(handler, given, "nothing", None)):
        return None  # it says nothing, or speaks of itself
    talk = _Talk(usual[0], min(usual[-1], _LISTENS) - usual[0], [], works)
    for command in commands:
        begin, end = command.window(talk.lasts)
        middles = [talk.moment(part, command) for part in _MIDDLES]
        if end < begin + _ROOM:
            continue
        if min(seconds_between(usual, at + begin, at + end) for at in middles) < 0.6 * (end - begin):
            continue  # it is silent there anyway
        silences = partial(_silences, handler, given, prompt, lasts=talk.lasts, moments=middles)
        if silences(command):
            # A word is over before what was being made when it came, so nothing takes that back once more.
            word = Command(None, _WORD)
            short = command.text is None and silences(word)
            talk.silenced_by.append(word if short else command)
    return talk


def _at_work(naps: Sequence[tuple[float, float, str]]) -> list[float]:
    """Moments in the middle of some of these sleeps, a few for each place."""
    by_place: dict[str, list[float]] = {}
    for begun, seconds, place in naps:
        if seconds > _WORD:
            by_place.setdefault(place, []).append(begun + (seconds - _WORD) / 2)
    few = [moments[:: max(1, len(moments) // 2)][:3] for moments in by_place.values()]
    return sorted(at for moments in few for at in moments)[:_MOST_WORKS]


_MOST_WORKS: Final = 6


def _silences(
    handler: StreamHandlerBase,
    given: CheckInput,
    prompt: _Prompt,
    command: Command,
    *,
    lasts: float,
    moments: Sequence[float],
) -> bool:
    """Whether a command cuts short what is said, at most of these moments."""
    silent = 0
    for n, at in enumerate(moments, start=1):
        silent += _goes_on(handler, given, prompt, command, at, lasts) <= STALE
        if silent + len(moments) - n < _MOST_OF_THEM:
            return False
    return silent >= _MOST_OF_THEM


def _talks(
    handler: StreamHandlerBase, given: CheckInput, commands: Sequence[Command]
) -> Iterator[tuple[_Prompt, _Talk]]:
    """What it says of itself, and in answer to a text; or, if it answers only those that it knows, to these."""
    if commands and (talk := _talk(handler, given, "greeting", commands)):
        yield "greeting", talk
    answers = _talk(handler, given, _PROMPT, commands) if commands and has_own_method(handler, "on_message") else None
    if answers is not None:
        yield _PROMPT, answers
        return
    for prompt in commands:
        others = [command for command in commands if command != prompt]
        if prompt.text is not None and (talk := _talk(handler, given, prompt, others)) is not None:
            yield prompt, talk


def falls_silent_for_a_text(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """Whether some text or key cuts short what it says."""
    commands = commands_of(handler, spoken=False)
    return any(talk.silenced_by for _, talk in _talks(handler, given, commands))


def acts_at_any_moment(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a text, a key or a word that cuts an answer short does so before it, and anywhere in it."""
    commands = commands_of(handler, spoken=True)
    for prompt, talk in _talks(handler, given, commands):
        for command in talk.silenced_by:
            thinks = isinstance(prompt, Command) and talk.begins > _THINKS
            before = [part * talk.begins for part in _BEFORE] if thinks else []
            works = [at for at in talk.works if talk.begins < at < talk.moment(1.0, command)]
            for at in (*before, *works, *(talk.moment(part, command) for part in _WITHIN)):
                if (seconds := _goes_on(handler, given, prompt, command, at, talk.lasts)) > STALE:
                    within = command.window(talk.lasts)[1]
                    what = "what it says of itself" if prompt == "greeting" else f"its answer to one who {prompt}"
                    where = "before it begins" if at < talk.begins else f"{at - talk.begins:.2f} s into it"
                    raise AssertionError(
                        f"when the caller {command} in the middle of {what}, it falls silent. When they do so {where}, "
                        f"it speaks on ({seconds:.1f} s in the next {within:.1f} s): the interruption was "
                        "noticed, and what was being made then is said all the same. Count interruptions, and drop "
                        "what was begun before the last one; or cancel the task that makes it"
                    )


async def _life(
    handler: StreamHandlerBase, args: Sequence[Any], first: Sequence[Command], later: Sequence[Command]
) -> bool | None:
    """Give commands, and a second later others, and speak; whether it said or did anything then.

    None, if the call ended before.
    """
    async with on_the_line(handler, args) as caller:
        await caller.wait(0.5)
        for command in first:
            await command.give(caller)
            await caller.wait(0.3)
        await caller.wait(0.7)
        if caller.connection.end is not None:
            return None
        since = caller.seconds
        for command in later:
            await command.give(caller)
            await caller.wait(0.4)
        if later:
            await caller.play(signals.speech_like(1.0, seed=1, activity=1.0))
            await caller.wait(2.5)
            await later[-1].give(caller)  # whatever was refused for coming too early
            await caller.wait(1.5)
        if "on_message" in last_journal().running:  # what it did at once, before it began to wait, counts as well
            since -= 0.001
    record = caller.record()
    return seconds_audible(record.heard, since) > 0.0 or any(at > since for at in moments_of_acts(record))


def stays_alive(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a handler still answers after a blank text, and after a command that was given twice."""

    def alive(*first: Command, later: Sequence[Command] = ()) -> bool | None:
        return run_scenario(partial(_life, handler, given.args, first, later), handler, given)

    commands = commands_of(handler, spoken=False)
    known = [command for command in commands if alive(command) is not None]  # others end the call
    later = [*known, Command("hello")] if has_own_method(handler, "on_message") else known
    if not later or not alive(later=later):
        return
    for text in _BLANK if has_own_method(handler, "on_message") else ():
        if alive(Command(text), later=later) is False:
            raise AssertionError(
                f"after a caller writes {text!r} it neither says nor does anything more, whatever they write or say: "
                "what has no answer leaves somebody waiting for one. Finish each text, also one without words"
            )
    for command in known:
        others = [other for other in later if other != command]
        if others and alive(command, command, later=others) is False and alive(command, later=others):
            raise AssertionError(
                f"when the caller {command} twice, it neither says nor does anything more, whatever they write or say; "
                "once does no harm. Is an event replaced for which somebody waits? Keep one, and clear() it; wait in a "
                "loop that looks at the state"
            )


@dataclass(frozen=True)
class _Answers:
    """What a handler did after each of up to three commands: seconds that could be heard, or that it did something."""

    first: float
    second: float
    third: float
    acts: bool


async def _again(
    handler: StreamHandlerBase, args: Sequence[Any], one: Command, other: Command | None, pause: float
) -> _Answers:
    """Give a command, another one `pause` seconds after the answer was played, and that once more."""
    async with on_the_line(handler, args) as caller:
        await greeted(caller)
        asked = caller.seconds
        await one.give(caller)
        for _ in range(round(4.0 / _LOOKS)):
            await caller.wait(_LOOKS)
            if seconds_audible(caller.heard, asked) and not caller.handler.playback().waiting:
                break
        first = seconds_audible(caller.heard, asked)
        await caller.wait(pause)
        moments: list[float] = []
        for _ in range(2):
            moments.append(caller.seconds - 0.001)  # what is said at the same moment counts
            if other is not None and first:
                await other.give(caller)
            await caller.wait(3.0)
        ended = caller.connection.end is not None
    record = caller.record()
    acts = ended or any(at > moments[0] for at in moments_of_acts(record))
    third = seconds_audible(record.heard, moments[1])
    return _Answers(first, seconds_audible(record.heard, moments[0]) - third, third, acts)


_LOOKS: Final = 0.01
"""Seconds between two looks whether an answer is over."""

_PAUSES: Final = (0.03, 0.08, 0.15, 0.25, 0.4)
"""Seconds after an answer, at which the next text or key comes."""


def answers_again(handler: StreamHandlerBase, given: CheckInput, kind: Literal["text", "key"]) -> None:
    """See that what is answered two seconds after an answer is answered at once after it, too."""
    one, other = map(Command, ("hello", "hello 2")) if kind == "text" else map(Command.key, "15")

    def again(second: Command | None, pause: float) -> _Answers:
        return run_scenario(partial(_again, handler, given.args, one, second, pause), handler, given)

    alone, late = again(None, 0.03), again(other, 2.0)
    if alone.second or alone.third or alone.acts or not (late.first and late.second and late.third):
        return
    for pause in _PAUSES:
        at_once = again(other, pause)
        # One that looks at a clock may refuse it. Then it does not come with the next one.
        refused = at_once.third <= 1.4 * late.third and reads_a_clock(handler)
        if at_once.first and not at_once.second and not at_once.acts and not refused:
            raise AssertionError(
                f"when the caller {other} two seconds after an answer, it answers. When they do so {pause:g} s after "
                "it, it does not, or only when the next one comes: the wake-up is lost. See what is there after "
                "whatever takes time, and right before you wait: Condition.wait_for(...), or use a queue"
            )
