"""Virtual time, on both backends: a ten-minute call takes seconds, and every frame leaves at its exact deadline.

    anyio.run(main, backend=name, backend_options=options)      # name, options = virtual_backend("trio")

When no task and no worker thread can run any more, the clock jumps to the next deadline. rtcflow reports the worker
threads of sync handlers by itself.

`anyio.current_time()`, `handler.loop.time()`, and every sleep and timeout of the loop are virtual. `time.time()`,
`time.monotonic()`, sockets and `time.sleep()` ask the system and are not virtual. Time waits for a `time.sleep()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

import anyio.lowlevel

from .._core.moved import absent
from ._virtual_time import VirtualTime
from ._workers import PATIENCE, Stuck

__all__ = ["Stuck", "VirtualTime", "advance", "virtual_backend", "virtual_time"]

BackendName = Literal["trio", "asyncio"]


def virtual_backend(
    backend: BackendName = "trio", *, manual: bool = False, patience: float = PATIENCE
) -> tuple[str, dict[str, Any]]:
    """The name and options of a backend whose time is virtual: for `anyio.run`, portals, and anyio's pytest plugin.

    >>> name, options = virtual_backend("asyncio")
    >>> anyio.run(anyio.sleep, 3600, backend=name, backend_options=options)  # takes no time

    Args:
        backend: ``"trio"`` or ``"asyncio"``.
        manual: Time passes only through `advance`. Otherwise it passes by itself when nothing can run.
        patience: Real seconds for which time waits for a thread that computes or blocks, before it goes on without it.

    Returns:
        Options for one run: each run needs its own.

    Raises:
        ValueError: Another backend was named.
    """
    return backend_with(VirtualTime(manual=manual, patience=patience), backend)


def backend_with(time_: VirtualTime, backend: BackendName) -> tuple[str, dict[str, Any]]:
    """`virtual_backend` on a clock that is given."""
    if backend == "trio":
        from ._virtual_trio import VirtualClock

        return "trio", {"clock": VirtualClock(time_)}
    if backend == "asyncio":
        from ._virtual_asyncio import VirtualLoop

        return "asyncio", {"loop_factory": lambda: VirtualLoop(time_)}
    raise ValueError(
        f"no virtual time for backend {backend!r}: write virtual_backend('trio') or virtual_backend('asyncio'); "
        "uvloop keeps its own clock"
    )


def virtual_time() -> VirtualTime:
    """The running loop's virtual time.

    Raises:
        RuntimeError: The loop runs in real time.
    """
    token = anyio.lowlevel.current_token().native_token
    found = getattr(token, "virtual_time", None)  # VirtualLoop
    if found is None and hasattr(token, "run_sync_soon"):
        import trio

        found = getattr(trio.lowlevel.current_clock(), "virtual_time", None)  # VirtualClock
    if not isinstance(found, VirtualTime):
        raise RuntimeError(
            "this loop runs in real time; write: name, options = virtual_backend('trio'), then "
            "anyio.run(main, backend=name, backend_options=options)"
        )
    return found


async def advance(seconds: float) -> None:
    """Let `seconds` pass in a loop with manual virtual time (see `VirtualTime.advance`). A checkpoint."""
    await virtual_time().advance(seconds)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
