"""What tests of `check_handler`'s sentences share: their names, a handler that speaks, and how one is held to them."""

from __future__ import annotations

import numpy as np
import pytest
from kinds import RATE, Echo

from rtcflow.testing import HANDLER_CHECKS, signals

NOTICES = "it notices an interruption while an answer is being made"
STALE = "after clear_queue the caller hears nothing"
TEXTS = "it serves a caller who sends any text"
TRACES = "one call leaves no trace"
BADLY = "it serves a caller who says nothing"
LENGTHS = "it serves a caller whose frames are of any length"
REAL_TIME = "its audio comes in real time"
LIMITS = "its limits count"
SERVES = "it serves a call on"
ERRORS = "an error in its methods is not swallowed"
ANY_ORDER = "it answers in the same way under every order"
ANSWERS = "it answers late in a call"


def check_of(sentence):
    (check,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(sentence)]
    return check


def assert_told(bug, told, sentence, sound):
    """What is wrong is told under the sentence it breaks, and nothing is said of what is right."""
    check = check_of(sentence)
    for handler in sound:
        check(handler())
    with pytest.raises(AssertionError) as caught:
        check(bug())
    assert told in str(caught.value)


def voice(seconds, pitch=300):
    return RATE, signals.tone(seconds, pitch)


def loud(frame):
    return np.abs(frame[1].astype(np.int32)).mean() > 500


class Speaker(Echo):
    """Says what is in its queue, and hears nothing."""

    def play(self, item):
        self.frames.append(item)
        self.came.set()

    async def receive(self, frame):
        pass
