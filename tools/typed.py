"""Check that the public names have types that every type checker reads the same way (`pyright --verifytypes`).

python tools/typed.py             # fail if a name is not fully typed and is not in tests/typing/incomplete.txt
python tools/typed.py --update    # write that file anew; it should only get shorter
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXCEPTIONS = Path(__file__).parent.parent / "tests" / "typing" / "incomplete.txt"
HEAD = "# Public names whose types pyright --verifytypes calls unknown or ambiguous. `python tools/typed.py --update`\n"


def incomplete() -> set[str]:
    """The exported names that are not fully typed."""
    command = ["pyright", "--verifytypes", "rtcflow", "--ignoreexternal", "--outputjson"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    symbols = report["typeCompleteness"]["symbols"]
    if not symbols:
        raise SystemExit("pyright found no names: is rtcflow installed in this environment?")
    return {one["name"] for one in symbols if one["isExported"] and not one["isTypeKnown"]}


def main() -> None:
    found = incomplete()
    if "--update" in sys.argv:
        EXCEPTIONS.write_text(HEAD + "".join(f"{name}\n" for name in sorted(found)), encoding="utf-8")
        return
    known = set(EXCEPTIONS.read_text(encoding="utf-8").splitlines())
    for name in sorted(found - known):
        print(f"{name}: not fully typed")
    print(f"{len(found)} names are not fully typed, {len(found - known)} of them are new")
    raise SystemExit(1 if found - known else 0)


if __name__ == "__main__":
    main()
