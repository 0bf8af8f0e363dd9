"""The loop of `rtcflow serve` on asyncio: whatever a task raises, the others go on."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial

import anyio
import pytest

from rtcflow._engine.lasting_loop import lasting_loop

LOOPS = [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows"))]


class Passing(SystemExit):
    """What this loop lets through."""


def run(main, *, uvloop):
    options = {"loop_factory": partial(lasting_loop, Passing, uvloop=uvloop)}
    return anyio.run(main, backend="asyncio", backend_options=options)


async def fail(error):
    raise error


@pytest.fixture
def sigint_taken():
    """As a server takes it: Ctrl-C raises nothing."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("uvloop", LOOPS)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.usefixtures("sigint_taken")
def test_a_task_that_exits_ends_its_task_group_only(error, uvloop, caplog):
    """The group raises it, as under trio. A task beside it misses nothing."""

    async def main():
        turns = 0

        async def beside():
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as others:
            others.start_soon(beside)
            with pytest.raises(BaseExceptionGroup) as info:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fail, error)
                    await anyio.sleep_forever()
            assert info.value.exceptions == (error,)
            before = turns
            while turns < before + 3:
                await anyio.lowlevel.checkpoint()
            others.cancel_scope.cancel()
        return "done"

    assert run(main, uvloop=uvloop) == "done"
    assert caplog.text.count(f"a task raised {type(error).__name__}") == 1


@pytest.mark.parametrize("uvloop", LOOPS)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.usefixtures("sigint_taken")
def test_a_task_group_of_asyncio_raises_the_exit_of_its_task(error, uvloop):
    """It raises the error alone. CPython 3.13 leaves the task that waited marked as cancelled."""

    async def main():
        with pytest.raises(type(error)):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail(error))
                await asyncio.Event().wait()
        return "done"

    assert run(main, uvloop=uvloop) == "done"


@pytest.mark.parametrize("uvloop", LOOPS)
def test_a_callback_that_exits_is_told(uvloop, caplog):
    """Nobody waits for a callback, so the log alone has its error. What was due beside it is called."""

    async def main():
        called = anyio.Event()
        loop = asyncio.get_running_loop()
        loop.call_soon(sys.exit, "over")
        loop.call_soon(called.set)
        await called.wait()
        return "done"

    with caplog.at_level(logging.WARNING):
        assert run(main, uvloop=uvloop) == "done"
    assert "a task raised SystemExit: over; it ends only this task, not the server" in caplog.text


@pytest.mark.parametrize("uvloop", LOOPS)
@pytest.mark.parametrize("error", [Passing(4), KeyboardInterrupt()], ids=["passing", "ctrl-c"])
def test_what_is_for_the_process_leaves_the_loop(error, uvloop):
    """The application's own exit, and Ctrl-C where it raises something."""

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail, error)
            await anyio.sleep_forever()

    with pytest.raises(type(error)):
        run(main, uvloop=uvloop)


@pytest.mark.parametrize("uvloop", LOOPS)
@pytest.mark.usefixtures("sigint_taken")
def test_what_the_main_task_raises_leaves_the_loop(uvloop):
    """Nothing is left that could go on."""
    with pytest.raises(SystemExit) as info:
        run(partial(fail, SystemExit(5)), uvloop=uvloop)
    assert info.value.code == 5
