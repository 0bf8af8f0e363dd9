"""How an end is put into words."""

from __future__ import annotations

import pytest

from rtcflow.ends import LONGEST_TEXT, describe_error, errors_in, sole_error


class Mute(Exception):
    """Raises when it is asked for its text."""

    def __str__(self):
        raise self.args[0]


@pytest.mark.parametrize("failure", [ValueError("x"), GeneratorExit(), SystemExit(1)])
def test_an_error_that_cannot_say_what_it_is(failure):
    """Whatever __str__ raises, the error is described by its type."""
    assert (
        describe_error(Mute(failure)) == f"Mute: its text is not known, because __str__ raised {type(failure).__name__}"
    )


def test_a_long_text_is_cut():
    """A text may be longer than any message can be."""
    assert describe_error(ValueError("x" * 10**6)) == "ValueError: " + "x" * LONGEST_TEXT + "…"


def test_an_error_without_a_text_is_its_type():
    """As in a traceback."""
    assert describe_error(ValueError()) == "ValueError"


def test_only_the_outer_group_is_taken_off():
    """That is the group of our own task group. A group inside it is the application's."""
    mine = ExceptionGroup("mine", [ValueError("one")])
    assert sole_error(ExceptionGroup("", [mine])) is mine
    several = ExceptionGroup("", [mine, KeyError("two")])
    assert sole_error(several) is several
    assert list(map(repr, errors_in(several))) == ["ValueError('one')", "KeyError('two')"]
    assert errors_in(mine.exceptions[0]) == [mine.exceptions[0]]
