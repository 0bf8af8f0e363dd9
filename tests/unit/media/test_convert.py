"""Samples into int16, shape (channels, n)."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rtcflow.exceptions import MediaError
from rtcflow.media.convert import (
    as_pcm,
    float32_to_int16,
    int16_to_float32,
    interleave,
    to_channels,
)

ALL_VALUES = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
pcm = st.integers(1, 2).flatmap(
    lambda channels: hnp.arrays(np.int16, st.tuples(st.just(channels), st.integers(0, 200)))
)


def test_every_value_survives_the_way_to_float_and_back() -> None:
    """int16 → float32 → int16 is the identity for all 65,536 values."""
    as_float = int16_to_float32(ALL_VALUES)
    assert as_float.dtype == np.float32
    assert (as_float.min(), as_float.max()) == (-1, 1 - 2**-15)
    np.testing.assert_array_equal(float32_to_int16(as_float), ALL_VALUES)


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
def test_floats_are_rounded_to_the_nearest_and_saturate(samples: Any) -> None:
    """Any finite float gives the nearest int16 value, and beyond ±1 the last one."""
    before = samples.copy()
    out = float32_to_int16(samples)
    np.testing.assert_array_equal(out, np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767))
    assert out.dtype == np.int16
    assert out.shape == samples.shape
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_infinite_samples_are_an_error_and_the_advice_makes_them_silent(bad: float) -> None:
    """NaN and infinity are not taken for silence or full scale; what the error says to write gives silence there."""
    samples = np.array([0.5, bad, -0.5], np.float32)
    kind = "NaN" if np.isnan(bad) else "infinity"
    with pytest.raises(MediaError, match=kind) as caught:
        float32_to_int16(samples)
    np.testing.assert_array_equal(float32_to_int16(follow(str(caught.value), samples)), [16384, 0, -16384])


@given(hnp.arrays(np.int16, st.tuples(st.just(2), st.integers(0, 50))))
def test_two_sides_become_their_mean(samples: Any) -> None:
    """Stereo to mono is the mean rounded down, without overflow."""
    expected = np.floor(samples.astype(np.int32).mean(axis=0)) if samples.size else samples[0]
    np.testing.assert_array_equal(to_channels(samples, 1)[0], expected)


@given(hnp.arrays(np.int16, st.tuples(st.just(1), st.integers(0, 50))))
def test_mono_to_stereo_and_back_is_the_identity(samples: Any) -> None:
    """Mono is heard on both sides as loud as before."""
    stereo = to_channels(samples, 2)
    assert stereo.shape == (2, samples.shape[1])
    np.testing.assert_array_equal(to_channels(stereo, 1), samples)


@given(pcm)
def test_the_right_number_of_channels_is_left_alone(samples: Any) -> None:
    """Nothing is copied where nothing is to be done."""
    assert to_channels(samples, samples.shape[0]) is samples


@pytest.mark.parametrize(("have", "want"), [(3, 1), (0, 1), (1, 3), (2, 0)])
def test_other_numbers_of_channels_are_errors(have: int, want: int) -> None:
    """Only mono and stereo are known."""
    with pytest.raises(MediaError, match="channels"):
        to_channels(np.zeros((have, 4), np.int16), want)


def test_interleaved_samples_alternate() -> None:
    """L R L R, as in a wav file."""
    assert interleave(np.array([[1, 2], [3, 4]], np.int16)).tolist() == [1, 3, 2, 4]


@given(pcm, st.booleans(), st.booleans(), st.booleans())
def test_every_legal_shape_is_understood(samples: Any, flat: bool, as_float: bool, name_layout: bool) -> None:
    """(n,), (1, n) and (2, n), int16 or float32, give the same int16 samples of shape (channels, n), copied."""
    given_samples = samples[0] if flat and samples.shape[0] == 1 else samples
    if as_float:
        given_samples = int16_to_float32(given_samples)
    out = as_pcm(given_samples, ("mono", "stereo")[samples.shape[0] - 1] if name_layout else None)
    assert out.dtype == np.int16
    np.testing.assert_array_equal(out, samples)
    assert not np.shares_memory(out, given_samples)


@pytest.mark.parametrize(
    ("samples", "cure"),
    [
        ([0, 1], "np.asarray(samples, dtype=np.int16)"),
        (b"\0\0", 'np.asarray(np.frombuffer(samples, "<i2"), dtype=np.int16)'),
        (np.zeros(4), "samples.astype(np.float32)"),
        (np.zeros(4, np.float16), "samples.astype(np.float32)"),
        (np.zeros(4, np.int32), "(samples >> 16).astype(np.int16)"),
        (np.zeros(4, np.int64), "samples.astype(np.int16)"),
        (np.zeros(4, np.uint8), "(samples.astype(np.int16) - 128) * 256"),
        (np.zeros(4, np.uint16), "(samples.astype(np.int32) - 32768).astype(np.int16)"),
        (np.zeros(4, np.complex64), "[-1, 1]"),
        (np.zeros((4, 2), np.int16), "samples.T"),
        (np.zeros((6, 4), np.int16), "samples[:2]"),
        (np.zeros((0, 4), np.int16), "(1, n) or (2, n)"),
        (np.zeros((1, 2, 4), np.int16), "(1, n) or (2, n)"),
        (np.int16(3), "NumPy array"),
    ],
)
def test_what_is_no_audio_is_told_what_to_write_instead(samples: Any, cure: str) -> None:
    """A wrong type, dtype or shape is named, and the line that cures it is shown."""
    with pytest.raises(MediaError) as caught:
        as_pcm(samples, what="audio from emit()")
    assert str(caught.value).startswith("audio from emit()")
    assert cure in str(caught.value)


class Tensor:
    """As much of a tensor as the advice needs; PyTorch's refuse `numpy()` while they are on a graph or a device."""

    def __init__(self, array: Any) -> None:
        self.array, self.dtype = array, f"torch.{array.dtype}"

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.array.astype(np.float32))

    def numpy(self) -> Any:
        return self.array


class Eager:
    """A tensor of TensorFlow."""

    def __init__(self, array: Any) -> None:
        self.numpy = lambda: array


class Jax:
    """An array of JAX."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.array


SOUND = np.round(0.5 * np.sin(np.arange(160)) * 32768).astype(np.int16)
FLOATS = (SOUND / 32768).astype(np.float32)
SOUNDS: dict[str, Any] = {
    "list of floats": FLOATS.tolist(),
    "tuple of floats": tuple(FLOATS.tolist()),
    "list of NumPy floats": list(FLOATS),
    "list of lists of floats": [FLOATS.tolist()],
    "list of ints": SOUND.tolist(),
    "list of 32-bit ints": (SOUND.astype(np.int64) << 16).tolist(),
    "list of floats on the scale of 16 bits": SOUND.astype(float).tolist(),
    "list of chunks": [SOUND[:50], SOUND[50:]],
    "list of two chunks of one length": [SOUND[:80], SOUND[80:]],
    "list of chunks of shape (1, n)": [SOUND[np.newaxis, :50], SOUND[np.newaxis, 50:]],
    "array.array of shorts": array.array("h", SOUND.tolist()),
    "array.array of floats": array.array("f", FLOATS.tolist()),
    "bytes": SOUND.astype("<i2").tobytes(),
    "bytearray": bytearray(SOUND.astype("<i2").tobytes()),
    "memoryview": memoryview(SOUND.astype("<i2").tobytes()),
    "tensor of int16": Tensor(SOUND),
    "tensor of float32": Tensor(FLOATS),
    "tensor of float64": Tensor(FLOATS.astype(np.float64)),
    "tensor of TensorFlow": Eager(FLOATS),
    "array of JAX": Jax(FLOATS),
    "float64": FLOATS.astype(np.float64),
    "float16": FLOATS.astype(np.float16),
    "longdouble": FLOATS.astype(np.longdouble),
    "float64 on the scale of 16 bits": SOUND.astype(np.float64),
    ">i2": SOUND.astype(">i2"),
    ">f4": FLOATS.astype(">f4"),
    ">f8": FLOATS.astype(">f8"),
    ">i4": (SOUND.astype(np.int32) << 16).astype(">i4"),
    "int8": (SOUND >> 8).astype(np.int8),
    "uint8": ((SOUND >> 8) + 128).astype(np.uint8),
    "uint16": (SOUND.astype(np.int32) + 32768).astype(np.uint16),
    "uint32": (SOUND.astype(np.int64) + 32768 << 16).astype(np.uint32),
    "int32 of 16-bit values": SOUND.astype(np.int32),
    "int32 of 32-bit values": SOUND.astype(np.int32) << 16,
    "int64 of 16-bit values": SOUND.astype(np.int64),
    "masked array": np.ma.masked_array(SOUND, np.zeros(160, bool)),
    "shape (n, 1)": SOUND[:, np.newaxis],
    "float64 of shape (n, 1)": FLOATS.astype(np.float64)[:, np.newaxis],
}


def follow(error: str, samples: Any) -> Any:
    """Do what the error says to write: the first way, where it names one for each of two cases."""
    code = error.partition("write ")[2]
    for end in (" for 16-bit values", " for two chunks", ", where audio is", ", or "):
        code = code.partition(end)[0]
    return eval(code, {"np": np, "samples": samples, "audio": SOUND})


@pytest.mark.parametrize("kind", SOUNDS)
def test_following_the_advice_gives_the_sound(kind: str) -> None:
    """Each error is followed until there is none: the sound is what it was, to the precision of its type."""
    samples = SOUNDS[kind]
    for _ in range(3):
        try:
            heard = as_pcm(samples)
            break
        except MediaError as error:
            samples = follow(str(error), samples)
    else:
        pytest.fail(f"three pieces of advice, and still {samples!r:.200}")
    assert heard.shape == (1, 160)
    coarse = {"int8": 256, "uint8": 256, "float16": 16}.get(kind, 1)
    assert np.abs(heard[0].astype(int) - SOUND).max() <= coarse


def test_a_mask_is_not_called_audio() -> None:
    """Its advice keeps the sound where the mask is set, and silences the rest."""
    mask = np.arange(160) < 80
    with pytest.raises(MediaError, match="a mask is not audio") as caught:
        as_pcm(mask)
    heard = as_pcm(follow(str(caught.value), mask))
    np.testing.assert_array_equal(heard[0], np.where(mask, SOUND, 0))


@given(
    st.one_of(
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=3, max_side=9)),
        st.lists(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.lists(st.floats())), max_size=9),
        st.binary(max_size=9),
        st.text(max_size=9),
        st.complex_numbers(),
        st.dictionaries(st.text(), st.integers(), max_size=3),
    )
)
def test_whatever_is_returned_is_audio_or_a_media_error(samples: Any) -> None:
    """Nothing else leaves, no warning either, and what is audio is int16 of shape (1 or 2, n)."""
    try:
        heard = as_pcm(samples)
    except MediaError as error:
        assert "expected" in str(error)
    else:
        assert heard.dtype == np.int16
        assert heard.ndim == 2
        assert heard.shape[0] in (1, 2)


@pytest.mark.parametrize(
    ("shape", "layout", "cure"),
    [
        ((4,), "stereo", "samples.reshape(-1, 2).T"),
        ((1, 4), "stereo", "np.repeat"),
        ((2, 4), "mono", "mean(axis=0)"),
        ((4,), "5.1", '"mono" or "stereo"'),
    ],
)
def test_a_layout_that_contradicts_the_shape_is_an_error(shape: tuple[int, ...], layout: Any, cure: str) -> None:
    """Interleaved stereo is not guessed at."""
    with pytest.raises(MediaError) as caught:
        as_pcm(np.zeros(shape, np.int16), layout)
    assert cure in str(caught.value)
