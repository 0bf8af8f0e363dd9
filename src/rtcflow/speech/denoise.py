"""Noise suppression and echo cancellation before turn detection: ``pip install 'rtcflow[denoise]'``.

    from rtcflow import ReplyOnPause
    from rtcflow.speech.denoise import Denoiser, EchoCanceller

    ReplyOnPause(reply, filters=[Denoiser])          # a noisy room
    ReplyOnPause(reply, filters=[EchoCanceller])     # a loudspeaker on a telephone or a WebSocket client

Both are those of WebRTC's audio processing module (what Chrome does to a microphone), from the package
`pywebrtc-audio`. Browsers do both by themselves in WebRTC calls, so these filters are for telephone lines and for
clients of your own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..frames import AudioFormat

try:
    from pywebrtc_audio import AudioProcessor
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError("filters need pywebrtc-audio; install rtcflow[denoise]", name=_error.name) from _error

__all__ = ["Denoiser", "EchoCanceller"]

LEVELS: Final = {6: 0, 12: 1, 18: 2, 21: 3}
"""By how many dB noise may be lowered, and the library's name for it."""

LATENCY: Final = {8000: 0.009, 16000: 0.006}
"""Seconds by which suppression is later, measured: an overlap of its windows, and filters between rates."""

LATENCY_OTHERWISE: Final = 0.007
LATENCY_OF_ECHO: Final = 0.008
"""Seconds that echo cancellation adds: two of its blocks of 4 ms."""


class _Processor:
    """WebRTC's processing of one call, in frames of any length."""

    needs_played: bool = False

    def __init__(self, format: AudioFormat, **options: Any) -> None:
        rate, self._channels = format.sample_rate, format.channels
        self._step = rate // 100  # the module works in steps of 10 ms
        if rate % 100:
            raise ValueError(f"filters need a sample rate that is a multiple of 100 Hz, not {rate}")
        self._processor = AudioProcessor(sample_rate=rate, num_channels=self._channels, **options)
        self._held = np.zeros((self._channels, 0), np.int16)  # filtered, and not given yet
        self._short = np.zeros((self._channels, 0), np.int16)  # not filtered, since a step is not full
        self._short_played = np.zeros((1, 0), np.int16)
        self._rate = rate
        self.latency: float = LATENCY.get(rate, LATENCY_OTHERWISE)

    def feed(self, samples: NDArray[np.int16], played: NDArray[np.int16] | None) -> NDArray[np.int16]:
        """See `AudioFilter.feed`. Frames of other lengths than 10 ms make the audio later by up to 10 ms."""
        n = samples.shape[1]
        if not self._short.shape[1] and not self._held.shape[1] and not n % self._step:
            return self._process(samples, played)
        if not self._held.shape[1] and not self._short.shape[1]:
            self._held = np.zeros((self._channels, self._step - 1), np.int16)
        waiting = np.concatenate([self._short, samples], axis=1)
        reference = None if played is None else np.concatenate([self._short_played, played], axis=1)
        whole = waiting.shape[1] // self._step * self._step
        self._short = waiting[:, whole:]
        if reference is not None:
            self._short_played = reference[:, whole:]
        done = self._process(waiting[:, :whole], None if reference is None else reference[:, :whole])
        self._held = np.concatenate([self._held, done], axis=1)
        out, self._held = self._held[:, :n], self._held[:, n:]
        return np.ascontiguousarray(out)

    def _process(self, samples: NDArray[np.int16], played: NDArray[np.int16] | None) -> NDArray[np.int16]:
        if not samples.shape[1]:
            return samples
        near = np.ascontiguousarray(samples.T).reshape(-1)
        far = None if played is None else np.ascontiguousarray(np.repeat(played, self._channels, axis=0).T).reshape(-1)
        clean = self._processor.process(near, far)
        return np.ascontiguousarray(np.asarray(clean, np.int16).reshape(-1, self._channels).T)


class Denoiser(_Processor):
    """Lowers steady noise: fans, streets, lines. An `AudioFilter`.

    Args:
        format: Of the call's audio; its rate is a multiple of 100 Hz.
        reduction: By how many dB at most: 6, 12, 18 or 21. More takes more of the voice with it.

    Raises:
        ValueError: There is no such reduction, or the rate does not fit.
    """

    def __init__(self, format: AudioFormat, *, reduction: int = 18) -> None:
        if reduction not in LEVELS:
            raise ValueError(f"reduction={reduction!r}; expected 6, 12, 18 or 21 (dB)")
        super().__init__(format, noise_suppression=True, ns_level=LEVELS[reduction])


class EchoCanceller(_Processor):
    """Takes the bot's own voice out of what the caller's microphone hears. An `AudioFilter`.

    It finds out by itself how late the echo is, up to about half a second, within the first seconds of the bot's voice.

    Args:
        format: Of the call's audio; its rate is a multiple of 100 Hz.
        denoise: Whether to lower noise, too (by 18 dB), which costs less than a `Denoiser` behind it.

    Raises:
        ValueError: The rate does not fit.
    """

    needs_played: bool = True

    def __init__(self, format: AudioFormat, *, denoise: bool = True) -> None:
        super().__init__(format, echo_cancellation=True, noise_suppression=denoise, ns_level=2)
        self.latency: float = LATENCY_OF_ECHO + (self.latency if denoise else 0.0)
