"""Soak: callers on all transports come and go by a seed, with faults among them, and the server's figures are watched.

    python bench/soak.py --seconds 1800 --backend trio      # `nox -s soak` runs both backends

Twelve callers call an echo over WebRTC, WebSocket and a telephone line, hang up or vanish, and call again. Some make
the handler raise or stall, some are processes that are killed, some send junk. Every five seconds the server is asked
for its memory, descriptors, threads, tasks and calls. At the end everybody has gone, and the server must be as before.

An allocator keeps memory for the most calls that ever were at once. Chance makes new records for long, and each looks
like growth. So the run begins with a rush: every caller calls at once, on each transport, and each fault happens. What
memory does after the rush is judged: the growth in time of memory at the same number of calls, by least squares.

What a call leaves has circles of references, which wait for Python's collector. It comes after so many new objects, and
a server has up to 8 MB of such garbage by then. Each figure is taken after a collection, or a new peak would look like
growth, too.

`nox -s soak -- --docs` writes the plots and figures that docs/performance.md shows.

It fails (exit code 1) if memory grows by more than 1 MB in ten minutes after the warm-up, if anything else is left, or
if a healthy call got back less than 99 % of its frames. Figures go to a JSON file, with a plot beside it.

The run counts the frames that came back, however late. The echo plays everything (`Latency.BUFFERED`), and a caller
hangs up when the last frame is back. So a machine that lets programs wait makes frames late, and loses none. Queues
hold a second, though. So two controls run beside the calls. One is a program that only wakes every 20 ms; it was late
by more than `STOOD` if the machine stood still. The other is the system's own account: for how long a thread of the
server or of the callers was ready, and waited for a processor. If that is more than `BUSY` of a call, the machine had
too much else to do. Such calls are not judged. They are counted, and the run says nothing if most of its calls are
such.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import rtcflow
from rtcflow.client import connect
from rtcflow.client.lines import call_by_telephone, call_by_websocket
from rtcflow.frames import AudioFormat
from rtcflow.transports import TelephoneConfig

RATE = 48000
SIZE = RATE // 50
CALLERS = 12
KINDS = ["webrtc", "websocket", "telephone"]
EVERY = 5.0
PAGES = Path(__file__).resolve().parent.parent / "docs" / "_static"
RUSH = 4.0
"""Seconds of the calls of the rush, which come before everything that is judged."""
WARM_UP = 900.0
"""Seconds after the rush before memory is judged, at most half of the run.

Calls of three transports and their faults meet in ever new ways, and for about a quarter of an hour some of them need
more at once than any before. The allocator keeps that. Memory in use does not grow meanwhile; it is reported from
`SETTLED` on.
"""
SETTLED = 60.0
"""Seconds after the rush from which memory in use is told, at most a third of the run."""
FIRST = 3
"""Frames at the beginning that need not come back: codecs and jitter buffers begin then."""
LAST = 5.0
"""The most seconds that a caller waits for its last frames. They are late by what the machine let it wait."""
CONTROL = "control's longest gap"
BUSY = 0.25
"""The share of a call for which a thread may wait for a processor; on a quiet machine it is a few percent."""
LEAST = 0.99
"""The least share of its frames that a healthy call must get back."""
STOOD = 0.25
"""Seconds by which the control must be late before a call at that moment is not judged."""
LONG = 300.0
"""Seconds of a run by which the growth of memory can be judged."""
SETTLE = 15.0
"""Seconds after the last call until the server must be as it was: longer than `WebRTCConfig.peer_timeout`."""
ENDED = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)


# -- the server


class Echo(rtcflow.AsyncStreamHandler):
    """Echoes, and fails on request."""

    def __init__(self) -> None:
        super().__init__(output_sample_rate=RATE)
        self.frames: Any = None
        self.wish = ""

    async def on_message(self, message: str) -> None:
        self.wish = message

    async def receive(self, frame: tuple[int, np.ndarray]) -> None:
        if self.wish == "raise":
            raise RuntimeError("as the caller wished")
        if self.wish == "stall":
            self.wish = ""
            await anyio.sleep(0.5)
        self._audio().send_nowait(frame)

    async def emit(self) -> Any:
        return await self._audio().receive_side.receive()

    def _audio(self) -> Any:
        if self.frames is None:
            self.frames = _Queue()
        return self.frames

    def copy(self) -> Echo:
        return Echo()


class _Queue:
    """Ten seconds of frames."""

    def __init__(self) -> None:
        self._send, self.receive_side = anyio.create_memory_object_stream[Any](500)

    def send_nowait(self, frame: Any) -> None:
        with suppress(anyio.WouldBlock):
            self._send.send_nowait(frame)


stream = rtcflow.Stream(
    Echo(), concurrency_limit=40, telephone=TelephoneConfig(carriers=("twilio",), unsigned_is_fine=True)
)


def task_names() -> list[str]:
    """The names of all tasks of the application's loop."""
    if "trio" in sys.modules:
        import trio

        with suppress(RuntimeError):
            found, left = [], [trio.lowlevel.current_root_task()]
            while left:
                if (task := left.pop()) is not None:
                    found.append(task.name)
                    left += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
            return found
    import asyncio

    return [f"{task.get_name()} {task.get_coro()}".split(" at 0x")[0] for task in asyncio.all_tasks()]


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; `uordblks` are the bytes in use, in all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def in_use() -> float:
    """Megabytes that native code and Python have allocated with malloc and not freed; 0 without glibc's `mallinfo2`."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0.0
    mallinfo2.restype = _MallInfo
    found = mallinfo2()
    return (found.uordblks + found.hblkhd) / 2**20


async def figures(_: Request) -> JSONResponse:
    gc.collect()
    names = task_names()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return JSONResponse(
        {
            "rss": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "in use": in_use(),
            "blocks": sys.getallocatedblocks() / 1000,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "tasks": len(names),
            "names": names,
            "calls": len(stream.calls),
        }
    )


app = Starlette(routes=[Route("/figures", figures)])
stream.mount(app, "")


# -- the callers


@dataclass
class Delivery:
    """What came back of a healthy call; moments are those of `time.monotonic`."""

    kind: str
    begin: float
    end: float
    sent: int
    heard: float
    longest_gap: float

    @property
    def share(self) -> float:
        return min(1.0, self.heard / (self.sent - FIRST))

    def __str__(self) -> str:
        return f"{self.kind} of {self.end - self.begin:.1f} s: {self.heard:.0f} of {self.sent}"


@dataclass
class Tally:
    """How many calls were made, with which faults, and how well they went."""

    made: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    delivered: list[Delivery] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def count(self, kind: str, fault: str) -> None:
        self.made[kind] = self.made.get(kind, 0) + 1
        if fault:
            self.faults[fault] = self.faults.get(fault, 0) + 1


TONE = (8000 * np.sin(2 * np.pi * 400 * np.arange(SIZE) / RATE)).astype(np.int16)[np.newaxis]


@asynccontextmanager
async def calling(url: str, kind: str, engine: Any = None) -> AsyncIterator[Any]:
    """A call of this kind, opened and started."""
    if kind == "webrtc":
        opened: AbstractAsyncContextManager[Any] = connect(url, engine=engine)
    elif kind == "websocket":
        opened = call_by_websocket(url.replace("http", "ws"))
    else:
        opened = call_by_telephone(url.replace("http", "ws"), "twilio")
    async with opened as call:
        call.start(AudioFormat(RATE), AudioFormat(RATE))
        yield call


async def converse(call: Any, kind: str, fault: str, seconds: float, tally: Tally) -> None:
    """Say a tone for some seconds, and count what comes back."""
    await call.wait_connected()
    begin = latest = time.monotonic()
    sent = 0
    heard = gap = 0.0
    more = anyio.Event()

    async def speak() -> None:
        nonlocal sent
        first = anyio.current_time()
        with suppress(*ENDED):
            while True:
                call.audio_out.put(TONE)
                sent += 1
                await anyio.sleep_until(first + sent * 0.02)

    async def listen() -> None:
        nonlocal heard, gap, latest, more
        with suppress(*ENDED):
            while True:
                frame = await call.audio_in.take()
                if np.abs(frame.samples).mean() > 1000:
                    now = time.monotonic()
                    gap = max(gap, now - latest) if heard else 0.0
                    latest = now
                    heard += 50 * frame.samples.shape[1] / frame.sample_rate
                    more.set()
                    more = anyio.Event()

    async with anyio.create_task_group() as listening:
        listening.start_soon(listen)
        async with anyio.create_task_group() as speaking:
            speaking.start_soon(speak)
            with anyio.move_on_after(seconds):
                if fault in {"raise", "stall"}:
                    await anyio.sleep(seconds / 2)
                    with suppress(*ENDED):
                        call.send_message_nowait(fault)
                with suppress(*ENDED):
                    await call.wait_ended()
            speaking.cancel_scope.cancel()
        if not fault:
            with anyio.move_on_after(LAST):
                while heard < sent:
                    await more.wait()
        listening.cancel_scope.cancel()
    if not fault and sent > 100:
        tally.delivered.append(Delivery(kind, begin, time.monotonic(), sent, heard, gap))


async def caller(number: int, url: str, seed: int, until: float, engine: Any, tally: Tally) -> None:
    """Call again and again until the time is over."""
    chance = random.Random(f"{seed} {number}")
    await anyio.sleep(chance.uniform(0, 5))
    while anyio.current_time() < until:
        kind = chance.choice(KINDS)
        fault = chance.choices(["", "raise", "stall", "killed", "junk"], [80, 5, 5, 4, 6])[0]
        seconds = min(chance.uniform(4, 25), max(1.0, until - anyio.current_time()))
        if kind != "webrtc" and fault in {"raise", "stall"}:
            fault = ""
        tally.count(kind, fault)
        try:
            if fault == "killed":
                await be_killed(url, kind, seconds / 3)
            elif fault == "junk":
                await send_junk(url, chance)
            else:
                async with calling(url, kind, engine) as call:
                    await converse(call, kind, fault, seconds, tally)
        except (*ENDED, OSError, TimeoutError, rtcflow.exceptions.RTCFlowError) as error:
            tally.refused += 1
            tally.refusals.append(f"{kind}: {str(error) or error.__cause__ or type(error).__name__}")
        await anyio.sleep(chance.uniform(0.2, 2))


async def be_killed(url: str, kind: str, seconds: float) -> None:
    """Call from another process, which is killed in mid-call."""
    command = [sys.executable, __file__, "--victim", kind, "--url", url]
    process = await anyio.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await anyio.sleep(3 + seconds)
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def send_junk(url: str, chance: random.Random) -> None:
    """Junk to routes, to the port, and to a WebSocket that is reset."""
    host, port = url.removeprefix("http://").split(":")
    async with httpx2.AsyncClient() as client:
        for path in ("/webrtc/offer", "/whip", "/telephone/handler/twilio", "/nowhere"):
            with suppress(httpx2.TransportError):
                await client.post(url + path, content=chance.randbytes(chance.randrange(2000)))
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = (
        f"GET /websocket/offer HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    for head in (b"", upgrade, b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            raw.sendall(head + chance.randbytes(200))
            await anyio.sleep(0.1)


# -- the control


def control(path: Path) -> None:
    """Wake every 20 ms until this process is killed; write down when that was late, and by how much."""
    with path.open("w") as notes:
        due = time.monotonic()
        while True:
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due
            if late > 0.02:
                print(due, late, file=notes, flush=True)
                due += late


def waited(path: Path) -> list[tuple[float, float]]:
    """What the control wrote: moments, and by how many seconds it was late then."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(float(line[0]), float(line[1])) for line in lines if len(line) == 2]


def waits(process: int) -> dict[str, float]:
    """The seconds that each thread of a process was ready, and waited for a processor; empty where Linux does not say.

    Source: the kernel's Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    found = {}
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError, IndexError):
            found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return found


async def watch_waits(processes: list[int], shares: list[tuple[float, float]]) -> None:
    """Note each second or so when it began, and the largest share of it that a thread of these processes waited."""
    began, before = time.monotonic(), [waits(process) for process in processes]
    while True:
        await anyio.sleep(1)
        now, after = time.monotonic(), [waits(process) for process in processes]
        waited = [
            more[thread] - less.get(thread, 0.0) for less, more in zip(before, after, strict=True) for thread in more
        ]
        shares.append((began, max(waited, default=0.0) / (now - began)))
        began, before = now, after


def judge(
    deliveries: list[Delivery], late: list[tuple[float, float]], waiting: list[tuple[float, float]]
) -> dict[str, Any]:
    """Which healthy calls count, and which of them got too little back."""
    stood = [(due, due + by) for due, by in late if by > STOOD]

    def fair(one: Delivery) -> bool:
        waited = [share for moment, share in waiting if one.begin < moment < one.end]
        return float(np.mean(waited or [0.0])) <= BUSY and not any(
            one.begin < end and begin < one.end for begin, end in stood
        )

    judged = [one for one in deliveries if fair(one)]
    shares = [one.share for one in judged]
    return {
        "healthy calls": len(deliveries),
        "judged": len(judged),
        "least delivered": min(shares, default=0.0),
        "below 99 %": sum(share < LEAST for share in shares),
        "below 99 %, not judged": sum(one.share < LEAST for one in deliveries) - sum(share < LEAST for share in shares),
        "worst": [str(one) for one in sorted(judged, key=lambda one: one.share) if one.share < LEAST][:10],
        "longest gap": max((one.longest_gap for one in deliveries), default=0.0),
        CONTROL: max((by for _, by in late), default=0.0),
    }


async def victim(url: str, kind: str) -> None:
    """Call until somebody kills this process."""
    async with calling(url, kind) as call:
        await converse(call, kind, "killed", 3600, Tally())


# -- watching


async def watch(url: str, until: float, samples: list[dict[str, Any]]) -> None:
    """Ask the server for its figures now and then."""
    begin = time.monotonic()
    async with httpx2.AsyncClient(timeout=20) as client:
        while anyio.current_time() < until:
            found = (await client.get(f"{url}/figures")).json()
            samples.append({"at": time.monotonic() - begin, **found})
            await anyio.sleep(EVERY)


def slope(samples: list[dict[str, Any]], name: str) -> float:
    """Growth in ten minutes at the same number of calls, by least squares."""
    if len(samples) < 4:
        return 0.0
    columns = np.array([[sample["at"], sample["calls"], 1.0] for sample in samples])
    fit, *_ = np.linalg.lstsq(columns, np.array([sample[name] for sample in samples]), rcond=None)
    return float(fit[0] * 600)


def plot(samples: list[dict[str, Any]], path: Path, title: str, report: dict[str, Any]) -> None:
    """A picture of the samples: each figure over time, from 0 to its own maximum, below the run's figures."""
    width, high, left = 900, 90, 120
    left_over = ", ".join(f"{more:+g} {what}" for what, more in report["left at the end"].items())
    said = (
        f"{sum(report['calls'].values())} calls, {sum(report['faults'].values())} with a fault. Memory after the "
        f"warm-up: {report['MB in ten minutes']:+.1f} MB in ten minutes. At the end: {left_over}. Below 99 %: "
        f"{report['below 99 %']} of {report['judged']} healthy calls."
    )
    names = [
        name for name in ("rss", "in use", "blocks", "descriptors", "threads", "tasks", "calls") if name in samples[0]
    ]
    last = max(sample["at"] for sample in samples) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {60 + high * len(names)}" '
        f'font-family="system-ui, sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fbfcfd"/>'
        f'<text x="12" y="24" font-weight="600">{title}</text><text x="12" y="44" font-size="12">{said}</text>'
    ]
    for row, name in enumerate(names):
        bottom = 60 + high * (row + 1) - 14
        most = max(sample[name] for sample in samples) or 1.0
        points = " ".join(
            f"{left + (width - left - 20) * sample['at'] / last:.1f},{bottom - (high - 30) * sample[name] / most:.1f}"
            for sample in samples
        )
        parts.append(f'<text x="12" y="{bottom - 20}">{name}</text><text x="12" y="{bottom - 4}">≤ {most:.0f}</text>')
        parts.append(f'<polyline points="{points}" fill="none" stroke="#2b6cb0" stroke-width="1.4"/>')
        parts.append(f'<line x1="{left}" y1="{bottom}" x2="{width - 20}" y2="{bottom}" stroke="#5b6b7b"/>')
    path.write_text("".join(parts) + "</svg>\n")


def table(backend: str, report: dict[str, Any]) -> str:
    """The figures of a run, as docs/performance.md shows them."""
    left = ", ".join(f"{more:+g} {what}" for what, more in report["left at the end"].items())
    rows = {
        f"{backend}, {report['seconds']:g} s, seed {report['seed']}": "",
        "---": "---",
        "calls": ", ".join(f"{number} by {kind}" for kind, number in sorted(report["calls"].items())),
        "of these with a fault": ", ".join(f"{number} {fault}" for fault, number in sorted(report["faults"].items())),
        "refused": report["refused"],
        f"resident memory after the warm-up of {min(WARM_UP, report['seconds'] / 2) / 60:.1f} min, in ten minutes "
        "(limit +1 MB)": f"{report['MB in ten minutes']:+.2f} MB",
        "memory in use, in ten minutes": f"{report['MB in use in ten minutes']:+.2f} MB",
        "left at the end (limit 0)": left,
        "healthy calls; of these not judged, because the machine stood still or was too busy": (
            f"{report['healthy calls']}; {report['healthy calls'] - report['judged']}"
        ),
        "judged calls below 99 % of their frames (limit 0)": report["below 99 %"],
        "least that a judged call got back": f"{100 * report['least delivered']:.2f} %",
        "share of a second that a thread waited for a processor, median and largest": " and ".join(
            f"{100 * share:.0f} %" for share in report["waited for a processor, median and largest"]
        ),
        "longest gap between two frames of any call; of the control": (
            f"{1000 * report['longest gap']:.0f} ms; {1000 * report[CONTROL]:.0f} ms"
        ),
    }
    return "".join(f"| {name} | {value} |\n" for name, value in rows.items())


async def soak(url: str, seconds: float, seed: int, server: int, notes: Path) -> dict[str, Any]:
    """All of it; `server` is the server's process, and `notes` is what the control writes."""
    tally, samples, before = Tally(), [], []
    shares: list[tuple[float, float]] = []
    async with rtcflow.open_engine() as engine:
        await rush(url, seed, engine)
        await anyio.sleep(SETTLE)
        until = anyio.current_time() + EVERY * 2
        await watch(url, until, before)
        until = anyio.current_time() + seconds
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch_waits, [server, os.getpid()], shares)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch, url, until, samples)
                for number in range(CALLERS):
                    tasks.start_soon(caller, number, url, seed, until, engine, tally)
            watching.cancel_scope.cancel()
    await anyio.sleep(SETTLE)
    after: list[dict[str, Any]] = []
    await watch(url, anyio.current_time() + EVERY * 2, after)
    warm, settled = (
        [sample for sample in samples if sample["at"] >= since]
        for since in (min(WARM_UP, seconds / 2), min(SETTLED, seconds / 3))
    )
    # The connection that asks has an idle task now and not then.
    left = {
        name: min(sample[name] for sample in after) - max(sample[name] for sample in before)
        for name in ("descriptors", "threads", "tasks", "calls")
    }
    return {
        "seconds": seconds,
        "seed": seed,
        "calls": tally.made,
        "faults": tally.faults,
        "refused": tally.refused,
        "refusals": tally.refusals[:10],
        **judge(tally.delivered, waited(notes), shares),
        "waited for a processor, median and largest": [
            float(np.median([share for _, share in shares])),
            max(share for _, share in shares),
        ],
        "MB in ten minutes": slope(warm, "rss"),
        "MB in use in ten minutes": slope(settled, "in use"),
        "thousand blocks in ten minutes": slope(settled, "blocks"),
        "left at the end": left,
        "tasks left": dict(Counter(_kinds(after[-1])) - Counter(_kinds(before[-1]))),
        "samples": samples,
        "deliveries": [asdict(one) for one in tally.delivered],
    }


def _kinds(sample: dict[str, Any]) -> list[str]:
    """What a sample's tasks are, without numbers of tasks and of calls."""
    return [re.sub(r"Task-\d+ ", "", name) for name in sample["names"]]


async def rush(url: str, seed: int, engine: Any) -> None:
    """Every caller at once on each transport, and each fault: what a server keeps for its most calls is not a leak."""
    chance = random.Random(seed)
    for kind in KINDS:
        async with anyio.create_task_group() as calls:
            for number in range(CALLERS):
                fault = {1: "raise", 2: "stall"}.get(number, "") if kind == "webrtc" else ""
                calls.start_soon(_one, url, kind, fault, engine)
        await be_killed(url, kind, 1.0)
        await send_junk(url, chance)


async def _one(url: str, kind: str, fault: str, engine: Any) -> None:
    with suppress(*ENDED, OSError, TimeoutError, rtcflow.exceptions.RTCFlowError):
        async with calling(url, kind, engine) as call:
            await converse(call, kind, fault, RUSH, Tally())


def main() -> int:
    """Run the server and its callers, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--backend", choices=["trio", "asyncio"], default="trio")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("bench/results"))
    parser.add_argument("--docs", action="store_true", help="write the plot and the figures of the pages")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    parser.add_argument("--control", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.victim:
        anyio.run(victim, options.url, options.victim)
        return 0
    if options.control:
        control(options.control)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rtcflow", "serve", "soak:app", "--port", str(port), "--backend", options.backend]
    options.output.mkdir(parents=True, exist_ok=True)
    name = f"soak-{options.backend}-{secrets.token_hex(2)}"
    log = (options.output / f"{name}.log").open("w")
    server = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=log, stderr=log)
    notes = options.output / f"{name}.control"
    beside = subprocess.Popen([sys.executable, __file__, "--control", str(notes)])
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        report = anyio.run(soak, f"http://127.0.0.1:{port}", options.seconds, options.seed, server.pid, notes)
        alive = server.poll() is None
    finally:
        beside.kill()
        beside.wait()
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        log.close()
    (options.output / f"{name}.json").write_text(json.dumps(report, indent=1))
    title = f"rtcflow under {options.backend}, {options.seconds:g} s, {CALLERS} callers, seed {options.seed}"
    samples = report.pop("samples")
    plot(samples, options.output / f"{name}.svg", title, report)
    report.pop("deliveries")
    if options.docs:
        plot(samples, PAGES / f"soak-{options.backend}.svg", title, report)
        (PAGES / f"soak-{options.backend}.txt").write_text(table(options.backend, report))
    print(json.dumps(report, indent=1))
    problems = [] if alive else ["the server has ended"]
    if report["MB in ten minutes"] > 1.0 and options.seconds >= LONG:
        problems.append("memory grows")
    problems += [f"{more:+g} {what} left" for what, more in report["left at the end"].items() if more > 0]
    if report["below 99 %"]:
        problems.append("healthy calls below 99 %")
    if report["judged"] < report["healthy calls"] / 2:
        problems.append("the machine was too busy to say anything of most calls")
    print("; ".join(problems) or "nothing is left, and nothing grows")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
