"""Speech models: loaders against stand-ins with the real packages' interfaces, and the offline models themselves."""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest

from rtcflow import speech
from rtcflow.speech import espeak
from rtcflow.speech.options import mono_float32, sentences


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def has_espeak() -> bool:
    try:
        espeak.find_speaker()
    except ImportError:
        return False
    return True


needs_espeak = pytest.mark.skipif(not has_espeak(), reason="espeak-ng is not installed")
needs_sphinx = pytest.mark.skipif(not has("pocketsphinx"), reason="pocketsphinx is not installed")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No model is kept from one test to the next."""
    kept: tuple[Any, ...] = (speech.get_stt_model, speech.get_tts_model, espeak.find_speaker)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a stand-in for a package."""

    def install(name: str, **names: Any) -> None:
        module: Any = types.ModuleType(name)
        vars(module).update(names)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, module)

    return install


# -- stand-ins


class Moonshine:
    def __init__(self, model_name: str) -> None:
        self.name, self.given = model_name, []

    def generate(self, audio: Any) -> Any:
        self.given.append(audio)
        return [[1, 2, audio.shape[1]]]


class Tokenizer:
    def decode_batch(self, tokens: Any) -> list[str]:
        return [f"{row[2]} samples" for row in tokens]


def test_moonshine_is_loaded_where_it_is_installed(installed: Any) -> None:
    """Its model is given float32 of shape (1, n) at 16 kHz, whatever the audio was; short audio is filled up."""
    installed("moonshine_onnx", MoonshineOnnxModel=Moonshine, load_tokenizer=Tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = speech.get_stt_model("moonshine/tiny")
    assert isinstance(model, speech.MoonshineSTT)
    assert isinstance(model, speech.STTModel)
    assert speech.get_stt_model("moonshine/tiny") is model
    assert model.stt((48000, np.full((2, 48000), 3000, np.int16))) == "16000 samples"
    assert model.stt((16000, np.zeros(3, np.float32))) == "1600 samples"
    given = model.model.given[-2]
    assert (model.model.name, given.dtype, given.shape) == ("moonshine/tiny", np.float32, (1, 16000))
    assert float(given[0, 8000]) == pytest.approx(3000 / 32768, abs=1e-3)


class Kokoro:
    def __init__(self, model_path: str, voices_path: str) -> None:
        self.paths, self.asked = (model_path, voices_path), []

    def create(self, text: str, voice: str, speed: float, lang: str) -> Any:
        self.asked.append((text, voice, speed, lang, threading.current_thread() is threading.main_thread()))
        return np.full(2400, 0.5, np.float32), 24000


def test_kokoro_is_loaded_where_it_is_installed(installed: Any) -> None:
    """Its files are downloaded by name, or given; options reach it; a stream is one call for each sentence."""
    installed("kokoro_onnx", Kokoro=Kokoro)
    installed("huggingface_hub", hf_hub_download=lambda repository, name: f"{repository}/{name}")
    model: Any = speech.get_tts_model()
    assert isinstance(model, speech.KokoroTTS)
    assert isinstance(model, speech.TTSModel)
    assert model.model.paths == ("fastrtc/kokoro-onnx/kokoro-v1.0.onnx", "fastrtc/kokoro-onnx/voices-v1.0.bin")
    rate, samples = model.tts("Hello.", speech.KokoroTTSOptions(voice="am_adam", speed=1.5, lang="en-gb"))
    assert (rate, samples.shape, samples.dtype) == (24000, (2400,), np.float32)
    assert model.model.asked[-1] == ("Hello.", "am_adam", 1.5, "en-gb", True)
    assert [chunk.size for _, chunk in model.stream_tts_sync("One. Two!")] == [2400, 3600, 2400]
    given: Any = speech.get_tts_model("kokoro", model_path="a", voices_path="b")
    assert given.model.paths == ("a", "b")


@pytest.mark.anyio
async def test_streams_are_computed_in_worker_threads(installed: Any) -> None:
    """`stream_tts` never computes in the event loop's thread; `tts` and `stt` there warn, with the line to write."""
    installed("kokoro_onnx", Kokoro=Kokoro)
    installed("moonshine_onnx", MoonshineOnnxModel=Moonshine, load_tokenizer=Tokenizer)
    model: Any = await anyio.to_thread.run_sync(lambda: speech.KokoroTTS("a", "b"))
    assert [chunk.size async for _, chunk in model.stream_tts("One. Two!")] == [2400, 3600, 2400]
    assert [asked[-1] for asked in model.model.asked] == [False, False]
    with pytest.warns(RuntimeWarning, match=r"stops all calls.*await rtcflow\.speech\.synthesize\(model, text\)"):
        model.tts("Now.")
    with pytest.warns(RuntimeWarning, match=r"async for chunk in model\.stream_tts"):
        next(model.stream_tts_sync("Now."))
    with pytest.warns(RuntimeWarning, match=r"await rtcflow\.speech\.transcribe\(model, audio\)"):
        speech.MoonshineSTT().stt((16000, np.zeros(1600, np.int16)))


class Own:
    """A model of the user's own: it notes the thread, and can wait."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def stt(self, audio: Any) -> str:
        self.threads.append(threading.get_ident())
        self.go_on.wait()
        return f"{audio[0]} Hz"

    def tts(self, text: str, options: Any = None) -> Any:
        self.threads.append(threading.get_ident())
        return 24000, np.zeros(len(text) * (options or 1), np.float32)


@pytest.mark.anyio
async def test_async_code_awaits_models_that_compute_in_worker_threads() -> None:
    """`transcribe` and `synthesize` take any model, and never compute in the event loop's thread."""
    model: Any = Own()
    assert await speech.transcribe(model, (16000, np.zeros(160, np.int16))) == "16000 Hz"
    assert (await speech.synthesize(model, "four", 3))[1].size == 12
    assert len(model.threads) == 2
    assert threading.get_ident() not in model.threads


@pytest.mark.anyio
async def test_cancelling_does_not_wait_for_the_model() -> None:
    """The caller goes on at once; the model's thread ends by itself."""
    model: Any = Own()
    model.go_on.clear()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(speech.transcribe, model, (16000, np.zeros(160, np.int16)))
            while not model.threads:
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    finally:
        model.go_on.set()


def cartesia(respond: Any, key: str | None = "secret") -> Any:
    return speech.CartesiaTTS(key, client=httpx2.Client(transport=httpx2.MockTransport(respond)))


def test_cartesia_is_asked_over_http() -> None:
    """One POST for each sentence, with the options; what comes is 16-bit PCM at the rate that was asked for."""
    import json

    asked = []

    def respond(request: Any) -> Any:
        asked.append((request.headers["x-api-key"], request.headers["cartesia-version"], json.loads(request.content)))
        return httpx2.Response(200, content=np.array([0, 16384, -32768], "<i2").tobytes() + b"\x01")

    options = speech.CartesiaTTSOptions(voice="v", language="fr", emotion=["positivity"], sample_rate=16000)
    rate, samples = cartesia(respond).tts("Bonjour.", options)
    assert (rate, samples.tolist(), samples.dtype) == (16000, [0, 16384, -32768], np.int16)  # as in FastRTC
    chunks = [chunk.dtype for _, chunk in cartesia(respond).stream_tts_sync("Un. Deux.", options)]
    assert chunks == [np.int16] * 3  # a pause is between the two
    del asked[1:]
    ((key, version, body),) = asked
    assert (key, version) == ("secret", "2024-06-10")
    assert body["transcript"] == "Bonjour."
    assert body["language"] == "fr"
    assert body["voice"]["id"] == "v"
    assert body["output_format"] == {"container": "raw", "sample_rate": 16000, "encoding": "pcm_s16le"}


def test_cartesias_refusal_is_an_error_without_the_key() -> None:
    """The status is in it, the key is not; without a key nothing is asked."""
    with pytest.raises(ConnectionError, match="HTTP 402") as caught:
        cartesia(lambda _: httpx2.Response(402, text="pay")).tts("Hi.")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="CARTESIA_API_KEY"):
        speech.CartesiaTTS("")


@pytest.mark.parametrize(
    ("get", "expected"), [(speech.get_stt_model, "'moonshine/base'"), (speech.get_tts_model, "'kokoro'")]
)
def test_unknown_models_are_errors(get: Any, expected: str) -> None:
    """The text lists the names."""
    with pytest.raises(ValueError, match=f"'whisper'; expected .*{expected}"):
        get("whisper")


# -- the offline models


@needs_sphinx
@pytest.mark.skipif(has("moonshine_onnx"), reason="Moonshine is installed")
def test_the_offline_recognizer_stands_in() -> None:
    """One warning says which and why; what is asked for once more is the same model."""
    with pytest.warns(UserWarning, match="Pocketsphinx stands in for moonshine/base: .*fastrtc-moonshine-onnx"):
        model = speech.get_stt_model()
    assert isinstance(model, speech.PocketsphinxSTT)
    assert speech.get_stt_model() is model


@needs_sphinx
def test_a_model_that_does_not_load_is_stood_in_for(installed: Any) -> None:
    """A package that is there but cannot download its model: the warning has its words."""

    def fails(model_name: str) -> None:
        raise OSError(f"no network for {model_name}")

    installed("moonshine_onnx", MoonshineOnnxModel=fails, load_tokenizer=Tokenizer)
    with pytest.warns(UserWarning, match="no network for moonshine/base"):
        assert isinstance(speech.get_stt_model(), speech.PocketsphinxSTT)


@needs_espeak
def test_the_offline_synthesizer_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Kokoro and for Cartesia, with one warning each; the language and the rate asked for count."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kokoro_onnx" else True)
    monkeypatch.delenv("CARTESIA_API_KEY", raising=False)
    with pytest.warns(UserWarning, match="espeak-ng stands in for kokoro: Kokoro needs kokoro-onnx"):
        model: Any = speech.get_tts_model()
    rate, samples = model.tts("Hello there.", speech.KokoroTTSOptions())
    assert (rate, samples.dtype, samples.ndim) == (24000, np.float32, 1)
    assert 0.3 < samples.size / rate < 3
    assert np.abs(samples).max() > 0.1
    slow = model.tts("Hello there.", speech.EspeakTTSOptions(speed=0.5))[1]
    assert slow.size > 1.3 * samples.size
    with pytest.warns(UserWarning, match="stands in for cartesia: no key"):
        other: Any = speech.get_tts_model("cartesia")
    assert other.tts("Oui.", speech.CartesiaTTSOptions(language="fr", sample_rate=16000))[0] == 16000
    with pytest.raises(ValueError, match=r"espeak-ng.*'zz'"):
        model.tts("Hello.", speech.EspeakTTSOptions(voice="zz"))


@needs_espeak
@needs_sphinx
def test_the_offline_models_understand_each_other() -> None:
    """What espeak-ng says, Pocketsphinx reads: some of it. Silence and nothing at all have no words."""
    spoken: Any = speech.get_tts_model("espeak").tts("yes yes yes")
    recognizer = speech.get_stt_model("pocketsphinx")
    assert "yes" in recognizer.stt(spoken)
    assert recognizer.stt((16000, np.zeros(0, np.int16))) == ""
    assert speech.stt_for_chunks(recognizer, (16000, np.zeros(16000, np.int16)), []) == ""


@needs_espeak
def test_the_program_and_the_library_say_the_same() -> None:
    """But for the silence at the end; and the library refuses a voice that it does not have."""
    import ctypes.util
    import shutil

    program, found = shutil.which("espeak-ng"), ctypes.util.find_library("espeak-ng")
    if program is None or found is None:
        pytest.skip("this machine has one of them")
    library = espeak.Library(found, None)
    lengths = [speaker.say("good morning", "en-us", 175)[1].size for speaker in (espeak.Program(program), library)]
    assert lengths[0] == pytest.approx(lengths[1], abs=22050 // 2)
    with pytest.raises(ValueError, match="no voice 'zz'"):
        library.say("hi", "zz", 175)


def test_without_any_model_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors say which extra to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    with pytest.raises(ImportError, match=r"rtcflow\[stt\]"):
        speech.get_stt_model()
    with pytest.raises(ImportError, match=r"rtcflow\[tts\]"):
        speech.get_tts_model()
    with pytest.raises(ImportError, match=r"rtcflow\[tts\]"):
        speech.get_tts_model("espeak")


def test_audio_of_every_kind_becomes_mono_float32() -> None:
    """And what is not audio is an error that says what to give."""
    assert mono_float32((16000, np.full((2, 8), 16384, np.int16)), 16000).tolist() == [0.5] * 8
    assert mono_float32((8000, np.zeros(800, np.float32)), 16000).size == 1600
    with pytest.raises(TypeError, match=r"\(sample_rate, samples\)"):
        mono_float32(np.zeros(3), 16000)
    assert sentences("  ") == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "今日は晴れです。明日は？ 雨！！「はい。」と言った。",
            ["今日は晴れです。", "明日は？", "雨！！", "「はい。」と言った。"],
        ),
        ("你好。GPT 3.5很好。", ["你好。", "GPT 3.5很好。"]),
        ("यह अच्छा है। बहुत अच्छा।", ["यह अच्छा है।", "बहुत अच्छा।"]),
        ("كيف حالك؟ بخير.", ["كيف حالك؟", "بخير."]),
        ("Well… yes. It costs 3.50.", ["Well…", "yes.", "It costs 3.50."]),
    ],
)
def test_sentences_end_at_the_stops_of_their_script(text: str, parts: list[str]) -> None:
    """So the first one of a long text is heard while the others are made."""
    assert sentences(text) == parts
