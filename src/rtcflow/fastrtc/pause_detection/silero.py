"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.audio import audio_to_float32
from rtcflow.fastrtc._options import SileroVadOptions
from rtcflow.handlers.turns import PauseDetectionModel, get_silero_model
from rtcflow.handlers.turns.silero import SileroVADModel
from rtcflow.handlers.turns.vad import AudioChunk

__all__ = [
    "AudioChunk",
    "PauseDetectionModel",
    "SileroVADModel",
    "SileroVadOptions",
    "audio_to_float32",
    "get_silero_model",
]
