"""What all tests share: the backends as parameters, Hypothesis' profiles, a guard against what a test leaves open."""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import anyio.from_thread  # here, because CPython 3.11 cannot read two modules for pytest in two threads at once
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import none

# Async tests under @given share their fixtures' backend between examples, which is what we want.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=20, derandomize=True, **_COMMON)
settings.register_profile("thorough", max_examples=300, **_COMMON)
settings.register_profile("nightly", max_examples=3000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def _needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


ALL_BACKENDS = {
    "asyncio": pytest.param(("asyncio", {}), id="asyncio"),
    "uvloop": pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop", marks=_needs("uvloop")),
    "trio": pytest.param(("trio", {}), id="trio", marks=_needs("trio")),
}
# RTCFLOW_BACKENDS=trio runs the async tests on trio alone: one cell of the matrix.
BACKENDS = [ALL_BACKENDS[name] for name in os.environ.get("RTCFLOW_BACKENDS", "asyncio,uvloop,trio").split(",")]


# Tests that play or listen in real time, over sockets and to servers, run one after the other in a worker of their own,
# or they would be heard in one another's audio. So do those with foreign peers, those with browsers, and those that
# mostly wait for processes of their own (`-n 5`). These four workers mostly wait. The fifth one has all that computes,
# and each of the others takes of it when it is through.
REAL_TIME = {"test_engine", "test_modes", "test_turns_reply", "test_turns_stop_words"}
BROWSERS = {"test_chromium", "test_page", "test_whip_clients"}
PROCESSES = {"test_asgi_lines", "test_call", "test_cli", "test_examples", "test_load", "test_processes"}


def _worker_of(nodeid: str) -> str:
    """What a test shares its worker with; any worker may take a test that shares it with nothing."""
    path = PurePosixPath(nodeid.partition("::")[0])
    for name, modules in (("processes", PROCESSES), ("browsers", BROWSERS), ("real-time", REAL_TIME)):
        if path.stem in modules:
            return name
    return "interop" if path.parent.name == "interop" else nodeid


@pytest.hookimpl(tryfirst=True)  # before pytest applies `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave it to the nightly run to repeat on uvloop what takes real time on asyncio and on trio.

    rtcflow's own code is the same on uvloop and asyncio. What does not wait runs on all three.
    """
    if "RTCFLOW_BACKENDS" in os.environ:  # one cell of the matrix runs all of its backend
        return
    for item in items:
        waits = item.get_closest_marker("slow") is not None or _worker_of(item.nodeid) != item.nodeid
        if waits and "[asyncio+uvloop" in item.name:
            item.add_marker(pytest.mark.nightly)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what exists now out of all garbage collections to come.

    The suite's own modules and tests are so many objects that a collection takes half a second, and tests ask for
    hundreds of them.

    At its first example, Hypothesis 6.130 looks in the collector for what holds its generator of random numbers.
    It finds nothing there that is frozen, and warns. So it has an example before.
    """
    settings(max_examples=1, database=None)(given(none())(lambda _: None))()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Have the tests of `REAL_TIME` run one after the other, and so those of tests/interop and of the other sets.

    pytest-xdist's marks for this (`xdist_group`, `--dist loadgroup`) do nothing with pytest 9.2: it renames the tests,
    and they no longer take the names.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _worker_of(nodeid)

        def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
            super().mark_test_complete(node, item_index, duration)
            # It counts what is pending in all that a worker ever got, and most of our tests are a scope of their own.
            scope = self._split_scope(self.registered_collections[node][item_index])
            if all(self.assigned_work[node][scope].values()):
                del self.assigned_work[node][scope]

    return Groups(config, log)


_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the real standard error, for `_have_it_end`. Have Ctrl-C end programs that tests start.

    A shell starts its background jobs with SIGINT ignored, and whatever they start inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        config.stash[_stderr] = os.dup(2)


def _have_it_end(item: pytest.Item) -> None:
    """Print all stacks and end the process if this test goes on for long after its time limit.

    pytest-timeout raises an exception into the test, once. A test of code that swallows exceptions may swallow that one
    too, and then the whole run would hang. pytest-xdist names the test in which a worker ended.
    """
    marker = item.get_closest_marker("timeout")
    limit = marker.args[0] if marker and marker.args else item.config.getoption("timeout")
    limit = float(limit or item.config.getini("timeout") or 180)
    faulthandler.dump_traceback_later(2 * limit + 30, exit=True, file=item.config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Begin the time of a test, and end it with the test."""
    _have_it_end(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Begin it again: pytest's own plugin has stopped it if the test failed."""
    _have_it_end(item)


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """The backend an async test runs on."""
    return request.param


# Pools that keep idle threads by design: trio's and anyio's workers, asyncio's and grpc-like executors, the timer of
# pytest-timeout. A thread of ours is named "rtcflow ..." and must be gone.
_POOLS = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "pytest_timeout", "pytest-timeout")
_GRACE = 2.0


@pytest.fixture(scope="session", autouse=True)
def process_wide_pipes() -> None:
    """Have libuv open its pipe for signals, one for the whole process and never closed, before anything is counted."""
    if importlib.util.find_spec("uvloop") is not None:
        anyio.run(anyio.sleep, 0, backend_options={"use_uvloop": True})


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(_POOLS)}


def _descriptors() -> Counter[str]:
    """How many sockets, pipes and event files are open; regular files and devices are the libraries' own affair."""
    kinds: Counter[str] = Counter()
    folder = Path("/proc/self/fd")
    if folder.exists():
        for entry in folder.iterdir():
            try:
                target = entry.readlink().as_posix()
            except OSError:  # the descriptor of this very listing
                continue
            if not target.startswith("/"):
                kinds[target.split(":[")[0]] += 1
    return kinds


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a socket or a pipe behind."""
    threads, descriptors = _threads(), _descriptors()
    yield
    deadline = time.monotonic() + _GRACE
    while True:
        more_threads = _threads() - threads
        more_descriptors = _descriptors() - descriptors
        if not more_threads and not more_descriptors:
            return
        if time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.02)
    names = sorted(thread.name for thread in more_threads)
    pytest.fail(f"{request.node.name} left behind: threads {names}, descriptors {dict(more_descriptors)}")
