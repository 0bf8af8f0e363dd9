"""espeak-ng as a program, or as the library that ``rtcflow[tts]`` installs. Text in, int16 samples out.

The program is preferred: it has a process of its own, so several calls speak at once. The library has one voice for the
whole process, so its calls wait for each other.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import shutil
import struct
import subprocess
import threading
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

WORDS_A_MINUTE: Final = 175
"""espeak-ng's normal speed."""

MISSING: Final = "espeak-ng was found neither as a program nor as a library; install it, or rtcflow[tts]"

# Numbers of espeak-ng's C interface (speak_lib.h).
_SYNCHRONOUS, _CHARACTERS, _UTF8, _RATE, _DONT_EXIT = 2, 1, 1, 1, 0x8000


class Speaker(Protocol):
    """Either way to reach espeak-ng."""

    def say(self, text: str, voice: str, words_a_minute: int) -> tuple[int, NDArray[np.int16]]:
        """Speak: ``(sample_rate, samples)``, samples of shape (n,).

        Raises:
            ValueError: There is no such voice.
        """


class Program:
    """espeak-ng as a process for each text."""

    def __init__(self, path: str) -> None:
        self._path = path

    def say(self, text: str, voice: str, words_a_minute: int) -> tuple[int, NDArray[np.int16]]:
        command = [self._path, "--stdin", "--stdout", "-b", "1", "-v", voice, "-s", str(words_a_minute)]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)  # noqa: S603
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip()
            raise ValueError(f"espeak-ng cannot speak with voice {voice!r}: {words}; see espeak-ng --voices")
        return _read_wave(done.stdout)


class Library:
    """espeak-ng within this process."""

    def __init__(self, path: str, data: str | None) -> None:
        self._library: Any = ctypes.CDLL(path)
        self._rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, data and data.encode(), _DONT_EXIT))
        if self._rate <= 0:
            raise ImportError(f"espeak-ng's library {path} does not start: its data are missing")
        self._lock = threading.Lock()
        self._parts: list[bytes] = []
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: int | None, count: int, _: int | None) -> int:
        if samples and count > 0:
            self._parts.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def say(self, text: str, voice: str, words_a_minute: int) -> tuple[int, NDArray[np.int16]]:
        encoded = text.encode()
        with self._lock:
            self._parts.clear()
            if self._library.espeak_SetVoiceByName(voice.encode()):
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            self._library.espeak_SetParameter(_RATE, words_a_minute, 0)
            self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
            self._library.espeak_Synchronize()
            return self._rate, np.frombuffer(b"".join(self._parts), np.int16).copy()


@lru_cache
def find_speaker() -> Speaker:
    """espeak-ng, however this machine has it.

    Raises:
        ImportError: This machine does not have it.
    """
    program = shutil.which("espeak-ng")
    if program is not None:
        return Program(program)
    if importlib.util.find_spec("espeakng_loader") is not None:
        import espeakng_loader  # pyright: ignore[reportMissingImports]

        return Library(espeakng_loader.get_library_path(), espeakng_loader.get_data_path())
    path = ctypes.util.find_library("espeak-ng")
    if path is None:
        raise ImportError(MISSING)
    return Library(path, None)


def _read_wave(content: bytes) -> tuple[int, NDArray[np.int16]]:
    """The rate and the samples of a mono 16-bit WAV whose header may have wrong lengths, since it came by a pipe."""
    start = content.find(b"data")
    if start < 0:
        return 22_050, np.empty(0, np.int16)
    (rate,) = struct.unpack_from("<I", content, content.find(b"fmt ") + 12)
    whole = (len(content) - start - 8) // 2 * 2
    return rate, np.frombuffer(content, "<i2", whole // 2, start + 8).astype(np.int16)
