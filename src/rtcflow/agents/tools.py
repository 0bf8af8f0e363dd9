"""Tools for a language model out of annotated functions: the schema, and the check of what a model wants to call.

Pure: nothing is called here. A schema is JSON Schema as chat services take it. Only what JSON can hold can be an
argument, and that is checked when the tool is made, not in the middle of a call.
"""

from __future__ import annotations

import enum
import inspect
import json
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

__all__ = ["Policy", "Tool", "ToolCall", "as_tool", "tool"]

Policy: TypeAlias = Literal["cancel", "finish_and_remember", "finish_and_speak"]
"""What becomes of a tool that runs when its reply is interrupted.

``"cancel"``: it is cancelled, and its result says so. ``"finish_and_remember"``: it runs on, and its result is in the
context when the model is asked next. ``"finish_and_speak"``: the same, and the bot speaks about the result as soon as
neither side has the turn.
"""

POLICIES = get_args(Policy)
NAMED: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


class BadArguments(Exception):
    """A model called a tool with arguments that do not fit; the text is for the model."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model wants a tool to be called.

    Attributes:
        id: Names the call; unique within a conversation.
        name: Of the tool.
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        function: It; ``async`` or not. One that is not async runs in a worker thread.
        name: What the model calls it.
        description: What the model is told of it.
        parameters: JSON Schema of its arguments.
        policy: What becomes of it when its reply is interrupted.
        timeout: Seconds after which it is given up, with a result that says so.
    """

    function: Callable[..., Any]
    name: str
    description: str
    parameters: dict[str, Any]
    policy: Policy = "cancel"
    timeout: float = 30.0

    def schema(self) -> dict[str, Any]:
        """As chat services take it."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }

    def read_arguments(self, text: str) -> dict[str, Any]:
        """Check what a model wrote.

        Raises:
            BadArguments: It does not fit; the text says what would.
        """
        try:
            given = json.loads(text or "{}")
        except ValueError as error:
            raise BadArguments(f"the arguments are not JSON: {error}") from None
        if not isinstance(given, dict):
            raise BadArguments(f"the arguments must be an object, not {text:.80}")
        known = self.parameters["properties"]
        if unknown := sorted(set(given) - set(known)):
            raise BadArguments(f"{self.name} has no argument {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
        if missing := [name for name in self.parameters["required"] if name not in given]:
            raise BadArguments(f"{self.name} needs the argument {missing[0]!r}")
        hints = _hints(self.function)
        return {name: _read(value, hints[name], name) for name, value in given.items()}


def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    policy: Policy = "cancel",
    timeout: float = 30.0,
) -> Any:
    """Make a `Tool` of an annotated function; also a decorator, with or without options.

    >>> @tool(policy="finish_and_speak")
    ... def book(table: int, name: Annotated[str, "who comes"], terrace: bool = False) -> str:
    ...     "Book a table."
    >>> book.parameters["required"]
    ['table', 'name']

    Args:
        function: Its parameters are str, int, float, bool, None, list[…], dict[str, …], Literal[…], an Enum, or unions
            of them; ``Annotated[str, "…"]`` describes one. Its docstring tells the model what it does.
        name: What the model calls it; by default the function's name.
        description: In place of the docstring.
        policy: See `Policy`.
        timeout: Seconds after which it is given up.

    Raises:
        TypeError: A parameter is not annotated, or JSON cannot hold what it takes; the text names it.
        ValueError: There is no such policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(map(repr, POLICIES))}, not {policy!r}")

    def make(function: Callable[..., Any]) -> Tool:
        what = description or (inspect.getdoc(function) or "").strip()
        called = name or str(getattr(function, "__name__", type(function).__name__))
        return Tool(function, called, what, _parameters(function, called), policy, timeout)

    return make if function is None else make(function)


def as_tool(given: object) -> Tool:
    """A `Tool`, or what `tool` makes of a function."""
    if isinstance(given, Tool):
        return given
    if not callable(given):
        raise TypeError(f"a tool must be a function or a Tool, not {given!r:.80}")
    made = tool(given)
    assert isinstance(made, Tool)  # noqa: S101
    return made


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(inspect.unwrap(function), include_extras=True)


def _parameters(function: Callable[..., Any], called: str) -> dict[str, Any]:
    hints = _hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise TypeError(f"the tool {called} takes {parameter}: a model can only give named arguments")
        if name not in hints:
            raise TypeError(f"the tool {called} does not say what {name!r} is; write for example: {name}: str")
        properties[name] = _schema(hints[name], f"{called}: {name!r}")
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            try:
                json.dumps(parameter.default)
            except (TypeError, ValueError):
                continue  # the model need not know it
            properties[name]["default"] = parameter.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any, what: str) -> dict[str, Any]:
    """JSON Schema of what a parameter takes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        said = [note for note in arguments[1:] if isinstance(note, str)]
        return {**_schema(arguments[0], what), **({"description": said[0]} if said else {})}
    if isinstance(hint, type) and hint in NAMED:
        return {"type": NAMED[hint]}
    if hint is None:
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_schema(argument, what) for argument in arguments]}
    if hint is list or origin is list:
        return {"type": "array", **({"items": _schema(arguments[0], what)} if arguments else {})}
    if hint is dict or (origin is dict and arguments[0] is str):
        return {"type": "object", **({"additionalProperties": _schema(arguments[1], what)} if arguments else {})}
    raise TypeError(
        f"the tool {what} is {hint!r}, which a model cannot give: use str, int, float, bool, list, dict[str, …], "
        "Literal, an Enum, or a union of them"
    )


def _read(value: Any, hint: Any, name: str) -> Any:
    """`value` as `hint` says, or raise `BadArguments`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(value, arguments[0], name)
    if origin in {Union, types.UnionType}:
        for argument in arguments:
            try:
                return _read(value, argument, name)
            except BadArguments:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value in [member.value for member in hint]:
            return hint(value)
    elif hint is float or hint is int:
        if isinstance(value, int | float) and not isinstance(value, bool) and (hint is float or value == int(value)):
            return hint(value)
    elif hint is list or origin is list:
        if isinstance(value, list):
            return [_read(item, arguments[0], name) for item in value] if arguments else value
    elif hint is dict or origin is dict:
        if isinstance(value, dict):
            return {key: _read(item, arguments[1], name) for key, item in value.items()} if arguments else value
    elif (hint is None and value is None) or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise BadArguments(f"{name} must be {json.dumps(_schema(hint, name))}, not {json.dumps(value):.80}")
