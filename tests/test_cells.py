"""CI succeeds only if every cell ran, every session in it succeeded, and about as many tests passed as there are."""

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
        cell.name: cells.Ran(dict.fromkeys(cell.sessions, "success"), [result(passed=cell.tests)] if cell.tests else [])
        for cell in cells.CELLS
    }


def test_all_is_well(cells: Any) -> None:
    wrong, line = cells.verdict(cells.CELLS, good(cells))
    assert not wrong
    assert line == f"{sum(cell.tests for cell in cells.CELLS)} passed, 0 failed, 0 skipped"


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
    for cell in cells.CELLS:
        ran = good(cells)
        ran[cell.name].results.clear()
        wrong = cells.verdict(cells.CELLS, ran)[0]
        assert len(wrong) == bool(cell.tests)
        assert all(one.startswith(f"{cell.name}: 0 tests passed") for one in wrong)


def test_a_cell_that_lost_many_tests(cells: Any) -> None:
    """As when a mark or a fixture deselects a folder by mistake."""
    ran = good(cells)
    ran["nox"].results[:] = [result(passed=3000)]
    assert cells.verdict(cells.CELLS, ran)[0] == ["nox: 3000 tests passed, and there are more than 6500"]


def test_what_nox_says_of_itself_counts(cells: Any) -> None:
    ran = good(cells)
    ran["nox"].status = 3
    assert cells.verdict(cells.CELLS, ran)[0] == ["nox: nox ended with status 3"]


def test_nothing_from_outside_chooses_among_the_tests(
    cells: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither pytest's options nor this project's own variables reach a cell, and the cell's own do."""
    shown = tmp_path / "shown"
    for name in cells.DROPPED:
        monkeypatch.setenv(name, "lint")
    monkeypatch.setenv("RTCFLOW_SHOWN", str(shown))
    monkeypatch.setattr(
        cells.subprocess,
        "run",
        lambda command, env, **_: [shown.write_text(json.dumps(env)), subprocess.CompletedProcess(command, 5)][1],
    )
    ran = cells.run(cells.CELLS[0], 1)
    environment = json.loads(shown.read_text())
    assert ran == cells.Ran(status=5)
    assert not environment.keys() & set(cells.DROPPED)
    assert environment["CI"]
    assert environment["RTCFLOW_COMPLETE"]


def test_failures_are_counted(cells: Any) -> None:
    ran = good(cells)
    ran["nox"].results[:] = [result(passed=7000, failed=2, skipped={"a": "asyncio only"})]
    wrong, line = cells.verdict(cells.CELLS[:1], ran)
    assert wrong == ["nox: 2 failed"]
    assert line == "7000 passed, 2 failed, 1 skipped"


def test_what_nox_and_the_tests_wrote_is_read(cells: Any, tmp_path: Path) -> None:
    report, results = tmp_path / "report", tmp_path / "results"
    assert cells.read(report, results, 0) == cells.Ran({}, [])
    report.write_text(json.dumps({"result": 0, "sessions": [{"signatures": ["a", "b"], "result": "skipped"}]}))
    results.write_text(json.dumps(result()) + "\n" + json.dumps(result(failed=1)) + "\n")
    ran = cells.read(report, results, 1)
    assert ran.status == 1
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
