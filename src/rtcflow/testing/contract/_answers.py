"""Answers that are late, cut off, or kept for the next one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_own_method
from ...protocol import messages
from .._scenarios import (
    ANSWERED,
    COUGH,
    answered_texts,
    asked_after_a_cough,
    asked_often,
    begins_with_another,
    hangs_up,
    kept_for_the_next,
    left_unsaid,
    seconds_audible,
    talked_to,
)
from ..caller import run_call
from ._sentences import CheckInput, call_options, last_journal, run_scenario, sentence


@sentence(
    "it answers late in a call as it does early, and to the end",
    "the same sentence four times: at the beginning, after 4 s, 14 s and 31 s; twice after a cough; texts and keys",
)
def answers_late(handler: StreamHandlerBase, given: CheckInput) -> None:
    if has_own_method(handler, "on_message"):
        _reads_to_the_end(handler, given, ("one two three", "one two three", "hello", "one two three"))
    if has_own_method(handler, "on_dtmf"):
        _reads_to_the_end(handler, given, [messages.encode(messages.Dtmf(key)) for key in "1151"])
    ask = partial(asked_often, handler, given.args)
    answers = run_scenario(ask, handler, given)
    if kept := kept_for_the_next(answers, handler.output_sample_rate):
        raise _kept_back(kept)
    said = [one.seconds for one in answers]
    if len(said) == 4 and (early := min(said[:2])) > ANSWERED and said[3] < 0.3 * early:
        alone = run_call(handler, seconds=9.0, backend=given.on("asyncio"), **call_options(given))
        if seconds_audible(alone.heard):
            return  # a greeting, or an announcement, and no answer
        raise AssertionError(
            f"it answers what the caller says at first ({said[0]:.1f} s and {said[1]:.1f} s), and the same words "
            f"after 31 s for {said[3]:.1f} s: does a limit for one answer count from the beginning of the call?"
        )
    if len(said) == 4 and min(said) > ANSWERED:
        cough = partial(asked_after_a_cough, handler, given.args)
        answered = run_scenario(cough, handler, given)
        if answered == 0.0:
            raise AssertionError(
                f"it answers what the caller says ({said[0]:.1f} s), and after a sound of {COUGH:g} s it answers "
                "neither the next sentence nor the one after: what is too short for a word leaves somebody waiting. "
                "Finish each utterance, also one without words: set its event, put an empty result"
            )


def _reads_to_the_end(handler: StreamHandlerBase, given: CheckInput, texts: Sequence[str]) -> None:
    """See that the answer to a text does not begin with the end of the one before."""
    answers = run_scenario(partial(answered_texts, handler, given.args, texts), handler, given)
    if len(answers) == len(texts):
        kept = begins_with_another(answers[1], answers[3], handler.output_sample_rate)
        if kept:
            raise _kept_back(kept)


def _kept_back(seconds: float) -> AssertionError:
    return AssertionError(
        f"the last {1000 * seconds:.0f} ms of its answer are not said, and come at the beginning of the next one: "
        "they stay in a FIFO, a resampler or a block that is not yet full. At the end of an answer, flush it: "
        "fifo.read(partial=True), resampler.resample(None)"
    )


@sentence(
    "it does not hang up in the middle of its own answer, or while the caller speaks",
    "a sentence, and 40 s of silence; 40 s of speech without a pause",
)
def says_it_all(handler: StreamHandlerBase, given: CheckInput) -> None:
    if not hangs_up(handler):
        return

    def emitted() -> set[int]:
        return {one.checksum for one in last_journal().given["emit"]}

    scenario = partial(left_unsaid, handler, given.args, emitted)
    left = run_scenario(scenario, handler, given)
    if left is not None and left[1] > _UNSAID:
        raise AssertionError(
            f"it returned CloseStream while {left[1]:.1f} s of its answer were still in .{left[0]}: does a limit for "
            "the caller's silence count while the handler itself speaks? Count from the end of the answer; or, if it "
            "is to be cut short, clear your queue first"
        )

    def talk(seconds: float, *, pauses: bool) -> float | None:
        scenario = partial(talked_to, handler, given.args, seconds, pauses=pauses)
        return run_scenario(scenario, handler, given)

    closed = talk(40.0, pauses=False)
    if closed is not None and talk(closed + 2.0, pauses=True) is None:
        raise AssertionError(
            f"it hung up after {closed:.1f} s of speech without a pause, and does not if the caller pauses meanwhile: "
            "does a limit for the caller's silence count from where they began to speak? Count from their last word"
        )


_UNSAID: Final = 0.5
"""Seconds of an answer that may be cut off."""
