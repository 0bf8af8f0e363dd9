"""Traces: a span for each call, turn and tool, and never one in another call's trace."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import anyio
import numpy as np
import pytest

from rtcflow.agents import Conversation, ToolCall, tool
from rtcflow.agents.calling import call_tool, run_tools
from rtcflow.agents.tools import as_tool
from rtcflow.context import get_current_context
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.handlers.turns import ReplyHandler
from rtcflow.handlers.turns.reply_handler import around_reply
from rtcflow.handlers.turns.timeline import TurnTimeline
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the SDK of OpenTelemetry is not here")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
sdk_metrics = pytest.importorskip("opentelemetry.sdk.metrics")
measured = pytest.importorskip("opentelemetry.sdk.metrics.export")
otel = pytest.importorskip("rtcflow.otel")
trace_calls, measure_calls = otel.trace_calls, otel.measure_calls

pytestmark = pytest.mark.anyio


@pytest.fixture
def traced():
    """A tracer provider that keeps its spans, and what reads them."""
    provider, kept = trace.TracerProvider(shutdown_on_exit=False), memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(kept))
    yield provider, kept.get_finished_spans
    provider.shutdown()


async def call(stream, name, wait):
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.calls.admit(CallRequest(), "memory", name) as session:
            stream.calls.start(session, ours)
        while session.statistics().setup is None:
            await anyio.sleep(0.005)
        await wait(session)
        await theirs.aclose()
        await session.connection.wait_ended()


def attributes(span):
    return dict(span.attributes)


class Threads(StreamHandler):
    """Opens a span in its worker thread, and says whose it is."""

    tracer = None

    def receive(self, frame):
        pass

    def emit(self):
        from rtcflow import get_current_context

        with self.tracer.start_as_current_span("emit", attributes={"whose": get_current_context().webrtc_id}):
            time.sleep(0.02)

    def copy(self):
        return Threads()


class Tasks(AsyncStreamHandler):
    """The same in a task of its own, and in a thread that the task waits for."""

    tracer = None

    async def start_up(self):
        self.loop.create_task(self.work())

    async def work(self):
        await anyio.sleep(0.01)
        self.span()
        await anyio.to_thread.run_sync(self.span)

    def span(self):
        from rtcflow import get_current_context

        self.tracer.start_span("work", attributes={"whose": get_current_context().webrtc_id}).end()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Tasks()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Threads, Tasks])
async def test_no_span_has_the_parent_of_another_call(kind, traced, monkeypatch):
    """Fifty calls at once: each has a trace of its own, and what its code opens in tasks and threads is in that."""
    provider, finished = traced
    monkeypatch.setattr(kind, "tracer", provider.get_tracer("application"))
    stream = Stream(kind(), concurrency_limit=None)
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        wanted = 1 if kind is Threads else 2
        while sum(one.attributes.get("whose") == session.webrtc_id for one in finished()) < wanted:
            await anyio.sleep(0.05)

    with anyio.fail_after(120):
        async with stream.running(), anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(call, stream, f"{number:02}-and-so-on-and-on", wait)
    spans = finished()
    calls = {span.attributes["rtcflow.call"]: span for span in spans if span.name == "call"}
    assert len(calls) == 50
    assert all(span.parent is None for span in calls.values())
    assert len({span.context.trace_id for span in calls.values()}) == 50
    inner = [span for span in spans if span.name != "call"]
    assert len(inner) >= 50
    for span in inner:
        own = calls[f"{span.attributes['whose'][:8]}…"]
        assert (span.parent.span_id, span.context.trace_id) == (own.context.span_id, own.context.trace_id)


async def test_a_call_links_to_the_request_that_opened_it(traced, monkeypatch):
    """The request's span ends before the call, so it is not a parent. Afterwards the request's task has it back."""
    provider, finished = traced
    stream = Stream(Tasks())
    trace_calls(stream, tracer_provider=provider)
    monkeypatch.setattr(Tasks, "tracer", provider.get_tracer("application"))

    async def wait(_):
        while not any(span.name == "work" for span in finished()):
            await anyio.sleep(0.005)

    with anyio.fail_after(120):
        async with stream.running():
            with provider.get_tracer("web").start_as_current_span("POST /webrtc/offer") as request:
                await call(stream, "abc", wait)
                provider.get_tracer("web").start_span("afterwards").end()
    spans = {span.name: span for span in finished()}
    assert spans["call"].parent is None
    assert [link.context.span_id for link in spans["call"].links] == [request.get_span_context().span_id]
    assert spans["work"].parent.span_id == spans["call"].context.span_id
    assert spans["afterwards"].parent.span_id == request.get_span_context().span_id


@pytest.mark.parametrize("fault", ["down", "slow"])
async def test_no_call_notices_a_collector(fault):
    """Spans are exported in a thread of the SDK's: the calls begin and end meanwhile as they do without it."""
    released, asked = threading.Event(), threading.Event()

    class Exporter(export.SpanExporter):
        def export(self, spans):
            asked.set()
            if fault == "down":
                return export.SpanExportResult.FAILURE
            released.wait(20)
            return export.SpanExportResult.SUCCESS

    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(Exporter(), schedule_delay_millis=1))
    stream = Stream(Bot(), concurrency_limit=None)
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        assert session.end is None

    try:
        with anyio.fail_after(120):
            async with stream.running():
                await call(stream, "first", wait)
                await anyio.to_thread.run_sync(asked.wait, 10)
                async with anyio.create_task_group() as tasks:
                    for number in range(5):
                        tasks.start_soon(call, stream, f"call {number}", wait)
    finally:
        released.set()
        await anyio.to_thread.run_sync(provider.shutdown)


@pytest.mark.parametrize("when", ["on_start", "on_end"])
async def test_a_span_processor_that_raises_costs_no_call(when, caplog):
    """The SDK passes on what a processor raises. Each call is served all the same, and so is the next one."""

    def fail(*_, **__):
        raise LookupError("mine")

    processor = trace.SpanProcessor()
    setattr(processor, when, fail)
    provider, served = trace.TracerProvider(shutdown_on_exit=False), []
    provider.add_span_processor(processor)
    stream = Stream(Bot(), concurrency_limit=None)
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        served.append(session.end)

    with anyio.fail_after(120):
        async with stream.running():
            await call(stream, "first", wait)
            await call(stream, "second", wait)
    assert served == [None, None]
    assert [record.exc_info[0] for record in caplog.records if record.levelname == "ERROR"] == [LookupError] * 2


class Bot(ReplyHandler):
    def __init__(self):
        super().__init__(print)

    async def receive(self, frame):
        pass

    def copy(self):
        return Bot()


async def test_a_turn_is_a_child_of_its_call_with_its_times_as_events(traced):
    """Starts and ends when the turn did, on the wall clock; marks are events; a failure is an error."""
    provider, finished = traced
    stream = Stream(Bot())
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        now = anyio.current_time()
        session.handler._record(
            TurnTimeline(1, speech_start=now - 3, speech_end=now - 2, first_frame=now - 1.5, marks={"stt": now - 1.8})
        )
        session.handler._record(TurnTimeline(2, speech_start=now - 1, failed=now))
        session.handler._record(TurnTimeline(3))

    with anyio.fail_after(120):
        async with stream.running():
            await call(stream, "abc", wait)
    first, second, whole = finished()
    assert whole.attributes["rtcflow.end"] in {"peer_left", "closed"}
    assert attributes(first) == {
        "rtcflow.turn": 1,
        "rtcflow.turn.outcome": "played",
        "rtcflow.turn.response_time": pytest.approx(0.5),
    }
    assert [event.name for event in first.events] == ["speech_end", "stt", "first_frame"]
    assert first.parent.span_id == second.parent.span_id == whole.context.span_id
    assert (first.end_time - first.start_time) / 1e9 == pytest.approx(1.5, abs=1e-3)
    assert abs(second.end_time - whole.end_time) < 60e9
    assert second.status.status_code.name == "ERROR"
    assert second.attributes["error.type"] == "failed"
    assert "error.type" not in first.attributes


class Talker(ReplyHandler):
    """Its reply function opens a span, in the colour that the test wants, and uses a tool."""

    tracer = None
    sync = False

    def __init__(self):
        super().__init__(self.answer_sync if self.sync else self.answer)

    async def answer(self, text):
        self.mark("stt")
        with self.tracer.start_as_current_span("inner", attributes={"whose": text}):
            await run_tools(self.conversation, [ToolCall("1", "look", "{}")])
        return 24000, np.zeros((1, 480), np.int16)

    def answer_sync(self, text):
        with self.tracer.start_as_current_span("inner", attributes={"whose": text}):
            return 24000, np.zeros((1, 480), np.int16)

    async def receive(self, frame):
        pass

    def copy(self):
        new = type(self)()
        new.conversation = Conversation(tools=[look])
        return new


class SyncTalker(Talker):
    sync = True


@tool
def look() -> str:
    """Look."""
    return "nothing"


@pytest.mark.parametrize("kind", [Talker, SyncTalker])
async def test_what_a_reply_opens_is_a_child_of_its_turn(kind, traced, monkeypatch):
    """Twenty calls at once, each with two turns: spans of the reply function and of its tools are in the right turn."""
    provider, finished = traced
    monkeypatch.setattr(Talker, "tracer", provider.get_tracer("application"))
    stream = Stream(kind(), concurrency_limit=None)
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        for number in (1, 2):
            session.handler.reply_to(f"{session.webrtc_id} {number}")
            while len(session.handler.turns) < number:
                await anyio.sleep(0.01)

    with anyio.fail_after(120):
        async with stream.running(), anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(call, stream, f"{number:02}-and-so-on", wait)
    spans = finished()
    by_id = {span.context.span_id: span for span in spans}
    inner = [span for span in spans if span.name == "inner"]
    assert len(inner) == 40
    for span in inner:
        turn = by_id[span.parent.span_id]
        of = by_id[turn.parent.span_id]
        whose, number = span.attributes["whose"].split()
        assert (turn.name, of.name) == ("turn", "call")
        assert whose.startswith(of.attributes["rtcflow.call"].rstrip("…"))
        assert turn.attributes["rtcflow.turn"] == int(number)
        assert turn.attributes["rtcflow.turn.outcome"] == "played"
        assert turn.start_time <= span.start_time + 2e6  # uvloop's clock has whole milliseconds
        assert span.end_time <= turn.end_time + 2e6
    if kind is Talker:
        tools = [span for span in spans if span.name == "execute_tool look"]
        assert len(tools) == 40
        assert all(by_id[span.parent.span_id].name == "inner" for span in tools)
        assert all("stt" in [event.name for event in span.events] for span in spans if span.name == "turn")


async def test_what_one_call_says_in_another_belongs_to_the_other(traced):
    """An operator's call speaks in a caller's, through its handler: spans and context there are the caller's."""
    provider, finished = traced
    stream, contexts = Stream(Bot(), concurrency_limit=None), []
    trace_calls(stream, tracer_provider=provider)

    async def words():
        with provider.get_tracer("application").start_as_current_span("inner"):
            contexts.append(get_current_context().webrtc_id)
            yield 24000, np.ones(480, np.int16)

    async def speak(operator, caller):
        for session in (operator, caller):
            while session.handler._context is None:
                await anyio.sleep(0.005)
        create_task = operator.handler.loop.create_task
        await operator.handler._context.copy().run(create_task, caller.handler.say(words()))

    with anyio.fail_after(120):
        async with stream.running():
            await call(
                stream,
                "operator-and-so-on",
                lambda operator: call(stream, "caller-and-so-on", lambda caller: speak(operator, caller)),
            )
    assert contexts == ["caller-and-so-on"]
    spans = {span.context.span_id: span for span in finished()}
    (inner,) = (span for span in spans.values() if span.name == "inner")
    (turn,) = (span for span in spans.values() if span.name == "turn")
    assert inner.parent.span_id == turn.context.span_id
    assert spans[turn.parent.span_id].attributes["rtcflow.call"] == "caller-a…"


async def test_an_early_reply_that_is_dropped_says_so(traced):
    """Its span ends with the call, since its turn never had an end."""
    provider, finished = traced
    stream = Stream(Bot())
    trace_calls(stream, tracer_provider=provider)

    async def wait(session):
        async def speculate():
            with around_reply.get()(TurnTimeline(1, speech_start=anyio.current_time() - 1)):
                await anyio.sleep(0)

        while session.handler._context is None:
            await anyio.sleep(0.005)
        await session.handler._context.run(session.handler.loop.create_task, speculate())

    with anyio.fail_after(120):
        async with stream.running():
            await call(stream, "abc", wait)
    turn, whole = finished()
    assert attributes(turn) == {"rtcflow.turn": 1, "rtcflow.turn.outcome": "dropped"}
    assert turn.parent.span_id == whole.context.span_id


async def test_tools_have_spans(traced):
    """Named by the conventions for generative AI; one that fails has the error, also from a worker thread."""
    provider, finished = traced

    @tool
    def broken(x: int) -> int:
        """Fail."""
        raise LookupError("nothing there")

    class Caller(Tasks):
        async def work(self):
            await call_tool(as_tool(broken), ToolCall("1", "broken", '{"x": 1}'), anyio.to_thread.run_sync)
            done.set()

        def copy(self):
            return Caller()

    done = threading.Event()
    stream = Stream(Caller())
    trace_calls(stream, tracer_provider=provider)

    async def wait(_):
        while not done.is_set():
            await anyio.sleep(0.005)

    with anyio.fail_after(120):
        async with stream.running():
            await call(stream, "abc", wait)
    used, whole = finished()
    assert used.name == "execute_tool broken"
    assert attributes(used) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "broken",
        "error.type": "LookupError",
    }
    assert used.parent.span_id == whole.context.span_id
    assert used.status.status_code.name == "ERROR"
    assert used.events[0].attributes["exception.type"] == "LookupError"


async def test_a_tool_that_is_cancelled_has_not_failed(traced):
    """The user has interrupted: nothing is wrong with the tool."""
    provider, finished = traced

    @tool
    async def slow() -> str:
        """Take long."""
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        with otel._tool(provider.get_tracer("rtcflow"), "slow"):
            await call_tool(as_tool(slow), ToolCall("1", "slow", "{}"), anyio.to_thread.run_sync)
    (span,) = finished()
    assert span.status.status_code.name == "UNSET"
    assert not span.events
    assert "error.type" not in span.attributes


def test_each_metric_of_prometheus_is_here_too():
    """With a dot, and without the unit in its name."""
    prometheus = pytest.importorskip("rtcflow.prometheus")
    made, stream = set(), Stream(Bot())

    class Meters:
        def get_meter(self, *_, **__):
            return self

        def __getattr__(self, kind):
            return lambda name, *_, **__: made.add(name)

    measure_calls(stream, meter_provider=Meters())
    names = {family.name for family in prometheus.StreamCollector(stream).collect()}
    assert {name.removesuffix("_seconds").replace("rtcflow_", "rtcflow.") for name in names} == made


async def test_metrics(traced):
    """The figures of Prometheus, with dots: counters and gauges when they are collected, histograms as things end."""
    reader = measured.InMemoryMetricReader()
    provider = sdk_metrics.MeterProvider([reader], shutdown_on_exit=False)
    stream = Stream(Bot(), authorize=lambda _: "ann-the-caller")
    measure_calls(stream, meter_provider=provider)

    def collected():
        data = json.loads(reader.get_metrics_data().to_json())
        scopes = [scope for resource in data["resource_metrics"] for scope in resource["scope_metrics"]]
        return {metric["name"]: metric["data"]["data_points"] for scope in scopes for metric in scope["metrics"]}

    async def wait(session):
        now = anyio.current_time()
        session.handler._record(TurnTimeline(1, speech_end=now - 2, first_frame=now - 1.5))
        found = collected()
        (calls,) = found["rtcflow.calls"]
        assert (calls["value"], calls["attributes"]) == (1, {"handler": "Bot", "transport": "memory"})
        (turns,) = found["rtcflow.turns"]
        assert turns["attributes"]["outcome"] == "played"
        while "rtcflow.loop_lag" not in collected():
            await anyio.sleep(0.01)

    try:
        with anyio.fail_after(120):
            async with stream.running():
                await call(stream, "the-id-of-the-call", wait)
        found = collected()
        assert "rtcflow.calls" not in found or not found["rtcflow.calls"]
        (ended,) = found["rtcflow.calls_ended"]
        assert (ended["value"], ended["attributes"]["transport"]) == (1, "memory")
        for name in ("rtcflow.call_setup", "rtcflow.call_duration", "rtcflow.turn_response"):
            assert found[name][0]["count"] == 1
        assert found["rtcflow.turn_response"][0]["sum"] == pytest.approx(0.5)
        assert "the-id" not in json.dumps(found)
        assert "ann-the-caller" not in json.dumps(found)
    finally:
        provider.shutdown()


def test_a_collection_looks_at_the_calls_once(monkeypatch):
    """Not once for each instrument: it would hold up the server, and a call could be counted as live and as ended."""
    reader, looks = measured.InMemoryMetricReader(), []
    look = otel.Figures.look
    monkeypatch.setattr(otel.Figures, "look", lambda figures: looks.append(figures) or look(figures))
    measure_calls(Stream(Bot()), meter_provider=sdk_metrics.MeterProvider([reader], shutdown_on_exit=False))
    for collections in (1, 2, 3):
        reader.collect()
        assert len(looks) == collections


def test_metrics_of_streams_with_the_same_handler_are_summed():
    """One observation for each set of attributes: of several, an SDK would take the last one."""
    reader = measured.InMemoryMetricReader()
    provider = sdk_metrics.MeterProvider([reader], shutdown_on_exit=False)
    streams = Stream(Bot()), Stream(Bot())
    measure_calls(*streams, meter_provider=provider)
    for stream in streams:
        stream.calls.refused["busy"] += 1
        stream.calls.threads.reserve(2)
    try:
        data = json.loads(reader.get_metrics_data().to_json())
        (scope,) = data["resource_metrics"][0]["scope_metrics"]
        found = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
        assert [point["value"] for point in found["rtcflow.worker_threads"]] == [4]
        assert [point["value"] for point in found["rtcflow.refusals"]] == [2]
    finally:
        provider.shutdown()


def test_without_the_extra_there_is_advice():
    """The error says what to install."""
    code = "import sys; sys.modules['opentelemetry'] = None; import rtcflow.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=150)
    assert done.stderr.endswith("traces and metrics need opentelemetry-api; install rtcflow[otel]\n")
