"""The options of turn-taking. Each number is checked when it is set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST = 60.0
"""The longest pause, chunk or least speech, in seconds. So much audio is looked at again for each window."""


@dataclass(frozen=True)
class AlgoOptions:
    """When the user has begun to talk, when the user has finished, and when the user may interrupt.

    The first four have FastRTC's names, defaults and meanings. One thing differs: FastRTC cuts the audio into chunks
    and looks at each chunk once. Here a window of the same length slides along. So a pause is noticed when it is long
    enough, not when the next chunk is full. With a model that judges whole chunks (`PauseDetectionModel`) the options
    mean exactly what they mean in FastRTC.

    Attributes:
        audio_chunk_duration: Seconds of audio looked at for each decision.
        started_talking_threshold: A turn begins when this audio holds at least this many seconds of speech.
        speech_threshold: The turn is over when this audio holds less than this many seconds of speech. So shorter
            blips do not keep a turn open.
        max_continuous_speech_s: A turn that lasts this many seconds is ended, even without a pause.
        pause_duration: Seconds from the end of the speech to the end of the turn. None means
            ``audio_chunk_duration - speech_threshold`` (0.5 s).
        interrupt_threshold: The same as `started_talking_threshold`, while the bot speaks: this many seconds of speech
            interrupt it. None means the same value.
        interrupt_probability: While the bot speaks, sound counts as speech from this probability on. A higher value
            needs clearer speech. None means the model's own threshold.
        interrupt_level_dbfs: While the bot speaks, quieter sound than this (RMS in dB, 0 is a full-scale square wave)
            is not speech. This keeps out the bot's own echo if nothing else cancels it.
    """

    audio_chunk_duration: float = 0.6
    started_talking_threshold: float = 0.2
    speech_threshold: float = 0.1
    max_continuous_speech_s: float = math.inf
    pause_duration: float | None = None
    interrupt_threshold: float | None = None
    interrupt_probability: float | None = None
    interrupt_level_dbfs: float = -math.inf

    def __post_init__(self) -> None:
        _duration("audio_chunk_duration", self.audio_chunk_duration)
        _positive("max_continuous_speech_s", self.max_continuous_speech_s)
        thresholds = ["started_talking_threshold", "speech_threshold"]
        if self.interrupt_threshold is not None:
            thresholds.append("interrupt_threshold")
        for name in thresholds:
            value: Any = getattr(self, name)
            if not (_is_number(value) and 0 <= value < self.audio_chunk_duration):
                raise ValueError(
                    f"{name}={value!r} can never be reached: it counts seconds of speech within "
                    f"audio_chunk_duration={self.audio_chunk_duration!r}; give a value from 0 to below that"
                )
        if self.pause_duration is not None:
            _duration("pause_duration", self.pause_duration)
        _probability("interrupt_probability", self.interrupt_probability)
        if not (_is_number(self.interrupt_level_dbfs) and self.interrupt_level_dbfs <= 0):
            raise ValueError(
                f"interrupt_level_dbfs={self.interrupt_level_dbfs!r}; give dB relative to full scale: 0 or less"
            )

    @property
    def pause(self) -> float:
        """Seconds from the end of the speech to the end of the turn."""
        if self.pause_duration is not None:
            return self.pause_duration
        return self.audio_chunk_duration - self.speech_threshold


@dataclass(frozen=True)
class SileroVadOptions:
    """Options of the speech detection model, with FastRTC's names and defaults.

    Attributes:
        threshold: Audio with at least this probability is speech. Speech goes on down to 0.15 below.
        min_speech_duration_ms: Speech shorter than this never starts a turn. Counts only if you give these options.
        max_speech_duration_s: Only for `SileroVADModel.vad`: speech longer than this is split.
        min_silence_duration_ms: Only for `SileroVADModel.vad`: shorter silence does not split speech in two.
        window_size_samples: Accepted, and not used. The model always takes windows of 512 samples (32 ms).
        speech_pad_ms: How much audio from before the speech the reply function gets with it.
    """

    threshold: float = 0.5
    min_speech_duration_ms: int = 250
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: int = 2000
    window_size_samples: int = 1024
    speech_pad_ms: int = 400

    def __post_init__(self) -> None:
        if self.threshold is None:
            raise ValueError("threshold=None; give a probability between 0 and 1, or leave it out")
        _probability("threshold", self.threshold)
        _positive("max_speech_duration_s", self.max_speech_duration_s)
        for name in ("min_speech_duration_ms", "min_silence_duration_ms", "speech_pad_ms"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= 1000 * LONGEST):
                raise ValueError(f"{name}={value!r}; give milliseconds, from 0 to {1000 * LONGEST:g}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _duration(name: str, value: float) -> None:
    if not (_is_number(value) and 0 < value <= LONGEST):
        raise ValueError(f"{name}={value!r}; give seconds, more than 0 and at most {LONGEST:g}")


def _positive(name: str, value: float) -> None:
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name}={value!r}; give seconds, more than 0")


def _probability(name: str, value: float | None) -> None:
    if value is not None and not (_is_number(value) and 0 < value < 1):
        raise ValueError(f"{name}={value!r}; give a probability between 0 and 1")
