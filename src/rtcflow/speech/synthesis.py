"""Text to speech: Kokoro and Cartesia if they are there, espeak-ng otherwise.

A model is one method, `_speak(sentence, options)`. Streams are made sentence by sentence. So the first sentence is
heard while the second is computed, and an interrupted reply computes at most one sentence too many.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from ..client.webrtc import import_httpx2
from .espeak import WORDS_A_MINUTE, find_speaker
from .options import (
    CartesiaTTSOptions,
    EspeakTTSOptions,
    KokoroTTSOptions,
    TTSModel,
    TTSOptions,
    mono_float32,
    sentences,
    warn_if_in_loop,
)

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
Spoken: TypeAlias = tuple[int, NDArray[np.float32] | NDArray[np.int16]]

RATE: Final = 24_000
"""Hz of what Kokoro speaks, and of what stands in for it."""

PAUSE: Final = 0.15
"""Seconds of silence between two sentences of a stream."""

TIMEOUT: Final = 30.0
"""Seconds that Cartesia may take for a sentence."""


class _Synthesizer(ABC):
    """The three methods of `TTSModel`, made from one method."""

    @abstractmethod
    def _speak(self, text: str, options: Any) -> Spoken: ...

    def tts(self, text: str, options: Any = None) -> Spoken:
        """Speak `text`: ``(sample_rate, samples)``, shape (n,). In the calling thread.

        The samples are float32 in [-1, 1]; those of Cartesia are int16, as they come, and as in FastRTC.
        """
        warn_if_in_loop(f"{type(self).__name__}.tts", "audio = await rtcflow.speech.synthesize(model, text)")
        return self._speak(text, options)

    def stream_tts_sync(self, text: str, options: Any = None) -> Iterator[Spoken]:
        """Speak `text`, one sentence after the other. In the calling thread."""
        warn_if_in_loop(f"{type(self).__name__}.stream_tts_sync", "async for chunk in model.stream_tts(text)")
        for index, sentence in enumerate(sentences(text)):
            rate, samples = self._speak(sentence, options)
            if index:
                yield rate, np.zeros(round(PAUSE * rate), samples.dtype)
            yield rate, samples

    async def stream_tts(self, text: str, options: Any = None) -> AsyncIterator[Spoken]:
        """Speak `text`, one sentence after the other, each in a worker thread.

        Cancelling returns at once; the sentence under way is computed to its end and dropped.
        """
        for index, sentence in enumerate(sentences(text)):
            rate, samples = await anyio.to_thread.run_sync(self._speak, sentence, options, abandon_on_cancel=True)
            if index:
                yield rate, np.zeros(round(PAUSE * rate), samples.dtype)
            yield rate, samples


async def synthesize(
    model: TTSModel[T], text: str, options: T | None = None
) -> tuple[int, NDArray[np.float32] | NDArray[np.int16]]:
    """Speak `text`, for async code: ``model.tts(text, options)`` in a worker thread. A checkpoint.

    Cancelling returns at once; the model computes on to its end, and the audio is dropped. `TTSModel.stream_tts` gives
    the first sentence sooner.

    Args:
        model: The synthesizer; one of your own, too.
        text: What to say.
        options: The model's options.

    Returns:
        ``(sample_rate, samples)``, samples of shape (n,): float32 in [-1, 1], or int16.
    """
    return await anyio.to_thread.run_sync(model.tts, text, options, abandon_on_cancel=True)


class KokoroTTS(_Synthesizer):
    """Kokoro, by the package `kokoro-onnx`.

    Args:
        model_path: The file with the model; None downloads ``kokoro-v1.0.onnx`` with `huggingface_hub`.
        voices_path: The file with the voices; None downloads ``voices-v1.0.bin``.

    Raises:
        ImportError: A package is not installed.
    """

    def __init__(self, model_path: str | None = None, voices_path: str | None = None) -> None:
        if importlib.util.find_spec("kokoro_onnx") is None:
            raise ImportError("Kokoro needs kokoro-onnx; install it, or use model='espeak'")
        import kokoro_onnx  # pyright: ignore[reportMissingImports]

        self.model: Any = kokoro_onnx.Kokoro(
            model_path or _download("kokoro-v1.0.onnx"), voices_path or _download("voices-v1.0.bin")
        )

    def _speak(self, text: str, options: KokoroTTSOptions | None) -> Spoken:
        options = options or KokoroTTSOptions()
        samples, rate = self.model.create(text, voice=options.voice, speed=options.speed, lang=options.lang)
        return int(rate), np.asarray(samples, np.float32).reshape(-1)


def _download(name: str) -> str:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ImportError(
            f"Kokoro's {name} is downloaded with huggingface_hub, which is not installed; install it, or write: "
            "get_tts_model('kokoro', model_path=..., voices_path=...)"
        )
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportMissingImports]

    return str(hf_hub_download("fastrtc/kokoro-onnx", name))


class CartesiaTTS(_Synthesizer):
    """Cartesia's service, over HTTP (extra ``rtcflow[client]``).

    Args:
        api_key: The key; None or "" takes ``CARTESIA_API_KEY`` from the environment.
        client: An `httpx2.Client` of yours, which you close yourself; None opens one for each sentence.

    Raises:
        ValueError: There is no key.
        ModuleNotFoundError: The extra is not installed.
    """

    URL: Final = "https://api.cartesia.ai/tts/bytes"

    def __init__(self, api_key: str | None = None, *, client: httpx2.Client | None = None) -> None:
        self._key = (api_key or os.environ.get("CARTESIA_API_KEY", "")).strip()
        if not self._key:
            raise ValueError("no key for Cartesia; give cartesia_api_key=... or set CARTESIA_API_KEY")
        import_httpx2()
        self._client = client

    def _speak(self, text: str, options: CartesiaTTSOptions | None) -> Spoken:
        options = options or CartesiaTTSOptions()
        voice: dict[str, Any] = {"mode": "id", "id": options.voice}
        if options.emotion:
            voice["__experimental_controls"] = {"emotion": options.emotion}
        wanted = {
            "model_id": options.model,
            "transcript": text,
            "voice": voice,
            "language": options.language,
            "output_format": {"container": "raw", "sample_rate": options.sample_rate, "encoding": "pcm_s16le"},
        }
        headers = {"X-API-Key": self._key, "Cartesia-Version": options.cartesia_version}
        if self._client is not None:
            response = self._client.post(self.URL, json=wanted, headers=headers)
        else:
            with import_httpx2().Client(timeout=TIMEOUT) as client:
                response = client.post(self.URL, json=wanted, headers=headers)
        if not response.is_success:
            raise ConnectionError(f"Cartesia spoke nothing (HTTP {response.status_code})")
        content = response.content
        return options.sample_rate, np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype(np.int16)


class EspeakTTS(_Synthesizer):
    """espeak-ng, found as a program or a library. It needs no network, is quick, and sounds like a robot.

    It takes the options of the other models, too: their language and speed count, their voice does not.

    Args:
        sample_rate: Hz of what comes back, unless the options are `CartesiaTTSOptions`, which have their own.

    Raises:
        ImportError: espeak-ng was not found.
    """

    def __init__(self, sample_rate: int = RATE) -> None:
        self._speaker = find_speaker()
        self._rate = sample_rate

    def _speak(self, text: str, options: TTSOptions | None) -> Spoken:
        voice, speed, rate = "en-us", 1.0, self._rate
        match options:
            case None:
                pass
            case EspeakTTSOptions():
                voice, speed = options.voice, options.speed
            case KokoroTTSOptions():
                voice, speed = options.lang, options.speed
            case CartesiaTTSOptions():
                voice, rate = options.language, options.sample_rate
            case _:
                raise TypeError(f"options is a {type(options).__name__}; expected EspeakTTSOptions")
        spoken = self._speaker.say(text, voice, round(WORDS_A_MINUTE * speed))
        return rate, mono_float32(spoken, rate)


@lru_cache
def get_tts_model(model: Literal["kokoro", "cartesia", "espeak"] = "kokoro", **options: Any) -> TTSModel[Any]:
    """A speech synthesizer, loaded once in this process for each set of arguments.

    If the model that is asked for cannot be loaded, espeak-ng takes its place, and one warning says so.

    Args:
        model: The name.
        **options: For ``"cartesia"``: ``cartesia_api_key``. For ``"kokoro"``: ``model_path`` and ``voices_path``. For
            ``"espeak"``: ``sample_rate``.

    Raises:
        ValueError: There is no model of this name.
        ImportError: Neither the model nor espeak-ng is installed.
    """
    if model not in {"kokoro", "cartesia", "espeak"}:
        raise ValueError(f"model={model!r}; expected 'kokoro', 'cartesia' or 'espeak'")
    if model == "espeak":
        return EspeakTTS(**options)
    loaded: TTSModel[Any]
    try:
        if model == "cartesia":
            loaded = CartesiaTTS(options.get("cartesia_api_key"))
        else:
            loaded = KokoroTTS(**options)
            loaded.tts("Hello.")
    except Exception as error:  # noqa: BLE001  foreign packages raise anything while they load or download
        try:
            offline = EspeakTTS()
        except ImportError as missing:
            raise ImportError(f"no speech synthesizer: {error}; {missing}") from error
        warnings.warn(f"espeak-ng stands in for {model}: {error}", UserWarning, stacklevel=2)
        return offline
    return loaded
