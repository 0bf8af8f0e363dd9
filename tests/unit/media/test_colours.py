"""Colour conversion: the same pictures as PyAV's own, made in the thread that asks."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rtcflow.media.colours import PictureConverter


def picture(width: int, height: int) -> av.VideoFrame:
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
    frame.pts, frame.time_base = 9000, Fraction(1, 90000)
    return frame


@pytest.mark.parametrize("pixel_format", ["yuv420p", "rgb24", "gray"])
def test_the_picture_is_pyavs(pixel_format: str) -> None:
    """One converter gives, picture by picture, what each frame's own conversion gives, also if the size changes."""
    converter = PictureConverter()
    for size in ((64, 48), (64, 48), (34, 20), (64, 48)):
        frame = picture(*size)
        made, expected = converter.convert(frame, pixel_format), frame.reformat(format=pixel_format)
        assert (made.to_ndarray() == expected.to_ndarray()).all()
        assert (made.pts, made.time_base) == (9000, Fraction(1, 90000))
        assert frame.format.name == "bgr24"


def test_a_picture_is_scaled() -> None:
    """Width and height may be others."""
    made = PictureConverter().convert(picture(64, 48), "yuv420p", 32, 24)
    assert (made.width, made.height, made.format.name) == (32, 24, "yuv420p")


def test_what_fits_is_left_as_it_is() -> None:
    """No copy of a picture that has the format already."""
    frame = picture(64, 48)
    assert PictureConverter().convert(frame, "bgr24") is frame


def test_no_thread_is_started_for_a_picture() -> None:
    """PyAV's default would start one for each processor, and for each frame's own conversion anew."""
    before = _threads()
    converter = PictureConverter()
    converter.convert(picture(640, 480), "yuv420p")
    assert _threads() <= before  # one of an earlier test may have ended


def _threads() -> set[str]:
    """The threads of this process, on Linux also those that Python does not know of."""
    try:
        return {task.name for task in Path("/proc/self/task").iterdir()}
    except OSError:
        return {str(thread.ident) for thread in threading.enumerate()}


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (640, 480)])
@pytest.mark.parametrize("kind", ["yuv420p", "bgr24", "gray"])
def test_an_own_frame_is_another_one_with_the_same_picture(size: tuple[int, int], kind: str) -> None:
    """Whatever is written into it, the frame stays as it was."""
    frame = picture(*size).reformat(format=kind)
    own = PictureConverter().own(frame, kind)
    assert own is not frame
    assert (own.pts, own.time_base, own.format.name) == (9000, Fraction(1, 90000), kind)
    assert (own.to_ndarray(format="bgr24") == frame.to_ndarray(format="bgr24")).all()
    own.pts = 1
    assert frame.pts == 9000


@pytest.mark.parametrize("kind", ["yuv420p", "bgr24"])
def test_an_own_frame_of_rows_from_bottom_to_top(kind: str) -> None:
    """FFmpeg's `vflip` only turns the order of the rows: the line sizes are negative."""
    graph = av.filter.Graph()
    source = graph.add("buffer", f"video_size=64x48:pix_fmt={kind}:time_base=1/90000")
    flip, sink = graph.add("vflip"), graph.add("buffersink")
    source.link_to(flip)
    flip.link_to(sink)
    graph.configure()
    upright = picture(64, 48).reformat(format=kind)
    source.push(upright)
    frame = sink.pull()
    assert isinstance(frame, av.VideoFrame)
    assert frame.planes[0].line_size < 0
    own = PictureConverter().own(frame, kind)
    assert own is not frame
    assert own.format.name == kind
    shown, wanted = (one.to_ndarray(format="rgb24").astype(int) for one in (own, upright))
    assert np.abs(shown - wanted[::-1]).mean() < 1
