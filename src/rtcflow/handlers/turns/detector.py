"""Turn detection as arithmetic over media time: whose turn is it?

    frames → (resample to 16 kHz, windows) → speech probability of each window → PauseTracker → events

`PauseTracker` decides. It has no clock; its time is the audio it was given. `VoiceTurns` joins it to a streaming model.
`ChunkTurns` is for models that judge a whole chunk, as FastRTC's do.

A model costs far more than all else here, so `VoiceTurns` asks it rarely and for many windows together. The invariant:
this must never delay `SpeechStarted` or `TurnEnded`. `PauseTracker.patience` says how many windows may come before an
event is possible, and no batch is larger. In silence the model is not asked at all.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.convert import int16_to_float32, to_channels
from ...media.decimate import Decimator
from ...media.resample import Converter, check_sample_rate
from .events import DetectorEvent, SpeechEnded, SpeechStarted, TurnEnd, TurnEnded
from .options import AlgoOptions, SileroVadOptions
from .pauses import PauseTracker
from .vad import VAD_RATE, ModelOptions, PauseDetectionModel, VadStream, batched


class TurnDetector(Protocol):
    """Takes the audio of one side of a conversation and says whose turn it is. One instance serves one connection.

    Media time counts the seconds of audio (and of `silence`) since the beginning; `reset` does not set it back. Events
    come in the order SpeechStarted, SpeechEnded, …, TurnEnded; within a turn the first two alternate.

    Its methods are called one after the other, never two at once.

    Attributes:
        blocking: Whether the next call takes longer than a millisecond or two. If so, a worker thread calls `feed`,
            `silence` and `reset`. Read before each call; it may change.
    """

    @property
    def blocking(self) -> bool: ...

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool) -> list[DetectorEvent]:
        """Take the next audio.

        Args:
            samples: int16, shape (channels, n), any n.
            sample_rate: Hz; the same throughout.
            bot_speaking: The peer hears the bot, or will in a moment, so the limits for interrupting hold.
        """

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count `seconds` without audio from the peer as silence."""

    def reset(self) -> None:
        """Forget the turn that is under way."""


DOZE = 3.0
"""Below this many dB above the background nobody has begun to speak, so the model is not asked. At a signal to noise
ratio of 0 dB an average syllable adds this much, and the loudest syllables add twice as much.
"""

AWAKE = 8
"""Windows for which the model is still asked after the last one that stood out: a quarter of a second."""

WARM_UP = 4
"""Windows that the model gets again, from before the one that stood out, so that it can compare."""


class VoiceTurns:
    """The usual `TurnDetector`: a streaming model's probabilities, and pauses.

    Args:
        vad: The model, with the state of this one connection.
        options: When a turn begins, ends and may interrupt.
        vad_options: The model's threshold and least speech. None means 0.5 and what `options` say.
        blocking: Whether the model takes more than a few milliseconds for half a second of audio. Then it must not run
            in the event loop.
        eager: Tell `SpeechEnded` 0.1 s into the silence instead of 0.17 s. This costs more calls of the model while
            somebody speaks. `ReplyOnPause` with ``speculative=True`` wants it.
    """

    def __init__(
        self,
        vad: VadStream,
        options: AlgoOptions | None = None,
        vad_options: SileroVadOptions | None = None,
        *,
        blocking: bool = False,
        eager: bool = False,
    ) -> None:
        self.blocking = blocking
        self._vad = batched(vad)
        self._tracker = PauseTracker(
            options or AlgoOptions(),
            window=vad.window_size / VAD_RATE,
            threshold=0.5 if vad_options is None else vad_options.threshold,
            min_speech=0.0 if vad_options is None else vad_options.min_speech_duration_ms / 1000,
            eager=eager,
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
        """The part that decides."""
        return self._tracker

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Take the next audio; see `TurnDetector`."""
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
        """Whether the last audio shows no sign that the speech has ended."""
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
        """Forget the turn under way. The model keeps its state."""
        self._convert()
        n = self._rest.size // self._vad.window_size
        self._rest = self._rest[n * self._vad.window_size :]
        self._tracker.pass_over(n)
        self._tracker.reset()
        self._wait()

    def _wait(self) -> None:
        """Set how many seconds may be judged together."""
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
        """Give the model and the tracker what has come, in batches as large as the tracker's patience allows."""
        size, window = self._vad.window_size, self._tracker.window
        events: list[DetectorEvent] = []
        while (n := self._rest.size // size) and n * window > self._soon - window / 2:
            n = min(n, round(self._late / window))
            windows = self._rest[: n * size].reshape(n, size)
            self._rest = self._rest[n * size :]
            levels = [level_dbfs(window) for window in windows]
            try:
                probabilities = self._probabilities(windows, levels)
            except BaseException:
                self._tracker.pass_over(n)
                raise
            for probability, level in zip(probabilities, levels, strict=True):
                events += self._tracker.step(probability, level, bot_speaking=bot_speaking)
            self._wait()
        return events

    def _probabilities(self, windows: NDArray[np.float32], levels: list[float]) -> list[float]:
        """The model's answers. It is not asked if no sound stands out from the background and nobody speaks."""
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

    The model gets a chunk of `AlgoOptions.audio_chunk_duration` once it is full. So its answers come later than those
    of `VoiceTurns`, by up to a chunk.

    Args:
        model: Its ``vad(audio, options)`` gives the seconds of speech in a chunk; called in a worker thread.
        options: When a turn begins, ends and may interrupt.
        model_options: Handed to the model as they are.
    """

    def __init__(
        self, model: PauseDetectionModel, options: AlgoOptions | None = None, model_options: ModelOptions = None
    ) -> None:
        self._model, self._options, self._model_options = model, options or AlgoOptions(), model_options
        self._chunk: list[NDArray[np.int16]] = []
        self._chunk_size = self._frame_size = 0
        self._rate = VAD_RATE
        self._wanted = 0.0  # samples in a chunk
        self._now = 0.0  # without the chunk that is not full yet
        self._silent = 0.0  # seconds without audio since the last full chunk
        self._clear()

    def _clear(self) -> None:
        self._began: float | None = None
        self._last_speech = self._speech = 0.0

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Take the next audio; see `TurnDetector`. An error of the model is raised here, and its chunk is forgotten."""
        mono = to_channels(samples, 1)[0]
        self._chunk.append(mono)
        self._chunk_size += mono.size
        self._rate, self._frame_size = sample_rate, mono.size
        self._wanted = self._options.audio_chunk_duration * sample_rate
        if self._chunk_size < self._wanted:
            return []
        chunk, began = np.concatenate(self._chunk), self._now
        self._empty()
        speech = float(self._model.vad((sample_rate, chunk), self._model_options)[0])
        return self._judge(min(speech, self._now - began), began, bot_speaking=bot_speaking)

    @property
    def blocking(self) -> bool:
        """Whether the next frame, if it is as long as the last, makes a chunk full."""
        return self._chunk_size + self._frame_size >= self._wanted

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`. As long as a chunk, it is one without speech; it may come in parts."""
        self._now += seconds
        self._silent += seconds
        if self._silent < self._options.audio_chunk_duration:
            return []
        began = self._now - self._silent
        self._empty()  # what has come of a chunk is from before
        return self._judge(0.0, began, bot_speaking=False)

    def _empty(self) -> None:
        """Begin the next chunk. The time of what had come of this one has passed in any case."""
        self._now += self._chunk_size / self._rate
        self._chunk, self._chunk_size, self._silent = [], 0, 0.0

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
        self._empty()


def level_dbfs(samples: NDArray[np.float32]) -> float:
    """RMS of float32 samples in [-1, 1], in dB; 0 is a full-scale square wave, -100 the least."""
    return 10 * math.log10(max(float(np.dot(samples, samples)) / max(samples.size, 1), 1e-10))
