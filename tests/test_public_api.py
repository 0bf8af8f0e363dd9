"""The public names and their signatures are written in tests/public_api.txt: they change knowingly.

`python tests/test_public_api.py` writes the file anew. Read the difference before you commit it: a name that vanishes
or a signature that changes needs a fragment in changelog.d.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rtcflow

FILE = Path(__file__).with_name("public_api.txt")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def modules() -> Iterator[str]:
    """The public modules: no part of their name begins with an underscore, and they have `__all__`."""
    yield "rtcflow"
    for found in pkgutil.walk_packages(rtcflow.__path__, "rtcflow."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            module = importlib.import_module(found.name)
            if hasattr(module, "__all__"):
                yield found.name


def signature(value: Any) -> str:
    try:
        return ADDRESS.sub("", str(inspect.signature(value)))
    except (TypeError, ValueError):
        return ""


def described(name: str, value: Any) -> Iterator[str]:
    """One line for a name, and one for each public member that a class defines itself."""
    if inspect.isclass(value):
        # Enum's own signature is another one in each version of Python.
        yield f"class {name}{'' if issubclass(value, enum.Enum) else signature(value)}"
        for member, found in sorted(vars(value).items()):
            if member.startswith("_"):
                continue
            inner = found.__func__ if isinstance(found, classmethod | staticmethod) else found
            if callable(inner):
                yield f"  {name}.{member}{signature(inner)}"
            elif isinstance(inner, property):
                yield f"  {name}.{member} (property)"
    elif inspect.isroutine(value):
        yield f"def {name}{signature(value)}"
    else:
        yield f"value {name}"


def current() -> list[str]:
    lines: list[str] = []
    for name in modules():
        module = importlib.import_module(name)
        lines.append(f"# {name}")
        for exported in sorted(module.__all__):
            lines += described(exported, getattr(module, exported))
    return lines


@pytest.mark.skipif(not FILE.exists(), reason="the API of this tree is not written down")
def test_the_public_api_changes_knowingly() -> None:
    written = FILE.read_text(encoding="utf-8").splitlines()
    changed = list(difflib.unified_diff(written, current(), "written", "now", lineterm="", n=0))
    assert not changed, "\n".join([*changed, "if this is what you want: python tests/test_public_api.py"])


def test_a_change_is_noticed() -> None:
    """A parameter, a method, a property: each of them changes the lines of its class."""

    class One:
        def method(self, a: int) -> None: ...
        @property
        def value(self) -> int: ...

    class Other:
        def method(self, a: int, b: int = 2) -> None: ...
        def value(self) -> int: ...

    lines = [list(described("X", value)) for value in (One, Other)]
    assert lines[0] == ["class X()", "  X.method(self, a: 'int') -> 'None'", "  X.value (property)"]
    assert lines[1] == ["class X()", "  X.method(self, a: 'int', b: 'int' = 2) -> 'None'", "  X.value(self) -> 'int'"]


if __name__ == "__main__":
    FILE.write_text("\n".join(current()) + "\n", encoding="utf-8")
