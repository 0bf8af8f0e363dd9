"""An rtcflow echo server for measurements: ``POST /webrtc/offer``, and ``GET /debug/stats`` for the load generator.

--variant wire     each packet is decoded, encoded and sent in the callback that it comes in, and that is all: no jitter
                   buffer, no pacing, no other thread; what any server in Python spends at least
--variant bare     the transport alone: what the engine costs
--variant async    an async handler, --rate Hz in and out, or --input Hz in (the default)
--variant sync     a sync handler
--variant talker   talks ten seconds at once, until it hears something; then it calls clear_queue()
--variant video    flips pictures
--variant hum      a tone that never ends, by a handler that is ahead of real time
--variant watch    takes pictures, and tells when each came
--backend          asyncio, uvloop or trio
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import threading
import time
from contextlib import asynccontextmanager, suppress

import anyio
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from peers import CLEARED, PICTURES, add_debug, hum
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from rtcflow._core.player import Player
from rtcflow._engine.audio import PlayoutTrack
from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import OpusEncoder, make_decoder
from rtcflow._engine.seam.seam import send_packets, take_packets
from rtcflow._engine.seam.wire import RtpWriter
from rtcflow.connection.connection import run_connection
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.handlers.functions import VideoStreamHandler, handler_from
from rtcflow.media.playout import Latency
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument(
    "--variant", default="async", choices=["wire", "bare", "async", "sync", "talker", "video", "hum", "watch"]
)
parser.add_argument("--rate", type=int, default=48000)
parser.add_argument("--input", type=int, help="Hz; by default as --rate")
parser.add_argument("--latency", default="live", choices=["live", "buffered"])
parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop", "trio"])
parser.add_argument("--complexity", type=int, help="of Opus; by default as the library chooses")
parser.add_argument("--application", default="audio", choices=["audio", "voip", "lowdelay"], help="of Opus")
args = parser.parse_args()
OPUS = OpusConfig(complexity="auto" if args.complexity is None else args.complexity, application=args.application)


class AsyncEcho(AsyncStreamHandler):
    def __init__(self) -> None:
        super().__init__(input_sample_rate=args.input or args.rate, output_sample_rate=args.rate)

    async def start_up(self) -> None:
        pass

    async def receive(self, frame) -> None:
        await self.put(frame)

    async def emit(self):
        return await self.get()

    def copy(self) -> AsyncEcho:
        new = AsyncEcho()
        if args.backend == "trio":
            sending, receiving = anyio.create_memory_object_stream(50)
            new.put, new.get = sending.send, receiving.receive
        else:
            queue = asyncio.Queue(50)
            new.put, new.get = queue.put, queue.get
        return new

    async def shutdown(self) -> None:
        pass


class SyncEcho(StreamHandler):
    def __init__(self) -> None:
        import queue

        super().__init__(input_sample_rate=args.rate, output_sample_rate=args.rate)
        self.queue = queue.Queue()

    def receive(self, frame) -> None:
        self.queue.put(frame)

    def emit(self):
        import queue

        try:
            return self.queue.get(timeout=0.5)
        except queue.Empty:
            return None

    def copy(self) -> SyncEcho:
        return SyncEcho()


class Talker(AsyncEcho):
    said = False

    async def receive(self, frame) -> None:
        if self.said and np.abs(frame[1].astype(int)).max() > 5000:
            CLEARED.append(time.monotonic())
            self.clear_queue()

    async def emit(self):
        if self.said:
            await anyio.sleep_forever()
        self.said = True
        return args.rate, hum(args.rate)

    def copy(self) -> Talker:
        return Talker()


class Hum(AsyncEcho):
    async def receive(self, frame) -> None:
        pass

    async def emit(self):
        return args.rate, hum(args.rate)

    def copy(self) -> Hum:
        return Hum()


async def watch(transport) -> None:
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            await transport.video_in.take()
            PICTURES.append(time.monotonic())


async def bare(transport) -> None:
    transport.start(AudioFormat(args.rate), AudioFormat(args.rate))
    try:
        while True:
            transport.audio_out.put(await transport.audio_in.take())
    except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        pass


HANDLER = (
    handler_from(VideoStreamHandler(lambda picture: picture[::-1]), modality="video")
    if args.variant == "video"
    else {"sync": SyncEcho, "talker": Talker, "hum": Hum}.get(args.variant, AsyncEcho)()
)


async def serve(transport) -> None:
    try:
        if args.variant == "bare":
            await bare(transport)
        elif args.variant == "watch":
            await watch(transport)
        else:
            await run_connection(transport, HANDLER.copy())
    finally:
        await transport.aclose()


async def answer_by_wire(sdp: str) -> str:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    (transceiver,) = connection.getTransceivers()
    decoder, encoder = make_decoder("OPUS", AudioFormat(args.rate)), OpusEncoder(args.rate, OPUS)
    writers: list[RtpWriter] = []

    def on_packet(packet) -> None:
        for writer in writers:
            writer.write(encoder.payload(decoder.decode(packet.payload)), packet.timestamp, marker=False)

    async def play(writer: RtpWriter) -> None:
        writers.append(writer)
        await asyncio.Event().wait()

    def fail(error: BaseException) -> None:
        raise error

    assert take_packets(transceiver.receiver, lambda _: None, on_packet, fail)
    transceiver.sender.replaceTrack(PlayoutTrack(Player(), OPUS))
    assert send_packets(transceiver.sender, play)
    transceiver.direction = "sendrecv"
    await connection.setLocalDescription(await connection.createAnswer())

    async def on_state() -> None:
        if connection.connectionState in {"failed", "closed"}:
            await connection.close()

    connection.on("connectionstatechange", on_state)
    return connection.localDescription.sdp


@asynccontextmanager
async def lifespan(app: Starlette):
    async with open_engine(WebRTCConfig(opus=OPUS)) as engine, anyio.create_task_group() as calls:
        app.state.engine, app.state.calls = engine, calls
        yield
        calls.cancel_scope.cancel()


async def offer(request):
    body = await request.json()
    if args.variant == "wire":
        return JSONResponse({"sdp": await answer_by_wire(body["sdp"]), "type": "answer"})
    transport = await app.state.engine.answer(body["sdp"], latency=Latency(args.latency))
    app.state.calls.start_soon(serve, transport)
    return JSONResponse({"sdp": transport.answer, "type": "answer"})


async def stats(request):
    if request.query_params.get("collect"):
        gc.collect()
    with open("/proc/self/statm") as statm:
        rss = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return JSONResponse(
        {
            "pid": os.getpid(),
            "tasks": 0,
            "threads": threading.active_count(),
            "fds": len(os.listdir("/proc/self/fd")),
            "rss_mb": round(rss, 2),
            "cpu_s": round(time.process_time(), 3),
            "t": time.monotonic(),
        }
    )


app = Starlette(
    routes=[Route("/webrtc/offer", offer, methods=["POST"]), Route("/debug/stats", stats)], lifespan=lifespan
)

add_debug(app)

if args.backend == "trio":
    from functools import partial

    from hypercorn.config import Config
    from hypercorn.trio import serve as hypercorn

    config = Config()
    config.bind = [f"127.0.0.1:{args.port}"]
    anyio.run(partial(hypercorn, app, config), backend="trio")
else:
    import uvicorn

    uvicorn.run(app, port=args.port, log_level="warning", access_log=False, loop=args.backend)
