"""The noxfile tells the truth: a session succeeds only if every test that was collected ran and passed.

Each test here runs `noxfile._pytest` on a small project of its own, with a session that really starts processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nox = pytest.importorskip("nox")
CommandFailed = pytest.importorskip("nox.command").CommandFailed

NOXFILE = Path(__file__).parent.parent / "noxfile.py"
FLAKY = """
from pathlib import Path
def test_flaky():
    if not (mark := Path("was_here")).exists():
        mark.touch()
        raise AssertionError
"""
PASSES = "def test_passes(): pass\n"


class SessionFailed(Exception):
    """What `session.error` raises."""


class Session:
    """The part of nox' session that the tests need; its `run` starts real processes in `folder`."""

    def __init__(self, folder: Path, posargs: tuple[str, ...] = ("-n0",)) -> None:
        self.name = "tests"
        self.posargs = list(posargs)
        self.runs = 0
        self.warnings: list[str] = []
        self._folder = folder

    def run(self, *command: str, env: dict[str, str]) -> bool:
        self.runs += 1
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=self._folder, env={**os.environ, **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        if done.returncode:
            raise CommandFailed(return_code=done.returncode, reason="it failed")
        return True

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def error(self, message: str) -> None:
        raise SessionFailed(message)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a small test suite; in CI, with a file for the results."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("RTCFLOW_COMPLETE", raising=False)
    monkeypatch.setenv("RTCFLOW_RESULTS", str(tmp_path / "results"))
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the suite's other plugins would cost seconds
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


@pytest.fixture(scope="module")
def noxfile() -> ModuleType:
    """The noxfile, as a module."""
    spec = importlib.util.spec_from_file_location("the_noxfile", NOXFILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(NOXFILE.parent)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def results(project: Path) -> list[dict[str, Any]]:
    file = project / "results"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_all_passed(noxfile: ModuleType, project: Path) -> None:
    (project / "test_a.py").write_text(
        f"import pytest\n{PASSES}@pytest.mark.skip(reason='no peer')\ndef test_b(): pass"
    )
    session = Session(project)
    noxfile._pytest(session)
    assert session.runs == 1
    skipped = {"test_a.py::test_b": "no peer"}
    assert results(project) == [{"session": "tests", "passed": 1, "failed": 0, "skipped": skipped, "flaky": []}]


def test_an_unexpected_skip_fails_where_every_part_is_installed(
    noxfile: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "test_a.py").write_text(
        f"import pytest\n{PASSES}@pytest.mark.skip(reason='no peer')\ndef test_b(): pass"
    )
    monkeypatch.setenv(noxfile.COMPLETE, "1")
    with pytest.raises(SessionFailed, match=r"test_a\.py::test_b: no peer"):
        noxfile._pytest(Session(project))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("chromium is not installed", False),
        ("turnserver is not installed (coturn)", False),
        ("GStreamer's webrtcbin and its Python are not installed", False),
        ("could not import 'httpx2': No module named 'httpx2'", False),
        ("the extra denoise is not here", False),
        ("no network namespaces here", False),
        ("got empty parameter set for (case)", False),
        ("asyncio only", True),
        ("audioop left the standard library in 3.13", True),
    ],
)
def test_reasons_of_skipped_tests(noxfile: ModuleType, reason: str, expected: bool) -> None:
    assert (noxfile._unexpected_skips({"tests/interop/test_a.py": reason}) is None) is expected


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_flaky_test_runs_again_and_is_named(noxfile: ModuleType, project: Path, workers: str) -> None:
    (project / "test_a.py").write_text(FLAKY + PASSES)
    session = Session(project, (workers,))
    noxfile._pytest(session)
    assert session.runs == 2
    assert "FLAKY" in session.warnings[0]
    flaky = ["test_a.py::test_flaky"]
    assert results(project) == [{"session": "tests", "passed": 2, "failed": 0, "skipped": {}, "flaky": flaky}]


def test_outside_ci_a_failure_is_final(noxfile: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI")
    (project / "test_a.py").write_text(FLAKY)
    session = Session(project)
    with pytest.raises(SessionFailed, match="1 tests failed"):
        noxfile._pytest(session)
    assert session.runs == 1


def test_a_test_that_fails_twice_fails_the_session(noxfile: ModuleType, project: Path) -> None:
    (project / "test_a.py").write_text(PASSES + "def test_b(): assert False")
    session = Session(project)
    with pytest.raises(SessionFailed, match="1 tests failed"):
        noxfile._pytest(session)
    assert session.runs == 2
    assert results(project) == [{"session": "tests", "passed": 1, "failed": 1, "skipped": {}, "flaky": []}]


BROKEN_OFF = {
    "an internal error after a flaky test": (
        FLAKY + "def test_z(): pass",
        "def pytest_runtest_protocol(item):\n    if item.name == 'test_z': raise RuntimeError",
    ),
    "pytest.exit as if tests had failed": (FLAKY + "import pytest\ndef test_z(): pytest.exit('', returncode=1)", ""),
    "pytest.exit as if all had passed": (PASSES + "import pytest\ndef test_z(): pytest.exit('', returncode=0)", ""),
    "a test that ends the process": (FLAKY + "import os\ndef test_z(): os._exit(1)", ""),
    "a test that ends the process with success": (PASSES + "import os\ndef test_z(): os._exit(0)", ""),
    "an interrupt": (FLAKY + "def test_z(): raise KeyboardInterrupt", ""),
    "a file that cannot be imported": (FLAKY, "open('test_z.py', 'w').write('import nothing_like_it')"),
    "no tests": ("", ""),
    "a fault of the command line": (FLAKY, "raise RuntimeError('of the conftest')"),
    "a plugin that turns the exit status": (
        FLAKY,
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_sessionfinish(session): session.exitstatus = 7",
    ),
    "more failures than CI waits for": ("\n".join(f"def test_{n}(): 0 / 0" for n in range(30)), ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_OFF)
def test_a_run_that_was_broken_off_fails_at_once(noxfile: ModuleType, project: Path, kind: str) -> None:
    tests, conftest = BROKEN_OFF[kind]
    (project / "test_a.py").write_text(tests)
    (project / "conftest.py").write_text(conftest)
    session = Session(project)
    with pytest.raises(SessionFailed):
        noxfile._pytest(session)
    assert session.runs == 1
    assert not any(result["flaky"] for result in results(project))


def test_a_worker_that_crashes_fails_at_once(noxfile: ModuleType, project: Path) -> None:
    (project / "test_a.py").write_text(FLAKY.replace("raise AssertionError", "import os; os._exit(1)") + PASSES)
    session = Session(project, ("-n2",))
    with pytest.raises(SessionFailed, match="1 crashed"):
        noxfile._pytest(session)
    assert session.runs == 1


def test_a_failure_that_does_not_come_up_again_fails(noxfile: ModuleType, project: Path) -> None:
    """The second run must run what failed: here the test that failed is not there any more."""
    (project / "test_a.py").write_text(
        PASSES + FLAKY + "import os\nif os.path.exists('was_here'): del test_flaky\n",
    )
    session = Session(project)
    with pytest.raises(SessionFailed):
        noxfile._pytest(session)
    assert not any(result["flaky"] for result in results(project))


def test_a_cell_without_its_interpreter_is_an_error_in_ci() -> None:
    command = [sys.executable, "-c", "import noxfile, nox; print(nox.options.error_on_missing_interpreters)"]
    for ci, expected in (("true", "True"), ("", "False")):
        done = subprocess.run(
            command, cwd=NOXFILE.parent, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


class InstallOnly:
    """A session of `nox --install-only`: `run` does nothing and returns None, the installs do what `installs` says."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = "any", folder
        self.posargs: list[str] = []
        self.installs: list[tuple[str, ...]] = []

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments, **_named: None

    def create_tmp(self) -> str:
        return str(self._folder)

    def error(self, message: str) -> None:
        raise SessionFailed(message)

    def install(self, *wanted: str) -> None:
        self.installs.append(wanted)

    def run_install(self, *command: str, **_: Any) -> None:
        self.installs.append(command)
        if "build" in command:
            out = Path(command[[word.startswith("--out") for word in command].index(True) + 1])
            out.mkdir(exist_ok=True)
            (out / "rtcflow-0-py3-none-any.whl").touch()
            (self._folder / "rtcflow-0").mkdir(exist_ok=True)
            with tarfile.open(out / "rtcflow-0.tar.gz", "w:gz") as archive:
                archive.add(self._folder / "rtcflow-0", "rtcflow-0")


SESSIONS = re.findall(r"@nox\.(?:session|parametrize).*\ndef (\w+)\(session", NOXFILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SESSIONS)
def test_with_install_only_each_session_installs_and_succeeds(
    noxfile: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(NOXFILE.parent)
    session = InstallOnly(tmp_path)
    session.posargs = ["1"] if name == "flakes" else []
    arguments = {"beside": ["fastapi-newest"], "matrix": ["trio", "lowest"]}.get(name, [])
    function = getattr(noxfile, name)
    getattr(function, "func", function)(session, *arguments)
    assert session.installs or name == "changelog"
