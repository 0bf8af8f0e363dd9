"""`ReplyOnStopWords`: nothing is said to the bot before its name is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.resample import Converter
from ...protocol import messages
from .detector import DetectorEvent, StopWordHeard, TurnDetector, TurnEnded, VoiceTurns
from .keywords import KeywordSpotter, PocketsphinxSpotter, check_phrases
from .reply_on_pause import ReplyOnPause
from .vad import VAD_RATE

BEFORE = 0.5
"""Seconds of audio before somebody speaks that the spotter is given, too: a phrase's first sounds are faint."""


class StopWordTurns:
    """A `TurnDetector` that hears no turns until a phrase was said, and then one.

    The spotter works only while somebody speaks: silence costs what speech detection costs.

    Args:
        turns: Hears the turn after the phrase.
        spotter: Hears the phrase.
    """

    blocking = True

    def __init__(self, turns: TurnDetector, spotter: KeywordSpotter) -> None:
        self._turns, self._spotter = turns, spotter
        self._converter = Converter(AudioFormat(VAD_RATE))
        self._before: deque[NDArray[np.int16]] = deque()
        self._now = self._spotting_since = 0.0
        self._spotting = self._awake = False

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Hear some more; see `TurnDetector`."""
        self._now += samples.shape[1] / sample_rate
        events = self._turns.feed(samples, sample_rate, bot_speaking=bot_speaking)
        heard = self._converter.feed(samples, sample_rate)[0]
        return self._after(events) if self._awake else self._spot(heard)

    def _spot(self, heard: NDArray[np.int16]) -> list[DetectorEvent]:
        speech = not isinstance(self._turns, VoiceTurns) or self._turns.tracker.speech_lately
        if not speech:
            if self._spotting:
                self._spotting = False
                self._spotter.reset()
            self._before.append(heard)
            while sum(part.size for part in self._before) > BEFORE * VAD_RATE:
                self._before.popleft()
            return []
        if not self._spotting:
            self._spotting = True
            heard = np.concatenate([*self._before, heard])
            self._before.clear()
            self._spotting_since = self._now - heard.size / VAD_RATE
        hits = self._spotter.feed(heard)
        if not hits:
            return []
        self._awake, self._spotting = True, False
        self._spotter.reset()
        self._turns.reset()
        return [StopWordHeard(min(self._now, self._spotting_since + hits[-1].end), hits[-1].phrase)]

    def _after(self, events: list[DetectorEvent]) -> list[DetectorEvent]:
        if any(isinstance(event, TurnEnded) for event in events):
            self._awake = False
        return events

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`."""
        self._now += seconds
        events = self._turns.silence(seconds)
        return self._after(events) if self._awake else []

    def reset(self) -> None:
        """Forget the turn under way, and that the phrase was said."""
        self._awake = self._spotting = False
        self._turns.reset()
        self._spotter.reset()


class ReplyOnStopWords(ReplyOnPause):
    """Waits for one of the given phrases; what is said after it, up to a pause, is replied to; then waits again.

    The page is told by the message ``stopword``. Where a reply is under way, the phrase interrupts it.

    Args:
        fn: As for `ReplyOnPause`; given what was said after the phrase.
        stop_words: Words or phrases; upper and lower case and punctuation do not matter.
        startup_fn: As for `ReplyOnPause`, and so are all the others.
        spotter: Makes a `KeywordSpotter` for each connection; None: a `PocketsphinxSpotter`, for English.
        **options: The arguments of `ReplyOnPause`.

    Raises:
        ValueError: There is no stop word, or the recogniser does not know it.
        RuntimeError: An extra is not installed: ``rtcflow[stopwords]`` or ``rtcflow[vad]``.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        stop_words: Sequence[str],
        startup_fn: Callable[..., Any] | None = None,
        *args: Any,
        spotter: Callable[[], KeywordSpotter] | None = None,
        **options: Any,
    ) -> None:
        self.stop_words = check_phrases(stop_words)
        self._spotter = spotter
        super().__init__(fn, startup_fn, *args, **options)
        self._settings |= {"stop_words": self.stop_words, "spotter": spotter}

    def _make_detector(self) -> TurnDetector:
        spotter = PocketsphinxSpotter(self.stop_words) if self._spotter is None else self._spotter()
        return StopWordTurns(super()._make_detector(), spotter)

    def _stop_word_heard(self, event: StopWordHeard) -> None:
        super()._stop_word_heard(event)
        self._send(messages.encode(messages.StopWord(event.phrase)))
        if self.can_interrupt:
            self._interrupt()
