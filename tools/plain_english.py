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
        r"\b(?:of|for|to|by|from|with|than) who(?:ever)?\b|(?:\b|_)whoever(?:\b|_)"
    ),
    "a user or caller is 'they', 'the caller' or 'you'": re.compile(
        r"\b(?:he|his|him|himself|she|her)\b", re.IGNORECASE
    ),
    "say 'is not a …', not 'is no …'": re.compile(
        r"(?<![Tt]here )\b(?:is|are|was|were) no (?!(?:longer|more|less|other|need|way|such|room|one|earlier|later|"
        r"slower|faster|worse|better|larger|smaller|bigger|harder|limit|reason)\b)[A-Za-z]+"
    ),
    "say 'if', not 'None where'": re.compile(r"\bNone where\b"),
    "begin with the thing, not with 'That it …'": re.compile(START + r"That (?:it|they|one|nobody|nothing)\b"),
    "name the thing, not 'its like' or 'their like'": re.compile(r"\b(?:its|their|the) like\b(?! \w+)"),
    "use today's word": re.compile(r"\b(?:got back|in vain|hitherto|whereupon|thereof|lest|nigh|reckoned|ere)\b"),
    "say 'async' or 'not async', not 'colour'": re.compile(
        r"\bwrong colou?r\b|\bcolou?r of (?:a|the) (?:method|function)"
    ),
    "name the place, not 'room'": re.compile(r"\bengine room\b|\basyncio room\b"),
    "say 'is not a …', not 'is no `…`'": re.compile(r"\b(?:is|are|was|were) no `"),
    "say 'something other than'": re.compile(r"\b(?:something|anything|nothing|nobody) else than\b"),
    "say 'must' or 'will', not 'shall'": re.compile(r"\bshall\b", re.IGNORECASE),
    "say 'again', not 'anew'": re.compile(r"\banew\b"),
    "say 'so that', not 'such that'": re.compile(r"\bsuch that\b"),
    "say 'the result of' or 'what happens to'": re.compile(r"\b[Ww]hat (?:came|comes|becomes|became) of\b"),
    "say what does not work, not 'of no use'": re.compile(r"\bof no use\b"),
    "say 'this many' or name the number, not 'so many'": re.compile(r"\bso (?:long|many)\b(?! (?:that|as)\b)"),
    "begin with the thing, not with 'That no …'": re.compile(START + r"That (?:no|what|a|an|every)\b"),
    "name the thing again, not 'the former'": re.compile(r"\bthe (?:former|latter)\b"),
    "say how, not 'as one does'": re.compile(r"\bas one (?:does|expects|would)\b"),
    "say 'ignore' or 'release'": re.compile(r"\b(?:is|are|was|were|be) passed over\b|\blets? go of\b"),
    "say which person may do it, not 'is the caller's to close'": re.compile(
        r"\w's to (?:keep|close|run|make|choose)\b"
    ),
    "say 'if', not 'Should a …'": re.compile(START + r"Should (?:a|an|the|it)\b(?![^.]*\?)"),
    "name the engine's thread": re.compile(r"\bthe room's thread\b|\b(?:in|of|into) the room\b"),
    "say 'your own' or 'ours'": re.compile(r"\bof one's own\b|\b(?:a|some|an) \w+ of ours\b"),
    "begin with a noun: 'An error of the handler is logged', not 'What it raises is logged'": re.compile(
        START + r"What (?!(?:happens|changes|follows)\b)(?:[\w`.]+ ){0,4}"
        r"(?:raises|returns|gives|emits|makes|sends|holds|is|was|came|comes|waits|serves|belongs)(?: [\w`]+){0,3} "
        r"(?:is|are|was|ends|costs|counts|goes|waits|must|does|never|runs)\b[^?]*$"
    ),
    "say 'recent' or 'halfway'": re.compile(r"\bof late\b|\bby halves\b|\bbe otherwise\b"),
}
CONTINUED = re.compile(r"^\s*(?:# )?")
"""What stands before the words of a line that goes on with a sentence."""
FOLDERS = ("src", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples", "changelog.d")
SUFFIXES = {".py", ".md", ".js", ".html"}
TO_REWRITE = Path(__file__).with_name("to_rewrite.txt")
"""Files that are not rewritten yet. The list only gets shorter."""


def findings(text: str) -> list[tuple[int, str, str]]:
    """Line number, rule and line for each sentence of `text` that should be written again.

    A sentence may go on in the next line, so each line is read together with the one after it, too.
    """
    found = []
    lines = [line.rstrip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line.endswith("plain: ok"):
            continue
        found += [(number, rule, line.strip()) for rule, pattern in KINDS.items() if pattern.search(line)]
        after = CONTINUED.sub("", lines[number]) if number < len(lines) else ""
        if line.strip() and after:
            both = f"{line} {after}"
            found += [
                (number, rule, both.strip())
                for rule, pattern in KINDS.items()
                if any(match.start() < len(line) < match.end() - 1 for match in pattern.finditer(both))
            ]
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
