"""The thread of a loop: calls into it, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import anyio
import pytest

from rtcflow._engine.loop_thread import Family, LoopThread


@pytest.mark.anyio
@pytest.mark.parametrize("use_uvloop", [False, None])
async def test_calls_run_in_the_room(use_uvloop: bool | None) -> None:
    """A call runs in the loop's thread, and what it returns or raises comes back."""
    thread = LoopThread(use_uvloop=use_uvloop)
    await thread.open()

    async def where(number: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        return threading.current_thread().name, number

    async def fail() -> None:
        raise KeyError("x")

    assert await thread.call(where, 3) == ("rtcflow engine", 3)
    with pytest.raises(KeyError):
        await thread.call(fail)
    await thread.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await thread.call(where, 3)
    with pytest.raises(anyio.ClosedResourceError):
        thread.post(print)
    await thread.aclose()


@pytest.mark.anyio
async def test_cancelling_a_call() -> None:
    """Cancelling a call cancels what it does, and returns only when that has ended."""
    thread = LoopThread()
    await thread.open()
    trace: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            trace.append("ended")
            raise

    with anyio.move_on_after(0.05) as scope:
        await thread.call(slow)
    assert scope.cancelled_caught
    assert trace == ["ended"]
    await thread.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closing_is_not_cut_short_by_native_cancellation() -> None:
    """Three times cancelled, `complete` and `aclose` do what they have to, and then the cancellation is heard."""
    thread = LoopThread()
    await thread.open()
    done: list[str] = []

    async def slow() -> None:
        await asyncio.sleep(0.05)
        done.append("slow")

    async def close() -> None:
        try:
            await thread.complete(slow)
        finally:
            await thread.aclose()
            done.append("closed")

    task = asyncio.get_running_loop().create_task(close())
    while not task.done():
        await asyncio.sleep(0.01)
        task.cancel()
    assert task.cancelled()
    assert done[:1] == ["slow"]
    assert not thread.is_open
    assert thread._thread is None


@pytest.mark.anyio
async def test_closing_a_room_that_is_being_opened() -> None:
    """Whoever gives up opening closes, and the thread ends although its loop did not run when it was told to."""
    thread = LoopThread()
    with anyio.move_on_after(0):
        await thread.open()
    await thread.aclose()
    assert thread._thread is None
    assert not thread.is_open


@pytest.mark.anyio
async def test_closing_during_a_call() -> None:
    """A call that runs when the thread is closed is cancelled, and raises ClosedResourceError."""
    thread = LoopThread()
    await thread.open()
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await thread.call(asyncio.sleep, 60)

        tasks.start_soon(call)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        await thread.aclose()


@pytest.mark.anyio
async def test_the_room_breaks() -> None:
    """An error that is nobody's ends the thread: those who wait are told, and aclose raises it."""
    thread = LoopThread()
    await thread.open()

    class Broken(BaseException):
        pass

    async def break_it() -> None:
        raise Broken

    with pytest.raises(anyio.ClosedResourceError):
        await thread.call(break_it)
    with pytest.raises(BaseExceptionGroup) as caught:
        await thread.aclose()
    assert caught.group_contains(Broken)


@pytest.mark.anyio
async def test_families() -> None:
    """Whatever is started on behalf of a family, by whomever, belongs to it; it hears of errors, and waits for all."""
    thread = LoopThread()
    await thread.open()
    errors: list[BaseException] = []
    trace: list[str] = []

    async def stray() -> None:
        await asyncio.sleep(0.05)
        trace.append("stray ended")
        raise ValueError("stray")

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("stuck was cancelled")

    async def parent() -> None:
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(stray()))
        asyncio.ensure_future(stuck())  # noqa: RUF006
        await asyncio.sleep(0)

    async def check() -> None:
        family = Family(errors.append)
        await thread.start_soon(parent(), family)
        thread.start_soon(asyncio.to_thread(lambda: 1 / 0), family)
        await family.wait(0.3)
        assert trace == ["stray ended", "stuck was cancelled"]

    await thread.call(check)
    assert sorted(type(error).__name__ for error in errors) == ["ValueError", "ZeroDivisionError"]
    await thread.aclose()


@pytest.mark.anyio
async def test_contexts_stay_outside() -> None:
    """Context variables of the caller are not seen in the thread."""
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("outside")
    thread = LoopThread()
    await thread.open()

    async def read() -> str:
        return variable.get()

    assert await thread.call(read) == "default"
    await thread.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("use_uvloop", [False, None])
async def test_a_socket_whose_opening_is_cancelled_is_closed(use_uvloop: bool | None) -> None:
    """Cancelled at any moment, `create_datagram_endpoint` leaves nothing open (uvloop's own leaves the socket)."""
    thread = LoopThread(use_uvloop=use_uvloop)
    await thread.open()

    class Endpoint(asyncio.DatagramProtocol):
        made = lost = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.made = True

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost = True

    async def cancel_after(turns: int) -> bool:
        endpoints: list[Endpoint] = []

        def make() -> Endpoint:
            endpoints.append(Endpoint())
            return endpoints[-1]

        loop = asyncio.get_running_loop()
        opening = loop.create_task(loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0)))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        (outcome,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(outcome, tuple):
            outcome[0].close()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(2):
            while any(endpoint.made and not endpoint.lost for endpoint in endpoints):
                await asyncio.sleep(0)
        return isinstance(outcome, asyncio.CancelledError)

    cancelled = [await thread.call(cancel_after, turns) for turns in range(6)]
    assert any(cancelled)
    await thread.aclose()
