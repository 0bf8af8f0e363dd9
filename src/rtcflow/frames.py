"""One period of audio, and the formats it may have. Imports nothing of rtcflow.

A video frame is `av.VideoFrame`: it already carries pixels, format, `pts` and `time_base`, and converts itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

ChannelLayout: TypeAlias = Literal["mono", "stereo"]

CHANNELS: dict[ChannelLayout, int] = {"mono": 1, "stereo": 2}
LAYOUTS: dict[int, ChannelLayout] = {1: "mono", 2: "stereo"}

FRAME_SECONDS = 0.02
"""How long one frame on the wire lasts, in seconds. 20 ms is the default packet time of RFC 7587 (Opus) section 6.1 and
RFC 3551 section 4.2. Telephone carriers use it, too.
"""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How samples are to be read.

    Args:
        sample_rate: Hz.
        layout: ``"mono"`` or ``"stereo"``.
    """

    sample_rate: int
    layout: ChannelLayout = "mono"

    @property
    def channels(self) -> int:
        """Number of channels: 1 or 2."""
        return CHANNELS[self.layout]

    @property
    def frame_size(self) -> int:
        """Samples per channel in one 20 ms frame."""
        return self.sample_rate // 50


class AudioFrame(NamedTuple):
    """Some consecutive audio.

    A named tuple and not a dataclass: one is made per 20 ms and direction, and a tuple is made four times faster.

    Attributes:
        samples: int16, shape (channels, n), full scale ±32768; must not be changed after the frame was handed on.
        sample_rate: Hz.
        pts: Media time of the first sample, counted in samples at `sample_rate`. Later audio has a larger one; a
            jump tells of audio that was lost or never sent.
        concealed: True where the samples were made up because the packet was lost.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    pts: int
    concealed: bool = False

    @property
    def duration(self) -> float:
        """Seconds of audio in this frame."""
        return float(self.samples.shape[1] / self.sample_rate)

    @property
    def format(self) -> AudioFormat:
        """The frame's sample rate and layout."""
        return AudioFormat(self.sample_rate, LAYOUTS[self.samples.shape[0]])
