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
        self._failure: BaseException | None = None

    async def run(self, answer: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """``await answer(*args)`` where the calls run: here, or in the thread, which is started if necessary.

        Raises:
            BaseException: Why the stream cannot run, or what `answer` raises.
        """
        if self._calls.is_running and self._thread is None:
            return await answer(*args)
        return await anyio.to_thread.run_sync(self._call, answer, *args)

    def _call(self, answer: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._start()
        return self._portal.call(answer, *args)

    def _start(self) -> None:
        warnings.warn(
            "nothing runs this stream, so it runs in a thread of its own from its first offer on; to run it in your "
            "application's event loop, write: stream.mount(app), or in its lifespan: async with stream.running()",
            UserWarning,
            stacklevel=2,
        )
        started, self._failure = threading.Event(), None
        self._thread = threading.Thread(target=self._live, args=(started,), name="rtcflow-calls", daemon=True)
        self._thread.start()
        started.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            raise self._failure

    def _live(self, started: threading.Event) -> None:
        try:
            anyio.run(self._run, started)
        except BaseException as error:
            if started.is_set():
                raise
            self._failure = error  # it is raised in the thread that waits
        finally:
            started.set()

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
