"""A function of video under measurement: a table, and exit code 1 if a limit of docs/performance.md is not kept.

python bench/video.py              both measurements, about 100 s
python bench/video.py together     a fast filter beside three audio echoes: frames a second, gaps in the sound
python bench/video.py slow         a filter of 200 ms: how old what it shows is, and the server's memory

Server and client have a core of their own each, where the system can pin them. The client is `bench/client.py`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
from client import FilmPeer, Paced, Process, TappedPeer, host, now, numbered, opus, own_cpu, speaking

from rtcflow.client.load import judge, spoken_signal

FPS = 30
SLOW = 0.2

LIMITS = {
    "frames a second": (29.5, None),
    "gap between sounds, p99, ms": (None, 40.0),
    "age beyond the filter, median, ms": (None, 2000 / FPS),
    "memory, growth over 60 s, MB": (None, 3.0),
}
"""For each figure the least and the most that is well."""


# -- the server


def serve(port: int, seconds: float) -> None:
    """A stream of video and one of audio in one process, as an application mounts them."""
    import uvicorn
    from starlette.applications import Starlette

    import rtcflow
    from rtcflow.demo import make_stream

    def negative(picture: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return 255 - picture

    film = rtcflow.VideoStreamHandler(negative, skip_frames=seconds > 0)
    app = Starlette()
    telephone = rtcflow.TelephoneConfig(carriers=())
    rtcflow.Stream(film, modality="video", telephone=telephone).mount(app, "/film")
    make_stream().mount(app, "/echo")
    sys.setswitchinterval(0.0005)  # as `rtcflow serve` does
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


@contextmanager
def server(seconds: float):
    """A fresh server whose filter takes `seconds`; its URL and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "serve", "--port", str(port), "--seconds", str(seconds)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    pin(process.pid, 0)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", Process(process.pid)
    finally:
        process.kill()
        process.wait()


def pin(pid: int, core: int) -> None:
    """Give a process a core of its own, if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[core]})


# -- the client


def film(packets: list[bytes]) -> FilmPeer:
    return FilmPeer(Paced("video", packets, 1 / FPS, 90000), flipped=False)


async def together(seconds: float = 20.0) -> dict[str, float]:
    """A filter beside three audio echoes."""
    sound, pictures = opus(spoken_signal()[0]), numbered()
    with server(0) as (url, process):
        seen = film(pictures)
        heard = [TappedPeer(speaking(sound, number / 150)) for number in range(3)]
        await seen.open(f"{url}/film/webrtc/offer")
        for peer in heard:
            await peer.open(f"{url}/echo/webrtc/offer")
        await asyncio.sleep(3)
        begin, cpu, ours, (busy, steal) = now(), process.cpu(), own_cpu(), host()
        await asyncio.sleep(seconds)
        end, cpu, ours = now(), process.cpu() - cpu, own_cpu() - ours
        busy, steal = (later - before for later, before in zip(host(), (busy, steal), strict=True))
    moments = np.array([moment for moment in seen.pictures.values() if begin <= moment < end])
    report = judge([peer.trace() for peer in heard], begin, end)
    return {
        "frames a second": len(moments) / (end - begin),
        "frames in the worst second": float(np.histogram(moments, int(seconds), (begin, end))[0].min()),
        "gap between sounds, p99, ms": 1000 * report.gap.p99,
        "sounds delivered, %": 100 * report.delivery,
        "CPU of the server, % of a core": 100 * cpu / (end - begin),
        "CPU of others, % of a core": 100 * (busy - cpu - ours) / (end - begin),
        "CPU stolen, % of a core": 100 * steal / (end - begin),
    }


async def slow(seconds: float = 60.0) -> dict[str, float]:
    """A filter that is too slow for what comes."""
    with server(SLOW) as (url, process):
        seen = film(numbered())
        await seen.open(f"{url}/film/webrtc/offer")
        await asyncio.sleep(8)
        begin, rss = now(), []
        while now() < begin + seconds:
            rss.append(process.rss())
            await asyncio.sleep(1)
    beyond = 1000 * (np.array(seen.ages(begin)) - SLOW)
    fifth = len(rss) // 5
    return {
        "frames a second of 5": len(beyond) / seconds,
        "age beyond the filter, median, ms": float(np.median(beyond)),
        "age beyond the filter, p99, ms": float(np.percentile(beyond, 99)),
        "memory at the end, MB": rss[-1],
        "memory, growth over 60 s, MB": float(np.mean(rss[-fifth:]) - np.mean(rss[:fifth])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["together", "slow", "serve"])
    parser.add_argument("--port", type=int, help="of the server")
    parser.add_argument("--seconds", type=float, default=0.0, help="that the server's filter takes")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    if args.what == "serve":
        serve(args.port, args.seconds)
        return
    pin(0, 1)
    gc.disable()
    figures: dict[str, float] = {}
    for name, measure in (("together", together), ("slow", slow)):
        if args.what in {None, name}:
            figures |= asyncio.run(measure())
    if args.json:
        print(json.dumps(figures))
    failed = False
    for name, value in figures.items():
        least, most = LIMITS.get(name, (None, None))
        well = (least is None or value >= least) and (most is None or value <= most)
        failed |= not well
        limit = "" if least is most is None else f"{'≥' if most is None else '≤'} {least if most is None else most:.1f}"
        if not args.json:
            print(f"{name:36} {value:8.1f}  {limit:8} {'' if well else 'MISSED'}")
    sys.stdout.flush()
    os._exit(failed)  # nobody needs to see how the calls are closed


if __name__ == "__main__":
    main()
