"""The matched filter is what its definition says, wherever the pattern lies."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.correlate import correlate


@given(st.integers(1, 40), st.integers(1, 60), st.data())
def test_each_stretch_has_its_product(n: int, m: int, data: st.DataObject) -> None:
    """By FFT as by hand, before the beginning and past the end."""
    before = data.draw(st.integers(0, n - 1))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    pattern, sound = random.standard_normal(n), random.standard_normal(m)
    padded = np.concatenate([np.zeros(before), sound, np.zeros(n)])
    expected = [pattern @ padded[i : i + n] for i in range(before + m)]
    np.testing.assert_allclose(correlate(pattern, sound, before), expected, atol=1e-9)
