"""Stand-ins for packages that FastRTC's programs import and that are not installed: clouds, models, Gradio.

A stub takes any attribute, call, iteration, `await` and `with`. Where its path speaks of sound it gives a tone; else
text. A few packages whose answers have a shape of their own (Gradio, live sessions, librosa) have stubs by hand.
"""

from __future__ import annotations

import base64
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import struct
import sys
import types
from pathlib import Path
from typing import Any, Self

import numpy as np

SECRETS = dict.fromkeys(
    (
        *("OPENAI_API_KEY", "GROQ_API_KEY", "ANTHROPIC_API_KEY", "ELEVENLABS_API_KEY", "GEMINI_API_KEY", "HF_TOKEN"),
        *("GOOGLE_API_KEY", "SAMBANOVA_API_KEY", "MODELSCOPE_API_KEY", "PHONIC_API_KEY", "TWILIO_ACCOUNT_SID"),
        *("TWILIO_AUTH_TOKEN", "DEEPGRAM_API_KEY", "LLM_API_KEY", "RIME_API_KEY", "API_KEY"),
        *("DASHSCOPE_API_KEY", "AZURE_OPENAI_API_KEY", "TURN_KEY_ID", "TURN_KEY_API_TOKEN", "LLM_MODEL", "VOICE_ID"),
    ),
    "stub",
) | {"AZURE_OPENAI_ENDPOINT": "https://example.invalid", "APP_MODE": "", "MODE": "UI", "LLM_BASE_URL": "http://stub"}

RATES = {"sr", "sample_rate", "sampling_rate", "rate", "samplerate", "framerate", "frame_rate"}
SECRET = re.compile(r"(KEY|TOKEN|SID|SECRET|VOICE_ID|URL|ENDPOINT)$")
TONE = (8000 * np.sin(np.arange(24000) * 0.1)).astype(np.int16)
"""A second of sound at 24 kHz."""
WAVE = struct.pack(
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 48036, b"WAVE", b"fmt ", 16, 1, 1, 24000, 48000, 2, 16, b"data", 48000
)
WAVE += TONE.tobytes()
"""The same as a file: whoever takes it for samples hears the header, too, which is 22 of them."""
SOUND = re.compile(r"tts|speech|audio|voice|synth|speak|convert|sonic|wav|kokoro|chatterbox|generate\b", re.IGNORECASE)
TEXT = re.compile(r"transcri|stt|recogni|chat|completion|messages|text\b|llm|translat", re.IGNORECASE)
FAILURE = re.compile(r"^[A-Z]\w*(Error|Exception|Timeout|Disconnect|Closed|ClosedOK)$")
SHOUTED = re.compile(r"[A-Z][A-Za-z0-9]*[a-z0-9][A-Za-z0-9]*|[A-Z]")


class Stub(str):
    """A value of a package that is not here; as a text it says hello."""

    __slots__ = ("_path",)

    def __new__(cls, path: str) -> Self:
        made = str.__new__(cls, "hello there")
        made._path = path
        return made

    @property
    def _sounds(self) -> bool:
        return bool(SOUND.search(self._path)) and not TEXT.search(self._path.rpartition(".")[2])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in RATES:
            return 24000
        return type(name, (Exception,), {}) if FAILURE.search(name) else Stub(f"{self._path}.{name}")

    def __call__(self, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and not options and isinstance(args[0], types.FunctionType | type):
            return args[0]  # a decorator
        last = self._path.rpartition(".")[2]
        if self._sounds and last in {"numpy", "detach", "cpu", "squeeze"}:
            return TONE.astype(np.float32) / 32768
        if self._sounds and last in {"read", "tobytes", "getvalue"}:
            return WAVE
        made = Stub(f"{self._path}()")
        if "json" in str(options.get("response_format", "")).lower():
            return _Json(made._path)
        return made

    @property
    def content(self) -> Any:
        return WAVE if self._sounds else Stub(f"{self._path}.content")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return TONE.astype(np.float32) / 32768

    def __iter__(self) -> Any:
        if self._sounds:
            return iter([TONE[n : n + 2400].tobytes() for n in range(0, TONE.size, 2400)])
        return iter([Stub(f"{self._path}[]") for _ in range(2)])

    def __getitem__(self, key: Any) -> Any:
        return Stub(f"{self._path}[]")

    def __aiter__(self) -> Any:
        return _later(iter(self))

    def __await__(self) -> Any:
        yield from ()
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __int__(self) -> int:
        return 1

    def __float__(self) -> float:
        return 1.0

    __index__ = __int__

    def __sub__(self, other: Any) -> Any:
        return 1

    __rsub__ = __truediv__ = __rtruediv__ = __floordiv__ = __sub__

    def __lt__(self, _: Any) -> bool:
        return False

    __gt__ = __lt__

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return (StubObject,)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_path":
            object.__setattr__(self, name, value)


class _Json(Stub):
    """An answer that was asked for as JSON."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Json(f"{self._path}.{name}")

    def __getitem__(self, key: Any) -> Any:
        return _Json(f"{self._path}[]")

    @property
    def content(self) -> Any:
        return json.dumps(dict.fromkeys(("short", "long", "text", "response", "message", "answer"), "hello there"))


async def _later(items: Any) -> Any:
    for item in items:
        yield item


class _StubType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"{cls.__module__}.{cls.__name__}.{name}")

    def __getitem__(cls, _: Any) -> Any:
        return cls


class StubObject(metaclass=_StubType):
    """An object of a class that is not here."""

    def __init__(self, *args: Any, **options: Any) -> None:
        vars(self).update(options)

    @property
    def _stub(self) -> Stub:
        return Stub(f"{type(self).__module__}.{type(self).__name__}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._stub, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._stub(*args, **options)

    def __iter__(self) -> Any:
        return iter(self._stub)

    def __getitem__(self, key: Any) -> Any:
        return self._stub[key]

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None: ...


class StubModule(types.ModuleType):
    """A module that is not here: classes for names that look like classes, stubs for the others."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "1.0"
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in BY_HAND or name in {"exceptions", "errors", "types"}:
            made: Any = importlib.import_module(f"{self.__name__}.{name}")
        elif FAILURE.search(name):
            made = type(name, (Exception,), {"__module__": self.__name__})
        elif SHOUTED.fullmatch(name) and not name.isupper():
            made = _StubType(name, (StubObject,), {"__module__": self.__name__})
        else:
            made = Stub(f"{self.__name__}.{name}")
        if self.__name__ == "gradio" and isinstance(made, _StubType):
            made = type(name, (self.Component,), {})  # every one of Gradio's classes takes events
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds whatever nobody else found; it comes last."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        root = name.partition(".")[0]
        if root in KEPT or root in sys.stdlib_module_names or root in NEIGHBOURS:
            return None
        if root in sys.modules and not isinstance(sys.modules[root], StubModule):
            return None
        if not isinstance(sys.modules.get(root), StubModule) and not _program_asks():
            return None  # what is installed finds out by itself what it can do without
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return StubModule(spec.name)

    def exec_module(self, module: Any) -> None:
        by_hand = BY_HAND.get(module.__name__)
        if by_hand is not None:
            by_hand(module)


def _program_asks() -> bool:
    """Whether the import stands in a program, and not in an installed package or the standard library."""
    frame: Any = sys._getframe(2)
    while frame is not None and ("importlib" in frame.f_code.co_filename or "<frozen" in frame.f_code.co_filename):
        frame = frame.f_back
    where = "" if frame is None else frame.f_code.co_filename
    return "site-packages" not in where and not where.startswith((LIBRARY, HERE))


LIBRARY = str(Path(json.__file__).parents[1])
HERE = str(Path(__file__).parents[1]) + "/"
KEPT = {"rtcflow", "fastrtc", "uvloop", "trio", "fastrtc_moonshine_onnx", "numpy"}
"""Packages that are never stubbed."""
NEIGHBOURS: set[str] = set()
"""Folders of the program's own: that they cannot be imported is an answer, too."""
SENTENCE = "hello computer"
"""What the stub of Moonshine understands: its model cannot be had without a hub."""


def install(program: Path) -> None:
    """Stub what is missing from now on."""
    NEIGHBOURS.update(folder.name for parent in list(program.parents)[:4] for folder in parent.iterdir())
    sys.meta_path.append(Finder())
    given = os.environ.get
    os.environ.get = lambda name, default=None: given(name, "stub" if SECRET.search(name) else default)  # type: ignore[method-assign]
    os.getenv = os.environ.get
    for name in ("requests", "aiohttp"):
        module = StubModule(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        BY_HAND[name](module)
        sys.modules[name] = module
    moonshine: Any = StubModule("moonshine_onnx")
    moonshine.__spec__ = importlib.machinery.ModuleSpec("moonshine_onnx", None)
    _moonshine(moonshine)
    sys.modules["moonshine_onnx"] = moonshine


# -- by hand


def _gradio(module: Any) -> None:
    class Component:
        def __init__(self, *_: Any, **options: Any) -> None:
            vars(self).update(value=options.get("value"))

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return lambda *_, **__: Component()

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    class Blocks(Component):
        app = None

        def launch(self, *_: Any, **__: Any) -> Any:
            return None, "", None

        def render(self) -> None: ...

    def mount_gradio_app(app: Any, blocks: Any, path: str, **_: Any) -> Any:
        if blocks.app is not None:
            app.mount(path, blocks.app)
        return app

    module.Blocks, module.Component, module.mount_gradio_app = Blocks, Component, mount_gradio_app
    module.components = module
    module.themes = Stub("gradio.themes")
    for name in (
        *("Accordion", "Audio", "Button", "Chatbot", "Checkbox", "Code", "Column", "Dropdown", "File", "Group", "HTML"),
        *("Image", "JSON", "Label", "Markdown", "Microphone", "Number", "Plot", "Radio", "Row", "Sidebar", "Slider"),
        *("State", "Tab", "TabItem", "Tabs", "Text", "Textbox", "Timer", "Video", "Dataframe", "Gallery", "Info"),
    ):
        setattr(module, name, type(name, (Component,), {}))
    module.update = lambda **options: options


def _moonshine(module: Any) -> None:
    class Tokenizer:
        def decode_batch(self, tokens: Any) -> list[str]:
            return [SENTENCE]

    class MoonshineOnnxModel:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def generate(self, audio: Any) -> Any:
            assert audio.ndim == 2
            return [[1]]

    module.MoonshineOnnxModel, module.load_tokenizer = MoonshineOnnxModel, Tokenizer
    module.load_audio = lambda *_: np.zeros((1, 16000), np.float32)


def _aiohttp(module: Any) -> None:
    class Message(types.SimpleNamespace):
        pass

    class Socket(Live):
        closed = False

        async def __aiter__(self) -> Any:
            async for event in Live():
                yield Message(type="text", data=json.dumps(vars(event)))

    class ClientSession(StubObject):
        async def ws_connect(self, *_: Any, **__: Any) -> Any:
            return Socket()

        async def close(self) -> None: ...

    module.ClientSession = ClientSession
    module.WSMsgType = types.SimpleNamespace(TEXT="text", ERROR="error", BINARY="binary", CLOSED="closed")


def _onnxruntime(module: Any) -> None:
    class InferenceSession(StubObject):
        def get_inputs(self) -> Any:
            return [types.SimpleNamespace(name="images", shape=[1, 3, 640, 640], type="tensor(float)")]

        def get_outputs(self) -> Any:
            return [types.SimpleNamespace(name="output0", shape=[1, 300, 6], type="tensor(float)")]

        def run(self, _: Any, given: Any, *__: Any, **___: Any) -> Any:
            if "input_ids" in given:
                return [np.array([[0.1, 0.9]], np.float32)]  # of a text: yes
            return [np.zeros((1, 300, 6), np.float32)]

    module.InferenceSession = InferenceSession


def _requests(module: Any) -> None:
    class Response(StubObject):
        status_code, ok, content, text = 200, True, WAVE, "hello there"

        def iter_content(self, *_: Any, **__: Any) -> Any:
            return iter([WAVE[n : n + 4800] for n in range(0, len(WAVE), 4800)])

        def raise_for_status(self) -> None: ...

    for name in ("get", "post", "put", "request"):
        setattr(module, name, lambda *_, **__: Response())


def _gradio_utils(module: Any) -> None:
    module.get_space = lambda: None


def _librosa(module: Any) -> None:
    def resample(y: Any, *, orig_sr: float, target_sr: float, **_: Any) -> Any:
        y = np.asarray(y, np.float32)
        size = round(y.shape[-1] * target_sr / orig_sr)
        at = np.linspace(0, max(y.shape[-1] - 1, 0), size)
        return np.apply_along_axis(lambda row: np.interp(at, np.arange(row.size), row), -1, y).astype(np.float32)

    module.resample = resample


def _dotenv(module: Any) -> None:
    module.load_dotenv = lambda *_, **__: True
    module.dotenv_values = lambda *_, **__: {}
    module.find_dotenv = lambda *_, **__: ""


class _Event:
    def __init__(self, type: str, **fields: Any) -> None:
        self.type = type
        vars(self).update(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"event.{name}")


class Live:
    """A live session with a model of speech: whoever listens hears a tone, whoever sends is not answered."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Quiet()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def __aiter__(self) -> Any:
        import anyio

        delta = base64.b64encode(TONE[:4800].tobytes()).decode()
        for _ in range(20):
            yield _Event("response.audio.delta", delta=delta, item_id="item")
            yield _Event("response.output_audio.delta", delta=delta, item_id="item")
            yield _Event("response.audio_transcript.done", transcript="hello there")
            await anyio.sleep(0.2)
        await anyio.sleep_forever()


class Quiet:
    """Something whose methods may be awaited, and give nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Quiet()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __await__(self) -> Any:
        yield from ()
        return None


def _openai(module: Any) -> None:
    class Client(StubObject):
        @property
        def realtime(self) -> Any:
            return types.SimpleNamespace(connect=lambda *_, **__: Live())

        @property
        def beta(self) -> Any:
            return types.SimpleNamespace(realtime=self.realtime)

    Client.__module__ = "openai"
    for name in ("OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI"):
        setattr(module, name, Client)


def _genai(module: Any) -> None:
    class Session:
        async def start_stream(self, *, stream: Any, mime_type: str) -> Any:
            import anyio

            async with anyio.create_task_group() as group:
                group.start_soon(_drain, stream)
                while True:
                    yield _Event("audio", data=TONE[:4800].tobytes(), text=None, server_content=None)
                    await anyio.sleep(0.2)

        async def receive(self) -> Any:
            import anyio

            for _ in range(20):
                yield _Event("audio", data=TONE[:4800].tobytes(), text=None, server_content=None)
                await anyio.sleep(0.2)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Quiet()

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None: ...

    class Client(StubObject):
        @property
        def aio(self) -> Any:
            return types.SimpleNamespace(
                live=types.SimpleNamespace(connect=lambda *_, **__: Session()), models=Stub("models")
            )

    module.Client = Client


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


def _websockets(module: Any) -> None:
    class Socket(Live):
        async def __aiter__(self) -> Any:
            import anyio

            delta = base64.b64encode(TONE[:4800].tobytes()).decode()
            while True:
                yield json.dumps({"type": "response.audio.delta", "delta": delta, "item_id": "item", "audio": delta})
                await anyio.sleep(0.2)

        async def recv(self) -> str:
            import anyio

            await anyio.sleep(0.2)
            return await anext(aiter(self))

    module.connect = lambda *_, **__: Socket()


def _phonic(module: Any) -> None:
    class PhonicSTSClient(Live):
        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def sts(self, *_: Any, **__: Any) -> Any:
            import anyio

            while True:
                yield {"type": "audio_chunk", "audio": base64.b64encode(TONE[:4800].tobytes()).decode(), "text": "hi"}
                await anyio.sleep(0.2)

    module.PhonicSTSClient = PhonicSTSClient
    module.get_voices = lambda *_, **__: [{"id": "grant", "name": "Grant"}]


def _hub(module: Any) -> None:
    module.hf_hub_download = lambda *_, **__: "/nowhere/model"
    module.get_token = lambda: None


BY_HAND = {
    "aiohttp": _aiohttp,
    "gradio": _gradio,
    "gradio.utils": _gradio_utils,
    "librosa": _librosa,
    "dotenv": _dotenv,
    "onnxruntime": _onnxruntime,
    "openai": _openai,
    "google.genai": _genai,
    "requests": _requests,
    "websockets": _websockets,
    "websockets.asyncio.client": _websockets,
    "phonic.client": _phonic,
    "huggingface_hub": _hub,
}
