"""`rtcflow.fastrtc` in FastRTC's place: submodules, names that are not here, and whole programs, unchanged."""

from __future__ import annotations

import ast
import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtcflow import fastrtc
from rtcflow.fastrtc import _absent, utils

PACKAGE = Path(fastrtc.__file__).parent
SUBMODULES = {
    "credentials": ["get_turn_credentials", "get_hf_turn_credentials", "get_cloudflare_turn_credentials_async"],
    "pause_detection": [
        "ModelOptions",
        "PauseDetectionModel",
        "SileroVADModel",
        "SileroVadOptions",
        "get_silero_model",
    ],
    "pause_detection.protocol": ["PauseDetectionModel", "AudioChunk"],
    "pause_detection.silero": ["SileroVADModel", "get_silero_model"],
    "reply_on_pause": [
        *("AdditionalOutputs", "AlgoOptions", "AppState", "EmitType", "ReplyFnGenerator", "ReplyOnPause", "WebRTCData"),
        *("ModelOptions", "PauseDetectionModel", "StreamHandler", "create_message", "get_silero_model", "split_output"),
    ],
    "reply_on_stopwords": ["ReplyOnStopWords", "ReplyOnStopWordsState"],
    "speech_to_text": ["MoonshineSTT", "STTModel", "get_stt_model", "stt_for_chunks"],
    "speech_to_text.stt_": ["STTModel"],
    "stream": ["Body", "Stream", "UIArgs"],
    "text_to_speech": ["KokoroTTSOptions", "TTSModel", "TTSOptions", "get_tts_model"],
    "text_to_speech.tts": ["CartesiaTTSOptions", "KokoroTTSOptions", "TTSModel", "TTSOptions", "get_tts_model"],
    "tracks": [
        *("AsyncAudioVideoStreamHandler", "AsyncStreamHandler", "AudioEmitType", "AudioVideoStreamHandler", "EmitType"),
        *("HandlerType", "StreamHandler", "StreamHandlerBase", "StreamHandlerImpl", "VideoEmitType"),
        "VideoStreamHandler",
    ],
    "utils": [
        *("AdditionalOutputs", "AudioChunk", "CloseStream", "Context", "DataChannel", "RTCConfigurationCallable"),
        *("WebRTCData", "WebRTCError", "audio_to_bytes", "audio_to_float32", "audio_to_int16", "create_message"),
        *("current_context", "get_current_context", "wait_for_item"),
    ],
    "webrtc": ["WebRTC"],
    "webrtc_connection_mixin": ["Body", "WebRTCConnectionMixin"],
    "websocket": ["AdditionalOutputs", "AsyncStreamHandler", "current_context", "split_output"],
}


@pytest.mark.parametrize("module", SUBMODULES)
def test_submodules_have_their_names(module: str) -> None:
    """Each of FastRTC's modules is here, with the names that programs import from it."""
    found = importlib.import_module(f"rtcflow.fastrtc.{module}")
    for name in SUBMODULES[module]:
        assert getattr(found, name) is not None
        if hasattr(fastrtc, name):
            assert getattr(fastrtc, name) is getattr(found, name), name


@pytest.mark.parametrize("module", SUBMODULES)
def test_submodules_import_absolutely(module: str) -> None:
    """So they also load under the name `fastrtc`, whose parent is not `rtcflow`; and they define no class twice."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    path = path if path.exists() else PACKAGE / module / "__init__.py"
    tree = ast.parse(path.read_text())
    assert all(node.level == 0 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def python(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; warnings are no errors in it."""
    command = [sys.executable, *arguments, *(["-c", code] if code else [])]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("from rtcflow.fastrtc import WebSocketHandler", "subclass StreamHandler"),
        ("from rtcflow.fastrtc.websocket import WebSocketHandler", "subclass StreamHandler"),
        ("from rtcflow.fastrtc import OutputQueue", "stream.output_stream(webrtc_id)"),
        ("from rtcflow.fastrtc.tracks import AudioCallback", "subclass StreamHandler"),
        ("from rtcflow.fastrtc.utils import player_worker_decode", "subclass StreamHandler"),
    ],
)
def test_absent_names_explain_themselves_at_their_import(statement: str, text: str) -> None:
    """The explanation is in the traceback of ``from … import``; other names give the usual error."""
    done = python(code=statement)
    assert done.returncode == 1
    assert text in done.stderr
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from rtcflow.fastrtc import nonsense")
    assert not hasattr(fastrtc, "nonsense")


def test_every_absent_name_says_what_to_use() -> None:
    """None of them exists, and each explanation is a sentence."""
    for name, text in _absent.ABSENT.items():
        with pytest.raises(ImportError, match=rf"rtcflow\.fastrtc has no {name}: "):
            getattr(fastrtc, name)
        assert len(text) > 25


def test_it_takes_fastrtcs_place_in_sys_modules() -> None:
    """After `sys.modules["fastrtc"] = rtcflow.fastrtc`, imports of submodules give the same classes."""
    done = python(
        code="""
import sys, rtcflow.fastrtc
sys.modules["fastrtc"] = rtcflow.fastrtc
import fastrtc
from fastrtc import Stream, ReplyOnPause
from fastrtc.utils import AdditionalOutputs, current_context
from fastrtc.reply_on_pause import ReplyOnPause as Same
from fastrtc.pause_detection.silero import get_silero_model
assert AdditionalOutputs is fastrtc.AdditionalOutputs and Same is ReplyOnPause
assert current_context.get() is None
"""
    )
    assert done.returncode == 0, done.stderr


def test_a_program_runs_unchanged(tmp_path: Path) -> None:
    """`python -m rtcflow.fastrtc run app.py ARGUMENT`: its imports, `__main__`, arguments and neighbours work."""
    (tmp_path / "helper.py").write_text("from fastrtc.utils import audio_to_int16\nGREETING = 'hello'\n")
    program = tmp_path / "app.py"
    program.write_text(
        "import sys\nimport fastrtc\nfrom fastrtc import Stream\nfrom helper import GREETING\n"
        "stream = Stream(lambda frame: frame)\n"
        "if __name__ == '__main__':\n    print(GREETING, sys.argv[1:], fastrtc.__name__, stream.modality)\n"
    )
    done = python("-m", "rtcflow.fastrtc", "run", str(program), "now")
    assert done.stdout.strip() == "hello ['now'] rtcflow.fastrtc video", done.stderr
    assert python("-m", "rtcflow.fastrtc").returncode == 2
    missing = python("-m", "rtcflow.fastrtc", "run", str(tmp_path / "none.py"))
    assert (missing.returncode, "there is no file" in missing.stderr) == (2, True)


def test_fastrtc_costs_a_program_no_gradio_and_no_model() -> None:
    """Importing it loads neither Gradio nor a speech model nor a web server."""
    code = "import rtcflow.fastrtc, sys; print(*{'gradio', 'pocketsphinx', 'hypercorn', 'trio'} & sys.modules.keys())"
    assert python(code=code).stdout.strip() == ""


def test_create_message_and_current_context() -> None:
    """The helpers that programs take from `fastrtc.utils`."""
    utils: Any = importlib.import_module("rtcflow.fastrtc.utils")
    assert utils.create_message("log", "x") == '{"type": "log", "data": "x"}'
    assert utils.current_context.get() is None
    with pytest.raises(RuntimeError, match="set_current_context"):
        utils.current_context.set(utils.Context("id"))


def test_a_context_has_no_websocket_and_says_what_it_has() -> None:
    """FastRTC's has one for WebSocket and telephone calls."""
    context: Any = utils.Context("abc")
    with pytest.raises(AttributeError, match="headers, query and remote_address"):
        _ = context.websocket
    with pytest.raises(AttributeError, match="'Context' object has no attribute 'nonsense'"):
        _ = context.nonsense
    assert copy.copy(context) == context


def test_outputs_are_split() -> None:
    """Media, and what comes with them."""
    import numpy as np

    utils: Any = importlib.import_module("rtcflow.fastrtc.utils")
    audio, outputs, end = (24000, np.zeros(3)), fastrtc.AdditionalOutputs(1), fastrtc.CloseStream()
    for given, expected in [
        (audio, (audio, None)),
        ((*audio, "mono"), ((*audio, "mono"), None)),
        (outputs, (None, outputs)),
        ((audio, outputs), (audio, outputs)),
        ((audio, end), (audio, end)),
        (None, (None, None)),
    ]:
        assert utils.split_output(given) == expected
    with pytest.raises(ValueError, match="AdditionalOutputs"):
        utils.split_output((1, 2))


def test_the_wrong_dtype_is_both_errors() -> None:
    """FastRTC's callers catch TypeError; rtcflow's catch ValueError. In range, int16 is FastRTC's to the sample."""
    import numpy as np

    for convert in (fastrtc.audio_to_int16, fastrtc.audio_to_float32):
        for kind in (TypeError, ValueError):
            with pytest.raises(kind, match="Unsupported audio data type: float64"):
                convert(np.zeros(3))
    assert fastrtc.audio_to_int16(np.array([-1, 0, 0.5, 1, 7], np.float32)).tolist() == [-32767, 0, 16383, 32767, 32767]
