"""Show that the suite turns red on each planted bug, and is green without: `python tests/mutations/run.py [NAME ...]`.

Each mutant has a process of its own and runs only the tests it names. Prints caught or missed for each, and a table by
kind and tool. Exits with 1 if one is missed or no longer fits the code. A bug is caught if a test fails, with as much
time as without it. One that only makes a test slow is not caught, unless something hangs, and its mutant says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from mutations.bugs import MUTANTS  # noqa: E402
from mutations.by_tools import KINDS  # noqa: E402
from mutations.plant import Mutant  # noqa: E402
from mutations.plugin import VARIABLE  # noqa: E402

HANGS = 240
"""Seconds after which a run is taken for one that hangs; single tests are ended by pytest-timeout long before."""

TIMEOUT = 60
"""Seconds for each test, with a bug and without."""


def run(tests: Iterable[str], mutant: str = "") -> tuple[int, str]:
    """Run `tests` with a bug planted, or without; pytest's exit code and its output."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: mutant}
    environment.setdefault("RTCFLOW_BACKENDS", "asyncio,trio")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "mutations.plugin", "-p", "no:cacheprovider"]
    command += ["-m", "", "--no-header", "--tb=short", f"--timeout={TIMEOUT}", *tests]
    try:
        done = subprocess.run(
            command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=HANGS, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"hung for {HANGS} s"
    return done.returncode, done.stdout + done.stderr


TIMED_OUT = "Failed: Timeout"
"""What pytest-timeout says of a test that it ended."""


def first_failure(output: str) -> str:
    """The test that turned red."""
    for line in output.splitlines():
        if line.startswith(("FAILED tests/", "ERROR tests/")):
            return line.split(" ", 1)[1].split(" - ")[0].rsplit("/", 1)[-1]
    return "?"


TOOLS = {
    "test_handlers_keep_their_contract": "check_handler",
    "test_transports_keep_their_promises": "check_transport",
    "test_a_sound_transport_passes": "check_transport",
    "test_connections_live_through_anything": "HandlerLifecycle",
    "that_the_machine_tells_rarely": "HandlerLifecycle",
    "test_testing_explored.py": "explore",
}
"""The tools, by what is in the name of the test that turned red; all other tests are tests of one part."""

OTHERS = "other tests"


def tool_of(test: str) -> str:
    """The tool that has seen the bug."""
    return next((tool for part, tool in TOOLS.items() if part in test), OTHERS)


def table(found: list[tuple[Mutant, str, float]]) -> str:
    """Caught of planted, by kind and by the tool that has seen them, and the seconds they took.

    Args:
        found: Each planted bug, the tool (empty if it was missed), and how long its tests ran.
    """
    tools = [*dict.fromkeys(TOOLS.values()), OTHERS]
    lines = [["kind", *tools, "caught", "seconds"]]
    for number, kind in enumerate(KINDS):
        rows = [row for row in found if row[0].kind == number]
        by_tool = [str(sum(tool == one for _, tool, _ in rows) or "") for one in tools]
        caught = f"{sum(bool(tool) for _, tool, _ in rows)} of {len(rows)}"
        seconds = f"{sum(took for _, _, took in rows) / max(1, len(rows)):.1f}"
        lines.append([f"{number or '-'} {kind}", *by_tool, caught, seconds])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main(names: list[str]) -> int:
    """Run the mutants of these names, or all."""
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no mutant is called {', '.join(sorted(unknown))}")
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    began = time.monotonic()
    code, output = run(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    print(f"{'green' if code == 0 else 'RED':8} without a mutant ({time.monotonic() - began:.0f} s)", flush=True)
    if code != 0:
        print(output)
        return 1
    missed = []
    found: list[tuple[Mutant, str, float]] = []
    for mutant in chosen:
        began = time.monotonic()
        code, output = run(mutant.tests, mutant.name)
        slow = TIMED_OUT in output
        caught = code == 1 and (not slow or mutant.hangs)
        verdict = "caught" if caught else "MISSED" if code == 0 else "SLOW" if slow else "BROKEN"
        took, test = time.monotonic() - began, first_failure(output)
        by = f"by {tool_of(test)}: {test}" if caught else mutant.description
        found.append((mutant, tool_of(test) if caught else "", took))
        print(f"{verdict:8} {mutant.name:34} {took:4.0f} s  {by}", flush=True)
        if not caught:
            missed.append(mutant.name)
            if code != 0:
                print(output)
    print(table(found))
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught" + (f"; missed: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
