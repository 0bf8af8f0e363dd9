"""ReplyOnStopWords: found in speech, offline; nothing is replied to before."""

from __future__ import annotations

import importlib.util
import json
import threading

import anyio
import numpy as np
import pytest
import turn_corpus

from rtcflow.connection.connection import Connection, Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.turns import (
    EnergyVad,
    PocketsphinxSpotter,
    ReplyOnStopWords,
    ReplyStarted,
    SpeechEnded,
    SpeechStarted,
    StopWordHeard,
    TurnEnded,
    VoiceTurns,
)
from rtcflow.handlers.turns.keywords import KeywordHit
from rtcflow.handlers.turns.reply_on_stop_words import StopWordTurns
from rtcflow.media.resample import Resampler
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend
from rtcflow.transports.memory import memory_pair

needs_pocketsphinx = pytest.mark.skipif(
    importlib.util.find_spec("pocketsphinx") is None, reason="the extra rtcflow[stopwords] is not installed"
)
needs_espeak = pytest.mark.skipif(not turn_corpus.HAS_ESPEAK, reason="espeak-ng is not installed")
PHRASES = ["stop the music", "hey robot", "okay assistant"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def reply(audio):
    yield 24000, np.full((1, 2400), 1000, np.int16)


class At:
    """A spotter that hears its phrase after so many seconds of what it was given."""

    def __init__(self, *times):
        self.times = list(times)
        self.now = 0.0

    def feed(self, samples):
        self.now += samples.size / 16000
        if self.times and self.now >= self.times[0]:
            return [KeywordHit("hello computer", self.times.pop(0))]
        return []

    def reset(self):
        self.now = 0.0


def tone(seconds, level=8000):
    return (level * np.sin(np.arange(round(seconds * 48000)) / 7)).astype(np.int16)[np.newaxis]


def feed(detector, audio):
    """All events of `audio`, in frames of 20 ms."""
    parts = [audio[:, at : at + 960] for at in range(0, audio.shape[1], 960)]
    return [event for part in parts for event in detector.feed(part, 48000, bot_speaking=False)]


def test_the_phrase_opens_one_turn():
    """Speech before it is no turn, the speech after it is one, and then the phrase is needed again."""
    detector = StopWordTurns(VoiceTurns(EnergyVad()), At(1.0))
    said = np.concatenate([tone(1, 0), tone(2), tone(1, 0)], axis=1)
    first = feed(detector, said)
    # The spotter heard the 0.7 s before the speech was noticed, too: 0.3 s of speech are over at the phrase's end.
    (heard,) = [event for event in first if isinstance(event, StopWordHeard)]
    assert heard.at == pytest.approx(1.4, abs=0.15)
    assert [type(event) for event in first] == [StopWordHeard, SpeechStarted, SpeechEnded, TurnEnded]
    assert feed(detector, said) == []


def test_silence_is_not_searched():
    """The spotter is given what is said, and 0.7 s before, and nothing else."""
    spotter = At()
    detector = StopWordTurns(VoiceTurns(EnergyVad()), spotter)
    spotter.reset = lambda: None
    feed(detector, tone(30, 0))
    assert spotter.now == 0
    feed(detector, tone(1))
    feed(detector, tone(30, 0))
    assert 1.5 <= spotter.now <= 3


def test_a_thread_is_needed_only_while_somebody_speaks():
    """In silence nothing hops to a worker thread; the frame in which speech begins is not the spotter's first."""
    spotter = At()
    spotter.reset = lambda: None
    detector = StopWordTurns(VoiceTurns(EnergyVad()), spotter)
    hops = []
    for audio in (tone(2, 0), tone(1), tone(3, 0)):
        for at in range(0, audio.shape[1], 960):
            before, hopped = spotter.now, detector.blocking
            hops.append(hopped)
            detector.feed(audio[:, at : at + 960], 48000, bot_speaking=False)
            assert hopped or spotter.now == before
    assert True not in hops[:100]
    assert True not in hops[-80:]
    assert sum(hops) > 50


class Turns:
    """A turn detector of one's own, in whose ear there always is speech."""

    blocking = False

    def feed(self, samples, sample_rate, *, bot_speaking):
        return []

    def silence(self, seconds):
        return []

    def reset(self):
        pass


def test_a_detector_of_ones_own_hears_the_turn_after_the_phrase():
    """`detector` does not take the place of the stop words."""
    handler = ReplyOnStopWords(reply, ["hello computer"], detector=Turns, spotter=lambda: At(1.0))
    assert isinstance(handler._detector, StopWordTurns)
    events = feed(handler._detector, tone(2))
    assert [event.phrase for event in events] == ["hello computer"]


@pytest.mark.anyio
async def test_the_recogniser_is_loaded_at_the_beginning(caplog):
    """`warmup` is called in a worker thread before anybody speaks; what it raises costs no call."""
    threads = []

    class Slow(At):
        def warmup(self):
            threads.append(threading.get_ident())
            raise MemoryError("no room for a model")

    async with open_caller(ReplyOnStopWords(reply, ["hey"], model=EnergyVad(), spotter=Slow)) as caller:
        await caller.wait(1)
        assert caller.connection.end is None
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert "the stop word recogniser" in caplog.text
    assert "Slow failed" in caplog.text


@needs_pocketsphinx
@needs_espeak
@pytest.mark.anyio
async def test_a_spoken_phrase_starts_a_turn_in_a_call():
    """Pocketsphinx in a connection: nothing is answered before the phrase, what follows it is; then it waits again."""
    events, given = [], []

    def fn(audio):
        given.append(audio[1].shape[1] / audio[0])
        yield from reply(audio)

    handler = ReplyOnStopWords(fn, PHRASES, model=EnergyVad(), on_event=events.append)
    talk, phrase = turn_corpus.speak("the train to London leaves at noon", "en-us+f2"), "stop the music"
    gap = np.zeros(48000, np.float32)
    said = [gap, talk, gap, turn_corpus.speak(phrase, "en-us+f2"), gap[:9600], talk, gap, talk, gap]
    async with open_caller(handler, sample_rate=48000) as caller:
        await caller.play((np.concatenate(said) * 3 * 32767).clip(-32768, 32767).astype(np.int16)[np.newaxis])
    assert [event.phrase for event in events if isinstance(event, StopWordHeard)] == [phrase]
    assert [type(event) for event in events].count(ReplyStarted) == 1
    assert given == [pytest.approx(0.2 + len(talk) / 48000 + 0.5, abs=0.3)]


@pytest.mark.anyio
async def test_only_what_comes_after_the_phrase_is_replied_to(monkeypatch):
    """Speech before it starts no reply; `stopword` is sent; fn is given the audio from the phrase's end on."""
    monkeypatch.setattr(StopWordTurns, "blocking", False)  # no thread: time is virtual
    given, events = [], []

    def fn(audio):
        given.append(audio[1].shape[1] / audio[0])
        yield from reply(audio)

    handler = ReplyOnStopWords(
        fn, ["hello computer"], model=EnergyVad(), spotter=lambda: At(1.0), on_event=events.append
    )
    frame = tone(0.02)
    messages = []
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(24000), AudioFormat(48000))
        connection = Connection(ours, handler, timeouts=Timeouts(shutdown=0.5, grace=0.1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            await anyio.sleep(0.1)
            for index in range(500):  # 1 s silence, 2 s speech, 1 s silence, 2 s speech, silence
                talking = 50 <= index < 150 or 200 <= index < 300
                theirs.audio_out.put(AudioFrame(frame if talking else np.zeros_like(frame), 48000, 0))
                await anyio.sleep(0.02)
            while theirs.messages_in.statistics().waiting:
                messages.append(json.loads(await theirs.messages_in.take()))
            connection.close()
            await connection.wait_ended()
    kinds = [type(event) for event in events]
    assert kinds.count(StopWordHeard) == 1
    assert kinds.count(ReplyStarted) == 1
    assert kinds.index(StopWordHeard) < kinds.index(ReplyStarted)
    assert {"type": "stopword", "data": "hello computer"} in messages
    # 0.3 to 0.5 s of the speech are over at the phrase's end; the rest of it follows, and the pause.
    assert given == [pytest.approx(1.6 + 0.5, abs=0.2)]


@needs_pocketsphinx
@needs_espeak
def test_spoken_phrases_are_found_and_nothing_else():
    """Two clear American voices: five of six phrases are hit, none is mistaken; a minute of other talk: no alarm."""
    hits = wrong = 0
    spotter = PocketsphinxSpotter(PHRASES)
    for voice in ("en-us+f2", "en-us+f5"):
        for phrase in PHRASES:
            said = np.concatenate([np.zeros(24000), turn_corpus.speak(phrase, voice, 160) * 3, np.zeros(24000)])
            found = [hit for part in _at_16k(said) for hit in spotter.feed(part)]
            spotter.reset()
            hits += any(hit.phrase == phrase for hit in found)
            wrong += any(hit.phrase != phrase for hit in found)
            assert all(0.5 <= hit.end <= len(said) / 48000 for hit in found)
    assert hits >= 5
    assert wrong == 0
    talk = turn_corpus.conversation(5, 12).audio * 3
    assert [hit for part in _at_16k(talk) for hit in spotter.feed(part)] == []


def _at_16k(audio):
    pcm = (np.clip(audio, -1, 0.99) * 32767).astype(np.int16)[np.newaxis]
    heard = Resampler(AudioFormat(48000), AudioFormat(16000)).feed(pcm)[0]
    return [heard[at : at + 320] for at in range(0, len(heard), 320)]


@needs_pocketsphinx
def test_words_the_recogniser_does_not_know_are_refused():
    """At construction, naming the word."""
    with pytest.raises(ValueError, match="'xyzzyx'"):
        ReplyOnStopWords(reply, ["hey xyzzyx"], model=EnergyVad())


@pytest.mark.parametrize(
    ("phrases", "error"),
    [
        ([], ValueError),
        (["..."], ValueError),
        (["❤\ufe0f"], ValueError),
        ("stop", TypeError),
        ([1], TypeError),
        (None, TypeError),
    ],
)
def test_stop_words_must_be_phrases(phrases, error):
    """None, an empty one, or a bare string: refused at construction."""
    with pytest.raises(error, match="stop_words"):
        ReplyOnStopWords(reply, phrases, model=EnergyVad())


def test_a_missing_extra_is_named(monkeypatch):
    """Without a recogniser the error names the extra and the alternative."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"rtcflow\[stopwords\].*TranscribingSpotter"):
        ReplyOnStopWords(reply, ["stop the music"], model=EnergyVad())


def test_a_copy_listens_for_the_same():
    """Each connection gets a spotter of its own."""
    handler = ReplyOnStopWords(reply, ["hello computer"], model=EnergyVad(), spotter=At)
    copy = handler.copy()
    assert copy.stop_words == ["hello computer"]
    assert copy._detector is not handler._detector
