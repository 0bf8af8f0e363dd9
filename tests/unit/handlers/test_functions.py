"""Plain functions and generators as handlers, run by real connections over the memory transport."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import av
import numpy as np
import pytest

from rtcflow.abc import MediaOffer
from rtcflow.connection.connection import Connection
from rtcflow.demo import EchoHandler
from rtcflow.ends import End, EndCause, Timeouts
from rtcflow.exceptions import HandlerError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.handlers.checking import copy_handler
from rtcflow.handlers.functions import VideoStreamHandler, handler_from
from rtcflow.outputs import AdditionalOutputs, CloseStream, WebRTCData
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import MemoryTransport, memory_pair

VIDEO = MediaOffer(receive_audio=False, send_audio=False, receive_video=True, send_video=True)
VIDEO_TO_CALLER = MediaOffer(receive_audio=False, send_audio=False, send_video=True)
AUDIO_TO_CALLER = MediaOffer(receive_audio=False)
PICTURE = np.zeros((48, 64, 3), np.uint8)
PICTURE[:, :32] = (200, 100, 50)


def darken(frame):
    assert threading.current_thread() is not threading.main_thread()
    return frame // 2


async def darken_async(frame):
    await anyio.sleep(0)
    return frame // 2


@asynccontextmanager
async def call(
    function: Any, offer: MediaOffer, modality: Any = "video", mode: Any = "send-receive", **options: Any
) -> AsyncIterator[tuple[Connection, MemoryTransport]]:
    """A live connection that serves `function`, and the caller's end of it."""
    async with memory_pair(offer) as (ours, theirs):
        theirs.start(AudioFormat(24000), AudioFormat(24000))
        handler = copy_handler(handler_from(function, modality=modality, mode=mode))
        connection = Connection(ours, handler, **options)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.run)
            with anyio.fail_after(20):
                yield connection, theirs
            connection.close()


async def show(theirs: MemoryTransport, picture: np.ndarray[Any, Any] = PICTURE) -> np.ndarray[Any, Any]:
    """Send one picture, and wait for one."""
    theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
    return (await theirs.video_in.take()).to_ndarray(format="bgr24")


# -- functions of video


@pytest.mark.anyio
@pytest.mark.parametrize("function", [darken, darken_async, VideoStreamHandler(darken, fps=15, skip_frames=True)])
async def test_a_function_filters_video(function: Any) -> None:
    """It is given uint8 BGR and what it returns is sent; a plain one runs in a worker thread."""
    async with call(function, VIDEO) as (connection, theirs):
        assert (await show(theirs) == PICTURE // 2).all()
        assert connection.handler.fps == (15 if isinstance(function, VideoStreamHandler) else 30)


@pytest.mark.anyio
@pytest.mark.parametrize("function", [darken, darken_async])
async def test_a_function_that_waits_for_a_frame_is_let_go_at_the_end(function: Any) -> None:
    """Its worker thread comes back by itself: nothing has to be interrupted."""
    began = anyio.current_time()
    async with call(function, VIDEO, timeouts=Timeouts(grace=30)) as (connection, theirs):
        await show(theirs)
    assert anyio.current_time() - began < 15
    assert connection.statistics().threads_abandoned == 0


@pytest.mark.anyio
async def test_arguments_follow_the_frame() -> None:
    """Until they are set, the peer is asked once, and pictures pass as they are; then the function has them."""

    def add(frame, n, m=0):
        return frame + np.uint8(n + m)

    async with call(add, VIDEO) as (connection, theirs):
        assert (await show(theirs) == PICTURE).all()
        assert (await show(theirs) == PICTURE).all()
        connection.set_args([3])
        assert (await show(theirs) == PICTURE + 3).all()
        connection.set_args([3, 4])
        assert (await show(theirs) == PICTURE + 7).all()
        asked = [json.loads(message)["type"] for message in theirs.messages_in.clear()]
    assert asked == ["send_input"]


@pytest.mark.anyio
async def test_arguments_with_defaults_are_not_asked_for() -> None:
    """A function that can do without arguments runs at once."""

    def add(frame, n=1):
        return frame + np.uint8(n)

    async with call(add, VIDEO) as (connection, theirs):
        assert (await show(theirs) == PICTURE + 1).all()
        assert not theirs.messages_in.clear()


@pytest.mark.anyio
async def test_outputs_and_close_come_from_functions_too() -> None:
    """(frame, AdditionalOutputs) reaches the application; CloseStream ends the connection."""
    outputs: list[AdditionalOutputs] = []

    def count(frame):
        return CloseStream("enough") if outputs else (frame, AdditionalOutputs(frame.shape))

    async with call(count, VIDEO, on_outputs=outputs.append) as (connection, theirs):
        await show(theirs)
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(PICTURE, format="bgr24"))
        end = await connection.wait_ended()
    assert outputs == [AdditionalOutputs((48, 64, 3))]
    assert (end.cause, end.reason) == (EndCause.HANDLER_CLOSED, "enough")


@pytest.mark.anyio
async def test_what_a_function_raises_ends_the_connection() -> None:
    """As it is, like the exception of any handler."""

    def broken(frame):
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with call(broken, VIDEO) as (connection, theirs):
            theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(PICTURE, format="bgr24"))
            await connection.wait_ended()


@pytest.mark.anyio
async def test_a_slow_function_sees_new_frames() -> None:
    """While it works, older frames make room: of ten it is given few, and the last one is among them."""
    seen: list[int] = []
    first, go = threading.Event(), threading.Event()

    def slow(frame):
        seen.append(int(frame[0, 0, 0]))
        first.set()
        go.wait(30)
        return frame

    async with call(VideoStreamHandler(slow, skip_frames=True), VIDEO) as (connection, theirs):
        for n in range(10):
            theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(np.full((48, 64, 3), n, np.uint8), format="bgr24"))
            await anyio.sleep(0.01)
            if n == 0:
                await anyio.to_thread.run_sync(first.wait, 5)
        await anyio.sleep(0.05)
        go.set()
        while seen[-1] != 9:
            await anyio.sleep(0.01)
    assert len(seen) <= 4


@pytest.mark.anyio
async def test_a_function_works_for_callers_who_only_send() -> None:
    """mode="send": nobody sees the result, and the outputs arrive all the same."""
    outputs: list[AdditionalOutputs] = []
    offer = MediaOffer(receive_audio=False, send_audio=False, receive_video=True)
    async with call(
        lambda frame: AdditionalOutputs(int(frame.max())), offer, mode="send", on_outputs=outputs.append
    ) as (connection, theirs):
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(PICTURE, format="bgr24"))
        while not outputs:
            await anyio.sleep(0.005)
    assert outputs == [AdditionalOutputs(200)]


# -- generators


def count_up(n=3) -> Iterator[Any]:
    for k in range(1, n + 1):
        yield 24000, np.full(480, 1000 * k, np.int16)


async def count_up_async(n=3) -> AsyncIterator[Any]:
    for k in range(1, n + 1):
        await anyio.sleep(0)
        yield 24000, np.full(480, 1000 * k, np.int16)


async def heard(theirs: MemoryTransport) -> list[int]:
    """The levels of all frames until the other end goes."""
    levels = []
    while True:
        try:
            frame = await theirs.audio_in.take()
        except anyio.EndOfStream:
            return levels
        levels.append(round(float(np.median(frame.samples)) / 1000))


@pytest.mark.anyio
@pytest.mark.parametrize("function", [count_up, count_up_async, partial(count_up, 3)])
async def test_a_generator_of_audio_is_played_to_its_end(function: Any) -> None:
    """All of it is heard, then the connection ends with its reason."""
    async with call(function, AUDIO_TO_CALLER, "audio", "receive") as (connection, theirs):
        levels = await heard(theirs)
        end = await connection.wait_ended()
    assert [level for level in levels if level] == [1, 2, 3]
    assert (end.cause, end.reason) == (EndCause.HANDLER_CLOSED, "the stream has ended")


@pytest.mark.anyio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_generator_waits_for_the_arguments_it_needs(asynchronous: bool) -> None:
    """It begins when they have come, with them."""

    def plain(n):
        yield from count_up(n)

    async def coloured(n):
        async for item in count_up_async(n):
            yield item

    async with call(coloured if asynchronous else plain, AUDIO_TO_CALLER, "audio", "receive") as (connection, theirs):
        assert json.loads(await theirs.messages_in.take())["type"] == "send_input"
        connection.set_args([2])
        levels = await heard(theirs)
    assert [level for level in levels if level] == [1, 2]


@pytest.mark.anyio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_generator_of_video_is_shown_at_its_pace(asynchronous: bool) -> None:
    """Frames come at most fps times a second, and the generator's end is the connection's."""

    def plain():
        for n in range(8):
            yield np.full((48, 64, 3), 10 * n, np.uint8)

    async def coloured():
        for frame in plain():
            yield frame

    source = VideoStreamHandler(coloured if asynchronous else plain, fps=50)
    async with call(source, VIDEO_TO_CALLER, "video", "receive") as (connection, theirs):
        began = anyio.current_time()
        end: End = await connection.wait_ended()
        took = anyio.current_time() - began
    assert end.cause is EndCause.HANDLER_CLOSED
    assert connection.statistics().video_emitted == 8
    assert took >= 0.08  # eight frames at 50 a second, less the burst


@pytest.mark.anyio
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_generators_are_closed_with_the_connection(asynchronous: bool) -> None:
    """Their finally blocks run when the caller hangs up in the middle."""
    closed = threading.Event()

    def plain():
        try:
            yield from count_up(10_000)
        finally:
            closed.set()

    async def coloured():
        try:
            async with aclosing(count_up_async(10_000)) as items:
                async for item in items:
                    yield item
        finally:
            closed.set()

    async with call(coloured if asynchronous else plain, AUDIO_TO_CALLER, "audio", "receive") as (_, theirs):
        await theirs.audio_in.take()
        assert not closed.is_set()
    assert closed.is_set()


# -- callers who do not listen


class Transcriber(StreamHandler):
    """Speaks and reports, to nobody and to somebody."""

    said = 0

    def receive(self, frame):
        pass

    def emit(self):
        self.said += 1
        return (24000, np.ones(480, np.int16)), AdditionalOutputs(self.said)

    def copy(self):
        return Transcriber()


class AsyncTranscriber(AsyncStreamHandler):
    said = 0

    async def receive(self, frame):
        pass

    async def emit(self):
        self.said += 1
        return (24000, np.ones(480, np.int16)), AdditionalOutputs(self.said)

    def copy(self):
        return AsyncTranscriber()


@pytest.mark.anyio
@pytest.mark.parametrize("handler", [Transcriber(), AsyncTranscriber()])
async def test_handlers_emit_also_for_callers_who_only_send(handler: Any) -> None:
    """The outputs arrive; the audio passes in real time into nothing."""
    outputs: list[AdditionalOutputs] = []
    offer = MediaOffer(send_audio=False)
    async with call(handler, offer, "audio", "send", on_outputs=outputs.append) as (_, theirs):
        theirs.audio_out.put(AudioFrame(np.ones((1, 480), np.int16), 24000, 0))
        began = anyio.current_time()
        while len(outputs) < 5:
            await anyio.sleep(0.005)
        assert anyio.current_time() - began >= 0.07
        assert not len(theirs.audio_in)
    assert len(outputs) < 100


# -- what fits where


def no_arguments():
    return None


def keyword_only(frame, *, strength):
    return frame


async def async_generator(frame):
    yield frame


@pytest.mark.parametrize(
    ("function", "modality", "mode", "words"),
    [
        (darken, "audio", "send-receive", r"use ReplyOnPause\(darken\) or subclass StreamHandler"),
        (darken, "audio", "send", "makes audio for mode='receive' only"),
        (darken, "audio-video", "send-receive", "subclass AudioVideoStreamHandler"),
        (VideoStreamHandler(darken), "audio", "receive", "for modality='audio', subclass"),
        (no_arguments, "video", "send-receive", r"must take the frame.*def no_arguments\(frame\)"),
        (keyword_only, "video", "send-receive", "needs strength="),
        (count_up, "video", "send-receive", "is a generator, which fits mode='receive'"),
        (async_generator, "video", "send", "is a generator, which fits mode='receive'"),
        (darken_async, "video", "receive", "let it yield"),
        (StreamHandler, "audio", "send-receive", r"write: StreamHandler\(\)"),
        (7, "video", "send-receive", "int is not a handler"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_use(function: Any, modality: Any, mode: Any, words: str) -> None:
    """Wrong combinations and wrong numbers of arguments are HandlerErrors when the Stream is made."""
    with pytest.raises(HandlerError, match=words):
        handler_from(function, modality=modality, mode=mode)
    with pytest.raises(HandlerError, match=words):
        Stream(function, modality=modality, mode=mode)


@pytest.mark.anyio
async def test_a_function_that_makes_no_generator_is_named() -> None:
    """A plain function for mode="receive" fails with the line to write."""

    def tone():
        return (24000, np.zeros(480, np.int16))

    with pytest.RaisesGroup(pytest.RaisesExc(HandlerError, match="def .*tone.*: yield"), flatten_subgroups=True):
        async with call(tone, AUDIO_TO_CALLER, "audio", "receive") as (connection, _):
            await connection.wait_ended()


def adjustable(frame, strength, blur=0):
    return frame


def beep(frequency, *more):
    yield 24000, np.zeros(480, np.int16)


@pytest.mark.parametrize(
    ("function", "mode", "args", "words"),
    [
        (adjustable, "send-receive", (), "takes 1 to 2 arguments of the caller's, but 0"),
        (adjustable, "send-receive", (1, 2, 3), "but 3 were given"),
        (darken, "send-receive", (1,), "takes 0 arguments"),
        (beep, "receive", (), "takes at least 1 arguments"),
        (adjustable, "send-receive", (1,), None),
        (adjustable, "send-receive", (WebRTCData("x"), 1, 2), None),
        (beep, "receive", (1, 2, 3), None),
    ],
)
@pytest.mark.anyio
async def test_a_wrong_number_of_arguments_changes_nothing(function: Any, mode: Any, args: Any, words: str) -> None:
    """Arguments that a function does not take are refused where they are set, and do not end the call."""
    stream = Stream(function, modality="video", mode=mode)
    async with stream.running(), stream.calls.admit(CallRequest(), "memory", "abc") as session:
        before = session.handler.latest_args
        if words is None:
            stream.set_input("abc", *args)
            assert session.handler.args_set.is_set()
        else:
            with pytest.raises(ValueError, match=words):
                stream.set_input("abc", *args)
            assert session.handler.latest_args is before
            assert not session.handler.args_set.is_set()


def test_streams_take_functions() -> None:
    """Stream(function) holds a handler made of it."""
    assert Stream(darken, modality="video").handler.video_format == "bgr24"
    assert isinstance(Stream(count_up, mode="receive").handler, StreamHandler)
    assert isinstance(Stream(count_up_async, mode="receive").handler, AsyncStreamHandler)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"callable": EchoHandler()}, "takes a function of a frame, not EchoHandler"),
        ({"callable": EchoHandler}, "takes a function of a frame, not EchoHandler"),
        ({"callable": 7}, "takes a function of a frame, not int"),
        ({"callable": darken, "fps": 0}, "expected frames a second"),
        ({"callable": darken, "fps": "30"}, "expected frames a second"),
    ],
)
def test_a_video_function_is_a_function(options: Any, words: str) -> None:
    """A handler in its place would have been taken for one of sound; it is refused when it is wrapped."""
    with pytest.raises(HandlerError, match=words):
        VideoStreamHandler(**options)
