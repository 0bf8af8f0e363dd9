"""Metrics: what is counted, that counters never fall, that ids are never labels, and that they must be asked for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import httpx2
import pytest

from rtcflow.exceptions import NotAuthorized
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.handlers.turns import ReplyHandler
from rtcflow.handlers.turns.timeline import TurnTimeline
from rtcflow.serving.loop_lag import LoopLag
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.testing import silence
from rtcflow.transports.memory import memory_pair

prometheus_client = pytest.importorskip("prometheus_client", reason="the extra prometheus is not here")
StreamCollector = pytest.importorskip("rtcflow.prometheus").StreamCollector

pytestmark = pytest.mark.anyio
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
ALERTS = DASHBOARD.with_name("alerts.yml")


class Quiet(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Quiet()


class Bot(ReplyHandler):
    def __init__(self):
        super().__init__(print)

    async def receive(self, frame):
        pass

    def copy(self):
        return Bot()


@asynccontextmanager
async def calling(stream, webrtc_id=None):
    """A connected call over a memory transport; yields its session and the caller's end."""
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        request = CallRequest(remote_address=("192.0.2.77", 4711))
        async with stream.calls.admit(request, "memory", webrtc_id) as session:
            stream.calls.start(session, ours)
        while session.statistics().setup is None:
            await anyio.sleep(0.002)
        yield session, theirs
        await theirs.aclose()
        await session.connection.wait_ended()
        while session in stream.calls.values():
            await anyio.sleep(0.002)


class Scrape:
    """The samples of a collector."""

    def __init__(self, *streams):
        self.registry = prometheus_client.CollectorRegistry()
        self.registry.register(StreamCollector(*streams))

    def __call__(self, name, **labels):
        return self.registry.get_sample_value(name, {"handler": "Quiet", **labels})

    def counters(self):
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for metric in self.registry.collect()
            if metric.type in {"counter", "histogram"}
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }


async def test_calls_are_counted_live_and_when_they_ended():
    """Live calls are a gauge; ends are counted by cause; set-up and length have one observation for each call."""
    stream = Stream(Quiet(), concurrency_limit=3)
    value = Scrape(stream)
    with anyio.fail_after(120):
        async with stream.running():
            async with calling(stream), calling(stream):
                assert value("rtcflow_calls", transport="memory") == 2
                assert value("rtcflow_calls_ended_total", transport="memory", end="closed") is None
                assert value("rtcflow_ready") == 1
            async with calling(stream) as (session, _):
                session.close()
                await session.connection.wait_ended()
    assert value("rtcflow_calls", transport="memory") is None
    ends = {end: value("rtcflow_calls_ended_total", transport="memory", end=end) for end in ("closed", "peer_left")}
    assert sum(filter(None, ends.values())) == 3
    assert ends["closed"] >= 1
    assert value("rtcflow_call_setup_seconds_count", transport="memory") == 3
    assert value("rtcflow_call_duration_seconds_count", transport="memory") == 3
    assert value("rtcflow_calls_limit") == 3
    assert value("rtcflow_ready") == 0


async def test_counters_never_fall_when_a_call_ends():
    """Figures of live calls become those of ended ones: a scrape at each moment sees each call once."""
    stream = Stream(Quiet())
    scrape, seen = Scrape(stream), []
    stream.calls.watch(lambda _: seen.append(scrape.counters()))  # counted as ended, and still in the mapping
    with anyio.fail_after(120):
        async with stream.running():
            for _ in range(3):
                async with calling(stream) as (session, theirs):
                    theirs.audio_out.put(silence(0.1, 48000))
                    while session.statistics().transport.audio_in.put < 5:
                        await anyio.sleep(0.005)
                    seen.append(scrape.counters())
                seen.append(scrape.counters())
    for before, after in pairwise(seen):
        assert all(after[key] >= value for key, value in before.items())
    frames = ("rtcflow_audio_frames_received_total", ("handler", "Quiet"), ("transport", "memory"))
    assert [one[frames] for one in seen] == [5, 5, 5, 10, 10, 10, 15, 15, 15]


async def test_a_call_may_end_while_another_thread_reads_the_calls():
    """A scrape in a thread, as of `prometheus_client.start_http_server`, goes over a snapshot."""
    stream = Stream(Quiet(), concurrency_limit=2)
    with anyio.fail_after(120):
        async with stream.running(), calling(stream, "one"):
            async with calling(stream, "two") as (session, _):
                values, items = iter(stream.calls.values()), iter(stream.calls.items())
                next(values), next(items)
            assert list(stream.calls) == ["one"]
            assert (list(values), list(items)) == ([session], [("two", session)])


async def test_the_figures_of_an_ended_call_are_read_under_the_lock(monkeypatch):
    """Otherwise a scrape in another thread could come after the reading, and see more than what is kept."""
    stream, locked = Stream(Quiet()), []
    collector = StreamCollector(stream)
    with anyio.fail_after(120):
        async with stream.running(), calling(stream) as (session, _):
            read = session.connection.statistics

            def statistics():
                locked.append((session.connection.end is not None, collector._figures._lock.locked()))
                return read()

            monkeypatch.setattr(session.connection, "statistics", statistics)
    assert (True, True) in locked


async def test_refusals_are_counted_by_reason():
    """On each transport, whatever refused."""
    stream = Stream(Quiet(), metrics=True, authorize=_refuse_strangers)
    async with stream.running():
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=stream.asgi), base_url="http://test"
        ) as client:
            assert (await client.post("/webrtc/offer", json={"sdp": "nonsense"})).status_code == 422
            offer = {"sdp": "v=0\r\n", "type": "offer", "webrtc_id": "stranger"}
            assert (await client.post("/webrtc/offer", json=offer)).status_code == 403
            assert (await client.post("/whip", content="v=0\r\n")).status_code in {400, 415}
            text = (await client.get("/metrics")).text
    refused = dict(re.findall(r'rtcflow_refusals_total\{handler="Quiet",reason="(\w+)"\} (\d)', text))
    assert refused["not_authorized"] == "1"
    assert sum(map(int, refused.values())) == 3


def _refuse_strangers(request):
    raise NotAuthorized("members only")


async def test_streams_with_the_same_handler_are_summed():
    """Each series is there once. Prometheus drops samples that are in a scrape twice."""
    streams = Stream(Quiet(), concurrency_limit=1), Stream(Quiet(), concurrency_limit=2)
    value = Scrape(*streams)
    for stream in streams:
        stream.calls.loop_lag.note(0.03)
        stream.calls.refused["busy"] += 1
        stream.calls.threads.reserve(2)
    samples = [
        (sample.name, *sorted(sample.labels.items()))
        for metric in value.registry.collect()
        for sample in metric.samples
    ]
    assert len(samples) == len(set(samples))
    assert value("rtcflow_loop_lag_seconds_count") == 2
    assert value("rtcflow_loop_lag_seconds_bucket", le="0.025") == 0
    assert value("rtcflow_loop_lag_seconds_bucket", le="0.05") == 2
    assert value("rtcflow_loop_lag_seconds_sum") == pytest.approx(0.06)
    assert value("rtcflow_refusals_total", reason="busy") == 2
    assert value("rtcflow_worker_threads") == 4
    assert value("rtcflow_calls_limit") == 3


async def test_turns_are_counted_once():
    """Each turn by its outcome, with its time to reply, however often is scraped; those of an ended call stay."""
    stream = Stream(Bot())
    value = Scrape(stream)

    def turns(outcome):
        return value("rtcflow_turns_total", handler="Bot", transport="memory", outcome=outcome)

    with anyio.fail_after(120):
        async with stream.running(), calling(stream) as (session, _):
            session.handler._record(TurnTimeline(1, speech_end=1.0, first_frame=1.7, playout_end=3.0))
            session.handler._record(TurnTimeline(2, speech_end=5.0, first_frame=5.3, interrupted=6.0))
            assert (turns("played"), turns("interrupted")) == (1, 1)
            session.handler._record(TurnTimeline(3, speech_end=8.0, failed=8.1))
            assert (turns("played"), turns("failed")) == (1, 1)
            session.handler._record(TurnTimeline(4, speech_end=9.0, call_ended=9.1))
    assert [turns(one) for one in ("played", "interrupted", "failed", "cut_off")] == [1, 1, 1, 1]
    assert value("rtcflow_turn_response_seconds_count", handler="Bot", transport="memory") == 2
    assert value("rtcflow_turn_response_seconds_sum", handler="Bot", transport="memory") == pytest.approx(1.0)
    assert value("rtcflow_turn_response_seconds_bucket", handler="Bot", transport="memory", le="0.4") == 1


async def test_a_loop_that_is_blocked_is_seen():
    """A block of 0.3 s is one look that was late by at least 0.2 s, and in no smaller bucket."""
    stream = Stream(Quiet())
    value = Scrape(stream)
    with anyio.fail_after(120):
        async with stream.running():
            while not sum(stream.calls.loop_lag.counts):
                await anyio.sleep(0.01)
            before = value("rtcflow_loop_lag_seconds_count", handler="Quiet")
            time.sleep(0.3)
            while value("rtcflow_loop_lag_seconds_count", handler="Quiet") == before:
                await anyio.sleep(0.01)
    most = value("rtcflow_loop_lag_seconds_count", handler="Quiet")
    assert value("rtcflow_loop_lag_seconds_bucket", handler="Quiet", le="0.1") < most
    assert value("rtcflow_loop_lag_seconds_bucket", handler="Quiet", le="+Inf") == most
    assert value("rtcflow_loop_lag_seconds_sum", handler="Quiet") >= 0.2


@pytest.mark.parametrize(
    ("late", "bucket"), [(-0.01, 0), (0.0, 0), (0.005, 0), (0.0051, 1), (0.09, 4), (2.5, 8), (2.6, 9), (60.0, 9)]
)
async def test_the_buckets_of_lateness(late, bucket):
    """A bound belongs to its bucket, as Prometheus has it."""
    lag = LoopLag()
    lag.note(late)
    assert lag.counts.index(1) == bucket
    assert lag.total == max(0.0, late)


async def test_without_metrics_no_loop_is_watched():
    """Nobody asked, so nothing wakes ten times a second."""
    stream = Stream(Quiet())
    async with stream.running():
        assert stream.calls.loop_lag is None


NAMED: dict[str, str] = {
    "calls by transport": "rtcflow_calls",
    "calls by end cause": "rtcflow_calls_ended",
    "set-up time": "rtcflow_call_setup_seconds",
    "jitter-buffer delay": "rtcflow_jitter_buffer_delay_seconds",
    "lost": "rtcflow_packets_lost",
    "concealed": "rtcflow_packets_concealed",
    "playout underruns": "rtcflow_playout_underruns",
    "queue drops": "rtcflow_queue_dropped",
    "stalls": "rtcflow_handler_stalls",
    "loop lag": "rtcflow_loop_lag_seconds",
    "loop lag of the engine": "rtcflow_engine_lag_seconds",
    "worker threads": "rtcflow_worker_threads",
    "turns and interruptions": "rtcflow_turns",
    "time to reply": "rtcflow_turn_response_seconds",
    "refusals by reason": "rtcflow_refusals",
}


async def test_each_metric_is_there_before_the_first_call():
    """So an alert on it is no alert on nothing, and the page's table is whole."""
    metrics = {metric.name for metric in StreamCollector(Stream(Quiet())).collect()}
    assert set(NAMED.values()) <= metrics
    page = (DASHBOARD.parents[1] / "docs" / "operate.md").read_text()
    assert [name for name in metrics if f"`{name}" not in page] == []


async def test_no_metric_knows_who_called():
    """Ids, principals and addresses are never labels: each of their values would be a series of its own."""
    stream = Stream(Quiet(), metrics=True, authorize=lambda _: "ann-the-caller")
    with anyio.fail_after(120):
        async with stream.running(), calling(stream, "the-id-of-the-call") as (session, _):
            scrape = Scrape(stream)
            exposed = prometheus_client.generate_latest(scrape.registry).decode()
    assert 'rtcflow_calls{handler="Quiet",transport="memory"} 1.0' in exposed
    for secret in ("the-id", session.name[:8], "ann-the-caller", "192.0.2.77"):
        assert secret not in exposed


@pytest.mark.parametrize("asked", [True, False])
async def test_the_route_must_be_asked_for(asked):
    """Without `metrics=True` there is no such route."""
    stream = Stream(Quiet(), metrics=asked)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=stream.asgi), base_url="http://test") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == (200 if asked else 404)
    if asked:
        assert answer.headers["content-type"].startswith("text/plain")
        assert "process_cpu_seconds_total" in answer.text


def test_the_names_follow_the_conventions():
    """Base units, `_total` for counters, a help text for each; every series of the dashboard exists."""
    stream = Stream(Quiet())
    metrics = {metric.name: metric for metric in StreamCollector(stream).collect()}
    for name, metric in metrics.items():
        assert re.fullmatch(r"rtcflow_[a-z_]+", name)
        assert metric.documentation
        assert not re.search("_(ms|milliseconds|count|total|counter)$", name)
    known = {f"{name}{suffix}" for name in metrics for suffix in ("", "_total", "_bucket")}
    for text, least in ((json.dumps(json.loads(DASHBOARD.read_text())["panels"]), 16), (ALERTS.read_text(), 8)):
        used = set(re.findall(r"rtcflow_\w+", text))
        assert used <= known, used - known
        assert len(used) >= least


async def test_the_page_tells_of_each_alert():
    """What to do about it is written there, not in the alert."""
    page = (DASHBOARD.parents[1] / "docs" / "operate.md").read_text()
    alerts = re.findall(r"alert: (\w+)", ALERTS.read_text())
    assert len(alerts) >= 6
    assert [name for name in alerts if f"`{name}`" not in page] == []


def test_without_the_extra_there_is_advice():
    """The error says what to install."""
    code = "import sys; sys.modules['prometheus_client'] = None; import rtcflow.prometheus"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=150)
    assert done.stderr.endswith("metrics need prometheus-client; install rtcflow[prometheus]\n")
