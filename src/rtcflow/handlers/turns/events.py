"""The events of a turn detector. Times are media time: seconds of audio since the beginning."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody has begun to talk, or goes on after a short silence.

    Attributes:
        at: Media time of the first speech, in seconds: before the moment it was sure.
    """

    at: float


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """It has become silent: maybe only to breathe.

    Attributes:
        at: Media time of the end of the speech, in seconds.
        probability: How likely the turn is over, as far as the detector can tell by now. A detector that only knows
            pauses says how much of the pause has passed.
    """

    at: float
    probability: float


class TurnEnd(enum.Enum):
    """What ended a turn."""

    PAUSE = "pause"
    TOO_LONG = "too long"
    MODEL = "model"
    """A model judged the turn to be complete."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """It is the bot's turn.

    Attributes:
        at: Media time of the decision, in seconds.
        speech_end: Media time of the end of the speech.
        speech: Seconds of speech in the turn, silences not counted.
        reason: What ended it.
    """

    at: float
    speech_end: float
    speech: float
    reason: TurnEnd = TurnEnd.PAUSE


@dataclass(frozen=True, slots=True)
class StopWordHeard:
    """The phrase was said that a turn begins with.

    Attributes:
        at: Media time of its end, in seconds.
        phrase: Which.
    """

    at: float
    phrase: str


DetectorEvent: TypeAlias = SpeechStarted | SpeechEnded | TurnEnded | StopWordHeard
