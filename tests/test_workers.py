"""Tests that would disturb one another run one after the other, in a worker of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin,pytest_timeout"}
MODULES = ["interop/test_anything", "unit/test_call", "unit/test_cli", "unit/test_engine", "unit/test_quick"]


def test_the_groups_have_a_worker_each(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    for module in MODULES:
        file = tmp_path / f"{module}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test(n): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n", "3", "-p", "no:cacheprovider", "--rootdir=.", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | PLUGINS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    workers = defaultdict(set)
    for worker, module in re.findall(r"\[(gw\d)\].* PASSED (.*)\.py::", done.stdout):
        workers[module].add(worker)
    assert workers["unit/test_cli"] == workers["unit/test_call"]
    groups = [workers[module] for module in ("interop/test_anything", "unit/test_cli", "unit/test_engine")]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert set.union(*groups) == set.union(*workers.values()) == {"gw0", "gw1", "gw2"}
