"""Checks and sorts what handlers return and are given: pure functions between a connection and `emit`, `video_emit`.

The grammar, for audio and video alike: ``media``, ``outputs``, ``close``, ``(media, outputs)``, ``(media, close)`` or
None, where media is ``(sample_rate, samples[, layout])`` or a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from ..media.colours import PictureConverter
from ..media.convert import as_pcm
from ..media.resample import check_sample_rate
from ..outputs import AdditionalOutputs, CloseStream
from .base import VideoFormat

if TYPE_CHECKING:
    import av

AUDIO_GRAMMAR: Final = (
    "(sample_rate, samples), (sample_rate, samples, layout), AdditionalOutputs, CloseStream, "
    "(audio, AdditionalOutputs), or None"
)
VIDEO_GRAMMAR: Final = "an array, an av.VideoFrame, AdditionalOutputs, CloseStream, (frame, AdditionalOutputs), or None"

MAX_SIDE: Final = 16_383
"""Pixels on a side of a picture: VP8 has 14 bits for it (RFC 6386 section 9.1)."""
MAX_PIXELS: Final = 139_264 * 256
"""Pixels of a picture: what the highest level of H.264 allows (ITU-T H.264 table A-1, level 6.2), 8192 × 4352."""

_PIXELS: Final = 1 << 20
"""Numbers of a picture that are converted at once."""

_NO_MEDIA: Final = (AdditionalOutputs, CloseStream)


class Emitted(NamedTuple):
    """What one `emit` gave.

    Attributes:
        audio: ``(sample_rate, samples)``: int16, shape (1 or 2, n), n ≥ 1, owned by nobody else; or None.
        outputs: Values for the application, or None.
        close: The wish to end the connection once `audio` was played, or None.
        is_rest: Whether `audio` is what is left of an item that was begun, and counted, on another link.
    """

    audio: tuple[int, NDArray[np.int16]] | None = None
    outputs: AdditionalOutputs | None = None
    close: CloseStream | None = None
    is_rest: bool = False

    @property
    def nothing(self) -> bool:
        """Whether there was nothing in it: None, or audio of no length."""
        return self.audio is None and self.outputs is None and self.close is None

    @property
    def seconds(self) -> float:
        """How long its audio lasts."""
        return 0.0 if self.audio is None else self.audio[1].shape[1] / self.audio[0]


@dataclass(frozen=True, slots=True)
class VideoEmitted:
    """What one `video_emit` gave.

    Attributes:
        frame: The picture, owned by nobody else, or None.
        outputs: Values for the application, or None.
        close: The wish to end the connection, or None.
    """

    frame: av.VideoFrame | None = None
    outputs: AdditionalOutputs | None = None
    close: CloseStream | None = None


def parse_emit(item: object, *, what: str = "emit()") -> Emitted:
    """Sort out what `emit` returned (`EmitType`).

    Args:
        item: Anything.
        what: What returned it, for the error.

    Raises:
        MediaError: `item` is not an `EmitType`; the text says what was wrong and what to write instead.
    """
    media, outputs, close = _split(item, what, AUDIO_GRAMMAR)
    audio = None if media is None else _parse_audio(media, what)
    return Emitted(audio, outputs, close)


def _split(item: object, what: str, grammar: str) -> tuple[Any, AdditionalOutputs | None, CloseStream | None]:
    media: Any
    extra: Any
    if isinstance(item, _NO_MEDIA):
        media, extra = None, item
    elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], _NO_MEDIA):
        media, extra = item
    else:
        return item, None, None
    if isinstance(media, _NO_MEDIA):
        raise MediaError(f"{what} returned {_describe(item)}", grammar)
    return (
        media,
        extra if isinstance(extra, AdditionalOutputs) else None,
        extra if isinstance(extra, CloseStream) else None,
    )


def _parse_audio(media: object, what: str) -> tuple[int, NDArray[np.int16]] | None:
    match media:
        case (rate, samples) if isinstance(media, tuple):
            layout = None
        case (rate, samples, layout) if isinstance(media, tuple):
            pass
        case np.ndarray():
            raise MediaError(f"{what} returned an array alone", "(sample_rate, samples): write return 24000, samples")
        case _:
            raise MediaError(f"{what} returned {_describe(media)}", AUDIO_GRAMMAR)
    if isinstance(rate, np.ndarray):
        raise MediaError(f"{what} returned (samples, …)", "the sample rate first: (sample_rate, samples)")
    rate = check_sample_rate(rate, f"{what} returned audio with a sample rate")
    samples = as_pcm(samples, layout, what=f"audio from {what}")
    return (rate, samples) if samples.shape[1] else None


def parse_video_emit(item: object, video_format: VideoFormat = "bgr24", *, what: str = "video_emit()") -> VideoEmitted:
    """Sort out what `video_emit` returned (`VideoEmitType`), and make a frame of its picture.

    Args:
        item: Anything.
        video_format: The handler's: arrays are RGB if it is ``"rgb24"``, else BGR.
        what: What returned it, for the error.

    Returns:
        Its frame has format ``bgr24``, ``rgb24`` or ``gray``, or is the very `av.VideoFrame` that was returned.

    Raises:
        MediaError: `item` is not a `VideoEmitType`; the text says what was wrong and what to write instead.
    """
    media, outputs, close = _split(item, what, VIDEO_GRAMMAR)
    frame = None if media is None else _parse_picture(media, video_format, what)
    return VideoEmitted(frame, outputs, close)


def _parse_picture(media: object, video_format: VideoFormat, what: str) -> av.VideoFrame:
    import av

    if isinstance(media, av.VideoFrame):
        _check_size(media.width, media.height, what)
        return media
    if not isinstance(media, np.ndarray):
        raise MediaError(f"{what} returned {_describe(media)}", VIDEO_GRAMMAR)
    grey = media.ndim == 2
    if not grey and (media.ndim != 3 or media.shape[2] != 3):
        cure = ""
        if media.ndim == 3 and media.shape[2] == 4:
            cure = ": write picture[..., :3]"
        elif media.ndim == 3 and media.shape[2] == 1:
            cure = ": write picture[..., 0]"
        elif media.ndim == 3 and media.shape[0] == 3:
            cure = ": write np.moveaxis(picture, 0, -1)"
        raise MediaError(
            f"{what} returned an array of shape {media.shape}", f"(height, width, 3) or (height, width){cure}"
        )
    if not media.size:
        raise MediaError(f"{what} returned an array of shape {media.shape}", "at least one pixel, or None for no frame")
    _check_size(media.shape[1], media.shape[0], what)
    pixels = _to_uint8(media, what)
    # The frame keeps the array itself, so nothing else may use the array. A plain copy takes at most a third of the
    # time of the copy that `VideoFrame.from_ndarray` makes (1 ms less at 640×480).
    owned = pixels.copy(order="C") if pixels is media else np.ascontiguousarray(pixels)
    return av.VideoFrame.from_numpy_buffer(
        owned, format="gray" if grey else "rgb24" if video_format == "rgb24" else "bgr24"
    )


def _check_size(width: int, height: int, what: str) -> None:
    """Refuse sizes that no codec takes."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise MediaError(
            f"{what} returned a picture of {width} × {height} pixels",
            f"1 to {MAX_SIDE:,} pixels a side, {MAX_PIXELS:,} in all: scale it down",
        )


def _to_uint8(pixels: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """`pixels` as uint8, some rows at a time: a large picture needs no second one of wider numbers beside it."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype not in (np.uint16, np.float32):
        cure = ".astype(np.float32)" if pixels.dtype.kind == "f" else ".astype(np.uint8)"
        raise MediaError(
            f"{what} returned a {pixels.dtype.name} picture",
            f"uint8 (0-255), uint16 (0-65535) or float32 (0-255): write picture{cure}",
        )
    out = np.empty(pixels.shape, np.uint8)
    rows = max(1, _PIXELS // max(1, pixels[0].size))
    for begin in range(0, len(pixels), rows):
        band = pixels[begin : begin + rows]
        if band.dtype == np.uint16:
            # 65,535 = 255 * 257, so this is the nearest value for each, and full scale stays full scale.
            out[begin : begin + rows] = (band.astype(np.uint32) + 128) // 257
            continue
        if not np.isfinite(band).all():
            kind = "NaN" if np.isnan(band).any() else "infinity"
            cure = "finite values: write np.nan_to_num(picture)"
            raise MediaError(f"{what} returned a picture with {kind} in it", cure)
        out[begin : begin + rows] = np.rint(np.clip(band, 0, 255))
    return out


def video_to_handler(
    frame: av.VideoFrame, video_format: VideoFormat, converter: PictureConverter
) -> av.VideoFrame | NDArray[Any]:
    """Give a received frame the form that `video_receive` wants.

    Args:
        frame: The frame.
        video_format: The handler's.
        converter: The call's own.

    Returns:
        ``"frame"``: `frame` itself. ``"float32"``: float32, shape (height, width, 3), BGR, 0-255. ``"bgr24"`` and
        ``"rgb24"``: uint8, the same shape. Arrays are writable and nobody else's.
    """
    if video_format == "frame":
        return frame
    pixels = converter.convert(frame, "bgr24" if video_format == "float32" else video_format).to_ndarray()
    return pixels.astype(np.float32) if video_format == "float32" else pixels


def _describe(item: object) -> str:
    """Describe a value of the wrong kind in a few words."""
    if isinstance(item, tuple):
        return f"a tuple of {len(item)}: ({', '.join(type(element).__name__ for element in item)})"
    return (
        f"{item!r:.60} ({type(item).__name__})" if isinstance(item, str | int | float) else f"a {type(item).__name__}"
    )
