"""Show that the suite turns red on each planted bug, and is green without: `python tests/mutations/run.py [NAME ...]`.

`--write` writes the table into docs/mutations.md, once all are caught. `--jobs 2` runs two at a time.

Each mutant has a process of its own and runs only the tests it names. Prints caught or missed for each, and a table by
kind and tool. Exits with 1 if one is missed or no longer fits the code. A bug is caught if a test fails, with as much
time as without it. One that only makes a test slow, or hang, is not caught.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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
    """Caught of planted, by kind and by the tool that has seen them, and the seconds they took, as Markdown.

    Args:
        found: Each planted bug, the tool (empty if it was missed), and how long its tests ran.
    """
    tools = [*dict.fromkeys(TOOLS.values()), OTHERS]
    lines = [["kind", *tools, "caught", "seconds"]]
    for number in (*range(1, len(KINDS)), 0):
        rows = [row for row in found if row[0].kind == number]
        lines.append(_row(f"{number}. {KINDS[number]}" if number else KINDS[0], tools, rows))
    lines.append(_row("all", tools, found))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _row(name: str, tools: list[str], rows: list[tuple[Mutant, str, float]]) -> list[str]:
    by_tool = [str(sum(tool == one for _, tool, _ in rows) or "") for one in tools]
    caught = f"{sum(bool(tool) for _, tool, _ in rows)} of {len(rows)}"
    return [name, *by_tool, caught, f"{sum(took for _, _, took in rows) / max(1, len(rows)):.1f}"]


PAGE = TESTS.parent / "docs" / "mutations.md"


def page(found: list[tuple[Mutant, str, float]]) -> str:
    """docs/mutations.md, for the bugs that were planted and found."""
    return f"""# Planted bugs

`nox -s mutations` plants one bug at a time into rtcflow itself, and runs the tests that must see it. This page is what
its last whole run wrote (`nox -s mutations -- --write`). {len(found)} bugs were planted. "Seconds" is the mean of what
a run took until the first test failed, with the start of Python and pytest.

The kinds are those of [Find a bug in your handler](find-a-bug.md). A tool is named where it was the first to see the
bug, over rtcflow's own handlers and transports. "{OTHERS[0].upper()}{OTHERS[1:]}" are tests of one part.

{table(found)}

A test that is slow, or that was ended for its time, has not found a bug. None of these was caught in that way.
"""


def main(arguments: list[str]) -> int:
    """Run the mutants of these names, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true", help="write docs/mutations.md; needs all mutants")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at a time")
    options = parser.parse_args(arguments)
    names: list[str] = options.names
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no mutant is called {', '.join(sorted(unknown))}")
        return 2
    if options.write and names:
        print("--write needs all mutants: leave out the names")
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    began = time.monotonic()
    code, output = run(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    print(f"{'green' if code == 0 else 'RED':8} without a mutant ({time.monotonic() - began:.0f} s)", flush=True)
    if code != 0:
        print(output)
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(_try, chosen))
    missed = [mutant.name for mutant, tool, _ in found if not tool]
    print(table(found))
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught" + (f"; missed: {', '.join(missed)}" if missed else ""))
    if options.write and not missed:
        PAGE.write_text(page(found), encoding="utf-8")
    return 1 if missed else 0


def _try(mutant: Mutant) -> tuple[Mutant, str, float]:
    """Plant one bug; the tool that has seen it (empty if none has), and the seconds it took."""
    began = time.monotonic()
    code, output = run(mutant.tests, mutant.name)
    slow = TIMED_OUT in output
    caught = code == 1 and not slow
    verdict = "caught" if caught else "MISSED" if code == 0 else "SLOW" if slow else "BROKEN"
    took, test = time.monotonic() - began, first_failure(output)
    by = f"by {tool_of(test)}: {test}" if caught else mutant.description
    told = f"{verdict:8} {mutant.name:34} {took:4.0f} s  {by}"
    print(told if caught or code == 0 else f"{told}\n{output}", flush=True)
    return mutant, tool_of(test) if caught else "", took


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
