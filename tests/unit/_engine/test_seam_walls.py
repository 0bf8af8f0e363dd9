"""Nothing outside `_engine/seam` touches private parts of aiortc, aioice or pylibsrtp."""

from __future__ import annotations

import ast
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
OURS = {("video.py", "packet._data"), ("loop_thread.py", "self._loop_thread._calls")}
"""`_data` is where aiortc has a depacketised payload, and where its decoders look for it."""


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
    """In the room, what begins with an underscore belongs to `self`; no name is spelt with a class before it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            used = ast.unparse(node)
            assert used in {f"self.{node.attr}", f"cls.{node.attr}"} or (path.name, used) in OURS, (
                f"{path.name}, line {node.lineno}: {used}; put it into _engine/seam"
            )
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("_RTC"), f"{path.name}, line {node.lineno}: {node.value}"
