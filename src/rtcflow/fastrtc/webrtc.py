"""FastRTC's module of this name: the component `WebRTC`, which needs Gradio."""

from typing import Any

from rtcflow.fastrtc._absent import absent


def __getattr__(name: str) -> Any:
    if name == "WebRTC":
        from rtcflow.fastrtc._webrtc import webrtc_class

        return webrtc_class()
    return absent(__name__, name)
