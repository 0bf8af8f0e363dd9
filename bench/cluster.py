"""What a cluster costs: `python bench/cluster.py [--json FILE]`, on a machine with nothing else to do; six minutes.

routing    a follow-up request to another node, against the same request to the node of its call
load       CPU of NATS and of the router, at ten new calls a second. See below.
capacity   how many calls two workers carry for one that a single process carries. See below.
echo       from the offer to the first sound that comes back, of one process and through a cluster

**What counts as the router's CPU.** Two nodes of a cluster and two processes without one get the same calls, in turns
of some seconds: ten a second, at the two in turn, each ended after a second. Behind a proxy that knows nothing of
calls, every second end comes to the node where the offer did not come. In the cluster it is the same here. A node keeps
a call unless another one is lighter, so few offers are carried, and one half of the ends are.
The router's CPU is what the cluster's nodes used, less what the processes without a cluster used. So everything that
a cluster adds counts: the choice of a node, carrying, ids, reports, the thread of the connection to NATS. What a call
costs in any case does not count: parsing HTTP, answering the offer, the end. The thread of the WebRTC engine is left
out on both sides. A cluster has no part in what it does, and its CPU (ICE, DTLS) differs between two rounds by more
than the router needs. It is the busiest thread beside the main one; its CPU is shown. The error is the standard error
over the rounds.

**What counts as capacity.** Python's lock lets one process use about one core. Client and servers share this machine,
so it cannot be filled by two workers without filling it with clients. So each worker gets a load that fits, and its
CPU for one call is measured: of one process with N calls, and of two workers (with NATS) with 2 N. A core carries 1 /
(CPU for one call). Two cores with two workers carry (2 / CPU for one call there), so the ratio is 2 × the first ÷ the
second. The clients are processes of their own. Their CPU is not counted, and is shown. The limits: N is far below
what a worker carries, and what cores share (memory, the kernel) may tell only beyond it. Delivery and latency show
that the load fitted.

Servers are ``rtcflow serve rtcflow.demo:stream``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import numpy as np

from rtcflow.cluster.supervisor import find_nats
from rtcflow.transports.webrtc import open_engine

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
SDP = {"Content-Type": "application/sdp"}


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def threads(pid: int) -> dict[int, float]:
    """Seconds of CPU that each thread of a process has used."""
    used = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            used[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


def engine_thread(pid: int) -> int:
    """The busiest thread of a process, beside the main one."""
    used = threads(pid)
    del used[pid]
    return max(used, key=lambda thread: used[thread])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def started(*command: str, port: int) -> Iterator[int]:
    """A process that listens on `port`; its process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[:4]} did not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def servers(number: int, *, cluster: bool) -> Iterator[tuple[list[str], list[int], int | None]]:
    """URLs and process ids of some servers, and the process id of NATS."""
    with ExitStack() as stack:
        nats, extra = None, []
        if cluster:
            port = free_port()
            nats = stack.enter_context(started(find_nats(), "-a", "127.0.0.1", "-p", str(port), port=port))
            extra = ["--nats", f"nats://127.0.0.1:{port}"]
        urls, pids = [], []
        for _ in range(number):
            port = free_port()
            command = [sys.executable, "-m", "rtcflow", "serve", "rtcflow.demo:stream", "--port", str(port), *extra]
            pids.append(stack.enter_context(started(*command, port=port)))
            urls.append(f"http://127.0.0.1:{port}")
        time.sleep(2)  # they know one another, and have settled
        yield urls, pids, nats


async def offer_sdp() -> str:
    async with open_engine() as engine:
        call = await engine.offer(receive=False, messages=False)
        sdp = call.offer_sdp
        await call.aclose()
        return sdp


async def routing(requests: int) -> dict[str, float]:
    """The same request at home and away, in turn."""
    found: dict[str, list[float]] = {"home": [], "away": []}
    with servers(2, cluster=True) as (urls, _, _):
        async with httpx2.AsyncClient(timeout=20) as client:
            body = {"sdp": await offer_sdp(), "type": "offer", "webrtc_id": secrets.token_urlsafe(12)}
            answer = await client.post(f"{urls[0]}/webrtc/offer", json=body)
            answer.raise_for_status()
            calls = [(await client.get(f"{url}/healthz")).json()["calls"] for url in urls]
            places = {"home": urls[calls.index(1)], "away": urls[calls.index(0)]}
            said = {"webrtc_id": body["webrtc_id"], "args": [1]}
            for _ in range(requests):
                for place, url in places.items():
                    began = time.perf_counter()
                    (await client.post(f"{url}/webrtc/input", json=said)).raise_for_status()
                    found[place].append(1000 * (time.perf_counter() - began))
    home, away = (np.percentile(found[place], [50, 99]) for place in ("home", "away"))
    return {
        "home_p50_ms": home[0], "home_p99_ms": home[1], "away_p50_ms": away[0], "away_p99_ms": away[1],
        "above_p50_ms": away[0] - home[0], "above_p99_ms": away[1] - home[1],
    }  # fmt: skip


async def begin_and_end(client: httpx2.AsyncClient, front: str, back: str, sdp: str) -> None:
    created = await client.post(f"{front}/whip", content=sdp, headers=SDP)
    created.raise_for_status()
    await asyncio.sleep(1)
    (await client.delete(f"{back}{created.headers['location']}")).raise_for_status()


async def at_ten_a_second(
    urls: list[str], pids: list[int], sdp: str, *, cluster: bool, seconds: float
) -> tuple[float, float]:
    """Seconds of CPU of the nodes, for ten calls a second: of their engines, and of the rest.

    Each call ends after a second, in a cluster every second one at the other node.
    """
    before = [threads(pid) for pid in pids]
    async with httpx2.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as tasks:
        for number in range(round(10 * seconds)):
            front = urls[number % 2]
            back = urls[number // 2 % 2] if cluster else front
            tasks.create_task(begin_and_end(client, front, back, sdp))
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    engines, rest = 0.0, 0.0
    for pid, then in zip(pids, before, strict=True):
        engine = engine_thread(pid)
        for thread, used in threads(pid).items():
            spent = used - then.get(thread, 0.0)
            if thread == engine:
                engines += spent
            else:
                rest += spent
    return engines, rest


async def load(seconds: float, rounds: int) -> dict[str, float]:
    """CPU in % of a core. One round before the first is not counted."""
    within: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    bus: list[float] = []
    with servers(2, cluster=True) as (urls, pids, nats), servers(2, cluster=False) as (others, their_pids, _):
        assert nats is not None
        sdp = await offer_sdp()
        for _ in range(rounds + 1):
            before = cpu(nats)
            within.append(await at_ten_a_second(urls, pids, sdp, cluster=True, seconds=seconds))
            bus.append(cpu(nats) - before)
            without.append(await at_ten_a_second(others, their_pids, sdp, cluster=False, seconds=seconds))
    router = [100 * (a - b) / seconds for (_, a), (_, b) in zip(within[1:], without[1:], strict=True)]
    engines, nodes = (100 * statistics.mean(used) / seconds for used in zip(*within[1:], strict=True))
    engines_without, nodes_without = (100 * statistics.mean(used) / seconds for used in zip(*without[1:], strict=True))
    return {
        "router_cpu": statistics.mean(router),
        "router_cpu_error": statistics.stdev(router) / len(router) ** 0.5,
        "nats_cpu": 100 * statistics.mean(bus[1:]) / seconds,
        "nodes_cpu": nodes,
        "nodes_cpu_without": nodes_without,
        "engines_cpu": engines,
        "engines_cpu_without": engines_without,
    }


def echo_load(number: int, calls: int, seconds: float) -> dict[str, float]:
    """CPU of the servers for each call, in % of a core."""
    with servers(number, cluster=number > 1) as (urls, pids, nats):
        share = [
            subprocess.Popen(
                [sys.executable, "-m", "rtcflow", "bench", url, "-n", str(calls), "--seconds", str(seconds), "--json"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for url in urls
        ]  # fmt: skip
        deadline = time.monotonic() + 60
        while sum(httpx2.get(f"{url}/healthz").json()["calls"] for url in urls) < calls * number:
            if time.monotonic() > deadline:
                raise RuntimeError("the calls do not begin")
            time.sleep(0.2)
        time.sleep(1.5)
        watched = [*pids, *([nats] if nats else [])]
        clients = [client.pid for client in share]
        began, before, theirs = time.monotonic(), sum(map(cpu, watched)), sum(map(cpu, clients))
        time.sleep(seconds - 3)
        spent = time.monotonic() - began
        used, clients_used = sum(map(cpu, watched)) - before, sum(map(cpu, clients)) - theirs
        reports = [json.loads(client.communicate()[0]) for client in share]
    return {
        "cpu_per_call": 100 * used / spent / (calls * number),
        "client_cpu": 100 * clients_used / spent,
        "delivery": min(report["delivery"] for report in reports),
        "latency_ms": 1000 * max(report["latency"]["median"] for report in reports),
    }


def capacity(calls: int, seconds: float, rounds: int) -> dict[str, float]:
    runs = [(echo_load(1, calls, seconds), echo_load(2, calls, seconds)) for _ in range(rounds)]
    figures = {
        f"{name}_{figure}": statistics.mean(run[number][figure] for run in runs)
        for number, name in enumerate(("one", "two"))
        for figure in runs[0][0]
    }
    ratios = [2 * one["cpu_per_call"] / two["cpu_per_call"] for one, two in runs]
    return figures | {"ratio": statistics.mean(ratios), "ratio_least": min(ratios)}


def first_echo(number: int, count: int) -> float:
    with servers(number, cluster=number > 1) as (urls, pids, _):
        command = [sys.executable, str(HERE / "client.py"), "setup", "--url", urls[0], "--pid", str(pids[0])]
        done = subprocess.run([*command, "--count", str(count)], capture_output=True, text=True, check=True)
        return float(statistics.median(json.loads(done.stdout)["all"]))


def echo(count: int) -> dict[str, float]:
    one, two = first_echo(1, count), first_echo(2, count)
    return {"one_ms": one, "cluster_ms": two, "ratio": two / one}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="routing,load,capacity,echo")
    options = parser.parse_args()
    measured = {
        "routing": lambda: asyncio.run(routing(500)),
        "load": lambda: asyncio.run(load(6, 15)),
        "capacity": lambda: capacity(5, 9, 2),
        "echo": lambda: echo(8),
    }
    results = {}
    for name in options.only.split(","):
        results[name] = {figure: float(value) for figure, value in measured[name]().items()}
        print(name, " ".join(f"{figure}={value:.2f}" for figure, value in results[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
