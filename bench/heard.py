"""What a libwebrtc receiver makes of a server's sound: the share that it had to make up, as a browser would.

PYTHON bench/heard.py --url http://127.0.0.1:PORT --pid PID --seconds 20 [--stalls]

PYTHON is one that has `wrtc`. With `--stalls` the server's process is stopped for 150 of every 300 ms meanwhile. Prints
one JSON object. `bench/suite.py` runs it (group "heard"). This file needs no rtcflow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import urllib.request

import webrtc

STOPPED, RUNNING = 0.15, 0.15


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


async def call(url: str) -> tuple[webrtc.RTCPeerConnection, asyncio.Task[None]]:
    """Offer to take sound, and take it."""
    connection = webrtc.RTCPeerConnection()
    gathered, connected = asyncio.Event(), asyncio.Event()

    def on_gathering(_) -> None:
        if connection.ice_gathering_state == "complete":
            gathered.set()

    def on_state(_) -> None:
        if connection.connection_state == "connected":
            connected.set()

    connection.on("icegatheringstatechange", on_gathering)
    connection.on("connectionstatechange", on_state)
    transceiver = connection.add_transceiver("audio", webrtc.RTCRtpTransceiverInit(direction="sendrecv"))
    await transceiver.sender.replace_track(webrtc.MediaStreamTrackGenerator("audio"))
    await connection.set_local_description(await connection.create_offer())
    await asyncio.wait_for(gathered.wait(), 5)
    body = {"sdp": connection.local_description.sdp, "type": "offer", "webrtc_id": "heard"}
    answer = await asyncio.to_thread(post, f"{url}/webrtc/offer", body)
    description = webrtc.RTCSessionDescriptionInit(type="answer", sdp=answer["sdp"])
    await connection.set_remote_description(webrtc.RTCSessionDescription(description))
    await asyncio.wait_for(connected.wait(), 10)

    async def drain() -> None:
        track = transceiver.receiver.track
        reader = webrtc.MediaStreamTrackProcessor(
            webrtc.MediaStreamTrackProcessorInit(track=track)
        ).readable.get_reader()
        while not (await reader.read()).done:
            pass

    return connection, asyncio.create_task(drain())


async def samples(connection: webrtc.RTCPeerConnection) -> dict[str, float]:
    for each in (await connection.get_stats()).values():
        if isinstance(each, webrtc.RTCInboundRtpStreamStats) and each.kind == "audio":
            return {name: getattr(each, name) or 0 for name in NAMES}
    raise RuntimeError("libwebrtc has no figures of a stream that comes in")


NAMES = (
    "total_samples_received",
    "concealed_samples",
    "silent_concealed_samples",
    "jitter_buffer_delay",
    "jitter_buffer_emitted_count",
    "packets_lost",
)


async def stall(pid: int) -> None:
    """Stop and continue a process until cancelled."""
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(STOPPED)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(RUNNING)
    finally:
        os.kill(pid, signal.SIGCONT)


async def measure(url: str, pid: int, seconds: float, *, stalls: bool) -> dict[str, float]:
    connection, draining = await call(url)
    await asyncio.sleep(3)
    stalling = asyncio.create_task(stall(pid)) if stalls else None
    await asyncio.sleep(1)
    before = await samples(connection)
    await asyncio.sleep(seconds)
    after = await samples(connection)
    if stalling is not None:
        stalling.cancel()
    draining.cancel()
    passed = {name: after[name] - before[name] for name in NAMES}
    return {
        "concealed": 100 * passed["concealed_samples"] / max(1, passed["total_samples_received"]),
        "silent": 100 * passed["silent_concealed_samples"] / max(1, passed["total_samples_received"]),
        "buffered_ms": 1000 * passed["jitter_buffer_delay"] / max(1, passed["jitter_buffer_emitted_count"]),
        "samples": passed["total_samples_received"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the server, without a path")
    parser.add_argument("--pid", type=int, required=True, help="its process")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--stalls", action="store_true")
    args = parser.parse_args()
    print(json.dumps(asyncio.run(measure(args.url, args.pid, args.seconds, stalls=args.stalls))), flush=True)
    os._exit(0)  # nobody needs to see how the call is closed


if __name__ == "__main__":
    main()
