"""CI succeeds only if every cell ran, every session in it succeeded, and no part of the machine was missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parent.parent / ".ci" / "cells.py"
SESSIONS = ["lint", "typing", "docs", "tests", "wheel", "lowest", "matrix"]
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="this tree has no .ci folder")


@pytest.fixture(scope="module")
def cells() -> Any:
    spec = importlib.util.spec_from_file_location("the_cells", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def result(**values: Any) -> dict[str, Any]:
    return {"session": "tests", "passed": 3, "failed": 0, "skipped": {}, "flaky": [], **values}


def good(cells: ModuleType) -> dict[str, Any]:
    """What all cells leave behind when all is well."""
    return {
        cell.name: cells.Ran(
            dict.fromkeys(cell.sessions, "success"), [] if set(cell.sessions) <= cells.NO_TESTS else [result()]
        )
        for cell in cells.CELLS
    }


def test_all_is_well(cells: Any) -> None:
    wrong, line = cells.verdict(cells.CELLS, good(cells))
    assert not wrong
    assert line == f"{3 * (len(cells.CELLS) - 1)} passed, 0 failed, 0 skipped"


def test_a_cell_that_did_not_run(cells: Any) -> None:
    for cell in cells.CELLS:
        ran = good(cells)
        del ran[cell.name]
        assert cells.verdict(cells.CELLS, ran)[0] == [f"{cell.name}: not run"]


@pytest.mark.parametrize("outcome", ["skipped", "failed", "aborted", None])
def test_a_session_that_did_not_succeed(cells: Any, outcome: str | None) -> None:
    for cell in cells.CELLS:
        for session in cell.sessions:
            ran = good(cells)
            if outcome is None:
                del ran[cell.name].sessions[session]
            else:
                ran[cell.name].sessions[session] = outcome
            assert cells.verdict(cells.CELLS, ran)[0] == [f"{cell.name}: {session}: {outcome or 'not run'}"]


def test_a_cell_in_which_no_test_ran(cells: Any) -> None:
    ran = good(cells)
    ran["nox"].results.clear()
    assert cells.verdict(cells.CELLS, ran)[0] == ["nox: no test ran"]


def test_failures_are_counted(cells: Any) -> None:
    ran = good(cells)
    ran["nox"].results[:] = [result(passed=5, failed=2)]
    wrong, line = cells.verdict(cells.CELLS[:1], ran)
    assert wrong == ["nox: 2 failed"]
    assert line == "5 passed, 2 failed, 0 skipped"


@pytest.mark.parametrize(
    ("reason", "fails"),
    [
        ("chromium is not installed", True),
        ("turnserver is not installed (coturn)", True),
        ("GStreamer's webrtcbin and its Python are not installed", True),
        ("could not import 'httpx2': No module named 'httpx2'", True),
        ("asyncio only", False),
        ("audioop left the standard library in 3.13", False),
    ],
)
def test_a_skipped_part_that_should_be_installed(cells: Any, reason: str, fails: bool) -> None:
    ran = good(cells)
    ran["nox"].results[:] = [result(skipped={"tests/interop/test_a.py": reason})]
    wrong, line = cells.verdict(cells.CELLS[:1], ran)
    assert bool(wrong) is fails
    assert line == "3 passed, 0 failed, 1 skipped"


def test_what_nox_and_the_tests_wrote_is_read(cells: Any, tmp_path: Path) -> None:
    report, results = tmp_path / "report", tmp_path / "results"
    assert cells.read(report, results) == cells.Ran({}, [])
    report.write_text(json.dumps({"result": 0, "sessions": [{"signatures": ["a", "b"], "result": "skipped"}]}))
    results.write_text(json.dumps(result()) + "\n" + json.dumps(result(failed=1)) + "\n")
    ran = cells.read(report, results)
    assert ran.sessions == {"a": "skipped", "b": "skipped"}
    assert [one["failed"] for one in ran.results] == [0, 1]


def test_sessions_of_the_cells_exist(cells: Any) -> None:
    """What the cells wait for has the names that the noxfile gives."""
    pytest.importorskip("nox")
    done = subprocess.run(
        [sys.executable, "-m", "nox", "--json", "--list", "--session", *SESSIONS],
        cwd=FILE.parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {session["session"] for session in json.loads(done.stdout)}
    assert {session for cell in cells.CELLS for session in cell.sessions} <= names
