"""The layers of the package: no import runs upward, and none goes in a circle. Only this file writes the layers down.

`FOLDERS` lists the folders from the bottom to the top. A flat module, such as `stream`, needs no line here: its floor
is the lowest one from which it sees all that it imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from for_all import for_all

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rtcflow"
SCRIPTS = [ROOT / "bench", ROOT / "tests"]
MODULES = sorted(PACKAGE.rglob("*.py"))

FOLDERS = [
    {"media", "protocol"},
    {"_core", "handlers"},
    {"connection", "transports", "_engine"},
    {"serving", "client"},
    {"routes", "speech", "agents", "cluster"},
    {"fastrtc", "testing"},
]
FLOOR = {name: floor for floor, names in enumerate(FOLDERS) for name in names}
AT_MOST_FLAT = 16

ENGINE_ONLY = {"asyncio", "aiortc", "aioice", "uvloop"}
WEB_FRAMEWORK = {"starlette", "fastapi", "hypercorn", "uvicorn"}
KNOW_THE_WEB = (
    "routes",
    "client",
    "cli",
    "demo",
    "fastrtc",
    "serving/http_server",
    "transports/line",
    "transports/websocket",
    "transports/telephone",
    "testing",
)
IMPURE = {"anyio", "asyncio", "trio", "threading", "time", "random", "secrets", "os", "socket", "select", "queue"}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _imports(path: Path, *, running: bool = False) -> tuple[str, ...]:
    """The full names of the modules (and names in them) that `path` imports, in functions and for type checking, too.

    With `running`, imports for type checking only are left out.
    """
    return tuple(_read_imports(path, running))


def _read_imports(path: Path, running: bool) -> Iterator[str]:
    folder = next(folder for folder in (PACKAGE.parent, *SCRIPTS) if path.is_relative_to(folder))
    package = path.relative_to(folder).parts[:-1]
    skipped: set[ast.AST] = set()
    for node in ast.walk(_tree(path)):
        if running and isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        elif node in skipped:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _part(module: str) -> str:
    """The folder or flat module that a full name belongs to; "" is `rtcflow` itself."""
    word = module.split(".")[1] if "." in module else ""
    return word if (PACKAGE / word).is_dir() or (PACKAGE / f"{word}.py").exists() else ""


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__").removesuffix("__init__")


every_module = for_all(MODULES, name=lambda path: _name(path) or "rtcflow")


@cache
def _needs(part: str) -> frozenset[str]:
    """The other parts that a part imports."""
    own = [path for path in MODULES if _name(path).split("/")[0] == part]
    names = {name for path in own for name in _imports(path) if name.split(".")[0] == "rtcflow"}
    return frozenset(map(_part, names)) - {part}


@cache
def _floor(part: str) -> int:
    """The floor of a folder as it is written; of a flat module, the highest that it imports from."""
    if part in FLOOR:
        return FLOOR[part]
    assert not (PACKAGE / part).is_dir() or not part, f"rtcflow/{part}/ has no floor yet: give it one here"
    return max(map(_floor, _needs(part)), default=-1)


@every_module
def test_arrows_point_down(path: Path) -> None:
    """A module imports from its own floor or from those below it; nothing imports the front door, `rtcflow` itself."""
    part = _name(path).split("/")[0]
    for module in _imports(path):
        if module.split(".")[0] == "rtcflow" and (target := _part(module)) != part:
            assert target, f"{_name(path)} imports {module} from the front door: name its own module"
            assert _floor(target) <= _floor(part), f"{_name(path)} (floor {_floor(part)}) imports {module}"


def _circle(needs: dict[str, set[str]]) -> set[str]:
    """The names that need themselves, over however many others."""
    left = {name: others & needs.keys() for name, others in needs.items()}
    while True:
        # A name that needs no other, or that no other needs, is in no circle.
        needed = set().union(*left.values()) if left else set()
        inner = {name for name, others in left.items() if others and name in needed}
        if inner == left.keys():
            return inner
        left = {name: left[name] & inner for name in inner}


def _needed_by(path: Path, modules: dict[str, Path], prefix: str = "") -> set[str]:
    """The names of `modules` that `path` imports; a script also finds those of its own folder (`prefix`)."""
    found = set()
    for name in _imports(path):
        words = name.split(".")
        candidates = (f"{before}{'.'.join(words[:end])}" for end in range(len(words), 0, -1) for before in ("", prefix))
        found.add(next((candidate for candidate in candidates if candidate in modules), ""))
    return {name for name in found if name and modules[name] != path}


@pytest.mark.parametrize("folder", [PACKAGE.parent, *SCRIPTS], ids=lambda folder: folder.name)
def test_no_imports_go_in_a_circle(folder: Path) -> None:
    """No module needs itself, over however many others: each can be read, and moved, after those that it imports.

    Imports in functions and under TYPE_CHECKING count: a reader follows them as well. A package's `__init__` may import
    its modules, and they may import one another.
    """
    modules = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(folder.rglob("*.py"))
    }
    needs = dict[str, set[str]]()
    for name, path in modules.items():
        prefix = name.rpartition(".")[0]
        others = _needed_by(path, modules, f"{prefix}." if prefix and folder in SCRIPTS else "")
        needs[name] = {other for other in others if not name.startswith(f"{other}.")}
    assert not _circle(needs), f"these import each other in a circle: {sorted(_circle(needs))}"


def test_a_circle_is_found() -> None:
    """What leads to a circle, or comes out of it, is not in it."""
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {"b", "c"}
    assert not _circle({"a": {"b"}, "b": set()})


def test_few_modules_lie_flat() -> None:
    """A folder says what a module is about; the flat ones are the vocabulary and the public face."""
    flat = [path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert len(flat) <= AT_MOST_FLAT, flat


def test_one_name_means_one_thing() -> None:
    """No two classes have the same name, a leading underscore aside. `fastrtc` has FastRTC's names by its purpose."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not _name(path).startswith("fastrtc"):
                places.setdefault(node.name.lstrip("_"), []).append(_name(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


@every_module
def test_only_the_engine_knows_asyncio(path: Path) -> None:
    """`_engine` alone imports asyncio and the WebRTC stack.

    There are two exceptions: asyncio's virtual clock, by its nature, and one question that only asyncio can answer.
    """
    roots = {module.split(".")[0] for module in _imports(path, running=True)}
    exceptions = ("_engine", "_core/native", "testing/_virtual_asyncio")
    assert _name(path).startswith(exceptions) or not roots & ENGINE_ONLY


@every_module
def test_few_know_the_web_framework(path: Path) -> None:
    """Handlers, connections and most transports work without any web framework."""
    roots = {module.split(".")[0] for module in _imports(path, running=True)}
    assert _name(path).startswith(KNOW_THE_WEB) or not roots & WEB_FRAMEWORK


@every_module
def test_the_pure_floor_is_pure(path: Path) -> None:
    """`media` and `protocol` have no clock, no thread, no randomness, no await: values and `now` in, values out."""
    if _name(path).split("/")[0] not in FOLDERS[0]:
        return
    assert not {module.split(".")[0] for module in _imports(path)} & IMPURE
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not any(isinstance(node, waits) for node in ast.walk(_tree(path)))
