"""Run the cells that a change must pass, and judge whether all of them really ran. Started by `.ci/run`, with nox.

`verdict` judges. It takes what nox and the tests wrote down, never what they printed. These are failures too: a cell
that did not run, a session that nox skipped, far fewer tests than there are, and nox' own exit status. With them, a CI
can be green while it tests nothing. The noxfile fails a run in which a test skips for a reason that nobody expects.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LIMIT = 80 * 60
"""Seconds for all cells. CI stops everything after 90 minutes; the machine's packages take some of them."""
LEAST = 10 * 60
"""Seconds that must be left for a cell to begin."""
DROPPED = ("PYTHONOPTIMIZE", "PYTEST_ADDOPTS", "HYPOTHESIS_PROFILE", "RTCFLOW_BACKENDS", "NOXSESSION")
"""Variables that would choose among the tests, or change what they see."""


@dataclass(frozen=True)
class Cell:
    """One run of nox.

    `sessions` are the names that its report must list as successful. `tests` is how many tests must pass at least: a
    tenth fewer than when the number was written.
    """

    name: str
    sessions: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    tests: int = 0


def _matrix(python: str, backend: str) -> Cell:
    session = f"matrix-{python}(backend='{backend}', dependencies='latest')"
    return Cell(f"Python {python}", (session,), ("--session", session, "--", "tests/unit"), tests=4_300)


CELLS = [
    Cell("nox", ("lint", "typing", "docs", "tests"), tests=6_500),
    Cell("wheel", ("wheel",), ("--session", "wheel")),
    Cell(
        "lowest dependencies, Python 3.11",
        ("lowest-3.11",),
        ("--session", "lowest-3.11", "--", "tests/unit"),
        tests=5_800,
    ),
    _matrix("3.12", "trio"),
    _matrix("3.13", "trio"),
]


@dataclass
class Ran:
    """What one cell left behind: nox' report (session: result), a result for each run of the tests, its exit status."""

    sessions: dict[str, str] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0


def verdict(cells: Sequence[Cell], ran: dict[str, Ran]) -> tuple[list[str], str]:
    """Judge what ran. Return what is wrong (empty if nothing is) and the line that counts the tests."""
    wrong: list[str] = []
    passed = failed = skipped = 0
    for cell in cells:
        found = ran.get(cell.name)
        if found is None:
            wrong.append(f"{cell.name}: not run")
            continue
        for session in cell.sessions:
            result = found.sessions.get(session, "not run")
            if result != "success":
                wrong.append(f"{cell.name}: {session}: {result}")
        if found.status:
            wrong.append(f"{cell.name}: nox ended with status {found.status}")
        here = sum(result["passed"] for result in found.results)
        if here < cell.tests:
            wrong.append(f"{cell.name}: {here} tests passed, and there are more than {cell.tests}")
        for result in found.results:
            passed += result["passed"]
            failed += result["failed"]
            skipped += len(result["skipped"])
            if result["failed"]:
                wrong.append(f"{cell.name}: {result['failed']} failed")
    return wrong, f"{passed} passed, {failed} failed, {skipped} skipped"


def run(cell: Cell, seconds: float) -> Ran:
    """Run nox for a cell, for so many seconds at most."""
    with TemporaryDirectory() as folder:
        report, results = Path(folder, "report.json"), Path(folder, "results.jsonl")
        # An environment of an earlier run may hold packages that rtcflow no longer asks for.
        nox = [sys.executable, "-m", "nox", "--non-interactive", "--reuse-venv=no", "--report", str(report)]
        environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
        environment |= {"CI": "true", "RTCFLOW_COMPLETE": "1", "RTCFLOW_RESULTS": str(results)}
        # `timeout` ends the whole process group: a suite that hangs must not hold up the other cells.
        done = subprocess.run(
            ["timeout", "--kill-after=30", str(int(seconds)), *nox, *cell.arguments],
            env=environment, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return read(report, results, done.returncode)


def read(report: Path, results: Path, status: int) -> Ran:
    """Read what nox and the tests wrote down. Files that do not exist mean that nothing ran."""
    ran = Ran(status=status)
    if report.exists():
        for session in json.loads(report.read_text(encoding="utf-8"))["sessions"]:
            ran.sessions |= dict.fromkeys(session["signatures"], session["result"])
    if results.exists():
        ran.results = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return ran


def main(names: Sequence[str] = ()) -> int:
    """Run all cells, or those with these names. Say what each did, and end with the line that counts the tests."""
    cells = [cell for cell in CELLS if cell.name in names] if names else CELLS
    if not cells:
        raise SystemExit(f"no cell is named {', '.join(names)}; there are {', '.join(cell.name for cell in CELLS)}")
    begin = time.monotonic()
    ran: dict[str, Ran] = {}
    for cell in cells:
        passed = time.monotonic() - begin
        if LIMIT - passed > LEAST:
            print(f"\n== {cell.name}, {passed / 60:.0f} minutes in", flush=True)
            ran[cell.name] = run(cell, LIMIT - passed)
    print("\n== summary")
    for name, found in ran.items():
        for result in found.results:
            counts = f"{result['passed']} passed, {result['failed']} failed, {len(result['skipped'])} skipped"
            print(f"{name}: {result['session']}: {counts}")
            for test in result["flaky"]:
                print(f"  flaky, passed in its second run: {test}")
            for why in sorted(set(result["skipped"].values())):
                print(f"  skipped: {why}")
    wrong, line = verdict(cells, ran)
    for one in wrong:
        print(f"WRONG: {one}")
    print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
