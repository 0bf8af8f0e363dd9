"""The pytest plugin. pytest loads it in every environment with rtcflow, even if it is not used.

Importing rtcflow takes half a second, so this module stands beside the package and not inside it, and imports only what
pytest has imported already. Fixtures import rtcflow when a test asks for them.

Fixtures:
    virtual_backend: A backend in virtual time. Give it to anyio's plugin by overriding its fixture:

        @pytest.fixture
        def anyio_backend(virtual_backend):
            return virtual_backend

    real_backend: A backend in real time: asyncio, asyncio on uvloop (if it is installed), trio.
    virtual_clock: A clock in virtual time for pytest-trio. Asking for the fixture is enough.

The leak guard: a test fails if it leaves a thread, a task or a file descriptor behind. It guards tests marked with
``@pytest.mark.leak_guard``, or, with ``--leak-guard``, every test.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

TRIO = importlib.util.find_spec("trio") is not None
UVLOOP = importlib.util.find_spec("uvloop") is not None

VIRTUAL = ["asyncio", *(["trio"] if TRIO else [])]
REAL = [
    pytest.param(("asyncio", {}), id="asyncio"),
    *([pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")] if UVLOOP else []),
    *([pytest.param(("trio", {}), id="trio")] if TRIO else []),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--leak-guard``."""
    parser.getgroup("rtcflow").addoption(
        "--leak-guard", action="store_true", help="fail each test that leaves a thread, a task or a descriptor behind"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line("markers", "leak_guard: fail if the test leaves a thread, a task or a descriptor behind")


@pytest.fixture(params=VIRTUAL, ids=[f"{name}-virtual" for name in VIRTUAL])
def virtual_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A backend's name and options. Its time is virtual, and new for each test."""
    from rtcflow.testing import clocks

    return clocks.virtual_backend(request.param)


@pytest.fixture(params=REAL)
def real_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A backend's name and options. Its time is real."""
    name, options = request.param
    return name, dict(options)


@pytest.fixture
def virtual_clock() -> Any:
    """A virtual clock for one run of trio. pytest-trio runs a test with the clock that it finds among its fixtures."""
    if not TRIO:
        pytest.skip("trio is not installed")
    from rtcflow.testing._virtual_trio import VirtualClock

    return VirtualClock()


@pytest.fixture(autouse=True)
def _leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    if not (request.config.getoption("--leak-guard") or request.node.get_closest_marker("leak_guard")):
        yield
        return
    from rtcflow.testing._leaks import watch

    with watch() as left:
        yield
    if left:
        pytest.fail(f"{request.node.name} left behind: {'; '.join(left)}")
