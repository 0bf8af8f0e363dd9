"""Bounded queues between threads, tasks and backends."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from rtcflow._core.flow import MOST_IN_A_ROW, Flow, Policy


@pytest.mark.anyio
async def test_order_is_kept_from_thread_to_task():
    """Items put by a thread are taken by a task in the order in which they were put."""
    flow = Flow[int](5, Policy.BLOCK)

    def produce():
        for i in range(500):
            assert flow.put_sync(i, timeout=10)
        flow.end()

    taken = []
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.to_thread.run_sync, produce)
            with pytest.raises(anyio.EndOfStream):
                while True:
                    taken.append(await flow.take())
    assert taken == list(range(500))
    assert flow.statistics().most_waiting <= 5


@pytest.mark.anyio
async def test_order_is_kept_from_task_to_thread():
    """Items put by a task are taken by a worker thread in order, and the task waits at the bound."""
    flow = Flow[int](3, Policy.BLOCK)
    taken = []

    def consume():
        with pytest.raises(anyio.EndOfStream):
            while True:
                taken.append(flow.take_sync(timeout=10))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:
            tg.start_soon(anyio.to_thread.run_sync, consume)
            for i in range(300):
                await flow.put(i)
            flow.end()
    assert taken == list(range(300))
    assert flow.statistics().most_waiting <= 3


@pytest.mark.anyio
async def test_a_cancelled_take_loses_nothing():
    """An item put after a take was cancelled is given to the next take."""
    flow = Flow[str](1, Policy.BLOCK)
    async with anyio.create_task_group() as tg:
        tg.start_soon(flow.take)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    flow.put_nowait("item")
    with anyio.fail_after(120):
        assert await flow.take() == "item"


@pytest.mark.anyio
async def test_a_take_in_a_row_that_is_cancelled_as_an_item_comes_loses_nothing():
    """The item is in the hand of the one that took it, or still in the flow."""
    flow, taken = Flow[int](4, Policy.BLOCK), []

    async def take():
        taken.append(await flow.take_in_a_row())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        flow.put_nowait(1)
        tasks.cancel_scope.cancel()
    assert taken + flow.clear() == [1]


@pytest.mark.anyio
async def test_a_take_in_a_cancelled_scope_loses_nothing():
    """Taken under cancellation, an item that waits is either given or still there."""
    flow, got = Flow[int](3, Policy.BLOCK), []
    flow.put_nowait(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        got.append(await flow.take())
    assert len(got) + len(flow) == 1


@pytest.mark.anyio
async def test_a_take_cancelled_while_an_item_is_put_loses_nothing():
    """Cancelling in the very moment an item arrives leaves it either taken or waiting."""
    flow = Flow[str](1, Policy.BLOCK)
    got = []

    async def take():
        got.append(await flow.take())

    async with anyio.create_task_group() as tg:
        tg.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        flow.put_nowait("item")
        tg.cancel_scope.cancel()
    assert len(got) + len(flow) == 1


@pytest.mark.anyio
async def test_a_cancelled_put_puts_nothing():
    """A put that was cancelled while it waited for room did not put its item."""
    flow = Flow[int](1, Policy.BLOCK)
    await flow.put(1)
    async with anyio.create_task_group() as tg:
        tg.start_soon(flow.put, 2)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    assert await flow.take() == 1
    assert len(flow) == 0


@pytest.mark.anyio
async def test_a_put_that_is_cancelled_while_there_is_room_puts_nothing():
    """Its caller may try again, and the item must not be there twice. If it was put, nothing is raised."""
    flow = Flow[int](2, Policy.BLOCK)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await flow.put(1)
    assert scope.cancelled_caught
    assert flow.statistics().put == 0

    async def cancel():
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel)
            await flow.put(2)  # `cancel` runs in it
    assert not scope.cancelled_caught
    assert flow.take_nowait() == 2


@pytest.mark.anyio
async def test_two_takers_are_refused():
    """A second take at the same time is an error, not a race."""
    flow = Flow[int](1, Policy.BLOCK)
    async with anyio.create_task_group() as tg:
        tg.start_soon(flow.take)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await flow.take()
        tg.cancel_scope.cancel()


@pytest.mark.anyio
async def test_end_wakes_task_and_thread():
    """A task and a thread that wait for items are woken when the flow ends, and told how."""
    for wait in ("task", "thread"):
        flow = Flow[int](1, Policy.BLOCK)

        async def taker(flow: Flow[int] = flow, wait: str = wait):
            with pytest.raises(anyio.BrokenResourceError) as info:
                await (flow.take() if wait == "task" else anyio.to_thread.run_sync(flow.take_sync, 10))
            assert str(info.value.__cause__) == "gone"

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tg:
                tg.start_soon(taker)
                await anyio.sleep(0.01)
                flow.end(OSError("gone"))


@pytest.mark.anyio
async def test_a_full_flow_does_not_starve_the_loop():
    """Taking from a flow that never runs empty lets other tasks run."""
    flow = Flow[int](10, Policy.BLOCK)
    ran = []

    async def other():
        ran.append(True)

    async with anyio.create_task_group() as tg:
        tg.start_soon(other)
        for i in range(10):
            flow.put_nowait(i)
        for i in range(2 * (MOST_IN_A_ROW + 1)):  # trio may let this task go first, once
            await flow.take()
            flow.put_nowait(i)
        assert ran


def test_a_blocking_flow_that_is_full_says_so():
    """put_nowait into a full flow that drops nothing raises WouldBlock and changes nothing."""
    flow = Flow[int](1, Policy.BLOCK)
    flow.put_nowait(1)
    with pytest.raises(anyio.WouldBlock):
        flow.put_nowait(2)
    assert flow.put_sync(2, timeout=0.01) is False
    assert flow.take_nowait() == 1


def test_what_waits_can_be_taken_after_the_end_but_not_after_a_break():
    """end() lets what waits be taken; end(error) and close() drop it."""
    for finish, error in (
        (lambda flow: flow.end(), anyio.EndOfStream),
        (lambda flow: flow.end(OSError()), anyio.BrokenResourceError),
        (lambda flow: flow.close(), anyio.ClosedResourceError),
    ):
        flow = Flow[int](2, Policy.DROP_OLDEST)
        flow.put_nowait(1)
        finish(flow)
        if error is anyio.EndOfStream:
            assert flow.take_nowait() == 1
        with pytest.raises(error):
            flow.take_nowait()
        with pytest.raises(error):
            flow.take_sync(timeout=0)


def test_the_first_ending_counts():
    """A link that breaks after the peer had finished changes nothing."""
    flow = Flow[int](2, Policy.DROP_OLDEST)
    flow.put_nowait(1)
    flow.end()
    flow.end(OSError())
    assert flow.take_nowait() == 1
    with pytest.raises(anyio.EndOfStream):
        flow.take_nowait()


def test_a_bound_below_one_is_refused():
    """A flow that could hold nothing is refused with a sentence."""
    with pytest.raises(ValueError, match="at least 1"):
        Flow[int](0, Policy.BLOCK)


@given(bound=st.integers(1, 5), items=st.lists(st.integers(), max_size=30))
def test_drop_oldest_keeps_the_newest(bound, items):
    """A dropping flow holds the newest `bound` items, and counts the others."""
    flow = Flow[int](bound, Policy.DROP_OLDEST)
    for item in items:
        flow.put_nowait(item)
    kept = [flow.take_nowait() for _ in range(len(flow))]
    assert kept == items[-bound:]
    assert flow.statistics().dropped == max(0, len(items) - bound)


class FlowMachine(RuleBasedStateMachine):
    """put == taken + dropped + waiting, and never more than the bound, whatever is done in whatever order."""

    flows = Bundle("flows")

    def __init__(self):
        super().__init__()
        self.flow = Flow[int](3, Policy.DROP_OLDEST)
        self.model: list[int] = []
        self.over = False

    @rule(item=st.integers())
    def put(self, item):
        self.flow.put_nowait(item)
        if not self.over:
            self.model = [*self.model, item][-3:]

    @precondition(lambda self: self.model)
    @rule()
    def take(self):
        assert self.flow.take_nowait() == self.model.pop(0)

    @rule()
    def clear(self):
        assert self.flow.clear() == self.model
        self.model = []

    @rule(error=st.none() | st.builds(OSError))
    def end(self, error):
        self.flow.end(error)
        if error is not None and not self.over:
            self.model = []
        self.over = True

    @rule()
    def close(self):
        self.flow.close()
        self.model, self.over = [], True

    @invariant()
    def adds_up(self):
        figures = self.flow.statistics()
        assert figures.put == figures.taken + figures.dropped + figures.waiting
        assert figures.waiting == len(self.model) <= figures.bound
        assert figures.most_waiting <= figures.bound


TestFlowMachine = FlowMachine.TestCase


def test_many_threads_put_at_once():
    """Items put by several threads at once are all there, each thread's in its order."""
    flow = Flow[tuple[int, int]](4000, Policy.BLOCK)
    threads = [threading.Thread(target=lambda k=k: [flow.put_nowait((k, i)) for i in range(1000)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = [flow.take_nowait() for _ in range(4000)]
    for k in range(4):
        assert [i for who, i in items if who == k] == list(range(1000))
