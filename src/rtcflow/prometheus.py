"""Figures of streams for Prometheus: ``pip install 'rtcflow[prometheus]'``.

A scrape reads what `serving.figures` has counted. So a frame costs the same with and without metrics, and a scraper
that is slow or gone disturbs no call. Labels have few values each (handler class, transport, cause). The id of a call
is never a label: each new value of a label is a time series that Prometheus keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

from .serving.calls import Calls
from .serving.figures import GAUGES, OF_STREAMS, SUMS, Figures, Labels, handler_of, refusals
from .serving.loop_lag import BOUNDS

try:
    from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, make_asgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "metrics need prometheus-client; install rtcflow[prometheus]", name=_error.name
    ) from _error

__all__ = ["HasCalls", "StreamCollector", "metrics_app"]

SETUP_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RESPONSE_SECONDS: Final = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
DURATION_SECONDS: Final = (1.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)

_TURNS_WORDS: Final = "From the end of the caller's speech to the first sound of the reply."


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
        labels, setup_words = ("handler", "transport"), "From the beginning of a connection until media could flow. "
        self._setup = _histogram("call_setup", setup_words + "Counted when the call ends.", labels, SETUP_SECONDS)
        self._duration = _histogram("call_duration", "Length of ended calls.", labels, DURATION_SECONDS)
        self._response = _histogram("turn_response", _TURNS_WORDS, labels, RESPONSE_SECONDS)
        self._figures = Figures(
            self._calls,
            setup=lambda of, seconds: self._setup.labels(*of).observe(seconds),
            duration=lambda of, seconds: self._duration.labels(*of).observe(seconds),
            response=lambda of, seconds: self._response.labels(*of).observe(seconds),
        )

    def collect(self) -> Iterator[Metric]:
        """The figures now."""
        found = self._figures.look()
        yield _family(GaugeMetricFamily, "calls", "Live calls.", found.calls)
        yield _family(CounterMetricFamily, "calls_ended", "Ended calls.", found.ends, "end")
        yield _family(CounterMetricFamily, "turns", "Ended turns.", found.turns, "outcome")
        for name, (words, _) in SUMS.items():
            yield _family(CounterMetricFamily, name, words, found.sums[name])
        words = "Items that a full queue has dropped, or the end of a call."
        yield _family(CounterMetricFamily, "queue_dropped", words, found.queue_dropped, "queue")
        for name, (words, _) in GAUGES.items():
            over = dict[Labels, float]()
            for labels, values in found.gauges[name].items():
                over[*labels, "mean"] = sum(values) / len(values)
                over[*labels, "max"] = max(values)
            yield _family(GaugeMetricFamily, f"{name}_seconds", words, over, "over_calls")
        yield from self._of_streams()
        yield self._loop_lag()
        for histogram in (self._setup, self._duration, self._response):
            yield from histogram.collect()

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that registering does not start a scrape."""
        return []

    def _loop_lag(self) -> Metric:
        words = "How late the event loop of the handlers does what is due; looked at ten times a second."
        family = HistogramMetricFamily("rtcflow_loop_lag_seconds", words, labels=("handler",))
        counts, totals = dict[str, list[int]](), dict[str, float]()
        for calls in self._calls:
            if (lag := calls.loop_lag) is not None:
                handler, more = handler_of(calls), list(lag.counts)
                counts[handler] = [*map(sum, zip(more, counts.get(handler, [0] * len(more)), strict=True))]
                totals[handler] = totals.get(handler, 0.0) + lag.total
        for handler, of_one in counts.items():
            buckets = list(zip([*map(str, BOUNDS), "+Inf"], accumulate(of_one), strict=True))
            family.add_metric((handler,), buckets, totals[handler])
        return family

    def _of_streams(self) -> Iterator[Metric]:
        family = CounterMetricFamily("rtcflow_refusals", "Refused calls.", labels=("handler", "reason"))
        for labels, count in refusals(self._calls).items():
            family.add_metric(labels, count)
        yield family
        for name, (words, get) in OF_STREAMS.items():
            gauge = GaugeMetricFamily(f"rtcflow_{name}", words, labels=("handler",))
            for handler, value in get(self._calls).items():
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


def _histogram(name: str, words: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
    return Histogram(f"rtcflow_{name}_seconds", words, labels, buckets=buckets, registry=None)


def _family(kind: Any, name: str, words: str, values: Mapping[Labels, float], label: str | None = None) -> Metric:
    labels = ("handler", "transport") if label is None else ("handler", "transport", label)
    family: Metric = kind(f"rtcflow_{name}", words, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)  # type: ignore[attr-defined]
    return family
