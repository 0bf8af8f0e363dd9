"""The planted bugs of tests/mutations still fit the code; that they are caught is shown by `nox -s mutations`."""

from __future__ import annotations

import pytest
from mutations.bugs import MUTANTS
from mutations.by_tools import KINDS
from mutations.plant import Edit, Outgrown
from mutations.run import PAGE

from rtcflow.media import codecs, resample
from rtcflow.media.convert import to_channels


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_fits_the_code(mutant):
    """Each place that a bug changes is there once; who changes that code brings the bug along."""
    for edit in mutant.edits:
        edit.prepare()
    assert mutant.tests


def test_names_are_unique():
    """A name chooses one bug."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_page_tells_of_all_planted_bugs():
    """docs/mutations.md has as many bugs of each kind as there are; `nox -s mutations -- --write` writes it anew."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    caught = {row[0]: row[-2] for row in rows[2:]}
    for number, kind in enumerate(KINDS):
        planted = sum(mutant.kind == number for mutant in MUTANTS)
        assert caught[f"{number}. {kind}" if number else kind] == f"{planted} of {planted}"
    assert caught["all"] == f"{len(MUTANTS)} of {len(MUTANTS)}"


def test_a_bug_is_planted_wherever_the_function_was_imported_to_and_taken_back():
    """Inside the block every module sees the bug; after it none does."""
    edit = Edit("media.convert:to_channels", "if have == channels:", "if True:")
    sound = to_channels.__code__
    with edit.plant():
        assert codecs.to_channels.__code__ is resample.to_channels.__code__ is not sound
    assert to_channels.__code__ is sound


def test_a_bug_that_fits_no_more_says_so():
    """Text that is not in the source is an error that names the function."""
    with pytest.raises(Outgrown, match="to_channels: 0 times"):
        Edit("media.convert:to_channels", "no such text", "").prepare()
