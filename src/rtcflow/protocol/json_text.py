"""JSON from outside, read in one place. Pure.

`json.loads` raises RecursionError for text such as ``[[[[…``, and that is not a ValueError. A caller of `json.loads`
that forgets this lets strangers raise an error that nobody handles. So all JSON from outside is read by this module.
"""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """The value that `text` spells.

    Raises:
        ValueError: It is not JSON, or it is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_json(value: Any) -> None:
    """Check that a value of the application can be sent as JSON.

    Raises:
        TypeError: It cannot. JSON has no NaN and no infinity (RFC 8259 section 6), and no half of a surrogate pair.
    """
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(str(error)) from None


def scalar_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, as browsers send it (WHATWG Infra, "scalar value").

    JSON can spell a half of a pair, which has no form in UTF-8. So most of what is done with such a text would fail.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def read_json_object(text: str | bytes) -> dict[str, Any] | None:
    """The object that `text` spells; None for everything else."""
    try:
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
