"""No behaviour of the package depends on an assert."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "rtcflow"


def asserts() -> Iterator[tuple[Path, ast.Assert]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                yield path, node


def test_asserts_only_tell_the_type_checker() -> None:
    """Nothing follows from an assert, because `python -O` removes it: it may only narrow a type, and has no message.

    The lint (S101) refuses all others; each line that it lets pass says so.
    """
    narrowing = re.compile(r"^(\(?[\w.]+( := [^)]+\))? is not None|(not )?isinstance\(.+\)|callable\(.+\))$")
    wrong = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path, node in asserts()
        if node.msg is not None or not narrowing.match(ast.unparse(node.test))
    ]
    assert not wrong
