"""Figures of streams for Prometheus: ``pip install 'rtcflow[prometheus]'``.

Nothing is measured only for metrics. Each connection has its counters in any case. A scrape reads those of the live
calls and adds what ended calls have left. So a frame costs the same with and without metrics, and a scraper that is
slow or gone disturbs no call. Labels have few values each (handler class, transport, cause). The id of a call is never
a label: each new value of a label is a time series that Prometheus keeps.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from .connection.connection import ConnectionStatistics
from .handlers.turns.reply_handler import ReplyHandler
from .handlers.turns.timeline import TurnTimeline
from .serving.calls import Calls
from .serving.session import Session

try:
    from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, make_asgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("metrics need prometheus-client; install rtcflow[prometheus]", name=error.name) from error

__all__ = ["HasCalls", "StreamCollector", "metrics_app"]

SETUP_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RESPONSE_SECONDS: Final = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DURATION_SECONDS: Final = (1.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)

_SUMS: Final[dict[str, tuple[str, Callable[[ConnectionStatistics], float]]]] = {
    "rtcflow_audio_frames_received": ("Audio frames received.", lambda of: of.transport.audio_in.put),
    "rtcflow_packets_lost": ("Media packets of callers that never came.", lambda of: of.transport.packets_lost),
    "rtcflow_packets_concealed": (
        "Audio frames made up in place of lost packets.",
        lambda of: of.transport.packets_concealed,
    ),
    "rtcflow_playout_underruns": (
        "Times when the handler's audio ran dry and began again.",
        lambda of: of.transport.audio_out.gaps,
    ),
    "rtcflow_handler_stalls": ("Calls of receive or video_receive above 0.5 s.", lambda of: of.stalls),
    "rtcflow_messages_dropped": ("Messages for callers without an open channel.", lambda of: of.messages_dropped),
    "rtcflow_threads_abandoned": (
        "Worker threads of ended calls that did not return.",
        lambda of: of.threads_abandoned,
    ),
    "rtcflow_tasks_abandoned": (
        "Tasks of ended calls that could not be cancelled.",
        lambda of: of.tasks_abandoned,
    ),
}
"""Counters that are the sum of a figure over all calls, ended and live, by handler and transport."""

_QUEUES: Final = ("audio_in", "video_in", "video_out", "messages_in")

_GAUGES: Final[dict[str, tuple[str, Callable[[ConnectionStatistics], float | None]]]] = {
    "rtcflow_jitter_buffer_delay_seconds": (
        "How long the jitter buffer waits for a late packet.",
        lambda of: of.transport.details.get("jitter_patience"),
    ),
    "rtcflow_jitter_seconds": ("Interarrival jitter (RFC 3550).", lambda of: of.transport.details.get("jitter")),
    "rtcflow_round_trip_seconds": ("Round trip to callers.", lambda of: of.transport.round_trip),
}
"""Figures of the live calls: the mean and the highest."""

_Key = tuple[str, ...]


class HasCalls(Protocol):
    """A `Stream`. Metrics need only its live calls; so `Stream` can serve them without a circle of imports."""

    @property
    def calls(self) -> Calls:
        """The live calls, and the figures that earlier ones left."""


class StreamCollector:
    """Collects the figures of streams; register it with a `prometheus_client.CollectorRegistry`.

    Create it before the first call, once for each set of streams: it counts from then on. `collect` may be called from
    any thread. Several streams are told apart by the label ``handler``, the name of the handler's class.

    Args:
        *streams: The streams, or their `Stream.calls`. Streams with the same handler class are summed.
    """

    def __init__(self, *streams: HasCalls | Calls) -> None:
        self._calls = [stream if isinstance(stream, Calls) else stream.calls for stream in streams]
        self._lock = threading.Lock()
        self._ended: WeakKeyDictionary[Session, None] = WeakKeyDictionary()
        self._last_turn: WeakKeyDictionary[Session, TurnTimeline] = WeakKeyDictionary()
        self._totals: Counter[_Key] = Counter()
        self._ends: Counter[_Key] = Counter()
        self._turns: Counter[_Key] = Counter()
        labels = ("handler", "transport")
        self._setup = Histogram(
            "rtcflow_call_setup_seconds",
            "From the beginning of a connection until media could flow. Counted when the call ends.",
            labels,
            buckets=SETUP_SECONDS,
            registry=None,
        )
        self._duration = Histogram(
            "rtcflow_call_duration_seconds", "Length of ended calls.", labels, buckets=DURATION_SECONDS, registry=None
        )
        self._response = Histogram(
            "rtcflow_turn_response_seconds",
            "From the end of the caller's speech to the first sound of the reply.",
            labels,
            buckets=RESPONSE_SECONDS,
            registry=None,
        )
        for calls in self._calls:
            calls.watch(self._call_ended)

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        with self._lock:
            live = [(_labels(session), session) for calls in self._calls for session in calls.values()]
            live = [(labels, session) for labels, session in live if session not in self._ended]
            figures = [(labels, of) for labels, session in live if (of := session.statistics()) is not None]
            for labels, session in live:
                self._count_turns(labels, session)
            totals = self._totals.copy()
            for labels, of in figures:
                _add(totals, labels, of)
            found = [*self._of_calls(live), *_sums(totals), *_gauges(figures), *self._of_streams()]
            for histogram in (self._setup, self._duration, self._response):
                found += histogram.collect()
        yield from found

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that registering does not start a scrape."""
        return []

    def _call_ended(self, session: Session) -> None:
        """Keep the figures of a call before its slot is given back."""
        connection = session.connection
        if connection is None or connection.end is None:
            return
        labels, of = _labels(session), connection.statistics()
        with self._lock:
            self._ended[session] = None
            self._ends[*labels, connection.end.cause.name.lower()] += 1
            _add(self._totals, labels, of)
            self._count_turns(labels, session)
            if of.setup is not None:
                self._setup.labels(*labels).observe(of.setup)
            if session.duration is not None:
                self._duration.labels(*labels).observe(session.duration)

    def _count_turns(self, labels: _Key, session: Session) -> None:
        """Count the turns that ended since the last time."""
        handler = session.handler
        if not isinstance(handler, ReplyHandler):
            return
        last, new = self._last_turn.get(session), list[TurnTimeline]()
        for turn in reversed(handler.turns):
            if turn is last:
                break
            new.append(turn)
        for turn in reversed(new):
            self._last_turn[session] = turn
            self._turns[*labels, turn.outcome] += 1
            if turn.response_time is not None:
                self._response.labels(*labels).observe(turn.response_time)

    def _of_calls(self, live: list[tuple[_Key, Session]]) -> Iterator[Metric]:
        now = GaugeMetricFamily("rtcflow_calls", "Live calls.", labels=("handler", "transport"))
        for labels, count in Counter(labels for labels, _ in live).items():
            now.add_metric(labels, count)
        ends = CounterMetricFamily("rtcflow_calls_ended", "Ended calls.", labels=("handler", "transport", "end"))
        for labels, count in self._ends.items():
            ends.add_metric(labels, count)
        turns = CounterMetricFamily("rtcflow_turns", "Ended turns.", labels=("handler", "transport", "outcome"))
        for labels, count in self._turns.items():
            turns.add_metric(labels, count)
        yield from (now, ends, turns)

    def _of_streams(self) -> Iterator[Metric]:
        refused, ready = Counter[_Key](), dict[str, bool]()
        threads, most, slots = Counter[str](), Counter[str](), Counter[str]()
        for calls in self._calls:
            handler, limits = type(calls.options.handler).__qualname__, calls.options.limits
            refused.update({(handler, reason): count for reason, count in list(calls.refused.items())})
            threads[handler] += calls.threads.statistics().reserved
            ready[handler] = ready.get(handler, True) and calls.is_ready
            if isinstance(limits.concurrency_limit, int):
                slots[handler] += limits.concurrency_limit
            if limits.thread_limit is not None:
                most[handler] += limits.thread_limit
        refusals = CounterMetricFamily("rtcflow_refusals", "Refused calls.", labels=("handler", "reason"))
        for labels, count in refused.items():
            refusals.add_metric(labels, count)
        yield refusals
        for name, words, values in (
            ("rtcflow_ready", "1 if new calls are taken.", ready),
            ("rtcflow_calls_limit", "The most calls at once, if there is a limit.", slots),
            ("rtcflow_worker_threads", "Worker threads that live calls hold.", threads),
            ("rtcflow_worker_threads_limit", "The most of them, if there is a limit.", most),
        ):
            gauge = GaugeMetricFamily(name, words, labels=("handler",))
            for handler, value in values.items():
                gauge.add_metric((handler,), value)
            yield gauge


def metrics_app(*streams: HasCalls | Calls) -> Callable[..., Any]:
    """An ASGI application that answers scrapes with the figures of `streams` and of this process.

    ``Stream(metrics=True)`` serves it at ``GET {path}/metrics``. Or mount it where only Prometheus gets:
    ``app.mount("/internal/metrics", metrics_app(stream))``.
    """
    registry = CollectorRegistry()
    registry.register(StreamCollector(*streams))
    ProcessCollector(registry=registry)
    return _Application(make_asgi_app(registry))


class _Application:
    """An ASGI application that a Starlette `Route` takes as one: it takes functions for endpoints of requests."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        await self._application(scope, _no_body, send)


async def _no_body() -> dict[str, Any]:
    """The body of a scrape, which prometheus_client waits for: a client that sends one slowly holds nothing up."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _labels(session: Session) -> _Key:
    return type(session.handler).__qualname__, session.kind


def _add(totals: Counter[_Key], labels: _Key, of: ConnectionStatistics) -> None:
    for name, (_, get) in _SUMS.items():
        totals[name, *labels] += int(get(of))
    for queue in _QUEUES:
        totals["rtcflow_queue_dropped", *labels, queue] += getattr(of.transport, queue).dropped


def _sums(totals: Counter[_Key]) -> Iterator[Metric]:
    for name, (words, _) in _SUMS.items():
        yield _counter(totals, name, words, ("handler", "transport"))
    words = "Items that a full queue has dropped, or the end of a call."
    yield _counter(totals, "rtcflow_queue_dropped", words, ("handler", "transport", "queue"))


def _counter(totals: Counter[_Key], name: str, words: str, labels: _Key) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for (of, *values), count in totals.items():
        if of == name:
            family.add_metric(values, count)
    return family


def _gauges(figures: list[tuple[_Key, ConnectionStatistics]]) -> Iterator[Metric]:
    for name, (words, get) in _GAUGES.items():
        values: dict[_Key, list[float]] = {}
        for labels, of in figures:
            if (value := get(of)) is not None:
                values.setdefault(labels, []).append(value)
        family = GaugeMetricFamily(name, words, labels=("handler", "transport", "over_calls"))
        for labels, one in values.items():
            family.add_metric((*labels, "mean"), sum(one) / len(one))
            family.add_metric((*labels, "max"), max(one))
        yield family
