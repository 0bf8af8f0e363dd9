"""What handlers return, sorted out, and what they are given: pure, so no backend here."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rtcflow.exceptions import MediaError
from rtcflow.handlers.items import Emitted, VideoEmitted, parse_emit, parse_video_emit, video_to_handler
from rtcflow.media.colours import PictureConverter
from rtcflow.outputs import AdditionalOutputs, CloseStream

AUDIO = (24000, np.arange(4, dtype=np.int16))
OUTPUTS = AdditionalOutputs("text", 1)
CLOSE = CloseStream("bye")


# -- emit


@pytest.mark.parametrize(
    ("item", "has_audio", "outputs", "close"),
    [
        (None, False, None, None),
        (AUDIO, True, None, None),
        ((*AUDIO, "mono"), True, None, None),
        (OUTPUTS, False, OUTPUTS, None),
        (CLOSE, False, None, CLOSE),
        ((AUDIO, OUTPUTS), True, OUTPUTS, None),
        (((*AUDIO, "mono"), OUTPUTS), True, OUTPUTS, None),
        ((None, OUTPUTS), False, OUTPUTS, None),
        ((AUDIO, CLOSE), True, None, CLOSE),
    ],
)
def test_every_form_of_the_grammar(item: Any, has_audio: bool, outputs: Any, close: Any) -> None:
    """Each form that EmitType allows is taken apart into audio, outputs and close."""
    emitted = parse_emit(item)
    assert (emitted.audio is not None, emitted.outputs, emitted.close) == (has_audio, outputs, close)
    assert emitted.nothing is (item is None)
    if has_audio:
        assert emitted.audio is not None
        rate, samples = emitted.audio
        assert (rate, samples.tolist(), samples.dtype) == (24000, [[0, 1, 2, 3]], np.int16)


@pytest.mark.parametrize(
    ("samples", "layout", "shape"),
    [
        (np.zeros(5, np.int16), None, (1, 5)),
        (np.zeros((1, 5), np.int16), "mono", (1, 5)),
        (np.zeros((2, 5), np.float32), None, (2, 5)),
        (np.zeros((2, 5), np.float32), "stereo", (2, 5)),
        (np.zeros((5, 2), np.int16).T, None, (2, 5)),
    ],
)
def test_shapes_and_layouts_of_audio(samples: Any, layout: Any, shape: tuple[int, int]) -> None:
    """1-D and (channels, n), int16 and float32, strided or not: int16 of shape (channels, n) comes out."""
    item = (16000, samples) if layout is None else (16000, samples, layout)
    emitted = parse_emit(item)
    assert emitted.audio is not None
    assert emitted.audio[1].shape == shape
    assert emitted.audio[1].dtype == np.int16


def test_float_audio_saturates_and_keeps_its_level() -> None:
    """float32 in [-1, 1] is full scale; beyond it saturates."""
    emitted = parse_emit((8000, np.array([-2, -1, 0, 0.5, 1], np.float32)))
    assert emitted.audio is not None
    assert emitted.audio[1].tolist() == [[-32768, -32768, 0, 16384, 32767]]


def test_the_handler_may_use_its_array_again() -> None:
    """What was emitted does not change when the handler overwrites its buffer."""
    buffer = np.ones(480, np.int16)
    emitted = parse_emit((24000, buffer))
    buffer[:] = 7
    assert emitted.audio is not None
    assert (emitted.audio[1] == 1).all()


def test_audio_of_no_length_is_nothing() -> None:
    """An empty array is the same as None: there is nothing to play."""
    assert parse_emit((24000, np.zeros(0, np.int16))) == Emitted()
    assert parse_emit((24000, np.zeros((2, 0), np.float32))).nothing
    assert not parse_emit(((24000, np.zeros((2, 0), np.float32)), OUTPUTS)).nothing


def test_numpy_rates_are_rates() -> None:
    """A rate that came out of NumPy is as good as an int, and becomes one."""
    emitted = parse_emit((np.int64(16000), np.zeros(3, np.int16)))
    assert emitted.audio is not None
    assert type(emitted.audio[0]) is int


ZEROS = np.zeros(480, np.int16)


@pytest.mark.parametrize(
    ("junk", "words"),
    [
        (ZEROS, r"emit\(\) returned an array alone; expected \(sample_rate, samples\): write return 24000, samples"),
        (b"\0\0", r"emit\(\) returned a bytes; expected \(sample_rate, samples\)"),
        ("audio", r"emit\(\) returned 'audio' \(str\)"),
        ((24000,), r"emit\(\) returned a tuple of 1: \(int\)"),
        ((24000, ZEROS, "mono", 1), r"a tuple of 4: \(int, ndarray, str, int\)"),
        ([24000, ZEROS], r"returned a list"),
        ((ZEROS, 24000), "the sample rate first"),
        ((24000.0, ZEROS), "sample rate of 24000.0; expected a whole number of Hz"),
        (("24000", ZEROS), "sample rate of '24000'"),
        ((True, ZEROS), "sample rate of True"),
        ((0, ZEROS), "sample rate of 0"),
        ((-8000, ZEROS), "sample rate of -8000"),
        ((10**9, ZEROS), "sample rate of 1000000000"),
        ((24000, [0, 0]), r"audio from emit\(\) is a list"),
        ((24000, np.zeros(480)), r"audio from emit\(\) is float64; expected .*samples.astype\(np.float32\)"),
        ((24000, np.zeros(480, np.int32)), "is int32"),
        ((24000, np.zeros((480, 2), np.int16)), r"shape \(480, 2\).*write samples.T"),
        ((24000, np.zeros((3, 480), np.int16)), r"shape \(3, 480\)"),
        ((24000, np.zeros((2, 480), np.int16), "mono"), "layout 'mono'"),
        ((24000, ZEROS, "stereo"), "layout 'stereo'"),
        ((24000, ZEROS, "5.1"), "layout '5.1'"),
        ((24000, np.full(4, np.nan, np.float32)), "NaN"),
        ((24000, np.full(4, -np.inf, np.float32)), "infinity"),
        ((OUTPUTS, OUTPUTS), "a tuple of 2"),
        ((CLOSE, OUTPUTS), "a tuple of 2"),
        ((AUDIO, "text"), "the sample rate|sample rate of"),
    ],
)
def test_junk_is_named_with_what_to_write(junk: Any, words: str) -> None:
    """A MediaError says what emit() returned and what would have been right."""
    with pytest.raises(MediaError, match=words):
        parse_emit(junk)


@given(
    st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=3)
        | st.floats()
        | st.just(ZEROS)
        | st.just(OUTPUTS)
        | st.just(CLOSE),
        lambda inner: st.tuples(inner, inner) | st.tuples(inner, inner, inner) | st.lists(inner, max_size=2),
        max_leaves=5,
    )
)
def test_whatever_is_returned_is_sorted_out_or_a_media_error(item: Any) -> None:
    """No other exception leaves the parsers, whatever a handler returns."""
    for parse in (parse_emit, parse_video_emit):
        try:
            parse(item)
        except MediaError:
            continue


# -- video_emit


def picture(height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Soft colours: nothing in it that 4:2:0 chroma could smear."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + x * 2, 200 - y * 2, 40 + x + y], axis=-1).astype(np.uint8)


def as_bgr(frame: av.VideoFrame) -> np.ndarray[Any, Any]:
    return frame.to_ndarray(format="bgr24")


def frame_of(parsed: VideoEmitted) -> av.VideoFrame:
    assert parsed.frame is not None
    return parsed.frame


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_dtypes_of_pictures_have_their_own_full_scale(dtype: Any) -> None:
    """uint8 0-255, uint16 0-65,535 and float32 0-255 of the same picture give the same frame."""
    pixels = picture()
    array = pixels.astype(dtype) * (257 if dtype is np.uint16 else 1)
    assert (as_bgr(frame_of(parse_video_emit(array))) == pixels).all()


@given(st.integers(0, 65535))
def test_uint16_becomes_the_nearest_uint8(value: int) -> None:
    """Every value of uint16 is rounded to the nearest of 256 steps."""
    frame = frame_of(parse_video_emit(np.full((2, 2), value, np.uint16)))
    assert frame.to_ndarray()[0, 0] == int(value / 257 + 0.5)


@given(arrays.arrays(np.float32, (4, 4, 3), elements=st.floats(-1000, 1000, width=32)))
def test_float_pictures_are_rounded_and_saturate(array: Any) -> None:
    """float32 beyond 0-255 saturates, and in between is rounded."""
    assert (as_bgr(frame_of(parse_video_emit(array))) == np.rint(np.clip(array, 0, 255))).all()


def test_grey_pictures_are_grey() -> None:
    """(h, w) becomes a frame of the same grey."""
    frame = frame_of(parse_video_emit(np.full((48, 64), 77, np.uint8)))
    assert frame.format.name == "gray"
    assert np.abs(as_bgr(frame).astype(int) - 77).max() <= 2


def test_channels_are_in_the_handlers_order() -> None:
    """Arrays are BGR, and RGB for a handler whose video_format is rgb24."""
    pixels = picture()
    assert (as_bgr(frame_of(parse_video_emit(pixels, "float32"))) == pixels).all()
    assert (as_bgr(frame_of(parse_video_emit(pixels, "rgb24"))) == pixels[..., ::-1]).all()


def test_frames_pass_as_they_are_and_strided_arrays_are_taken() -> None:
    """An av.VideoFrame is not touched; a mirrored view of an array is."""
    frame = av.VideoFrame(64, 48, "yuv420p")
    assert parse_video_emit(frame).frame is frame
    assert parse_video_emit((frame, OUTPUTS)) == VideoEmitted(frame, OUTPUTS)
    mirrored = np.flip(picture(), axis=1)
    assert (as_bgr(frame_of(parse_video_emit(mirrored))) == mirrored).all()


def test_the_picture_may_be_used_again() -> None:
    """What was emitted does not change when the handler draws into its array."""
    pixels = picture()
    frame = frame_of(parse_video_emit(pixels))
    before = pixels.copy()
    pixels[:] = 0
    assert (as_bgr(frame) == before).all()


def test_the_grammar_of_video() -> None:
    """None, outputs, close, and pairs of a picture with either."""
    pixels = picture()
    assert parse_video_emit(None) == VideoEmitted()
    assert parse_video_emit(OUTPUTS) == VideoEmitted(outputs=OUTPUTS)
    assert parse_video_emit(CLOSE) == VideoEmitted(close=CLOSE)
    assert parse_video_emit((pixels, OUTPUTS)).outputs == OUTPUTS
    assert parse_video_emit((pixels, CLOSE)).close == CLOSE
    assert parse_video_emit((None, CLOSE)).frame is None


@pytest.mark.parametrize(
    ("junk", "words"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\).*write picture\[..., :3\]"),
        (np.zeros((4, 4, 1), np.uint8), r"write picture\[..., 0\]"),
        (np.zeros((3, 4, 5), np.uint8), "np.moveaxis"),
        (np.zeros(4, np.uint8), r"shape \(4,\); expected \(height, width, 3\) or \(height, width\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.zeros((4, 4, 3)), r"a float64 picture; expected uint8 .*astype\(np.float32\)"),
        (np.zeros((4, 4, 3), np.int64), r"a int64 picture.*astype\(np.uint8\)"),
        (np.zeros((4, 4, 3), bool), "a bool picture"),
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), np.inf, np.float32), "infinity"),
        ("picture", r"'picture' \(str\)"),
        (AUDIO, "a tuple of 2"),
        (av.AudioFrame(layout="mono", samples=4), "a AudioFrame"),
    ],
)
def test_junk_pictures_are_named(junk: Any, words: str) -> None:
    """A MediaError says what video_emit() returned and what would have been right."""
    with pytest.raises(MediaError, match=words):
        parse_video_emit(junk)


# -- video_receive


def camera_frame() -> av.VideoFrame:
    """A frame as a decoder gives it."""
    frame = av.VideoFrame.from_ndarray(picture(), format="bgr24").reformat(format="yuv420p")
    frame.pts, frame.time_base = 9000, Fraction(1, 90000)
    return frame


@pytest.mark.parametrize(("video_format", "dtype"), [("float32", np.float32), ("bgr24", np.uint8), ("rgb24", np.uint8)])
def test_received_pictures_have_the_form_the_handler_asked_for(video_format: Any, dtype: Any) -> None:
    """dtype, shape, range and order of channels, in an array that is the handler's own."""
    array = video_to_handler(camera_frame(), video_format, PictureConverter())
    assert isinstance(array, np.ndarray)
    assert (array.dtype, array.shape) == (dtype, (48, 64, 3))
    expected = picture()[..., ::-1] if video_format == "rgb24" else picture()
    assert np.abs(array.astype(int) - expected).max() <= 6
    array[:] = 0  # writable


@pytest.mark.parametrize("video_format", ["frame", "float32", "bgr24", "rgb24"])
def test_what_goes_back_unchanged_looks_the_same(video_format: Any) -> None:
    """video_receive to video_emit, unchanged, is the same picture in every format."""
    frame = camera_frame()
    back = frame_of(parse_video_emit(video_to_handler(frame, video_format, PictureConverter()), video_format))
    assert (as_bgr(back) == as_bgr(frame)).all()
    if video_format == "frame":
        assert back is frame


@pytest.mark.parametrize("size", [(16_400, 16), (16, 16_400), (9000, 5000)])
@pytest.mark.parametrize("kind", ["array", "frame"])
def test_pictures_that_no_codec_takes_are_refused(size, kind):
    """By size, before any native code sees them; the largest that H.264 allows passes."""
    width, height = size
    picture = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (height, width, 3), (0, 0, 0))
    if kind == "frame":
        picture = av.VideoFrame(width, height, "gray")
    with pytest.raises(MediaError, match=f"{width} × {height}.*scale it down"):
        parse_video_emit(picture)
    assert parse_video_emit(av.VideoFrame(8192, 4352, "gray")).frame is not None
