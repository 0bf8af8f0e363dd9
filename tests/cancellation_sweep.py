"""Cancel a story at each of its steps, in every way a program can be cancelled, and look at what is left.

A *story* is a coroutine function that uses rtcflow as an application does, from nothing to nothing: it opens what it
needs and closes it again. A *step* is one run of any task of the story's event loop, between two of its awaits. The
story is told once undisturbed, to count its steps; then once for each step at which it shall be cancelled, every time
in an event loop of its own:

    scope     an `anyio.CancelScope` around it is cancelled
    native    ``task.cancel()`` of asyncio
    timeout   ``asyncio.timeout`` expires
    sigint    SIGINT comes (Ctrl-C); in a process of its own, which then has to exit

Whatever the step, the same must be true: the story ends in time, the right exception is seen outside, and no task,
thread or descriptor is left, and it says little. What only the story knows (is the slot free, was `shutdown` called
once) it adds with `Facts.expect`.

    async def call(facts: Facts) -> None:
        handlers = []
        facts.expect("each handler was shut down once", lambda: all(handler.shut_down == 1 for handler in handlers))
        ...

    def test_cancelled_at_every_step(backend, how):
        sweep(call, backend, how)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import inspect
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

BACKENDS = ("asyncio", "asyncio+uvloop", "trio")
KINDS = [
    (backend, how)
    for backend in BACKENDS
    for how in ("scope", "native", "timeout", "sigint")
    if backend != "trio" or how in {"scope", "sigint"}
]
"""Backends, and the ways in which a task is cancelled on each; for `pytest.mark.parametrize`."""

SAMPLED = [("asyncio", "scope"), ("asyncio", "native"), ("trio", "scope")]
"""Of these, the kinds that every run of the suite takes; the others, and every step of all, are for the night."""

LIMIT = 6.0
"""Seconds from the cancellation to the end of the story: `Timeouts.close`."""

LINES = 10
"""Lines that one cancelled story may log or print."""

_POOLS = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "pytest")


class Facts:
    """What a story wants to be true when it is over."""

    def __init__(self) -> None:
        self._expected: list[tuple[str, Callable[[], bool]]] = []

    def expect(self, what: str, is_true: Callable[[], bool]) -> None:
        """Have `is_true` asked when the story's event loop has ended."""
        self._expected.append((what, is_true))

    def missing(self) -> list[str]:
        """What is not as the story expects it."""
        return [f"not so: {what}" for what, is_true in self._expected if not is_true()]


Story = Callable[[Facts], Awaitable[object]]


@dataclass
class Telling:
    """How one telling of a story went.

    Attributes:
        step: At which it was to be cancelled; None if it was not.
        steps: How many steps it took.
        cancelled: Whether it lasted until that step.
        seconds: From the cancellation to its end.
        wrong: What is wrong.
    """

    step: int | None
    steps: int = 0
    cancelled: bool = False
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def sweep(
    story: Story | Sequence[Story],
    backend: str,
    how: str,
    *,
    points: int | None = None,
    limit: float = LIMIT,
    timeout: float = 300,
) -> list[Telling]:
    """Tell `story` once for each step at which it is cancelled; an AssertionError says at which steps what is wrong.

    Args:
        story: A module's function, so that another process finds it; or several of one module, told one after another.
        backend: One of `BACKENDS`.
        how: ``"scope"``, ``"native"``, ``"timeout"`` or ``"sigint"``.
        points: At how many steps, evenly spread, with the first ones among them; None: at each.
        limit: Seconds from the cancellation to the end of the story.
        timeout: Seconds for the whole of a ``"sigint"`` sweep's process.
    """
    stories = [story] if callable(story) else story
    if how == "sigint":
        told = _in_a_process(stories, backend, points, limit, timeout)
    else:
        told = [_sweep(one, backend, how, points, limit) for one in stories]
    for one, tellings in zip(stories, told, strict=True):
        wrong = [f"step {telling.step}: {what}" for telling in tellings for what in telling.wrong]
        name = getattr(one, "__name__", one)
        assert not wrong, f"{name} on {backend}, by {how}, at {len(tellings) - 1} steps:\n" + "\n".join(wrong)
        assert any(telling.cancelled for telling in tellings), f"{name} was over before the first step to cancel it at"
    return [telling for tellings in told for telling in tellings]


def _sweep(story: Story, backend: str, how: str, points: int | None, limit: float) -> list[Telling]:
    tell(story, backend, how, None, limit)  # what is imported and made once per process
    whole = tell(story, backend, how, None, limit)
    return [whole, *(tell(story, backend, how, step, limit) for step in spread(whole.steps, points))]


def spread(steps: int, points: int | None) -> Sequence[int]:
    """At which of `steps` steps to cancel: at each, or at `points` of them, half of these at the beginning."""
    if points is None or points >= steps:
        return range(1, steps + 1)
    first = range(1, points // 2 + 1)
    rest = points - len(first)
    return [*first, *(first[-1] + 1 + (steps - first[-1] - 1) * i // max(1, rest - 1) for i in range(rest))]


def tell(story: Story, backend: str, how: str, step: int | None, limit: float) -> Telling:
    """Run `story` in an event loop of its own, cancelled after `step` steps; and look at what is left."""
    telling, facts = Telling(step), Facts()
    threads, descriptors = _threads(), _descriptors()
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with contextlib.redirect_stderr(lines):
            try:
                _run(story, facts, telling, backend, how)
            except BaseException as error:
                if how != "sigint" or not _is_interrupt(error):
                    last = "".join(traceback.format_exception(error)).strip().splitlines()
                    telling.wrong.append("raised " + "\n    ".join(last[-12:]))
            gc.collect()  # what was never awaited or retrieved is told now
    finally:
        root.removeHandler(handler)
    telling.wrong += _left(threads, descriptors)
    telling.wrong += facts.missing()
    if telling.seconds > limit:
        telling.wrong.append(f"ended {telling.seconds:.1f} s after it was cancelled; at most {limit:g} s are allowed")
    text = lines.getvalue().splitlines()
    if len(text) > LINES or any("never awaited" in line or "never retrieved" in line for line in text):
        telling.wrong.append("said:\n    " + "\n    ".join(text[:40]))
    return telling


def _is_interrupt(error: BaseException) -> bool:
    """Whether this is Ctrl-C and nothing else. trio raises it in a task, so a story's own nursery makes it a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(KeyboardInterrupt)[1] is None
    return isinstance(error, KeyboardInterrupt)


def _run(story: Story, facts: Facts, telling: Telling, backend: str, how: str) -> None:
    steps = _Steps(telling.step)

    async def main() -> None:
        try:
            await _HOW[how](story, facts, steps)
        finally:
            telling.steps, telling.cancelled = steps.count, steps.done is not None
            if steps.done is not None:
                telling.seconds = time.monotonic() - steps.done
            steps.at = None
            if backend != "trio":
                telling.wrong += [f"left the task {task.get_name()}" for task in await _other_tasks()]

    name, _, library = backend.partition("+")
    if name == "trio":
        anyio.run(main, backend=name, backend_options={"instruments": [_instrument(steps)]})
    else:
        anyio.run(main, backend=name, backend_options={"loop_factory": lambda: _loop(steps, library)})


class _Steps:
    """Counts steps, and acts after one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count = at, 0
        self.act: Callable[[], object] | None = None
        self.done: float | None = None

    def step(self) -> None:
        if self.act is None:  # the story has not begun
            return
        self.count += 1
        if self.count == self.at:
            self.done = time.monotonic()
            self.act()


async def _by_scope(story: Story, facts: Facts, steps: _Steps) -> None:
    with anyio.CancelScope() as scope:
        steps.act = scope.cancel
        await story(facts)
        await _over(steps)
    _must_have_been_seen(steps, seen=scope.cancelled_caught)


async def _by_task(story: Story, facts: Facts, steps: _Steps) -> None:
    task = asyncio.current_task()
    assert task is not None
    steps.act = task.cancel
    seen = False
    try:
        await story(facts)
        await _over(steps)
    except asyncio.CancelledError:
        seen = True
        task.uncancel()
    _must_have_been_seen(steps, seen=seen)


async def _by_timeout(story: Story, facts: Facts, steps: _Steps) -> None:
    seen = False
    try:
        async with asyncio.timeout(None) as deadline:
            steps.act = lambda: deadline.reschedule(0)
            await story(facts)
            await _over(steps)
    except TimeoutError:
        seen = True
    _must_have_been_seen(steps, seen=seen)


async def _by_sigint(story: Story, facts: Facts, steps: _Steps) -> None:
    steps.act = lambda: signal.raise_signal(signal.SIGINT)
    seen = False
    try:
        await story(facts)
        await _over(steps)
    except BaseException:
        seen = True
        raise
    finally:
        if not seen:
            _must_have_been_seen(steps, seen=False)


_HOW = {"scope": _by_scope, "native": _by_task, "timeout": _by_timeout, "sigint": _by_sigint}


async def _over(steps: _Steps) -> None:
    """Count no further; a story that was cancelled in its last step hears of it here."""
    steps.act = None
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def _must_have_been_seen(steps: _Steps, *, seen: bool) -> None:
    if steps.done is not None and not seen:
        raise AssertionError("the cancellation was swallowed")
    if steps.done is None and seen:
        raise AssertionError("cancelled, but not by us")


# -- counting steps


def _instrument(steps: _Steps) -> Any:
    import trio

    class Counting(trio.abc.Instrument):
        def after_task_step(self, task: object) -> None:
            steps.step()

    return Counting()


def _loop(steps: _Steps, library: str) -> asyncio.AbstractEventLoop:
    """An event loop whose tasks tell of each of their steps."""

    class Stepping(asyncio.tasks._PyTask):  # the one in C cannot be looked into
        def _Task__step(self, exc: BaseException | None = None) -> None:
            super()._Task__step(exc)
            steps.step()

    loop: asyncio.AbstractEventLoop
    if library:
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.set_task_factory(lambda loop, coro, **options: Stepping(coro, loop=loop, **options))
    return loop


# -- what is left


async def _other_tasks() -> Iterable[asyncio.Task[Any]]:
    me = asyncio.current_task()
    for _ in range(50):
        if not (others := asyncio.all_tasks() - {me}):
            break
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
    return others


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(_POOLS)}


def _descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    folder = Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if not target.startswith("/"):
                kinds[target.split(":[")[0]] += 1
    return kinds


def _left(threads: set[threading.Thread], descriptors: Counter[str]) -> list[str]:
    deadline = time.monotonic() + 2.0
    while True:
        more = sorted(thread.name for thread in _threads() - threads)
        open_ones = _descriptors() - descriptors
        if not more and not open_ones:
            return []
        if time.monotonic() > deadline:
            left = [f"left the threads {more}"] if more else []
            return left + ([f"left open {dict(open_ones)}"] if open_ones else [])
        gc.collect()
        time.sleep(0.01)


# -- a process of its own


def _in_a_process(
    stories: Sequence[Any], backend: str, points: int | None, limit: float, timeout: float
) -> list[list[Telling]]:
    names = ",".join(story.__name__ for story in stories)
    command = [sys.executable, "-W", "error", __file__, inspect.getfile(stories[0]), names, backend]
    done = subprocess.run(
        [*command, str(points or 0), str(limit)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return [[Telling(**telling) for telling in tellings] for tellings in json.loads(done.stdout.splitlines()[-1])]


def _main(path: str, names: str, backend: str, points: str, limit: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["cancellation_sweep"] = sys.modules["__main__"]
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    stories = [getattr(module, name) for name in names.split(",")]
    told = [_sweep(story, backend, "sigint", int(points) or None, float(limit)) for story in stories]
    print(json.dumps([[asdict(telling) for telling in tellings] for tellings in told]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
