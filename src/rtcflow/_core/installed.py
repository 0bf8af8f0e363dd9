"""Check that an installed package has a version that rtcflow can use, and that a package of an extra is there.

Installers already refuse a version outside the range. It can still be there: after ``pip install --no-deps``, in a
distribution's packages, or if another package was installed later. Without this check the first sign is an
`AttributeError` somewhere in a call. A version that is too old is an error, because what rtcflow needs is missing. A
version that is too new may work, so it is one warning in the log.

The ranges are those of rtcflow's own metadata, so they are written once, in ``pyproject.toml``.
"""

from __future__ import annotations

import importlib
import logging
import re
from functools import lru_cache
from typing import Any, Literal

logger: logging.Logger = logging.getLogger("rtcflow")

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?:\[[^]]*\])?\s*\(?(?P<range>[^;)]*)")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


def import_extra(module: str, *, extra: str, what: str) -> Any:
    """Import a module that comes with an extra.

    Args:
        module: The module; its first part is also the name of the package.
        extra: The name of the extra.
        what: Names the use, for the error: "calling a server".

    Raises:
        ModuleNotFoundError: The extra is not installed. The message is one line that says what to install.
        ImportError: The installed version is too old.
    """
    package = module.partition(".")[0]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        check_versions(package)  # an old version may lack the submodule
        problem = f'{what} needs {error.name}; install rtcflow[{extra}]: pip install "rtcflow[{extra}]"'
        raise ModuleNotFoundError(problem, name=error.name) from None
    check_versions(package)
    return found


def check_versions(*packages: str) -> None:
    """Refuse versions that are too old, and log one warning for each that is too new.

    Packages that are not installed, or that rtcflow does not ask for, pass.

    Raises:
        ImportError: A version is too old. The message is one line that says what to install.
    """
    for package in packages:
        _check(package)


@lru_cache(maxsize=64)
def _check(package: str) -> None:
    import importlib.metadata  # takes a while, with the mail parser that it needs

    try:
        wanted = wanted_range(package, importlib.metadata.requires("rtcflow") or [])
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return
    problem = out_of_range(version, wanted)
    if problem is None:
        return
    text = f'{package} {version} is too {problem}: rtcflow needs {package}{wanted}. pip install "{package}{wanted}"'
    if problem == "old":
        raise ImportError(text, name=package)
    logger.warning("%s", text)


def wanted_range(package: str, requirements: list[str]) -> str:
    """The range of versions that `requirements` (PEP 508) ask of a package, such as ``>=1.16,<2``; "" if none."""
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found and _plain(found["name"]) == _plain(package):
            return ",".join(sorted(found["range"].replace(" ", "").split(","), reverse=True))
    return ""


def out_of_range(version: str, wanted: str) -> Literal["old", "new"] | None:
    """Whether a version is too old or too new. Pure.

    Pre-releases count as the release that they lead to.
    """
    for operator, bound in _BOUND.findall(wanted):
        if operator == ">=" and _release(version) < _release(bound):
            return "old"
        if operator == "<" and _release(version) >= _release(bound):
            return "new"
    return None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version without zeros at the end: 1.16.0rc1 gives (1, 16)."""
    found = re.match(r"(?:\d+!)?([0-9.]+)", version)
    numbers = [int(part) for part in found[1].split(".") if part] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
