"""Run every command of the GitHub workflows once, on this machine, in a clone of what is committed.

python tools/workflows.py                           # all commands; long ones with short arguments
python tools/workflows.py soak wheel                # those whose line contains one of these words
python tools/workflows.py --list                    # what would run
python tools/workflows.py --fastrtc CHECKOUT        # also the programs of a checkout of FastRTC

`HERE` says for each command how it runs here. A command in a workflow that it does not know is an error, and so is a
session of the nightly matrix without short arguments: nobody can add a command that is never run here. Steps with
`uses:` are GitHub's own and have no command. Only the upload to the package index has no command that could be run.

It needs git, PyYAML (pre-commit brings it) and nox, and root on Debian for the steps that install packages.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).parent.parent
FEW = "tests/unit/media/test_level.py"
"""A few tests that take a second."""

SESSIONS = {
    "nightly": "tests/unit/media/test_playout.py",
    "cluster": "-k does_not_fit",
    "property": FEW,
    "mutations": "shutdown-twice",
    "fuzz": "2",
    "beside": "",
    "apart": "",
    "extras": "trio stopwords",
    "lowest": FEW,
    "matrix": FEW,
    "coverage": FEW,
    "newest_aiortc": "tests/interop/test_seam.py",
    "interop": "tests/interop/test_seam.py",
    "soak": "--seconds 20",
    "strangers": "5",
    "fastrtc_compat": "",
}
"""Short arguments for the sessions of the nightly matrix."""

ONE_OF = {
    "beside": "beside(fastapi-newest)",
    "lowest": "lowest-3.11",
    "matrix": "matrix-3.11(backend='trio', dependencies='lowest')",
}
"""Where a session stands for several, the one that runs here."""

HERE: dict[str, str] = {
    "apt-get update -q && apt-get install -q -y git": "",
    ".ci/run": ".ci/run wheel",
    ".ci/packages": "",
    "pip install nox": "",
    "pip install nox uv": "",
    "pip install build": "",
    "python -m build": "",
    'echo "sessions=$(nox --json --list --session matrix | python tools/matrix.py)" >> "$GITHUB_OUTPUT"': (
        'echo "sessions=$(nox --json --list --session matrix | python tools/matrix.py)" >> "$GITHUB_OUTPUT" '
        "&& grep -q 'sessions=.*matrix-3.13' \"$GITHUB_OUTPUT\""
    ),
    'nox --session "$SESSION" -- tests/unit': f'nox --session "$SESSION" -- {FEW}',
    'test "$RESULTS" = "success success"': "",
    "nox --session docs": "",
    'python tools/changelog.py --check-release "${GITHUB_REF_NAME#v}"': (
        'python tools/changelog.py --assemble "${GITHUB_REF_NAME#v}" '
        '&& python tools/changelog.py --check-release "${GITHUB_REF_NAME#v}"'
    ),
    "nox --session wheel sdist": f"nox --session wheel sdist -- {FEW}",
    'nox --session "$SESSION" -- $ARGUMENTS': "",
}
"""Each command, and its short variant ("" if it runs as it is)."""


def commands(fastrtc: Path | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The name of the step, the command, and its environment; each command once, the nightly one for each session."""
    seen = set()
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            for step in job.get("steps", ()):  # a job that calls another workflow has no steps
                line = step.get("run")
                if line is None or line in seen:
                    continue
                seen.add(line)
                if line not in HERE:
                    raise SystemExit(f"{path.name}: {line!r} is not in HERE: say how it runs here")
                command = HERE[line] or line
                if "$ARGUMENTS" not in line:
                    environment = {"SESSION": ONE_OF["matrix"], "RESULTS": "success success"}
                    yield f"{path.name} {name}", command, environment
                    continue
                matrix = job["strategy"]["matrix"]
                for session in [*matrix["session"], *(one["session"] for one in matrix["include"])]:
                    if session not in SESSIONS:
                        raise SystemExit(f"{path.name}: {session!r} is not in SESSIONS: give it short arguments")
                    arguments = SESSIONS[session]
                    if session == "fastrtc_compat":
                        if fastrtc is None:
                            print(f"not run: {session} needs --fastrtc CHECKOUT")
                            continue
                        arguments = f"--source {shlex.quote(str(fastrtc.resolve()))} --least 24"
                    environment = {"SESSION": ONE_OF.get(session, session), "ARGUMENTS": arguments}
                    yield f"{path.name} {session}", command, environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="run the commands whose line contains one of these words")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--fastrtc", type=Path)
    wanted = parser.parse_args()
    ran = failed = 0
    with TemporaryDirectory() as folder:
        clone, logs = Path(folder) / "clone", Path(folder)
        if not wanted.list:
            subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, clone], check=True)
            subprocess.run([sys.executable, "-m", "venv", logs / "venv"], check=True)
        version = (ROOT / "src/rtcflow/_version.py").read_text(encoding="utf-8").split('"')[-2]
        for name, command, environment in commands(wanted.fastrtc):
            shown = f"{name}: {command}  [{environment.get('SESSION', '')} {environment.get('ARGUMENTS', '')}]"
            if wanted.words and not any(word in shown for word in wanted.words):
                continue
            if wanted.list:
                print(shown)
                continue
            begin = time.monotonic()
            ran += 1
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=clone,
                env={
                    **os.environ,
                    **environment,
                    "PATH": f"{logs / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
                    "GITHUB_OUTPUT": str(logs / "output"),
                    "GITHUB_REF_NAME": f"v{version}",
                },
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            result = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
            print(f"{result} {time.monotonic() - begin:.0f} s  {shown}", flush=True)
            if done.returncode:
                failed += 1
                print(*(f"    {line}" for line in done.stdout.splitlines()[-25:]), sep="\n", flush=True)
            # What a release step changed must not change what the next step sees.
            subprocess.run(["git", "checkout", "-q", "."], cwd=clone, check=True)
    if not wanted.list:
        print(f"{ran} commands ran, {failed} of them failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
