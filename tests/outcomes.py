"""A pytest plugin that writes down which tests were collected and what became of each; the noxfile loads it.

    RTCFLOW_OUTCOMES=FILE PYTHONPATH=tests python -m pytest -p outcomes …

pytest's exit status alone does not say that every test ran: a test that ends the process with status 0 looks like a
success, and a run that was broken off looks like one that finished with failures. The file is written last. If it does
not exist, pytest did not reach its end.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


class Outcomes:
    """Collects the reports of one run. With pytest-xdist, the controller collects those of its workers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._collected: set[str] = set()
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._crashed: set[str] = set()
        self._skipped: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected.update(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._collected.update(ids)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._skipped[report.nodeid] = _reason(report.longrepr)
        elif report.failed:
            self._crashed.add(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in {"setup", "call", "teardown"}:  # pytest-xdist lost the worker that ran this test
            self._crashed.add(report.nodeid)
        if report.failed:
            self._failed.add(report.nodeid)
        if report.skipped and not hasattr(report, "wasxfail"):
            self._skipped[report.nodeid] = _reason(report.longrepr)
        if report.when == "teardown":
            self._finished.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        outcomes = {
            "exit": int(exitstatus),
            "collected": sorted(self._collected),
            "finished": sorted(self._finished),
            "failed": sorted(self._failed),
            "crashed": sorted(self._crashed),
            "skipped": self._skipped,
        }
        self._file.write_text(json.dumps(outcomes), encoding="utf-8")


def _reason(longrepr: Any) -> str:
    """Why a test was skipped: pytest reports the file, the line and `Skipped: reason`."""
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


def pytest_configure(config: pytest.Config) -> None:
    file = os.environ.get("RTCFLOW_OUTCOMES")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(Path(file)))
