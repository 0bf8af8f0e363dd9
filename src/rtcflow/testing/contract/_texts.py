"""What a caller writes, and keys that they press."""

from __future__ import annotations

import itertools
from functools import partial
from itertools import pairwise
from typing import Any, Final

from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_own_method
from ...protocol import messages
from .. import signals
from .._held import backlogs_in, texts_in
from .._literals import texts_of, words_of
from .._scenarios import ANSWERED, NOTICES, Pressed, hangs_up, on_the_line, pressed
from ..caller import run_call
from ._commands import answers_again, stays_alive
from ._ends import held_up
from ._sentences import CheckInput, Everywhere, call_options, last_journal, run_scenario, sentence


@sentence(
    "it serves a caller who sends any text: on_message gets what strangers write, on_dtmf every digit",
    "a call in which the caller sends texts and digits",
)
def any_text(handler: StreamHandlerBase, given: CheckInput) -> None:
    digits = [messages.encode(messages.Dtmf(digit)) for digit in messages.DIGITS]
    every = [*TEXTS, *(digits if has_own_method(handler, "on_dtmf") else ())]
    if has_own_method(handler, "on_message"):
        _takes_all_texts(handler, given)
        _leaves_nothing(handler, given)
        every += texts_of(handler)
        if hangs_up(handler):
            _hangs_up_at_once(handler, given)
        answers_again(handler, given, "text")
    if has_own_method(handler, "on_dtmf"):
        _keeps_keys(handler, given)
        answers_again(handler, given, "key")
    together = run_call(handler, seconds=1.0, send=every, backend=given.on("asyncio"), **call_options(given))
    if together.error is None and held_up(together) is None:
        stays_alive(handler, given)
        return
    short: dict[str, Any] = {"seconds": 1.0, "backend": given.on("trio"), **call_options(given)}
    single = ((repr(text), run_call(handler, send=[text], **short)) for text in every)
    for texts, record in itertools.chain(single, [("one text after the other", together)]):
        if record.error is not None:
            raise AssertionError(f"when it got {texts} it raised {record.error!r}") from record.error
        if told := held_up(record):
            raise Everywhere(f"when it got {texts}: {told}")


def _takes_all_texts(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that of texts that come at once none waits for the next one."""

    async def left(pause: float) -> int:
        async with on_the_line(handler, given.args) as caller:
            caller.microphone = False
            await caller.wait(0.3)
            for text in _THREE:
                if caller.connection.end is None:
                    caller.send_message(text)
                await caller.wait(pause)
            await caller.wait(_ALL_SAID - caller.seconds)
            asked = "emit" in last_journal().running  # else it is still busy with one of them, or with a greeting
            return len(set(_THREE) & set(texts_in(caller.handler))) if asked else 0

    def run(pause: float) -> int:
        return run_scenario(partial(left, pause), handler, given)

    if (at_once := run(0.0)) > run(2.0):
        raise AssertionError(
            f"of three texts that come at once {at_once} stay in its queue, although nothing more comes, and more than "
            "if they come one by one: a wake-up is lost. Take all that is there after each wait, or use one queue"
        )


def _leaves_nothing(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that what each text brings does not pile up while `emit` waits."""

    async def rests() -> list[dict[str, list[Any]]]:
        found: list[dict[str, list[Any]]] = []
        async with on_the_line(handler, given.args) as caller:
            caller.microphone = False
            await caller.wait(_ALL_SAID - 3.0)
            for text in ("one two three", "four five six", "seven eight nine"):
                if caller.connection.end is None:
                    caller.send_message(text)
                await caller.wait(3.0)
                if "emit" in last_journal().running:
                    found.append(backlogs_in(caller.handler))
        return found

    found = run_scenario(rests, handler, given)
    for name in found[0] if len(found) == 3 else ():
        left = [rest.get(name, []) for rest in found]
        taken = [any(all(one is not other for other in after) for one in before) for before, after in pairwise(left)]
        if 0 < len(left[0]) < len(left[1]) < len(left[2]) and all(taken):
            raise AssertionError(
                f"each text leaves more in .{name} ({', '.join(str(len(one)) for one in left)} items), although emit "
                "waits for some: a wake-up is lost. See what is there before you wait: Condition.wait_for(...), or "
                "use a queue"
            )


def _hangs_up_at_once(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a text that ends the call while the caller speaks ends it as well while nobody does."""

    async def closed(text: str, pause: float) -> bool:
        async with on_the_line(handler, given.args) as caller:
            caller.play_nowait(signals.speech_like(_SPOKEN, activity=1.0))
            await caller.wait(pause)
            if caller.connection.end is not None:
                return False
            if text:
                caller.send_message(text)
            await caller.wait(5.0)
            return caller.connection.end is not None

    def run(text: str, pause: float) -> bool:
        return run_scenario(partial(closed, text, pause), handler, given)

    words = words_of(handler)[:_MOST_WORDS]
    if not words or run("", 0.7 * _SPOKEN):  # speech alone ends it
        return
    for text in words:
        if run(text, 0.7 * _SPOKEN) and not run(text, _SPOKEN + 3.0):
            raise AssertionError(
                f"{text!r} ends the call if it comes while the caller speaks, and does not if it comes three seconds "
                "after they have spoken: a flag is raised, and nobody is woken. Set the event that the loop waits for, "
                "too; or put a sentinel into its queue"
            )


def _keeps_keys(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a key which cuts short what is said is answered, if it is after the last word."""

    def press(digit: str, at: float) -> Pressed:
        return run_scenario(partial(pressed, handler, given.args, digit, at), handler, given)

    usual = press("", 0.0)
    if (prompt := usual.first_words) is None:
        return
    begin, end = prompt
    middle, after, forgotten = (begin + end) / 2, end + 0.4, list[str]()
    if not _PROMPT < end - begin < usual.seconds - _ANSWERS - 1.0 or usual.did:
        return
    for digit in messages.DIGITS[:_MOST_KEYS]:
        early = press(digit, middle)
        kept = last_journal().keys_kept  # else it takes no keys while it speaks
        if early.did or early.audible(max(middle + NOTICES, end + 0.1), end + _ANSWERS):
            continue
        if early.says_otherwise(usual, middle + 0.1, end) > ANSWERED:  # its answer is shorter than the first words
            continue
        if early.audible(middle + _CUT, end) and not kept:
            continue
        late = press(digit, after)
        if late.did or late.audible(after, after + _ANSWERS) > usual.audible(after, after + _ANSWERS) + ANSWERED:
            forgotten.append(digit)
        if len(forgotten) == 2:
            raise AssertionError(
                f"when the caller presses {forgotten[0]} or {forgotten[1]} after its first words, it answers. When "
                "they press it meanwhile, it does not, and waits for another one: the key is forgotten. Keep keys in a "
                "queue, and neither empty it nor make a new event before you wait for one"
            )


_ANSWERS: Final = 4.0
"""Seconds in which a key is answered."""

_CUT: Final = 0.3
"""Seconds in which what is said is cut short by a key."""

_PROMPT: Final = 0.7
"""Seconds of a prompt in which a key may come."""

_MOST_KEYS: Final = 6

_SPOKEN: Final = 2.0
"""Seconds of speech, in which a text comes."""

_MOST_WORDS: Final = 8

_ALL_SAID: Final = 12.0
"""Seconds after which three short texts are answered, after a greeting."""

_THREE: Final = ("hello 1", "hello 2", "hello 3")

TEXTS: Final = ("", "hello", "{", "{}", "[]", "null", "1", '{"type": "unknown", "data": {}}', '{"type": 1}')
