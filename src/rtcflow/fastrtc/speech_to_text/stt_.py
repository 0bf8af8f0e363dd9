"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.audio import audio_to_float32
from rtcflow.handlers.turns.vad import AudioChunk
from rtcflow.speech import MoonshineSTT, STTModel, get_stt_model, stt_for_chunks

__all__ = [
    "AudioChunk",
    "MoonshineSTT",
    "STTModel",
    "audio_to_float32",
    "get_stt_model",
    "stt_for_chunks",
]
