"""What streams have counted, for metrics of any kind: `rtcflow.prometheus` and `rtcflow.otel` give it their form.

Nothing is measured for the sake of metrics. Each connection counts anyhow. `Figures.look` reads the live calls and adds
what ended calls have left. The invariant: a counter never falls, also in the moment in which a call ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from ..connection.connection import ConnectionStatistics
from ..handlers.turns.reply_handler import ReplyHandler
from ..handlers.turns.timeline import TurnTimeline
from .calls import Calls
from .session import Session

SUMS: Final[dict[str, tuple[str, Callable[[ConnectionStatistics], float]]]] = {
    "audio_frames_received": ("Audio frames received.", lambda of: of.transport.audio_in.put),
    "packets_lost": ("Media packets of callers that never came.", lambda of: of.transport.packets_lost),
    "packets_concealed": (
        "Audio frames made up in place of lost packets.",
        lambda of: of.transport.packets_concealed,
    ),
    "playout_underruns": (
        "Times when the handler's audio ran dry and started again.",
        lambda of: of.transport.audio_out.gaps,
    ),
    "handler_stalls": ("Calls of receive or video_receive above 0.5 s.", lambda of: of.stalls),
    "messages_dropped": ("Messages for callers without an open channel.", lambda of: of.messages_dropped),
    "threads_abandoned": ("Worker threads of ended calls that did not return.", lambda of: of.threads_abandoned),
    "tasks_abandoned": ("Tasks of ended calls that could not be cancelled.", lambda of: of.tasks_abandoned),
}
"""Counters that are the sum of a figure over all calls, ended and live, by handler and transport."""

QUEUES: Final = ("audio_in", "video_in", "video_out", "messages_in")

GAUGES: Final[dict[str, tuple[str, Callable[[ConnectionStatistics], float | None]]]] = {
    "jitter_buffer_delay": (
        "How long the jitter buffer waits for a late packet.",
        lambda of: of.transport.details.get("jitter_patience"),
    ),
    "jitter": ("Interarrival jitter (RFC 3550).", lambda of: of.transport.details.get("jitter")),
    "round_trip": ("Round trip to callers.", lambda of: of.transport.round_trip),
    "engine_lag": (
        "How late WebRTC's media thread was at its worst in the last 15 s.",
        lambda of: of.transport.details.get("engine_lag"),
    ),
}
"""Figures of the live calls, in seconds: the mean and the highest."""

Labels = tuple[str, ...]
"""The handler's class, the transport, and for some figures one more."""

Observe = Callable[[Labels, float], object]
"""Takes one value of a histogram."""


@dataclass(slots=True)
class Snapshot:
    """The figures at one moment.

    Attributes:
        calls: Live calls.
        sums: By name of `SUMS`.
        ends: Ended calls, by cause.
        turns: Ended turns, by outcome.
        queue_dropped: Items that a full queue has dropped, or the end of a call, by queue.
        gauges: By name of `GAUGES`: the values of the live calls.
    """

    calls: Counter[Labels]
    sums: dict[str, Counter[Labels]]
    ends: Counter[Labels]
    turns: Counter[Labels]
    queue_dropped: Counter[Labels]
    gauges: dict[str, dict[Labels, list[float]]] = field(default_factory=dict)


class Figures:
    """Counts the calls of streams, from its making on. From any thread.

    Args:
        calls: The calls of each stream. Streams with the same handler class are summed.
        setup: Takes the seconds until media could flow, when a call ends.
        duration: Takes the length of each ended call in seconds.
        response: Takes the seconds from the end of the caller's speech to the first sound, for each ended turn.
    """

    def __init__(self, calls: Sequence[Calls], *, setup: Observe, duration: Observe, response: Observe) -> None:
        self._calls = calls
        self._observe_setup, self._observe_duration, self._observe_response = setup, duration, response
        self._lock = threading.Lock()
        self._ended: WeakKeyDictionary[Session, None] = WeakKeyDictionary()
        self._last_turn: WeakKeyDictionary[Session, TurnTimeline] = WeakKeyDictionary()
        self._sums = {name: Counter[Labels]() for name in SUMS}
        self._queue_dropped, self._ends, self._turns = Counter[Labels](), Counter[Labels](), Counter[Labels]()
        for one in calls:
            one.watch(self._call_ended)
            one.watch_loop()

    def look(self) -> Snapshot:
        """The figures now."""
        with self._lock:
            live = [(labels_of(session), session) for calls in self._calls for session in calls.values()]
            live = [(labels, session) for labels, session in live if session not in self._ended]
            figures = [(labels, of) for labels, session in live if (of := session.statistics()) is not None]
            for labels, session in live:
                self._count_turns(labels, session)
            found = Snapshot(
                Counter(labels for labels, _ in live),
                {name: counter.copy() for name, counter in self._sums.items()},
                self._ends.copy(),
                self._turns.copy(),
                self._queue_dropped.copy(),
            )
        for labels, of in figures:
            _add(found.sums, found.queue_dropped, labels, of)
        for name, (_, get) in GAUGES.items():
            values = found.gauges[name] = {}
            for labels, of in figures:
                if (value := get(of)) is not None:
                    values.setdefault(labels, []).append(value)
        return found

    def _call_ended(self, session: Session) -> None:
        """Keep the figures of a call before its slot is given back."""
        connection = session.connection
        if connection is None or connection.end is None:
            return
        labels = labels_of(session)
        with self._lock:
            of = connection.statistics()  # under the lock: a scrape in another thread must not have seen more
            self._ended[session] = None
            self._ends[*labels, connection.end.cause.name.lower()] += 1
            _add(self._sums, self._queue_dropped, labels, of)
            self._count_turns(labels, session)
            if of.setup is not None:
                self._observe_setup(labels, of.setup)
            if session.duration is not None:
                self._observe_duration(labels, session.duration)

    def _count_turns(self, labels: Labels, session: Session) -> None:
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
                self._observe_response(labels, turn.response_time)


def labels_of(session: Session) -> Labels:
    """The handler's class and the transport. Ids and callers are never labels: each value is a series that is kept."""
    return type(session.handler).__qualname__, session.kind


def handler_of(calls: Calls) -> str:
    """The label ``handler`` of a stream."""
    return type(calls.options.handler).__qualname__


def refusals(streams: Sequence[Calls]) -> Counter[Labels]:
    """Refused calls, by handler and reason."""
    found = Counter[Labels]()
    for calls in streams:
        handler = handler_of(calls)
        found.update({(handler, reason): count for reason, count in list(calls.refused.items())})
    return found


def reserved_threads(streams: Sequence[Calls]) -> Counter[str]:
    """Worker threads that live calls hold, by handler."""
    found = Counter[str]()
    for calls in streams:
        found[handler_of(calls)] += calls.threads.statistics().reserved
    return found


def is_ready(streams: Sequence[Calls]) -> dict[str, int]:
    """1 if all streams of a handler take new calls, otherwise 0."""
    found: dict[str, int] = {}
    for calls in streams:
        handler = handler_of(calls)
        found[handler] = found.get(handler, 1) * calls.is_ready
    return found


def most_calls(streams: Sequence[Calls]) -> Counter[str]:
    """The most calls at once, by handler. Streams without a limit are left out."""
    found = Counter[str]()
    for calls in streams:
        if isinstance(limit := calls.options.limits.concurrency_limit, int):
            found[handler_of(calls)] += limit
    return found


def most_threads(streams: Sequence[Calls]) -> Counter[str]:
    """The most worker threads, by handler. Streams without a limit are left out."""
    found = Counter[str]()
    for calls in streams:
        if (limit := calls.options.limits.thread_limit) is not None:
            found[handler_of(calls)] += limit
    return found


OF_STREAMS: Final[dict[str, tuple[str, Callable[[Sequence[Calls]], Mapping[str, int]]]]] = {
    "ready": ("1 if new calls are taken.", is_ready),
    "calls_limit": ("The most calls at once, if there is a limit.", most_calls),
    "worker_threads": ("Worker threads that live calls hold.", reserved_threads),
    "worker_threads_limit": ("The most of them, if there is a limit.", most_threads),
}
"""Figures of the streams themselves, by handler."""


def _add(
    sums: dict[str, Counter[Labels]], queue_dropped: Counter[Labels], labels: Labels, of: ConnectionStatistics
) -> None:
    for name, (_, get) in SUMS.items():
        sums[name][labels] += int(get(of))
    for queue in QUEUES:
        queue_dropped[*labels, queue] += getattr(of.transport, queue).dropped
