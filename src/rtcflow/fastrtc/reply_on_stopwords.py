"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.fastrtc._reply import (
    ReplyOnStopWords,
    ReplyOnStopWordsState,
)

__all__ = [
    "ReplyOnStopWords",
    "ReplyOnStopWordsState",
]
