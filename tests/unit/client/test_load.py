"""The load generator: its figures from arrivals made by hand, and small loads for real."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from rtcflow.client import load
from rtcflow.client.load import COARSE, RATE, CallTrace, LoadLimits, judge, run_load, spoken_signal
from rtcflow.frames import AudioFormat
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


def echoed(latency: float, seconds: float = 8.0, gone: tuple[float, float] = (0.0, 0.0)) -> CallTrace:
    """A call whose echo is perfect, `latency` later, without what left in the stretch `gone`."""
    loop = spoken_signal()[0].reshape(-1, 6).mean(axis=1).astype(np.int16)
    trace, size = CallTrace(setup=0.1), COARSE // 50
    for number in range(round(seconds * 50)):
        left = 100 + 0.02 * number
        trace.departures.append((left + 0.001 * (number % 7), 0.02 * (number + 1)))
        if not gone[0] <= left - 100 < gone[1]:
            at = number * size % len(loop)
            trace.arrivals.append(left + latency)
            trace.heard.append((left + latency, loop[at : at + size]))
    return trace


def test_a_perfect_call() -> None:
    """All frames, gaps of 20 ms, and every mark back."""
    report = judge([echoed(0.1)], 101, 107)
    assert (report.delivery, report.connected, report.failures) == (1.0, 1, {})
    assert report.gap.median == pytest.approx(0.02)
    assert report.gap.most == pytest.approx(0.02)
    assert report.marks == report.echoes == 6


@settings(max_examples=15)
@given(latency=st.floats(0.001, 1.9))
def test_latency_is_told_to_the_millisecond(latency: float) -> None:
    """Whatever it is, below the two seconds after which the signal repeats itself."""
    report = judge([echoed(latency)], 100.5, 104)
    assert report.latency.median == pytest.approx(latency, abs=0.001)
    assert report.echoes == report.marks


def test_what_is_missing_counts() -> None:
    """A second without frames is a gap of a second, a quarter less delivery, and a mark that is not back."""
    report = judge([echoed(0.1, gone=(3.0, 4.0))], 101, 105)
    assert report.delivery == pytest.approx(0.75, abs=0.01)
    assert report.gap.most == pytest.approx(1.02)
    assert (report.marks, report.echoes) == (4, 3)


def test_a_call_that_begins_late_has_a_gap() -> None:
    """As one that ends early: frames before and after the window say nothing about it."""
    late = echoed(0.1, gone=(0.0, 3.0))
    report = judge([late], 101, 105)
    assert report.gap.most == pytest.approx(2.1, abs=0.02)


def test_the_silent_and_the_refused_count() -> None:
    """Who was refused, and who hears nothing, delivers nothing; silence until the end is one long gap."""
    silent, refused = CallTrace(setup=0.2), CallTrace(failure="503: full")
    report = judge([echoed(0.1), silent, refused], 101, 105)
    assert report.delivery == pytest.approx(1 / 3)
    assert report.worst_delivery == 0
    assert report.gap.most == pytest.approx(4.0)
    assert report.failures == {"503: full": 1}
    ended = judge([echoed(0.1, gone=(2.0, 9.0))], 101, 105)
    assert ended.gap.most == pytest.approx(2.92)


def test_another_sound_is_no_echo() -> None:
    """A server that says something else has a delivery, and no latency."""
    trace = echoed(0.1)
    noise = np.random.default_rng(1).integers(-9000, 9000, (len(trace.heard), COARSE // 50)).astype(np.int16)
    trace.heard = [(now, noise[index]) for index, (now, _) in enumerate(trace.heard)]
    report = judge([trace], 101, 105)
    assert (report.delivery, report.echoes, report.latency) == (1.0, 0, None)


def test_limits_are_told_in_words() -> None:
    """Each limit that is not kept is one line with both numbers; a figure that is missing keeps no limit."""
    report = judge([echoed(0.1, gone=(3.0, 4.0))], 101, 105)
    assert LoadLimits().broken(report) == []
    assert LoadLimits(min_delivery=0.7, max_gap_p99=2.0, max_latency=0.2, max_setup=0.2).broken(report) == []
    words = LoadLimits(min_delivery=0.99, max_gap_p99=0.01, max_latency=0.05, max_setup=0.05).broken(report)
    assert len(words) == 4
    assert words[0].startswith("delivery is 0.7")
    assert words[2] == "the median latency is 100.0 ms, above 50 ms"
    assert LoadLimits(max_latency=1.0).broken(judge([CallTrace(setup=0.1)], 0, 1)) == [
        "the median latency is unknown: nothing came back"
    ]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_load_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls to an echo deliver, echo their marks, tell how far they are, and one refused call is told, too."""

    async def echo(transport) -> None:
        transport.start(AudioFormat(RATE), AudioFormat(RATE))
        with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                transport.audio_out.put(await transport.audio_in.take())

    async with open_engine(LOCAL) as server, anyio.create_task_group() as tasks:
        asked = []

        async def request(method, url, headers, timeout, body):
            asked.append(url)
            if len(asked) == 4:
                raise ConnectionError("it is full")
            transport = await server.answer(body["sdp"])
            tasks.start_soon(echo, transport)
            answer = json.dumps({"sdp": transport.answer, "type": "answer"}).encode()
            return SimpleNamespace(content=answer, status_code=200)

        monkeypatch.setattr("rtcflow.client.webrtc.request", request)
        seen: list[load.LoadProgress] = []
        with anyio.fail_after(120):
            report = await run_load(
                "http://it", connections=4, seconds=2.2, warm_up=0.5, config=LOCAL, on_progress=seen.append
            )
        tasks.cancel_scope.cancel()
    assert (report.connections, report.connected, report.failures) == (4, 3, {"it is full": 1})
    assert report.delivery <= 0.75
    if report.client_lag.most < 0.2:  # else the load itself was held up: what it tells of the server means nothing
        assert report.delivery > 0.3
        assert report.echoes >= 3
        assert 0.005 < report.latency.median < 1.0
        assert report.setup.median < 10
    assert (seen[-1].connected, seen[-1].failed) == (3, 1)
    json.dumps(report.as_dict())


@pytest.mark.anyio
async def test_nonsense_is_refused_before_anything_starts() -> None:
    """No URL, no connections, no time."""
    with pytest.raises(ValueError, match="not the URL"):
        await run_load("nonsense", connections=1, seconds=1)
    with pytest.raises(ValueError, match="at least 1 connection"):
        await run_load("http://it", connections=0, seconds=1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "headers", "words"),
    [
        ("http://127.0.0.1:99999", {}, "is not the URL of a server"),
        ("http://127.0.0.1:9", {"Authorization": "café"}, "the header 'Authorization' holds a line break"),
    ],
)
async def test_what_each_caller_refuses_is_one_error(url, headers, words) -> None:
    """Not a group of as many as there are callers."""
    with pytest.raises(ValueError, match=words):
        await run_load(url, connections=3, seconds=1, headers=headers, config=LOCAL)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtcflow", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@contextlib.contextmanager
def demo() -> Iterator[str]:
    """The demo in a process of its own; its URL."""
    command = [sys.executable, "-m", "rtcflow", "demo", "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield re.search(r"http://\S+:\d+", process.stdout.readline())[0]
        finally:
            process.kill()


def test_a_dead_server_is_one_line() -> None:
    """Nobody there: one clear line, exit code 1."""
    done = bench("http://127.0.0.1:9", "-n", 3)
    assert done.returncode == 1
    assert done.stderr == "rtcflow: nobody answers at http://127.0.0.1:9/webrtc/offer: Connection refused\n"


@pytest.mark.slow
def test_the_exit_code_tells_of_limits() -> None:
    """Limits that cannot be kept give exit code 1 and a line each, those that are kept 0; the figures come anyway."""
    with demo() as url:
        commands = (
            (url, "-n", 2, "--seconds", 1.5, "--min-delivery", 0.01, "--json", "--backend", "trio"),
            (url, "-n", 1, "--seconds", 1, "--max-gap-p99", 0.1),
        )
        with ThreadPoolExecutor(2) as both:  # at the same time
            kept, broken = both.map(lambda arguments: bench(*arguments), commands)
    assert kept.returncode == 0, kept.stderr
    assert json.loads(kept.stdout)["connected"] == 2
    assert broken.returncode == 1
    assert "rtcflow: the 99th percentile of the gaps is" in broken.stderr
    assert "1 of 1 calls" in broken.stdout
