"""WebSocket calls side by side: rtcflow's and FastRTC's echo, same client, same machine, one run.

    python bench/lines.py --fastrtc /path/to/python-with-fastrtc [--seconds 8] [--only ...]

Both servers run under Uvicorn, one process each, pinned to one core; the client runs on another core and costs little:
its frames are made beforehand. Handlers are the same source for both. What is printed are medians and ratios.

- latency   a loud frame among silent ones, from sending it until it is back
- delivery  the share of one call's audio that comes back as fast as it is spoken
- cpu       of the server, for each of 8 calls
- capacity  the most calls of which 99 % (--share) of the audio comes back as fast as it is spoken
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
from dataclasses import dataclass
from pathlib import Path

RATE = 24000


# -- the servers: this part runs in either Python


def serve(kind: str, library: str, port: int, loop: str, ws: str) -> None:
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
            return RATE, np.full((1, RATE // 50), 3000, np.int16)

    handlers = {"echo": Echo, "idle": Idle, "nothing": Nothing, "talker": Talker}
    options = {}
    if library == "rtcflow":
        from rtcflow.transports.line_socket import LineLimits

        options = {"concurrency_limit": 1000, "websocket": LineLimits(idle=None)}
    stream = Stream(handlers[kind](), modality="audio", mode="send-receive", **options)
    if library != "rtcflow":
        stream.concurrency_limit = 1000
    app = FastAPI()
    stream.mount(app)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", loop=loop, ws=ws)


# -- the client


def masked(message: str) -> bytes:
    """One text frame of a client, with a mask of zeros (RFC 6455 section 5.3 wants a mask, any)."""
    payload = message.encode()
    size = len(payload)
    head = struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + payload


def media(sample: bytes, seconds: float) -> bytes:
    payload = base64.b64encode(sample * round(RATE * seconds)).decode()
    return masked(json.dumps({"event": "media", "media": {"payload": payload}}))


QUIET, LOUD = b"\xff", b"\x80"
LOUD_AT = base64.b64encode(LOUD * 30)


class Call(asyncio.Protocol):
    """One WebSocket call; counts the seconds it sent and received."""

    def __init__(self, number: int, block: float) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.block = block
        self.sent = self.received = self.last = 0.0
        self.loud_sent: float | None = None
        self.latencies: list[float] = []
        self._buffer = b""
        self._start = masked(json.dumps({"event": "start", "websocket_id": f"call-{number}"}))
        self._silence, self._noise = media(QUIET, block), media(LOUD, block)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport
        transport.write(
            b"GET /websocket/offer HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self.opened.done():
            head, found, rest = buffer.partition(b"\r\n\r\n")
            self._buffer = buffer
            if not found:
                return
            assert b" 101 " in head, head
            self.transport.write(self._start)
            self.opened.set_result(None)
            buffer = rest
        while len(buffer) >= at + 4:
            size, begin = buffer[at + 1] & 0x7F, at + 2
            if size == 126:
                size, begin = struct.unpack_from("!H", buffer, at + 2)[0], at + 4
            elif size == 127:
                if len(buffer) < at + 10:
                    break
                size, begin = struct.unpack_from("!Q", buffer, at + 2)[0], at + 10
            if len(buffer) < begin + size:
                break
            self._take(buffer[at] & 0x0F, buffer[begin : begin + size])
            at = begin + size
        self._buffer = buffer[at:]

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == 9:
            self.transport.write(struct.pack("!BB", 0x8A, 0x80 | len(payload)) + bytes(4) + payload)
        elif b'"media"' in payload[:40]:
            self.last = time.perf_counter()
            begin = payload.index(b'"', payload.index(b'"payload"') + 10) + 1
            self.received += (len(payload) - len(b'"}}') - begin) * 3 / 4 / RATE
            if self.loud_sent is not None and LOUD_AT in payload:
                self.latencies.append(self.last - self.loud_sent)
                self.loud_sent = None

    def say(self, *, loud: bool = False) -> None:
        self.sent += self.block
        if loud:
            self.loud_sent = time.perf_counter()
        self.transport.write(self._noise if loud else self._silence)

    async def speak(self, seconds: float, *, loud_every: int = 0) -> None:
        began = time.perf_counter()
        for number in range(int(seconds / self.block)):
            await asyncio.sleep(max(0.0, began + number * self.block - time.perf_counter()))
            self.say(loud=bool(loud_every) and number % loud_every == loud_every - 1)


async def open_call(server: Server, number: int = 0) -> Call:
    loop = asyncio.get_running_loop()
    _, call = await loop.create_connection(lambda: Call(number, server.block), "127.0.0.1", server.port)
    await call.opened
    return call


async def hang_up(*calls: Call) -> None:
    for call in calls:
        call.transport.close()
    await asyncio.sleep(0.3)


@dataclass
class Server:
    """A server process."""

    process: subprocess.Popen
    port: int
    block: float  # seconds of audio in each of the client's messages

    def cpu(self) -> float:
        """Seconds of CPU that its threads have used, to the nanosecond."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def rss(self) -> float:
        """Its resident memory, MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start(library: str, kind: str, options: argparse.Namespace) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = options.fastrtc if library == "fastrtc" else sys.executable
    command = [python, __file__, "--serve", kind, "--library", library, "--port", str(port)]
    command += ["--loop", options.loop, "--ws", options.ws]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {options.core}), **quiet)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    return Server(process, port, options.block)


# -- the measurements


async def latency(server: Server, seconds: float) -> float:
    """Median of loud frames, ms."""
    call = await open_call(server)
    await call.speak(seconds, loud_every=max(2, round(0.34 / server.block)))
    await asyncio.sleep(0.5)
    await hang_up(call)
    return 1000 * statistics.median(call.latencies) if call.latencies else float("inf")


async def talk(server: Server, calls: int, seconds: float) -> tuple[float, float]:
    """Let so many calls speak: the share of the audio that came back, of the worst call, and the server's CPU seconds.

    Both are taken over the last `seconds`, after one that brings everything under way: what is not back by then is
    not lost, but a server that gives back 98 % of each second is a second late after one minute.
    """
    lines = [await open_call(server, number) for number in range(calls)]
    figures: list[tuple[float, float]] = []

    async def one(number: int, line: Call) -> None:
        await asyncio.sleep(server.block * number / calls)
        await line.speak(seconds + 1.1)

    async def watch() -> None:
        await asyncio.sleep(1)
        before, used = [(line.sent, line.received) for line in lines], server.cpu()
        await asyncio.sleep(seconds)
        used = server.cpu() - used
        for line, (sent, received) in zip(lines, before, strict=True):
            figures.append(((line.received - received) / (line.sent - sent), used))

    await asyncio.gather(watch(), *(one(number, line) for number, line in enumerate(lines)))
    await hang_up(*lines)
    return min(figures)


async def delivery(server: Server, seconds: float) -> float:
    """The share of the audio of one call that comes back, %."""
    share, _ = await talk(server, 1, seconds)
    return 100 * share


async def cpu(server: Server, seconds: float) -> float:
    """% of a core for each of 8 calls."""
    _, used = await talk(server, 8, seconds)
    return 100 * used / seconds / 8


async def capacity(library: str, options: argparse.Namespace) -> int:
    """The most calls with enough of the audio back, to within a tenth; 0 if not even one has."""
    good, bad, calls = 0, None, 1
    while bad is None or bad - good > max(1, good // 10):
        server = start(library, "echo", options)
        try:
            share, used = await talk(server, calls, options.seconds)
        finally:
            server.stop()
        print(
            f"    {library:8} {calls:4} calls: {100 * share:6.1f} %, {100 * used / options.seconds:4.0f} % CPU",
            flush=True,
        )
        if share >= options.share:
            good = calls
        else:
            bad = calls
        calls = max(16, 2 * good) if bad is None else (good + bad) // 2
    return good


async def idle(server: Server, seconds: float) -> float:
    """% of a core for 50 silent calls."""
    lines = [await open_call(server, number) for number in range(50)]
    await asyncio.sleep(1.5)
    before = server.cpu()
    await asyncio.sleep(seconds)
    used = 100 * (server.cpu() - before) / seconds
    await hang_up(*lines)
    return used


async def bargein(server: Server, seconds: float) -> float:
    """Median ms until the last audio message."""
    found = []
    for number in range(max(3, int(seconds / 2))):
        call = await open_call(server, number)
        await asyncio.sleep(0.7)
        pressed = call.last = time.perf_counter()
        call.say(loud=True)
        await asyncio.sleep(0.8)
        found.append(1000 * max(0.0, call.last - pressed))
        await hang_up(call)
    return statistics.median(found)


async def rss(server: Server, seconds: float) -> float:
    """MB per minute with handlers that return None."""
    lines = [await open_call(server, number) for number in range(10)]
    await asyncio.sleep(3)
    before = server.rss()
    await asyncio.sleep(seconds)
    growth = (server.rss() - before) * 60 / seconds
    await hang_up(*lines)
    return growth


SIMPLE = {
    "latency": (latency, "echo", "ms"),
    "delivery": (delivery, "echo", "%"),
    "cpu": (cpu, "echo", "% of a core"),
    "idle": (idle, "echo", "% of a core"),
    "idle-poll": (idle, "idle", "% of a core"),
    "idle-none": (idle, "nothing", "% of a core"),
    "bargein": (bargein, "talker", "ms"),
    "rss": (rss, "nothing", "MB/min"),
}


async def measure(options: argparse.Namespace) -> None:
    libraries = options.libraries.split(",")
    for name in options.only.split(","):
        results: dict[str, list[float]] = {library: [] for library in libraries}
        if name == "capacity":
            unit = f"calls at {100 * options.share:g} %"
            for library in libraries:
                results[library].append(float(await capacity(library, options)))
        else:
            run, kind, unit = SIMPLE[name]
            for _ in range(options.rounds):
                for library in libraries:
                    server = start(library, kind, options)
                    try:
                        results[library].append(await run(server, options.seconds))
                    finally:
                        server.stop()
        medians = {library: statistics.median(values) for library, values in results.items()}
        ratio = medians["rtcflow"] / medians["fastrtc"] if medians.get("fastrtc") else float("nan")
        rounds = {library: [round(value, 2) for value in values] for library, values in results.items()}
        print(f"{name:9} {unit:14} ratio {ratio:.3f}   {rounds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastrtc", help="a Python that has fastrtc")
    parser.add_argument("--libraries", default="rtcflow,fastrtc")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=float, default=0.02, help="seconds of audio in each of the client's messages")
    parser.add_argument("--share", type=float, default=0.99, help="of the audio, that must come back for capacity")
    parser.add_argument("--loop", default="asyncio", help="Uvicorn's: asyncio or uvloop")
    parser.add_argument("--ws", default="auto", help="Uvicorn's: websockets, websockets-sansio or wsproto")
    parser.add_argument("--only", default=",".join([*SIMPLE, "capacity"]))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--library", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.library, options.port, options.loop, options.ws)
        return
    if "fastrtc" in options.libraries and not options.fastrtc:
        parser.error("--fastrtc is needed: the Python to compare with; or --libraries rtcflow")
    options.core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {options.core})
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
