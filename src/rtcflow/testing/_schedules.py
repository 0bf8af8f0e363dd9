"""Run one async scenario under many orders of its tasks, in virtual time.

    explore(scenario)                       # 100 orders on trio, 100 on asyncio
    explore(scenario, seeds=[17], backends=("trio",))   # one of them again

Bugs between a check and a wait show only in one order of the tasks, which a backend may never choose by itself.

Strategy: at each turn of the loop, a schedule decides for every task that could run whether it does, and in which
order. The others stay runnable, and are asked again at the next turn. The idea is from shuttle and loom for Rust, and
from Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010). So a task
may make several steps while another one makes none. The decisions of a schedule depend only on its seed. Callbacks of
asyncio keep their order, which asyncio promises. Time does not pass while a task is held back. A scenario in which
nothing can happen any more has lost a wake-up: virtual time jumps to the limit, and it fails at once.

Worker threads can be steered as well, as far as Python allows. A seed holds up the worker threads of rtcflow for some
milliseconds of virtual time, before lines of the modules that are given as `threads`. Tasks and other threads go on. A
thread is not held up while a lock of its objects is taken, because nothing else could go on then either. Python can
also switch threads between two bytecodes of one line, and in C code: these places are not steered.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from types import ModuleType
from typing import Final, TypeVar

import anyio

from ._room import refuse_in_a_loop
from ._tracing import Held
from .clocks import BackendName, VirtualTime, backend_with

__all__ = ["explore"]

T = TypeVar("T")

HELD: Final = (0.0, 0.25, 0.5, 0.8)
"""How likely a task is held back at one turn; a seed chooses one of them. Rare switches find other bugs than many."""


class Schedule:
    """Which of the tasks that could run do so at this turn, and in which order.

    Args:
        seed: The same seed decides the same.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._held = HELD[seed % len(HELD)]

    def choose(self, tasks: list[T]) -> tuple[list[T], list[T]]:
        """Those that run now, in order, and those that are held back; at least one runs."""
        self._random.shuffle(tasks)
        if len(tasks) < 2:
            return tasks, []
        run: list[T] = []
        held: list[T] = []
        for task in tasks:
            (held if self._random.random() < self._held else run).append(task)
        return (run, held) if run else (held[:1], held[1:])


def explore(
    scenario: Callable[[], Awaitable[object]],
    *,
    seeds: Iterable[int] = range(100),
    backends: Iterable[BackendName] = ("trio", "asyncio"),
    limit: float = 60.0,
    threads: Iterable[ModuleType] = (),
) -> None:
    """Run an async function under many orders of its tasks, in virtual time; the first failure is raised.

    The error has a note with the seed and the backend, and the line that runs the same order again.

    Args:
        scenario: An async function without arguments. It makes new objects for each run, and asserts what must hold.
        seeds: One order of tasks each. The first ones of a range differ the most.
        backends: ``"trio"``, ``"asyncio"``.
        limit: Seconds of virtual time within which the scenario ends.
        threads: Modules, before whose lines worker threads are held up.

    Raises:
        RuntimeError: An event loop runs in this thread already.
        TimeoutError: Under some order the scenario did not end within `limit`: it waits for what never comes.
        BaseException: What the scenario raised under some order, as it is.
    """
    refuse_in_a_loop("explore", "call it in a plain def, and give it the async function")
    numbers = list(seeds)
    if not numbers:
        raise ValueError("explore needs at least one seed, for example: seeds=range(100)")
    modules = list(threads)
    for backend in backends:
        for seed in numbers:
            try:
                with Held(modules, seed) if modules else nullcontext():
                    _run(scenario, Schedule(seed), backend, limit)
            except BaseException as error:
                error.add_note(
                    f"This happened with seed {seed} on {backend}. To run the same order of tasks again:\n"
                    f"    explore({getattr(scenario, '__name__', 'scenario')}, seeds=[{seed}], backends=({backend!r},))"
                )
                raise


def _run(scenario: Callable[[], Awaitable[object]], schedule: Schedule, backend: BackendName, limit: float) -> None:
    clock = VirtualTime()
    clock.schedule = schedule

    async def main() -> None:
        with anyio.move_on_after(limit) as scope:
            await scenario()
        if scope.cancelled_caught:
            raise TimeoutError(
                f"the scenario did not end within {limit:g} s of virtual time: something waits for what never comes"
            )

    name, options = backend_with(clock, backend)
    try:
        anyio.run(main, backend=name, backend_options=options)
    finally:
        clock.workers.end()
