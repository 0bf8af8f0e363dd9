"""The public names: declared, documented, annotated, and light to import."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
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


@every_name
def test_public_names_have_their_place_in_the_docs(module: str, name: str) -> None:
    """docs/api.md, or another page, has the reference of every public name."""
    pages = "".join(page.read_text() for page in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert name.startswith("__") or re.search(rf"^\.\. auto\w+:: ({module}(\.\w+)*\.)?{name}\b", pages, re.MULTILINE)


def _loaded_by(statement: str) -> set[str]:
    """The installed packages that a new interpreter has loaded after `statement`."""
    code = f"{statement}; import sys; print(*(name.partition('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return (packages_distributions().keys() | {"rtcflow"}) & set(loaded)


def test_importing_is_light() -> None:
    """`import rtcflow` and its most used names load what handlers are made of: no WebRTC, no server, no cryptography.

    How many seconds that takes is the machine's affair; `nox -s bench` measures them beside FastRTC's.
    """
    loaded = _loaded_by("import rtcflow; rtcflow.StreamHandler, rtcflow.AsyncStreamHandler, rtcflow.Stream")
    assert "rtcflow" in loaded
    assert loaded - _loaded_by("pass") <= {"rtcflow", "anyio", "av", "numpy", "sniffio", "typing_extensions"}


def test_importing_pulls_in_no_extra() -> None:
    """What only an extra needs is imported where it is used, not by `import rtcflow` or by its names."""
    assert not NOT_AT_IMPORT & _loaded_by("import rtcflow; [getattr(rtcflow, name) for name in rtcflow.__all__]")


def test_the_version_is_written_once() -> None:
    """The installed distribution and the module agree on the version."""
    assert isinstance(rtcflow, ModuleType)
    assert version("rtcflow") == rtcflow.__version__
