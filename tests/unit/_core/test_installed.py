"""Versions and extras: each of them is one clear line, from the ranges in rtcflow's own metadata."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtcflow._core.installed import import_extra, out_of_range, wanted_range


@pytest.mark.parametrize(
    ("version", "wanted", "problem"),
    [
        ("1.16.0", ">=1.16,<2", None),
        ("1.16", ">=1.16.0,<2", None),
        ("1.16.0rc1", ">=1.16,<2", None),
        ("1.99.post1", ">=1.16,<2", None),
        ("1.15.9", ">=1.16,<2", "old"),
        ("1.9", ">=1.16,<2", "old"),
        ("2.0", ">=1.16,<2", "new"),
        ("2.0.0.dev3", ">=1.16,<2", "new"),
        ("10", ">=9.5,<20", None),
        ("0.39.2+local", ">=0.40", "old"),
        ("2025.1", ">=0.2", None),
        ("anything", "", None),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, wanted: str, problem: str | None) -> None:
    assert out_of_range(version, wanted) == problem


@pytest.mark.parametrize(
    ("package", "wanted"),
    [
        ("aiortc", ">=1.16,<2"),
        ("typing_extensions", ">=4.12"),
        ("httpx2", ">=2.16"),
        ("old-style", ">=1"),
        ("nothing", ""),
        ("aio", ""),
    ],
)
def test_the_range_of_a_requirement(package: str, wanted: str) -> None:
    requirements = [
        "aiortc<2,>=1.16",
        "Typing.Extensions>=4.12",
        "httpx2[ws]>=2.16; extra == 'client'",
        "old-style (>=1) ; python_version > '3'",
    ]
    assert wanted_range(package, requirements) == wanted


def test_a_missing_extra_is_one_line() -> None:
    with pytest.raises(ModuleNotFoundError) as raised:
        import_extra("no_such_package_here.part", extra="client", what="calling a server")
    assert str(raised.value) == (
        'calling a server needs no_such_package_here; install rtcflow[client]: pip install "rtcflow[client]"'
    )
    assert raised.value.name == "no_such_package_here"


OPEN = """
import anyio, rtcflow
async def main():
    async with rtcflow.open_engine():
        print("open")
anyio.run(main)
"""
ROUTES = "import rtcflow; from rtcflow.demo import EchoHandler; rtcflow.Stream(EchoHandler()).asgi; print('open')"
COMMAND = "from rtcflow.__main__ import main; main()"
CALL = "from rtcflow.client.webrtc import import_httpx2; import_httpx2(); print('open')"
SERVE = "import sys; sys.argv[1:] = ['serve', 'rtcflow.demo:stream']; " + COMMAND


def run_with(folder: Path, package: str, version: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where the metadata of a package names another version."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("package", "version", "code"),
    [
        ("aiortc", "1.14.0", OPEN),
        ("av", "13.1.0", OPEN),
        ("starlette", "0.39.0", ROUTES),
        ("typer", "0.9", COMMAND),
        ("hypercorn", "0.17", SERVE),
        ("httpx2", "2.0", CALL),
    ],
)
def test_a_version_that_is_too_old_is_one_clear_line(package: str, version: str, code: str, tmp_path: Path) -> None:
    done = run_with(tmp_path, package, version, code)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"{package} {version} is too old: rtcflow needs {package}>=" in last
    assert f'pip install "{package}>=' in last


def test_a_version_that_is_too_new_is_one_line_in_the_log(tmp_path: Path) -> None:
    done = run_with(tmp_path, "aiortc", "2.0.0", OPEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "open\n"
    (line,) = [line for line in done.stderr.splitlines() if "too new" in line]
    assert line.startswith("aiortc 2.0.0 is too new: rtcflow needs aiortc>=1.16,<2")
