"""``python -m rtcflow.fastrtc run app.py``: run an unchanged FastRTC program on rtcflow."""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = "usage: python -m rtcflow.fastrtc run PROGRAM.py [ARGUMENT ...]\n       python -m rtcflow.fastrtc run -m MODULE"


def stand_in() -> None:
    """Let `import fastrtc`, and every ``from fastrtc.… import …``, find `rtcflow.fastrtc`."""
    package = importlib.import_module("rtcflow.fastrtc")
    sys.modules["fastrtc"] = package
    for module in pkgutil.walk_packages(package.__path__, "rtcflow.fastrtc."):
        name = module.name.removeprefix("rtcflow.")
        if not name.rpartition(".")[2].startswith("_"):
            sys.modules[name] = importlib.import_module(module.name)


def main(arguments: Sequence[str]) -> int:
    """Run a program with `rtcflow.fastrtc` in FastRTC's place; returns the exit code."""
    match list(arguments):
        case ["run", "-m", module, *rest]:
            stand_in()
            sys.argv = [module, *rest]
            sys.path.insert(0, "")
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["run", program, *rest] if Path(program).is_file():
            stand_in()
            sys.argv = [program, *rest]
            sys.path.insert(0, str(Path(program).resolve().parent))
            runpy.run_path(program, run_name="__main__")
        case ["run", program, *_]:
            print(f"rtcflow: there is no file {program}", file=sys.stderr)  # noqa: T201
            return 2
        case _:
            print(USAGE, file=sys.stderr)  # noqa: T201
            return 2
    return 0
