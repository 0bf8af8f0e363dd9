"""The semantic end of turn, with a stand-in for the model."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from rtcflow.handlers.turns import smart_turn as module
from rtcflow.turns import EnergyVad, SmartTurn, SmartTurnModel, SpeechEnded, SpeechStarted, TurnEnd, TurnEnded

RATE = 48000


def tone(seconds, level=8000):
    at = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 200 * at)).astype(np.int16)[np.newaxis]


def hear(detector, *parts):
    """Feed it in frames of 20 ms; returns (time, event)."""
    pcm = np.concatenate(parts, axis=1)
    found = []
    for at in range(0, pcm.shape[1] - 959, 960):
        events = detector.feed(pcm[:, at : at + 960], RATE, bot_speaking=False)
        found += [((at + 960) / RATE, event) for event in events]
    return found


def detector(answers, heard=None, **options):
    answers = list(answers)

    def end_of_turn(audio):
        if heard is not None:
            heard.append(audio)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return SmartTurn(end_of_turn, vad=EnergyVad(), **options)


SILENCE = 0 * tone(0.6)


def test_a_complete_sentence_ends_at_once_and_a_breath_does_not():
    """No at the first stop, yes at the second: one turn, over 0.2 s after the speech, and not after the pause."""
    heard = []
    events = hear(detector([0.1, 0.9], heard), SILENCE, tone(1.0), SILENCE, tone(1.5), SILENCE)
    assert [event.probability for _, event in events if isinstance(event, SpeechEnded)] == [0.1, 0.9]
    ((at, ended),) = [(at, event) for at, event in events if isinstance(event, TurnEnded)]
    assert ended.reason is TurnEnd.MODEL
    assert ended.speech_end == pytest.approx(3.7, abs=0.06)
    assert at - 3.7 < 0.25
    assert ended.speech == pytest.approx(3.1, abs=0.2)
    assert [audio.size / 16000 for audio in heard] == [pytest.approx(1.6, abs=0.08), pytest.approx(3.7, abs=0.08)]
    assert heard[0].dtype == np.float32
    assert np.abs(heard[0][-1600:]).max() > 0.1, "it ends where the speech did"


def test_only_a_long_pause_ends_a_turn_that_the_model_finds_open():
    """The model is asked once for the stop, however long the silence is."""
    heard = []
    events = hear(detector([0.0], heard, longest_pause=1.0), SILENCE, tone(1.0), SILENCE, SILENCE, SILENCE)
    ((at, ended),) = [(at, event) for at, event in events if isinstance(event, TurnEnded)]
    assert ended.reason is TurnEnd.PAUSE
    assert at == pytest.approx(2.6, abs=0.15)
    assert len(heard) == 1


def test_silence_that_does_not_come_counts():
    """A muted microphone sends nothing: the connection counts it, and the model is asked all the same."""
    turns = detector([0.9])
    assert isinstance(hear(turns, SILENCE, tone(1.0))[0][1], SpeechStarted)
    assert isinstance(turns.silence(0.4)[-1], TurnEnded)


def test_the_model_gets_eight_seconds_at_most_and_little_is_kept():
    """However long somebody talks."""
    heard = []
    turns = detector([0.9], heard)
    hear(turns, SILENCE, tone(12.0), SILENCE)
    assert heard[0].size == 8 * 16000
    assert sum(piece.size for piece in turns._heard) <= (8 + 2) * 16000 + 960


def test_a_turn_after_a_reset_begins_anew():
    """What was said before does not lengthen it."""
    turns = detector([0.9])
    hear(turns, SILENCE, tone(2.0))
    turns.reset()
    events = hear(turns, SILENCE, tone(0.8), SILENCE)
    (ended,) = [event for _, event in events if isinstance(event, TurnEnded)]
    assert ended.speech == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize("answer", [1.5, -0.1, float("nan")])
def test_a_model_that_gives_no_probability_is_named(answer):
    """The error says what it gave."""
    with pytest.raises(ValueError, match="must give a probability"):
        hear(detector([answer]), SILENCE, tone(1.0), SILENCE)


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ("model.onnx", {}, TypeError, "must be a SmartTurnModel or a function"),
        (len, {"sure": 1.0}, ValueError, "between 0 and 1"),
        (len, {"longest_pause": 0.1}, ValueError, "more than 0.2"),
    ],
)
def test_bad_options_are_refused(given, options, error, words):
    """At once, and not in a call."""
    with pytest.raises(error, match=words):
        SmartTurn(given, vad=EnergyVad(), **options)


# -- the model's file


class FakeSession:
    """onnxruntime's session, as far as it is used."""

    shape = ("batch", 80, 800)

    def __init__(self, path, options, providers):
        self.fed = None
        assert options.intra_op_num_threads == 1

    def get_inputs(self):
        return [SimpleNamespace(name="input_features", shape=list(self.shape))]

    def run(self, names, inputs):
        self.fed = inputs["input_features"]
        return [np.array([[0.75]], np.float32)]


@pytest.fixture
def onnx(monkeypatch, tmp_path):
    """A file, and a stand-in for onnxruntime."""
    fake = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=FakeSession)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("seconds", [0.0, 0.5, 8.0, 9.0])
def test_the_model_is_fed_eight_seconds_of_features(onnx, seconds):
    """Shorter audio is padded in front, longer audio loses its beginning; the answer is its probability."""
    model = SmartTurnModel(onnx)
    audio = np.random.default_rng(0).standard_normal(round(seconds * 16000)).astype(np.float32)
    assert model(audio) == 0.75
    fed = model._session.fed
    assert (fed.shape, fed.dtype) == ((1, 80, 800), np.float32)
    assert np.isfinite(fed).all()


def test_another_model_is_refused(onnx, monkeypatch):
    """When it is loaded, with what it takes."""
    monkeypatch.setattr(FakeSession, "shape", ("batch", 1, 512))
    with pytest.raises(ValueError, match="not a Smart Turn v3 model"):
        SmartTurnModel(onnx)


def test_without_onnxruntime_or_a_file_the_error_says_what_to_do(monkeypatch, tmp_path):
    """One line each."""
    with pytest.raises(FileNotFoundError, match="give the path"):
        SmartTurnModel(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime"):
        SmartTurnModel(tmp_path / "a.onnx")


def test_the_features_hear_pitch_and_loudness():
    """A tone of 1 kHz stands out in the 15th of 80 bands of Slaney's scale (3/200 mel per Hz, top 45.2), and nowhere
    else; ten times the loudness changes nothing, because it is brought to unit variance."""
    at = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * at).astype(np.float32)
    features = module.log_mel(tone)
    assert features.shape == (80, 100)
    assert features[:, 50].argmax() == round(15 / (45.245 / 81)) - 1
    assert np.allclose(features, module.log_mel(10 * tone), atol=1e-3)
