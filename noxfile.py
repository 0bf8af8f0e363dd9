"""Everything that is run on this project, each in an environment of its own.

`nox` runs what a change must pass; `nox -s demo` shows the thing itself; `nox -l` lists the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from subprocess import Popen

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typing", "docs", "tests"]
# A machine without one of the matrix' Pythons skips those cells, in yellow, and says so.
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
BACKENDS = ["asyncio", "uvloop", "trio"]
MANY = 20
"""Failures after which CI gives up: so many have one reason, and each may take its whole minute."""


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def _lowest(*extras: str) -> list[str]:
    """The lowest version of each direct dependency that pyproject.toml allows, as exact requirements."""
    project = PYPROJECT["project"]
    requirements = list(project["dependencies"])
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


def _pytest(session: nox.Session, *arguments: str, **environment: str) -> None:
    """Three workers: one for tests that play in real time, one for those that start processes, one for the others.

    In CI, whose machine may be anybody's, tests that failed are run once more by themselves. One that passes then is
    flaky: it does not stop the change, but it is named in the log, and is a bug.
    """
    pytest = ("python", "-m", "pytest")
    if os.environ.get("CI"):
        pytest += (f"--maxfail={MANY}",)
    try:
        session.run(*pytest, "-n", "3", *arguments, *session.posargs, env=environment)
    except CommandFailed:
        if not os.environ.get("CI") or len(json.loads(Path(".pytest_cache/v/cache/lastfailed").read_text())) >= MANY:
            raise
        session.warn("Failed tests once more, by themselves; those that pass now are FLAKY:")
        session.run(*pytest, "--last-failed", "--last-failed-no-failures=none", "-v", *arguments, env=environment)


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


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, every warning an error, and the examples in docstrings."""
    _install(session, "all")
    session.install(*_group("docs"))
    session.run("sphinx-build", "-q", "-n", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")
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
    _install(session, "all", *_MOST, lowest=dependencies == "lowest")
    _pytest(session, "--ignore=tests/interop", RTCFLOW_BACKENDS=backend)


_MOST = ("cli", "client", "server", "testing", "trio", "uvloop")


@nox.session
def lowest(session: nox.Session) -> None:
    """The whole suite against the oldest direct dependencies that are allowed."""
    _install(session, "all", *_MOST, lowest=True)
    _pytest(session)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it bare, and see that it does what a bare install promises."""
    session.install("build")
    folder = Path(session.create_tmp())
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder / "dist"))
    (built,) = (folder / "dist").glob("*.whl")
    bare = folder / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    session.run("python", "-m", "venv", str(bare))
    python = str(bare / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "-q", str(built), external=True)
    session.run(python, "-I", "tests/bare_install.py", external=True)


@nox.session
def property(session: nox.Session) -> None:  # noqa: A001 - the name of the session
    """The laws, with thousands of examples each: tests/property, and every test under @given wherever it is."""
    _install(session, "all")
    laws = ("-m", "hypothesis", "--timeout=1200")  # Hypothesis' own marker
    _pytest(session, *laws, "tests/unit", HYPOTHESIS_PROFILE="nightly")
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
    for target in sorted(Path("tests/fuzz").glob("fuzz_*.py")):
        corpus = Path(session.create_tmp()) / target.stem
        corpus.mkdir(exist_ok=True)
        options = (f"-max_total_time={seconds}", f"-artifact_prefix={corpus}/")
        session.run("python", str(target), str(corpus), *options, env={"PYTHONPATH": "tests"})


@nox.session
def interop(session: nox.Session) -> None:
    """Foreign peers: a browser, other WebRTC stacks. Wants chromium, espeak-ng, coturn; skips what is missing."""
    _install(session, "all")
    _pytest(session, "tests/interop")


@nox.session
def nightly(session: nox.Session) -> None:
    """What takes minutes: soak tests."""
    _install(session, "all")
    _pytest(session, "-m", "nightly", "--timeout=1800")


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
            session.run("python", "-m", "pytest", "-q", "-n", "3", *arguments)
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
    """Which lines no test reaches."""
    _install(session, "all")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


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
