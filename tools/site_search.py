"""See that the search of the built site finds what people look for: `python tools/site_search.py docs/_build/html`.

It reads the site's own index (`searchindex.js`) and counts as Sphinx's `searchtools.js` does. Each word, brought to its
stem, must be on the page: a word in a title counts 15, in the text 5. If the query is at least half of a heading, its
share of the heading counts up to 15. Names of the API are left out. Part of `nox -s docs`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sphinx.search.en import SearchEnglish

ANSWERS = {
    "deploy": "deploy",
    "llm": "voice-agent",
    "h264": "video",
    "tool call": "voice-agent",
    "record": "howto",
    "metrics": "operate",
    "barge-in": "turns",
    "twilio": "telephone",
    "stun": "ice",
    "fastrtc": "moving-from-fastrtc",
    "scale": "scale-out",
}
"""What people type, and the page that answers."""


SHOWN = 5
"""It must be one of so many pages. Pages with an equal count come by name."""


def read_index(site: Path) -> dict[str, Any]:
    """The index of a built site."""
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    return index


def search(index: dict[str, Any], query: str) -> list[str]:
    """The pages for `query`, the best first; among equals by name."""
    english = SearchEnglish({})
    words = [word for word in english.split(query.lower()) if word not in english.stopwords and not word.isdigit()]
    found = [_pages(index, english.stem(word)) for word in words]
    pages = set.intersection(*map(set, found)) if found else set()
    best = {page: max(scores[page] for scores in found) for page in pages}
    for title, places in index["alltitles"].items():
        if query in title.lower() and len(query) >= len(title) / 2:
            for page, _ in places:
                best[page] = max(round(15 * len(query) / len(title)), best.get(page, 0))
    names: list[str] = index["docnames"]
    return [names[page] for page in sorted(best, key=lambda page: (-best[page], names[page]))]


def _pages(index: dict[str, Any], stem: str) -> dict[int, int]:
    scores: dict[int, int] = {}
    for table, score in (("terms", 5), ("titleterms", 15)):
        pages = index[table].get(stem, [])
        scores.update(dict.fromkeys([pages] if isinstance(pages, int) else pages, score))
    return scores


def main(site: Path) -> int:
    """Print what is not found; 1 if something is not."""
    index = read_index(site)
    missed = {
        query: pages[:SHOWN] for query, page in ANSWERS.items() if page not in (pages := search(index, query))[:SHOWN]
    }
    for query, pages in missed.items():
        print(f"searching for {query!r} does not show {ANSWERS[query]} among the first {SHOWN} pages, but {pages}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
