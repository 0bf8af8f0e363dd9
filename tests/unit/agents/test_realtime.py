"""Speech-to-speech services: both wire formats, and calls against local fakes of them, in real time."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
import wsproto
from line_pairs import telephone_pair
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, Request, TextMessage

from rtcflow import EndCause
from rtcflow.agents import GeminiLive, OpenAIRealtime, RealtimeHandler, tool
from rtcflow.agents import realtime as module
from rtcflow.agents.calling import CANCELLED
from rtcflow.connection.connection import Connection
from rtcflow.frames import AudioFormat
from rtcflow.protocol.realtime import (
    ServiceFailed,
    SessionEnding,
    SessionReady,
    Transcript,
    UserInterrupted,
)
from rtcflow.testing import open_caller

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


# -- a fake service


class Peer:
    """One session of the fake service."""

    def __init__(self, stream):
        self.stream, self.ws, self.path, self.headers = (
            stream,
            wsproto.WSConnection(wsproto.ConnectionType.SERVER),
            "",
            {},
        )
        self.events = []

    async def next_event(self):
        while not self.events:
            data = await self.stream.receive()
            self.ws.receive_data(data)
            self.events += list(self.ws.events())
        return self.events.pop(0)

    async def receive(self):
        """The client's next message, but audio."""
        while True:
            event = await self.next_event()
            if isinstance(event, TextMessage):
                self.text = getattr(self, "text", "") + event.data
                if event.message_finished:
                    message, self.text = json.loads(self.text), ""
                    if message.get("type") != "input_audio_buffer.append" and "realtimeInput" not in message:
                        return message
                    self.heard = getattr(self, "heard", 0) + 1
            elif isinstance(event, CloseConnection):
                raise anyio.EndOfStream

    async def send(self, message, *, binary=False):
        text = message if isinstance(message, str) else json.dumps(message)
        await self.stream.send(self.ws.send(BytesMessage(text.encode()) if binary else TextMessage(text)))

    async def close(self, code=1000):
        await self.stream.send(self.ws.send(CloseConnection(code)))


@asynccontextmanager
async def service(*sessions):
    """A service that plays one session after the other (the last one again and again); an int refuses with a status."""
    peers = []

    async def serve(stream):
        async with stream:
            peer = Peer(stream)
            request = await peer.next_event()
            assert isinstance(request, Request)
            peer.path, peer.headers = request.target, {k.decode().lower(): v.decode() for k, v in request.extra_headers}
            session = sessions[min(len(peers), len(sessions) - 1)]
            peers.append(peer)
            if isinstance(session, int):
                await stream.send(peer.ws.send(RejectConnection(status_code=session)))
                return
            await stream.send(peer.ws.send(AcceptConnection()))
            try:
                await session(peer)
                await peer.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/v1", peers
        tasks.cancel_scope.cancel()


def pcm(seconds):
    return base64.b64encode(np.full(round(seconds * 24000), 8000, "<i2").tobytes()).decode()


def delta(item, seconds):
    return {"type": "response.output_audio.delta", "item_id": item, "delta": pcm(seconds)}


async def greet(peer):
    hello = await peer.receive()
    await peer.send({"type": "session.created"})
    await peer.send({"type": "session.updated"})
    return hello


def loud(caller):
    return sum(heard.frame.duration for heard in caller.heard if np.abs(heard.frame.samples).max() > 1000)


@asynccontextmanager
async def calling(url, kind=OpenAIRealtime, **options):
    events = []
    handler = RealtimeHandler(lambda: kind("key", url=url), on_event=events.append, **options)
    async with open_caller(handler) as caller:
        yield caller, events


async def until(caller, condition, seconds=60):
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)


async def test_a_call_is_connected_to_the_service():
    """Instructions, tools and the key go there; the caller's audio, too; what the service says is heard."""

    async def session(peer):
        peer.hello = await greet(peer)
        await peer.send({"type": "input_audio_buffer.speech_stopped"})
        await anyio.sleep(0.1)
        await peer.send(delta("a", 0.5))
        await peer.send({"type": "response.output_audio_transcript.delta", "delta": "Hello."})
        await peer.send({"type": "response.done", "response": {"status": "completed", "output": []}})

    async with service(session) as (url, peers), calling(url, system="Be brief.") as (caller, events):
        await until(caller, lambda: loud(caller) >= 0.48)
        await until(caller, lambda: getattr(peers[0], "heard", 0) > 5)
        assert Transcript("assistant", "Hello.") in events
        states = [json.loads(text)["data"] for _, text in caller.messages if '"state"' in text]
        assert states == ["thinking", ""], "then the page decides by what it hears"
    assert peers[0].path == "/v1?model=gpt-realtime"
    assert peers[0].headers["authorization"] == "Bearer key"
    assert peers[0].hello["session"]["instructions"] == "Be brief."
    assert loud(caller) == pytest.approx(0.5, abs=0.03)


async def say_much_until_interrupted(peer):
    """Send ten seconds of speech at once, and tell that the caller speaks as soon as the test says so."""
    await greet(peer)
    for _ in range(20):
        await peer.send(delta("a", 0.5))
    await peer.interrupt.wait()
    await peer.send({"type": "input_audio_buffer.speech_started", "audio_start_ms": 0, "item_id": "u"})


async def test_barge_in_truncates_at_what_was_played():
    """Ten seconds come at once; the service is told what has left, to one frame of 20 ms; the rest is silent."""
    told = []

    async def session(peer):
        await say_much_until_interrupted(peer)
        await peer.send(delta("a", 0.5))  # on its way already
        told.append(await peer.receive())
        await peer.send(delta("b", 0.2))

    Peer.interrupt = anyio.Event()
    async with service(session) as (url, _), calling(url) as (caller, events):
        await until(caller, lambda: loud(caller) > 0.5)
        Peer.interrupt.set()
        await until(caller, lambda: told)
        (truncate,) = told
        await until(caller, lambda: loud(caller) >= truncate["audio_end_ms"] / 1000 + 0.18)
        await anyio.sleep(0.3)
    assert (truncate["type"], truncate["item_id"], truncate["content_index"]) == ("conversation.item.truncate", "a", 0)
    assert truncate["audio_end_ms"] / 1000 == pytest.approx(loud(caller) - 0.2, abs=0.021)
    assert any(isinstance(event, UserInterrupted) for event in events)


async def test_tools_are_called_and_their_results_sent_once():
    """A good call, an unknown tool, bad arguments."""
    results = []

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async def session(peer):
        peer.hello = await greet(peer)
        calls = [("1", "add", '{"a": 1, "b": 2}'), ("2", "sub", "{}"), ("3", "add", "{")]
        output = [{"type": "function_call", "call_id": i, "name": n, "arguments": a} for i, n, a in calls]
        await peer.send({"type": "response.done", "response": {"output": output}})
        for _ in range(6):
            results.append(await peer.receive())

    async with service(session) as (url, peers), calling(url, tools=[add]) as (caller, _):
        await until(caller, lambda: len(results) == 6)
    outputs = {m["item"]["call_id"]: m["item"]["output"] for m in results if m["type"] == "conversation.item.create"}
    assert outputs["1"] == "3"
    assert "there is no tool" in outputs["2"]
    assert "not JSON" in outputs["3"]
    assert sum(message["type"] == "response.create" for message in results) == 3
    assert peers[0].hello["session"]["tools"][0]["name"] == "add"


@pytest.mark.parametrize("how", ["closes", "garbage", "breaks", 500, 429])
async def test_a_session_that_fails_is_opened_anew(how, monkeypatch):
    """With a pause that grows; the caller then hears the next session."""
    monkeypatch.setattr(module, "BACKOFF", 0.05)

    async def bad(peer):
        await greet(peer)
        if how == "closes":
            await peer.close(1011)
        elif how == "garbage":
            await peer.send("garbage")
        else:
            await peer.stream.aclose()

    async def good(peer):
        await greet(peer)
        await peer.send(delta("a", 0.3))

    async with service(how if isinstance(how, int) else bad, good) as (url, peers), calling(url) as (caller, events):
        await until(caller, lambda: loud(caller) >= 0.28)
        assert len(peers) == 2
        assert any(isinstance(event, ServiceFailed) for event in events)


async def test_on_a_telephone_it_truncates_at_what_the_carrier_confirmed(monkeypatch):
    """The carrier has confirmed 0.7 s of 10: that is what the service is told, whatever has left for the carrier."""
    told = []

    async def session(peer):
        await say_much_until_interrupted(peer)
        told.append(await peer.receive())

    Peer.interrupt = anyio.Event()
    async with service(session) as (url, _), telephone_pair("twilio")() as (ours, carrier):
        handler = RealtimeHandler(lambda: OpenAIRealtime("key", url=url))
        connection = Connection(ours, handler)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            with anyio.fail_after(120):
                carrier.start(AudioFormat(8000), AudioFormat(8000))
                await carrier.audio_in.take()  # from then on the handler serves the connection
                while handler.playback().played < 0.9:
                    await carrier.audio_in.take()
                assert handler.playback().confirmed is not None, "the carrier answers marks"
                playback = handler.playback
                monkeypatch.setattr(handler, "playback", lambda: replace(playback(), confirmed=0.7))
                Peer.interrupt.set()
                while not told:
                    await anyio.sleep(0.02)
            connection.close()
    (truncate,) = told
    assert truncate["audio_end_ms"] == 700


async def test_a_new_session_knows_what_was_said_and_heard():
    """After a break it gets the messages, cut to what was heard; the page has shown them, with the rest struck."""
    got = []

    async def first(peer):
        await greet(peer)
        await peer.send(
            {"type": "conversation.item.input_audio_transcription.completed", "transcript": "Hi.", "item_id": "u"}
        )
        for _ in range(20):
            await peer.send(delta("a", 0.5))
            said = {"type": "response.output_audio_transcript.delta", "item_id": "a", "delta": "one two three four "}
            await peer.send(said)
        await peer.interrupt.wait()
        await peer.send({"type": "input_audio_buffer.speech_started"})
        await peer.receive()
        await peer.close(1000)

    async def second(peer):
        got.extend([await peer.receive() for _ in range(3)])
        await peer.send({"type": "session.updated"})

    Peer.interrupt = anyio.Event()
    async with service(first, second) as (url, _), calling(url, system="Be brief.") as (caller, _events):
        await until(caller, lambda: loud(caller) > 0.9)
        Peer.interrupt.set()
        await until(caller, lambda: len(got) == 3)
        rows = [json.loads(text)["data"] for _, text in caller.messages if json.loads(text)["type"] == "transcript"]
    hello, user, assistant = got
    assert hello["type"] == "session.update"
    assert user["item"]["content"] == [{"type": "input_text", "text": "Hi."}]
    ((heard,),) = [[part["text"] for part in assistant["item"]["content"]]]
    assert assistant["item"]["role"] == "assistant"
    assert "one two three four" in heard + " four"
    assert 10 < len(heard) < 80, "0.9 s of 10 s with 380 characters, and a little more"
    assert rows[0] == {"role": "user", "text": "Hi.", "id": "u-user"}
    assert rows[-1]["heard"].rstrip() == heard
    assert len(rows[-1]["text"]) == 380


async def test_a_flood_of_chunks_is_an_error_of_the_service(monkeypatch):
    """The queue has a bound in seconds and in chunks; beyond it the session is opened anew."""
    monkeypatch.setattr(module, "BACKOFF", 0.02)
    monkeypatch.setattr(module, "MOST_CHUNKS", 50)

    async def flood(peer):
        await greet(peer)
        for _ in range(100):
            await peer.send(delta("a", 0.5))

    async with service(flood, greet) as (url, peers), calling(url) as (caller, events):
        await until(caller, lambda: len(peers) >= 2)
        assert any("ahead of time" in event.text for event in events if isinstance(event, ServiceFailed))
        assert len(caller.handler._waiting) <= 50


@pytest.mark.parametrize(("status", "sessions"), [(401, 1), (403, 1), (404, 1), (429, 3), (500, 3)])
async def test_a_service_that_refuses_ends_the_call(status, sessions, monkeypatch):
    """A refused key at once, a broken service after some attempts; the caller's page is told."""
    monkeypatch.setattr(module, "BACKOFF", 0.02)
    async with service(status) as (url, peers), calling(url, attempts=3) as (caller, _):
        with anyio.fail_after(120):
            end = await caller.wait_ended()
    assert end.cause is EndCause.HANDLER_CLOSED
    assert len(peers) == sessions


async def test_gemini_live():
    """The same over the other wire format: binary frames, tools, an interruption, and a session that ends."""
    got = []

    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    def said(seconds):
        parts = [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": pcm(seconds)}}]
        return {"serverContent": {"modelTurn": {"parts": parts}}}

    async def session(peer):
        got.append(await peer.receive())
        await peer.send({"setupComplete": {}}, binary=True)
        await peer.send({"toolCall": {"functionCalls": [{"id": "1", "name": "add", "args": {"a": 1, "b": 2}}]}})
        got.append(await peer.receive())
        await peer.send(said(5.0), binary=True)
        await anyio.sleep(0.3)
        await peer.send({"serverContent": {"interrupted": True}})
        await peer.send({"sessionResumptionUpdate": {"newHandle": "h1", "resumable": True}})
        await peer.send({"goAway": {"timeLeft": "5s"}})

    async def again(peer):
        got.append(await peer.receive())
        await peer.send({"setupComplete": {}})
        await peer.send(said(0.2))

    async with (
        service(session, again) as (url, peers),
        calling(url, GeminiLive, system="Hi", tools=[add]) as (caller, events),
    ):
        await until(caller, lambda: len(got) == 3)
        await anyio.sleep(0.5)
        assert loud(caller) < 2
        assert any(isinstance(event, SessionEnding) for event in events)
    setup, result, resumed = got
    assert setup["setup"]["systemInstruction"] == {"parts": [{"text": "Hi"}]}
    assert setup["setup"]["tools"][0]["functionDeclarations"][0]["name"] == "add"
    assert result["toolResponse"]["functionResponses"][0] == {
        "id": "1", "name": "add", "response": {"result": "3", "scheduling": "WHEN_IDLE"},
    }  # fmt: skip
    assert resumed["setup"]["sessionResumption"] == {"handle": "h1"}
    assert peers[0].headers["x-goog-api-key"] == "key"


async def test_the_application_silences_the_service_and_has_it_answer_a_text():
    """`interrupt` truncates and cancels tools, as speech does; `reply_to` sends words."""
    got = []

    @tool
    async def slow() -> str:
        """Take an hour."""
        await anyio.sleep(3600)
        return "done"

    async def session(peer):
        await greet(peer)
        call = {"type": "function_call", "call_id": "1", "name": "slow", "arguments": "{}"}
        await peer.send({"type": "response.done", "response": {"output": [call, call]}})  # sent twice, called once
        await peer.send(delta("a", 5.0))
        while len(got) < 4:
            got.append(await peer.receive())

    async with service(session) as (url, _), calling(url, tools=[slow]) as (caller, _events):
        await until(caller, lambda: loud(caller) > 0.1)
        caller.handler.interrupt()
        await until(caller, lambda: len(got) == 2)
        caller.handler.reply_to("Are you there?")
        await until(caller, lambda: len(got) == 4)
    (truncate,) = [message for message in got if message["type"] == "conversation.item.truncate"]
    assert truncate["item_id"] == "a"
    items = [message["item"] for message in got if message["type"] == "conversation.item.create"]
    assert items[0] == {"type": "function_call_output", "call_id": "1", "output": CANCELLED}
    assert items[1]["content"] == [{"type": "input_text", "text": "Are you there?"}]
    assert got[-1] == {"type": "response.create"}, "for the text, and not for the cancelled tool"


async def test_a_tool_outlives_its_session_or_is_not_needed_any_more():
    """The service takes one call back. The result of another comes in the next session, as text."""
    got, release = [], anyio.Event()

    @tool
    async def wait(name: str) -> str:
        """Wait."""
        await release.wait()
        return f"{name} has waited"

    async def first(peer):
        await peer.receive()
        await peer.send({"setupComplete": {}})
        calls = [{"id": name, "name": "wait", "args": {"name": name}} for name in ("a", "b")]
        await peer.send({"toolCall": {"functionCalls": calls}})
        await peer.send({"toolCallCancellation": {"ids": ["a", "never heard of"]}})
        got.append(await peer.receive())
        await peer.send({"goAway": {"timeLeft": "1s"}})

    async def second(peer):
        await peer.receive()
        await peer.send({"setupComplete": {}})
        got.append(await peer.receive())

    async with service(first, second) as (url, _), calling(url, GeminiLive, tools=[wait]) as (caller, events):
        await until(caller, lambda: events.count(SessionReady()) == 2)
        release.set()
        await until(caller, lambda: len(got) == 2)
    (response,) = got[0]["toolResponse"]["functionResponses"]
    assert response["id"] == "a"
    assert response["response"] == {"result": CANCELLED, "scheduling": "SILENT"}
    ((part,),) = [turn["parts"] for turn in got[1]["clientContent"]["turns"]]
    assert part["text"] == "[The result of wait has come: b has waited]"


async def test_a_service_that_closes_before_it_is_ready_has_failed(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", 0.02)

    async def rude(peer):
        await peer.receive()
        await peer.close(1000)

    async with service(rude) as (url, peers), calling(url, attempts=2) as (caller, events):
        with anyio.fail_after(120):
            end = await caller.wait_ended()
    assert end.cause is EndCause.HANDLER_CLOSED
    assert len(peers) == 2
    assert all("was not ready" in event.text for event in events if isinstance(event, ServiceFailed))


async def test_sessions_that_break_at_once_have_failed(monkeypatch):
    """They were ready. Without a pause between them, and an end, they would be opened again and again."""
    monkeypatch.setattr(module, "BACKOFF", 0.02)
    pauses, sleep = [], anyio.sleep

    async def noted(seconds):
        pauses.append(seconds)
        await sleep(seconds)

    async def rude(peer):
        await greet(peer)
        await peer.close(1000)

    async with service(rude) as (url, peers), calling(url, attempts=4) as (caller, _):
        monkeypatch.setattr(module.anyio, "sleep", noted)
        with anyio.fail_after(120):
            end = await caller.wait_ended()
    assert end.cause is EndCause.HANDLER_CLOSED
    assert len(peers) == 4
    assert [seconds for seconds in pauses if seconds in {0.02, 0.04, 0.08}] == [0.02, 0.04], "the first needs none"


# -- the example


async def test_the_example_talks_to_a_service(monkeypatch):
    """`examples/realtime_agent.py` as it is: its tool is called and answered, and the caller hears the service."""
    got = []

    async def session(peer):
        got.append(await greet(peer))
        call = {"type": "function_call", "call_id": "1", "name": "opening_hours", "arguments": '{"day": "Sunday"}'}
        await peer.send({"type": "response.done", "response": {"output": [call]}})
        got.append(await peer.receive())
        await peer.send(delta("a", 0.3))

    async with service(session) as (url, _):
        monkeypatch.setenv("REALTIME_URL", url)
        monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
        monkeypatch.delitem(sys.modules, "realtime_agent", raising=False)
        example = importlib.import_module("realtime_agent")
        async with open_caller(example.stream.handler.copy()) as caller:
            await until(caller, lambda: loud(caller) >= 0.28)
    hello, result = got
    assert hello["session"]["tools"][0]["name"] == "opening_hours"
    assert result["item"]["output"] == "closed"


def test_a_format_in_place_of_a_function_that_makes_one_is_refused():
    """Each call needs its own."""
    with pytest.raises(TypeError, match="write: lambda: OpenAIRealtime"):
        RealtimeHandler(OpenAIRealtime("key"))
