"""The public API as a user writes it: read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import av
import numpy as np
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

import rtcflow
from rtcflow import AdditionalOutputs, CloseStream, EmitType, VideoEmitType, testing


class Sync(rtcflow.StreamHandler):
    def __init__(self) -> None:
        super().__init__("stereo", 24000, input_sample_rate=16000)
        assert_type(self.output_frame_size, int)
        assert_type(self.args_set, rtcflow.Event)

    def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        sample_rate, samples = frame
        assert_type(sample_rate, int)
        assert_type(samples, NDArray[np.int16])
        assert_type(self.clear_queue(), float)

    def emit(self) -> EmitType:
        samples = np.zeros((1, 480), np.int16)
        choices: list[EmitType] = [
            None,
            (24000, samples),
            (24000, samples, "stereo"),
            (24000, samples.astype(np.float32)),
            AdditionalOutputs("words", 1),
            ((24000, samples), AdditionalOutputs("words")),
            CloseStream("bye"),
        ]
        return choices[0]

    def on_message(self, message: str) -> None:
        self.send_message_sync(message)

    def copy(self) -> Sync:
        return Sync()


class Async(rtcflow.AsyncAudioVideoStreamHandler):
    async def start_up(self) -> None:
        await self.wait_for_args()
        await self.send_message("ready")
        total = await self.run_sync(sum, [1, 2])
        assert_type(total, int | None)

    async def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        return

    async def emit(self) -> EmitType:
        return CloseStream()

    async def on_message(self, message: str) -> None:
        await self.send_message(message)

    async def on_dtmf(self, digit: str) -> None:
        return

    async def video_receive(self, frame: NDArray[np.float32]) -> None:
        return

    async def video_emit(self) -> VideoEmitType:
        return av.VideoFrame(64, 48), AdditionalOutputs(1)

    async def shutdown(self) -> None:
        return

    def copy(self) -> Async:
        return Async(video_format="rgb24", fps=15)


def refuses(handler: Sync) -> None:
    handler.emit(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    rtcflow.Stream("no handler")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    rtcflow.Stream(handler, modality="smell")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def application(stream: rtcflow.Stream, webrtc_id: str) -> AsyncIterator[AdditionalOutputs]:
    async with stream.running():
        stream.set_input(webrtc_id, 1, "two")
        async for outputs in stream.output_stream(webrtc_id):
            assert_type(outputs, AdditionalOutputs)
            yield outputs


async def without_a_server(offer_sdp: str) -> rtcflow.End:
    async with rtcflow.open_engine(rtcflow.WebRTCConfig()) as engine:
        transport = await engine.answer(offer_sdp)
        assert_type(transport.answer, str)
        end = await rtcflow.run_connection(transport, Sync(), time_limit=60)
        assert_type(end.cause, rtcflow.EndCause)
        assert_type(end.error, BaseException | None)
        return end


def authorize(caller: Any) -> str:
    if not caller.headers:
        raise rtcflow.NotAuthorized("no")
    return "ali"


stream = rtcflow.Stream(
    Async(), modality="audio-video", mode="send-receive", concurrency_limit=None, authorize=authorize
)


# -- rtcflow.testing


class Life(testing.HandlerLifecycle):
    backend = "asyncio"
    expected_errors = (ValueError,)
    shared = {"cache"}

    def make_handler(self) -> Async:
        return Async()


def tests() -> None:
    record = testing.run_call(Sync(), play=testing.signals.tone(1.0), seconds=2, backend="trio", patience=10)
    assert_type(record.end, rtcflow.End)
    assert_type(record.audio, NDArray[np.int16])
    assert_type(record.stuck, tuple[testing.Stuck, ...])
    testing.check_handler(Async(), args=["a"], shared={"cache"})
    testing.run_call(Sync(), backend="uvloop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Life.TestCase().runTest()
    assert_type(testing.strategies.audio(rate=16000), SearchStrategy[tuple[int, NDArray[Any]]])


async def async_tests() -> None:
    link = testing.LossyLink(seed=1, loss=testing.Bursts(0.01, 5), blackouts=[testing.Blackout(1, 2)])
    async with testing.open_caller(Sync(), link=link, back=testing.Chain(testing.LossyLink())) as caller:
        await caller.play(testing.signals.silence(1))
        assert_type(await caller.wait_ended(), rtcflow.End)
        assert_type(caller.heard, list[testing.HeardFrame])
    await testing.check_transport(rtcflow.memory_pair)
