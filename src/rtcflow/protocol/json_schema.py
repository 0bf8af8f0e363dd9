"""Arguments of tools: Python's annotations as JSON Schema, and JSON values read as the annotations say. Pure."""

from __future__ import annotations

import enum
import json
import sys
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

__all__ = ["BadArguments", "read_value", "schema_of"]

NAMED: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}

GREATEST: float = sys.float_info.max
"""Numbers beyond are refused, and so are infinity and NaN, which Python reads as JSON."""


class BadArguments(Exception):
    """A model called a tool with arguments that do not fit; the text is for the model."""


def schema_of(hint: Any, what: str) -> dict[str, Any]:
    """JSON Schema of what a parameter takes.

    Args:
        hint: Its annotation.
        what: Names it, for the error.

    Raises:
        TypeError: JSON cannot hold what it takes.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        said = [note for note in arguments[1:] if isinstance(note, str)]
        return {**schema_of(arguments[0], what), **({"description": said[0]} if said else {})}
    if isinstance(hint, type) and hint in NAMED:
        return {"type": NAMED[hint]}
    if hint is None:
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [schema_of(argument, what) for argument in arguments]}
    if hint is list or origin is list:
        return {"type": "array", **({"items": schema_of(arguments[0], what)} if arguments else {})}
    if hint is dict or (origin is dict and arguments[0] is str):
        return {"type": "object", **({"additionalProperties": schema_of(arguments[1], what)} if arguments else {})}
    raise TypeError(
        f"the tool {what} is {hint!r}, which a model cannot give: use str, int, float, bool, list, dict[str, …], "
        "Literal, an Enum, or a union of them"
    )


def read_value(value: Any, hint: Any, name: str) -> Any:
    """Read a value of JSON as `hint` says; an Enum's value becomes its member.

    Raises:
        BadArguments: It does not fit.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return read_value(value, arguments[0], name)
    if origin in {Union, types.UnionType}:
        for argument in arguments:
            try:
                return read_value(value, argument, name)
            except BadArguments:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value in [member.value for member in hint]:
            return hint(value)
    elif hint is float or hint is int:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and -GREATEST <= value <= GREATEST
        if is_number and (hint is float or value == int(value)):
            return hint(value)
    elif hint is list or origin is list:
        if isinstance(value, list):
            return [read_value(item, arguments[0], name) for item in value] if arguments else value
    elif hint is dict or origin is dict:
        if isinstance(value, dict):
            return {key: read_value(item, arguments[1], name) for key, item in value.items()} if arguments else value
    elif (hint is None and value is None) or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise BadArguments(f"{name} must be {json.dumps(schema_of(hint, name))}, not {json.dumps(value):.80}")
