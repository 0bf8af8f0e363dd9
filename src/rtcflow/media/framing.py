"""Chunks of any length in, frames of one length out."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..exceptions import MediaError
from .convert import to_channels


class Framer:
    """Cuts audio into frames of `frame_size` samples, keeping the rest for later.

    What comes out, put together, is what went in: nothing is lost, repeated or reordered. At most `frame_size` - 1
    samples wait between calls.

    Args:
        frame_size: Samples per channel in each frame, at least 1.
        channels: 1 or 2; what is fed is brought to it.
    """

    def __init__(self, frame_size: int, channels: int = 1) -> None:
        if frame_size < 1:
            raise MediaError(f"a frame size of {frame_size}", "at least 1 sample")
        self.frame_size = frame_size
        self.channels = channels
        self._chunks: deque[NDArray[np.int16]] = deque()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Samples per channel that wait to make up a frame."""
        return self._waiting

    def feed(self, samples: NDArray[np.int16]) -> list[NDArray[np.int16]]:
        """Add some more, of any length.

        Args:
            samples: int16, shape (channels, n). Must not be changed later: frames may be views of it.

        Returns:
            The frames that are complete now, each int16 of shape (channels, frame_size).
        """
        samples = to_channels(samples, self.channels)
        size = self.frame_size
        if self._waiting + samples.shape[1] < size:
            if samples.shape[1]:
                self._chunks.append(samples)
                self._waiting += samples.shape[1]
            return []
        frames = []
        begin = 0
        if self._waiting:
            begin = size - self._waiting
            frames.append(np.concatenate([*self._chunks, samples[:, :begin]], axis=1))
            self._chunks.clear()
        end = begin + (samples.shape[1] - begin) // size * size
        frames.extend(samples[:, i : i + size] for i in range(begin, end, size))
        self._waiting = samples.shape[1] - end
        if self._waiting:
            self._chunks.append(samples[:, end:])
        return frames

    def flush(self) -> NDArray[np.int16] | None:
        """Give what waits as one last frame, silence at its end, or None if nothing waits. Then begin anew."""
        if not self._waiting:
            return None
        padding = np.zeros((self.channels, self.frame_size - self._waiting), np.int16)
        frame = np.concatenate([*self._chunks, padding], axis=1)
        self.clear()
        return frame

    def clear(self) -> int:
        """Drop what waits; returns how many samples per channel that were."""
        dropped, self._waiting = self._waiting, 0
        self._chunks.clear()
        return dropped
