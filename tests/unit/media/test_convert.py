"""Samples into int16, shape (channels, n)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rtcflow.exceptions import MediaError
from rtcflow.media.convert import (
    as_pcm,
    deinterleave,
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


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=2), elements=st.floats(width=32, allow_nan=False)))
def test_floats_are_rounded_to_the_nearest_and_saturate(samples: Any) -> None:
    """Any float but NaN gives the nearest int16 value, and beyond ±1 the last one."""
    before = samples.copy()
    out = float32_to_int16(samples)
    np.testing.assert_array_equal(out, np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767))
    assert out.dtype == np.int16
    assert out.shape == samples.shape
    np.testing.assert_array_equal(samples, before)


def test_nan_is_an_error() -> None:
    """NaN is not taken for silence."""
    with pytest.raises(MediaError, match=r"NaN.*nan_to_num"):
        float32_to_int16(np.array([0, np.nan], np.float32))


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


@given(pcm)
def test_interleaving_undoes_deinterleaving(samples: Any) -> None:
    """deinterleave(interleave(x)) == x, flat or with the axis that PyAV's packed formats have."""
    flat = interleave(samples)
    np.testing.assert_array_equal(deinterleave(flat, samples.shape[0]), samples)
    np.testing.assert_array_equal(deinterleave(flat[np.newaxis], samples.shape[0]), samples)


def test_interleaved_samples_alternate() -> None:
    """L R L R, as in a wav file."""
    assert interleave(np.array([[1, 2], [3, 4]], np.int16)).tolist() == [1, 3, 2, 4]
    with pytest.raises(MediaError, match="multiple of 2"):
        deinterleave(np.zeros(3, np.int16))


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
        (b"\0\0", "np.asarray"),
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


@pytest.mark.parametrize(
    ("dtype", "convert", "tolerance"),
    [
        ("uint8", lambda samples: (samples.astype(np.int16) - 128) * 256, 256),
        ("uint16", lambda samples: (samples.astype(np.int32) - 32768).astype(np.int16), 1),
        ("int32", lambda samples: (samples >> 16).astype(np.int16), 1),
    ],
)
def test_the_shown_cures_are_right(dtype: str, convert: Any, tolerance: int) -> None:
    """Following the error's advice keeps zero at zero and full scale at full scale."""
    info = np.iinfo(dtype)
    middle = 0 if info.min else (info.max + 1) // 2
    out = as_pcm(convert(np.array([info.min, middle, info.max], dtype)))
    assert np.abs(out[0].astype(int) - [-32768, 0, 32767]).max() <= tolerance


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
