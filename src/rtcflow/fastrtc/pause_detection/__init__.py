"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.fastrtc._options import SileroVadOptions
from rtcflow.handlers.turns import ModelOptions, PauseDetectionModel, get_silero_model
from rtcflow.handlers.turns.silero import SileroVADModel

__all__ = [
    "ModelOptions",
    "PauseDetectionModel",
    "SileroVADModel",
    "SileroVadOptions",
    "get_silero_model",
]
