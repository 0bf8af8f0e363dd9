"""Pictures over a path that loses packets: what rtcflow, aiortc and libwebrtc make of the same at the same time.

python bench/video_loss.py --wrtc PYTHON                     1, 3 and 5 % lost, VP8 and H.264, 20 s each
python bench/video_loss.py --loss 3 --codec H264 --seconds 60

PYTHON has `wrtc`, `starlette`, `uvicorn`, `av`, `numpy` and `aiortc`. Without it, libwebrtc is left out. For each codec
and loss one sender per receiver sends 320×240 at 15 a second, by rtcflow's own encoder, through a relay of its own that
loses packets by the same seed. One way takes 50 ms more than the other, so the round trip is 50 ms.

Of each receiver it prints the longest time without a picture, and how many pictures came: in % of those that came to
rtcflow over a path without loss. The exit code is 1 if rtcflow misses a limit.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import anyio
import httpx2
from suite import Suite

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "interop"))
from test_video_loss import CODECS, FPS, LOCAL, PICTURES, VideoRelay, only

from rtcflow.transports.webrtc import WebRTCEngine, open_engine

SHARES = {1: 95.0, 3: 90.0, 5: 80.0}
"""For each loss in %, the least share of pictures in %."""
FREEZE = 0.5
"""Seconds."""
WARM_UP = 2.0
"""Seconds after the first picture that do not count."""


async def send(engine: WebRTCEngine, url: str, between: VideoRelay, codec: str, seconds: float) -> list[float]:
    """Send pictures through the relay for some seconds. Returns when they came, in seconds."""
    caller = await engine.offer(audio=False, video=True, messages=False)
    async with httpx2.AsyncClient(timeout=20) as http:
        body = {"sdp": between.offer(only(caller.offer_sdp, codec)), "type": "offer", "webrtc_id": "pictures"}
        answer = (await http.post(f"{url}/webrtc/offer", json=body)).raise_for_status().json()["sdp"]
        # The relay knows IPv4 alone.
        answer = re.sub(r"a=candidate:\S+ \d (?:tcp|\S+ \d+ \S*:\S*) .*\r\n", "", answer)
        await caller.accept_answer(between.answer(answer))
        with anyio.fail_after(20):
            await caller.wait_connected()
        begin = anyio.current_time()
        for number in range(round(FPS * seconds)):
            caller.video_out.put_nowait(PICTURES[number % len(PICTURES)])
            await anyio.sleep_until(begin + (number + 1) / FPS)
        times = (await http.get(f"{url}/debug/pictures")).json()
    await caller.aclose()
    return times


def freeze(times: list[float], end: float) -> float:
    """The longest time without a picture."""
    counted = [at for at in times if at >= times[0] + WARM_UP] if times else []
    return max((b - a for a, b in pairwise([*counted, end])), default=float("inf"))


def measure(suite: Suite, names: list[str], codec: str, loss: float, seconds: float) -> dict[str, tuple[float, int]]:
    """Of each receiver, the longest freeze in seconds and the number of its pictures."""
    found: dict[str, tuple[float, int]] = {}

    async def hold(engine: WebRTCEngine, name: str, url: str, between: VideoRelay) -> None:
        try:
            times = await send(engine, url, between, codec, seconds)
        except Exception as error:  # the others go on
            print(f"{name}: {error!r}", file=sys.stderr)
            times = []
        found[name] = freeze(times, time.monotonic()), sum(at >= times[0] + WARM_UP for at in times) if times else 0

    async def main() -> None:
        async with open_engine(LOCAL) as engine, anyio.create_task_group() as tasks:
            for name, (url, between) in calls.items():
                tasks.start_soon(hold, engine, name, url, between)

    with ExitStack() as stack:
        calls = {}
        for name in names:
            between = VideoRelay() if name == "without loss" else VideoRelay(loss=loss / 100, delay=0.05)
            stack.callback(between.close)
            server = "rtcflow watch" if name == "without loss" else name
            calls[name] = stack.enter_context(suite.server(server))[0], between
        anyio.run(main)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrtc", metavar="PYTHON")
    parser.add_argument("--codec", choices=CODECS, action="append")
    parser.add_argument("--loss", type=int, choices=SHARES, action="append", help="percent")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    pythons = {"floor": sys.executable, "rtcflow": sys.executable}
    names = ["without loss", "rtcflow watch", "floor_watch"]
    if args.wrtc:
        pythons["wrtc"] = args.wrtc
        names.append("wrtc watch")
    suite, kept = Suite(pythons, args.seconds, 1), True
    print("| codec | lost, % | receiver | longest freeze, s | pictures, % |\n|---|---|---|---|---|")
    for codec in args.codec or CODECS:
        for loss in args.loss or SHARES:
            found = measure(suite, names, codec, loss, args.seconds)
            most = max(1, found["without loss"][1])
            for name, (longest, count) in found.items():
                print(f"| {codec} | {loss} | {name} | {longest:.2f} | {100 * count / most:.0f} |", flush=True)
            longest, count = found["rtcflow watch"]
            kept &= longest <= FREEZE and 100 * count / most >= SHARES[loss]
    print("rtcflow keeps its limits" if kept else "MISSED")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
