"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from typing import NoReturn

from rtcflow.audio import async_aggregate_bytes_to_16bit
from rtcflow.fastrtc._absent import absent
from rtcflow.speech import CartesiaTTSOptions, KokoroTTSOptions, TTSModel, TTSOptions, get_tts_model

__all__ = [
    "CartesiaTTSOptions",
    "KokoroTTSOptions",
    "TTSModel",
    "TTSOptions",
    "async_aggregate_bytes_to_16bit",
    "get_tts_model",
]


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
