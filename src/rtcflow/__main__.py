"""The console script, and `python -m rtcflow`."""

from __future__ import annotations

import io
import sys

from ._core.installed import check_versions
from ._version import __version__


def main() -> None:
    """Run the command line, or say which extra it needs. `rtcflow --version` needs none."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or a file that knows few letters loses no report
        sys.stdout.reconfigure(errors="replace")
    if sys.argv[1:] == ["--version"]:
        print(f"rtcflow {__version__}")
        return
    try:
        check_versions("rich", "typer")
        from .cli import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"rich", "typer"}:
            raise
        print(f"rtcflow: the command line needs {missing}; install rtcflow[cli]", file=sys.stderr)
        raise SystemExit(2) from None
    except ImportError as error:
        if error.name not in {"rich", "typer"}:
            raise
        print(f"rtcflow: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
