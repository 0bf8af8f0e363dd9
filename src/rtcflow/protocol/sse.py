"""Server-sent events (the HTML standard, section 9.2): values of an application as text for an ``EventSource``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

MEDIA_TYPE: Final = "text/event-stream"

COMMENT: Final = b":\n\n"
"""A comment without meaning. It keeps a connection from looking idle to proxies."""


def encode_event(name: str, data: Any, number: int = 0) -> bytes:
    """One event; `data` is sent as JSON in one line.

    Args:
        name: What pages listen for; one line.
        data: See `plain`.
        number: If not 0, its id: browsers say which they saw last when they connect again (``Last-Event-ID``).
    """
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {name}\ndata: {text}\n\n".encode()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it. Tuples, sets and arrays become lists. Dataclasses become objects. Numbers that are
    not finite become null, since JSON has no such numbers. Other values become their ``str()``.

    Raises:
        ValueError: It contains itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise ValueError("the value is nested too deeply, or contains itself") from None


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case np.generic():
            return _plain(value.item())
        case np.ndarray():
            return _plain(value.tolist())
        case Mapping():
            return {str(name): _plain(part) for name, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)
