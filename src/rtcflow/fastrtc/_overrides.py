"""Checks a user's class when it is made: nothing in it may be silently ignored."""

from __future__ import annotations

import inspect


def refuse_overrides(cls: type, not_called: dict[str, str]) -> None:
    """Refuse a class that overrides a method which nobody calls.

    Raises:
        TypeError: The class overrides one. The text names the method and what to write instead.
    """
    for name, instead in not_called.items():
        if name in vars(cls):
            raise TypeError(f"{cls.__qualname__}.{name} would never be called: {instead}")


def require_plain(cls: type, names: tuple[str, ...]) -> None:
    """Refuse a class in which one of these methods is ``async def``: they are called in worker threads.

    Raises:
        TypeError: One of the methods is ``async def``.
    """
    for name in names:
        if inspect.iscoroutinefunction(vars(cls).get(name)):
            raise TypeError(
                f"{cls.__qualname__}.{name} is async, but a worker thread calls it; write: def {name}(self, ...): ..."
            )
