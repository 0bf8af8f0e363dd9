"""Many measured calls at once: how many a server carries, and how well.

Every caller speaks without a pause: a voice-like hum, and a mark each second. The mark is a chirp that rises or falls
in turn. Frames that come back are counted and timed at once. The marks in them are searched after the calls. So any
server that talks all the time shows its delivery and its gaps, and an echo shows its latency, too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import anyio.abc
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from .._core.moved import absent
from ..abc import Transport
from ..ends import errors_in
from ..exceptions import NegotiationError, RemoteProtocolError
from ..frames import FRAME_SECONDS, AudioFormat
from ..media.correlate import correlate
from ..transports.webrtc import WebRTCConfig, WebRTCEngine, open_engine
from .webrtc import connect, import_httpx2, offer_url

__all__ = ["CallTrace", "LoadLimits", "LoadProgress", "LoadReport", "Spread", "judge", "run_load", "spoken_signal"]

RATE: Final = 48_000
COARSE: Final = RATE // 6
"""Hz, of the kept copy of the sound that comes back. The marks end at 3 kHz, and a minute of a call is a megabyte."""

LOOP: Final = 2.0
"""Seconds after which the test signal repeats itself. Only latencies below this are exact."""
MARKS: Final = ((0.25, 500.0, 3000.0), (1.25, 3000.0, 500.0))
"""Where in the loop a mark begins (s), and from which to which frequency it goes (Hz)."""
MARK_SECONDS: Final = 0.06
LIKENESS: Final = 0.5
"""A sound with at least this normalised correlation is a mark. The hum alone stays below 0.3."""

OPENING: Final = 8
"""Calls that are being set up at the same time."""
WARM_UP: Final = 1.0
"""Seconds of every call that are not counted, in which decoders, jitter buffers and the server's caches settle."""


def spoken_signal() -> NDArray[np.int16]:
    """What every caller says, over and over: int16, shape (1, 2 s at 48 kHz)."""
    t = np.arange(round(LOOP * RATE)) / RATE
    # A hum of 140 Hz in a rhythm of four syllables a second; both are whole in the loop.
    hum = sum(np.sin(2 * np.pi * 140 * harmonic * t) / harmonic for harmonic in range(1, 13))
    signal = 0.03 * hum * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    for begin, low, high in MARKS:
        first = round(begin * RATE)
        signal[first : first + round(MARK_SECONDS * RATE)] = 0.5 * _chirp(low, high, RATE)
    return np.rint(np.clip(signal, -1, 1) * 32767).astype(np.int16)[np.newaxis]


def _chirp(low: float, high: float, rate: int) -> NDArray[np.float64]:
    t = np.arange(round(MARK_SECONDS * rate)) / rate
    wave = np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * MARK_SECONDS)))
    return np.asarray(wave * np.hanning(len(t)))


# -- figures: pure


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is distributed, in the unit of the figure."""

    median: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of `values`, or None without any."""
        if not len(values):
            return None
        median, p95, p99, most = (float(value) for value in np.percentile(values, [50, 95, 99, 100]))
        return cls(median, p95, p99, most)


@dataclass(slots=True)
class CallTrace:
    """What was noted of one call; moments in seconds of one clock.

    Attributes:
        setup: Seconds from asking until media could flow; None if it never could.
        failure: Why it could not be set up, or ended early.
        arrivals: When each frame of 20 ms came.
        concealed: How many frames our own decoder made up, because their packets were lost.
        departures: A list of ``(moment, seconds of the signal that had left by then)``.
        heard: ``(moment, samples)``: frames as they came, int16 at `COARSE` Hz, shape (n,).
    """

    setup: float | None = None
    failure: str | None = None
    arrivals: list[float] = field(default_factory=list, repr=False)
    concealed: int = 0
    departures: list[tuple[float, float]] = field(default_factory=list, repr=False)
    heard: list[tuple[float, NDArray[np.int16]]] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load showed; times in seconds.

    Attributes:
        connections: Calls that were tried.
        connected: Calls that were set up.
        failures: Why calls were not set up, or ended early, and how many.
        seconds: For how long all calls were measured.
        delivery: Frames that came ÷ frames that were due, at most 1, over all calls that were tried.
        worst_delivery: The same of the worst call.
        concealed: Frames that were lost on the way back.
        gap: Between one frame and the next; 0.02 is perfect.
        setup: From asking until media could flow.
        marks: Marks that were spoken.
        echoes: Marks that came back.
        latency: From a mark's leaving until it is back. Our own encoder's look-ahead (6.5 ms) is in it.
        client_lag: How late this program itself was. If it is not far below the gaps, this program causes the gaps.
    """

    connections: int
    connected: int
    failures: Mapping[str, int]
    seconds: float
    delivery: float
    worst_delivery: float
    concealed: int
    gap: Spread | None
    setup: Spread | None
    marks: int
    echoes: int
    latency: Spread | None
    client_lag: Spread | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Limits for a server; None means no limit. Times in seconds.

    Attributes:
        min_delivery: `LoadReport.delivery`, 0 to 1.
        max_gap_p99: 99 % of the gaps are at most this long.
        max_latency: Half of the marks are back within this time. A server that does not echo breaks it.
        max_setup: Half of the calls are set up within this time.
    """

    min_delivery: float | None = None
    max_gap_p99: float | None = None
    max_latency: float | None = None
    max_setup: float | None = None

    def broken(self, report: LoadReport) -> list[str]:
        """The limits that were broken, in words."""
        found = []
        if self.min_delivery is not None and report.delivery < self.min_delivery:
            found.append(f"delivery is {report.delivery:.4f}, below {self.min_delivery:g}")
        for name, limit, value in (
            ("the 99th percentile of the gaps", self.max_gap_p99, report.gap if report.gap is None else report.gap.p99),
            (
                "the median latency",
                self.max_latency,
                report.latency if report.latency is None else report.latency.median,
            ),
            ("the median setup time", self.max_setup, report.setup if report.setup is None else report.setup.median),
        ):
            if limit is not None and value is None:
                found.append(f"{name} is unknown: nothing came back")
            elif limit is not None and value is not None and value > limit:
                found.append(f"{name} is {1000 * value:.1f} ms, above {1000 * limit:g} ms")
        return found


def judge(traces: Sequence[CallTrace], begin: float, end: float, lags: Sequence[float] = ()) -> LoadReport:
    """The figures of all calls between two moments."""
    seconds = end - begin
    due = seconds / FRAME_SECONDS
    shares: list[float] = []
    gaps: list[float] = []
    latencies: list[float] = []
    marks = 0
    for trace in traces:
        arrivals = [moment for moment in trace.arrivals if begin <= moment < end]
        # One frame may be missing at the edges.
        shares.append(1.0 if len(arrivals) >= due - 1 else len(arrivals) / due)
        if trace.setup is not None:
            # The times to the first frame and from the last one count, too: a call that begins late or falls silent
            # for good has one long gap.
            gaps += np.diff([begin, *arrivals, end]).tolist()
            spoken, found = find_echoes(trace, begin, end)
            marks += spoken
            latencies += found
    setups = [trace.setup for trace in traces if trace.setup is not None]
    return LoadReport(
        connections=len(traces),
        connected=len(setups),
        failures=dict(Counter(trace.failure for trace in traces if trace.failure is not None)),
        seconds=seconds,
        delivery=float(np.mean(shares)) if shares else 0.0,
        worst_delivery=min(shares, default=0.0),
        concealed=sum(trace.concealed for trace in traces),
        gap=Spread.of(gaps),
        setup=Spread.of(setups),
        marks=marks,
        echoes=len(latencies),
        latency=Spread.of(latencies),
        client_lag=Spread.of(lags),
    )


def find_echoes(trace: CallTrace, begin: float, end: float) -> tuple[int, list[float]]:
    """How many marks left between two moments, and how long those took that came back, in seconds."""
    if not trace.departures:
        return 0, []
    moments, positions = (np.array(column) for column in zip(*trace.departures, strict=True))
    spoken: list[tuple[float, int]] = []  # when it left, which one
    for number in range(int(positions[-1] / LOOP + 1) * len(MARKS)):
        kind = number % len(MARKS)
        position = number // len(MARKS) * LOOP + MARKS[kind][0]
        near = np.abs(positions - position) <= LOOP / 2
        if position > positions[-1] or not near.any():
            continue
        # A frame leaves as a whole, when its end counts as played. We look a little later than that, so the
        # earliest look around tells best.
        left = float(np.min(moments[near] - positions[near])) + FRAME_SECONDS + position
        if begin <= left < end:
            spoken.append((left, kind))
    latencies = []
    for came, kind in _find_marks(trace.heard):
        before = [left for left, other in spoken if other == kind and left < came]
        if before and came - before[-1] < LOOP:
            latencies.append(came - before[-1])
    return len(spoken), latencies


def _find_marks(heard: Sequence[tuple[float, NDArray[np.int16]]]) -> list[tuple[float, int]]:
    """When which mark began in what was heard, by a matched filter."""
    length = round(MARK_SECONDS * COARSE)
    starts = np.cumsum([0, *(len(samples) for _, samples in heard)])
    if starts[-1] < 2 * length:
        return []
    sound = np.concatenate([samples for _, samples in heard]).astype(np.float64) / 32768
    energy = np.concatenate([[0.0], np.cumsum(sound**2)])
    # Never below 1 % of full scale: otherwise silence would look like the pattern.
    loudness = np.sqrt(np.maximum(energy[length:] - energy[:-length], 1e-4 * length))
    scores = []
    for _, low, high in MARKS:
        mark = _chirp(low, high, COARSE)
        likeness = correlate(mark / np.linalg.norm(mark), sound)
        scores.append(np.abs(likeness[: len(loudness)]) / loudness)
    best = np.max(scores, axis=0)
    found = []
    while best.max() > LIKENESS:
        at = int(np.argmax(best))
        kind = int(np.argmax([score[at] for score in scores]))
        index = int(np.searchsorted(starts, at, "right")) - 1
        found.append((heard[index][0] + (at - int(starts[index])) / COARSE, kind))
        best[max(0, at - COARSE // 4) : at + COARSE // 4] = 0
    return sorted(found)


# -- the calls


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come.

    Attributes:
        connections: Calls that are tried.
        connected: Calls that are up.
        failed: Calls that could not be set up, or ended early.
        elapsed: Seconds of measuring so far; 0 while calls are being set up.
        seconds: Seconds that will be measured.
        delivery: In the last second, over all calls that are up.
    """

    connections: int
    connected: int
    failed: int
    elapsed: float
    seconds: float
    delivery: float


async def run_load(
    url: str,
    *,
    connections: int,
    seconds: float,
    warm_up: float = WARM_UP,
    headers: Mapping[str, str] | None = None,
    config: WebRTCConfig | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    until: Callable[[], Awaitable[object]] = anyio.sleep_forever,
) -> LoadReport:
    """Call the server at `url` many times at once, and measure. A checkpoint.

    Args:
        url: As for `client.connect`.
        connections: How many calls, at least 1.
        seconds: For how long, counted from when all calls are up.
        warm_up: Seconds before that which do not count.
        headers: Further headers of the offers.
        config: Options of the callers' engine.
        on_progress: Called some times a second.
        until: Measuring also ends when this returns.

    Raises:
        ValueError: `url` is not an http or https URL, a header cannot be sent, or there is nothing to do.
        ConnectionError: No call could be set up; the text says why.
    """
    if connections < 1 or seconds <= 0:
        raise ValueError("a load needs at least 1 connection and more than 0 seconds")
    offer_url(url)
    import_httpx2()  # before any clock starts
    traces = [CallTrace() for _ in range(connections)]
    lags: list[float] = []
    window = _Window(seconds)
    signal = spoken_signal()
    wrong: list[BaseException] = []
    try:
        async with open_engine(config) as engine, anyio.create_task_group() as tasks:
            if on_progress is not None:
                tasks.start_soon(_report, traces, window, on_progress)
            tasks.start_soon(_watch_lag, lags)
            async with anyio.create_task_group() as calls:
                opening = anyio.CapacityLimiter(OPENING)
                async with anyio.create_task_group() as ready:
                    for trace in traces:
                        caller = _LoadCall(url, engine, headers, trace, signal)
                        ready.start_soon(calls.start, caller.run, opening)
                if any(trace.setup is not None for trace in traces):
                    await anyio.sleep(warm_up)
                    lags.clear()
                    await window.measure(until)
                calls.cancel_scope.cancel()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        wrong = errors_in(group)
        if not all(isinstance(error, ValueError) for error in wrong):
            raise
    if wrong:  # each caller has found the same
        raise wrong[0]
    if all(trace.setup is None for trace in traces):
        ((words, _),) = Counter(trace.failure for trace in traces).most_common(1)
        raise ConnectionError(words)
    return judge(traces, window.begin, window.end, lags)


class _Window:
    """The time in which is measured."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin = self.end = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begin if self.begin else 0.0

    async def measure(self, until: Callable[[], Awaitable[object]]) -> None:
        self.begin = time.monotonic()
        with anyio.move_on_after(self.seconds):
            await until()
        self.end = time.monotonic()


class _LoadCall:
    """One call: speaks, and notes what comes back."""

    def __init__(
        self,
        url: str,
        engine: WebRTCEngine,
        headers: Mapping[str, str] | None,
        trace: CallTrace,
        signal: NDArray[np.int16],
    ) -> None:
        self._url, self._engine, self._headers, self._trace, self._signal = url, engine, headers, trace, signal

    async def run(
        self, opening: anyio.CapacityLimiter, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Hold the call until it is cancelled, or the server ends it. The task counts as started when the call is up or
        has failed.
        """
        trace = self._trace
        async with AsyncExitStack() as stack:
            try:
                async with opening:
                    began = time.monotonic()
                    call = await stack.enter_async_context(
                        connect(self._url, engine=self._engine, headers=self._headers, messages=False)
                    )
                    call.start(AudioFormat(RATE), AudioFormat(RATE))
                    await call.wait_connected()
                    trace.setup = time.monotonic() - began
            except (ConnectionError, NegotiationError, RemoteProtocolError) as error:
                trace.failure = str(error)
            except anyio.BrokenResourceError as error:
                trace.failure = f"the server answered, but no media could flow: {error.__cause__ or 'the link failed'}"
            task_status.started()
            if trace.setup is not None:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._speak, call)
                    tasks.start_soon(self._listen, call)

    async def _speak(self, call: Transport) -> None:
        size, position = RATE // 50, 0
        try:
            while True:
                call.audio_out.put(self._signal[:, position : position + size])
                position = (position + size) % self._signal.shape[1]
                await call.audio_out.wait_for_room()
                self._trace.departures.append((time.monotonic(), call.audio_out.playback().played))
                await anyio.lowlevel.checkpoint()
        except anyio.ClosedResourceError:
            return  # the call has ended, and who listens says how

    async def _listen(self, call: Transport) -> None:
        trace = self._trace
        try:
            while True:
                frame = await call.audio_in.take()
                now = time.monotonic()
                if frame.concealed:
                    trace.concealed += 1
                else:
                    trace.arrivals.append(now)
                coarse = frame.samples[0, : frame.samples.shape[1] // 6 * 6].reshape(-1, 6).mean(axis=1)
                trace.heard.append((now, coarse.astype(np.int16)))
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            trace.failure = "the server ended the call"
        except anyio.BrokenResourceError as error:
            trace.failure = f"the line broke: {error.__cause__}" if error.__cause__ else "the line broke"


async def _watch_lag(lags: list[float]) -> None:
    """Note how late this loop runs: the server is not to blame for that."""
    while True:
        began = time.monotonic()
        await anyio.sleep(0.01)
        lags.append(time.monotonic() - began - 0.01)


async def _report(traces: Sequence[CallTrace], window: _Window, on_progress: Callable[[LoadProgress], None]) -> None:
    while True:
        since = time.monotonic() - 1
        up = [trace for trace in traces if trace.setup is not None]
        came = sum(_count_since(trace.arrivals, since) for trace in up)
        on_progress(
            LoadProgress(
                connections=len(traces),
                connected=len(up),
                failed=sum(trace.failure is not None for trace in traces),
                elapsed=min(window.elapsed, window.seconds),
                seconds=window.seconds,
                delivery=min(1.0, came * FRAME_SECONDS / len(up)) if up else 0.0,
            )
        )
        await anyio.sleep(0.25)


def _count_since(arrivals: Sequence[float], since: float) -> int:
    count = 0
    while count < len(arrivals) and arrivals[-1 - count] > since:
        count += 1
    return count


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
