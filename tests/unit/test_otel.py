"""Traces: a span for each call, turn and tool, and never one in another call's trace."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import anyio
import pytest

from rtcflow.agents import ToolCall, tool
from rtcflow.agents.calling import call_tool
from rtcflow.agents.tools import as_tool
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.handlers.turns import ReplyHandler
from rtcflow.handlers.turns.timeline import TurnTimeline
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the SDK of OpenTelemetry is not here")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
trace_calls = pytest.importorskip("rtcflow.otel").trace_calls

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

    with anyio.fail_after(50):
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

    with anyio.fail_after(20):
        async with stream.running():
            with provider.get_tracer("web").start_as_current_span("POST /webrtc/offer") as request:
                await call(stream, "abc", wait)
                provider.get_tracer("web").start_span("afterwards").end()
    spans = {span.name: span for span in finished()}
    assert spans["call"].parent is None
    assert [link.context.span_id for link in spans["call"].links] == [request.get_span_context().span_id]
    assert spans["work"].parent.span_id == spans["call"].context.span_id
    assert spans["afterwards"].parent.span_id == request.get_span_context().span_id


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

    with anyio.fail_after(20):
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

    with anyio.fail_after(20):
        async with stream.running():
            await call(stream, "abc", wait)
    used, whole = finished()
    assert used.name == "execute_tool broken"
    assert attributes(used) == {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "broken"}
    assert used.parent.span_id == whole.context.span_id
    assert used.status.status_code.name == "ERROR"
    assert used.events[0].attributes["exception.type"] == "LookupError"


def test_without_the_extra_there_is_advice():
    """The error says what to install."""
    code = "import sys; sys.modules['opentelemetry'] = None; import rtcflow.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert done.stderr.endswith("traces need opentelemetry-api; install rtcflow[otel]\n")
