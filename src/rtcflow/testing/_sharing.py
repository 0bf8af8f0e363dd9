"""What copies of a handler share: what belongs to one call must not be among it."""

from __future__ import annotations

import gc
import inspect
import io
import logging
import queue
import threading
import wave
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextvars import Context, ContextVar
from copy import copy
from functools import lru_cache, partial
from operator import length_hint
from types import CodeType, FunctionType, GeneratorType, MethodType, ModuleType, NoneType
from typing import Any, Final

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._core.bridge import Event
from ..exceptions import HandlerError
from ..handlers.base import StreamHandlerBase

__all__ = ["SharedChanges", "own_functions", "pools", "refuse_shared_state"]

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
    MemoryObjectReceiveStream,
    MemoryObjectSendStream,
)
"""What only ever belongs to one call; other things (models, clients, settings) may be shared on purpose."""

_DEEP: Final = 4
"""How far into what is shared is looked for changes: a list in an object in a dict, and its items."""


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
        HandlerError: They share such things, or are the same object; the text says what to write.
    """
    if first is second:
        raise HandlerError(
            f"{what} gives the same handler each time, which would mix up calls; "
            f"write: return {type(first).__name__}(...)"
        )
    for name, value in _both_have(first, second, shared).items():
        on_purpose = f" (or, if calls are to share it, say so: shared={{{_top(name)!r}}})"
        if isinstance(value, tuple) and any(isinstance(item, _OF_ONE_CALL) for item in value):
            raise HandlerError(
                f"{what} gives handlers that share what is in .{name}, which would mix up calls; "
                f"make its items in {type(first).__name__}.__init__{on_purpose}"
            )
        if isinstance(value, _OF_ONE_CALL) and not _pooled(value):
            raise HandlerError(
                f"{what} gives handlers that share .{name}, which would mix up calls; "
                f"in {type(first).__name__}.__init__ write: self.{name} = {_make(value)}{on_purpose}"
            )


def _pooled(value: object) -> list[Any]:
    """What is in a pool: a queue with objects of the application, such as models, that calls take and give back."""
    items = list(value.queue if isinstance(value, queue.Queue) else value if isinstance(value, deque) else ())
    own = all(type(item).__module__.partition(".")[0] not in {"builtins", "numpy", "av", "rtcflow"} for item in items)
    return items if own else []


def pools(first: StreamHandlerBase, second: StreamHandlerBase, shared: Collection[str]) -> dict[str, list[int]]:
    """What is in the pools that two handlers share, by their attribute and in any order; but for those in `shared`."""
    both = _both_have(first, second, shared).items()
    return {name: sorted(map(id, items)) for name, value in both if (items := _pooled(value))}


class SharedChanges:
    """Looks whether a call changes what all copies share: lists, dicts, sets, arrays, and objects that hold them.

    It sees changed items, keys, samples and attributes (with or without ``__slots__``), and taken semaphores. It sees
    how far iterators have come, and files that are read. It sees attributes of the handler's class
    (``type(self).total += 1``), and variables of modules and closures that its methods use. It also sees the values
    with which functions that it holds were made. From the second call on it sees what functions with
    `functools.lru_cache` have returned.

    It does not see what C code keeps (a model's weights), what is more than `_DEEP` levels down, or two changes that
    undo each other. Nor does it see changes in objects from other packages, such as clients and models, because those
    are often shared on purpose. `check_handler` listens for these: does a call sound the same after any other?

    Args:
        first: The handler.
        second: Its copy, before the call.
        shared: Attributes that they share on purpose.
    """

    def __init__(self, first: StreamHandlerBase, second: StreamHandlerBase, shared: Collection[str] = ()) -> None:
        self._home = type(first).__module__.partition(".")[0]
        self._class, self._names = type(first), shared
        both = _both_have(first, second, shared).items()
        self._shared = {f".{name}": _held(value) if _top(name) in vars(first) else value for name, value in both}
        self._shared |= {name: value for name, value in _outside(type(first)) if name not in shared}
        # Objects of the application that are variables of its modules: places, counters, clients.
        outside = _outside(type(first), self._is_of_home) if self._home != "builtins" else ()
        self._around = {name: value for name, value in outside if name not in shared}
        self._all_around = dict(self._around)
        self._of_calls_before = self._of_calls()
        self._begin()
        self._cached = {name: value for name, value in _caches(type(first)) if name not in shared}

    def _begin(self) -> None:
        self._before = {name: self._look(value, _DEEP) for name, value in self._shared.items()}
        self._before_around = {name: self._look(value, _DEEP) for name, value in self._around.items()}
        self._of_class = self._class_attributes()

    def _of_calls(self) -> dict[int, tuple[str, object]]:
        """What belongs to one call, in lists, dicts and sets of the application's objects: where, and itself."""
        found: dict[int, tuple[str, object]] = {}

        def look(path: str, value: Any, depth: int) -> None:
            if type(value) in {list, set, dict, deque}:
                for item in [*value, *(value.values() if isinstance(value, dict) else ())]:
                    if callable(item) or isinstance(item, (*_OF_ONE_CALL, StreamHandlerBase)):
                        found[id(item)] = path, item
                    elif depth:
                        look(path, item, depth - 1)
            elif depth and self._is_of_home(value):
                for name, item in list(vars(value).items()) if isinstance(value, type) else _state(value):
                    look(f"{path}.{name}", item, depth - 1)

        for name, value in self._all_around.items():
            look(name, value, 2)
        for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]:
            for handler in getattr(logger, "handlers", ()):
                found[id(handler)] = f"the handlers of logging.getLogger({name!r})", handler
        return found

    def from_now(self) -> SharedChanges:
        """The same; changes count from now on."""
        later = copy(self)
        later._begin()
        return later

    def only_moved(self) -> bool:
        """Whether all that the calls have changed is the order of items, as in a list of what is free."""
        looks = [(self._look(value, _DEEP), self._before[name]) for name, value in self._shared.items()]
        looks += [(self._look(value, _DEEP), self._before_around[name]) for name, value in self._around.items()]
        return all(_in_any_order(now) == _in_any_order(before) for now, before in looks)

    def left(self) -> str | None:
        """What the call has changed, and what to write instead; None if it is nothing."""
        for name, value in self._shared.items():
            if self._look(value, _DEEP) != self._before[name]:
                return (
                    f"a call changed {name}, which all copies share; make it in __init__ "
                    f"(or, if calls are to share it, say so: shared={{{_top(name.removeprefix('.'))!r}}})"
                )
        now = self._class_attributes()
        for name in {**self._of_class, **now}:
            if now.get(name) is not self._of_class.get(name):
                return (
                    f"a call set .{name} of the class {self._class.__name__}, which all copies share; set it on self "
                    f"(or, if calls are to share it, say so: shared={{{name!r}}})"
                )
        return None

    def accept(self) -> bool:
        """A whole call is over: what it has changed around the handler is counted on purpose, and not looked at.

        Returns:
            Whether a second call is of use: something was left that belongs to a call, or functions have cached what
            they returned, which is looked at from now on.
        """
        self._of_calls_once = self._of_calls()
        for name, value in list(self._around.items()):
            if self._look(value, _DEEP) != self._before_around[name]:
                del self._around[name]
        cached, self._cached = self._cached, {}
        for name, function in cached.items():
            results = _results(function)
            self._shared[name] = [one for one in results if _is_changeable(one)]
            self._around[name] = [one for one in results if self._is_of_home(one)]
            self._before[name] = self._look(self._shared[name], _DEEP)
            self._before_around[name] = self._look(self._around[name], _DEEP)
        return bool(cached) or len(self._of_calls_once) > len(self._of_calls_before)

    def left_of_calls(self) -> str | None:
        """What one whole call after the other leaves in the application's objects, although it is of use in a call
        only: functions, queues, events, handlers; after `accept` and a second call.
        """
        now = self._of_calls()
        if not len(now) > len(self._of_calls_once) > len(self._of_calls_before):
            return None
        path = next(path for name, (path, _) in now.items() if name not in self._of_calls_once)
        return (
            f"each call leaves something of its own in {path}, such as a function, a queue or the handler: "
            "remove it in shutdown()"
        )

    def left_around(self) -> str | None:
        """As `left`, of the application's own objects that methods of the handler use; after `accept`."""
        for name, value in self._around.items():
            if self._look(value, _DEEP) != self._before_around[name]:
                return f"{name} is not as it was before: what a call takes must be given back, once, at every end"
        return None

    def _is_of_home(self, value: object) -> bool:
        one = value if isinstance(value, type) else type(value)
        mine = one.__module__.partition(".")[0] == self._home and not issubclass(one, StreamHandlerBase)
        return mine and not isinstance(value, FunctionType | ModuleType)

    def _class_attributes(self) -> dict[str, Any]:
        return {
            name: value
            for cls in reversed(_own_classes(self._class))
            for name, value in vars(cls).items()
            if not name.startswith("__") and name not in self._names and not name.startswith("_abc_")
        }

    def _look(self, value: Any, depth: int) -> object:
        """What is another value after a change; objects of other modules, and what is too deep, by their identity."""
        if isinstance(value, str | bytes | int | float | complex | None):
            return value
        if isinstance(value, np.ndarray):
            return hash(value.tobytes()) if value.nbytes < 2**24 else id(value)  # a model's weights are not looked at
        if depth == 0:
            return id(value)
        if pooled := _pooled(value):  # in any order
            return sorted(map(id, pooled))
        if isinstance(value, Mapping):
            return [(id(key), self._look(item, depth - 1)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [self._look(item, depth - 1) for item in value]
        if isinstance(value, AbstractSet):
            return sorted(id(item) for item in value)
        if isinstance(value, deque):
            return [self._look(item, depth - 1) for item in value]
        if isinstance(value, bytearray):
            return hash(bytes(value))
        if isinstance(value, threading.Semaphore):
            return id(value), vars(value)["_value"]
        if isinstance(value, anyio.Semaphore | anyio.CapacityLimiter):
            return id(value), getattr(value, "value", None), getattr(value, "borrowed_tokens", None)
        if isinstance(value, (io.IOBase, wave.Wave_read, GeneratorType, *_ITERATORS)):
            return id(value), _place(value)
        if isinstance(value, type) and depth == _DEEP:
            plain = [(name, item) for name, item in vars(value).items() if isinstance(item, int | float | list | dict)]
            return [(name, self._look(item, depth - 1)) for name, item in plain]
        home = type(value).__module__.partition(".")[0]
        if home == self._home and not isinstance(value, type | FunctionType | ModuleType):
            return id(value), [(name, self._look(item, depth - 1)) for name, item in _state(value)]
        return id(value)


def _in_any_order(look: object) -> object:
    return sorted(map(_in_any_order, look), key=repr) if isinstance(look, list | tuple) else look


_WALKED: Final[tuple[Any, ...]] = ((), [], "", b"", {}, range(0))
_ITERATORS: Final = tuple(type(iter(one)) for one in _WALKED)
"""Iterators that know how much is left. Others are not looked at: `itertools.count` numbers things for all calls."""


def _place(value: Any) -> object:
    """How far an iterator has come, or a file that is read. Files that are written to may be shared: logs."""
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        plain = (int, float, str, NoneType)
        return frame and (frame.f_lasti, [one for one in frame.f_locals.values() if isinstance(one, plain)])
    if isinstance(value, io.IOBase) and (value.closed or value.writable()):
        return None
    try:
        return length_hint(value) if isinstance(value, _ITERATORS) else value.tell()
    except (OSError, ValueError):  # it has no places, as a pipe
        return None


def _top(name: str) -> str:
    """The attribute in which ``name`` is found: ``config`` for ``config['state']``."""
    return name.partition("[")[0]


def _held(value: Any) -> Any:
    """What a function that a handler holds was made with, where changes are looked for; another value as it is."""
    if isinstance(value, partial):
        return (_held(value.func), *value.args, *value.keywords.values())
    if isinstance(value, MethodType):
        return (value.__self__,)
    if isinstance(value, FunctionType):
        return (*(item for _, item in _around(value)), *(value.__defaults__ or ()))
    return value


def _state(value: object) -> list[tuple[str, Any]]:
    """The attributes of an object, in its ``__dict__`` and in the ``__slots__`` of its classes."""
    slots = [slot for cls in type(value).__mro__ for slot in _names(getattr(cls, "__slots__", ()))]
    return [*getattr(value, "__dict__", {}).items(), *((slot, getattr(value, slot, None)) for slot in slots)]


def _names(slots: Any) -> list[str]:
    return [name for name in ([slots] if isinstance(slots, str) else list(slots)) if not name.startswith("__")]


def _outside(cls: type, wanted: Callable[[Any], bool] | None = None) -> Iterator[tuple[str, Any]]:
    """What the methods of a class, and functions of their module that these call, use from outside of it: variables of
    their module, and of the functions around.
    """
    wanted = wanted or _is_changeable
    functions = own_functions(cls)
    for function in functions:  # which grows meanwhile
        variables = function.__globals__
        for name in _used(function.__code__):
            value = _default_of(variables.get(name))
            if wanted(value):
                yield name, value
            if isinstance(value, FunctionType) and value.__globals__ is variables and value not in functions:
                functions.append(value)
        for name, value in _around(function):
            if wanted(value):
                yield name, value


def _default_of(value: Any) -> Any:
    """What a context variable is where nobody has set it; another value as it is."""
    if not isinstance(value, ContextVar):
        return value
    try:
        return Context().run(value.get)
    except LookupError:
        return None


def _caches(cls: type) -> Iterator[tuple[str, Any]]:
    """The functions with a cache that methods of a class use, or that are methods."""
    for one in _own_classes(cls):
        for name, member in vars(one).items():
            function = getattr(member, "__func__", member)
            if isinstance(function, _CACHE):
                yield f".{name}()", function
    for name, function in _outside(cls, lambda value: isinstance(value, _CACHE)):
        yield f"{name}()", function


_CACHE: Final = type(lru_cache(lambda: None))


def _results(function: Any) -> list[Any]:
    """What a function has cached. Python does not offer it, but its collector of garbage sees it."""
    found: list[Any] = []
    for one in gc.get_referents(function):
        if one is not vars(function):
            found += one.values() if isinstance(one, dict) else [one]
    return found


def _around(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables of the functions around `function` that it uses."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue


_CHANGEABLE: Final = (list, dict, set, deque, bytearray, np.ndarray)
"""What is looked for outside of the class. Objects of classes are not: a module's client is shared on purpose."""


def _is_changeable(value: object) -> bool:
    return isinstance(value, _CHANGEABLE)


def _used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def _both_have(first: StreamHandlerBase, second: StreamHandlerBase, shared: Collection[str]) -> dict[str, Any]:
    """The attributes that are one object in both: those of their classes, and their own. Also items of their dicts and
    lists that are one object, as a shallow copy leaves them.
    """
    theirs = _attributes(second)
    found: dict[str, Any] = {}
    for name, value in _attributes(first).items():
        if name not in shared:
            found |= _common(name, value, theirs.get(name), _DEEP)
    return found


def _common(name: str, first: Any, second: Any, depth: int) -> dict[str, Any]:
    if first is second:
        return {name: first}
    pairs: dict[Any, tuple[Any, Any]] = {}
    if depth and type(first) is type(second) is dict:
        pairs = {key: (first[key], second[key]) for key in first if key in second}
    elif depth and type(first) is type(second) is list:
        pairs = dict(enumerate(zip(first, second, strict=False)))
    found: dict[str, Any] = {}
    for key, (ours, theirs) in pairs.items():
        found |= _common(f"{name}[{key!r}]", ours, theirs, depth - 1)
    return found


def _attributes(handler: StreamHandlerBase) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in reversed(_own_classes(type(handler))):
        found |= {name: value for name, value in vars(cls).items() if not name.startswith("__")}
    return found | vars(handler)


def _own_classes(cls: type) -> list[type]:
    return [one for one in cls.__mro__ if one.__module__.partition(".")[0] not in {"builtins", "abc", "rtcflow"}]


def own_functions(cls: type) -> list[FunctionType]:
    """The methods that a class and its bases define, but for those of rtcflow."""
    members = [getattr(one, "__func__", one) for kind in _own_classes(cls) for one in vars(kind).values()]
    return [one for one in map(inspect.unwrap, members) if isinstance(one, FunctionType)]


def _make(value: object) -> str:
    kind = type(value)
    return f"{kind.__qualname__}()" if kind in {deque, bytearray, Event} else f"{kind.__module__}.{kind.__qualname__}()"
