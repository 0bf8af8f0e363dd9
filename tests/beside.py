"""Run by `nox -s beside` where rtcflow was installed with another package in one step: do both work, who gave way?

    python tests/beside.py REQUIREMENT MODULE

Both are imported, in both orders, each time in a new process. Then the versions that were installed are compared with
those that each side gets alone. For every package that became older, the packages that asked for it are named.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CALL = "import rtcflow.demo; assert rtcflow.Stream(rtcflow.demo.EchoHandler()).asgi.routes"


def alone(requirement: str) -> dict[str, Version]:
    """The versions that a requirement gets when nothing else is asked for."""
    resolved = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate",
         "--python", sys.executable, "-"],
        input=requirement, capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    pinned = (line.split(";")[0].strip().partition("==") for line in resolved.splitlines() if "==" in line)
    return {canonicalize_name(name): Version(version) for name, _, version in pinned}


def who_wants_older(name: str, version: Version, installed: list[Distribution]) -> list[str]:
    """The installed packages whose requirements refuse this version, each with what it asks for."""
    found = []
    for distribution in installed:
        for requirement in map(Requirement, distribution.requires or []):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and canonicalize_name(requirement.name) == name and version not in requirement.specifier:
                found.append(f"{distribution.name} {distribution.version} wants {name}{requirement.specifier}")
    return found


def main(requirement: str, module: str) -> None:
    """Import both, then print a line for each package that one side pulled down."""
    for first, second in (("rtcflow", module), (module, "rtcflow")):
        subprocess.run([sys.executable, "-c", f"import {first}, {second}; {CALL}"], check=True)
    installed = list(distributions())
    versions = {canonicalize_name(found.name): Version(found.version) for found in installed}
    sides = {"rtcflow": alone("."), requirement: alone(requirement)}
    older = 0
    for side, expected in sides.items():
        for name, version in sorted(expected.items()):
            if name in versions and versions[name] < version:
                older += 1
                reasons = who_wants_older(name, version, installed) or ["a package that is not installed any more"]
                print(f"  {name} {versions[name]}, where {side} alone gets {version}: {'; '.join(reasons)}")
    print(f"rtcflow beside {requirement}: both import, {older} packages are older than alone")


if __name__ == "__main__":
    main(*sys.argv[1:])
