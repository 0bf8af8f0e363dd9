"""What works as a fixture under the pytest plugins for async tests: each has a pytest of its own here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PAIR = """
    async with memory_pair() as both:
        yield both
"""
USE = """
    ours, theirs = pair
    await theirs.aclose()
    await ours.wait_ended()
"""
PLUGINS = {
    "anyio": f"""
import pytest
from rtcflow import memory_pair

@pytest.fixture
async def pair():{PAIR}

@pytest.mark.anyio
async def test_by_fixture(pair):{USE}
""",
    "trio": f"""
import pytest
from rtcflow import memory_pair

@pytest.fixture
async def pair():{PAIR}

@pytest.mark.trio
async def test_by_fixture(pair):{USE}
""",
    "asyncio": """
import pytest
from rtcflow import StreamHandler, Stream, memory_pair

@pytest.fixture
def stream():
    class Silent(StreamHandler):
        def receive(self, frame):
            pass

        def emit(self):
            return None

        def copy(self):
            return Silent()

    return Stream(Silent())

@pytest.mark.asyncio
async def test_in_the_test(stream):
    async with stream.running(), memory_pair() as (ours, theirs):
        await theirs.aclose()
        await ours.wait_ended()
""",
    "asyncio, as a fixture": f"""
import pytest
import pytest_asyncio
from rtcflow import memory_pair

@pytest_asyncio.fixture
async def pair():{PAIR}

@pytest.mark.asyncio
async def test_by_fixture(pair):{USE}
""",
}


def _outcome(tmp_path, plugin, tests):
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin, "test_it.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the suite's other plugins would cost seconds
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("plugin", "module"),
    [("anyio", "anyio.pytest_plugin"), ("trio", "pytest_trio.plugin"), ("asyncio", "pytest_asyncio.plugin")],
)
def test_what_works_under_each_plugin(plugin, module, tmp_path):
    """Fixtures under anyio's plugin and pytest-trio; under pytest-asyncio, the same inside of the test."""
    code, said = _outcome(tmp_path, module, PLUGINS[plugin])
    assert code == 0, said


def test_what_does_not_work_under_pytest_asyncio(tmp_path):
    """It opens and closes a fixture in two tasks, and a task group belongs to one: the page says so."""
    code, said = _outcome(tmp_path, "pytest_asyncio.plugin", PLUGINS["asyncio, as a fixture"])
    assert code == 1, said
    assert "different task" in said
