"""Traces and metrics by OpenTelemetry: ``pip install 'rtcflow[otel]'``, `trace_calls(stream)`, `measure_calls(stream)`.

Each call has a span of its own, which is the root of a trace. The handler's methods, tasks and worker threads inherit
it by OpenTelemetry's context variable. So spans that your code or an instrumented library opens become its children.

The span of a turn begins when its reply does, and is dated back to the caller's first sound. The reply function runs
inside it. It gets its events and its end when the turn is over, from the times that turn-taking keeps anyhow.

rtcflow uses the API only. Your application chooses the SDK and the exporter; without an SDK nothing is recorded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from ._core.guard import beside_cancellation
from ._version import __version__
from .agents.calling import around_tool
from .ends import EndCause
from .handlers.turns.reply_handler import ReplyHandler, around_reply
from .handlers.turns.timeline import TurnTimeline
from .serving.figures import GAUGES, OF_STREAMS, SUMS, Figures, Labels, Snapshot, handler_of, refusals
from .serving.session import Session

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, trace
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "traces and metrics need opentelemetry-api; install rtcflow[otel]", name=_error.name
    ) from _error

if TYPE_CHECKING:
    from .serving.calls import Calls
    from .stream import Stream

__all__ = ["measure_calls", "trace_calls"]

_EVENTS: Final = (
    *("speech_end", "turn_end", "reply_called", "first_chunk", "first_frame", "playout_end"),
    *("interrupted", "failed", "call_ended"),
)
"""The times of a turn that become events of its span."""

_FAULTS: Final = {EndCause.HANDLER_RAISED, EndCause.LINK_BROKE, EndCause.NOT_CONNECTED}
"""Causes of an end that are errors."""


def trace_calls(*streams: Stream, tracer_provider: Any = None) -> None:
    """Make spans for the calls of `streams` from now on. Call it once for each stream, before it runs.

    - A call is the root, ``call``, of kind SERVER. Its attributes are ``rtcflow.call``, ``rtcflow.transport``,
      ``rtcflow.handler`` and ``rtcflow.end``.
    - A turn is ``turn``, a child of its call. Its attributes are ``rtcflow.turn``, ``rtcflow.turn.outcome`` and
      ``rtcflow.turn.response_time`` (seconds). What the reply function opens, and the tools that it uses, are its
      children. A reply that was begun early and dropped, because the caller went on, has the outcome ``dropped``.
    - A tool of `rtcflow.agents` is ``execute_tool NAME``. Its attributes are ``gen_ai.operation.name`` and
      ``gen_ai.tool.name``.

    The call's span links to the span of the request that opened it, if there was one. Times of a turn, and what
    `ReplyHandler.mark` names, are events of its span. Failures have the status ERROR and ``error.type``: the class of
    the error, the cause of a call's end, or ``failed`` for a turn.

    Args:
        *streams: The streams.
        tracer_provider: An OpenTelemetry `TracerProvider`; by default the global one.
    """
    tracer = trace.get_tracer("rtcflow", __version__, tracer_provider)
    for stream in streams:
        stream.calls.wrap(partial(_call, tracer))


def measure_calls(*streams: Stream, meter_provider: Any = None) -> None:
    """Make metrics of the calls of `streams` from now on. Call it once for each set of streams, before they run.

    They are those of `rtcflow.prometheus`, with dots: ``rtcflow.calls``, ``rtcflow.calls_ended``,
    ``rtcflow.call_setup`` (seconds) and so on. Counts are read when the SDK collects; so a frame costs nothing more.
    Attributes are ``handler``, ``transport``, and for some ``end``, ``outcome``, ``queue``, ``reason`` or
    ``over_calls``. Ids and callers never are.

    Args:
        *streams: The streams.
        meter_provider: An OpenTelemetry `MeterProvider`; by default the global one.
    """
    meter = metrics.get_meter("rtcflow", __version__, meter_provider)
    calls = [stream.calls for stream in streams]

    def histogram(name: str, words: str) -> Callable[[Labels, float], None]:
        made = meter.create_histogram(f"rtcflow.{name}", unit="s", description=words)
        return lambda of, seconds: made.record(seconds, _attributes(of))

    lag = meter.create_histogram("rtcflow.loop_lag", unit="s", description="How late the handlers' event loop is.")
    figures = Figures(
        calls,
        setup=histogram("call_setup", "From the beginning of a connection until media could flow."),
        duration=histogram("call_duration", "Length of ended calls."),
        response=histogram("turn_response", "From the end of the caller's speech to the first sound of the reply."),
    )
    looks = _Looks(figures.look)
    for one in calls:
        one.watch_loop(partial(_record, lag, {"handler": handler_of(one)}))

    def counter(name: str, words: str, get: Callable[[Snapshot], Mapping[Labels, float]], label: str = "") -> None:
        callback = partial(_observe, looks, get, label)
        meter.create_observable_counter(f"rtcflow.{name}", [callback], description=words)

    def gauge(
        name: str, words: str, get: Callable[[Snapshot], Mapping[Labels, float]], label: str = "", unit: str = ""
    ) -> None:
        callback = partial(_observe, looks, get, label)
        meter.create_observable_gauge(f"rtcflow.{name}", [callback], unit=unit, description=words)

    gauge("calls", "Live calls.", lambda found: found.calls)
    counter("calls_ended", "Ended calls.", lambda found: found.ends, "end")
    counter("turns", "Ended turns.", lambda found: found.turns, "outcome")
    counter("queue_dropped", "Items that a full queue has dropped.", lambda found: found.queue_dropped, "queue")
    for name, (words, _) in SUMS.items():
        counter(name, words, partial(_sum, name))
    for name, (words, _) in GAUGES.items():
        gauge(name, words, partial(_over_calls, name), "over_calls", "s")
    meter.create_observable_counter("rtcflow.refusals", [partial(_refusals, calls)], description="Refused calls.")
    for name, (words, of_streams) in OF_STREAMS.items():
        meter.create_observable_gauge(f"rtcflow.{name}", [partial(_of_streams, of_streams, calls)], description=words)


def _record(histogram: Any, attributes: Mapping[str, str], seconds: float) -> None:
    histogram.record(seconds, attributes)


def _attributes(of: Labels, label: str = "") -> dict[str, str]:
    return dict(zip(("handler", "transport", label), of, strict=False))


class _Looks:
    """One look at the calls for all instruments of a collection, so that their figures fit together.

    A collection asks each instrument once. So the first that asks again begins the next collection. From any thread.
    """

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._found: Snapshot | None = None
        self._told = set[object]()

    def get(self, instrument: object) -> Snapshot:
        with self._lock:
            if self._found is None or instrument in self._told:
                self._found, self._told = self._look(), set()
            self._told.add(instrument)
            return self._found


def _observe(
    looks: _Looks, get: Callable[[Snapshot], Mapping[Labels, float]], label: str, _: Any
) -> Iterator[metrics.Observation]:
    for of, value in get(looks.get(get)).items():
        yield metrics.Observation(value, _attributes(of, label))


def _sum(name: str, found: Snapshot) -> Mapping[Labels, float]:
    return found.sums[name]


def _over_calls(name: str, found: Snapshot) -> Mapping[Labels, float]:
    values = found.gauges[name].items()
    means = {(*of, "mean"): sum(one) / len(one) for of, one in values}
    return means | {(*of, "max"): max(one) for of, one in values}


def _refusals(calls: Sequence[Calls], _: Any) -> Iterator[metrics.Observation]:
    for (handler, reason), count in refusals(calls).items():
        yield metrics.Observation(count, {"handler": handler, "reason": reason})


def _of_streams(
    get: Callable[[Sequence[Calls]], Mapping[str, int]], calls: Sequence[Calls], _: Any
) -> Iterator[metrics.Observation]:
    for handler, value in get(calls).items():
        yield metrics.Observation(value, {"handler": handler})


@contextmanager
def _call(tracer: Any, session: Session) -> Iterator[None]:
    """The span around one call, in the call's own task."""
    asked = trace.get_current_span().get_span_context()
    span = tracer.start_span(
        "call",
        context=otel_context.Context(),
        kind=trace.SpanKind.SERVER,
        links=[trace.Link(asked)] if asked.is_valid else [],
        attributes={
            "rtcflow.call": session.name,
            "rtcflow.transport": session.kind,
            "rtcflow.handler": type(session.handler).__qualname__,
        },
    )
    inner = trace.set_span_in_context(span, otel_context.Context())
    token, tools_before = otel_context.attach(inner), around_tool.get()
    around_tool.set(partial(_tool, tracer))
    turns, replies_before = _Turns(tracer, inner), around_reply.get()
    if isinstance(session.handler, ReplyHandler):
        around_reply.set(turns.around)
        session.handler.watch_turns(turns.over)
    try:
        yield
    finally:
        turns.close()
        around_reply.set(replies_before)
        around_tool.set(tools_before)
        otel_context.detach(token)
        end = session.end
        if end is not None:
            span.set_attribute("rtcflow.end", end.cause.name.lower())
            if end.cause in _FAULTS:
                span.set_status(trace.Status(trace.StatusCode.ERROR, end.reason))
                kind = end.cause.name.lower() if end.error is None else type(end.error).__qualname__
                span.set_attribute("error.type", kind)
        span.end()


class _Turns:
    """The spans of one call's turns."""

    def __init__(self, tracer: Any, parent: Any) -> None:
        self._tracer, self._parent = tracer, parent
        self._epoch = time.time_ns() - round(anyio.current_time() * 1e9)
        self._open: dict[int, Any] = {}

    @contextmanager
    def around(self, turn: TurnTimeline) -> Iterator[None]:
        """Around a reply, in its task. A turn may have several: early ones are dropped when the caller goes on."""
        span = self._open.get(turn.number)
        if span is None:
            span = self._open[turn.number] = self._begin(turn, anyio.current_time())
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            yield
        finally:
            otel_context.detach(token)

    def over(self, turn: TurnTimeline) -> None:
        """A turn is over: its span gets its events."""
        times: dict[str, float] = {name: at for name in _EVENTS if (at := getattr(turn, name)) is not None}
        times |= turn.marks
        moments = [*times.values(), *([] if turn.speech_start is None else [turn.speech_start])]
        span = self._open.pop(turn.number, None)
        if span is None:
            if not moments:
                return
            span = self._begin(turn, min(moments))
        span.set_attribute("rtcflow.turn.outcome", turn.outcome)
        if turn.response_time is not None:
            span.set_attribute("rtcflow.turn.response_time", turn.response_time)
        for name, at in sorted(times.items(), key=lambda item: item[1]):
            span.add_event(name, timestamp=self._at(at))
        if turn.failed is not None:
            span.set_status(trace.Status(trace.StatusCode.ERROR))
            span.set_attribute("error.type", "failed")
        span.end(self._at(max(moments)) if moments else None)

    def close(self) -> None:
        """The call is over: end what is left, early replies that were dropped."""
        while self._open:
            _, span = self._open.popitem()
            span.set_attribute("rtcflow.turn.outcome", "dropped")
            span.end()

    def _begin(self, turn: TurnTimeline, at: float) -> Any:
        began = at if turn.speech_start is None else min(at, turn.speech_start)
        attributes = {"rtcflow.turn": turn.number}
        return self._tracer.start_span("turn", context=self._parent, start_time=self._at(began), attributes=attributes)

    def _at(self, seconds: float) -> int:
        """A moment on the event loop's clock, as nanoseconds since 1970."""
        return self._epoch + round(seconds * 1e9)


@contextmanager
def _tool(tracer: Any, name: str) -> Iterator[None]:
    """The span around one tool. A tool that is cancelled has not failed: the user has interrupted."""
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    with tracer.start_as_current_span(
        f"execute_tool {name}", attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as raised:
            if (error := beside_cancellation(raised)) is not None:
                span.record_exception(error)
                span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
                span.set_attribute("error.type", type(error).__qualname__)
            raise
