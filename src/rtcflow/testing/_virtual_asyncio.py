"""Virtual time under asyncio: a loop whose `select` moves the clock instead of sleeping. And what stands for functions
of asyncio in the modules of a handler that is checked.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial, wraps
from types import CodeType, ModuleType
from typing import Any

import anyio.to_thread

from ._limits import HandlerLimits, place_of
from ._virtual_time import Decision, VirtualTime
from ._workers import watching


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time; for ``asyncio.Runner(loop_factory=VirtualLoop)``."""

    def __init__(self, virtual_time: VirtualTime | None = None) -> None:
        self.virtual_time = virtual_time or VirtualTime()
        self._in_executors = 0
        self._limiter: anyio.CapacityLimiter | None = None
        selector = _JumpingSelector(self.virtual_time)
        super().__init__(selector)
        self.virtual_time.attach(self._poke, self._threads_at_work, selector.awaited)

    def time(self) -> float:
        return self.virtual_time.now

    def create_task(self, coro: Any, *, context: contextvars.Context | None = None, **kwargs: Any) -> asyncio.Task[Any]:
        context = contextvars.copy_context() if context is None else context
        watching(self.virtual_time.workers, context)
        return super().create_task(coro, context=context, **kwargs)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        self._in_executors += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._executed)
        return future

    def _run_once(self) -> None:
        # The loop's own turn runs what is in `_ready`. With a schedule, some tasks are taken out for this turn. They
        # are back before the loop looks whether anything is left to do, so time does not pass while they wait.
        schedule = self.virtual_time.schedule
        ready: Any = vars(self)["_ready"]
        if schedule is None or len(ready) < 2:
            super()._run_once()  # type: ignore[misc]
            return
        tasks = [handle for handle in ready if _is_step(handle)]
        run, held = schedule.choose(list(tasks))
        places = iter(run)
        waiting = set(map(id, held))
        rest = [handle for handle in ready if id(handle) not in waiting]
        ready.clear()
        ready.extend(next(places) if _is_step(handle) else handle for handle in rest)
        super()._run_once()  # type: ignore[misc]
        ready.extendleft(reversed(held))

    def _write_to_self(self) -> None:
        # What other threads bring is in `_ready` by now. A loop that does not rest looks there by itself.
        self.virtual_time.workers.changed()

    def _executed(self, _: asyncio.Future[Any]) -> None:
        self._in_executors -= 1

    def _threads_at_work(self) -> int:
        if self._limiter is None:
            self._limiter = anyio.to_thread.current_default_thread_limiter()
        return int(self._limiter.borrowed_tokens) + self._in_executors

    def _poke(self) -> None:
        super()._write_to_self()  # type: ignore[misc]


def _is_step(handle: asyncio.Handle) -> bool:
    """Whether a handle is the next step of a task, and no callback, which has its place in the order."""
    callback: Any = getattr(handle, "_callback", None)
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


class _JumpingSelector(selectors.BaseSelector):
    """The system's selector, in whose `select` no time is spent while time can jump."""

    def __init__(self, virtual_time: VirtualTime) -> None:
        self._time = virtual_time
        self._selector = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._selector.select(0)
        if ready or timeout == 0:
            self._time.turn()
            return ready
        deadline = float("inf") if timeout is None else self._time.now + timeout
        if self._time.decide(deadline) is Decision.REST:
            return self._selector.select(None)
        return []

    def awaited(self) -> Collection[int]:
        files = self._selector.get_map()
        return [key.fd for key in files.values()] if len(files) > 1 else ()  # one is the loop's own

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


class Gathered(list[Any]):
    """What `asyncio.gather(..., return_exceptions=True)` gives back. To take an item of it is to look at it.

    Attributes:
        place: Where it was called.
        looked: Whether somebody has looked at it.
        errors: Those among the results.
    """

    def __init__(self, results: list[Any], place: str) -> None:
        super().__init__(results)
        self.errors = [one for one in results if isinstance(one, Exception)]
        self.place = place
        self.looked = False

    def __iter__(self) -> Iterator[Any]:
        self.looked = True
        return super().__iter__()

    def __getitem__(self, at: Any) -> Any:
        self.looked = True
        return super().__getitem__(at)


def names_of_asyncio(
    gathered: list[Gathered], limits: HandlerLimits, noting: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> dict[ModuleType, dict[str, Any]]:
    """What stands for functions of asyncio in a handler's modules: they note results and limits.

    Args:
        gathered: The results of `gather`, if errors may be among them.
        limits: The limits of `wait_for` that have run out.
        noting: Makes what stands for `sleep`.
    """

    async def noted(results: asyncio.Future[Any], place: str) -> Gathered:
        gathered.append(Gathered(await results, place))
        return gathered[-1]

    @wraps(asyncio.gather)
    def gather(*awaitables: Any, return_exceptions: bool = False) -> Any:
        results: Any = asyncio.gather(*awaitables, return_exceptions=return_exceptions)
        if not return_exceptions:
            return results
        return results.get_loop().create_task(noted(results, place_of(sys._getframe(1))))

    @wraps(asyncio.wait_for)
    async def wait_for(fut: Any, timeout: float | None) -> Any:
        begun, frame = limits.now(), sys._getframe(1)
        try:
            return await asyncio.wait_for(fut, timeout)
        except TimeoutError:
            if timeout is not None and limits.over(begun, timeout):
                limits.ran_out(begun, timeout, frame)
            raise

    return {asyncio: {"gather": gather, "wait_for": wait_for, "sleep": noting(asyncio.sleep)}}


def still_to_run(codes: Collection[CodeType]) -> str | None:
    """A timer or a task that the running loop still has, whose code is one of these; None under trio."""
    try:
        loop: Any = asyncio.get_running_loop()
    except RuntimeError:
        return None
    for timer in getattr(loop, "_scheduled", ()):
        callback = timer._callback
        while isinstance(callback, partial):
            callback = callback.func
        code = getattr(getattr(callback, "__func__", callback), "__code__", None)
        if code is not None and code in codes and not timer.cancelled():
            return f"a timer that calls {code.co_qualname}"
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        if code is not None and code in codes:
            return f"the task {code.co_qualname}"
    return None
