"""Nothing outside `_engine/seam` touches private parts of aiortc, aioice or pylibsrtp."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from for_all import for_all

import rtcflow

SOURCE = Path(rtcflow.__file__).parent
OUTSIDE = sorted(path for path in SOURCE.rglob("*.py") if "seam" not in path.parts)
DOCUMENTED = {
    *("aiortc", "aiortc.exceptions", "aiortc.mediastreams", "aiortc.rtcconfiguration", "aiortc.rtcrtpparameters"),
    *("aiortc.codecs.base", "aiortc.codecs.h264", "aiortc.codecs.vpx"),
}
"""Modules of aiortc whose public names may be used: its API, and the encoders that `video.py` derives from."""
OURS = {("loop_thread.py", "self._loop_thread._calls")}
"""A private part of another class of rtcflow, in the same module."""


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@for_all(OUTSIDE)
def test_only_documented_modules_are_imported(path: Path) -> None:
    """aioice and pylibsrtp are the seam's alone, and of aiortc's modules those are used that it documents."""
    for name in imported(ast.parse(path.read_text())):
        root = name.partition(".")[0]
        assert root not in {"aioice", "pylibsrtp"}, f"{name}: use it in _engine/seam"
        assert root != "aiortc" or name in DOCUMENTED, f"{name}: use it in _engine/seam"


@for_all(sorted((SOURCE / "_engine").glob("*.py")))
def test_private_names_of_others_are_not_touched(path: Path) -> None:
    """In the engine, what begins with an underscore belongs to `self`; no name is spelt with a class before it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            used = ast.unparse(node)
            assert used in {f"self.{node.attr}", f"cls.{node.attr}"} or (path.name, used) in OURS, (
                f"{path.name}, line {node.lineno}: {used}; put it into _engine/seam"
            )
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("_RTC"), f"{path.name}, line {node.lineno}: {node.value}"


def uses_without_a_word(tree: ast.AST, said: tuple[str, ...] = ()) -> Iterator[str]:
    """Functions that touch a private attribute of another object, and whose docstrings name nothing they rely on."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        docs = (*said, ast.get_docstring(node) or "")
        yield from uses_without_a_word(node, docs)
        touches = any(
            isinstance(part, ast.Attribute)
            and re.match(r"_[^_]", part.attr)
            and ast.unparse(part.value) not in {"self", "cls"}
            for part in ast.walk(node)
        )
        if touches and not isinstance(node, ast.ClassDef) and not any("Relies on: " in text for text in docs):
            yield node.name


@for_all(sorted((SOURCE / "_engine" / "seam").glob("*.py")))
def test_each_use_says_what_it_relies_on(path: Path) -> None:
    """A reader of the next release of aiortc finds in the docstring what must still be so."""
    tree = ast.parse(path.read_text())
    assert not list(uses_without_a_word(tree, (ast.get_docstring(tree) or "",)))
