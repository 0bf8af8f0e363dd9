"""Text of strangers, as those who read logs and terminals are shown it."""

from __future__ import annotations


def shown(text: str) -> str:
    """`text` in one line: line breaks would forge lines, and terminals obey control codes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
