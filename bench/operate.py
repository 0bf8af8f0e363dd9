"""What it costs to watch calls. The same WebRTC echo calls run once with it and once without.

    python bench/operate.py recording --suffix .wav     the same live calls, recorded and not recorded in turn
    python bench/operate.py all                         a server with everything beside one without
    python bench/operate.py memory --seconds 600        resident memory of a server with everything, for so long

Everything is recording, Prometheus (a scrape each five seconds) and OpenTelemetry (to a collector that discards). The
figures are the CPU seconds of the server's process per second and call, and the 99th percentile of the gaps between
packets as the client gets them. Server and client are pinned to cores of their own, if the system can do that. The last
line says whether the goal is met. "Not proven" means that more rounds, or a quieter machine, are needed.

Complexity 0 is the strict case: a call costs least, so watching it costs the largest share. ``--complexity auto`` is
how calls are by default. Then the engine chooses by its load. So each measurement tells what it had, and only those
that had the same one are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx2
import numpy as np
from client import Process, TappedPeer, open_all, opus, speaking

from rtcflow.client.load import spoken_signal

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["recording", "all", "memory", "serve"])
parser.add_argument("-n", type=int, default=30, help="calls")
parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement; files are written each 8 s")
parser.add_argument("--rounds", type=int, default=4)
parser.add_argument("--suffix", default=".wav")
parser.add_argument(
    "--complexity",
    type=lambda given: given if given == "auto" else int(given),
    default=0,
    help="of Opus: 0 is that of a full core, where a call costs least; auto is the default of users",
)
parser.add_argument("--rates", type=int, nargs=2, default=[48000, 24000], help="Hz, of the handler's input and output")
parser.add_argument("--count", action="store_true", help="recording: count the CPU time of its notes and writers, too")
parser.add_argument("--copies", type=int, default=1, help="recording: record each call so many times, for less noise")
parser.add_argument("--port", type=int, default=9471)
PARTS = ["recording", "prometheus", "otel"]
parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="all: what everything is")
parser.add_argument("--on", action="store_true", help="serve: with these parts")
parser.add_argument("--directory", help="serve: where recordings go")
parser.add_argument("--collector", help="serve: the URL of OpenTelemetry's collector")
args = parser.parse_args()
SCRAPE = 5.0
FULL = 0.85  # of a core: two servers that share it take from one another beyond that
SAMPLED = 17
SETTLED = 14.0  # seconds after which recordings are written as fast as they come: their batch, and what waits


# -- the server


def count_recordings() -> Counter[str]:
    """Count the CPU seconds of each of a recording's notes, of which one in `SAMPLED` is timed, and of its writers."""
    from rtcflow.connection.recorder import FileRecorder
    from rtcflow.media.recording import Intake

    spent: Counter[str] = Counter()
    idle = sum(time.thread_time() - time.thread_time() for _ in range(1000)) / -1000  # what counting itself takes

    def counted(owner: type, name: str, sampled: int = 1) -> None:
        method, turns = getattr(owner, name), count()

        def call(*arguments):
            if next(turns) % sampled:
                return method(*arguments)
            begin = time.thread_time()
            try:
                return method(*arguments)
            finally:
                spent[name] += sampled * (time.thread_time() - begin - idle)

        setattr(owner, name, call)

    for name in ["heard", "left"]:
        counted(Intake, name, SAMPLED)
    counted(FileRecorder, "write")
    return spent


def serve() -> None:
    import uvicorn
    from starlette.responses import JSONResponse

    from rtcflow import AsyncStreamHandler, Stream
    from rtcflow.transports.webrtc import OpusConfig, WebRTCConfig

    class Echo(AsyncStreamHandler):
        def __init__(self) -> None:
            super().__init__(input_sample_rate=args.rates[0], output_sample_rate=args.rates[1])

        async def start_up(self) -> None:
            self.queue = asyncio.Queue(50)

        async def receive(self, frame) -> None:
            await self.queue.put(frame)

        async def emit(self):
            return await self.queue.get()

        def copy(self):
            return Echo()

    def path(context):
        return Path(args.directory) / f"{time.monotonic_ns()}{args.suffix}"

    options = {"webrtc": WebRTCConfig(opus=OpusConfig(complexity=args.complexity))}
    on = args.parts if args.on else []
    options |= {"record": path} if "recording" in on else {}
    options |= {"metrics": True} if "prometheus" in on else {}
    stream = Stream(Echo(), concurrency_limit=1000, latency="live", **options)
    if "otel" in on:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from rtcflow.otel import trace_calls

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(args.collector)))
        trace_calls(stream, tracer_provider=provider)
    app = stream.asgi
    running, begun = [], [0.0]
    spent = count_recordings() if args.count else {}

    async def record(request):
        for recording in running:
            recording.stop()
            await recording.wait_closed()
            assert recording.error is None, recording.error
            assert not recording.dropped
        seconds = len(running) * (time.monotonic() - begun[0])
        found = {name: 1000 * value / seconds for name, value in spent.items()} if running else {}
        running.clear()
        spent.clear()
        if request.query_params.get("on"):
            begun[0] = time.monotonic()
            running.extend(session.record(path(None)) for session in stream.calls.values() for _ in range(args.copies))
        return JSONResponse(found)

    async def cpu(_):
        details = [session.statistics().transport.details for session in stream.calls.values()]
        levels = sorted({str(of.get("opus_complexity", args.complexity)) for of in details})
        return JSONResponse([time.process_time(), levels])

    app.add_route("/debug/record", record)
    app.add_route("/debug/cpu", cpu)
    sys.setswitchinterval(0.0005)  # as the command line does
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", timeout_keep_alive=60)


# -- the client


class Discards(BaseHTTPRequestHandler):
    """A collector that discards."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


async def get(http, path: str, port: int = args.port):
    response = (await http.get(f"http://127.0.0.1:{port}{path}")).raise_for_status()
    return response.json() if "json" in response.headers["content-type"] else response.text


async def server(http, *options: str, port: int = args.port):
    options = ["--port", str(port), "--complexity", str(args.complexity), *options]
    options += ["--rates", *map(str, args.rates), "--copies", str(args.copies), "--parts", *args.parts]
    process = subprocess.Popen([sys.executable, __file__, "serve", *options])
    if len(CORES) > 1 and args.what != "memory":
        os.sched_setaffinity(process.pid, {CORES[-1]})
    for _ in range(300):
        try:
            await get(http, "/debug/cpu", port)
            return process
        except httpx2.HTTPError:
            await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def callers(packets, port: int = args.port) -> list[TappedPeer]:
    args.url = f"http://127.0.0.1:{port}"
    peers = [TappedPeer(speaking(packets, 0.02 * number / args.n)) for number in range(args.n)]
    await open_all(args, peers)
    return peers


async def measure(http, peers, scrape: bool = False, port: int = args.port) -> tuple[float, float, list[str]]:
    """CPU ms per second and call; p99 gap in ms; the complexities of calls. A scrape comes each `SCRAPE` seconds."""
    for peer in peers:
        peer.received.clear()
    begin, (before, levels) = time.monotonic(), await get(http, "/debug/cpu", port)
    while (left := begin + args.seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, SCRAPE))
        if scrape:
            await get(http, "/metrics", port)
    seconds, (after, levels_after) = time.monotonic() - begin, await get(http, "/debug/cpu", port)
    gaps = np.concatenate([np.diff([at for at, _ in peer.received]) for peer in peers])
    levels = sorted({*levels, *levels_after})
    return 1000 * (after - before) / seconds / len(peers), 1000 * float(np.percentile(gaps, 99)), levels


Found = list[tuple[float, float, list[str]]]


def report(name: str, found: Found) -> None:
    cpu = [one[0] for one in found]
    print(f"{name:5} CPU {statistics.median(cpu):6.2f} ms/s per call", [round(value, 2) for value in cpu], end="  ")
    print("p99 gap", [round(gap, 1) for _, gap, _ in found], "ms, complexity", [levels for *_, levels in found])


def judge_pairs(found: dict[bool, Found], words: str, most: float, copies: int = 1) -> None:
    """Say whether what neighbouring measurements differ by is at most `most` percent, by 95 % of Student's t."""
    both = zip(found[True], found[False], strict=True)
    pairs = [100 * (one[0] / other[0] - 1) / copies for one, other in both if len({*one[2], *other[2]}) == 1]
    if not pairs:
        print(f"{words}: not proven, because no two neighbours had the same complexity")
        return
    mean = statistics.fmean(pairs)
    student = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}.get(len(pairs), 2.3)
    wide = student * statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("inf")
    verdict = "yes" if mean + wide <= most else "NO" if mean - wide > most else "not proven"
    print(f"{words} {mean:+.1f} ± {wide:.1f} % (pairs: {', '.join(f'{pair:+.1f}' for pair in pairs)})")
    print(f"at most {most:g} %: {verdict}")


async def recording(http, packets, directory) -> None:
    options = ["--directory", directory, "--suffix", args.suffix, *(["--count"] if args.count else [])]
    process = await server(http, *options)
    found, counted = {False: [], True: []}, []
    try:
        peers = await callers(packets)
        await asyncio.sleep(2)
        before = None
        for turn in range(2 * args.rounds):
            on = turn % 4 in {1, 2}  # off, on, on, off: what gets faster or slower by the time favours neither
            if on is not before:
                before = on
                counted.append(await get(http, f"/debug/record{'?on=1' if on else ''}"))
                await asyncio.sleep(SETTLED if on else 1.0)
            found[on].append(await measure(http, peers))
        counted.append(await get(http, "/debug/record"))
        for peer in peers:
            await peer.close()
    finally:
        process.terminate()
        process.wait()
    report("off", found[False])
    report(args.suffix, found[True])
    for one in filter(None, counted):
        parts = ", ".join(f"{name.strip('_')} {value:.2f}" for name, value in one.items())
        print(f"counted, ms/s per call: {sum(one.values()):.2f} ({parts})")
    judge_pairs(found, "one recording costs", 3.0, args.copies)


async def memory(http, packets, directory) -> None:
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Discards)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    process = await server(http, "--on", "--directory", directory, "--suffix", args.suffix, "--collector", url)
    try:
        peers = await callers(packets)
        sizes = []
        for _ in range(round(args.seconds / 15)):
            await asyncio.sleep(15)
            await get(http, "/metrics")
            for peer in peers:
                peer.received.clear()
                peer.track.sent.clear()
            sizes.append(Process(process.pid).rss())
            print(f"{15 * len(sizes)} s: {sizes[-1]:.1f} MB", flush=True)
        third = len(sizes) // 3
        before, after = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[2 * third :])
        grown = 100 * (after / before - 1)
        verdict = "yes" if grown <= 2 else "NO"
        print(f"flat: {verdict} (the last third has {grown:+.1f} % more than the one before; 2 % may be)")
        for peer in peers:
            await peer.close()
    finally:
        process.terminate()
        process.wait()


async def measure_scrapes(http, port: int) -> float:
    """CPU ms of one scrape: what a second has more with ten of them than one without."""
    seconds = []
    for scrapes in (0, 10):
        before, _ = await get(http, "/debug/cpu", port)
        for _ in range(10):
            begin = time.monotonic()
            if scrapes:
                await get(http, "/metrics", port)
            await asyncio.sleep(begin + 0.1 - time.monotonic())
        after, _ = await get(http, "/debug/cpu", port)
        seconds.append(after - before)
    return 1000 * (seconds[1] - seconds[0]) / 10


async def everything(http, packets, directory) -> None:
    """Both servers run at once, on the same core: what else the machine does, or its clock, is the same for both.

    A core that is full gives each of them half, whatever it needs. Then fewer calls (``-n``) are to be taken.
    """
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Discards)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    with_all = ["--on", "--directory", directory, "--suffix", args.suffix, "--collector", url]
    found, scraped = {False: [], True: []}, []
    prometheus = "prometheus" in args.parts
    for turn in range(args.rounds):
        ports = {turn % 2 == 1: args.port, turn % 2 == 0: args.port + 1}  # neither is always the first
        processes, peers = [], {}
        try:
            for on, port in sorted(ports.items(), key=lambda one: one[1]):
                processes.append(await server(http, *(with_all if on else []), port=port))
                peers[on] = await callers(packets, port)
            await asyncio.sleep(SETTLED)
            both = [measure(http, peers[on], on and prometheus, port) for on, port in ports.items()]
            for on, one in zip(ports, await asyncio.gather(*both), strict=True):
                found[on].append(one)
            if prometheus:
                scraped.append(await measure_scrapes(http, ports[True]))
            for peer in [*peers[False], *peers[True]]:
                await peer.close()
        finally:
            for process in processes:
                process.terminate()
                process.wait()
    report("off", found[False])
    report("all", found[True])
    if scraped:
        print(f"a scrape takes {statistics.median(scraped):.1f} ms of processor time, with {args.n} calls")
    busy = [(one[0] + other[0]) * args.n / 1000 for one, other in zip(found[True], found[False], strict=True)]
    room = {on: [one for one, share in zip(found[on], busy, strict=True) if share <= FULL] for on in found}
    print(f"both together took {min(busy):.0%} to {max(busy):.0%} of their core")
    if full := len(busy) - len(room[True]):
        print(f"{full} pairs of rounds that took more than {FULL:.0%} are left out: take fewer calls (-n)")
    judge_pairs(room, "all of it costs", 10.0)
    if room[True]:
        worst = max(gap for _, gap, _ in room[True])
        print(f"p99 gap at most 40 ms: {'yes' if worst <= 40 else 'NO'} ({worst:.1f} ms)")


async def main() -> None:
    packets = opus(spoken_signal())
    with tempfile.TemporaryDirectory() as directory:
        async with httpx2.AsyncClient(timeout=20) as http:
            await {"recording": recording, "all": everything, "memory": memory}[args.what](http, packets, directory)


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

if args.what == "serve":
    serve()
else:
    if len(CORES) > 1 and args.what != "memory":
        os.sched_setaffinity(0, CORES[:-1])
    asyncio.run(main())
