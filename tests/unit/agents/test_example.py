"""examples/voice_agent.py in real time: offline speech, and a chat service on the loopback interface."""

from __future__ import annotations

import importlib
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import numpy as np
import pytest

import rtcflow
from rtcflow.agents import VoiceAgent
from rtcflow.agents.voice_agent import PATIENCE
from rtcflow.speech import get_tts_model
from rtcflow.testing import open_caller
from rtcflow.turns import EnergyVad, ReplyFailed

EXAMPLES = Path(__file__).parents[3] / "examples"
ANSWERS = [
    [
        {"content": "One "},
        {"content": "moment. "},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "book_table", "arguments": '{"people": 2,'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "time": "noon"}'}}]},
    ],
    [{"content": "Your "}, {"content": "table is booked."}],
]


@asynccontextmanager
async def chat_service(answers, status=b"200 OK"):
    """A chat service that streams what it is told to; yields its URL and the requests that came."""
    asked = []

    async def serve(stream):
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < size:
                body += await stream.receive()
            asked.append(json.loads(body))
            await stream.send(
                b"HTTP/1.1 " + status + b"\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            )
            for delta in answers[min(len(asked), len(answers)) - 1]:
                await stream.send(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n")
            await stream.send(b"data: [DONE]\n\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1/chat/completions", asked
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", [pytest.param("asyncio", marks=pytest.mark.nightly), "trio"])
async def test_the_voice_agent_books_a_table(monkeypatch):
    """Somebody says it, the service calls the tool, and the caller hears the answer."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program = importlib.import_module("voice_agent")
    async with chat_service(ANSWERS) as (url, asked):
        monkeypatch.setattr(program, "URL", url)
        monkeypatch.setitem(program.agent._agent_settings, "patience", 600.0)  # the recognizer computes: a busy machine
        rate, words = await anyio.to_thread.run_sync(get_tts_model("espeak").tts, "book a table for two people")
        async with open_caller(program.agent) as caller:
            handler = caller.handler
            await caller.play((rate, words))
            with anyio.fail_after(600):
                while not any(turn.playout_end for turn in handler.turns):
                    await caller.wait(0.1)
        messages = handler.conversation.messages
    assert asked[0]["messages"][0]["role"] == "system"
    assert asked[0]["tools"][0]["function"]["name"] == "book_table"
    assert "for two people" in asked[0]["messages"][1]["content"]  # an old recognizer: it hears more or less the rest
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[3]["content"] == "booked: 2 people, noon"
    assert messages[4]["content"] == "Your table is booked."
    assert isinstance(program.stream, rtcflow.Stream)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("status", [b"401 Unauthorized", b"429 Too Many Requests", b"500 Internal Server Error"])
async def test_a_chat_service_that_refuses_costs_one_turn(monkeypatch, status):
    """Over HTTP, with the example's own `chat`: one event that has the status, the apology, and the call goes on."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program = importlib.import_module("voice_agent")
    failed, said = [], []

    async def tts(text):
        said.append(text)
        return 24000, np.full((1, 2400), 5000, np.int16)

    def note(event):
        if isinstance(event, ReplyFailed):
            failed.append(str(event.error))

    agent = VoiceAgent(program.chat, stt=len, tts=tts, apology="Sorry.", model=EnergyVad(), on_event=note)
    async with chat_service([[]], status) as (url, asked), open_caller(agent) as caller:
        monkeypatch.setattr(program, "URL", url)
        await caller.wait(0.3)
        for turns in (1, 2):
            caller.handler.reply_to("Hello?")
            with anyio.fail_after(120):
                while len(said) < turns:
                    await caller.wait(0.05)
                await caller.wait(0.5)
    assert len(asked) == 2
    assert len(failed) == 2
    assert all(status[:3].decode() in text for text in failed)
    assert said == ["Sorry."] * 2


@pytest.mark.anyio
async def test_the_example_waits_for_a_model_as_long_as_its_agent(monkeypatch):
    """A local model loads for longer than an HTTP client waits by default."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    program = importlib.import_module("voice_agent")
    waits, real = [], httpx2.AsyncClient

    def note(**options):
        waits.append(real(**options).timeout.read)
        return real(**options)

    monkeypatch.setattr(program.httpx2, "AsyncClient", note)
    async with chat_service([[{"content": "Hello."}]]) as (url, _):
        monkeypatch.setattr(program, "URL", url)
        assert [item async for item in program.chat([], [])] == ["Hello."]
    assert all(wait > PATIENCE for wait in waits)
    assert waits
