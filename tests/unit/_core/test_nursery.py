"""A nursery reports what its tasks raise, also where a task group can only tell when a task has ended."""

from __future__ import annotations

import anyio
import pytest

from rtcflow._core.nursery import Nursery

pytestmark = pytest.mark.anyio


async def test_every_error_of_tasks_that_leave_their_groups_open_is_reported() -> None:
    """Two tasks make this mistake: each is reported as it returns, and again as the nursery's own group sees it."""
    errors: list[BaseException] = []

    async def failed(error: BaseException) -> None:
        errors.append(error)

    async def leave_open() -> None:
        await anyio.create_task_group().__aenter__()

    nursery = Nursery(failed)

    def begin() -> None:
        nursery.start_soon(leave_open, name="one")
        nursery.start_soon(leave_open, name="two")

    async with anyio.create_task_group() as owner:
        owner.start_soon(nursery.run, begin)
        while nursery.running or not errors:
            await anyio.lowlevel.checkpoint()
        assert await nursery.wind_up(10)
    assert [type(error) for error in errors] == 4 * [RuntimeError]
