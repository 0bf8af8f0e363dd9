"""Speech to text and text to speech, for reply functions: real models if they are installed, offline ones otherwise.

    audio ──→ get_stt_model().stt(audio) ──→ text ──→ your language model ──→ get_tts_model().tts(text) ──→ audio

`STTModel` and `TTSModel` are protocols with FastRTC's methods, so a model of your own needs no base class. Each model
computes in the thread that calls it. Reply functions written with plain ``def`` run in worker threads already. In
``async`` code write ``await transcribe(model, audio)``, ``await synthesize(model, text)`` or ``async for chunk in
model.stream_tts(text)``: they compute in worker threads. `stt` and `tts` return what they computed, so they compute in
the caller's thread. In the event loop's thread they stop all calls, and rtcflow warns about it.

================== =============================== ===============================================
name               needs                           where it computes
================== =============================== ===============================================
moonshine/base     fastrtc-moonshine-onnx          here, after one download of the model
moonshine/tiny     the same                        the same
pocketsphinx       ``rtcflow[stt]``                here, the model is part of the package
kokoro             kokoro-onnx                     here, after one download of the model
cartesia           ``rtcflow[client]``, a key      at Cartesia, over HTTP
espeak             espeak-ng or ``rtcflow[tts]``   here, in a process of its own
================== =============================== ===============================================

espeak-ng is licensed under the GPL 3. rtcflow contains none of it: it starts the program, or loads the library that
the extra ``rtcflow[tts]`` installs.
"""

from .options import CartesiaTTSOptions, EspeakTTSOptions, KokoroTTSOptions, STTModel, TTSModel, TTSOptions
from .recognition import MoonshineSTT, PocketsphinxSTT, get_stt_model, stt_for_chunks, transcribe
from .synthesis import CartesiaTTS, EspeakTTS, KokoroTTS, get_tts_model, synthesize

__all__ = [
    "CartesiaTTS",
    "CartesiaTTSOptions",
    "EspeakTTS",
    "EspeakTTSOptions",
    "KokoroTTS",
    "KokoroTTSOptions",
    "MoonshineSTT",
    "PocketsphinxSTT",
    "STTModel",
    "TTSModel",
    "TTSOptions",
    "get_stt_model",
    "get_tts_model",
    "stt_for_chunks",
    "synthesize",
    "transcribe",
]
