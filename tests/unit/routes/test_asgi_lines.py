"""WebSocket and telephone routes on real servers: admission, signatures, what a caller hears."""

from __future__ import annotations

import base64
import contextlib
import hmac
import io
import json
import logging
import os
import socket
import struct
import sys
import time
import wave
from contextlib import asynccontextmanager

import anyio
import httpx2
import numpy as np
import pytest
import wsproto
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from httpx2.websockets import WebSocketDisconnect, WebSocketUpgradeError
from starlette.applications import Starlette
from wsproto.events import BytesMessage, TextMessage

from rtcflow.client.lines import call_by_telephone, call_by_websocket, line_url
from rtcflow.client.measured_call import hold_call, write_wav
from rtcflow.connection.connection import Timeouts
from rtcflow.context import get_current_context
from rtcflow.exceptions import NotAuthorized
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.protocol.signatures import plivo_signature, twilio_signature
from rtcflow.protocol.websocket import StartOptions
from rtcflow.routes.app import routes
from rtcflow.stream import Stream
from rtcflow.transports.line_socket import LineLimits
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
CARRIERS = ["twilio", "telnyx", "plivo", "vonage"]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request):
    """One server each: Uvicorn on asyncio, Hypercorn on trio."""
    return (request.param, {})


class Echo(AsyncStreamHandler):
    """Says what it hears, and lets the test look at what happened."""

    def __init__(self, log=None):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.log = [] if log is None else log
        self._frames, self._has = [], None

    def copy(self):
        return Echo(self.log)

    async def start_up(self):
        self.log.append(get_current_context())

    async def receive(self, frame):
        self._frames.append(frame)
        if self._has is not None:
            self._has.set()

    async def emit(self):
        while not self._frames:
            self._has = anyio.Event()
            await self._has.wait()
        return self._frames.pop(0)

    async def on_dtmf(self, digit):
        self.log.append(digit)

    async def shutdown(self):
        self.log.append("shutdown")


def make(handler=None, **options):
    options.setdefault("concurrency_limit", 10)
    options.setdefault("telephone", TelephoneConfig())
    return Stream(handler or Echo(), timeouts=QUICK, webrtc=WebRTCConfig(host_addresses=("127.0.0.1",)), **options)


def application(stream):
    """The routes under test alone: no WebRTC engine is opened for them."""

    @asynccontextmanager
    async def lifespan(_):
        async with stream.running():
            yield

    return Starlette(routes=routes(stream.calls), lifespan=lifespan)


@asynccontextmanager
async def server(stream, anyio_backend_name):
    """A real server on loopback, on the test's own backend; yields its port. Afterwards no slot is taken."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with anyio.create_task_group() as tasks:
        if anyio_backend_name == "trio":
            from hypercorn.config import Config
            from hypercorn.trio import serve

            config = Config()
            config.bind, config.loglevel, config.graceful_timeout = [f"fd://{listener.detach()}"], "ERROR", 0.2
            stop = anyio.Event()
            tasks.start_soon(lambda: serve(application(stream), config, shutdown_trigger=stop.wait))
            finish = stop.set
        else:
            import uvicorn

            uvicorn_server = uvicorn.Server(
                uvicorn.Config(application(stream), log_level="error", ws="wsproto", lifespan="on")
            )
            uvicorn_server.install_signal_handlers = lambda: None
            uvicorn_server.capture_signals = contextlib.nullcontext
            tasks.start_soon(lambda: uvicorn_server.serve(sockets=[listener]))

            def finish():
                uvicorn_server.should_exit = True

        with anyio.fail_after(120):
            while not stream.is_running:
                await anyio.sleep(0.01)
        try:
            with anyio.fail_after(120):
                yield port
                while len(stream.calls):
                    await anyio.sleep(0.01)
        finally:
            finish()
    listener.close()


@asynccontextmanager
async def raw(port, route, headers=None):
    """An independent WebSocket client: literal messages only."""
    async with httpx2.AsyncClient() as client:
        session = client.websocket(f"ws://127.0.0.1:{port}{route}", headers=headers)
        try:
            async with session as ws:
                yield ws
        except BaseExceptionGroup as group:
            error = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            raise error from None


async def closed(ws):
    """Read until the server closes; the code and the reason, and what was said before."""
    said = []
    try:
        while True:
            said.append(await ws.receive_text())
    except WebSocketDisconnect as close:
        return close.code, close.reason, said


async def refused(port, route, headers=None):
    """The HTTP status, and the code in the body, with which the server refuses to open a WebSocket."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with httpx2.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{port}{route}", headers={**upgrade, **(headers or {})})
    return response.status_code, response.json()["meta"]["error"]


def tone(seconds, rate=48000, frequency=440):
    return (
        (8000 * np.sin(2 * np.pi * frequency / rate * np.arange(int(seconds * rate)))).astype(np.int16).reshape(1, -1)
    )


def until_heard(call, frames):
    """For `hold_call`: until the caller has heard so much, however slow the machine is."""

    async def until():
        while call.statistics().audio_in.put < frames:
            await anyio.sleep(0.02)

    return until


# -- whole calls


async def test_a_call_by_twilios_own_messages(anyio_backend_name):
    """Word for word as in Twilio's documentation: connected, start, media, dtmf, stop; audio and marks come back."""
    stream = make()
    async with server(stream, anyio_backend_name) as port, raw(port, "/telephone/handler") as ws:
        await ws.send_text('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        await ws.send_text(
            '{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC1","streamSid":"MZ18ad","callSid":"CA388d",'
            '"tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},'
            '"customParameters":{"FirstName":"Jane"}},"streamSid":"MZ18ad"}'
        )
        payload = base64.b64encode(bytes(range(1, 161))).decode()
        for number in range(1, 16):
            await ws.send_text(
                '{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d",'  # noqa: UP031
                '"payload":"%s"},"streamSid":"MZ18ad"}' % (number + 1, number, 20 * number, payload)
            )
        await ws.send_text('{"event":"dtmf","streamSid":"MZ18ad","sequenceNumber":"17","dtmf":{"digit":"1"}}')
        said = []
        while not any(message["event"] == "mark" for message in said):
            said.append(json.loads(await ws.receive_text()))
        assert {message["streamSid"] for message in said} == {"MZ18ad"}
        assert said[0]["event"] == "media"
        assert len(base64.b64decode(said[0]["media"]["payload"])) % 160 == 0
        mark = said[-1]["mark"]["name"]
        await ws.send_text(json.dumps({"event": "mark", "streamSid": "MZ18ad", "mark": {"name": mark}}))
        await ws.send_text('{"event":"stop","sequenceNumber":"18","stop":{"callSid":"CA388d"},"streamSid":"MZ18ad"}')
        code, _, _ = await closed(ws)
        assert code == 1000
        while "shutdown" not in stream.handler.log:
            await anyio.sleep(0.01)
    context, *rest = stream.handler.log
    assert context.transport == "telephone"
    assert {"carrier": "twilio", "call_id": "CA388d", "FirstName": "Jane"}.items() <= context.custom.items()
    assert rest == ["1", "shutdown"]


async def test_a_call_by_fastrtcs_own_client(anyio_backend_name):
    """start, media, ping, stop as FastRTC's clients send them."""
    stream = make()
    async with server(stream, anyio_backend_name) as port, raw(port, "/websocket/offer") as ws:
        await ws.send_text('{"event": "start", "websocket_id": "k3f9"}')
        await ws.send_text('{"event": "ping"}')
        assert json.loads(await ws.receive_text()) == {"event": "pong"}
        assert list(stream.calls) == ["k3f9"]
        payload = base64.b64encode(bytes(160)).decode()
        await ws.send_text(json.dumps({"event": "media", "media": {"payload": payload}}))
        said = json.loads(await ws.receive_text())
        assert said["event"] == "media"
        assert base64.b64decode(said["media"]["payload"]) == bytes(160)
        await ws.send_text('{"event": "stop"}')
        assert (await closed(ws))[0] == 1000


async def test_a_caller_hears_the_echo_on_every_carrier(anyio_backend_name, tmp_path):
    """A recording has the tone that was played, and the handler the digits that were pressed; four calls at once."""
    stream = make()

    async def call_and_listen(port, carrier):
        async with call_by_telephone(f"ws://127.0.0.1:{port}", carrier, caller=carrier, custom={"k": "v"}) as call:
            call.press("1#")
            report = await hold_call(call, tone(0.8), 20, until_heard(call, 40))
            details = call.statistics().details
        assert not report.failed
        assert details["marks"] >= 1
        path = tmp_path / f"{carrier}.wav"
        write_wav(path, report.recording)
        with wave.open(str(path)) as file:
            heard = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        assert len(heard) > 0.3 * 48000
        assert np.argmax(np.abs(np.fft.rfft(heard))) * 48000 / len(heard) == pytest.approx(440, abs=15)

    async with server(stream, anyio_backend_name) as port, anyio.create_task_group() as tasks:
        for carrier in CARRIERS:
            tasks.start_soon(call_and_listen, port, carrier)
    contexts = [event for event in stream.handler.log if not isinstance(event, str)]
    told = {context.custom["carrier"]: (context.custom["caller"], context.custom["k"]) for context in contexts}
    assert told == {carrier: (carrier, "v") for carrier in CARRIERS}
    assert [stream.handler.log.count(event) for event in ("1", "#", "shutdown")] == [4, 4, 4]


async def test_a_websocket_client_hears_the_echo_in_every_codec(anyio_backend_name):
    """Audio both ways, in the codec that the client asked for; four clients at once."""
    stream = make()

    async def call_and_listen(port, codec):
        options = StartOptions(codec, 24000, binary=codec != "alaw", clear=True, marks=True, named=True)
        async with call_by_websocket(f"ws://127.0.0.1:{port}", options, websocket_id=codec) as call:
            report = await hold_call(call, tone(0.8), 20, until_heard(call, 40))
            assert call.agreed.call_id == codec
            assert call.agreed.send.sample_rate == 24000
        heard = report.recording[0].astype(float)
        assert np.argmax(np.abs(np.fft.rfft(heard))) * 48000 / len(heard) == pytest.approx(440, abs=15)

    async with server(stream, anyio_backend_name) as port, anyio.create_task_group() as tasks:
        for codec in ("pcm_s16le", "opus", "mulaw", "alaw"):
            tasks.start_soon(call_and_listen, port, codec)


class Talker(AsyncStreamHandler):
    """Talks without end; falls silent at a key."""

    def __init__(self, log=None):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.log = [] if log is None else log
        self.silent = False

    def copy(self):
        return Talker(self.log)

    async def start_up(self):
        self.log.append(dict(get_current_context().custom))

    async def receive(self, frame):
        self.log.append(frame[1].shape[1])

    async def shutdown(self):
        self.log.append("shutdown")

    async def emit(self):
        if self.silent:
            await anyio.sleep_forever()
        return 8000, tone(1, 8000)

    async def on_dtmf(self, digit):
        self.silent = True
        self.clear_queue()


# Calls by each carrier's own messages, as its documentation has them: how it begins, what the caller says, what is said
# for its marks and clears.
PAYLOAD = base64.b64encode(160 * b"\xff").decode()
LITERAL = {
    "telnyx": {
        "begin": [
            '{"event":"connected","version":"1.0.0"}',
            '{"event":"start","sequence_number":"1","start":{"user_id":"3E6F","call_control_id":"v2:T02","client_state":'
            '"aGF2","from":"+13122010094","to":"+13122123456","media_format":{"encoding":"PCMU","sample_rate":8000,'
            '"channels":1}},"stream_id":"32DE0DEA"}',
        ],
        "media": '{"event":"media","sequence_number":"4","media":{"track":"inbound","chunk":"CHUNK","timestamp":"5",'
        '"payload":"PAYLOAD"},"stream_id":"32DE0DEA"}',
        "digit": '{"event":"dtmf","stream_id":"32DE0DEA","occurred_at":"2024","sequence_number":"5","dtmf":'
        '{"digit":"1"}}',
        "mark": {"event": "mark"},
        "played": '{"event":"mark","sequence_number":"4","stream_id":"32DE0DEA","mark":{"name":"%s"}}',
        "clear": {"event": "clear"},
        "end": '{"event":"stop","sequence_number":"5","stop":{"user_id":"3E6F","call_control_id":"v2:T02"},"stream_id":'
        '"32DE0DEA"}',
        "call": {"call_id": "v2:T02", "caller": "+13122010094", "callee": "+13122123456"},
    },
    "plivo": {
        "begin": [
            '{"sequenceNumber":0,"event":"start","start":{"callId":"5ae4","streamId":"b77e","accountId":"10","tracks":'
            '["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}},"extra_headers":"caller=%2B1"}',
        ],
        "media": '{"sequenceNumber":1,"streamId":"b77e","event":"media","media":{"track":"inbound","timestamp":"1700",'
        '"chunk":CHUNK,"payload":"PAYLOAD"},"extra_headers":"{}"}',
        "digit": '{"event":"dtmf","streamId":"b77e","sequenceNumber":5,"dtmf":{"track":"inbound","digit":"1",'
        '"timestamp":"1"}}',
        "mark": {"event": "checkpoint", "streamId": "b77e"},
        "played": '{"event":"playedStream","sequenceNumber":7,"streamId":"b77e","name":"%s"}',
        "clear": {"event": "clearAudio", "streamId": "b77e"},
        "cleared": '{"event":"clearedAudio","sequenceNumber":8,"streamId":"b77e"}',
        "call": {"call_id": "5ae4", "stream_id": "b77e", "caller": "+1"},
    },
    "vonage": {
        "begin": [
            '{"event":"websocket:connected","content-type":"audio/l16;rate=8000","call_id":"CON-1","prop1":"value1"}'
        ],
        "media": bytes(320),
        "digit": '{"event":"websocket:dtmf","digit":"1","duration":260}',
        "mark": {"action": "notify"},
        "played": '{"event":"websocket:notify","payload":{"name":"%s"}}',
        "clear": {"action": "clear"},
        "cleared": '{"event":"websocket:cleared"}',
        "call": {"call_id": "CON-1", "prop1": "value1"},
    },
}


@pytest.mark.parametrize("carrier", list(LITERAL))
async def test_a_call_by_the_carriers_own_messages(anyio_backend_name, carrier):
    """Audio both ways, a mark that was played, a barge-in by a key and its clear, the end; no codec of ours speaks."""
    words = LITERAL[carrier]
    stream = make(Talker())

    def name_of(message):
        return message.get("name") or {**message.get("mark", {}), **message.get("payload", {})}["name"]

    async with server(stream, anyio_backend_name) as port, raw(port, "/telephone/handler") as ws:

        async def say(message):
            await (ws.send_bytes(message) if isinstance(message, bytes) else ws.send_text(message))

        async def hear(wanted):
            """Until `wanted` comes; it, and how much audio came before."""
            heard = 0
            while True:
                event = await ws.receive()
                if isinstance(event, BytesMessage):
                    assert len(event.data) == 320
                    heard += 160
                    continue
                message = json.loads(event.data)
                if "media" in message:
                    heard += len(base64.b64decode(message["media"]["payload"]))
                elif wanted.items() <= message.items():
                    return message, heard

        for message in words["begin"]:
            await say(message)
        for number in "12345":
            media = words["media"]
            await say(media if carrier == "vonage" else media.replace("CHUNK", number).replace("PAYLOAD", PAYLOAD))
        mark, heard = await hear(words["mark"])
        assert heard >= 160  # a mark for each 0.2 s, of which a busy machine leaves frames out
        await say(words["played"] % name_of(mark))
        await say(words["digit"])
        await hear(words["clear"])
        if "cleared" in words:
            await say(words["cleared"])
        (session,) = stream.calls.values()
        details = session.statistics().transport.details
        assert details["heard_seconds"] == pytest.approx(heard / 8000)
        assert details["unknown_events"] == details["protocol_errors"] == 0
        if "end" in words:
            await say(words["end"])
            assert (await closed(ws))[0] == 1000
    call, *rest = stream.handler.log
    assert {"carrier": carrier, **words["call"]}.items() <= call.items()
    assert rest.count("shutdown") == 1
    assert sum(size for size in rest if size != "shutdown") == 800


async def test_barge_in_is_heard_at_once(anyio_backend_name):
    """After the key the caller hears no more than what was on its way: the carrier's buffer is dropped, too."""
    stream = make(Talker())
    done, looked = [], anyio.Event()

    async def interrupt(port, carrier):
        async with call_by_telephone(f"ws://127.0.0.1:{port}", carrier) as call:
            call.start(AudioFormat(8000), AudioFormat(8000))
            heard = 0
            while heard < 25:
                await call.audio_in.take()
                heard += 1
            call.press("1")
            with anyio.fail_after(60):
                while not call.clears:
                    with anyio.move_on_after(0.05):
                        await call.audio_in.take()
            later = 0
            with anyio.move_on_after(0.6):
                while True:
                    await call.audio_in.take()
                    later += 1
            assert call.clears == 1
            assert later < 25, "none on a quiet machine; the talker has more to say for as long as we listen"
            assert call.statistics().details["buffered_seconds"] == 0
            done.append(carrier)
            await looked.wait()

    async with server(stream, anyio_backend_name) as port:
        async with anyio.create_task_group() as tasks:
            for carrier in CARRIERS:
                tasks.start_soon(interrupt, port, carrier)
            while len(done) < 4:
                await anyio.sleep(0.02)
            for session in stream.calls.values():
                details = session.statistics().transport.details
                assert 0.2 <= details["heard_seconds"] <= details["sent_seconds"]
                assert details["heard_seconds"] + details["cut_seconds"] <= details["sent_seconds"] + 1e-9
            looked.set()


# -- admission


async def test_one_limit_for_all_transports(anyio_backend_name):
    """A telephone call takes the slot that a WebSocket client is then refused: as FastRTC says it, and with 1013."""
    stream = make(concurrency_limit=1)
    async with server(stream, anyio_backend_name) as port:
        async with call_by_telephone(f"ws://127.0.0.1:{port}", "twilio") as call:
            call.start(AudioFormat(8000), AudioFormat(8000))
            while not len(stream.calls):
                await anyio.sleep(0.01)
            async with raw(port, "/websocket/offer") as ws:
                code, reason, [said] = await closed(ws)
            assert (code, "1 connections are in use" in reason) == (1013, True)
            assert json.loads(said)["status"] == "failed"
            assert json.loads(said)["meta"]["error"] == "concurrency_limit_reached"
            assert json.loads(said)["meta"]["limit"] == 1
            assert await refused(port, "/telephone/handler") == (503, "concurrency_limit_reached")
            assert stream.refused == {"concurrency_limit_reached": 2}
    assert stream.handler.log.count("shutdown") == 1


async def test_authorize_decides_about_websockets_and_telephones(anyio_backend_name):
    """The hook sees the request; who is refused is told so by HTTP: neither a socket nor a handler is made for it."""

    def authorize(caller):
        if caller.query.get("token") != "secret":
            raise NotAuthorized("who are you?", status=int(caller.query.get("status", 403)))
        return "Jane"

    stream = make(authorize=authorize)
    async with server(stream, anyio_backend_name) as port:
        for route in ("/websocket/offer", "/telephone/handler", "/telephone/handler/twilio"):
            assert await refused(port, route) == (403, "not_authorized")
            assert await refused(port, f"{route}?status=401") == (401, "not_authorized")
        assert stream.refused == {"not_authorized": 6}
        assert stream.handler.log == []
        async with call_by_websocket(f"ws://127.0.0.1:{port}?token=secret") as call:
            call.start(AudioFormat(48000), AudioFormat(48000))
            while not stream.handler.log:
                await anyio.sleep(0.01)
        assert stream.handler.log[0].principal == "Jane"


async def test_an_id_in_use_is_not_taken_over(anyio_backend_name):
    """A second client with the same id is refused, the first goes on."""
    stream = make()
    async with server(stream, anyio_backend_name) as port, raw(port, "/websocket/offer") as first:
        await first.send_text('{"event":"start","websocket_id":"a"}')
        await first.send_text('{"event":"ping"}')
        await first.receive_text()
        async with raw(port, "/websocket/offer") as second:
            await second.send_text('{"event":"start","websocket_id":"a"}')
            code, reason, _ = await closed(second)
            assert (code, "in use" in reason) == (1008, True)
        await first.send_text('{"event":"ping"}')
        assert json.loads(await first.receive_text()) == {"event": "pong"}


# -- bad input, and who else is there


async def test_bad_callers_disturb_nobody(anyio_backend_name):
    """While a dozen callers misbehave in every way, one call's echo goes on; all slots are free afterwards."""
    # At a rate that even a busy machine can exceed.
    stream = make(concurrency_limit=20, websocket=LineLimits(rate=100.0, burst=300))
    start = '{"event":"start","websocket_id":"%s"}'
    ping = wsproto.connection.Connection(wsproto.ConnectionType.CLIENT).send(TextMessage('{"event":"ping"}'))
    flood = 1000 * ping
    bad = [
        ["nonsense"],
        [],
        ['{"event":"media","media":{"payload":"AAAA"}}'],
        [start % "x1", start % "x1"],
        [start % "x2", '{"event":"media","media":{"payload":"%"}}'],
        [start % "x3", b"\x00\x01"],
        [start % "x4", "x" * 300_000],
        [start % "x5", flood],
        ['{"event":"start","codec":"pcm_s16le","binary":true,"websocket_id":"x6"}', b"\x00"],
        ['{"event":"start","codec":"opus","binary":true,"websocket_id":"x7"}', b"\xff\xff\xff"],
    ]
    codes = {}

    async def misbehave(number, messages):
        try:
            async with raw(port, "/websocket/offer") as ws:
                for message in messages:
                    if message is flood:
                        await ws.stream.write(flood)
                    else:
                        await (ws.send_bytes(message) if isinstance(message, bytes) else ws.send_text(message))
                if messages:
                    codes[number] = (await closed(ws))[0]
        except httpx2.websockets.HTTPXWSException:
            codes.setdefault(number, "closed while sending")

    async with server(stream, anyio_backend_name) as port:
        async with (
            call_by_websocket(f"ws://127.0.0.1:{port}", websocket_id="good") as call,
            anyio.create_task_group() as tasks,
        ):
            for number, messages in enumerate(bad):
                tasks.start_soon(misbehave, number, messages)
            report = await hold_call(call, tone(1), 20, until_heard(call, 50))
    assert report.frames_received >= 50
    assert not report.failed
    for number, code in {0: 1007, 2: 1002, 3: 1002, 4: 1007, 5: 1003, 6: 1009, 8: 1007, 9: 1007}.items():
        assert codes[number] == code
    assert codes[7] in {1008, "closed while sending"}
    assert stream.refused == {"left": 1, "protocol_error": 9}
    served = sum(not isinstance(event, str) for event in stream.handler.log)
    assert served == 8
    assert stream.handler.log.count("shutdown") == 11


async def test_a_message_of_100_megabytes_disturbs_nobody(anyio_backend_name):
    """The server closes at 16 MiB and keeps none of it; its sender is shut down, and another call's echo goes on."""
    stream = make()
    async with server(stream, anyio_backend_name) as port:
        async with (
            call_by_websocket(f"ws://127.0.0.1:{port}", websocket_id="good") as call,
            anyio.create_task_group() as tasks,
        ):

            async def misbehave():
                async with await anyio.connect_tcp("127.0.0.1", port) as tcp:
                    await tcp.send(
                        b"GET /websocket/offer HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                    )
                    assert b" 101 " in await tcp.receive()
                    start = b'{"event":"start"}'
                    await tcp.send(struct.pack("!BBI", 0x81, 0x80 | len(start), 0) + start)
                    await tcp.send(struct.pack("!BBQI", 0x81, 0x80 | 127, 100_000_000, 0))
                    with contextlib.suppress(anyio.BrokenResourceError):
                        for _ in range(100):
                            await tcp.send(bytes(1_000_000))

            tasks.start_soon(misbehave)
            report = await hold_call(call, tone(1), 30, until_heard(call, 50))
        with anyio.fail_after(120):
            while stream.handler.log.count("shutdown") < 2:
                await anyio.sleep(0.01)
    assert not report.failed
    assert report.frames_received >= 50


# -- webhooks and signatures


@asynccontextmanager
async def webhook(stream):
    transport = httpx2.ASGITransport(application(stream))
    async with stream.running(), httpx2.AsyncClient(transport=transport, base_url="http://voice.example.com") as client:
        yield client


async def test_webhooks_are_answered_with_the_way_to_the_handler():
    """Each carrier gets its own form, the numbers handed on, and a wss URL that names the carrier."""
    async with webhook(make()) as client:
        form = {"From": "+14155550100", "To": "+14155550199", "CallSid": "CA1"}
        answer = await client.post("/telephone/incoming", data=form)
        assert answer.headers["content-type"].startswith("application/xml")
        assert '<Stream url="wss://voice.example.com/telephone/handler/twilio">' in answer.text
        assert '<Parameter name="caller" value="+14155550100"/>' in answer.text
        answer = await client.post("/telephone/incoming/telnyx", data=form)
        assert 'url="wss://voice.example.com/telephone/handler/telnyx"' in answer.text
        answer = await client.get("/telephone/incoming?carrier=plivo&From=1&CallUUID=u")
        assert ">wss://voice.example.com/telephone/handler/plivo</Stream>" in answer.text
        answer = await client.get("/telephone/incoming/vonage?from=14155550100&to=1&uuid=u1")
        [action] = answer.json()
        assert action["endpoint"][0]["uri"] == "wss://voice.example.com/telephone/handler/vonage"
        assert action["endpoint"][0]["headers"] == {"caller": "14155550100", "callee": "1", "call_id": "u1"}
        assert (await client.post("/telephone/incoming/acme")).status_code == 404
        assert (await client.post("/telephone/incoming", content=b"x" * 70_000)).status_code == 413


@pytest.mark.parametrize(
    ("config", "headers", "expected"),
    [
        ({}, {"X-Forwarded-Host": "evil.example.com"}, "wss://voice.example.com/"),
        (
            {"trust_forwarded": True},
            {"X-Forwarded-Host": "a.example.com", "X-Forwarded-Proto": "https"},
            "wss://a.example.com/",
        ),
        ({"trust_forwarded": True}, {"X-Forwarded-Proto": "http"}, "ws://voice.example.com/"),
        (
            {"public_url": "https://b.example.com/bot"},
            {"X-Forwarded-Host": "a.example.com"},
            "wss://b.example.com/bot/",
        ),
        ({"public_url": "http://127.0.0.1:8000"}, {}, "ws://127.0.0.1:8000/"),
        ({"public_url": "https://b.example.com/früh"}, {}, "wss://b.example.com/fr%C3%BCh/"),
        ({"public_url": "https://b.example.com/fr%c3%bch"}, {}, "wss://b.example.com/fr%c3%bch/"),
    ],
)
async def test_the_public_url_is_what_was_configured(config, headers, expected):
    """X-Forwarded-* counts only when it is to be trusted; a configured URL counts always."""
    async with webhook(make(telephone=TelephoneConfig(**config))) as client:
        answer = await client.post("/telephone/incoming", headers=headers)
        assert f'<Stream url="{expected}telephone/handler/twilio">' in answer.text


async def test_refused_webhooks_are_counted_and_say_why(caplog):
    """A host that is none, a carrier that is not served, a body too long, a stream without audio: 4xx, no exception."""
    stream = make()
    async with webhook(stream) as client:
        for host in ("[x", "[1::2::3]", "a b"):
            assert (await client.post("/telephone/incoming", headers={"Host": host})).status_code == 400
        assert (await client.post("/telephone/incoming/acme")).status_code == 404
        assert (await client.post("/telephone/incoming", content=b"x" * 70_000)).status_code == 413
        long = {"Content-Length": "9" * 5000}
        assert (await client.post("/telephone/incoming", content=b"x", headers=long)).status_code == 413
    assert stream.refused == {"invalid_offer": 5, "carrier_not_served": 1}
    config = TelephoneConfig(secrets={"twilio": "12345"}, trust_forwarded=True)
    stream = make(telephone=config)
    async with webhook(stream) as client:
        answer = await client.post("/telephone/incoming", headers={"X-Forwarded-Host": "[x"})
        assert answer.status_code == 400
        assert (await client.post("/telephone/incoming")).status_code == 403
    assert stream.refused == {"invalid_offer": 1, "wrong_signature": 1}
    caplog.clear()
    stream = Stream(lambda frame: frame, modality="video", telephone=TelephoneConfig())
    async with webhook(stream) as client:
        answer = await client.post("/telephone/incoming")
    assert (answer.status_code, "video only" in answer.text) == (422, True)
    assert "unchecked" not in caplog.text


async def test_telnyx_webhooks_are_not_answered_where_only_its_secret_is_configured(caplog):
    """Nothing could tell a stranger from Telnyx, and the answer holds the application's parameters."""
    config = TelephoneConfig(secrets={"telnyx": "token"}, parameters={"k": "private"})
    async with webhook(make(telephone=config)) as client:
        [record] = caplog.records
        assert "telnyx_public_key" in record.getMessage()
        answer = await client.post("/telephone/incoming/telnyx", data={"CallSid": "1"})
    assert answer.status_code == 403
    assert "telnyx_public_key" in answer.text
    assert "private" not in answer.text


async def test_webhooks_must_be_signed_where_a_secret_is_configured():
    """Right signature: answered. None, a wrong one, or another carrier: refused."""
    config = TelephoneConfig(secrets={"twilio": "12345", "plivo": "abc"}, public_url="https://voice.example.com")
    async with webhook(make(telephone=config)) as client:
        form = {"From": "+1", "CallSid": "CA1"}
        url = "https://voice.example.com/telephone/incoming?x=1"
        signature = twilio_signature("12345", url, form.items())
        route = "/telephone/incoming?x=1"
        assert (await client.post(route, data=form, headers={"X-Twilio-Signature": signature})).status_code == 200
        assert (await client.post(route, data=form)).status_code == 403
        assert (
            await client.post(route, data={"From": "+2"}, headers={"X-Twilio-Signature": signature})
        ).status_code == 403
        assert (await client.post("/telephone/incoming/vonage")).status_code == 404
        url = "https://voice.example.com/telephone/incoming"
        headers = {
            "X-Plivo-Signature-V3": plivo_signature("abc", "n1", url, form.items()),
            "X-Plivo-Signature-V3-Nonce": "n1",
        }
        answer = await client.post("/telephone/incoming", data=form, headers=headers)
        assert answer.status_code == 200
        assert "/telephone/handler/plivo" in answer.text
        headers["X-Plivo-Signature-V3-Nonce"] = "n2"
        assert (await client.post("/telephone/incoming", data=form, headers=headers)).status_code == 403


async def test_telnyx_webhooks_must_be_signed_where_its_key_is_configured():
    """Ed25519 over timestamp and body: answered; unsigned, changed or old: refused."""
    private = Ed25519PrivateKey.generate()
    key = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    with pytest.raises(ValueError, match="not a public key"):
        TelephoneConfig(telnyx_public_key=key[:-8])
    config = TelephoneConfig(telnyx_public_key=key, unsigned_is_fine=True)
    assert config.served == ("telnyx",)
    async with webhook(make(telephone=config)) as client:
        body, now = b"CallSid=v3%3Aabc&From=%2B1", int(time.time())

        async def status(body, timestamp):
            signed = f"{timestamp}|".encode() + b"CallSid=v3%3Aabc&From=%2B1"
            headers = {
                "telnyx-signature-ed25519": base64.b64encode(private.sign(signed)).decode(),
                "telnyx-timestamp": str(timestamp),
                "content-type": "application/x-www-form-urlencoded",
            }
            return (await client.post("/telephone/incoming", content=body, headers=headers)).status_code

        assert await status(body, now) == 200
        assert await status(body + b"2", now) == 403
        assert await status(body, now - 1000) == 403
        assert (await client.post("/telephone/incoming/telnyx", content=body)).status_code == 403


async def test_media_streams_must_be_signed_where_a_secret_is_configured(anyio_backend_name):
    """Twilio's signed upgrade and Telnyx' token pass; unsigned ones, and other carriers', are closed with 1008."""
    config = TelephoneConfig(secrets={"twilio": "12345", "telnyx": "token"}, public_url="https://voice.example.com")
    stream = make(telephone=config)
    async with server(stream, anyio_backend_name) as port:

        async def admitted(carrier, headers=None):
            log = stream.handler.log
            log.clear()
            try:
                async with call_by_telephone(f"ws://127.0.0.1:{port}", carrier, headers=headers) as call:
                    call.start(AudioFormat(8000), AudioFormat(8000))
                    with anyio.move_on_after(5):
                        ended = call._link.ended
                        while not log and not ended.is_set():
                            await anyio.sleep(0.01)
            except ConnectionError as error:
                assert "answered 403" in str(error)
                return False
            return any(not isinstance(event, str) for event in log)

        signature = twilio_signature("12345", "wss://voice.example.com/telephone/handler/twilio")
        assert await admitted("twilio", {"X-Twilio-Signature": signature})
        assert not await admitted("twilio", {"X-Twilio-Signature": signature.swapcase()})
        assert not await admitted("twilio")
        assert await admitted("telnyx", {"x-telnyx-streaming-auth-token": "token"})
        assert not await admitted("telnyx")
        for route in ("/telephone/handler", "/telephone/handler/vonage"):
            with pytest.raises((WebSocketUpgradeError, WebSocketDisconnect)):
                async with raw(port, route) as ws:
                    await ws.send_text('{"event":"websocket:connected","content-type":"audio/l16;rate=8000"}')
                    await ws.receive()


def vonage_authorization(secret):
    """A JWT (RFC 7519), signed HS256."""

    def part(content):
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    signed = part(b'{"alg":"HS256","typ":"JWT"}') + "." + part(json.dumps({"iat": int(time.time())}).encode())
    return f"Bearer {signed}.{part(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


async def test_every_carriers_signature_opens_its_line(anyio_backend_name):
    """As each signs the upgrade of its WebSocket; another's secret, or none, is answered with 403."""
    secrets = {carrier: f"the secret of {carrier}" for carrier in CARRIERS}
    config = TelephoneConfig(
        secrets=secrets, telnyx_public_key=43 * "A" + "=", public_url="https://voice.example.com/bot"
    )

    def signed(carrier, secret):
        url = f"wss://voice.example.com/bot/telephone/handler/{carrier}"
        match carrier:
            case "twilio":
                return {"X-Twilio-Signature": twilio_signature(secret, url)}
            case "telnyx":
                return {"x-telnyx-streaming-auth-token": secret}
            case "plivo":
                signature = plivo_signature(secret, "n1", url, post=False)
                return {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": "n1"}
        return {"Authorization": vonage_authorization(secret)}

    stream = make(telephone=config)
    async with server(stream, anyio_backend_name) as port:
        for carrier in CARRIERS:
            stream.handler.log.clear()
            async with call_by_telephone(
                f"ws://127.0.0.1:{port}", carrier, headers=signed(carrier, secrets[carrier])
            ) as call:
                call.start(AudioFormat(8000), AudioFormat(8000))
                while not stream.handler.log:
                    await anyio.sleep(0.01)
            assert stream.handler.log[0].custom["carrier"] == carrier
            route = f"/telephone/handler/{carrier}"
            assert await refused(port, route, signed(carrier, "another")) == (403, "wrong_signature")
            if carrier != "telnyx":  # which may tell its token later
                assert await refused(port, route) == (403, "wrong_signature")


async def test_telephone_routes_are_only_where_telephone_is_given(anyio_backend_name, caplog):
    """A stream that nobody reaches by telephone has no route for carriers, and warns of none."""
    stream = Stream(Echo(), webrtc=WebRTCConfig(host_addresses=("127.0.0.1",)))
    async with webhook(stream) as client:
        for route in ("/telephone/incoming", "/telephone/incoming/twilio"):
            assert (await client.post(route)).status_code == 404
    async with server(stream, anyio_backend_name) as port:
        with pytest.raises(ConnectionError, match="opened no WebSocket"):
            async with call_by_telephone(f"ws://127.0.0.1:{port}", "twilio"):
                pass
    assert not caplog.records


def test_unchecked_carriers_are_warned_of_at_start_up(caplog):
    """One warning that names them and says what to configure; none where all have a secret, or none is served."""
    with caplog.at_level(logging.WARNING, "rtcflow"):
        _ = make(telephone=TelephoneConfig(secrets={"twilio": "x"})).asgi
        _ = make(telephone=TelephoneConfig(carriers=())).asgi
        assert not caplog.records
        _ = make().asgi
    [record] = caplog.records
    assert "twilio, telnyx, plivo, vonage" in record.getMessage()
    assert "TelephoneConfig" in record.getMessage()


# -- the client


async def test_calls_to_nobody_say_so(anyio_backend_name):
    """Nobody there, no WebSocket there, no such URL: clear errors."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionError, match="nobody answers"):
        async with call_by_websocket(f"ws://127.0.0.1:{port}"):
            pass
    stream = make()
    async with server(stream, anyio_backend_name) as port:
        with pytest.raises(ConnectionError, match="opened no WebSocket"):
            async with call_by_websocket(f"ws://127.0.0.1:{port}/nowhere"):
                pass
    with pytest.raises(ValueError, match="write for example ws://"):
        async with call_by_telephone("http://127.0.0.1", "twilio"):
            pass
    with pytest.raises(ValueError, match="known are twilio"):
        async with call_by_telephone("ws://127.0.0.1", "acme"):
            pass
    assert line_url("ws://h/talk/?a=1", "/websocket/offer") == "ws://h/talk/websocket/offer?a=1"
    assert line_url("wss://h/telephone/handler", "/x") == "wss://h/telephone/handler"


async def test_the_simulated_carrier_plays_in_real_time_and_knows_its_keys(anyio_backend_name):
    """What was sent at once is heard frame by frame; a key that no telephone has is refused."""
    stream = make()
    async with server(stream, anyio_backend_name) as port:
        async with call_by_telephone(f"ws://127.0.0.1:{port}", "vonage") as call:
            with pytest.raises(ValueError, match="no key 'x'"):
                call.press("1x")
            call.start(AudioFormat(16000), AudioFormat(16000))
            began = anyio.current_time()
            call.audio_out.put(AudioFrame(tone(0.4, 16000), 16000, 0))
            for _ in range(20):
                await call.audio_in.take()
            assert anyio.current_time() - began > 0.37


async def test_the_command_line_calls_as_a_carrier(anyio_backend_name, monkeypatch, capsys):
    """`rtcflow call --telephone` presses the keys of --dtmf; what makes no sense is one clear line."""
    from rtcflow.cli import _hold, _Line

    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("rtcflow.cli._wait_for_signal", anyio.sleep_forever)
    stream = make()
    async with server(stream, anyio_backend_name) as port:
        url = f"ws://127.0.0.1:{port}"
        for carrier in ("twilio", None):
            report, _ = await _hold(_Line(url, carrier, "7" if carrier else ""), tone(0.1), 0.8)
            assert not report.failed
        for line in (_Line(url, "twilio", "x"), _Line(url + "/nowhere")):
            with pytest.raises(SystemExit):
                await _hold(line, None, 1)
    assert "7" in stream.handler.log
    assert "no key 'x'" in (said := capsys.readouterr().err)
    assert "opened no WebSocket" in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
async def test_keys_can_be_typed_in_a_terminal(anyio_backend_name):
    """Each Return presses what was typed; the call ends when its time is over, and waits for no further Return."""
    keyboard, terminal = os.openpty()
    stream = make()
    command = [sys.executable, "-m", "rtcflow", "call", "--telephone", "twilio", "--seconds", "1.5", "--json"]
    command += ["--backend", anyio_backend_name, "--header", "X-Bot: 7"]

    async def type_keys():
        while not stream.calls:
            await anyio.sleep(0.05)
        os.write(keyboard, b"4x\n")
        await anyio.sleep(0.2)
        os.write(keyboard, b"1 2\n#\n")

    try:
        async with server(stream, anyio_backend_name) as port, anyio.create_task_group() as tasks:
            tasks.start_soon(type_keys)
            with anyio.fail_after(120):
                done = await anyio.run_process([*command, f"ws://127.0.0.1:{port}"], stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    context, *pressed = stream.handler.log
    assert pressed == ["1", "2", "#", "shutdown"]
    assert context.headers["x-bot"] == "7"
    assert b"no key 'x'" in done.stderr
    assert json.loads(done.stdout)["ended"] == "hung up after the time was over"


async def test_headers_go_with_calls_of_every_kind(anyio_backend_name):
    """`--header` reaches `authorize`; one that cannot be sent is named, and not shown."""
    from rtcflow.cli import _headers, _Line

    seen = []

    def authorize(caller):
        seen.append(caller.headers.get("authorization"))
        raise NotAuthorized("no")

    stream = make(authorize=authorize)
    async with server(stream, anyio_backend_name) as port:
        for carrier in (None, "plivo"):
            with pytest.raises(ConnectionError, match="answered 403"):
                async with _Line(f"ws://127.0.0.1:{port}", carrier, headers=_headers(["Authorization: x"])).open():
                    pass
    assert seen == ["x", "x"]
    with pytest.raises(ValueError, match="'A' holds a line break") as caught:
        async with _Line("ws://127.0.0.1:1", headers={"A": "secret\nB"}).open():
            pass
    assert "secret\n" not in str(caught.value)
    with pytest.raises(SystemExit):
        _headers(["Authorization"])
