"""WebSocket calls side by side: rtcflow's and FastRTC's echo, same client, same machine, one run.

    python bench/lines.py --fastrtc /path/to/python-with-fastrtc [--seconds 8] [--only ...]

Both servers run under Uvicorn, one process each, pinned to one core; the client runs on another core and costs little:
its frames are made beforehand. Handlers are the same source for both. What is printed are medians and ratios.

- latency   a loud frame among silent ones, from sending it until it is back
- cpu       of the server, for each of 8 calls
- capacity  the most calls of which 99 % (--share) of the audio comes back
- idle      CPU of 50 calls on which nobody speaks, % of a core; handlers wait in `emit`
- idle-poll the same, with handlers that look every 0.1 s (FastRTC's `wait_for_item`)
- idle-none the same, with handlers that return None at once
- bargein   from sending a loud frame, at which the handler calls `clear_queue`, until the last audio message
- rss       growth of the server with 10 calls whose handlers return None, MB per minute
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

RATE = 24000
FRAME = RATE // 50
QUIET, LOUD = b"\xff" * FRAME, b"\x80" * FRAME


# -- the servers: this part runs in either Python


def serve(kind: str, library: str, port: int) -> None:
    """Serve one kind of handler with one library, until killed."""
    import numpy as np
    import uvicorn
    from fastapi import FastAPI

    if library == "fastrtc":
        from fastrtc import AsyncStreamHandler, Stream
    else:
        from rtcflow import AsyncStreamHandler, Stream

    class Echo(AsyncStreamHandler):
        def __init__(self) -> None:
            super().__init__(input_sample_rate=RATE, output_sample_rate=RATE)
            self.queue: asyncio.Queue = asyncio.Queue()

        def copy(self):
            return type(self)()

        async def start_up(self):
            pass

        async def receive(self, frame):
            self.queue.put_nowait((frame[0], np.atleast_2d(frame[1])))

        async def emit(self):
            return await self.queue.get()

        async def shutdown(self):
            pass

    class Idle(Echo):
        """As FastRTC's documentation has it: wait a little for an item, else return None."""

        async def emit(self):
            try:
                return await asyncio.wait_for(self.queue.get(), 0.1)
            except TimeoutError:
                return None

    class Nothing(Echo):
        async def receive(self, frame):
            pass

        async def emit(self):
            await asyncio.sleep(0)

    class Talker(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.silent = False

        async def receive(self, frame):
            if np.abs(frame[1].astype(int)).max() > 10_000:
                self.silent = True
                self.clear_queue()

        async def emit(self):
            if self.silent:
                await asyncio.sleep(3600)
            await asyncio.sleep(0.01)  # a synthesiser that is faster than real time
            return RATE, np.full((1, FRAME), 3000, np.int16)

    handlers = {"echo": Echo, "idle": Idle, "nothing": Nothing, "talker": Talker}
    options = {} if library == "fastrtc" else {"concurrency_limit": 1000}
    stream = Stream(handlers[kind](), modality="audio", mode="send-receive", **options)
    stream.concurrency_limit = 1000
    app = FastAPI()
    stream.mount(app)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", loop="asyncio")


# -- the client


def masked(message: str) -> bytes:
    """One text frame of a client, with a mask of zeros (RFC 6455 section 5.3 wants a mask, any)."""
    payload = message.encode()
    size = len(payload)
    head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + payload


def media(payload: bytes) -> bytes:
    return masked(json.dumps({"event": "media", "media": {"payload": base64.b64encode(payload).decode()}}))


SILENCE, NOISE = media(QUIET), media(LOUD)
LOUD_AT = base64.b64encode(LOUD)[:40]


@dataclass
class Call:
    """One WebSocket call."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int = 0
    received: float = 0.0  # frames
    last: float = 0.0
    loud_sent: float | None = None
    latencies: list[float] = field(default_factory=list)
    counting: bool = True

    async def listen(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(2)
                size = head[1] & 0x7F
                if size == 126:
                    size = struct.unpack("!H", await self.reader.readexactly(2))[0]
                elif size == 127:
                    size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
                payload = await self.reader.readexactly(size)
                if head[0] & 0x0F == 9:
                    self.writer.write(struct.pack("!BB", 0x8A, 0x80 | size) + bytes(4) + payload)
                if b'"media"' in payload[:40]:
                    self.last = time.perf_counter()
                    if self.counting:
                        begin = payload.index(b'"', payload.index(b'"payload"') + 10) + 1
                        self.received += (len(payload) - len(b'"}}') - begin) * 3 / 4 / FRAME
                    if self.loud_sent is not None and LOUD_AT in payload:
                        self.latencies.append(self.last - self.loud_sent)
                        self.loud_sent = None
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def speak(self, seconds: float, *, loud_every: int = 0) -> None:
        began = time.perf_counter()
        for number in range(int(seconds * 50)):
            await asyncio.sleep(max(0.0, began + number * 0.02 - time.perf_counter()))
            if loud_every and number % loud_every == loud_every - 1:
                self.loud_sent = time.perf_counter()
                self.writer.write(NOISE)
            else:
                self.writer.write(SILENCE)
            self.sent += 1


async def open_call(port: int, number: int) -> Call:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /websocket/offer HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    status = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in status, status
    writer.write(masked(json.dumps({"event": "start", "websocket_id": f"call-{number}"})))
    return Call(reader, writer)


@dataclass
class Server:
    """A server process."""

    process: subprocess.Popen
    port: int

    def cpu(self) -> float:
        """Seconds of CPU it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Its resident memory, MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start(python: str, kind: str, library: str, core: int) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, __file__, "--serve", kind, "--library", library, "--port", str(port)]
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    return Server(process, port)


# -- the measurements


async def latency(server: Server, seconds: float) -> float:
    """Median of loud frames, ms."""
    call = await open_call(server.port, 0)
    listening = asyncio.create_task(call.listen())
    await call.speak(seconds, loud_every=17)
    await asyncio.sleep(0.5)
    listening.cancel()
    call.writer.close()
    return 1000 * statistics.median(call.latencies) if call.latencies else float("inf")


async def delivery(server: Server, calls: int, seconds: float) -> float:
    """The share of the audio that came back, of the worst call."""
    lines = [await open_call(server.port, number) for number in range(calls)]
    listening = [asyncio.create_task(line.listen()) for line in lines]

    async def talk(number: int, line: Call) -> None:
        await asyncio.sleep(0.02 * number / calls)
        await line.speak(seconds)

    await asyncio.gather(*(talk(number, line) for number, line in enumerate(lines)))
    await asyncio.sleep(0.3)
    share = min(line.received / line.sent for line in lines)
    for task, line in zip(listening, lines, strict=True):
        task.cancel()
        line.writer.close()
    await asyncio.sleep(0.5)
    return share


async def cpu(server: Server, seconds: float) -> float:
    """% of a core for each of 8 calls."""
    before = server.cpu()
    await delivery(server, 8, seconds)
    return 100 * (server.cpu() - before) / seconds / 8


async def capacity(python: str, library: str, core: int, seconds: float, enough: float) -> tuple[int, float]:
    """The most calls with enough of the audio back (0 if not even one), and the share of one call."""
    best, first = 0, 0.0
    for calls in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192):
        server = start(python, "echo", library, core)
        try:
            share = await delivery(server, calls, seconds)
        finally:
            server.stop()
        first = first or share
        print(f"    {library:8} {calls:4} calls: {100 * share:6.1f} %", flush=True)
        if share < enough:
            if calls > 1:
                break
            continue
        best = calls
    return best, first


async def idle(server: Server, seconds: float) -> float:
    """% of a core for 50 silent calls."""
    lines = [await open_call(server.port, number) for number in range(50)]
    listening = [asyncio.create_task(line.listen()) for line in lines]
    await asyncio.sleep(1.5)
    before = server.cpu()
    await asyncio.sleep(seconds)
    used = 100 * (server.cpu() - before) / seconds
    for task, line in zip(listening, lines, strict=True):
        task.cancel()
        line.writer.close()
    return used


async def bargein(server: Server, seconds: float) -> float:
    """Median ms until the last audio message."""
    found = []
    for number in range(max(3, int(seconds / 2))):
        call = await open_call(server.port, number)
        listening = asyncio.create_task(call.listen())
        await asyncio.sleep(0.7)
        pressed = call.last = time.perf_counter()
        call.writer.write(NOISE)
        await asyncio.sleep(0.8)
        found.append(1000 * max(0.0, call.last - pressed))
        listening.cancel()
        call.writer.close()
    return statistics.median(found)


async def rss(server: Server, seconds: float) -> float:
    """MB per minute with handlers that return None."""
    lines = [await open_call(server.port, number) for number in range(10)]
    listening = [asyncio.create_task(line.listen()) for line in lines]
    await asyncio.sleep(3)
    before = server.rss()
    await asyncio.sleep(seconds)
    growth = (server.rss() - before) * 60 / seconds
    for task, line in zip(listening, lines, strict=True):
        task.cancel()
        line.writer.close()
    return growth


SIMPLE = {
    "latency": (latency, "echo", "ms"),
    "cpu": (cpu, "echo", "% of a core"),
    "idle": (idle, "echo", "% of a core"),
    "idle-poll": (idle, "idle", "% of a core"),
    "idle-none": (idle, "nothing", "% of a core"),
    "bargein": (bargein, "talker", "ms"),
    "rss": (rss, "nothing", "MB/min"),
}


async def measure(args: argparse.Namespace) -> None:
    pythons = {"rtcflow": sys.executable, "fastrtc": args.fastrtc}
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {core})
    for name in args.only.split(","):
        results: dict[str, list[float]] = {library: [] for library in pythons}
        if name == "capacity":
            for library, python in pythons.items():
                best, first = await capacity(python, library, core, args.seconds, args.share)
                results[library] = [float(best)]
                print(f"  {library}: {best} calls at {100 * args.share:g} % (one call: {100 * first:.1f} %)")
        else:
            run, kind, unit = SIMPLE[name]
            for _ in range(args.rounds):
                for library, python in pythons.items():
                    server = start(python, kind, library, core)
                    try:
                        results[library].append(await run(server, args.seconds))
                    finally:
                        server.stop()
        ours, theirs = (statistics.median(results[library]) for library in ("rtcflow", "fastrtc"))
        ratio = f"{ours / theirs:.2f}" if theirs else "–"
        unit = "calls" if name == "capacity" else SIMPLE[name][2]
        rounds = {library: [round(value, 1) for value in values] for library, values in results.items()}
        print(f"{name:9} rtcflow {ours:8.1f}  FastRTC {theirs:8.1f} {unit:12} ratio {ratio}   {rounds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastrtc", help="a Python that has fastrtc")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.99, help="of the audio, that must come back for capacity")
    parser.add_argument("--only", default=",".join([*SIMPLE, "capacity"]))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.library, args.port)
    elif not args.fastrtc:
        parser.error("--fastrtc is needed: the Python to compare with")
    else:
        asyncio.run(measure(args))


if __name__ == "__main__":
    main()
