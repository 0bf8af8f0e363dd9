"""What a handler holds at one moment: arrays, texts and lists in its attributes, queues and objects of its own."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from ..handlers.base import StreamHandlerBase

__all__ = [
    "AUDIBLE",
    "arrays_in",
    "backlogs_in",
    "is_audible",
    "queues_of",
    "resamplers_of",
    "root_of",
    "slots_of",
    "texts_in",
]

AUDIBLE: Final = 300
"""The level, in int16, above which audio can be heard."""


def queues_of(handler: StreamHandlerBase) -> dict[str, list[NDArray[Any]]]:
    """The arrays of audio that can be heard, by the attribute in which they wait."""
    waiting = {
        name: _arrays_in([value]).values()
        for name, value in vars(handler).items()
        if not name.startswith("_StreamHandler") and not isinstance(value, np.ndarray)
    }
    return {name: [array for array in arrays if is_audible(array)] for name, arrays in waiting.items()}


def is_audible(array: NDArray[Any]) -> bool:
    return array.dtype == np.int16 and bool(np.abs(array, dtype=np.int32).max(initial=0) > AUDIBLE)


def slots_of(handler: StreamHandlerBase) -> dict[str, NDArray[Any]]:
    """The attributes that hold one array of audio, or a tuple with one: the latest frame is often kept so. Objects of
    the application that the handler holds are looked through, too.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, value in _fields(handler):
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, np.ndarray) and one.size and one.ndim < 3 and one.dtype != np.uint8:  # no picture
                found[name] = one
    return found


def resamplers_of(handler: StreamHandlerBase) -> dict[str, av.AudioResampler]:
    """The attributes that hold a resampler of PyAV; those of objects of the application, too."""
    return {name: value for name, value in _fields(handler) if isinstance(value, av.AudioResampler)}


def _fields(handler: StreamHandlerBase) -> Iterator[tuple[str, Any]]:
    """The attributes of a handler, and those of objects of the application that it holds."""
    for name, value in list(vars(handler).items()):
        yield name, value
        if type(value).__module__ == type(handler).__module__:
            for inner, item in {**getattr(value, "__dict__", {}), **_slot_values(value)}.items():
                yield f"{name}.{inner}", item


def _slot_values(value: object) -> dict[str, Any]:
    return {name: getattr(value, name, None) for name in _slots(value)}


def arrays_in(handler: StreamHandlerBase) -> dict[int, NDArray[Any]]:
    """The arrays in a handler's own attributes, lists and queues, by identity; kept, so that none is used twice."""
    values = [value for name, value in vars(handler).items() if not name.startswith("_StreamHandler")]
    return _arrays_in(values, type(handler).__module__)


def texts_in(handler: StreamHandlerBase) -> list[str]:
    """The texts in a handler's own attributes, lists and queues."""
    values = [value for name, value in vars(handler).items() if not name.startswith("_StreamHandler")]
    return _found_in(values, str, type(handler).__module__)


def backlogs_in(handler: StreamHandlerBase) -> dict[str, list[Any]]:
    """What is in a handler's own lists and queues now, by their attribute."""
    found = {name: value.queue if isinstance(value, queue.Queue) else value for name, value in vars(handler).items()}
    return {name: list(value) for name, value in found.items() if isinstance(value, deque | list)}


def _arrays_in(values: list[Any], home: str = "") -> dict[int, NDArray[Any]]:
    """The arrays in lists, queues and streams, and in objects of the module `home`."""
    return {id(array): array for array in _found_in(values, np.ndarray, home)}


def _found_in(values: list[Any], kind: type, home: str) -> list[Any]:
    found: list[Any] = []

    def look(value: Any, depth: int) -> None:
        if isinstance(value, kind):
            found.append(value)
        elif depth and isinstance(value, list | tuple | deque):
            for item in list(value):
                look(item, depth - 1)
        elif depth and isinstance(value, dict):
            look(list(value.values()), depth)
        elif depth and type(value).__module__ in {"_queue", "queue", "asyncio.queues", "anyio.streams.memory", home}:
            names = [*getattr(value, "__dict__", {}), *_slots(value)]
            look([getattr(value, name, None) for name in names], depth - 1)

    look(values, 5)
    return found


def _slots(value: object) -> list[str]:
    found: list[str] = []
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return found


def root_of(array: NDArray[Any]) -> NDArray[Any]:
    """The array whose memory it shows: itself, if it is not a view of another one."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
