"""What a stream tells its page: settings for microphone and camera, and the fields of the form for its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal, TypeAlias, get_args, get_origin

from ..handlers.base import StreamHandlerBase
from ..handlers.functions import VideoStreamHandler
from ..protocol.json_text import check_json

Value: TypeAlias = str | float | bool
"""What a field can hold."""

_FIRST: dict[Any, Value] = {int: 0, float: 0.0, bool: False}
"""What the field of a parameter without a default begins with, by its annotation; others are text to be filled in."""


@dataclass(frozen=True, slots=True)
class Field:
    """One argument.

    Attributes:
        name: What the user reads.
        value: What it is at first; None is text that the user must fill in.
        choices: The only values it may have, or ().
        limits: Least, greatest and step of a number, or None.
    """

    name: str
    value: Value | None = None
    choices: tuple[Value, ...] = ()
    limits: tuple[int, int, int] | None = None


def read_arguments(given: Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields that `given` describes, in its order.

    Args:
        given: For each name what it is at first: a text, a number or a bool. Or a list of the values it may have, the
            first of which it has; or a `range` of whole numbers.

    Raises:
        TypeError: It cannot be described in a form; the text says what is wrong.
        ValueError: A list or range is empty.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"arguments={given!r}; expected a dict such as {{'strength': 0.5, 'language': ['en', 'fr']}}")
    return tuple(_field(name, value) for name, value in given.items())


def arguments_of(handler: object, own: int) -> tuple[Field, ...]:
    """The fields for what a function takes after its `own` first parameters, by their defaults and annotations.

    They end before the first parameter whose default a form cannot hold; that parameter keeps its default. A handler
    that is not a function does not tell.
    """
    function = handler.callable if isinstance(handler, VideoStreamHandler) else handler
    if isinstance(function, StreamHandlerBase) or not callable(function):
        return ()
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError):  # annotations that cannot be looked up, built-in functions
        return ()
    parameters = [p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    return tuple(map(_field_of, takewhile(_has_field, parameters[own:])))


def read_settings(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings for pages, as JSON can carry them; `name` is what they are called in errors."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{name}={given!r}; expected a dict")
    settings = dict(given or {})
    try:
        check_json(settings)
    except TypeError as error:
        raise TypeError(f"{name} is sent to pages as JSON, and cannot be: {error}") from None
    return settings


def _field(name: Any, value: Any) -> Field:
    if not isinstance(name, str) or not name:
        raise TypeError(f"arguments: the name {name!r} must be a text")
    match value:
        case str() | bool() | int() | float():
            return Field(name, value)
        case range():
            if not value:
                raise ValueError(f"arguments: {name!r} has the empty {value!r}")
            least, greatest = sorted((value[0], value[-1]))
            return Field(name, value[0], limits=(least, greatest, abs(value.step)))
        case Sequence():
            if not value:
                raise ValueError(f"arguments: {name!r} has no value to choose from")
            if not all(isinstance(choice, str | int | float) for choice in value):
                raise TypeError(f"arguments: the choices of {name!r} must be texts and numbers, not {value!r}")
            return Field(name, value[0], tuple(value))
    raise TypeError(f"arguments: {name!r} is {value!r}; expected a text, a number, a bool, or a list of them")


def _has_field(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty or isinstance(parameter.default, str | int | float)


def _field_of(parameter: inspect.Parameter) -> Field:
    annotation, value = parameter.annotation, parameter.default
    if value is parameter.empty:
        value = _FIRST.get(annotation)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return Field(parameter.name, value if value in choices else choices[0], choices)
    return Field(parameter.name, value)
