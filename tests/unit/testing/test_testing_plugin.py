"""The testing tools at home in anyio's pytest plugin, in pytest-trio, in unittest and without any; the leak guard."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from functools import partial

import pytest
from documents import examples

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest in a process of its own over this source."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini("[pytest]\n")  # or the settings of a folder further out count, wherever the temporary one lies

    def run(source, *arguments, plugins=("-p", "no:asyncio")):
        pytester.makepyfile(textwrap.dedent(source))
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", *plugins, *arguments)

    return run


@pytest.fixture
def run_alone(run, monkeypatch):
    """The same with no plugin but ours: what the others import would cost each run seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return partial(run, plugins=("-p", "_rtcflow_pytest"))


def test_backends_for_anyios_plugin(run):
    """`virtual_backend` gives both backends in virtual time, `real_backend` each in real time."""
    result = run(
        """
        import time
        import anyio, pytest
        from rtcflow.testing import open_caller, signals, virtual_time
        import rtcflow

        pytestmark = pytest.mark.anyio

        class Echo(rtcflow.AsyncStreamHandler):
            def __init__(self):
                super().__init__(input_sample_rate=24000)
                self.send, self.frames = anyio.create_memory_object_stream(100)
            async def receive(self, frame):
                self.send.send_nowait(frame)
            async def emit(self):
                return await self.frames.receive()
            def shutdown(self):
                self.send.close(); self.frames.close()
            def copy(self):
                return Echo()

        class TestVirtual:
            @pytest.fixture
            def anyio_backend(self, virtual_backend):
                return virtual_backend

            async def test_an_hour(self):
                began = time.monotonic()
                await anyio.sleep(3600)
                assert virtual_time().now == 3600
                assert time.monotonic() - began < 10

            async def test_a_call(self):
                prototype = Echo()
                async with open_caller(prototype) as caller:
                    await caller.play(signals.tone(12))
                prototype.shutdown()
                assert caller.record().audio_seconds > 11

        class TestReal:
            @pytest.fixture
            def anyio_backend(self, real_backend):
                return real_backend

            async def test_a_moment(self):
                began = time.monotonic()
                await anyio.sleep(0.05)
                assert time.monotonic() - began >= 0.04
        """,
        "-v",
    )
    uvloop = importlib.util.find_spec("uvloop") is not None
    result.assert_outcomes(passed=6 + uvloop)
    result.stdout.fnmatch_lines_random(
        ["*test_an_hour?asyncio-virtual? PASSED*", "*test_a_call?trio-virtual? PASSED*", "*test_a_moment?trio? PASSED*"]
    )


LEAKS = """
    import asyncio, os, threading
    import pytest

    OVER = threading.Event()
    KEPT = []

    def a_thread():
        threading.Thread(target=OVER.wait, name="forgotten", daemon=True).start()

    def a_descriptor():
        KEPT.extend(os.pipe())

    def a_task():
        loop = asyncio.new_event_loop()
        async def leave():
            KEPT.append(asyncio.create_task(asyncio.sleep(60), name="forgotten task"))
        loop.run_until_complete(leave())
        loop.close()

    def a_task_nobody_keeps():
        loop = asyncio.new_event_loop()
        async def leave():
            asyncio.create_task(asyncio.sleep(60), name="forgotten task")
        loop.run_until_complete(leave())
        loop.close()

    def a_file():
        KEPT.append(open(__file__))

    def a_file_nobody_closes():
        cycle = [open(__file__)]
        cycle.append(cycle)

    def nothing():
        pass

    {mark}
    @pytest.mark.parametrize(
        "leave", [a_thread, a_descriptor, a_task, a_task_nobody_keeps, a_file, a_file_nobody_closes, nothing]
    )
    def test_leaves(leave):
        leave()
"""


def test_the_leak_guard(run_alone):
    """What a marked test leaves is told at its end, with its kind and name: a thread, a descriptor, a task."""
    result = run_alone(LEAKS.replace("{mark}", "@pytest.mark.leak_guard"))
    result.assert_outcomes(passed=7, errors=6)
    result.stdout.fnmatch_lines_random(
        [
            "*test_leaves?a_thread? left behind: thread 'forgotten'*",
            "*test_leaves?a_descriptor? left behind: 2 pipe(s)*",
            "*test_leaves?a_task? left behind: *task 'forgotten task'*",
            "*test_leaves?a_task_nobody_keeps? left behind: *task 'forgotten task'*",
            "*test_leaves?a_file? left behind: *file */test_the_leak_guard.py'*",
            "*test_leaves?a_file_nobody_closes? left behind: *unclosed file *",
        ]
    )


def test_the_leak_guard_for_all(run_alone):
    """An option guards every test."""
    run_alone(LEAKS.replace("{mark}", ""), "--leak-guard", "-k", "a_task and not nobody").assert_outcomes(
        passed=1, errors=1, deselected=6
    )


def test_without_the_guard_nothing_is_told(run_alone):
    """The guard is off until it is asked for."""
    run_alone(LEAKS.replace("{mark}", ""), "-k", "not nobody").assert_outcomes(passed=5, deselected=2)


def test_the_leak_guard_in_anyios_loop(run):
    """A task that an async test leaves in a loop it shares with other tests is told."""
    result = run(
        """
        import asyncio
        import pytest

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module")
        async def shared(anyio_backend):
            yield

        @pytest.mark.anyio
        @pytest.mark.leak_guard
        @pytest.mark.parametrize("n", [0, 1])
        async def test_leaves(shared, n):
            if n == 0:
                test_leaves.kept = asyncio.create_task(asyncio.sleep(60), name="forgotten task")
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines("*test_leaves?0? left behind: *task 'forgotten task'*")


def test_the_leak_guard_leaves_warnings_alone(run_alone):
    """A warning that is an error without the guard is one with it."""
    result = run_alone(
        """
        import pytest, warnings

        @pytest.mark.leak_guard
        def test_warns():
            warnings.warn("mind the gap", RuntimeWarning)
        """
    )
    result.assert_outcomes(failed=1)


@pytest.mark.skipif(importlib.util.find_spec("pytest_trio") is None, reason="pytest-trio is not installed")
def test_with_pytest_trio(run):
    """A test of pytest-trio runs in virtual time once it has `virtual_clock` among its fixtures."""
    result = run(
        """
        import pytest, trio
        import rtcflow
        from rtcflow.testing import open_caller, signals

        class Bot(rtcflow.AsyncStreamHandler):
            async def receive(self, frame):
                pass
            async def emit(self):
                await trio.sleep(15)
                return 24000, signals.tone(0.1)
            def copy(self):
                return Bot()

        @pytest.mark.trio
        async def test_half_a_minute(virtual_clock):
            async with open_caller(Bot()) as caller:
                await caller.wait(32)
            assert [round(heard.at) for heard in caller.heard[::5]] == [15, 30]
        """,
        "-p",
        "no:anyio",
    )
    result.assert_outcomes(passed=1)


def test_nothing_is_imported_where_nothing_is_used(run):
    """pytest loads the plugin in every environment that has rtcflow: there it must cost next to nothing."""
    result = run(
        """
        import sys

        def test_nothing():
            heavy = {"_rtcflow_pytest", "rtcflow", "numpy", "av", "aiortc", "anyio.streams", "starlette", "trio"}
            assert heavy & set(sys.modules) == {"_rtcflow_pytest"}
        """,
        "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:trio", "-p", "no:pytest-trio",
    )  # fmt: skip
    result.assert_outcomes(passed=1)


def test_without_pytest(tmp_path):
    """Calls, conformance suites and lives run under unittest where there is no pytest at all."""
    script = tmp_path / "check.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            sys.modules["pytest"] = None
            import unittest

            import anyio
            from hypothesis import settings

            import rtcflow
            from rtcflow.testing import HandlerLifecycle, check_transport, run_call, signals, virtual_backend

            class Bot(rtcflow.AsyncStreamHandler):
                async def receive(self, frame):
                    pass
                async def emit(self):
                    await anyio.sleep(0.02)
                    return 24000, signals.tone(0.02)
                def copy(self):
                    return Bot()

            class Life(HandlerLifecycle):
                def make_handler(self):
                    return Bot()

            TestBot = Life.TestCase
            TestBot.settings = settings(TestBot.settings, max_examples=3, database=None)

            class TestCall(unittest.TestCase):
                def test_a_call(self):
                    self.assertGreater(run_call(Bot(), seconds=10).audio_seconds, 9)

                def test_a_transport(self):
                    name, options = virtual_backend("trio")
                    anyio.run(check_transport, rtcflow.memory_pair, backend=name, backend_options=options)

            unittest.main()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=150, check=False, cwd=tmp_path
    )
    assert "Ran 3 tests" in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_pages_handler_passes_without_hypothesis_and_pytest(tmp_path):
    """A sound handler passes in a plain script, where nobody else has loaded trio's dice."""
    block = next(one for one in examples() if one.page.name == "testing.md" and "check_handler(Chime())" in one.code)
    unloaded = "import sys\nassert 'hypothesis' not in sys.modules\n"
    script = tmp_path / "check.py"
    script.write_text(block.code + unloaded)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
