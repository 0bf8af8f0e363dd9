"""The picture of the house in docs/design.md, held true by reading every import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "rtcflow"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A name stands for the module, or for the package and everything in it.
FLOORS = [
    {"frames", "outputs", "exceptions", "context", "ends", "_version"},
    {"media", "protocol"},
    {"handlers", "abc", "_core"},
    {"connection", "transports", "_engine"},
    {"__main__", "cli", "routes", "stream", "serving", "client", "credentials", "demo", "speech"},
]
BESIDE = {"testing", "web", "", "audio", "fastrtc"}  # nobody in the house imports these; they may import everyone
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

ENGINE_ONLY = {"asyncio", "aiortc", "aioice", "uvloop"}
WEB_FRAMEWORK = {"starlette", "fastapi", "hypercorn", "uvicorn"}
KNOW_THE_WEB = (
    "routes",
    "client",
    "cli",
    "demo",
    "fastrtc",
    "transports/line",
    "transports/websocket",
    "transports/telephone",
    "testing",
)
IMPURE = {"anyio", "asyncio", "trio", "threading", "time", "random", "secrets", "os", "socket", "select", "queue"}


def _imports(path: Path) -> Iterator[str]:
    """The full names of the modules (and names in them) that `path` imports when it runs."""
    package = ["rtcflow", *path.relative_to(PACKAGE).parts[:-1]]
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        elif node in skipped:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _part(module: str) -> str:
    """Which part of the house a full name belongs to: the word after `rtcflow.`, or the front door itself."""
    word = module.split(".")[1] if "." in module else ""
    return word if word in FLOOR or word in BESIDE else ""


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__").removesuffix("__init__")


every_module = pytest.mark.parametrize("path", MODULES, ids=[_name(path) or "rtcflow" for path in MODULES])


@every_module
def test_arrows_point_down(path: Path) -> None:
    """A module imports from its own floor or from those below it."""
    part = _name(path).split("/")[0]
    assert part in FLOOR or part in BESIDE, f"rtcflow.{part} has no floor yet: give it one here and in docs/design.md"
    if part in BESIDE:
        return
    for module in _imports(path):
        if module.split(".")[0] == "rtcflow":
            target = _part(module)
            assert target in FLOOR, f"{path.name} imports {module}, which is beside the house"
            assert FLOOR[target] <= FLOOR[part], f"{path.name} (floor {FLOOR[part]}) imports {module}"


@every_module
def test_only_the_engine_knows_asyncio(path: Path) -> None:
    """`_engine` alone imports asyncio and the WebRTC stack.

    There are two exceptions: asyncio's virtual clock, by its nature, and one question that only asyncio can answer.
    """
    roots = {module.split(".")[0] for module in _imports(path)}
    exceptions = ("_engine", "_core/native", "testing/_virtual_asyncio")
    assert _name(path).startswith(exceptions) or not roots & ENGINE_ONLY


@every_module
def test_few_know_the_web_framework(path: Path) -> None:
    """Handlers, connections and most transports work without any web framework."""
    roots = {module.split(".")[0] for module in _imports(path)}
    assert _name(path).startswith(KNOW_THE_WEB) or not roots & WEB_FRAMEWORK


@every_module
def test_the_pure_floor_is_pure(path: Path) -> None:
    """`media` and `protocol` have no clock, no thread, no randomness, no await: values and `now` in, values out."""
    if _name(path).split("/")[0] not in FLOORS[1]:
        return
    assert not {module.split(".")[0] for module in _imports(path)} & IMPURE
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not any(isinstance(node, waits) for node in ast.walk(ast.parse(path.read_text())))
