"""A caller in a network of its own, for test_network_change.py: says "ready" once it hears, then how long it did not.

python network_caller.py webrtc|websocket ADDRESS
"""

from __future__ import annotations

import json
import sys
import time

import anyio
import numpy as np

from rtcflow import AudioFormat
from rtcflow.client import connect
from rtcflow.client.lines import call_by_websocket

SECONDS = 8.0  # after "ready"


async def main(kind: str, address: str) -> None:
    opened = (
        connect(f"http://{address}", resume=True)
        if kind == "webrtc"
        else call_by_websocket(f"ws://{address}", resume=True)
    )
    async with opened as call:
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        silence, ready, last = 0.0, 0.0, time.monotonic()
        while not ready or last < ready + SECONDS:
            frame = await call.audio_in.take()
            if frame.concealed or np.abs(frame.samples).max() < 1000:
                continue
            now = time.monotonic()
            silence, last = max(silence, now - last) if ready else 0.0, now
            if not ready:
                ready = now
                print("ready", flush=True)
        print(json.dumps({"silence": silence, "resumed": call.resumed}), flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
