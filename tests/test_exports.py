"""The public names: declared, documented, annotated, and quick to import."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import rtcflow

PUBLIC_MODULES = ["rtcflow"]
NOT_AT_IMPORT = {"trio", "typer", "rich", "hypothesis", "fastapi", "pydantic", "hypercorn", "uvicorn", "pytest"}


def _names() -> Iterator[tuple[str, str]]:
    for module in PUBLIC_MODULES:
        for name in importlib.import_module(module).__all__:
            yield module, name


every_name = pytest.mark.parametrize(("module", "name"), list(_names()))


def test_the_front_door_lists_what_it_offers() -> None:
    """`rtcflow.__all__` has no doubles, and `dir()` shows all of it."""
    assert len(rtcflow.__all__) == len(set(rtcflow.__all__))
    assert set(rtcflow.__all__) <= set(dir(rtcflow))


@every_name
def test_public_names_are_documented(module: str, name: str) -> None:
    """Every class and function that users import says what it does for them, and so do its public methods."""
    value = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isclass(value) and value.__module__.startswith("rtcflow"):
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{method} has no docstring"


@every_name
def test_public_functions_are_annotated(module: str, name: str) -> None:
    """Type checkers see every argument and result of what users call."""
    value = getattr(importlib.import_module(module), name)
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value) and value.__module__.startswith("rtcflow"):
        functions += [f for key, f in vars(value).items() if inspect.isfunction(f) and not key.startswith("_")]
    for function in functions:
        signature = inspect.signature(function)
        bare = [
            p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in {"self", "cls"}
        ]
        assert not bare, f"{function.__qualname__}: {bare}"
        assert signature.return_annotation is not signature.empty, f"{function.__qualname__} has no return type"


def _seconds(statement: str) -> float:
    """Processor time of a new interpreter, the least of five: what others do on the machine hardly touches it."""

    # Compiled files are kept between the runs, as they are on any user's machine.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(5))


@every_name
def test_public_names_have_their_place_in_the_docs(module: str, name: str) -> None:
    """docs/api.md, or another page, has the reference of every public name."""
    pages = "".join(page.read_text() for page in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert name.startswith("__") or re.search(rf"^\.\. auto\w+:: ({module}(\.\w+)*\.)?{name}\b", pages, re.MULTILINE)


def test_importing_is_quick() -> None:
    """`import rtcflow`, and touching its most used names, costs at most 0.4 s more than starting Python.

    On a machine that is slow or busy the measure is NumPy, PyAV and anyio, which it cannot do without.
    """
    names = [name for name in ("StreamHandler", "AsyncStreamHandler", "Stream") if name in rtcflow.__all__]
    used = f"import rtcflow; [getattr(rtcflow, name) for name in {names}]"
    python = _seconds("pass")
    needed = _seconds("import numpy, av, anyio") - python
    assert _seconds(used) - python <= max(0.4, 1.8 * needed)


def test_importing_pulls_in_no_extra() -> None:
    """What only an extra needs is imported where it is used, not by `import rtcflow` or by its names."""
    code = "import sys, rtcflow; [getattr(rtcflow, name) for name in rtcflow.__all__]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not NOT_AT_IMPORT.intersection(loaded)


def test_the_version_is_written_once() -> None:
    """The installed distribution and the module agree on the version."""
    assert isinstance(rtcflow, ModuleType)
    assert version("rtcflow") == rtcflow.__version__
