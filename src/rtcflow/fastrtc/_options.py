"""FastRTC's option classes: attributes may be changed before a call, and the classes subclassed as dataclasses.

Each value is checked when the options are made, and once more when a call begins with them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ..handlers.turns import options as checked

T = TypeVar("T")


@dataclass
class AlgoOptions:
    """When somebody has begun to talk, and when they have finished; see `rtcflow.AlgoOptions` for each attribute.

    Raises:
        ValueError: A value is out of range.
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
        algo_options(self)


@dataclass
class SileroVadOptions:
    """Options of Silero VAD; see `rtcflow.turns.SileroVadOptions` for each attribute.

    Raises:
        ValueError: A value is out of range.
    """

    threshold: float = 0.5
    min_speech_duration_ms: int = 250
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: int = 2000
    window_size_samples: int = 1024
    speech_pad_ms: int = 400

    def __post_init__(self) -> None:
        model_options(self)


def algo_options(given: Any) -> Any:
    """The checked, unchangeable form of `given`. Anything but `AlgoOptions` is returned as it is."""
    if not isinstance(given, AlgoOptions):
        return given
    changed = {}
    for name in ("started_talking_threshold", "speech_threshold"):
        chunk = given.audio_chunk_duration
        if getattr(given, name) == chunk:
            changed[name] = 0.9 * chunk  # FastRTC takes it, though no chunk has more speech than it is long
            warnings.warn(
                f"{name}={chunk!r} is all of audio_chunk_duration={chunk!r}; it is taken as {changed[name]:g}, which "
                "speech can reach",
                UserWarning,
                stacklevel=4,
            )
    return _frozen(given, checked.AlgoOptions, **changed)


def model_options(given: Any) -> Any:
    """The checked, unchangeable form of `given`. Anything but `SileroVadOptions` is returned as it is."""
    return _frozen(given, checked.SileroVadOptions) if isinstance(given, SileroVadOptions) else given


def _frozen(given: Any, kind: type[T], **changes: Any) -> T:
    return kind(**({field.name: getattr(given, field.name) for field in fields(kind)} | changes))  # type: ignore[arg-type]
