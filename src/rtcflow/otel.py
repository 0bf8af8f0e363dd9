"""Traces by OpenTelemetry: ``pip install 'rtcflow[otel]'``, and `trace_calls(stream)`.

Each call has a span of its own, which is the root of a trace. The handler's methods, tasks and worker threads inherit
it by OpenTelemetry's context variable. So spans that your code or an instrumented library opens become its children.
Spans of turns are made when the turn is over, from the times that turn-taking keeps anyhow. rtcflow uses the API only.
Your application chooses the SDK and the exporter; without an SDK nothing is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from ._version import __version__
from .agents.calling import around_tool
from .ends import EndCause
from .handlers.turns.reply_handler import ReplyHandler
from .handlers.turns.timeline import TurnTimeline
from .serving.session import Session

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("traces need opentelemetry-api; install rtcflow[otel]", name=error.name) from error

if TYPE_CHECKING:
    from .stream import Stream

__all__ = ["trace_calls"]

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
    - A turn is ``turn``. Its attributes are ``rtcflow.turn``, ``rtcflow.turn.outcome`` and
      ``rtcflow.turn.response_time`` (seconds).
    - A tool of `rtcflow.agents` is ``execute_tool NAME``. Its attributes are ``gen_ai.operation.name`` and
      ``gen_ai.tool.name``.

    The call's span links to the span of the request that opened it, if there was one. Times of a turn, and what
    `ReplyHandler.mark` names, are events of its span. Failures have the status ERROR and ``error.type``.

    Args:
        *streams: The streams.
        tracer_provider: An OpenTelemetry `TracerProvider`; by default the global one.
    """
    tracer = trace.get_tracer("rtcflow", __version__, tracer_provider)
    for stream in streams:
        stream.calls.wrap(partial(_call, tracer))


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
    epoch = time.time_ns() - round(anyio.current_time() * 1e9)
    if isinstance(session.handler, ReplyHandler):
        session.handler.watch_turns(partial(_turn, tracer, inner, epoch))
    try:
        yield
    finally:
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


def _turn(tracer: Any, parent: Any, epoch: int, turn: TurnTimeline) -> None:
    """The span of a turn that is over."""
    times: dict[str, float] = {name: at for name in _EVENTS if (at := getattr(turn, name)) is not None}
    times |= turn.marks
    moments = [*times.values(), *([] if turn.speech_start is None else [turn.speech_start])]
    if not moments:
        return
    attributes: dict[str, Any] = {"rtcflow.turn": turn.number, "rtcflow.turn.outcome": turn.outcome}
    if turn.response_time is not None:
        attributes["rtcflow.turn.response_time"] = turn.response_time
    span = tracer.start_span("turn", context=parent, start_time=_at(epoch, min(moments)), attributes=attributes)
    for name, at in sorted(times.items(), key=lambda item: item[1]):
        span.add_event(name, timestamp=_at(epoch, at))
    if turn.failed is not None:
        span.set_status(trace.Status(trace.StatusCode.ERROR))
    span.end(_at(epoch, max(moments)))


def _at(epoch: int, seconds: float) -> int:
    """A moment on the event loop's clock, as nanoseconds since 1970."""
    return epoch + round(seconds * 1e9)


def _tool(tracer: Any, name: str) -> Any:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    return tracer.start_as_current_span(f"execute_tool {name}", attributes=attributes)
