"""From speech probabilities to events: who is talking?

Pure: the only clock is the audio that was given. The idea is to trust the model for *whether* there is speech, and the
level for *when* it begins and ends. A model notices both some windows late (`Loudness`). Every decision counts windows
of speech among the last ones, so one wrong window changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from .events import DetectorEvent, SpeechEnded, SpeechStarted, TurnEnd, TurnEnded
from .options import AlgoOptions

HYSTERESIS = 0.15
"""Speech goes on while the probability is at most this much below the threshold (Silero VAD's own choice). This does
not hold in noise, where the probability falls slowly. With it, a turn would end up to 0.1 s later there."""


class Loudness:
    """How loud speech and background are, so that a model's slowness can be told from speech.

    A speech model needs one to three windows to notice that speech has begun. In noise it needs two to four to notice
    that speech has ended. Sound as quiet as the background does not count as speech, whatever the model says.

    Both levels are running means over windows that the model has judged. The threshold between them is a quarter of the
    way up, because syllables and final consonants are that much weaker than the mean. It is at most `BAR` dB up. If
    speech is less than `LEAST` dB above the background, the level cannot tell them apart, and the model alone decides.
    """

    BAR = 8.0
    LEAST = 6.0
    NOISY = 15.0
    """If speech is less than this many dB above the background, the background counts as noise."""
    _SLOWNESS = 0.1  # of the running means: a third of a second

    def __init__(self) -> None:
        self._background: float | None = None
        self._speech: float | None = None

    def hear(self, level: float, *, is_speech: bool) -> None:
        """Take in the level of a window (dBFS), and whether the model calls it speech."""
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
"""Windows before the model notices speech that count as speech, too, if they stand out. Silero VAD takes at most this
many (96 ms) to notice a clear voice.
"""


EAGER = 2
"""Windows of silence (64 ms) after which an eager tracker tells `SpeechEnded`. Over 24 utterances of the test corpus,
one window would be sooner by 36 ms. But it also takes the gaps inside of words for ends: 4.0 a turn instead of 2.4.
"""


@dataclass(slots=True)
class _Thresholds:
    speech: float
    windows_to_start: int
    level: float


class PauseTracker:
    """Decides from speech probabilities. Pure: its only clock is the windows it was given.

    Times are counted in whole windows. Thresholds of speech are rounded to the nearest number of windows. The pause is
    rounded down, because a window is only judged when it has passed.

    Args:
        options: The thresholds.
        window: Seconds that one probability stands for.
        threshold: A window with at least this probability is speech.
        min_speech: The least seconds of speech that start a turn.
        eager: Tell `SpeechEnded` after `EAGER` windows of silence, for replies that begin before the pause is over.

    Attributes:
        loudness: What it knows of the levels.
    """

    def __init__(
        self,
        options: AlgoOptions,
        *,
        window: float,
        threshold: float = 0.5,
        min_speech: float = 0.0,
        eager: bool = False,
    ) -> None:
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
        self._eager = eager
        self._silence = min(self._blip, EAGER) if eager else self._blip
        looked_at = max(self._windows(options.audio_chunk_duration), self._quiet.windows_to_start)
        self._pause = max(1, int(options.pause / window + 1e-6))
        self._max = options.max_continuous_speech_s
        self._start_within = max(looked_at, self._talking.windows_to_start)
        self._recent: deque[bool] = deque(maxlen=max(self._start_within, self._pause + self._blip))
        self._now = 0
        self.loudness: Loudness = Loudness()
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
        """Seconds of speech that do not keep a turn open."""
        return self._blip * self.window

    @property
    def in_turn(self) -> bool:
        """Whether somebody has started to talk and not finished."""
        return self._began is not None

    @property
    def speech_lately(self) -> bool:
        """Whether there was speech within the last windows that count (the length of a chunk, or of the pause)."""
        return self._now - self._last_speech < (self._recent.maxlen or 0) and self._last_speech > 0

    def patience(self, *, loud: bool = False) -> int:
        """Windows from now to the first at which an event is possible, whatever they hold: at least 1.

        Nothing is lost by waiting for that number of windows and judging them together, which is cheaper.

        Args:
            loud: The windows will be louder than the background, so speech probably goes on. If it does not,
                `SpeechEnded` may be late by that number of windows. `TurnEnded` is never late.
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
        elif self._eager or not loud:
            waits.append(self._silence - (self._now - self._last_speech))
        return max(1, min(waits))

    def reset(self) -> None:
        """Forget the turn under way; media time goes on."""
        self._clear()

    def pass_over(self, windows: int) -> None:
        """Count windows that were not judged."""
        self._now += windows

    def step(
        self, probability: float, level: float | None = None, *, bot_speaking: bool = False
    ) -> list[DetectorEvent]:
        """Take the next window.

        Args:
            probability: Of speech in it.
            level: Its RMS in dBFS. None if unknown; then the model alone decides.
            bot_speaking: The peer hears the bot now.
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
        if self._talking_now and silent >= self._silence:
            self._talking_now = False
            events.append(SpeechEnded(self._last_speech * self.window, min(1.0, silent / self._pause)))
        elif not self._talking_now and sum(list(self._recent)[-self._blip :]) == self._blip:
            self._talking_now = True
            events.append(SpeechStarted((self._now - self._blip) * self.window))
        if too_long := self._too_long():
            return events + too_long
        # A blip within the pause (fewer than `blip` windows of speech) must not begin the pause again.
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
