"""Tools out of annotated functions, and what a model may write to call them."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from rtcflow import agents
from rtcflow.agents import tool
from rtcflow.agents.tools import as_tool
from rtcflow.protocol.json_schema import BadArguments


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@tool(policy="finish_and_remember", timeout=5)
async def order(
    dish: Annotated[str, "what to bring"],
    number: int = 1,
    size: Size = Size.SMALL,
    extras: list[str] | None = None,
    where: Literal["here", "away"] = "here",
    prices: dict[str, float] | None = None,
    hot: bool = True,
) -> dict:
    """Order a dish.

    More for readers.
    """


def test_the_schema_says_what_the_function_takes():
    """Types, descriptions, defaults, what is required; as chat services take it."""
    schema = order.schema()
    assert schema["type"] == "function"
    function = schema["function"]
    assert function["name"] == "order"
    assert function["description"].startswith("Order a dish.")
    parameters = function["parameters"]
    assert parameters["required"] == ["dish"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["dish"] == {"type": "string", "description": "what to bring"}
    assert parameters["properties"]["number"] == {"type": "integer", "default": 1}
    assert parameters["properties"]["size"] == {"enum": ["s", "l"]}
    assert parameters["properties"]["where"] == {"enum": ["here", "away"], "default": "here"}
    assert parameters["properties"]["extras"]["anyOf"] == [
        {"type": "array", "items": {"type": "string"}},
        {"type": "null"},
    ]
    json.dumps(schema)
    assert (order.policy, order.timeout) == ("finish_and_remember", 5)


def test_arguments_are_read_as_annotated():
    """Enums become members, whole floats become ints, and nothing else is converted."""
    given = '{"dish": "soup", "number": 2.0, "size": "l", "extras": ["salt"], "prices": {"soup": 3}}'
    assert order.read_arguments(given) == {
        "dish": "soup",
        "number": 2,
        "size": Size.LARGE,
        "extras": ["salt"],
        "prices": {"soup": 3.0},
    }
    assert order.read_arguments('{"dish": "soup", "extras": null}')["extras"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "must be an object"),
        ("{}", "needs the argument 'dish'"),
        ('{"dish": 5}', "dish must be"),
        ('{"dish": "a", "number": "two"}', "number must be"),
        ('{"dish": "a", "number": true}', "number must be"),
        ('{"dish": "a", "number": 1.5}', "number must be"),
        ('{"dish": "a", "number": 1e999}', "number must be"),
        ('{"dish": "a", "number": NaN}', "number must be"),
        ('{"dish": "a", "size": "xl"}', "size must be"),
        ('{"dish": "a", "where": "there"}', "where must be"),
        ('{"dish": "a", "extras": [1]}', "extras must be"),
        ('{"dish": "a", "taste": 1}', "has no argument 'taste'"),
    ],
)
def test_what_does_not_fit_is_told_to_the_model(given, words):
    """The text says what would fit, so that the model can try again."""
    with pytest.raises(BadArguments, match=words):
        order.read_arguments(given)


@dataclass
class Order:
    dish: str


def unannotated(dish):
    pass


def unserializable(order: Order):
    pass


def bytes_(data: bytes):
    pass


def keyed_by_int(data: dict[int, str]):
    pass


def any_number(*dishes: str):
    pass


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unannotated, "does not say what 'dish' is"),
        (unserializable, "'order'.*which a model cannot give"),
        (bytes_, "which a model cannot give"),
        (keyed_by_int, "which a model cannot give"),
        (any_number, "named arguments"),
        (5, "must be a function or a Tool"),
    ],
)
def test_a_function_that_is_no_tool_is_refused_at_once(function, words):
    """When it is made, and not in the middle of a call; the text says what to write."""
    with pytest.raises(TypeError, match=words):
        as_tool(function)


def test_an_unknown_policy_is_refused():
    """The text names those there are."""
    with pytest.raises(ValueError, match="finish_and_speak"):
        tool(unannotated, policy="forget")


def test_the_layer_stays_small():
    """At most 1,500 lines, with everything: it is a thin layer over calls."""
    lines = sum(len(path.read_text().splitlines()) for path in Path(agents.__file__).parent.glob("*.py"))
    assert lines <= 1500
