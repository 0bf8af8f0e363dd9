"""What rtcflow is measured against: servers with `POST /webrtc/offer` and `GET /debug/...`, as `echo_server.py` has.

floor        aiortc alone: the incoming track is added to the same connection again
floor_exact  the same, with each decoded frame copied to its exact size first (see docs/performance.md)
floor_video  each picture flipped, in the loop
floor_hum    a tone that never ends, paced as aiortc's own `AudioStreamTrack`; what comes in is not read
floor_watch  takes pictures, and tells when each came (`GET /debug/pictures`)
wrtc_direct  libwebrtc from the wheel `wrtc`: the incoming track is sent back, and Python sees no frame
wrtc_native  the same, with each 10 ms of sound passed through Python by wrtc's own streams
wrtc_shim    the same, through wrtc's stand-in for aiortc: a track whose `recv` gives frames
wrtc_video   each picture flipped, through the stand-in
wrtc_watch   takes pictures, through the stand-in
fastrtc_async, fastrtc_sync, fastrtc_talker   FastRTC, if the Python that runs this has it

This file is also run by Pythons without rtcflow.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import time
from fractions import Fraction

import numpy as np

CLEARED: list[float] = []
"""When `clear_queue` was called (time.monotonic, the same clock in all processes)."""
PICTURES: list[float] = []
"""When pictures came, by the same clock."""


def make_floor(kind: str):
    if kind.startswith("wrtc"):
        from webrtc.aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
    else:
        from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
    from av import AudioFrame, VideoFrame
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse

    class Exact(MediaStreamTrack):
        kind = "audio"

        def __init__(self, track) -> None:
            super().__init__()
            self.track = track

        async def recv(self):
            frame = await self.track.recv()
            out = AudioFrame.from_ndarray(frame.to_ndarray(), format="s16", layout=frame.layout.name)
            out.sample_rate, out.pts, out.time_base = frame.sample_rate, frame.pts, frame.time_base
            return out

    class Flip(MediaStreamTrack):
        kind = "video"

        def __init__(self, track) -> None:
            super().__init__()
            self.track = track

        async def recv(self):
            frame = await self.track.recv()
            picture = np.ascontiguousarray(frame.to_ndarray(format="bgr24")[::-1])
            out = VideoFrame.from_ndarray(picture, format="bgr24")
            out.pts, out.time_base = frame.pts, frame.time_base
            return out

    class Hum(MediaStreamTrack):
        kind = "audio"

        def __init__(self, _) -> None:
            super().__init__()
            self.samples, self.count, self.began = hum(48000), 0, 0.0

        async def recv(self):
            self.began = self.began or time.monotonic()
            await asyncio.sleep(self.began + 0.02 * self.count - time.monotonic())
            at = self.count % 500 * 960
            out = AudioFrame.from_ndarray(self.samples[:, at : at + 960], format="s16", layout="mono")
            out.sample_rate, out.pts, out.time_base = 48000, 960 * self.count, Fraction(1, 48000)
            self.count += 1
            return out

    async def watch(track) -> None:
        while True:
            await track.recv()
            PICTURES.append(time.monotonic())

    wraps = {"floor": lambda track: track, "floor_exact": Exact, "wrtc_shim": Exact, "floor_hum": Hum}
    wrap = wraps.get(kind, Flip)
    connections, tasks = set(), set()

    def on_track(connection, track) -> None:
        if kind.endswith("watch"):
            tasks.add(asyncio.ensure_future(watch(track)))
        else:
            connection.addTrack(wrap(track))

    async def offer(request):
        body = await request.json()
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connections.add(connection)
        connection.on("track", lambda track: on_track(connection, track))

        async def on_state() -> None:
            if connection.connectionState in {"failed", "closed"}:
                await connection.close()
                connections.discard(connection)

        connection.on("connectionstatechange", on_state)
        await connection.setRemoteDescription(RTCSessionDescription(body["sdp"], "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return JSONResponse({"sdp": connection.localDescription.sdp, "type": "answer"})

    app = Starlette()
    app.add_route("/webrtc/offer", offer, methods=["POST"])
    return app


def make_wrtc(kind: str):
    import webrtc
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse

    connections, tasks = set(), set()

    async def pump(track, out) -> None:
        reader = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track=track)).readable
        reading, writing = reader.get_reader(), out.writable.get_writer()
        while not (found := await reading.read()).done:
            await writing.write(found.value)

    async def offer(request):
        body = await request.json()
        connection = webrtc.RTCPeerConnection()
        connections.add(connection)
        gathered = asyncio.Event()

        def on_gathering(_) -> None:
            if connection.ice_gathering_state == "complete":
                gathered.set()

        def on_state(_) -> None:
            if connection.connection_state in {"failed", "closed"}:
                connections.discard(connection)
                connection.close()

        connection.on("icegatheringstatechange", on_gathering)
        connection.on("connectionstatechange", on_state)
        description = webrtc.RTCSessionDescriptionInit(type="offer", sdp=body["sdp"])
        await connection.set_remote_description(webrtc.RTCSessionDescription(description))
        for transceiver in connection.get_transceivers():
            track = transceiver.receiver.track
            transceiver.direction = "sendrecv"
            if kind == "wrtc_direct":
                await transceiver.sender.replace_track(track)
            else:
                out = webrtc.MediaStreamTrackGenerator("audio")
                await transceiver.sender.replace_track(out)
                tasks.add(asyncio.create_task(pump(track, out)))
        await connection.set_local_description(await connection.create_answer())
        if connection.ice_gathering_state != "complete":
            await asyncio.wait_for(gathered.wait(), 5)
        return JSONResponse({"sdp": connection.local_description.sdp, "type": "answer"})

    app = Starlette()
    app.add_route("/webrtc/offer", offer, methods=["POST"])
    return app


def make_fastrtc(kind: str, rate: int):
    from fastapi import FastAPI
    from fastrtc import AsyncStreamHandler, Stream, StreamHandler, wait_for_item

    class AsyncEcho(AsyncStreamHandler):
        def __init__(self) -> None:
            super().__init__(input_sample_rate=rate, output_sample_rate=rate)
            self.queue = asyncio.Queue()

        async def receive(self, frame) -> None:
            await self.queue.put(frame)

        async def emit(self):
            return await wait_for_item(self.queue)

        def copy(self):
            return type(self)()

        async def start_up(self) -> None:
            pass

        async def shutdown(self) -> None:
            pass

    class SyncEcho(StreamHandler):
        def __init__(self) -> None:
            super().__init__(input_sample_rate=rate, output_sample_rate=rate)
            self.queue = queue.Queue()

        def receive(self, frame) -> None:
            self.queue.put(frame)

        def emit(self):
            try:
                return self.queue.get(timeout=0.1)
            except queue.Empty:
                return None

        def copy(self):
            return type(self)()

        def start_up(self) -> None:
            pass

        def shutdown(self) -> None:
            pass

    class Talker(AsyncEcho):
        """Talks ten seconds at once, until it hears something."""

        talking, said = True, False

        async def receive(self, frame) -> None:
            if self.talking and np.abs(frame[1].astype(int)).max() > 5000:
                self.talking = False
                CLEARED.append(time.monotonic())
                self.clear_queue()

        async def emit(self):
            if not self.talking or self.said:
                await asyncio.sleep(0.02)
                return None
            self.said = True
            return rate, hum(rate)

    handler = {"fastrtc_async": AsyncEcho, "fastrtc_sync": SyncEcho, "fastrtc_talker": Talker}[kind]
    options = {"concurrency_limit": 1000, "server_rtc_configuration": {"iceServers": []}}
    app = FastAPI()
    Stream(handler(), modality="audio", mode="send-receive", **options).mount(app)
    return app


def hum(rate: int) -> np.ndarray:
    """Ten seconds that are loud throughout: int16, shape (1, n)."""
    return (9000 * np.sin(2 * np.pi * 440 * np.arange(10 * rate) / rate)).astype(np.int16)[np.newaxis]


def add_debug(app) -> None:
    """The routes by which the client asks for a stall, and when a handler has cleared its queue."""
    from starlette.responses import JSONResponse

    async def block(request):
        time.sleep(float(request.query_params["seconds"]))  # the loop on which the handlers run
        return JSONResponse({})

    async def cleared(request):
        moments, CLEARED[:] = list(CLEARED), []
        return JSONResponse(moments)

    async def pictures(request):
        return JSONResponse(PICTURES)

    app.add_route("/debug/pictures", pictures)
    app.add_route("/debug/block", block)
    app.add_route("/debug/cleared", cleared)


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=int, default=24000)
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop"])
    args = parser.parse_args()
    if args.kind.startswith("fastrtc"):
        app = make_fastrtc(args.kind, args.rate)
    else:
        app = (make_wrtc if args.kind in {"wrtc_direct", "wrtc_native"} else make_floor)(args.kind)
    add_debug(app)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="error", access_log=False, loop=args.backend)


if __name__ == "__main__":
    main()
