"""A handler that keeps a journal of what is done to it, and misbehaves when it is told to."""

from __future__ import annotations

import inspect
import math
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
import av
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import current_worker
from ..context import get_current_context
from ..ends import EndCause
from ..handlers.base import Binding, StreamHandlerBase
from ..handlers.checking import has_own_method
from ..handlers.items import parse_emit, parse_video_emit
from ..outputs import AdditionalOutputs
from ._handler_time import handler_time
from ._held import AUDIBLE, arrays_in, root_of
from ._limits import HandlerLimits, Moment
from ._queued_arrays import checksum
from ._tracing import Tracer
from ._workers import LIMIT

WATCHED = (
    "start_up",
    "receive",
    "emit",
    "video_receive",
    "video_emit",
    "on_message",
    "on_dtmf",
    "on_suspended",
    "on_resumed",
    "shutdown",
)


ASKED: Final = ("emit", "video_emit")
"""The methods that are asked for something to play or to show."""


MUCH: Final = 16000
"""Steps from one sample to the next that speech and tones do not make."""


LIMIT_SLACK: Final = 0.1
"""Seconds by which a time limit may end a call late, in virtual time."""


class InjectedError(Exception):
    """What a test had the handler raise."""


@dataclass
class Fault:
    """What will happen to the next call of one method.

    Attributes:
        delay: Seconds by which it takes longer.
        error: Raised in place of the call.
        items: Returned in place of the call, if there is one.
    """

    delay: float = 0.0
    error: Exception | None = None
    items: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Cause:
    """Something that ends a connection.

    Attributes:
        at: When, on the loop's clock.
        step: In which step of the story; -1 if it is due by itself.
        cause: How the connection must end if this came first.
        why: In words.
        injected: The test did it, not the handler.
    """

    at: float
    step: int
    cause: EndCause
    why: str
    injected: bool = True


@dataclass
class Journal:
    """What happened in one connection, and which promises were broken.

    Attributes:
        clock: The loop's clock.
        began: Calls begun, by method.
        running: Methods being run now.
        broken: Promises that were broken, in sentences.
        causes: What may have ended the connection.
        faults: What is still to go wrong, by method.
        markers: First samples of the frames received.
        longest_item: Seconds of the longest audio returned by emit.
        longest_said: The same of `say`; infinite once it got a generator.
        items: Audio that emit returned, and outputs, counted.
        step: The story's step.
        shutting_down: `shutdown` has begun.
        has_raised: Some method has raised.
        delayed: The story has made some method slow.
        shutdown_error: What it raised by itself.
        shutdown_cut: It was still waiting when its time was over, although the story has made no method slow.
        context_id: The id that `get_current_context()` must show.
        numbered: The first sample of each frame received is its number.
        emits: Audio that emit returned: when, and its seconds.
        took: For how long `emit` ran for each of them.
        paused: The seconds of its longest wait meanwhile that came to its limit.
        slept: Whether it slept meanwhile for as long as that audio lasts.
        slept_below: The seconds of its longest sleep in a function that it called.
        loud: As `emits`, of audio that can be heard.
        steps: How many samples of it differ from the one before by ``"much"``, and how many of these by ``"32768"`` or
            a multiple, as after an overflow.
        levels: From about which levels these stepped, in units of 256. A square wave steps from one.
        waits: The waits in the emit and in the video_emit that run, as far as they are seen: how long each took, and
            the function that slept; none, if it waited for something else.
        keys_kept: How many keys have changed something in the handler, when `on_dtmf` got them.
        paced: How many pictures `video_emit` gave after it had slept for as long as one is shown.
        watched: Arrays that the handler had kept when its queue was cleared, by identity; none that it had emitted
            already, as it does with a sound that it plays again and again.
        stale: Seconds of them that emit returned all the same.
        emitted: The last arrays of audio that emit returned, as they are.
        appended: The array that came last into each of its lists.
        given: What was handed over and may still be waiting to be played, or sent: each with its checksum.
        tracer: Follows the lines of the handler's methods.
        entered: When each method that runs was entered.
        longest: The longest call of each method, in seconds.
        amid: The middle of it, on the loop's clock.
        endless: A method that swallows its cancellation for ever, and was given up.
    """

    clock: Callable[[], float]
    context_id: str | None = None
    began: Counter[str] = field(default_factory=Counter)
    running: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    markers: list[int] = field(default_factory=list)
    longest_item: float = 0.0
    longest_said: float = 0.0
    items: Counter[str] = field(default_factory=Counter)
    step: int = 0
    shutting_down: bool = False
    has_raised: bool = False
    shutdown_error: Exception | None = None
    shutdown_cut: bool = False
    delayed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbered: bool = False
    emits: list[tuple[float, float]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    slept: list[bool] = field(default_factory=list)
    slept_below: list[float] = field(default_factory=list)
    loud: list[tuple[float, float]] = field(default_factory=list)
    steps: Counter[str] = field(default_factory=Counter)
    levels: set[int] = field(default_factory=set)
    waits: dict[str, list[tuple[float, str | None]]] = field(default_factory=dict)
    keys_kept: int = 0
    paced: int = 0
    watched: dict[int, NDArray[Any]] = field(default_factory=dict)
    stale: float = 0.0
    emitted: deque[NDArray[Any]] = field(default_factory=lambda: deque(maxlen=16))
    appended: dict[str, _HandedOver] = field(default_factory=dict)
    given: dict[str, deque[_HandedOver]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=64)))
    tracer: Tracer | None = None
    entered: dict[str, float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    amid: dict[str, float] = field(default_factory=dict)
    endless: str | None = None

    def ends(self, cause: EndCause, why: str, *, injected: bool = True) -> None:
        """Something has happened that ends the connection."""
        self.causes.append(Cause(self.clock(), self.step, cause, why, injected))

    def limits(self) -> list[float]:
        """When what ends the connection by itself is due."""
        return [cause.at for cause in self.causes if cause.step < 0]

    def first_causes(self) -> list[Cause]:
        """What came first; several, if they came in the same step and moment."""
        now = self.clock()
        past = [cause for cause in self.causes if cause.at <= now + 1e-6]
        first = min((cause.at for cause in past), default=0.0)
        tied = [cause for cause in past if cause.at <= first + 1e-6]
        steps = [cause.step for cause in tied if cause.step >= 0]
        return [cause for cause in tied if cause.step < 0 or cause.step == min(steps)]

    def begin(self, method: str, args: tuple[Any, ...]) -> Fault | None:
        """A method is entered; what is to go wrong with it."""
        with self.lock:
            self.began[method] += 1
            if method == "shutdown":
                self.shutting_down = True
                if self.began["shutdown"] > 1:
                    self.broken.append("shutdown is called exactly once: it was called again")
            elif self.shutting_down:
                self.broken.append(f"nothing is called after shutdown began: {method} was")
            if method in self.running:
                self.broken.append(f"{method} is called one call at a time: it was called while it still ran")
            self.running.append(method)
            self.entered[method] = self.clock()
            if method in ASKED:
                self.waits[method] = []
            try:
                seen: str | None = get_current_context().webrtc_id
            except RuntimeError:
                seen = None
            unused = method == "shutdown" and not self.numbered  # a copy that never served anybody has none
            if (seen is None and not unused) or (self.context_id is not None and seen != self.context_id):
                self.broken.append(f"the context is set before any call: {method} saw {seen}")
            if method == "receive" and self.numbered:
                marker = int(args[0][1][0, 0])
                if marker and self.markers and marker <= self.markers[-1]:
                    self.broken.append(f"receive gets frames in order: number {marker} came after {self.markers[-1]}")
                if marker:  # else the silence that a line sends by itself
                    self.markers.append(marker)
            fault = self.faults[method].popleft() if self.faults[method] else None
            self.delayed = self.delayed or (fault is not None and fault.delay > 0)
            return fault

    def followed(self, method: str) -> AbstractContextManager[None]:
        """Inside the block a method runs, or makes a step."""
        return nullcontext() if self.tracer is None else self.tracer.over(method)

    def swallowed(self, method: str) -> None:
        """A method was cancelled, and returned or went on."""
        self.broken.append(
            f"{method} does not swallow its cancellation: write except Exception, not except BaseException "
            "(nor a bare except), or raise the cancellation again"
        )

    def finish(self, method: str) -> None:
        """A method is left."""
        with self.lock:
            self.running.remove(method)
            now, entered = self.clock(), self.entered[method]
            if now - entered > self.longest[method]:
                self.longest[method], self.amid[method] = now - entered, (entered + now) / 2

    def raised(self, method: str, error: BaseException) -> None:
        """A method raises."""
        self.has_raised = self.has_raised or isinstance(error, Exception)
        if method == "shutdown" and isinstance(error, Exception) and not isinstance(error, InjectedError):
            self.shutdown_error = error
        if method == "shutdown" and not isinstance(error, Exception | SystemExit | KeyboardInterrupt):
            self.shutdown_cut = not self.delayed  # cancelled, or taken out of its wait
        if method != "shutdown" and isinstance(error, Exception):
            self.ends(EndCause.HANDLER_RAISED, f"{method} raised {error!r}", injected=isinstance(error, InjectedError))

    def returned(self, method: str, item: Any, *, injected: bool) -> None:
        """A method returns."""
        if method not in {"emit", "video_emit"}:
            return
        try:
            emitted = parse_emit(item) if method == "emit" else parse_video_emit(item)
        except Exception as error:  # junk: the connection says the same, and ends with it
            self.ends(EndCause.HANDLER_RAISED, f"{method} returned junk: {error}", injected=injected)
            return
        if emitted.close is not None:
            self.ends(EndCause.HANDLER_CLOSED, f"{method} returned {emitted.close}", injected=injected)
        audio = getattr(emitted, "audio", None)
        self.items["outputs"] += method == "emit" and emitted.outputs is not None
        self.items["audio"] += audio is not None
        if audio is not None:
            self.longest_item = max(self.longest_item, audio[1].shape[1] / audio[0])
            self.emits.append((self.clock(), audio[1].shape[1] / audio[0]))
            self.took.append(self.clock() - self.entered[method])
            waits = self.waits[method]
            self.paused.append(max([wait for wait, where in waits if where == LIMIT], default=0.0))
            self.slept.append(any(abs(wait - self.emits[-1][1]) < 0.001 for wait, _ in waits))
            below = [wait for wait, where in waits if where not in {None, method, LIMIT}]
            self.slept_below.append(max(below, default=0.0))
            self._hear(audio[1])

    def _hear(self, samples: NDArray[np.int16]) -> None:
        """Note whether it can be heard, and its largest steps."""
        low, high = int(samples.min(initial=0)), int(samples.max(initial=0))
        if max(high, -low) <= AUDIBLE:
            return
        self.loud.append(self.emits[-1])
        if high - low <= MUCH:
            return
        levels = samples.astype(np.int32)
        steps = levels[:, 1:] - levels[:, :-1]
        large = np.abs(steps) > MUCH
        blanked = (levels[:, 1:] == 0) | (levels[:, :-1] == 0)  # to or from silence
        over = large & ~blanked & (np.abs(steps - 32768 * np.round(steps / 32768)) < MUCH / 3)
        self.steps["much"] += int(np.count_nonzero(large))
        self.steps["32768"] += int(np.count_nonzero(over))
        if over.any():
            self.levels.update((np.abs(levels[:, :-1][over]) // 256).tolist())

    def says(self, item: Any) -> None:
        """`say` was given this."""
        try:
            seconds = parse_emit(item).seconds
        except Exception:  # a generator, or junk, of which `say` tells
            seconds = math.inf
        self.longest_said = max(self.longest_said, seconds)

    @property
    def longest_audio(self) -> float:
        """Seconds of audio that may wait at most, beside what `emit` is held back at: one item, and what is said."""
        return self.longest_item + self.longest_said

    def handed_over(self, handler: StreamHandlerBase, method: str, item: Any) -> None:
        """See that what was handed over before is as it was, as far as it still waits; and remember `item`."""
        if method == "emit":
            waiting = handler.playback().waiting
        elif method == "video_emit":
            waiting = 0.001  # the last picture alone
            self.paced += any(abs(wait - 1 / handler.fps) < 0.001 for wait, where in self.waits[method] if where)
        else:
            if self.began[method] < _LOOKS:
                self._see_lists(handler)
            return
        for one in reversed(self.given[method]):
            if waiting <= 1e-6:
                break
            if one.changed:
                self.broken.append(
                    f"what {method} returned is not written to before it was played: return a copy (array.copy()), "
                    "or make a new array each time"
                )
                break
            waiting -= one.seconds
        for one in self.given["outputs"]:
            if one.changed:
                self.broken.append(
                    f"an array in AdditionalOutputs is not written to after {method} has returned it, nor are numbers "
                    "in a list: the application may still read it; return a copy (array.copy(), list(numbers)), or "
                    "make a new one each time"
                )
                break
        outputs = [_HandedOver(one, checksum(one), 0.0, len(one)) for one in _outputs(item)]
        self.given["outputs"] = deque(outputs, maxlen=64)
        audio = _audio(item) if method == "emit" else None
        if audio is not None and audio[1].size:
            if self.watched and self._was_kept(handler, audio[1]):
                self.stale += audio[1].size / max(1, audio[0])
            self.emitted.append(audio[1])
        buffer = _buffer(item)
        if buffer is not None:
            rate, samples = buffer if isinstance(buffer, tuple) else (1, None)
            seconds = 1.0 if samples is None else samples.size / max(1, rate)
            held = buffer if samples is None else samples
            self.given[method].append(_HandedOver(held, checksum(held), seconds))

    def _see_lists(self, handler: StreamHandlerBase) -> None:
        """See that what a handler appends to a list of its own does not overwrite what waits there already."""
        for name, value in list(vars(handler).items()):
            if type(value) not in {list, deque}:
                continue
            before = self.appended.get(name)
            try:
                last = _array_in(value[-1])
                other = _array_in(value[-2]) if len(value) > 1 else None
            except IndexError:  # another thread takes from it meanwhile
                continue
            if last is None or last.nbytes > _LARGEST:
                continue
            if before and before.buffer is other and before.changed and np.may_share_memory(other, last):
                self.broken.append(
                    f"an array in .{name} is not written to while it waits there: what was appended after it shows the "
                    "same memory; append a copy (array.copy()), or make a new array each time"
                )
            self.appended[name] = _HandedOver(last, checksum(last), 0.0)

    def _was_kept(self, handler: StreamHandlerBase, samples: NDArray[Any]) -> bool:
        """Whether it is an array that the handler had kept when its queue was cleared, or a part of one that it has
        used up since. A sound that it plays again and again stays where it is.
        """
        if id(samples) in self.watched:
            return True
        whole = root_of(samples)
        parts = [one for one in self.watched.values() if root_of(one) is whole]
        return bool(parts) and not any(id(one) in arrays_in(handler) for one in parts)


@dataclass(frozen=True)
class _HandedOver:
    """One array or picture that was handed over."""

    buffer: Any
    checksum: int
    seconds: float
    size: int = 0
    """Of a list, which may grow."""

    @property
    def changed(self) -> bool:
        """Whether it was written to since."""
        return checksum(self.buffer[: self.size] if isinstance(self.buffer, list) else self.buffer) != self.checksum


_LOOKS: Final = 150
"""Calls of a method after which its lists are not looked at any more: what is wrong there is so from the beginning."""

_LARGEST: Final = 300_000
"""Bytes of an array in a list that is looked at after each frame."""


def _array_in(item: Any) -> NDArray[Any] | None:
    """An item of a list that is an array, or a tuple with one, such as (rate, samples)."""
    found = [one for one in (item if isinstance(item, tuple) else (item,)) if isinstance(one, np.ndarray)]
    return found[0] if found and found[0].size else None


def _audio(item: Any) -> tuple[int, NDArray[Any]] | None:
    """The audio of what emit returned, as it is."""
    if isinstance(item, tuple) and len(item) >= 2:
        if isinstance(item[0], tuple):
            return _audio(item[0])
        if isinstance(item[0], int) and isinstance(item[1], np.ndarray):
            return item[0], item[1]
    return None


def _buffer(item: Any) -> Any:
    """What of an item is used later as it is, without a copy: a picture, or audio as (rate, samples)."""
    if isinstance(item, av.VideoFrame):
        return item
    if isinstance(item, tuple) and len(item) >= 2 and isinstance(item[0], av.VideoFrame):
        return item[0]
    audio = _audio(item)
    return audio if audio is not None and audio[1].dtype == np.int16 else None


def _outputs(item: Any) -> list[Any]:
    """The arrays among the `AdditionalOutputs` of an item, and its lists of numbers."""
    for one in item if isinstance(item, tuple) else (item,):
        if isinstance(one, AdditionalOutputs):
            return [value for value in one.args if (isinstance(value, np.ndarray) and value.ndim) or _numbers(value)]
    return []


def _numbers(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) < 10_000 and all(isinstance(one, int | float) for one in value)


def probe_copies(handler: StreamHandlerBase, journal_for: Callable[[], Journal]) -> None:
    """Have every copy of `handler` write a journal of its own."""
    original: Any = type(handler)

    def copy(self: Any) -> Any:
        self.__class__ = original  # so that a copy() that writes type(self)(...) does what it does in production
        try:
            copied = original.copy(self)
        finally:
            self.__class__ = probed
        if isinstance(copied, StreamHandlerBase) and copied is not self:
            probe(copied, journal_for())
        return copied

    names = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    probed = type(original.__name__, (original,), {**names, "copy": copy} if hasattr(original, "copy") else names)
    handler.__class__ = probed


def probe(handler: StreamHandlerBase, journal: Journal) -> None:
    """Have `handler` write to `journal`; a subclass of its own class is made for it."""
    original: Any = type(handler)
    names: dict[str, Any] = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    for name in WATCHED:
        method = getattr(original, name, None)
        if method is not None and (name == "shutdown" or has_own_method(handler, name)):
            # Async if the method itself is. A shutdown is always there, so that its call is seen.
            wrap = _wrap_async if inspect.iscoroutinefunction(method) else _wrap_sync
            names[name] = wrap(name, method, journal)

    def bind(self: Any, connection: Binding) -> None:
        original._bind(self, _SeenConnection(connection, journal))

    # Not its `say` and `hang_up`: a handler may have methods of its own by these names, which do something else.
    handler.__class__ = type(original.__name__, (original,), {**names, "_bind": bind})


class _SeenConnection:
    """The connection that a handler serves, as its handler sees it: what it asks of it is noted."""

    def __init__(self, connection: Binding, journal: Journal) -> None:
        self._connection, self._journal = connection, journal
        self._limits = None if (shown := handler_time.get()) is None else shown.limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @property
    def loop(self) -> Any:
        loop = self._connection.loop
        return loop if self._limits is None else _SeenLoop(loop, self._limits)

    def hang_up(self, reason: str, *, now: bool) -> None:
        self._connection.hang_up(reason, now=now)
        cause = EndCause.CLOSED if now else EndCause.HANDLER_CLOSED
        self._journal.ends(cause, "hang_up() was called", injected=False)

    async def say(self, item: Any) -> Any:
        self._journal.says(item)
        with nullcontext() if self._limits is None else self._limits.saying():
            return await self._connection.say(item)


class _SeenLoop:
    """A handler's `loop`, whose moments are noted where they make a limit."""

    def __init__(self, loop: Any, limits: HandlerLimits) -> None:
        self._loop, self._limits = loop, limits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return Moment(self._loop.time(), self._limits)


def _wrap_sync(name: str, original: Callable[..., Any], book: Journal) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        fault = book.begin(name, args)
        try:
            if fault is not None and fault.delay:
                _sleep_in_thread(fault.delay, self)
            if fault is not None and fault.error is not None:
                if name == "shutdown":  # what it has to give back is given back
                    original(self, *args)
                raise fault.error
            before = _attributes(self) if name == "on_dtmf" else None
            with book.followed(name):
                item = fault.items[0] if fault is not None and fault.items else original(self, *args)
            book.keys_kept += before is not None and before != _attributes(self)
            if name in ASKED and (worker := current_worker.get()) is not None:
                book.waits[name] = list(getattr(worker, "slept", []))
            book.returned(name, item, injected=fault is not None)
            book.handed_over(self, name, item)
            return item
        except BaseException as error:
            book.raised(name, error)
            raise
        finally:
            book.finish(name)

    method.__name__, method.__qualname__ = original.__name__, original.__qualname__
    return method


def _attributes(handler: StreamHandlerBase) -> dict[str, tuple[int, object, object]]:
    """What can be seen of a handler's attributes without running much: which they are, how long, and whether set."""
    found: dict[str, tuple[int, object, object]] = {}
    for name, value in list(vars(handler).items()):
        size = len(value) if isinstance(value, list | dict | set | deque) else getattr(value, "qsize", None)
        is_set = getattr(value, "is_set", None)
        found[name] = id(value), size() if callable(size) else size, is_set() if callable(is_set) else is_set
    return found


def _sleep_in_thread(seconds: float, handler: StreamHandlerBase) -> None:
    """Block this worker thread in virtual time, until the call has ended: no thread that runs is interrupted."""
    worker: Any = current_worker.get()
    for _ in range(math.ceil(seconds / 0.05)):
        if worker is not None and not handler.ended.is_set():
            worker.sleep(min(seconds, 0.05))


class _Steps:
    """Awaits a coroutine step by step, and sees what it does when its call is cancelled.

    One that swallows its cancellation again and again would keep the loop busy for ever. It is given up: not closed,
    which it would swallow as well, but kept.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], name: str, book: Journal) -> None:
        self._coroutine, self._name, self._book = coroutine, name, book

    def __await__(self) -> Generator[Any, Any, Any]:
        cancellations = 0
        step = partial(self._coroutine.send, None)
        while True:
            try:
                with self._book.followed(self._name):
                    wanted = step()
            except StopIteration as done:
                if cancellations and _is_cancelled():
                    self._book.swallowed(self._name)
                return done.value
            # A wait of its own may be cancelled, too: trio's `sleep` ends by that. So what counts is that a scope is
            # cancelled before its time, and that waits after it are cancelled as well. A call that has given up such a
            # method cancels it no more.
            due = anyio.current_effective_deadline()
            if due > -math.inf and cancellations < SWALLOWS:
                cancellations = 0
            thrown: Any
            wait = _Wait(self._book.clock, self._coroutine) if self._name in ASKED else None
            try:
                sent = yield wanted
            except BaseException as error:  # thrown in by asyncio, and handed on
                thrown, step = error, partial(self._coroutine.throw, error)
            else:  # trio sends an outcome, which its own code inside opens
                thrown, step = getattr(sent, "error", None), partial(self._coroutine.send, sent)
                if wait is not None:
                    self._book.waits[self._name].append(wait.over())
            counts = due == -math.inf or self._book.clock() < due or cancellations >= SWALLOWS
            if isinstance(thrown, anyio.get_cancelled_exc_class()) and counts:
                cancellations += 1
                if cancellations > ENDLESS:
                    _GIVEN_UP.append(self._coroutine)
                    self._book.swallowed(self._name)
                    self._book.endless = self._name
                    raise thrown


class _Wait:
    """A wait of a coroutine, from now on."""

    def __init__(self, clock: Callable[[], float], coroutine: Any) -> None:
        self._clock, self._since, self._where = clock, clock(), _sleeps_in(coroutine)
        self._shown = handler_time.get()
        self._slept = 0.0 if self._shown is None else self._shown.slept

    def over(self) -> tuple[float, str | None]:
        """How long it took, and the function that slept: also one in a thread, for which the coroutine waited."""
        took = self._clock() - self._since
        slept = 0.0 if self._shown is None else self._shown.slept - self._slept
        return took, "a thread" if self._where is None and 0.8 * took < slept < 1.2 * took else self._where


def _sleeps_in(coroutine: Any) -> str | None:
    """The function in which a coroutine that waits has called `sleep`; None if it waits for something else."""
    name = None
    while coroutine is not None:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "ag_code", None)
        if code is not None and code.co_name == "sleep":
            return name
        name = None if code is None else code.co_name
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return None


ENDLESS: Final = 200
"""How often a method may be cancelled before it is taken to swallow that for ever: cleaning up takes some awaits."""

SWALLOWS: Final = 20
"""How many waits in a row are cancelled in a method that goes on all the same."""

_GIVEN_UP: Final[list[Coroutine[Any, Any, Any]]] = []


def _is_cancelled() -> bool:
    """Whether a scope around the running code is cancelled, so that no wait in it goes on."""
    return anyio.current_effective_deadline() == -math.inf


def _wrap_async(name: str, original: Callable[..., Any], book: Journal) -> Callable[..., Any]:
    async def method(self: Any, *args: Any) -> Any:
        fault = book.begin(name, args)
        try:
            if fault is not None and fault.delay:
                await anyio.sleep(fault.delay)
            if fault is not None and fault.error is not None:
                if name == "shutdown":  # as above
                    await _Steps(original(self, *args), name, book)
                raise fault.error
            before = _attributes(self) if name == "on_dtmf" else None
            item = (
                fault.items[0] if fault is not None and fault.items else await _Steps(original(self, *args), name, book)
            )
            book.keys_kept += before is not None and before != _attributes(self)
            book.returned(name, item, injected=fault is not None)
            book.handed_over(self, name, item)
            return item
        except BaseException as error:
            book.raised(name, error)
            raise
        finally:
            book.finish(name)

    method.__name__, method.__qualname__ = original.__name__, original.__qualname__
    return method
