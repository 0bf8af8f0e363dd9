"""What encoding a picture takes, and how near what comes out is to what went in: aiortc's VP8 encoder and ours.

    python bench/vp8.py

Two films of 640×480 pixels, 5 s each, at aiortc's first bitrate of 500 kbit/s: smooth waves, which is what `client.py`
sends, and moving shapes under moving noise, which no encoder can follow at that rate. Prints milliseconds of CPU per
picture, the bitrate, and the peak signal-to-noise ratio of the luma plane.
"""

from __future__ import annotations

import fractions
import time

import av
import numpy as np
from aiortc.codecs.vpx import Vp8Encoder, VpxPayloadDescriptor

from rtcflow._engine.video import PictureEncoder

PICTURES, RATE = 150, 30


def waves(number: int) -> np.ndarray:
    y, x = np.mgrid[0:480, 0:640]
    phase = 2 * np.pi * number / 60
    grey = 128 + 60 * np.sin(x / 37 + phase) * np.cos(y / 29 - phase)
    return np.stack([grey, np.roll(grey, 40, 1), 255 - grey], axis=2).astype(np.uint8)


def shapes(number: int) -> np.ndarray:
    y, x = np.mgrid[0:480, 0:640]
    waves = 128 + 60 * np.sin((x - 5 * number) / 40)
    picture = np.stack([(x + 3 * number) % 244, (2 * y - 2 * number) % 244, waves], axis=2).astype(np.uint8)
    across = int(320 + 200 * np.sin(number / 15))
    picture[200:280, across - 40 : across + 40] = 243
    noise = (np.random.default_rng(0).random((480, 640, 3)) * 12).astype(np.uint8)
    return picture + np.roll(noise, 7 * number, axis=1)


def frame_of(picture: np.ndarray, number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")
    frame.pts, frame.time_base = number * 90_000 // RATE, fractions.Fraction(1, 90_000)
    return frame


def luma(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray()[:480].astype(np.float64)


def measure(encoder: Vp8Encoder, film: list[np.ndarray]) -> tuple[float, float, float]:
    """Milliseconds per picture, kbit/s, dB."""
    decoder, taken, size, ratios = av.CodecContext.create("libvpx", "r"), 0.0, 0, []
    for number, picture in enumerate(film):
        frame = frame_of(picture, number)
        began = time.thread_time()
        payloads, _ = encoder.encode(frame, not number)
        taken += time.thread_time() - began
        data = b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads)
        size += len(data)
        for seen in decoder.decode(av.Packet(data)):
            error = np.mean((luma(seen) - luma(frame_of(picture, number))) ** 2)
            ratios.append(10 * np.log10(255**2 / max(error, 1e-9)))
    return 1000 * taken / len(film), 8 * size * RATE / len(film) / 1000, float(np.mean(ratios))


def main() -> None:
    for name, picture in (("waves", waves), ("shapes", shapes)):
        film = [picture(number) for number in range(PICTURES)]
        for encoder in (Vp8Encoder, PictureEncoder, Vp8Encoder, PictureEncoder):
            took, rate, ratio = measure(encoder(), film)
            print(f"{name:8} {encoder.__name__:15} {took:5.2f} ms  {rate:5.0f} kbit/s  {ratio:5.2f} dB")


if __name__ == "__main__":
    main()
