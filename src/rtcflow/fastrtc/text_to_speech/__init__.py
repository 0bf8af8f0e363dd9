"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.speech import CartesiaTTSOptions, KokoroTTSOptions, TTSModel, TTSOptions, get_tts_model

__all__ = [
    "CartesiaTTSOptions",
    "KokoroTTSOptions",
    "TTSModel",
    "TTSOptions",
    "get_tts_model",
]
