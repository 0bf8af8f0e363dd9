"""The whole of docs/performance.md: servers against the measuring client, interleaved; a table, JSON and pictures.

nox -s bench                           quick: one round, about five minutes
nox -s bench -- --full                 five rounds, three searches for the most: about 45 minutes
nox -s bench -- --fastrtc PYTHON       with FastRTC, by a Python that has it
nox -s bench -- --wrtc PYTHON          with libwebrtc, by a Python that has wrtc (and starlette, uvicorn, av, numpy)
nox -s bench -- --only latency,cpu     some of it
nox -s bench -- --only latency --servers "floor,rtcflow lowdelay"    some of the servers
nox -s bench -- --backend uvloop       with all servers on uvloop
nox -s bench -- --more                 beside what is in the results already: a long measurement in pieces
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OURS, PEERS = str(HERE / "echo_server.py"), str(HERE / "peers.py")
STEPS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 44, 48, 56, 64, 80, 96, 112, 128)
"""Numbers of connections that are tried for the most."""

SERVERS = {
    "floor": [PEERS, "floor"],
    "floor_exact": [PEERS, "floor_exact"],
    "floor_video": [PEERS, "floor_video"],
    "wrtc direct": [PEERS, "wrtc_direct"],
    "wrtc native": [PEERS, "wrtc_native"],
    "wrtc shim": [PEERS, "wrtc_shim"],
    "wrtc video": [PEERS, "wrtc_video"],
    "fastrtc 24k": [PEERS, "fastrtc_async", "--rate", "24000"],
    "fastrtc 48k": [PEERS, "fastrtc_async", "--rate", "48000"],
    "fastrtc sync": [PEERS, "fastrtc_sync", "--rate", "24000"],
    "fastrtc talker": [PEERS, "fastrtc_talker", "--rate", "24000"],
    "rtcflow 24k": [OURS, "--rate", "24000"],
    "rtcflow 48k": [OURS, "--rate", "48000"],
    "rtcflow 24k c0": [OURS, "--rate", "24000", "--complexity", "0"],
    "rtcflow 48k c9": [OURS, "--rate", "48000", "--complexity", "9"],
    "wire c9": [OURS, "--rate", "48000", "--complexity", "9", "--variant", "wire", "--backend", "uvloop"],
    "rtcflow lowdelay": [OURS, "--rate", "48000", "--application", "lowdelay"],
    "rtcflow 48k→24k": [OURS, "--rate", "24000", "--input", "48000"],
    "rtcflow sync": [OURS, "--rate", "24000", "--variant", "sync"],
    "rtcflow talker": [OURS, "--rate", "24000", "--variant", "talker"],
    "rtcflow video": [OURS, "--variant", "video"],
    "floor_hum": [PEERS, "floor_hum"],
    "rtcflow hum": [OURS, "--variant", "hum"],
    "floor_watch": [PEERS, "floor_watch"],
    "wrtc watch": [PEERS, "wrtc_watch"],
    "rtcflow watch": [OURS, "--variant", "watch"],
}

GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "latency": (
        ["floor", "wrtc native", "fastrtc 24k", "rtcflow 24k", "rtcflow 48k", "rtcflow lowdelay", "rtcflow 48k→24k"],
        ["echo", "-n", "1"],
    ),
    "faults": (["floor", "fastrtc 24k", "rtcflow 24k"], ["faults"]),
    "loss": (["floor", "fastrtc 24k", "rtcflow 24k"], ["loss"]),
    "stall": (["floor", "fastrtc 24k", "rtcflow 24k"], ["stall"]),
    "cpu": (
        ["floor", "floor_exact", "fastrtc 24k", "fastrtc sync", "rtcflow 24k", "rtcflow 48k", "rtcflow sync"],
        ["echo", "-n", "8"],
    ),
    "wrtc8": (
        [
            "wrtc direct",
            "wrtc native",
            "wrtc shim",
            "wire c9",
            "rtcflow 24k",
            "rtcflow 48k",
            "rtcflow 48k c9",
            "rtcflow 24k c0",
        ],
        ["echo", "-n", "8"],
    ),
    "wrtc32": (
        ["wrtc native", "wire c9", "rtcflow 24k", "rtcflow 48k", "rtcflow 48k c9", "rtcflow 24k c0"],
        ["echo", "-n", "32"],
    ),
    "setup": (["floor", "fastrtc 24k", "rtcflow 24k"], ["setup"]),
    "clear": (["fastrtc talker", "rtcflow talker"], ["clear"]),
    "video": (["floor_video", "wrtc video", "rtcflow video"], ["video", "-n", "1"]),
    "heard": (["floor_hum", "rtcflow hum"], ["--stalls"]),
    "footprint": (["fastrtc 24k", "rtcflow 24k"], []),
    "most": (["floor", "floor_exact", "wrtc native", "fastrtc 24k", "fastrtc 48k", "rtcflow 24k", "rtcflow 48k"], []),
}
"""What is measured of whom, and how the client is told to."""

ROWS = (
    # the row, its group, the client's name for the figure, its format
    ("latency, ms", "latency", "latency_ms", ".1f"),
    ("CPU of one connection, % of a core", "latency", "cpu", ".2f"),
    ("one packet lost: later by, ms", "faults", "lost", ".1f"),
    ("two swapped: later by, ms", "faults", "swapped", ".1f"),
    ("five lost in a row: later by, ms", "faults", "five", ".1f"),
    ("2 % lost, 30 ms jitter: frames missing, %", "loss", "missing_2", ".1f"),
    ("2 % lost, 30 ms jitter: later by, ms", "loss", "later_2", ".1f"),
    ("5 % lost, 30 ms jitter: frames missing, %", "loss", "missing_5", ".1f"),
    ("5 % lost, 30 ms jitter: later by, ms", "loss", "later_5", ".1f"),
    ("handler's loop stalled 300 ms: later by, ms", "stall", "loop", ".1f"),
    ("process stopped 300 ms: later by, ms", "stall", "process", ".1f"),
    ("CPU per connection, 8 of them, % of a core", "cpu", "cpu", ".2f"),
    ("CPU per connection, 8 of them, beside libwebrtc, % of a core", "wrtc8", "cpu", ".2f"),
    ("latency of 8, beside libwebrtc, ms", "wrtc8", "latency_ms", ".1f"),
    ("CPU per connection, 32 of them, beside libwebrtc, % of a core", "wrtc32", "cpu", ".2f"),
    ("latency of 32, median, ms", "wrtc32", "latency_ms", ".1f"),
    ("latency of 32, p99, ms", "wrtc32", "latency_p99_ms", ".1f"),
    ("RSS per connection, 8 of them, MB", "cpu", "rss_mb", ".2f"),
    ("most connections, 99 % delivered, p99 gap ≤ 40 ms", "most", "most", ".0f"),
    ("CPU per connection, as many, % of a core", "most", "cpu", ".2f"),
    ("POST to first echo, ms", "setup", "first_echo_ms", ".0f"),
    ("clear_queue to silence, ms", "clear", "clear_ms", ".0f"),
    ("video flip 640×480@30: CPU, % of a core", "video", "video_cpu", ".1f"),
    ("video flip: pictures back per second", "video", "fps", ".1f"),
    ("video flip: age of a picture, median, ms", "video", "age_p50_ms", ".0f"),
    ("video flip: age of a picture, p95, ms", "video", "age_p95_ms", ".0f"),
    ("stopped 150 of every 300 ms: made up by libwebrtc, %", "heard", "concealed", ".1f"),
    ("import, beyond Python's own start, s", "footprint", "import_s", ".2f"),
    ("installed with all it needs, MB", "footprint", "installed_mb", ".0f"),
)

FASTRTC = "fastrtc==0.0.34"
BARE = {"pip", "setuptools", "_distutils_hack", "pkg_resources"}
"""What a new environment has by itself, beside their .dist-info."""

BESIDE = {"floor_video", "wrtc video", "rtcflow video", "fastrtc talker", "rtcflow talker", "floor_hum", "rtcflow hum"}
LONG = {"floor_exact", "rtcflow 48k", "fastrtc 48k"}
"""Whose most is looked for only in a full measurement, or if they are asked for."""
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"

PINS = hasattr(os, "sched_setaffinity")
CORES = sorted(os.sched_getaffinity(0)) if PINS else []


FOREIGN, STEAL, CLIENT = 40.0, 5.0, 90.0
"""% of a core that others may use, a hypervisor take, and the measuring client need (or its limit would be taken for
the server's) during a run that counts; all are noted in the JSON."""


def disturbed(row: dict) -> bool:
    """Whether a run says more of the machine than of the server, and does not count."""
    shares = (("foreign_cpu", FOREIGN), ("steal", STEAL), ("client_cpu", CLIENT))
    return any(row.get(name, 0.0) > most for name, most in shares)


def library(server: str) -> str:
    """Whose a server is, and so which Python runs it."""
    return server.partition(" ")[0].partition("_")[0]


def start(core: int, command: list[str], **options: object) -> subprocess.Popen[str]:
    """A process on a core of its own, where that can be had."""
    # One thread for numpy: a pool of them on one core is noise.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(command, text=True, env=env, **options)
    if PINS and len(CORES) > 1:
        os.sched_setaffinity(process.pid, {CORES[core]})
    return process


@dataclass
class Suite:
    """All runs so far."""

    pythons: dict[str, str]
    seconds: float
    count: int
    backend: str = "asyncio"
    runs: list[dict] = field(default_factory=list)

    @contextmanager
    def server(self, name: str) -> Iterator[tuple[str, int]]:
        """A fresh server; its URL and process id."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        python = self.pythons[library(name)]
        with tempfile.TemporaryFile("w+") as log:
            script, *options = SERVERS[name]
            command = [python, script, "--port", str(port), "--backend", self.backend, *options]
            process = start(0, command, stdout=log, stderr=subprocess.STDOUT)
            try:
                deadline = time.monotonic() + 60
                while True:
                    with suppress(OSError):
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(f"{name} did not start: {log.read()[-2000:]}")
                    time.sleep(0.1)
                yield f"http://127.0.0.1:{port}", process.pid
            finally:
                process.kill()
                process.wait()

    def run(self, group: str, name: str, arguments: list[str]) -> dict:
        """One server, one measurement; what failed has an "error"."""
        with self.server(name) as (url, pid):
            if group == "heard":
                command = [self.pythons["wrtc"], str(HERE / "heard.py")]
            else:
                command = [sys.executable, str(HERE / "client.py"), "--count", str(self.count)]
            command += [*arguments, "--url", url, "--pid", str(pid), "--seconds", str(self.seconds)]
            client = start(1, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            out, errors = client.communicate()
        found = json.loads(out) if client.returncode == 0 and out else {"error": errors[-1500:]}
        row = {"group": group, "server": name, "at": time.strftime("%H:%M:%S"), **found}
        self.runs.append(row)
        shown = {key: round(value, 2) for key, value in row.items() if isinstance(value, float)}
        print(f"  {group:8} {name:14} {' '.join(arguments):14} {row.get('error', shown)}", flush=True)
        return row

    def most(self, name: str) -> None:
        """By bisection: the most connections that are served well."""

        cpu: dict[int, float] = {}

        def good(n: int) -> bool:
            chances = 2
            for _ in range(4):  # somebody else's moment on the machine is not the server's limit
                row = self.run("most run", name, ["echo", "-n", str(n)])
                if "error" not in row and row["delivery"] >= 0.99 and row["gap_p99_ms"] <= 40:
                    cpu[n] = row["cpu"]
                    return True
                chances -= not disturbed(row)
                if not chances:
                    break
            return False

        low, high = -1, len(STEPS)  # the last that is good, the first that is not
        guess = STEPS.index({"rtcflow": 96, "wrtc": 40, "fastrtc": 18}.get(library(name), 10))
        while high - low > 1:
            low, high = (guess, high) if good(STEPS[guess]) else (low, guess)
            guess = min((low + high) // 2, low + 3) if low >= 0 else high // 2
        most = STEPS[low] if low >= 0 else 0
        self.runs.append({"group": "most", "server": name, "most": most, "cpu": cpu.get(most, 0.0)})

    def footprint(self, name: str) -> None:
        """How long a library takes to import, and how much is installed for it, in a Python that has nothing else."""
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            python = f"{folder}/bin/python"
            wanted = str(HERE.parent) if library(name) == "rtcflow" else FASTRTC
            subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True, stderr=subprocess.DEVNULL)
            site = next(Path(folder, "lib").glob("python*/site-packages"))
            files = [file for file in site.rglob("*") if file.is_file() and file.relative_to(site).parts[0] not in BARE]

            def seconds(statement: str) -> float:
                began = time.perf_counter()
                subprocess.run([python, "-c", statement], check=True, stderr=subprocess.DEVNULL)
                return time.perf_counter() - began

            statement = f"import {library(name)} as library; library.StreamHandler; library.Stream"
            seconds(statement)  # compiles
            took = statistics.median(seconds(statement) - seconds("pass") for _ in range(5))
            found = {"import_s": took, "installed_mb": sum(file.stat().st_size for file in files) / 1e6}
        self.runs.append({"group": "footprint", "server": name, **found})
        print(f"  footprint {name:14} {found}", flush=True)

    def rounds(self, group: str) -> int:
        """How often a group was measured."""
        counts = Counter(row["server"] for row in self.runs if row["group"] == group and not disturbed(row))
        return max(counts.values(), default=0)

    def values(self, group: str, name: str, key: str) -> list[float]:
        """A figure of all runs that have it."""
        rows = [row for row in self.runs if row["group"] == group and row["server"] == name and not disturbed(row)]
        return [row[key] for row in rows if isinstance(row.get(key), int | float) and row[key] == row[key]]

    def table(self, wanted: list[str]) -> list[list[str]]:
        """Medians with their spread, and the ratio to the floor where there is one."""
        names = [name for name in SERVERS if name in wanted and any(row["server"] == name for row in self.runs)]
        lines = [["", *names]]
        for title, group, key, form in ROWS:
            cells, floor, exact = [], 0.0, 0.0
            for name in names:
                values = self.values(group, name, key)
                if not values:
                    cells.append("")
                    continue
                median = statistics.median(values)
                cell = f"{median:{form}}"
                if len(values) > 1:
                    cell += f" [{min(values):{form}}–{max(values):{form}}]"
                if name in {"floor", "floor_video"}:
                    floor = median
                elif name == "floor_exact":
                    exact = median
                elif floor > 0 and "later by" not in title and "missing" not in title:
                    cell += f" ×{median / floor:.2f}"
                    if exact > 0:
                        cell += f" (×{median / exact:.2f})"
                cells.append(cell)
            if any(cells):
                lines.append([title, *cells])
        return lines


def markdown(lines: list[list[str]]) -> str:
    """A table for people and for the docs."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def draw(suite: Suite, folder: Path) -> None:
    """Latency over time, with the stalls; CPU against connections."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "rtcflow"
    courses = {row["server"]: row for row in suite.runs if row["group"] == "stall" and row.get("course")}
    if courses:
        figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
        for name, row in courses.items():
            axes.plot(*zip(*row["course"], strict=True), ".", markersize=4, label=name)
        for moment, words in zip(row["stalls"], ("handler's loop blocked", "process stopped"), strict=True):
            axes.axvspan(moment, moment + 0.3, color="0.85")
            axes.annotate(f" {words}, 300 ms", (moment + 0.3, axes.get_ylim()[1]), va="top", fontsize=8)
        axes.set(xlabel="seconds", ylabel="echo latency, ms", ylim=(0, None))
        axes.legend(fontsize=8)
        figure.savefig(folder / "latency.svg", metadata={"Date": None})
    points: dict[str, dict[int, list[float]]] = {}
    for row in suite.runs:
        if "cpu_all" in row and row["delivery"] >= 0.99 and not disturbed(row):
            points.setdefault(row["server"], {}).setdefault(row["n"], []).append(row["cpu_all"])
    if points:
        figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
        for name, found in points.items():
            axes.plot(
                sorted(found), [statistics.median(found[n]) for n in sorted(found)], "o-", markersize=3, label=name
            )
        axes.set(xlabel="connections", ylabel="CPU of the server, % of a core", xlim=(0, None), ylim=(0, None))
        axes.legend(fontsize=8)
        figure.savefig(folder / "cpu.svg", metadata={"Date": None})


def publish(suite: Suite, about: str, rounds: int) -> None:
    """Put the table and the pictures into docs/performance.md, between its two marks."""
    static = HERE.parent / "docs" / "_static" / "bench"
    static.mkdir(parents=True, exist_ok=True)
    draw(suite, static)
    for picture in static.glob("*.svg"):  # as the repository wants its files: no white space at the ends of lines
        picture.write_text("".join(f"{line.rstrip()}\n" for line in picture.read_text().splitlines()))
    page = HERE.parent / "docs" / "performance.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    names = {row["server"] for row in suite.runs}
    parts = [
        f"Measured on {about}; medians of up to {rounds} rounds, [least–most], ×ratio to the floor (to floor_exact).",
        "",
    ]
    # Few columns fit on a page: one table for what is an echo, one for the rest.
    parts += [markdown(suite.table([name for name in names if name not in BESIDE])), ""]
    parts += [markdown(suite.table([name for name in names if name in BESIDE])), ""]
    for file, words in (("latency", "Echo latency over time, with two stalls"), ("cpu", "CPU against connections")):
        if (static / f"{file}.svg").exists():
            parts += [f"![{words}](_static/bench/{file}.svg)", ""]
    page.write_text(before + BEGIN + "\n\n" + "\n".join(parts) + "\n" + END + after)


def machine() -> dict[str, object]:
    """On what it was measured."""
    from importlib.metadata import version

    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {name: version(name) for name in ("rtcflow", "aiortc", "av", "numpy")}
    return {"cpu": model, "cores": len(CORES) or os.cpu_count(), "python": platform.python_version(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; the default")
    parser.add_argument("--full", action="store_true", help="five longer rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--fastrtc", metavar="PYTHON", help="a Python that has FastRTC")
    parser.add_argument("--wrtc", metavar="PYTHON", help="a Python that has wrtc")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop"], help="the loop of all servers")
    parser.add_argument("--only", default=",".join(GROUPS), help="some of: %(default)s")
    parser.add_argument("--servers", help="some of the servers, by the names of the table's columns")
    parser.add_argument("--more", action="store_true", help="keep the runs that are in the results")
    parser.add_argument("--publish", action="store_true", help="write the table and the pictures into docs/")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder for results.json and the pictures")
    args = parser.parse_args()
    servers = set(args.servers.split(",")) if args.servers else set(SERVERS)
    if servers - set(SERVERS):
        parser.error(f"there is no {', '.join(sorted(servers - set(SERVERS)))}; write some of {', '.join(SERVERS)}")
    unknown = set(args.only.split(",")) - set(GROUPS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; write some of {', '.join(GROUPS)}")
    if not Path("/proc/self/stat").exists():
        parser.error("the CPU and memory of the servers are read from /proc: this needs Linux")
    pythons = dict.fromkeys(("floor", "wire", "rtcflow"), sys.executable)
    for name in ("fastrtc", "wrtc"):
        if python := getattr(args, name):
            pythons[name] = python
    rounds = args.rounds if args.rounds is not None else 5 if args.full else 1
    suite = Suite(pythons, args.seconds or (10.0 if args.full else 4.0), 8 if args.full else 4, args.backend)
    began = time.monotonic()
    args.results.mkdir(parents=True, exist_ok=True)
    if args.more and (args.results / "results.json").exists():
        suite.runs += json.loads((args.results / "results.json").read_text())["runs"]
    try:
        for number in range(rounds):
            for group in args.only.split(","):
                names, command = GROUPS[group]
                for name in names:
                    wanted = {library(name), "wrtc"} if group == "heard" else {library(name)}
                    if name not in servers or not wanted <= pythons.keys():
                        continue
                    if group == "most" and not (args.full or args.servers) and name in LONG:
                        continue
                    if group == "footprint":
                        if not number:
                            suite.footprint(name)
                    elif group != "most":
                        suite.run(group, name, command)
                    elif number < 3:  # a search is many runs already
                        suite.most(name)
            print(f"round {number + 1} of {rounds}: {time.monotonic() - began:.0f} s", flush=True)
    finally:
        about = machine()
        (args.results / "results.json").write_text(json.dumps({"machine": about, "runs": suite.runs}, indent=1))
        words = ", ".join(f"{key} {value}" for key, value in about.items())
        print("\n" + markdown(suite.table(list(SERVERS))) + "\n" + words)
        if find_spec("matplotlib"):
            draw(suite, args.results)
        if args.publish:
            publish(suite, words, max(rounds, *(suite.rounds(group) for group in GROUPS)))
        print(f"in {args.results}: results.json, and pictures; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
