"""What a failure of `HandlerLifecycle` says first: what was promised, what happened, the steps, and a test to paste.

Hypothesis prints the steps last, behind the tracebacks of the machinery. Here they come first, in at most `LINES`
lines. All the rest is kept behind them, as notes of the error.
"""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

__all__ = ["contract_broken", "differs", "forgets_nothing", "told"]

LINES: Final = 15
"""Lines of a failure that one can read at a glance."""

WIDEST: Final = 400
"""Characters of what happened; what is longer is in the traceback."""

SHOWN: Final = 3
"""Broken sentences of a contract that are told first."""

PROMISES: Final = {
    "the handler raised by itself": "your handler raises nothing by itself",
    "shutdown raised by itself": "shutdown raises nothing by itself",
    "it ended as": "a call ends for one reason, the one that came first",
}
"""What was promised, by the beginning of messages that only say what happened."""

WORDS: Final = {
    "the_first_call_begins": "a call begins",
    "a_call_begins": "a call begins",
    "caller_speaks": "the caller speaks",
    "caller_is_silent": "the caller is silent",
    "audio_arrives": "audio arrives",
    "pictures_arrive": "pictures arrive",
    "caller_writes": "the caller writes",
    "caller_presses": "the caller presses",
    "page_posts": "the page posts arguments",
    "barge_in": "the caller interrupts",
    "time_passes": "time passes",
    "handler_is_slow": "a method is slow",
    "handler_raises": "a method raises",
    "emit_returns": "emit returns",
    "audio_is_lost": "audio is lost",
    "link_is_replaced": "the caller comes back over another link",
    "call_ends": "the call ends",
    "somebody_is_refused": "another caller is refused",
}


def told(error: BaseException, life: type[Any], handler: str, beside: str = "") -> BaseException:
    """The error as it is told: its story first, and the rest behind it.

    Args:
        error: What Hypothesis has raised; its notes have the steps.
        life: The machine.
        handler: The name of the handler's class.
        beside: What else was noticed, and may be the reason.

    Returns:
        The story, or `error` itself if it has none.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.derive([told(one, life, handler) for one in error.exceptions])
    notes = "\n".join(getattr(error, "__notes__", []))
    calls = list(_calls(notes))
    if not calls or not isinstance(error, Exception):
        return error
    short = [_shortened(call, life) for call in calls]
    promised, happened = _promise(error)
    head = [
        f"{life.__name__} found a bug in {handler} (on {life.backend})",
        f"promised: {promised}",
        f"happened: {happened}",
        f"steps:    {'; '.join(_in_words(call) for call in short) or 'none'}",
        *_noticed(beside),
    ]
    test = [
        f"def test_{_snake(handler)}():",
        f"    state = {life.__name__}()",
        *(f"    {call}" for call in short),
        "    state.teardown()",
    ]
    fits = len(head) + 1 + len(test) <= LINES
    story = AssertionError("\n".join([*head, "a test to paste:", *test] if fits else [*head, MORE]))
    if not fits:
        story.add_note("\n".join(test))
    story.add_note("".join(traceback.format_exception(error)))
    return story


MORE: Final = "a test to paste is below: the story is long"


def contract_broken(handler: str, broken: Sequence[tuple[str, str, str]], n: int, beside: str = "") -> AssertionError:
    """The failure of `check_handler`.

    Args:
        handler: The name of the handler's class.
        broken: Each broken sentence, the steps that were played, and what happened.
        n: How many sentences were looked at.
        beside: What else was noticed, and may be the reason.
    """
    told = [
        f"promised: {sentence}\nsteps:    {steps}\nhappened: {_cut(happened)}" for sentence, steps, happened in broken
    ]
    head = f"{handler} breaks {len(broken)} of {n} sentences of its contract"
    if len(told) > SHOWN:
        head += f"; {len(told) - SHOWN} are below"
    test = f"a test to paste:\ndef test_{_snake(handler)}():\n    check_handler({handler}())"
    story = AssertionError("\n".join([head, *told[:SHOWN], *_noticed(beside), test]))
    if told[SHOWN:]:
        story.add_note("\n".join(told[SHOWN:]))
    return story


def _noticed(beside: str) -> list[str]:
    return [f"noticed:  {beside}"] if beside else []


def forgets_nothing(life: type[Any], handler: str, happened: str) -> AssertionError:
    """The failure of a handler whose second call is another one than the first, before any story is played."""
    return AssertionError(
        f"{life.__name__} found a bug in {handler} (on {life.backend})\n"
        f"promised: one call leaves no trace in another (what calls share on purpose is named in shared)\n"
        f"happened: {_cut(happened)}\n"
        "steps:    two equal calls; the caller speaks and writes\n"
        "a test to paste:\n"
        f"def test_{_snake(handler)}():\n"
        f"    handler = {handler}()\n"
        '    first = run_call(handler, send=["hello"], seconds=1)\n'
        '    assert run_call(handler, send=["hello"], seconds=1).texts() == first.texts()'
    )


def differs(found: BaseException, life: type[Any], handler: str, beside: str) -> AssertionError:
    """What was found at first, and not again when the same steps were played once more."""
    promised, happened = _promise(found) if isinstance(found, Exception) else ("no step of a call fails", repr(found))
    steps = (
        "other ones each time. Either threads decide, or what one run leaves behind changes the next one: an attribute "
        "of the class, a variable of the module. check_handler may name it"
    )
    lines = [
        f"{life.__name__} found a bug in {handler} (on {life.backend}), and the same steps did not show it again",
        f"promised: {promised}",
        f"happened: {happened}",
        f"steps:    {steps}",
    ]
    return AssertionError("\n".join([*lines, *_noticed(beside)]))


def _calls(notes: str) -> Iterator[str]:
    """The lines ``state.rule(...)`` of the last example that Hypothesis printed."""
    begin = notes.rfind("state = ")
    if begin < 0:
        return
    for line in notes[begin:].splitlines()[1:]:
        call = line.strip()
        if call == "state.teardown()" or not re.match(r"(\w+ = )?state\.\w+\(", call):
            return
        yield call


def _shortened(call: str, life: type[Any]) -> str:
    """A call without the arguments that are the default."""
    try:
        parsed: Any = ast.parse(call).body[0].value  # type: ignore[attr-defined]
        rule: Callable[..., Any] = getattr(life, parsed.func.attr)
        parameters = inspect.signature(inspect.unwrap(rule)).parameters
        kept = [
            ast.unparse(keyword)
            for keyword in parsed.keywords
            if keyword.arg not in parameters or repr(parameters[keyword.arg].default) != ast.unparse(keyword.value)
        ]
    except (SyntaxError, AttributeError, ValueError, TypeError):
        return call
    return f"state.{parsed.func.attr}({', '.join(kept)})"


def _in_words(call: str) -> str:
    name, _, arguments = call.partition("state.")[2].partition("(")
    arguments = arguments[:-1]
    return WORDS.get(name, name.replace("_", " ")) + (f" ({arguments})" if arguments else "")


def _promise(error: Exception) -> tuple[str, str]:
    text = " ".join(str(error).split())
    for begin, promise in PROMISES.items():
        if text.startswith(begin):
            return promise, _cut(re.sub(r"^\w+ \w+ raised by itself: |^shutdown raised by itself: ", "", text))
    promised, colon, happened = text.partition(": ")
    if isinstance(error, AssertionError) and colon:
        return promised, _cut(happened)
    name = type(error).__name__
    promised = "no method holds up the loop or its end" if name == "HandlerHung" else "no step of a call fails"
    return promised, _cut(f"{name}: {text}")


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[:WIDEST] + " …"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
