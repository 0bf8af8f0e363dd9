"""The lint for plain English finds the kinds that it names, and only those. `nox -s lint` runs it over all files."""

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
    "MediaError: `item` is no `EmitType`; the text says what was wrong.",
    "the service shall speak now",
    "it returned something else than audio",
    "The schedule starts anew.",
    "such that it counts its cancellations",
    "What becomes of it when the caller interrupts.",
    "the ICE servers are of no use",
    "due within so many seconds",
    '"""That no codec can be served, and which it has."""',
    "In the latter case, wait for that as well.",
    "closed the session as one does",
    "Line breaks are passed over",
    "The transport is the caller's to close.",
    "Should a wheel hold another network, its own runtime is used.",
    "louder than the background of late",
    "'x' is no URL of a STUN server",
    "One port for all calls. In the room's thread.",
    "What the handler raises is logged, and is not raised here.",
    "The call ends. What is stale does not count as left.",
    "FastRTC's protocol for a model of one's own.",
    "A leap that the clock confirms is\n        none: the peer was silent",
    "# a handler that is\n    # no function does not tell",
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
    "Wait so long as it takes, or as long as it takes.",
    "so many that none is left",
    "That is what the caller hears.",
    "Should it record? Then give a path.",
    "It passes over the network.",
    "What happens to a tool that runs when its reply is interrupted.",
    "What the `authorize` hook returned.",
]


@pytest.mark.parametrize("line", HARD)
def test_hard_sentences_are_found(line: str) -> None:
    """Each kind of sentence that readers had to decode is found."""
    assert lint.findings(line)


@pytest.mark.parametrize("line", PLAIN)
def test_plain_sentences_pass(line: str) -> None:
    """Sentences that a reader understands at once are left alone."""
    assert not lint.findings(line)
