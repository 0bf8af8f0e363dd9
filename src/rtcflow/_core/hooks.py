"""Calling functions of the application that may be sync or async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import anyio.to_thread


async def ask(hook: Callable[..., Any], *args: Any) -> Any:
    """What a function of the application returns; a sync one runs in a worker thread. Always a checkpoint.

    It may be a function, a coroutine function, an object with either as its ``__call__``, or a partial.
    """
    await anyio.lowlevel.checkpoint()
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
        return await hook(*args)

    def call() -> tuple[Any, BaseException | None]:
        # In a tuple, since trio refuses functions that return coroutines: a callable object or a partial may. An error
        # is carried, too: asyncio throws it into the coroutine that waits, and a `GeneratorExit` would close that.
        try:
            return hook(*args), None
        except BaseException as error:  # noqa: BLE001  it is raised below
            return None, error

    result, error = await anyio.to_thread.run_sync(call)
    if error is not None:
        raise error
    return await result if inspect.isawaitable(result) else result
