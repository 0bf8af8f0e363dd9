"""The lint for plain English finds the kinds that it names, and only those."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "tools" / "plain_english.py"
SPEC = importlib.util.spec_from_file_location("plain_english", PATH)
assert SPEC is not None
assert SPEC.loader is not None
lint = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lint)

HARD = [
    "The Host header is none.",
    "Seconds of speech up to which an interruption was none",
    "Who sends no Origin header is no browser, and is not asked.",
    '"""Whoever calls gets an answer."""',
    "# Who hangs up closes the channel first.",
    "None where that is nothing of interest.",
    "stop when he speaks again",
    "An open engine, for who makes many calls",
    "This is no http URL.",
    "That it returns ends nothing.",
    "the threads are got back",
    "`queue.get()` and its like",
    "A method of the wrong colour is refused",
]
PLAIN = [
    "The Host header is invalid.",
    "Speech shorter than this counts as a false alarm.",
    "Requests without an `Origin` header are not checked.",
    "`None` if the message can be ignored.",
    "if value is None:",
    "Callers who hang up early are counted.",
    "There is no silence left, and it is no longer needed.",
    "Who may call? Ask `authorize`.",
]


@pytest.mark.parametrize("line", HARD)
def test_hard_sentences_are_found(line: str) -> None:
    """Each kind of sentence that readers had to decode is found."""
    assert lint.findings(line)


@pytest.mark.parametrize("line", PLAIN)
def test_plain_sentences_pass(line: str) -> None:
    """Sentences that a reader understands at once are left alone."""
    assert not lint.findings(line)


def test_everything_people_read_passes() -> None:
    """No file but those that wait to be rewritten has a finding."""
    assert lint.main([]) == 0
