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


def read_json_object(text: str | bytes) -> dict[str, Any] | None:
    """The object that `text` spells; None for everything else."""
    try:
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
