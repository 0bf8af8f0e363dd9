"""Moving from FastRTC: its public names, its actual defaults, and its users' handlers with only the import changed."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import anyio
import av
import handlers_from_fastrtc as brought
import numpy as np
import numpy.typing as npt
import pytest
from documents import examples

from rtcflow import fastrtc
from rtcflow.abc import MediaOffer
from rtcflow.connection.connection import Connection, EndCause
from rtcflow.exceptions import UnknownConnection
from rtcflow.fastrtc.utils import create_message
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandlerBase
from rtcflow.handlers.checking import copy_handler
from rtcflow.outputs import AdditionalOutputs
from rtcflow.serving.session import CallRequest, Session
from rtcflow.transports.memory import MemoryTransport, memory_pair

# Every name in FastRTC 0.0.34's __all__.
NAMES = [
    *("AdditionalOutputs", "AlgoOptions", "AsyncAudioVideoStreamHandler", "AsyncStreamHandler", "AudioEmitType"),
    *("AudioVideoStreamHandler", "CloseStream", "ModelOptions", "PauseDetectionModel", "ReplyOnPause"),
    *("SileroVadOptions", "Stream", "StreamHandler", "VideoEmitType", "VideoStreamHandler", "Warning", "WebRTCData"),
    "WebRTCError",
    *("aggregate_bytes_to_16bit", "async_aggregate_bytes_to_16bit", "audio_to_bytes", "audio_to_file"),
    *("audio_to_float32", "audio_to_int16", "get_current_context", "get_silero_model", "wait_for_item"),
    *("WebRTC", "UIArgs", "get_stt_model", "MoonshineSTT", "get_tts_model", "KokoroTTSOptions", "CartesiaTTSOptions"),
]

TURN = [
    *("get_turn_credentials", "get_turn_credentials_async", "get_cloudflare_turn_credentials"),
    *("get_cloudflare_turn_credentials_async", "get_hf_turn_credentials", "get_hf_turn_credentials_async"),
    "get_twilio_turn_credentials",
]


def test_names_are_here() -> None:
    """`import rtcflow.fastrtc as fastrtc` has the names its users import."""
    for name in [*NAMES, *TURN]:
        assert getattr(fastrtc, name) is not None
        assert name in fastrtc.__all__


def test_emit_types_admit_what_fastrtcs_do() -> None:
    """Audio is a rate and samples, with the channel layout or not; video is a picture, with outputs or not."""
    assert sorted(len(get_args(kind)) for kind in get_args(fastrtc.AudioEmitType)) == [2, 3]
    assert all(get_args(kind)[0] is int for kind in get_args(fastrtc.AudioEmitType))
    video = get_args(fastrtc.VideoEmitType)
    (with_outputs,) = [get_args(kind) for kind in video if get_origin(kind) is tuple]
    picture, outputs = with_outputs
    assert outputs is fastrtc.AdditionalOutputs
    assert {*get_args(picture), fastrtc.AdditionalOutputs} <= set(video)
    assert npt.NDArray[Any] in get_args(picture)


def test_both_video_handlers_are_given_uint8_bgr() -> None:
    """What FastRTC in fact hands out, whatever its reference says."""
    assert [brought.SyncMirror().video_format, brought.AsyncMirror().video_format] == ["bgr24", "bgr24"]


OFFER = MediaOffer(receive_video=True, send_video=True)


@asynccontextmanager
async def call(handler: StreamHandlerBase, **options: Any) -> AsyncIterator[tuple[Connection, MemoryTransport]]:
    """A live connection with a copy of `handler`, and the caller's end of it."""
    async with memory_pair(OFFER) as (ours, theirs):
        theirs.start(AudioFormat(24000), AudioFormat(24000))
        connection = Connection(ours, copy_handler(handler), **options)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.run)
            with anyio.fail_after(120):
                yield connection, theirs
            connection.close()


def speak(theirs: MemoryTransport, frames: int = 5) -> None:
    for n in range(frames):
        theirs.audio_out.put(AudioFrame(np.full((1, 480), 1000 * (n + 1), np.int16), 24000, n * 480))


async def hear(theirs: MemoryTransport, level: int) -> None:
    """Wait for audio at about `level`."""
    while True:
        frame = await theirs.audio_in.take()
        if abs(int(np.median(frame.samples)) - level) <= level // 20:
            return


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("handler", [brought.SyncEcho, brought.AsyncioEcho, brought.StreamEcho])
async def test_echoes_echo(handler: Any, anyio_backend_name: str) -> None:
    """A blocking queue.Queue, an asyncio.Queue and an anyio stream between receive and emit."""
    if handler is brought.AsyncioEcho and anyio_backend_name != "asyncio":
        pytest.skip("asyncio.Queue needs asyncio")
    async with call(handler()) as (_, theirs):
        speak(theirs)
        for level in (1000, 3000, 5000):
            await hear(theirs, level)


@pytest.mark.anyio
async def test_a_session_is_held_in_start_up_for_the_whole_call() -> None:
    """It opens when the arguments have come, talks both ways, and is closed with the call."""
    async with call(brought.SessionHolder()) as (connection, theirs):
        handler: Any = connection.handler
        assert json.loads(await theirs.messages_in.take())["type"] == "send_input"
        connection.set_args(["Puck"])
        assert json.loads(await theirs.messages_in.take()) == {"type": "log", "data": "session_open"}
        speak(theirs)
        await hear(theirs, 5000)
        assert (handler.voice, handler.session.closed) == ("Puck", False)
    assert handler.session.closed
    assert connection.end is not None
    assert connection.end.cause is EndCause.CLOSED


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("mirror", [brought.SyncMirror, brought.AsyncMirror])
async def test_mirrors_mirror(mirror: Any) -> None:
    """Picture and sound come back, the picture with left and right exchanged; outputs reach the application."""
    outputs: list[AdditionalOutputs] = []
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = (200, 100, 50)
    async with call(mirror(), on_outputs=outputs.append) as (_, theirs):
        speak(theirs)
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
        frame = await theirs.video_in.take()
        assert (frame.to_ndarray(format="bgr24") == picture[:, ::-1]).all()
        await hear(theirs, 3000)
    assert outputs == ([AdditionalOutputs("mirrored")] if mirror is brought.AsyncMirror else [])


@pytest.mark.anyio
async def test_sync_handlers_call_into_the_loop_and_hang_up() -> None:
    """run_coroutine_threadsafe(...).result() in emit, send_message_sync in receive, and CloseStream at the end."""
    async with call(brought.Talker()) as (connection, theirs):
        speak(theirs, 1)
        said = [json.loads(await theirs.messages_in.take()) for _ in range(2)]
        assert {message["type"] for message in said} == {"log", "end_stream"}
        end = await connection.wait_ended()
    assert (end.cause, end.reason) == (EndCause.HANDLER_CLOSED, "enough")


class Complainer(fastrtc.AsyncStreamHandler):
    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> Any:
        await self.channel_set.wait()
        fastrtc.Warning("careful")
        raise fastrtc.WebRTCError("no more credit")

    def copy(self) -> Complainer:
        return Complainer()


@pytest.mark.anyio
async def test_warnings_and_webrtc_errors_are_told_to_the_peer() -> None:
    """The peer reads the warning, then the error's own text, once; the error ends the connection."""
    messages: list[Any] = []
    with pytest.RaisesGroup(pytest.RaisesExc(fastrtc.WebRTCError, match="no more credit"), flatten_subgroups=True):
        async with call(Complainer()) as (connection, theirs):
            try:
                while True:
                    messages.append(json.loads(await theirs.messages_in.take()))
            except anyio.EndOfStream:
                await connection.wait_ended()
    assert [(message["type"], message["data"]) for message in messages] == [
        ("warning", "careful"),
        ("error", "no more credit"),
    ]


class Greeter(fastrtc.AsyncStreamHandler):
    """Sends as FastRTC's programs do: its channel is open before `start_up`."""

    async def start_up(self) -> None:
        assert not self.channel_set.is_set()
        channel: Any = self.channel
        fastrtc.Warning("0")
        for number in range(1, 5):
            channel.send(create_message("log", str(number)))
        await self.channel_set.wait()
        channel.send(create_message("log", "5"))
        await self.send_message(create_message("log", "6"))
        channel.send(create_message("log", "7"))
        cast("Any", self.channel).send(create_message("log", "8"))

    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> None:
        await anyio.sleep_forever()

    def copy(self) -> Greeter:
        return Greeter()


@pytest.mark.anyio
async def test_what_start_up_sends_waits_for_the_channel() -> None:
    """What is sent by the channel keeps its order. Without a call there is no channel."""
    assert Greeter().channel is None
    async with call(Greeter()) as (_, theirs):
        said = [json.loads(await theirs.messages_in.take())["data"] for _ in range(9)]
        assert "6" in said
        assert [text for text in said if text != "6"] == list("01234578")


@pytest.mark.anyio
async def test_a_peer_without_messages_disturbs_no_handler_that_sends() -> None:
    """A telephone is one: what is sent is dropped, and counted."""
    async with memory_pair(MediaOffer(messages=False)) as (ours, _):
        connection = Connection(ours, Chatty())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            with anyio.fail_after(120):
                while connection.statistics().messages_dropped < 1000:
                    await anyio.sleep(0.005)
            assert connection.end is None
            connection.close()


class Chatty(Greeter):
    """Sends more than can wait."""

    async def start_up(self) -> None:
        channel: Any = self.channel
        for number in range(1000):
            channel.send(str(number))
        with pytest.raises(anyio.WouldBlock):
            channel.send("too many")
        await self.channel_set.wait()

    def copy(self) -> Chatty:
        return Chatty()


@pytest.mark.anyio
async def test_a_bounded_number_of_messages_waits_for_the_channel() -> None:
    """In their order."""
    async with call(Chatty()) as (_, theirs):
        for number in range(1000):
            assert await theirs.messages_in.take() == str(number)


def test_without_a_peer_warnings_are_silent() -> None:
    """In a unit test of a handler's helper, nothing happens but the exception."""
    fastrtc.Warning("nobody reads this")
    assert str(fastrtc.WebRTCError("text")) == "text"


# -- Stream

METHODS = [
    *("fetch_latest_output", "get_rtc_configuration", "handle_incoming_call", "handle_offer", "mount", "offer"),
    *("output_stream", "resolve_rtc_configuration", "set_input", "set_input_gradio", "set_input_on_submit"),
    *("telephone_handler", "ui", "update_connection", "websocket_offer"),
]
METHODS_ELSEWHERE = [
    *("clean_up", "connection_timeout", "convert_to_aiortc_format", "fastphone", "set_additional_outputs"),
    "wait_for_time_limit",
]
"""All public methods of FastRTC 0.0.34's Stream: `dir(fastrtc.Stream)`."""


def listen(frame: Any) -> Any:
    return frame


@pytest.mark.anyio
async def test_streams_take_fastrtcs_arguments() -> None:
    """Its defaults are video and one caller; ICE servers of both sides are taken, and what changes nothing is, too."""
    stream = fastrtc.Stream(listen)
    assert (stream.modality.value, stream.mode.value, stream.options.limits.concurrency_limit) == (
        "video",
        "send-receive",
        1,
    )
    assert fastrtc.Stream(listen, concurrency_limit=None).options.limits.concurrency_limit is None
    servers = {"iceServers": [{"urls": "turn:t.example", "username": "u", "credential": "p"}]}
    stream = fastrtc.Stream(
        listen,
        rtc_configuration=servers,
        server_rtc_configuration=servers,
        allow_extra_tracks=True,
        verbose=False,
        allowed_origins=["https://app.example"],
    )
    assert await stream.get_rtc_configuration() == servers
    assert stream.options.webrtc is not None
    (server,) = stream.options.webrtc.ice_servers
    assert (server.urls, server.username, server.credential) == ("turn:t.example", "u", "p")
    assert stream.options.access.allowed_origins == {"https://app.example"}
    asked = fastrtc.Stream(listen, server_rtc_configuration=lambda: servers).options.webrtc
    assert asked is not None
    assert callable(asked.ice_servers)
    assert asked.with_servers(asked.ice_servers()).servers == (server,)


def test_gradio_components_as_inputs_warn() -> None:
    """The page does not show them: one warning names what to write. The others are kept, and silent."""
    with pytest.warns(UserWarning, match=r"Stream\(arguments="):
        stream = fastrtc.Stream(listen, additional_inputs=["slider"])
    assert stream.additional_input_components == ["slider"]
    fastrtc.Stream(listen, additional_outputs=["chatbot"], ui_args={"title": "Chat"})


def test_methods_that_are_not_here_say_what_to_use() -> None:
    """What rtcflow leaves out of Stream says what to use; anything else is the usual AttributeError."""
    stream: Any = fastrtc.Stream(listen)
    for name in METHODS_ELSEWHERE:
        with pytest.raises(AttributeError, match=rf"Stream has no {name}: "):
            getattr(stream, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = stream.nonsense


@pytest.mark.anyio
async def test_a_call_is_closed_by_update_connection() -> None:
    """By its id or by WebRTCData; an id that nobody has is passed over, another state is an error."""
    stream = fastrtc.Stream(brought.SyncEcho(), modality="audio", concurrency_limit=2)
    with anyio.fail_after(120):
        async with stream.running(), memory_pair() as (one, _), memory_pair() as (two, _):
            for webrtc_id, line in (("one", one), ("two", two)):
                async with stream.calls.admit(CallRequest(), "memory", webrtc_id) as session:
                    stream.calls.start(session, line)
            await stream.update_connection("nobody", "closed")
            assert len(stream.calls) == 2
            await stream.update_connection("one", "closed")
            await stream.update_connection(fastrtc.WebRTCData("two"), "closed")
            while len(stream.calls):
                await anyio.sleep(0.005)
            with pytest.raises(ValueError, match="closed"):
                await stream.update_connection("one", "open")  # type: ignore[arg-type]


# -- the page's programs


@pytest.mark.anyio
async def test_the_pages_programs_run(anyio_backend_name: str) -> None:
    """The three programs of the moving page, after the move: each is called, and answers."""
    pages = [found for found in examples() if found.page.name == "moving-from-fastrtc.md" and "# after" in found.code]
    assert len(pages) == 3
    chat, phone, video = (found.run()["stream"] for found in pages)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 200
    async with call(video.handler) as (connection, theirs):
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
        assert ((await theirs.video_in.take()).to_ndarray(format="bgr24") == picture[:, ::-1]).all()
        connection.set_args([True])
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
        assert ((await theirs.video_in.take()).to_ndarray(format="bgr24") == picture[::-1]).all()
    if anyio_backend_name == "asyncio":  # its handler has an asyncio.Queue
        async with call(phone.handler) as (_, theirs):
            speak(theirs)
            await hear(theirs, 3000)
    async with call(chat.handler) as (connection, theirs):
        handler: Any = connection.handler
        while not handler._binding:
            await anyio.sleep(0.005)
        handler.trigger_response()
        heard = 0
        while heard < 500:
            heard = int(np.abs((await theirs.audio_in.take()).samples).max(initial=0))


# -- the table

ROOT = Path(__file__).parents[3]
BEHAVIOUR = re.compile(r"\| `(\w+\.py)::(\w+)` \|$", re.MULTILINE)
ROW = re.compile(r"^\| `([\w.()]+)` \| (same|changed|not here) \| .*\| `(\w+\.py)::(\w+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "moving-from-fastrtc.md").read_text())


def test_every_name_of_fastrtc_is_in_the_table() -> None:
    """Each public name, argument and method of FastRTC has its row."""
    assert {*NAMES, *TURN, "ReplyOnStopWords"} <= {name for name, *_ in ROWS}
    methods = {name for name, *_ in ROWS if name.startswith("Stream.")}
    assert methods == {f"Stream.{name}" for name in [*METHODS, *METHODS_ELSEWHERE]}
    arguments = {name for name, *_ in ROWS if name.startswith("Stream(")}
    parameters = set(inspect.signature(fastrtc.Stream).parameters) - {"options"}
    assert arguments == {f"Stream({name})" for name in parameters}


def test_every_test_that_the_page_names_exists() -> None:
    """In the tables of names and in that of behaviours."""
    named = BEHAVIOUR.findall((ROOT / "docs" / "moving-from-fastrtc.md").read_text())
    assert len(named) > len(ROWS) + 10
    for file, test in named:
        text = next((ROOT / "tests" / "unit").rglob(file)).read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test


@pytest.mark.parametrize(("name", "state", "file", "test"), ROWS)
def test_each_row_is_true_and_has_its_test(name: str, state: str, file: str, test: str) -> None:
    """What is "same" or "changed" is there, what is "not here" is not, and the test that is named exists."""
    text = next((ROOT / "tests" / "unit").rglob(file)).read_text()
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test
    if "(" in name:
        return
    owner: Any = fastrtc.Stream(listen) if name.startswith("Stream.") else fastrtc
    assert hasattr(owner, name.removeprefix("Stream.")) is (state != "not here")


# -- fetching


class Waits(AsyncStreamHandler):
    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> None:
        await anyio.sleep_forever()

    def copy(self) -> Waits:
        return Waits()


@asynccontextmanager
async def one_call() -> AsyncIterator[tuple[fastrtc.Stream, Session]]:
    """A running stream that serves the call "abc"."""
    stream = fastrtc.Stream(Waits(), modality="audio")
    with anyio.fail_after(120):
        async with stream.running(), memory_pair() as (ours, _):
            async with stream.calls.admit(CallRequest(), "memory", "abc") as session:
                stream.calls.start(session, ours)
            yield stream, session


@pytest.mark.anyio
async def test_each_output_is_fetched_once() -> None:
    """fetch_latest_output gives one output after the other, also to two tasks at once, beside other readers."""
    async with one_call() as (stream, session):
        for word in ("a", "b"):
            session.outputs.put(AdditionalOutputs(word))
        assert (await stream.fetch_latest_output("abc")).args == ("a",)
        assert (await stream.fetch_latest_output("abc")).args == ("b",)
        got: list[tuple[Any, ...]] = []

        async def fetch() -> None:
            got.append((await stream.fetch_latest_output("abc")).args)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            tasks.start_soon(fetch)
            await anyio.sleep(0.01)
            session.outputs.put(AdditionalOutputs("c"))
            session.outputs.put(AdditionalOutputs("d"))
        assert sorted(got) == [("c",), ("d",)]


@pytest.mark.anyio
async def test_fetching_ends() -> None:
    """Nothing to fetch is a TimeoutError, an unknown call an error, and a call that ends meanwhile, too."""
    async with one_call() as (stream, session):
        with pytest.raises(TimeoutError):
            await stream.fetch_latest_output("abc", timeout=0.01)
        with pytest.raises(UnknownConnection):
            await stream.fetch_latest_output("xyz")
        async with anyio.create_task_group() as tasks:

            async def close() -> None:
                await anyio.sleep(0.01)
                session.close()

            tasks.start_soon(close)
            with pytest.raises(UnknownConnection, match="ended"):
                await stream.fetch_latest_output("abc")
