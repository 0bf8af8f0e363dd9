"""Find sentences that readers have to decode: `python tools/plain_english.py [FILE ...]`, part of `nox -s lint`.

The rules are in CONTRIBUTING.md. A pattern can only catch some kinds; each kind below has the rule it
stands for. Docstrings, comments and messages are read, too. `# plain: ok` at the end of a line lets it pass.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

START = r"(?:^|[.!?:;] +|\"\"\"|# |^\s*[-*] |\| |\()"
"""Where a sentence may begin: a line, a stop, a docstring, a comment, a list item, a table cell, a parenthesis."""

KINDS = {
    "say what is, not that it 'is none'": re.compile(r"\b(?:is|are|was|were|be|been) none\b"),
    "name the subject: 'Requests without …', not 'Who sends no …'": re.compile(
        START + r"(?:Whoever|Who (?!(?:may|is|are|am|can|does)\b[^.]*\?))"
    ),
    "name the subject inside the sentence, too": re.compile(
        r"\b(?:of|for|to|by|from|with|than) who(?:ever)?\b|\bwhoever\b"
    ),
    "a user or caller is 'they', 'the caller' or 'you'": re.compile(
        r"\b(?:he|his|him|himself|she|her)\b", re.IGNORECASE
    ),
    "say 'is not a …', not 'is no …'": re.compile(
        r"(?<![Tt]here )\b(?:is|are|was|were) no (?!(?:longer|more|less|other|need|way|such|room|one|earlier|later|"
        r"slower|faster|worse|better|larger|smaller|bigger|harder|limit|reason)\b)[a-z]+"
    ),
    "say 'if', not 'None where'": re.compile(r"\bNone where\b"),
    "begin with the thing, not with 'That it …'": re.compile(START + r"That (?:it|they|one|nobody|nothing)\b"),
    "name the thing, not 'its like' or 'their like'": re.compile(r"\b(?:its|their|the) like\b(?! \w+)"),
    "use today's word": re.compile(r"\b(?:got back|in vain|hitherto|whereupon|thereof|lest|nigh|reckoned|ere)\b"),
    "say 'async' or 'not async', not 'colour'": re.compile(
        r"\bwrong colou?r\b|\bcolou?r of (?:a|the) (?:method|function)"
    ),
    "name the place, not 'room'": re.compile(r"\bengine room\b|\basyncio room\b"),
}
FOLDERS = ("src", "docs", "README.md", "CONTRIBUTING.md", "SECURITY.md", "examples", "changelog.d")
SUFFIXES = {".py", ".md", ".js", ".html"}
TO_REWRITE = Path(__file__).with_name("to_rewrite.txt")
"""Files that are not rewritten yet. The list only gets shorter."""


def findings(text: str) -> list[tuple[int, str, str]]:
    """Line number, rule and line for each sentence of `text` that should be written again."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.rstrip().endswith("plain: ok"):
            continue
        found += [(number, rule, line.strip()) for rule, pattern in KINDS.items() if pattern.search(line)]
    return found


def pages(root: Path) -> list[Path]:
    """The files under `root` that people read."""
    places = [root / name for name in FOLDERS]
    files = [p for place in places for p in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return [p for p in files if p.suffix in SUFFIXES and "_build" not in p.parts]


def main(names: list[str]) -> int:
    """Print each finding; 1 if there is one."""
    root = Path(__file__).parents[1]
    later = set(TO_REWRITE.read_text().split()) if TO_REWRITE.exists() else set()
    wrong = 0
    for path in [Path(name).resolve() for name in names] or pages(root):
        name = path.relative_to(root).as_posix()
        found = findings(path.read_text(encoding="utf-8"))
        if name not in later:
            wrong += len(found)
            for number, rule, line in found:
                print(f"{name}:{number}: {rule}\n    {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
