"""The drawings of the docs and the walk through the code agree with the code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text() for page in DOCS.glob("*.md")}


@pytest.fixture(scope="module")
def drawings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rtcflow_drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_each_drawing_has_its_page(drawings: ModuleType) -> None:
    """Every drawing is shown somewhere, and no page shows one that is not made."""
    shown = set(re.findall(r"_static/drawings/(\w+)\.svg", "".join(PAGES.values())))
    assert shown == drawings.DRAWINGS.keys()


def test_each_drawing_is_sound_and_stays_on_its_paper(drawings: ModuleType) -> None:
    """The files are XML; no box and no word begins outside."""
    for make in drawings.DRAWINGS.values():
        drawing = make()
        for element in ET.fromstring(drawing.svg()):
            if "x" in element.attrib:
                right = float(element.attrib["x"]) + float(element.attrib.get("width", 0))
                low = float(element.attrib["y"]) + float(element.attrib.get("height", 0))
                assert 0 <= right <= drawing.width, (drawing.title, element.text)
                assert 0 <= low <= drawing.height, (drawing.title, element.text)


def test_the_house_shows_every_part(drawings: ModuleType) -> None:
    """Each folder and flat module is in the drawing, with a line of words if it is a folder that people read first."""
    house = drawings.house().svg()
    for path in (ROOT / "src" / "rtcflow").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f">{path.name}/<" in house
            assert path.name in drawings.PARTS or path.name == "web"
    assert drawings.PARTS.keys() <= drawings.imports().keys()


def test_the_house_stands_on_the_imports(drawings: ModuleType) -> None:
    """Each part is above all that it imports: there is no circle that would put the rest on one floor."""
    graph = drawings.imports()
    level = {name: floor for floor, names in enumerate(drawings.floors(graph)) for name in names}
    assert all(level[other] < level[name] for name, others in graph.items() for other in others)


STEPS = re.findall(r"^\| (\d+) \| `([\w/]+)\.py` \| `([\w.]+)` \|", PAGES["design.md"], re.MULTILINE)


def test_the_walk_is_short() -> None:
    """From the datagram to `receive` and back are at most ten files, each once described."""
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert len(STEPS) >= 8
    assert len({file for _, file, _ in STEPS}) == 8  # as the page says


@pytest.mark.parametrize(("file", "function"), [step[1:] for step in STEPS])
def test_each_step_of_the_walk_is_there(file: str, function: str) -> None:
    """The file is there, and has the function that the page names."""
    tree: ast.AST = ast.parse((ROOT / "src" / "rtcflow" / f"{file}.py").read_text())
    for name in function.split("."):
        found = [
            node
            for node in ast.iter_child_nodes(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name
        ]
        assert found, f"{file}.py has no {function}"
        tree = found[0]


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("deploy", "deploy.md"),
        ("llm", "voice-agent.md"),
        ("h264", "video.md"),
        ("tool call", "voice-agent.md"),
        ("record", "operate.md"),
    ],
)
def test_what_people_search_for_is_in_a_title(words: str, page: str) -> None:
    """The search of the site puts pages first that have the words in a title, and wants every word on the page."""
    titles = " ".join(re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)).lower()
    assert all(re.search(rf"\b{word}", titles) for word in words.split()), titles
