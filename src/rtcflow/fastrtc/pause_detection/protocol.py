"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.handlers.turns import ModelOptions, PauseDetectionModel
from rtcflow.handlers.turns.vad import AudioChunk

__all__ = [
    "AudioChunk",
    "ModelOptions",
    "PauseDetectionModel",
]
