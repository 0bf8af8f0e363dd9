"""Names of FastRTC that rtcflow does not have: importing one explains itself.

The error is an ImportError. ``from module import name`` would throw away the text of an AttributeError.
"""

from __future__ import annotations

from typing import Final, NoReturn

_ENGINE: Final = "rtcflow's own engine does that; subclass StreamHandler, or override Stream's route methods"

ABSENT: Final = {
    "WebSocketHandler": _ENGINE,
    "WebSocketDataChannel": _ENGINE,
    "convert_to_mulaw": _ENGINE,
    "AudioCallback": _ENGINE,
    "VideoCallback": _ENGINE,
    "VideoStreamHandler_": _ENGINE,
    "ServerToClientAudio": _ENGINE,
    "ServerToClientVideo": _ENGINE,
    "OutputQueue": "read stream.output_stream(webrtc_id)",
    "Track": _ENGINE,
    "player_worker_decode": _ENGINE,
    "webrtc_error_handler": "raise WebRTCError(text) in the handler",
    "current_channel": "use the handler's own: handler.channel",
    "KokoroTTSModel": "it is rtcflow.speech.KokoroTTS; get_tts_model('kokoro') makes one",
    "CartesiaTTSModel": "it is rtcflow.speech.CartesiaTTS; get_tts_model('cartesia') makes one",
    "KokoroFixedBatchSize": "kokoro-onnx cuts long texts itself",
    "WebRTCModel": "it is Gradio's; use WebRTCData",
}


def absent(module: str, name: str) -> NoReturn:
    """Raise for `name`, which `module` does not have.

    Raises:
        ImportError: It is a name of FastRTC's; the text says what to use.
        AttributeError: In all other cases.
    """
    if name in ABSENT:
        raise ImportError(f"{module} has no {name}: {ABSENT[name]}", name=module)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
