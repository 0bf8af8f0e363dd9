"""A pytest plugin (`-p mutations.plugin`) that plants one bug for the whole run.

The environment variable `RTCFLOW_MUTANT` names the mutant. Without it, nothing is planted.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import Phase, settings

from mutations.bugs import MUTANTS

VARIABLE = "RTCFLOW_MUTANT"


def pytest_configure(config: Any) -> None:
    """Plant the mutant of the environment, until the run ends."""
    name = os.environ.get(VARIABLE)
    if name:
        # That a law is broken is enough to know here: the smallest example is not looked for.
        settings.register_profile("mutant", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutant")
        planted = ExitStack()
        planted.enter_context(next(mutant for mutant in MUTANTS if mutant.name == name).plant())
        config.add_cleanup(planted.close)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With a bug planted, end the process once the outcome is told: threads left behind would keep it for ever."""
    if os.environ.get(VARIABLE):
        session.config.add_cleanup(lambda: _leave(exitstatus))


def _leave(exitstatus: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exitstatus)


def pytest_report_header() -> str | None:
    """Say which bug is planted, at the top of the run."""
    name = os.environ.get(VARIABLE)
    return f"planted bug: {name}" if name else None
