"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.fastrtc._body import (
    Body,
)
from rtcflow.fastrtc._stream import (
    Stream,
    UIArgs,
)

__all__ = [
    "Body",
    "Stream",
    "UIArgs",
]
