"""docs/what-happens-when.md: each row names its test, and the test exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "what-happens-when.md"


def test_each_row_names_its_test() -> None:
    """The last column is a test of this repository."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "| Test |" not in line]
    assert len(rows) > 15
    for row in rows:
        found = re.search(r"\| `(test_\w+\.py)::(test_\w+)` \|$", row)
        assert found is not None, row
        texts = [path.read_text() for path in TESTS.rglob(found[1])]
        assert any(f"def {found[2]}(" in text for text in texts), row
