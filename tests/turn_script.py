"""A turn detector that follows a script: for tests of what happens when somebody speaks."""

from __future__ import annotations

from dataclasses import dataclass, field

from rtcflow.connection import Timeouts
from rtcflow.handlers.turns import SpeechEnded, SpeechStarted, TurnEnded

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)


@dataclass
class Script:
    """A turn detector that says what it was told to, at its media times."""

    events: list = field(default_factory=list)
    blocking: bool = False
    now: float = 0.0
    resets: int = 0
    spoken_to: list = field(default_factory=list)

    def feed(self, samples, sample_rate, *, bot_speaking):
        self.spoken_to.append(bot_speaking)
        return self._advance(samples.shape[1] / sample_rate)

    def silence(self, seconds):
        return self._advance(seconds)

    def _advance(self, seconds):
        self.now += seconds
        due = [event for at, event in self.events if at <= self.now + 1e-6]
        self.events = [(at, event) for at, event in self.events if at > self.now + 1e-6]
        return due

    def reset(self):
        self.resets += 1


def turn(start: float, end: float, *, confirmed: float = 0.2, pause: float = 0.5) -> list:
    """Somebody speaks from `start` to `end`."""
    return [
        (start + confirmed, SpeechStarted(start)),
        (end + 0.1, SpeechEnded(end, 0.2)),
        (end + pause, TurnEnded(end + pause, end, end - start)),
    ]
