"""FastRTC's module of this name: its classes are not here, and say what to use."""

from typing import NoReturn

from rtcflow.fastrtc._absent import absent


def __getattr__(name: str) -> NoReturn:
    absent(__name__, name)
