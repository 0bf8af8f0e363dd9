"""Turn the output of `nox --json --list` into the matrix of a workflow: a list of {session, python} as one line."""

from __future__ import annotations

import json
import sys

print(json.dumps([{"session": one["session"], "python": one["python"]} for one in json.load(sys.stdin)]))
