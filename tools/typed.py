"""Check that each public name has a type that every type checker reads the same way (`pyright --verifytypes`).

python tools/typed.py     # fail if a name has not; it says which, and why

There are no exceptions. Most often, an attribute needs its type where `__init__` sets it: `self.dropped: int = 0`.
"""

from __future__ import annotations

import json
import subprocess


def main() -> None:
    command = ["pyright", "--verifytypes", "rtcflow", "--ignoreexternal", "--outputjson"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    symbols = report["typeCompleteness"]["symbols"]
    exported = [one for one in symbols if one["isExported"]]
    if not exported:
        raise SystemExit("pyright found no names: is rtcflow installed in this environment?")
    # A public name can be incomplete by what a private one lacks, so both are shown.
    for one in symbols:
        if not one["isTypeKnown"]:
            print(f"{one['name']}:", *(found["message"] for found in one["diagnostics"]))
    incomplete = sum(not one["isTypeKnown"] for one in exported)
    print(f"{incomplete} of {len(exported)} public names are not fully typed")
    raise SystemExit(1 if incomplete else 0)


if __name__ == "__main__":
    main()
