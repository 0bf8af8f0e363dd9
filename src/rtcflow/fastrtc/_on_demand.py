"""Streams that nobody runs: FastRTC answers an offer in any route, without `mount` and without a lifespan.

A call needs a task group to live in. If the application gives none, the stream runs in an event loop of its own from
its first offer on. The loop is in a thread that lives as long as the process. One warning says how to have it in the
application's loop.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

from ..serving.calls import Calls


class OnDemand:
    """Runs the calls of one stream in a thread, if nobody else does.

    Args:
        calls: The calls.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: Any = None
        self._stop: anyio.Event | None = None

    async def run(self, answer: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """``await answer(*args)`` where the calls run: here, or in the thread, which is started if necessary."""
        if self._calls.is_running and self._thread is None:
            return await answer(*args)
        return await anyio.to_thread.run_sync(self._call, answer, *args)

    def _call(self, answer: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        with self._lock:
            if self._thread is None:
                self._start()
        return self._portal.call(answer, *args)

    def _start(self) -> None:
        warnings.warn(
            "nothing runs this stream, so it runs in a thread of its own from its first offer on; to run it in your "
            "application's event loop, write: stream.mount(app), or in its lifespan: async with stream.running()",
            UserWarning,
            stacklevel=2,
        )
        started = threading.Event()
        self._thread = threading.Thread(target=anyio.run, args=(self._run, started), name="rtcflow-calls", daemon=True)
        self._thread.start()
        started.wait()

    async def _run(self, started: threading.Event) -> None:
        self._stop = anyio.Event()
        async with self._calls.running(), anyio.from_thread.BlockingPortal() as self._portal:
            started.set()
            await self._stop.wait()

    def close(self) -> None:
        """End the thread and its calls; the next offer starts another. Does nothing if no thread runs."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None and self._stop is not None:
                self._portal.call(self._stop.set)
                thread.join()
