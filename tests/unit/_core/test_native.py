"""Cancellation by asyncio itself is never lost in a task group of rtcflow's."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from rtcflow._core.native import task_group


async def _tidy():
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await anyio.lowlevel.checkpoint()


async def _child():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tidy)
        await anyio.sleep_forever()


async def _left_with(group):
    """How often the task counts as cancelled when a cancelled block has left the group."""
    left = None

    async def main():
        nonlocal left
        try:
            async with group() as tasks:
                tasks.start_soon(_child)
                await anyio.sleep_forever()
        finally:
            left = asyncio.current_task().cancelling()

    task = asyncio.create_task(main())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return left


def test_a_task_that_asyncio_cancels_stays_cancelled():
    """A group of the child's own takes one cancellation too many back in anyio's group, and not in ours."""
    assert asyncio.run(_left_with(task_group)) == 1


@pytest.mark.anyio
async def test_a_cancel_scope_is_caught_where_it_belongs():
    """Nothing else is different from anyio's task group."""
    with anyio.move_on_after(0.01) as scope:
        async with task_group() as tasks:
            tasks.start_soon(_child)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with task_group() as tasks:
        tasks.start_soon(_child)
        tasks.cancel_scope.cancel()
    with pytest.raises(ExceptionGroup) as raised:
        async with task_group():
            raise ValueError("its own")
    assert isinstance(raised.value.exceptions[0], ValueError)
