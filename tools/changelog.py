"""Assemble changelog.d into CHANGELOG.md, or check that this was done.

python tools/changelog.py                       # print the section that the fragments make
python tools/changelog.py --assemble 0.2.0      # put it at the top of CHANGELOG.md and remove the fragments
python tools/changelog.py --check-release 0.2.0 # fail unless that was done, and the version is this one
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = ("added", "changed", "fixed", "removed")


def fragments(folder: Path) -> dict[str, list[Path]]:
    """The fragments by kind, in the order of their names. A name that does not fit is an error."""
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted(folder.glob("*")):
        match = re.fullmatch(r"[a-z0-9-]+\.(\w+)\.md", path.name)
        if match and match[1] in found:
            found[match[1]].append(path)
        elif path.name != "README.md":
            raise SystemExit(f"{path.name}: the name must be topic.kind.md, with one of the kinds {', '.join(KINDS)}")
    return found


def section(folder: Path, title: str) -> str:
    """The section of CHANGELOG.md that the fragments make: one list for each kind."""
    parts = [f"## {title}\n"]
    for kind, paths in fragments(folder).items():
        entries = []
        for path in paths:
            text = path.read_text(encoding="utf-8").strip()
            entries.append(text if text.startswith("- ") else "- " + text.replace("\n", "\n  "))
        if entries:
            parts.append(f"### {kind.capitalize()}\n\n" + "\n".join(entries) + "\n")
    return "\n".join(parts)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description="Assemble changelog.d into CHANGELOG.md.")
    parser.add_argument("--assemble", metavar="VERSION")
    parser.add_argument("--check-release", metavar="VERSION")
    wanted = parser.parse_args(arguments)
    folder, changelog = root / "changelog.d", root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if version := wanted.check_release:
        left = [path.name for paths in fragments(folder).values() for path in paths]
        ours = (root / "src/rtcflow/_version.py").read_text(encoding="utf-8")
        if left or f"\n## {version} (" not in text or "unreleased" in text or f'"{version}"' not in ours:
            raise SystemExit(f"{version} is not ready: {left or 'its heading or _version.py is missing'}")
    elif version := wanted.assemble:
        today = dt.datetime.now(tz=dt.UTC).date()
        made = section(folder, f"{version} ({today})")
        head, newest, rest = text.partition("\n## ")
        if rest.startswith(f"{version} (unreleased)\n"):  # what was written before there were fragments
            old, next_heading, older = rest.partition("\n## ")
            made += "\n" + old.partition("\n")[2].strip() + "\n"
            newest, rest = next_heading, older
        changelog.write_text(f"{head}\n{made}{newest}{rest}", encoding="utf-8")
        for paths in fragments(folder).values():
            for path in paths:
                path.unlink()
    else:
        print(section(folder, "Unreleased"))


if __name__ == "__main__":
    main(sys.argv[1:])
