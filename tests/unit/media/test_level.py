"""How loud audio is, as RTP tells it (RFC 6464, RFC 6465)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from aiortc.rtp import compute_audio_level_dbov
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.media.level import audio_level
from rtcflow.testing import signals
from rtcflow.testing import strategies as rtc


@pytest.mark.parametrize(("peak", "level"), [(1.0, 3), (0.5, 9), (0.1, 23), (0.001, 63), (0.0, 127)])
def test_a_sine_is_3_db_below_its_peak(peak, level):
    """A sine at full scale is at -3 dBov."""
    assert audio_level(signals.tone(0.02, peak=peak)) == level


@given(rtc.pcm(min_samples=1))
def test_it_is_what_aiortc_computes_sample_by_sample(samples):
    """The same as RFC 6465's own loop, but for what rounding and the other full scale, 32767, make."""
    if samples.dtype != np.int16:
        return
    frame = SimpleNamespace(planes=[np.ascontiguousarray(samples).tobytes()], samples=samples.size)
    assert abs(audio_level(samples) + compute_audio_level_dbov(frame)) <= 1


@given(st.integers(0, 20_000))
def test_louder_is_never_a_higher_number(amplitude):
    """Levels count downwards."""
    square = np.full((1, 480), amplitude, np.int16)
    assert audio_level(square) >= audio_level(square + np.int16(100))


def test_no_samples_are_silence():
    """An empty chunk has a level, too."""
    assert audio_level(np.zeros((1, 0), np.int16)) == 127
