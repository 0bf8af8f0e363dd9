"""How turns are told apart: every number a user may set, checked when it is set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST = 60.0
"""Seconds that a pause, a chunk or the least speech may last at most: so much is looked at again and again."""


@dataclass(frozen=True)
class AlgoOptions:
    """When somebody has begun to talk, when he has finished, and when he may interrupt.

    The first four have FastRTC's names and defaults, and mean the same, looked at without a break: FastRTC cuts the
    audio into chunks and looks at each once; here a window of the same length slides along, so a pause is noticed when
    it is long enough and not when the next chunk is full. With a model that judges whole chunks (`PauseDetectionModel`)
    they mean exactly what they mean there.

    Attributes:
        audio_chunk_duration: Seconds of audio looked at for each decision.
        started_talking_threshold: This many seconds of speech among them: the user has started to talk.
        speech_threshold: Less than this many seconds of speech among them, after he has started: he has finished. So
            shorter blips do not keep a turn open.
        max_continuous_speech_s: A turn that lasts this many seconds is ended, pause or not.
        pause_duration: Seconds from the end of the speech to the end of the turn. None: what follows from the above,
            ``audio_chunk_duration - speech_threshold`` (0.5 s).
        interrupt_threshold: `started_talking_threshold` while the bot speaks: this many seconds of speech interrupt it.
            None: the same.
        interrupt_probability: From which speech probability on the model's answer counts as speech while the bot
            speaks; higher is deafer. None: the model's own threshold.
        interrupt_level_dbfs: While the bot speaks, what is quieter than this (RMS in dB, 0 is a full-scale square
            wave) is not speech: keeps out the bot's own echo where nothing else cancels it.
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
        threshold: From this speech probability on, audio is speech. Once it is, it stays so down to 0.15 below.
        min_speech_duration_ms: Speech shorter than this never starts a turn, if these options are given at all.
        max_speech_duration_s: Only for `SileroVADModel.vad`: speech longer than this is split.
        min_silence_duration_ms: Only for `SileroVADModel.vad`: shorter silence does not split speech in two.
        window_size_samples: Taken and not used: the model hears windows of 512 samples (32 ms), always.
        speech_pad_ms: How much of what came before the speech is given to the reply function with it.
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
