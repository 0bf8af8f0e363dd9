"""What `rtcflow serve` serves in the tests of rough treatment: an echo, odd pictures, and the process's figures."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

import anyio
import av
import numpy as np
import sniffio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import rtcflow
from rtcflow.demo import EchoHandler
from rtcflow.transports.telephone import TelephoneConfig

LOCAL = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))

echo = rtcflow.Stream(
    EchoHandler(),
    concurrency_limit=None,
    webrtc=LOCAL,
    timeouts=rtcflow.Timeouts(connect=4),
    telephone=TelephoneConfig(unsigned_is_fine=True),
)


def odd_pictures() -> Iterator[Any]:
    """Pictures that no camera takes, by kinds, again and again."""
    dice = np.random.default_rng(14)
    formats = ["rgb24", "gray", "yuv422p", "yuv444p", "nv12", "rgba", "gray16le", "pal8", "monow"]
    formats += ["yuv420p10le", "gbrpf32le"]
    for number in count():
        height, width = (int(n) for n in dice.integers(1, 700, 2))
        whole = dice.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield whole
        yield whole[::-1, ::-1]
        yield whole[::2, ::3]
        yield np.asfortranarray(whole)
        yield whole.transpose(1, 0, 2)
        yield np.broadcast_to(whole[:1, :1], (height, width, 3))
        strides = [(0, 0, 0), (3, 1, 1), (-3, -1, 1)]
        yield np.lib.stride_tricks.as_strided(np.zeros(9000, np.uint8)[5000:], (30, 40, 3), strides[number % 3])
        for shape in [(0, 0, 3), (0, 5, 3), (5, 0, 3), (1, 1, 3), (1, 1), (2, 2, 1), (5, 5, 4), (3,), (), (1, 2, 3, 4)]:
            yield np.zeros(shape, np.uint8)
        yield np.zeros((1, 16400, 3), np.uint8)
        yield np.zeros((16400, 1, 3), np.uint8)
        if number % 4 == 0:
            yield np.broadcast_to(np.uint8(7), (5000, 9000, 3))
            yield np.broadcast_to(np.uint8(7), (200_000, 200_000, 3))
        for dtype in (">u2", "f4", "f8", bool, np.int8, np.int64, object, "S1", np.complex64):
            yield np.ones((7, 9, 3)).astype(dtype)
        yield np.full((8, 8, 3), np.nan)
        for size in ((16, 16), (1, 1), (641, 479), (17, 3)):
            yield av.VideoFrame(*size, formats[number % len(formats)])
        yield None
        yield (24000, whole)
        yield [[1, 2, 3]]


PICTURES: Final = odd_pictures()
made: list[int] = [0]


class Odd(rtcflow.AsyncAudioVideoStreamHandler):
    """Emits odd pictures, one after another, each three times; a picture that is refused ends its call."""

    async def start_up(self) -> None:
        self.picture: Any = None
        self.times = 0

    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> Any:
        await anyio.sleep(1)

    async def video_receive(self, frame: Any) -> None:
        pass

    async def video_emit(self) -> Any:
        await anyio.sleep(0.01)
        if self.times % 3 == 0:
            self.picture = next(PICTURES)
            made[0] += 1
        self.times += 1
        return self.picture

    def copy(self) -> Odd:
        return Odd()


odd = rtcflow.Stream(Odd(), modality="audio-video", concurrency_limit=None, webrtc=LOCAL)


class Refusing(rtcflow.AsyncStreamHandler):
    """`emit` swallows its cancellation for ten seconds."""

    async def receive(self, frame: Any) -> None:
        pass

    async def emit(self) -> Any:
        until = None
        while until is None or anyio.current_time() < until:
            try:
                await anyio.sleep(0.01)
            except BaseException:
                until = until or anyio.current_time() + 10

    def copy(self) -> Refusing:
        return Refusing()


refusing = rtcflow.Stream(Refusing(), concurrency_limit=None, webrtc=LOCAL)


def tasks_alive(backend: str) -> int:
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def figures(_: Request) -> JSONResponse:
    gc.collect()
    backend = sniffio.current_async_library()
    return JSONResponse(
        {
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": sum(not t.name.startswith(("Trio thread", "AnyIO worker")) for t in threading.enumerate()),
            "tasks": tasks_alive(backend),
            "calls": len(echo.calls) + len(odd.calls) + len(refusing.calls),
            "pictures": made[0],
        }
    )


app = Starlette(routes=[Route("/figures", figures)])
echo.mount(app, "/echo")
odd.mount(app, "/odd")
refusing.mount(app, "/refusing")
