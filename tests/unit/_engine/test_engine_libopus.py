"""libopus called directly: at any rate, over losses, and what it says of nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from rtcflow._engine import libopus
from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import OpusEncoder, decoded_rate, make_decoder
from rtcflow.frames import AudioFormat, ChannelLayout


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_decoding_at_the_rate_that_is_wanted(rate: int, layout: ChannelLayout) -> None:
    """libopus decodes at any of its rates: frames are 20 ms long from the first on, and nothing is resampled."""
    library = libopus.load()
    assert library is not None
    encoder = OpusEncoder(48000, OpusConfig())
    decoder = make_decoder("OPUS", AudioFormat(rate, layout))
    assert decoder is not None
    assert decoder.sample_rate == decoded_rate("OPUS", rate) == rate
    tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(960 * 50) / 48000)).astype(np.int16)
    frames = [decoder.decode(encoder.payload(tone[None, i : i + 960]) or b"") for i in range(0, len(tone), 960)]
    assert {frame.shape for frame in frames} == {(1 if layout == "mono" else 2, rate // 50)}
    heard = np.concatenate(frames, axis=1)[0, rate // 5 :]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert abs(np.argmax(spectrum) * rate / len(heard) - 300) < 3
    assert 6000 < np.abs(heard).max() < 10000


def test_a_lost_frame_is_read_out_of_the_next_packet() -> None:
    """With in-band FEC the frame before a packet is in it, and sounds nearer to the original than what is made up."""
    library = libopus.load()
    assert library is not None
    wanted = AudioFormat(16000)
    config = OpusConfig(application="voip", fec=True, expected_loss=30, bitrate=24000)
    rise = np.linspace(0.1, 1, 320 * 30) ** 2
    voice = (9000 * rise * np.sin(2 * np.pi * np.linspace(150, 400, 320 * 30).cumsum() / 16000)).astype(np.int16)
    encoder = OpusEncoder(16000, config)
    packets = [encoder.payload(voice[None, i : i + 320]) or b"" for i in range(0, len(voice), 320)]
    heard = {}
    for way in ("played", "fec", "made up"):
        decoder = libopus.NativeDecoder(library, wanted)
        for packet in packets[:20]:
            decoder.decode(packet)
        if way == "played":
            found = decoder.decode(packets[20])
        else:
            found = decoder.conceal(packets[21] if way == "fec" else None)
        assert found is not None
        heard[way] = found[0].astype(float)
    errors = {way: np.abs(heard[way] - heard["played"]).mean() for way in ("fec", "made up")}
    assert errors["fec"] < 0.7 * errors["made up"]


def test_libopus_says_what_is_wrong() -> None:
    """A packet that makes no sense is an error with words, and the decoder goes on; before any, nothing is made up."""
    library = libopus.load()
    assert library is not None
    decoder = libopus.NativeDecoder(library, AudioFormat(24000))
    assert decoder.conceal() is None
    with pytest.raises(libopus.OpusError, match="corrupted stream"):
        decoder.decode(b"\xff\xff\xff")
    packet = OpusEncoder(24000, OpusConfig()).payload(np.zeros((1, 480), np.int16)) or b""
    assert decoder.decode(packet).shape == (1, 480)


def test_without_libopus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is not found, or is not what it is called, FFmpeg decodes, at 48 kHz."""
    libopus.load.cache_clear()
    monkeypatch.setattr(libopus.Path, "glob", lambda *_: [])
    try:
        monkeypatch.setattr(libopus.ctypes.util, "find_library", lambda _: "libm.so.6")
        assert libopus.load() is None
        assert decoded_rate("OPUS", 24000) == 48000
    finally:
        libopus.load.cache_clear()
