"""Tools for a language model out of annotated functions: the schema, and the check of what a model wants to call.

Pure: nothing is called here. A schema is JSON Schema as chat services take it. Only what JSON can hold can be an
argument, and that is checked when the tool is made, not in the middle of a call.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from ..protocol.json_schema import BadArguments, read_value, schema_of
from ..protocol.json_text import read_json

__all__ = ["Policy", "Tool", "as_tool", "tool"]

Policy: TypeAlias = Literal["cancel", "finish_and_remember", "finish_and_speak"]
"""What happens to a tool that runs when its reply is interrupted.

``"cancel"``: it is cancelled, and its result says so. ``"finish_and_remember"``: it runs on, and its result is in the
context when the model is asked next. ``"finish_and_speak"``: the same, and the bot speaks about the result as soon as
neither side has the turn.
"""

POLICIES = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call.

    Attributes:
        function: It; ``async`` or not. One that is not async runs in a worker thread.
        name: What the model calls it.
        description: What the model is told of it.
        parameters: JSON Schema of its arguments.
        policy: What happens to it when its reply is interrupted.
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
            given = read_json(text or "{}")
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
        return {name: read_value(value, hints[name], name) for name, value in given.items()}


def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    policy: Policy = "cancel",
    timeout: float = 30.0,
) -> Any:
    """Make a `Tool` of an annotated function; also a decorator, with or without options.

    >>> from typing import Annotated
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
        if not callable(function):
            raise TypeError(f"a tool must be a function or a Tool, not {function!r:.80}")
        what = description or (inspect.getdoc(function) or "").strip()
        called = name or str(getattr(function, "__name__", type(function).__name__))
        return Tool(function, called, what, _parameters(function, called), policy, timeout)

    return make if function is None else make(function)


def as_tool(given: Any) -> Tool:
    """A `Tool`, or what `tool` makes of a function."""
    if isinstance(given, Tool):
        return given
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
        properties[name] = schema_of(hints[name], f"{called}: {name!r}")
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            try:
                json.dumps(parameter.default)
            except (TypeError, ValueError):
                continue  # the model need not know it
            properties[name]["default"] = parameter.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
