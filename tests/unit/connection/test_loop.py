"""The loop handlers see: the same on asyncio, uvloop and trio, from its own thread and from others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from rtcflow._core.bridge import Event
from rtcflow.connection.handler_loop import HandlerLoop, Task
from rtcflow.context import Context, get_current_context, reset_current_context, set_current_context
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.testing import run_call

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


@asynccontextmanager
async def open_loop() -> AsyncIterator[HandlerLoop]:
    """A loop as a connection has it: cancelled, then closed."""
    async with anyio.create_task_group() as tg:
        loop = HandlerLoop(tg)
        yield loop
        tg.cancel_scope.cancel()
    loop.close()


async def in_worker(function: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(function)


async def in_foreign(function: Callable[[], Any]) -> Any:
    """Run `function` in a thread that nobody's library started, with an empty context."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def here(function: Callable[[], Any]) -> Any:
    return function()


every_thread = pytest.mark.parametrize("run", [here, in_worker, in_foreign])
other_threads = pytest.mark.parametrize("run", [in_worker, in_foreign])


async def double(x: int) -> int:
    await anyio.sleep(0)
    return 2 * x


async def fail() -> None:
    await anyio.sleep(0)
    raise ZeroDivisionError("as it is")


async def fail_at_once() -> None:
    raise ZeroDivisionError("as it is")


# -- run_coroutine_threadsafe, the way sync handlers go


@other_threads
async def test_run_coroutine_threadsafe_gives_the_result(run: Any) -> None:
    """asyncio's own function accepts the loop, and its future the result, on every backend."""
    async with open_loop() as loop:
        result = await run(lambda: asyncio.run_coroutine_threadsafe(double(21), loop).result(30))
    assert result == 42


@other_threads
@pytest.mark.parametrize("coroutine", [fail, fail_at_once])
async def test_run_coroutine_threadsafe_delivers_the_exception_and_nothing_ends(run: Any, coroutine: Any) -> None:
    """The caller that asks for the result gets the exception, and nobody else: the task group lives on."""
    async with open_loop() as loop:
        with pytest.raises(ZeroDivisionError, match="as it is"):
            await run(lambda: asyncio.run_coroutine_threadsafe(coroutine(), loop).result(30))
        assert await loop.create_task(double(1)) == 2


def settled(task: Any) -> bool:
    """Wait in a thread until the loop has finished with a task: its error is in the task group, or is not."""
    done = threading.Event()
    task.add_done_callback(lambda _: task.get_loop().call_soon(done.set))
    return done.wait(30)


@other_threads
@pytest.mark.parametrize("coroutine", [fail, fail_at_once])
async def test_the_loops_own_run_coroutine_threadsafe_delivers_an_exception_that_comes_first(
    run: Any, coroutine: Any
) -> None:
    """The loop may be faster than the thread that asks: the exception is still the thread's alone."""
    async with open_loop() as loop:

        def ask() -> None:
            task = loop.run_coroutine_threadsafe(coroutine(), name="asked")
            assert settled(task)
            assert task.get_name() == "asked"
            task.result()

        with pytest.raises(ZeroDivisionError, match="as it is"):
            await run(ask)
        assert await run(lambda: loop.run_coroutine_threadsafe(double(21)).result(30)) == 42


async def test_an_exception_that_comes_as_a_thread_begins_to_ask_is_the_threads_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop decides whose the exception is when it is there, and not a moment before."""
    asked: list[threading.Thread] = []
    raised: list[BaseException] = []
    set_exception = Task.set_exception

    def ask(task: Any) -> None:
        try:
            task.result()
        except ZeroDivisionError as error:
            raised.append(error)

    def slowly(self: Any, error: BaseException) -> None:
        thread = threading.Thread(target=ask, args=(self,))
        thread.start()
        asked.append(thread)
        while not self._waiting:
            time.sleep(0)
        set_exception(self, error)

    monkeypatch.setattr(Task, "set_exception", slowly)
    async with open_loop() as loop:
        task = loop.create_task(fail())
        while not task.done():
            await anyio.sleep(0)
        await double(1)
    for thread in asked:
        await anyio.to_thread.run_sync(thread.join)
    assert [type(error) for error in raised] == [ZeroDivisionError]


async def test_an_exception_that_a_thread_no_longer_waits_for_ends_the_connection() -> None:
    """`result(timeout)` that has timed out has not taken it."""
    go_on = anyio.Event()

    async def later() -> None:
        await go_on.wait()
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_loop() as loop:
            task = loop.create_task(later())
            with pytest.raises(TimeoutError):
                await in_worker(lambda: task.result(0))
            go_on.set()
            await anyio.sleep_forever()


async def test_cancelling_the_future_of_another_thread_cancels_the_coroutine() -> None:
    """The cancellation of run_coroutine_threadsafe's future reaches the coroutine."""
    stopped = anyio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with open_loop() as loop:
        future = await in_worker(lambda: asyncio.run_coroutine_threadsafe(wait(), loop))
        await anyio.wait_all_tasks_blocked()
        assert future.cancel()
        with anyio.fail_after(30):
            await stopped.wait()


async def test_a_thread_that_waits_is_let_go_at_the_end() -> None:
    """When the connection ends, result() in a worker thread raises instead of waiting for ever."""
    raised: list[BaseException] = []

    async with anyio.create_task_group() as tg:
        async with open_loop() as loop:

            def ask() -> None:
                try:
                    asyncio.run_coroutine_threadsafe(anyio.sleep_forever(), loop).result(30)
                except BaseException as error:
                    raised.append(error)

            tg.start_soon(anyio.to_thread.run_sync, ask)
            while not loop._pending:
                await anyio.sleep(0.001)
    assert [type(error) for error in raised] == [concurrent.futures.CancelledError]


async def test_a_future_that_nobody_will_set_is_let_go_at_the_end() -> None:
    """create_future()'s waiters in threads get CancelledError when the connection ends."""
    async with open_loop() as loop:
        future = loop.create_future()
        assert not future.done()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


# -- tasks


@every_thread
async def test_tasks_are_made_from_any_thread_and_awaited(run: Any) -> None:
    """create_task runs the coroutine in the loop's thread, and its result can be awaited."""

    async def where() -> int:
        return threading.get_ident()

    async with open_loop() as loop:
        task = await run(lambda: loop.create_task(where(), name="where"))
        assert await task == threading.get_ident()
        assert await task == threading.get_ident()
        assert (task.done(), task.cancelled(), task.exception(), task.get_name()) == (True, False, None, "where")
        assert task.result() == threading.get_ident()
        assert task.get_loop() is loop


async def test_an_exception_that_is_awaited_is_delivered_there() -> None:
    """`await task` raises what the coroutine raised, and the connection lives on."""
    async with open_loop() as loop:
        with pytest.raises(ZeroDivisionError, match="as it is"):
            await loop.create_task(fail())
        assert not loop.is_closed()


async def test_an_exception_that_nobody_awaits_ends_the_connection() -> None:
    """It leaves through the task group, bare in its group, like any child's."""
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_loop() as loop:
            loop.create_task(fail())
            await anyio.sleep_forever()


async def test_a_callback_that_looks_away_does_not_take_the_exception() -> None:
    """add_done_callback(tasks.discard) is bookkeeping: the exception still ends the connection."""
    tasks: set[Any] = set()
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_loop() as loop:
            task = loop.create_task(fail())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await anyio.sleep_forever()
    assert not tasks


async def test_a_callback_that_asks_takes_the_exception() -> None:
    """A done callback that calls exception() has it, and the connection lives on."""
    seen: list[Any] = []
    async with open_loop() as loop:
        task = loop.create_task(fail())
        task.add_done_callback(lambda done: seen.append((done.exception(), threading.get_ident())))
        while not seen:
            await anyio.sleep(0)
        assert task.done()
    assert isinstance(seen[0][0], ZeroDivisionError)
    assert seen[0][1] == threading.get_ident()


async def test_cancelling_a_task() -> None:
    """cancel() stops the coroutine at its await; who awaits it then sees CancelledError; it says so itself."""
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await anyio.sleep_forever()
        finally:
            cleaned = True

    async with open_loop() as loop:
        task = loop.create_task(work())
        await anyio.wait_all_tasks_blocked()
        assert task.cancel()
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await task
        assert task.cancelled()
        assert cleaned
        assert not task.cancel()
        assert not loop.is_closed()
        # Before it ran a single step: then it never does.
        early = loop.create_task(work())
        early.cancel()
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await early


async def test_a_coroutine_that_meets_a_cancelled_future_ends_cancelled_alone() -> None:
    """Awaiting what was cancelled cancels the one who awaits, as in asyncio, and nobody else."""
    async with open_loop() as loop:
        future = loop.create_future()
        future.cancel()

        async def meet() -> None:
            try:
                await future
            except concurrent.futures.CancelledError:  # trio
                return

        task = loop.create_task(meet())
        while not task.done():
            await anyio.sleep(0)
        assert await loop.create_task(double(2)) == 4


async def test_cancelling_the_one_who_awaits_cancels_what_is_awaited() -> None:
    """As in asyncio: a timeout around `await task` stops the task."""
    async with open_loop() as loop:
        task = loop.create_task(anyio.sleep_forever())
        with anyio.move_on_after(0.01) as scope:
            await task
        assert scope.cancelled_caught
        while not task.done():
            await anyio.sleep(0)
        assert task.cancelled()


async def test_result_of_an_unfinished_task_does_not_block_the_loop() -> None:
    """In the loop's thread result() and exception() refuse to wait, and show what to write."""
    async with open_loop() as loop:
        task = loop.create_task(anyio.sleep_forever())
        for ask in (task.result, task.exception):
            with pytest.raises(concurrent.futures.InvalidStateError, match="await future"):
                ask()
        with pytest.raises(TimeoutError):
            await in_worker(lambda: task.result(0.01))


async def test_what_is_no_coroutine_is_refused() -> None:
    """create_task(function) instead of create_task(function()) is named."""
    async with open_loop() as loop:
        with pytest.raises(TypeError, match=r"create_task\(work\(\)\)"):
            loop.create_task(double)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"run_coroutine_threadsafe\(work\(\)\)"):
            loop.run_coroutine_threadsafe(double)  # type: ignore[arg-type]


async def test_tasks_after_the_end_come_cancelled() -> None:
    """Nothing runs after the end; the coroutine is closed, with no warning, and whoever waits is let go."""
    async with open_loop() as loop:
        pass
    task = loop.create_task(double(1))
    assert task.cancelled()
    told = anyio.Event()
    task.add_done_callback(lambda _: told.set())
    with anyio.fail_after(30):
        await told.wait()
    assert loop.create_future().cancelled()
    with pytest.raises(RuntimeError, match="the connection has ended"):
        loop.call_soon_threadsafe(print)


async def test_on_asyncio_the_running_loop_is_still_there(anyio_backend_name: str) -> None:
    """Coroutines of handlers may use asyncio's own loop, tasks and timeouts on asyncio."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio only")

    async def native() -> int:
        async with asyncio.timeout(5):
            assert asyncio.get_running_loop().is_running()
            inner = asyncio.get_running_loop().create_task(double(4))
            return await inner + sum(await asyncio.gather(loop.create_task(double(1)), double(2)))

    async with open_loop() as loop:
        assert await loop.create_task(native()) == 14
        assert await asyncio.wait_for(loop.create_task(double(3)), 5) == 6
        task = loop.create_task(anyio.sleep_forever())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- callbacks


@every_thread
async def test_callbacks_run_in_the_loops_thread_in_order(run: Any) -> None:
    """call_soon and call_soon_threadsafe keep their order, from whatever thread."""
    ran: list[Any] = []
    done = anyio.Event()
    async with open_loop() as loop:

        def schedule() -> None:
            loop.call_soon(ran.append, 1)
            loop.call_soon_threadsafe(ran.append, 2)
            loop.call_later(60, ran.append, 3).cancel()
            loop.call_soon_threadsafe(lambda: ran.append(threading.get_ident()))
            loop.call_soon_threadsafe(done.set)

        await run(schedule)
        await done.wait()
    assert ran == [1, 2, threading.get_ident()]


@every_thread
async def test_timers_fire_when_due_and_can_be_called_off(run: Any) -> None:
    """call_later and call_at keep their time; cancel() from any thread stops them."""
    fired: list[tuple[str, float]] = []
    async with open_loop() as loop:

        def schedule() -> float:
            now = loop.time()
            loop.call_later(0.02, lambda: fired.append(("early", loop.time() - now)))
            loop.call_at(loop.time() + 0.04, lambda: fired.append(("late", loop.time() - now)))
            off = loop.call_later(0.2, fired.append, ("never", 0.0))
            assert now + 0.199 < off.when() < now + 1
            off.cancel()
            assert off.cancelled()
            return now

        now = await run(schedule)
        assert now <= loop.time()
        assert loop.time() == pytest.approx(anyio.current_time(), abs=0.1)
        with anyio.fail_after(30):
            while len(fired) < 2 or loop.time() < now + 0.25:
                await anyio.sleep(0.005)
    assert [name for name, _ in fired] == ["early", "late"]
    assert fired[0][1] >= 0.0199
    assert fired[1][1] >= 0.0399


async def test_timers_do_not_outlive_the_connection() -> None:
    """A timer that is not due at the end never fires, and does not keep the connection."""
    fired: list[int] = []
    async with open_loop() as loop:
        loop.call_later(0.01, fired.append, 1)
    await anyio.sleep(0.03)
    assert not fired


@pytest.mark.parametrize("schedule", ["call_soon", "call_later", "foreign"])
async def test_the_exception_of_a_callback_ends_the_connection(schedule: str) -> None:
    """Nobody else could have it."""

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_loop() as loop:
            if schedule == "call_soon":
                loop.call_soon(broken)
            elif schedule == "call_later":
                loop.call_later(0.001, broken)
            else:
                await in_foreign(lambda: loop.call_soon_threadsafe(broken))
            await anyio.sleep_forever()


async def test_callbacks_scheduled_before_the_end_still_run_and_their_errors_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who waits for such a callback in a thread is not left waiting."""
    ran = anyio.Event()

    def broken() -> None:
        ran.set()
        raise ZeroDivisionError

    async with open_loop() as loop:
        pass
    loop._closed = False  # the moment before close()
    loop.call_soon(broken)
    loop._closed = True
    with anyio.fail_after(30):
        await ran.wait()
    await anyio.wait_all_tasks_blocked()
    assert "raised after its connection had ended" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


# -- futures


@every_thread
async def test_futures_are_set_from_any_thread_and_wake_their_waiter(run: Any) -> None:
    """create_future().set_result works from a foreign thread, and the awaiting task goes on."""
    async with open_loop() as loop, anyio.create_task_group() as tg:
        future = loop.create_future()
        results: list[Any] = []

        async def wait() -> None:
            results.append(await future)

        tg.start_soon(wait)
        tg.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await run(lambda: future.set_result("here"))
        with anyio.fail_after(30):
            while len(results) < 2:
                await anyio.sleep(0.001)
        assert results == ["here", "here"]
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_result("twice")


async def test_done_callbacks_run_in_the_loops_thread_and_can_be_taken_back() -> None:
    """Whoever sets the future, its callbacks run where the loop is; late ones are called soon."""
    where: list[int] = []
    async with open_loop() as loop:
        future = loop.create_future()

        def note(_: Any) -> None:
            where.append(threading.get_ident())

        def never(_: Any) -> None:
            where.append(-1)

        future.add_done_callback(note)
        future.add_done_callback(never)
        future.add_done_callback(never)
        assert future.remove_done_callback(never) == 2
        await in_foreign(lambda: future.set_exception(KeyError("x")))
        with anyio.fail_after(30):
            while not where:
                await anyio.sleep(0)
            future.add_done_callback(note)
            assert len(where) == 1
            while len(where) < 2:
                await anyio.sleep(0)
        with pytest.raises(KeyError):
            await future
    assert where == [threading.get_ident()] * 2


def test_after_the_backend_has_ended_callbacks_are_called_at_once(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """Nobody else can call them any more, and somebody may wait for one."""

    async def main() -> Any:
        async with open_loop() as loop:
            return loop.create_future()

    name, options = anyio_backend
    future = anyio.run(main, backend=name, backend_options=options)
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert told == [future]


# -- worker threads


async def test_run_in_executor_uses_worker_threads_and_keeps_the_context() -> None:
    """None means a worker thread of this connection; an executor of one's own works, too."""
    token = set_current_context(Context("abc"))
    try:
        async with open_loop() as loop:
            ident = await loop.run_in_executor(None, threading.get_ident)
            assert ident != threading.get_ident()
            context = await loop.run_in_executor(None, get_current_context)
            assert context.webrtc_id == "abc"
            with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
                name = await loop.run_in_executor(pool, lambda: threading.current_thread().name)
                assert name.startswith("mine")
                with pytest.raises(ZeroDivisionError):
                    await loop.run_in_executor(pool, lambda: 1 / 0)
    finally:
        reset_current_context(token)


async def test_the_end_does_not_wait_for_executor_threads() -> None:
    """A call in a worker thread that takes long is left behind."""
    release = threading.Event()
    began = time.monotonic()
    async with open_loop() as loop:
        loop.run_in_executor(None, release.wait, 60)
        await anyio.sleep(0.01)
    assert time.monotonic() - began < 30
    release.set()


# -- context variables


@every_thread
async def test_tasks_know_whose_connection_they_serve(run: Any) -> None:
    """get_current_context works in tasks made from any thread; other variables are the caller's."""
    token = set_current_context(Context("abc"))
    try:
        async with open_loop() as loop:

            async def look() -> tuple[str, str]:
                await anyio.sleep(0)
                return get_current_context().webrtc_id, variable.get()

            def make() -> Any:
                variable.set("the caller's")
                return loop.create_task(look())

            assert await (await run(make)) == ("abc", "the caller's")
    finally:
        reset_current_context(token)


async def test_another_backends_thread_may_call_in() -> None:
    """A coroutine sent from a thread in which the other backend runs still finds its own backend."""
    async with open_loop() as loop:

        async def other() -> int:
            return await anyio.to_thread.run_sync(lambda: asyncio.run_coroutine_threadsafe(double(5), loop).result(30))

        async def other_task() -> int:
            return await loop.create_task(double(6))

        for backend in ("asyncio", "trio"):
            assert await in_foreign(lambda backend=backend: anyio.run(other, backend=backend)) == 10
            assert await in_foreign(lambda backend=backend: anyio.run(other_task, backend=backend)) == 12


# -- state and refusals


async def test_a_loop_in_use_refuses_what_it_cannot_do_and_names_the_way_out() -> None:
    """run_until_complete, run_forever and stop say why; unknown names of asyncio point to the whole loop."""
    async with open_loop() as loop:
        assert (loop.is_running(), loop.is_closed(), loop.get_debug()) == (True, False, False)
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            loop.run_until_complete(double(1))
        with pytest.raises(RuntimeError, match="runs already"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="CloseStream"):
            loop.stop()
        with pytest.raises(AttributeError, match=r"create_connection.*asyncio.get_running_loop\(\)"):
            _ = loop.create_connection
    assert (loop.is_running(), loop.is_closed()) == (False, True)
    loop.close()


async def test_nothing_is_remembered_of_what_is_done() -> None:
    """A long call that makes many tasks does not grow the loop's memory."""
    async with open_loop() as loop:
        for n in range(20):
            await loop.create_task(double(n))
        assert not loop._pending


async def test_a_closing_group_takes_over() -> None:
    """After the connection's group has ended, shutdown() may still run coroutines in the closing one."""
    async with anyio.create_task_group() as tg:
        loop = HandlerLoop(tg)
    async with anyio.create_task_group() as closing:
        loop.move_to(closing)
        assert await in_worker(lambda: asyncio.run_coroutine_threadsafe(double(2), loop).result(30)) == 4
    loop.close()


@pytest.mark.parametrize(
    "way", ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_done_callback", "create_task"]
)
async def test_a_given_context_is_used_as_it_is(way):
    """What a callback or a task sets in `context=` can be read there afterwards, as on asyncio's own loop."""
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    seen = []
    done = Event()

    def note(*_):
        seen.append(variable.get())
        variable.set("changed")
        done.set()

    async def work():
        await anyio.sleep(0)
        note()
        await anyio.sleep(0)
        seen.append(variable.get())
        return "result"

    async with open_loop() as loop:
        match way:
            case "call_later":
                loop.call_later(0.01, note, context=context)
            case "call_at":
                loop.call_at(loop.time() + 0.01, note, context=context)
            case "add_done_callback":
                future = loop.create_future()
                future.add_done_callback(note, context=context)
                future.set_result(None)
            case "create_task":
                assert await loop.create_task(work(), context=context) == "result"
            case _:
                getattr(loop, way)(note, context=context)
        await done.wait()
    assert seen[0] == "given"
    assert seen[1:] in ([], ["changed"])
    assert context[variable] == "changed"
    assert variable.get() == "nothing"


async def test_a_callback_may_lead_to_another_one_in_the_same_context():
    """A context cannot be entered twice: a callback that is called by code which runs in it gets a copy."""
    context = contextvars.copy_context()
    seen = []
    async with open_loop() as loop:
        future = loop.create_future()
        future.add_done_callback(lambda _: seen.append(variable.get()), context=context)

        def resolve():
            variable.set("inside")
            future.set_result(None)

        loop.call_soon(resolve, context=context)
        await future
        await anyio.sleep(0)
    assert seen == ["inside"]


async def test_cancelling_a_task_with_a_context_of_its_own():
    """Cancellation reaches the coroutine inside, which cleans up in its context."""
    context = contextvars.copy_context()
    begun = Event()

    async def work():
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            variable.set("cleaned up")

    async with open_loop() as loop:
        task = loop.create_task(work(), context=context)
        await begun.wait()
        task.cancel()
        with pytest.raises(BaseException) as info:
            await task
        assert isinstance(info.value, loop._cancelled_class)
    assert context[variable] == "cleaned up"


class WaitsForNobody(AsyncStreamHandler):
    """Has a future that nobody resolves."""

    async def start_up(self):
        self.future = self.loop.create_future()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)

    def copy(self):
        return WaitsForNobody()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_futures_are_cancelled_when_the_call_is_over(backend):
    """Threads that wait for one are let go."""
    assert run_call(WaitsForNobody(), seconds=0.1, backend=backend).handler.future.cancelled()
