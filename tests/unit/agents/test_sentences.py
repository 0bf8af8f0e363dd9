"""Sentences out of tokens: joined pieces are the input, and the pieces are what one would say in one breath."""

from __future__ import annotations

import itertools

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.agents import SentenceSplitter, sentences

TEXTS = st.text(st.sampled_from("ab3 .,!?\n。、؟\"'…-") | st.characters(codec="utf-8"), max_size=200)


def cut(text: str, places: list[int]) -> list[str]:
    """`text` in tokens."""
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@given(TEXTS, st.lists(st.integers(0, 1000)))
def test_joined_pieces_are_the_input(text, places):
    """Nothing is lost, doubled or changed."""
    assert "".join(sentences(cut(text, places))) == text


@given(TEXTS, st.lists(st.integers(0, 1000)))
def test_pieces_do_not_depend_on_tokens(text, places):
    """Any cut into tokens gives the same pieces."""
    assert list(sentences(cut(text, places))) == list(sentences([text]))


@given(st.text(st.sampled_from("ab "), max_size=2000))
def test_pieces_have_a_bound_where_there_are_spaces(text):
    """Text without stops is spoken, too: a piece ends at the next space beyond the bound."""
    for piece in sentences([text], longest=50):
        assert " " not in piece[50:-1].strip() or not piece[:50].strip()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It costs 3.50 euros. Is that fine?", ["It costs 3.50 euros. ", "Is that fine?"]),
        ("Dr. Smith, i.e. the boss, is in. Good.", ["Dr. Smith, i.e. the boss, is in. ", "Good."]),
        ("J. S. Bach wrote it. In 1723.", ["J. S. Bach wrote it. ", "In 1723."]),
        ("See example.com. It works!", ["See example.com. ", "It works!"]),
        ('He said "no." Then he left.', ['He said "no." ', "Then he left."]),
        ("Am 3. Mai. Bis bald!", ["Am 3. Mai. ", "Bis bald!"]),
        ("¿Qué tal? Muy bien, Sra. López.", ["¿Qué tal? ", "Muy bien, Sra. López."]),
        ("今日は晴れです。明日は雨。", ["今日は晴れです。", "明日は雨。"]),
        ("هل أنت بخير؟ نعم.", ["هل أنت بخير؟ ", "نعم."]),
        ("आप कैसे हैं? मैं ठीक हूँ। धन्यवाद", ["आप कैसे हैं? ", "मैं ठीक हूँ। ", "धन्यवाद"]),
        ("Well... I think so.", ["Well... ", "I think so."]),
        ("First line\nSecond line", ["First line\n", "Second line"]),
        ("in 1999. Then more.", ["in 1999. ", "Then more."]),
        ("", []),
        ("...", ["..."]),
        ("  \n ", ["  \n "]),
    ],
)
def test_sentences_end_where_one_would_pause(text, pieces):
    """Abbreviations, numbers, addresses and several scripts."""
    assert list(sentences([text], first_clause=0)) == pieces


def test_the_first_clause_comes_early():
    """Only the first piece ends at a comma: the listener waits for it."""
    text = "Of course I can, and I will, too. Then, as agreed, we meet."
    assert list(sentences([text])) == ["Of course I can, ", "and I will, too. ", "Then, as agreed, we meet."]


def test_a_short_first_clause_waits():
    """ "Yes," alone would leave a gap."""
    assert list(sentences(["Yes, of course. Good."])) == ["Yes, of course. ", "Good."]


def test_a_piece_comes_with_the_token_that_completes_it():
    """No token is waited for that is not needed."""
    splitter = SentenceSplitter()
    assert splitter.feed("How are you?") == []
    assert splitter.feed(" ") == ["How are you? "]
    assert splitter.end() == []


@pytest.mark.anyio
async def test_an_async_stream_is_closed_with_the_pieces():
    """Leaving early closes the tokens' generator: a service's request ends."""
    closed = []

    async def tokens():
        try:
            while True:
                yield "word. "
                await anyio.sleep(0)
        finally:
            closed.append(True)

    pieces = sentences(tokens())
    assert await anext(pieces) == "word. "
    await pieces.aclose()
    assert closed == [True]


@pytest.mark.parametrize("comma", "、，；：")
def test_east_asian_clauses_end_without_white_space(comma):
    text = f"今日はとても天気がいいです{comma}散歩{comma}に行きましょう。"
    first, rest = sentences([text])
    assert first.endswith(comma), "the first piece"
    assert rest == text[len(first) :], "the second one ends at its stop, not at a comma"


def test_closing_marks_alone_are_no_sentence():
    assert list(sentences(['"» Yes. No.'])) == ['"» Yes. ', "No."]


class Tokens:
    """An async iterable that is no generator: it cannot be closed."""

    def __init__(self, *tokens: str) -> None:
        self.left = list(tokens)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


@pytest.mark.anyio
async def test_any_async_iterable_will_do():
    assert [piece async for piece in sentences(Tokens("One. T", "wo. "))] == list(sentences(["One. Two. "]))
