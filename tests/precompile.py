"""Compile the tests before five workers need them: `python tests/precompile.py`.

pytest rewrites the asserts of each test module, which takes twice as long as everything else at its start. Each worker
would do that for all modules at once, and only then could they use what another one has kept. Two processes do it here,
a half of the modules each. Modules that are kept already, and are not older than their source, take no time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROCESSES = 2


def is_kept(module: Path) -> bool:
    """Whether pytest finds the module compiled. See `_pytest.assertion.rewrite`, which chooses the name."""
    name = f"{module.stem}.{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"
    kept = module.parent / "__pycache__" / name
    return kept.exists() and kept.stat().st_mtime >= module.stat().st_mtime


def main() -> None:
    """Have pytest collect what is not kept. What it says of it does not matter: the run to come says it again."""
    modules = [str(module) for module in sorted(TESTS.rglob("test_*.py")) if not is_kept(module)]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0"]
    halves = [modules[n::PROCESSES] for n in range(PROCESSES)]
    running = [subprocess.Popen([*command, *half], stdout=subprocess.DEVNULL) for half in halves if half]
    for process in running:
        process.wait()


if __name__ == "__main__":
    main()
