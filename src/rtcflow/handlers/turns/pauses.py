"""From speech probabilities to events: deciding who is talking. Pure; there is no clock but the audio it was shown."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from .events import DetectorEvent, SpeechEnded, SpeechStarted, TurnEnd, TurnEnded
from .options import AlgoOptions

HYSTERESIS = 0.15
"""What was speech stays speech down to this much below the threshold (Silero VAD's own choice); but not in noise, where
the model's belief in speech fades slowly: that alone made the end of a turn up to 0.1 s later there."""


class Loudness:
    """How loud speech and background are, so that a model's slowness can be told from speech.

    A speech model needs a window or three to believe that speech has begun, and in noise two to four to believe that it
    has ended. What is no louder than the background is not yet, or no longer, speech, whatever the model says.

    Both levels are running means over windows of which the model is sure. The bar between them is a quarter of the way
    up, because syllables and final consonants are that much weaker than the mean, and at most `BAR` dB up. Where speech
    is less than `LEAST` dB above the background there is no telling them apart by level, and the model alone decides.
    """

    BAR = 8.0
    LEAST = 6.0
    NOISY = 15.0
    """dB that speech is above the background where it is no noise."""
    _SLOWNESS = 0.1  # of the running means: a third of a second

    def __init__(self) -> None:
        self._background: float | None = None
        self._speech: float | None = None

    def hear(self, level: float, *, is_speech: bool) -> None:
        """A window of `level` dBFS, and what the model says of it."""
        if is_speech:
            self._speech = level if self._speech is None else self._speech + self._SLOWNESS * (level - self._speech)
        elif self._background is None:
            self._background = level
        else:
            self._background += self._SLOWNESS * (level - self._background)

    @property
    def noisy(self) -> bool:
        """Whether speech is less than `NOISY` above the background, as far as that is known."""
        if self._speech is None or self._background is None:
            return False
        return self._speech - self._background < self.NOISY

    def rises(self, level: float, by: float) -> bool:
        """Whether `level` is more than `by` dB above the background, as far as that is known."""
        return self._background is None or level > self._background + by

    def stands_out(self, level: float) -> bool | None:
        """Whether a window of `level` dBFS is louder than the background; None if that cannot be told."""
        if self._background is None:
            return None
        speech = self._background + 4 * self.BAR if self._speech is None else self._speech
        above = speech - self._background
        if above < self.LEAST:
            return None
        return level >= self._background + min(self.BAR, above / 4)


ONSET = 3
"""Windows before the model believes in speech that count as speech, if they stand out: what Silero VAD takes at most
to be sure of a clear voice (96 ms)."""


@dataclass(slots=True)
class _Thresholds:
    speech: float
    windows_to_start: int
    level: float


class PauseTracker:
    """Decides from speech probabilities. Pure: its only time is the windows it was shown.

    Times are counted in whole windows: thresholds of speech are rounded to the nearest number of them, the pause down
    to whole ones, because a window is only judged when it has passed.

    Args:
        options: The thresholds.
        window: Seconds that one probability stands for.
        threshold: From which probability on a window is speech.
        min_speech: Seconds of speech that a turn needs at least to start.

    Attributes:
        loudness: What it knows of the levels.
    """

    def __init__(self, options: AlgoOptions, *, window: float, threshold: float = 0.5, min_speech: float = 0.0) -> None:
        self.window = window
        start = max(options.started_talking_threshold, min_speech)
        interrupt = options.interrupt_threshold
        self._quiet = _Thresholds(threshold, self._windows(start), -np.inf)
        self._talking = _Thresholds(
            options.interrupt_probability or threshold,
            self._windows(max(start if interrupt is None else interrupt, min_speech)),
            options.interrupt_level_dbfs,
        )
        self._least = min(self._quiet.windows_to_start, self._talking.windows_to_start)
        self._blip = self._windows(options.speech_threshold)
        looked_at = max(self._windows(options.audio_chunk_duration), self._quiet.windows_to_start)
        self._pause = max(1, int(options.pause / window + 1e-6))
        self._max = options.max_continuous_speech_s
        self._start_within = max(looked_at, self._talking.windows_to_start)
        self._recent: deque[bool] = deque(maxlen=max(self._start_within, self._pause + self._blip))
        self._now = 0
        self.loudness = Loudness()
        self._stood_out = 0  # windows in a row that stood out and were not speech, until now
        self._clear()

    def _windows(self, seconds: float) -> int:
        return max(1, round(seconds / self.window))

    def _clear(self) -> None:
        self._recent.clear()
        self._is_speech = False
        self._began: float | None = None  # media time the turn began
        self._talking_now = False  # what the last SpeechStarted or SpeechEnded said
        self._last_speech = 0  # windows until the end of the last speech
        self._speech_windows = 0

    @property
    def now(self) -> float:
        """Media time, in seconds."""
        return self._now * self.window

    @property
    def blip(self) -> float:
        """Seconds of silence that are told as an end of speech."""
        return self._blip * self.window

    @property
    def in_turn(self) -> bool:
        """Somebody has started to talk and not finished."""
        return self._began is not None

    @property
    def speech_lately(self) -> bool:
        """There was speech within the last windows that are looked at (the length of a chunk, or of the pause)."""
        return self._now - self._last_speech < (self._recent.maxlen or 0) and self._last_speech > 0

    def patience(self, *, loud: bool = False) -> int:
        """Windows from now to the first at which an event is possible, whatever they hold: at least 1.

        Nothing is lost by waiting for so many windows and judging them together, which is cheaper.

        Args:
            loud: They will be louder than the background, so that speech goes on in all likelihood: should it not,
                `SpeechEnded` may be that late. `TurnEnded` is not.
        """
        recent = list(self._recent)
        if self._began is None:
            return max(1, self._least - sum(recent[-self._start_within :]) - self._stood_out)
        recent.reverse()
        spoken = [back for back, is_speech in enumerate(recent) if is_speech]
        waits = [
            self._pause + self._blip - 1 - spoken[self._blip - 1] if len(spoken) >= self._blip else 1,
            math.ceil(min(self._max - (self.now - self._began), 1e6) / self.window - 1e-6),
        ]
        if not self._talking_now:
            silent_since = next((back for back, is_speech in enumerate(recent) if not is_speech), 0)
            waits.append(self._blip - silent_since)
        elif not loud:
            waits.append(self._blip - (self._now - self._last_speech))
        return max(1, min(waits))

    def reset(self) -> None:
        """Forget the turn under way; media time goes on."""
        self._clear()

    def pass_over(self, windows: int) -> None:
        """So many windows were heard by nobody."""
        self._now += windows

    def step(
        self, probability: float, level: float | None = None, *, bot_speaking: bool = False
    ) -> list[DetectorEvent]:
        """Take the next window.

        Args:
            probability: Of speech in it.
            level: Its RMS in dBFS; None: unknown, the model alone decides.
            bot_speaking: The bot is being heard now.
        """
        limits = self._talking if bot_speaking and self._began is None else self._quiet
        sticky = self._is_speech and (level is None or not self.loudness.noisy)
        threshold = limits.speech - HYSTERESIS if sticky else limits.speech
        believed = probability >= threshold
        stands_out: bool | None = None
        if level is not None:
            stands_out = level >= limits.level and self.loudness.stands_out(level)
            self.loudness.hear(level, is_speech=believed)
        was_speech, self._is_speech = self._is_speech, believed and stands_out is not False
        self._now += 1
        self._recent.append(self._is_speech)
        if self._is_speech:
            self._last_speech = self._now
            if not was_speech and self._began is None:
                for index in range(1, min(self._stood_out, len(self._recent) - 1) + 1):
                    self._recent[-1 - index] = True
        self._stood_out = min(self._stood_out + 1, ONSET) if stands_out and not believed else 0
        if self._began is None:
            return self._maybe_start(limits)
        if self._is_speech:
            self._speech_windows += 1
        return self._go_on()

    def _maybe_start(self, limits: _Thresholds) -> list[DetectorEvent]:
        recent = list(self._recent)[-self._start_within :]
        speech = sum(recent)
        if speech < limits.windows_to_start or not self._is_speech:
            return []
        self._began = (self._now - len(recent) + recent.index(True)) * self.window
        self._speech_windows = speech
        self._talking_now = True
        return [SpeechStarted(self._began), *self._too_long()]

    def _go_on(self) -> list[DetectorEvent]:
        events: list[DetectorEvent] = []
        silent = self._now - self._last_speech
        if self._talking_now and silent >= self._blip:
            self._talking_now = False
            events.append(SpeechEnded(self._last_speech * self.window, min(1.0, silent / self._pause)))
        elif not self._talking_now and sum(list(self._recent)[-self._blip :]) == self._blip:
            self._talking_now = True
            events.append(SpeechStarted((self._now - self._blip) * self.window))
        if too_long := self._too_long():
            return events + too_long
        # Fewer than `blip` windows of speech among the last ones: a blip within the pause does not begin it anew.
        if silent and sum(list(self._recent)[-(self._pause + self._blip - 1) :]) < self._blip:
            if self._talking_now:
                events.append(SpeechEnded(self._last_speech * self.window, 1.0))
            events.append(self._end(TurnEnd.PAUSE))
        return events

    def _too_long(self) -> list[DetectorEvent]:
        assert self._began is not None  # noqa: S101
        if self.now - self._began < self._max:
            return []
        return [self._end(TurnEnd.TOO_LONG)]

    def _end(self, reason: TurnEnd) -> TurnEnded:
        ended = TurnEnded(self.now, self._last_speech * self.window, self._speech_windows * self.window, reason)
        self._clear()
        return ended
