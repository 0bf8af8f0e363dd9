"""Who is talking: turn detection as arithmetic over media time.

    frames → (resample to 16 kHz, windows) → speech probability of each window → PauseTracker → events

`PauseTracker` decides; it has no clock, its time is the audio it was shown. `VoiceTurns` is the `TurnDetector` made of
it and a streaming model; `ChunkTurns` is the one for models that judge a whole chunk, as FastRTC's do.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.convert import int16_to_float32, to_channels
from ...media.decimate import Decimator
from ...media.resample import Converter, check_sample_rate
from .options import AlgoOptions, SileroVadOptions
from .vad import VAD_RATE, ModelOptions, PauseDetectionModel, VadStream, batched

HYSTERESIS = 0.15
"""What was speech stays speech down to this much below the threshold (Silero VAD's own choice)."""


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
        probability: That the turn is over with it, as far as the detector can tell by now. One that only knows
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


class TurnDetector(Protocol):
    """Hears one side of one conversation and says whose turn it is. One instance serves one connection.

    Media time counts the seconds of audio (and of `silence`) since the beginning; `reset` does not set it back. Events
    come in the order SpeechStarted, SpeechEnded, …, TurnEnded; within a turn the first two alternate.

    Attributes:
        blocking: The next `feed` takes longer than a millisecond or two: it is called in a worker thread.
    """

    @property
    def blocking(self) -> bool: ...

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool) -> list[DetectorEvent]:
        """Hear some more.

        Args:
            samples: int16, shape (channels, n), any n.
            sample_rate: Hz; the same throughout.
            bot_speaking: The bot is being heard, or will be in a moment: be harder to convince.
        """

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """The peer has sent nothing for so long: it counts as silence."""

    def reset(self) -> None:
        """Forget the turn that is under way."""


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
        threshold = limits.speech - HYSTERESIS if self._is_speech else limits.speech
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
        assert self._began is not None
        if self.now - self._began < self._max:
            return []
        return [self._end(TurnEnd.TOO_LONG)]

    def _end(self, reason: TurnEnd) -> TurnEnded:
        ended = TurnEnded(self.now, self._last_speech * self.window, self._speech_windows * self.window, reason)
        self._clear()
        return ended


DOZE = 3.0
"""dB above the background below which nobody has begun to speak, so that the model need not be asked: at a signal to
noise ratio of 0 dB that is what a mean syllable adds, and the loudest of them add twice as much."""

AWAKE = 8
"""Windows for which the model goes on listening after the last that stood out: a quarter of a second."""

WARM_UP = 4
"""Windows before the one that wakes it which the model is given, too, to have something to compare with."""


class VoiceTurns:
    """The usual `TurnDetector`: a streaming model's probabilities, and pauses.

    Args:
        vad: The model, with the state of this one connection.
        options: When to decide what.
        vad_options: The model's threshold and least speech; None for 0.5 and what `options` say.
    """

    blocking = False

    def __init__(
        self, vad: VadStream, options: AlgoOptions | None = None, vad_options: SileroVadOptions | None = None
    ) -> None:
        self._vad = batched(vad)
        self._tracker = PauseTracker(
            options or AlgoOptions(),
            window=vad.window_size / VAD_RATE,
            threshold=0.5 if vad_options is None else vad_options.threshold,
            min_speech=0.0 if vad_options is None else vad_options.min_speech_duration_ms / 1000,
        )
        self._converter: Converter | Decimator = Converter(AudioFormat(VAD_RATE))
        self._fed: list[NDArray[np.int16]] = []  # not converted yet: mono, all of one rate
        self._fed_rate, self._fed_size = VAD_RATE, 0
        self._quiet_since = 0  # samples of them, until the last that was loud
        self._rest = np.empty(0, np.float32)  # not judged yet
        self._awake = AWAKE
        self._dozed = np.empty((0, vad.window_size), np.float32)
        self._wait()

    @property
    def tracker(self) -> PauseTracker:
        """The deciding part."""
        return self._tracker

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Hear some more; see `TurnDetector`."""
        if sample_rate != self._fed_rate:
            self._change_rate(sample_rate)
        self._fed.append(to_channels(samples, 1).copy())
        self._fed_size += samples.shape[1]
        waiting = self._fed_size / sample_rate + self._rest.size / VAD_RATE
        if waiting < self._soon or (waiting < self._late and self._goes_on()):
            return []
        self._convert()
        return self._judge(bot_speaking=bot_speaking)

    def _change_rate(self, sample_rate: int) -> None:
        self._convert()
        self._fed_rate = check_sample_rate(sample_rate)
        factor, odd = divmod(sample_rate, VAD_RATE)
        self._converter = Converter(AudioFormat(VAD_RATE)) if odd or factor < 2 else Decimator(factor)

    def _goes_on(self) -> bool:
        """Whether there is no sign in what was fed last that the speech has ended."""
        level = level_dbfs(int16_to_float32(self._fed[-1][0]))
        if self._tracker.loudness.stands_out(level):
            self._quiet_since = self._fed_size
        return (self._fed_size - self._quiet_since) / self._fed_rate < self._tracker.blip - self._tracker.window

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`."""
        self._convert()
        self._rest = np.concatenate([self._rest, np.zeros(round(seconds * VAD_RATE), np.float32)])
        return self._judge(bot_speaking=False)

    def reset(self) -> None:
        """Forget the turn under way, keep the model's ear."""
        self._convert()
        self._soon = 0.0
        self._judge(bot_speaking=False)
        self._tracker.reset()
        self._wait()

    def _wait(self) -> None:
        """Find out how many seconds may be judged together."""
        tracker = self._tracker
        self._soon = tracker.patience() * tracker.window
        self._late = tracker.patience(loud=True) * tracker.window

    def _convert(self) -> None:
        if self._fed:
            fed = np.concatenate(self._fed, axis=1)
            self._fed, self._fed_size, self._quiet_since = [], 0, 0
            if isinstance(self._converter, Decimator):
                heard = self._converter.feed(fed[0])
            else:
                heard = int16_to_float32(self._converter.feed(fed, self._fed_rate)[0])
            self._rest = np.concatenate([self._rest, heard])

    def _judge(self, *, bot_speaking: bool) -> list[DetectorEvent]:
        """Show the model and the tracker what has come, as much at a time as the tracker's patience allows."""
        size, window = self._vad.window_size, self._tracker.window
        events: list[DetectorEvent] = []
        while (n := self._rest.size // size) and n * window > self._soon - window / 2:
            n = min(n, round(self._late / window))
            windows = self._rest[: n * size].reshape(n, size)
            self._rest = self._rest[n * size :]
            levels = [level_dbfs(window) for window in windows]
            for probability, level in zip(self._probabilities(windows, levels), levels, strict=True):
                events += self._tracker.step(probability, level, bot_speaking=bot_speaking)
            self._wait()
        return events

    def _probabilities(self, windows: NDArray[np.float32], levels: list[float]) -> list[float]:
        """The model's answers; without asking it where nothing stands out from the background, and no one speaks."""
        tracker, level = self._tracker, max(levels)
        hard_to_tell = tracker.loudness.stands_out(level) is None and (tracker.in_turn or tracker.speech_lately)
        if hard_to_tell or tracker.loudness.rises(level, DOZE):
            self._awake = AWAKE
        elif self._awake > 0:
            self._awake -= len(windows)
        else:
            self._dozed = np.concatenate([self._dozed, windows])[-WARM_UP:]
            return [0.0] * len(windows)
        if self._dozed.size:
            self._vad.reset()
            self._vad.many(self._dozed)
            self._dozed = self._dozed[:0]
        return self._vad.many(windows)


class ChunkTurns:
    """A `TurnDetector` around a model that judges a chunk at a time, exactly as FastRTC calls it.

    It hears a chunk of `AlgoOptions.audio_chunk_duration` once it is full: what it says is that much later than what
    `VoiceTurns` says.

    Args:
        model: Its ``vad(audio, options)`` gives the seconds of speech in a chunk; called in a worker thread.
        options: When to decide what.
        model_options: Handed to the model as they are.
    """

    def __init__(
        self, model: PauseDetectionModel, options: AlgoOptions | None = None, model_options: ModelOptions = None
    ) -> None:
        self._model, self._options, self._model_options = model, options or AlgoOptions(), model_options
        self._chunk: list[NDArray[np.int16]] = []
        self._chunk_size = self._frame_size = 0
        self._wanted = 0.0  # samples in a chunk
        self._now = 0.0
        self._clear()

    def _clear(self) -> None:
        self._began: float | None = None
        self._last_speech = self._speech = 0.0

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Hear some more; see `TurnDetector`. What the model raises is raised here, and its chunk is forgotten."""
        mono = to_channels(samples, 1)[0]
        self._chunk.append(mono)
        self._chunk_size += mono.size
        self._frame_size, self._wanted = mono.size, self._options.audio_chunk_duration * sample_rate
        if self._chunk_size < self._wanted:
            return []
        chunk = np.concatenate(self._chunk)
        began, self._now = self._now, self._now + chunk.size / sample_rate
        self._chunk, self._chunk_size = [], 0
        speech = float(self._model.vad((sample_rate, chunk), self._model_options)[0])
        return self._judge(min(speech, self._now - began), began, bot_speaking=bot_speaking)

    @property
    def blocking(self) -> bool:
        """Whether the next frame, if it is as long as the last, makes a chunk full."""
        return self._chunk_size + self._frame_size >= self._wanted

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`."""
        began, self._now = self._now, self._now + seconds
        if seconds < self._options.audio_chunk_duration:
            return []
        return self._judge(0.0, began, bot_speaking=False)

    def _judge(self, speech: float, began: float, *, bot_speaking: bool) -> list[DetectorEvent]:
        options, events = self._options, list[DetectorEvent]()
        least = options.started_talking_threshold
        if bot_speaking and options.interrupt_threshold is not None:
            least = options.interrupt_threshold
        if self._began is None and speech > least:
            self._began = began
            events.append(SpeechStarted(began))
        if self._began is None:
            return events
        self._speech += speech
        if speech >= options.speech_threshold:
            self._last_speech = self._now
        if self._now - self._began >= options.max_continuous_speech_s:
            events.append(TurnEnded(self._now, self._last_speech, self._speech, TurnEnd.TOO_LONG))
            self._clear()
        elif speech < options.speech_threshold:
            events += [
                SpeechEnded(self._last_speech, 1.0),
                TurnEnded(self._now, self._last_speech, self._speech, TurnEnd.PAUSE),
            ]
            self._clear()
        return events

    def reset(self) -> None:
        """Forget the turn under way."""
        self._clear()
        self._chunk, self._chunk_size = [], 0


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """RMS of float32 samples in [-1, 1], in dB; 0 is a full-scale square wave, -100 the least."""
    return 10 * math.log10(max(float(np.dot(samples, samples)) / max(samples.size, 1), 1e-10))
