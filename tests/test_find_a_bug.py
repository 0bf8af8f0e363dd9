"""docs/find-a-bug.md: the tools tell each bug as the page prints it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from documents import examples
from kinds import KINDS
from stories import PAGE, section

TEXT = PAGE.read_text(encoding="utf-8")
PRINTED = re.findall(r"^```python\n[^`]*check_handler[^`]*^```\n\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
REPORTED = [found for found in examples() if found.page == PAGE and "class " in found.code]


CASES = list(zip(REPORTED, PRINTED, strict=True))


@pytest.mark.parametrize(("reported", "told"), CASES, ids=["shared", "stale", "thread"])
def test_the_reported_bugs(reported, told):
    """What an example prints stands below it, and can be read at a glance.

    It runs in a process of its own, because one of the bugs is a thread that is left behind.
    """
    run = subprocess.run(
        [sys.executable, "-c", reported.code], capture_output=True, text=True, check=False, timeout=150
    )
    printed = run.stdout
    assert printed == told, run.stderr
    assert printed.count("\n") <= 15


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one leaves a socket open
@pytest.mark.parametrize("handler", KINDS, ids=lambda handler: handler.__name__)
def test_the_kinds(handler):
    """Each kind of bug is found by the sentence it breaks, and the page is up to date (`python tests/stories.py`)."""
    assert section(handler) in TEXT
