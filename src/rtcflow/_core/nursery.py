"""Task groups that can be ended, and begun again, while their owner goes on.

A plain ``async with create_task_group()`` holds up the task that opened it until its last child has ended. A connection
must not be held up: not by a handler that shields itself from cancellation, and not while its media ends and begins
again. So each nursery runs in a task of its own. This task is a child of a group that its owner can see. The owner only
asks it to end, and decides how long it waits for that.

Errors of tasks are reported to the connection, and never left to the group. A task group would wrap it. On asyncio it
would not even notice the `CancelledError` of a future that somebody had cancelled. To the group that looks like the end
of a task that it has cancelled itself. And `SystemExit` would leave asyncio's loop at once.

A task cannot be killed. A task that shields itself, or swallows its cancellation, ends when it likes. `wind_up` waits
for it for a limited time only, and cancels it again now and then. The cancel scope alone would cancel such a task at
each of its steps, and a loop that does nothing else holds up every call.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel

from ..ends import errors_in
from .guard import beside_cancellation
from .native import keep_count

TURNS: Final = 50
"""Turns of the loop for which a task that was cancelled is cancelled at each of its steps. A task that lets itself be
cancelled takes one or two for each block that it leaves."""

SOON: Final = 0.01
"""Seconds until a task that still runs then is cancelled again. This grows twofold each time, up to `EVERY`."""

EVERY: Final = 0.5
"""The most seconds between two cancellations of a task that has swallowed the first ones."""


class Nursery:
    """A task group in a task of its own.

    Args:
        failed: Awaited with what a task raised, and with a cancellation that asyncio itself brought about (somebody
            called `cancel` of the task). Not with the nursery's own cancellation.
        shield: Whether it goes on when the task that owns it is cancelled.

    Attributes:
        is_open: Whether tasks can be started in it now. A plain attribute, because loops ask at each frame.
        is_opening: Whether it was opened in another one, and its task has not run yet.
    """

    def __init__(self, failed: Callable[[BaseException], Awaitable[None]], *, shield: bool = False) -> None:
        self._failed = failed
        self._scope = anyio.CancelScope(shield=shield)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._running: dict[anyio.CancelScope, str | Nursery] = {}
        self._begun = False
        self._ended = anyio.Event()
        self.is_open: bool = False
        self.is_opening: bool = False

    @property
    def running(self) -> list[str]:
        """The names of its tasks that run now, and of those in nurseries that it holds."""
        names: list[str] = []
        for task in self._running.values():
            names.extend(task.running if isinstance(task, Nursery) else [task])
        return names

    async def run(self, begin: Callable[[], None]) -> None:
        """Be open until `cancel`, and then until the last task has ended; started once, as a task of its owner.

        Args:
            begin: Called first of all; starts the first tasks.
        """
        self.is_opening = False
        if self._scope.cancel_called:
            return
        self._begun = True
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    self.is_open = True
                    begin()
                    try:
                        await anyio.Event().wait()  # for ever. `sleep_forever` would leave a timer in asyncio's heap
                    finally:
                        keep_count(self._scope)
        except BaseExceptionGroup as errors:
            await self._report_disorder(errors)
        finally:
            self._tasks, self.is_open = None, False
            self._ended.set()

    async def _report_disorder(self, errors: BaseExceptionGroup[BaseException]) -> None:
        """Report errors that are found only when a task has ended, and raise all others again.

        A task that has left a task group of its own open has passed `_guarded` by then. Its error must not end the
        nursery's owner, which may be a server with other calls.
        """
        disorder, others = errors.split(RuntimeError)
        if disorder is not None:
            for error in errors_in(disorder):
                await self._failed(error)
        if others is not None:
            raise others

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a task, as a task group does.

        Raises:
            RuntimeError: The nursery is not open yet, or has ended.
        """
        shown = str(name or getattr(function, "__qualname__", function))
        self._start(shown, shown, function, *args)

    def open(self, inner: Nursery, begin: Callable[[], None], *, name: str) -> None:
        """Open another nursery in this one; `begin` starts its first tasks.

        Raises:
            RuntimeError: This nursery is not open yet, or has ended.
        """
        self._start(name, inner, inner.run, begin)
        inner.is_opening = True

    def _start(self, name: str, task: str | Nursery, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        if self._tasks is None:
            raise RuntimeError("this nursery is not open")
        self._tasks.start_soon(self._guarded, task, function, args, name=name)

    async def _guarded(
        self, task: str | Nursery, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]
    ) -> None:
        try:
            with anyio.CancelScope() as scope:
                self._running[scope] = task
                try:
                    await function(*args)
                finally:
                    del self._running[scope]
        except BaseException as error:
            found = beside_cancellation(error)
            if found is not None:
                await self._failed(found)
                return
            if anyio.current_effective_deadline() != -math.inf:
                await self._failed(error)
            raise

    def cancel(self) -> None:
        """Have every task cancelled, also in nurseries that it holds. Idempotent; in the loop's thread."""
        self.is_open = False
        self._scope.cancel()
        for task in list(self._running.values()):
            if isinstance(task, Nursery):
                task.cancel()

    async def wind_up(self, seconds: float) -> bool:
        """Cancel, and wait until nothing of it is left, but for no longer than `seconds`; whether nothing is left."""
        self.cancel()
        if not self._begun:
            return True
        with anyio.move_on_after(seconds):
            for _ in range(TURNS):
                if self._ended.is_set():
                    break
                await anyio.lowlevel.checkpoint()
            pause = SOON
            while not self._ended.is_set():
                self._show_cancellation(False)
                with anyio.move_on_after(pause):
                    await self._ended.wait()
                self._show_cancellation(True)
                pause = min(2 * pause, EVERY)
        return self._ended.is_set()

    def _show_cancellation(self, shown: bool) -> None:  # noqa: FBT001
        """Show its cancellation to the tasks that are left, which cancels them at once, or hide it from them."""
        for scope, task in list(self._running.items()):
            scope.shield = not shown
            if isinstance(task, Nursery):  # cancelling its owner has cancelled its group, and with it each of its tasks
                task._show_cancellation(shown)
