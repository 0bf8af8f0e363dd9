"""Everything that is run on this project, each in an environment of its own.

`nox` runs what a change must pass; `nox -s demo` shows the thing itself; `nox -l` lists the rest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import NamedTuple

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement

nox.needs_version = ">=2026.8.17"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "docs", "tests"]
# On your machine, the cells of Pythons that it does not have are skipped. In CI, a skipped cell is an error.
nox.options.error_on_missing_interpreters = bool(os.environ.get("CI"))

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
EXTRAS = sorted(PYPROJECT["project"]["optional-dependencies"])
BACKENDS = ["asyncio", "uvloop", "trio"]
MANY = 20
"""Failures after which CI gives up: so many have one reason, and each may take its whole three minutes."""
ORDINARY = 1
"""pytest's exit status if tests ran and some failed."""
COVERED = PYPROJECT["tool"]["coverage"]["report"]["fail_under"]
"""Percent of lines and branches that the tests must reach."""
TESTS = Path(__file__).parent / "tests"
COMPLETE = "RTCFLOW_COMPLETE"
"""The environment variable that says: this machine has every part that tests use. CI sets it."""
EXPECTED_SKIPS = re.compile(
    r"asyncio only|asyncio\.Queue needs asyncio|Uvicorn runs on asyncio|audioop left the standard library"
    r"|a sync handler's threads meet the loop in the same places|no model is installed|Moonshine is installed"
)
"""Why tests may be skipped on such a machine. Any other reason fails the session, or nobody would see it."""


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _lowest(*extras: str) -> list[str]:
    """The lowest version of each direct dependency and test tool that pyproject.toml allows, as exact requirements."""
    project = PYPROJECT["project"]
    requirements = [*project["dependencies"], *_group("test")]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    exact = []
    for requirement in map(Requirement, requirements):
        floors = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        if requirement.name != "rtcflow" and floors:
            requirement.specifier &= f"=={floors[0]}"
            exact.append(str(requirement))
    return exact


def _install(session: nox.Session, *extras: str, lowest: bool = False) -> None:
    """Install rtcflow from this tree, with extras and what the tests need."""
    wanted = ["-e", f".[{','.join(extras)}]", *_group("test")]
    if lowest:
        wanted += _lowest(*extras)
    session.install(*wanted)


class Outcomes(NamedTuple):
    """What became of the tests of one run, as tests/outcomes.py wrote it down."""

    exit: int
    collected: set[str]
    finished: set[str]
    failed: set[str]
    crashed: set[str]
    skipped: dict[str, str]

    @property
    def whole(self) -> bool:
        """Whether every collected test ran to its end, in a process that lived on."""
        return bool(self.collected) and self.collected <= self.finished and not self.crashed


NOTHING_RAN = Outcomes(0, set(), set(), set(), set(), {})


def _run_pytest(
    session: nox.Session, *arguments: str, **environment: str
) -> tuple[Outcomes | None, CommandFailed | None]:
    """Run pytest once. Return the tests' outcomes (None if pytest did not reach its end), and nox' error if any.

    With `nox --install-only` nothing runs, and every outcome is empty.
    """
    error = None
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.json"
        # Tests start programs by the hundred. Each would compile rtcflow anew where nothing compiled may be kept.
        environment |= {"RTCFLOW_OUTCOMES": str(file), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}
        try:
            if session.run("python", "-m", "pytest", "-p", "outcomes", *arguments, env=environment) is None:
                return NOTHING_RAN, None
        except CommandFailed as failed:
            error = failed
        if not file.exists():
            return None, error
        found = json.loads(file.read_text(encoding="utf-8"))
    sets = {name: set(found[name]) for name in ("collected", "finished", "failed", "crashed")}
    return Outcomes(exit=found["exit"], skipped=found["skipped"], **sets), error


def _pytest(session: nox.Session, *arguments: str, **environment: str) -> None:
    """Run the tests with five workers. tests/conftest.py says which tests wait for one another in one of them.

    The run counts only if every collected test has an outcome. In CI, the machine may be slow, so tests that failed run
    once more, without the others. A test that passes then is flaky: it does not stop the change, but the log names it,
    and it is a bug. Only ordinary failures (exit status 1) get that second run. A worker that crashed, a run that was
    broken off, an error of pytest or of the collection fail the session at once.
    """
    in_ci = bool(os.environ.get("CI"))
    limit = (f"--maxfail={MANY}",) if in_ci else ()
    if not session.posargs:
        session.run("python", str(TESTS / "precompile.py"), env={"PYTHONDONTWRITEBYTECODE": ""})
    arguments = (*arguments, *session.posargs)
    first, error = _run_pytest(session, "-n", "5", "--max-worker-restart=0", *limit, *arguments, **environment)
    if first is NOTHING_RAN:
        return
    if first is None:
        session.error("pytest did not reach its end: no test of this run counts.")
    trouble, flaky = _trouble(first, error), set[str]()
    if trouble is None and os.environ.get(COMPLETE):
        trouble = _unexpected_skips(first.skipped)
    if trouble is None and first.failed:
        trouble, flaky = f"{len(first.failed)} tests failed.", first.failed
        if in_ci:
            session.warn("Failed tests once more, without the others. Those that pass now are FLAKY:")
            again = ("--last-failed", "--last-failed-no-failures=none", "-v", *arguments)
            second, error = _run_pytest(session, *again, **environment)
            passed_now = second is not None and _trouble(second, error) is None and not second.failed
            if passed_now and first.failed <= second.finished:
                trouble = None
    _note_results(session, first, set() if trouble else flaky)
    if trouble:
        session.error(trouble)


def _trouble(outcomes: Outcomes, error: CommandFailed | None) -> str | None:
    """What is wrong with a run, beyond tests that failed in an ordinary way. None if nothing is."""
    if not outcomes.whole:
        missing, crashed = len(outcomes.collected - outcomes.finished), len(outcomes.crashed)
        return f"{missing} of {len(outcomes.collected)} tests have no outcome, {crashed} crashed."
    status = 0 if error is None else error.return_code
    expected = ORDINARY if outcomes.failed else 0
    return None if status == outcomes.exit == expected else f"pytest ended with status {status}, not {expected}."


def _unexpected_skips(skipped: dict[str, str]) -> str | None:
    """Name the tests that were skipped for a reason that nobody expects. None if there is no such test."""
    found = [f"{test}: {why}" for test, why in skipped.items() if not EXPECTED_SKIPS.match(why)]
    return "\n".join(["tests were skipped for reasons that are not in EXPECTED_SKIPS:", *found]) if found else None


def _note_results(session: nox.Session, outcomes: Outcomes, flaky: set[str]) -> None:
    """Append what ran to the file that `.ci/cells.py` asks for."""
    if file := os.environ.get("RTCFLOW_RESULTS"):
        failed = outcomes.failed - flaky
        skipped = {test: reason for test, reason in outcomes.skipped.items() if test not in outcomes.failed}
        result = {
            "session": session.name,
            "passed": len(outcomes.finished - failed - set(skipped)),
            "failed": len(failed),
            "skipped": skipped,
            "flaky": sorted(flaky),
        }
        with Path(file).open("a", encoding="utf-8") as results:
            results.write(json.dumps(result) + "\n")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint, spelling, and the settings' own syntax."""
    session.install(*_group("lint"))
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict and pyright, over the package and over the public API as a user writes it."""
    _install(session, "all")
    session.install(*_group("typing"))
    session.run("mypy")
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    session.run("python", "tools/typed.py", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})
    session.run("python", "tools/hover.py", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, every warning an error, and the examples in docstrings."""
    _install(session, "all")
    session.install(*_group("docs"))
    session.run("sphinx-build", "-q", "-n", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
    session.run("python", "tools/site_search.py", "docs/_build/html")
    session.run("python", "-m", "pytest", "-q", "--doctest-modules", "--no-header", "src/rtcflow")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, on asyncio, uvloop and trio."""
    _install(session, "all")
    _pytest(session)


@nox.session(python=PYTHONS)
@nox.parametrize("dependencies", ["latest", "lowest"])
@nox.parametrize("backend", BACKENDS)
def matrix(session: nox.Session, backend: str, dependencies: str) -> None:
    """One cell: a Python, a backend, and the newest or oldest dependencies that are allowed."""
    _install(session, *EXTRAS, lowest=dependencies == "lowest")
    _pytest(session, "--ignore=tests/interop", RTCFLOW_BACKENDS=backend)


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def lowest(session: nox.Session) -> None:
    """The whole suite against the oldest direct dependencies that are allowed."""
    _install(session, *EXTRAS, lowest=True)
    _pytest(session)


BESIDE = {
    "fastrtc": ("fastrtc==0.0.34", "fastrtc"),
    "pipecat": ("pipecat-ai[webrtc]", "pipecat.transports.smallwebrtc.transport"),
    "livekit": ("livekit-agents", "livekit.agents"),
    "streamlit": ("streamlit-webrtc", "streamlit_webrtc"),
    "gradio": ("gradio>=6,<7", "gradio"),
    "fastapi-newest": ("fastapi", "fastapi"),
    "fastapi-oldest": (next(one.replace(">=", "==") for one in _group("test") if one.startswith("fastapi")), "fastapi"),
}
"""Packages that people install in the same environment: what they write, and what they import."""

APART = {"vision-agents>=0.5": "aiortc"}
"""Packages that cannot be installed beside rtcflow, and the dependency on which they differ (docs/install.md)."""


@nox.session
@nox.parametrize("other", list(BESIDE), ids=list(BESIDE))
def beside(session: nox.Session, other: str) -> None:
    """Install rtcflow and another package in one step, import both, and print which packages became older by whom."""
    requirement, module = BESIDE[other]
    session.install(".", requirement, "uv", "packaging")
    session.run("python", "tests/beside.py", requirement, module)


@nox.session
def apart(session: nox.Session) -> None:
    """See that packages which are documented as incompatible still are; else they belong into `BESIDE`."""
    session.install("uv")
    for requirement, dependency in APART.items():
        message = session.run(
            *("uv", "pip", "install", "--dry-run", ".", requirement), success_codes=[1], silent=True
        )  # fmt: skip
        if message is not None and dependency not in str(message):
            session.error(f"{requirement} does not differ on {dependency}: {message}")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it bare, and see that it does what a bare install promises."""
    session.install("build")
    folder = Path(session.create_tmp())
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run_install("python", "-m", "build", "--outdir", str(folder / "dist"))
    (built,) = (folder / "dist").glob("*.whl")
    bare = folder / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    session.run_install("python", "-m", "venv", str(bare))
    python = str(bare / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run_install(python, "-m", "pip", "install", "-q", str(built), external=True)
    session.run(python, "-I", "tests/bare_install.py", external=True)


@nox.session
def extras(session: nox.Session) -> None:
    """Each extra alone, with the wheel, in a new environment: it does what it promises, and names what is missing.

    `-- stt tts` for these two.
    """
    session.install("uv")
    with TemporaryDirectory() as folder:
        session.run_install("uv", "build", "-q", "--wheel", "--out-dir", folder)
        (built,) = Path(folder).glob("*.whl")
        for extra in session.posargs or EXTRAS:
            place = Path(folder) / extra
            python = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
            session.run_install("uv", "venv", "-q", "--python", sys.executable, str(place))
            wanted = f"rtcflow[{extra}] @ {built.as_uri()}"
            session.run_install("uv", "pip", "install", "-q", "--python", python, wanted)
            session.run(python, "-I", "tests/extra_alone.py", extra, external=True)


@nox.session
def sdist(session: nox.Session) -> None:
    """Build the sdist, and lint and test what it holds, without the repository; `-- tests/unit/media` for less."""
    session.install("build", *_group("test"), *_group("lint"))
    folder = Path(session.create_tmp()).absolute()
    shutil.rmtree(folder / "sdist", ignore_errors=True)
    session.run_install("python", "-m", "build", "--sdist", "--outdir", str(folder / "sdist"))
    (built,) = (folder / "sdist").glob("*.tar.gz")
    shutil.unpack_archive(built, folder / "sdist", filter="data")
    (tree,) = (path for path in (folder / "sdist").iterdir() if path.is_dir())
    session.chdir(tree)
    session.install(".[all]")
    # pre-commit looks at the files that git knows, so the tree becomes a repository of its own.
    session.run("git", "init", "-q", external=True)
    session.run("git", "add", "--all", external=True)
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")
    without_peers = ["tests", "--ignore=tests/interop", "--ignore=tests/cluster"]  # they need browsers and servers
    session.run("python", "-m", "pytest", "-q", "-n", "2", *(session.posargs or without_peers))


@nox.session
def newest_aiortc(session: nox.Session) -> None:
    """The seam's contract and calls in real time with the newest aiortc, a pre-release if there is one."""
    _install(session, "all")
    session.install("--pre", "--upgrade", "aiortc")
    _pytest(session, *(session.posargs or ["tests/interop/test_seam.py", "tests/interop/test_wire.py"]))


@nox.session
def changelog(session: nox.Session) -> None:
    """Print what changelog.d makes; `nox -s changelog -- --assemble 0.2.0` moves it into CHANGELOG.md."""
    session.run("python", "tools/changelog.py", *session.posargs)


@nox.session
def property(session: nox.Session) -> None:  # noqa: A001 - the name of the session
    """The laws, with thousands of examples each: tests/property, and every test under @given wherever it is.

    `-- tests/unit/media` runs the laws of these tests alone.
    """
    _install(session, "all")
    laws = ("-m", "hypothesis", "--timeout=1200")  # Hypothesis' own marker
    _pytest(session, *laws, *([] if session.posargs else ["tests/unit"]), HYPOTHESIS_PROFILE="nightly")
    if session.posargs:
        return
    _pytest(session, "tests/property", "-m", "nightly or not nightly", "--timeout=1200", HYPOTHESIS_PROFILE="nightly")


@nox.session
def mutations(session: nox.Session) -> None:
    """Bugs planted one at a time, each of which must turn the suite red; `nox -s mutations -- NAME` for one."""
    _install(session, "all")
    session.run("python", "tests/mutations/run.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """atheris over the pure parsers, a minute each; `nox -s fuzz -- 600` for ten."""
    _install(session, "all")
    session.install("atheris>=3")
    seconds = session.posargs[0] if session.posargs else "60"
    targets = sorted(Path("tests/fuzz").glob("fuzz_*.py"))
    if not targets:
        session.error("there is no tests/fuzz/fuzz_*.py")
    for target in targets:
        corpus = Path(session.create_tmp()) / target.stem
        corpus.mkdir(exist_ok=True)
        options = (f"-max_total_time={seconds}", f"-artifact_prefix={corpus}/")
        session.run("python", str(target), str(corpus), *options, env={"PYTHONPATH": "tests"})


@nox.session
def strangers(session: nox.Session) -> None:
    """A minute of junk at the UDP port of a live call, from strangers and from the peer's address; `-- 600` for ten."""
    _install(session, "all")
    seconds = session.posargs[0] if session.posargs else "60"
    environment = {"RTCFLOW_FUZZ_SECONDS": seconds}
    everything = ("-m", "nightly or not nightly", "--timeout=3600")
    session.run("python", "-m", "pytest", *everything, "tests/interop/test_strangers.py", env=environment)


@nox.session
def interop(session: nox.Session) -> None:
    """Foreign peers: a browser, other WebRTC stacks. Wants chromium, espeak-ng, coturn; skips what is missing."""
    _install(session, "all")
    _pytest(session, *(() if session.posargs else ("tests/interop",)))


@nox.session
def nightly(session: nox.Session) -> None:
    """What takes minutes: soak tests."""
    _install(session, "all")
    _pytest(session, "-m", "nightly", "--timeout=1800", "--ignore=tests/cluster")


@nox.session
def cluster(session: nox.Session) -> None:
    """Clusters of real processes with a real NATS, and nginx in front: minutes. Wants nginx and coturn.

    `-- -k killed` for one of them.
    """
    _install(session, "all")
    session.install("nkeys")  # what NATS's NKeys and credentials need; it comes with no extra
    _pytest(session, "tests/cluster", "-m", "nightly or not nightly", "--timeout=600")


@nox.session
def flakes(session: nox.Session) -> None:
    """The suite ten times in a row, every other time with all cores busy; `nox -s flakes -- 3 tests/unit` for less.

    No test may depend on how busy the machine is: one that fails here only now and then is a bug.
    """
    _install(session, "all")
    rounds, arguments = 10, list(session.posargs)
    if arguments and arguments[0].isdecimal():
        rounds = int(arguments.pop(0))
    failed = []
    for n in range(1, rounds + 1):
        loaded = n % 2 == 0
        session.log(f"Round {n} of {rounds}{', with all cores busy' if loaded else ''}")
        hogs = [
            Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) if loaded else 0)
        ]
        try:
            session.run("python", "-m", "pytest", "-q", "-n", "5", *arguments)
        except CommandFailed:
            failed.append(n)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
    if failed:
        session.error(f"failed in rounds {failed} of {rounds}")


@nox.session
def coverage(session: nox.Session) -> None:
    """Which lines and branches no test reaches. Less than 95 % fails, and each module below that is named.

    With arguments for pytest, such as `-- tests/unit`, the figures are printed and nothing fails by them.
    The suite runs in parts: if a worker crashes, what it has measured is lost, and the rest of its part does not run.
    """
    _install(session, "all")
    session.run("coverage", "erase")
    folders = sorted(str(path) for path in Path("tests/unit").iterdir() if any(path.glob("**/test_*.py")))
    parts = [[folder] for folder in folders] + [["tests", *(f"--ignore={folder}" for folder in folders)]]
    failed = None
    for part in [session.posargs] if session.posargs else parts:
        try:
            session.run("coverage", "run", "-m", "pytest", "-n", "5", "--max-worker-restart=0", "--timeout=240", *part)
        except CommandFailed as error:
            failed = error  # the figures are true without the few tests that failed
    session.run("coverage", "combine", "-q")
    if session.run("coverage", "json", "-q", "-o", "coverage.json", "--fail-under=0") is None:
        return  # --install-only
    found = json.loads(Path("coverage.json").read_text(encoding="utf-8"))
    known = Path("CONTRIBUTING.md").read_text(encoding="utf-8")
    for name, module in sorted(found["files"].items()):
        if (percent := module["summary"]["percent_covered"]) < COVERED:
            unknown = "" if f"`{name.removeprefix('src/')}`" in known else ", and CONTRIBUTING.md does not name it"
            session.warn(f"{name}: {percent:.1f} %{unknown}")
    total = found["totals"]["percent_covered"]
    session.log(f"{total:.1f} % of lines and branches")
    if failed:
        raise failed
    if total < COVERED and not session.posargs:
        session.error(f"{total:.1f} % is less than {COVERED} %")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against aiortc, and FastRTC with `--fastrtc PYTHON`: a table, JSON, pictures (docs/performance.md)."""
    _install(session, "all")
    session.install("matplotlib>=3.9")
    session.run("python", "bench/suite.py", *session.posargs)


@nox.session
def bench_quality(session: nox.Session) -> None:
    """How near to the original audio is after the encoder, beside aiortc's (docs/performance.md); needs espeak-ng."""
    _install(session, "all")
    session.run("python", "bench/quality.py")


@nox.session
def soak(session: nox.Session) -> None:
    """Half an hour of callers that come, go and fail, on each backend; `nox -s soak -- --seconds 300` for less."""
    _install(session, "all")
    for backend in ("trio", "asyncio"):
        session.run("python", "bench/soak.py", "--backend", backend, *session.posargs)


@nox.session
def lines(session: nox.Session) -> None:
    """WebSocket calls beside FastRTC's, with `-- --fastrtc PYTHON`; else rtcflow's memory over five minutes."""
    _install(session, "all")
    session.install("websockets>=13")
    alone = ("--libraries", "rtcflow", "--only", "rss", "--seconds", "300", "--rounds", "1")
    session.run("python", "bench/lines.py", *(session.posargs or alone))


@nox.session
def demo(session: nox.Session) -> None:
    """Serve the echo demo and its page on http://127.0.0.1:8000; `nox -s demo -- --backend trio` on trio."""
    session.install("-e", ".[cli]")
    # Ctrl-C reaches the demo itself; it needs a moment to say goodbye to its callers.
    session.run("rtcflow", "demo", *session.posargs, interrupt_timeout=10, terminate_timeout=2)


@nox.session
def fastrtc_compat(session: nox.Session) -> None:
    """Run programs written for FastRTC, unchanged, and call each: `-- --source CHECKOUT [PROGRAM.py | FOLDER ...]`.

    FastRTC's own tests run, too. Needs espeak-ng. Clouds, models and Gradio are stubs of the session's own.
    """
    _install(session, "cli", "client", "server", "vad", "stt", "tts")
    session.install("opencv-python-headless", "pydantic-settings", "python-dotenv", "pytest-asyncio", "httpx")
    session.run("python", "tests/fastrtc_compat.py", *session.posargs)
