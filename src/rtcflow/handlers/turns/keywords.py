"""Keyword spotters: the protocol, an offline one, and one made of any speech recogniser."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

from ..ledger import may_end_word
from .vad import VAD_RATE

PHRASE_THRESHOLD, WORD_THRESHOLD = 1e-30, 1.0
"""Pocketsphinx' thresholds. A smaller one finds more, and has more false alarms. Measured on espeak-ng's voices (see
docs/turns.md): phrases of several words cause false alarms from 1e-40 on, single short words from 0.1 on."""

PHONE_LOOP = 1e-4
"""Pocketsphinx' probability of anything but the phrase. With its own, 0.1, half as many phrases were found."""

_FRAMES = 100  # Pocketsphinx' frames in a second


@dataclass(frozen=True, slots=True)
class KeywordHit:
    """A phrase was heard.

    Attributes:
        phrase: The phrase, as it was given.
        end: Seconds from the last `reset` (or the beginning) to the end of the phrase.
    """

    phrase: str
    end: float


class KeywordSpotter(Protocol):
    """Listens for phrases in one conversation. Called in a worker thread; it must not be slower than speech.

    If it has a method ``warmup()``, another worker thread calls that at the beginning, beside `feed`.
    """

    def feed(self, samples: NDArray[np.int16]) -> list[KeywordHit]:
        """Take the next audio: int16, shape (n,), 16 kHz, any n."""

    def reset(self) -> None:
        """Forget what came before: the next audio does not follow it."""


class SpeechToText(Protocol):
    """A speech recogniser, as FastRTC's protocol has it."""

    def stt(self, audio: tuple[int, NDArray[np.int16] | NDArray[np.float32]]) -> str:
        """The words in ``(sample_rate, samples)``, samples of shape (n,) or (1, n)."""


class PocketsphinxSpotter:
    """Finds English phrases offline, with the model inside the package `pocketsphinx` (extra ``rtcflow[stopwords]``).

    A second of speech takes about 25 ms of computing. Each connection takes 30 to 46 MB, and 0.5 to 1 s to load them
    (`warmup`, or at the first sound). It knows American pronunciation, and often misses accents and robot voices.
    Phrases of three syllables or more work best.

    Args:
        phrases: What to listen for. Case and punctuation do not matter.
        threshold: A smaller one finds more, and has more false alarms. None means `PHRASE_THRESHOLD` for phrases, and
            `WORD_THRESHOLD` for single words.

    Raises:
        RuntimeError: The extra is not installed.
        ValueError: There is no phrase, or one has a word that the dictionary does not know.
    """

    def __init__(self, phrases: Sequence[str], threshold: float | None = None) -> None:
        if importlib.util.find_spec("pocketsphinx") is None:
            raise RuntimeError(
                'hearing stop words needs a recogniser: pip install "rtcflow[stopwords]", or give one '
                "(spotter=lambda: TranscribingSpotter(phrases, model))"
            )
        self._phrases = {plain(phrase): phrase for phrase in check_phrases(phrases)}
        unknown = sorted({word for phrase in self._phrases for word in phrase.split()} - _dictionary())
        if unknown:
            raise ValueError(
                f"the recogniser's dictionary has no word {unknown[0]!r}: choose another stop word, or spell it as "
                "words it has (numbers in letters, abbreviations as they are spoken)"
            )
        self._threshold = threshold
        self._decoder: Any = None
        self._loading = threading.Lock()
        self._fed = 0
        self._start = 0  # samples before the present utterance

    def feed(self, samples: NDArray[np.int16]) -> list[KeywordHit]:
        """Take the next audio; see `KeywordSpotter`."""
        self.warmup()
        self._decoder.process_raw(samples.tobytes(), False, False)
        self._fed += samples.size
        hypothesis = self._decoder.hyp()
        if hypothesis is None:
            return []
        ends = [segment.end_frame for segment in self._decoder.seg()]
        end = self._start / VAD_RATE + (ends[-1] + 1) / _FRAMES if ends else self._fed / VAD_RATE
        # Pocketsphinx adds blanks after a phrase, and lists several phrases one after the other.
        heard = plain(hypothesis.hypstr)
        self._decoder.end_utt()
        self._decoder.start_utt()
        self._start = self._fed
        phrase = next((said for key, said in self._phrases.items() if heard.endswith(key)), heard)
        return [KeywordHit(phrase, min(end, self._fed / VAD_RATE))]

    def warmup(self) -> None:
        """Load the model, unless it is loaded; takes up to a second. From any thread."""
        with self._loading:
            if self._decoder is None:
                decoder = self._load()
                decoder.start_utt()
                self._decoder = decoder

    def reset(self) -> None:
        """Begin again; see `KeywordSpotter`."""
        if self._decoder is not None and self._fed:
            self._decoder.end_utt()
            self._decoder.start_utt()
        self._fed = self._start = 0

    def _load(self) -> Any:
        import pocketsphinx

        model = pocketsphinx.get_model_path("en-us")
        decoder = pocketsphinx.Decoder(
            hmm=str(Path(model) / "en-us"),
            dict=str(Path(model) / "cmudict-en-us.dict"),
            lm=None,
            loglevel="FATAL",
            kws_plp=PHONE_LOOP,
        )
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "phrases"
            keys.write_text("".join(f"{key}/{self._threshold_of(key):g}/\n" for key in self._phrases))
            decoder.add_kws("phrases", str(keys))
        decoder.activate_search("phrases")
        return decoder

    def _threshold_of(self, phrase: str) -> float:
        if self._threshold is not None:
            return self._threshold
        return PHRASE_THRESHOLD if " " in phrase else WORD_THRESHOLD


class TranscribingSpotter:
    """Finds phrases with any speech recogniser. Every 0.6 s it transcribes the last two seconds, as FastRTC does.

    Args:
        phrases: What to listen for.
        model: Shared between connections. A worker thread calls its `stt`.
    """

    EVERY, LAST = 0.6, 2.0

    def __init__(self, phrases: Sequence[str], model: SpeechToText) -> None:
        self._phrases = check_phrases(phrases)
        self._model = model
        self.reset()

    def reset(self) -> None:
        """Begin again; see `KeywordSpotter`."""
        self._heard = np.empty(0, np.int16)
        self._fed = self._judged = 0

    def feed(self, samples: NDArray[np.int16]) -> list[KeywordHit]:
        """Take the next audio; see `KeywordSpotter`."""
        self._heard = np.concatenate([self._heard, samples])[-round(self.LAST * VAD_RATE) :]
        self._fed += samples.size
        if self._fed - self._judged < self.EVERY * VAD_RATE:
            return []
        self._judged = self._fed
        found = find_phrase(self._model.stt((VAD_RATE, self._heard)), self._phrases)
        if found is None:
            return []
        self._heard = self._heard[:0]
        return [KeywordHit(found, self._fed / VAD_RATE)]


def find_phrase(text: str, phrases: Sequence[str]) -> str | None:
    """The first of `phrases` that `text` contains as whole words. Case and punctuation do not matter.

    In scripts without blanks between words, nobody can tell whole words from parts: there both count.

    >>> find_phrase("Well, hello... Computer!", ["hello computer"])
    'hello computer'
    >>> find_phrase("ねえコンピューター、聞いて", ["コンピューター"])
    'コンピューター'
    """
    words = f" {plain(text)} "
    return next((phrase for phrase in phrases if _contains(words, plain(phrase))), None)


def _contains(words: str, phrase: str) -> bool:
    begin = words.find(phrase)
    while begin >= 0:
        end = begin + len(phrase)
        if may_end_word(words[begin - 1], phrase[0]) and may_end_word(phrase[-1], words[end]):
            return True
        begin = words.find(phrase, begin + 1)
    return False


def plain(text: str) -> str:
    """`text` in lower case, words separated by single blanks, without punctuation. Accents stay with their letters.

    Signs without a letter are left out: the emoji ❤️ ends with one. So are characters that nobody sees (Unicode's
    category Cf, such as the joiners in Hindi and Persian words).
    """
    letters = [one for one in normalize("NFC", text.lower().replace("’", "'")) if category(one) != "Cf"]
    kept = "".join(char if char == "'" or category(char)[0] in "LMN" else " " for char in letters)
    return " ".join(part.strip("'") for part in kept.split() if any(map(str.isalnum, part)))


def check_phrases(phrases: Sequence[str]) -> list[str]:
    """Return `phrases` as a list.

    Raises:
        TypeError: It is a single string, or not a list of strings.
        ValueError: The list is empty, or has an empty phrase.
    """
    if isinstance(phrases, str):
        raise TypeError(f"stop_words must be a list of phrases; write: [{phrases!r}]")
    if not isinstance(phrases, Iterable):
        raise TypeError(f'stop_words must be a list of phrases, not {phrases!r:.80}; write: ["hello computer"]')
    phrases = list(phrases)
    for phrase in phrases:
        if not isinstance(phrase, str):
            raise TypeError(f'stop_words must be strings, not {phrase!r:.80}; write: ["hello computer"]')
    if not phrases or not all(plain(phrase) for phrase in phrases):
        raise ValueError(f"stop_words={phrases!r}: give at least one phrase, each with a word in it")
    return phrases


@lru_cache(maxsize=1)
def _dictionary() -> frozenset[str]:
    import pocketsphinx

    path = Path(pocketsphinx.get_model_path("en-us")) / "cmudict-en-us.dict"
    return frozenset(line.split(" ", 1)[0] for line in path.read_text(encoding="utf-8").splitlines())
