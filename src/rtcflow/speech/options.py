"""What a speech model is, and the options of the models that FastRTC's users know."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .._core.bridge import current_loop_token
from ..frames import AudioFormat
from ..media.convert import int16_to_float32, to_channels
from ..media.resample import Resampler

Audio: TypeAlias = tuple[int, NDArray[np.int16] | NDArray[np.float32]]
"""``(sample_rate, samples)``: int16, or float32 in [-1, 1]; shape (n,) or (channels, n)."""

_BETWEEN: Final = re.compile(r"(?<=[.!?…।؟۔])\s+|(?<=[。！？｡])\s*(?![。！？｡」』）】”’])")
"""Between two sentences."""

T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class STTModel(Protocol):
    """A speech recognizer. Any object with this method is one."""

    def stt(self, audio: tuple[int, NDArray[np.int16 | np.float32]]) -> str:
        """The words in ``(sample_rate, samples)``: int16, or float32 in [-1, 1], of shape (n,) or (1, n).

        Computes in the calling thread.
        """


@runtime_checkable
class TTSModel(Protocol[T_contra]):
    """A speech synthesizer. Any object with these three methods is one."""

    def tts(self, text: str, options: T_contra | None = None) -> tuple[int, NDArray[np.float32] | NDArray[np.int16]]:
        """Speak `text`: ``(sample_rate, samples)``, samples of shape (n,). Computes in the calling thread."""

    def stream_tts(
        self, text: str, options: T_contra | None = None
    ) -> AsyncIterator[tuple[int, NDArray[np.float32] | NDArray[np.int16]]]:
        """Speak `text` sentence by sentence. Each is computed in a worker thread."""

    def stream_tts_sync(
        self, text: str, options: T_contra | None = None
    ) -> Iterator[tuple[int, NDArray[np.float32] | NDArray[np.int16]]]:
        """Speak `text` sentence by sentence, in the calling thread."""


class TTSOptions:
    """The base of all options for speech synthesis, as in FastRTC."""


@dataclass
class KokoroTTSOptions(TTSOptions):
    """Options of Kokoro, with FastRTC's names and defaults.

    Attributes:
        voice: The name of a Kokoro voice. espeak-ng ignores it.
        speed: How fast; 1 is normal.
        lang: The language, such as ``"en-us"``.
    """

    voice: str = "af_heart"
    speed: float = 1.0
    lang: str = "en-us"


@dataclass
class CartesiaTTSOptions(TTSOptions):
    """Options of Cartesia, with FastRTC's names and defaults.

    Attributes:
        voice: The id of a Cartesia voice. espeak-ng ignores it.
        language: The language, such as ``"en"``.
        emotion: Emotions for the voice, such as ``["positivity:high"]``.
        cartesia_version: The date of Cartesia's API.
        model: The name of Cartesia's model.
        sample_rate: Hz of what comes back.
    """

    voice: str = "71a7ad14-091c-4e8e-a314-022ece01c121"
    language: str = "en"
    emotion: list[str] = field(default_factory=list)
    cartesia_version: str = "2024-06-10"
    model: str = "sonic-2"
    sample_rate: int = 22_050


@dataclass
class EspeakTTSOptions(TTSOptions):
    """Options of espeak-ng.

    Attributes:
        voice: The name of a voice or language: ``espeak-ng --voices`` lists them.
        speed: How fast; 1 is normal (175 words a minute).
    """

    voice: str = "en-us"
    speed: float = 1.0


def sentences(text: str) -> list[str]:
    """The sentences of `text`, without the blanks between them. East Asian stops end a sentence without a blank.

    >>> sentences("Hello. How are you?  Fine ")
    ['Hello.', 'How are you?', 'Fine']
    >>> sentences("晴れです。散歩に行きますか？")
    ['晴れです。', '散歩に行きますか？']
    """
    return [part for part in re.split(_BETWEEN, text.strip()) if part]


def mono_float32(audio: Any, sample_rate: int) -> NDArray[np.float32]:
    """`audio` as float32 samples in [-1, 1], shape (n,), at `sample_rate` Hz.

    Raises:
        TypeError: It is not a tuple ``(sample_rate, samples)``.
    """
    if not (isinstance(audio, tuple) and len(audio) == 2):
        raise TypeError(f"audio is a {type(audio).__name__}; expected a tuple (sample_rate, samples)")
    rate, samples = audio
    samples = np.atleast_2d(np.asarray(samples))
    if samples.dtype != np.int16:
        samples = np.round(np.clip(samples.astype(np.float32), -1, 1) * 32767).astype(np.int16)
    if rate == sample_rate:
        return int16_to_float32(to_channels(samples, 1)[0])
    resampler = Resampler(AudioFormat(int(rate)), AudioFormat(sample_rate))
    return int16_to_float32(np.concatenate([resampler.feed(samples), resampler.flush()], axis=1)[0])


def warn_if_in_loop(what: str, instead: str) -> None:
    """Warn that a model computes in the thread of an event loop, which serves nobody else meanwhile."""
    try:
        current_loop_token()
    except RuntimeError:  # no event loop runs in this thread
        return
    warnings.warn(
        f"{what} computes in the event loop's thread and stops all calls meanwhile; write: {instead}",
        RuntimeWarning,
        stacklevel=3,
    )
