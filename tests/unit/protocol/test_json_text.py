"""JSON from outside is read in one place, which knows that deep nesting is an error, too."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import rtcflow
from rtcflow.protocol.json_text import check_json, read_json, read_json_object, scalar_text

DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), "{", b"\xff\xfe\xfd", "", '{"a": 1'])
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    """Also text that is nested too deeply, for which Python raises RecursionError, and bytes that are not text."""
    with pytest.raises(ValueError, match=r"."):
        read_json(text)
    assert read_json_object(text) is None


def test_an_object_is_told_from_other_values() -> None:
    """An empty object is an object."""
    assert read_json('[1, "a"]') == [1, "a"]
    assert read_json_object('{"a": 1}') == {"a": 1}
    assert read_json_object(b"{}") == {}
    assert read_json_object("[1]") is None
    assert read_json_object("null") is None


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": "\ud83d"}, b"a", {1, 2}, {("a",): 1}])
def test_what_browsers_cannot_read_is_refused(value: object) -> None:
    """JSON has no NaN, no infinity, no half of a surrogate pair."""
    with pytest.raises(TypeError):
        check_json(value)
    check_json({"a": ["\U0001f600", 1.5, None]})


def test_halves_of_surrogate_pairs_become_one_character() -> None:
    """U+FFFD each; two that belong together are a character; all else is as it was."""
    assert scalar_text("a\ud83db\ude00") == "a\ufffdb\ufffd"
    assert scalar_text("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"
    for text in ("", "abc", "früh \U0001f600 \ufffd"):
        assert scalar_text(text) is text


def test_nothing_else_reads_json() -> None:
    """No other module has `json.loads`, except for messages between the nodes of a cluster, and answers of our own."""
    root = Path(rtcflow.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bjson\.loads?\(|\.raw_decode\(", path.read_text())
    }
    ours = {"cluster/slots.py", "cluster/members.py", "cluster/messages.py", "fastrtc/_stream.py"}
    assert users - ours == {"protocol/json_text.py"}
