"""Checks of the arguments of `ReplyOnPause`, at construction. Errors name the argument and say what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..._core.moved import absent
from .detector import TurnDetector
from .options import AlgoOptions, SileroVadOptions
from .reply import is_async

T = TypeVar("T")

REPLY = "def reply(audio): ... yield (24000, samples)"
ANY_NUMBER = 100
"""How many arguments a function with ``*args`` takes."""


def check_reply_function(fn: object) -> int:
    """Check the signature of a reply function.

    Returns:
        How many positional arguments it takes at most (`ANY_NUMBER` for ``*args``).

    Raises:
        TypeError: It cannot be called with the user's audio; the text says what to write.
    """
    _, most = _positional("fn", fn, REPLY)
    if most == 0:
        raise TypeError(f"fn takes no argument, but is called with what the user said; write: {REPLY}")
    return most


def check_startup_function(fn: object) -> tuple[int, int]:
    """Check the signature of a ``startup_fn``.

    Returns:
        How many positional arguments it needs at least, and takes at most.

    Raises:
        TypeError: It cannot be called with the peer's arguments.
    """
    return _positional("startup_fn", fn, "def greet(): ... yield (24000, samples)")


def _positional(name: str, fn: object, right: str) -> tuple[int, int]:
    """How many positional arguments `fn` needs and takes."""
    if inspect.isgenerator(fn) or inspect.isasyncgen(fn) or inspect.iscoroutine(fn):
        if inspect.iscoroutine(fn):
            fn.close()
        raise TypeError(
            f"{name} must be the function itself, not what calling it gave ({type(fn).__name__}): leave out the ()"
        )
    if not callable(fn):
        raise TypeError(f"{name} must be a function, not {fn!r:.80}; write: {right}")
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some built-in functions do not tell
        return 0, 1
    missing = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if missing:
        raise TypeError(
            f"{name} needs the keyword argument {missing[0]!r}, but is called with positional ones; write: {right}, "
            "or give it with functools.partial"
        )
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    most = ANY_NUMBER if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    return sum(p.default is p.empty for p in positional), most


def check_callback(name: str, fn: object, right: str) -> None:
    """Refuse anything but a plain function of one argument.

    Raises:
        TypeError: The text names the argument.
    """
    least, most = _positional(name, fn, right)
    if is_async(fn):  # type: ignore[arg-type]
        raise TypeError(f"{name} must be a plain function, not an async one, which nobody would await; write: {right}")
    if least > 1 or most < 1:
        raise TypeError(f"{name} is called with one argument, but takes {least if least > 1 else most}; write: {right}")


def check_algo_options(options: AlgoOptions | None) -> AlgoOptions:
    """Return `options`, or the defaults.

    Raises:
        TypeError: `options` are something else.
    """
    if options is None:
        return AlgoOptions()
    if not isinstance(options, AlgoOptions):
        raise TypeError(f"algo_options must be AlgoOptions, not {options!r:.80}; {_as_call('AlgoOptions', options)}")
    return options


def check_vad_options(options: Any) -> SileroVadOptions | None:
    """Return the options of a streaming model.

    Raises:
        TypeError: `options` are something else.
    """
    if options is not None and not isinstance(options, SileroVadOptions):
        hint = _as_call("SileroVadOptions", options)
        raise TypeError(f"model_options must be SileroVadOptions for this model, not {options!r:.80}; {hint}")
    return options


def _as_call(name: str, options: object) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items()) if isinstance(options, dict) else "…"
    return f"write: {name}({given})"


def make(name: str, factory: Callable[[], T], *needed: str, kind: str) -> T:
    """Call `factory` for this connection, and check what it makes.

    Args:
        name: The name of the argument.
        factory: Its value.
        needed: Attributes that the result must have.
        kind: What the result must be, for the error.

    Raises:
        TypeError: `factory` is not a function, or makes something else.
    """
    if not callable(factory):
        raise TypeError(
            f"{name} must be a function that makes a {kind} for each connection, not {factory!r:.80}; "
            f"write: {name}=lambda: {type(factory).__name__}(…)"
        )
    made = factory()
    missing = [attribute for attribute in needed if not hasattr(made, attribute)]
    if missing:
        raise TypeError(f"{name} made {made!r:.80}, which is not a {kind}: it has no {missing[0]!r}; return a {kind}")
    return made


def make_detector(factory: Callable[[], TurnDetector]) -> TurnDetector:
    """The `TurnDetector` that ``detector=`` makes. Raises as `make`."""
    return make("detector", factory, "feed", "silence", "reset", "blocking", kind="TurnDetector")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
