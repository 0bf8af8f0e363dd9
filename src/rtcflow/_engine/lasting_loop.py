"""The event loop of `rtcflow serve` on asyncio: it goes on when a task raises `SystemExit` or `KeyboardInterrupt`.

asyncio lets these two leave the loop from whatever task or callback raises them, and that ends every call. rtcflow
catches what a handler's method raises. But a handler may have a task group of its own, and a task in it may call
``sys.exit()``. trio gives that error to the task group, like any other error. Here asyncio does the same: the loop
stops, and is entered again. The task holds its error by then, so the code that waits for the task gets it.

The loop of another server (Uvicorn), or of an application that calls ``asyncio.run``, is not ours and stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from ..ends import describe_error, is_interrupt

logger: logging.Logger = logging.getLogger(__name__)


def lasting_loop(passing: type[BaseException], *, uvloop: bool) -> asyncio.AbstractEventLoop:
    """Make such a loop.

    Args:
        passing: Errors that leave it nevertheless, as Ctrl-C does.
        uvloop: Whether it is uvloop's, which must be installed then.
    """
    plain: Any
    if uvloop:
        import uvloop as other

        plain = other.Loop
    elif sys.platform == "win32":
        plain = asyncio.ProactorEventLoop
    else:
        plain = asyncio.SelectorEventLoop

    class Lasting(plain):  # type: ignore[misc]
        def run_until_complete(self, future: Any) -> Any:
            """Run until the future is done, whatever other tasks raise."""
            task: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)  # noqa: TID251 - awaited right here
            while True:
                try:
                    return super().run_until_complete(task)
                except (SystemExit, KeyboardInterrupt) as error:
                    if task.done() or isinstance(error, passing) or is_interrupt(error):
                        raise
                    logger.warning("a task raised %s; it ends only this task, not the server", describe_error(error))

    loop: asyncio.AbstractEventLoop = Lasting()
    return loop
