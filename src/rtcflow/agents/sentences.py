"""Speakable pieces out of a stream of tokens: pure text, no clock.

Strategy: cut as soon as a piece cannot become part of a longer one. A full stop ends a sentence only if white space
follows, so "3.50" and "example.com" stay whole. The word before it must not be an abbreviation, an initial or a number
of two digits at most ("Dr.", "J. S. Bach", "am 3. Mai"). When in doubt the piece gets longer: two sentences in one
piece sound right, and half a sentence does not. East Asian stops end a sentence without white space.

The first piece may end at a comma already, because the listener waits for it. The pieces joined are always the input.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from contextlib import aclosing
from typing import Any, TypeVar, overload

T = TypeVar("T")

__all__ = ["SentenceSplitter", "sentences"]

FIRST_CLAUSE = 12
"""Characters from which on the first piece may end at a comma. A shorter clause leaves a gap before the next one."""

LONGEST = 300
"""Characters after which a piece ends at the next space, so that text without stops is spoken, too."""

STOPS = ".!?…।؟۔"
"""End a sentence if white space follows."""

WIDE_STOPS = "。！？｡"
"""End a sentence by themselves."""

CLAUSES = ",;:–—،؛"
WIDE_CLAUSES = "、，；："
CLOSING = "\"'”’»)]}」』）】"
"""May stand between a stop and the white space."""

ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "adj approx apr aug av ave bd bspw bzw ca capt cf ch co col corp dec dept dr e.g ed eds esp est etc "
        "evtl ex feb fig gen ggf gov hon hr hrsg i.e inc jan jr lt ltd max min mio mme mr mrs ms mt nov nr "
        "oct op p.ej pp prof rev sen sep sept sgt sr sra srta st str tel u.a u.s usw vgl vol vs z.b zzgl",
    )
)


class SentenceSplitter:
    """Cuts text that comes in parts of any size into pieces to be spoken.

    Args:
        first_clause: Characters from which on the first piece may end at a comma; 0 for whole sentences only.
        longest: Characters after which a piece ends at the next space.
    """

    def __init__(self, *, first_clause: int = FIRST_CLAUSE, longest: int = LONGEST) -> None:
        self._first_clause, self._longest = first_clause, longest
        self._text = ""
        self._seen = 0  # characters of it that cannot be an end
        self._is_first = True

    def feed(self, text: str) -> list[str]:
        """Take some more; returns the pieces that are complete with it."""
        self._text += text
        pieces = []
        while (end := self._find_end()) is not None:
            pieces.append(self._text[:end])
            self._text, self._seen, self._is_first = self._text[end:], 0, False
        return pieces

    def end(self) -> list[str]:
        """Nothing more comes: returns the rest, if there is one."""
        rest, self._text = self._text, ""
        return [rest] if rest else []

    def _find_end(self) -> int | None:
        """Characters until the end of the first piece, or None."""
        text = self._text
        for at in range(self._seen, len(text)):
            if self._ends_at(text, at):
                return at + 1
        self._seen = len(text)
        return None

    def _ends_at(self, text: str, at: int) -> bool:
        """Whether a piece ends with the character at `at`."""
        char = text[at]
        if not text[:at].strip():
            return False  # no piece of white space or stops alone
        if char in WIDE_STOPS:
            return True
        early = self._is_first and 0 < self._first_clause <= at
        if char in WIDE_CLAUSES:
            return early
        if not char.isspace():
            return False
        if char == "\n" or at >= self._longest:
            return True
        before = text[:at].rstrip(CLOSING)
        if not before:
            return False
        if before[-1] in CLAUSES:
            return early
        return before[-1] in STOPS and (before[-1] != "." or not _is_abbreviation(before))


def _is_abbreviation(text: str) -> bool:
    """Whether the full stop at the end of `text` belongs to its last word."""
    word = text.rsplit(None, 1)[-1].rstrip(".").lstrip("([\"'“‘«").lower()
    if text.endswith(".."):
        return False  # an ellipsis
    return word in ABBREVIATIONS or (len(word) == 1 and word.isalpha()) or (word.isdigit() and len(word) <= 2)


@overload
def sentences(tokens: AsyncIterable[str], **options: int) -> AsyncGenerator[str]: ...
@overload
def sentences(tokens: Iterable[str], **options: int) -> Generator[str]: ...
def sentences(tokens: Any, **options: int) -> Any:
    """The pieces of a stream of tokens, each as soon as it is complete.

    >>> list(sentences(["It costs 3.", "50 euros. ", "Dr. Smith ", "agrees."]))
    ['It costs 3.50 euros. ', 'Dr. Smith agrees.']

    Args:
        tokens: Text in parts of any size, from an iterable or an async one. An async one is closed with the pieces.
        **options: As for `SentenceSplitter`.

    Returns:
        An iterator over pieces, or an async one. Joined they are the input, white space included.
    """
    splitter = SentenceSplitter(**options)
    return _async_pieces(tokens, splitter) if hasattr(tokens, "__aiter__") else _pieces(tokens, splitter)


def _pieces(tokens: Iterable[str], splitter: SentenceSplitter) -> Generator[str]:
    for token in tokens:
        yield from splitter.feed(token)
    yield from splitter.end()


async def _async_pieces(tokens: Any, splitter: SentenceSplitter) -> AsyncGenerator[str]:
    async with aclosing(closable(tokens)) as closing:
        async for token in closing:
            for piece in splitter.feed(token):
                yield piece
    for piece in splitter.end():
        yield piece


def closable(source: AsyncIterable[T]) -> AsyncGenerator[T]:
    """An async iterable as a generator, for `contextlib.aclosing`; one that can be closed as it is."""
    return source if hasattr(source, "aclose") else _passed_on(source)  # type: ignore[return-value]


async def _passed_on(source: AsyncIterable[T]) -> AsyncGenerator[T]:
    async for item in source:
        yield item
