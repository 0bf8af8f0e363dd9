"""Counts what the peer really heard of a reply, chunk by chunk. Pure: positions come in, in seconds."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from ..outputs import AudioEmitType

DROPPED = 0.03
"""Seconds. If less than that is missing of what was emitted, a resampler keeps it back; if more, it was dropped."""

WITHOUT_BLANKS = re.compile("[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff01-\uffef\U00020000-\U0003ffff]")
"""Letters of scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese, Yi."""


@dataclass(frozen=True, eq=False)
class Say:
    """Audio that a reply yields together with the words that are spoken in it, for `Heard.text`.

    ``yield Say((24000, samples), "Good morning.")`` stands where ``yield (24000, samples)`` could.

    Args:
        audio: ``(sample_rate, samples)``, as a reply may yield it.
        text: The words in it.
    """

    audio: AudioEmitType
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """How much of a reply has left for the peer.

    The peer hears it later, by the delay of the network and of its jitter buffer. What the peer still buffers at
    `clear_queue` counts as heard. A telephone's carrier, and a WebSocket client that answers marks, confirm what they
    have played. From the first answer on, only what is confirmed counts, in steps of 0.2 s.

    Attributes:
        seconds: Audio that left, or was confirmed.
        total: Audio that was emitted so far.
        text: The words that left. If a chunk was cut, as many whole words as fit the part that left (`whole_words`).
        complete: Everything that was emitted has left, and nothing more will come.
    """

    seconds: float
    total: float
    text: str
    complete: bool


@dataclass(slots=True)
class _PlayedChunk:
    start: float
    end: float
    text: str
    sample_rate: int
    samples: NDArray[np.int16]


class PlayoutLedger:
    """The chunks of one reply, in the order they were emitted, and how far they have been played.

    Chunks are kept only until they have been played, for `rest`: at most what waits to leave. Of played chunks only the
    words are kept.
    """

    def __init__(self) -> None:
        self._said = ""
        self._kept: deque[_PlayedChunk] = deque()
        self._origin = 0.0
        self._played = 0.0
        self._total = 0.0
        self._closed = False

    def begin(self, position: float) -> None:
        """The next chunk will be heard once `position` seconds were played.

        All before it belongs to others. If that is sooner than the chunks so far take, somebody has dropped the rest of
        them: it does not count from now on.
        """
        if position < self._origin + self._total - DROPPED:
            self.rest()
        self._origin = position - self._total

    def add(self, sample_rate: int, samples: NDArray[np.int16], text: str = "") -> None:
        """A chunk was emitted: int16, shape (channels, n)."""
        start, self._total = self._total, self._total + samples.shape[1] / sample_rate
        self._kept.append(_PlayedChunk(start, self._total, text, sample_rate, samples))

    def close(self) -> None:
        """Nothing more will be added."""
        self._closed = True

    def played(self, position: float) -> None:
        """Playing has come to `position`, on the scale of `begin`."""
        self._played = max(self._played, min(position - self._origin, self._total))
        while self._kept and self._kept[0].end <= self._played:
            self._said += self._kept.popleft().text

    def heard(self) -> Heard:
        """What has left by now."""
        text = self._said + "".join(_part(entry, self._played) for entry in self._kept)
        # A resampler may keep back its last 2 ms.
        complete = self._closed and self._played >= self._total - 0.005
        return Heard(self._played, self._total, text, complete)

    def rest(self) -> list[tuple[int, NDArray[np.int16], str]]:
        """Take back the chunks, and parts of chunks, that have not left: (sample rate, samples, text)."""
        chunks = []
        for entry in self._kept:
            heard = _part(entry, self._played)
            self._said += heard
            done = max(0, round((self._played - entry.start) * entry.sample_rate))
            if done < entry.samples.shape[1] or len(heard) < len(entry.text):
                chunks.append((entry.sample_rate, entry.samples[:, done:], entry.text[len(heard) :]))
        self._kept.clear()
        self._total = self._played  # the ledger ends at what has left
        return chunks


def _part(entry: _PlayedChunk, played: float) -> str:
    """The words of `entry` that were spoken when `played` seconds were."""
    if played >= entry.end - 0.005:
        return entry.text
    if played <= entry.start or not entry.text:
        return ""
    return whole_words(entry.text, int(len(entry.text) * (played - entry.start) / (entry.end - entry.start)))


def whole_words(text: str, most: int) -> str:
    """The beginning of `text`: as many whole words as fit into `most` characters.

    Some scripts write no blanks between words: Chinese, Japanese, Thai and their neighbours. There each letter counts,
    with the signs above and below it.

    >>> whole_words("How are you today?", 13)
    'How are you '
    >>> whole_words("明日は雨でしょう。", 4)
    '明日は雨'
    """
    end = min(most, len(text))
    while 0 < end < len(text) and not may_end_word(text[end - 1], text[end]):
        end -= 1
    return text[:end]


def may_end_word(last: str, following: str) -> bool:
    """Whether a word may end between these two characters."""
    if last.isspace() or following.isspace():
        return True
    if category(following).startswith("M"):  # a sign that belongs to the letter before it
        return False
    return bool(WITHOUT_BLANKS.match(last) or WITHOUT_BLANKS.match(following))
