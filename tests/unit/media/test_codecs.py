"""Laws of the coders of lines: what goes in comes out, in the coder's own layout, and junk is an error in words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rtcflow.exceptions import MediaError
from rtcflow.frames import CHANNELS
from rtcflow.media.codecs import OPUS_RATES, make_coder
from rtcflow.media.convert import to_channels

LAYOUTS = st.sampled_from(["mono", "stereo"])
PCM = arrays.arrays(np.int16, st.tuples(st.sampled_from([1, 2]), st.integers(0, 300)))
PLAIN = st.sampled_from(["pcm_s16le", "mulaw", "alaw"])


@given(PCM, LAYOUTS)
def test_linear_samples_come_back_the_same(pcm, layout):
    """In the layout of the coder, which is all that is lost."""
    coder = make_coder("pcm_s16le", 48_000, layout)
    assert np.array_equal(coder.decode(coder.encode(pcm)), to_channels(pcm, CHANNELS[layout]))


@given(st.binary(max_size=300), st.sampled_from(["mulaw", "alaw"]))
def test_every_code_of_g711_comes_back_the_same(codes, law):
    """Decoded and encoded again; but the second zero of mu-law, which sounds like the first."""
    coder = make_coder(law, 8_000, "mono")
    again = coder.encode(coder.decode(codes))
    assert again == (codes.replace(b"\x7f", b"\xff") if law == "mulaw" else codes)


@given(PCM, LAYOUTS, PLAIN, st.data())
def test_cutting_up_makes_no_difference(pcm, layout, codec, data):
    """Coders without a state: the bytes of two pieces are those of the whole, one after the other."""
    coder, at = make_coder(codec, 8_000, layout), data.draw(st.integers(0, pcm.shape[1]))
    assert coder.encode(pcm[:, :at]) + coder.encode(pcm[:, at:]) == coder.encode(pcm)


@given(PCM, PLAIN)
def test_channels_stay_apart(pcm, codec):
    """Each channel of stereo is coded as it would be alone, and left is left."""
    stereo, mono = make_coder(codec, 8_000, "stereo"), make_coder(codec, 8_000, "mono")
    both = to_channels(pcm, 2)
    decoded = stereo.decode(stereo.encode(both))
    for channel in (0, 1):
        assert np.array_equal(decoded[channel], mono.decode(mono.encode(both[channel : channel + 1]))[0])


@given(st.binary(max_size=300), LAYOUTS, PLAIN)
def test_bytes_are_whole_samples_or_an_error(payload, layout, codec):
    """The error names the number that the length must be a multiple of."""
    coder, channels = make_coder(codec, 8_000, layout), CHANNELS[layout]
    size = channels * (2 if codec == "pcm_s16le" else 1)
    if len(payload) % size:
        with pytest.raises(MediaError, match=f"a multiple of {size}"):
            coder.decode(payload)
    else:
        assert coder.decode(payload).shape == (channels, len(payload) // size)


@given(st.sampled_from(OPUS_RATES), LAYOUTS, st.sampled_from([1, 2]), st.integers(0, 30_000))
def test_opus_gives_20_ms_for_20_ms(rate, layout, channels, level):
    """Whatever is fed, at any of its rates: each packet is decoded to one frame at 48 kHz, about as loud."""
    coder = make_coder("opus", rate, layout)
    sine = (level * np.sin(2 * np.pi * 400 * np.arange(rate // 5) / rate)).astype(np.int16)
    heard = []
    for at in range(0, sine.size, rate // 50):
        heard.append(coder.decode(coder.encode(np.tile(sine[at : at + rate // 50], (channels, 1)))))
        assert heard[-1].shape == (CHANNELS[layout], 960)
        assert heard[-1].dtype == np.int16
    loudest = np.abs(np.concatenate(heard[5:], axis=1).astype(int)).max()
    assert loudest == pytest.approx(level, rel=0.25, abs=60)


@given(st.binary(max_size=1500), LAYOUTS)
def test_opus_takes_any_bytes(payload, layout):
    """They are audio in the coder's layout, or an error that says that they are none; and the next packet is heard."""
    coder = make_coder("opus", 48_000, layout)
    try:
        samples = coder.decode(payload)
    except MediaError as error:
        assert "not an Opus packet" in str(error)
    else:
        assert samples.shape[0] == CHANNELS[layout]
    assert coder.decode(coder.encode(np.zeros((1, 960), np.int16))).shape == (CHANNELS[layout], 960)


def test_unknown_codecs_and_rates_are_refused():
    """The error names those there are."""
    with pytest.raises(MediaError, match="pcm_s16le, opus, mulaw or alaw"):
        make_coder("mp3", 48_000, "mono")
    with pytest.raises(MediaError, match="48000"):
        make_coder("opus", 44_100, "mono")
