"""`ReplyOnStopWords`: the bot listens for a phrase, such as its name, and answers only what comes after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat
from ...media.resample import Converter
from ...protocol import messages
from .arguments import make
from .detector import TurnDetector, VoiceTurns
from .events import DetectorEvent, StopWordHeard, TurnEnded
from .keywords import KeywordSpotter, PocketsphinxSpotter, check_phrases
from .reply_on_pause import ReplyOnPause
from .vad import VAD_RATE

BEFORE = 0.7
"""Seconds of audio before the speech that the spotter is given, too. The first sounds of a phrase are faint, and speech
is noticed up to 0.2 s late.
"""


class StopWordTurns:
    """A `TurnDetector` that hears no turns until a phrase was said, and then one.

    The spotter works in a worker thread, and only while somebody speaks. So silence costs no more than speech
    detection. (Around a detector that is not `VoiceTurns`, and so does not say when there is any speech at all, it
    works all the time.)

    Args:
        turns: Hears the turn after the phrase.
        spotter: Hears the phrase.
    """

    def __init__(self, turns: TurnDetector, spotter: KeywordSpotter) -> None:
        self._turns, self._spotter = turns, spotter
        self._converter = Converter(AudioFormat(VAD_RATE))
        self._before: deque[tuple[NDArray[np.int16], int]] = deque()  # not converted: most of it nobody will hear
        self._kept = 0.0  # seconds of it
        self._now = self._spotting_since = 0.0
        self._spotting = self._awake = False

    @property
    def blocking(self) -> bool:
        """Whether the spotter is at work, or `turns` is."""
        return self._spotting or self._turns.blocking

    def warmup(self) -> None:
        """Have the spotter load what it needs, if that takes a while; in a worker thread, beside `feed`."""
        warmup = getattr(self._spotter, "warmup", None)
        if warmup is not None:
            warmup()

    def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool = False) -> list[DetectorEvent]:
        """Hear some more; see `TurnDetector`."""
        self._now += samples.shape[1] / sample_rate
        events = self._turns.feed(samples, sample_rate, bot_speaking=bot_speaking)
        return self._after(events) if self._awake else self._spot(samples, sample_rate)

    def _spot(self, samples: NDArray[np.int16], sample_rate: int) -> list[DetectorEvent]:
        self._before.append((samples, sample_rate))
        self._kept += samples.shape[1] / sample_rate
        speech = not isinstance(self._turns, VoiceTurns) or self._turns.tracker.speech_lately
        if not speech:
            if self._spotting:
                self._end_spotting()
            while self._kept > BEFORE + samples.shape[1] / sample_rate:
                oldest, rate = self._before.popleft()
                self._kept -= oldest.shape[1] / rate
            return []
        if not self._spotting:
            # From the next frame on, which a worker thread brings: the spotter gets this one with it.
            self._spotting, self._spotting_since = True, self._now - self._kept
            return []
        heard = [self._converter.feed(part, rate)[0] for part, rate in self._before]
        self._forget()
        hits = self._spotter.feed(np.concatenate(heard))
        if not hits:
            return []
        self._awake = True
        self._end_spotting()
        self._turns.reset()
        return [StopWordHeard(min(self._now, self._spotting_since + hits[-1].end), hits[-1].phrase)]

    def _end_spotting(self) -> None:
        self._spotting = False
        self._spotter.reset()
        self._converter.flush()

    def _forget(self) -> None:
        self._before.clear()
        self._kept = 0.0

    def _after(self, events: list[DetectorEvent]) -> list[DetectorEvent]:
        if any(isinstance(event, TurnEnded) for event in events):
            self._awake = False
        return events

    def silence(self, seconds: float) -> list[DetectorEvent]:
        """Count silence; see `TurnDetector`."""
        self._now += seconds
        self._forget()
        events = self._turns.silence(seconds)
        return self._after(events) if self._awake else []

    def reset(self) -> None:
        """Forget the turn under way, and that the phrase was said."""
        self._awake = False
        self._forget()
        self._end_spotting()
        self._turns.reset()


class ReplyOnStopWords(ReplyOnPause):
    """Waits for one of the given phrases, replies to what is said after it up to a pause, and waits again.

    The page is told by the message ``stopword``. If a reply is under way, the phrase interrupts it.

    Args:
        fn: As for `ReplyOnPause`; given what was said after the phrase.
        stop_words: Words or phrases; upper and lower case and punctuation do not matter.
        startup_fn: As for `ReplyOnPause`, and so are all the others.
        spotter: Makes a `KeywordSpotter` for each connection; None: a `PocketsphinxSpotter`, for English.
        **options: The arguments of `ReplyOnPause`; ``detector`` makes what hears the turn after the phrase.

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
        self.stop_words: list[str] = check_phrases(stop_words)
        self._spotter = spotter
        super().__init__(fn, startup_fn, *args, **options)
        self._settings |= {"stop_words": self.stop_words, "spotter": spotter}

    def _around(self, detector: TurnDetector) -> TurnDetector:
        if self._spotter is None:
            spotter: KeywordSpotter = PocketsphinxSpotter(self.stop_words)
        else:
            spotter = make("spotter", self._spotter, "feed", "reset", kind="KeywordSpotter")
        self._spotter_name = type(spotter).__qualname__
        self._stop_words_heard = StopWordTurns(detector, spotter)
        return self._stop_words_heard

    async def start_up(self) -> None:
        """Play the greeting, and load the recogniser, so that the first words are not late. A checkpoint."""
        await super().start_up()
        try:
            await self.run_sync(self._stop_words_heard.warmup)
        except Exception as error:  # noqa: BLE001  supervises; it fails once more where it is needed, and costs a turn
            self._report(error, "the stop word recogniser", self._spotter_name)

    def _stop_word_heard(self, event: StopWordHeard) -> None:
        self._send_if_open(messages.encode(messages.StopWord(event.phrase)))
        if self.can_interrupt:
            self._do(self._state.interrupt(self.loop.time()))
