"""Speech to text: Moonshine if it is installed, Pocketsphinx otherwise."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from ..handlers.turns.vad import VAD_RATE, AudioChunk
from .options import STTModel, mono_float32, warn_if_in_loop

_INSTEAD: Final = "text = await rtcflow.speech.transcribe(model, audio)"
LEAST: Final = 0.1
"""Seconds of audio that Moonshine needs at least; less is filled up with silence."""


class MoonshineSTT:
    """Moonshine, by the package `fastrtc-moonshine-onnx`. The first use downloads the model.

    Args:
        model: ``"moonshine/base"`` or ``"moonshine/tiny"``.

    Raises:
        ImportError: The package is not installed.
    """

    def __init__(self, model: Literal["moonshine/base", "moonshine/tiny"] = "moonshine/base") -> None:
        if importlib.util.find_spec("moonshine_onnx") is None:
            raise ImportError(
                "Moonshine needs fastrtc-moonshine-onnx; install it, or use get_stt_model('pocketsphinx')"
            )
        import moonshine_onnx  # pyright: ignore[reportMissingImports]

        self.model: Any = moonshine_onnx.MoonshineOnnxModel(model_name=model)
        self.tokenizer: Any = moonshine_onnx.load_tokenizer()

    def stt(self, audio: tuple[int, NDArray[np.int16 | np.float32]]) -> str:
        """The words in `audio`; see `STTModel`."""
        warn_if_in_loop("MoonshineSTT.stt", _INSTEAD)
        samples = mono_float32(audio, VAD_RATE)
        missing = round(LEAST * VAD_RATE) - samples.size
        samples = np.pad(samples, (0, max(missing, 0)))
        return str(self.tokenizer.decode_batch(self.model.generate(samples[np.newaxis]))[0])


class PocketsphinxSTT:
    """Pocketsphinx with its American English model, which is part of its package (extra ``rtcflow[stt]``).

    Needs no download and no network. It is far less accurate than Moonshine: use it for commands, tests and machines
    without a network. One second of speech takes about 0.3 s. One model serves one call at a time; others wait.

    Raises:
        ImportError: The extra is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("pocketsphinx") is None:
            raise ImportError("PocketsphinxSTT needs pocketsphinx; install rtcflow[stt]")
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(samprate=VAD_RATE, loglevel="FATAL")
        self._lock = threading.Lock()

    def stt(self, audio: tuple[int, NDArray[np.int16 | np.float32]]) -> str:
        """The words in `audio`, in lower case without punctuation; see `STTModel`."""
        warn_if_in_loop("PocketsphinxSTT.stt", _INSTEAD)
        samples = (mono_float32(audio, VAD_RATE) * 32767).astype(np.int16)
        if not samples.size:
            return ""
        with self._lock:
            self._decoder.start_utt()
            try:
                self._decoder.process_raw(samples.tobytes(), full_utt=True)
            finally:
                self._decoder.end_utt()
            found = self._decoder.hyp()
            return "" if found is None else str(found.hypstr)


@lru_cache
def get_stt_model(
    model: Literal["moonshine/base", "moonshine/tiny", "pocketsphinx"] = "moonshine/base",
) -> STTModel:
    """A speech recognizer, loaded once in this process.

    If Moonshine is asked for and cannot be loaded, Pocketsphinx takes its place, and one warning says so.

    Args:
        model: The name.

    Raises:
        ValueError: There is no model of this name.
        ImportError: Neither the model nor Pocketsphinx is installed.
    """
    if model == "pocketsphinx":
        return PocketsphinxSTT()
    if model not in {"moonshine/base", "moonshine/tiny"}:
        raise ValueError(f"model={model!r}; expected 'moonshine/base', 'moonshine/tiny' or 'pocketsphinx'")
    try:
        moonshine = MoonshineSTT(model)
        moonshine.stt((VAD_RATE, np.zeros(VAD_RATE, np.float32)))
    except Exception as error:  # noqa: BLE001  foreign packages raise anything while they load or download
        try:
            offline = PocketsphinxSTT()
        except ImportError:
            raise ImportError(f"no speech recognizer: {error}; or install rtcflow[stt] for Pocketsphinx") from error
        warnings.warn(f"Pocketsphinx stands in for {model}: {error}", UserWarning, stacklevel=2)
        return offline
    return moonshine


async def transcribe(model: STTModel, audio: tuple[int, NDArray[np.int16 | np.float32]]) -> str:
    """The words in `audio`, for async code: ``model.stt(audio)`` in a worker thread. A checkpoint.

    Cancelling returns at once; the model computes on to its end, and the words are dropped.

    Args:
        model: The recognizer; one of your own, too.
        audio: ``(sample_rate, samples)``: int16, or float32 in [-1, 1], of shape (n,) or (1, n).
    """
    return await anyio.to_thread.run_sync(model.stt, audio, abandon_on_cancel=True)


def stt_for_chunks(
    stt_model: STTModel, audio: tuple[int, NDArray[np.int16 | np.float32]], chunks: Sequence[AudioChunk]
) -> str:
    """The words in the given stretches of `audio`, joined by blanks: one call of the model for each.

    Args:
        stt_model: The recognizer.
        audio: ``(sample_rate, samples)``, samples of shape (n,).
        chunks: Where there is speech, in samples, as `PauseDetectionModel.vad` returns it.
    """
    rate, samples = audio
    return " ".join(stt_model.stt((rate, samples[chunk["start"] : chunk["end"]])) for chunk in chunks)
