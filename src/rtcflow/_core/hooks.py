"""Calling functions of the application that may be sync or async."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import anyio.to_thread

from .threads import run_sync


async def ask(hook: Callable[..., Any], *args: Any, abandon: bool = False) -> Any:
    """What a function of the application returns; a sync one runs in a worker thread. Always a checkpoint.

    Args:
        hook: A function, a coroutine function, an object with either as its ``__call__``, or a partial.
        *args: Its arguments.
        abandon: Whether cancelling this leaves a sync function running in its thread. Otherwise the cancellation waits
            until it returns.
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

    if abandon:
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        limiter = anyio.to_thread.current_default_thread_limiter()
        result, error = await run_sync(call, name=name, limiter=limiter)
    else:
        result, error = await anyio.to_thread.run_sync(call)
    if error is not None:
        raise error
    return await result if inspect.isawaitable(result) else result
