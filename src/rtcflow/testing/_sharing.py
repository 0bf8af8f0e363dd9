"""What copies of a handler share: what belongs to one call must not be among it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

import anyio
import numpy as np

from .._bridge import Event
from ..exceptions import HandlerError
from ..handlers.base import StreamHandlerBase

__all__ = ["Traces", "refuse_shared_state"]

_OF_ONE_CALL: Final = (
    queue.Queue,
    queue.SimpleQueue,
    deque,
    bytearray,
    Event,
    threading.Event,
    threading.Condition,
    threading.Thread,
    anyio.Event,
)
"""What only ever belongs to one call; other things (models, clients, settings) may be shared on purpose."""

_SNAPSHOTS: Final[dict[type, Callable[[Any], object]]] = {
    list: lambda items: [id(item) for item in items],
    set: lambda items: sorted(id(item) for item in items),
    dict: lambda items: [(id(key), id(value)) for key, value in items.items()],
    np.ndarray: lambda array: hash(array.tobytes()),
}
"""What shows, by type, that something was changed: other objects are in it, or other samples."""


def refuse_shared_state(
    first: StreamHandlerBase, second: StreamHandlerBase, what: str, shared: Collection[str] = ()
) -> None:
    """See that two handlers do not share what belongs to one call: queues, events, threads.

    Args:
        first: One handler.
        second: Another one.
        what: What made the second one, for the error.
        shared: Attributes that they share on purpose.

    Raises:
        HandlerError: They do share some, or are the same; the text says what to write.
    """
    if first is second:
        raise HandlerError(
            f"{what} gives the same handler each time, which would mix up calls; "
            f"write: return {type(first).__name__}(...)"
        )
    for name, value in _both_have(first, second, shared).items():
        if isinstance(value, _OF_ONE_CALL):
            raise HandlerError(
                f"{what} gives handlers that share .{name}, which would mix up calls; "
                f"in {type(first).__name__}.__init__ write: self.{name} = {_make(value)}"
            )


class Traces:
    """Looks whether a call changes lists, dicts, sets and arrays that all copies share.

    Args:
        first: The handler.
        second: Its copy, before the call.
        shared: Attributes that they share on purpose.
    """

    def __init__(self, first: StreamHandlerBase, second: StreamHandlerBase, shared: Collection[str] = ()) -> None:
        both = _both_have(first, second, shared)
        self._shared = {name: value for name, value in both.items() if type(value) in _SNAPSHOTS}
        self._before = {name: _SNAPSHOTS[type(value)](value) for name, value in self._shared.items()}

    def left(self) -> str | None:
        """What the call has changed, and what to write instead; None if it is nothing."""
        for name, value in self._shared.items():
            if _SNAPSHOTS[type(value)](value) != self._before[name]:
                return (
                    f"a call changed .{name}, which all copies share; make it in __init__ "
                    f"(or, if calls are to share it, say so: shared={{{name!r}}})"
                )
        return None


def _both_have(first: StreamHandlerBase, second: StreamHandlerBase, shared: Collection[str]) -> dict[str, Any]:
    """The attributes that are one object in both: of their classes, and their own."""
    theirs = _attributes(second)
    return {
        name: value for name, value in _attributes(first).items() if theirs.get(name) is value and name not in shared
    }


def _attributes(handler: StreamHandlerBase) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in reversed(type(handler).__mro__):
        if cls.__module__.partition(".")[0] not in {"builtins", "abc", "rtcflow"}:
            found |= {name: value for name, value in vars(cls).items() if not name.startswith("__")}
    return found | vars(handler)


def _make(value: object) -> str:
    kind = type(value)
    return f"{kind.__qualname__}()" if kind in {deque, bytearray, Event} else f"{kind.__module__}.{kind.__qualname__}()"
