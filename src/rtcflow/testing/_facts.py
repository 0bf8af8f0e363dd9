"""What a handler is told of the callers that are made up: `Context.custom`, as a telephone carrier fills it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

__all__ = ["TELEPHONE", "custom"]

TELEPHONE: Final[Mapping[str, str]] = {
    "carrier": "twilio",
    "call_id": "CA1",
    "stream_id": "MZ1",
    "caller": "+15550100",
    "callee": "+15550199",
}
"""What is known of every telephone call (docs/telephone.md). The numbers are fictitious: 555-01xx are kept for that."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

custom: ContextVar[Mapping[str, str]] = ContextVar("rtcflow_custom", default=_NOTHING)
"""Of all calls that begin, while a handler's contract is looked at: its methods may look at the caller's number."""
