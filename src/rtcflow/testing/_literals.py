"""What a handler waits for in a text: the strings that stand in its own methods.

A caller who writes at random never says the word that a handler knows. Fuzzers have dictionaries for this; here the
handler's own code is one.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from types import CodeType
from typing import Final

from ..handlers.base import StreamHandlerBase
from ._sharing import own_functions

__all__ = ["keys_of", "texts_of", "words_of"]

LONGEST: Final = 40
"""Characters of a string that may be a word of a protocol; longer ones are what it says."""

MOST: Final = 12
"""Words, and as many objects of two of them, that are tried."""


def texts_of(handler: StreamHandlerBase) -> list[str]:
    """Texts that a handler may know: the strings in its methods, and JSON objects made of two of them."""
    words = words_of(handler)
    pairs = itertools.permutations([word for word in words if word.isidentifier()], 2)
    return words + [json.dumps({key: value}) for key, value in itertools.islice(pairs, MOST)]


def words_of(handler: StreamHandlerBase) -> list[str]:
    """The strings in a handler's methods."""
    return list(dict.fromkeys(_words(type(handler))))[:MOST]


def keys_of(handler: StreamHandlerBase) -> str:
    """The digits of a telephone that stand in a handler's methods."""
    found = {key for word in _words(type(handler)) if set(word) <= set("0123456789*#") for key in word}
    return "".join(sorted(found))


def _words(kind: type) -> Iterator[str]:
    for function in own_functions(kind):
        if not function.__name__.startswith("__"):
            doc = inspect.getdoc(function)
            yield from (one for one in _strings(function.__code__) if one != doc)


def _strings(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _strings(constant)
        elif isinstance(constant, tuple | frozenset):  # if message in {"stop", "halt"}
            yield from (one for one in constant if isinstance(one, str) and 0 < len(one) <= LONGEST)
        elif isinstance(constant, str) and 0 < len(constant) <= LONGEST and "\n" not in constant:
            yield constant
