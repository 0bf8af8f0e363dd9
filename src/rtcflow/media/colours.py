"""Colour conversion of pictures, by libswscale. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np

if TYPE_CHECKING:
    import av

_THREADS_SINCE: Final = 17
"""The major version of PyAV that shares a conversion among threads by default. Before, there was no choice."""


class PictureConverter:
    """Converts pictures to another pixel format or size, one after the other, in the thread that asks for it.

    libswscale's tables are kept for the formats and the size of the last picture. `av.VideoFrame.reformat` makes them
    again for each picture. By default PyAV also has all processors work on each picture, and each of them is woken for
    it, though other calls need them.

    Not for two threads at once.
    """

    def __init__(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        several = int(av.__version__.partition(".")[0]) >= _THREADS_SINCE
        self._options: dict[str, int] = {"threads": 1} if several else {}

    def convert(
        self, frame: av.VideoFrame, pixel_format: str, width: int | None = None, height: int | None = None
    ) -> av.VideoFrame:
        """`frame` in another format (``"bgr24"``, ``"yuv420p"``, …), with the same `pts` and time base.

        Args:
            frame: The picture; it stays as it is.
            pixel_format: FFmpeg's name of the pixel format.
            width: Pixels; None for the frame's own.
            height: Pixels; None for the frame's own.

        Returns:
            The very frame if it has this format and size.
        """
        return self._reformatter.reformat(frame, width, height, pixel_format, **self._options)

    def own(
        self, frame: av.VideoFrame, pixel_format: str, width: int | None = None, height: int | None = None
    ) -> av.VideoFrame:
        """As `convert`, but never the very frame: for encoders, which write the time and the kind of picture into it.

        A handler may emit one frame again and again, or in several calls.
        """
        made = self.convert(frame, pixel_format, width, height)
        if made is not frame:
            return made
        if any(plane.line_size < 0 for plane in frame.planes):
            # Its rows go from bottom to top, as FFmpeg's `vflip` leaves them. PyAV's buffers then begin in the last
            # row and go on behind the picture, but libswscale reads it. "nv12" has the same samples in another order.
            through = "nv12" if pixel_format == "yuv420p" else "gbrp"
            return self.convert(self.convert(frame, through), pixel_format)
        import av

        own = av.VideoFrame(frame.width, frame.height, pixel_format)
        own.pts = frame.pts
        if frame.time_base:  # a new frame has none
            own.time_base = frame.time_base
        for plane, source in zip(own.planes, frame.planes, strict=True):
            to, of = (np.frombuffer(cast("bytes", one), np.uint8).reshape(one.height, -1) for one in (plane, source))
            n = min(to.shape[1], of.shape[1])  # rows may have different room behind them
            to[:, :n] = of[:, :n]
        return own
