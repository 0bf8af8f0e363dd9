"""G.711 against the recommendation's own values, and against an independent implementation for every sample."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from rtcflow.media import g711

EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
EVERY_CODE = bytes(range(256))

# ITU-T G.711 table 2a/2b: decision value x(n+1), decoded value y(n) and the character signal of some positive inputs,
# on the table's 14-bit scale.
MULAW_TABLE = [(8159, 8031, 0x80), (4063, 4191, 0x8F), (2015, 2079, 0x9F), (991, 1023, 0xAF), (479, 495, 0xBF)]
MULAW_TABLE += [(223, 231, 0xCF), (95, 99, 0xDF), (31, 33, 0xEF), (1, 2, 0xFE), (0, 0, 0xFF)]
# ITU-T G.711 table 1a: decoded value (on the table's 12-bit scale times two) and the character signal before the
# inversion of the even bits.
ALAW_TABLE = [(4032, 0xFF), (2112, 0xF0), (1056, 0xE0), (528, 0xD0), (264, 0xC0), (132, 0xB0), (66, 0xA0), (1, 0x80)]


def test_mulaw_decodes_to_the_tables_values() -> None:
    """Each code of the recommendation's table has the table's value, and its negative twin the negative one."""
    for _, value, code in MULAW_TABLE:
        assert g711.decode_mulaw(bytes([code]))[0] == value * 4
        assert g711.decode_mulaw(bytes([code & 0x7F]))[0] == -value * 4


def test_alaw_decodes_to_the_tables_values() -> None:
    """Each code of the recommendation's table has the table's value, and its negative twin the negative one."""
    for value, code in ALAW_TABLE:
        assert g711.decode_alaw(bytes([code ^ 0x55]))[0] == value * 8
        assert g711.decode_alaw(bytes([(code ^ 0x55) & 0x7F]))[0] == -value * 8


def test_mulaw_decides_at_the_tables_decision_values() -> None:
    """The code changes exactly at a decision value of the table."""
    for decision, _, code in MULAW_TABLE[1:]:
        at, below = g711.encode_mulaw(np.array([decision * 4, decision * 4 - 1], np.int16))
        if decision:
            assert at != below
            assert at == code


def test_the_digital_milliwatt_has_the_recommendations_bytes() -> None:
    """The 1 kHz reference sequences of tables 5 and 6 decode to a sine of 0 dBm0 in both laws."""
    mulaw = g711.decode_mulaw(bytes([0x1E, 0x0B, 0x0B, 0x1E, 0x9E, 0x8B, 0x8B, 0x9E]))
    alaw = g711.decode_alaw(bytes([0x34, 0x21, 0x21, 0x34, 0xB4, 0xA1, 0xA1, 0xB4]))
    # The load capacity is 3.17 dBm0 (mu-law) and 3.14 dBm0 (A-law): a sine up to the virtual decision value.
    for samples, virtual, capacity in ((mulaw, 8159 * 4, 3.17), (alaw, 4096 * 8, 3.14)):
        wave = samples.astype(float)
        assert np.array_equal(wave[:4], -wave[4:])
        rms = np.sqrt((wave**2).mean())
        assert 20 * np.log10(rms / (virtual / np.sqrt(2))) == pytest.approx(-capacity, abs=0.01)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="audioop left the standard library in 3.13")
def test_every_sample_and_code_is_as_the_standard_library_has_it() -> None:
    """All 65,536 samples and all 256 codes, bit for bit, in both laws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop
    pcm = EVERY_SAMPLE.tobytes()
    assert g711.encode_mulaw(EVERY_SAMPLE) == audioop.lin2ulaw(pcm, 2)
    assert g711.encode_alaw(EVERY_SAMPLE) == audioop.lin2alaw(pcm, 2)
    assert g711.decode_mulaw(EVERY_CODE).tobytes() == audioop.ulaw2lin(EVERY_CODE, 2)
    assert g711.decode_alaw(EVERY_CODE).tobytes() == audioop.alaw2lin(EVERY_CODE, 2)


def test_decoded_samples_encode_to_their_code() -> None:
    """Coding twice loses nothing beyond the first time; mu-law's negative zero is the one that becomes positive."""
    assert g711.encode_alaw(g711.decode_alaw(EVERY_CODE)) == EVERY_CODE
    assert g711.encode_mulaw(g711.decode_mulaw(EVERY_CODE)) == EVERY_CODE.replace(b"\x7f", b"\xff")


def test_the_error_is_as_small_as_the_law_allows() -> None:
    """No sample is further from what it becomes than half a step of its segment."""
    for encode, decode in ((g711.encode_mulaw, g711.decode_mulaw), (g711.encode_alaw, g711.decode_alaw)):
        error = np.abs(decode(encode(EVERY_SAMPLE)).astype(int) - EVERY_SAMPLE)
        allowed = np.abs(EVERY_SAMPLE.astype(int)) / 32 + 8  # 8: what the shift to 13 bits takes off
        within = np.abs(EVERY_SAMPLE.astype(int)) < 32256
        assert (error <= allowed)[within].all()


def test_arrays_keep_their_order() -> None:
    """A two-dimensional array is read row by row, also when it is a view."""
    samples = np.array([[0, 1000, 2000], [-1, -1000, -2000]], np.int16)
    assert g711.encode_mulaw(samples.T) == g711.encode_mulaw(np.array([0, -1, 1000, -1000, 2000, -2000], np.int16))
    assert g711.decode_mulaw(b"").shape == (0,)
