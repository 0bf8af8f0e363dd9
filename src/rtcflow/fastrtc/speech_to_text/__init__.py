"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.speech import MoonshineSTT, STTModel, get_stt_model, stt_for_chunks

__all__ = [
    "MoonshineSTT",
    "STTModel",
    "get_stt_model",
    "stt_for_chunks",
]
